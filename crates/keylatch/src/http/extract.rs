//! Extractors for axum handlers: `Key`, `Scope`, `Tx`, `Run`.

use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;

use super::request::identity;
use crate::tx::{Database, TxSlot};
use crate::{Key, Run, Scope, Tx};

/// A handler asked for what its route's layer does not give: a mistake in the service, answered with 500.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotGuarded {
    /// The request has no key: the route has no layer, or one that does not require a key.
    #[error(
        "this handler asks for the idempotency key, but its request has none; add `IdempotencyLayer` with `.require_key()` to the route"
    )]
    Key,
    /// The route's guarantee is not `Atomic`, its database is another, or the transaction was taken before.
    #[error(
        "this handler asks for a `Tx`, but its route has none to give; add `IdempotencyLayer::atomic` with a store of that database, and ask once"
    )]
    Tx,
    /// The route's guarantee is `Atomic`, or it has no layer.
    #[error(
        "this handler asks for a `Run`, but its route has none to give; add `IdempotencyLayer::fenced` or `::at_most_once`"
    )]
    Run,
}

impl IntoResponse for NotGuarded {
    fn into_response(self) -> Response {
        tracing::error!(error = %self, "a handler and its route do not fit");
        (StatusCode::INTERNAL_SERVER_ERROR, "the service is not set up for this request\n").into_response()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Key {
    type Rejection = NotGuarded;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, NotGuarded> {
        identity(&parts.extensions).map(|(_, key)| key.clone()).ok_or(NotGuarded::Key)
    }
}

/// `None` for a request without a key, where the layer does not require one.
impl<S: Send + Sync> OptionalFromRequestParts<S> for Key {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        Ok(identity(&parts.extensions).map(|(_, key)| key.clone()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Scope {
    type Rejection = NotGuarded;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, NotGuarded> {
        identity(&parts.extensions).map(|(scope, _)| scope.clone()).ok_or(NotGuarded::Key)
    }
}

impl<S: Send + Sync, D: Database> FromRequestParts<S> for Tx<D> {
    type Rejection = NotGuarded;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, NotGuarded> {
        parts.extensions.get().and_then(TxSlot::take).ok_or(NotGuarded::Tx)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Run {
    type Rejection = NotGuarded;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, NotGuarded> {
        parts.extensions.get().cloned().ok_or(NotGuarded::Run)
    }
}
