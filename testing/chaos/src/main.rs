//! Sends letters. A posted letter can neither be taken back nor be recognised as a duplicate, so this is `AtMostOnce`.
//!
//! `POST /letters` sends one, and writes its start and its effect into a ledger that never merges two. With `"hold":
//! true` in its body it starts and never ends. `POST /resolve` is an operator's resolution of a letter whose outcome is
//! unknown. The environment is `PORT` and `DATA_DIR`; the ledger is `DATA_DIR/ledger`. The records are in
//! `DATA_DIR/letters.db`, or on PostgreSQL if `DATABASE_URL` is set, in Redis if `REDIS_URL` is, or on Cassandra if
//! `CASSANDRA_URL` is.

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use keylatch::http::{IdempotencyLayer, ScopeFrom};
use keylatch::{Body, Engine, Limits, Outcome, Policy, Resolution, Resolved, Run, cassandra, postgres, redis, sqlite};
use serde::{Deserialize, Serialize};
use testing_history::ledger::Ledger;
use testing_history::{Event, What};
use tokio::net::TcpListener;

/// Short, so that tests need not wait long until an outcome is unknown.
const LEASE: Duration = Duration::from_secs(1);

/// How long it takes to send a letter: long enough for a random kill to find one half sent.
const SENDING: Duration = Duration::from_millis(10);

#[derive(Deserialize)]
struct Letter {
    #[serde(default)]
    hold: bool,
}

#[derive(Serialize, Deserialize)]
struct Sent {
    letter: String,
}

/// An operator's resolution of the letter with a key.
#[derive(Deserialize)]
struct Word {
    scope: String,
    key: String,
    /// The letter that was sent; `None` if none was.
    letter: Option<String>,
}

struct App {
    ledger: Ledger,
    engine: Engine,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = std::env::var("PORT")?;
    let directory = PathBuf::from(std::env::var("DATA_DIR")?);
    let policy = Policy { lease: LEASE, ..Policy::default() };
    let limits = Limits::default();
    let engine = match ["DATABASE_URL", "REDIS_URL", "CASSANDRA_URL"].map(std::env::var) {
        [Ok(url), ..] => Engine::at_most_once(postgres::Store::connect(&url).await?, policy, limits)?,
        [_, Ok(url), _] => Engine::at_most_once(redis::Store::connect(&url).await?, policy, limits)?,
        [.., Ok(url)] => Engine::at_most_once(cassandra::Store::connect(&url).await?, policy, limits)?,
        _ => Engine::at_most_once(sqlite::Store::open(directory.join("letters.db")).await?, policy, limits)?,
    };
    let layer = IdempotencyLayer::new(engine.clone(), ScopeFrom::header("x-user-id")).require_key();
    let ledger = Ledger::open(&directory.join("ledger"))?;
    let app = Router::new().route("/letters", post(send).layer(layer)).route("/resolve", post(resolve));
    let app = app.with_state(Arc::new(App { ledger, engine }));
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    writeln!(std::io::stdout(), "listening on http://{}", listener.local_addr()?)?;
    Ok(axum::serve(listener, app).await?)
}

async fn send(State(app): State<Arc<App>>, run: Run, Json(letter): Json<Letter>) -> (StatusCode, Json<Sent>) {
    let (scope, key, epoch) = (run.scope().caller(), run.key().as_str(), Some(run.epoch().as_u64()));
    let note = |what| app.ledger.append(&Event::now(scope, key, what)).expect("the ledger can be written");
    note(What::Start { epoch });
    if letter.hold {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(SENDING).await;
    let letter = format!("letter to {scope} about {key}");
    note(What::Effect { effect: letter.clone(), epoch });
    (StatusCode::CREATED, Json(Sent { letter }))
}

async fn resolve(State(app): State<Arc<App>>, Json(word): Json<Word>) -> Result<StatusCode, StatusCode> {
    const LAPSED_MAX: usize = 1_000;
    let unavailable = |_| StatusCode::SERVICE_UNAVAILABLE;
    let lapsed = app.engine.store().lapsed(None, LAPSED_MAX).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let mut lapsed = lapsed.value.records.into_iter();
    let found = lapsed.find(|record| record.scope.caller() == word.scope && record.key.as_str() == word.key);
    let record = found.ok_or(StatusCode::NOT_FOUND)?;
    let resolution = match word.letter {
        None => Resolution::NeverHappened,
        Some(letter) => Resolution::Completed(answer(&Sent { letter })),
    };
    match app.engine.resolve(record.id(), resolution).await.map_err(unavailable)? {
        Resolved::Applied => Ok(StatusCode::NO_CONTENT),
        _ => Err(StatusCode::CONFLICT),
    }
}

/// The answer that the sender of the letter would have got.
fn answer(sent: &Sent) -> Outcome {
    Outcome {
        status: StatusCode::CREATED,
        headers: vec![(CONTENT_TYPE, HeaderValue::from_static("application/json"))],
        body: Body::Kept(serde_json::to_vec(sent).expect("it is text").into()),
    }
}
