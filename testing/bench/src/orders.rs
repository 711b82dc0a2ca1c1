//! The handlers: the same order in, the same answer out. They differ in what they do in between.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use keylatch::sqlite::{Sqlite, Store};
use keylatch::{Tx, http};
use parking_lot::Mutex;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use crate::Result;

/// What a client sends.
#[derive(Debug, Deserialize)]
pub(crate) struct NewOrder {
    user_id: String,
    cart_id: String,
    items: Vec<Item>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Item {
    product_id: String,
    quantity: u32,
    price_cents: i64,
}

/// What it gets.
#[derive(Debug, Serialize)]
pub(crate) struct Order {
    order_id: i64,
    user_id: String,
    cart_id: String,
    status: &'static str,
    total_cents: i64,
    items: Vec<Item>,
}

impl Order {
    fn new(numbers: &Numbers, new: NewOrder) -> Self {
        let NewOrder { user_id, cart_id, items } = new;
        let total_cents = items.iter().map(|item| i64::from(item.quantity) * item.price_cents).sum();
        Self { order_id: numbers.next(), user_id, cart_id, status: "pending", total_cents, items }
    }
}

/// Numbers the orders of one process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Numbers(Arc<AtomicI64>);

impl Numbers {
    fn next(&self) -> i64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

pub(crate) const TABLE: &str = "CREATE TABLE orders (
    order_id INTEGER PRIMARY KEY, user_id TEXT NOT NULL, cart_id TEXT NOT NULL, total_cents INTEGER NOT NULL, items TEXT NOT NULL
) STRICT";

const INSERT: &str = "INSERT INTO orders (order_id, user_id, cart_id, total_cents, items) VALUES (?1, ?2, ?3, ?4, ?5)";

fn insert_order(conn: &Connection, order: &Order) -> rusqlite::Result<()> {
    let items = serde_json::to_string(&order.items).expect("items are JSON");
    let order = params![order.order_id, order.user_id, order.cart_id, order.total_cents, items];
    conn.prepare_cached(INSERT)?.execute(order)?;
    Ok(())
}

type Answer = std::result::Result<(StatusCode, Json<Order>), StatusCode>;

/// Answers, and does nothing else.
pub(crate) async fn answer(State(numbers): State<Numbers>, Json(new): Json<NewOrder>) -> Answer {
    Ok((StatusCode::CREATED, Json(Order::new(&numbers, new))))
}

/// Inserts in the transaction of `Atomic`.
pub(crate) async fn insert_in_transaction(
    State(numbers): State<Numbers>,
    mut tx: Tx<Sqlite>,
    Json(new): Json<NewOrder>,
) -> Answer {
    let order = Order::new(&numbers, new);
    tx.run(|conn| insert_order(conn, &order)).await.map_err(failed)?;
    Ok((StatusCode::CREATED, Json(order)))
}

/// Inserts through the writer of the store, and shares its commits.
pub(crate) async fn insert(State((store, numbers)): State<(Store, Numbers)>, Json(new): Json<NewOrder>) -> Answer {
    let order = Order::new(&numbers, new);
    let order = store.execute(move |conn| insert_order(conn, &order).map(|()| order)).await.map_err(failed)?;
    Ok((StatusCode::CREATED, Json(order)))
}

pub(crate) async fn count(State(store): State<Store>) -> std::result::Result<String, StatusCode> {
    let count = store.query(|conn| conn.query_row(COUNT, [], |row| row.get::<_, i64>(0))).await;
    count.map(|count| count.to_string()).map_err(failed)
}

const COUNT: &str = "SELECT count(*) FROM orders";

fn failed(error: impl std::fmt::Display) -> StatusCode {
    eprintln!("a handler failed: {error}");
    StatusCode::INTERNAL_SERVER_ERROR
}

// ---- One commit for each request -----------------------------------------------------------------------

/// A separate connection, as durable as the store's: WAL and `synchronous=FULL`.
#[derive(Debug, Clone)]
pub(crate) struct OwnConnection(Arc<Mutex<Connection>>);

impl OwnConnection {
    pub(crate) fn open(file: &Path) -> Result<Self> {
        let conn = Connection::open(file)?;
        conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        conn.pragma_update(None, "synchronous", "FULL")?;
        conn.execute_batch(TABLE)?;
        conn.execute_batch("CREATE TABLE answers (key TEXT PRIMARY KEY, answer BLOB NOT NULL) STRICT")?;
        Ok(Self(Arc::new(Mutex::new(conn))))
    }
}

/// Inserts the order and, under its key, the answer: what a service does with its own table of keys.
///
/// It blocks its thread. On one core this is its fastest form: a thread for each waiting request would only add
/// switches between them.
pub(crate) async fn insert_and_commit(
    State((conn, numbers)): State<(OwnConnection, Numbers)>,
    headers: HeaderMap,
    Json(new): Json<NewOrder>,
) -> Answer {
    let key = headers.get(http::IDEMPOTENCY_KEY).and_then(|key| key.to_str().ok()).ok_or(StatusCode::BAD_REQUEST)?;
    let order = Order::new(&numbers, new);
    commit(&mut conn.0.lock(), key, &order).map_err(failed)?;
    Ok((StatusCode::CREATED, Json(order)))
}

fn commit(conn: &mut Connection, key: &str, order: &Order) -> rusqlite::Result<()> {
    let transaction = conn.transaction()?;
    let answer = serde_json::to_vec(order).expect("an order is JSON");
    transaction.prepare_cached("INSERT INTO answers (key, answer) VALUES (?1, ?2)")?.execute(params![key, answer])?;
    insert_order(&transaction, order)?;
    transaction.commit()
}

pub(crate) async fn count_own(
    State((conn, _)): State<(OwnConnection, Numbers)>,
) -> std::result::Result<String, StatusCode> {
    let count = conn.0.lock().query_row(COUNT, [], |row| row.get::<_, i64>(0));
    count.map(|count| count.to_string()).map_err(failed)
}
