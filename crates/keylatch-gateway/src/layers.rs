//! Builds the layers around the proxy from the command line and the file.

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use keylatch::http::{AtHome, BODY_BYTES_PER_SECOND_MIN, IdempotencyLayer, Regions, Route as Pattern};
use keylatch::recent::{RECENT_RECORDS, Recent};
use keylatch::{Cleanup, Engine, Limits};
use keylatch_admin::regions::Log;
use tower_layer::Layer;

use crate::access::Series;
use crate::ahead::Ahead;
use crate::args::{Gateway, Guarantee};
use crate::config::{self, Caller, Config, KeySource, Route};
use crate::headers::Reserved;
use crate::pool::{Connector, Pool, Times};
use crate::proxy::{Proxy, Rules};
use crate::regions::Peers;
use crate::regions::beat::Member;
use crate::routes::{Guarded, Routes, Service, scope_from};
use crate::store::Opened;
use crate::tls;
use crate::upstream::Protocol;

/// The engines, one for each guarantee, on one store.
#[derive(Debug, Clone)]
pub(crate) struct Engines {
    pub(crate) fenced: Engine,
    at_most_once: Engine,
    /// The store, and what else its database has.
    pub(crate) opened: Opened,
}

impl Engines {
    /// Opens the store that the command line names. For operators, both engines remember what they saw of their latest
    /// records.
    ///
    /// # Errors
    ///
    /// If the store cannot be opened.
    pub(crate) async fn open(args: &Gateway, for_operators: bool) -> Result<Self, Box<dyn Error>> {
        let opened = args.store.open(args.cache.as_ref()).await;
        let opened = opened.map_err(|error| format!("the store cannot be used ({}): {error}", args.store))?;
        let (policy, limits) = (args.policy(), Limits { wait_max: args.wait_max.0, ..Limits::default() });
        // Both clean the store: an engine begins to clean with its first run, and either may have none.
        let cleanup = Cleanup::every(args.cleanup_every.0);
        let mut engines = Self {
            fenced: Engine::fenced(opened.store.clone(), policy, limits)?.with_cleanup(cleanup),
            at_most_once: Engine::at_most_once(opened.store.clone(), policy, limits)?.with_cleanup(cleanup),
            opened,
        };
        if for_operators {
            let recent = Recent::new(RECENT_RECORDS);
            engines.fenced = engines.fenced.with_recent(recent.clone());
            engines.at_most_once = engines.at_most_once.with_recent(recent);
        }
        Ok(engines)
    }

    pub(crate) fn of(&self, guarantee: Guarantee) -> &Engine {
        match guarantee {
            Guarantee::Fenced => &self.fenced,
            Guarantee::AtMostOnce => &self.at_most_once,
        }
    }

    /// Starts nothing new, and waits for running requests. Returns how many were not finished in time.
    pub(crate) async fn shutdown(&self, deadline: Duration) -> usize {
        let (fenced, at_most_once) = tokio::join!(self.fenced.shutdown(deadline), self.at_most_once.shutdown(deadline));
        fenced + at_most_once
    }
}

/// The name, in logs and metrics, of requests that match no route.
const OTHERS: &str = "none";

/// What all layers share.
pub(crate) struct Layers {
    pub(crate) args: Gateway,
    engines: Engines,
    pool: Pool,
    host: Option<HeaderValue>,
    /// Whether spans are exported.
    traces: bool,
    /// The regions, once the file has been read: as they are in it, and the way to them.
    joined: OnceLock<(Option<config::Regions>, Option<Joined>)>,
}

type Joined = Result<(Regions, Peers), String>;

impl Layers {
    /// Builds it from the command line.
    ///
    /// # Errors
    ///
    /// If an option of the upstream cannot be used.
    pub(crate) fn new(args: Gateway, engines: Engines, traces: bool) -> Result<Self, Box<dyn Error>> {
        let to = &args.to_upstream;
        let times = Times {
            connect_max: to.upstream_connect_max.0,
            silence_max: to.upstream_silence_max.0,
            idle_max: to.upstream_idle_max.0,
        };
        let tls = match args.upstream.protocol {
            Protocol::Tls => Some(tls::to_upstream("--upstream-ca", to.upstream_ca.as_deref())?),
            Protocol::Http1 | Protocol::Http2 => None,
        };
        let connector = Connector::new(args.upstream.clone(), tls);
        let connector = connector.map_err(|why| format!("--upstream {}: {why}", args.upstream))?;
        let pool = Pool::new(connector, times, to.upstream_requests_max);
        let host = to.upstream_host.as_ref().map(|host| HeaderValue::from_str(host.as_str())).transpose()?;
        Ok(Self { args, engines, pool, host, traces, joined: OnceLock::new() })
    }

    /// Reads the file, and returns its routes, and what it says of the listener for operators.
    ///
    /// # Errors
    ///
    /// All mistakes in the file.
    pub(crate) fn read(&self, file: &Path) -> Result<(Routes, config::Admin), String> {
        let Config { routes, admin, paths, regions, .. } = Config::read(file, self.args.policy())?;
        if self.args.tls_client_ca.is_none()
            && let Some(route) = routes.iter().find(|route| matches!(route.scope, Caller::Subject))
        {
            return Err(format!(
                "{}: the callers of route `{}` are the subjects of certificates: name the authorities of clients by \
                 --tls-client-ca, beside --tls-cert and --tls-key\n",
                file.display(),
                route.name
            ));
        }
        let regions = self.join(regions.as_ref()).map_err(|why| format!("{}: the regions: {why}\n", file.display()))?;
        let guarded = routes.iter().map(|route| Guarded {
            series: Series::new(route.name.as_str()),
            service: self.service(route, regions.as_ref()),
            pattern: Pattern::new(route.path.clone()),
            caller: route.scope.clone(),
        });
        let reserved = Reserved::new(routes.iter().flat_map(headers_of));
        let (guarded, others, series_of_others) = (guarded.collect(), self.unguarded(), Series::new(OTHERS));
        let regions = self.member().map(|(member, ..)| member);
        Ok((Routes { guarded, paths, others, series_of_others, reserved, regions }, admin))
    }

    /// The same route for all requests.
    pub(crate) fn alike(&self, route: &Route) -> Routes {
        Routes::alike(&route.name, self.service(route, None), Reserved::new(headers_of(route)))
    }

    /// What is needed to send requests to other regions. The same every time that the file is read: what a region may do
    /// does not depend on that.
    fn join(&self, regions: Option<&config::Regions>) -> Result<Option<(Regions, Peers)>, String> {
        let (first, joined) =
            self.joined.get_or_init(|| (regions.cloned(), regions.map(|regions| self.connect(regions))));
        if first.as_ref() != regions {
            return Err(
                "the table [regions] has changed: stop the gateways of all regions, and start them with it".to_owned()
            );
        }
        joined.clone().transpose()
    }

    /// What is beside the requests: this region as a member, and the task that holds its lease, if it needs one.
    pub(crate) fn member(&self) -> Option<(Member, config::Regions, Peers)> {
        let (Some(regions), Some(Ok((place, peers)))) = self.joined.get()? else { return None };
        let log = Log::new(self.engines.opened.store.clone());
        Some((Member { regions: place.clone(), log }, regions.clone(), peers.clone()))
    }

    fn connect(&self, regions: &config::Regions) -> Result<(Regions, Peers), String> {
        let to = &self.args.to_upstream;
        let mut peers = HashMap::new();
        for (region, url) in &regions.peers {
            let tls = match url.protocol {
                Protocol::Tls => Some(tls::to_upstream("ca-file", regions.authorities.as_deref())?),
                Protocol::Http1 | Protocol::Http2 => None,
            };
            let connector = Connector::new(url.clone(), tls).map_err(|why| format!("{url}: {why}"))?;
            let connect_max = to.upstream_connect_max.0;
            // A home may wait for the same request, and then for its service.
            let silence_max = to.upstream_silence_max.0 + self.args.wait_max.0 + 2 * connect_max;
            let times = Times { connect_max, silence_max, idle_max: to.upstream_idle_max.0 };
            let pool = Pool::new(connector, times, to.upstream_requests_max);
            let rules =
                Rules { host: None, to_region: true, ..self.rules(Guarantee::Fenced, self.args.response_body_max.0) };
            peers.insert(region.clone(), Proxy::new(pool, rules));
        }
        let place = Regions::new(regions.homes.clone(), regions.secret.clone());
        let place = match &self.engines.opened.cache {
            Some(cache) => place.with_cache(cache.clone()),
            None => place,
        };
        let place = if regions.lease.is_some() { place.with_lease(regions.key_ahead_max) } else { place };
        Ok((place, Peers::new(peers)))
    }

    fn service(&self, route: &Route, regions: Option<&(Regions, Peers)>) -> Service {
        let args = &self.args;
        let answer_bytes_max = route.response_body_max.unwrap_or(args.response_body_max).0;
        let engine = self.engines.of(route.guarantee).clone();
        let engine = engine.with_retention(route.policy.retention, route.policy.tombstone);
        let mut layer = IdempotencyLayer::new(engine.expect("its policy was checked"), scope_from(&route.scope))
            .with_methods(route.methods.clone())
            .with_body_bytes_max(route.request_body_max.unwrap_or(args.request_body_max).0)
            .with_body_pace(args.to_clients.body_silence_max.0, BODY_BYTES_PER_SECOND_MIN)
            .with_answer_bytes_max(answer_bytes_max)
            .with_wait(route.wait.map_or(Duration::ZERO, |wait| wait.0))
            .trust_disposition_header()
            .with_upstream_headers(args.to_upstream.upstream_key.into())
            // The proxy has already waited.
            .with_answer_end_max(Duration::ZERO);
        match &route.key {
            KeySource::Standard => {}
            KeySource::Header(name) => layer = layer.with_key_header(name.clone()),
            KeySource::Json(pointer) => layer = layer.with_key_pointer(pointer),
        }
        for (chosen, choose) in [
            (route.require_key, IdempotencyLayer::require_key as fn(_) -> _),
            (route.open, IdempotencyLayer::fail_open),
            (route.canonical_json, IdempotencyLayer::with_canonical_json),
            (route.observe_only, IdempotencyLayer::observe),
        ] {
            if chosen {
                layer = choose(layer);
            }
        }
        let proxy = self.proxy(route.guarantee, answer_bytes_max);
        match regions {
            Some((regions, peers)) => layer.with_homes(regions.clone(), peers.clone()).layer(proxy),
            None => layer.layer(AtHome::alone(proxy)),
        }
    }

    /// For requests that match no route: they pass unguarded.
    fn unguarded(&self) -> Service {
        let engine = self.engines.of(Guarantee::Fenced).clone();
        let layer = IdempotencyLayer::new(engine, scope_from(&Caller::Shared("unguarded".to_owned())))
            .with_upstream_headers(self.args.to_upstream.upstream_key.into())
            .skip_if(|_| true);
        layer.layer(AtHome::alone(self.proxy(Guarantee::Fenced, self.args.response_body_max.0)))
    }

    fn proxy(&self, guarantee: Guarantee, answer_bytes_max: usize) -> Proxy {
        Proxy::new(self.pool.clone(), self.rules(guarantee, answer_bytes_max))
    }

    fn rules(&self, guarantee: Guarantee, answer_bytes_max: usize) -> Rules {
        Rules {
            guarantee: self.engines.of(guarantee).guarantee(),
            host: self.host.clone(),
            ahead: Ahead { bytes_max: answer_bytes_max, end_max: self.args.response_end_max.0 },
            answer_silence_max: self.args.to_upstream.upstream_silence_max.0,
            body_silence_max: self.args.to_clients.body_silence_max.0,
            traces: self.traces,
            to_region: false,
        }
    }
}

/// The headers that name the caller or the key.
fn headers_of(route: &Route) -> Vec<HeaderName> {
    let caller = match &route.scope {
        Caller::Header(name) => Some(name.clone()),
        Caller::Claim { .. } | Caller::Subject | Caller::Shared(_) => None,
    };
    let key = match &route.key {
        KeySource::Header(name) => Some(name.clone()),
        KeySource::Standard | KeySource::Json(_) => None,
    };
    caller.into_iter().chain(key).collect()
}
