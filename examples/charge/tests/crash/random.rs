//! Kill -9 at random, under load of customers that do not give up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rand::Rng;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::till::{Till, charge};

#[tokio::test(flavor = "multi_thread")]
async fn i1_to_i4_hold_when_the_server_is_killed_at_random_under_load() {
    const KILLS: usize = 20;
    const KILLS_MAX: usize = 5 * KILLS;
    const CUSTOMERS: usize = 12;
    /// How many customers ask under the same key, one after the other or at once.
    const SAME_KEY: usize = 3;
    let till = Arc::new(Till::new().await);
    let (stop, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut server = till.open().await;
    let mut customers = JoinSet::new();
    for _ in 0..CUSTOMERS {
        let (till, stop, next) = (till.clone(), stop.clone(), next.clone());
        customers.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed) / SAME_KEY;
                till.insist_on_all(&[charge(format!("key-{number}"))]).await;
            }
        });
    }
    let (mut kills, mut caught) = (0, 0);
    // As many more as it takes on a machine on which a kill finds little under way.
    while kills < KILLS || caught <= KILLS / 4 {
        assert!(kills < KILLS_MAX, "{caught} of {kills} kills have hit requests under way, and it was not enough");
        kills += 1;
        // Now and then longer than a lease, so that what was left behind is taken over.
        let pause = rand::rng().random_range(if kills % 4 == 0 { 2_100..2_300 } else { 5..200 });
        sleep(Duration::from_millis(pause)).await;
        caught += usize::from(till.log.open_calls() > 0);
        server.kill().await;
        server = till.open().await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = customers.join_next().await {
        ended.expect("every customer gets an answer");
    }
    let asked = next.load(Ordering::Relaxed) / SAME_KEY;
    let all: Vec<_> = (0..asked).map(|number| charge(format!("key-{number}"))).collect();
    till.insist_on_all(&all).await;
    let summary = till.judge();
    let calls = till.provider.calls.load(Ordering::Relaxed);
    eprintln!("{kills} kills with SIGKILL, {caught} with requests under way; {calls} calls of the provider: {summary}");
    assert!(summary.lost > 0 && summary.replays > 0, "{summary}");
    server.kill().await;
}
