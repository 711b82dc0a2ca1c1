//! Kill -9 at random, while customers who do not give up and an operator are at work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rand::Rng;
use testing_history::Reply;
use testing_support::client::Request;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::office::{Office, SOON, letter};

#[tokio::test(flavor = "multi_thread")]
async fn i1_no_second_start_when_the_server_is_killed_at_random_under_load() {
    const KILLS: usize = 20;
    const KILLS_MAX: usize = 5 * KILLS;
    const CUSTOMERS: usize = 12;
    /// How many customers use the same key, in turns or at once.
    const SAME_KEY: usize = 3;
    let office = Arc::new(Office::new().await);
    let load = Arc::new(Load::default());
    let mut server = office.open().await;
    let mut customers = JoinSet::new();
    for _ in 0..CUSTOMERS {
        let (office, load) = (office.clone(), load.clone());
        customers.spawn(async move {
            while !load.stop.load(Ordering::Relaxed) {
                let number = load.next.fetch_add(1, Ordering::Relaxed) / SAME_KEY;
                load.insist(&office, &letter(format!("key-{number}"))).await;
            }
        });
    }
    let (mut kills, mut caught) = (0, 0);
    // More rounds, as needed on a machine on which kills find few requests running.
    while kills < KILLS || caught <= KILLS / 4 || load.resolved.load(Ordering::Relaxed) == 0 {
        assert!(kills < KILLS_MAX, "{caught} of {kills} kills have hit requests under way, and it was not enough");
        kills += 1;
        // Sometimes longer than a lease, so that abandoned runs are found to be unknown.
        let pause = rand::rng().random_range(if kills % 4 == 0 { 1_100..1_300 } else { 5..200 });
        sleep(Duration::from_millis(pause)).await;
        caught += usize::from(office.log.open_calls() > 0);
        server.kill().await;
        server = office.open().await;
    }
    load.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = customers.join_next().await {
        ended.expect("every customer gets an answer");
    }
    for number in 0..load.next.load(Ordering::Relaxed) / SAME_KEY {
        assert!(office.insist(&letter(format!("key-{number}"))).await.replayed);
    }
    let summary = office.judge().await;
    let resolved = load.resolved.load(Ordering::Relaxed);
    eprintln!(
        "{kills} kills with SIGKILL, {caught} with requests under way, {resolved} unknown outcomes resolved: {summary}"
    );
    assert!(resolved > 0 && summary.lost > 0 && summary.replays > 0, "{resolved}, {summary}");
    server.kill().await;
}

/// What the customers share.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    next: AtomicUsize,
    resolved: AtomicUsize,
    /// Two operators at once could each act before the other's resolution.
    operator: Mutex<()>,
}

impl Load {
    /// Sends the request until there is an answer. A customer who is told that the outcome is unknown calls the
    /// operator.
    async fn insist(&self, office: &Office, request: &Request) {
        const CALLS_MAX: usize = 100;
        for _ in 0..CALLS_MAX {
            let accept = |reply: &Reply| matches!(reply, Reply::Final(_)) || reply.is_unknown();
            match office.client.until(request, SOON, SOON, accept).await {
                Ok(Reply::Final(_)) => return,
                Ok(_) => {
                    let _one = self.operator.lock().await;
                    // Another has called meanwhile, perhaps, and by now the letter is being sent.
                    if office.client.until(request, SOON, SOON, accept).await.as_ref().is_ok_and(Reply::is_unknown) {
                        let applied = office.resolve(request).await == Some(204);
                        self.resolved.fetch_add(usize::from(applied), Ordering::Relaxed);
                    }
                }
                Err(gave_up) => panic!("{}: {gave_up}", request.key),
            }
        }
        panic!("{}: unknown after {CALLS_MAX} calls of the operator", request.key);
    }
}
