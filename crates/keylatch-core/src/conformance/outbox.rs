//! The outbox: an event is published if and only if its transaction committed, in order for its key.

use std::mem;
use std::panic::AssertUnwindSafe;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};

use super::atomic::{AtomicHarness, Handle, HandleOf, atomic, attempt, commit, committed, record_of, transact};
use super::cancellation::cut_off;
use super::fixture::{FREE, LEASE, Subject, again, completion, fenced, with_other_owner, with_stale_epoch};
use crate::Lease;
use crate::outbox::{
    EVENT_BYTES_MAX, EVENTS_MAX, Event, EventId, Fate, HEADERS_MAX, Outbox, Pending, Place, Publishes, Settled, Skip,
    Stuck, Why,
};
use crate::store::{Applied, At, Count};
use crate::tx::{Ending, Transacted, Transactional};

/// The environment of one case: that of [`atomic`](super::atomic), for a store with an outbox.
pub trait OutboxHarness: AtomicHarness<Store: Outbox> {
    /// Replaces what is stored of a part of the event with this number, which waits, as a damaged store would.
    fn damage(&self, seq: u64, part: Part, stored: Vec<u8>) -> BoxFuture<'_, ()>;
}

/// A part of an event that is stored as bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Its id.
    Id,
    /// Its headers, [encoded](Event::encode_headers).
    Headers,
}

/// Makes every case of the outbox a `#[test]`. The expression builds the harness, anew for each case. It may await.
#[macro_export]
macro_rules! conformance_outbox {
    (@each $($then:tt)*) => {
        $crate::conformance_outbox! { $($then)*
            events_commit_with_the_transaction
            transaction_may_have_nothing_but_events
            refusal_publishes_nothing
            rolled_back_run_publishes_nothing
            panic_publishes_nothing
            held_key_publishes_nothing
            leaked_transaction_publishes_nothing
            failed_statement_publishes_all_or_nothing
            attempt_that_is_cut_off_publishes_all_or_nothing
            every_part_of_an_event_comes_back
            largest_events_come_back
            many_transactions_at_once_publish_all
            order_of_a_key_is_that_of_its_transactions
            committed_events_survive
            events_have_an_id_each
            pending_keeps_to_its_limits
            pending_passes_over_what_is_skipped
            pending_starts_at_the_beginning_each_time
            acknowledged_event_is_gone
            settling_again_changes_nothing_more
            another_event_of_the_number_is_not_settled
            stale_epoch_settles_nothing
            other_owner_settles_nothing
            taken_over_lease_settles_nothing
            released_lease_settles_nothing
            refused_event_holds_back_its_key_alone
            held_events_follow_the_one_that_is_tried_again
            held_events_go_on_when_the_refused_is_discarded
            nothing_is_held_without_a_refused_event
            event_without_key_holds_back_nothing
            event_that_is_set_aside_holds_back_nothing
            event_that_cannot_be_read_stops_no_other
            only_an_event_that_is_stuck_is_released
            stuck_events_are_read_in_pages
            backlog_counts_each_kind
            commit_wakes_who_waits
        }
    };
    (@tests $harness:expr, $($case:ident)*) => {$(
        #[test]
        fn $case() {
            let harness = ::std::boxed::Box::pin(async { $harness });
            $crate::conformance::run(harness, |harness| ::std::boxed::Box::pin($crate::conformance::outbox::$case(harness)));
        }
    )*};
    (@names $($case:ident)*) => { &[$(stringify!($case),)*] };
    ($harness:expr) => { $crate::conformance_outbox! { @each @tests $harness, } };
}

/// The names of all cases.
pub const CASES: &[&str] = conformance_outbox!(@each @names);

/// An event that is recognised by its value.
fn event(topic: &str, key: Option<&str>, value: &str) -> Event {
    let event = Event::new(topic).with_value(value.to_owned());
    match key {
        Some(key) => event.with_key(key.to_owned()),
        None => event,
    }
}

fn of_key(key: &str, value: &str) -> Event {
    event("orders", Some(key), value)
}

fn value(event: &Event) -> String {
    String::from_utf8(event.value().expect("it has a value").to_vec()).expect("it is a text")
}

/// A handler that publishes these events, writes `effect` in between, and ends with this verdict.
fn publishes<H: OutboxHarness>(
    harness: &H,
    effect: &str,
    events: &[Event],
    ending: Ending,
) -> impl Fn(Handle<H>) -> BoxFuture<'static, Ending> + Clone + Send + Sync + 'static {
    let (table, effect, events) = (harness.table(), effect.to_owned(), events.to_vec());
    move |mut tx| {
        let (table, effect, ending) = (table.clone(), effect.clone(), ending.clone());
        let mut events = events.clone().into_iter();
        Box::pin(async move {
            if let Some(first) = events.next() {
                tx.events().publish(first).expect("the event is taken");
            }
            H::write(&mut tx, table, effect).await.expect("the effect is written");
            for event in events {
                tx.events().publish(event).expect("the event is taken");
            }
            ending
        })
    }
}

/// Publishes events in a transaction of their own, and returns nothing before they are committed.
async fn publish<S: Transactional + Outbox>(store: &S, events: &[Event]) {
    let events = events.to_vec();
    let claim = atomic(&EventId::new(crate::Clock::system().now()).to_string());
    let handler = move |mut tx: HandleOf<S>| -> BoxFuture<'static, Ending> {
        for event in events.clone() {
            tx.events().publish(event).expect("the event is taken");
        }
        Box::pin(async { commit("done") })
    };
    committed(attempt(store, &claim, handler).await);
}

/// The first events that wait.
async fn pending<S: Outbox>(store: &S) -> Vec<Pending> {
    store.pending(10_000, usize::MAX, Skip::default()).await.expect("the store reads")
}

/// Their values.
async fn waiting<S: Outbox>(store: &S) -> Vec<String> {
    pending(store).await.iter().map(|pending| value(&pending.event.event)).collect()
}

/// The values of those that may be published.
async fn free<S: Outbox>(store: &S) -> Vec<String> {
    let pending = pending(store).await;
    pending.iter().filter(|pending| !pending.blocked).map(|pending| value(&pending.event.event)).collect()
}

async fn stuck<S: Outbox>(store: &S) -> Vec<Stuck> {
    store.stuck(None, 1_000).await.expect("the store reads")
}

/// The event of this value, which waits.
async fn find<S: Outbox>(store: &S, wanted: &str) -> Pending {
    let mut pending = pending(store).await.into_iter();
    pending.find(|pending| value(&pending.event.event) == wanted).expect("the event waits")
}

/// A relay's lease.
async fn lease<H: OutboxHarness>(harness: &H) -> Lease {
    Subject::new(harness).win(&fenced("relay")).await.lease()
}

async fn settle<S: Outbox>(store: &S, lease: Lease, place: Place, fate: Fate) -> Applied {
    store.settle(lease, vec![Settled { place, fate }]).await.expect("the store settles")
}

/// Settles the event of this value, which waits.
async fn settle_value<S: Outbox>(store: &S, lease: Lease, wanted: &str, fate: Fate) {
    let place = find(store, wanted).await.place();
    assert!(matches!(settle(store, lease, place, fate).await, Applied::Applied(_)));
}

fn refused() -> Fate {
    Fate::Refused("too large for its topic".to_owned())
}

// ---- What is published ---------------------------------------------------------------------------------

/// Events and writes of a handler are committed together.
pub async fn events_commit_with_the_transaction<H: OutboxHarness>(harness: &H) {
    let store = harness.transactional();
    let events = [of_key("k", "1"), of_key("k", "2"), event("other", None, "3")];
    committed(attempt(&store, &atomic("key"), publishes(harness, "a", &events, commit("done"))).await);
    assert_eq!(harness.effects().await, ["a"]);
    for store in [store, harness.connect_transactional().await] {
        let pending = pending(&store).await;
        assert_eq!(pending.iter().map(|pending| pending.event.event.clone()).collect::<Vec<_>>(), events);
        assert!(pending.iter().all(|pending| !pending.blocked));
        let now = Subject::new(harness).now().await;
        assert!(pending.iter().all(|pending| pending.created_at == now), "the time is the store's");
    }
}

/// A handler need not write anything else.
pub async fn transaction_may_have_nothing_but_events<H: OutboxHarness>(harness: &H) {
    let store = harness.transactional();
    publish(&store, &[of_key("k", "1")]).await;
    assert_eq!(waiting(&store).await, ["1"]);
}

/// A refusal takes events back with the writes, and keeps the answer.
pub async fn refusal_publishes_nothing<H: OutboxHarness>(harness: &H) {
    let (store, claim) = (harness.transactional(), atomic("key"));
    let refuses = publishes(harness, "a", &[of_key("k", "1")], Ending::RecordOnly(completion("no")));
    let record = committed(attempt(&store, &claim, refuses).await);
    assert_eq!(record_of(harness, &claim).await, Some(record));
    assert!(waiting(&store).await.is_empty());
}

/// A run that leaves nothing publishes nothing; the next one publishes its own.
pub async fn rolled_back_run_publishes_nothing<H: OutboxHarness>(harness: &H) {
    let (store, claim) = (harness.transactional(), atomic("key"));
    let rolls_back = publishes(harness, "a", &[of_key("k", "1")], Ending::RollBack);
    assert_eq!(attempt(&store, &claim, rolls_back).await, Transacted::RolledBack);
    assert!(waiting(&store).await.is_empty());
    committed(attempt(&store, &claim, publishes(harness, "b", &[of_key("k", "2")], commit("done"))).await);
    assert_eq!(waiting(&store).await, ["2"]);
}

/// What a handler published before it panicked is gone.
pub async fn panic_publishes_nothing<H: OutboxHarness>(harness: &H) {
    let (store, claim, table) = (harness.transactional(), atomic("key"), harness.table());
    let panics = move |mut tx: Handle<H>| -> BoxFuture<'static, Ending> {
        let table = table.clone();
        Box::pin(async move {
            tx.events().publish(of_key("k", "1")).expect("the event is taken");
            H::write(&mut tx, table, "a".to_owned()).await.expect("the effect is written");
            panic!("of the handler")
        })
    };
    let panicked = AssertUnwindSafe(attempt(&store, &claim, panics)).catch_unwind().await;
    assert!(panicked.is_err(), "the panic reaches its caller");
    assert!(waiting(&store).await.is_empty());
    publish(&store, &[of_key("k", "2")]).await;
    assert_eq!(waiting(&store).await, ["2"]);
}

/// An attempt that lost its key after the look publishes nothing.
pub async fn held_key_publishes_nothing<H: OutboxHarness>(harness: &H) {
    let (store, claim) = (harness.transactional(), atomic("key"));
    let now = Subject::new(harness).now().await;
    committed(attempt(&store, &claim, publishes(harness, "a", &[of_key("k", "1")], commit("done"))).await);
    let late = publishes(harness, "b", &[of_key("k", "2")], commit("again"));
    let done = transact(&store, &again(&claim), At { value: None, now }, late).await;
    assert!(matches!(done.expect("the store answers"), Transacted::Held(_)));
    assert_eq!(waiting(&store).await, ["1"]);
}

/// A handler that does not return its transaction publishes nothing.
pub async fn leaked_transaction_publishes_nothing<H: OutboxHarness>(harness: &H) {
    let (store, table) = (harness.transactional(), harness.table());
    let leaks = move |mut tx: Handle<H>| -> BoxFuture<'static, Ending> {
        let table = table.clone();
        Box::pin(async move {
            H::write(&mut tx, table, "a".to_owned()).await.expect("the effect is written");
            tx.events().publish(of_key("k", "1")).expect("the event is taken");
            mem::forget(tx);
            commit("done")
        })
    };
    assert!(matches!(attempt(&store, &atomic("key"), leaks).await, Transacted::Misused(_)));
    assert!(waiting(&store).await.is_empty());
}

/// If the database commits nothing of a handler, it publishes nothing either.
pub async fn failed_statement_publishes_all_or_nothing<H: OutboxHarness>(harness: &H) {
    let (store, claim) = (harness.transactional(), atomic("key"));
    let fails = |mut tx: Handle<H>| -> BoxFuture<'static, Ending> {
        Box::pin(async move {
            tx.events().publish(of_key("k", "1")).expect("the event is taken");
            H::fail(&mut tx).await;
            commit("done")
        })
    };
    let done = attempt(&store, &claim, fails).await;
    assert!(matches!(done, Transacted::Committed(_) | Transacted::Misused(_)), "{done:?}");
    let expected = usize::from(record_of(harness, &claim).await.is_some());
    assert_eq!(waiting(&store).await.len(), expected);
}

/// An attempt whose caller stops waiting publishes everything or nothing.
pub async fn attempt_that_is_cut_off_publishes_all_or_nothing<H: OutboxHarness>(harness: &H) {
    const POLLS_MAX: usize = 1_000;
    let store = harness.transactional();
    for polls in 0..POLLS_MAX {
        let name = format!("{polls:04}");
        let claim = atomic(&name);
        let seen = At { value: None, now: Subject::new(harness).now().await };
        let handler = publishes(harness, &name, &[of_key("k", &name), event("o", None, &name)], commit("done"));
        let ended = cut_off(transact(&store, &claim, seen, handler.clone()), polls).await;
        // It waits for the end of the first.
        let _ = attempt(&store, &again(&claim), handler).await;
        let times = waiting(&store).await.iter().filter(|value| **value == name).count();
        assert_eq!(times, 2, "one of the attempts has published both events, and the other none");
        if ended {
            return;
        }
    }
    panic!("an attempt is not over after {POLLS_MAX} polls");
}

/// What an event has comes back, and what it does not have does not.
pub async fn every_part_of_an_event_comes_back<H: OutboxHarness>(harness: &H) {
    let store = harness.transactional();
    let bytes = Bytes::from((0..=255).collect::<Vec<u8>>());
    let events = [
        Event::new("a"),
        Event::new("a").with_key("").with_value(""),
        Event::new("A.b_9-").with_key(bytes.clone()),
        Event::new("a").with_value(bytes.clone()),
        Event::new("a").with_key("k").with_header("", "").with_header("twice", "1").with_header("twice", bytes.clone()),
        Event::new("a").with_value("'\\x00\0").with_header("ключ", "значение"),
    ];
    publish(&store, &events).await;
    let come_back: Vec<_> = pending(&store).await.into_iter().map(|pending| pending.event.event).collect();
    assert_eq!(come_back, events);
}

/// Events as large, and as many, as there may be.
pub async fn largest_events_come_back<H: OutboxHarness>(harness: &H) {
    let store = harness.transactional();
    let topic = "t".repeat(crate::outbox::TOPIC_BYTES_MAX);
    let headers = (0..HEADERS_MAX).fold(Event::new(topic), |event, n| event.with_header(format!("{n:02}"), "value"));
    let rest = EVENT_BYTES_MAX - headers.bytes();
    let largest = headers.with_key(vec![1; rest / 2]).with_value(vec![2; rest - rest / 2]);
    publish(&store, std::slice::from_ref(&largest)).await;
    let many: Vec<_> = (0..EVENTS_MAX).map(|n| of_key(&format!("k-{n}"), &n.to_string())).collect();
    publish(&store, &many).await;
    let come_back: Vec<_> = pending(&store).await.into_iter().map(|pending| pending.event.event).collect();
    assert!(come_back[0] == largest && come_back[1..] == many, "all come back, in order");
}

/// No event is missing or doubled, whatever else is written at the same time.
pub async fn many_transactions_at_once_publish_all<H: OutboxHarness>(harness: &H) {
    let stores = [harness.transactional(), harness.connect_transactional().await];
    let events: Vec<_> = (0..60).map(|n| format!("{n:02}")).collect();
    let all = events.iter().enumerate().map(|(n, name)| {
        let store = stores[n % 2].clone();
        // Two keys each, in both orders.
        let (one, other) = (format!("k-{}", n % 5), format!("k-{}", 4 - n % 5));
        let events = [of_key(&one, &format!("{name}a")), of_key(&other, &format!("{name}b"))];
        async move { publish(&store, &events).await }
    });
    join_all(all).await;
    let mut waiting = waiting(&stores[0]).await;
    waiting.sort();
    let expected: Vec<_> = events.iter().flat_map(|name| [format!("{name}a"), format!("{name}b")]).collect();
    assert_eq!(waiting, expected);
}

/// Whichever process publishes, the events of a key wait in the order in which their transactions were committed.
pub async fn order_of_a_key_is_that_of_its_transactions<H: OutboxHarness>(harness: &H) {
    let stores = [harness.transactional(), harness.connect_transactional().await];
    for n in 0..20 {
        let events = [of_key("k", &format!("{n:02}a")), of_key("k", &format!("{n:02}b"))];
        publish(&stores[n % 2], &events).await;
    }
    let expected: Vec<_> = (0..20).flat_map(|n| [format!("{n:02}a"), format!("{n:02}b")]).collect();
    let pending = pending(&stores[0]).await;
    assert_eq!(pending.iter().map(|pending| value(&pending.event.event)).collect::<Vec<_>>(), expected);
    assert!(pending.is_sorted_by(|one, next| one.seq < next.seq));
}

/// What is committed is there for another process.
pub async fn committed_events_survive<H: OutboxHarness>(harness: &H) {
    publish(&harness.transactional(), &[of_key("k", "1")]).await;
    drop(harness.restart().await);
    assert_eq!(waiting(&harness.connect_transactional().await).await, ["1"]);
}

/// The id that a handler is given is the one under which its event is published.
pub async fn events_have_an_id_each<H: OutboxHarness>(harness: &H) {
    let store = harness.transactional();
    let given = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let keeps = given.clone();
    let handler = move |mut tx: Handle<H>| -> BoxFuture<'static, Ending> {
        let ids = (0..10).map(|_| tx.events().publish(of_key("k", "the same")).expect("the event is taken"));
        *keeps.lock() = ids.collect();
        Box::pin(async { commit("done") })
    };
    committed(attempt(&store, &atomic("key"), handler).await);
    let ids: Vec<_> = pending(&store).await.iter().map(|pending| pending.event.id).collect();
    assert_eq!(ids, *given.lock());
    let different: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!(different.len(), ids.len());
}

// ---- What is read --------------------------------------------------------------------------------------

/// A read has no more events than asked for, and ends with the one that reaches the number of bytes.
pub async fn pending_keeps_to_its_limits<H: OutboxHarness>(harness: &H) {
    let store = harness.transactional();
    let sized = |n: usize| event("t", None, &format!("{n}{}", "x".repeat(98)));
    publish(&store, &[sized(0), sized(1), sized(2), sized(3), sized(4)]).await;
    let read = async |limit, bytes| store.pending(limit, bytes, Skip::default()).await.expect("the store reads").len();
    assert_eq!((read(3, usize::MAX).await, read(100, usize::MAX).await), (3, 5));
    // Each has 100 bytes, topic included.
    for (bytes, events) in [(1, 1), (100, 1), (101, 2), (200, 2), (201, 3), (499, 5)] {
        assert_eq!(read(100, bytes).await, events, "{bytes} bytes");
    }
}

/// Events whose last try failed can be passed over, by topic, by key, or one by one, and nothing else is.
pub async fn pending_passes_over_what_is_skipped<H: OutboxHarness>(harness: &H) {
    let store = harness.transactional();
    let events =
        [of_key("a", "1"), of_key("b", "2"), event("t", None, "3"), event("t", Some("a"), "4"), event("t", None, "5")];
    publish(&store, &events).await;
    let read = async |skip| {
        let pending = store.pending(100, usize::MAX, skip).await.expect("the store reads");
        pending.iter().map(|pending| value(&pending.event.event)).collect::<Vec<_>>()
    };
    let key = of_key("a", "").key_hash().expect("it has a key");
    assert_eq!(read(Skip { keys: vec![key], ..Skip::default() }).await, ["2", "3", "4", "5"]);
    assert_eq!(read(Skip { topics: vec!["t".to_owned()], ..Skip::default() }).await, ["1", "2"]);
    let third = find(&store, "3").await.seq;
    assert_eq!(read(Skip { seqs: vec![third], ..Skip::default() }).await, ["1", "2", "4", "5"]);
    let all = Skip { topics: vec!["t".to_owned(), "orders".to_owned()], keys: vec![key], seqs: vec![third] };
    assert!(read(all).await.is_empty());
    // What is passed over does not count.
    let skip = Skip { topics: vec!["orders".to_owned()], ..Skip::default() };
    assert_eq!(store.pending(1, usize::MAX, skip).await.expect("the store reads")[0].event.event, events[2]);
}

/// A reader has no cursor: what comes back before the events that were read last is seen.
pub async fn pending_starts_at_the_beginning_each_time<H: OutboxHarness>(harness: &H) {
    let (store, lease) = (harness.transactional(), lease(harness).await);
    publish(&store, &[of_key("a", "1"), of_key("b", "2")]).await;
    let place = find(&store, "1").await.place();
    settle_value(&store, lease, "1", refused()).await;
    settle_value(&store, lease, "2", Fate::Acknowledged).await;
    publish(&store, &[of_key("c", "3")]).await;
    settle_value(&store, lease, "3", Fate::Acknowledged).await;
    assert!(waiting(&store).await.is_empty());
    assert!(store.retry(place).await.expect("the store writes"));
    assert_eq!(waiting(&store).await, ["1"]);
}

// ---- What became of it ---------------------------------------------------------------------------------

/// What was published is gone, and nothing else.
pub async fn acknowledged_event_is_gone<H: OutboxHarness>(harness: &H) {
    let (store, lease) = (harness.transactional(), lease(harness).await);
    publish(&store, &[of_key("k", "1"), of_key("k", "2"), event("t", None, "3")]).await;
    settle_value(&store, lease, "1", Fate::Acknowledged).await;
    assert_eq!(waiting(&store).await, ["2", "3"]);
    let both: Vec<_> = pending(&store).await.iter().map(Pending::place).collect();
    let both = both.into_iter().map(|place| Settled { place, fate: Fate::Acknowledged }).collect();
    let applied = store.settle(lease, both).await.expect("the store settles");
    assert_eq!(applied, Applied::Applied(Subject::new(harness).now().await));
    assert!(waiting(&harness.connect_transactional().await).await.is_empty());
    assert!(stuck(&store).await.is_empty());
}

/// Sent again after a lost reply, it settles nothing that came later.
pub async fn settling_again_changes_nothing_more<H: OutboxHarness>(harness: &H) {
    let (store, lease) = (harness.transactional(), lease(harness).await);
    publish(&store, &[of_key("a", "1"), of_key("b", "2")]).await;
    let [first, second] = [find(&store, "1").await.place(), find(&store, "2").await.place()];
    for again in [false, true] {
        assert!(matches!(settle(&store, lease, first, Fate::Acknowledged).await, Applied::Applied(_)));
        assert!(matches!(settle(&store, lease, second, refused()).await, Applied::Applied(_)));
        assert_eq!(stuck(&store).await.len(), 1);
        // A store may use a number again.
        let later: &[&str] = if again { &["3"] } else { &[] };
        assert_eq!(waiting(&store).await, later);
        if !again {
            publish(&store, &[of_key("c", "3")]).await;
        }
    }
}

/// An event is named by number and id: another of the number stays.
pub async fn another_event_of_the_number_is_not_settled<H: OutboxHarness>(harness: &H) {
    let (store, lease) = (harness.transactional(), lease(harness).await);
    publish(&store, &[of_key("k", "1")]).await;
    let place = Place { id: EventId::from_bytes([7; 16]), ..find(&store, "1").await.place() };
    for fate in [Fate::Acknowledged, refused(), Fate::SetAside(String::new())] {
        assert!(matches!(settle(&store, lease, place, fate).await, Applied::Applied(_)));
        assert_eq!(waiting(&store).await, ["1"]);
        assert!(stuck(&store).await.is_empty());
    }
}

/// Nothing is settled by `lease`, which is no longer that of the relay.
async fn assert_fenced<H: OutboxHarness>(harness: &H, lease: Lease) {
    let store = harness.transactional();
    publish(&store, &[of_key("k", "1")]).await;
    let place = find(&store, "1").await.place();
    for fate in [Fate::Acknowledged, refused(), Fate::Held, Fate::SetAside(String::new())] {
        assert_eq!(settle(&store, lease, place, fate).await, Applied::Lost);
    }
    assert_eq!(settle(&harness.connect_transactional().await, lease, place, Fate::Acknowledged).await, Applied::Lost);
    assert_eq!(waiting(&store).await, ["1"]);
    assert!(stuck(&store).await.is_empty());
}

/// The epoch must match.
pub async fn stale_epoch_settles_nothing<H: OutboxHarness>(harness: &H) {
    let lease = lease(harness).await;
    assert_fenced(harness, with_stale_epoch(lease)).await;
}

/// The owner must match.
pub async fn other_owner_settles_nothing<H: OutboxHarness>(harness: &H) {
    let lease = lease(harness).await;
    assert_fenced(harness, with_other_owner(lease)).await;
}

/// A relay whose lease was taken over settles nothing, and the next one does.
pub async fn taken_over_lease_settles_nothing<H: OutboxHarness>(harness: &H) {
    let (subject, late) = (Subject::new(harness), lease(harness).await);
    subject.advance(LEASE).await;
    let next = subject.win(&again(&fenced("relay"))).await.lease();
    assert_fenced(harness, late).await;
    let store = harness.transactional();
    settle_value(&store, next, "1", Fate::Acknowledged).await;
    assert!(waiting(&store).await.is_empty());
}

/// Nor does one that has given its lease back.
pub async fn released_lease_settles_nothing<H: OutboxHarness>(harness: &H) {
    let (subject, lease) = (Subject::new(harness), lease(harness).await);
    subject.assert_applied(subject.release(lease, FREE).await).await;
    assert_fenced(harness, lease).await;
}

// ---- What cannot be published --------------------------------------------------------------------------

/// Behind a refused event the rest of its key waits: also what comes later, and nothing else.
pub async fn refused_event_holds_back_its_key_alone<H: OutboxHarness>(harness: &H) {
    let (store, lease) = (harness.transactional(), lease(harness).await);
    let events =
        [of_key("a", "1"), of_key("a", "2"), of_key("b", "3"), event("t", Some("a"), "4"), event("t", None, "5")];
    publish(&store, &events).await;
    settle_value(&store, lease, "1", refused()).await;
    publish(&store, &[of_key("a", "6")]).await;
    assert_eq!(free(&store).await, ["3", "4", "5"]);
    assert_eq!(waiting(&store).await, ["2", "3", "4", "5", "6"]);
    settle_value(&store, lease, "2", Fate::Held).await;
    assert_eq!(waiting(&store).await, ["3", "4", "5", "6"]);
    let stuck = stuck(&store).await;
    assert_eq!(stuck.iter().map(|stuck| value(&stuck.event.event)).collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(stuck[0].why, Why::Refused("too large for its topic".to_owned()));
    assert_eq!(stuck[1].why, Why::Held);
    let now = Subject::new(harness).now().await;
    assert_eq!((stuck[0].created_at, stuck[0].stuck_at), (now, now));
}

/// An event that is tried again is first, and the held ones follow it in their order.
pub async fn held_events_follow_the_one_that_is_tried_again<H: OutboxHarness>(harness: &H) {
    let (store, lease) = (harness.transactional(), lease(harness).await);
    publish(&store, &[of_key("a", "1"), of_key("a", "2"), of_key("b", "3"), of_key("a", "4")]).await;
    let before = pending(&store).await;
    settle_value(&store, lease, "1", refused()).await;
    settle_value(&store, lease, "2", Fate::Held).await;
    settle_value(&store, lease, "4", Fate::Held).await;
    settle_value(&store, lease, "3", Fate::Acknowledged).await;
    assert!(waiting(&store).await.is_empty());
    // It does not get a number that was used before.
    publish(&store, &[of_key("a", "5")]).await;
    assert!(store.retry(before[0].place()).await.expect("the store writes"));
    assert_eq!(free(&store).await, ["1", "2", "4", "5"]);
    assert_eq!(pending(&store).await[0], before[0]);
    assert!(stuck(&store).await.is_empty());
}

/// Without the refused event the others go on.
pub async fn held_events_go_on_when_the_refused_is_discarded<H: OutboxHarness>(harness: &H) {
    let (store, lease) = (harness.transactional(), lease(harness).await);
    publish(&store, &[of_key("a", "1"), of_key("a", "2"), of_key("b", "3"), of_key("a", "4")]).await;
    let first = find(&store, "1").await.place();
    settle_value(&store, lease, "1", refused()).await;
    settle_value(&store, lease, "2", Fate::Held).await;
    assert!(store.discard(first).await.expect("the store writes"));
    assert_eq!(free(&store).await, ["2", "3", "4"]);
    assert!(stuck(&store).await.is_empty());
    // Sent again, it finds nothing.
    assert!(!store.discard(first).await.expect("the store writes"));
}

/// If an operator has let the key go on, an event that was to be held stays where it is.
pub async fn nothing_is_held_without_a_refused_event<H: OutboxHarness>(harness: &H) {
    let (store, lease) = (harness.transactional(), lease(harness).await);
    publish(&store, &[of_key("a", "1"), of_key("a", "2")]).await;
    let first = find(&store, "1").await.place();
    settle_value(&store, lease, "1", refused()).await;
    let second = find(&store, "2").await;
    assert!(second.blocked);
    assert!(store.retry(first).await.expect("the store writes"));
    assert!(matches!(settle(&store, lease, second.place(), Fate::Held).await, Applied::Applied(_)));
    assert_eq!(free(&store).await, ["1", "2"]);
}

/// An event without a key has no order, so it holds back nothing.
pub async fn event_without_key_holds_back_nothing<H: OutboxHarness>(harness: &H) {
    let (store, lease) = (harness.transactional(), lease(harness).await);
    publish(&store, &[event("t", None, "1"), event("t", None, "2"), event("t", Some(""), "3")]).await;
    let first = find(&store, "1").await.place();
    settle_value(&store, lease, "1", refused()).await;
    assert_eq!(free(&store).await, ["2", "3"]);
    assert!(store.retry(first).await.expect("the store writes"));
    assert_eq!(free(&store).await, ["1", "2", "3"]);
}

/// An event that was put aside waits for an operator alone.
pub async fn event_that_is_set_aside_holds_back_nothing<H: OutboxHarness>(harness: &H) {
    let (store, lease) = (harness.transactional(), lease(harness).await);
    publish(&store, &[of_key("a", "1"), of_key("a", "2")]).await;
    let first = find(&store, "1").await;
    settle_value(&store, lease, "1", Fate::SetAside("no such topic".to_owned())).await;
    assert_eq!(free(&store).await, ["2"]);
    let put_aside = stuck(&store).await;
    assert_eq!((put_aside.len(), &put_aside[0].event), (1, &first.event));
    assert_eq!(put_aside[0].why, Why::SetAside("no such topic".to_owned()));
    assert!(store.retry(first.place()).await.expect("the store writes"));
    assert_eq!(free(&store).await, ["1", "2"]);
    settle_value(&store, lease, "1", Fate::SetAside("no such topic".to_owned())).await;
    assert!(store.discard(first.place()).await.expect("the store writes"));
    assert_eq!(free(&store).await, ["2"]);
    assert!(stuck(&store).await.is_empty());
}

/// An event that cannot be read is handed out as such, and what becomes of it is up to the relay and operators, as with
/// any other.
pub async fn event_that_cannot_be_read_stops_no_other<H: OutboxHarness>(harness: &H) {
    let (store, lease) = (harness.transactional(), lease(harness).await);
    let damages = [(Part::Id, &[][..]), (Part::Id, &[7; 15]), (Part::Id, &[7; 17]), (Part::Headers, &[9])];
    for (part, stored) in damages {
        publish(&store, &[of_key("a", "1").with_header("h", ""), of_key("a", "2"), of_key("b", "3")]).await;
        harness.damage(find(&store, "1").await.seq, part, stored.to_vec()).await;
        let before = pending(&store).await;
        assert_eq!(before.iter().map(|one| one.unreadable.is_some()).collect::<Vec<_>>(), [true, false, false]);
        // What puts it in order is there, and it is named alike each time.
        let damaged = find(&store, "1").await;
        assert_eq!(damaged, before[0]);
        assert_eq!((damaged.event.event.topic(), damaged.event.event.key()), ("orders", Some(&"a".into())));
        if part == Part::Id {
            assert_eq!(damaged.place().id, EventId::decode(stored).0);
        }
        settle_value(&store, lease, "1", refused()).await;
        assert_eq!(free(&store).await, ["3"]);
        settle_value(&store, lease, "2", Fate::Held).await;
        assert_eq!(stuck(&store).await[0].place(), damaged.place());
        assert!(store.retry(damaged.place()).await.expect("the store writes"));
        assert_eq!(pending(&store).await, before);
        settle_value(&store, lease, "1", Fate::SetAside(String::new())).await;
        assert_eq!(free(&store).await, ["2", "3"]);
        assert!(store.discard(damaged.place()).await.expect("the store writes"));
        assert!(stuck(&store).await.is_empty());
        for rest in ["2", "3"] {
            settle_value(&store, lease, rest, Fate::Acknowledged).await;
        }
        assert!(waiting(&store).await.is_empty());
    }
}

/// An operator neither repeats nor discards an event that waits, nor one that is held.
pub async fn only_an_event_that_is_stuck_is_released<H: OutboxHarness>(harness: &H) {
    let (store, lease) = (harness.transactional(), lease(harness).await);
    publish(&store, &[of_key("a", "1"), of_key("a", "2"), of_key("b", "3")]).await;
    let before = pending(&store).await;
    settle_value(&store, lease, "1", refused()).await;
    settle_value(&store, lease, "2", Fate::Held).await;
    let other_id = Place { id: EventId::from_bytes([7; 16]), ..before[0].place() };
    for place in [before[1].place(), before[2].place(), other_id] {
        assert!(!store.retry(place).await.expect("the store answers"));
        assert!(!store.discard(place).await.expect("the store answers"));
    }
    assert_eq!((waiting(&store).await.len(), stuck(&store).await.len()), (1, 2));
}

/// Pages of stuck events show each once.
pub async fn stuck_events_are_read_in_pages<H: OutboxHarness>(harness: &H) {
    let (store, lease) = (harness.transactional(), lease(harness).await);
    let events: Vec<_> = (0..7).map(|n| of_key(&format!("k-{n}"), &n.to_string())).collect();
    publish(&store, &events).await;
    let all = pending(&store).await;
    let settled = all.iter().map(|pending| Settled { place: pending.place(), fate: refused() }).collect();
    assert!(matches!(store.settle(lease, settled).await, Ok(Applied::Applied(_))));
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let page = store.stuck(after, 3).await.expect("the store reads");
        assert!(page.len() <= 3);
        let Some(last) = page.last() else { break };
        after = Some(last.seq);
        seen.extend(page.iter().map(Stuck::place));
    }
    assert_eq!(seen, all.iter().map(Pending::place).collect::<Vec<_>>());
}

/// Each kind is counted, up to the limit.
pub async fn backlog_counts_each_kind<H: OutboxHarness>(harness: &H) {
    let (subject, store, lease) = (Subject::new(harness), harness.transactional(), lease(harness).await);
    let now = subject.now().await;
    let backlog = async |limit| store.backlog(limit).await.expect("the store counts");
    assert_eq!(backlog(10).await.value.oldest, None);
    publish(&store, &[of_key("a", "1"), of_key("a", "2"), of_key("b", "3"), of_key("c", "4")]).await;
    subject.advance(LEASE).await;
    publish(&store, &[of_key("d", "5"), of_key("e", "6")]).await;
    settle_value(&store, lease, "1", refused()).await;
    settle_value(&store, lease, "2", Fate::Held).await;
    settle_value(&store, lease, "3", Fate::SetAside(String::new())).await;
    let At { value, now: counted_at } = backlog(10).await;
    assert_eq!(value.waiting, Count::Exactly(3));
    assert_eq!((value.refused, value.held, value.set_aside), (Count::Exactly(1), Count::Exactly(1), Count::Exactly(1)));
    assert_eq!((value.oldest, counted_at), (Some(now), now + LEASE));
    assert_eq!(backlog(2).await.value.waiting, Count::AtLeast(2));
}

/// Whoever waits in this process is told of a commit with events, also if it came before the wait.
pub async fn commit_wakes_who_waits<H: OutboxHarness>(harness: &H) {
    let store = harness.transactional();
    assert!(store.woken().now_or_never().is_none(), "nothing was published");
    committed(attempt(&store, &atomic("key"), publishes(harness, "a", &[], commit("done"))).await);
    assert!(store.woken().now_or_never().is_none(), "no event was published");
    publish(&store, &[of_key("k", "1")]).await;
    assert!(store.woken().now_or_never().is_some(), "it was told before the commit was acknowledged");
    assert!(store.woken().now_or_never().is_none(), "it was told once");
    let events = [of_key("k", "2")];
    let both = async { tokio::join!(store.woken(), publish(&store, &events)) };
    tokio::time::timeout(LEASE, both).await.expect("it is told while it waits");
    store.wake();
    assert!(store.woken().now_or_never().is_some());
}
