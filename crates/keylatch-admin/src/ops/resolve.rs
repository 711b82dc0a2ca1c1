//! What an operator writes to a record.

use std::fmt;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use keylatch::machine::{self, Completion, Resolution};
use keylatch::store::{Applied, At};
use keylatch::{Body, Outcome, Record, RecordId, Timestamp};
use serde::Deserialize;
use utoipa::ToSchema;

use super::records::{check, check_reason, record_id};
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
        self.resolve_as(who, Action::Release, record_id(id)?, change, never).await
    }

    /// Writes the answer of a run whose outcome is unknown. It is final.
    ///
    /// # Errors
    ///
    /// If nothing was changed: see [`Error`].
    pub async fn resolve(&self, who: &Actor, id: &str, request: Resolve) -> Result<Acted, Error> {
        let id = record_id(id)?;
        let Resolve { epoch, reason, dry_run, status, headers, body } = request;
        let completion = Completion::new(outcome(status, &headers, body)?, &self.policy);
        let change = Change { epoch, reason, dry_run };
        self.resolve_as(who, Action::Resolve, id, change, Resolution::Completed(completion)).await
    }

    async fn resolve_as(
        &self,
        who: &Actor,
        action: Action,
        id: RecordId,
        change: Change,
        resolution: Resolution,
    ) -> Result<Acted, Error> {
        check_reason(&change.reason)?;
        let (record, now) = self.read(id).await?;
        let view = RecordView::new(&record, now);
        if change.dry_run {
            let plan = check(action, &record, change.epoch, now)?;
            return Ok(Acted { applied: false, plan, record: Some(view), now: instant(now) });
        }
        let before = Before { epoch: Some(view.epoch), phase: Some(view.phase), next: None };
        let asked = Asked { action: action.name(), target: vec![view.id.clone()], reason: change.reason, before };
        let work = async {
            let plan = check(action, &record, change.epoch, now)?;
            self.write(&record, plan, resolution).await
        };
        self.audited(who, asked, work, |acted| {
            acted.record.as_ref().map_or("gone".to_owned(), |record| record.phase.name().to_owned())
        })
        .await
    }

    /// Writes under the lease of the owner that is presumed dead. If it is alive after all, nothing is written.
    async fn write(&self, record: &Record, plan: Plan, resolution: Resolution) -> Result<Acted, Error> {
        let id = record.id();
        let applied = self.store.resolve(record.lease(), resolution).await?;
        let At { value, now } = self.store.read(id).await?;
        match applied {
            Applied::Applied(_) => {
                let record = value.map(|record| RecordView::new(&record, now));
                Ok(Acted { applied: true, plan, record, now: instant(now) })
            }
            Applied::Lost => Err(lost(record, value.as_ref(), now)),
        }
    }
}

/// Why a write to `seen` was lost, now that `found` is there.
fn lost(seen: &Record, found: Option<&Record>, now: Timestamp) -> Error {
    let Some(found) = found else { return Error::Stale(Now::Gone) };
    let there = Now::Record(Box::new(RecordView::new(found, now)));
    match machine::phase(Some(found), now) {
        _ if found.epoch != seen.epoch => Error::Stale(there),
        machine::Phase::Running => Error::Alive(there),
        _ => Error::NotPossible { why: "somebody else was first", now: there },
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
