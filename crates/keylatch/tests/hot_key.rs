//! A key that is requested by everyone at once costs the store one call.

use std::time::Duration;

use common::faulty::{Faulty, Op};
use keylatch::entry_point::{Answer, Request};
use keylatch::store::Durability;
use keylatch::tx::Verdict;
use keylatch::{Engine, Fingerprint, Key, Limits, Outcome, Policy, Scope, memory};
use tokio::task::JoinSet;

mod common;

const DUPLICATES: usize = 10_000;

async fn ask(engine: Engine) -> Answer {
    let request = Request {
        scope: Scope::new("tenant").unwrap(),
        key: Key::new("hot").unwrap(),
        fingerprint: Fingerprint::of([b"buy".as_slice()]),
        wait: Duration::from_secs(20),
    };
    engine.answer(request, |_| async { (Verdict::Keep(Outcome::bytes("bought")), ()) }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_duplicates_ask_the_store_once() {
    let memory = memory::Store::new();
    let earlier = Engine::fenced(memory.clone(), Policy::default(), Limits::default()).unwrap();
    assert!(matches!(ask(earlier).await, Answer::Ran(_)));

    // A process that has not seen the answer yet.
    let store = Faulty::with_durability(memory, Durability::Disk);
    let engine = Engine::fenced(store.clone(), Policy::default(), Limits::default()).unwrap();
    let mut asking = JoinSet::new();
    for _ in 0..DUPLICATES {
        asking.spawn(ask(engine.clone()));
    }
    let answers = asking.join_all().await;
    assert_eq!(answers.len(), DUPLICATES);
    for answer in answers {
        let Answer::Replayed(found) = answer else { panic!("the answer is there: {answer:?}") };
        assert_eq!(found.outcome(), &Outcome::bytes("bought"));
    }
    assert_eq!(store.calls(Op::Claim) + store.calls(Op::Read), 1);
}

/// The cache in the process replays an answer until it expires, and never after.
#[tokio::test]
async fn i4_no_answer_outlives_its_retention() {
    let clock = keylatch::Clock::system();
    let store = Faulty::with_durability(memory::Store::with_clock(clock.clone()), Durability::Disk);
    let policy = Policy { retention: Duration::from_millis(500), ..Policy::default() };
    let engine = Engine::fenced(store.clone(), policy, Limits::default()).unwrap();
    let Answer::Ran(ran) = ask(engine.clone()).await else { panic!("it is the first") };
    let expires_at = ran.expires_at.expect("it is kept");
    let mut given = 0;
    loop {
        let before = clock.now();
        match ask(engine.clone()).await {
            Answer::Replayed(_) => {
                assert!(before < expires_at, "given at {before}, after its end at {expires_at}");
                given += 1;
            }
            Answer::Refused(keylatch::Refused::Expired) => break,
            other => panic!("{other:?}"),
        }
        tokio::task::yield_now().await;
    }
    assert!(clock.now() >= expires_at);
    assert!(given > store.calls(Op::Claim) + store.calls(Op::Read), "most were given by the cache");
}
