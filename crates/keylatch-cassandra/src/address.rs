//! The address of a cluster: `cassandra://[user:password@]host[:port][,host[:port]]…/keyspace`, with
//! `?survives=…&data-centre=…` if need be, and `ca=…&cert=…&key=…` for TLS.

use std::path::PathBuf;

use super::error::ConnectError;
use super::options::{Login, Survives};

/// The port of CQL, if an address names none.
const PORT: u16 = 9_042;

/// Of a part of what comes after `?`.
const NO_SUCH_PART: ConnectError = ConnectError::Address(
    "after ? come survives=nothing, survives=node or survives=data-centre, data-centre=NAME, ca=FILE, cert=FILE and \
     key=FILE, with & between them",
);

/// Where the cluster is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// Each with a port.
    pub(super) nodes: Vec<String>,
    pub(super) keyspace: String,
    /// User and password.
    pub(super) login: Option<(String, String)>,
    pub(super) survives: Option<Survives>,
    pub(super) data_centre: Option<String>,
    pub(super) tls: Option<TlsFiles>,
}

/// The PEM files for encrypted connections.
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "without TLS they are not read"))]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TlsFiles {
    /// The certificate of the authority that certifies the nodes.
    pub(super) ca: PathBuf,
    /// The certificate of this process, and its key.
    pub(super) own: Option<(PathBuf, PathBuf)>,
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Self, ConnectError> {
        let rest =
            url.strip_prefix("cassandra://").ok_or(ConnectError::Address("it does not begin with cassandra://"))?;
        let (authority, path) = rest.split_once('/').ok_or(ConnectError::Address("it names no keyspace"))?;
        let (keyspace, query) = path.split_once('?').map_or((path, None), |(keyspace, query)| (keyspace, Some(query)));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, authority),
        };
        let nodes = hosts.split(',').map(node).collect::<Result<Vec<_>, _>>()?;
        let mut address = Self {
            nodes,
            keyspace: checked_keyspace(keyspace)?.to_owned(),
            login: login.map(parse_login).transpose()?,
            survives: None,
            data_centre: None,
            tls: None,
        };
        let (mut ca, mut cert, mut key) = (None, None, None);
        for part in query.into_iter().flat_map(|query| query.split('&')) {
            let (name, value) = part.split_once('=').filter(|(_, value)| !value.is_empty()).ok_or(NO_SUCH_PART)?;
            let value = decoded(value)?;
            match (name, value.as_str()) {
                ("survives", "nothing") => address.survives = Some(Survives::Nothing),
                ("survives", "node") => address.survives = Some(Survives::Node),
                ("survives", "data-centre") => address.survives = Some(Survives::DataCentre),
                ("data-centre", _) => address.data_centre = Some(value),
                ("ca", _) => ca = Some(value.into()),
                ("cert", _) => cert = Some(value.into()),
                ("key", _) => key = Some(value.into()),
                _ => return Err(NO_SUCH_PART),
            }
        }
        address.tls = match (ca, cert, key) {
            (None, None, None) => None,
            (Some(ca), None, None) => Some(TlsFiles { ca, own: None }),
            (Some(ca), Some(cert), Some(key)) => Some(TlsFiles { ca, own: Some((cert, key)) }),
            _ => return Err(ConnectError::Address("TLS needs ca=FILE, and cert=FILE only together with key=FILE")),
        };
        Ok(address)
    }

    /// Who the store is: what the options say, or else the address.
    pub(super) fn login(&self, of_options: Option<&Login>) -> Option<Login> {
        let of_address = || self.login.clone().map(|(user, password)| Login { user, password });
        of_options.cloned().or_else(of_address)
    }
}

/// A name that needs no quotes. It is put into statements nowhere, but an operator types it.
fn checked_keyspace(name: &str) -> Result<&str, ConnectError> {
    const BYTES_MAX: usize = 48;
    let letters = name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    let begins = name.starts_with(|first: char| first.is_ascii_lowercase());
    if begins && letters && name.len() <= BYTES_MAX {
        return Ok(name);
    }
    Err(ConnectError::Address("the keyspace has up to 48 lower-case letters, digits and _, and begins with a letter"))
}

fn node(host: &str) -> Result<String, ConnectError> {
    if host.is_empty() || host.contains(['/', '?', '#', ' ']) {
        return Err(ConnectError::Address("a host is missing or not valid"));
    }
    // The colons of an IPv6 address are in brackets.
    let after = host.rsplit_once(']').map_or(host, |(_, after)| after);
    match after.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok_and(|port| port > 0) => Ok(host.to_owned()),
        Some(_) => Err(ConnectError::Address("a port is not a number from 1 to 65535")),
        None => Ok(format!("{host}:{PORT}")),
    }
}

fn parse_login(login: &str) -> Result<(String, String), ConnectError> {
    let (user, password) = login.split_once(':').ok_or(ConnectError::Address("there is a user without a password"))?;
    Ok((decoded(user)?, decoded(password)?))
}

/// With `%` escapes, for the characters that have a meaning in an address.
fn decoded(text: &str) -> Result<String, ConnectError> {
    const NOT_VALID: ConnectError = ConnectError::Address("there is a % that is not followed by two digits");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).ok_or(NOT_VALID)?;
        let digits = std::str::from_utf8(digits).map_err(|_| NOT_VALID)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| NOT_VALID)?);
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| NOT_VALID)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_nodes_keyspace_and_login() {
        let address = Address::parse("cassandra://me:p%40ss:w@a,b:9999,[::1],[::2]:7/keys").unwrap();
        assert_eq!(address.nodes, ["a:9042", "b:9999", "[::1]:9042", "[::2]:7"]);
        assert_eq!(address.keyspace, "keys");
        assert_eq!(address.login, Some(("me".to_owned(), "p@ss:w".to_owned())));
        assert_eq!(address.survives, None);
        let address = Address::parse("cassandra://a/keys?survives=nothing").unwrap();
        assert_eq!((address.keyspace.as_str(), address.survives), ("keys", Some(Survives::Nothing)));
        assert_eq!(address.data_centre, None);
        let address = Address::parse("cassandra://a/keys?survives=data-centre&data-centre=eu%20west").unwrap();
        assert_eq!((address.survives, address.data_centre.as_deref()), (Some(Survives::DataCentre), Some("eu west")));
        assert_eq!(address.tls, None);
        let address = Address::parse("cassandra://a/keys?ca=/etc/a%26b.pem").unwrap();
        assert_eq!(address.tls, Some(TlsFiles { ca: "/etc/a&b.pem".into(), own: None }));
        let address = Address::parse("cassandra://a/keys?cert=c&ca=a&key=k").unwrap();
        assert_eq!(address.tls, Some(TlsFiles { ca: "a".into(), own: Some(("c".into(), "k".into())) }));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for url in [
            "redis://a/keys",
            "cassandra://a",
            "cassandra:///keys",
            "cassandra://a,/keys",
            "cassandra://a:0/keys",
            "cassandra://a:x/keys",
            "cassandra://a/",
            "cassandra://a/Keys",
            "cassandra://a/1keys",
            "cassandra://a/keys?x",
            "cassandra://a/keys?data-centre=",
            "cassandra://a/keys?survives=node&",
            "cassandra://a/keys?survives=all",
            "cassandra://a/keys?cert=c&key=k",
            "cassandra://a/keys?ca=a&cert=c",
            "cassandra://a/keys?ca=a&key=k",
            "cassandra://me@a/keys",
            "cassandra://me:%4@a/keys",
            "cassandra://me:%zz@a/keys",
        ] {
            assert!(Address::parse(url).is_err(), "{url}");
        }
    }
}
