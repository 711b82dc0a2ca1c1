//! The routes for monitoring: `GET /metrics` (Prometheus), `GET /healthz` (the process is alive), `GET /readyz` (the
//! store answers, and the process is not shutting down). They need no token: they have nothing of a record.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use keylatch::{Key, RecordId, Scope};
use metrics_exporter_prometheus::PrometheusHandle;

use crate::access::known_host;
use crate::problem::Problem;
use crate::router::Shared;

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .layer(from_fn_with_state(shared.clone(), known_host))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(shared)
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    match &shared.metrics {
        Some(metrics) => {
            ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], metrics.render()).into_response()
        }
        None => Problem::NoRoute.into_response(),
    }
}

async fn ready(State(shared): State<Arc<Shared>>) -> (StatusCode, &'static str) {
    if shared.is_stopping() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
    }
    let nobody = Scope::new("ready").expect("it is a scope");
    let nothing = RecordId::of(&nobody, &Key::new("ready").expect("it is a key"));
    match shared.operator.store().read(nothing).await {
        Ok(_) => (StatusCode::OK, "ready\n"),
        Err(error) => {
            tracing::warn!(%error, "not ready: the store does not answer");
            (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n")
        }
    }
}

/// Drains the recorded samples at intervals, so that they do not pile up. It never ends.
pub async fn keep_house(metrics: PrometheusHandle) {
    const UPKEEP: Duration = Duration::from_secs(5);
    let mut rounds = tokio::time::interval(UPKEEP);
    loop {
        rounds.tick().await;
        metrics.run_upkeep();
    }
}
