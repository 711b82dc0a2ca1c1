//! A service inside that uses no extractors: the headers that it gets, and the one that it sends.

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use keylatch::http::{IDEMPOTENCY_DISPOSITION, IdempotencyLayer, ScopeFrom, UpstreamKey};
use keylatch::{Guarantee, Run, sqlite};
use tempfile::TempDir;

use crate::app::{Seen, Setup};
use crate::common::faulty::{Fault, Op};

/// The headers that a service gets.
#[derive(Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Told {
    epoch: Option<String>,
    attempt: Option<String>,
    derived: Option<String>,
    key: Option<String>,
    /// What the layer says that they should be.
    expected: Option<String>,
    connection: Option<String>,
}

impl Told {
    fn of(seen: &Seen) -> Self {
        let header = |headers: &HeaderMap, name: &str| {
            let lines: Vec<_> = headers.get_all(name).iter().map(|value| value.to_str().expect("text")).collect();
            (!lines.is_empty()).then(|| lines.join(" | "))
        };
        let headers = &seen.parts.headers;
        Self {
            epoch: header(headers, "idempotency-epoch"),
            attempt: header(headers, "idempotency-attempt"),
            derived: header(headers, "idempotency-derived-key"),
            key: header(headers, "idempotency-key"),
            expected: seen.parts.extensions.get::<Run>().map(|run| run.key_for("upstream").as_str().to_owned()),
            connection: header(headers, "connection"),
        }
    }
}

async fn tells(seen: Seen) -> String {
    serde_json::to_string(&Told::of(&seen)).expect("it is JSON")
}

fn told(reply: &crate::wire::Reply) -> Told {
    serde_json::from_slice(&reply.body).unwrap_or_else(|_| panic!("{reply:?}"))
}

#[tokio::test]
async fn a_run_is_told_by_headers() {
    for guarantee in [Guarantee::Fenced, Guarantee::AtMostOnce] {
        let mut derived = Vec::new();
        for (choice, key) in
            [(UpstreamKey::Withheld, None), (UpstreamKey::Received, Some("k")), (UpstreamKey::Derived, None)]
        {
            let app = Setup::new(guarantee).layer(move |layer| layer.with_upstream_headers(choice)).start(tells).await;
            let first =
                told(&app.order().header("Idempotency-Epoch", "9").header("Idempotency-Derived-Key", "x").send().await);
            assert_eq!((first.epoch.as_deref(), first.attempt.as_deref()), (Some("1"), Some("1")), "{choice:?}");
            assert_eq!(first.derived, first.expected, "{choice:?}");
            let key = if choice == UpstreamKey::Derived { first.derived.as_deref() } else { key };
            assert_eq!(first.key.as_deref(), key, "{choice:?}");
            derived.push(first.derived.expect("a derived key"));
            let bob = told(&app.order().caller("bob").send().await);
            assert_ne!(bob.derived.as_ref(), derived.last(), "another caller has another");
        }
        assert!(derived.iter().all(|key| *key == derived[0] && key.len() == 64), "{derived:?}");
    }
}

#[tokio::test]
async fn each_attempt_has_a_higher_epoch_and_the_same_derived_key() {
    async fn fails_twice(seen: Seen) -> Response {
        let status = if seen.nth < 3 { StatusCode::BAD_GATEWAY } else { StatusCode::OK };
        (status, tells(seen).await).into_response()
    }
    let setup = Setup::fenced().layer(|layer| layer.with_upstream_headers(UpstreamKey::Withheld));
    let app = setup.start(fails_twice).await;
    let mut keys = Vec::new();
    for attempt in ["1", "2", "3"] {
        let told = told(&app.order().send().await);
        assert_eq!((told.epoch.as_deref(), told.attempt.as_deref()), (Some(attempt), Some(attempt)));
        keys.push(told.derived);
    }
    assert!(keys.iter().all(|key| *key == keys[0]));
}

/// An unguarded request has no epoch, and a client's own key does not pass for a derived one.
#[tokio::test]
async fn what_is_not_guarded_is_told_nothing() {
    for (choice, key) in
        [(UpstreamKey::Withheld, None), (UpstreamKey::Received, Some("k".to_owned())), (UpstreamKey::Derived, None)]
    {
        let setup = Setup::fenced().layer(move |layer| {
            layer.with_upstream_headers(choice).with_key_pointer("/id").skip_if(|head| head.uri.path() == "/refunds")
        });
        let app = setup.start(tells).await;
        for (method, path) in [("GET", "/orders"), ("DELETE", "/orders"), ("POST", "/refunds"), ("POST", "/orders")] {
            let told = told(&app.call(method, path).key("k").header("Idempotency-Attempt", "7").send().await);
            assert_eq!(told.key, key, "{choice:?} {method} {path}");
            assert_eq!((told.epoch, told.attempt, told.derived), (None, None, None));
        }
    }
}

/// So that its retry, once the store is back, is the same request for a service that honours the derived key.
#[tokio::test]
async fn a_request_that_bypasses_the_store_has_the_derived_key_of_its_runs() {
    let setup = Setup::fenced().layer(|layer| layer.fail_open().with_upstream_headers(UpstreamKey::Derived));
    let app = setup.start(tells).await;
    app.store.always(Op::Claim, Fault::Unavailable);
    let bypassed = told(&app.order().send().await);
    assert_eq!((&bypassed.epoch, &bypassed.attempt), (&None, &None));
    app.store.is_mended();
    let run = told(&app.order().send().await);
    assert_eq!((bypassed.derived, bypassed.key), (run.expected, run.key));
}

/// A proxy inside removes what `Connection` names.
#[tokio::test]
async fn a_client_cannot_have_the_headers_removed_on_the_way() {
    let setup = Setup::fenced().layer(|layer| layer.with_upstream_headers(UpstreamKey::Derived));
    let app = setup.start(tells).await;
    let sent = app.order().header("Connection", "x-hop, Idempotency-Derived-Key, idempotency-key");
    let told = told(&sent.send().await);
    assert_eq!(told.connection.as_deref(), Some("close | x-hop"));
    assert_eq!(told.derived, told.expected);
}

#[tokio::test]
#[should_panic(expected = "neither epoch nor derived key")]
async fn atomic_has_nothing_to_tell() {
    let directory = TempDir::new().expect("a temporary directory");
    let store = sqlite::Store::open(directory.path().join("test.db")).await.expect("a new file opens");
    let layer = IdempotencyLayer::atomic(store, ScopeFrom::header("x-user-id"));
    let _ = layer.with_upstream_headers(UpstreamKey::Derived);
}

// ---- What the service answers --------------------------------------------------------------------------

/// The status of each of two tries, and how often the service was called.
async fn two(guarantee: Guarantee, trusted: bool, status: u16, said: &'static [&'static str]) -> ([u16; 2], usize) {
    let answer = move |_| async move {
        let mut response = StatusCode::from_u16(status).expect("a status").into_response();
        for word in said {
            response.headers_mut().append(IDEMPOTENCY_DISPOSITION, word.parse().expect("a header value"));
        }
        response
    };
    let setup = Setup::new(guarantee).layer(move |layer| {
        let layer = layer.free_on([422]).with_kept_header("x-more").expect("it may be kept");
        if trusted { layer.trust_disposition_header() } else { layer }
    });
    let app = setup.start(answer).await;
    let mut statuses = [0; 2];
    for status in &mut statuses {
        let reply = app.order().send().await;
        assert!(reply.text("idempotency-disposition").is_none(), "{reply:?}");
        *status = reply.status;
    }
    (statuses, app.runs())
}

#[tokio::test]
async fn a_service_says_what_becomes_of_its_answer() {
    use Guarantee::{AtMostOnce, Fenced};
    for guarantee in [Fenced, AtMostOnce] {
        assert_eq!(two(guarantee, true, 503, &["record"]).await, ([503; 2], 1), "{guarantee:?}");
        assert_eq!(two(guarantee, true, 408, &["record"]).await, ([408; 2], 1), "{guarantee:?}");
        assert_eq!(two(guarantee, true, 200, &["retry"]).await, ([200; 2], 2), "{guarantee:?}");
        assert_eq!(two(guarantee, true, 200, &["free"]).await, ([200; 2], 2), "{guarantee:?}");
        assert_eq!(two(guarantee, true, 200, &["Unknown"]).await, ([200, 409], 1), "{guarantee:?}");
        assert_eq!(two(guarantee, true, 422, &["record"]).await, ([422; 2], 1), "{guarantee:?}");
    }
    assert_eq!(two(Guarantee::Atomic, true, 200, &["retry"]).await, ([200; 2], 2));
    assert_eq!(two(Guarantee::Atomic, true, 200, &["record"]).await, ([200; 2], 1));
}

/// An unknown disposition never lets a request run again that would not have run anyway.
#[tokio::test]
async fn what_is_not_understood_leaves_the_rule_for_the_status() {
    use Guarantee::{AtMostOnce, Fenced};
    for said in [&["forget"] as &[_], &[""], &["free", "free"], &["free, retry"]] {
        for guarantee in [Fenced, AtMostOnce] {
            assert_eq!(two(guarantee, true, 200, said).await, ([200; 2], 1), "{guarantee:?} {said:?}");
            assert_eq!(two(guarantee, true, 422, said).await, ([422; 2], 1), "{guarantee:?} {said:?}, not `free_on`");
        }
        assert_eq!(two(AtMostOnce, true, 503, said).await, ([503; 2], 1), "{said:?}");
        assert_eq!(two(AtMostOnce, true, 408, said).await, ([408, 409], 1), "{said:?}");
        assert_eq!(two(Fenced, true, 503, said).await, ([503; 2], 2), "{said:?}");
    }
}

#[tokio::test]
async fn a_word_that_is_not_trusted_means_nothing() {
    for guarantee in [Guarantee::Atomic, Guarantee::Fenced, Guarantee::AtMostOnce] {
        assert_eq!(two(guarantee, false, 200, &["free"]).await, ([200; 2], 1), "{guarantee:?}");
        assert_eq!(two(guarantee, false, 422, &["forget"]).await, ([422; 2], 2), "{guarantee:?}, by `free_on`");
    }
}

/// A proxy knows more than the service: its own disposition, in the extensions, counts.
#[tokio::test]
async fn the_extension_comes_before_the_header() {
    let answer = |_| async {
        let mut response = ([(IDEMPOTENCY_DISPOSITION, "record")], "made").into_response();
        response.extensions_mut().insert(keylatch::http::Disposition::Retry);
        response
    };
    let app = Setup::fenced().layer(IdempotencyLayer::trust_disposition_header).start(answer).await;
    for _ in 0..2 {
        assert!(!app.order().send().await.replayed());
    }
    assert_eq!(app.runs(), 2);
}
