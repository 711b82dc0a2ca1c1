//! The entries beside the records: which claims may be running, and which records a scope has.
//!
//! They are written before the transaction that they are for, so they never miss what is there. They can name what is
//! not: readers look at the record itself, and remove an entry that has been wrong for long enough.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::error::Failed;
use super::link::Link;
use super::value::Ttl;
use keylatch_core::{Owner, RecordId, Timestamp};

/// The partitions of the running claims of one store.
pub(super) const RUNNING_BUCKETS: i32 = 64;
/// The partitions of one scope.
pub(super) const SCOPE_BUCKETS: i32 = 16;
/// How many ended runs wait for their entries to be removed. Beyond this they are left to the readers.
const ENDED_MAX: usize = 65_536;
/// How many are removed in one message: Cassandra warns of batches over more partitions.
const ENDED_AT_ONCE: usize = 10;

/// The names of rows.
#[derive(Debug, Clone)]
pub(super) struct Names {
    prefix: Arc<[u8]>,
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.as_bytes().into() }
    }

    /// The key of a record's row.
    pub(super) fn row(&self, id: RecordId) -> Vec<u8> {
        [&self.prefix, id.as_bytes().as_slice()].concat()
    }

    /// The identity of a row of this store.
    pub(super) fn id_of(&self, row: &[u8]) -> Option<RecordId> {
        let id = row.strip_prefix(&*self.prefix)?;
        id.try_into().ok().map(RecordId::from_bytes)
    }

    pub(super) fn space(&self) -> &[u8] {
        &self.prefix
    }

    /// The key of a scope's rows.
    pub(super) fn scope(&self, digest: &[u8; 16]) -> Vec<u8> {
        [&self.prefix, digest.as_slice()].concat()
    }
}

/// The partition of a claim that may be running.
pub(super) fn running_bucket(id: RecordId) -> i32 {
    i32::from(id.as_bytes()[16]) % RUNNING_BUCKETS
}

/// The partition of a record of its scope.
pub(super) fn scope_bucket(key: &[u8]) -> i32 {
    i32::from(key[1]) % SCOPE_BUCKETS
}

/// The half of an identity that is the key's.
pub(super) fn key_half(id: RecordId) -> [u8; 16] {
    *id.as_bytes().last_chunk().expect("an identity is longer")
}

/// How long the index of scopes names a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    Unknown,
    Forever,
    Until(Timestamp),
}

impl Named {
    /// Of a record that is free for anyone then.
    pub(super) fn of(free_at: Option<Timestamp>) -> Self {
        free_at.map_or(Self::Forever, Self::Until)
    }

    /// Whether it names a record for as long as this one.
    pub(super) fn covers(self, needed: Self) -> bool {
        match (self, needed) {
            (Self::Forever, _) => true,
            (Self::Until(until), Self::Until(needed)) => until >= needed,
            (Self::Unknown | Self::Until(_), _) => false,
        }
    }
}

/// A run that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) id: RecordId,
    pub(super) owner: Owner,
    /// How long its scope still names it, if that was not known before.
    pub(super) named: Option<(Ttl, Timestamp)>,
}

/// Removes the entries of ended runs, beside the calls.
#[derive(Debug, Clone)]
pub(super) struct Endings(mpsc::Sender<Ended>);

impl Endings {
    /// Starts the task, which ends when the store is gone.
    pub(super) fn start(link: Arc<Link>, names: Names) -> Self {
        let (sender, mut ended) = mpsc::channel(ENDED_MAX);
        tokio::spawn(async move {
            let mut batch = Vec::with_capacity(ENDED_AT_ONCE);
            while ended.recv_many(&mut batch, ENDED_AT_ONCE).await > 0 {
                if let Err(error) = remove(&link, &names, &batch).await {
                    tracing::debug!(?error, "entries of ended runs were not removed; readers will remove them");
                }
                batch.clear();
            }
        });
        Self(sender)
    }

    pub(super) fn push(&self, ended: Ended) {
        // Full, or the task is gone with its runtime: readers remove the entry.
        let _ = self.0.try_send(ended);
    }
}

async fn remove(link: &Link, names: &Names, batch: &[Ended]) -> Result<(), Failed> {
    let entries = batch.iter().map(|Ended { id, owner, .. }| {
        (names.space(), running_bucket(*id), id.as_bytes().as_slice(), owner.as_bytes().as_slice())
    });
    link.unmark(entries.collect()).await?;
    for Ended { id, named, .. } in batch {
        if let Some((ttl, now)) = named {
            link.write(&link.mark_scope, scope_entry(names, *id, *ttl, *now)).await?;
        }
    }
    Ok(())
}

/// The values of a scope's entry.
pub(super) type ScopeEntry = (Vec<u8>, i32, Vec<u8>, i64, Ttl);

pub(super) fn scope_entry(names: &Names, id: RecordId, ttl: Ttl, now: Timestamp) -> ScopeEntry {
    let key = key_half(id);
    (names.scope(&id.scope_digest()), scope_bucket(&key), key.to_vec(), now.as_millis(), ttl)
}

/// The entries of a claim, and when they were written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marked {
    pub(super) at: Instant,
    pub(super) named: Named,
}
