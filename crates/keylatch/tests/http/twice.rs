//! Two layers around one handler.

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::post;
use http::StatusCode;
use keylatch::http::{IdempotencyLayer, ScopeFrom};
use keylatch::{Engine, Guarantee, Limits, Policy, memory};
use tokio::sync::watch;

use crate::app::serve;
use crate::common::Gate;
use crate::wire::Call;

fn scope() -> ScopeFrom {
    ScopeFrom::header("x-user-id")
}

fn engine(guarantee: Guarantee) -> Engine {
    let (store, policy, limits) = (memory::Store::new(), Policy::default(), Limits::default());
    let engine = match guarantee {
        Guarantee::AtMostOnce => Engine::at_most_once(store, policy, limits),
        _ => Engine::fenced(store, policy, limits),
    };
    engine.expect("the default policy can be kept")
}

/// By mistake, such as one layer on the router and another on the route. Nobody can know which of the two is meant.
#[tokio::test]
async fn two_layers_on_one_route_fail_loudly_and_record_no_answer() {
    for guarantee in [Guarantee::Fenced, Guarantee::AtMostOnce] {
        for shared in [true, false] {
            let outer = engine(guarantee);
            let inner = if shared { outer.clone() } else { engine(guarantee) };
            let app = Router::new()
                .route("/orders", post(|| async { "made" }).layer(IdempotencyLayer::new(inner.clone(), scope())))
                .layer(IdempotencyLayer::new(outer.clone(), scope()));
            let (address, server) = serve(app).await;
            let call = Call::new(address, "POST", "/orders").caller("alice").key("k");
            assert_eq!(
                call.send().await.is_problem(500, "IDEMPOTENCY_NOT_SET_UP")["retryable"],
                false,
                "{guarantee:?}"
            );
            // Without a key, both layers do nothing.
            assert_eq!(call.clone().without("Idempotency-Key").send().await.body_text(), "made");
            server.abort();
            // Once the mistake is fixed: the failure is not the request's answer.
            let layer = IdempotencyLayer::new(outer, scope());
            let (address, server) = serve(Router::new().route("/orders", post(|| async { "made" })).layer(layer)).await;
            let again = call.at(address).send().await;
            match guarantee {
                Guarantee::AtMostOnce => drop(again.is_problem(409, "IDEMPOTENCY_OUTCOME_UNKNOWN")),
                _ => assert_eq!((again.body_text(), again.replayed()), ("made", false)),
            }
            server.abort();
        }
    }
}

/// Two keys for two purposes, such as a delivery and an order, are no mistake.
#[tokio::test]
async fn two_layers_with_a_key_each_both_count() {
    let (runs, ran) = watch::channel(0);
    let handler = move || async move {
        runs.send_modify(|runs| *runs += 1);
        "made"
    };
    let app = Router::new()
        .route("/orders", post(handler).layer(IdempotencyLayer::new(engine(Guarantee::Fenced), scope())))
        .layer(IdempotencyLayer::new(engine(Guarantee::Fenced), scope()).with_key_header("x-delivery"));
    let (address, server) = serve(app).await;
    let order =
        |delivery: &str| Call::new(address, "POST", "/orders").caller("alice").key("k").header("X-Delivery", delivery);
    for (delivery, replayed) in [("1", false), ("1", true), ("2", false)] {
        let reply = order(delivery).send().await;
        assert_eq!((reply.status, reply.body_text(), reply.replayed()), (200, "made", replayed));
    }
    assert_eq!(*ran.borrow(), 1);
    server.abort();
}

/// "In progress" does not remain the answer to a request for ever.
#[tokio::test]
async fn a_problem_of_ours_that_passes_through_a_handler_is_not_recorded() {
    let gate = Gate::closed();
    let (started, mut has_started) = watch::channel(false);
    let waiting = gate.clone();
    let handler = move || async move {
        started.send_replace(true);
        waiting.pass().await;
        (StatusCode::CREATED, "made").into_response()
    };
    let app = Router::new()
        .route("/orders", post(handler).layer(IdempotencyLayer::new(engine(Guarantee::Fenced), scope())))
        .layer(IdempotencyLayer::new(engine(Guarantee::Fenced), scope()).with_key_header("x-delivery"));
    let (address, server) = serve(app).await;
    let order =
        |delivery: &str| Call::new(address, "POST", "/orders").caller("alice").key("k").header("X-Delivery", delivery);
    let running = order("1").begin().await;
    has_started.wait_for(|started| *started).await.unwrap();
    order("2").send().await.is_problem(409, "IDEMPOTENCY_KEY_IN_PROGRESS");
    gate.open();
    assert_eq!(running.reply().await.status, 201);
    let again = order("2").send().await;
    assert_eq!((again.status, again.body_text(), again.replayed()), (201, "made", false));
    server.abort();
}
