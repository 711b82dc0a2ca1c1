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
    const TRIES_MAX: usize = 10;
    const MEMORY_MAX: u64 = 256 << 20;
    // The one that runs, and those that may wait.
    let places = 1 + Limits::default().waiters_per_caller_max;
    // Each is a connection with two ends, and the server's end is in another process.
    allow_open_files(2 * REQUESTS as u64);
    let shop = Shop::new(setup);
    let server = shop.open().await;
    let before = server.memory_peak();
    shop.ask_all_again(&[order("other", "before")]).await;

    // A busy machine may be too slow to have them all there before the server's patience with its database ends. Then it
    // is tried again, with fewer and another key.
    let (mut piled_up, mut tries) = (None, 0);
    while piled_up.is_none() {
        tries += 1;
        assert!(tries <= TRIES_MAX, "the machine is too busy");
        let requests = (REQUESTS / tries).max(places * 3 / 2);
        let key = format!("key-{tries}");
        piled_up = pile_up(&shop, &key, requests, places).await;
        shop.ask_all_again(&[order("user", &key)]).await;
    }
    let memory = server.memory_peak();
    let summary = shop.judge().await;
    eprintln!("after {tries} tries: {piled_up:?}; memory from {} to {} MiB: {summary}", before >> 20, memory >> 20);
    assert_eq!(summary.effects, 1 + tries * (1 + OTHERS));
    assert!(memory < MEMORY_MAX, "{memory} bytes");
    server.kill().await;
}

/// Orders of others that are taken while many wait for one key.
const OTHERS: usize = 50;

#[derive(Debug)]
#[expect(dead_code, reason = "it is shown")]
struct PiledUp {
    /// The most that were there at once.
    at_once: usize,
    slowest_of_others: Duration,
    all_after: Duration,
}

/// Sends `requests` of one key while nothing can be committed. `None` if there were never more than there are `places`
/// before the lock had to go, or the database was too slow for the server, or the server too slow to tell the rest.
async fn pile_up(shop: &Shop, key: &str, requests: usize, places: usize) -> Option<PiledUp> {
    // They pile up, until no more are there than have a place. What is answered already is answered again all the same.
    let started = Instant::now();
    let (log, pile) = (shop.log.clone(), Arc::new(AtomicUsize::new(0)));
    let highest = pile.clone();
    let locked = shop.lock_writes_while(move || {
        let open = log.open_calls();
        let piled_up = highest.fetch_max(open, Ordering::Relaxed).max(open) > places;
        !(piled_up && open <= places) && started.elapsed() < LOCKED_MAX
    });
    let reply = shop.client.send(&order("other", "before"), SOON).await;
    assert!(is_taken(&reply), "{reply:?}");
    let was_locked = !locked.is_finished();
    let waiting = send(shop, &Request { wait_s: Some(30), ..order("user", key) }, requests);
    let reply = shop.client.send(&order("other", "before"), SOON).await;
    assert!(is_taken(&reply), "{reply:?}");
    locked.join().expect("the lock was there");
    // As many as there were under the lock: they are answered as soon as it is gone.
    let at_once = pile.load(Ordering::Relaxed);

    // While they are answered, new orders of others are taken.
    let (mut slowest_of_others, mut others_unavailable) = (Duration::ZERO, 0);
    for number in 0..OTHERS {
        let other = order("other", format!("during-{key}-{number}"));
        let asked = Instant::now();
        let reply = shop.client.send(&other, SOON).await;
        slowest_of_others = slowest_of_others.max(asked.elapsed());
        if is_unavailable(&reply) {
            others_unavailable += 1;
            shop.ask_all_again(&[other]).await;
        } else {
            assert!(is_taken(&reply), "{reply:?}");
        }
    }
    let replies = waiting.join_all().await;
    let all_after = started.elapsed();
    let count = |kind: fn(&Reply) -> bool| replies.iter().filter(|reply| kind(reply)).count();
    let (told, taken, unavailable) = (count(is_in_progress), count(is_taken), count(is_unavailable));
    assert_eq!(told + taken + unavailable, requests, "each waits for the answer, or is told that it runs");
    let is_fast = was_locked && others_unavailable + unavailable == 0;
    if !(is_fast && at_once > places && told > 0 && taken >= places) {
        eprintln!(
            "{at_once} of {requests} at once: {told} were told, {taken} taken, {unavailable} told of the database"
        );
        return None;
    }
    Some(PiledUp { at_once, slowest_of_others, all_after })
}

/// Shorter than a server waits for the write lock.
const LOCKED_MAX: Duration = Duration::from_secs(3);

fn send(shop: &Shop, request: &Request, times: usize) -> JoinSet<Reply> {
    /// Far longer than any of them waits, also on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(300);
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

fn is_unavailable(reply: &Reply) -> bool {
    matches!(reply, Reply::Refused { status: 503, code } if code == "IDEMPOTENCY_STORE_UNAVAILABLE")
}

tests_on!(sqlite: Sqlite, postgres: Postgres, redis: Redis => [
    i1_two_hundred_at_once_are_one_order,
    i2_two_hundred_that_wait_get_the_same_answer,
    i13_five_thousand_of_one_key_leave_others_alone,
]);
