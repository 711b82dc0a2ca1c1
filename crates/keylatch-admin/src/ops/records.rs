//! Records: finding, reading and listing them, and what can be done to one.

use std::fmt;

use keylatch::machine::{self, phase};
use keylatch::store::{At, PageRequest, State};
use keylatch::{Body, Epoch, Key, Outcome, Record, RecordId, Scope, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Error, Now, Operator, scan};
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
    /// What has happened and what will, as far as it is known, in its order.
    pub timeline: Vec<Moment>,
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

/// A moment in the life of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Moment {
    /// When; `null` if that is not recorded.
    pub at: Option<Instant>,
    /// Who knows of it.
    pub source: Source,
    /// What: `claimed`, `attempt`, `step`, `lease-ends`, `takeover`, `completed`, `retention-ends`, `free`.
    pub what: &'static str,
    /// The same in words.
    pub says: String,
}

/// Who knows of a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The store.
    Store,
    /// Only this process, which forgets it when it ends, or earlier.
    Process,
}

/// What can be done to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Let go of the key of an unknown run, so that a retry runs.
    Release,
    /// Write the answer of an unknown run.
    Resolve,
}

impl Action {
    /// Its name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Resolve => "resolve",
        }
    }
}

/// What an action would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Plan {
    /// The action.
    pub action: Action,
    /// Whether it can be done now.
    pub possible: bool,
    /// What it does, or why it cannot be done.
    pub says: String,
    /// Whether the request may take effect a second time.
    pub second_run: bool,
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
            timeline: timeline(&record),
            actions: [Action::Release, Action::Resolve].map(|action| plan(action, &record, now)).into(),
            kept,
        })
    }

    /// The record, and the store's clock.
    pub(super) async fn read(&self, id: RecordId) -> Result<(Record, Timestamp), Error> {
        let At { value, now } = self.store.read(id).await?;
        Ok((value.ok_or(Error::NotFound("record"))?, now))
    }
}

/// What the store knows of the life of `record`.
fn timeline(record: &Record) -> Vec<Moment> {
    let moment =
        |at: Option<Timestamp>, what, says: String| Moment { at: at.map(instant), source: Source::Store, what, says };
    let mut moments =
        vec![moment(Some(record.created_at), "claimed", "the first run of this request was claimed".to_owned())];
    let attempt = format!("attempt {} won the key, in epoch {}", record.attempt, record.epoch.as_u64());
    moments.push(moment(None, "attempt", attempt));
    match &record.state {
        State::Running { lease_ends_at, notes } => {
            moments.extend(notes.steps.iter().map(|(name, _)| moment(None, "step", format!("step `{name}` finished"))));
            let ends = if notes.released { "the run gave its key back without an outcome" } else { "the lease ends" };
            moments.push(moment(Some(*lease_ends_at), "lease-ends", ends.to_owned()));
            if let Some(at) = record.takeover_at {
                moments.push(moment(Some(at), "takeover", "from now on, the same request may take over".to_owned()));
            }
        }
        State::Completed { outcome, expires_at } => {
            let freed = record.free_at.is_some_and(|free_at| free_at < *expires_at);
            if freed {
                moments.push(moment(record.free_at, "free", "the key was let go; its epoch is still kept".to_owned()));
                return moments;
            }
            let says = match outcome {
                Some(outcome) => format!("an answer with the status {} was recorded", outcome.status.as_u16()),
                None => "it took effect; its answer is no longer kept".to_owned(),
            };
            moments.push(moment(None, "completed", says));
            moments.push(moment(Some(*expires_at), "retention-ends", "the answer is no longer kept".to_owned()));
        }
    }
    if let Some(at) = record.free_at {
        moments.push(moment(Some(at), "free", "anyone may claim the key".to_owned()));
    }
    moments
}

/// What `action` would do to `record` at `now`.
pub(super) fn plan(action: Action, record: &Record, now: Timestamp) -> Plan {
    let phase = phase(Some(record), now);
    let possible = phase == machine::Phase::Unknown;
    let says = match phase {
        machine::Phase::Unknown => match action {
            Action::Release => {
                "The key is let go, and the next request with it runs. The outcome of the earlier run is not known: if it \
                 took effect, it takes effect a second time. Make sure first that it did not."
            }
            Action::Resolve => {
                "This answer becomes the answer of the request, for good: every retry gets it, and it never runs again."
            }
        },
        machine::Phase::Running => "The run has an owner that is alive: its lease has not ended. Wait for its end.",
        machine::Phase::Abandoned => {
            "A retry of the same request takes over by itself, with the next epoch: there is nothing to resolve."
        }
        machine::Phase::Completed => "The answer is recorded: there is nothing to resolve.",
        machine::Phase::Tombstone => "It took effect, and its answer is no longer kept: there is nothing to resolve.",
        machine::Phase::Free => "The key is free: the next request with it runs.",
    };
    Plan { action, possible, says: says.to_owned(), second_run: possible && action == Action::Release }
}

/// Fails unless `record` is in the epoch that the operator has seen, and `action` can be done to it.
pub(super) fn check(action: Action, record: &Record, seen: u64, now: Timestamp) -> Result<Plan, Error> {
    let there = || Now::Record(Box::new(RecordView::new(record, now)));
    if record.epoch != Epoch::from_u64(seen) {
        return Err(Error::Stale(there()));
    }
    let plan = plan(action, record, now);
    match phase(Some(record), now) {
        _ if plan.possible => Ok(plan),
        machine::Phase::Running => Err(Error::Alive(there())),
        machine::Phase::Abandoned => {
            Err(Error::NotPossible { why: "a retry of the same request takes over by itself", now: there() })
        }
        _ => Err(Error::NotPossible { why: "it is not a run whose outcome is unknown", now: there() }),
    }
}
