//! An inbox: the place, the effects of the messages and their records commit together, or not at all.

mod batches;
mod dead_letters;
mod ids;
mod lists;
mod places;
mod races;
mod tries;

use std::collections::BTreeMap;
use std::mem;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all, ready};

use super::atomic::{AtomicHarness, Handle, atomic, attempt, commit, committed, held, record_of, writes};
use super::cancellation::cut_off;
use super::fixture::{
    LEASE, MS, POLICY, RETENTION, Subject, TOMBSTONE, again, claim_of, completion, fenced, outcome, reused,
};
use crate::inbox::{
    self, BATCH_MESSAGES_MAX, Batch, BatchEnd, DeadLetter, DeadLetterId, DeadLettersRequest, Inbox, LastMessage, Order,
    Ownership, Part, Place, PlaceName, Places, PlacesRequest, Reason, Step, Tried, Trouble, Why,
};
use crate::machine::{Claim, Claimed, Completion};
use crate::outbox::{Event, Events, Pending, Publishes as _, Skip};
use crate::store::{Applied, At, Cursor, Durability, ErrorKind, PAGE_RECORDS_MAX};
use crate::tx::{Ending, Misuse, Transacted, Transactional};
use crate::{Epoch, Fingerprint, Guarantee, Key, Outcome, Owner, Policy, Record, RecordId, Scope, Timestamp};

pub use self::batches::*;
pub use self::dead_letters::*;
pub use self::ids::*;
pub use self::lists::*;
pub use self::places::*;
pub use self::races::*;
pub use self::tries::*;

/// The environment of one case: that of `Atomic`, of a store that is an inbox.
pub trait InboxHarness: AtomicHarness<Store: Inbox> {}

impl<H: AtomicHarness<Store: Inbox>> InboxHarness for H {}

/// Makes every case of an inbox a `#[test]`. The expression builds the harness, anew for each case. It may await.
#[macro_export]
macro_rules! conformance_inbox {
    (@each $($then:tt)*) => {
        $crate::conformance_inbox! { $($then)*
            first_take_creates_the_place
            absent_place_reads_as_absent
            epochs_rise_with_every_take
            take_sent_again_changes_nothing
            places_are_apart
            one_of_many_takers_is_last
            first_owner_says_where_it_begins
            place_moves_without_messages
            place_does_not_move_from_elsewhere
            place_moves_only_forward
            step_sent_again_changes_nothing
            stale_owner_changes_nothing
            given_back_place_has_no_owner
            operator_moves_a_place_from_its_owner
            operator_moves_only_what_was_seen
            operator_places_a_new_consumer
            operator_removes_a_place_that_was_seen
            batch_commits_effects_records_and_place
            batch_commits_its_events
            batch_sent_again_is_lost
            batch_without_messages_moves_the_place
            batch_that_is_no_batch_is_refused
            nobody_applies_without_the_place
            stale_owner_starts_nothing
            nothing_starts_at_another_offset
            failed_message_takes_everything_back
            those_before_a_failed_message_commit
            refusal_fails_its_message
            leaked_transaction_fails_its_message
            failed_statement_is_all_or_nothing
            panic_commits_nothing
            known_message_is_passed
            message_twice_in_a_batch_has_one_effect
            id_of_another_message_is_held
            id_of_another_message_in_the_batch_is_held
            id_on_a_lease_is_held
            lapsed_lease_is_taken_over
            unknown_outcome_is_held
            operation_of_a_request_is_known
            operation_of_a_message_is_known
            id_is_known_until_its_tombstone_ends
            record_is_what_the_handler_ended_with
            message_without_an_id_has_no_record
            handler_of_many_gets_those_to_apply
            part_of_known_messages_is_not_started
            batches_of_different_places_all_commit
            two_batches_race_for_one_id
            message_and_request_race_for_one_effect
            batch_and_takeover_race_for_one_place
            batch_can_be_cut_off
            committed_batch_survives
            tries_are_counted_before_they_start
            tries_are_of_one_message
            tries_outlive_their_owner
            stale_owner_begins_no_try
            buried_message_is_passed
            message_is_buried_above_the_place
            burial_sent_again_is_one_letter
            events_are_written_with_the_letter
            stale_owner_buries_nothing
            letter_keeps_what_it_was_given
            pages_show_every_letter_once
            letters_are_found_by_what_is_known_of_them
            letters_are_ordered_and_discarded
            old_letters_that_nobody_wants_are_swept
            replay_removes_the_letter
            failed_replay_keeps_the_letter
            pages_show_every_place_once
            strange_cursor_is_refused
            places_change_as_the_contract_says
        }
    };
    (@tests $harness:expr, $($case:ident)*) => {$(
        #[test]
        fn $case() {
            let harness = ::std::boxed::Box::pin(async { $harness });
            $crate::conformance::run(harness, |harness| ::std::boxed::Box::pin($crate::conformance::inbox::$case(harness)));
        }
    )*};
    (@names $($case:ident)*) => { &[$(stringify!($case),)*] };
    ($harness:expr) => { $crate::conformance_inbox! { @each @tests $harness, } };
}

/// The names of all cases.
pub const CASES: &[&str] = conformance_inbox!(@each @names);

/// How often something is tried again that others hold, a millisecond apart.
const TRIES_MAX: usize = 20_000;

type DatabaseOf<H> = <<H as AtomicHarness>::Store as Transactional>::Database;
type BatchOf<H> = Batch<DatabaseOf<H>>;
type PartOf<H> = Part<DatabaseOf<H>>;

fn place_of(partition: i32) -> PlaceName {
    PlaceName::new("inventory", "orders", partition).expect("a valid place")
}

fn digest(of: &str) -> Fingerprint {
    Fingerprint::of([of.as_bytes()])
}

fn step(from: i64, to: i64) -> Step {
    let last = (from < to).then(|| LastMessage { offset: to - 1, digest: digest("message") });
    Step { from: Some(from), to, last }
}

fn first(to: i64) -> Step {
    Step { from: None, to, last: None }
}

/// Takes a place.
async fn take(store: &impl Inbox, place: &PlaceName) -> (Place, Ownership) {
    let place = store.take(place.clone(), Owner::random()).await.expect("the store takes").value;
    let ownership = place.ownership().expect("whoever takes it owns it");
    (place, ownership)
}

/// Takes a place that begins at 0.
async fn begin<H: InboxHarness>(harness: &H, partition: i32) -> (H::Store, Ownership) {
    let store = harness.transactional();
    let (_, ownership) = take(&store, &place_of(partition)).await;
    let applied = store.advance(ownership.clone(), first(0)).await.expect("the store moves the place");
    assert!(matches!(applied, Applied::Applied(_)));
    (store, ownership)
}

async fn read(store: &impl Inbox, place: &PlaceName) -> Place {
    store.place(place.clone()).await.expect("the store reads").value.expect("the place is there")
}

async fn next_of(store: &impl Inbox, ownership: &Ownership) -> Option<i64> {
    read(store, &ownership.place).await.next
}

/// A message whose handler writes `effect` and has this ending.
fn message<H: InboxHarness>(harness: &H, effect: &str, id: Option<&Claim>, ending: Ending) -> PartOf<H> {
    let handler = writes(harness, effect, ending);
    Part { ids: vec![id.cloned()], start: Box::new(move |tx, _| handler(tx)) }
}

/// A message whose handler writes `effect` and succeeds.
fn good<H: InboxHarness>(harness: &H, effect: &str, id: Option<&Claim>) -> PartOf<H> {
    message(harness, effect, id, commit("done"))
}

/// A message with this handler.
fn handled<H: InboxHarness>(
    handler: impl FnOnce(Handle<H>) -> BoxFuture<'static, Ending> + Send + 'static,
) -> PartOf<H> {
    Part { ids: vec![None], start: Box::new(move |tx, _| handler(tx)) }
}

/// The messages from `from` on, one after the other.
fn batch<H: InboxHarness>(ownership: &Ownership, from: i64, parts: Vec<PartOf<H>>) -> BatchOf<H> {
    let messages = parts.iter().map(|part| part.ids.len()).sum::<usize>();
    let to = from + i64::try_from(messages).expect("few messages");
    Batch { ownership: ownership.clone(), step: Some(step(from, to)), letter: None, parts }
}

async fn apply<S: Inbox>(store: &S, batch: Batch<S::Database>) -> BatchEnd {
    store.apply(batch).await.expect("the store applies")
}

fn all_applied() -> BatchEnd {
    BatchEnd::Applied { known: Vec::new() }
}

fn held_at(at: usize, record: Record, now: Timestamp) -> BatchEnd {
    BatchEnd::Held { at, record: Some(At { value: record, now }) }
}

/// A part that must not start.
fn never<H: InboxHarness>(id: Option<&Claim>) -> PartOf<H> {
    Part { ids: vec![id.cloned()], start: Box::new(|_, _| panic!("it must not start")) }
}

async fn effects<H: InboxHarness>(harness: &H) -> Vec<String> {
    harness.effects().await
}

/// No events.
fn none() -> Events {
    Events::default()
}

/// The values of the events that wait.
async fn published(store: &impl Inbox) -> Vec<String> {
    let pending = store.pending(100, usize::MAX, Skip::default()).await.expect("the outbox can be read");
    let value = |pending: &Pending| pending.event.event.value().expect("it has a value").to_vec();
    pending.iter().map(|pending| String::from_utf8(value(pending)).expect("it is a text")).collect()
}

fn trouble(of: &str) -> Trouble {
    Trouble::new(digest(of), Reason::Rejected, "the order has no product", 3)
}
