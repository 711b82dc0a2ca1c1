//! The routes for operators and monitoring: `GET /metrics` (Prometheus), `GET /healthz` (the process is alive), `GET
//! /readyz` (the store answers, and the process is not shutting down).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use keylatch::store::Store;
use keylatch::{Key, RecordId, Scope};
use metrics_exporter_prometheus::PrometheusHandle;

/// What the answers are made from.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) metrics: PrometheusHandle,
    pub(crate) stopping: AtomicBool,
}

pub(crate) fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(admin)
}

async fn metrics(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], admin.metrics.render())
}

async fn ready(State(admin): State<Arc<Admin>>) -> (StatusCode, &'static str) {
    if admin.stopping.load(Ordering::Acquire) {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
    }
    let nobody = Scope::new("ready").expect("it is a scope");
    let nothing = RecordId::of(&nobody, &Key::new("ready").expect("it is a key"));
    match admin.store.read(nothing).await {
        Ok(_) => (StatusCode::OK, "ready\n"),
        Err(error) => {
            tracing::warn!(%error, "not ready: the store does not answer");
            (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n")
        }
    }
}

/// Drains the recorded samples at intervals, so that they do not pile up.
pub(crate) async fn keep_house(metrics: PrometheusHandle) {
    const UPKEEP: Duration = Duration::from_secs(5);
    let mut rounds = tokio::time::interval(UPKEEP);
    loop {
        rounds.tick().await;
        metrics.run_upkeep();
    }
}
