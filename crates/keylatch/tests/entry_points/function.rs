//! Function calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use keylatch::sqlite::{Sqlite, Store};
use keylatch::{
    Done, Engine, Limits, Outcome, Policy, Refused, RunError, STEP_BYTES_MAX, STEPS_MAX, StepError, Tx, Verdict,
};
use serde::{Deserialize, Serialize};

use crate::{Fixture, input, key, scope};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Report {
    lines: Vec<String>,
    total: Option<u64>,
}

fn report() -> Report {
    Report { lines: vec!["a".into(), "b".into()], total: Some(3) }
}

#[derive(Debug, thiserror::Error, PartialEq)]
#[error("failed")]
struct Failed;

#[tokio::test]
async fn a_call_runs_once_and_its_result_is_any_serde_type() {
    let engine = Fixture::new().fenced();
    let runs = Arc::new(AtomicU32::new(0));
    for replayed in [false, true, true] {
        let counted = runs.clone();
        let done = engine.run(scope(), key("k"), input("i"), move |_| async move {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Failed>(report())
        });
        assert_eq!(done.await.unwrap(), Done { value: report(), replayed });
    }
    assert_eq!(runs.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn another_input_under_the_key_is_refused() {
    let engine = Fixture::new().fenced();
    let call = |text| engine.run(scope(), key("k"), input(text), |_| async { Ok::<_, Failed>(1) });
    call("a").await.unwrap();
    assert!(matches!(call("b").await, Err(RunError::Refused(Refused::Mismatch))));
}

#[tokio::test]
async fn an_error_is_tried_again_with_the_next_attempt() {
    let engine = Fixture::new().fenced();
    let attempt = |fail: bool| {
        engine.run(scope(), key("k"), input("i"), move |run| async move {
            if fail { Err(Failed) } else { Ok((run.attempt(), run.epoch().as_u64(), run.after_crash())) }
        })
    };
    assert!(matches!(attempt(true).await, Err(RunError::Work(Failed))));
    assert_eq!(attempt(false).await.unwrap().value, (2, 2, false));
}

#[tokio::test]
async fn an_error_in_at_most_once_is_unknown_unless_the_run_says_otherwise() {
    let engine = Fixture::new().at_most_once();
    let call = |name, verdict: Option<Verdict>| {
        engine.run(scope(), key(name), input("i"), move |run| async move {
            verdict.into_iter().for_each(|verdict| run.on_error(verdict));
            Err::<u8, _>(Failed)
        })
    };
    assert!(matches!(call("a", None).await, Err(RunError::Work(Failed))));
    assert!(matches!(call("a", None).await, Err(RunError::Refused(Refused::Unknown))));
    assert!(matches!(call("b", Some(Verdict::Free)).await, Err(RunError::Work(Failed))));
    assert!(matches!(call("b", Some(Verdict::Free)).await, Err(RunError::Work(Failed))), "it ran again");
}

#[tokio::test]
async fn an_error_can_leave_a_result() {
    let engine = Fixture::new().fenced();
    let call = |fails: bool| {
        engine.run(scope(), key("k"), input("i"), move |run| async move {
            run.on_error(Verdict::Keep(Outcome::bytes("5")));
            if fails { Err(Failed) } else { Ok(1_u8) }
        })
    };
    assert!(matches!(call(true).await, Err(RunError::Work(Failed))));
    assert_eq!(call(false).await.unwrap(), Done { value: 5, replayed: true });
}

#[tokio::test]
async fn a_panic_goes_on_and_counts_as_an_error() {
    let engine = Fixture::new().fenced();
    let calling = engine.clone();
    let panicked = tokio::spawn(async move {
        calling.run(scope(), key("k"), input("i"), |_| async { panic!("on purpose") as Result<u8, Failed> }).await
    });
    assert!(panicked.await.unwrap_err().is_panic());
    let done = engine.run(scope(), key("k"), input("i"), |run| async move { Ok::<_, Failed>(run.attempt()) });
    assert_eq!(done.await.unwrap(), Done { value: 2, replayed: false });
}

#[tokio::test]
async fn a_result_of_another_type_is_an_error() {
    let engine = Fixture::new().fenced();
    engine.run(scope(), key("k"), input("i"), |_| async { Ok::<_, Failed>("text".to_owned()) }).await.unwrap();
    let other = engine.run(scope(), key("k"), input("i"), |_| async { Ok::<_, Failed>(1_u8) });
    assert!(matches!(other.await, Err(RunError::Json(_))));
}

#[tokio::test]
async fn a_step_runs_once_over_all_attempts() {
    let engine = Fixture::new().fenced();
    let (calls, keys) = (Arc::new(AtomicU32::new(0)), Arc::new(parking_lot::Mutex::new(Vec::new())));
    for attempt in 1..=3 {
        let (calls, keys) = (calls.clone(), keys.clone());
        let ran = engine.run(scope(), key("k"), input("i"), move |run| async move {
            keys.lock().push(run.key_for("charge"));
            let step = run.step("charge", |_| async {
                calls.fetch_add(1, Ordering::Relaxed);
                Ok::<_, Failed>(report())
            });
            let result = step.await.unwrap();
            run.assert_owner().await.unwrap();
            if run.attempt() < 3 { Err(Failed) } else { Ok(result) }
        });
        match ran.await {
            Ok(done) => assert_eq!((attempt, done.value), (3, report())),
            Err(error) => assert!(matches!(error, RunError::Work(Failed)) && attempt < 3),
        }
    }
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    let keys = keys.lock();
    assert!(keys.len() == 3 && keys.iter().all(|derived| *derived == keys[0]), "one derived key for all attempts");
}

#[tokio::test]
async fn i13_steps_are_bounded() {
    let engine = Fixture::new().fenced();
    let ran = engine.run(scope(), key("k"), input("i"), |run| async move {
        for step in 0..STEPS_MAX {
            run.step(&step.to_string(), |_| async { Ok::<_, Failed>(step) }).await.unwrap();
        }
        let known = run.step("0", |_| async { Ok::<_, Failed>(7) }).await;
        assert_eq!(known.unwrap(), 0, "what is recorded is still given");
        let refused = run.step("one more", |_| async { panic!("called") as Result<usize, Failed> }).await;
        assert!(matches!(refused, Err(StepError::TooMany)));
        Ok::<_, Failed>(())
    });
    ran.await.unwrap();
    let ran = engine.run(scope(), key("l"), input("i"), |run| async move {
        let step = run.step("large", |_| async { Ok::<_, Failed>("x".repeat(STEP_BYTES_MAX)) }).await;
        Ok::<_, Failed>(matches!(step, Err(StepError::TooLarge)))
    });
    assert!(ran.await.unwrap().value);
}

#[tokio::test]
async fn what_a_call_writes_commits_with_its_result() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("k.db")).await.unwrap();
    store.execute(|db| db.execute_batch("CREATE TABLE item (name TEXT NOT NULL)")).await.unwrap();
    let engine = Engine::atomic(store.clone(), Policy::default(), Limits::default()).unwrap();
    let call = |fail: bool| {
        engine.transact(scope(), key("k"), input("i"), move |mut tx: Tx<Sqlite>| async move {
            tx.run(|db| db.execute("INSERT INTO item VALUES ('a')", [])).await.map_err(|_| Failed)?;
            if fail { Err(Failed) } else { Ok(7) }
        })
    };
    let items = || store.query(|db| db.query_row("SELECT count(*) FROM item", [], |row| row.get::<_, u32>(0)));
    assert!(matches!(call(true).await, Err(RunError::Work(Failed))));
    assert_eq!(items().await.unwrap(), 0, "an error takes the writes back");
    assert_eq!(call(false).await.unwrap(), Done { value: 7, replayed: false });
    assert_eq!(call(false).await.unwrap(), Done { value: 7, replayed: true });
    assert_eq!(items().await.unwrap(), 1);
}
