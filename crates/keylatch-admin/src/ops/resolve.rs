//! What an operator writes to a record.

use std::fmt;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, StatusCode};
use keylatch::machine::{self, Completion, Resolution};
use keylatch::store::{self, Applied, At};
use keylatch::{Body, Lease, Outcome, Record, Timestamp};
use serde::Deserialize;
use utoipa::ToSchema;

use super::records::{check_reason, record_id};
use super::{Acted, Action, Change, Error, Header, Now, Operator, Plan};
use crate::audit::{Actor, Asked, Before};
use crate::view::{RecordView, instant};

/// The largest body that an operator writes as an answer, in bytes.
pub const RESOLVE_BODY_BYTES_MAX: usize = 1 << 20;
/// The most headers of such an answer.
pub const HEADERS_MAX: usize = 32;

/// Asks to write the answer of a run whose outcome is unknown.
#[derive(Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Resolve {
    /// The epoch of the record that the operator has seen. In another epoch nothing is changed.
    pub epoch: u64,
    /// Why: 1 to 1,000 bytes, without control characters.
    pub reason: String,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// The status of the answer, from 200 to 599.
    pub status: u16,
    /// Its headers, at most 32.
    #[serde(default)]
    pub headers: Vec<Header>,
    /// Its body, at most 1 MiB.
    #[serde(default)]
    pub body: String,
}

/// Shows no content.
impl fmt::Debug for Resolve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolve").field("epoch", &self.epoch).field("status", &self.status).finish_non_exhaustive()
    }
}

impl Operator {
    /// Lets go of the key of a run whose outcome is unknown, so that a retry runs. If the run took effect, that is a
    /// second time.
    ///
    /// # Errors
    ///
    /// If nothing was changed: see [`Error`].
    pub async fn release(&self, who: &Actor, id: &str, change: Change) -> Result<Acted, Error> {
        let never = Resolution::NeverHappened(self.policy.keep());
        self.change(who, Action::Release, id, change, |lease| self.store.resolve(lease, never)).await
    }

    /// Writes the answer of a run whose outcome is unknown. It is final.
    ///
    /// # Errors
    ///
    /// If nothing was changed: see [`Error`].
    pub async fn resolve(&self, who: &Actor, id: &str, request: Resolve) -> Result<Acted, Error> {
        let Resolve { epoch, reason, dry_run, status, headers, body } = request;
        let completion = Completion::new(outcome(status, &headers, body)?, &self.policy);
        let (change, resolution) = (Change { epoch, reason, dry_run }, Resolution::Completed(completion));
        self.change(who, Action::Resolve, id, change, |lease| self.store.resolve(lease, resolution)).await
    }

    /// Takes a recorded answer away, and leaves its tombstone: a retry gets 410, and never a second run.
    ///
    /// # Errors
    ///
    /// If nothing was changed: see [`Error`].
    pub async fn forget(&self, who: &Actor, id: &str, change: Change) -> Result<Acted, Error> {
        self.change(who, Action::Forget, id, change, |lease| self.store.forget(lease)).await
    }

    /// Does `action` by `write`, which gets the lease of the record that was seen.
    async fn change<'s>(
        &'s self,
        who: &Actor,
        action: Action,
        id: &str,
        change: Change,
        write: impl FnOnce(Lease) -> BoxFuture<'s, Result<Applied, store::Error>>,
    ) -> Result<Acted, Error> {
        check_reason(&change.reason)?;
        let (record, now) = self.read(record_id(id)?).await?;
        let view = RecordView::new(&record, now);
        if change.dry_run {
            let plan = Plan::check(action, &record, change.epoch, now)?;
            return Ok(Acted { applied: false, plan, record: Some(view), now: instant(now) });
        }
        let before = Before { epoch: Some(view.epoch), phase: Some(view.phase), next: None };
        let asked = Asked { action: action.name(), target: vec![view.id.clone()], reason: change.reason, before };
        let work = async {
            let plan = Plan::check(action, &record, change.epoch, now)?;
            // The lease of the owner that is presumed dead: if it is alive after all, the store writes nothing.
            let applied = write(record.lease()).await?;
            let At { value, now } = self.store.read(record.id()).await?;
            match applied {
                Applied::Applied(_) => {
                    let record = value.map(|record| RecordView::new(&record, now));
                    Ok(Acted { applied: true, plan, record, now: instant(now) })
                }
                Applied::Lost => Err(lost(&record, value.as_ref(), now)),
            }
        };
        self.audited(who, asked, work, |acted| {
            acted.record.as_ref().map_or("gone", |record| record.phase.name()).to_owned()
        })
        .await
    }
}

/// Why a write to `seen` was lost, now that `found` is there.
fn lost(seen: &Record, found: Option<&Record>, now: Timestamp) -> Error {
    let Some(found) = found else { return Error::Stale(Now::Gone) };
    let there = Now::Record(Box::new(RecordView::new(found, now)));
    match machine::phase(Some(found), now) {
        _ if found.epoch != seen.epoch => Error::Stale(there),
        machine::Phase::Running => Error::Alive(there),
        _ => Error::NotPossible { why: "somebody else was first".to_owned(), now: there },
    }
}

/// The answer that an operator has written.
fn outcome(status: u16, headers: &[Header], body: String) -> Result<Outcome, Error> {
    let status = StatusCode::from_u16(status).ok().filter(|status| (200..=599).contains(&status.as_u16()));
    let status = status.ok_or_else(|| Error::invalid("status", "must be a status from 200 to 599"))?;
    if headers.len() > HEADERS_MAX {
        return Err(Error::invalid("headers", format!("must be {HEADERS_MAX} at most")));
    }
    if body.len() > RESOLVE_BODY_BYTES_MAX {
        return Err(Error::invalid("body", format!("must have at most {RESOLVE_BODY_BYTES_MAX} bytes")));
    }
    let header = |Header { name, value }: &Header| {
        let name: HeaderName = name.parse().map_err(|_| Error::invalid("headers", "has a name that is none"))?;
        keylatch::http::check_kept(&name).map_err(|error| Error::invalid("headers", error.to_string()))?;
        let value = HeaderValue::from_str(value).map_err(|_| Error::invalid("headers", "has a value that is none"))?;
        Ok((name, value))
    };
    let headers = headers.iter().map(header).collect::<Result<_, Error>>()?;
    Ok(Outcome { status, headers, body: Body::Kept(Bytes::from(body)) })
}
