//! One attempt at a claim, in a transaction: look, enter, the handler's statements, the record, commit.

use sqlx::postgres::PgRow;

use super::batch::Lane;
use super::error::{Fault, Sent};
use super::link::Link;
use super::look::LookJob;
use super::ops::scalar;
use super::own::client::{Call, Param};
use super::own::instant;
use super::rows::{COMPLETED, RUNNING, guarantee_code};
use super::tx::{Home, Postgres};
use super::{Shared, packed, span_ms};
use keylatch_core::failpoint::{self, Point};
use keylatch_core::machine::{self, Claim, Claimed, Completion};
use keylatch_core::store::{At, ErrorKind};
use keylatch_core::tx::{Misuse, Start, Transacted, Verdict};
use keylatch_core::{Epoch, Lease, Owner, Policy, Record, RecordId, State, Timestamp};
use sha2::{Digest as _, Sha256};
use tokio::sync::OwnedSemaphorePermit;

/// How often the record may change between the look and the entry.
const TRIES_MAX: u32 = 8;

/// The locks of the keys in one schema. Advisory locks belong to a database, so the schema is a part of their numbers: of
/// two stores in one database, neither holds up the other.
#[derive(Debug)]
pub(super) struct KeyLocks {
    schema: i64,
}

impl KeyLocks {
    pub(super) fn of(schema: &str) -> Self {
        Self { schema: eight(&Sha256::digest(schema)) }
    }

    /// The lock of this key.
    pub(super) fn of_key(&self, id: &RecordId) -> i64 {
        // The second half of an identity is a hash of scope and key.
        eight(&id.as_bytes()[16..]) ^ self.schema
    }
}

/// The first eight bytes, as a number.
fn eight(bytes: &[u8]) -> i64 {
    i64::from_le_bytes(bytes[..8].try_into().expect("eight bytes are eight bytes"))
}

/// The record that an attempt found, which its own takes the place of; none, if there was none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen(Option<(Epoch, Owner, i16)>);

impl Seen {
    pub(super) fn of(record: Option<&Record>) -> Self {
        Self(record.map(|record| {
            let state = match record.state {
                State::Running { .. } => RUNNING,
                State::Completed { .. } => COMPLETED,
            };
            (record.epoch, record.owner, state)
        }))
    }
}

/// What the look before an attempt leads to.
enum Looked {
    /// The key was free: this is the record that the claim makes, in place of that one.
    Free(At<(Record, Seen)>),
    /// The attempt is over before it began.
    Decided(At<Transacted>),
}

/// How an entry went.
enum Entry {
    Entered,
    Busy,
    Changed,
}

impl Shared {
    /// Does one attempt: see [`Transactional::transact`](keylatch_core::tx::Transactional::transact).
    pub(super) async fn attempt(
        &self,
        looks: &Lane<LookJob>,
        claim: Claim,
        policy: Policy,
        start: Start<Postgres>,
    ) -> Result<At<Transacted>, Fault> {
        let id = claim.id();
        let mut busy_at = None;
        for _ in 0..TRIES_MAX {
            let free = match self.look(looks, &claim).await? {
                Looked::Free(free) => free,
                Looked::Decided(decided) => return Ok(decided),
            };
            let turn = self.links.turn().await?;
            let mut link = self.links.link().await?;
            match self.enter(&mut link, id, &free.value).await? {
                Entry::Entered => return self.run(looks, link, turn, free, policy, start).await,
                // Who has it, if anyone, is seen by another look.
                Entry::Busy => busy_at = Some(free.now),
                Entry::Changed => {}
            }
        }
        match busy_at {
            Some(now) => Ok(At { value: Transacted::Busy, now }),
            None => Err(Fault::new(ErrorKind::Unavailable, "the record changed on every try")),
        }
    }

    async fn look(&self, looks: &Lane<LookJob>, claim: &Claim) -> Result<Looked, Fault> {
        let found = looks.call(LookJob::new(claim.id())).await?;
        let (now, previous) = (found.now, found.record()?);
        self.answerable(previous.as_ref()).await?;
        let seen = Seen::of(previous.as_ref());
        let decided = |value| Looked::Decided(At { value, now });
        Ok(match machine::claim(previous, claim, now) {
            Claimed::Held(record) => decided(Transacted::Held(record)),
            Claimed::Won(_) if found.flag != 0 => decided(Transacted::Busy),
            Claimed::Won(record) => Looked::Free(At { value: (record, seen), now }),
        })
    }

    /// Begins the transaction and takes the key for it, in one round trip.
    async fn enter(&self, link: &mut Link, id: RecordId, (record, seen): &(Record, Seen)) -> Result<Entry, Fault> {
        let sql = self
            .statements
            .enter
            .text()
            .replace(":id", &hex(id.as_bytes()))
            .replace(":owner", &hex(record.owner.as_bytes()))
            .replace(":key_lock", &self.key_locks.of_key(&id).to_string())
            .replace(":seen_epoch", &text_or_null(seen.0.map(|(epoch, ..)| epoch.as_u64().cast_signed())))
            .replace(
                ":seen_owner",
                &seen.0.map_or_else(|| "null".to_owned(), |(_, owner, _)| format!("'{}'", hex(owner.as_bytes()))),
            )
            .replace(":seen_state", &text_or_null(seen.0.map(|(.., state)| state)));
        let Err(fault) = self.links.begin(link, sql).await else { return Ok(Entry::Entered) };
        let entry = match fault.code.as_deref() {
            Some("KL001") => Entry::Busy,
            Some("KL002") => Entry::Changed,
            _ => return Err(fault),
        };
        self.links.rollback(link).await?;
        Ok(entry)
    }

    /// Lends the handler the connection, and carries out its verdict.
    async fn run(
        &self,
        looks: &Lane<LookJob>,
        link: Link,
        turn: OwnedSemaphorePermit,
        free: At<(Record, Seen)>,
        policy: Policy,
        start: Start<Postgres>,
    ) -> Result<At<Transacted>, Fault> {
        let At { value: (record, seen), now } = free;
        failpoint::hit(Point::AfterClaim);
        let (home, tx) = Home::lend(link);
        let verdict = start(tx).await;
        failpoint::hit(Point::AfterHandlerWrite);
        let returned = home.close();
        let (outcome, keep) = match verdict {
            Verdict::Keep(outcome) => (outcome, true),
            Verdict::KeepUndone(outcome) => (outcome, false),
            Verdict::Free | Verdict::Retry | Verdict::Unknown => {
                if let Some(mut link) = returned
                    && let Err(fault) = self.links.rollback(&mut link).await
                {
                    tracing::debug!(%fault, "a transaction is rolled back by its connection's end");
                }
                return Ok(At { value: Transacted::RolledBack, now });
            }
        };
        let misused = |misuse| Ok(At { value: Transacted::Misused(misuse), now });
        let Some(mut link) = returned.filter(Link::is_at_top) else { return misused(Misuse::NotReturned) };
        let completion = Completion::new(outcome, &policy);
        if !keep {
            self.links.rollback(&mut link).await?;
            return self.record_alone(link, record, seen, completion).await;
        }
        let query = self.finish(&record, &completion, seen, true).into_query();
        let finished = match self.links.rows_inside(&mut link, query).await {
            Ok(rows) => finished_at(&rows)?,
            Err(fault) if fault.has_code("25P02") => return misused(Misuse::Failed),
            Err(fault) if fault.has_code("KL004") => return misused(Misuse::Ended),
            Err(fault) if fault.has_code("42501") => return misused(Misuse::OtherRole),
            Err(fault) => return Err(fault),
        };
        let Some(now) = finished else {
            self.links.rollback(&mut link).await?;
            // Nobody holds a connection while he waits for another.
            drop((link, turn));
            return self.held(&record, now).await;
        };
        failpoint::hit(Point::BeforeCommit);
        match self.links.commit(&mut link).await {
            Ok(()) => {}
            Err(fault) if fault.kind == ErrorKind::NotKnown => {
                drop(link);
                return self.settle(looks, &record, fault).await;
            }
            // A constraint that is checked at the end.
            Err(fault) if fault.kind == ErrorKind::Refused && fault.code.is_some() => {
                tracing::warn!(
                    code = fault.code.as_deref(),
                    "PostgreSQL refused the commit of a handler's transaction"
                );
                return misused(Misuse::Failed);
            }
            Err(fault) => return Err(fault),
        }
        failpoint::hit(Point::AfterCommit);
        self.kept(&mut link).await?;
        Ok(At { value: Transacted::Committed(completed(&record, &completion, now)?), now })
    }

    /// Writes the record of an answer whose writes were taken back.
    async fn record_alone(
        &self,
        mut link: Link,
        record: Record,
        seen: Seen,
        completion: Completion,
    ) -> Result<At<Transacted>, Fault> {
        failpoint::hit(Point::BeforeCommit);
        let query = || self.finish(&record, &completion, seen, false).into_query();
        let rows = self.links.rows_on(&mut link, Sent::Perhaps, query).await?;
        failpoint::hit(Point::AfterCommit);
        self.kept(&mut link).await?;
        match finished_at(&rows)? {
            Some(now) => Ok(At { value: Transacted::Committed(completed(&record, &completion, now)?), now }),
            None => {
                drop(link);
                self.held(&record, record.created_at).await
            }
        }
    }

    /// What there is in the place of a record that could not be written.
    async fn held(&self, record: &Record, now: Timestamp) -> Result<At<Transacted>, Fault> {
        match self.read(record.id()).await? {
            // A reply was lost, and it was ours already.
            At { value: Some(there), now } if there.owner == record.owner => {
                Ok(At { value: Transacted::Committed(there), now })
            }
            At { value: Some(there), now } => Ok(At { value: Transacted::Held(there), now }),
            At { value: None, .. } => Ok(At { value: Transacted::Busy, now }),
        }
    }

    /// The statement that writes a finished record.
    pub(super) fn finish(&self, record: &Record, completion: &Completion, seen: Seen, entered: bool) -> Call {
        let bytes = |bytes: &[u8]| Param::Bytes(Some(bytes.to_vec()));
        let text = |text: &str| Param::Text(text.to_owned());
        let number = |number: i64| Param::Number(Some(number));
        let packed = packed::pack(&completion.outcome, self.options.compress_from_bytes);
        let params = vec![
            bytes(record.id().as_bytes()),
            text(record.scope.caller()),
            text(record.scope.operation()),
            text(record.key.as_str()),
            bytes(record.fingerprint.as_bytes()),
            number(guarantee_code(record.guarantee).into()),
            bytes(record.owner.as_bytes()),
            number(record.epoch.as_u64().cast_signed()),
            number(record.attempt.cast_signed().into()),
            number(record.created_at.as_millis()),
            Param::Bytes(Some(packed)),
            number(span_ms(completion.retention)),
            number(span_ms(completion.tombstone)),
            Param::Number(seen.0.map(|(epoch, ..)| epoch.as_u64().cast_signed())),
            Param::Bytes(seen.0.map(|(_, owner, _)| owner.as_bytes().to_vec())),
            number(entered.into()),
        ];
        self.call(&self.statements.finish, params)
    }
}

/// When [`Shared::finish`] wrote the record; `None` if another has it.
fn finished_at(rows: &[PgRow]) -> Result<Option<Timestamp>, Fault> {
    scalar::<Option<&[u8]>>(rows)?.map(instant).transpose()
}

/// The record that was written at `now`.
pub(super) fn completed(record: &Record, completion: &Completion, now: Timestamp) -> Result<Record, Fault> {
    let lease = Lease { id: record.id(), epoch: record.epoch, owner: record.owner };
    machine::complete(record, &lease, completion, now)
        .ok_or_else(|| Fault::new(ErrorKind::Refused, "a record does not take its own completion"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text_or_null(number: Option<impl ToString>) -> String {
    number.map_or_else(|| "NULL".to_owned(), |number| number.to_string())
}
