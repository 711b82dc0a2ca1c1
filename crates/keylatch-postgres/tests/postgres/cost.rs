//! What a request costs the server: its round trips.

use keylatch::inbox::{BatchEnd, Inbox as _};
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

/// A batch takes three round trips beside its handlers' own, with ids and without; two more, and the look at the records, if
/// an id is known.
#[tokio::test]
async fn a_batch_takes_three_round_trips_more_than_its_handlers() {
    let (database, store) = crate::inbox::with_effects(Options::default()).await;
    let proxy = Proxy::start(cluster().port()).await;
    drop(store);
    let store = Store::connect_with(&proxy.url(&database), Options::default().with_connections_max(1)).await.unwrap();
    let (ownership, _) = crate::inbox::take(&store).await;
    let apply = async |from: i64, messages: Vec<i64>| {
        proxy.round_trips();
        let parts = messages.into_iter().map(crate::inbox::message).collect();
        let end = store.apply(crate::inbox::batch(&ownership, from, parts)).await.unwrap();
        assert!(matches!(end, BatchEnd::Applied { .. }), "{end:?}");
        of_requests(proxy.round_trips())
    };
    // Statements are prepared at their first use.
    apply(0, vec![0]).await;
    apply(1, vec![0]).await;
    for message in [1, 2] {
        let round_trips = apply(message + 1, vec![message]).await;
        let [begin, insert, pass, commit] = round_trips.as_slice() else { panic!("{round_trips:#?}") };
        assert!(begin.contains("BEGIN") && begin.contains("keylatch.enter_place"), "{begin}");
        assert!(insert.contains("INSERT INTO effect"), "{insert}");
        assert!(pass.contains("keylatch.pass"), "{pass}");
        assert_eq!(commit, "COMMIT");
    }
    let round_trips = apply(4, vec![2, 3]).await;
    let [begin, rollback, again, find, insert, pass, commit] = round_trips.as_slice() else {
        panic!("{round_trips:#?}")
    };
    assert!([begin, again].iter().all(|begin| begin.contains("keylatch.enter_place")), "{round_trips:#?}");
    assert!(rollback == "ROLLBACK" && find.contains("keylatch.find"), "{round_trips:#?}");
    assert!(insert.contains("INSERT INTO effect") && pass.contains("keylatch.pass") && commit == "COMMIT");
}
