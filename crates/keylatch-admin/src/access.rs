//! Who may do what.
//!
//! There are two roles. `view` sees records, places, dead letters, events and numbers, without any content. `operate` sees
//! the content as well, and acts.
//!
//! A caller sends a token: `Authorization: Bearer …`. Without tokens the API is open, with the role `operate`, if the
//! listener is bound to a loopback address, and closed otherwise. Open means open to programs of this machine, and not
//! to web pages: a request that names another host (DNS rebinding) or comes from another origin is refused.

mod guard;
mod secret;
mod tokens;

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(crate) use self::guard::{authenticate, known_host, operators_only};
pub use self::tokens::{InvalidTokens, TOKEN_BYTES_MIN, TOKENS_FILE_BYTES_MAX, TOKENS_MAX, Tokens};
use crate::audit::{Actor, Via};
use crate::problem::Problem;

/// What a caller may do. A later one includes the earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Sees everything but content.
    View,
    /// Sees content, and acts.
    Operate,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 2] = [Self::View, Self::Operate];

    /// Its name in the API and in the file of tokens.
    pub const fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Operate => "operate",
        }
    }
}

/// Who is let in. Clones share it.
#[derive(Debug, Clone)]
pub struct Access(Arc<RwLock<Rule>>);

#[derive(Debug)]
enum Rule {
    /// Those who have a token.
    Tokens(Tokens),
    /// Everyone who reaches this machine's loopback address.
    Loopback,
    /// Nobody.
    Closed,
}

impl Access {
    /// Access by `tokens`. Without them, everyone who can reach the listener may operate if `bound` is a loopback address,
    /// and nobody if it is not.
    pub fn new(tokens: Option<Tokens>, bound: IpAddr) -> Self {
        let rule = match tokens {
            Some(tokens) => Rule::Tokens(tokens),
            None if bound.is_loopback() => Rule::Loopback,
            None => Rule::Closed,
        };
        Self(Arc::new(RwLock::new(rule)))
    }

    /// Replaces the tokens: from the next request on, only these count.
    pub fn replace(&self, tokens: Tokens) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Rule::Tokens(tokens);
    }

    /// Who has sent a request with these headers.
    pub(crate) fn actor(&self, headers: &HeaderMap) -> Result<Actor, Problem> {
        match &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            Rule::Tokens(tokens) => {
                let known = bearer(headers).and_then(|offered| tokens.actor(offered));
                known.ok_or(Problem::TokenRequired)
            }
            Rule::Loopback => Ok(Actor { name: "loopback".to_owned(), role: Role::Operate, via: Via::Loopback }),
            Rule::Closed => Err(Problem::Closed),
        }
    }

    /// Whether everyone who reaches the listener is let in.
    pub fn is_open(&self) -> bool {
        matches!(&*self.0.read().unwrap_or_else(PoisonError::into_inner), Rule::Loopback)
    }
}

/// Who is let in, in words.
impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            Rule::Tokens(_) => "a token is required",
            Rule::Loopback => "open, because only this machine can reach it",
            Rule::Closed => "closed, because other machines can reach it and there are no tokens",
        })
    }
}

/// The token of a request (RFC 6750, section 2.1). With two, neither counts.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}
