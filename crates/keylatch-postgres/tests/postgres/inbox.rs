//! Batches of messages on a real server: an owner that is slow or falls silent, and one that dies at each boundary.

use std::sync::Arc;
use std::time::Duration;

use keylatch::inbox::{
    Batch, BatchEnd, DeadLetterId, Inbox as _, Order, Ownership, Part, PlaceName, Places as _, Reason, Step, Trouble,
    Why,
};
use keylatch::machine::{Claim, Claimed, Completion};
use keylatch::outbox::{Event, Events, Outbox as _, Publishes as _, Skip};
use keylatch::postgres::sqlx::{query, query_scalar, raw_sql};
use keylatch::postgres::{Options, Postgres, Store};
use keylatch::store::{Applied, Error, Owner, Store as _};
use keylatch::tx::{Ending, Misuse};
use keylatch::{Fingerprint, Guarantee, Key, Outcome, Policy, Scope};
use tokio::sync::Notify;

use crate::support::{database, store, store_with};

fn place() -> PlaceName {
    PlaceName::new("the 'inventory'", "orders", 0).unwrap()
}

/// The id of the message at `offset`; every second message has one.
fn id(offset: i64) -> Option<Claim> {
    let (scope, key) = (Scope::new("orders").unwrap(), Key::new(&offset.to_string()).unwrap());
    let fingerprint = Fingerprint::of([b"message".as_slice()]);
    (offset % 2 == 0).then(|| Claim::new(scope, key, fingerprint, Guarantee::Atomic, &Policy::default()))
}

fn done() -> Ending {
    Ending::Commit(Completion::new(Outcome::bytes("done"), &Policy::default()))
}

pub(crate) fn message(offset: i64) -> Part<Postgres> {
    Part {
        ids: vec![id(offset)],
        start: Box::new(move |mut tx, _| {
            Box::pin(async move {
                query("INSERT INTO effect (message) VALUES ($1)").bind(offset).execute(&mut *tx).await.unwrap();
                done()
            })
        }),
    }
}

pub(crate) fn batch(ownership: &Ownership, from: i64, parts: Vec<Part<Postgres>>) -> Batch<Postgres> {
    let to = from + i64::try_from(parts.len()).unwrap();
    let step = Some(Step { from: Some(from), to, last: None });
    Batch { ownership: ownership.clone(), step, letter: None, parts }
}

/// Takes the place, and says where it begins if nobody has.
pub(crate) async fn take(store: &Store) -> (Ownership, i64) {
    let taken = store.take(place(), Owner::random()).await.unwrap().value;
    let ownership = taken.ownership().unwrap();
    if let Some(next) = taken.next {
        return (ownership, next);
    }
    let begin = Step { from: None, to: 0, last: None };
    assert!(matches!(store.advance(ownership.clone(), begin).await.unwrap(), Applied::Applied(_)));
    (ownership, 0)
}

pub(crate) async fn with_effects(options: Options) -> (String, Store) {
    let database = database().await;
    let store = store_with(&database, options).await;
    raw_sql("CREATE TABLE effect (message bigint NOT NULL)").execute(store.pool()).await.unwrap();
    (database, store)
}

async fn effects(store: &Store) -> Vec<i64> {
    query_scalar("SELECT message FROM effect ORDER BY message").fetch_all(store.pool()).await.unwrap()
}

/// Waits until a statement waits for a lock.
async fn someone_waits(store: &Store) {
    const LOOKS_MAX: usize = 1_000;
    let waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                   AND datname = current_database())";
    for _ in 0..LOOKS_MAX {
        if query_scalar::<_, bool>(waiting).fetch_one(store.pool()).await.unwrap() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody waits for the lock");
}

/// A message whose handler tells when it has begun, and ends when it is told to.
fn slow(begun: &Arc<Notify>, end: &Arc<Notify>) -> Part<Postgres> {
    let (begun, end) = (begun.clone(), end.clone());
    Part {
        ids: vec![None],
        start: Box::new(move |mut tx, _| {
            Box::pin(async move {
                query("INSERT INTO effect (message) VALUES (0)").execute(&mut *tx).await.unwrap();
                begun.notify_one();
                end.notified().await;
                done()
            })
        }),
    }
}

/// Whoever takes a place waits for the transaction that its owner has open, and then knows of what it has committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_waits_for_the_owners_transaction() {
    let (database, owner) = with_effects(Options::default()).await;
    let (ownership, _) = take(&owner).await;
    let (begun, end) = (Arc::default(), Arc::default());
    let batch = batch(&ownership, 0, vec![slow(&begun, &end)]);
    let applying = tokio::spawn(async move { owner.apply(batch).await });
    begun.notified().await;
    let next_owner = store(&database).await;
    let taker = next_owner.clone();
    let taking = tokio::spawn(async move { taker.take(place(), Owner::random()).await });
    someone_waits(&next_owner).await;
    assert!(!taking.is_finished());
    end.notify_one();
    assert_eq!(applying.await.unwrap().unwrap(), BatchEnd::Applied { known: Vec::new() });
    let taken = taking.await.unwrap().unwrap().value;
    assert_eq!((taken.epoch, taken.next), (ownership.epoch.next(), Some(1)));
    assert_eq!(effects(&next_owner).await, [0]);
}

/// It waits no longer than a transaction may pause: then the server ends the silent owner's, and nothing of it commits.
#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_waits_for_a_silent_owner_as_long_as_it_may_pause() {
    let pause = Duration::from_millis(300);
    let (database, owner) = with_effects(Options::default().with_handler_pause_max(Some(pause))).await;
    let (ownership, _) = take(&owner).await;
    let (begun, end) = (Arc::default(), Arc::default());
    let late = batch(&ownership, 0, vec![slow(&begun, &end)]);
    let applying = tokio::spawn({
        let owner = owner.clone();
        async move { owner.apply(late).await }
    });
    begun.notified().await;
    let next_owner = store(&database).await;
    let (successor, next) = take(&next_owner).await;
    assert_eq!((successor.epoch, next), (ownership.epoch.next(), 0));
    let end_of_next = next_owner.apply(batch(&successor, 0, vec![message(7)])).await.unwrap();
    assert_eq!(end_of_next, BatchEnd::Applied { known: Vec::new() });
    end.notify_one();
    let error = applying.await.unwrap().expect_err("the server has ended the transaction");
    assert!(error.retryable(), "{error}");
    assert_eq!(effects(&next_owner).await, [7]);
    // It finds that it has lost its place, and starts nothing.
    let never = Part { ids: vec![None], start: Box::new(|_, _| panic!("it must not start")) };
    assert!(matches!(owner.apply(batch(&ownership, 0, vec![never])).await.unwrap(), BatchEnd::Lost(Some(_))));
}

/// However many messages a batch has, they share a transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_one_transaction() {
    let (_, store) = with_effects(Options::default()).await;
    let (ownership, _) = take(&store).await;
    let parts = (0..100).map(message).collect();
    assert_eq!(store.apply(batch(&ownership, 0, parts)).await.unwrap(), BatchEnd::Applied { known: Vec::new() });
    let transactions = "SELECT count(DISTINCT xmin::text) FROM (SELECT xmin FROM effect UNION ALL \
                        SELECT xmin FROM keylatch.record UNION ALL SELECT xmin FROM keylatch.place) AS written";
    assert_eq!(query_scalar::<_, i64>(transactions).fetch_one(store.pool()).await.unwrap(), 1);
    assert_eq!(effects(&store).await.len(), 100);
}

/// Somebody else may record an id after the batch has looked for it. Then nothing of the batch is committed, and the next
/// try sees the record.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_recorded_while_its_batch_runs_holds_it_back() {
    let (database, owner) = with_effects(Options::default()).await;
    let (ownership, _) = take(&owner).await;
    let (begun, end) = (Arc::default(), Arc::default());
    let late = batch(&ownership, 0, vec![Part { ids: vec![id(0)], ..slow(&begun, &end) }, message(1)]);
    let applying = tokio::spawn({
        let owner = owner.clone();
        async move { owner.apply(late).await }
    });
    begun.notified().await;
    let other = store(&database).await;
    let Claim { name, fingerprint, .. } = id(0).unwrap();
    let lease = Claim {
        name,
        ..Claim::new(Scope::new("any").unwrap(), Key::random(), fingerprint, Guarantee::Fenced, &Policy::default())
    };
    assert!(matches!(other.claim(lease).await.unwrap().value, Claimed::Won(_)));
    end.notify_one();
    assert!(matches!(applying.await.unwrap().unwrap(), BatchEnd::Held { at: 0, record: None }));
    assert!(effects(&owner).await.is_empty());
    let again = owner.apply(batch(&ownership, 0, vec![message(0)])).await.unwrap();
    assert!(matches!(again, BatchEnd::Held { at: 0, record: Some(_) }), "{again:?}");
}

/// The events of all handlers of a batch are published if and only if it is committed, in their order.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_batch_are_one_with_it() {
    let publishing = |value: &'static str, ending: Ending| Part::<Postgres> {
        ids: vec![None],
        start: Box::new(move |mut tx, _| {
            Box::pin(async move {
                tx.events().publish(Event::new("orders").with_key("k").with_value(value)).unwrap();
                ending
            })
        }),
    };
    let (_, store) = with_effects(Options::default()).await;
    let (ownership, _) = take(&store).await;
    let failing = vec![publishing("1", done()), publishing("2", done()), publishing("3", Ending::RollBack)];
    let failed = BatchEnd::Failed { at: Some(2), why: Why::Ended };
    assert_eq!(store.apply(batch(&ownership, 0, failing)).await.unwrap(), failed);
    assert!(store.pending(10, usize::MAX, Skip::default()).await.unwrap().is_empty());
    let parts = vec![publishing("1", done()), publishing("2", done())];
    let (end, ()) = tokio::join!(store.apply(batch(&ownership, 0, parts)), store.woken());
    assert_eq!(end.unwrap(), BatchEnd::Applied { known: Vec::new() });
    let pending = store.pending(10, usize::MAX, Skip::default()).await.unwrap();
    let values: Vec<_> = pending.iter().map(|pending| &pending.event.event.value().unwrap()[..]).collect();
    assert_eq!(values, [b"1", b"2"]);
}

/// A handler that swallows the error of a statement has broken the transaction of its whole batch. Nothing is
/// committed. Applied one by one, it is the message that fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_swallowed_error_commits_nothing_of_the_batch() {
    let (_, store) = with_effects(Options::default()).await;
    let (ownership, _) = take(&store).await;
    let swallows = || Part::<Postgres> {
        ids: vec![None],
        start: Box::new(|mut tx, _| {
            Box::pin(async move {
                query("SELECT 1 / 0").execute(&mut *tx).await.unwrap_err();
                done()
            })
        }),
    };
    let broken = BatchEnd::Failed { at: None, why: Why::Misused(Misuse::Failed) };
    let end = store.apply(batch(&ownership, 0, vec![message(0), swallows()])).await.unwrap();
    assert_eq!(end, broken, "it cannot tell which");
    assert!(effects(&store).await.is_empty());
    let alone = store.apply(batch(&ownership, 0, vec![message(0)])).await.unwrap();
    assert_eq!(alone, BatchEnd::Applied { known: Vec::new() });
    assert_eq!(store.apply(batch(&ownership, 1, vec![swallows()])).await.unwrap(), broken);
    assert_eq!(effects(&store).await, [0]);
}

/// Everything that needs a grant, beside batches.
pub(crate) async fn bury_discard_and_remove(store: &Store) -> Result<(), Error> {
    let ownership = store.take(place(), Owner::random()).await?.value.ownership().unwrap();
    let seen = ownership.epoch;
    let digest = Fingerprint::of([b"message".as_slice()]);
    let trouble = Trouble::new(digest, Reason::Rejected, "it has no product", 1);
    let _ = store.bury(ownership, 0, trouble, None, Events::default()).await?;
    let letter = DeadLetterId { place: place(), offset: 0, digest };
    assert!(store.order(letter.clone(), Order::Replay).await? && store.order(letter, Order::Discard).await?);
    let _ = store.remove(place(), seen).await?;
    Ok(())
}

#[cfg(feature = "failpoints")]
mod killed {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Command, ExitStatus};

    use keylatch::store::Store as _;

    use super::*;
    use crate::support::cluster;

    const VICTIM: &str = "KEYLATCH_INBOX_VICTIM";
    const MESSAGES: i64 = 12;
    /// How many messages go in one batch.
    const BATCH: i64 = 3;
    const SIGKILL: i32 = 9;

    /// Takes the place, and applies all that is left.
    async fn consume(store: &Store) {
        let (ownership, mut from) = take(store).await;
        while from < MESSAGES {
            let parts = (from..from + BATCH).map(message).collect();
            let end = store.apply(batch(&ownership, from, parts)).await.unwrap();
            assert_eq!(end, BatchEnd::Applied { known: Vec::new() });
            from += BATCH;
        }
    }

    /// Runs this very test in another process, which consumes until it is killed.
    fn victim(database: &str, plan: &str) -> ExitStatus {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "inbox::killed::killed_at_each_boundary_of_a_batch"])
            .env("KEYLATCH_FAILPOINT", plan)
            .env(VICTIM, cluster().url(database))
            .output()
            .unwrap()
            .status
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn killed_at_each_boundary_of_a_batch() {
        if let Ok(url) = std::env::var(VICTIM) {
            consume(&Store::connect(&url).await.unwrap()).await;
            return;
        }
        for (point, hits) in [
            ("before-claim", [1, 3]),
            ("after-claim", [1, 3]),
            ("after-handler-write", [2, 8]),
            ("before-commit", [1, 3]),
            ("after-commit", [1, 3]),
        ] {
            for hit in hits {
                let (database, store) = with_effects(Options::default()).await;
                let (name, plan) = (database.clone(), format!("{point}:{hit}:kill"));
                let killed = tokio::task::spawn_blocking(move || victim(&name, &plan)).await.unwrap();
                assert_eq!(killed.signal(), Some(SIGKILL), "{point} {hit}: {killed}");
                let (_, next) = take(&store).await;
                assert_eq!(effects(&store).await, (0..next).collect::<Vec<_>>(), "{point} {hit}");
                for claim in (0..MESSAGES).filter_map(id) {
                    let passed = claim.key().as_str().parse::<i64>().unwrap() < next;
                    assert_eq!(store.read(claim.id()).await.unwrap().value.is_some(), passed, "{point} {hit}");
                }
                consume(&store).await;
                assert_eq!(effects(&store).await, (0..MESSAGES).collect::<Vec<_>>(), "{point} {hit}");
            }
        }
    }
}
