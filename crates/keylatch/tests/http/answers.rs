//! The first answer, the replay, and what of the first is kept for it.

use std::time::Duration;

use axum::body::Body;
use http::header::{DATE, HeaderName, HeaderValue, LINK, SET_COOKIE};
use http::{Response, StatusCode};
use keylatch::http::{Disposition, IdempotencyLayer};
use keylatch::{Clock, Guarantee, Outcome, Policy, Resolution, Resolved};

use crate::app::{START, Seen, Setup};

/// What an answer always has besides that of its handler.
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
async fn the_first_answer_is_the_handlers_with_key_and_expiry() {
    let retention = Duration::from_secs(60 * 60);
    let policy = Policy { retention, ..Policy::default() };
    let setup = Setup::fenced().policy(policy);
    let app = setup
        .start(|_| async { response(201, &[("x-cost", b"3"), ("set-cookie", b"a=b"), ("location", b"/1")], "made") })
        .await;
    let first = app.order().without("Idempotency-Key").key("\"k-1\"").send().await;
    assert_eq!((first.status, first.body_text(), first.replayed()), (201, "made", false));
    let own: Vec<_> = first.headers.iter().filter(|(name, _)| !ADDED.contains(&name.as_str())).collect();
    let expected = [("x-cost", "3"), ("set-cookie", "a=b"), ("location", "/1")];
    assert_eq!(own, expected.map(|(name, value)| (name.to_owned(), value.into())).iter().collect::<Vec<_>>());
    assert_eq!(first.text("idempotency-key").as_deref(), Some("\"k-1\""), "as it was received");
    // START and an hour.
    assert_eq!(first.text("idempotency-expires").as_deref(), Some("Tue, 14 Nov 2023 23:13:20 GMT"));
    assert_eq!(START.as_millis(), 1_700_000_000_000);
    assert!(first.text("idempotent-replayed").is_none());
}

#[tokio::test]
async fn a_replay_has_the_same_status_kept_headers_and_body() {
    let every_byte: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let headers: [(&str, &[u8]); 17] = [
        ("content-type", b"application/octet-stream"),
        ("link", b"</3>; rel=\"next\""),
        ("link", b"</1>"),
        ("content-language", b"de, en"),
        ("link", b"</2>"),
        ("content-encoding", b"identity"),
        ("location", b"/orders/\xc3\xa9"),
        ("etag", b"W/\"1\""),
        ("last-modified", b"Tue, 14 Nov 2023 22:13:20 GMT"),
        ("retry-after", b"120"),
        ("cache-control", b"private, max-age=60"),
        ("vary", b"accept"),
        ("vary", b"accept-language"),
        ("content-disposition", b"attachment; filename=\"order.bin\""),
        ("x-content-type-options", b"nosniff"),
        // For the layer outside that answers each request for itself.
        ("access-control-allow-origin", b"https://one.example"),
        ("x-other", b"not kept"),
    ];
    let not_kept = |name: &str| ["x-other", "access-control-allow-origin"].contains(&name);
    for guarantee in [Guarantee::Fenced, Guarantee::AtMostOnce, Guarantee::Atomic] {
        let body = every_byte.clone();
        let app = Setup::new(guarantee)
            .start(move |_| {
                let body = body.clone();
                async move { response(202, &headers, body) }
            })
            .await;
        let first = app.order().send().await;
        let again = app.order().send().await;
        assert_eq!((first.replayed(), again.replayed()), (false, true));
        assert_eq!((again.status, app.runs()), (202, 1));
        assert!(again.body == every_byte && first.body == every_byte);
        let lines = |reply: &crate::wire::Reply| {
            let own = reply.headers.iter().filter(|(name, _)| !ADDED.contains(&name.as_str()) && !not_kept(name));
            own.cloned().collect::<Vec<_>>()
        };
        assert_eq!(lines(&first), lines(&again), "{guarantee:?}");
        assert_eq!(again.all("link"), ["</3>; rel=\"next\"", "</1>", "</2>"]);
        assert_eq!(lines(&again).len(), 15);
        assert!(again.headers.iter().all(|(name, _)| !not_kept(name)));
        for name in ["idempotency-key", "idempotency-expires"] {
            assert_eq!(again.text(name), first.text(name));
        }
    }
}

#[tokio::test]
async fn empty_answers_are_answers() {
    for (status, guarantee) in [(200, Guarantee::Fenced), (204, Guarantee::Fenced), (204, Guarantee::Atomic)] {
        let app = Setup::new(guarantee).start(move |_| async move { response(status, &[], Body::empty()) }).await;
        let (first, again) = (app.order().send().await, app.order().send().await);
        assert_eq!((first.status, again.status, again.replayed()), (status, status, true));
        assert!(first.body.is_empty() && again.body.is_empty() && first.whole && again.whole);
        assert_eq!(first.text("content-length"), again.text("content-length"));
        assert_eq!(app.runs(), 1);
    }
}

#[tokio::test]
async fn the_date_of_a_replay_is_fresh() {
    let old = "Thu, 01 Jan 1970 00:00:00 GMT";
    let app = Setup::fenced().start(move |_| async move { response(200, &[("date", old.as_bytes())], "") }).await;
    assert_eq!(app.order().send().await.text("date").as_deref(), Some(old));
    let before = Clock::system().now();
    let date = app.order().send().await.text("date").expect("a date");
    let date = httpdate::parse_http_date(&date).unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    // The server renews its date once a second.
    assert!(date.as_millis() + 2_000 > u128::try_from(before.as_millis()).unwrap());
}

#[tokio::test]
async fn cookies_challenges_and_connection_headers_are_never_kept() {
    no_private_header_is_kept(Setup::fenced()).await;
}

/// Checks it of a service that sends them all.
pub(crate) async fn no_private_header_is_kept(setup: Setup) {
    let never: [(&str, &[u8]); 9] = [
        ("set-cookie", b"session=secret"),
        ("set-cookie", b"more=secret"),
        ("www-authenticate", b"Basic"),
        ("proxy-authenticate", b"Basic"),
        ("connection", b"x-hop, Link"),
        ("keep-alive", b"timeout=5"),
        ("trailer", b"x-sum"),
        ("x-hop", b"1"),
        ("link", b"</hop>"),
    ];
    let layer = |layer: IdempotencyLayer| layer.with_kept_header("x-hop").expect("an end-to-end header by its name");
    let app = setup.layer(layer).start(move |_| async move { response(201, &never, "made") }).await;
    let first = app.order().send().await;
    assert_eq!(first.all("set-cookie"), ["session=secret", "more=secret"]);
    let again = app.order().send().await;
    assert_eq!((again.status, again.body_text(), again.replayed()), (201, "made", true));
    for (name, _) in never.iter().filter(|(name, _)| *name != "connection") {
        assert!(again.all(name).is_empty(), "{name}");
    }
    assert_eq!(again.all("connection"), ["close"], "the server's own");
    let record = &app.records().await[0];
    let keylatch::store::State::Completed { outcome: Some(outcome), .. } = &record.state else { panic!("{record:?}") };
    assert!(outcome.headers.is_empty(), "not even in the store");
}

/// An outcome that a resolver or an operator has written may have any header.
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

#[tokio::test]
async fn a_handler_cannot_forge_the_layers_headers() {
    let forged: [(&str, &[u8]); 3] =
        [("idempotent-replayed", b"true"), ("idempotency-expires", b"never"), ("idempotency-key", b"other")];
    let app = Setup::fenced()
        .start(move |seen: Seen| async move { response(if seen.nth == 1 { 500 } else { 200 }, &forged, "") })
        .await;
    let failed = app.order().send().await;
    assert_eq!((failed.status, failed.replayed(), failed.text("idempotency-expires")), (500, false, None));
    let first = app.order().send().await;
    assert_eq!((first.status, first.replayed()), (200, false));
    assert_eq!(first.text("idempotency-key").as_deref(), Some("k"));
    assert!(first.text("idempotency-expires").is_some_and(|expires| expires.ends_with("GMT")));
}

#[tokio::test]
async fn a_preference_is_said_to_be_applied_only_where_it_was() {
    let app =
        Setup::fenced().start(|_| async { response(200, &[("preference-applied", b"return=minimal")], "") }).await;
    let first = app.order().wait(3).send().await;
    assert_eq!(first.all("preference-applied"), ["return=minimal"], "the handler's answer as it is");
    assert_eq!(app.order().wait(3).send().await.all("preference-applied"), ["wait=3"]);
    assert!(app.order().send().await.all("preference-applied").is_empty());
}
