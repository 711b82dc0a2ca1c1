//! Deduplicates webhook deliveries by the sender's id, such as GitHub's in `X-GitHub-Delivery`.
//!
//! Senders deliver at least once. Here each delivery is applied exactly once: the handler's write, the record of the
//! delivery and the answer are one transaction.
#![expect(clippy::print_stdout, reason = "it shows what it does")]

use std::error::Error;

use axum::http::StatusCode;
use axum::{Router, routing::post};
use keylatch::Tx;
use keylatch::http::{IdempotencyLayer, ScopeFrom};
use keylatch::sqlite::{Sqlite, Store};
use reqwest::Client;
use tokio::net::TcpListener;

/// Applies a delivery. If it ran twice, it would count a push twice.
async fn receive(mut tx: Tx<Sqlite>, event: String) -> Result<StatusCode, StatusCode> {
    tx.run(move |db| db.execute("INSERT INTO event (body) VALUES (?1)", [event]))
        .await
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(StatusCode::NO_CONTENT)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let store = Store::open(directory.path().join("webhook.db")).await?;
    store.execute(|db| db.execute_batch("CREATE TABLE event (body TEXT NOT NULL)")).await?;

    // All deliveries come from one sender, which gives each its own id.
    let layer = IdempotencyLayer::atomic(store.clone(), ScopeFrom::shared("github"));
    let layer = layer.with_key_header("x-github-delivery").require_key();
    let app = Router::new().route("/webhook", post(receive)).layer(layer);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/webhook", listener.local_addr()?);
    tokio::spawn(async { axum::serve(listener, app).await });

    for delivery in ["72d3162e-cc78", "72d3162e-cc78", "9a1f7c30-cc79"] {
        let request = Client::new().post(&url).header("x-github-delivery", delivery);
        let answer = request.body(r#"{"ref":"refs/heads/main"}"#).send().await?;
        let replayed = answer.headers().contains_key("idempotent-replayed");
        println!("{delivery}: {}{}", answer.status(), if replayed { " (replayed)" } else { "" });
    }
    let events: u32 = store.query(|db| db.query_row("SELECT count(*) FROM event", [], |row| row.get(0))).await?;
    println!("3 deliveries, {events} events");
    if events == 2 { Ok(()) } else { Err("a delivery was applied twice, or lost".into()) }
}
