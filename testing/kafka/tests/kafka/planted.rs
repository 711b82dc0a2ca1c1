//! Planted bugs: a store with a mistake, and what these tests look for must find it. Without the mistake it is not found.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keylatch::Tx;
use keylatch_core::inbox::{DeadLettersRequest, Inbox as _, PlaceName, Places as _};
use keylatch_core::{Clock, Owner};
use keylatch_kafka::{Consumer, Count, Failed, Message, Stats};
use testing_support::eventually;
use testing_toy::{Mistake, Store, Texts};
use tokio::runtime::Runtime;

use crate::setup::{SOON, client, name, say, send, topic};

/// A consumer in a runtime of its own. Dropped, it is gone at once, as a process that is killed.
struct Process {
    stats: Stats,
    runtime: Option<Runtime>,
}

impl Process {
    fn start<H, F>(store: &Store, name: &str, topic: &str, handler: H) -> Self
    where
        H: Fn(Tx<Texts>, Message) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Failed>> + Send + 'static,
    {
        let pause = Duration::from_millis(10);
        let running = Consumer::new(client(), name, [topic]).with_tries(2, pause, pause).each(store.clone(), handler);
        let running = running.expect("it is valid");
        let runtime = Runtime::new().expect("there are threads");
        let stats = running.stats();
        runtime.spawn(running.run_until(std::future::pending()));
        Self { stats, runtime: Some(runtime) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn text(message: &Message) -> String {
    String::from_utf8(message.value().expect("it has a value").to_vec()).expect("it is a text")
}

async fn write(mut tx: Tx<Texts>, message: Message) -> Result<(), Failed> {
    tx.write(text(&message));
    Ok(())
}

/// The next offset of the only partition.
async fn next(store: &Store, name: &str, topic: &str) -> Option<i64> {
    let place = PlaceName::new(name, topic, 0).expect("a name");
    store.place(place).await.expect("it reads").value.and_then(|place| place.next)
}

async fn dead(store: &Store) -> usize {
    let request = DeadLettersRequest { limit: 100, ..DeadLettersRequest::default() };
    store.dead_letters(request).await.expect("it lists").value.items.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_moved_in_a_transaction_of_its_own_loses_messages() {
    for mistake in [None, Some(Mistake::PlaceMovesAlone)] {
        let (store, topic, name) = (Store::new(Clock::system(), mistake), topic(1).await, name("c"));
        send(&topic, (0..10).map(|nth| say(0, "k", &nth.to_string()))).await;
        let tries = Arc::new(AtomicUsize::new(0));
        let handler = move |tx, message: Message| {
            let fails = text(&message) == "5" && tries.fetch_add(1, Ordering::SeqCst) == 0;
            async move { if fails { Err(Failed::again("the test says so")) } else { write(tx, message).await } }
        };
        let _process = Process::start(&store, &name, &topic, handler);
        let passed = async || next(&store, &name, &topic).await == Some(10);
        eventually(SOON, "the place to pass all", passed).await;
        let is_lost = store.texts().len() + dead(&store).await < 10;
        assert_eq!(is_lost, mistake.is_some(), "{mistake:?}: {:?}", store.texts());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_that_is_not_checked_lets_a_stale_owner_write() {
    for mistake in [None, Some(Mistake::EpochNotChecked)] {
        let (store, topic, name) = (Store::new(Clock::system(), mistake), topic(1).await, name("c"));
        let process = Process::start(&store, &name, &topic, write);
        send(&topic, [say(0, "k", "0")]).await;
        eventually(SOON, "the first message", async || store.texts().len() == 1).await;
        // Somebody else is the owner now.
        let place = PlaceName::new(&name, &topic, 0).expect("a name");
        store.take(place, Owner::random()).await.expect("it takes");
        send(&topic, [say(0, "k", "1")]).await;
        eventually(SOON, "the second message, or a fenced owner", async || {
            store.texts().len() == 2 || process.stats.of(Count::Fenced) > 0
        })
        .await;
        let wrote_as_stale = process.stats.of(Count::Fenced) == 0;
        assert_eq!(wrote_as_stale, mistake.is_some(), "{mistake:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_that_is_counted_afterwards_lets_a_message_kill_for_ever() {
    for mistake in [None, Some(Mistake::TryIsCountedAfterwards)] {
        let (store, topic, name) = (Store::new(Clock::system(), mistake), topic(1).await, name("c"));
        send(&topic, [say(0, "k", "0 kills")]).await;
        // Once in its batch, twice by itself, and then it is a dead letter; if tries are counted.
        for _ in 0..4 {
            let started = Arc::new(AtomicUsize::new(0));
            let starts = started.clone();
            let kills = move |_: Tx<Texts>, _: Message| {
                starts.fetch_add(1, Ordering::SeqCst);
                std::future::pending()
            };
            let _process = Process::start(&store, &name, &topic, kills);
            eventually(SOON, "the message to be tried, or given up", async || {
                started.load(Ordering::SeqCst) > 0 || dead(&store).await > 0
            })
            .await;
        }
        assert_eq!(dead(&store).await == 0, mistake.is_some(), "{mistake:?}");
    }
}
