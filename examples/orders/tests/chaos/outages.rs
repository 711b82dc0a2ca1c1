//! The servers behind the service die, and come back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keylatch::postgres::CONNECT_MAX;
use testing_history::{Reply, What};
use testing_support::client::Request;
use testing_support::eventually;
use tokio::task::block_in_place;
use tokio::time::sleep;

use crate::load::{Load, random_ms};
use crate::setup::Setup;
use crate::shop::{SOON, Shop, order};

/// How long it may take until the service works again, after what it needs does.
const BACK_MAX: Duration = Duration::from_secs(10);

/// PostgreSQL is stopped in the middle of everything, and recovers from its log.
async fn i1_to_i4_hold_when_postgresql_stops_at_once_and_starts_again_under_load(setup: Setup) {
    const STOPS: usize = 6;
    let shop = Arc::new(Shop::on(setup.stores_of_its_own()));
    let server = shop.open().await;
    let load = Load::start(shop.clone(), &[1, 1, 2]);
    let (mut stops, mut caught) = (0, 0);
    // As many more as it takes on a machine on which a stop finds little under way.
    while stops < STOPS || caught <= STOPS / 2 {
        assert!(stops < 5 * STOPS, "only {caught} of {stops} stops have hit requests under way");
        stops += 1;
        sleep(random_ms(50..300)).await;
        caught += usize::from(shop.log.open_calls() > 0);
        block_in_place(|| shop.stores.cluster().stop_immediately());
        sleep(random_ms(1..100)).await;
        block_in_place(|| shop.stores.cluster().start_again());
    }
    let summary = load.end_where_runs_may_fail().await;
    eprintln!("{stops} stops of PostgreSQL, {caught} with requests under way: {summary}");
    let (status, _) = server.terminate().await;
    assert!(status.success(), "{status}");
}

/// While PostgreSQL is down nothing is done on a guess, and nobody waits for ever.
async fn without_postgresql_it_is_503_and_it_comes_back_by_itself(setup: Setup) {
    let shop = Shop::on(setup.stores_of_its_own());
    let server = shop.open().await;
    let before = order("user", "before");
    let Reply::Final(answer) = shop.client.send(&before, SOON).await else { panic!("it is well") };
    let path = format!("/api/orders/{}", answer.effect.expect("it names its order"));

    block_in_place(|| shop.stores.cluster().stop());
    let during = order("user", "during");
    let asked = Instant::now();
    let (reply, found, ready) =
        tokio::join!(shop.client.send(&during, SOON), shop.client.get(&path, SOON), shop.client.get("/ready", SOON));
    assert_unavailable(&reply);
    assert_eq!((found.expect("it answers").status, ready.expect("it answers").status), (503, 503));
    assert!(asked.elapsed() < 2 * CONNECT_MAX, "it took {:?}", asked.elapsed());
    // What this process has answered, it answers again.
    let reply = shop.client.send(&before, SOON).await;
    assert!(matches!(&reply, Reply::Final(answer) if answer.replayed), "{reply:?}");

    block_in_place(|| shop.stores.cluster().start_again());
    comes_back(&shop, &during).await;
    assert_eq!(shop.client.get(&path, SOON).await.expect("it answers").status, 200);
    assert_eq!(shop.client.get("/ready", SOON).await.expect("it answers").status, 200);
    shop.ask_all_again(&[before, during]).await;
    assert_eq!(shop.judge().await.effects, 2);
    server.kill().await;
}

/// A cache that dies costs time and no answer: not one request is refused for it.
#[tokio::test(flavor = "multi_thread")]
async fn i1_to_i4_hold_when_redis_is_killed_before_postgresql_under_load() {
    const KILLS: usize = 6;
    let shop = Arc::new(Shop::on(Setup::Tiered.stores_of_its_own()));
    let servers = [shop.open().await, shop.open().await];
    // Each is asked for what the other has answered, which only Redis and PostgreSQL know.
    shop.targets.set(servers.each_ref().map(|server| server.url()));
    let load = Load::start(shop.clone(), &[1, 1, 1]);
    for _ in 0..KILLS {
        sleep(random_ms(200..600)).await;
        block_in_place(|| shop.stores.redis().kill());
        sleep(random_ms(200..600)).await;
        block_in_place(|| shop.stores.redis().start_again());
    }
    let summary = load.end().await;
    let unavailable = shop.log.events().iter().filter(|event| is_unavailable(&event.what)).count();
    eprintln!("{KILLS} kills of Redis: {summary}");
    assert_eq!(unavailable, 0, "a cache that is gone is no reason to refuse");
    for server in servers {
        server.kill().await;
    }
}

/// A cache is not needed to start either.
#[tokio::test(flavor = "multi_thread")]
async fn it_starts_without_its_cache_and_uses_it_when_it_comes() {
    let shop = Shop::on(Setup::Tiered.stores_of_its_own());
    let copies = || shop.stores.redis().ask("INFO keyspace").contains("keys=");
    block_in_place(|| shop.stores.redis().kill());
    let server = shop.open().await;
    shop.ask_all_again(&[order("user", "before")]).await;
    block_in_place(|| shop.stores.redis().start_again());
    assert!(!copies());
    let mut orders = vec![order("user", "before")];
    eventually(BACK_MAX, "copies of answers", async || {
        let next = order("user", format!("key-{}", orders.len()));
        shop.ask_all_again(std::slice::from_ref(&next)).await;
        orders.push(next);
        copies()
    })
    .await;
    shop.ask_all_again(&orders).await;
    assert_eq!(shop.judge().await.effects, orders.len());
    server.kill().await;
}

/// Without the records nothing is done on a guess, and nobody waits.
#[tokio::test(flavor = "multi_thread")]
async fn without_redis_alone_it_is_503_at_once_and_it_comes_back_by_itself() {
    const AT_ONCE: Duration = Duration::from_secs(1);
    const REQUESTS: usize = 20;
    let shop = Shop::on(Setup::Redis.stores_of_its_own());
    let server = shop.open().await;
    let before = order("user", "before");
    let Reply::Final(answer) = shop.client.send(&before, SOON).await else { panic!("it is well") };
    block_in_place(|| shop.stores.redis().kill());

    for number in 0..REQUESTS {
        let asked = Instant::now();
        assert_unavailable(&shop.client.send(&order("user", format!("during-{number}")), SOON).await);
        assert!(asked.elapsed() < AT_ONCE, "it took {:?}", asked.elapsed());
    }
    assert_eq!(shop.client.get("/ready", SOON).await.expect("it answers").status, 503);
    // The orders are not in Redis.
    let path = format!("/api/orders/{}", answer.effect.expect("it names its order"));
    assert_eq!(shop.client.get(&path, SOON).await.expect("it answers").status, 200);
    assert_eq!(shop.orders().await.len(), 1);

    block_in_place(|| shop.stores.redis().start_again());
    comes_back(&shop, &order("user", "during-0")).await;
    shop.ask_all_again(&[before, order("user", "during-0")]).await;
    assert_eq!(shop.judge().await.effects, 2);
    server.kill().await;
}

async fn comes_back(shop: &Shop, request: &Request) {
    eventually(
        BACK_MAX,
        "orders to be taken again",
        async || matches!(shop.client.send(request, SOON).await, Reply::Final(answer) if answer.status == 201),
    )
    .await;
}

fn assert_unavailable(reply: &Reply) {
    let code = "IDEMPOTENCY_STORE_UNAVAILABLE".to_owned();
    assert_eq!(*reply, Reply::Refused { status: 503, code });
}

fn is_unavailable(what: &What) -> bool {
    matches!(what, What::Reply { reply: Reply::Refused { status: 503, .. }, .. })
}

tests_on!(postgres: Postgres, tiered: Tiered => [
    i1_to_i4_hold_when_postgresql_stops_at_once_and_starts_again_under_load,
    without_postgresql_it_is_503_and_it_comes_back_by_itself,
]);
