//! What the handler of a leased run gets.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::Inner;
use super::flight::Flight;
use crate::store::{self, Applied};
use crate::{Epoch, Key, Lease, Notes, Record, Scope, State};

/// A run on a lease, as its handler sees it. Clones are the same run.
#[derive(Clone)]
pub struct Run(Arc<This>);

struct This {
    engine: Arc<Inner>,
    flight: Arc<Flight>,
    lease: Lease,
    scope: Scope,
    key: Key,
    attempt: u32,
    notes: Notes,
}

/// A step that did not come to be recorded.
#[derive(Debug, thiserror::Error)]
pub enum StepError<E> {
    /// The step itself failed. Nothing is recorded, and a later attempt calls it again.
    #[error(transparent)]
    Step(E),
    /// Another attempt has taken over; this one must stop.
    #[error("the lease was lost: another attempt has taken over, and this one must stop")]
    LeaseLost,
    /// The store failed; whether the result is recorded is not known.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Run {
    pub(super) fn new(engine: Arc<Inner>, flight: Arc<Flight>, lease: Lease, record: Record) -> Self {
        let notes = match record.state {
            State::Running { notes, .. } => notes,
            State::Completed { .. } => Notes::default(),
        };
        let Record { scope, key, attempt, .. } = record;
        Self(Arc::new(This { engine, flight, lease, scope, key, attempt, notes }))
    }

    /// The fencing number: higher than that of every earlier attempt. A resource that keeps the highest it has
    /// seen, and refuses lower ones, is safe from late attempts.
    pub fn epoch(&self) -> Epoch {
        self.0.lease.epoch
    }

    /// The how-manieth attempt at this request it is, from 1.
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// Whether the attempt before this one died: it may have done any part of its work.
    pub fn after_crash(&self) -> bool {
        self.0.notes.after_crash
    }

    /// The name space of the key.
    pub fn scope(&self) -> &Scope {
        &self.0.scope
    }

    /// The key.
    pub fn key(&self) -> &Key {
        &self.0.key
    }

    /// A key to hand to the next service: derived from scope, key and `name`, so the same on every attempt, and
    /// different for every request. 64 hexadecimal digits.
    pub fn key_for(&self, name: &str) -> Key {
        let hash = Sha256::new_with_prefix(b"keylatch derived key 1")
            .chain_update(self.0.lease.id.as_bytes())
            .chain_update(name)
            .finalize();
        let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        Key::new(&digits).expect("hexadecimal digits are a key")
    }

    /// Does a step of the work once: its result is recorded under the lease, and a later attempt gets it back
    /// instead of calling again. `call` gets a [derived key](Self::key_for) to hand on, for the moment between its
    /// effect and the record of it.
    ///
    /// # Errors
    ///
    /// If the step fails, the lease is lost, or the store fails.
    pub async fn step<E, F>(&self, name: &str, call: impl FnOnce(Key) -> F) -> Result<Bytes, StepError<E>>
    where
        F: Future<Output = Result<Bytes, E>>,
    {
        if let Some((_, result)) = self.0.notes.steps.iter().find(|(noted, _)| noted == name) {
            return Ok(result.clone());
        }
        let result = call(self.key_for(name)).await.map_err(StepError::Step)?;
        let asked = Instant::now();
        let engine = &self.0.engine;
        let step = Some((name.to_owned(), result.clone()));
        match engine.store.renew(self.0.lease, engine.terms(), step).await? {
            Applied::Applied(_) => {
                self.0.flight.held(self.0.lease, engine.held_until(asked), asked);
                Ok(result)
            }
            Applied::Lost => {
                self.0.flight.lose();
                Err(StepError::LeaseLost)
            }
        }
    }

    /// Cancelled when another attempt takes over. What this one still writes will change nothing, and its client
    /// gets the winner's answer.
    pub fn lease_lost(&self) -> CancellationToken {
        self.0.flight.token()
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("epoch", &self.0.lease.epoch).field("attempt", &self.0.attempt).finish()
    }
}
