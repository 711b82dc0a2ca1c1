//! The options of a layer.

use std::time::Duration;

use axum::Router;
use axum::routing::post;
use http::StatusCode;
use keylatch::http::{IdempotencyLayer, ScopeFrom};
use keylatch::{Guarantee, Limits, Policy, Run, memory};

use crate::app::{Seen, Setup, serve};
use crate::wire::Call;

const ALL: [Guarantee; 3] = [Guarantee::Atomic, Guarantee::Fenced, Guarantee::AtMostOnce];

fn layer() -> IdempotencyLayer {
    IdempotencyLayer::fenced(memory::Store::new(), ScopeFrom::header("x-user-id"))
}

/// Refuses the first request.
async fn no_then_yes(seen: Seen) -> StatusCode {
    if seen.nth == 1 { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::CREATED }
}

#[tokio::test]
async fn a_status_frees_the_key_where_the_layer_says_so() {
    for guarantee in ALL {
        let app = Setup::new(guarantee).layer(|layer| layer.free_on([400, 422])).start(no_then_yes).await;
        let first = app.order().send().await;
        assert_eq!((first.status, first.text("idempotency-expires")), (422, None), "{guarantee:?}");
        // Another request, because the key is free for any.
        let mended = app.call("POST", "/orders").key("k").json("{\"item\":2}").send().await;
        assert_eq!((mended.status, mended.replayed(), app.runs()), (201, false, 2), "{guarantee:?}");
    }
}

/// A step that has begun may have had an effect, even if it failed: the answer after it is recorded.
#[tokio::test]
async fn a_status_frees_no_key_after_a_step() {
    for guarantee in [Guarantee::Fenced, Guarantee::AtMostOnce] {
        let handler = |seen: Seen| async move {
            let run = seen.parts.extensions.get::<Run>().expect("it is on a lease").clone();
            let failed = run.step("charge", |_| async { Err::<(), _>(std::io::Error::other("timed out")) }).await;
            assert!(failed.is_err());
            no_then_yes(seen).await
        };
        let app = Setup::new(guarantee).layer(|layer| layer.free_on([422])).start(handler).await;
        for replayed in [false, true] {
            let reply = app.order().send().await;
            assert_eq!((reply.status, reply.replayed(), app.runs()), (422, replayed, 1), "{guarantee:?}");
        }
    }
}

#[test]
#[should_panic(expected = "once the handler has started")]
fn at_most_once_refuses_a_rule_that_could_start_twice() {
    let layer = IdempotencyLayer::at_most_once(memory::Store::new(), ScopeFrom::header("x-user-id"));
    let _ = layer.free_on([422, 408]);
}

#[test]
#[should_panic(expected = "cannot free the key")]
fn a_success_frees_no_key() {
    let _ = layer().free_on([StatusCode::CREATED]);
}

#[tokio::test]
async fn a_header_counts_where_the_layer_says_so() {
    let app =
        Setup::fenced().layer(|layer| layer.with_counted_header("x-version")).start(|_: Seen| async { "made" }).await;
    let call = |version: &str| app.order().header("X-Version", version);
    assert_eq!(call("1").send().await.status, 200);
    assert!(call("1").send().await.replayed());
    call("2").send().await.is_problem(422, "IDEMPOTENCY_KEY_REUSED");
    app.order().send().await.is_problem(422, "IDEMPOTENCY_KEY_REUSED");
}

#[tokio::test]
async fn what_makes_a_request_the_same_can_be_chosen() {
    let by_path = |layer: IdempotencyLayer| {
        layer.with_fingerprint(|head, _| keylatch::Fingerprint::of([head.uri.path().as_bytes()]))
    };
    let app = Setup::fenced().layer(by_path).start(|_: Seen| async { "made" }).await;
    assert_eq!(app.order().send().await.status, 200);
    assert!(app.call("POST", "/orders?at=2").key("k").json("{}").send().await.replayed());
}

#[test]
fn policy_and_limits_are_chosen_on_the_layer() {
    let policy = Policy { lease: Duration::from_secs(5), ..Policy::default() };
    let limits = Limits { running_max: 7, ..Limits::default() };
    let layer = layer().with_policy(policy).with_limits(limits);
    assert_eq!((layer.engine().policy(), layer.engine().limits()), (&policy, &limits));
}

#[tokio::test]
async fn two_layers_of_one_engine_keep_answers_for_their_own_times() {
    const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);
    for guarantee in ALL {
        let app = Setup::new(guarantee).start(|_: Seen| async { "made" }).await;
        let layer =
            IdempotencyLayer::new(app.engine.clone(), ScopeFrom::header("x-user-id")).with_retention(WEEK, WEEK);
        let (address, server) = serve(Router::new().route("/webhooks", post(|| async { "taken" })).layer(layer)).await;
        let webhook = Call::new(address, "POST", "/webhooks").caller("alice").key("k");

        let expires = |reply: crate::wire::Reply| reply.text("idempotency-expires").expect("it is recorded");
        assert_eq!(expires(app.order().send().await), "Wed, 15 Nov 2023 22:13:20 GMT", "{guarantee:?}");
        assert_eq!(expires(webhook.send().await), "Tue, 21 Nov 2023 22:13:20 GMT", "{guarantee:?}");
        app.clock.advance(Policy::default().retention);
        app.order().send().await.is_problem(410, "IDEMPOTENCY_KEY_EXPIRED");
        let again = webhook.send().await;
        assert!(again.replayed(), "{guarantee:?}");
        assert_eq!(expires(again), "Tue, 21 Nov 2023 22:13:20 GMT");
        server.abort();
    }
}
