//! The service behind the gateway.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use http::uri::Authority;

/// The address of the service behind the gateway, and its protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upstream {
    pub(crate) protocol: Protocol,
    pub(crate) authority: Authority,
}

/// The protocol of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1, in clear text.
    Http1,
    /// HTTP/2, in clear text.
    Http2,
    /// TLS. In it the upstream chooses HTTP/2 or HTTP/1.1.
    Tls,
}

const WANTED: &str = "it is http://HOST:PORT, https://HOST:PORT, or h2c://HOST:PORT for HTTP/2 without TLS";

impl FromStr for Upstream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url: Uri = text.parse().map_err(|_| WANTED.to_owned())?;
        let protocol = match url.scheme_str() {
            Some("http") => Protocol::Http1,
            Some("https") => Protocol::Tls,
            Some("h2c") => Protocol::Http2,
            _ => return Err(WANTED.to_owned()),
        };
        let authority = url.authority().ok_or(WANTED)?.clone();
        if authority.as_str().contains('@') {
            return Err(format!("{WANTED}, without a user: requests go to it with the headers of the client"));
        }
        if url.path_and_query().is_some_and(|path| path.as_str() != "/") {
            return Err(format!("{WANTED}, without a path: requests go to it with the paths of the client"));
        }
        Ok(Self { protocol, authority })
    }
}

impl Upstream {
    /// The host in the form of a name look-up: IPv6 addresses have no brackets.
    pub(crate) fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }

    pub(crate) fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(match self.protocol {
            Protocol::Http1 | Protocol::Http2 => 80,
            Protocol::Tls => 443,
        })
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.protocol {
            Protocol::Http1 => "http",
            Protocol::Http2 => "h2c",
            Protocol::Tls => "https",
        };
        write!(f, "{scheme}://{}", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_a_scheme_and_an_authority() {
        let upstream: Upstream = "http://[::1]:9000".parse().unwrap();
        assert_eq!((upstream.host(), upstream.port()), ("::1", 9000));
        assert_eq!("http://orders".parse::<Upstream>().unwrap().port(), 80);
        assert_eq!("https://orders".parse::<Upstream>().unwrap().port(), 443);
        for text in ["", "127.0.0.1:9000", "ftp://a", "http://", "http://u:p@a", "http://a/path", "http://a/?q"] {
            let why = text.parse::<Upstream>().unwrap_err();
            assert!(why.contains("http://HOST:PORT"), "{text}: {why}");
        }
    }
}
