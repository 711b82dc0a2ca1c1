//! Headers: those that end at each hop, those that only the gateway sets, and those that tell the upstream who calls.

use http::header::{CONNECTION, COOKIE, FORWARDED, HOST, TE, TRANSFER_ENCODING, UPGRADE, VIA};
use http::{HeaderMap, HeaderName, HeaderValue, Version};
use keylatch::http::{IDEMPOTENCY_ATTEMPT, IDEMPOTENCY_DERIVED_KEY, IDEMPOTENCY_EPOCH, IDEMPOTENCY_KEY};
use keylatch_serve::Peer;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The gateway does not set these, and a client could write anything into them.
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Headers of one connection, whether `Connection` names them or not
/// ([RFC 9110, section 7.6.1](https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1)).
static OF_ONE_HOP: [HeaderName; 8] = [
    CONNECTION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authorization"),
];

/// Removes the headers that end at this hop: those of one connection, and those that `Connection` names.
pub(crate) fn end_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&OF_ONE_HOP) {
        headers.remove(name);
    }
}

/// Whether the list in the header `name`, over all its lines, has `token`.
pub(crate) fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|option| option.trim().eq_ignore_ascii_case(token))
}

/// Names that a client must not imitate: many servers (CGI, WSGI and the like) take `X_User_Id` for `X-User-Id`.
#[derive(Debug, Clone)]
pub(crate) struct Reserved(Vec<HeaderName>);

impl Reserved {
    /// The names that the gateway itself sets, and `more`.
    pub(crate) fn new(more: impl IntoIterator<Item = HeaderName>) -> Self {
        let own = [
            IDEMPOTENCY_KEY,
            IDEMPOTENCY_EPOCH,
            IDEMPOTENCY_ATTEMPT,
            IDEMPOTENCY_DERIVED_KEY,
            FORWARDED,
            X_FORWARDED_FOR,
            X_FORWARDED_HOST,
            X_FORWARDED_PROTO,
            X_FORWARDED_PORT,
            X_FORWARDED_PREFIX,
            HOST,
        ];
        Self(own.into_iter().chain(more).collect())
    }

    /// Removes headers that differ from a reserved name only by underscores.
    pub(crate) fn drop_imitations(&self, headers: &mut HeaderMap) {
        let imitates = |name: &HeaderName| {
            name.as_str().contains('_') && self.0.iter().any(|own| name.as_str().replace('_', "-") == own.as_str())
        };
        let imitations: Vec<_> = headers.keys().filter(|name| imitates(name)).cloned().collect();
        for name in imitations {
            headers.remove(name);
        }
    }
}

/// Tells the upstream who calls, and over which protocol. Drops what the client says of it, unless `believe` is set.
pub(crate) fn forward(headers: &mut HeaderMap, peer: Peer, version: Version, believe: bool) {
    let told = |headers: &HeaderMap, name: &HeaderName| believe && headers.contains_key(name);
    let address = peer.address.ip().to_canonical().to_string();
    let address = match (believe, headers.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::to_str).collect()) {
        (true, Ok(before)) => [before, vec![address.as_str()]].concat().join(", "),
        _ => address,
    };
    if !told(headers, &X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(if peer.is_tls { "https" } else { "http" }));
    }
    if !told(headers, &X_FORWARDED_HOST)
        && let Some(host) = headers.get(HOST).cloned()
    {
        headers.insert(X_FORWARDED_HOST, host);
    }
    headers.insert(X_FORWARDED_FOR, HeaderValue::from_str(&address).expect("addresses are visible ASCII"));
    if !believe {
        for name in [FORWARDED, X_FORWARDED_PORT, X_FORWARDED_PREFIX] {
            headers.remove(name);
        }
    }
    let via = if version == Version::HTTP_2 {
        "2 keylatch"
    } else if version == Version::HTTP_10 {
        "1.0 keylatch"
    } else {
        "1.1 keylatch"
    };
    headers.append(VIA, HeaderValue::from_static(via));
}

/// Joins the parts of a cookie, which HTTP/2 may send separately ([RFC 9113, section
/// 8.2.3](https://www.rfc-editor.org/rfc/rfc9113#section-8.2.3)).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(COOKIE, whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let lines = lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        lines.fold(HeaderMap::new(), |mut headers, (name, value)| {
            headers.append(name, value);
            headers
        })
    }

    fn peer() -> Peer {
        Peer { address: "[::ffff:192.0.2.7]:4000".parse().unwrap(), is_tls: false }
    }

    #[test]
    fn what_concerns_one_connection_ends_here() {
        let mut of_one_hop = headers(&[
            ("connection", "close, X-Secret"),
            ("connection", "idempotency-key"),
            ("x-secret", "1"),
            ("idempotency-key", "k"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic eA=="),
            ("trailer", "x-sum"),
            ("accept", "*/*"),
        ]);
        end_hop(&mut of_one_hop);
        assert_eq!(of_one_hop, headers(&[("trailer", "x-sum"), ("accept", "*/*")]));
    }

    #[test]
    fn imitations_of_reserved_names_are_dropped() {
        let mut given = headers(&[
            ("x_user_id", "mallory"),
            ("x-user_id", "mallory"),
            ("x-user-id", "alice"),
            ("idempotency_attempt", "9"),
            ("x_other", "1"),
        ]);
        Reserved::new([HeaderName::from_static("x-user-id")]).drop_imitations(&mut given);
        assert_eq!(given, headers(&[("x-user-id", "alice"), ("x_other", "1")]));
    }

    #[test]
    fn what_clients_say_of_themselves_is_believed_by_choice_only() {
        let said = || {
            headers(&[
                ("host", "api"),
                ("forwarded", "for=10.0.0.1"),
                ("x-forwarded-for", "10.0.0.1"),
                ("x-forwarded-for", "10.0.0.2"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-port", "443"),
            ])
        };
        let (mut doubted, mut believed) = (said(), said());
        forward(&mut doubted, peer(), Version::HTTP_11, false);
        assert_eq!(doubted["x-forwarded-for"], "192.0.2.7");
        assert_eq!(doubted["x-forwarded-proto"], "http");
        assert_eq!(doubted["x-forwarded-host"], "api");
        assert_eq!(doubted["via"], "1.1 keylatch");
        assert!(!doubted.contains_key("forwarded") && !doubted.contains_key("x-forwarded-port"));
        forward(&mut believed, peer(), Version::HTTP_2, true);
        assert_eq!(believed["x-forwarded-for"], "10.0.0.1, 10.0.0.2, 192.0.2.7");
        assert_eq!(believed["x-forwarded-proto"], "https");
        assert_eq!(believed["forwarded"], "for=10.0.0.1");
        assert_eq!(believed["via"], "2 keylatch");
    }

    #[test]
    fn crumbs_become_one_cookie() {
        let mut crumbs = headers(&[("cookie", "a=1"), ("cookie", "b=2"), ("accept", "*/*")]);
        join_cookies(&mut crumbs);
        assert_eq!(crumbs, headers(&[("cookie", "a=1; b=2"), ("accept", "*/*")]));
    }
}
