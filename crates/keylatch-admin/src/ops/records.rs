//! Records: finding, reading and listing them, and what can be done to one.

use std::fmt;

use keylatch::machine::{self, phase};
use keylatch::store::{At, PageRequest, State};
use keylatch::{Body, Key, Outcome, Record, RecordId, Scope, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Action, Error, Moment, Operator, Plan, Seen, scan, timeline};
use crate::view::{Instant, Phase, RecordView, ScopeName, instant};

/// Records on a page, unless the request says otherwise.
pub const PAGE: u32 = 50;
/// Records on the largest page.
pub const PAGE_MAX: u32 = 500;
/// The longest reason for an action, in bytes.
pub const REASON_BYTES_MAX: usize = 1_000;

/// Which records to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListRecords {
    /// Only those of this caller, for `operation`.
    pub caller: Option<String>,
    /// The operation of `caller`, such as `POST /api/orders`; if it is left out, the one without a name.
    pub operation: Option<String>,
    /// Only those in this phase. Then a page can have fewer records than `limit`, even none, although more follow.
    pub phase: Option<Phase>,
    /// Where to go on: `next` of the page before, of the same list.
    pub cursor: Option<String>,
    /// How many at most, from 1 to 500; 50 if it is left out.
    pub limit: Option<u32>,
}

/// A part of a list of records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RecordPage {
    /// The records, in an order of the store's own.
    pub records: Vec<RecordView>,
    /// Where the list goes on; `null` on the last page.
    pub next: Option<String>,
    /// The store's clock.
    pub now: Instant,
}

/// Names a record by its scope and key.
#[derive(Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Find {
    /// The name space of the key.
    pub scope: ScopeName,
    /// The key.
    pub key: String,
}

/// Shows no key.
impl fmt::Debug for Find {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Find").finish_non_exhaustive()
    }
}

/// What to read of a record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Get {
    /// Also the headers and the body of the answer, and the results of the steps. Needs the role `operate`.
    #[serde(default)]
    pub body: bool,
}

/// A record, its time line, and what can be done to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RecordDetail {
    /// The record.
    pub record: RecordView,
    /// The store's clock.
    pub now: Instant,
    /// What the store knows of its life, in its order.
    pub timeline: Vec<Moment>,
    /// What this process saw of it; `null` if this process remembers nothing.
    pub seen: Option<Seen>,
    /// What each action would do now.
    pub actions: Vec<Plan>,
    /// The answer with its content, if it was asked for and is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
}

/// The content of an answer.
#[derive(Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Kept {
    /// The status.
    pub status: u16,
    /// The kept headers, in their order. Bytes that are not UTF-8 are replaced.
    pub headers: Vec<Header>,
    /// The body, if it is text; bytes that are not UTF-8 are replaced.
    pub body: Option<String>,
    /// Whether `body` is exactly what is kept.
    pub body_is_exact: bool,
}

/// Shows sizes, never content.
impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("status", &self.status).finish_non_exhaustive()
    }
}

/// A header of an answer.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Shows the name.
impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Header({:?})", self.name)
    }
}

impl From<&Outcome> for Kept {
    fn from(outcome: &Outcome) -> Self {
        let header = |name: &str, value: &[u8]| Header {
            name: name.to_owned(),
            value: String::from_utf8_lossy(value).into_owned(),
        };
        let headers = outcome.headers.iter().map(|(name, value)| header(name.as_str(), value.as_bytes())).collect();
        let (body, body_is_exact) = match &outcome.body {
            Body::Kept(bytes) => {
                let text = String::from_utf8_lossy(bytes);
                let is_exact = matches!(text, std::borrow::Cow::Borrowed(_));
                (Some(text.into_owned()), is_exact)
            }
            Body::NotRetained { .. } => (None, false),
        };
        Self { status: outcome.status.as_u16(), headers, body, body_is_exact }
    }
}

/// Asks for an action on a record.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The epoch of the record that the operator has seen. In another epoch nothing is changed.
    pub epoch: u64,
    /// Why: 1 to 1,000 bytes, without control characters.
    pub reason: String,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// What an action did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Acted {
    /// Whether it was done; `false` for a dry run.
    pub applied: bool,
    /// What it does.
    pub plan: Plan,
    /// The record after it, or as it is if nothing was done; `null` if it is gone.
    pub record: Option<RecordView>,
    /// The store's clock.
    pub now: Instant,
}

/// The identity that an operator has written.
pub(super) fn record_id(text: &str) -> Result<RecordId, Error> {
    text.parse().map_err(|_| Error::invalid("id", "must be the id of a record: 64 hexadecimal digits in lower case"))
}

pub(super) fn check_reason(reason: &str) -> Result<(), Error> {
    let is_text = (1..=REASON_BYTES_MAX).contains(&reason.len()) && !reason.contains(char::is_control);
    if is_text && !reason.trim().is_empty() {
        return Ok(());
    }
    Err(Error::invalid("reason", format!("must say why, in 1 to {REASON_BYTES_MAX} bytes without control characters")))
}

fn scope(name: &ScopeName) -> Result<Scope, Error> {
    let scope = Scope::new(&name.caller).and_then(|scope| scope.for_operation(&name.operation));
    scope.map_err(|error| Error::invalid("scope", format!("cannot be used: {error}")))
}

/// The scope that a query names, if it names one.
pub(super) fn scope_of(caller: Option<String>, operation: Option<String>) -> Result<Option<Scope>, Error> {
    match (caller, operation) {
        (Some(caller), operation) => scope(&ScopeName { caller, operation: operation.unwrap_or_default() }).map(Some),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(Error::invalid("operation", "needs a caller")),
    }
}

impl Operator {
    /// A page of records.
    ///
    /// # Errors
    ///
    /// If the request cannot be used, or the store fails.
    pub async fn list(&self, request: ListRecords) -> Result<RecordPage, Error> {
        let ListRecords { caller, operation, phase, cursor, limit } = request;
        let scope = scope_of(caller, operation)?;
        let (after, limit) = (scan::cursor(cursor.as_deref())?, scan::limit(limit)?);
        if scope.is_none() && matches!(phase, Some(Phase::Abandoned | Phase::Unknown)) {
            return self.collect_lapsed(after, limit, phase).await;
        }
        let read = |after, limit| self.store.list(PageRequest { scope: scope.clone(), after, limit });
        scan::collect(after, limit, phase, read).await
    }

    /// A page of the runs that nobody works on: their lease has ended. Of `request`, the scope is not used: it must not be
    /// given.
    ///
    /// # Errors
    ///
    /// If the request cannot be used, or the store fails.
    pub async fn lapsed(&self, request: ListRecords) -> Result<RecordPage, Error> {
        let ListRecords { caller, operation, phase, cursor, limit } = request;
        if caller.is_some() || operation.is_some() {
            return Err(Error::invalid("caller", "cannot be given here: use the list of records with a phase"));
        }
        if !matches!(phase, None | Some(Phase::Abandoned | Phase::Unknown)) {
            return Err(Error::invalid("phase", "must be abandoned or unknown: no other run has lapsed"));
        }
        self.collect_lapsed(scan::cursor(cursor.as_deref())?, scan::limit(limit)?, phase).await
    }

    async fn collect_lapsed(
        &self,
        after: Option<keylatch::store::Cursor>,
        limit: usize,
        phase: Option<Phase>,
    ) -> Result<RecordPage, Error> {
        scan::collect(after, limit, phase, |after, limit| self.store.lapsed(after, limit)).await
    }

    /// The record of a scope and key.
    ///
    /// # Errors
    ///
    /// If there is none, the request cannot be used, or the store fails.
    pub async fn find(&self, request: &Find) -> Result<RecordDetail, Error> {
        let scope = scope(&request.scope)?;
        let key = Key::new(request.key.as_str()).map_err(|error| Error::invalid("key", error.to_string()))?;
        self.detail(RecordId::of(&scope, &key), false).await
    }

    /// The record with this id, and the content of its answer if `get` asks for it.
    ///
    /// # Errors
    ///
    /// If there is none, the id is none, or the store fails.
    pub async fn get(&self, id: &str, get: Get) -> Result<RecordDetail, Error> {
        self.detail(record_id(id)?, get.body).await
    }

    async fn detail(&self, id: RecordId, with_content: bool) -> Result<RecordDetail, Error> {
        let (record, now) = self.read(id).await?;
        let kept = match (&record.state, phase(Some(&record), now)) {
            (State::Completed { outcome: Some(outcome), .. }, machine::Phase::Completed) if with_content => {
                Some((&**outcome).into())
            }
            _ => None,
        };
        Ok(RecordDetail {
            record: RecordView::new(&record, now),
            now: instant(now),
            timeline: timeline::stored(&record),
            seen: self.recent.as_ref().map(|recent| timeline::seen(recent, id)),
            actions: Action::ALL.map(|action| Plan::new(action, &record, now)).into(),
            kept,
        })
    }

    /// The record, and the store's clock.
    pub(super) async fn read(&self, id: RecordId) -> Result<(Record, Timestamp), Error> {
        let At { value, now } = self.store.read(id).await?;
        Ok((value.ok_or(Error::NotFound("record"))?, now))
    }
}
