//! Events.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::to_its_end;
use crate::input::{Asked, Body, Caller};
use crate::ops::{EventOrder, ListStuck, OrderEvents, Ordered, OutboxPage};
use crate::problem::{Document, Problem};
use crate::router::Shared;

/// How much there is in the outbox, and a page of the events that are stuck. Their errors are for the role `operate`.
#[utoipa::path(get, path = "/outbox", operation_id = "list_outbox", params(ListStuck), responses(
    (status = 200, body = OutboxPage),
    (status = "default", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Caller(actor): Caller,
    Asked(request): Asked<ListStuck>,
) -> Result<Json<OutboxPage>, Problem> {
    Ok(Json(shared.operator.list_outbox(actor.role, request).await?))
}

/// Tries stuck events again.
#[utoipa::path(post, path = "/outbox/retry", operation_id = "retry_events", request_body = OrderEvents, responses(
    (status = 200, body = Ordered),
    (status = "default", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn retry(
    State(shared): State<Arc<Shared>>,
    Caller(actor): Caller,
    Body(request): Body<OrderEvents>,
) -> Result<Json<Ordered>, Problem> {
    to_its_end(async move { shared.operator.order_events(&actor, EventOrder::Retry, request).await }).await
}

/// Removes stuck events for good.
#[utoipa::path(post, path = "/outbox/discard", operation_id = "discard_events", request_body = OrderEvents, responses(
    (status = 200, body = Ordered),
    (status = "default", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn discard(
    State(shared): State<Arc<Shared>>,
    Caller(actor): Caller,
    Body(request): Body<OrderEvents>,
) -> Result<Json<Ordered>, Problem> {
    to_its_end(async move { shared.operator.order_events(&actor, EventOrder::Discard, request).await }).await
}
