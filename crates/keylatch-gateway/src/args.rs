//! The command line.

mod parse;
pub(crate) mod telemetry;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use http::Method;
use http::uri::Authority;
use keylatch::http::ANSWER_END_MAX;
use keylatch::{CLEANUP_PAUSE, LEASE, RETENTION, TOMBSTONE};
use keylatch_probe::Probe;
use tokio_rustls::TlsAcceptor;

pub(crate) use self::parse::{Bytes, Guarantee, Scope, Span, UpstreamKey};
pub(crate) use self::telemetry::{LogFormat, Telemetry};
use crate::config::{KeySource, Route};
use crate::operate::Operate;
use crate::store::{RegionStore, StoreUrl};
use crate::tls;
use crate::upstream::Upstream;

/// Makes a repeated request safe: it takes effect once and always gets the same answer.
#[derive(Debug, Parser)]
#[command(name = "keylatch", version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A reverse proxy: every request with an Idempotency-Key takes effect once in the service behind it.
    Gateway(Box<Gateway>),
    /// Check a file of routes. Reports all mistakes, each with its place and the fix.
    CheckConfig {
        /// The file, such as keylatch.toml.
        file: PathBuf,
    },
    Probe(Box<Probe>),
    #[command(flatten)]
    Operate(Box<Operate>),
}

/// The options of the gateway.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:
  keylatch gateway --listen 127.0.0.1:8080 --upstream http://127.0.0.1:9000 --store sqlite:keylatch.db \\
      --scope header:X-User-Id --guarantee at-most-once --require-key

Durations: 500ms, 30s, 10m, 24h. Sizes: 4096, 64KiB, 1MiB.
The environment variable RUST_LOG says what is logged, such as RUST_LOG=debug.")]
pub(crate) struct Gateway {
    /// The address for clients. Port 0 is any free port.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
    /// The service behind the gateway: http://HOST:PORT, https://HOST:PORT (HTTP/2 if the service offers it), or
    /// h2c://HOST:PORT for HTTP/2 without TLS.
    #[arg(long, value_name = "URL")]
    pub(crate) upstream: Upstream,
    /// Where records are kept: memory:, sqlite:FILE, postgres://…, redis://…, rediss://…, redis+cluster://A,B,
    /// redis+sentinel://A,B/SERVICE, cassandra://A,B/KEYSPACE. Put a URL with a password into the environment: every
    /// user of the machine can see a program's arguments.
    #[arg(long, value_name = "URL", env = "KEYLATCH_STORE", hide_env_values = true)]
    pub(crate) store: StoreUrl,
    /// A cache of answers in Redis, in front of the store: redis://… or rediss://….
    #[arg(long, value_name = "URL", env = "KEYLATCH_CACHE", hide_env_values = true)]
    pub(crate) cache: Option<StoreUrl>,
    /// A file of routes, each with its own scope, guarantee and limits. A request that matches no route passes
    /// unguarded. On SIGHUP the file is read again; if it has mistakes, nothing changes. `keylatch check-config FILE`
    /// reports them.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["scope", "guarantee", "require_key", "fail_open", "methods"])]
    pub(crate) config: Option<PathBuf>,
    /// Who calls: header:NAME, a header that something in front of the gateway has verified; or shared:NAME, one scope
    /// for all callers, who can then see each other's answers.
    #[arg(long, value_name = "SCOPE", required_unless_present = "config")]
    pub(crate) scope: Option<Scope>,
    /// What is promised if a process dies half-way: fenced (a retry runs again; for a service that honours the derived
    /// key or the epoch) or at-most-once (never runs twice; the outcome may be unknown).
    #[arg(long, value_name = "GUARANTEE", required_unless_present = "config")]
    pub(crate) guarantee: Option<Guarantee>,
    /// Refuse requests of the guarded methods without a key. Otherwise they pass unguarded.
    #[arg(long)]
    pub(crate) require_key: bool,
    /// While the store is unavailable, pass requests on unguarded instead of refusing them with 503. They may take
    /// effect twice.
    #[arg(long)]
    pub(crate) fail_open: bool,
    /// The guarded methods.
    #[arg(long, value_name = "METHODS", value_delimiter = ',', default_value = "POST,PATCH", value_parser = parse::method)]
    pub(crate) methods: Vec<Method>,
    /// How long a claim is held if it is not renewed.
    #[arg(long, value_name = "TIME", default_value_t = Span(LEASE))]
    pub(crate) lease: Span,
    /// How long answers are kept.
    #[arg(long, value_name = "TIME", default_value_t = Span(RETENTION))]
    pub(crate) retention: Span,
    /// How long a key is still refused after its answer is no longer kept.
    #[arg(long, value_name = "TIME", default_value_t = Span(TOMBSTONE))]
    pub(crate) tombstone: Span,
    /// How often expired records are removed from the store.
    #[arg(long, value_name = "TIME", default_value_t = Span(CLEANUP_PAUSE))]
    pub(crate) cleanup_every: Span,
    /// The largest body of a guarded request, which is held in memory while it is hashed. A larger one gets a 413.
    #[arg(long, value_name = "SIZE", default_value_t = Bytes(1 << 20))]
    pub(crate) request_body_max: Bytes,
    /// The largest answer that is kept. A larger one is delivered, and recorded as not retained.
    #[arg(long, value_name = "SIZE", default_value_t = Bytes(1 << 20))]
    pub(crate) response_body_max: Bytes,
    /// How long to wait for the end of an answer of unknown length. If it takes longer, the answer is recorded as not
    /// retained.
    #[arg(long, value_name = "TIME", default_value_t = Span(ANSWER_END_MAX))]
    pub(crate) response_end_max: Span,
    /// The longest that a duplicate may wait for a running request, as it asks with `Prefer: wait=N`.
    #[arg(long, value_name = "TIME", default_value_t = Span(Duration::from_secs(10)))]
    pub(crate) wait_max: Span,
    /// The address for operators: their API under /api/v1, and /metrics, /healthz and /readyz, which anyone who can reach
    /// the address can read. Without --admin-tokens the API is open on a loopback address, and closed on any other.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) admin_listen: Option<SocketAddr>,
    /// The tokens of operators: a file with ROLE:NAME:TOKEN on each line, where ROLE is view or operate. On SIGHUP it is
    /// read again.
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_tokens: Option<PathBuf>,
    /// A file to which a line of JSON is appended for each action of an operator: who, what, why, and the state before.
    /// While it cannot be written, actions are refused.
    #[arg(long, value_name = "FILE")]
    pub(crate) audit_log: Option<PathBuf>,
    /// The store of a region, for operators who move homes by the API: NAME=URL, once for each other region. In the
    /// environment, they are separated by spaces. Without a majority of the stores the API shows the map and changes nothing.
    #[arg(long = "region-store", value_name = "NAME=URL", env = "KEYLATCH_REGION_STORES", value_delimiter = ' ')]
    #[arg(hide_env_values = true)]
    pub(crate) region_stores: Vec<RegionStore>,
    /// How long running requests have to end after SIGTERM.
    #[arg(long, value_name = "TIME", default_value_t = Span(Duration::from_secs(8)))]
    pub(crate) drain_max: Span,
    /// Write one line of JSON per request to standard output. It never contains a key, a path, a body or a header.
    #[arg(long)]
    pub(crate) access_log: bool,
    /// The certificate for clients and its chain, in PEM. With it, clients connect by TLS.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The private key of the certificate, in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// The authorities of clients' certificates, in PEM: for routes that identify callers by the subjects of their
    /// certificates. A client need not present one.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_client_ca: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) to_upstream: ToUpstream,
    #[command(flatten)]
    pub(crate) to_clients: ToClients,
    #[command(flatten)]
    pub(crate) telemetry: Telemetry,
}

/// What the upstream gets, and its limits.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "The upstream")]
pub(crate) struct ToUpstream {
    /// The Host that the upstream gets, instead of the client's.
    #[arg(long, value_name = "HOST")]
    pub(crate) upstream_host: Option<Authority>,
    /// The authorities of an https upstream's certificate, in PEM, instead of the system's.
    #[arg(long, value_name = "FILE")]
    pub(crate) upstream_ca: Option<PathBuf>,
    /// How long it may take to get a connection to the upstream: to wait for a free one, or to make one, with its TLS
    /// handshake.
    #[arg(long, value_name = "TIME", default_value_t = Span(Duration::from_secs(5)))]
    pub(crate) upstream_connect_max: Span,
    /// How long the upstream may be silent, before and during its answer.
    #[arg(long, value_name = "TIME", default_value_t = Span(Duration::from_secs(60)))]
    pub(crate) upstream_silence_max: Span,
    /// How long an unused connection to the upstream is kept. This must be shorter than the upstream's own limit: if
    /// both sides close a connection at the same moment, a request on it can be lost without a trace, and its outcome
    /// is unknown. The default is below the shortest limit of common servers, two seconds.
    #[arg(long, value_name = "TIME", default_value_t = Span(Duration::from_millis(1500)))]
    pub(crate) upstream_idle_max: Span,
    /// The most requests that the upstream has at once.
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000)]
    pub(crate) upstream_requests_max: usize,
    /// What the upstream gets as Idempotency-Key: withheld (none), received (as the client sent it), or derived (the
    /// same on every attempt of a request, and different for every caller and request). Idempotency-Derived-Key always
    /// has the derived key.
    #[arg(long, value_name = "WHICH", default_value_t = UpstreamKey::Withheld)]
    pub(crate) upstream_key: UpstreamKey,
    /// Trust Forwarded and X-Forwarded-* of clients: for a gateway behind another proxy.
    #[arg(long)]
    pub(crate) trust_forwarded: bool,
}

/// The limits of clients.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "The clients")]
pub(crate) struct ToClients {
    /// How long a client may take to send the head of a request, and how long its connection may be idle.
    #[arg(long, value_name = "TIME", default_value_t = Span(Duration::from_secs(30)))]
    pub(crate) head_time_max: Span,
    /// The largest head of a request. A larger one gets a 431.
    #[arg(long, value_name = "SIZE", default_value_t = Bytes(64 << 10))]
    pub(crate) head_bytes_max: Bytes,
    /// How long a client may pause within a request's body. An unguarded request over HTTP/2 may pause for longer.
    #[arg(long, value_name = "TIME", default_value_t = Span(Duration::from_secs(30)))]
    pub(crate) body_silence_max: Span,
    /// How much memory the bodies of all guarded requests may take together. One for which there is no room gets a 503.
    #[arg(long, value_name = "SIZE", default_value_t = Bytes(256 << 20))]
    pub(crate) held_bytes_max: Bytes,
    /// How long a client may leave an answer unread.
    #[arg(long, value_name = "TIME", default_value_t = Span(Duration::from_secs(30)))]
    pub(crate) unread_max: Span,
    /// The most connections at once. Further ones wait to be accepted.
    #[arg(long, value_name = "NUMBER", default_value_t = 20_000)]
    pub(crate) connections_max: usize,
    /// The most running requests on one HTTP/2 connection.
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    pub(crate) streams_max: u32,
}

impl Gateway {
    /// Checks that the options go together.
    ///
    /// # Errors
    ///
    /// All conflicts, not only the first.
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

    /// The only route of a gateway without a file.
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

    /// The TLS configuration for clients, if there is one. Reads its files anew.
    ///
    /// # Errors
    ///
    /// The file that cannot be used, and why.
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
