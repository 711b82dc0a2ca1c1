//! Other regions: their gateways, to which requests go whose home is there, and the lease that they give this one.

pub(crate) mod beat;

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use keylatch::http::{GuardedBody, Problem, ToHome};
use keylatch::regions::Region;
use tower_service::Service;

use crate::ahead::Answer;
use crate::proxy::Proxy;
use crate::room::Arriving;

/// Sends a request to the gateway of its home.
#[derive(Clone)]
pub(crate) struct Peers(Arc<HashMap<Region, Proxy>>);

impl Peers {
    /// A proxy for each of the other regions.
    pub(crate) fn new(peers: HashMap<Region, Proxy>) -> Self {
        Self(Arc::new(peers))
    }

    /// The way to the gateway of a region.
    pub(crate) fn to(&self, region: &Region) -> Option<Proxy> {
        self.0.get(region).cloned()
    }
}

impl Service<Request<GuardedBody<Arriving>>> for Peers {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<GuardedBody<Arriving>>) -> Self::Future {
        let home = request.extensions_mut().remove::<ToHome>();
        match home.and_then(|ToHome(home)| self.0.get(&home)) {
            Some(proxy) => proxy.clone().call(request),
            None => Box::pin(async { Ok(Problem::HomeUnreachable.response().map(Answer::whole)) }),
        }
    }
}
