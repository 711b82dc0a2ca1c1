//! Runs the code of the README. `documents.rs` checks that the README shows the same code.
#![cfg(all(feature = "axum", feature = "sqlite"))]

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use keylatch::Tx;
use keylatch::http::{IdempotencyLayer, ScopeFrom};
use keylatch::sqlite::{OpenError, Sqlite, TxError};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use tower::ServiceExt;

// ---- As in the README ----------------------------------------------------------------------------------

#[rustfmt::skip]
async fn app() -> Result<Router, OpenError> {
    let store = keylatch::sqlite::Store::open("data/keylatch.db").await?;
    let app = Router::new()
        .route("/api/orders", post(create_order))
        .layer(IdempotencyLayer::atomic(store, ScopeFrom::header("x-user-id")).require_key());
    Ok(app)
}

async fn create_order(mut tx: Tx<Sqlite>, Json(new): Json<NewOrder>) -> Result<impl IntoResponse, Problem> {
    let order = Order::try_from(new)?;
    let order = tx.run(move |db| insert(db, order)).await?;
    Ok((StatusCode::CREATED, Json(order)))
}

// ---- What it presupposes -------------------------------------------------------------------------------

#[derive(Deserialize)]
struct NewOrder {
    pieces: i64,
}

#[derive(Serialize)]
struct Order {
    number: i64,
    pieces: i64,
}

struct Problem(StatusCode);

impl TryFrom<NewOrder> for Order {
    type Error = Problem;

    fn try_from(new: NewOrder) -> Result<Self, Problem> {
        if new.pieces > 0 {
            Ok(Self { number: 0, pieces: new.pieces })
        } else {
            Err(Problem(StatusCode::UNPROCESSABLE_ENTITY))
        }
    }
}

impl From<TxError> for Problem {
    fn from(_: TxError) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}

fn insert(db: &Connection, mut order: Order) -> rusqlite::Result<Order> {
    db.execute_batch("CREATE TABLE IF NOT EXISTS orders (number INTEGER PRIMARY KEY, pieces INTEGER)")?;
    db.execute("INSERT INTO orders (pieces) VALUES (?1)", [order.pieces])?;
    order.number = db.last_insert_rowid();
    Ok(order)
}

#[tokio::test]
async fn the_layer_and_its_handler_take_an_order_once() {
    let directory = tempfile::tempdir().unwrap();
    // The code of the README stores in `data`. This is the only test of its process.
    std::env::set_current_dir(&directory).unwrap();
    let app = app().await.unwrap();
    let ask = async |key: &str, pieces: i64| {
        let request = Request::post("/api/orders")
            .header("x-user-id", "u1")
            .header("idempotency-key", key)
            .header("content-type", "application/json")
            .body(Body::from(format!("{{\"pieces\":{pieces}}}")))
            .unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        let (status, replayed) = (response.status(), response.headers().contains_key("idempotent-replayed"));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, replayed, String::from_utf8(body.to_vec()).unwrap())
    };
    let first = r#"{"number":1,"pieces":2}"#.to_owned();
    assert_eq!(ask("a", 2).await, (StatusCode::CREATED, false, first.clone()));
    assert_eq!(ask("a", 2).await, (StatusCode::CREATED, true, first));
    assert_eq!(ask("a", 3).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(ask("b", 2).await, (StatusCode::CREATED, false, r#"{"number":2,"pieces":2}"#.to_owned()));
}
