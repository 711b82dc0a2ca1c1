//! What of the first answer is kept for its replays.

use axum::body::Body;
use http::header::{DATE, HeaderName, HeaderValue, LINK, SET_COOKIE};
use http::{Response, StatusCode};
use keylatch::http::{Disposition, IdempotencyLayer};
use keylatch::{Guarantee, Outcome, Resolution, Resolved};
use testing_contract::cases;

use crate::app::{Layer, Setup};

/// What an answer always has beside the handler's own parts.
const ADDED: [&str; 6] =
    ["idempotency-key", "idempotency-expires", "idempotent-replayed", "connection", "content-length", "date"];

fn response(status: u16, headers: &[(&'static str, &[u8])], body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        response.headers_mut().append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
    }
    response
}

#[tokio::test]
async fn a_header_of_the_connection_is_not_kept_even_by_choice() {
    let keeping =
        Layer(|setup| setup.layer(|layer| layer.with_kept_header("x-hop").expect("an end-to-end header by its name")));
    cases::answers::cookies_challenges_and_connection_headers_are_never_kept(&keeping).await;
}

/// An outcome from a resolver or an operator may have any header.
#[tokio::test]
async fn what_is_never_kept_is_not_replayed_whoever_wrote_it() {
    let unknown = |_| async {
        let mut response = response(500, &[], "");
        response.extensions_mut().insert(Disposition::Unknown);
        response
    };
    let app = Setup::new(Guarantee::AtMostOnce).start(unknown).await;
    app.order().send().await;
    let lines: [(HeaderName, &str); 9] = [
        (SET_COOKIE, "session=secret"),
        (LINK, "</1>"),
        (HeaderName::from_static("www-authenticate"), "Basic"),
        (HeaderName::from_static("connection"), "x-hop"),
        (HeaderName::from_static("x-hop"), "1"),
        (HeaderName::from_static("transfer-encoding"), "chunked"),
        (HeaderName::from_static("content-length"), "3"),
        (HeaderName::from_static("idempotency-status"), "bypassed"),
        (HeaderName::from_static("x-order"), "7"),
    ];
    let headers = lines.map(|(name, value)| (name, HeaderValue::from_static(value))).to_vec();
    let outcome = Outcome { status: StatusCode::CREATED, headers, body: keylatch::Body::Kept("made".into()) };
    let id = app.records().await[0].id();
    let resolved = app.engine.resolve(id, Resolution::Completed(outcome)).await.unwrap();
    assert_eq!(resolved, Resolved::Applied);
    let again = app.order().send().await;
    assert_eq!((again.status, again.body_text(), again.replayed()), (201, "made", true));
    let own = again.headers.iter().map(|(name, _)| name.as_str()).filter(|name| !ADDED.contains(name));
    assert_eq!(own.collect::<Vec<_>>(), ["link", "x-order"]);
    assert_eq!(
        (again.all("connection"), again.all("content-length")),
        (vec!["close".to_owned()], vec!["4".to_owned()])
    );
}

#[tokio::test]
async fn the_user_may_keep_more_but_not_everything() {
    let app = Setup::fenced()
        .layer(|layer| layer.with_kept_header("x-cost").expect("it may be kept"))
        .start(|_| async { response(200, &[("x-cost", b"3"), ("x-cost", b"4"), ("x-other", b"1")], "") })
        .await;
    app.order().send().await;
    let again = app.order().send().await;
    assert_eq!((again.all("x-cost"), again.all("x-other")), (vec!["3".to_owned(), "4".to_owned()], vec![]));

    let store = keylatch::memory::Store::new();
    let layer = IdempotencyLayer::fenced(store, keylatch::http::ScopeFrom::shared("demo"));
    for never in [SET_COOKIE, DATE, HeaderName::from_static("www-authenticate"), HeaderName::from_static("te")] {
        assert!(layer.clone().with_kept_header(never.clone()).is_err(), "{never}");
    }
    assert!(layer.with_kept_header(LINK).is_ok());
}
