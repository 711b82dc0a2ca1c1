//! Three gateways on one store: each is killed, or paused for longer than a lease, at random.

use std::time::Duration;

use keylatch::store::Store;
use keylatch::{postgres, redis};
use rand::Rng;
use testing_history::Guarantee;
use testing_support::client::Targets;
use testing_support::postgres::shared::database;
use testing_support::redis::{Config, Server as Redis};
use testing_support::server::{Program, Server};
use tokio::time::sleep;

use crate::load::{Load, Service, kills, program_on, random_ms};

/// Longer than the lease of a second.
const STILL: Duration = Duration::from_millis(1_500);

async fn start(program: &Program) -> Server {
    program.start().await.unwrap_or_else(|error| panic!("{error}"))
}

async fn i1_never_two_starts(url: &str, store: &impl Store) {
    let directory = tempfile::tempdir().unwrap();
    let (service, upstream) = Service::start(directory.path()).await;
    let program = program_on(url, &service, "at-most-once");
    let mut fleet = Vec::new();
    for _ in 0..3 {
        fleet.push(start(&program).await);
    }
    let targets = Targets::default();
    targets.set(fleet.iter().map(Server::url));
    let load = Load::start("/letters", targets);
    let (mut killed, mut stopped) = (0, 0);
    for _ in 0..kills() {
        sleep(random_ms(20..200)).await;
        let one = rand::rng().random_range(0..fleet.len());
        if rand::rng().random_ratio(1, 3) {
            stopped += 1;
            fleet[one].pause().await;
            sleep(STILL).await;
            fleet[one].resume();
        } else {
            killed += 1;
            fleet.remove(one).kill().await;
            load.targets.set(fleet.iter().map(Server::url));
            fleet.push(start(&program).await);
            load.targets.set(fleet.iter().map(Server::url));
        }
    }
    let (summary, unknown) = load.end(directory.path(), Guarantee::AtMostOnce, store).await;
    eprintln!("{killed} kills and {stopped} stops in a fleet of three: {summary}; {unknown} unknown");
    assert!(summary.replays > 0 && summary.lost > 0, "{summary}");
    drop((fleet, upstream));
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_never_two_starts_on_postgresql_when_any_of_three_is_killed_or_stopped() {
    let url = database().await;
    let store = postgres::Store::connect(&url).await.unwrap();
    i1_never_two_starts(&url, &store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_never_two_starts_on_redis_when_any_of_three_is_killed_or_stopped() {
    let server = Redis::start(Config::new());
    let store = redis::Store::connect(&server.url()).await.unwrap();
    i1_never_two_starts(&server.url(), &store).await;
}
