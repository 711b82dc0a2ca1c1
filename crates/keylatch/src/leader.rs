//! The relay's lease: a record like any other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Outbox;
use crate::machine::{self, Claim, Claimed, Decision, End, Terms};
use crate::store::{Applied, At, Error};
use crate::{Fingerprint, Guarantee, Key, Lease, Owner, Policy, Scope};

/// The scope and the key of the record, and what it is a request for. Scopes of HTTP requests have an operation that begins
/// with a method, so none is the same.
const SCOPE: (&str, &str) = ("keylatch", "outbox");
const KEY: &str = "relay";

/// How long the epoch of the last lease is kept, if no relay runs.
const EPOCH_KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// A lease is renewed after this part of it, and a renewal may take as long.
const RENEWAL_PART: u32 = 3;
/// After a renewal that failed, it is tried again after this part of the lease.
const AGAIN_PART: u32 = 12;
/// So much of the lease is left when the relay stops counting on it: clocks run at slightly different speeds.
const MARGIN_PART: u32 = 10;

/// Asks for the lease.
#[derive(Debug)]
pub(super) struct Candidate {
    store: Arc<dyn Outbox>,
    span: Duration,
    /// The same for each claim, so that a claim whose reply was lost is recognised.
    owner: Owner,
}

/// A lease that was won. It is renewed until it is dropped or lost.
#[derive(Debug)]
pub(super) struct Held {
    lease: Lease,
    /// Until when the relay may count on it, as of the last renewal.
    until: watch::Receiver<Instant>,
    lost: CancellationToken,
    _renewing: AbortOnDropHandle<()>,
}

impl Candidate {
    pub(super) fn new(store: Arc<dyn Outbox>, span: Duration) -> Self {
        Self { store, span, owner: Owner::random() }
    }

    fn terms(&self) -> Terms {
        let policy = Policy { lease: self.span, retention: EPOCH_KEPT, tombstone: Duration::ZERO };
        Terms::of(Guarantee::Fenced, &policy).with_clock_uncertainty(self.store.clock_uncertainty())
    }

    fn claim(&self) -> Claim {
        let scope = Scope::new(SCOPE.0).and_then(|scope| scope.for_operation(SCOPE.1)).expect("it is a valid scope");
        Claim {
            owner: self.owner,
            terms: self.terms(),
            ..Claim::new(
                scope,
                Key::new(KEY).expect("it is a valid key"),
                Fingerprint::of([KEY.as_bytes()]),
                Guarantee::Fenced,
                &Policy::default(),
            )
        }
    }

    /// Claims the lease, unless another relay has it.
    pub(super) async fn win(&self) -> Result<Option<Held>, Error> {
        let claim = self.claim();
        // A relay that stands by only reads.
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

    /// Gives the lease back: the next relay need not wait for its end.
    pub(super) async fn release(&self, held: Held) {
        if let Err(error) = self.store.release(held.lease, End::Retry(EPOCH_KEPT)).await {
            tracing::debug!(%error, "the relay's lease was not given back; it ends by itself");
        }
    }
}

async fn renew(
    store: Arc<dyn Outbox>,
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
                tracing::warn!(%error, "the relay's lease could not be renewed; it keeps trying");
                span / AGAIN_PART
            }
            Err(_) => {
                tracing::warn!("the relay's lease was not renewed in time; it keeps trying");
                span / AGAIN_PART
            }
        };
    }
}

impl Held {
    /// What writes carry.
    pub(super) const fn lease(&self) -> Lease {
        self.lease
    }

    /// Until when the relay may publish, if at least a third of the lease is left: what is handed out needs some time.
    pub(super) fn until(&self, now: Instant, span: Duration) -> Option<Instant> {
        let until = *self.until.borrow() - span / MARGIN_PART;
        (now + span / RENEWAL_PART <= until).then_some(until)
    }

    /// Ends when the lease is renewed.
    pub(super) async fn renewed(&self) {
        let mut until = self.until.clone();
        until.mark_unchanged();
        if until.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Ends when another relay has taken over.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }
}
