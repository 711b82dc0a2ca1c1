//! One of many processes does something: the one that holds a lease, which is a record like any other.
//!
//! The relay of an outbox is such a process, and so is the consumer of a topic on a store that one process at a time
//! consumes for. The lease says who is to work; that nobody else's work counts is up to what is written, which has to
//! carry an epoch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::machine::{self, Claim, Claimed, Decision, End, Terms};
use crate::store::{Applied, At, Error, Store};
use crate::{Fingerprint, Guarantee, Key, Lease, Owner, Policy, Scope};

/// The shortest lease, in milliseconds: whoever holds it needs time to renew it.
pub const LEADER_LEASE_MS_MIN: u64 = 1_000;

/// How long the epoch of the last lease is kept, if nobody holds it.
const EPOCH_KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// A lease is renewed after this part of it, and a renewal may take as long.
const RENEWAL_PART: u32 = 3;
/// After a renewal that failed, it is tried again after this part of the lease.
const AGAIN_PART: u32 = 12;
/// Whoever stands by asks after this part of the lease.
const ASK_PART: u32 = 10;
/// So much of the lease is left when its holder stops counting on it: clocks run at slightly different speeds.
const MARGIN_PART: u32 = 10;

/// Asks for a lease.
#[derive(Debug)]
pub struct Candidate {
    store: Arc<dyn Store>,
    scope: Scope,
    key: Key,
    span: Duration,
    /// The same for each claim, so that a claim whose reply was lost is recognised.
    owner: Owner,
}

/// A lease that was won. It is renewed until it is dropped or lost.
#[derive(Debug)]
pub struct Held {
    lease: Lease,
    /// Until when its holder may count on it, as of the last renewal.
    until: watch::Receiver<Instant>,
    lost: CancellationToken,
    _renewing: AbortOnDropHandle<()>,
}

impl Candidate {
    /// A candidate for the lease with this name in `store`. All candidates for a lease should have the same `span`, of at
    /// least [`LEADER_LEASE_MS_MIN`]: if the process of its holder dies, the next one begins after at most so long.
    ///
    /// Nothing else may use the record of this scope and key.
    pub fn new(store: Arc<dyn Store>, scope: Scope, key: Key, span: Duration) -> Self {
        Self { store, scope, key, span, owner: Owner::random() }
    }

    fn terms(&self) -> Terms {
        let policy = Policy { lease: self.span, retention: EPOCH_KEPT, tombstone: Duration::ZERO };
        Terms::of(Guarantee::Fenced, &policy).with_clock_uncertainty(self.store.clock_uncertainty())
    }

    fn claim(&self) -> Claim {
        let fingerprint = Fingerprint::of([self.key.as_str().as_bytes()]);
        let (scope, key) = (self.scope.clone(), self.key.clone());
        Claim {
            owner: self.owner,
            terms: self.terms(),
            ..Claim::new(scope, key, fingerprint, Guarantee::Fenced, &Policy::default())
        }
    }

    /// Claims the lease, unless somebody else has it.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn win(&self) -> Result<Option<Held>, Error> {
        let claim = self.claim();
        // Whoever stands by only reads.
        let At { value: record, now } = self.store.read(claim.id()).await?;
        let ours = record.as_ref().is_some_and(|record| record.owner == self.owner);
        if !ours && machine::decide(record.as_ref(), claim.fingerprint, now) != Decision::Run {
            return Ok(None);
        }
        let asked = Instant::now();
        match self.store.claim(claim).await?.value {
            Claimed::Held(_) => Ok(None),
            Claimed::Won(record) => {
                let lease = record.lease();
                let (renewed, until) = watch::channel(asked + self.span);
                let lost = CancellationToken::new();
                let renewing = renew(self.store.clone(), lease, self.terms(), self.span, renewed, lost.clone());
                let renewing = AbortOnDropHandle::new(tokio::spawn(renewing));
                Ok(Some(Held { lease, until, lost, _renewing: renewing }))
            }
        }
    }

    /// How long to wait before asking again: so chosen that candidates that started together do not ask together.
    pub fn pause(&self) -> Duration {
        by_chance(self.span / ASK_PART)
    }

    /// Gives the lease back: the next holder need not wait for its end.
    pub async fn release(&self, held: Held) {
        if let Err(error) = self.store.release(held.lease, End::Retry(EPOCH_KEPT)).await {
            tracing::debug!(%error, "a lease was not given back; it ends by itself");
        }
    }
}

/// Between a half and one and a half times `pause`.
fn by_chance(pause: Duration) -> Duration {
    let [low, high, ..] = *Owner::random().as_bytes();
    pause / 2 + pause * u32::from(u16::from_le_bytes([low, high])) / (1 << 16)
}

async fn renew(
    store: Arc<dyn Store>,
    lease: Lease,
    terms: Terms,
    span: Duration,
    until: watch::Sender<Instant>,
    lost: CancellationToken,
) {
    let mut pause = span / RENEWAL_PART;
    loop {
        sleep(pause).await;
        let asked = Instant::now();
        pause = match timeout(span / RENEWAL_PART, store.renew(lease, terms, None)).await {
            Ok(Ok(Applied::Applied(_))) => {
                until.send_replace(asked + span);
                span / RENEWAL_PART
            }
            Ok(Ok(Applied::Lost)) => return lost.cancel(),
            Ok(Err(error)) => {
                tracing::warn!(%error, "a lease could not be renewed; its holder keeps trying");
                span / AGAIN_PART
            }
            Err(_) => {
                tracing::warn!("a lease was not renewed in time; its holder keeps trying");
                span / AGAIN_PART
            }
        };
    }
}

impl Held {
    /// What writes carry.
    pub const fn lease(&self) -> Lease {
        self.lease
    }

    /// Until when its holder may count on it, if at least a third of the lease is left: what is begun needs some time.
    pub(crate) fn until(&self, now: Instant, span: Duration) -> Option<Instant> {
        let until = *self.until.borrow() - span / MARGIN_PART;
        (now + span / RENEWAL_PART <= until).then_some(until)
    }

    /// Ends when the lease is renewed.
    pub(crate) async fn renewed(&self) {
        let mut until = self.until.clone();
        until.mark_unchanged();
        if until.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Ends when somebody else has taken over.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }
}
