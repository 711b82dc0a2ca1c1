//! A service in this process, without sockets: for counting the instructions of a request.

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use keylatch::http::{IDEMPOTENCY_KEY, IDEMPOTENT_REPLAYED};
use tower::ServiceExt as _;

use crate::Result;
use crate::app::{App, PATH, Setup};
use crate::connection::{KEY_PREFIX, ORDER};
use crate::load::Requests;
use crate::server;

/// Running requests at once, as in the rows.
const AT_ONCE: usize = 50;

/// Sends `count` requests to `app`.
pub(crate) fn drive(app: App, requests: Requests, count: usize) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let service =
            app.service(&Setup { dir: scratch.path().to_owned(), kept: None, redis: server::redis_url() }).await?;
        let mut answered = stream::iter(0..count)
            .map(|number| {
                // Replays use the first keys again and again.
                let replay = requests == Requests::Replay && number >= AT_ONCE;
                let key = if replay { number % AT_ONCE } else { number };
                let router = service.router.clone();
                async move { check(ask(router, key).await?, replay).await }
            })
            .buffered(AT_ONCE);
        while let Some(answer) = answered.next().await {
            answer?;
        }
        drop(answered);
        // A service lives as long as its process: freeing its records is not part of a request.
        std::mem::forget(service);
        Ok(())
    })
}

async fn ask(router: Router, key: usize) -> std::result::Result<Response, Infallible> {
    let request = Request::post(PATH)
        .header(CONTENT_TYPE, "application/json")
        .header("x-user-id", format!("user-{}", key % AT_ONCE))
        .header(IDEMPOTENCY_KEY, format!("{KEY_PREFIX}{key:016x}"))
        .body(Body::from(ORDER))
        .expect("it is a request");
    router.oneshot(request).await
}

async fn check(response: Response, replay: bool) -> Result<()> {
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    let replayed = head.headers.contains_key(IDEMPOTENT_REPLAYED);
    if head.status != 201 || replayed != replay || !body.starts_with(b"{\"order_id\":") {
        return Err(format!("status {}, replayed: {replayed}", head.status).into());
    }
    Ok(())
}
