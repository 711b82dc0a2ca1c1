//! Claims, in batches.

use std::collections::{HashMap, HashSet};

use super::batch::{Job, Reply, Waiting};
use super::error::{Fault, Sent};
use super::link::Link;
use super::rows::{ReplyRow, guarantee_code};
use super::{Shared, span_ms};
use keylatch_core::machine::{self, Claim, Claimed};
use keylatch_core::store::At;
use keylatch_core::{Owner, Record, RecordId, State, Timestamp};

/// A claim that waits for a batch.
#[derive(Debug)]
pub(super) struct ClaimJob {
    id: RecordId,
    claim: Claim,
}

impl ClaimJob {
    pub(super) fn new(claim: Claim) -> Self {
        Self { id: claim.id(), claim }
    }
}

/// The flags of `keylatch.claim`: it created a new record; a lock blocked it.
const MADE: i16 = 1;
const LOCKED: i16 = 2;

impl Job for ClaimJob {
    type Done = At<Claimed>;
    const OPERATION: &'static str = "claim";

    fn id(&self) -> RecordId {
        self.id
    }

    fn size(&self) -> usize {
        0
    }

    async fn run(jobs: &[Waiting<Self>], shared: &Shared, link: &mut Link) -> Result<Vec<Reply<At<Claimed>>>, Fault> {
        let jobs = || jobs.iter().map(|waiting| &waiting.job);
        let claims = || jobs().map(|job| &job.claim);
        let query = || {
            shared
                .query(&shared.statements.claim)
                .bind(jobs().map(|job| job.id.as_bytes().as_slice()).collect::<Vec<_>>())
                .bind(claims().map(|claim| claim.scope().caller()).collect::<Vec<_>>())
                .bind(claims().map(|claim| claim.scope().operation()).collect::<Vec<_>>())
                .bind(claims().map(|claim| claim.key().as_str()).collect::<Vec<_>>())
                .bind(claims().map(|claim| claim.fingerprint.as_bytes().as_slice()).collect::<Vec<_>>())
                .bind(claims().map(|claim| guarantee_code(claim.guarantee)).collect::<Vec<_>>())
                .bind(claims().map(|claim| claim.owner.as_bytes().as_slice()).collect::<Vec<_>>())
                .bind(claims().map(|claim| span_ms(claim.terms.lease)).collect::<Vec<_>>())
                .bind(claims().map(|claim| claim.terms.takeover.map(span_ms)).collect::<Vec<_>>())
                .bind(claims().map(|claim| claim.terms.free.map(span_ms)).collect::<Vec<_>>())
        };
        let rows = shared.links.rows_on(link, Sent::Perhaps, query).await?;
        let mut after = After { stored: HashMap::new(), made: HashMap::new(), locked: HashSet::new() };
        for row in rows {
            let found = ReplyRow::new(row)?;
            match (found.flag, found.id) {
                (MADE, _) => drop(after.made.insert(found.owner()?, found.now)),
                (LOCKED, _) => drop(after.locked.insert(found.owner()?)),
                (_, Some(id)) => drop(after.stored.insert(id, (found.record(), found.now))),
                (_, None) => {}
            }
        }
        // Of several claims of one key, one creates the record and the others find it.
        for job in jobs() {
            if let Some(now) = after.made.get(&job.claim.owner) {
                after.stored.entry(job.id).or_insert_with(|| (Ok(Some(made(&job.claim, *now))), *now));
            }
        }
        Ok(jobs().map(|job| after.reply(job)).collect())
    }
}

/// The result of a batch of claims.
struct After {
    /// The current records, and when they were read.
    stored: HashMap<RecordId, (Result<Option<Record>, Fault>, Timestamp)>,
    /// The claims that created new records, and when.
    made: HashMap<Owner, Timestamp>,
    /// The claims that a lock blocked.
    locked: HashSet<Owner>,
}

impl After {
    fn reply(&self, job: &ClaimJob) -> Reply<At<Claimed>> {
        if self.locked.contains(&job.claim.owner) {
            return Reply::Locked;
        }
        let Some((stored, now)) = self.stored.get(&job.id) else { return Reply::Again };
        let record = match stored {
            Ok(Some(record)) => record.clone(),
            Ok(None) => return Reply::Again,
            Err(fault) => return Reply::Done(Err(fault.clone())),
        };
        let ours = record.owner == job.claim.owner && matches!(record.state, State::Running { .. });
        let value = if ours { Claimed::Won(record) } else { Claimed::Held(record) };
        Reply::Done(Ok(At { value, now: *now }))
    }
}

/// The record of a claim of an absent key.
fn made(claim: &Claim, now: Timestamp) -> Record {
    match machine::claim(None, claim, now) {
        Claimed::Won(record) => record,
        Claimed::Held(_) => unreachable!("a key without a record is free"),
    }
}
