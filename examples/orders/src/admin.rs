//! Operations for the operator only.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use keylatch::Engine;
use keylatch::store::Swept;
use serde::Serialize;

use crate::config::Secret;
use crate::problem::Problem;

/// Who may do it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admin {
    /// Anyone who reaches this machine's loopback address.
    Open,
    /// Who has the token.
    Token(Secret),
    /// Nobody.
    Closed,
}

/// The result of a clean-up.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Cleaned {
    /// Records that were removed.
    removed: usize,
    /// Records that lost their answer and stay as tombstones for a while.
    tombstoned: usize,
    /// Whether nothing is left to clean; if not, ask again.
    complete: bool,
}

/// Records in one batch. Orders are taken between two batches.
const BATCH_RECORDS: usize = 1_000;
/// How long one clean-up may take, so that it ends before its caller gives up.
const CLEANING_MAX: Duration = Duration::from_secs(10);

impl Admin {
    /// Who may do it on a server that listens on `ip`. If a token is set, it is always required.
    pub(crate) fn new(token: Option<Secret>, ip: IpAddr) -> Self {
        match token {
            Some(token) => Self::Token(token),
            None if ip.is_loopback() => Self::Open,
            None => Self::Closed,
        }
    }

    /// Lets a request in, or returns why not.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> Result<(), Problem> {
        match self {
            Self::Open => Ok(()),
            Self::Closed => Err(Problem::Closed),
            Self::Token(token) => match bearer(headers) {
                Some(offered) if token.matches(offered) => Ok(()),
                _ => Err(Problem::Unauthorized),
            },
        }
    }
}

/// Cleans in batches until nothing is left to clean or the time is over.
pub(crate) async fn clean(engine: &Engine) -> Result<Cleaned, keylatch::Error> {
    let started = Instant::now();
    let mut cleaned = Cleaned::default();
    while !cleaned.complete && started.elapsed() < CLEANING_MAX {
        let Swept { tombstoned, removed, more } = engine.sweep(BATCH_RECORDS).await?;
        cleaned.tombstoned += tombstoned;
        cleaned.removed += removed;
        cleaned.complete = !more;
    }
    Ok(cleaned)
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}
