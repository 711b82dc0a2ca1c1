//! Batches of messages on the writer: events, and a consumer that dies at each boundary of a batch.

use keylatch::inbox::{Batch, BatchEnd, Inbox as _, Ownership, Part, PlaceName, Places as _, Step, Why};
use keylatch::machine::Completion;
use keylatch::outbox::{Event, Outbox as _, Publishes as _, Skip};
use keylatch::sqlite::{Sqlite, Store};
use keylatch::store::{Applied, Owner};
use keylatch::tx::{Ending, Misuse};
use keylatch::{Outcome, Policy};

use crate::support::Fixture;

fn place() -> PlaceName {
    PlaceName::new("inventory", "orders", 0).unwrap()
}

fn done() -> Ending {
    Ending::Commit(Completion::new(Outcome::bytes("done"), &Policy::default()))
}

/// Takes the place, and says where it begins if nobody has.
async fn take(store: &Store) -> (Ownership, i64) {
    let taken = store.take(place(), Owner::random()).await.unwrap().value;
    let ownership = taken.ownership().unwrap();
    if let Some(next) = taken.next {
        return (ownership, next);
    }
    let begin = Step { from: None, to: 0, last: None };
    assert!(matches!(store.advance(ownership.clone(), begin).await.unwrap(), Applied::Applied(_)));
    (ownership, 0)
}

fn batch(ownership: &Ownership, from: i64, parts: Vec<Part<Sqlite>>) -> Batch<Sqlite> {
    let to = from + i64::try_from(parts.len()).unwrap();
    let step = Some(Step { from: Some(from), to, last: None });
    Batch { ownership: ownership.clone(), step, letter: None, parts }
}

/// A message whose handler publishes an event, and then ends like this.
fn publishing(value: &'static str, ending: Ending) -> Part<Sqlite> {
    Part {
        ids: vec![None],
        start: Box::new(move |mut tx, _| {
            Box::pin(async move {
                tx.events().publish(Event::new("orders").with_key("k").with_value(value)).unwrap();
                ending
            })
        }),
    }
}

/// The events of all handlers of a batch are published if and only if it is committed, in their order.
#[tokio::test]
async fn events_of_a_batch_are_one_with_it() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let (ownership, _) = take(store).await;
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

/// The handlers of a batch share the writer: one that awaits anything else fails the batch, whether or not it has used its
/// `Tx` before.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_of_a_batch_awaits_nothing_else() {
    let fixture = Fixture::new().await;
    let (ownership, _) = take(&fixture.store).await;
    let awaits = Part {
        ids: vec![None],
        start: Box::new(|_, _| {
            Box::pin(async {
                tokio::task::yield_now().await;
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                done()
            })
        }),
    };
    let end = fixture.store.apply(batch(&ownership, 0, vec![publishing("1", done()), awaits])).await.unwrap();
    let why = Why::Misused(Misuse::AwaitedInside { after: None });
    assert_eq!(end, BatchEnd::Failed { at: Some(1), why });
    assert!(fixture.store.pending(10, usize::MAX, Skip::default()).await.unwrap().is_empty());
}

#[cfg(feature = "failpoints")]
mod killed {
    use std::os::unix::process::ExitStatusExt as _;
    use std::path::Path;
    use std::process::{Command, ExitStatus};

    use keylatch::machine::Claim;
    use keylatch::store::Store as _;
    use keylatch::{Fingerprint, Guarantee, Key, Scope};

    use super::*;

    const VICTIM: &str = "KEYLATCH_INBOX_VICTIM";
    const MESSAGES: i64 = 12;
    /// How many messages go in one batch.
    const BATCH: i64 = 3;
    const SIGKILL: i32 = 9;

    /// The id of the message at `offset`; every second message has one.
    fn id(offset: i64) -> Option<Claim> {
        let (scope, key) = (Scope::new("orders").unwrap(), Key::new(&offset.to_string()).unwrap());
        let fingerprint = Fingerprint::of([b"message".as_slice()]);
        (offset % 2 == 0).then(|| Claim::new(scope, key, fingerprint, Guarantee::Atomic, &Policy::default()))
    }

    fn message(offset: i64) -> Part<Sqlite> {
        Part {
            ids: vec![id(offset)],
            start: Box::new(move |mut tx, _| {
                Box::pin(async move {
                    tx.run(move |db| db.execute("INSERT INTO effect (message) VALUES (?1)", [offset])).await.unwrap();
                    done()
                })
            }),
        }
    }

    /// Takes the place, and applies all that is left.
    async fn consume(store: &Store) -> Ownership {
        let (ownership, mut from) = take(store).await;
        while from < MESSAGES {
            let parts = (from..from + BATCH).map(message).collect();
            let end = store.apply(batch(&ownership, from, parts)).await.unwrap();
            assert_eq!(end, BatchEnd::Applied { known: Vec::new() });
            from += BATCH;
        }
        ownership
    }

    async fn effects(store: &Store) -> Vec<i64> {
        let sql = "SELECT message FROM effect ORDER BY message";
        store.query(move |db| db.prepare(sql)?.query_map([], |row| row.get(0))?.collect()).await.unwrap()
    }

    /// Runs this very test in another process, which consumes from the file until it is killed.
    fn victim(file: &Path, plan: &str) -> ExitStatus {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "inbox::killed::killed_at_each_boundary_of_a_batch"])
            .env("KEYLATCH_FAILPOINT", plan)
            .env(VICTIM, file)
            .output()
            .unwrap()
            .status
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn killed_at_each_boundary_of_a_batch() {
        if let Some(file) = std::env::var_os(VICTIM) {
            consume(&Store::open(file).await.unwrap()).await;
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
                let directory = tempfile::tempdir().unwrap();
                let file = directory.path().join("keylatch.db");
                let create = "CREATE TABLE effect (message INTEGER NOT NULL)";
                Store::open(&file).await.unwrap().execute(|db| db.execute(create, [])).await.unwrap();
                let killed = victim(&file, &format!("{point}:{hit}:kill"));
                assert_eq!(killed.signal(), Some(SIGKILL), "{point} {hit}: {killed}");
                let store = Store::open(&file).await.unwrap();
                let found = store.place(place()).await.unwrap().value.unwrap();
                let next = found.next.unwrap();
                assert_eq!(effects(&store).await, (0..next).collect::<Vec<_>>(), "{point} {hit}");
                for claim in (0..MESSAGES).filter_map(id) {
                    let passed = claim.key().as_str().parse::<i64>().unwrap() < next;
                    assert_eq!(store.read(claim.id()).await.unwrap().value.is_some(), passed, "{point} {hit}");
                }
                let last = consume(&store).await;
                let found = store.place(place()).await.unwrap().value.unwrap();
                assert_eq!((found.epoch, found.after_crash), (last.epoch, true), "{point} {hit}: it was taken over");
                assert_eq!(effects(&store).await, (0..MESSAGES).collect::<Vec<_>>(), "{point} {hit}");
            }
        }
    }
}
