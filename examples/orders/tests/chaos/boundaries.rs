//! Kill -9 at every boundary between two phases of a run.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use testing_history::Reply;
use tokio::time::sleep;

use crate::setup::Setup;
use crate::shop::{SOON, Shop, order};

const SIGKILL: i32 = 9;

/// What is there after a kill at a boundary.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    /// Nothing that counts: a retry runs afresh.
    Nothing,
    /// The order, in `Fenced`, without its outcome: a retry runs again, and finds it.
    Order,
    /// The order and its outcome: a retry is told what happened.
    Everything,
}

async fn killed_before_the_claim(setup: Setup) {
    kill_at(setup, "before-claim", After::Nothing).await;
}

async fn killed_after_the_claim(setup: Setup) {
    kill_at(setup, "after-claim", After::Nothing).await;
}

async fn killed_after_the_handlers_write(setup: Setup) {
    kill_at(setup, "after-handler-write", uncommitted(setup)).await;
}

async fn killed_before_the_commit(setup: Setup) {
    kill_at(setup, "before-commit", uncommitted(setup)).await;
}

async fn killed_after_the_commit(setup: Setup) {
    kill_at(setup, "after-commit", After::Everything).await;
}

async fn killed_before_the_answer(setup: Setup) {
    kill_at(setup, "before-answer", After::Everything).await;
}

/// What is there between the handler's write and the record of its outcome.
fn uncommitted(setup: Setup) -> After {
    if setup == Setup::Redis { After::Order } else { After::Nothing }
}

/// Time and again a server dies at `boundary` in the first request that it runs, while another on the same stores
/// lives, which tells what is there and takes the retry.
async fn kill_at(setup: Setup, boundary: &str, after: After) {
    let kills = if setup == Setup::Sqlite { 20 } else { 8 };
    let shop = Shop::new(setup);
    let survivor = shop.open().await;
    let victim = shop.program.clone().env("KEYLATCH_FAILPOINT", format!("{boundary}:1:kill"));
    let requests: Vec<_> = (0..kills).map(|kill| order("user", format!("key-{kill}"))).collect();
    for request in &requests {
        let server = victim.start().await.unwrap_or_else(|error| panic!("{error}"));
        shop.targets.set([server.url()]);
        let reply = shop.client.send(request, SOON).await;
        assert_eq!(reply, Reply::Nothing, "it died before it could answer");
        assert_eq!(server.ended().await.signal(), Some(SIGKILL));

        shop.targets.set([survivor.url()]);
        let there = shop.orders().await.iter().any(|(_, key, _)| *key == request.key);
        assert_eq!(there, after != After::Nothing, "{}", request.key);
    }
    // On a lease, all wait for its end together.
    for request in &requests {
        let answer = shop.client.insist(request, SOON, SOON).await.unwrap();
        assert_eq!((answer.status, answer.replayed), (201, after == After::Everything), "{}", request.key);
        let again = shop.client.insist(request, SOON, SOON).await.unwrap();
        assert!(again.replayed && again.agrees_with(&answer));
    }
    let summary = shop.judge().await;
    eprintln!("{kills} kills at {boundary}: {summary}");
    assert_eq!((summary.effects, summary.lost), (kills, kills));
    let (status, _) = survivor.terminate().await;
    assert!(status.success(), "{status}");
}

/// Time and again a server dies when an order is counted, and its event is still in the outbox: it is handed out again, and
/// not counted again.
async fn killed_between_acknowledgement_and_deletion(setup: Setup) {
    const KILLS: usize = 4;
    let shop = Shop::new(setup);
    let victim = shop.program.clone().env("KEYLATCH_FAILPOINT", "after-acknowledgement:1:kill");
    for kill in 0..KILLS {
        let server = victim.start().await.unwrap_or_else(|error| panic!("{error}"));
        shop.targets.set([server.url()]);
        // It may die before its answer arrives.
        shop.client.send(&order("user", format!("key-{kill}")), SOON).await;
        assert_eq!(server.ended().await.signal(), Some(SIGKILL));
    }
    let server = shop.open().await;
    for kill in 0..KILLS {
        shop.client.insist(&order("user", format!("key-{kill}")), SOON, SOON).await.unwrap();
    }
    let summary = shop.judge().await;
    assert_eq!(summary.effects, KILLS);
    let (status, _) = server.terminate().await;
    assert!(status.success(), "{status}");
}

/// A server stands still when an order is counted, and comes back after another has taken over: what it then writes about
/// its event changes nothing, and it goes on beside the other.
async fn i15_paused_between_acknowledgement_and_deletion(setup: Setup) {
    let shop = Shop::new(setup);
    let paused = shop.program.clone().env("KEYLATCH_FAILPOINT", "after-acknowledgement:1:pause");
    let paused = paused.start().await.unwrap_or_else(|error| panic!("{error}"));
    let survivor = shop.open().await;
    shop.client.insist(&order("user", "first"), SOON, SOON).await.unwrap();
    let begun = Instant::now();
    while !paused.is_paused() {
        assert!(begun.elapsed() < SOON, "the first server has the outbox, and stops with its first event");
        sleep(Duration::from_millis(5)).await;
    }
    shop.client.insist(&order("user", "second"), SOON, SOON).await.unwrap();
    // The survivor takes over and counts the second order, and not the first again.
    assert_eq!(shop.judge().await.effects, 2);
    paused.resume();
    shop.targets.set([paused.url()]);
    shop.client.insist(&order("user", "third"), SOON, SOON).await.unwrap();
    assert_eq!(shop.judge().await.effects, 3);
    for server in [paused, survivor] {
        let (status, _) = server.terminate().await;
        assert!(status.success(), "{status}");
    }
}

tests_on!(sqlite: Sqlite, postgres: Postgres, redis: Redis => [
    killed_before_the_claim,
    killed_after_the_claim,
    killed_after_the_handlers_write,
    killed_before_the_commit,
    killed_after_the_commit,
    killed_before_the_answer,
    killed_between_acknowledgement_and_deletion,
    i15_paused_between_acknowledgement_and_deletion,
]);
