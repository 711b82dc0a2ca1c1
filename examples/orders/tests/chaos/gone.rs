//! Clients that leave in the middle.

use testing_history::Reply;
use testing_support::eventually;
use testing_support::raw::{Connection, Leave, bytes_of};

use crate::setup::Setup;
use crate::shop::{SOON, Shop, order, order_of};

const HOW: [Leave; 2] = [Leave::Close, Leave::Reset];

/// Nothing is recorded: another request may have the key.
async fn i11_a_client_that_leaves_in_the_body_leaves_nothing(setup: Setup) {
    let shop = Shop::new(setup);
    let server = shop.open().await;
    for leave in HOW {
        let key = format!("{leave:?}");
        let half = bytes_of(&order_of("user", &key, 100), server.authority());
        let connection = Connection::sending(server.authority(), &half[..half.len() / 2]).await.unwrap();
        connection.leave(leave).await;
        assert!(shop.orders().await.iter().all(|(_, of, _)| *of != key));

        let another = order("user", &key);
        let Reply::Final(answer) = shop.client.send(&another, SOON).await else { panic!("the key is free") };
        assert_eq!((answer.status, answer.replayed), (201, false));
    }
    let summary = shop.judge().await;
    assert_eq!(summary.effects, HOW.len());
    server.kill().await;
}

/// Its run goes on: its retry is the very case this exists for.
async fn i1_a_client_that_leaves_while_its_request_runs_finds_it_done(setup: Setup) {
    let shop = Shop::new(setup);
    let server = shop.open().await;
    for (before, leave) in HOW.into_iter().enumerate() {
        if before > 0 {
            // Else it may be the last order's event that runs below.
            shop.settled(before).await;
        }
        let request = order("user", format!("{leave:?}"));
        let lock = shop.lock_writes();
        // The checker must know that somebody asked.
        let call = shop.log.invoke(&request.scope, &request.key, &request.identity());
        let connection =
            Connection::sending(server.authority(), &bytes_of(&request, server.authority())).await.unwrap();
        eventually(SOON, "the request to run", async || shop.running().await == 1).await;
        connection.leave(leave).await;
        call.reply(Reply::Nothing);
        lock.release();

        eventually(SOON, "the order", async || shop.orders().await.iter().any(|(_, key, _)| *key == request.key)).await;
        let answer = shop.client.insist(&request, SOON, SOON).await.unwrap();
        assert!(answer.replayed, "the run of the client that left is the one that counts");
    }
    let summary = shop.judge().await;
    assert_eq!((summary.effects, summary.first_answers), (HOW.len(), 0));
    server.kill().await;
}

tests_on!(sqlite: Sqlite, postgres: Postgres, redis: Redis => [
    i11_a_client_that_leaves_in_the_body_leaves_nothing,
    i1_a_client_that_leaves_while_its_request_runs_finds_it_done,
]);
