//! `Atomic`: the claim, the handler's writes and the record commit together, or not at all.

use std::mem;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};

use super::Harness;
use super::cancellation::cut_off;
use super::fixture::{
    FREE, LEASE, MS, RETENTION, Subject, TOMBSTONE, again, claim_of, completion, fenced, outcome, reused,
};
use crate::machine::{self, Claim, Claimed, Phase};
use crate::store::{Applied, At, Error};
use crate::tx::{Database, Ending, Seen, Start, Transacted, Transactional};
use crate::{Epoch, Fingerprint, Guarantee, Outcome, Record};

/// The environment of one case: what [`Harness`] has, and transactions of handlers.
///
/// An effect is a text that a handler writes: a row in its own table. The table exists and is empty.
pub trait AtomicHarness: Harness {
    /// The store under test.
    type Store: Transactional + Clone;

    /// The store under test. Every call returns the same one.
    fn transactional(&self) -> Self::Store;

    /// Another handle on the same database, as a second process would have.
    fn connect_transactional(&self) -> BoxFuture<'_, Self::Store>;

    /// The name of the table of effects.
    fn table(&self) -> String;

    /// Writes an effect into `table` in a handler's transaction.
    ///
    /// # Errors
    ///
    /// The error of the database.
    fn write(tx: &mut Handle<Self>, table: String, effect: String) -> BoxFuture<'_, Result<(), String>>;

    /// Runs a statement that the database refuses.
    fn fail(tx: &mut Handle<Self>) -> BoxFuture<'_, ()>;

    /// Tries to end the transaction with a statement.
    fn end(tx: &mut Handle<Self>) -> BoxFuture<'_, ()>;

    /// All effects that are committed, in alphabetical order.
    fn effects(&self) -> BoxFuture<'_, Vec<String>>;
}

/// The handler's end of a transaction.
pub type Handle<H> = HandleOf<<H as AtomicHarness>::Store>;
pub(super) type HandleOf<S> = <<S as Transactional>::Database as Database>::Handle;

/// Makes every case of `Atomic` a `#[test]`. The expression builds the harness, anew for each case. It may await.
#[macro_export]
macro_rules! conformance_atomic {
    (@each $($then:tt)*) => {
        $crate::conformance_atomic! { $($then)*
            writes_record_and_answer_commit_together
            committed_record_is_what_is_read
            look_tells_what_was_committed
            handler_without_writes_is_recorded
            refusal_keeps_the_answer_and_takes_the_writes_back
            rolled_back_run_leaves_nothing
            held_key_commits_nothing
            reused_key_commits_nothing
            running_lease_holds_the_key
            lapsed_lease_is_taken_over
            unknown_run_is_never_taken_over
            freed_key_keeps_its_epoch
            tombstone_holds_the_key_and_then_frees_it
            transaction_given_back_early_is_committed
            leaked_transaction_commits_nothing
            moved_transaction_commits_nothing
            failed_statement_is_all_or_nothing
            ended_transaction_records_nothing_alone
            panic_harms_nobody
            attempts_at_once_have_one_effect
            two_processes_race_for_one_effect
            two_requests_race_for_one_key
            different_keys_all_commit
            lease_and_transaction_race_for_one_effect
            attempt_can_be_cut_off
            committed_attempt_survives
        }
    };
    (@tests $harness:expr, $($case:ident)*) => {$(
        #[test]
        fn $case() {
            let harness = ::std::boxed::Box::pin(async { $harness });
            $crate::conformance::run(harness, |harness| ::std::boxed::Box::pin($crate::conformance::atomic::$case(harness)));
        }
    )*};
    (@names $($case:ident)*) => { &[$(stringify!($case),)*] };
    ($harness:expr) => { $crate::conformance_atomic! { @each @tests $harness, } };
}

/// The names of all cases.
pub const CASES: &[&str] = conformance_atomic!(@each @names);

/// How often a caller looks again at a busy key, a millisecond apart.
const LOOKS_MAX: usize = 20_000;

pub(super) fn atomic(key_text: &str) -> Claim {
    claim_of(Guarantee::Atomic, key_text)
}

pub(super) fn commit(body: &'static str) -> Ending {
    Ending::Commit(completion(body))
}

/// A handler that writes `effect` and ends with this verdict.
pub(super) fn writes<H: AtomicHarness>(
    harness: &H,
    effect: &str,
    ending: Ending,
) -> impl Fn(Handle<H>) -> BoxFuture<'static, Ending> + Clone + Send + Sync + 'static {
    let (table, effect) = (harness.table(), effect.to_owned());
    move |mut tx| {
        let (table, effect, ending) = (table.clone(), effect.clone(), ending.clone());
        Box::pin(async move {
            H::write(&mut tx, table, effect).await.expect("the effect is written");
            ending
        })
    }
}

/// One attempt, after this look.
pub(super) async fn transact<S: Transactional>(
    store: &S,
    claim: &Claim,
    seen: At<Option<Record>>,
    handler: impl FnOnce(HandleOf<S>) -> BoxFuture<'static, Ending> + Send + 'static,
) -> Result<Transacted, Error> {
    let start: Start<S::Database> = Box::new(handler);
    store.transact(claim.clone(), seen, start).await.map(|transacted| transacted.value)
}

/// Looks and makes an attempt, and repeats this while others hold the key, as an engine does.
pub(super) async fn attempt<S: Transactional>(
    store: &S,
    claim: &Claim,
    handler: impl Fn(HandleOf<S>) -> BoxFuture<'static, Ending> + Clone + Send + 'static,
) -> Transacted {
    for _ in 0..LOOKS_MAX {
        let At { value: Seen { record, busy }, now } = store.look(claim).await.expect("the store looks");
        match machine::claim(record.clone(), claim, now) {
            Claimed::Held(record) if record.owner == claim.owner => return Transacted::Committed(record),
            Claimed::Held(record) => return Transacted::Held(Some(record)),
            Claimed::Won(_) if busy => {}
            Claimed::Won(_) => {
                let done = transact(store, claim, At { value: record, now }, handler.clone()).await;
                match done.expect("the store does an attempt") {
                    Transacted::Held(None) => {}
                    done => return done,
                }
            }
        }
        tokio::time::sleep(MS).await;
    }
    panic!("the key is busy for good");
}

pub(super) fn committed(transacted: Transacted) -> Record {
    match transacted {
        Transacted::Committed(record) => record,
        other => panic!("the attempt was to be committed: {other:?}"),
    }
}

pub(super) fn held(transacted: Transacted) -> Record {
    match transacted {
        Transacted::Held(Some(record)) => record,
        other => panic!("the key was to be held: {other:?}"),
    }
}

pub(super) async fn record_of<H: AtomicHarness>(harness: &H, claim: &Claim) -> Option<Record> {
    harness.store().read(claim.id()).await.expect("the store reads").value
}

/// The record exists if and only if the effect does.
async fn assert_all_or_nothing<H: AtomicHarness>(harness: &H, claim: &Claim, effect: &str) {
    let recorded = record_of(harness, claim).await.is_some();
    let effects = harness.effects().await;
    let times = effects.iter().filter(|written| *written == effect).count();
    assert_eq!(times, usize::from(recorded), "the effect and its record are one: {effects:?}");
}

/// The writes, the record and the answer are committed together.
pub async fn writes_record_and_answer_commit_together<H: AtomicHarness>(harness: &H) {
    let claim = atomic("key");
    let record = committed(attempt(&harness.transactional(), &claim, writes(harness, "a", commit("done"))).await);
    assert_eq!(outcome(&record), Some(&Outcome::bytes("done")));
    assert_eq!((record.epoch, record.attempt, record.owner), (Epoch::FIRST, 1, claim.owner));
    assert_eq!(harness.effects().await, ["a"]);
}

/// The record that an attempt returns is the one that everyone reads afterwards, with the spans of its completion.
pub async fn committed_record_is_what_is_read<H: AtomicHarness>(harness: &H) {
    let claim = atomic("key");
    let record = committed(attempt(&harness.transactional(), &claim, writes(harness, "a", commit("done"))).await);
    let now = Subject::new(harness).now().await;
    assert_eq!(record.free_at, Some(now + RETENTION + TOMBSTONE));
    assert_eq!(record_of(harness, &claim).await.as_ref(), Some(&record));
    let elsewhere = harness.connect().await.read(claim.id()).await.expect("the store reads").value;
    assert_eq!(elsewhere, Some(record));
}

/// After an attempt, a look tells what became of it, so a lost reply does no harm.
pub async fn look_tells_what_was_committed<H: AtomicHarness>(harness: &H) {
    let (store, elsewhere) = (harness.transactional(), harness.connect_transactional().await);
    let claim = atomic("key");
    let before = store.look(&claim).await.expect("the store looks").value;
    assert_eq!(before, Seen { record: None, busy: false });
    let record = committed(attempt(&store, &claim, writes(harness, "a", commit("done"))).await);
    for store in [store, elsewhere] {
        let seen = store.look(&claim).await.expect("the store looks").value;
        assert_eq!(seen, Seen { record: Some(record.clone()), busy: false });
    }
}

/// A handler need not use its transaction.
pub async fn handler_without_writes_is_recorded<H: AtomicHarness>(harness: &H) {
    let (store, claim) = (harness.transactional(), atomic("key"));
    let record = committed(attempt(&store, &claim, |_| Box::pin(async { commit("done") })).await);
    assert_eq!(record_of(harness, &claim).await, Some(record));
    assert!(harness.effects().await.is_empty());
}

/// A refusal is kept, and the handler's writes are not.
pub async fn refusal_keeps_the_answer_and_takes_the_writes_back<H: AtomicHarness>(harness: &H) {
    let (store, claim) = (harness.transactional(), atomic("key"));
    let refuses = writes(harness, "a", Ending::RecordOnly(completion("no")));
    let record = committed(attempt(&store, &claim, refuses).await);
    assert_eq!(outcome(&record), Some(&Outcome::bytes("no")));
    assert_eq!(record_of(harness, &claim).await, Some(record.clone()));
    assert!(harness.effects().await.is_empty());
    assert_eq!(held(attempt(&store, &again(&claim), writes(harness, "b", commit("again"))).await), record);
    assert!(harness.effects().await.is_empty());
}

/// Without an answer to keep, nothing is committed, and the key is free for anyone.
pub async fn rolled_back_run_leaves_nothing<H: AtomicHarness>(harness: &H) {
    let (store, claim) = (harness.transactional(), atomic("key"));
    assert_eq!(attempt(&store, &claim, writes(harness, "a", Ending::RollBack)).await, Transacted::RolledBack);
    assert_eq!(record_of(harness, &claim).await, None);
    assert!(harness.effects().await.is_empty());
    let record = committed(attempt(&store, &reused(&claim), writes(harness, "b", commit("done"))).await);
    assert_eq!((record.epoch, record.attempt), (Epoch::FIRST, 1));
    assert_eq!(harness.effects().await, ["b"]);
}

/// An attempt that lost the key after its look commits nothing.
pub async fn held_key_commits_nothing<H: AtomicHarness>(harness: &H) {
    let (store, claim) = (harness.transactional(), atomic("key"));
    let now = Subject::new(harness).now().await;
    let record = committed(attempt(&store, &claim, writes(harness, "a", commit("done"))).await);
    let late = again(&claim);
    let seen = At { value: None, now };
    let done = transact(&store, &late, seen, writes(harness, "b", commit("again"))).await;
    assert!(matches!(done.expect("the store answers"), Transacted::Held(_)));
    assert_eq!(harness.effects().await, ["a"]);
    assert_eq!(held(attempt(&store, &late, writes(harness, "b", commit("again"))).await), record);
}

/// The same for a different request with the same key.
pub async fn reused_key_commits_nothing<H: AtomicHarness>(harness: &H) {
    let (store, claim) = (harness.transactional(), atomic("key"));
    let record = committed(attempt(&store, &claim, writes(harness, "a", commit("done"))).await);
    assert_eq!(held(attempt(&store, &reused(&claim), writes(harness, "b", commit("other"))).await), record);
    assert_eq!(harness.effects().await, ["a"]);
}

/// A run on a lease excludes transactions until its lease ends.
pub async fn running_lease_holds_the_key<H: AtomicHarness>(harness: &H) {
    let subject = Subject::new(harness);
    let lease = subject.win(&fenced("key")).await;
    subject.advance(LEASE - MS).await;
    let claim = Claim { guarantee: Guarantee::Atomic, ..again(&fenced("key")) };
    assert_eq!(held(attempt(&harness.transactional(), &claim, writes(harness, "a", commit("done"))).await), lease);
    assert!(harness.effects().await.is_empty());
}

/// After that a transaction takes over, with the next epoch, and the old owner's late write changes nothing.
pub async fn lapsed_lease_is_taken_over<H: AtomicHarness>(harness: &H) {
    let subject = Subject::new(harness);
    let lease = subject.win(&fenced("key")).await;
    subject.advance(LEASE).await;
    let claim = Claim { guarantee: Guarantee::Atomic, ..again(&fenced("key")) };
    let record = committed(attempt(&harness.transactional(), &claim, writes(harness, "a", commit("done"))).await);
    assert_eq!((record.epoch, record.attempt), (lease.epoch.next(), 2));
    assert_eq!(subject.complete(lease.lease(), completion("late")).await, Applied::Lost);
    assert_eq!(record_of(harness, &claim).await, Some(record));
    assert_eq!(harness.effects().await, ["a"]);
}

/// A run whose outcome is unknown is never run again.
pub async fn unknown_run_is_never_taken_over<H: AtomicHarness>(harness: &H) {
    let subject = Subject::new(harness);
    let unknown = subject.win(&claim_of(Guarantee::AtMostOnce, "key")).await;
    subject.advance(LEASE + RETENTION + TOMBSTONE).await;
    let claim = Claim { guarantee: Guarantee::Atomic, ..again(&fenced("key")) };
    assert_eq!(held(attempt(&harness.transactional(), &claim, writes(harness, "a", commit("done"))).await), unknown);
    assert!(harness.effects().await.is_empty());
}

/// A key that was released on a lease has a higher epoch next time.
pub async fn freed_key_keeps_its_epoch<H: AtomicHarness>(harness: &H) {
    let subject = Subject::new(harness);
    let first = subject.win(&fenced("key")).await;
    subject.assert_applied(subject.release(first.lease(), FREE).await).await;
    let claim = Claim { guarantee: Guarantee::Atomic, ..reused(&fenced("key")) };
    let record = committed(attempt(&harness.transactional(), &claim, writes(harness, "a", commit("done"))).await);
    assert_eq!((record.epoch, record.attempt), (first.epoch.next(), 1));
}

/// After retention the key is held without its answer, and after the tombstone it is free.
pub async fn tombstone_holds_the_key_and_then_frees_it<H: AtomicHarness>(harness: &H) {
    let (subject, store, claim) = (Subject::new(harness), harness.transactional(), atomic("key"));
    let first = committed(attempt(&store, &claim, writes(harness, "a", commit("done"))).await);
    subject.advance(RETENTION).await;
    let now = subject.now().await;
    let tombstone = held(attempt(&store, &again(&claim), writes(harness, "b", commit("again"))).await);
    assert_eq!(machine::phase(Some(&tombstone), now), Phase::Tombstone);
    subject.advance(TOMBSTONE).await;
    let second = committed(attempt(&store, &again(&claim), writes(harness, "b", commit("again"))).await);
    assert_eq!((second.epoch, second.attempt), (first.epoch.next(), 1));
    assert_eq!(harness.effects().await, ["a", "b"]);
}

/// A handler may drop its transaction before it has its answer.
pub async fn transaction_given_back_early_is_committed<H: AtomicHarness>(harness: &H) {
    let table = harness.table();
    let handler = move |mut tx: Handle<H>| -> BoxFuture<'static, Ending> {
        let table = table.clone();
        Box::pin(async move {
            H::write(&mut tx, table, "a".to_owned()).await.expect("the effect is written");
            drop(tx);
            commit("done")
        })
    };
    committed(attempt(&harness.transactional(), &atomic("key"), handler).await);
    assert_eq!(harness.effects().await, ["a"]);
}

/// A transaction that the handler never returns commits nothing, and the key is free.
pub async fn leaked_transaction_commits_nothing<H: AtomicHarness>(harness: &H) {
    let (store, claim) = (harness.transactional(), atomic("key"));
    let table = harness.table();
    let leaks = move |mut tx: Handle<H>| -> BoxFuture<'static, Ending> {
        let table = table.clone();
        Box::pin(async move {
            H::write(&mut tx, table, "a".to_owned()).await.expect("the effect is written");
            mem::forget(tx);
            commit("done")
        })
    };
    assert!(matches!(attempt(&store, &claim, leaks).await, Transacted::Misused(_)));
    assert_eq!(record_of(harness, &claim).await, None);
    assert!(harness.effects().await.is_empty());
    // If the handler has a connection, it has leaked, and the database needs a moment to notice its end.
    committed(attempt(&store, &atomic("another"), writes(harness, "b", commit("done"))).await);
    assert_eq!(harness.effects().await, ["b"]);
}

/// The same for a transaction that is in another task when the handler ends, whatever that task does with it later.
pub async fn moved_transaction_commits_nothing<H: AtomicHarness>(harness: &H) {
    let (store, claim) = (harness.transactional(), atomic("key"));
    let (late, told) = tokio::sync::mpsc::unbounded_channel();
    let moves = move |tx: Handle<H>| -> BoxFuture<'static, Ending> {
        late.send(tx).unwrap_or_else(|_| panic!("the test listens"));
        Box::pin(async { commit("done") })
    };
    assert!(matches!(attempt(&store, &claim, moves).await, Transacted::Misused(_)));
    let mut told = told;
    let mut tx = told.recv().await.expect("the handler sent it");
    let _ = H::write(&mut tx, harness.table(), "late".to_owned()).await;
    drop(tx);
    committed(attempt(&store, &claim, writes(harness, "a", commit("done"))).await);
    assert_eq!(harness.effects().await, ["a"]);
}

/// Whether or not a database continues after a failed statement, the effect is committed with its record.
pub async fn failed_statement_is_all_or_nothing<H: AtomicHarness>(harness: &H) {
    let (store, claim) = (harness.transactional(), atomic("key"));
    let table = harness.table();
    let fails = move |mut tx: Handle<H>| -> BoxFuture<'static, Ending> {
        let table = table.clone();
        Box::pin(async move {
            H::write(&mut tx, table, "a".to_owned()).await.expect("the effect is written");
            H::fail(&mut tx).await;
            commit("done")
        })
    };
    let done = attempt(&store, &claim, fails).await;
    assert!(matches!(done, Transacted::Committed(_) | Transacted::Misused(_)), "{done:?}");
    assert_eq!(matches!(done, Transacted::Committed(_)), record_of(harness, &claim).await.is_some());
    assert_all_or_nothing(harness, &claim, "a").await;
    committed(attempt(&store, &atomic("another"), writes(harness, "b", commit("done"))).await);
}

/// A transaction that its handler has ended is never recorded as if it had committed as a whole.
pub async fn ended_transaction_records_nothing_alone<H: AtomicHarness>(harness: &H) {
    let (store, claim) = (harness.transactional(), atomic("key"));
    let table = harness.table();
    let ends = move |mut tx: Handle<H>| -> BoxFuture<'static, Ending> {
        let table = table.clone();
        Box::pin(async move {
            H::end(&mut tx).await;
            let _ = H::write(&mut tx, table, "after".to_owned()).await;
            commit("done")
        })
    };
    let done = attempt(&store, &claim, ends).await;
    match (&done, record_of(harness, &claim).await) {
        // The database did not let the handler end it.
        (Transacted::Committed(_), Some(_)) => assert_eq!(harness.effects().await, ["after"]),
        (Transacted::Misused(_), None) => {}
        (_, record) => panic!("{done:?} and {record:?}"),
    }
    committed(attempt(&store, &atomic("another"), writes(harness, "b", commit("done"))).await);
}

/// A panic reaches the caller of its attempt. Nothing of it is committed, and others do not notice.
pub async fn panic_harms_nobody<H: AtomicHarness>(harness: &H) {
    let (store, claim) = (harness.transactional(), atomic("key"));
    for writes_first in [false, true] {
        let table = harness.table();
        let panics = move |mut tx: Handle<H>| -> BoxFuture<'static, Ending> {
            let table = table.clone();
            Box::pin(async move {
                if writes_first {
                    H::write(&mut tx, table, "a".to_owned()).await.expect("the effect is written");
                }
                panic!("of the handler")
            })
        };
        let others = (0..8).map(|n| {
            let (store, claim) = (store.clone(), atomic(&format!("other-{writes_first}-{n}")));
            async move { attempt(&store, &claim, |_| Box::pin(async { commit("done") })).await }
        });
        let (panicked, others) =
            tokio::join!(AssertUnwindSafe(attempt(&store, &claim, panics)).catch_unwind(), join_all(others));
        let panic = panicked.expect_err("the panic reaches its caller");
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"of the handler"));
        others.into_iter().for_each(|other| drop(committed(other)));
        assert_eq!(record_of(harness, &claim).await, None);
    }
    assert!(harness.effects().await.is_empty());
    committed(attempt(&store, &claim, writes(harness, "b", commit("done"))).await);
    assert_eq!(harness.effects().await, ["b"]);
}

/// Of many attempts at once, one commits, and the others get its record.
pub async fn attempts_at_once_have_one_effect<H: AtomicHarness>(harness: &H) {
    race(harness, &[harness.transactional()], |claim, _| again(claim)).await;
}

/// The same between processes.
pub async fn two_processes_race_for_one_effect<H: AtomicHarness>(harness: &H) {
    let stores = [harness.transactional(), harness.connect_transactional().await];
    race(harness, &stores, |claim, _| again(claim)).await;
}

/// The same between two different requests with the same key.
pub async fn two_requests_race_for_one_key<H: AtomicHarness>(harness: &H) {
    let stores = [harness.transactional(), harness.connect_transactional().await];
    let request = |claim: &Claim, n: usize| {
        let fingerprint = Fingerprint::of([n.to_be_bytes().as_slice()]);
        Claim { fingerprint, ..again(claim) }
    };
    race(harness, &stores, request).await;
}

async fn race<H: AtomicHarness>(harness: &H, stores: &[H::Store], request: impl Fn(&Claim, usize) -> Claim) {
    const ROUNDS: usize = 20;
    const CALLERS: usize = 8;
    for round in 0..ROUNDS {
        let claim = atomic(&format!("key-{round:02}"));
        let attempts = (0..CALLERS).map(|n| {
            let (store, claim) = (stores[n % stores.len()].clone(), request(&claim, n));
            let handler = writes(harness, &format!("{round:02}-{n}"), commit("done"));
            tokio::spawn(async move { attempt(&store, &claim, handler).await })
        });
        let mut records = Vec::new();
        let mut winners = 0;
        for done in join_all(attempts).await {
            match done.expect("nothing panics") {
                Transacted::Committed(record) => {
                    winners += 1;
                    records.push(record);
                }
                Transacted::Held(Some(record)) => records.push(record),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(winners, 1, "one attempt commits");
        assert!(records.iter().all(|record| *record == records[0]), "all get the same record");
    }
    assert_eq!(harness.effects().await.len(), ROUNDS, "each key has one effect");
}

/// Attempts at different keys do not block each other.
pub async fn different_keys_all_commit<H: AtomicHarness>(harness: &H) {
    const KEYS: usize = 64;
    let attempts = (0..KEYS).map(|n| {
        let (store, handler) = (harness.transactional(), writes(harness, &format!("{n:02}"), commit("done")));
        tokio::spawn(async move { attempt(&store, &atomic(&format!("key-{n}")), handler).await })
    });
    for done in join_all(attempts).await {
        committed(done.expect("nothing panics"));
    }
    let expected: Vec<_> = (0..KEYS).map(|n| format!("{n:02}")).collect();
    assert_eq!(harness.effects().await, expected);
}

/// If a lease and a transaction want the same key, one of them gets it.
pub async fn lease_and_transaction_race_for_one_effect<H: AtomicHarness>(harness: &H) {
    let subject = Subject::new(harness);
    for round in 0..20 {
        let on_lease = fenced(&format!("key-{round:02}"));
        let effect = format!("{round:02}");
        let in_transaction = Claim { guarantee: Guarantee::Atomic, ..again(&on_lease) };
        let handler = writes(harness, &effect, commit("done"));
        let store = harness.transactional();
        let attempt = tokio::spawn(async move { attempt(&store, &in_transaction, handler).await });
        let claimed = subject.claim(&on_lease).await;
        let written = harness.effects().await.contains(&effect);
        match (claimed, attempt.await.expect("nothing panics")) {
            (Claimed::Won(won), Transacted::Held(Some(held))) => {
                assert!(!written);
                assert_eq!(won, held);
                assert!(!harness.effects().await.contains(&effect));
            }
            (Claimed::Held(held), Transacted::Committed(record)) => assert_eq!(held, record),
            other => panic!("{other:?}"),
        }
    }
}

/// An attempt that is dropped at any point is committed as a whole or not at all, and does not hold its key for ever.
pub async fn attempt_can_be_cut_off<H: AtomicHarness>(harness: &H) {
    const POLLS_MAX: usize = 1_000;
    let store = harness.transactional();
    let mut whole = 0;
    for polls in 0..POLLS_MAX {
        let effect = format!("{polls:04}");
        let claim = atomic(&effect);
        let seen = At { value: None, now: Subject::new(harness).now().await };
        let handler = writes(harness, &effect, commit("done"));
        let ended = cut_off(transact(&store, &claim, seen, handler.clone()), polls).await;
        let record = match attempt(&store, &again(&claim), handler).await {
            Transacted::Committed(record) | Transacted::Held(Some(record)) => record,
            other => panic!("{other:?}"),
        };
        assert_eq!(outcome(&record), Some(&Outcome::bytes("done")));
        assert_all_or_nothing(harness, &claim, &effect).await;
        if ended {
            whole += 1;
            // The number of polls varies.
            if whole == 3 {
                return;
            }
        }
    }
    panic!("an attempt is not over after {POLLS_MAX} polls");
}

/// What was acknowledged survives a crash, if the store says that it does.
pub async fn committed_attempt_survives<H: AtomicHarness>(harness: &H) {
    let (store, claim) = (harness.transactional(), atomic("key"));
    let record = committed(attempt(&store, &claim, writes(harness, "a", commit("done"))).await);
    let restarted = harness.restart().await;
    if restarted.durability() >= crate::store::Durability::Replica {
        assert_eq!(restarted.read(claim.id()).await.expect("the store reads").value, Some(record));
        assert_eq!(harness.effects().await, ["a"]);
    }
}
