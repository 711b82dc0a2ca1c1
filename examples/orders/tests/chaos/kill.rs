//! Kill -9 at random, under load of clients that do not give up.

use std::sync::Arc;

use tokio::time::{sleep, timeout};

use crate::load::{Load, random_ms};
use crate::setup::Setup;
use crate::shop::Shop;

async fn i1_to_i4_hold_when_the_server_is_killed_at_random_under_load(setup: Setup) {
    /// One kill in so many hits the server while it starts, too.
    const KILLS_AT_START: usize = 6;
    let kills = if setup == Setup::Sqlite { 60 } else { 24 };
    let shop = Arc::new(Shop::new(setup));
    let mut server = shop.open().await;
    let load = Load::start(shop.clone(), &[1, 1, 2]);
    let (mut kill, mut caught, mut at_start) = (0, 0, 0);
    // As many more as it takes on a machine on which a kill finds little under way.
    while kill < kills || caught <= kills / 2 {
        assert!(kill < 5 * kills, "only {caught} of {kill} kills have hit requests under way");
        kill += 1;
        sleep(random_ms(5..200)).await;
        caught += usize::from(shop.log.open_calls() > 0);
        server.kill().await;
        if kill % KILLS_AT_START == 0 {
            // Dropped before it is ready, it is killed; if it was faster, it is killed at once.
            at_start += 1;
            drop(timeout(random_ms(1..40), shop.program.start()).await);
        }
        server = shop.open().await;
    }
    let summary = load.end().await;
    eprintln!("{kill} kills, {caught} with requests under way, and {at_start} of starting servers: {summary}");
    server.kill().await;
}

/// Whoever loses its connection turns to the other, which may have the same request under way.
async fn i1_to_i4_hold_when_two_servers_are_killed_in_turn_under_load(setup: Setup) {
    let kills = if setup == Setup::Sqlite { 30 } else { 12 };
    let shop = Arc::new(Shop::new(setup));
    let (mut first, mut second) = (shop.open().await, shop.open().await);
    let load = Load::start(shop.clone(), &[1, 1, 2]);
    for _ in 0..kills {
        shop.targets.set([first.url(), second.url()]);
        sleep(random_ms(5..200)).await;
        first.kill().await;
        shop.targets.set([second.url()]);
        sleep(random_ms(1..20)).await;
        first = second;
        second = shop.program.start().await.unwrap_or_else(|error| panic!("{error}"));
    }
    shop.targets.set([first.url(), second.url()]);
    let summary = load.end().await;
    eprintln!("{kills} kills of two servers in turn: {summary}");
    first.kill().await;
    second.kill().await;
}

tests_on!(sqlite: Sqlite, postgres: Postgres => [
    i1_to_i4_hold_when_the_server_is_killed_at_random_under_load,
    i1_to_i4_hold_when_two_servers_are_killed_in_turn_under_load,
]);
