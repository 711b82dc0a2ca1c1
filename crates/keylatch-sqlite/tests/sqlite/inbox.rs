//! A consumer that dies at each boundary of a batch: every message has one effect, and the place tells which have.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus};

use keylatch::inbox::{Batch, BatchEnd, Inbox as _, Ownership, Part, PlaceName, Step};
use keylatch::machine::{Claim, Completion};
use keylatch::sqlite::{Sqlite, Store};
use keylatch::store::{Applied, Owner, Store as _};
use keylatch::tx::Ending;
use keylatch::{Fingerprint, Guarantee, Key, Outcome, Policy, Scope};

const VICTIM: &str = "KEYLATCH_INBOX_VICTIM";
const MESSAGES: i64 = 12;
/// How many messages go in one batch.
const BATCH: i64 = 3;
const SIGKILL: i32 = 9;

fn place() -> PlaceName {
    PlaceName::new("inventory", "orders", 0).unwrap()
}

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
                Ending::Commit(Completion::new(Outcome::bytes("done"), &Policy::default()))
            })
        }),
    }
}

/// Takes the place, and applies all that is left.
async fn consume(store: &Store) -> Ownership {
    let taken = store.take(place(), Owner::random()).await.unwrap().value;
    let ownership = taken.ownership().unwrap();
    let mut next = taken.next;
    if next.is_none() {
        let begin = Step { from: None, to: 0, last: None };
        assert!(matches!(store.advance(ownership.clone(), begin).await.unwrap(), Applied::Applied(_)));
        next = Some(0);
    }
    let mut from = next.unwrap();
    while from < MESSAGES {
        let step = Some(Step { from: Some(from), to: from + BATCH, last: None });
        let parts = (from..from + BATCH).map(message).collect();
        let batch = Batch { ownership: ownership.clone(), step, letter: None, parts };
        assert_eq!(store.apply(batch).await.unwrap(), BatchEnd::Applied { known: Vec::new() });
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
        .args(["--exact", "inbox::killed_at_each_boundary_of_a_batch"])
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
