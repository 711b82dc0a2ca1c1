//! Places, and their owners.

use super::*;

/// The first owner creates the place, which begins nowhere yet.
pub async fn first_take_creates_the_place<H: InboxHarness>(harness: &H) {
    let (store, owner) = (harness.transactional(), Owner::random());
    let taken = store.take(place_of(0), owner).await.expect("the store takes");
    let expected = Place {
        name: place_of(0),
        epoch: Epoch::FIRST,
        owner: Some(owner),
        next: None,
        last: None,
        after_crash: false,
        tried: None,
        changed_at: taken.now,
    };
    assert_eq!(taken.value, expected);
    assert_eq!(read(&harness.connect_transactional().await, &place_of(0)).await, expected);
}

/// To read a place does not create it.
pub async fn absent_place_reads_as_absent<H: InboxHarness>(harness: &H) {
    let store = harness.transactional();
    for _ in 0..2 {
        assert_eq!(store.place(place_of(0)).await.expect("the store reads").value, None);
    }
}

/// Each owner has a higher epoch, and knows whether the one before has given the place back.
pub async fn epochs_rise_with_every_take<H: InboxHarness>(harness: &H) {
    let (store, elsewhere) = (harness.transactional(), harness.connect_transactional().await);
    let (_, first_owner) = take(&store, &place_of(0)).await;
    let _ = store.advance(first_owner.clone(), first(7)).await.expect("the store moves the place");
    let (second, second_owner) = take(&elsewhere, &place_of(0)).await;
    assert_eq!((second.epoch, second.after_crash, second.next), (first_owner.epoch.next(), true, Some(7)));
    let given = elsewhere.give_back(second_owner).await.expect("the store gives back");
    assert!(matches!(given, Applied::Applied(_)));
    let (third, _) = take(&store, &place_of(0)).await;
    assert_eq!((third.epoch, third.after_crash, third.next), (second.epoch.next(), false, Some(7)));
}

/// An owner that takes its place again has what it has.
pub async fn take_sent_again_changes_nothing<H: InboxHarness>(harness: &H) {
    let store = harness.transactional();
    take(&store, &place_of(0)).await;
    let owner = Owner::random();
    let taken = store.take(place_of(0), owner).await.expect("the store takes").value;
    harness.advance(MS).await;
    assert_eq!(store.take(place_of(0), owner).await.expect("the store takes").value, taken);
    assert!(taken.after_crash);
}

/// Consumer, topic and partition tell places apart.
pub async fn places_are_apart<H: InboxHarness>(harness: &H) {
    let store = harness.transactional();
    let names =
        [("inventory", "orders", 0), ("inventory", "orders", 1), ("inventory", "order", 0), ("totals", "orders", 0)];
    for (at, (consumer, topic, partition)) in (0..).zip(names) {
        let name = PlaceName::new(consumer, topic, partition).expect("a valid place");
        let (place, ownership) = take(&store, &name).await;
        assert_eq!((place.epoch, place.next), (Epoch::FIRST, None));
        let _ = store.advance(ownership, first(at)).await.expect("the store moves the place");
    }
    for (at, (consumer, topic, partition)) in (0..).zip(names) {
        let name = PlaceName::new(consumer, topic, partition).expect("a valid place");
        assert_eq!(read(&store, &name).await.next, Some(at));
    }
}

/// Of many that take a place at once, each gets an epoch of its own, and the last has it.
pub async fn one_of_many_takers_is_last<H: InboxHarness>(harness: &H) {
    const TAKERS: u64 = 8;
    let stores = [harness.transactional(), harness.connect_transactional().await];
    let takers = (0..TAKERS).zip(stores.iter().cycle()).map(|(_, store)| {
        let store = store.clone();
        tokio::spawn(async move { take(&store, &place_of(0)).await.0 })
    });
    let mut taken: Vec<_> = join_all(takers).await.into_iter().map(|taken| taken.expect("nothing panics")).collect();
    taken.sort_by_key(|place| place.epoch);
    assert_eq!(taken.iter().map(|place| place.epoch.as_u64()).collect::<Vec<_>>(), (1..=TAKERS).collect::<Vec<_>>());
    assert_eq!(Some(&read(&stores[0], &place_of(0)).await), taken.last());
}

/// A place has no next offset until its first owner says where it begins, and it begins once.
pub async fn first_owner_says_where_it_begins<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    assert_eq!(next_of(&store, &ownership).await, Some(0));
    assert_eq!(store.advance(ownership.clone(), first(5)).await.expect("the store answers"), Applied::Lost);
    assert_eq!(next_of(&store, &ownership).await, Some(0));
    let (_, other) = take(&store, &place_of(1)).await;
    let unplaced = batch::<H>(&other, 0, vec![never::<H>(None)]);
    assert!(matches!(apply(&store, unplaced).await, BatchEnd::Lost(Some(_))), "it begins nowhere yet");
}

/// A place moves past offsets without a message, and remembers the last message.
pub async fn place_moves_without_messages<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    harness.advance(MS).await;
    let applied = store.advance(ownership.clone(), step(0, 5)).await.expect("the store moves the place");
    let place = read(&store, &ownership.place).await;
    assert_eq!(applied, Applied::Applied(place.changed_at));
    assert_eq!((place.next, place.last), (Some(5), step(0, 5).last));
    let gap = Step { from: Some(5), to: 9, last: None };
    let _ = store.advance(ownership.clone(), gap).await.expect("the store moves the place");
    let place = read(&store, &ownership.place).await;
    assert_eq!((place.next, place.last), (Some(9), step(0, 5).last), "the last message stays");
}

/// The next offset before a step is a condition.
pub async fn place_does_not_move_from_elsewhere<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    for from in [Some(1), None] {
        let elsewhere = Step { from, ..step(0, 5) };
        assert_eq!(store.advance(ownership.clone(), elsewhere).await.expect("the store answers"), Applied::Lost);
    }
    assert_eq!(next_of(&store, &ownership).await, Some(0));
}

/// A step back is refused.
pub async fn place_moves_only_forward<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let _ = store.advance(ownership.clone(), step(0, 5)).await.expect("the store moves the place");
    for strange in [Step { to: 4, ..step(5, 6) }, Step { to: 6, ..step(5, 7) }, Step { to: -1, ..first(0) }] {
        let refused = store.advance(ownership.clone(), strange).await.expect_err("it leads nowhere");
        assert_eq!(refused.kind(), ErrorKind::Refused);
        let batch = Batch { step: Some(strange), ..batch::<H>(&ownership, 5, Vec::new()) };
        assert_eq!(store.apply(batch).await.expect_err("it leads nowhere").kind(), ErrorKind::Refused);
    }
    assert_eq!(next_of(&store, &ownership).await, Some(5));
}

/// A step that is sent again after a lost reply finds that it is done.
pub async fn step_sent_again_changes_nothing<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let _ = store.advance(ownership.clone(), step(0, 5)).await.expect("the store moves the place");
    let place = read(&store, &ownership.place).await;
    harness.advance(MS).await;
    let sent_again = store.advance(ownership.clone(), step(0, 5)).await.expect("the store answers");
    assert!(matches!(sent_again, Applied::Applied(_)));
    assert_eq!(read(&store, &ownership.place).await, place);
}

/// Whoever has lost its place moves nothing and gives nothing back; nor does another owner with the right epoch.
pub async fn stale_owner_changes_nothing<H: InboxHarness>(harness: &H) {
    let (store, stale) = begin(harness, 0).await;
    let (place, current) = take(&store, &place_of(0)).await;
    let other = Ownership { owner: Owner::random(), ..current.clone() };
    let nobody = Ownership { place: place_of(9), ..current };
    for ownership in [stale, other, nobody] {
        assert_eq!(store.advance(ownership.clone(), step(0, 5)).await.expect("the store answers"), Applied::Lost);
        assert_eq!(store.give_back(ownership).await.expect("the store answers"), Applied::Lost);
    }
    assert_eq!(read(&store, &place_of(0)).await, place);
    assert_eq!(store.place(place_of(9)).await.expect("the store reads").value, None);
}

/// A place that was given back has no owner, and its owner before can do nothing with it.
pub async fn given_back_place_has_no_owner<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    for _ in 0..2 {
        let given = store.give_back(ownership.clone()).await.expect("the store gives back");
        assert!(matches!(given, Applied::Applied(_)), "sent again, it is done");
    }
    let place = read(&store, &ownership.place).await;
    assert_eq!((place.owner, place.epoch, place.next), (None, ownership.epoch, Some(0)));
    assert_eq!(store.advance(ownership.clone(), step(0, 5)).await.expect("the store answers"), Applied::Lost);
    let late = batch::<H>(&ownership, 0, vec![never::<H>(None)]);
    assert_eq!(apply(&store, late).await, BatchEnd::Lost(Some(place)));
}

/// An operator's move takes the place from its owner, and forgets what was of the old position.
pub async fn operator_moves_a_place_from_its_owner<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let _ = store.advance(ownership.clone(), step(0, 5)).await.expect("the store moves the place");
    store.begin_try(ownership.clone(), 5).await.expect("the store counts");
    for _ in 0..2 {
        let moved = store.move_to(place_of(0), Some(ownership.epoch), 3).await.expect("the store moves the place");
        assert!(matches!(moved, Applied::Applied(_)), "sent again, it is done");
    }
    let place = read(&store, &place_of(0)).await;
    assert_eq!((place.epoch, place.owner, place.next), (ownership.epoch.next(), None, Some(3)));
    assert_eq!((place.last, place.tried, place.after_crash), (None, None, false));
    let late = batch::<H>(&ownership, 5, vec![never::<H>(None)]);
    assert_eq!(apply(&store, late).await, BatchEnd::Lost(Some(place.clone())));
    assert_eq!(take(&store, &place_of(0)).await.0.epoch, place.epoch.next());
}

/// An operator moves the place that was seen, and no other.
pub async fn operator_moves_only_what_was_seen<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let place = read(&store, &place_of(0)).await;
    for seen in [None, Some(ownership.epoch.next())] {
        assert_eq!(store.move_to(place_of(0), seen, 3).await.expect("the store answers"), Applied::Lost);
    }
    let nowhere = store.move_to(place_of(0), Some(ownership.epoch), -1).await;
    assert_eq!(nowhere.expect_err("no offset is negative").kind(), ErrorKind::Refused);
    assert_eq!(read(&store, &place_of(0)).await, place);
    assert_eq!(store.move_to(place_of(1), Some(Epoch::FIRST), 3).await.expect("the store answers"), Applied::Lost);
}

/// An operator can say where a new consumer begins.
pub async fn operator_places_a_new_consumer<H: InboxHarness>(harness: &H) {
    let store = harness.transactional();
    let moved = store.move_to(place_of(0), None, 3).await.expect("the store moves the place");
    assert!(matches!(moved, Applied::Applied(_)));
    let (place, _) = take(&store, &place_of(0)).await;
    assert_eq!((place.epoch, place.next, place.after_crash), (Epoch::FIRST.next(), Some(3), false));
}

/// An operator removes a place as it was seen, and only that one. Its dead letters stay, and its owner has lost it.
pub async fn operator_removes_a_place_that_was_seen<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let (_, other) = begin(harness, 1).await;
    let _ = store.bury(ownership.clone(), 0, trouble("m"), None, none()).await.expect("the store buries");
    let name = &ownership.place;
    let remove = async |epoch| store.remove(name.clone(), epoch).await.expect("the store answers");
    assert_eq!(remove(ownership.epoch.next()).await, Applied::Lost);
    assert_eq!(next_of(&store, &ownership).await, Some(0));
    for _ in 0..2 {
        assert!(matches!(remove(ownership.epoch).await, Applied::Applied(_)), "sent again, it is done");
    }
    assert_eq!(store.place(name.clone()).await.expect("the store reads").value, None);
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, vec![never::<H>(None)])).await, BatchEnd::Lost(None));
    assert_eq!(next_of(&store, &other).await, Some(0));
    let letters = store.dead_letters(DeadLettersRequest { limit: 9, ..DeadLettersRequest::default() }).await;
    assert_eq!(letters.expect("the store lists").value.items.len(), 1);
    let (place, _) = take(&store, name).await;
    assert_eq!((place.epoch, place.next, place.after_crash), (Epoch::FIRST, None, false));
}
