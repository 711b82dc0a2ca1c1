//! The console: a page that is a client of the API.

use axum::Router;

/// The routes of the page and its assets. They need no token: they have no content.
pub(crate) fn console() -> Router {
    Router::new()
}
