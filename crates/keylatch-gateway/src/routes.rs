//! Which layer guards a request, and who calls.

use std::sync::Arc;

use http::request::Parts;
use keylatch::http::{AtHome, Idempotency, ScopeFrom};
use parking_lot::RwLock;

use crate::access::Series;
use crate::config::{Caller, Paths};
use crate::headers::Reserved;
use crate::problem::Problem;
use crate::proxy::Proxy;
use crate::regions::Peers;
use crate::regions::beat::Member;
use crate::tls;

/// A layer around the proxy.
pub(crate) type Service = Idempotency<AtHome<Proxy, Peers>>;

/// How the requests of one route are guarded.
pub(crate) struct Guarded {
    /// Its name in logs, and its metrics.
    pub(crate) series: Arc<Series>,
    pub(crate) service: Service,
    /// The pattern of its path, which is part of the scope.
    pub(crate) pattern: keylatch::http::Route,
    pub(crate) caller: Caller,
}

/// All routes.
pub(crate) struct Routes {
    pub(crate) guarded: Vec<Guarded>,
    pub(crate) paths: Paths,
    /// For requests that match no route.
    pub(crate) others: Service,
    /// The name of such requests in logs, and their metrics.
    pub(crate) series_of_others: Arc<Series>,
    /// The headers that no client may imitate.
    pub(crate) reserved: Reserved,
    /// The regions, if there are others.
    pub(crate) regions: Option<Member>,
}

/// The current routes. They can be replaced while requests run, and each of those keeps the routes that it began with.
#[derive(Clone)]
pub(crate) struct Live(Arc<RwLock<Arc<Routes>>>);

/// The caller, from a verified token or certificate. In the extensions of a request.
#[derive(Debug, Clone)]
struct Named(String);

impl Routes {
    /// The same service for all requests.
    pub(crate) fn alike(name: &str, service: Service, reserved: Reserved) -> Self {
        let (guarded, paths) = (Vec::new(), Paths::default());
        Self { guarded, paths, others: service, series_of_others: Series::new(name), reserved, regions: None }
    }

    /// Finds the route of a request: its metrics, and its service. Fails if the route requires a token and the request has
    /// no valid one. Adds the route and the caller to the extensions.
    pub(crate) fn choose(&self, parts: &mut Parts) -> (Arc<Series>, Result<Service, Problem>) {
        match self.paths.find(&parts.method, parts.uri.path()).map(|nth| &self.guarded[nth]) {
            Some(route) => (route.series.clone(), route.enter(parts)),
            None => (self.series_of_others.clone(), Ok(self.others.clone())),
        }
    }
}

impl Guarded {
    fn enter(&self, parts: &mut Parts) -> Result<Service, Problem> {
        let named = match &self.caller {
            Caller::Claim { verifier, claim } => {
                let claims = verifier.verify(&parts.headers).map_err(|why| Problem::TokenInvalid(why.0))?;
                claims.caller(claim)
            }
            Caller::Subject => parts.extensions.get().and_then(tls::subject),
            Caller::Header(_) | Caller::Shared(_) => None,
        };
        named.map(|caller| parts.extensions.insert(Named(caller)));
        parts.extensions.insert(self.pattern.clone());
        Ok(self.service.clone())
    }
}

impl Live {
    pub(crate) fn new(routes: Routes) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(routes))))
    }

    pub(crate) fn now(&self) -> Arc<Routes> {
        self.0.read().clone()
    }

    pub(crate) fn replace(&self, routes: Routes) {
        *self.0.write() = Arc::new(routes);
    }
}

/// Where a layer finds the caller.
pub(crate) fn scope_from(caller: &Caller) -> ScopeFrom {
    match caller {
        Caller::Header(name) => ScopeFrom::header(name.clone()),
        Caller::Claim { .. } | Caller::Subject => ScopeFrom::extension(|Named(caller)| caller.clone()),
        Caller::Shared(name) => ScopeFrom::shared(name.clone()),
    }
}
