//! The first answer, the replay, and what of the first is kept for it.

use std::time::{Duration, UNIX_EPOCH};

use axum::body::Body;
use http::header::{HeaderName, HeaderValue};
use http::{Response, StatusCode};
use keylatch_core::store::State;
use keylatch_core::{Clock, Timestamp};

use crate::wire::Reply;
use crate::{Seen, Setup, Subject};

/// What an answer always has besides that of its handler.
const ADDED: [&str; 6] =
    ["idempotency-key", "idempotency-expires", "idempotent-replayed", "connection", "content-length", "date"];

fn response(status: u16, headers: &[(&'static str, &[u8])], body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    for (name, value) in headers {
        let value = HeaderValue::from_bytes(value).expect("a value");
        response.headers_mut().append(HeaderName::from_static(name), value);
    }
    response
}

pub async fn the_first_answer_is_the_handlers_with_key_and_expiry(at: &impl Subject) {
    let retention = Duration::from_secs(60 * 60);
    let app = Setup { kept: Some((retention, retention)), ..Setup::fenced() }
        .start(at, |_| async {
            response(201, &[("x-cost", b"3"), ("set-cookie", b"a=b"), ("location", b"/1")], "made")
        })
        .await;
    let before = app.now();
    let first = app.order().without("Idempotency-Key").key("\"k-1\"").send().await;
    let after = app.now();
    assert_eq!((first.status, first.body_text(), first.replayed()), (201, "made", false));
    let own: Vec<_> = first.headers.iter().filter(|(name, _)| !ADDED.contains(&name.as_str())).collect();
    let expected = [("x-cost", "3"), ("set-cookie", "a=b"), ("location", "/1")];
    assert_eq!(own, expected.map(|(name, value)| (name.to_owned(), value.into())).iter().collect::<Vec<_>>());
    assert_eq!(first.text("idempotency-key").as_deref(), Some("\"k-1\""), "as it was received");
    let expires =
        httpdate::parse_http_date(&first.text("idempotency-expires").expect("it is recorded")).expect("a date");
    let expires = expires.duration_since(UNIX_EPOCH).expect("it is to come").as_secs();
    let seconds = |time: Timestamp| u64::try_from(time.as_millis()).expect("it is after 1970") / 1_000;
    let hour = seconds(before) + 3_600..=seconds(after) + 3_600;
    assert!(hour.contains(&expires), "{expires} is not in {hour:?}");
    assert!(first.text("idempotent-replayed").is_none());
}

pub async fn a_replay_has_the_same_status_kept_headers_and_body(at: &impl Subject) {
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
    for &guarantee in at.guarantees() {
        let body = every_byte.clone();
        let app = Setup::new(guarantee)
            .start(at, move |_| {
                let body = body.clone();
                async move { response(202, &headers, body) }
            })
            .await;
        let first = app.order().send().await;
        let again = app.order().send().await;
        assert_eq!((first.replayed(), again.replayed()), (false, true));
        assert_eq!((again.status, app.runs()), (202, 1));
        assert!(again.body == every_byte && first.body == every_byte);
        let lines = |reply: &Reply| {
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

pub async fn empty_answers_are_answers(at: &impl Subject) {
    for (status, &guarantee) in
        [200, 204].into_iter().flat_map(|status| at.guarantees().iter().map(move |of| (status, of)))
    {
        let app = Setup::new(guarantee).start(at, move |_| async move { response(status, &[], Body::empty()) }).await;
        let (first, again) = (app.order().send().await, app.order().send().await);
        assert_eq!((first.status, again.status, again.replayed()), (status, status, true));
        assert!(first.body.is_empty() && again.body.is_empty() && first.whole && again.whole);
        assert_eq!(first.text("content-length"), again.text("content-length"));
        assert_eq!(app.runs(), 1);
    }
}

pub async fn the_date_of_a_replay_is_fresh(at: &impl Subject) {
    let old = "Thu, 01 Jan 1970 00:00:00 GMT";
    let app = Setup::fenced().start(at, move |_| async move { response(200, &[("date", old.as_bytes())], "") }).await;
    assert_eq!(app.order().send().await.text("date").as_deref(), Some(old));
    let before = Clock::system().now();
    let date = app.order().send().await.text("date").expect("a date");
    let date = httpdate::parse_http_date(&date).expect("a date").duration_since(UNIX_EPOCH).expect("it is after 1970");
    // The server renews its date once a second.
    assert!(date.as_millis() + 2_000 > u128::try_from(before.as_millis()).expect("it is after 1970"), "{date:?}");
}

pub async fn cookies_challenges_and_connection_headers_are_never_kept(at: &impl Subject) {
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
    let app = Setup::fenced().start(at, move |_| async move { response(201, &never, "made") }).await;
    let first = app.order().send().await;
    assert_eq!(first.all("set-cookie"), ["session=secret", "more=secret"]);
    let again = app.order().send().await;
    assert_eq!((again.status, again.body_text(), again.replayed()), (201, "made", true));
    for (name, _) in never.iter().filter(|(name, _)| *name != "connection") {
        assert!(again.all(name).is_empty(), "{name}");
    }
    assert_eq!(again.all("connection"), ["close"], "the server's own");
    let record = &app.records().await[0];
    let State::Completed { outcome: Some(outcome), .. } = &record.state else { panic!("{record:?}") };
    assert!(outcome.headers.is_empty(), "not even in the store");
}

pub async fn a_handler_cannot_forge_the_layers_headers(at: &impl Subject) {
    let forged: [(&str, &[u8]); 3] =
        [("idempotent-replayed", b"true"), ("idempotency-expires", b"never"), ("idempotency-key", b"other")];
    let app = Setup::fenced()
        .start(at, move |seen: Seen| async move { response(if seen.nth == 1 { 500 } else { 200 }, &forged, "") })
        .await;
    let failed = app.order().send().await;
    assert_eq!((failed.status, failed.replayed(), failed.text("idempotency-expires")), (500, false, None));
    let first = app.order().send().await;
    assert_eq!((first.status, first.replayed()), (200, false));
    assert_eq!(first.text("idempotency-key").as_deref(), Some("k"));
    assert!(first.text("idempotency-expires").is_some_and(|expires| expires.ends_with("GMT")));
}

pub async fn a_preference_is_said_to_be_applied_only_where_it_was(at: &impl Subject) {
    let app =
        Setup::fenced().start(at, |_| async { response(200, &[("preference-applied", b"return=minimal")], "") }).await;
    let first = app.order().wait(3).send().await;
    assert_eq!(first.all("preference-applied"), ["return=minimal"], "the handler's answer as it is");
    assert_eq!(app.order().wait(3).send().await.all("preference-applied"), ["wait=3"]);
    assert!(app.order().send().await.all("preference-applied").is_empty());
}
