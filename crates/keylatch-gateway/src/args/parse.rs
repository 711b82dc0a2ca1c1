//! Values of the command line. The error of each says what is allowed.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderName, Method};

use crate::config::Caller;

/// A length of time, such as `30s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "give a number and a unit, such as 500ms, 30s, 10m or 24h".to_owned();
        let span = text.parse::<jiff::SignedDuration>().map_err(|_| wrong())?;
        Duration::try_from(span).map(Self).map_err(|_| wrong())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            0 => f.write_str("0s"),
            millis if millis % 3_600_000 == 0 => write!(f, "{}h", millis / 3_600_000),
            millis if millis % 1_000 == 0 => write!(f, "{}s", millis / 1_000),
            millis => write!(f, "{millis}ms"),
        }
    }
}

/// A number of bytes, such as `1MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) usize);

const UNITS: [(&str, u32); 3] = [("KiB", 10), ("MiB", 20), ("GiB", 30)];

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unit = UNITS.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
        let (number, shift) = unit.unwrap_or((text, 0));
        let bytes = number.trim().parse::<usize>().ok().and_then(|number| number.checked_mul(1 << shift));
        bytes.map(Self).ok_or_else(|| "give a number of bytes, or one with a unit, such as 64KiB or 1MiB".to_owned())
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().rev().find(|(_, shift)| self.0 != 0 && self.0.is_multiple_of(1 << shift));
        match unit {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A guarantee that a proxy can keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guarantee {
    Fenced,
    AtMostOnce,
}

impl FromStr for Guarantee {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "fenced" => Ok(Self::Fenced),
            "at-most-once" => Ok(Self::AtMostOnce),
            "atomic" => {
                Err("atomic cannot be had through a proxy: the record and the service's own writes would have to \
                             be one database transaction, and the gateway has no part in the service's. Take fenced if \
                             the service honours Idempotency-Derived-Key or Idempotency-Epoch, and at-most-once if it \
                             does not; or put the layer of the library into the service"
                    .to_owned())
            }
            _ => Err("it is fenced or at-most-once".to_owned()),
        }
    }
}

impl fmt::Display for Guarantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fenced => "fenced",
            Self::AtMostOnce => "at-most-once",
        })
    }
}

/// What the upstream gets as `Idempotency-Key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UpstreamKey {
    Withheld,
    Received,
    Derived,
}

impl FromStr for UpstreamKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "withheld" => Ok(Self::Withheld),
            "received" => Ok(Self::Received),
            "derived" => Ok(Self::Derived),
            _ => Err("it is withheld, received or derived".to_owned()),
        }
    }
}

impl fmt::Display for UpstreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Withheld => "withheld",
            Self::Received => "received",
            Self::Derived => "derived",
        })
    }
}

impl From<UpstreamKey> for keylatch::http::UpstreamKey {
    fn from(key: UpstreamKey) -> Self {
        match key {
            UpstreamKey::Withheld => Self::Withheld,
            UpstreamKey::Received => Self::Received,
            UpstreamKey::Derived => Self::Derived,
        }
    }
}

/// How a request's caller is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The value of this header.
    Header(HeaderName),
    /// All callers share one scope, with this name.
    Shared(String),
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("header", name)) => match name.parse() {
                Ok(name) => Ok(Self::Header(name)),
                Err(_) => Err("after `header:` comes the name of a header, such as header:X-User-Id".to_owned()),
            },
            Some(("shared", name)) if !name.is_empty() && keylatch::Scope::new(name).is_ok() => {
                Ok(Self::Shared(name.to_owned()))
            }
            Some(("shared", _)) => {
                Err("after `shared:` comes a name of your choice, such as shared:everyone".to_owned())
            }
            _ => Err(
                "it is header:NAME, such as header:X-User-Id, where NAME says who calls; or shared:NAME, which puts \
                      all callers into one scope"
                    .to_owned(),
            ),
        }
    }
}

impl Scope {
    pub(crate) fn caller(&self) -> Caller {
        match self {
            Self::Header(name) => Caller::Header(name.clone()),
            Self::Shared(name) => Caller::Shared(name.clone()),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "the header {name}"),
            Self::Shared(name) => write!(f, "{name}, shared by all callers"),
        }
    }
}

/// A method, in capitals.
pub(crate) fn method(text: &str) -> Result<Method, String> {
    let known = text.bytes().all(|byte| byte.is_ascii_uppercase()).then(|| text.parse::<Method>().ok()).flatten();
    known.ok_or_else(|| "give methods in capitals, with commas between them, such as POST,PATCH".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_are_read_as_they_are_written() {
        for text in ["500ms", "30s", "24h", "1500ms", "0s"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        assert_eq!("10m".parse::<Span>().unwrap(), Span(Duration::from_secs(600)));
        for text in ["1MiB", "64KiB", "4097", "2GiB", "0"] {
            assert_eq!(text.parse::<Bytes>().unwrap().to_string(), text);
        }
        for text in ["", "30", "-3s", "soon", "1.5MiB", "MiB", "99999999999GiB"] {
            assert!(text.parse::<Span>().is_err() && text.parse::<Bytes>().is_err() || text == "30", "{text}");
        }
    }

    #[test]
    fn what_a_proxy_cannot_promise_is_refused_with_what_to_take() {
        let why = "atomic".parse::<Guarantee>().unwrap_err();
        assert!(why.contains("Take fenced") && why.contains("at-most-once") && why.contains("transaction"), "{why}");
        assert!("Fenced".parse::<Guarantee>().is_err());
    }

    #[test]
    fn a_scope_is_spelt_out() {
        assert_eq!("header:X-User-Id".parse(), Ok(Scope::Header(HeaderName::from_static("x-user-id"))));
        assert_eq!("shared:all".parse(), Ok(Scope::Shared("all".to_owned())));
        for text in ["", "shared", "shared:", "header:", "header:two words", "X-User-Id"] {
            assert!(text.parse::<Scope>().is_err(), "{text}");
        }
    }
}
