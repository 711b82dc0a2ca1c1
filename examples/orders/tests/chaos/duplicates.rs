//! Many of the same at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use keylatch::Limits;
use testing_history::Reply;
use testing_support::client::Request;
use testing_support::server::allow_open_files;
use tokio::task::JoinSet;

use crate::setup::Setup;
use crate::shop::{SOON, Shop, order};

async fn i1_two_hundred_at_once_are_one_order(setup: Setup) {
    const REQUESTS: usize = 200;
    let shop = Shop::new(setup);
    let server = shop.open().await;
    // The run cannot end before all others have asked, or some seconds have passed.
    let started = Instant::now();
    let log = shop.log.clone();
    let asked = AtomicBool::new(false);
    let locked = shop.lock_writes_while(move || {
        let open = log.open_calls();
        asked.fetch_or(open > 1, Ordering::Relaxed);
        !(asked.load(Ordering::Relaxed) && open == 1) && started.elapsed() < LOCKED_MAX
    });
    let replies = send(&shop, &order("user", "key"), REQUESTS).join_all().await;
    locked.join().expect("the lock was there");

    let in_progress = replies.iter().filter(|reply| is_in_progress(reply)).count();
    let taken = replies.iter().filter(|reply| is_taken(reply)).count();
    assert_eq!(in_progress + taken, REQUESTS, "each is told that it runs, or gets the answer: {replies:?}");
    assert!(in_progress > REQUESTS / 2, "most must ask while it runs, not {in_progress}");
    shop.ask_all_again(&[order("user", "key")]).await;
    let summary = shop.judge().await;
    eprintln!("{summary}");
    assert_eq!((summary.effects, summary.first_answers, summary.replays), (1, 1, taken));
    server.kill().await;
}

async fn i2_two_hundred_that_wait_get_the_same_answer(setup: Setup) {
    const REQUESTS: usize = 200;
    let shop = Shop::new(setup);
    let server = shop.open().await;
    let request = Request { wait_s: Some(5), ..order("user", "key") };
    let replies = send(&shop, &request, REQUESTS).join_all().await;
    assert!(replies.iter().all(is_taken), "{replies:?}");
    let summary = shop.judge().await;
    eprintln!("{summary}");
    assert_eq!((summary.effects, summary.first_answers, summary.replays), (1, 1, REQUESTS - 1));
    server.kill().await;
}

/// Memory is bounded, and nobody else is held up: so many of a caller's requests wait as one caller may have, and the rest
/// are told at once that it runs.
async fn i13_five_thousand_of_one_key_leave_others_alone(setup: Setup) {
    const REQUESTS: usize = 5_000;
    const OTHERS: usize = 50;
    const MEMORY_MAX: u64 = 256 << 20;
    // The one that runs, and those that may wait.
    let places = 1 + Limits::default().waiters_per_caller_max;
    // Each is a connection with two ends, and the server's end is in another process.
    allow_open_files(2 * REQUESTS as u64);
    let shop = Shop::new(setup);
    let server = shop.open().await;
    let before = server.memory_peak();
    shop.ask_all_again(&[order("other", "before")]).await;

    // While nothing can be committed, they pile up, until no more are there than have a place. What is answered already is
    // answered again all the same.
    let started = Instant::now();
    let (log, pile) = (shop.log.clone(), Arc::new(AtomicUsize::new(0)));
    let highest = pile.clone();
    let locked = shop.lock_writes_while(move || {
        let open = log.open_calls();
        let piled_up = highest.fetch_max(open, Ordering::Relaxed).max(open) > places;
        !(piled_up && open <= places) && started.elapsed() < LOCKED_MAX
    });
    let reply = shop.client.send(&order("other", "before"), SOON).await;
    assert!(is_taken(&reply) && !locked.is_finished(), "{reply:?}");
    let waiting = send(&shop, &Request { wait_s: Some(30), ..order("user", "key") }, REQUESTS);
    let reply = shop.client.send(&order("other", "before"), SOON).await;
    assert!(is_taken(&reply), "{reply:?}");
    locked.join().expect("the lock was there");
    // As many as there were under the lock: they are answered as soon as it is gone.
    let piled_up = pile.load(Ordering::Relaxed);

    // While they are answered, new orders of others are taken.
    let mut slowest = Duration::ZERO;
    for number in 0..OTHERS {
        let asked = Instant::now();
        let reply = shop.client.send(&order("other", format!("during-{number}")), SOON).await;
        assert!(is_taken(&reply), "{reply:?}");
        slowest = slowest.max(asked.elapsed());
    }
    let replies = waiting.join_all().await;
    let told = replies.iter().filter(|reply| is_in_progress(reply)).count();
    let taken = replies.iter().filter(|reply| is_taken(reply)).count();
    assert_eq!(told + taken, REQUESTS, "each waits for the answer, or is told that it runs");
    assert!(told > 0 && taken >= places, "{told} were told, {taken} were taken");
    shop.ask_all_again(&[order("user", "key")]).await;
    let memory = server.memory_peak();
    let summary = shop.judge().await;
    eprintln!(
        "{piled_up} piled up; slowest new order of others {slowest:?}; all answered after {:?}; memory from {} to {} MiB: \
         {summary}",
        started.elapsed(),
        before >> 20,
        memory >> 20,
    );
    assert_eq!((replies.len(), summary.effects), (REQUESTS, 2 + OTHERS));
    assert!(piled_up > places, "more must ask at once than may wait, not {piled_up}");
    assert!(memory < MEMORY_MAX, "{memory} bytes");
    server.kill().await;
}

/// Shorter than a server waits for the write lock.
const LOCKED_MAX: Duration = Duration::from_secs(3);

fn send(shop: &Shop, request: &Request, times: usize) -> JoinSet<Reply> {
    /// Longer than any of them waits.
    const PATIENCE: Duration = Duration::from_secs(60);
    let mut sent = JoinSet::new();
    for _ in 0..times {
        let (client, request) = (shop.client.clone(), request.clone());
        sent.spawn(async move { client.send(&request, PATIENCE).await });
    }
    sent
}

fn is_taken(reply: &Reply) -> bool {
    matches!(reply, Reply::Final(answer) if answer.status == 201)
}

fn is_in_progress(reply: &Reply) -> bool {
    matches!(reply, Reply::Refused { status: 409, code } if code == "IDEMPOTENCY_KEY_IN_PROGRESS")
}

tests_on!(sqlite: Sqlite, postgres: Postgres, redis: Redis => [
    i1_two_hundred_at_once_are_one_order,
    i2_two_hundred_that_wait_get_the_same_answer,
    i13_five_thousand_of_one_key_leave_others_alone,
]);
