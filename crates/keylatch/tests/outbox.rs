//! A relay: what is committed is published, once, in order, by one process at a time.
#![cfg(feature = "sqlite")]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use keylatch::outbox::{
    Event, EventId, Failed, InProcess, InvalidRelay, Outbox, Published, Publisher, Refusals, Relay, Sent, Skip, Why,
};
use keylatch::sqlite::{Sqlite, Store};
use keylatch::{Engine, Limits, Policy, Run, Tx, memory};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::Semaphore;

mod between;
mod common;
use between::{Between, Mistake};
use common::until;

/// What an event says: its key and its value.
type Said = (Option<String>, String);

/// A broker in memory, which does what it is told to.
#[derive(Debug, Clone, Default)]
struct Broker(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    log: Mutex<Vec<(EventId, Said)>>,
    /// What becomes of events with these values, so many times.
    troubles: Mutex<HashMap<String, (Trouble, usize)>>,
    calls: AtomicUsize,
    /// If there is one, a call needs a permit before it answers; its events are in the log by then.
    gate: Mutex<Option<Arc<Semaphore>>>,
}

#[derive(Debug, Clone, Copy)]
enum Trouble {
    Refused,
    Later,
}

const ALWAYS: usize = usize::MAX;

impl Broker {
    fn trouble(&self, value: &str, sent: Trouble, times: usize) {
        self.0.troubles.lock().insert(value.to_owned(), (sent, times));
    }

    fn mend(&self) {
        self.0.troubles.lock().clear();
    }

    fn said(&self) -> Vec<String> {
        self.0.log.lock().iter().map(|(_, (_, value))| value.clone()).collect()
    }

    fn gate(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        *self.0.gate.lock() = Some(gate.clone());
        gate
    }

    fn take(&self, Published { id, event }: &Published) -> Sent {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let value = text(event.value().unwrap());
        if let Some((sent, times)) = self.0.troubles.lock().get_mut(&value)
            && *times > 0
        {
            *times -= 1;
            return match sent {
                Trouble::Refused => Sent::Refused("too large for its topic".to_owned()),
                Trouble::Later => Sent::Later("no leader".to_owned()),
            };
        }
        self.0.log.lock().push((*id, (event.key().map(|key| text(key)), value)));
        Sent::Acknowledged
    }
}

impl Publisher for Broker {
    fn publish<'p>(&'p self, events: &'p [Published], _: Instant) -> BoxFuture<'p, Vec<Sent>> {
        Box::pin(async move {
            self.0.calls.fetch_add(1, Ordering::Relaxed);
            let mut stopped = HashSet::new();
            let mut sent = Vec::new();
            for published in events {
                let key = published.event.key_hash();
                if key.is_some_and(|key| stopped.contains(&key)) {
                    sent.push(Sent::Later("behind another".to_owned()));
                    continue;
                }
                let one = self.take(published);
                if one != Sent::Acknowledged {
                    stopped.extend(key);
                }
                sent.push(one);
            }
            let gate = self.0.gate.lock().clone();
            if let Some(gate) = gate {
                gate.acquire().await.unwrap().forget();
            }
            sent
        })
    }
}

struct Fixture {
    store: Store,
    directory: TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("keylatch.db")).await.unwrap();
        store.execute(|db| db.execute_batch("CREATE TABLE seen (value TEXT NOT NULL)")).await.unwrap();
        Self { store, directory }
    }

    /// Another process on the file.
    async fn another(&self) -> Store {
        Store::open(self.directory.path().join("keylatch.db")).await.unwrap()
    }

    async fn publish(&self, events: &[(Option<&str>, &str)]) {
        let events: Vec<_> = events.iter().map(|(key, value)| event(*key, value)).collect();
        let write = move |_: &rusqlite::Connection, waiting: &mut keylatch::outbox::Events| {
            for event in events {
                waiting.publish(event).unwrap();
            }
            Ok(())
        };
        self.store.execute_and_publish(write).await.unwrap();
    }

    async fn is_empty(&self) -> bool {
        self.store.backlog(1).await.unwrap().value.waiting.at_least() == 0
    }

    async fn seen(&self) -> Vec<String> {
        let read = "SELECT value FROM seen ORDER BY rowid";
        self.store.query(move |db| db.prepare(read)?.query_map([], |row| row.get(0))?.collect()).await.unwrap()
    }
}

fn event(key: Option<&str>, value: &str) -> Event {
    let event = Event::new("orders").with_value(value.to_owned());
    match key {
        Some(key) => event.with_key(key.to_owned()),
        None => event,
    }
}

const STOP: Duration = Duration::from_secs(10);

#[tokio::test]
async fn what_is_committed_is_published_in_order_and_deleted() {
    let (fixture, broker) = (Fixture::new().await, Broker::default());
    fixture.publish(&[(Some("a"), "1"), (None, "2")]).await;
    let relay = Relay::new(fixture.store.clone(), broker.clone()).with_batch(3, usize::MAX).unwrap().start();
    for n in 3..20 {
        fixture.publish(&[(Some("a"), &n.to_string())]).await;
    }
    until("all is published", async || broker.said().len() == 19).await;
    assert_eq!(broker.said(), (1..20).map(|n| n.to_string()).collect::<Vec<_>>());
    until("all is deleted", async || fixture.is_empty().await).await;
    assert!(relay.stop(STOP).await);
}

/// An event that cannot be read, such as one of a later version, is refused: it holds back its key alone, and operators
/// see it.
#[tokio::test]
async fn an_event_that_cannot_be_read_holds_back_its_key_alone() {
    let (fixture, broker) = (Fixture::new().await, Broker::default());
    fixture.publish(&[(Some("a"), "1"), (Some("a"), "2"), (Some("b"), "3")]).await;
    let file = rusqlite::Connection::open(fixture.directory.path().join("keylatch.db")).unwrap();
    let changed = file.execute("UPDATE keylatch_event SET headers = x'09' WHERE value = CAST('1' AS BLOB)", []);
    assert_eq!(changed, Ok(1));
    let relay = Relay::new(fixture.store.clone(), broker.clone()).start();
    until("the others are published", async || broker.said() == ["3"] && fixture.is_empty().await).await;
    let stuck = fixture.store.stuck(None, 10).await.unwrap();
    assert!(matches!(&stuck[0].why, Why::Refused(why) if why.contains("format 9")), "{stuck:?}");
    assert_eq!((stuck.len(), stuck[0].event.event.key(), &stuck[1].why), (2, Some(&"a".into()), &Why::Held));
    // A process that can read it goes on with it.
    assert_eq!(file.execute("UPDATE keylatch_event_stuck SET headers = NULL", []), Ok(2));
    assert!(fixture.store.retry(stuck[0].place()).await.unwrap());
    until("all are published", async || broker.said() == ["3", "1", "2"]).await;
    assert!(relay.stop(STOP).await);
}

/// The same for an event whose id is damaged; by choice it is set aside, and its key goes on.
#[tokio::test]
async fn an_event_without_a_whole_id_stops_its_key_alone_or_nothing() {
    for (refusals, said, why) in [
        (Refusals::HoldBackTheKey, &["3"][..], Why::Refused as fn(String) -> Why),
        (Refusals::SetAside, &["2", "3"], Why::SetAside),
    ] {
        let (fixture, broker) = (Fixture::new().await, Broker::default());
        fixture.publish(&[(Some("a"), "1"), (Some("a"), "2"), (Some("b"), "3")]).await;
        let file = rusqlite::Connection::open(fixture.directory.path().join("keylatch.db")).unwrap();
        let changed = file.execute("UPDATE keylatch_event SET id = x'0102' WHERE value = CAST('1' AS BLOB)", []);
        assert_eq!(changed, Ok(1));
        let relay = Relay::new(fixture.store.clone(), broker.clone()).with_refusals(refusals).start();
        until("the others are published", async || {
            let mut published = broker.said();
            published.sort();
            published == said && fixture.is_empty().await
        })
        .await;
        let stuck = fixture.store.stuck(None, 10).await.unwrap();
        assert_eq!(stuck[0].why, why("it cannot be read: the stored bytes are damaged".to_owned()));
        assert!(fixture.store.discard(stuck[0].place()).await.unwrap());
        until("the rest is published", async || broker.said().len() == 2 && fixture.is_empty().await).await;
        assert!(fixture.store.stuck(None, 10).await.unwrap().is_empty());
        assert!(relay.stop(STOP).await);
    }
}

/// The same for an event whose topic is no text. It has no key in common with others.
#[tokio::test]
async fn an_event_whose_topic_is_no_text_stops_no_other() {
    let (fixture, broker) = (Fixture::new().await, Broker::default());
    fixture.publish(&[(Some("a"), "1"), (Some("a"), "2"), (None, "3")]).await;
    let file = rusqlite::Connection::open(fixture.directory.path().join("keylatch.db")).unwrap();
    let topic = "UPDATE keylatch_event SET topic = CAST(x'ff6f' AS TEXT) WHERE value = CAST('1' AS BLOB)";
    assert_eq!(file.execute(topic, []), Ok(1));
    let relay = Relay::new(fixture.store.clone(), broker.clone()).start();
    until("the others are published", async || broker.said() == ["2", "3"] && fixture.is_empty().await).await;
    let stuck = fixture.store.stuck(None, 10).await.unwrap();
    assert_eq!(stuck[0].event.event.topic(), "\u{fffd}o");
    assert_eq!(stuck[0].why, Why::Refused("it cannot be read: the stored bytes are damaged".to_owned()));
    assert!(fixture.store.discard(stuck[0].place()).await.unwrap());
    assert!(fixture.store.stuck(None, 10).await.unwrap().is_empty());
    assert!(relay.stop(STOP).await);
}

/// A commit wakes the relay: it need not look by itself.
#[tokio::test]
async fn a_commit_wakes_the_relay() {
    let (fixture, broker) = (Fixture::new().await, Broker::default());
    let an_hour = Duration::from_secs(60 * 60);
    let relay = Relay::new(fixture.store.clone(), broker.clone()).with_poll_max(an_hour).start();
    fixture.publish(&[(None, "first")]).await;
    until("it is published", async || broker.said().len() == 1).await;
    // By now its pauses would be longer than the test may take.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    fixture.publish(&[(None, "second")]).await;
    until("it is published", async || broker.said().len() == 2).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(relay.stop(STOP).await);
}

/// What another process commits is found without being told.
#[tokio::test]
async fn events_of_other_processes_are_found() {
    let (fixture, broker) = (Fixture::new().await, Broker::default());
    let relay = Relay::new(fixture.another().await, broker.clone()).start();
    fixture.publish(&[(None, "1")]).await;
    until("it is published", async || broker.said() == ["1"]).await;
    assert!(relay.stop(STOP).await);
}

/// One has the lease, and the next takes it as soon as that one stops.
#[tokio::test]
async fn one_publishes_and_the_next_takes_over() {
    let (fixture, one, other) = (Fixture::new().await, Broker::default(), Broker::default());
    let first = Relay::new(fixture.store.clone(), one.clone()).start();
    fixture.publish(&[(Some("a"), "1")]).await;
    until("the first publishes", async || one.said() == ["1"]).await;
    let second = Relay::new(fixture.another().await, other.clone()).start();
    fixture.publish(&[(Some("a"), "2")]).await;
    until("the first publishes", async || one.said() == ["1", "2"]).await;
    assert!(first.stop(STOP).await);
    fixture.publish(&[(Some("a"), "3")]).await;
    until("the second publishes", async || other.said() == ["3"]).await;
    assert_eq!(one.said(), ["1", "2"]);
    assert!(second.stop(STOP).await);
}

/// A relay whose lease was taken while the broker had its events deletes nothing, and stands by.
#[tokio::test]
async fn a_relay_that_was_overtaken_settles_nothing() {
    let (fixture, late, next) = (Fixture::new().await, Broker::default(), Broker::default());
    let gate = late.gate();
    let slow = Relay::new(fixture.store.clone(), late.clone()).start();
    fixture.publish(&[(Some("a"), "1")]).await;
    until("the broker has it", async || late.said() == ["1"]).await;
    // As if the process had been stopped past its lease, and another had taken over.
    let raw = rusqlite::Connection::open(fixture.directory.path().join("keylatch.db")).unwrap();
    raw.busy_timeout(Duration::from_secs(10)).unwrap();
    let stolen = "UPDATE keylatch_record SET epoch = epoch + 1, owner = randomblob(16) WHERE operation = 'outbox'";
    assert_eq!(raw.execute(stolen, []).unwrap(), 1);
    gate.add_permits(1);
    until("it was acknowledged", async || gate.available_permits() == 0).await;
    // For a settling that would not ask for the lease.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!fixture.is_empty().await, "an acknowledgement without the lease deletes nothing");
    drop(slow);
    raw.execute("UPDATE keylatch_record SET takeover_at = 0 WHERE operation = 'outbox'", []).unwrap();
    let relay = Relay::new(fixture.another().await, next.clone()).start();
    until("the next publishes it again", async || next.said() == ["1"]).await;
    assert_eq!(next.0.log.lock()[0].0, late.0.log.lock()[0].0, "under the same id");
    until("it is deleted", async || fixture.is_empty().await).await;
    assert!(relay.stop(STOP).await);
}

/// While a full batch is published, the next one is read, and nothing is handed out twice.
#[tokio::test]
async fn the_next_batch_is_read_while_one_is_published() {
    let (fixture, broker) = (Fixture::new().await, Broker::default());
    let store = Between::new(fixture.store.clone(), None);
    let gate = broker.gate();
    fixture.publish(&[(Some("a"), "1"), (Some("a"), "2"), (None, "3"), (Some("a"), "4"), (Some("b"), "5")]).await;
    let relay = Relay::new(store.clone(), broker.clone()).with_batch(2, usize::MAX).unwrap().start();
    until("the second read", async || store.reads() == 2).await;
    assert_eq!(broker.said(), ["1", "2"], "the first batch has no answer yet");
    gate.add_permits(3);
    until("all is deleted", async || fixture.is_empty().await).await;
    assert_eq!(broker.said(), ["1", "2", "3", "4", "5"]);
    assert!(relay.stop(STOP).await);
}

/// What was read while the event before it failed is not published first.
#[tokio::test]
async fn what_was_read_ahead_stays_behind_what_comes_before_it() {
    const KEYS: [&str; 3] = ["a", "b", "c"];
    let (fixture, broker) = (Fixture::new().await, Broker::default());
    let events: Vec<_> = (0..60_usize).map(|n| (KEYS[n * n % 7 % 3], format!("{n:02}"))).collect();
    for (_, value) in events.iter().step_by(4) {
        broker.trouble(value, Trouble::Later, 1);
    }
    fixture.publish(&events.iter().map(|(key, value)| (Some(*key), &**value)).collect::<Vec<_>>()).await;
    let relay = Relay::new(fixture.store.clone(), broker.clone()).with_batch(5, usize::MAX).unwrap().start();
    until("all is deleted", async || fixture.is_empty().await).await;
    for of in KEYS {
        let expected: Vec<_> = events.iter().filter(|(key, _)| *key == of).map(|(_, value)| value.clone()).collect();
        let log = broker.0.log.lock();
        let said = log.iter().filter(|(_, (key, _))| key.as_deref() == Some(of));
        assert_eq!(said.map(|(_, (_, value))| value.clone()).collect::<Vec<_>>(), expected);
    }
    assert!(relay.stop(STOP).await);
}

/// An event that has to wait holds up its key, and no other; it is first when it goes.
#[tokio::test]
async fn an_event_that_fails_for_a_while_holds_up_its_key_alone() {
    let (fixture, broker) = (Fixture::new().await, Broker::default());
    broker.trouble("a1", Trouble::Later, ALWAYS);
    broker.trouble("none", Trouble::Later, ALWAYS);
    fixture.publish(&[(Some("a"), "a1"), (Some("a"), "a2"), (Some("b"), "b1"), (None, "none"), (None, "other")]).await;
    let relay = Relay::new(fixture.store.clone(), broker.clone()).with_batch(2, usize::MAX).unwrap().start();
    until("the others go", async || broker.said() == ["b1", "other"]).await;
    fixture.publish(&[(Some("b"), "b2"), (Some("a"), "a3")]).await;
    until("and later ones", async || broker.said() == ["b1", "other", "b2"]).await;
    broker.mend();
    until("all go", async || broker.said().len() == 7).await;
    let of_a: Vec<_> = broker.said().into_iter().filter(|value| value.starts_with('a')).collect();
    assert_eq!(of_a, ["a1", "a2", "a3"]);
    until("all is deleted", async || fixture.is_empty().await).await;
    assert!(relay.stop(STOP).await);
}

/// Poison at the head of the outbox: its key waits for an operator, and all others go on.
#[tokio::test]
async fn a_refused_event_holds_back_its_key_until_an_operator_acts() {
    for again in [true, false] {
        let (fixture, broker) = (Fixture::new().await, Broker::default());
        broker.trouble("a1", Trouble::Refused, 1);
        fixture.publish(&[(Some("a"), "a1"), (Some("a"), "a2"), (Some("b"), "b1")]).await;
        let relay = Relay::new(fixture.store.clone(), broker.clone()).start();
        until("the others go", async || broker.said() == ["b1"]).await;
        fixture.publish(&[(Some("a"), "a3"), (Some("b"), "b2")]).await;
        until("also later ones", async || broker.said() == ["b1", "b2"]).await;
        until("its key is held", async || fixture.store.stuck(None, 10).await.unwrap().len() == 3).await;
        let stuck = fixture.store.stuck(None, 10).await.unwrap();
        assert_eq!(stuck[0].why, Why::Refused("too large for its topic".to_owned()));
        assert!(stuck[1..].iter().all(|stuck| stuck.why == Why::Held));
        let place = stuck[0].place();
        let rest: &[&str] = if again {
            assert!(fixture.store.retry(place).await.unwrap());
            &["b1", "b2", "a1", "a2", "a3"]
        } else {
            assert!(fixture.store.discard(place).await.unwrap());
            &["b1", "b2", "a2", "a3"]
        };
        until("the rest goes", async || broker.said() == rest).await;
        until("all is deleted", async || fixture.is_empty().await).await;
        assert!(relay.stop(STOP).await);
    }
}

/// By choice a refused event is put aside, and its key goes on.
#[tokio::test]
async fn a_refused_event_can_be_set_aside() {
    let (fixture, broker) = (Fixture::new().await, Broker::default());
    broker.trouble("a1", Trouble::Refused, 1);
    fixture.publish(&[(Some("a"), "a1"), (Some("a"), "a2")]).await;
    let relay = Relay::new(fixture.store.clone(), broker.clone()).with_refusals(Refusals::SetAside).start();
    until("its key goes on", async || broker.said() == ["a2"]).await;
    let stuck = fixture.store.stuck(None, 10).await.unwrap();
    assert_eq!(stuck[0].why, Why::SetAside("too large for its topic".to_owned()));
    assert!(fixture.store.retry(stuck[0].place()).await.unwrap());
    until("it goes", async || broker.said() == ["a2", "a1"]).await;
    assert!(relay.stop(STOP).await);
}

/// A relay that stops settles what the broker has acknowledged.
#[tokio::test]
async fn stopping_settles_what_was_handed_out() {
    let (fixture, broker) = (Fixture::new().await, Broker::default());
    let gate = broker.gate();
    let relay = Relay::new(fixture.store.clone(), broker.clone()).start();
    fixture.publish(&[(Some("a"), "1")]).await;
    until("the broker has it", async || broker.said() == ["1"]).await;
    let stopping = tokio::spawn(relay.stop(STOP));
    gate.add_permits(1);
    assert!(stopping.await.unwrap());
    assert!(fixture.is_empty().await);
}

/// A publisher that never answers is cut off in time.
#[tokio::test]
async fn stopping_has_an_end() {
    let (fixture, broker) = (Fixture::new().await, Broker::default());
    let _gate = broker.gate();
    let relay = Relay::new(fixture.store.clone(), broker.clone()).start();
    fixture.publish(&[(Some("a"), "1")]).await;
    until("the broker has it", async || broker.said() == ["1"]).await;
    assert!(!relay.stop(Duration::from_millis(50)).await);
    assert!(!fixture.is_empty().await);
}

#[tokio::test]
async fn settings_that_cannot_be_kept_are_refused() {
    let fixture = Fixture::new().await;
    let relay = || Relay::new(fixture.store.clone(), Broker::default());
    assert_eq!(relay().with_lease(Duration::from_millis(999)).unwrap_err(), InvalidRelay::Lease);
    assert_eq!(relay().with_batch(0, 1).unwrap_err(), InvalidRelay::Batch);
    assert_eq!(relay().with_batch(1, 0).unwrap_err(), InvalidRelay::Batch);
}

/// A store that fails delays events, and what the broker has acknowledged is not handed out again while it does.
#[tokio::test]
async fn a_store_that_fails_delays_and_doubles_nothing() {
    let (fixture, broker) = (Fixture::new().await, Broker::default());
    let store = Between::new(fixture.store.clone(), None);
    store.fails(2, 2, 2);
    let relay = Relay::new(store.clone(), broker.clone()).with_batch(1, usize::MAX).unwrap().start();
    fixture.publish(&[(Some("a"), "1"), (Some("a"), "2"), (None, "3")]).await;
    until("all is published", async || broker.said().len() == 3).await;
    until("all is deleted", async || fixture.is_empty().await).await;
    assert_eq!(broker.said(), ["1", "2", "3"]);
    assert!(relay.stop(STOP).await);
}

/// Whether an event that the broker does not take at first is published in the end.
async fn is_published_in_the_end(mistake: Option<Mistake>) -> bool {
    /// At 5 ms each, far more than are made before the event is tried again.
    const READS_MAX: usize = 300;
    let (fixture, broker) = (Fixture::new().await, Broker::default());
    broker.trouble("a1", Trouble::Later, 1);
    let store = Between::new(fixture.store.clone(), mistake);
    fixture.publish(&[(Some("a"), "a1"), (Some("b"), "b1")]).await;
    let relay = Relay::new(store.clone(), broker.clone()).with_poll_max(Duration::ZERO).start();
    until("the other is published", async || broker.said().contains(&"b1".to_owned())).await;
    let before = store.reads();
    until("it is published, or read past", async || broker.said().len() == 2 || store.reads() > before + READS_MAX)
        .await;
    assert!(relay.stop(STOP).await);
    broker.said().len() == 2
}

/// The tests would find a relay that reads with a cursor, or deletes before the acknowledgement.
#[tokio::test]
async fn a_mistaken_outbox_loses_an_event() {
    assert!(is_published_in_the_end(None).await);
    assert!(!is_published_in_the_end(Some(Mistake::CursorScans)).await);
    assert!(!is_published_in_the_end(Some(Mistake::DeletesBeforeAcknowledgement)).await);
}

// ---- Handlers in this process --------------------------------------------------------------------------

fn engine(store: &Store) -> Engine {
    Engine::atomic(store.clone(), Policy::default(), Limits::default()).unwrap()
}

async fn note(mut tx: Tx<Sqlite>, Published { event, .. }: Published) -> Result<(), Failed> {
    let value = String::from_utf8(event.value().unwrap().to_vec())?;
    let written = value.clone();
    tx.run(move |db| db.execute("INSERT INTO seen (value) VALUES (?1)", [written])).await?;
    match value.as_str() {
        "poison" => Err(Failed::reject("it cannot be read")),
        "fails" => Err(Failed::again("not yet")),
        "panics" => panic!("at this event"),
        _ => Ok(()),
    }
}

/// Each event takes effect once, however often it is handed out.
#[tokio::test]
async fn an_event_that_is_handed_out_twice_takes_effect_once() {
    let fixture = Fixture::new().await;
    fixture.publish(&[(Some("a"), "1"), (Some("a"), "2"), (None, "3")]).await;
    let events = fixture.store.pending(10, usize::MAX, Skip::default()).await.unwrap();
    let events: Vec<_> = events.into_iter().map(|pending| pending.event).collect();
    let publisher = InProcess::atomic(engine(&fixture.store), "test", note).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    for _ in 0..3 {
        assert_eq!(publisher.publish(&events, until).await, vec![Sent::Acknowledged; 3]);
    }
    let mut seen = fixture.seen().await;
    seen.sort();
    assert_eq!(seen, ["1", "2", "3"]);
    // Another subscriber gets them as well.
    let other = InProcess::atomic(engine(&fixture.store), "other", note).unwrap();
    assert_eq!(other.publish(&events, until).await, vec![Sent::Acknowledged; 3]);
    assert_eq!(fixture.seen().await.len(), 6);
}

/// A handler that fails leaves nothing, and what is behind its event waits.
#[tokio::test]
async fn a_handler_that_fails_holds_up_its_key() {
    let fixture = Fixture::new().await;
    fixture
        .publish(&[
            (Some("a"), "a1"),
            (Some("a"), "fails"),
            (Some("a"), "a2"),
            (Some("b"), "poison"),
            (Some("b"), "b1"),
            (Some("c"), "panics"),
            (None, "none"),
        ])
        .await;
    let relay = Relay::new(fixture.store.clone(), InProcess::atomic(engine(&fixture.store), "test", note).unwrap());
    let relay = relay.start();
    until("the others are handled", async || fixture.seen().await.len() == 2).await;
    until("the rejected one is found", async || fixture.store.stuck(None, 10).await.unwrap().len() == 2).await;
    let stuck = fixture.store.stuck(None, 10).await.unwrap();
    assert_eq!((&stuck[0].why, &stuck[1].why), (&Why::Refused("it cannot be read".to_owned()), &Why::Held));
    let mut seen = fixture.seen().await;
    seen.sort();
    assert_eq!(seen, ["a1", "none"]);
    assert!(fixture.store.discard(stuck[0].place()).await.unwrap());
    until("the one behind it is handled", async || fixture.seen().await.contains(&"b1".to_owned())).await;
    assert!(relay.stop(STOP).await);
}

/// What a handler of an event publishes is published in turn.
#[tokio::test]
async fn a_handler_can_publish_more() {
    async fn passes_on(mut tx: Tx<Sqlite>, Published { event, .. }: Published) -> Result<(), Failed> {
        if event.topic() == "orders" {
            tx.publish(Event::new("shipped").with_value(event.value().unwrap().clone()))?;
            return Ok(());
        }
        note(tx, Published { id: EventId::from_bytes([0; 16]), event }).await
    }
    let fixture = Fixture::new().await;
    let publisher = InProcess::atomic(engine(&fixture.store), "test", passes_on).unwrap();
    let relay = Relay::new(fixture.store.clone(), publisher).start();
    fixture.publish(&[(Some("a"), "1")]).await;
    until("the second is handled", async || fixture.seen().await == ["1"]).await;
    assert!(relay.stop(STOP).await);
}

/// On a lease, the handler gets a run.
#[tokio::test]
async fn a_handler_on_a_lease_runs_once() {
    let (fixture, runs) = (Fixture::new().await, Arc::new(AtomicUsize::new(0)));
    let counted = runs.clone();
    let engine = Engine::fenced(memory::Store::new(), Policy::default(), Limits::default()).unwrap();
    let handler = move |run: Run, _: Published| {
        let counted = counted.clone();
        async move {
            assert_eq!(run.attempt(), 1);
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    };
    let publisher = InProcess::on_lease(engine, "test", handler).unwrap();
    fixture.publish(&[(Some("a"), "1")]).await;
    let events = fixture.store.pending(10, usize::MAX, Skip::default()).await.unwrap();
    let events: Vec<_> = events.into_iter().map(|pending| pending.event).collect();
    for _ in 0..2 {
        let until = Instant::now() + Duration::from_secs(60);
        assert_eq!(publisher.publish(&events, until).await, [Sent::Acknowledged]);
    }
    assert_eq!(runs.load(Ordering::Relaxed), 1);
}
