//! The way of orders to the inventory through Kafka, with a real broker of each test's own.

#[macro_use]
mod setup;
mod shop;

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value, json};
use setup::Setup;
use shop::{Shop, readme_order};
use testing_support::eventually;
use testing_support::kafka::Cluster;

/// How long events may take, on a busy machine, past the lease of a relay that was killed, and past the session of a consumer
/// that could not leave its group: 45 s, and more while the broker moves its group.
const FLOW_MAX: Duration = Duration::from_secs(300);

/// How long it may take to end: as long as Kubernetes waits by default.
const END_MAX: Duration = Duration::from_secs(30);

async fn inventory(shop: &Shop) -> Value {
    shop.get("/api/inventory?user_id=user123").await.json()
}

async fn each_order_is_in_the_inventory_once_although_the_server_is_killed(setup: Setup) {
    const KILLS: u64 = 4;
    const ORDERS: u64 = 25;
    let kafka = Cluster::start(1);
    kafka.create_topic("orders", 3);
    let stores = setup.stores();
    let program = stores.program().env("KAFKA_BROKERS", kafka.servers());
    let mut shop = Shop::start(&program, stores).await.expect("the server starts");
    let (_, body) = readme_order();
    for kill in 0..KILLS {
        for order in 0..ORDERS {
            let key = format!("{kill}-{order}");
            assert_eq!(shop.order(&key, body).await.status, StatusCode::CREATED);
        }
        // Its events are on their way, or have just come.
        let Shop { server, stores, .. } = shop;
        server.kill().await;
        shop = Shop::start(&program, stores).await.expect("the server starts again");
    }
    let all = KILLS * ORDERS;
    eventually(FLOW_MAX, "all orders in the inventory", async || inventory(&shop).await["user"]["orders"] == all).await;
    // One more is behind all that could have come twice.
    assert_eq!(shop.order("last", body).await.status, StatusCode::CREATED);
    eventually(FLOW_MAX, "the last order", async || inventory(&shop).await["user"]["orders"] == all + 1).await;
    let products = json!([
        { "product_id": "prod1", "ordered": 2 * (all + 1) },
        { "product_id": "prod2", "ordered": all + 1 },
    ]);
    assert_eq!(inventory(&shop).await["products"], products);
    let (status, printed) = shop.server.terminate().await;
    assert!(status.success(), "{printed}");
}

async fn an_order_waits_for_its_topic(setup: Setup) {
    let kafka = Cluster::start(1);
    let stores = setup.stores();
    let program = stores.program().env("KAFKA_BROKERS", kafka.servers());
    let shop = Shop::start(&program, stores).await.expect("the server starts");
    let (key, body) = readme_order();
    assert_eq!(shop.order(key, body).await.status, StatusCode::CREATED);
    assert_eq!(inventory(&shop).await["user"], Value::Null);
    kafka.create_topic("orders", 1);
    eventually(FLOW_MAX, "the order in the inventory", async || inventory(&shop).await["user"]["orders"] == 1).await;
}

/// It is told to end while no broker answers. Orders are written all the same, and their events wait in the database.
async fn it_ends_in_time_although_no_broker_answers(setup: Setup) {
    let kafka = Cluster::start(1);
    kafka.create_topic("orders", 1);
    let mut stores = setup.stores();
    let program = stores.program().env("KAFKA_BROKERS", kafka.servers());
    let (_, body) = readme_order();
    let mut orders = 0;
    // Nobody listens there; the broker is silent; it is gone.
    for unreachable in ["never there", "silent", "gone"] {
        let nowhere = stores.program().env("KAFKA_BROKERS", "127.0.0.1:1");
        let program = if unreachable == "never there" { &nowhere } else { &program };
        let shop = Shop::start(program, stores).await.expect("the server starts");
        match unreachable {
            "silent" => {
                // It was connected.
                all_are_counted(&shop, orders).await;
                kafka.pause(0);
            }
            "gone" => {
                all_are_counted(&shop, orders).await;
                kafka.kill(0);
            }
            _ => {}
        }
        for _ in 0..3 {
            assert_eq!(shop.order(&format!("{orders}"), body).await.status, StatusCode::CREATED);
            orders += 1;
        }
        let Shop { server, stores: kept, .. } = shop;
        let told = Instant::now();
        let (status, printed) = server.terminate().await;
        assert!(status.success(), "{unreachable}: {printed}");
        assert!(told.elapsed() < END_MAX, "{unreachable}: {:?}: {printed}", told.elapsed());
        match unreachable {
            "silent" => kafka.resume(0),
            "gone" => kafka.start_again(0),
            _ => {}
        }
        stores = kept;
    }
    let shop = Shop::start(&program, stores).await.expect("the server starts");
    all_are_counted(&shop, orders).await;
    let (status, printed) = shop.server.terminate().await;
    assert!(status.success(), "{printed}");
}

async fn all_are_counted(shop: &Shop, orders: u64) {
    eventually(FLOW_MAX, "all orders in the inventory", async || inventory(shop).await["user"]["orders"] == orders)
        .await;
}

tests_on! {
    sqlite: Sqlite, postgres: Postgres => [
        each_order_is_in_the_inventory_once_although_the_server_is_killed,
        it_ends_in_time_although_no_broker_answers,
    ]
}

tests_on! { redis: Redis, tiered: Tiered => [an_order_waits_for_its_topic] }
