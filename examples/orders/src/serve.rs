//! Serves requests, and shuts down in order.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::Router;
use keylatch::Engine;
use keylatch_admin::{Access, Admin};
use keylatch_serve::{Limits, Signals};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// How long running requests have to end after the signal to stop. Container runtimes kill after ten seconds.
const DRAIN_MAX: Duration = Duration::from_secs(8);

/// Serves until Ctrl-C or SIGTERM; then takes no more connections, and ends when all requests and runs have ended,
/// when [`DRAIN_MAX`] is over, or at a second signal.
pub(crate) async fn until_told(
    mut signals: Signals,
    listener: TcpListener,
    router: Router,
    engine: &Engine,
    admin: &Admin,
) {
    let serve = |stopped: oneshot::Receiver<()>| {
        keylatch_serve::serve(listener, Limits::default(), router, async {
            stopped.await.unwrap_or_default();
            // The live numbers of operators would never end.
            admin.stop();
        })
    };
    keylatch_serve::until_told(&mut signals, DRAIN_MAX, serve, |left| engine.shutdown(left)).await;
}

/// Prints where the server is, what it does, and what to try.
pub(crate) fn greet(listen: SocketAddr, storing: &str, access: &Access) {
    let port = listen.port();
    let host = match listen.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => "localhost".to_owned(),
        ip if ip.is_unspecified() => "127.0.0.1".to_owned(),
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let greeting = format!(
        "\
orders: takes each order exactly once

  listening  http://{listen}
  storing    {storing}
  scope      X-User-Id identifies the owner of a key. It is not verified, and requests without
             it share one scope: fine for a demo, not for a service that others can reach.
  operators  /admin and POST /api/admin/cleanup (ADMIN_TOKEN): {access}
  try        curl -i -X POST http://{host}:{port}/api/orders \\
               -H 'Content-Type: application/json' -H 'Idempotency-Key: my-first-order' \\
               -d '{{\"user_id\":\"user123\",\"cart_id\":\"cart456\",\"items\":[{{\"product_id\":\"prod1\",\"quantity\":2,\"price\":10.00}}]}}'
             and once more: the same answer, with Idempotent-Replayed: true

",
    );
    // If the output is closed, nobody wants it.
    let _ = io::stdout().write_all(greeting.as_bytes());
}
