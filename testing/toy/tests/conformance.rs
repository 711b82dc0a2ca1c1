//! The toy passes all suites; with a mistake, it fails the case that is there for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, ready};
use keylatch_core::conformance::atomic::{self, AtomicHarness};
use keylatch_core::conformance::outbox::{self, OutboxHarness, Part};
use keylatch_core::conformance::{self, Harness, inbox};
use keylatch_core::outbox::{Event, EventId, Outbox as _, Published, Skip};
use keylatch_core::{Clock, RecordId, Timestamp, store};
use testing_toy::{Handle, Mistake, Store};

struct Toy {
    clock: Clock,
    store: Store,
}

impl Toy {
    fn new(mistake: Option<Mistake>) -> Self {
        let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
        Self { store: Store::new(clock.clone(), mistake), clock }
    }
}

impl Harness for Toy {
    fn store(&self) -> Arc<dyn store::Store> {
        Arc::new(self.store.clone())
    }

    fn connect(&self) -> BoxFuture<'_, Arc<dyn store::Store>> {
        Box::pin(async { self.store() })
    }

    fn restart(&self) -> BoxFuture<'_, Arc<dyn store::Store>> {
        Box::pin(async { Arc::new(Store::new(self.clock.clone(), None)) as Arc<dyn store::Store> })
    }

    fn advance(&self, by: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.clock.advance(by) })
    }

    fn misplace(&self, from: RecordId, to: RecordId) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.store.misplace(from, to) })
    }
}

impl AtomicHarness for Toy {
    type Store = Store;

    fn transactional(&self) -> Store {
        self.store.clone()
    }

    fn connect_transactional(&self) -> BoxFuture<'_, Store> {
        Box::pin(ready(self.store.clone()))
    }

    fn table(&self) -> String {
        "the only one".to_owned()
    }

    fn write(tx: &mut Handle, _: String, effect: String) -> BoxFuture<'_, Result<(), String>> {
        tx.write(effect);
        // A handler awaits something between its statements.
        Box::pin(async {
            tokio::task::yield_now().await;
            Ok(())
        })
    }

    fn fail(tx: &mut Handle) -> BoxFuture<'_, ()> {
        tx.fail();
        Box::pin(ready(()))
    }

    /// It has no such statement.
    fn end(tx: &mut Handle) -> BoxFuture<'_, ()> {
        tx.fail();
        Box::pin(ready(()))
    }

    fn effects(&self) -> BoxFuture<'_, Vec<String>> {
        Box::pin(ready(self.store.texts()))
    }
}

impl OutboxHarness for Toy {
    fn damage(&self, seq: u64, part: Part, stored: Vec<u8>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let pending = self.store.pending(usize::MAX, usize::MAX, Skip::default()).await.expect("the store reads");
            let Published { id, event } =
                pending.into_iter().find(|one| one.seq == seq).expect("the event waits").event;
            let (damaged, error) = match part {
                Part::Id => {
                    let (id, error) = EventId::decode(&stored);
                    (Published { id, event }, error)
                }
                Part::Headers => {
                    let (key, value) = (event.key().cloned(), event.value().cloned());
                    let (event, error) = Event::decode(event.topic().to_owned(), key, value, Some(&stored));
                    (Published { id, event }, error)
                }
            };
            self.store.damage_event(seq, damaged, error.expect("it cannot be read"));
        })
    }
}

keylatch_core::conformance!(Toy::new(None));

mod in_transactions {
    use super::Toy;

    keylatch_core::conformance_atomic!(Toy::new(None));
}

mod with_events {
    use super::Toy;

    keylatch_core::conformance_outbox!(Toy::new(None));
}

mod with_places {
    use super::Toy;

    keylatch_core::conformance_inbox!(Toy::new(None));
}

/// Each mistake, and the case that must find it.
macro_rules! finds {
    ($($mistake:ident: $suite:ident::$case:ident;)*) => {
        mod finds {
            use super::*;
            $(
                #[test]
                #[expect(non_snake_case, reason = "named as the mistake is")]
                fn $mistake() {
                    let toy = Box::pin(async { Toy::new(Some(Mistake::$mistake)) });
                    let ran = catch_unwind(AssertUnwindSafe(|| {
                        conformance::run(toy, |toy| Box::pin($suite::$case(toy)));
                    }));
                    assert!(ran.is_err(), "the case passes although the store makes this mistake");
                }
            )*

            /// A mistake without a test does not compile: this match would be incomplete.
            #[expect(dead_code, reason = "it is there to be compiled")]
            fn whole(mistake: Mistake) {
                match mistake {
                    $(Mistake::$mistake => {})*
                }
            }
        }
    };
}

finds! {
    KeyNotChecked: atomic::attempts_at_once_have_one_effect;
    WritesCommitFirst: atomic::failed_statement_is_all_or_nothing;
    RecordCommitsAlone: atomic::failed_statement_is_all_or_nothing;
    RefusalKeepsWrites: atomic::refusal_keeps_the_answer_and_takes_the_writes_back;
    RollBackIsRecorded: atomic::rolled_back_run_leaves_nothing;
    LeakIsIgnored: atomic::leaked_transaction_commits_nothing;
    PanicCommits: atomic::panic_harms_nobody;
    TakeoverKeepsEpoch: atomic::lapsed_lease_is_taken_over;
    LookIsStale: atomic::look_tells_what_was_committed;
    EventsCommitFirst: outbox::rolled_back_run_publishes_nothing;
    RefusalKeepsEvents: outbox::refusal_publishes_nothing;
    EventsAreLost: outbox::events_commit_with_the_transaction;
    CursorScans: outbox::pending_starts_at_the_beginning_each_time;
    SettlesWithoutLease: outbox::taken_over_lease_settles_nothing;
    SettlesByNumber: outbox::another_event_of_the_number_is_not_settled;
    RefusedHoldsBackNothing: outbox::refused_event_holds_back_its_key_alone;
    UnreadableStopsAll: outbox::event_that_cannot_be_read_stops_no_other;
    NobodyIsWoken: outbox::commit_wakes_who_waits;
    PlaceMovesAlone: inbox::failed_message_takes_everything_back;
    EpochNotChecked: inbox::stale_owner_starts_nothing;
    OffsetNotChecked: inbox::nothing_starts_at_another_offset;
    IdsAreNotLookedUp: inbox::known_message_is_passed;
    TryIsCountedAfterwards: inbox::tries_are_counted_before_they_start;
    DeadLetterCommitsAlone: inbox::stale_owner_buries_nothing;
    BurialRepeatsItsEvents: inbox::events_are_written_with_the_letter;
    ReturnIsForgotten: inbox::given_back_place_has_no_owner;
}
