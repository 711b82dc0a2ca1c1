//! Places and dead letters, where a database has them.

use std::sync::Arc;

use keylatch::Fingerprint;
use keylatch::inbox::{Inbox, PlaceName, Reason, Step, Trouble};
use keylatch::outbox::Events;
use keylatch::store::{Applied, Owner};
use keylatch_admin::ops::{DeadLetterFilter, ListPlaces, ListStuck, Order, OrderDeadLetters, ResetPlace};
use keylatch_admin::{Error, Operator, Role};

use crate::setup::{self, operator, who};

fn of(store: impl Inbox + Clone) -> Operator {
    operator(store.clone()).with_places(Arc::new(store.clone())).with_outbox(Arc::new(store))
}

async fn places_are_listed_and_moved_in_the_epoch_that_was_seen(store: impl Inbox + Clone) {
    let operator = of(store.clone());
    let name = PlaceName::new("inventory", "orders", 3).unwrap();
    let taken = store.take(name.clone(), Owner::random()).await.unwrap().value.ownership().unwrap();
    let step = Step { from: None, to: 7, last: None };
    assert!(matches!(store.advance(taken, step).await.unwrap(), Applied::Applied(_)));
    let page = operator.list_places(ListPlaces::default()).await.unwrap();
    let [place] = &page.places[..] else { panic!("{page:?}") };
    assert_eq!((place.next, place.owned, place.epoch), (Some(7), true, 1));
    let reset = |epoch, dry_run| ResetPlace {
        consumer: "inventory".to_owned(),
        topic: "orders".to_owned(),
        partition: 3,
        epoch,
        next: 2,
        reason: "a test".to_owned(),
        dry_run,
    };
    for stale in [None, Some(2)] {
        let refused = operator.reset_place(&who(), reset(stale, false)).await;
        assert!(matches!(refused, Err(Error::Stale(_))), "{refused:?}");
    }
    let planned = operator.reset_place(&who(), reset(Some(1), true)).await.unwrap();
    assert!(!planned.applied && planned.says.contains("2 to 6 are read again"), "{}", planned.says);
    assert_eq!(planned.place.unwrap().next, Some(7));
    let moved = operator.reset_place(&who(), reset(Some(1), false)).await.unwrap();
    let place = moved.place.unwrap();
    assert_eq!((moved.applied, place.next, place.owned, place.epoch), (true, Some(2), false, 2));
}

async fn dead_letters_are_ordered_by_filter_and_by_id(store: impl Inbox + Clone) {
    /// More than the operator reads at once.
    const LETTERS: i64 = 40;
    let operator = of(store.clone());
    let name = PlaceName::new("inventory", "orders", 0).unwrap();
    let owned = store.take(name, Owner::random()).await.unwrap().value.ownership().unwrap();
    for offset in 0..LETTERS {
        let digest = Fingerprint::of([offset.to_be_bytes().as_slice()]);
        let trouble = Trouble::new(digest, Reason::Rejected, "quotes the message", 3);
        assert!(matches!(
            store.bury(owned.clone(), offset, trouble, None, Events::default()).await.unwrap(),
            Applied::Applied(_)
        ));
    }
    let list = |role, wanted| {
        operator.list_dead_letters(role, DeadLetterFilter { wanted, ..DeadLetterFilter::default() }, Some(100))
    };
    let seen = list(Role::View, false).await.unwrap();
    assert_eq!(seen.dead_letters.len() as i64, LETTERS);
    assert!(seen.dead_letters.iter().all(|letter| letter.error.is_none()), "errors are content");
    let letters = list(Role::Operate, false).await.unwrap().dead_letters;
    assert!(letters.iter().all(|letter| letter.error.as_deref() == Some("quotes the message")));
    let by_filter = |dry_run| OrderDeadLetters {
        filter: Some(DeadLetterFilter { consumer: Some("inventory".to_owned()), ..DeadLetterFilter::default() }),
        reason: "a test".to_owned(),
        dry_run,
        ..OrderDeadLetters::default()
    };
    let planned = operator.order_dead_letters(&who(), Order::Replay, by_filter(true)).await.unwrap();
    assert_eq!((planned.matched as i64, planned.done, planned.next), (LETTERS, 0, None));
    assert!(list(Role::View, true).await.unwrap().dead_letters.is_empty(), "a dry run changes nothing");
    let replayed = operator.order_dead_letters(&who(), Order::Replay, by_filter(false)).await.unwrap();
    assert_eq!(replayed.done as i64, LETTERS);
    assert_eq!(list(Role::View, true).await.unwrap().dead_letters.len() as i64, LETTERS);
    let discard = OrderDeadLetters {
        ids: letters.iter().take(3).map(|letter| letter.id.clone()).collect(),
        reason: "a test".to_owned(),
        ..OrderDeadLetters::default()
    };
    for done in [3, 0] {
        let discarded = operator.order_dead_letters(&who(), Order::Discard, discard.clone()).await.unwrap();
        assert_eq!((discarded.matched, discarded.done), (3, done));
    }
    let everything = OrderDeadLetters {
        filter: Some(DeadLetterFilter::default()),
        reason: "a test".to_owned(),
        ..OrderDeadLetters::default()
    };
    let refused = operator.order_dead_letters(&who(), Order::Discard, everything).await;
    assert!(matches!(refused, Err(Error::Invalid { field: "filter", .. })), "{refused:?}");
    assert!(operator.list_outbox(Role::View, ListStuck::default()).await.unwrap().stuck.is_empty());
}

macro_rules! on_every_database {
    ($($test:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                let directory = tempfile::tempdir().unwrap();
                super::$test(super::setup::sqlite(directory.path()).await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::setup::postgres().await).await;
            })+
        }
    };
}

on_every_database!(
    places_are_listed_and_moved_in_the_epoch_that_was_seen,
    dead_letters_are_ordered_by_filter_and_by_id,
);
