//! What a request costs the server: its round trips.

use keylatch::postgres::{Options, Store};
use testing_support::postgres::proxy::Proxy;

use crate::support::{Service, cluster, database};

/// Some statements do not belong to a request: a connection sends some when it is made and when it returns to the pool,
/// and one claim in a hundred counts its scope first.
fn of_requests(round_trips: Vec<String>) -> Vec<String> {
    let own = |sql: &String| sql.is_empty() || sql.starts_with("PREPARE") || sql.contains("pg_catalog");
    let noise = |sql: &String| own(sql) || sql.contains("Counts the records");
    round_trips.into_iter().filter(|sql| !noise(sql)).collect()
}

#[tokio::test]
async fn atomic_takes_two_round_trips_more_than_the_handler() {
    let database = database().await;
    let proxy = Proxy::start(cluster().port()).await;
    let store = Store::connect_with(&proxy.url(&database), Options::default().with_connections_max(1)).await.unwrap();
    let service = Service::start(store).await;
    // Statements are prepared when they are first used.
    assert_eq!(service.post("created", "first", 0).await.status, 201);
    proxy.round_trips();

    assert_eq!(service.post("created", "second", 0).await.status, 201);
    let round_trips = of_requests(proxy.round_trips());
    let [look, begin, insert, finish, commit] = round_trips.as_slice() else { panic!("{round_trips:#?}") };
    assert!(look.contains("keylatch.look"), "{look}");
    assert!(begin.contains("BEGIN") && begin.contains("keylatch.enter"), "{begin}");
    assert!(insert.contains("INSERT INTO item"), "{insert}");
    assert!(finish.contains("Writes a finished record"), "{finish}");
    assert_eq!(commit, "COMMIT");

    assert!(service.post("created", "second", 0).await.replayed);
    let round_trips = of_requests(proxy.round_trips());
    let [look] = round_trips.as_slice() else { panic!("{round_trips:#?}") };
    assert!(look.contains("keylatch.look"), "{look}");
}
