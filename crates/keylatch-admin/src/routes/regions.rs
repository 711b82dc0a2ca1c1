//! Regions.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::to_its_end;
use crate::input::{Body, Caller};
use crate::ops::{BringRegionBack, LoseRegion, MapView, RegionsChanged};
use crate::problem::{Document, Problem};
use crate::router::Shared;

/// The map of regions, and who is in it.
#[utoipa::path(get, path = "/regions", operation_id = "regions", responses(
    (status = 200, body = MapView),
    (status = "default", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn map(State(shared): State<Arc<Shared>>) -> Result<Json<MapView>, Problem> {
    Ok(Json(shared.operator.regions().await?))
}

/// A region is gone: another one decides about its keys that are made from now on. The answer comes after one lease.
#[utoipa::path(post, path = "/regions/lose", operation_id = "lose_region", request_body = LoseRegion, responses(
    (status = 200, body = RegionsChanged),
    (status = "default", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn lose(
    State(shared): State<Arc<Shared>>,
    Caller(actor): Caller,
    Body(request): Body<LoseRegion>,
) -> Result<Json<RegionsChanged>, Problem> {
    to_its_end(async move { shared.operator.lose_region(&actor, request, |_| {}).await }).await
}

/// A region is back: it decides about its old keys, and about those that are made from now on. The answer comes after one
/// lease.
#[utoipa::path(post, path = "/regions/bring-back", operation_id = "bring_region_back", request_body = BringRegionBack,
    responses(
    (status = 200, body = RegionsChanged),
    (status = "default", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn bring_back(
    State(shared): State<Arc<Shared>>,
    Caller(actor): Caller,
    Body(request): Body<BringRegionBack>,
) -> Result<Json<RegionsChanged>, Problem> {
    to_its_end(async move { shared.operator.bring_region_back(&actor, request, |_| {}).await }).await
}
