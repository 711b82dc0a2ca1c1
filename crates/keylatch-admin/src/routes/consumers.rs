//! Places and dead letters of consumers.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::to_its_end;
use crate::input::{Asked, Body, Caller};
use crate::ops::{
    DeadLetterPage, ListDeadLetters, ListPlaces, Order, OrderDeadLetters, Ordered, PlaceMoved, PlacePage, ResetPlace,
};
use crate::problem::{Document, Problem};
use crate::router::Shared;

/// A page of the places of consumers.
#[utoipa::path(get, path = "/places", operation_id = "list_places", params(ListPlaces), responses(
    (status = 200, body = PlacePage),
    (status = "default", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn places(
    State(shared): State<Arc<Shared>>,
    Asked(request): Asked<ListPlaces>,
) -> Result<Json<PlacePage>, Problem> {
    Ok(Json(shared.operator.list_places(request).await?))
}

/// Moves a place to another offset.
#[utoipa::path(post, path = "/places/reset", operation_id = "reset_place", request_body = ResetPlace, responses(
    (status = 200, body = PlaceMoved),
    (status = "default", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn reset(
    State(shared): State<Arc<Shared>>,
    Caller(actor): Caller,
    Body(request): Body<ResetPlace>,
) -> Result<Json<PlaceMoved>, Problem> {
    to_its_end(async move { shared.operator.reset_place(&actor, request).await }).await
}

/// A page of dead letters. Their errors are for the role `operate`.
#[utoipa::path(get, path = "/dead-letters", operation_id = "list_dead_letters", params(ListDeadLetters), responses(
    (status = 200, body = DeadLetterPage),
    (status = "default", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn dead_letters(
    State(shared): State<Arc<Shared>>,
    Caller(actor): Caller,
    Asked(request): Asked<ListDeadLetters>,
) -> Result<Json<DeadLetterPage>, Problem> {
    let limit = request.limit;
    Ok(Json(shared.operator.list_dead_letters(actor.role, request.into(), limit).await?))
}

/// The owners of their places apply these dead letters after all.
#[utoipa::path(post, path = "/dead-letters/replay", operation_id = "replay_dead_letters", request_body = OrderDeadLetters, responses(
    (status = 200, body = Ordered),
    (status = "default", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn replay(
    State(shared): State<Arc<Shared>>,
    Caller(actor): Caller,
    Body(request): Body<OrderDeadLetters>,
) -> Result<Json<Ordered>, Problem> {
    to_its_end(async move { shared.operator.order_dead_letters(&actor, Order::Replay, request).await }).await
}

/// These dead letters are no longer wanted, and stay.
#[utoipa::path(post, path = "/dead-letters/keep", operation_id = "keep_dead_letters", request_body = OrderDeadLetters, responses(
    (status = 200, body = Ordered),
    (status = "default", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn keep(
    State(shared): State<Arc<Shared>>,
    Caller(actor): Caller,
    Body(request): Body<OrderDeadLetters>,
) -> Result<Json<Ordered>, Problem> {
    to_its_end(async move { shared.operator.order_dead_letters(&actor, Order::Keep, request).await }).await
}

/// Removes dead letters for good.
#[utoipa::path(post, path = "/dead-letters/discard", operation_id = "discard_dead_letters", request_body = OrderDeadLetters, responses(
    (status = 200, body = Ordered),
    (status = "default", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn discard(
    State(shared): State<Arc<Shared>>,
    Caller(actor): Caller,
    Body(request): Body<OrderDeadLetters>,
) -> Result<Json<Ordered>, Problem> {
    to_its_end(async move { shared.operator.order_dead_letters(&actor, Order::Discard, request).await }).await
}
