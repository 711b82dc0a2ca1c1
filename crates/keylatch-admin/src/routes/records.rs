//! Records.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};

use super::to_its_end;
use crate::access::Role;
use crate::input::{Asked, Body, Caller};
use crate::ops::{Acted, Change, Find, Get, ListRecords, RecordDetail, RecordPage, Resolve};
use crate::problem::{Document, Problem};
use crate::router::Shared;

/// A page of records.
#[utoipa::path(get, path = "/records", operation_id = "list_records", params(ListRecords), responses(
    (status = 200, body = RecordPage),
    (status = "default", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Asked(request): Asked<ListRecords>,
) -> Result<Json<RecordPage>, Problem> {
    Ok(Json(shared.operator.list(request).await?))
}

/// A page of the runs that nobody works on: their lease has ended. Some of them are for a person to resolve.
#[utoipa::path(get, path = "/records/lapsed", operation_id = "lapsed_records", params(ListRecords), responses(
    (status = 200, body = RecordPage),
    (status = "default", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn lapsed(
    State(shared): State<Arc<Shared>>,
    Asked(request): Asked<ListRecords>,
) -> Result<Json<RecordPage>, Problem> {
    Ok(Json(shared.operator.lapsed(request).await?))
}

/// The record of a scope and key.
#[utoipa::path(post, path = "/records/find", operation_id = "find_record", request_body = Find, responses(
    (status = 200, body = RecordDetail),
    (status = "default", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn find(
    State(shared): State<Arc<Shared>>,
    Body(request): Body<Find>,
) -> Result<Json<RecordDetail>, Problem> {
    Ok(Json(shared.operator.find(&request).await?))
}

/// A record, its time line, and what can be done to it. The content of its answer needs the role `operate`.
#[utoipa::path(get, path = "/records/{id}", operation_id = "get_record", params(("id" = String, Path), Get), responses(
    (status = 200, body = RecordDetail),
    (status = "default", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn get(
    State(shared): State<Arc<Shared>>,
    Caller(actor): Caller,
    Path(id): Path<String>,
    Asked(request): Asked<Get>,
) -> Result<Json<RecordDetail>, Problem> {
    if request.body && actor.role < Role::Operate {
        return Err(Problem::RoleTooWeak);
    }
    Ok(Json(shared.operator.get(&id, request).await?))
}

/// Lets go of the key of a run whose outcome is unknown, so that a retry runs.
#[utoipa::path(post, path = "/records/{id}/release", operation_id = "release_record", params(("id" = String, Path)),
    request_body = Change, responses(
    (status = 200, body = Acted),
    (status = "default", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn release(
    State(shared): State<Arc<Shared>>,
    Caller(actor): Caller,
    Path(id): Path<String>,
    Body(request): Body<Change>,
) -> Result<Json<Acted>, Problem> {
    to_its_end(async move { shared.operator.release(&actor, &id, request).await }).await
}

/// Writes the answer of a run whose outcome is unknown.
#[utoipa::path(post, path = "/records/{id}/resolve", operation_id = "resolve_record", params(("id" = String, Path)),
    request_body = Resolve, responses(
    (status = 200, body = Acted),
    (status = "default", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn resolve(
    State(shared): State<Arc<Shared>>,
    Caller(actor): Caller,
    Path(id): Path<String>,
    Body(request): Body<Resolve>,
) -> Result<Json<Acted>, Problem> {
    to_its_end(async move { shared.operator.resolve(&actor, &id, request).await }).await
}

/// Takes a recorded answer away, and leaves its tombstone: a retry gets 410, and never a second run.
#[utoipa::path(post, path = "/records/{id}/forget", operation_id = "forget_record", params(("id" = String, Path)),
    request_body = Change, responses(
    (status = 200, body = Acted),
    (status = "default", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn forget(
    State(shared): State<Arc<Shared>>,
    Caller(actor): Caller,
    Path(id): Path<String>,
    Body(request): Body<Change>,
) -> Result<Json<Acted>, Problem> {
    to_its_end(async move { shared.operator.forget(&actor, &id, request).await }).await
}
