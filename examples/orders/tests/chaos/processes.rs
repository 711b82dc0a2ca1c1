//! Two servers on one database.

use std::sync::Arc;
use std::time::Duration;

use testing_support::client::Request;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::setup::Setup;
use crate::shop::{Shop, order};

const PATIENCE: Duration = Duration::from_secs(60);

async fn i1_i2_hold_between_two_processes_one_of_which_stands_still_now_and_then(setup: Setup) {
    const CLIENTS: usize = 16;
    const KEYS: usize = 400;
    const PAUSES: usize = 6;
    /// Shorter than a server waits for the write lock, with which the other may stand still.
    const PAUSE: Duration = Duration::from_millis(500);
    let shop = Arc::new(Shop::new(setup));
    let servers = [shop.open().await, shop.open().await];
    shop.targets.set(servers.each_ref().map(|server| server.url()));

    // Every client asks for every key: each is raced for, through both.
    let keys: Arc<Vec<Request>> = Arc::new((0..KEYS).map(|number| order("user", format!("key-{number}"))).collect());
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (shop, keys) = (shop.clone(), keys.clone());
        clients.spawn(async move {
            for request in keys.iter() {
                let answer = shop.client.insist(request, Duration::from_secs(2), PATIENCE).await;
                answer.unwrap_or_else(|gave_up| panic!("{}: {gave_up}", request.key));
            }
        });
    }
    let mut paused_under_load = 0;
    for pause in 0..PAUSES {
        sleep(Duration::from_millis(100)).await;
        let server = &servers[pause % servers.len()];
        server.pause().await;
        sleep(PAUSE).await;
        paused_under_load += usize::from(shop.log.open_calls() > 0);
        server.resume();
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("every client gets its answers");
    }
    for server in &servers {
        shop.targets.set([server.url()]);
        shop.ask_all_again(&keys).await;
    }
    let summary = shop.judge().await;
    eprintln!("{paused_under_load} pauses under load: {summary}");
    assert_eq!((summary.effects, summary.answered_keys), (KEYS, KEYS));
    assert!(paused_under_load > 0, "the load must last into the first pause");
    assert!(summary.replays > KEYS);
    for server in servers {
        server.terminate().await;
    }
}

/// One dies, the other goes on at once: nothing in the file belongs to a process.
async fn i4_what_one_process_answered_the_other_answers_after_its_death(setup: Setup) {
    let shop = Shop::new(setup);
    let first = shop.open().await;
    let keys: Vec<_> = (0..20).map(|number| order("user", format!("key-{number}"))).collect();
    shop.ask_all_again(&keys[..10]).await;
    let second = shop.open().await;
    shop.ask_all_again(&keys).await;
    second.kill().await;
    shop.targets.set([first.url()]);
    shop.ask_all_again(&keys).await;
    let summary = shop.judge().await;
    assert_eq!((summary.effects, summary.replays), (20, 30));
    let (status, _) = first.terminate().await;
    assert!(status.success(), "{status}");
}

tests_on!(sqlite: Sqlite, postgres: Postgres, redis: Redis => [
    i1_i2_hold_between_two_processes_one_of_which_stands_still_now_and_then,
    i4_what_one_process_answered_the_other_answers_after_its_death,
]);
