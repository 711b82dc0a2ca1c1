//! Places, dead letters and events, on the stores that have them; and what the others say.

use bytes::Bytes;
use keylatch::inbox::{Inbox, PlaceName, Reason, Step, Trouble};
use keylatch::outbox::{Event, Events, Fate, Outbox, Settled, Skip};
use keylatch::store::Owner;
use keylatch::{Fingerprint, postgres, sqlite};

use crate::setup::{ARGUMENTS, DONE, Kind, NOT_FOUND, UNCHANGED, UNSUPPORTED, World, applied};

const CONSUMER: &str = "inventory";
const TOPIC: &str = "orders";
/// What a publisher or a handler has said.
const SAID: &str = "error-sentinel";

/// A world whose consumer has three dead letters and is at offset 10, with two events of one key: the first is refused,
/// and the second waits behind it.
async fn worlds() -> [World; 2] {
    let sqlite = World::new(Kind::Sqlite).await;
    let path = sqlite.url.strip_prefix("sqlite:").expect("a file");
    let store = sqlite::Store::open(path).await.expect("the file can be opened");
    let published = store.execute_and_publish(|_, events| {
        two_events().into_iter().for_each(|event| {
            events.publish(event).expect("it fits");
        });
        Ok(())
    });
    published.await.expect("they are published");
    seed(&store).await;

    let postgres = World::new(Kind::Postgres).await;
    let store = postgres::Store::connect(&postgres.url).await.expect("the database is there");
    let mut tx = store.pool().begin().await.expect("a transaction");
    let mut events = Events::default();
    two_events().into_iter().for_each(|event| {
        events.publish(event).expect("it fits");
    });
    store.publish_in(&mut *tx, events).await.expect("they are written");
    tx.commit().await.expect("it commits");
    seed(&store).await;
    [sqlite, postgres]
}

fn two_events() -> [Event; 2] {
    ["first", "second"].map(|value| Event::new(TOPIC).with_key("k").with_value(value))
}

async fn seed<S: Inbox + Outbox>(store: &S) {
    let name = PlaceName::new(CONSUMER, TOPIC, 0).expect("a name");
    let place = store.take(name, Owner::random()).await.expect("it is taken").value;
    let ownership = place.ownership().expect("it has an owner");
    let begin = Step { from: None, to: 10, last: None };
    applied(store.advance(ownership.clone(), begin).await.expect("it advances"));
    for offset in 3..6 {
        let digest = Fingerprint::of([offset.to_string().as_bytes()]);
        let trouble =
            Trouble::new(digest, Reason::Rejected, SAID, 1).with_message(Bytes::from_static(b"body-sentinel"));
        applied(store.bury(ownership.clone(), offset, trouble, None, Events::default()).await.expect("it is buried"));
    }
    let pending = store.pending(10, usize::MAX, Skip::default()).await.expect("events can be read");
    let lease = crate::setup::lease_in(store).await;
    let settled = [Fate::Refused(SAID.to_owned()), Fate::Held];
    let settled = pending.iter().zip(settled).map(|(event, fate)| Settled { place: event.place(), fate }).collect();
    applied(store.settle(lease, settled).await.expect("it settles"));
}

#[tokio::test]
async fn a_place_is_moved_from_the_epoch_that_was_seen() {
    for world in worlds().await {
        let (code, page) = world.json(&["places", "list", "--consumer", CONSUMER]).await;
        let place = &page["places"][0];
        assert_eq!(
            (code, &place["next"], &place["epoch"], &place["owned"]),
            (DONE, &10.into(), &1.into(), &true.into())
        );
        world.run(&["places", "list"]).await.ends(DONE).says(&["CONSUMER", "inventory", "orders/0", "10"]);
        world.run(&["places", "list", "--consumer", "none"]).await.ends(DONE).says(&["There is no place."]);
        assert_eq!(world.run(&["places", "list", "--all", "--json"]).await.ends(DONE).lines().len(), 1);

        let reset = ["places", "reset", CONSUMER, TOPIC, "0", "--next", "7", "--reason", "the table was restored"];
        world.run(&reset).await.ends(ARGUMENTS).says(&["--epoch"]);
        let stale = [&reset[..], &["--epoch", "9", "--yes"]].concat();
        world.run(&stale).await.ends(UNCHANGED).says(&["nothing was changed", "epoch 1"]);
        let (code, error) = world.json(&stale).await;
        assert_eq!((code, &error["error"]["now"]["place"]["epoch"]), (UNCHANGED, &1.into()), "{error}");
        let seen = [&reset[..], &["--epoch", "1"]].concat();
        world.run(&seen).await.ends(ARGUMENTS).says(&["from 7 to 9 are read again", "--yes"]);
        let (_, moved) = world.json(&[&seen[..], &["--dry-run"]].concat()).await;
        assert_eq!((&moved["applied"], &moved["place"]["next"]), (&false.into(), &10.into()));
        let (code, moved) = world.json(&[&seen[..], &["--yes"]].concat()).await;
        let place = &moved["place"];
        assert_eq!(
            (code, &place["next"], &place["epoch"], &place["owned"]),
            (DONE, &7.into(), &2.into(), &false.into())
        );
        let new = ["places", "reset", CONSUMER, "other", "3", "--new", "--next", "5", "--reason", "a new one", "--yes"];
        world.run(&new).await.ends(DONE).says(&["begins at 5"]);
        world.run(&new).await.ends(UNCHANGED);
    }
}

#[tokio::test]
async fn dead_letters_are_replayed_kept_and_discarded() {
    for world in worlds().await {
        let listed = world.run(&["dead-letters", "list"]).await.ends(DONE);
        let listed = listed.says(&["CONSUMER", "orders/0", "rejected", "no"]);
        assert!(!listed.out.contains("sentinel"), "content is on demand: {listed:?}");
        world.run(&["dead-letters", "list", "--errors"]).await.ends(DONE).says(&[SAID, "id "]);
        let (_, page) = world.json(&["dead-letters", "list", "--limit", "2"]).await;
        assert_eq!((page["dead_letters"].as_array().map(Vec::len), page["next"].is_string()), (Some(2), true));
        let id = page["dead_letters"][0]["id"].as_str().expect("an id").to_owned();
        assert_eq!(world.run(&["dead-letters", "list", "--all", "--json"]).await.ends(DONE).lines().len(), 3);

        let reason = ["--reason", "the price is there now"];
        let wanted =
            async || world.json(&["dead-letters", "list", "--wanted"]).await.1["dead_letters"].as_array().map(Vec::len);
        let (code, ordered) = world.json(&[&["dead-letters", "replay", &id], &reason[..]].concat()).await;
        assert_eq!((code, &ordered["done"], wanted().await), (DONE, &1.into(), Some(1)));
        world.run(&[&["dead-letters", "keep", &id], &reason[..]].concat()).await.ends(DONE).says(&["Done for 1 of 1"]);
        assert_eq!(wanted().await, Some(0));
        let from = ["--consumer", CONSUMER, "--topic", TOPIC, "--partition", "0", "--offset-min", "4"];
        let replay = [&["dead-letters", "replay"], &from[..], &reason].concat();
        world.run(&[&replay[..], &["--dry-run"]].concat()).await.ends(DONE).says(&["Nothing was done", "for 2"]);
        assert_eq!(wanted().await, Some(0));
        world.run(&replay).await.ends(DONE).says(&["Done for 2 of 2"]);
        assert_eq!(wanted().await, Some(2));

        let discard = [&["dead-letters", "discard", "--consumer", CONSUMER], &reason[..]].concat();
        world.run(&discard).await.ends(ARGUMENTS).says(&["never applied", "--yes"]);
        world.run(&[&discard[..], &["--yes"]].concat()).await.ends(DONE).says(&["Done for 3 of 3"]);
        world.run(&["dead-letters", "list"]).await.ends(DONE).says(&["There is no dead letter."]);
        let gone = world.run(&[&["dead-letters", "replay", &id], &reason[..]].concat()).await.ends(NOT_FOUND);
        gone.says(&["none of them is there"]);
        world.run(&["dead-letters", "replay", "zz", "--reason", "why"]).await.ends(ARGUMENTS).says(&["ids"]);
        world.run(&["dead-letters", "replay", "--reason", "why"]).await.ends(ARGUMENTS).says(&["--consumer"]);
    }
}

#[tokio::test]
async fn stuck_events_are_tried_again_or_discarded() {
    for world in worlds().await {
        let listed = world.run(&["outbox", "list"]).await.ends(DONE);
        let listed = listed.says(&["events refused", "events behind those", "refused", "held", "NUMBER:ID"]);
        assert!(!listed.out.contains("sentinel"), "content is on demand: {listed:?}");
        world.run(&["outbox", "list", "--errors"]).await.ends(DONE).says(&[SAID]);
        let (_, page) = world.json(&["outbox", "list"]).await;
        assert_eq!((&page["backlog"]["refused"]["count"], &page["backlog"]["held"]["count"]), (&1.into(), &1.into()));
        let name = |at: usize| {
            let stuck = &page["stuck"][at];
            format!("{}:{}", stuck["seq"], stuck["id"].as_str().expect("an id"))
        };
        let (refused, held) = (name(0), name(1));
        let reason = ["--reason", "the topic is there now"];
        let wrong =
            format!("{}:{}", refused.split(':').next().expect("a number"), held.split(':').nth(1).expect("an id"));
        world.run(&[&["outbox", "retry", &wrong], &reason[..]].concat()).await.ends(NOT_FOUND);
        world.run(&["outbox", "retry", "7", "--reason", "why"]).await.ends(ARGUMENTS).says(&["NUMBER:ID"]);
        let discard = [&["outbox", "discard", &refused], &reason[..]].concat();
        world.run(&discard).await.ends(ARGUMENTS).says(&["never published", "--yes"]);
        let (code, ordered) = world.json(&[&["outbox", "retry", &refused], &reason[..]].concat()).await;
        assert_eq!((code, &ordered["done"]), (DONE, &1.into()), "{ordered}");
        let (_, page) = world.json(&["outbox", "list"]).await;
        assert_eq!(
            (&page["backlog"]["waiting"]["count"], page["stuck"].as_array().map(Vec::len)),
            (&2.into(), Some(0))
        );
        world.run(&[&discard[..], &["--yes"]].concat()).await.ends(NOT_FOUND).says(&["none of them is there"]);
        world.run(&["stats"]).await.ends(DONE).says(&["events that wait", "2"]);
    }
}

#[tokio::test]
async fn a_discarded_event_lets_its_key_go_on() {
    for world in worlds().await {
        let (_, page) = world.json(&["outbox", "list"]).await;
        let refused = format!("{}:{}", page["stuck"][0]["seq"], page["stuck"][0]["id"].as_str().expect("an id"));
        let discard = ["outbox", "discard", &refused, "--reason", "nobody needs it", "--yes", "--json"];
        world.run(&discard).await.ends(DONE);
        let (_, page) = world.json(&["outbox", "list"]).await;
        assert_eq!(
            (&page["backlog"]["waiting"]["count"], page["stuck"].as_array().map(Vec::len)),
            (&1.into(), Some(0))
        );
    }
}

#[tokio::test]
async fn redis_says_which_stores_have_events_and_places() {
    let world = World::new(Kind::Redis).await;
    for command in [
        &["outbox", "list"][..],
        &["outbox", "retry", "1:0190163d-8694-739b-aea5-966c26f8ad91", "--reason", "why"],
        &["places", "list"],
        &["places", "reset", "c", "t", "0", "--epoch", "1", "--next", "1", "--reason", "why"],
        &["dead-letters", "list"],
        &["dead-letters", "replay", "--consumer", "c", "--reason", "why"],
    ] {
        world.run(command).await.ends(UNSUPPORTED).says(&["SQLite and PostgreSQL have it"]);
        assert_eq!(world.json(command).await.1["error"]["code"], "unsupported", "{command:?}");
    }
    world.run(&["stats"]).await.ends(DONE).says(&["no outbox"]);
}
