//! The checks in front of every handler.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, HeaderName};

use super::Role;
use crate::audit::Actor;
use crate::problem::Problem;
use crate::router::Shared;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Where the API is open without a token, refuses a request that names another host than this machine. A web page can
/// make a browser send such a request: its own name may lead to a loopback address (DNS rebinding).
pub(crate) async fn known_host(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    if shared.access.is_open() && !authority(&request).is_some_and(|authority| is_this_machine(&authority)) {
        return Problem::HostRefused.into_response();
    }
    next.run(request).await
}

/// Finds out who sends a request, and passes it on with the [`Actor`] in its extensions.
pub(crate) async fn authenticate(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    if !is_same_origin(request.headers(), authority(&request).as_ref()) {
        return Problem::OriginRefused.into_response();
    }
    match shared.access.actor(request.headers()) {
        Ok(actor) => {
            request.extensions_mut().insert(actor);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// Refuses those who may not operate.
pub(crate) async fn operators_only(request: Request, next: Next) -> Response {
    match request.extensions().get::<Actor>() {
        Some(actor) if actor.role >= Role::Operate => next.run(request).await,
        Some(_) => Problem::RoleTooWeak.into_response(),
        None => Problem::TokenRequired.into_response(),
    }
}

/// The host that a request names: in its target (HTTP/2), or in its only `Host`.
fn authority(request: &Request) -> Option<Authority> {
    if let Some(authority) = request.uri().authority() {
        return Some(authority.clone());
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return None };
    Authority::try_from(host.as_bytes()).ok()
}

fn is_this_machine(authority: &Authority) -> bool {
    let host = authority.host();
    let ip = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || ip.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// Whether a request comes from a page of this server, or from no page at all. Browsers say so in `Sec-Fetch-Site`, and
/// where they do not, in `Origin`; other programs send neither.
fn is_same_origin(headers: &HeaderMap, authority: Option<&Authority>) -> bool {
    if headers.get_all(&SEC_FETCH_SITE).iter().any(|site| site != "same-origin" && site != "none") {
        return false;
    }
    if headers.contains_key(SEC_FETCH_SITE) {
        return true;
    }
    headers.get_all(ORIGIN).iter().all(|origin| {
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        origin.zip(authority).is_some_and(|((_, origin), host)| origin.eq_ignore_ascii_case(host.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_has_its_names() {
        let is = |host: &str| is_this_machine(&host.parse().unwrap());
        for host in ["localhost", "LOCALHOST:9090", "127.0.0.1:9090", "127.9.9.9", "[::1]:9090", "[::1]"] {
            assert!(is(host), "{host}");
        }
        for host in ["example.org", "localhost.example.org", "127.0.0.1.example.org", "10.0.0.1", "[fe80::1]:1"] {
            assert!(!is(host), "{host}");
        }
    }

    #[test]
    fn only_pages_of_this_server_and_programs_are_let_in() {
        let host: Authority = "localhost:9090".parse().unwrap();
        let is = |lines: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, value.parse().unwrap());
            }
            is_same_origin(&headers, Some(&host))
        };
        assert!(is(&[]) && is(&[("sec-fetch-site", "none")]) && is(&[("sec-fetch-site", "same-origin")]));
        assert!(is(&[("origin", "http://localhost:9090")]));
        for site in ["cross-site", "same-site", ""] {
            assert!(!is(&[("sec-fetch-site", site)]), "{site}");
            assert!(!is(&[("sec-fetch-site", "same-origin"), ("sec-fetch-site", site)]), "{site}");
        }
        for origin in ["http://localhost:9091", "http://example.org", "null", ""] {
            assert!(!is(&[("origin", origin)]), "{origin}");
        }
    }
}
