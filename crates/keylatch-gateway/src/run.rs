//! Builds the gateway, and runs it until the process is told to stop.

use std::error::Error;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use http::HeaderValue;
use keylatch_admin::router::API;
use keylatch_admin::{Admin, keep_house};
use keylatch_serve::{Signals, serve, until_told};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use crate::access;
use crate::admin::Settings;
use crate::args::Gateway;
use crate::config::Config;
use crate::front::{self, Front};
use crate::layers::{Engines, Layers};
use crate::reload::Reload;
use crate::room::Room;
use crate::routes::Live;
use crate::telemetry::Installed;

/// Runs the gateway until it is told to stop.
///
/// # Errors
///
/// If it cannot start; each error says what to change.
pub(crate) async fn run(args: Gateway, installed: &Installed) -> Result<(), Box<dyn Error>> {
    args.check()?;
    let metrics = installed.metrics.clone();
    let listener = listen("--listen", args.listen).await?;
    let (sender, acceptors) = args.acceptor()?.map(watch::channel).unzip();
    // A mistake in the file is reported before anything is opened.
    let file = args.config.as_ref().map(|file| Config::read(file, args.policy())).transpose()?;
    let settings = Settings::new(&args, &file.map(|file| file.admin).unwrap_or_default())?;
    let admin_listener = match settings.listen {
        Some(address) => Some(listen("--admin-listen", address).await?),
        None => None,
    };
    let engines = Engines::open(&args, admin_listener.is_some()).await?;
    let rules = front::Rules {
        trust_forwarded: args.to_upstream.trust_forwarded,
        host: HeaderValue::from_str(args.upstream.authority.as_str())?,
        access_log: args.access_log,
        traces: installed.traces(),
    };
    let layers = Arc::new(Layers::new(args.clone(), engines.clone(), installed.traces())?);
    let routes = match (&args.config, args.route()) {
        (Some(file), _) => layers.read(file)?.0,
        (None, Some(route)) => layers.alike(&route),
        (None, None) => unreachable!("the command line needs a file, or a scope and a guarantee"),
    };
    let live = Live::new(routes);
    let mut beside = Vec::new();
    if let Some((member, regions, peers)) = layers.member() {
        member.log.belong_to(regions.homes.this()).await?;
        member.refresh().await?;
        if let Some(lease) = regions.lease {
            beside.push(tokio::spawn(member.hold(peers, regions.peers, lease)));
        }
    }
    let regions = layers.member().map(|(_, regions, _)| regions);
    let admin = match &admin_listener {
        Some(listener) => {
            let bound = listener.local_addr()?;
            Some(settings.admin(&engines, regions.as_ref(), metrics.clone(), bound)?)
        }
        None => None,
    };
    // Before the greeting: a script that waits for it may stop the process at once.
    let mut signals = Signals::new()?;
    let has_files = args.config.is_some() || args.tls_cert.is_some() || settings.has_tokens();
    let access = admin.as_ref().map(|admin| admin.access().clone());
    let reload = has_files.then(|| Reload::new(layers, live.clone(), sender, access)).transpose()?;
    let admin_address = admin_listener.as_ref().and_then(|listener| listener.local_addr().ok());
    greet(&args, listener.local_addr()?, admin_address.zip(admin.as_ref()));

    beside.push(tokio::spawn(keep_house(metrics)));
    if let Some(reload) = reload {
        beside.push(tokio::spawn(reload.run()));
    }
    if let (Some(listener), Some(admin)) = (admin_listener, &admin) {
        let serving = serve(listener, keylatch_serve::Limits::default(), admin.router(), std::future::pending());
        beside.push(tokio::spawn(serving));
    }
    let limits = limits(&args);
    let front = Front::new(live, rules, Room::new(args.to_clients.held_bytes_max.0));
    let serving = |stopped: oneshot::Receiver<()>| async move {
        let stop = async {
            stopped.await.unwrap_or_default();
            if let Some(admin) = admin {
                admin.stop();
            }
        };
        match acceptors {
            Some(acceptors) => keylatch_serve::tls::serve(listener, acceptors, limits, front, stop).await,
            None => serve(listener, limits, front, stop).await,
        }
    };
    until_told(&mut signals, args.drain_max.0, serving, |left| engines.shutdown(left)).await;
    beside.iter().for_each(tokio::task::JoinHandle::abort);
    access::written().await;
    Ok(())
}

async fn listen(name: &str, address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address}: {error}; choose another address by {name}"))
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

/// Prints where the gateway listens, and what it does.
fn greet(args: &Gateway, listen: SocketAddr, admin: Option<(SocketAddr, &Admin)>) {
    let scheme = if args.tls_cert.is_some() { "https" } else { "http" };
    let guards = match (&args.config, &args.scope, args.guarantee) {
        (None, Some(scope), Some(guarantee)) => {
            let methods: Vec<_> = args.methods.iter().map(http::Method::as_str).collect();
            let key = if args.require_key { "a key is required" } else { "requests without a key pass unguarded" };
            format!("scope      {scope}\n  guards     {}; {guarantee}; {key}", methods.join(", "))
        }
        (file, ..) => format!("routes     {}", file.as_deref().unwrap_or(Path::new("")).display()),
    };
    let admin = admin.map_or(String::new(), |(address, admin)| {
        format!(
            "  admin      http://{address}/metrics, /healthz, /readyz\n  operators  http://{address}{API}: {}\n",
            admin.access()
        )
    });
    let greeting = format!(
        "\
keylatch gateway: every request with an Idempotency-Key takes effect once

  listening  {scheme}://{listen}
  upstream   {}
  storing    {}
  {guards}
{admin}
",
        args.upstream, args.store,
    );
    // If the output is closed, nobody wants it.
    let _ = io::stdout().write_all(greeting.as_bytes());
}
