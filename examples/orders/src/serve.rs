//! From the first request to the last.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::Router;
use keylatch::Engine;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::admin::Admin;
use crate::connections;

/// How long requests under way have to end after the signal to stop. Container runtimes kill after ten seconds.
const DRAIN_MAX: Duration = Duration::from_secs(8);
/// How much of that is kept for runs whose clients have gone.
const RUNS_MIN: Duration = Duration::from_secs(2);

/// Serves until Ctrl-C or SIGTERM; then takes no more connections, and ends when all requests and runs have ended,
/// when [`DRAIN_MAX`] is over, or at a second signal.
pub(crate) async fn until_told(mut signals: Signals, listener: TcpListener, router: Router, engine: &Engine) {
    let (stop, stopped) = oneshot::channel::<()>();
    let stopping = async { stopped.await.unwrap_or_default() };
    let serving = connections::serve(listener, router, stopping);
    tokio::pin!(serving);

    tokio::select! {
        () = &mut serving => unreachable!("it ends after it was told to"),
        () = signals.next() => {}
    }
    tracing::info!("stopping: running requests have {} seconds to end", DRAIN_MAX.as_secs());
    let deadline = Instant::now() + DRAIN_MAX;
    let _ = stop.send(());
    let drained = async {
        if timeout_at(deadline - RUNS_MIN, serving).await.is_err() {
            tracing::warn!("some connections did not end in time and are closed");
        }
        engine.shutdown(deadline.saturating_duration_since(Instant::now())).await
    };
    tokio::select! {
        0 = drained => tracing::info!("stopped; all requests have ended"),
        () = signals.next() => tracing::warn!("stopped at once; a request without an answer can be sent again"),
        else => tracing::warn!("stopped; a request without an answer can be sent again"),
    }
}

/// The signals that ask a process to stop. They count from when this is made; before, they end it.
pub(crate) struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Says where the server is, what it does, and what to try.
pub(crate) fn greet(listen: SocketAddr, storing: &str, admin: &Admin) {
    let port = listen.port();
    let host = match listen.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => "localhost".to_owned(),
        ip if ip.is_unspecified() => "127.0.0.1".to_owned(),
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let cleanup = match admin {
        Admin::Open => "open, because only this machine can reach it",
        Admin::Token(_) => "protected by ADMIN_TOKEN",
        Admin::Closed => "closed: set ADMIN_TOKEN to open it",
    };
    let greeting = format!(
        "\
orders: takes each order exactly once

  listening  http://{listen}
  storing    {storing}
  scope      X-User-Id identifies the owner of a key. It is not verified, and requests without
             it share one scope: fine for a demo, not for a service that others can reach.
  cleanup    POST /api/admin/cleanup is {cleanup}
  try        curl -i -X POST http://{host}:{port}/api/orders \\
               -H 'Content-Type: application/json' -H 'Idempotency-Key: my-first-order' \\
               -d '{{\"user_id\":\"user123\",\"cart_id\":\"cart456\",\"items\":[{{\"product_id\":\"prod1\",\"quantity\":2,\"price\":10.00}}]}}'
             and once more: the same answer, with Idempotent-Replayed: true

",
    );
    // Whoever closed the output does not want it.
    let _ = io::stdout().write_all(greeting.as_bytes());
}
