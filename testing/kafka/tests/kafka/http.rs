//! One operation by HTTP and in a message, at once.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use axum::routing::post;
use futures_util::future::join_all;
use keylatch::http::{IdempotencyLayer, ScopeFrom};
use keylatch::postgres::Postgres;
use keylatch::{Fingerprint, Key, Scope, Tx};
use keylatch_kafka::{Count, Message, MessageId};
use tower::ServiceExt as _;

use crate::consuming::{Db, check, consumer};
use crate::setup::{client, name, say, send, topic};

const OPERATIONS: i64 = 40;

/// What both doors make of an order.
fn fingerprint(body: &[u8]) -> Fingerprint {
    Fingerprint::of([body])
}

/// The id of a message is the key of the same request by HTTP.
fn id_of(message: &Message) -> Result<Option<MessageId>, String> {
    let text = |bytes: Option<&bytes::Bytes>| {
        String::from_utf8(bytes.map(|bytes| bytes.to_vec()).unwrap_or_default()).map_err(|error| error.to_string())
    };
    let scope = Scope::new("user-7").and_then(|scope| scope.for_operation("POST /orders"));
    Ok(Some(MessageId {
        scope: scope.map_err(|error| error.to_string())?,
        key: Key::new(&text(message.header("message-id"))?).map_err(|error| error.to_string())?,
        fingerprint: fingerprint(message.value().map(|value| &**value).unwrap_or_default()),
    }))
}

async fn order(mut tx: Tx<Postgres>, body: String) -> Result<&'static str, StatusCode> {
    let sequence: i64 = body.parse().map_err(|_| StatusCode::BAD_REQUEST)?;
    let insert = sqlx::query("INSERT INTO effects (id, key, sequence) VALUES ($1, $2, $3)");
    // Each is a key of its own: two doors have no order.
    let insert = insert.bind(format!("http-{body}")).bind(format!("k{body}")).bind(sequence);
    insert.execute(&mut *tx).await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok("ordered")
}

/// The answer, once it is final.
async fn sent(app: &Router, number: i64) -> (StatusCode, Vec<u8>) {
    loop {
        let request = Request::post("/orders").header("x-user-id", "user-7");
        let request = request.header("idempotency-key", format!("order-{number}"));
        let answer = app.clone().oneshot(request.body(Body::from(number.to_string())).unwrap()).await.unwrap();
        let status = answer.status();
        let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap().to_vec();
        if status != StatusCode::CONFLICT && status != StatusCode::SERVICE_UNAVAILABLE {
            return (status, body);
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_operation_by_http_and_in_a_message_at_once_has_one_effect_and_one_outcome() {
    let (db, topic) = (Db::postgres().await, topic(4).await);
    let Db::Postgres(store, _) = &db else { unreachable!("it is PostgreSQL") };
    let layer = IdempotencyLayer::atomic(store.clone(), ScopeFrom::header("x-user-id")).require_key();
    let layer = layer.with_fingerprint(|_, body| fingerprint(body));
    let app = Router::new().route("/orders", post(order)).layer(layer);
    let consuming = db.start(consumer(client(), &name("c"), &topic).with_ids(id_of));
    // So that it is at work.
    send(&topic, [say(0, "first", "1000")]).await;
    db.await_effects(1).await;
    let message = |number: i64| crate::setup::Say {
        id: Some(format!("order-{number}")),
        ..say(i32::try_from(number % 4).unwrap(), &format!("k{number}"), &number.to_string())
    };
    let (_, answers) = tokio::join!(
        send(&topic, (0..OPERATIONS).map(message)),
        join_all((0..OPERATIONS).map(|number| sent(&app, number))),
    );
    let count = u64::try_from(OPERATIONS).unwrap() + 1;
    testing_support::eventually(crate::setup::SOON, "all messages", async || {
        consuming.stats.of(Count::Applied) + consuming.stats.of(Count::Known) >= count
    })
    .await;
    // Whoever came first has said what the outcome is, and it stays.
    for (number, answer) in (0..).zip(&answers) {
        assert_eq!(answer.0, StatusCode::OK);
        assert_eq!(sent(&app, number).await, *answer, "{number}");
    }
    let by_http = answers.iter().filter(|(_, body)| body == b"ordered").count();
    let known = usize::try_from(consuming.stats.of(Count::Known)).unwrap();
    assert_eq!(by_http, known, "what was not known to the consumer was known to the layer");
    consuming.stop().await;
    let effects = db.effects().await;
    check(&effects, &db.dead_letters().await);
    assert_eq!(i64::try_from(effects.len()).unwrap(), OPERATIONS + 1);
    let mut keys: Vec<_> = effects.iter().map(|effect| effect.key.clone()).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), effects.len(), "one effect for each");
}
