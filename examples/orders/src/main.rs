//! An orders API that takes each order exactly once, even if its client or the API itself fails. The path of an order:
//! [`routes`] → Keylatch's layer → `routes::create` → [`order`] → [`store`].

mod config;
mod inventory;
mod money;
mod order;
mod problem;
mod routes;
mod serve;
mod setup;
mod store;
mod telemetry;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::http::request::Parts;
use keylatch::http::{IdempotencyLayer, ScopeFrom};
use keylatch::recent::{RECENT_RECORDS, Recent};
use keylatch_admin::{Access, Admin, Operator, Role, Tokens, keep_house};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

use crate::config::{Config, Storage};
use crate::routes::App;
use crate::setup::Setup;
use crate::store::Orders;
use crate::telemetry::Telemetry;

#[tokio::main]
async fn main() -> ExitCode {
    let telemetry = match Telemetry::install() {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let code = match run(telemetry.metrics.clone()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    };
    telemetry.end().await;
    code
}

async fn run(metrics: PrometheusHandle) -> Result<(), Box<dyn Error>> {
    let config = Config::from_env()?;
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}; choose another HOST or PORT", config.listen))?;
    let token = config.admin_token.as_ref().map(|token| Tokens::one(Role::Operate, "admin", token.reveal()));
    let access = Access::new(token, listener.local_addr()?.ip());
    let file = config.data_dir.join("keylatch.db");
    #[cfg(feature = "kafka")]
    let events = config.kafka_brokers;
    #[cfg(not(feature = "kafka"))]
    let events = None;
    match &config.storage {
        Storage::Sqlite => serve(listener, setup::sqlite(&file, &events).await?, access, metrics).await,
        #[cfg(feature = "redis")]
        Storage::Redis(url) => {
            serve(listener, setup::redis_and_sqlite(url, &file, &events).await?, access, metrics).await
        }
        #[cfg(feature = "cassandra")]
        Storage::Cassandra(url) => {
            serve(listener, setup::cassandra_and_sqlite(url, &file, &events).await?, access, metrics).await
        }
        #[cfg(all(feature = "cassandra", feature = "postgres"))]
        Storage::CassandraAndPostgres(records, server) => {
            serve(listener, setup::cassandra_and_postgres(records, server, &events).await?, access, metrics).await
        }
        #[cfg(feature = "postgres")]
        Storage::Postgres(server) => serve(listener, setup::postgres(server, &events).await?, access, metrics).await,
        #[cfg(all(feature = "postgres", feature = "redis"))]
        Storage::Tiered(server, cache) => {
            serve(listener, setup::tiered(server, cache, &events).await?, access, metrics).await
        }
    }
}

async fn serve<D: Orders>(
    listener: TcpListener,
    setup: Setup<D>,
    access: Access,
    metrics: PrometheusHandle,
) -> Result<(), Box<dyn Error>> {
    /// How long the relay has to settle what it has handed out, after the requests have ended.
    const RELAY_END_MAX: Duration = Duration::from_secs(1);
    let Setup { reader, engine, create, flow, outbox, places, storing } = setup;
    let recent = Recent::new(RECENT_RECORDS);
    let engine = engine.with_recent(recent.clone());
    let operator = Operator::of(&engine).with_outbox(outbox).with_places(places).with_recent(recent);
    let admin = Admin::with_metrics(operator, access, metrics.clone());
    let layer = IdempotencyLayer::new(engine.clone(), ScopeFrom::with(caller)).require_key();
    // A reader of the greeting may stop the process at once.
    let signals = keylatch_serve::Signals::new()?;
    serve::greet(listener.local_addr()?, &storing, admin.access());

    let housekeeping = tokio::spawn(keep_house(metrics.clone()));
    let app = Arc::new(App { reader, engine: engine.clone(), admin: admin.clone(), metrics });
    let router = routes::router(app, create.layer(layer));
    let flow = flow.start();
    serve::until_told(signals, listener, router, &engine, &admin).await;
    flow.stop(RELAY_END_MAX).await;
    housekeeping.abort();
    Ok(())
}

/// The caller: `X-User-Id` if it is given, otherwise one shared caller.
///
/// The names of the two kinds cannot collide. A request with an unreadable header, or with two, is refused, and not put
/// into the shared scope. A real service takes the caller from verified credentials.
fn caller(parts: &Parts) -> Option<String> {
    let mut users = parts.headers.get_all("x-user-id").iter();
    match (users.next(), users.next()) {
        (None, _) => Some("demo".to_owned()),
        (Some(user), None) => user.to_str().ok().filter(|user| !user.is_empty()).map(|user| format!("user:{user}")),
        (Some(_), Some(_)) => None,
    }
}
