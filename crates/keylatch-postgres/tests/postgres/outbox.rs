//! The outbox: the order of commits, transactions of the caller's own, and how it comes into a database that is in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use keylatch::machine::{Claimed, Completion};
use keylatch::outbox::{Event, Events, Fate, Outbox as _, Settled, Skip};
use keylatch::postgres::sqlx::{self, AssertSqlSafe};
use keylatch::postgres::{InOwn, Store};
use keylatch::store::{Applied, Error, Store as _};
use keylatch::{Guarantee, Lease, Outcome, Policy, Scope};
use tokio::time::sleep;

use crate::plans::claim;
use crate::support::{cluster, database, insert, items, store};

fn event(key: &str, value: &str) -> Event {
    Event::new("orders").with_key(key.to_owned()).with_value(value.to_owned())
}

fn events(of: &[(&str, &str)]) -> Events {
    let mut events = Events::default();
    for (key, value) in of {
        events.publish(event(key, value)).unwrap();
    }
    events
}

async fn waiting(store: &Store) -> Vec<String> {
    let pending = store.pending(1_000, usize::MAX, Skip::default()).await.unwrap();
    pending.iter().map(|pending| String::from_utf8(pending.event.event.value().unwrap().to_vec()).unwrap()).collect()
}

async fn lease(store: &Store) -> Lease {
    let claim = claim(&Scope::new("relay").unwrap(), Duration::from_secs(30));
    let Claimed::Won(record) = store.claim(claim).await.unwrap().value else { panic!("it is free") };
    record.lease()
}

/// Everything that a relay and an operator do.
pub(crate) async fn refuse_and_discard(store: &Store, lease: Lease) -> Result<(), Error> {
    let mut tx = store.pool().begin().await.expect("a transaction begins");
    store.publish_in(&mut tx, events(&[("a", "1"), ("a", "2"), ("b", "3")])).await?;
    tx.commit().await.expect("it commits");
    let pending = store.pending(10, usize::MAX, Skip::default()).await?;
    let settled = |at: usize, fate| vec![Settled { place: pending[at].place(), fate }];
    for (at, fate) in [(2, Fate::Acknowledged), (0, Fate::Refused("too large".to_owned())), (1, Fate::Held)] {
        assert!(matches!(store.settle(lease, settled(at, fate)).await?, Applied::Applied(_)));
    }
    assert_eq!(store.stuck(None, 10).await?.len(), 2);
    assert!(store.discard(pending[0].place()).await?);
    assert!(matches!(store.settle(lease, settled(1, Fate::Acknowledged)).await?, Applied::Applied(_)));
    assert_eq!(store.backlog(10).await?.value.waiting.at_least(), 0);
    Ok(())
}

/// Two transactions commit in the reverse order of their numbers. A reader that has seen the higher one sees the lower one
/// when it comes.
#[tokio::test]
async fn a_late_commit_with_a_lower_number_is_published() {
    let store = store(&database().await).await;
    let lease = lease(&store).await;
    let (mut late, mut early) = (store.pool().begin().await.unwrap(), store.pool().begin().await.unwrap());
    store.publish_in(&mut late, events(&[("a", "late")])).await.unwrap();
    store.publish_in(&mut early, events(&[("b", "early")])).await.unwrap();
    early.commit().await.unwrap();
    let seen = store.pending(10, usize::MAX, Skip::default()).await.unwrap();
    assert_eq!(waiting(&store).await, ["early"]);
    let settled = vec![Settled { place: seen[0].place(), fate: Fate::Acknowledged }];
    assert!(matches!(store.settle(lease, settled).await.unwrap(), Applied::Applied(_)));
    late.commit().await.unwrap();
    let then = store.pending(10, usize::MAX, Skip::default()).await.unwrap();
    assert_eq!(waiting(&store).await, ["late"]);
    assert!(then[0].seq < seen[0].seq, "its number was lower");
}

/// How many transactions wait for a lock on a lane.
async fn wait_for_a_waiter(store: &Store) {
    let waiters =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    for _ in 0..10_000 {
        let waiting: i64 = sqlx::query_scalar(waiters).fetch_one(store.pool()).await.unwrap();
        if waiting > 0 {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
    panic!("nobody waits for the lane");
}

/// With one key that cannot happen: a transaction gets its number when the one before it has ended.
#[tokio::test]
async fn a_later_transaction_of_a_key_has_the_higher_number() {
    for commits in [true, false] {
        let store = store(&database().await).await;
        let mut first = store.pool().begin().await.unwrap();
        store.publish_in(&mut first, events(&[("b", "first b"), ("a", "first a")])).await.unwrap();
        let behind = store.clone();
        let second = tokio::spawn(async move {
            let mut second = behind.pool().begin().await.unwrap();
            behind.publish_in(&mut second, events(&[("a", "second a"), ("b", "second b")])).await.unwrap();
            second.commit().await.unwrap();
        });
        wait_for_a_waiter(&store).await;
        assert!(waiting(&store).await.is_empty());
        // One of another key, and one without, need not wait.
        let mut other = store.pool().begin().await.unwrap();
        store.publish_in(&mut other, events(&[("c", "other")])).await.unwrap();
        let mut keyless = Events::default();
        keyless.publish(Event::new("orders").with_value("keyless")).unwrap();
        store.publish_in(&mut other, keyless).await.unwrap();
        other.commit().await.unwrap();
        if commits {
            first.commit().await.unwrap();
        } else {
            first.rollback().await.unwrap();
        }
        second.await.unwrap();
        let expected: &[&str] = if commits {
            &["first b", "first a", "other", "keyless", "second a", "second b"]
        } else {
            &["other", "keyless", "second a", "second b"]
        };
        assert_eq!(waiting(&store).await, expected);
    }
}

/// An event that is to be held waits for the operator who lets its key go on at that moment, and stays with the others.
#[tokio::test]
async fn an_event_is_not_held_behind_one_that_an_operator_lets_go() {
    let store = store(&database().await).await;
    let lease = lease(&store).await;
    let mut tx = store.pool().begin().await.unwrap();
    store.publish_in(&mut tx, events(&[("a", "1"), ("a", "2")])).await.unwrap();
    tx.commit().await.unwrap();
    let pending = store.pending(10, usize::MAX, Skip::default()).await.unwrap();
    let settled = |at: usize, fate| vec![Settled { place: pending[at].place(), fate }];
    let _ = store.settle(lease, settled(0, Fate::Refused("too large".to_owned()))).await.unwrap();
    let mut operator = store.pool().begin().await.unwrap();
    let retry = "SELECT keylatch.release_event($1, $2, true)";
    let place = pending[0].place();
    let retry = sqlx::query_scalar::<_, bool>(retry).bind(place.seq.cast_signed()).bind(place.id.as_bytes().as_slice());
    assert!(retry.fetch_one(&mut *operator).await.unwrap());
    let relay = store.clone();
    let held = settled(1, Fate::Held);
    let held = tokio::spawn(async move { relay.settle(lease, held).await });
    wait_for_a_waiter(&store).await;
    operator.commit().await.unwrap();
    assert!(matches!(held.await.unwrap().unwrap(), Applied::Applied(_)));
    assert_eq!(waiting(&store).await, ["1", "2"]);
    assert!(store.stuck(None, 10).await.unwrap().is_empty());
}

/// A takeover waits for the old relay's settling, or comes before it: nothing is settled after a takeover.
#[tokio::test]
async fn the_lease_is_locked_while_its_relay_settles() {
    let store = store(&database().await).await;
    let lease = lease(&store).await;
    let mut takeover = store.pool().begin().await.unwrap();
    let stolen = "UPDATE keylatch.record SET epoch = epoch + 1 WHERE id = $1";
    sqlx::query(stolen).bind(lease.id.as_bytes().as_slice()).execute(&mut *takeover).await.unwrap();
    let mut tx = store.pool().begin().await.unwrap();
    store.publish_in(&mut tx, events(&[("a", "1")])).await.unwrap();
    tx.commit().await.unwrap();
    let place = store.pending(1, 1, Skip::default()).await.unwrap()[0].place();
    let relay = store.clone();
    let late =
        tokio::spawn(async move { relay.settle(lease, vec![Settled { place, fate: Fate::Acknowledged }]).await });
    wait_for_a_waiter(&store).await;
    takeover.commit().await.unwrap();
    assert_eq!(late.await.unwrap().unwrap(), Applied::Lost);
    assert_eq!(waiting(&store).await, ["1"]);
}

/// With a claim in the caller's own transaction, the events are written with the record.
#[tokio::test]
async fn events_of_an_own_transaction_are_one_with_its_record() {
    let store = store(&database().await).await;
    let request = claim(&Scope::new("job").unwrap(), Duration::from_secs(30));
    let request = keylatch::machine::Claim { guarantee: Guarantee::Atomic, ..request };
    for commits in [false, true] {
        let mut tx = store.pool().begin().await.unwrap();
        let InOwn::Entered(mut entered) = store.claim_in(&mut tx, &request).await.unwrap() else {
            panic!("it is free")
        };
        entered.publish(event("a", "1")).unwrap();
        insert(&mut tx, "a").await.unwrap();
        let completion = Completion::new(Outcome::bytes("done"), &Policy::default());
        assert!(store.complete_in(&mut tx, entered, completion).await.unwrap().is_some());
        if commits {
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
        let expected: &[&str] = if commits { &["1"] } else { &[] };
        assert_eq!(
            (waiting(&store).await, items(&store).await.len()),
            (expected.iter().map(|&one| one.to_owned()).collect(), expected.len())
        );
    }
    assert!(store.woken().now_or_never().is_none(), "only the caller knows of its commit");
    store.wake();
    store.woken().await;
}

/// Takes everything away that came after the first version of the schema.
const BACK_TO_VERSION_1: &str = "
    DO $$
    DECLARE
        later text;
    BEGIN
        FOR later IN
            SELECT format('DROP FUNCTION %s CASCADE', oid::regprocedure) FROM pg_proc
            WHERE pronamespace = 'keylatch'::regnamespace
                AND proname NOT IN ('clock', 'later', 'claim', 'complete', 'look', 'enter', 'enter_own')
            UNION ALL
            SELECT format('DROP TABLE keylatch.%I CASCADE', tablename) FROM pg_tables
            WHERE schemaname = 'keylatch' AND tablename NOT IN ('record', 'schema_version')
        LOOP
            EXECUTE later;
        END LOOP;
        DELETE FROM keylatch.schema_version WHERE version > 1;
    END
    $$";

/// A process of the first version works on while another brings the schema up to date, and afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_outbox_comes_into_a_database_that_is_in_use() {
    let database = database().await;
    let old = store(&database).await;
    sqlx::raw_sql(AssertSqlSafe(BACK_TO_VERSION_1)).execute(old.pool()).await.unwrap();
    let (done, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let load: Vec<_> = (0..4)
        .map(|n| {
            let (old, done, stop) = (old.clone(), done.clone(), stop.clone());
            tokio::spawn(async move {
                let scope = Scope::new(&format!("user-{n}")).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    // What the first version knows.
                    let Claimed::Won(record) = old.claim(claim(&scope, Duration::from_secs(30))).await.unwrap().value
                    else {
                        panic!("it is free")
                    };
                    let completion = Completion::new(Outcome::bytes("done"), &Policy::default());
                    assert!(matches!(old.complete(record.lease(), completion).await.unwrap(), Applied::Applied(_)));
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let more = async |than: usize| {
        while done.load(Ordering::Relaxed) < than + 20 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    more(0).await;
    let new = Store::connect(&cluster().url(&database)).await.expect("it migrates");
    more(done.load(Ordering::Relaxed)).await;
    let lease = lease(&new).await;
    refuse_and_discard(&new, lease).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    for worker in load {
        worker.await.unwrap();
    }
}
