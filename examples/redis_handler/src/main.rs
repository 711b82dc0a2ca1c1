//! Records in Redis: any number of processes give the same answer to a request that ran once.
//!
//! It needs a server at `REDIS_URL` (redis://127.0.0.1:6379). It starts two services on it, and sends one request 200
//! times at once, to both: one runs, and all get its answer.
#![expect(clippy::print_stdout, reason = "it shows what it does")]

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use keylatch::http::{IdempotencyLayer, ScopeFrom};
use keylatch::redis::Store;
use reqwest::Client;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const REQUESTS: usize = 200;

static RUNS: AtomicU64 = AtomicU64::new(0);

/// An ordinary handler. If it ran twice, it would send two messages.
async fn notify(text: String) -> (StatusCode, String) {
    let number = RUNS.fetch_add(1, Ordering::Relaxed) + 1;
    (StatusCode::CREATED, format!("message {number}: {text}"))
}

/// Serves on a free port, as each process of a fleet does. Read the manual's page on Redis before you choose it: a
/// failover can lose the record of a request, which then runs again.
async fn serve(store: Store) -> Result<String, Box<dyn Error>> {
    let layer = IdempotencyLayer::fenced(store, ScopeFrom::header("x-user-id")).require_key();
    let app = Router::new().route("/messages", post(notify)).layer(layer);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/messages", listener.local_addr()?);
    tokio::spawn(async { axum::serve(listener, app).await });
    Ok(url)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let redis = std::env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".to_owned());
    let services = [serve(Store::connect(&redis).await?).await?, serve(Store::connect(&redis).await?).await?];

    let (client, key) = (Client::new(), uuid::Uuid::new_v4().to_string());
    let mut sending = JoinSet::new();
    for at in 0..REQUESTS {
        let request = client.post(&services[at % 2]).header("x-user-id", "u1").header("idempotency-key", &key);
        let request = request.header("prefer", "wait=10").body("hello");
        sending.spawn(async move {
            let answer = request.send().await?;
            Ok::<_, reqwest::Error>((answer.status(), answer.text().await?))
        });
    }
    let answers: Vec<_> = sending.join_all().await.into_iter().collect::<Result<_, _>>()?;
    let first = (StatusCode::CREATED, "message 1: hello".to_owned());
    let same = answers.iter().filter(|answer| **answer == first).count();
    println!("{REQUESTS} requests, {} run, {same} answers: {} {}", RUNS.load(Ordering::Relaxed), first.0, first.1);
    if same == REQUESTS { Ok(()) } else { Err(format!("not one answer: {answers:?}").into()) }
}
