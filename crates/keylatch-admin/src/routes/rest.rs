//! Cleaning up, numbers, and the API itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use http::HeaderMap;
use utoipa::openapi::OpenApi;

use super::to_its_end;
use crate::audit::Actor;
use crate::input::{Asked, Body, Caller};
use crate::live::{self, Snapshot};
use crate::ops::{Stats, StatsOf, SweepAnswer, SweepRequest};
use crate::problem::{Document, Problem};
use crate::router::{Shared, openapi};

/// Removes expired records, for ten seconds at most.
#[utoipa::path(post, path = "/sweep", operation_id = "sweep", request_body = SweepRequest, responses(
    (status = 200, body = SweepAnswer),
    (status = "default", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn sweep(
    State(shared): State<Arc<Shared>>,
    Caller(actor): Caller,
    Body(request): Body<SweepRequest>,
) -> Result<Json<SweepAnswer>, Problem> {
    to_its_end(async move { shared.operator.sweep(&actor, request, |_| {}).await }).await
}

/// How much there is.
#[utoipa::path(get, path = "/stats", operation_id = "stats", params(StatsOf), responses(
    (status = 200, body = Stats),
    (status = "default", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn stats(
    State(shared): State<Arc<Shared>>,
    Asked(request): Asked<StatsOf>,
) -> Result<Json<Stats>, Problem> {
    Ok(Json(shared.operator.stats(request).await?))
}

/// A snapshot each second, as server-sent events of the type `snapshot`. The token is a header, so read the stream with
/// `fetch`.
#[utoipa::path(get, path = "/live", operation_id = "live", responses(
    (status = 200, body = Snapshot, content_type = "text/event-stream"),
    (status = "default", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn live(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Result<impl IntoResponse, Problem> {
    live::stream(shared, &headers)
}

/// Who the caller is.
#[utoipa::path(get, path = "/me", operation_id = "me", responses(
    (status = 200, body = Actor),
    (status = "default", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn me(Caller(actor): Caller) -> Json<Actor> {
    Json(actor)
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", operation_id = "openapi", responses(
    (status = 200, body = serde_json::Value),
    (status = "default", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn openapi_json() -> Json<OpenApi> {
    Json(openapi())
}
