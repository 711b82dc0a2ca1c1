//! Many requests for one key: on one node and on several, with few connections.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use keylatch::postgres::Options;
use tokio::time::timeout;

use crate::support::{Answer, Service, database, store, store_with};

const LONG: Duration = Duration::from_secs(60);

async fn service(database: &str, connections: u32) -> Service {
    let options = Options::default().with_connections_max(connections);
    Service::start(store_with(database, options).await).await
}

/// 200 identical requests at once, with a pool of 5.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_at_once_are_one_effect() {
    let database = database().await;
    let service = service(&database, 5).await;
    let answers = join_all((0..200).map(|_| service.post("created", "a", 0))).await;
    assert!(answers.iter().all(|answer| answer.status == 201 || answer.code() == "IDEMPOTENCY_KEY_IN_PROGRESS"));
    assert_eq!(answers.iter().filter(|answer| answer.status == 201 && !answer.replayed).count(), 1);
    let waiting = join_all((0..200).map(|_| service.post("created", "b", 20))).await;
    assert!(waiting.iter().all(|answer| (answer.status, answer.body.as_str()) == (201, "created b")));
    assert_eq!(waiting.iter().filter(|answer| !answer.replayed).count(), 1);
    assert_eq!(service.items().await, ["a", "b"]);
}

/// The same, alternating between two nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_are_one_effect() {
    let database = database().await;
    let nodes = [service(&database, 5).await, service(&database, 5).await];
    let send = |key, wait| {
        join_all(
            (0..200).map(move |at| (at, key, wait)).map(|(at, key, wait)| nodes[at % 2].post("created", key, wait)),
        )
    };
    let answers: Vec<Answer> = send("a", 0).await;
    assert!(answers.iter().all(|answer| answer.status == 201 || answer.code() == "IDEMPOTENCY_KEY_IN_PROGRESS"));
    assert_eq!(answers.iter().filter(|answer| answer.status == 201 && !answer.replayed).count(), 1);
    let waiting = send("b", 20).await;
    assert!(waiting.iter().all(|answer| (answer.status, answer.body.as_str()) == (201, "created b")));
    assert_eq!(waiting.iter().filter(|answer| !answer.replayed).count(), 1);
    assert_eq!(nodes[0].items().await, ["a", "b"]);
}

/// Waiting requests hold no connection: with two connections, one of them used by the run that they wait for, other
/// requests are served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_hold_no_connection() {
    let database = database().await;
    let nodes = [service(&database, 2).await, service(&database, 2).await];
    let running = nodes[0].post("gated", "a", 0);
    let beside = async {
        nodes[0].gate.reached.notified().await;
        let waiting = join_all((0..60).map(|at| nodes[at % 2].post("gated", "a", 30)));
        let others = async {
            for at in 0..20 {
                let key = format!("other-{at}");
                let other = timeout(LONG, nodes[at % 2].post("created", &key, 0)).await;
                assert_eq!(other.expect("others are served").status, 201);
            }
            // A duplicate that does not wait gets its answer at once, on either node.
            for node in &nodes {
                assert_eq!(node.post("gated", "a", 0).await.code(), "IDEMPOTENCY_KEY_IN_PROGRESS");
            }
            nodes[0].gate.open.add_permits(1);
        };
        tokio::join!(waiting, others).0
    };
    let (running, waiting) = tokio::join!(running, beside);
    assert_eq!((running.status, running.body.as_str()), (201, "gated a"));
    assert!(waiting.iter().all(|answer| (answer.status, answer.body.as_str()) == (201, "gated a")), "{waiting:?}");
    assert_eq!(nodes[0].items().await.len(), 21);
}

/// A key of another request is refused as reused only after the run has committed. Until then the run may still fail,
/// and the other request may be the one that takes effect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_another_request_is_told_of_reuse_only_after_the_commit() {
    let database = database().await;
    let nodes = [Service::start(store(&database).await).await, Service::start(store(&database).await).await];
    let running = nodes[0].post("gated", "a", 0);
    let others = async {
        nodes[0].gate.reached.notified().await;
        for node in &nodes {
            assert_eq!(node.send("gated", "a", "other", 0).await.code(), "IDEMPOTENCY_KEY_IN_PROGRESS");
            assert_eq!(node.send("gated", "a", "other", 1).await.code(), "IDEMPOTENCY_KEY_IN_PROGRESS");
            assert_eq!(node.post("gated", "a", 0).await.code(), "IDEMPOTENCY_KEY_IN_PROGRESS");
        }
        nodes[0].gate.open.add_permits(1);
    };
    let (running, ()) = tokio::join!(running, others);
    assert_eq!(running.status, 201);
    assert_eq!(nodes[1].send("gated", "a", "other", 0).await.code(), "IDEMPOTENCY_KEY_REUSED");
    assert!(nodes[1].post("gated", "a", 0).await.replayed);
}

/// If a run fails while requests on another node wait for it, one of them runs instead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failure_one_of_those_who_wait_runs() {
    let database = database().await;
    let nodes = [service(&database, 3).await, service(&database, 3).await];
    nodes[0].gate.fails.store(true, Ordering::Relaxed);
    let running = nodes[0].post("gated", "a", 0);
    let waiting = async {
        nodes[0].gate.reached.notified().await;
        let waiting = join_all((0..10).map(|_| nodes[1].post("gated", "a", 30)));
        let failing = async {
            assert_eq!(nodes[1].post("gated", "a", 0).await.code(), "IDEMPOTENCY_KEY_IN_PROGRESS");
            // One of the waiting requests may continue; a second one would be stuck.
            nodes[1].gate.open.add_permits(1);
            nodes[0].gate.open.add_permits(1);
        };
        tokio::join!(waiting, failing).0
    };
    let (running, waiting) = timeout(LONG, async { tokio::join!(running, waiting) }).await.expect("it ends");
    assert_eq!((running.status, running.body.as_str()), (500, "gated a"));
    assert!(waiting.iter().all(|answer| (answer.status, answer.body.as_str()) == (201, "gated a")), "{waiting:?}");
    assert_eq!(waiting.iter().filter(|answer| !answer.replayed).count(), 1);
    assert_eq!(nodes[0].items().await, ["a"]);
}

/// Two requests use one key at once, each on two nodes: one takes effect. Its clients are never told that the key
/// belongs to another request, and clients of the other request never get its answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_requests_with_one_key_the_one_that_runs_is_never_refused() {
    const ROUNDS: usize = 150;
    let database = database().await;
    let nodes = [service(&database, 5).await, service(&database, 5).await];
    let (mut met, mut wins) = (0, [0, 0]);
    for round in 0..ROUNDS {
        let key = format!("key-{round}");
        let bodies = [format!("{key}-left"), format!("{key}-right")];
        // Either may be sent first.
        let sent = (0..4).map(|at| (at / 2, (at + round) % 2));
        let answers = join_all(sent.map(|(node, body)| {
            let (node, key, item) = (&nodes[node], &key, &bodies[body]);
            async move { (body, node.send("created", key, item, 0).await) }
        }));
        let answers = answers.await;
        let items = nodes[0].items().await;
        let ran: Vec<_> = (0..2).filter(|body| items.contains(&bodies[*body])).collect();
        let [ran] = ran[..] else { panic!("{ran:?} took effect: {answers:?}") };
        wins[ran] += 1;
        for (body, answer) in &answers {
            match (answer.status, answer.code().as_str()) {
                (201, _) => assert_eq!(*body, ran, "{answers:?}"),
                (409, "IDEMPOTENCY_KEY_IN_PROGRESS") => met += usize::from(*body != ran),
                (422, "IDEMPOTENCY_KEY_REUSED") => {
                    assert_ne!(*body, ran, "it ran, and was refused: {answers:?}");
                    met += 1;
                }
                _ => panic!("{answers:?}"),
            }
        }
        assert_eq!(answers.iter().filter(|(_, answer)| answer.status == 201 && !answer.replayed).count(), 1);
        let again = nodes[round % 2].send("created", &key, &bodies[1 - ran], 0).await;
        assert_eq!(again.code(), "IDEMPOTENCY_KEY_REUSED");
    }
    assert_eq!(met, 2 * ROUNDS, "both sends of the other request met the one that ran");
    assert_eq!(wins.iter().sum::<usize>(), ROUNDS);
}
