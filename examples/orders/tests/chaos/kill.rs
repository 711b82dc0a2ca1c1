//! Kill -9 at random, under load of clients that do not give up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng;
use testing_history::{Reply, Summary};
use testing_support::client::Request;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::shop::{SOON, Shop, distinct, order_of};

#[tokio::test(flavor = "multi_thread")]
async fn i1_to_i4_hold_when_the_server_is_killed_at_random_under_load() {
    const KILLS: usize = 60;
    /// One kill in so many hits the server while it starts, too.
    const KILLS_AT_START: usize = 6;
    let shop = Arc::new(Shop::new());
    let mut server = shop.open().await;
    let load = Load::start(shop.clone(), &[1, 1, 2]);
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
    let summary = load.end().await;
    eprintln!("{KILLS} kills, {caught} with requests under way, and {at_start} of starting servers: {summary}");
    assert!(caught > KILLS / 2, "most kills must hit requests under way");
    server.kill().await;
}

/// Whoever loses its connection turns to the other, which may have the same request under way.
#[tokio::test(flavor = "multi_thread")]
async fn i1_to_i4_hold_when_two_servers_are_killed_in_turn_under_load() {
    const KILLS: usize = 30;
    let shop = Arc::new(Shop::new());
    let (mut first, mut second) = (shop.open().await, shop.open().await);
    // All ask for the same: where two servers run two different requests under one key at once, each may send the other
    // away, and the one whose order it is by then may have given up.
    let load = Load::start(shop.clone(), &[1, 1, 1]);
    for _ in 0..KILLS {
        shop.targets.set([first.url(), second.url()]);
        sleep(random_ms(5..200)).await;
        first.kill().await;
        shop.targets.set([second.url()]);
        sleep(random_ms(1..20)).await;
        first = second;
        second = shop.program.start().await.unwrap_or_else(|error| panic!("{error}"));
    }
    shop.targets.set([first.url(), second.url()]);
    let summary = load.end().await;
    eprintln!("{KILLS} kills of two servers in turn: {summary}");
    first.kill().await;
    second.kill().await;
}

const CLIENTS: usize = 16;
const SCOPES: usize = 4;
/// How long a client tries in all.
const PATIENCE: Duration = Duration::from_secs(60);

/// Clients that order until they are told to stop.
struct Load {
    shop: Arc<Shop>,
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    next: AtomicUsize,
    answered: Mutex<Vec<Request>>,
}

impl Load {
    /// Under each key, clients ask for so many items, one after the other or at once.
    fn start(shop: Arc<Shop>, items: &'static [usize]) -> Self {
        let shared = Arc::new(Shared::default());
        let clients = (0..CLIENTS).map(|_| order_until_told(shop.clone(), shared.clone(), items)).collect();
        Self { shop, shared, clients }
    }

    /// Lets every client come to its answer, asks again for all that was answered, and judges.
    async fn end(mut self) -> Summary {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("every client gets its answers");
        }
        let answered = distinct(self.shared.answered.lock().drain(..));
        self.shop.ask_all_again(&answered).await;
        let summary = self.shop.judge().await;
        assert_eq!(summary.effects, answered.len(), "one order for each key, and none besides: {summary}");
        assert_eq!(summary.effects, summary.keys, "every key was answered in the end: {summary}");
        assert!(summary.lost > 0, "some clients must have lost their connection: {summary}");
        assert!(summary.replays > answered.len(), "some answers must have been replayed under load: {summary}");
        summary
    }
}

async fn order_until_told(shop: Arc<Shop>, shared: Arc<Shared>, items: &'static [usize]) {
    while !shared.stop.load(Ordering::Relaxed) {
        let place = shared.next.fetch_add(1, Ordering::Relaxed);
        let number = place / items.len();
        let request =
            order_of(format!("user-{}", number % SCOPES), format!("key-{number}"), items[place % items.len()]);
        if insist(&shop, &request).await {
            shared.answered.lock().push(request);
        }
        let again = {
            let answered = shared.answered.lock();
            let some = !answered.is_empty();
            some.then(|| answered[rand::rng().random_range(0..answered.len())].clone())
        };
        if let Some(again) = again {
            assert!(insist(&shop, &again).await, "what was answered is never another request's");
        }
    }
}

/// Asks until there is an answer, or the key is another request's: says whether it has the answer. Some clients are
/// patient, and some hang up before the server can have answered.
async fn insist(shop: &Shop, request: &Request) -> bool {
    let each = if rand::rng().random_ratio(1, 4) { random_ms(1..10) } else { SOON };
    let accept = |reply: &Reply| match reply {
        Reply::Final(_) => true,
        Reply::Refused { status, code } => *status == 422 && code == "IDEMPOTENCY_KEY_REUSED",
        Reply::Failed { .. } | Reply::Nothing => false,
    };
    let reply = shop.client.until(request, each, PATIENCE, accept).await;
    let reply = reply.unwrap_or_else(|gave_up| panic!("{}/{}: {gave_up}", request.scope, request.key));
    matches!(reply, Reply::Final(_))
}

fn random_ms(range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rand::rng().random_range(range))
}
