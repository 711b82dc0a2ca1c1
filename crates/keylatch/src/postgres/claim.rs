//! Claims, in batches.

use std::collections::HashMap;

use super::batch::{Job, Reply, Waiting};
use super::error::{Fault, Sent};
use super::link::Link;
use super::rows::{Found, guarantee_code};
use super::{Shared, span_ms};
use crate::machine::{self, Claim, Claimed};
use crate::store::At;
use crate::{Owner, Record, RecordId, State, Timestamp};

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

/// `keylatch.claim`: a new record was made.
const FRESH: i16 = 1;

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
        let mut after = HashMap::with_capacity(rows.len());
        for row in rows {
            let found = Found::new(row)?;
            let (Some(id), now) = (found.id, found.now) else { continue };
            let there = if found.flag == FRESH {
                There::Fresh(found.owner()?)
            } else {
                There::Stored(Box::new(found.record()))
            };
            // The row of a new record stands before that of the same one as it is stored.
            after.entry(id).or_insert((there, now));
        }
        // Of several claims of one key, all but one find the record that the one has made.
        let fresh: HashMap<RecordId, Record> = jobs()
            .filter_map(|job| match after.get(&job.id)? {
                (There::Fresh(owner), now) if *owner == job.claim.owner => Some((job.id, made(&job.claim, *now))),
                _ => None,
            })
            .collect();
        Ok(jobs().map(|job| claimed(job, after.get(&job.id)?, &fresh)).collect())
    }
}

/// What is stored after the batch.
enum There {
    /// A new record, of this owner.
    Fresh(Owner),
    /// This one.
    Stored(Box<Result<Option<Record>, Fault>>),
}

fn claimed(job: &ClaimJob, there: &(There, Timestamp), fresh: &HashMap<RecordId, Record>) -> Reply<At<Claimed>> {
    let (there, now) = there;
    let record = match there {
        There::Fresh(_) => fresh.get(&job.id)?.clone(),
        There::Stored(stored) => match &**stored {
            Ok(record) => record.clone()?,
            Err(fault) => return Some(Err(fault.clone())),
        },
    };
    let ours = record.owner == job.claim.owner && matches!(record.state, State::Running { .. });
    let value = if ours { Claimed::Won(record) } else { Claimed::Held(record) };
    Some(Ok(At { value, now: *now }))
}

/// The record that a claim of an absent key makes.
fn made(claim: &Claim, now: Timestamp) -> Record {
    match machine::claim(None, claim, now) {
        Claimed::Won(record) => record,
        Claimed::Held(_) => unreachable!("a key without a record is free"),
    }
}
