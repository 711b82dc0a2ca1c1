//! The smallest service with Keylatch: an ordinary handler, guarded by the layer.
//!
//! The program sends its own requests: the same request twice gets the same ticket, and a different request with the
//! same key gets none.
#![expect(clippy::print_stdout, reason = "it shows what it does")]

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use keylatch::http::{IdempotencyLayer, ScopeFrom};
use reqwest::Client;
use tokio::net::TcpListener;

static TICKETS: AtomicU64 = AtomicU64::new(0);

/// An ordinary handler. If it ran twice, it would sell two tickets.
async fn sell_ticket(buyer: String) -> (StatusCode, String) {
    let number = TICKETS.fetch_add(1, Ordering::Relaxed) + 1;
    (StatusCode::CREATED, format!("ticket {number} for {buyer}"))
}

fn app() -> Router {
    let store = keylatch::memory::Store::new();
    let scope = ScopeFrom::header("x-user-id");
    Router::new().route("/tickets", post(sell_ticket)).layer(IdempotencyLayer::fenced(store, scope).require_key())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/tickets", listener.local_addr()?);
    tokio::spawn(async { axum::serve(listener, app()).await });

    let key = uuid::Uuid::new_v4().to_string();
    let first = buy(&url, &key, "Ada").await?;
    let again = buy(&url, &key, "Ada").await?;
    let other = buy(&url, &key, "Bob").await?;
    for answer in [&first, &again, &other] {
        println!("{} {}{}", answer.status, answer.body, if answer.replayed { "  (replayed)" } else { "" });
    }

    let sold = TICKETS.load(Ordering::Relaxed);
    let once = sold == 1 && again.replayed && (first.status, &first.body) == (again.status, &again.body);
    if once && other.status == StatusCode::UNPROCESSABLE_ENTITY { Ok(()) } else { Err("not once".into()) }
}

struct Answer {
    status: StatusCode,
    replayed: bool,
    body: String,
}

async fn buy(url: &str, key: &str, buyer: &str) -> Result<Answer, reqwest::Error> {
    let request = Client::new().post(url).header("x-user-id", "u1").header("idempotency-key", key);
    let answer = request.body(buyer.to_owned()).send().await?;
    let replayed = answer.headers().contains_key("idempotent-replayed");
    Ok(Answer { status: answer.status(), replayed, body: answer.text().await? })
}
