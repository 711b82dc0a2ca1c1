//! Puts the gateway together, and runs it from the first request to the last.

use std::error::Error;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::HeaderValue;
use keylatch::http::IdempotencyLayer;
use keylatch::{Engine, Limits};
use keylatch_serve::{Drained, Signals, serve, until_told};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tower_layer::Layer;

use crate::admin::{self, Admin};
use crate::ahead::Ahead;
use crate::args::{Gateway, Scope};
use crate::front::{self, Front};
use crate::headers::Reserved;
use crate::pool::{Connector, Pool, Times};
use crate::proxy::{self, Proxy};
use crate::store::Choices;
use crate::tls;
use crate::upstream::Protocol;

/// Runs the gateway until it is told to stop.
///
/// # Errors
///
/// If it cannot start; each error says what to change.
pub(crate) async fn run(args: Gateway) -> Result<(), Box<dyn Error>> {
    args.check()?;
    // Before the engine is built, which makes its counters once.
    let metrics = admin::install_metrics()?;
    let listener = listen("--listen", args.listen).await?;
    let admin_listener = match args.admin_listen {
        Some(address) => Some(listen("--admin-listen", address).await?),
        None => None,
    };
    let acceptor = match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => Some(tls::for_clients(certificate, key)?),
        _ => None,
    };
    let engine = engine(&args).await?;
    let front = front(&args, engine.clone())?;
    let admin = Arc::new(Admin { engine: engine.clone(), metrics: metrics.clone(), stopping: AtomicBool::new(false) });
    // Whoever reads the greeting may ask the process to stop at once.
    let mut signals = Signals::new()?;
    greet(&args, listener.local_addr()?, admin_listener.as_ref().and_then(|listener| listener.local_addr().ok()));

    let mut beside = vec![tokio::spawn(admin::keep_house(metrics))];
    if let Some(listener) = admin_listener {
        let serving =
            serve(listener, keylatch_serve::Limits::default(), admin::router(admin.clone()), std::future::pending());
        beside.push(tokio::spawn(serving));
    }
    let limits = limits(&args);
    let serving = |stopped: oneshot::Receiver<()>| async move {
        let stop = async {
            stopped.await.unwrap_or_default();
            admin.stopping.store(true, Ordering::Release);
        };
        match acceptor {
            Some(acceptor) => keylatch_serve::tls::serve(listener, acceptor, limits, front, stop).await,
            None => serve(listener, limits, front, stop).await,
        }
    };
    let (Drained::Whole | Drained::Cut) =
        until_told(&mut signals, args.drain_max.0, serving, |left| engine.shutdown(left)).await;
    beside.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(())
}

async fn listen(name: &str, address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address}: {error}; choose another address by {name}"))
}

async fn engine(args: &Gateway) -> Result<Engine, Box<dyn Error>> {
    let choices = Choices {
        guarantee: args.guarantee,
        policy: args.policy(),
        limits: Limits { wait_max: args.wait_max.0, ..Limits::default() },
    };
    let opened = args.store.engine(args.cache.as_ref(), choices).await;
    opened.map_err(|error| format!("the store cannot be used ({}): {error}", args.store).into())
}

/// The layer around the proxy, and what is done to a request before.
fn front(args: &Gateway, engine: Engine) -> Result<Front, Box<dyn Error>> {
    let to = &args.to_upstream;
    let times = Times {
        connect_max: to.upstream_connect_max.0,
        silence_max: to.upstream_silence_max.0,
        idle_max: to.upstream_idle_max.0,
    };
    let tls = match args.upstream.protocol {
        Protocol::Tls => Some(tls::to_upstream(to.upstream_ca.as_deref())?),
        Protocol::Http1 | Protocol::Http2 => None,
    };
    let pool = Pool::new(Connector::new(args.upstream.clone(), tls)?, times, to.upstream_requests_max);
    let header = |text: &str| HeaderValue::from_str(text);
    let rules = proxy::Rules {
        guarantee: engine.guarantee(),
        host: to.upstream_host.as_ref().map(|host| header(host.as_str())).transpose()?,
        ahead: Ahead { bytes_max: args.response_body_max.0, end_max: args.response_end_max.0 },
        answer_silence_max: to.upstream_silence_max.0,
        body_silence_max: args.to_clients.body_silence_max.0,
    };
    let mut layer = IdempotencyLayer::new(engine, args.scope.from())
        .with_methods(args.methods.clone())
        .with_body_bytes_max(args.request_body_max.0)
        .with_body_pace(args.to_clients.body_silence_max.0, keylatch::http::BODY_BYTES_PER_SECOND_MIN)
        .with_answer_bytes_max(args.response_body_max.0)
        .trust_disposition_header()
        .with_upstream_headers(to.upstream_key.into())
        // The proxy has waited already.
        .with_answer_end_max(Duration::ZERO);
    if args.require_key {
        layer = layer.require_key();
    }
    if args.fail_open {
        layer = layer.fail_open();
    }
    let scope = match &args.scope {
        Scope::Header(name) => Some(name.clone()),
        Scope::Shared(_) => None,
    };
    let front = front::Rules {
        reserved: Reserved::new(scope),
        trust_forwarded: to.trust_forwarded,
        host: header(args.upstream.authority.as_str())?,
        access_log: args.access_log,
    };
    Ok(Front::new(layer.layer(Proxy::new(pool, rules)), front))
}

fn limits(args: &Gateway) -> keylatch_serve::Limits {
    let clients = &args.to_clients;
    keylatch_serve::Limits {
        head_max: clients.head_time_max.0,
        head_bytes_max: clients.head_bytes_max.0,
        unread_max: clients.unread_max.0,
        connections_max: clients.connections_max,
        streams_max: clients.streams_max,
    }
}

/// Says where the gateway is, and what it does.
fn greet(args: &Gateway, listen: SocketAddr, admin: Option<SocketAddr>) {
    let scheme = if args.tls_cert.is_some() { "https" } else { "http" };
    let methods: Vec<_> = args.methods.iter().map(http::Method::as_str).collect();
    let key = if args.require_key { "a key is required" } else { "requests without a key pass unguarded" };
    let admin =
        admin.map_or(String::new(), |admin| format!("  admin      http://{admin}/metrics, /healthz, /readyz\n"));
    let greeting = format!(
        "\
keylatch gateway: every request with an Idempotency-Key takes effect once

  listening  {scheme}://{listen}
  upstream   {}
  storing    {}
  scope      {}
  guards     {}; {}; {key}
{admin}
",
        args.upstream,
        args.store,
        args.scope,
        methods.join(", "),
        args.guarantee,
    );
    // Whoever closed the output does not want it.
    let _ = io::stdout().write_all(greeting.as_bytes());
}
