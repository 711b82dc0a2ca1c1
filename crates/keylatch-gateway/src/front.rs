//! The entry: a request that can be read in two ways is refused, and every other is written in one form.
//!
//! The layer, which hashes the request and finds its caller, and the upstream see the same headers. So nobody can make
//! the layer guard one request and the upstream run another.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method, Request, Response, Uri, Version};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use keylatch::http::GuardedBody;
use keylatch_serve::Peer;
use tower_service::Service;
use tracing::{Instrument as _, Span};

use crate::access;
use crate::ahead::Answer;
use crate::headers::{self, Reserved};
use crate::problem::Problem;
use crate::regions::beat::asks_for_map;
use crate::room::{Arriving, Room};
use crate::routes::Live;
use crate::trace;

/// The service for clients: the whole gateway.
#[derive(Clone)]
pub(crate) struct Front {
    routes: Live,
    rules: Arc<Rules>,
    room: Room,
}

/// How each request is treated.
#[derive(Debug)]
pub(crate) struct Rules {
    /// Whether to trust what clients say of themselves.
    pub(crate) trust_forwarded: bool,
    /// The host for HTTP/1.0 clients, which need not name one.
    pub(crate) host: HeaderValue,
    /// Whether to write a line per request to standard output.
    pub(crate) access_log: bool,
    /// Whether spans are exported.
    pub(crate) traces: bool,
}

/// The protocol that the client asks to upgrade to: the value of `Upgrade`. In the extensions of its request.
#[derive(Debug, Clone)]
pub(crate) struct WantsUpgrade(pub(crate) HeaderValue);

/// The client accepts trailers. In the extensions of its request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TakesTrailers;

impl Front {
    /// With `room` for the bodies of guarded requests.
    pub(crate) fn new(routes: Live, rules: Rules, room: Room) -> Self {
        Self { routes, rules: Arc::new(rules), room }
    }
}

impl Service<Request<Incoming>> for Front {
    type Response = Response<Either<Full<Bytes>, GuardedBody<Answer>>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    /// Always ready, as the proxy and so the layers are.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let asked = access::Asked { method: request.method().clone(), version: request.version(), at: Instant::now() };
        let (mut parts, body) = request.into_parts();
        let routes = self.routes.now();
        // What another region says of a client is true.
        let sent = routes.regions.as_ref().is_some_and(|member| member.regions.sent(&parts));
        let written = self.rules.write_anew(&mut parts, &routes.reserved, sent);
        if let Some(member) = routes.regions.clone().filter(|_| asks_for_map(&parts, sent)) {
            return Box::pin(async move { Ok(told(member.tell().await).map(|body| Either::Left(Full::new(body)))) });
        }
        let (series, chosen) = match written {
            Ok(()) => routes.choose(&mut parts),
            Err(problem) => (routes.series_of_others.clone(), Err(problem)),
        };
        let share = self.room.share();
        parts.extensions.insert(share.clone());
        let body = Arriving::new(body, share.clone());
        let span = if self.rules.traces { trace::request(&parts, &series.route) } else { Span::none() };
        let answering = span.in_scope(|| chosen.map(|mut service| service.call(Request::from_parts(parts, body))));
        let rules = self.rules.clone();
        let around = span.clone();
        let answered = async move {
            let own = |problem: Problem| problem.response().map(|body| Either::Left(Full::new(body)));
            let response = match answering {
                Ok(answering) => answering.await?.map(Either::Right),
                Err(problem) => own(problem),
            };
            // What is left of the body is only read to be rid of it.
            share.pass();
            // The layer takes it for a body that broke off.
            let response = if share.was_refused() { own(Problem::Full) } else { response };
            access::note(&asked, &series, &response, &span, rules.access_log);
            Ok(response)
        };
        Box::pin(answered.instrument(around))
    }
}

/// The answer to another region that asks for the map.
fn told(map: Option<String>) -> Response<Bytes> {
    map.map_or_else(|| keylatch::http::Problem::StoreUnavailable.response(), |map| Response::new(Bytes::from(map)))
}

impl Rules {
    /// Writes the head of a request in its one form. `sent` by another region: what it says of its client is believed.
    fn write_anew(&self, parts: &mut Parts, reserved: &Reserved, sent: bool) -> Result<(), Problem> {
        if [Method::CONNECT, Method::TRACE].contains(&parts.method) {
            return Err(Problem::MethodRefused);
        }
        self.write_target(parts)?;
        check_framing(parts)?;
        if parts.version == Version::HTTP_11
            && headers::lists(&parts.headers, &CONNECTION, "upgrade")
            && let Some(protocol) = parts.headers.get(UPGRADE)
            && !headers::lists(&parts.headers, &UPGRADE, "h2c")
        {
            parts.extensions.insert(WantsUpgrade(protocol.clone()));
        }
        if headers::lists(&parts.headers, &TE, "trailers") {
            parts.extensions.insert(TakesTrailers);
        }
        headers::end_hop(&mut parts.headers);
        reserved.drop_imitations(&mut parts.headers);
        if parts.version == Version::HTTP_2 {
            headers::join_cookies(&mut parts.headers);
        }
        if let Some(peer) = parts.extensions.get::<Peer>() {
            headers::forward(&mut parts.headers, *peer, parts.version, self.trust_forwarded || sent);
        }
        Ok(())
    }

    /// Leaves one host, in `Host`, and only a path with its query as the target.
    fn write_target(&self, parts: &mut Parts) -> Result<(), Problem> {
        let mut hosts = parts.headers.get_all(HOST).iter();
        let host = hosts.next().cloned();
        if hosts.next().is_some() {
            return Err(Problem::Refused("The request has more than one Host."));
        }
        if let Some(host) = &host {
            let authority = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
            if authority.is_none_or(|authority| authority.as_str().contains('@')) {
                return Err(Problem::Refused("The Host of the request is not a host."));
            }
        }
        match (parts.uri.authority(), &host) {
            (Some(authority), _) if authority.as_str().contains('@') => {
                return Err(Problem::Refused("The target of the request has a user in it."));
            }
            (Some(authority), Some(host)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
                return Err(Problem::Refused("The target of the request and its Host name different hosts."));
            }
            (Some(authority), None) => {
                let host = HeaderValue::from_str(authority.as_str());
                parts
                    .headers
                    .insert(HOST, host.map_err(|_| Problem::Refused("The target of the request is no host."))?);
            }
            (None, None) if parts.version == Version::HTTP_10 => drop(parts.headers.insert(HOST, self.host.clone())),
            (None, None) => return Err(Problem::Refused("The request has no Host.")),
            (_, Some(_)) => {}
        }
        if parts.uri.scheme_str().is_some_and(|scheme| !["http", "https"].contains(&scheme)) {
            return Err(Problem::Refused("The target of the request is not one of HTTP."));
        }
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let whole_server = path == "*" && parts.method == Method::OPTIONS;
        if !path.as_str().starts_with('/') && !whole_server {
            return Err(Problem::Refused("The target of the request is not a path."));
        }
        parts.uri = Uri::from(path);
        Ok(())
    }
}

/// hyper has refused what RFC 9112 requires it to refuse, and has read the body by one framing. Any coding beside
/// `chunked` would be lost, because the header applies to this hop only.
fn check_framing(parts: &Parts) -> Result<(), Problem> {
    let mut codings = parts.headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Problem::Refused("The only Transfer-Encoding that this gateway takes is chunked, once.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        let host = HeaderValue::from_static("upstream");
        Rules { trust_forwarded: false, host, access_log: false, traces: false }
    }

    fn written(request: http::request::Builder) -> Result<Parts, Problem> {
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        rules().write_anew(&mut parts, &Reserved::new([]), false).map(|()| parts)
    }

    #[test]
    fn every_form_of_a_target_becomes_a_path_and_a_host() {
        for request in [
            Request::post("/a?b").header("host", "api"),
            Request::post("http://api/a?b").header("host", "API"),
            Request::post("http://api/a?b"),
            Request::post("https://api/a?b").version(Version::HTTP_2),
        ] {
            let parts = written(request).unwrap();
            assert_eq!(parts.uri, "/a?b");
            assert_eq!(parts.headers[HOST].to_str().unwrap().to_lowercase(), "api");
        }
        assert_eq!(written(Request::post("/").version(Version::HTTP_10)).unwrap().headers[HOST], "upstream");
        assert_eq!(written(Request::options("*").header("host", "api")).unwrap().uri, "*");
    }

    #[test]
    fn what_can_be_understood_in_two_ways_is_refused() {
        for request in [
            Request::post("/"),
            Request::post("/").header("host", "a").header("host", "a"),
            Request::post("/").header("host", "user@a"),
            Request::post("/").header("host", "a/b"),
            Request::post("/").header("host", ""),
            Request::post("http://a/").header("host", "b"),
            Request::post("http://a:80/").header("host", "a:81"),
            Request::post("http://user@a/"),
            Request::post("ftp://a/"),
            Request::post("*").header("host", "a"),
            Request::post("/").header("host", "a").header("transfer-encoding", "gzip, chunked"),
            Request::post("/")
                .header("host", "a")
                .header("transfer-encoding", "gzip")
                .header("transfer-encoding", "chunked"),
        ] {
            let refused = format!("{request:?}");
            assert!(matches!(written(request), Err(Problem::Refused(_))), "{refused}");
        }
        for method in [Method::CONNECT, Method::TRACE] {
            let refused = written(Request::builder().method(method).uri("http://a/").header("host", "a"));
            assert_eq!(refused.unwrap_err(), Problem::MethodRefused);
        }
    }

    #[test]
    fn an_upgrade_is_noted_and_taken_out() {
        let ask = |protocol| {
            Request::get("/").header("host", "a").header("connection", "Upgrade").header("upgrade", protocol)
        };
        let parts = written(ask("websocket")).unwrap();
        assert_eq!(parts.extensions.get::<WantsUpgrade>().unwrap().0, "websocket");
        assert!(!parts.headers.contains_key(UPGRADE) && !parts.headers.contains_key(CONNECTION));
        assert!(written(ask("h2c")).unwrap().extensions.get::<WantsUpgrade>().is_none());
    }
}
