//! The routes.
//!
//! | route | |
//! |---|---|
//! | `POST /api/orders` | takes an order, once for each `Idempotency-Key` of a caller |
//! | `GET /api/orders/{id}` | an order |
//! | `GET /api/orders?user_id=…&limit=…&cursor=…` | a user's orders, a page at a time |
//! | `GET /api/inventory?limit=…&cursor=…&user_id=…` | the pieces of each product in all orders, a page at a time; what a user has ordered |
//! | `POST /api/admin/cleanup` | removes Keylatch's expired records |
//! | `/admin/…` | what operators can do: see `keylatch_admin::router` |
//! | `GET /health` | whether the process runs |
//! | `GET /ready` | whether the stores of orders and records answer |
//! | `GET /metrics` | Prometheus |

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Json, Router};
use jiff::Timestamp;
use keylatch::{Engine, Identity, Key, RecordId, Scope, Tx};
use keylatch_admin::ops::{SweepAnswer, SweepRequest};
use keylatch_admin::{Actor, Admin, Role};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use crate::inventory::{self, Product, UserTotal};
use crate::order::{NewOrder, Order};
use crate::problem::Problem;
use crate::store::Orders;

/// State that the handlers share.
pub(crate) struct App<D: Orders> {
    pub(crate) reader: D::Reader,
    pub(crate) engine: Engine,
    pub(crate) admin: Admin,
    pub(crate) metrics: PrometheusHandle,
}

/// Orders on a page, unless the client asks otherwise.
const PAGE_ORDERS: u32 = 100;
/// Orders on the largest page.
const PAGE_ORDERS_MAX: u32 = 1_000;

/// All routes; `create` takes orders.
pub(crate) fn router<D: Orders>(app: Arc<App<D>>, create: MethodRouter<Arc<App<D>>>) -> Router {
    let cleanup = Router::new().route("/api/admin/cleanup", post(cleanup::<D>));
    Router::new()
        .route("/api/orders", create.get(page::<D>))
        .route("/api/orders/{id}", get(find::<D>))
        .route("/api/inventory", get(stock::<D>))
        .merge(app.admin.guard(Role::Operate, cleanup))
        .nest("/admin", app.admin.router().with_state(()))
        .route("/health", get(health))
        .route("/ready", get(ready::<D>))
        .route("/metrics", get(metrics::<D>))
        .fallback(async || Problem::NoRoute)
        .method_not_allowed_fallback(async || Problem::NoMethod)
        .with_state(app)
}

/// Takes an order, in `Atomic`. What is written in `tx` commits together with the record of the key and this answer.
pub(crate) async fn create<D: Orders>(
    mut tx: Tx<D>,
    Identity { scope, key }: Identity,
    body: Bytes,
) -> Result<impl IntoResponse, Problem> {
    let order = D::insert(&mut tx, scope.caller().to_owned(), key, asked_for(&body)?).await?;
    tx.publish(inventory::created(&order)).map_err(inventory::too_large)?;
    Ok(created(order))
}

/// Takes an order, in `Fenced`: the records are elsewhere. An attempt after a crash runs again, and finds the order
/// that the previous attempt has written under its key.
#[cfg(any(feature = "cassandra", feature = "redis"))]
pub(crate) async fn create_fenced<D: Orders>(
    Extension(store): Extension<D::Store>,
    Identity { scope, key }: Identity,
    body: Bytes,
) -> Result<impl IntoResponse, Problem> {
    let order = D::insert_once(&store, scope.caller().to_owned(), key, asked_for(&body)?).await?;
    Ok(created(order))
}

/// The order that a body asks for. It is read as JSON whatever its `Content-Type` is, because a client that forgot the
/// header still means an order.
fn asked_for(body: &[u8]) -> Result<Order, Problem> {
    Ok(Order::taken(NewOrder::parse(body)?, Timestamp::now()))
}

fn created(order: Order) -> impl IntoResponse {
    let location = format!("/api/orders/{}", order.order_id);
    (StatusCode::CREATED, [(LOCATION, location)], Json(order))
}

async fn find<D: Orders>(State(app): State<Arc<App<D>>>, Path(id): Path<String>) -> Result<Json<Order>, Problem> {
    // Anything that is not a UUID names no order.
    let order_id = id.parse().map_err(|_| Problem::NoOrder)?;
    D::find(&app.reader, order_id).await?.map(Json).ok_or(Problem::NoOrder)
}

/// The unparsed query of a page.
#[derive(Debug, Deserialize)]
struct PageQuery {
    user_id: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

#[derive(Debug, Serialize)]
struct Page {
    orders: Vec<Order>,
    /// The `cursor` of the next page; `null` on the last.
    next: Option<Uuid>,
}

async fn page<D: Orders>(
    State(app): State<Arc<App<D>>>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<Page>, Problem> {
    let query = page_query(query)?;
    let user_id = query.user_id.ok_or_else(|| invalid("user_id", "is missing: say whose orders to list"))?;
    let limit = limit_of(query.limit.as_deref())?;
    let after = query.cursor.as_deref().map(str::parse).transpose();
    let after = after.map_err(|_| invalid("cursor", "must be `next` of the previous page"))?;
    // One more than requested, to know whether there is a next page.
    let mut orders = D::page(&app.reader, user_id, after, limit + 1).await?;
    let limit = limit as usize;
    let more = orders.len() > limit;
    orders.truncate(limit);
    let next = orders.last().map(|order| order.order_id).filter(|_| more);
    Ok(Json(Page { orders, next }))
}

fn page_query(query: Result<Query<PageQuery>, QueryRejection>) -> Result<PageQuery, Problem> {
    let unreadable = |error: QueryRejection| invalid("query", &format!("cannot be read: {}", error.body_text()));
    query.map(|Query(query)| query).map_err(unreadable)
}

fn limit_of(limit: Option<&str>) -> Result<u32, Problem> {
    match limit.map(str::parse) {
        None => Ok(PAGE_ORDERS),
        Some(Ok(limit @ 1..=PAGE_ORDERS_MAX)) => Ok(limit),
        Some(_) => Err(invalid("limit", &format!("must be a number from 1 to {PAGE_ORDERS_MAX}"))),
    }
}

fn invalid(field: &'static str, message: &str) -> Problem {
    Problem::Query { field, message: message.to_owned() }
}

#[derive(Debug, Serialize)]
struct Inventory {
    products: Vec<Product>,
    /// The `cursor` of the next page; `null` on the last.
    next: Option<String>,
    /// What the user has ordered, if one was asked for and has.
    user: Option<UserTotal>,
}

async fn stock<D: Orders>(
    State(app): State<Arc<App<D>>>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<Inventory>, Problem> {
    let PageQuery { user_id, limit, cursor } = page_query(query)?;
    let user = match user_id {
        Some(user_id) => D::user_total(&app.reader, user_id).await?,
        None => None,
    };
    let limit = limit_of(limit.as_deref())?;
    let mut products = D::products(&app.reader, cursor, limit + 1).await?;
    let limit = limit as usize;
    let more = products.len() > limit;
    products.truncate(limit);
    let next = products.last().map(|product| product.product_id.clone()).filter(|_| more);
    Ok(Json(Inventory { products, next, user }))
}

async fn cleanup<D: Orders>(
    State(app): State<Arc<App<D>>>,
    Extension(actor): Extension<Actor>,
) -> Result<Json<SweepAnswer>, Problem> {
    let swept = app.admin.operator().sweep(&actor, SweepRequest::default(), |_| {}).await;
    swept.map(Json).map_err(|error| Problem::unavailable(&error))
}

async fn health() -> impl IntoResponse {
    Json(json!({ "status": "ok" }))
}

async fn ready<D: Orders>(State(app): State<Arc<App<D>>>) -> Result<impl IntoResponse, Problem> {
    D::ready(&app.reader).await?;
    // The records may be elsewhere.
    let nobody = Scope::new("ready").expect("it is a scope");
    let nothing = RecordId::of(&nobody, &Key::new("ready").expect("it is a key"));
    app.engine.store().read(nothing).await.map_err(|error| Problem::unavailable(&error))?;
    Ok(Json(json!({ "status": "ready" })))
}

async fn metrics<D: Orders>(State(app): State<Arc<App<D>>>) -> impl IntoResponse {
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], app.metrics.render())
}
