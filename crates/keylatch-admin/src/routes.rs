//! The handlers, and which role each of them needs.

mod consumers;
mod outbox;
mod records;
mod regions;
mod rest;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt as _};
use utoipa_axum::routes;

use crate::ops::{Error, RESOLVE_BODY_BYTES_MAX};
use crate::problem::Problem;
use crate::router::Shared;

/// The largest body of a request to resolve: a character of the answer can take six bytes as JSON.
const RESOLVE_BYTES_MAX: usize = 6 * RESOLVE_BODY_BYTES_MAX + (256 << 10);

/// The routes for everyone who is let in.
pub(crate) fn view() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new()
        .routes(routes!(records::list))
        .routes(routes!(records::lapsed))
        .routes(routes!(records::find))
        .routes(routes!(records::get))
        .routes(routes!(consumers::places))
        .routes(routes!(consumers::dead_letters))
        .routes(routes!(outbox::list))
        .routes(routes!(regions::map))
        .routes(routes!(rest::stats))
        .routes(routes!(rest::live))
        .routes(routes!(rest::me))
        .routes(routes!(rest::openapi_json))
}

/// The routes for those who may operate.
pub(crate) fn operate() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new()
        .routes(routes!(records::release))
        .routes(routes!(records::resolve).layer(DefaultBodyLimit::max(RESOLVE_BYTES_MAX)))
        .routes(routes!(records::forget))
        .routes(routes!(consumers::reset))
        .routes(routes!(consumers::replay))
        .routes(routes!(consumers::keep))
        .routes(routes!(consumers::discard))
        .routes(routes!(outbox::retry))
        .routes(routes!(outbox::discard))
        .routes(routes!(regions::lose))
        .routes(routes!(regions::bring_back))
        .routes(routes!(rest::sweep))
}

/// Does `action` to its end, even if its client leaves: what was done is then on record as a whole.
async fn to_its_end<T: Send + 'static>(
    action: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<axum::Json<T>, Problem> {
    match tokio::spawn(action).await {
        Ok(done) => Ok(axum::Json(done?)),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
