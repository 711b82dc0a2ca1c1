//! Charges a card once, even if something crashes: `Fenced`, with a step and a derived key.
//!
//! It starts a payment service, charges the same card twice with one key, and shows both answers. With `PORT`, `PAYMENTS`
//! (a URL) and `DATA_DIR`, `DATABASE_URL`, `REDIS_URL` or `CASSANDRA_URL` set, it serves until it is stopped.
#![expect(clippy::print_stdout, reason = "it shows what it does")]
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::{env, error::Error, time::Duration};

use axum::{Json, Router, extract::State, http::HeaderMap, http::StatusCode, routing::post};
use keylatch::http::{IdempotencyLayer, ScopeFrom};
use keylatch::{Engine, Key, Limits, Policy, Run, cassandra, postgres, redis, sqlite};
use reqwest::Client;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

#[derive(Clone, Serialize, Deserialize)]
struct Charge {
    card: String,
    cents: u64,
}

/// A later attempt gets the recorded result of the step. If the process died between the payment and its record, the
/// provider recognises the derived key.
async fn charge(State(payments): State<String>, run: Run, Json(charge): Json<Charge>) -> Result<String, StatusCode> {
    let pay = |key: Key| async move {
        let request = Client::new().post(payments).header("idempotency-key", key.as_str()).json(&charge);
        request.send().await?.error_for_status()?.text().await
    };
    run.step("charge", pay).await.map_err(|_| StatusCode::BAD_GATEWAY)
}

/// A payment service that honours keys, as real ones do, and counts its payments.
fn provider() -> Router {
    let payments: Arc<Mutex<HashMap<String, String>>> = Arc::default();
    let pay = async move |headers: HeaderMap, Json(charge): Json<Charge>| {
        let key = headers["idempotency-key"].to_str().unwrap_or_default().to_owned();
        let mut payments = payments.lock().expect("nothing panics while it holds this");
        let number = payments.len() + 1;
        payments.entry(key).or_insert_with(|| format!("payment {number}: {} cents", charge.cents)).clone()
    };
    Router::new().route("/", post(pay))
}

async fn serve(app: Router, port: &str) -> Result<String, Box<dyn Error>> {
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async { axum::serve(listener, app).await });
    Ok(url)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let temporary = tempfile::tempdir()?;
    let directory = env::var("DATA_DIR").map_or(temporary.path().to_owned(), Into::into);
    let payments = if let Ok(url) = env::var("PAYMENTS") { url } else { serve(provider(), "0").await? };
    let (policy, limits) = (Policy { lease: Duration::from_secs(2), ..Policy::default() }, Limits::default());
    let engine = match ["DATABASE_URL", "REDIS_URL", "CASSANDRA_URL"].map(env::var) {
        [Ok(url), ..] => Engine::fenced(postgres::Store::connect(&url).await?, policy, limits)?,
        [_, Ok(url), _] => Engine::fenced(redis::Store::connect(&url).await?, policy, limits)?,
        [.., Ok(url)] => Engine::fenced(cassandra::Store::connect(&url).await?, policy, limits)?,
        _ => Engine::fenced(sqlite::Store::open(directory.join("charges.db")).await?, policy, limits)?,
    };
    let layer = IdempotencyLayer::new(engine, ScopeFrom::header("x-user-id")).require_key();
    let app = Router::new().route("/charges", post(charge)).layer(layer).with_state(payments);
    let port = env::var("PORT");
    let url = serve(app, port.as_deref().unwrap_or("0")).await?;
    println!("listening on {url}");
    if port.is_ok() {
        std::future::pending::<()>().await;
    }
    let (mut answers, charge) = (Vec::new(), Charge { card: "4242".into(), cents: 1999 });
    for _ in 0..2 {
        let request = Client::new().post(format!("{url}/charges")).header("x-user-id", "ada");
        let request = request.header("idempotency-key", "order-17").json(&charge);
        answers.push(request.send().await?.error_for_status()?.text().await?);
    }
    println!("first: {}\nagain: {}", answers[0], answers[1]);
    if answers[0] == answers[1] { Ok(()) } else { Err("charged twice".into()) }
}
