//! What the handler of a leased run gets.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
#[cfg(feature = "http")]
use http::Extensions;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::Inner;
use super::flight::Flight;
use super::steps::{Begun, Steps};
use crate::store::{self, Applied};
use crate::tx::{Database, Tx, TxSlot, Verdict};
use crate::{Epoch, Fingerprint, Key, Lease, Notes, Record, RecordId, Scope, State};

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
    after_crash: bool,
    fingerprint: Fingerprint,
    steps: Steps,
    on_error: Mutex<Option<Box<Verdict>>>,
}

/// The largest result of a step, in bytes of JSON: all steps of a run are in its record.
pub const STEP_BYTES_MAX: usize = 64 << 10;
/// The most steps that a run may have, including current ones: each is written together with all earlier ones.
pub const STEPS_MAX: usize = 64;

/// Why a step was not recorded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError<E> {
    /// The step itself failed. Nothing is recorded, and a later attempt calls it again.
    #[error(transparent)]
    Step(E),
    /// Another attempt has taken over; this one must stop.
    #[error("the lease was lost: another attempt has taken over, and this one must stop")]
    LeaseLost,
    /// The result is not JSON, or the recorded result does not have the step's type because the code changed between
    /// two attempts.
    #[error("the result of a step cannot be stored or read back: {0}")]
    Json(#[from] serde_json::Error),
    /// The result is over [`STEP_BYTES_MAX`]. Store it elsewhere and return a reference to it.
    #[error("the result of a step is over {STEP_BYTES_MAX} bytes; store it elsewhere and return a reference to it")]
    TooLarge,
    /// The run already has [`STEPS_MAX`] steps; this one was not called. Do more in one step.
    #[error("the run already has {STEPS_MAX} steps; do more in one step")]
    TooMany,
    /// The store failed; it is not known whether the result is recorded.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Run {
    pub(super) fn new(engine: Arc<Inner>, flight: Arc<Flight>, lease: Lease, record: Record) -> Self {
        let notes = match record.state {
            State::Running { notes, .. } => notes,
            State::Completed { .. } => Notes::default(),
        };
        let Notes { steps, after_crash, .. } = notes;
        let Record { scope, key, attempt, fingerprint, .. } = record;
        let (steps, on_error) = (Steps::new(steps), Mutex::default());
        Self(Arc::new(This { engine, flight, lease, scope, key, attempt, after_crash, fingerprint, steps, on_error }))
    }

    /// The identity of the run's record. Log it instead of scope and key, which it does not reveal. The spans contain
    /// it, and operators can read the record by it.
    pub fn id(&self) -> RecordId {
        self.0.lease.id
    }

    /// The fencing number: higher than that of every earlier attempt at this key, even if the key was free in between.
    /// A resource that stores the highest number it has seen, and refuses lower ones, is safe from late attempts. It
    /// may forget a number once retention and tombstone ([`Policy`](crate::Policy)) have passed since it last saw it,
    /// because epochs do not begin at 1 again before that.
    pub fn epoch(&self) -> Epoch {
        self.0.lease.epoch
    }

    /// The lease, for a transaction of the handler's own to check: [`sqlite::assert_owner`](crate::sqlite::assert_owner).
    pub fn lease(&self) -> Lease {
        self.0.lease
    }

    /// The attempt number, from 1.
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// Whether nothing of this request is known to have had an effect: it is the first attempt, and no step of it has begun.
    #[cfg(feature = "http")]
    pub(crate) fn is_untouched(&self) -> bool {
        self.0.attempt == 1 && !self.0.steps.any_begun()
    }

    /// Whether the lease of the previous attempt ended without an outcome, because its process died or was paused. It
    /// may have done any part of its work. `false` after an attempt that ended with an answer that allows a retry, such
    /// as a 503, or a 408 of an inner time-out layer, although that attempt may have stopped half-way, too.
    pub fn after_crash(&self) -> bool {
        self.0.after_crash
    }

    /// The name space of the key.
    pub fn scope(&self) -> &Scope {
        &self.0.scope
    }

    /// The key.
    pub fn key(&self) -> &Key {
        &self.0.key
    }

    /// A key for the next service: derived from scope, key, fingerprint and `name`, so it is the same on every attempt
    /// and different for every request, even if a key was freed and used again. 64 hexadecimal digits.
    pub fn key_for(&self, name: &str) -> Key {
        derived_key(self.0.lease.id, self.0.fingerprint, name)
    }

    /// Does a step of the work once: its result is recorded under the lease, as JSON. Another call of the step with
    /// this name, in this attempt or a later one, returns the recorded result. `call` gets a
    /// [derived key](Self::key_for) to pass on, in case the process dies between the effect and its record.
    ///
    /// Steps with different names may run at once. A call for a name that is running waits for it, and calls only if
    /// that one fails; so a step must not call itself.
    ///
    /// A step that is not recorded runs before the lease is checked. For a resource that must refuse a late attempt,
    /// use the [epoch](Self::epoch).
    ///
    /// # Errors
    ///
    /// If the step fails, its result is too large or not JSON, the lease is lost, or the store fails.
    pub async fn step<T, E, F>(&self, name: &str, call: impl FnOnce(Key) -> F) -> Result<T, StepError<E>>
    where
        T: Serialize + DeserializeOwned,
        F: Future<Output = Result<T, E>>,
    {
        let place = match self.0.steps.begin(name).await {
            Begun::Noted(noted) => return Ok(serde_json::from_slice(&noted)?),
            Begun::TooMany => return Err(StepError::TooMany),
            Begun::Place(place) => place,
        };
        let result = call(self.key_for(name)).await.map_err(StepError::Step)?;
        let noted = Bytes::from(serde_json::to_vec(&result)?);
        if noted.len() > STEP_BYTES_MAX {
            return Err(StepError::TooLarge);
        }
        self.renew(Some((name.to_owned(), noted.clone()))).await?;
        place.note(noted);
        Ok(result)
    }

    /// Checks, in the store, that this attempt still holds the lease, and renews it: just before an effect that
    /// cannot be fenced.
    ///
    /// # Errors
    ///
    /// If another attempt has taken over, or the store fails.
    pub async fn assert_owner(&self) -> Result<(), StepError<Infallible>> {
        self.renew(None).await
    }

    async fn renew<E>(&self, step: Option<(String, Bytes)>) -> Result<(), StepError<E>> {
        let asked = Instant::now();
        let engine = &self.0.engine;
        match engine.store.renew(self.0.lease, engine.terms(&self.0.flight), step).await? {
            Applied::Applied(_) => {
                self.0.flight.held(self.0.lease, engine.held_until(asked), asked);
                Ok(())
            }
            Applied::Lost => {
                self.0.flight.lose();
                Err(StepError::LeaseLost)
            }
        }
    }

    /// Sets the verdict if the work of [`Engine::run`](crate::Engine::run) ends in an error, instead of the rule of the
    /// guarantee. The latest call counts. An outcome that it keeps is the recorded result: JSON of the function's type.
    pub fn on_error(&self, verdict: Verdict) {
        *self.0.on_error.lock() = Some(Box::new(verdict));
    }

    /// Takes the verdict that the handler has set with [`on_error`](Self::on_error); for authors of entry points.
    pub fn verdict_on_error(&self) -> Option<Verdict> {
        self.0.on_error.lock().take().map(|verdict| *verdict)
    }

    /// Cancelled when another attempt may run: one has taken over, or the lease has ended on this process's clock and
    /// could not be renewed, as when the store cannot be reached. Then stop, or at least start nothing that must not be
    /// done twice.
    ///
    /// After a takeover, what this attempt writes changes nothing, and its client gets the winner's answer. If nobody
    /// has taken over, the lease is renewed once the store is back, and the outcome of this attempt counts; the token
    /// stays cancelled. [`assert_owner`](Self::assert_owner) tells the two apart.
    pub fn lease_lost(&self) -> CancellationToken {
        self.0.flight.token()
    }
}

/// A key to pass on with a request: see [`Run::key_for`].
pub(crate) fn derived_key(id: RecordId, fingerprint: Fingerprint, name: &str) -> Key {
    let hash = Sha256::new_with_prefix(b"keylatch derived key 2")
        .chain_update(id.as_bytes())
        .chain_update(fingerprint.as_bytes())
        .chain_update(name)
        .finalize();
    Key::new(&hex::encode(hash)).expect("hexadecimal digits are a key")
}

/// What the engine gives to the work of a run: a [`Run`] on a lease, a [`Tx`] in `Atomic`.
pub struct RunOrTx(pub(super) Kind);

pub(super) enum Kind {
    Run(Run),
    Tx(TxSlot, Identity),
}

/// The scope and the key of a guarded request, for handlers that ask for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The name space of the key: the caller and the operation.
    pub scope: Scope,
    /// The client's key.
    pub key: Key,
}

impl RunOrTx {
    /// The run, if it is on a lease.
    pub fn run(&self) -> Option<&Run> {
        match &self.0 {
            Kind::Run(run) => Some(run),
            Kind::Tx(..) => None,
        }
    }

    /// The transaction, if it is one of `D`; only the first call gets it.
    pub fn tx<D: Database>(&self) -> Option<Tx<D>> {
        match &self.0 {
            Kind::Run(_) => None,
            Kind::Tx(slot, _) => slot.take(),
        }
    }

    /// The scope and the key of the request.
    pub fn identity(&self) -> (&Scope, &Key) {
        match &self.0 {
            Kind::Run(run) => (run.scope(), run.key()),
            Kind::Tx(_, identity) => (&identity.scope, &identity.key),
        }
    }

    /// Puts it into a request's extensions, for its handler.
    #[cfg(feature = "http")]
    pub(crate) fn put_into(self, extensions: &mut Extensions) {
        match self.0 {
            Kind::Run(run) => {
                // What an outer layer has put there belongs to that layer.
                extensions.remove::<Identity>();
                extensions.insert(run);
            }
            Kind::Tx(slot, identity) => {
                extensions.insert(identity);
                extensions.insert(slot);
            }
        }
    }
}

impl fmt::Debug for RunOrTx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RunOrTx")
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("epoch", &self.0.lease.epoch).field("attempt", &self.0.attempt).finish()
    }
}
