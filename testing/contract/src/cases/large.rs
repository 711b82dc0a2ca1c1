//! Clients whose bodies are refused unread: they get the reason, although they send the whole body first.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::wire::{Call, Reply};
use crate::{Seen, Setup, Subject};

/// Far more than the buffers of a connection hold.
const LARGE: usize = 64 << 20;

async fn ok(seen: Seen) -> String {
    format!("run {}", seen.nth)
}

/// Sends all of it before it reads.
async fn send_then_read(call: &Call) -> Reply {
    let mut exchange = call.open(&call.head()).await;
    let sent = timeout(Duration::from_secs(60), exchange.stream().write_all(&vec![b'x'; LARGE])).await;
    sent.expect("it is taken in").expect("the connection holds");
    exchange.reply().await
}

pub async fn a_client_that_sends_everything_first_sees_its_refusal(at: &impl Subject) {
    let app = Setup { require_key: true, ..Setup::fenced() }.start(at, ok).await;
    let promised = app.order().length(LARGE);
    send_then_read(&promised).await.is_problem(413, "REQUEST_TOO_LARGE");
    send_then_read(&promised.without("Idempotency-Key")).await.is_problem(400, "IDEMPOTENCY_KEY_REQUIRED");
    assert_eq!((app.runs(), app.records().await.len()), (0, 0));
    assert_eq!(app.order().send().await.status, 200, "the key is free");
}

pub async fn a_client_of_http_sees_its_refusal_and_goes_on(at: &impl Subject) {
    let app = Setup { require_key: true, ..Setup::fenced() }.start(at, ok).await;
    let client = reqwest::Client::new();
    let send = async |body: reqwest::Body| {
        let request = client.post(format!("http://{}/orders", app.address())).header("x-user-id", "alice");
        let response = request.header("idempotency-key", "k").body(body).send().await.expect("an answer");
        response.status().as_u16()
    };
    for _ in 0..3 {
        assert_eq!(send(vec![b'x'; LARGE].into()).await, 413);
    }
    assert_eq!(send("small".into()).await, 200);
    assert_eq!(app.runs(), 1);
}

/// A client that waits for `100 Continue` gets the refusal instead.
pub async fn a_client_that_waits_to_be_told_to_send_is_not_told(at: &impl Subject) {
    let app = Setup { require_key: true, ..Setup::fenced() }.start(at, ok).await;
    let promised = app.order().length(LARGE).header("Expect", "100-continue");
    let reply = promised.open(&promised.head()).await.reply().await;
    reply.is_problem(413, "REQUEST_TOO_LARGE");
}
