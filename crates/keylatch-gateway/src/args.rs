//! The command line.

mod parse;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use http::Method;
use http::uri::Authority;
use keylatch::http::ANSWER_END_MAX;
use keylatch::{CLEANUP_PAUSE, LEASE, RETENTION, TOMBSTONE};
use tokio_rustls::TlsAcceptor;

pub(crate) use self::parse::{Bytes, Guarantee, Scope, Span, UpstreamKey};
use crate::config::{KeySource, Route};
use crate::store::StoreUrl;
use crate::tls;
use crate::upstream::Upstream;

/// Makes a repeated request safe: it takes effect once and always gets the same answer.
#[derive(Debug, Parser)]
#[command(name = "keylatch", version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What the program is to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A reverse proxy that makes every request with an Idempotency-Key to the service behind it take effect once.
    Gateway(Box<Gateway>),
    /// Look for mistakes in a file of routes: all of them, each with its place and the fix.
    CheckConfig {
        /// The file, such as keylatch.toml.
        file: PathBuf,
    },
}

/// How the gateway is set up.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:
  keylatch gateway --listen 127.0.0.1:8080 --upstream http://127.0.0.1:9000 --store sqlite:keylatch.db \\
      --scope header:X-User-Id --guarantee at-most-once --require-key

Durations: 500ms, 30s, 10m, 24h. Sizes: 4096, 64KiB, 1MiB.
The environment variable RUST_LOG says what is logged, such as RUST_LOG=debug.")]
pub(crate) struct Gateway {
    /// Where clients connect. Port 0 is any free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
    /// The service behind the gateway: http://HOST:PORT, https://HOST:PORT (HTTP/2 if it offers that), or h2c://HOST:PORT for
    /// HTTP/2 without TLS.
    #[arg(long, value_name = "URL")]
    pub(crate) upstream: Upstream,
    /// Where records are kept: memory:, sqlite:FILE, postgres://…, redis://…, rediss://…, redis+cluster://A,B,
    /// redis+sentinel://A,B/SERVICE. With a password, better in the environment than among the arguments, which every
    /// user of the machine can see.
    #[arg(long, value_name = "URL", env = "KEYLATCH_STORE", hide_env_values = true)]
    pub(crate) store: StoreUrl,
    /// A cache of answers in Redis, in front of the store: redis://… or rediss://….
    #[arg(long, value_name = "URL", env = "KEYLATCH_CACHE", hide_env_values = true)]
    pub(crate) cache: Option<StoreUrl>,
    /// A file of routes, each with its own scope, guarantee and limits. A request that no route takes passes unguarded. On
    /// SIGHUP the file is read again; one with mistakes changes nothing. `keylatch check-config FILE` finds them.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["scope", "guarantee", "require_key", "fail_open", "methods"])]
    pub(crate) config: Option<PathBuf>,
    /// Who calls: header:NAME, a header that something in front of the gateway has verified; or shared:NAME, one scope for
    /// all, where every caller may see every other's answers.
    #[arg(long, value_name = "SCOPE", required_unless_present = "config")]
    pub(crate) scope: Option<Scope>,
    /// What is promised when a process dies half-way: fenced (a retry runs again: for a service that honours the derived
    /// key or the epoch) or at-most-once (never runs twice; the outcome may be unknown).
    #[arg(long, value_name = "GUARANTEE", required_unless_present = "config")]
    pub(crate) guarantee: Option<Guarantee>,
    /// Refuse requests of the guarded methods without a key. Otherwise they pass unguarded.
    #[arg(long)]
    pub(crate) require_key: bool,
    /// Pass requests on unguarded while the store is unavailable, instead of refusing them with 503. They may take effect
    /// twice.
    #[arg(long)]
    pub(crate) fail_open: bool,
    /// The guarded methods.
    #[arg(long, value_name = "METHODS", value_delimiter = ',', default_value = "POST,PATCH", value_parser = parse::method)]
    pub(crate) methods: Vec<Method>,
    /// How long a claim holds without a sign of life.
    #[arg(long, value_name = "TIME", default_value_t = Span(LEASE))]
    pub(crate) lease: Span,
    /// How long answers are kept.
    #[arg(long, value_name = "TIME", default_value_t = Span(RETENTION))]
    pub(crate) retention: Span,
    /// How long a key without its answer still refuses to run again after that.
    #[arg(long, value_name = "TIME", default_value_t = Span(TOMBSTONE))]
    pub(crate) tombstone: Span,
    /// How often expired records are removed from the store.
    #[arg(long, value_name = "TIME", default_value_t = Span(CLEANUP_PAUSE))]
    pub(crate) cleanup_every: Span,
    /// The largest body of a guarded request; a larger one gets a 413. It is held in memory while it is hashed.
    #[arg(long, value_name = "SIZE", default_value_t = Bytes(1 << 20))]
    pub(crate) request_body_max: Bytes,
    /// The largest answer that is kept. A larger one is delivered, and recorded as not retained.
    #[arg(long, value_name = "SIZE", default_value_t = Bytes(1 << 20))]
    pub(crate) response_body_max: Bytes,
    /// How long the end of an answer of unknown length is waited for. A later one is recorded as not retained.
    #[arg(long, value_name = "TIME", default_value_t = Span(ANSWER_END_MAX))]
    pub(crate) response_end_max: Span,
    /// The longest that a duplicate may wait for the answer of a running request, by `Prefer: wait=N`.
    #[arg(long, value_name = "TIME", default_value_t = Span(Duration::from_secs(10)))]
    pub(crate) wait_max: Span,
    /// The address of /metrics, /healthz and /readyz. Anyone who can reach it can read them.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) admin_listen: Option<SocketAddr>,
    /// How long requests under way have to end after SIGTERM.
    #[arg(long, value_name = "TIME", default_value_t = Span(Duration::from_secs(8)))]
    pub(crate) drain_max: Span,
    /// Write a line of JSON for each request to the standard output: never a key, a path, a body or a header.
    #[arg(long)]
    pub(crate) access_log: bool,
    /// The certificate for clients, in PEM, with those that lead to its authority. With it, clients connect by TLS.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its private key, in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Authorities whose certificates clients may show, in PEM: for routes of a file whose callers are the subjects of
    /// certificates. A client need not show one.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_client_ca: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) to_upstream: ToUpstream,
    #[command(flatten)]
    pub(crate) to_clients: ToClients,
}

/// What goes to the upstream, and how long it has.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "The upstream")]
pub(crate) struct ToUpstream {
    /// The Host that the upstream gets, in place of the client's.
    #[arg(long, value_name = "HOST")]
    pub(crate) upstream_host: Option<Authority>,
    /// The authorities that an https upstream is believed by, in PEM, in place of the system's.
    #[arg(long, value_name = "FILE")]
    pub(crate) upstream_ca: Option<PathBuf>,
    /// How long a connection to the upstream may take, its TLS handshake or a free place among them included.
    #[arg(long, value_name = "TIME", default_value_t = Span(Duration::from_secs(5)))]
    pub(crate) upstream_connect_max: Span,
    /// How long the upstream may be silent: before its answer begins, and within it.
    #[arg(long, value_name = "TIME", default_value_t = Span(Duration::from_secs(60)))]
    pub(crate) upstream_silence_max: Span,
    /// How long a connection to the upstream is kept without a request. It must be shorter than the upstream's own time for
    /// this: where both end at once, a request can be lost without a trace, and its outcome is unknown. The default is under
    /// the shortest of common servers, two seconds.
    #[arg(long, value_name = "TIME", default_value_t = Span(Duration::from_millis(1500)))]
    pub(crate) upstream_idle_max: Span,
    /// How many requests may be with the upstream at once.
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000)]
    pub(crate) upstream_requests_max: usize,
    /// What becomes of Idempotency-Key on its way to the upstream: withheld, received (as the client sent it), or derived:
    /// the same on every attempt of one request, and different for every caller and request. Idempotency-Derived-Key has
    /// the derived one in any case.
    #[arg(long, value_name = "WHICH", default_value_t = UpstreamKey::Withheld)]
    pub(crate) upstream_key: UpstreamKey,
    /// Believe what a client says in Forwarded and X-Forwarded-*: for a gateway behind another proxy.
    #[arg(long)]
    pub(crate) trust_forwarded: bool,
}

/// What clients may take.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "The clients")]
pub(crate) struct ToClients {
    /// How long a client may take for the head of a request, and how long its connection may be idle.
    #[arg(long, value_name = "TIME", default_value_t = Span(Duration::from_secs(30)))]
    pub(crate) head_time_max: Span,
    /// How large the head of a request may be; a larger one gets a 431.
    #[arg(long, value_name = "SIZE", default_value_t = Bytes(64 << 10))]
    pub(crate) head_bytes_max: Bytes,
    /// How long nothing may come of a request's body. Requests over HTTP/2 that are not guarded may be silent for longer.
    #[arg(long, value_name = "TIME", default_value_t = Span(Duration::from_secs(30)))]
    pub(crate) body_silence_max: Span,
    /// How much memory the bodies of all guarded requests may take together. One for which there is no room gets a 503.
    #[arg(long, value_name = "SIZE", default_value_t = Bytes(256 << 20))]
    pub(crate) held_bytes_max: Bytes,
    /// How long a client may leave an answer unread.
    #[arg(long, value_name = "TIME", default_value_t = Span(Duration::from_secs(30)))]
    pub(crate) unread_max: Span,
    /// How many connections there may be at once. The next wait to be taken.
    #[arg(long, value_name = "NUMBER", default_value_t = 20_000)]
    pub(crate) connections_max: usize,
    /// How many requests may be under way on one connection of HTTP/2.
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    pub(crate) streams_max: u32,
}

impl Gateway {
    /// Everything that does not go together.
    ///
    /// # Errors
    ///
    /// With all of it, not only the first.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut wrong = Vec::new();
        if let Err(error) = self.policy().check() {
            wrong.push(format!("--lease, --retention and --tombstone cannot be kept: {error}"));
        }
        if let Some(method) = self.methods.iter().find(|method| method.is_safe()) {
            wrong.push(format!("--methods has {method}, which has no effect to guard; leave it out, and it passes"));
        }
        if let Some(cache) = &self.cache
            && let Err(why) = cache.check_cache(&self.store)
        {
            wrong.push(why);
        }
        for (name, time) in [
            ("--upstream-connect-max", self.to_upstream.upstream_connect_max),
            ("--upstream-silence-max", self.to_upstream.upstream_silence_max),
            ("--head-time-max", self.to_clients.head_time_max),
            ("--body-silence-max", self.to_clients.body_silence_max),
            ("--unread-max", self.to_clients.unread_max),
        ] {
            if time.0.is_zero() {
                wrong.push(format!("{name} is zero, so that no request could succeed; give it some time"));
            }
        }
        if self.to_clients.held_bytes_max.0 < self.request_body_max.0 {
            wrong.push(
                "--held-bytes-max is less than --request-body-max: give room for one body at the least".to_owned(),
            );
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }

    /// The one route of a command line without a file.
    pub(crate) fn route(&self) -> Option<Route> {
        Some(Route {
            name: "all".to_owned(),
            methods: self.methods.clone(),
            path: "/{*path}".to_owned(),
            key: KeySource::Standard,
            require_key: self.require_key,
            scope: self.scope.as_ref()?.caller(),
            guarantee: self.guarantee?,
            policy: self.policy(),
            request_body_max: None,
            response_body_max: None,
            wait: None,
            open: self.fail_open,
            canonical_json: false,
            observe_only: false,
        })
    }

    /// TLS for clients, if there is to be any; its files are read anew.
    ///
    /// # Errors
    ///
    /// With the file that cannot be used, and why.
    pub(crate) fn acceptor(&self) -> Result<Option<TlsAcceptor>, String> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => {
                tls::for_clients(certificate, key, self.tls_client_ca.as_deref()).map(Some)
            }
            _ => Ok(None),
        }
    }

    pub(crate) fn policy(&self) -> keylatch::Policy {
        keylatch::Policy { lease: self.lease.0, retention: self.retention.0, tombstone: self.tombstone.0 }
    }
}
