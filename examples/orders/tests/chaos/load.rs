//! Clients that order without a break, and do not give up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng;
use testing_history::{Reply, Summary};
use testing_support::client::Request;
use tokio::task::JoinSet;

use crate::shop::{SOON, Shop, distinct, order_of};

const CLIENTS: usize = 16;
const SCOPES: usize = 4;
/// How long a client tries in all.
const PATIENCE: Duration = Duration::from_secs(60);

/// Clients that order until they are told to stop.
pub(crate) struct Load {
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
    pub(crate) fn start(shop: Arc<Shop>, items: &'static [usize]) -> Self {
        let shared = Arc::new(Shared::default());
        let clients = (0..CLIENTS).map(|_| order_until_told(shop.clone(), shared.clone(), items)).collect();
        Self { shop, shared, clients }
    }

    /// Lets every client come to its answer, asks again for all that was answered, and judges.
    pub(crate) async fn end(self) -> Summary {
        let (shop, answered) = self.answered().await;
        let summary = shop.judge().await;
        Self::check(summary, answered)
    }

    /// The same, where the database may leave a handler in the lurch.
    pub(crate) async fn end_where_runs_may_fail(self) -> Summary {
        let (shop, answered) = self.answered().await;
        let summary = shop.judge_where_runs_may_fail().await;
        Self::check(summary, answered)
    }

    async fn answered(mut self) -> (Arc<Shop>, usize) {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("every client gets its answers");
        }
        let answered = distinct(self.shared.answered.lock().drain(..));
        self.shop.ask_all_again(&answered).await;
        (self.shop, answered.len())
    }

    fn check(summary: Summary, answered: usize) -> Summary {
        assert_eq!(summary.effects, answered, "one order for each key, and none besides: {summary}");
        assert_eq!(summary.effects, summary.keys, "every key was answered in the end: {summary}");
        assert!(summary.lost > 0, "some clients must have lost their connection: {summary}");
        assert!(summary.replays > answered, "some answers must have been replayed under load: {summary}");
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

pub(crate) fn random_ms(range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rand::rng().random_range(range))
}
