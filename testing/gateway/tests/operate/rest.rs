//! Cleaning up, and numbers.

use std::time::Duration;

use keylatch::{Policy, TOMBSTONE};
use testing_support::eventually;

use crate::setup::{CALLER, DONE, World, on_cassandra, on_every_store};

on_every_store! {
    a_sweep_cleans_everything_that_is_due;
    numbers_say_what_needs_a_person;
}

on_cassandra! {
    numbers_say_what_needs_a_person;
}

const SOON: Duration = Duration::from_secs(30);

async fn a_sweep_cleans_everything_that_is_due(world: &World) {
    let brief = Policy { retention: Duration::from_millis(1), tombstone: TOMBSTONE, ..Policy::default() };
    // Redis takes short answers away only with their tombstones.
    let body = "x".repeat(800);
    for at in 0..30 {
        world.completed_with(&format!("key-{at}"), &body, &brief).await;
    }
    let kept = world.completed("kept", "answer").await;
    eventually(SOON, "the answers to expire", async || {
        let page = world.json(&["keys", "list", "--phase", "tombstone", "--limit", "50"]).await.1;
        page["records"].as_array().is_some_and(|records| records.len() == 30)
    })
    .await;
    let (code, swept) = world.json(&["sweep"]).await;
    assert_eq!((code, &swept["tombstoned"], &swept["complete"]), (DONE, &30.into(), &true.into()), "{swept}");
    world.run(&["sweep"]).await.ends(DONE).says(&["0 records removed, 0 became tombstones; nothing is left to clean"]);
    assert_eq!(world.read("kept").await, Some(kept));
}

async fn numbers_say_what_needs_a_person(world: &World) {
    world.unknown("lost").await;
    world.unknown("lost-2").await;
    world.abandoned("left").await;
    world.completed("done", "answer").await;
    let (code, stats) = world.json(&["stats", "--scope", CALLER]).await;
    assert_eq!((code, &stats["lapsed"]["unknown"], &stats["lapsed"]["abandoned"]), (DONE, &2.into(), &1.into()));
    assert!(stats["records"]["count"].as_u64().is_some_and(|count| count <= 4), "{stats}");
    world.run(&["stats"]).await.ends(DONE).says(&["unknown outcomes", "2", "store's clock (UTC)"]);
}
