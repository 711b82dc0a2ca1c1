//! One call at a time for each key of this process.
//!
//! Transactions on one partition that meet are costly: each prevents the others, they try again, and one in ten is
//! given up. So calls for the same key take turns, and what one of them reads answers all claims that came before it
//! asked. Other processes are not waited for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast;
use parking_lot::Mutex;

use super::value::Found;
use keylatch_core::RecordId;

/// The keys with a call under way.
#[derive(Debug, Default)]
pub(super) struct Gates(Mutex<HashMap<RecordId, Arc<Gate>, fast::RandomState>>);

type Gate = tokio::sync::Mutex<Option<Seen>>;

/// What a call has seen of the record.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// Before it asked: what it saw was so at some moment after this.
    asked: Instant,
    found: Option<Found>,
}

/// A call's turn. The next call has its turn when this is dropped.
#[derive(Debug)]
pub(super) struct Turn<'g> {
    gates: &'g Gates,
    id: RecordId,
    /// `Some` until the drop.
    held: Option<tokio::sync::OwnedMutexGuard<Option<Seen>>>,
    arrived: Instant,
}

/// Calls before this one still wait for the cluster.
#[derive(Debug)]
pub(super) struct Queued;

impl Gates {
    /// Waits for its turn, `wait_max` at most.
    pub(super) async fn enter(&self, id: RecordId, wait_max: Duration) -> Result<Turn<'_>, Queued> {
        let arrived = Instant::now();
        let gate = self.0.lock().entry(id).or_default().clone();
        // Dropped or timed out while it waits, it leaves no gate behind that nobody uses.
        let mut turn = Turn { gates: self, id, held: None, arrived };
        match tokio::time::timeout(wait_max, gate.lock_owned()).await {
            Ok(held) => {
                turn.held = Some(held);
                Ok(turn)
            }
            Err(_) => Err(Queued),
        }
    }
}

impl Turn<'_> {
    /// The record as another call has seen it since this one came, if one has. `Some(None)`: there was none.
    pub(super) fn seen(&self) -> Option<Option<Found>> {
        let seen = self.held.as_deref()?.as_ref()?;
        (seen.asked > self.arrived).then(|| seen.found.clone())
    }

    /// Whether a call for this key was under way when this one came.
    pub(super) fn followed(&self) -> bool {
        self.held.as_deref().is_some_and(Option::is_some)
    }

    /// Notes what the record was at some moment after `asked`.
    pub(super) fn saw(&mut self, asked: Instant, found: Option<Found>) {
        if let Some(held) = &mut self.held {
            **held = Some(Seen { asked, found });
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut gates = self.gates.0.lock();
        drop(self.held.take());
        // Whoever waits has one, too.
        if gates.get(&self.id).is_some_and(|gate| Arc::strong_count(gate) == 1) {
            gates.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keylatch_core::{Key, Scope};

    const LONG: Duration = Duration::from_secs(60);

    fn id(key: &str) -> RecordId {
        RecordId::of(&Scope::new("caller").unwrap(), &Key::new(key).unwrap())
    }

    #[tokio::test]
    async fn what_one_sees_answers_those_that_came_before_it_asked() {
        let gates = Arc::new(Gates::default());
        let mut first = gates.enter(id("a"), LONG).await.unwrap();
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let gates = gates.clone();
                tokio::spawn(async move {
                    let turn = gates.enter(id("a"), LONG).await.unwrap();
                    (turn.seen().is_some(), turn.followed())
                })
            })
            .collect();
        tokio::task::yield_now().await;
        first.saw(Instant::now(), None);
        drop(first);
        for waited in waiting {
            assert_eq!(waited.await.unwrap(), (true, true));
        }
        assert!(gates.0.lock().is_empty());
        let late = gates.enter(id("a"), LONG).await.unwrap();
        assert!(late.seen().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn other_keys_do_not_wait_and_a_wait_ends() {
        let gates = Gates::default();
        let held = gates.enter(id("a"), LONG).await.unwrap();
        drop(gates.enter(id("b"), LONG).await.unwrap());
        assert!(gates.enter(id("a"), LONG).await.is_err());
        drop(held);
        assert!(gates.0.lock().is_empty());
    }
}
