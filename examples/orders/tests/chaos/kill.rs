//! Kill -9 at random, under load of clients that do not give up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng;
use testing_support::client::Request;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::shop::{SOON, Shop, distinct, order};

const KILLS: usize = 60;
const CLIENTS: usize = 16;
/// How many clients ask under the same key, one after the other or at once.
const SAME_KEY: usize = 3;
const SCOPES: usize = 4;
/// One kill in so many hits the server while it starts.
const KILLS_AT_START: usize = 6;
/// How long a client tries in all.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn i1_to_i4_hold_when_the_server_is_killed_at_random_under_load() {
    let shop = Arc::new(Shop::new());
    let load = Arc::new(Load::default());
    let mut server = shop.open().await;
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(order_until_told(shop.clone(), load.clone()));
    }

    let (mut caught, mut at_start) = (0, 0);
    for kill in 0..KILLS {
        sleep(random_ms(5..200)).await;
        caught += usize::from(shop.log.open_calls() > 0);
        server.kill().await;
        if kill % KILLS_AT_START == 0 {
            // Dropped before it is ready, it is killed; if it was faster, it is killed at once.
            at_start += 1;
            drop(timeout(random_ms(1..40), shop.program.start()).await);
        }
        server = shop.open().await;
    }
    load.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.expect("every client gets its answers");
    }

    let answered = distinct(load.answered.lock().drain(..));
    shop.ask_all_again(&answered).await;
    let summary = shop.judge().await;
    eprintln!(
        "{KILLS} kills with SIGKILL, {caught} with requests under way, and {at_start} of starting servers: {summary}"
    );
    assert_eq!(summary.effects, answered.len(), "one order for each key, and none besides");
    assert_eq!(summary.effects, summary.keys);
    assert!(caught > KILLS / 2, "most kills must hit requests under way");
    assert!(summary.lost > 0, "some clients must have lost their connection");
    assert!(summary.replays > answered.len(), "some answers must have been replayed during the kills");
    server.kill().await;
}

/// What the clients share.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    next: AtomicUsize,
    answered: Mutex<Vec<Request>>,
}

async fn order_until_told(shop: Arc<Shop>, load: Arc<Load>) {
    while !load.stop.load(Ordering::Relaxed) {
        let number = load.next.fetch_add(1, Ordering::Relaxed) / SAME_KEY;
        let request = order(format!("user-{}", number % SCOPES), format!("key-{number}"));
        insist(&shop, &request).await;
        load.answered.lock().push(request);
        let again = {
            let answered = load.answered.lock();
            answered[rand::rng().random_range(0..answered.len())].clone()
        };
        insist(&shop, &again).await;
    }
}

/// Some clients are patient, and some hang up before the server can have answered.
async fn insist(shop: &Shop, request: &Request) {
    let each = if rand::rng().random_ratio(1, 4) { random_ms(1..10) } else { SOON };
    let patience = PATIENCE;
    let answer = shop.client.insist(request, each, patience).await;
    answer.unwrap_or_else(|gave_up| panic!("{}/{}: {gave_up}", request.scope, request.key));
}

fn random_ms(range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rand::rng().random_range(range))
}
