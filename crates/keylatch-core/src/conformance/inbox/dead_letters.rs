//! Dead letters: messages that were given up.

use super::*;

/// All dead letters of a request, page by page. A cursor goes through a text on its way, as an operator's does.
async fn dead_letters(store: &impl Inbox, request: &DeadLettersRequest) -> Vec<DeadLetter> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = DeadLettersRequest { after, ..request.clone() };
        let page = store.dead_letters(page).await.expect("the store lists").value;
        assert!(page.items.len() <= request.limit, "a page keeps to its limit");
        found.extend(page.items);
        match page.next {
            None => return found,
            Some(next) => after = Some(next.to_string().parse::<Cursor>().expect("a cursor can be read")),
        }
    }
}

async fn all_letters(store: &impl Inbox) -> Vec<DeadLetter> {
    dead_letters(store, &DeadLettersRequest { limit: 100, ..DeadLettersRequest::default() }).await
}

/// A message that is given up is a dead letter, and the place has passed it, in one commit.
pub async fn buried_message_is_passed<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    store.begin_try(ownership.clone(), 0).await.expect("the store counts");
    let buried =
        store.bury(ownership.clone(), 0, trouble("m"), Some(step(0, 1)), none()).await.expect("the store buries");
    let place = read(&store, &ownership.place).await;
    assert_eq!(buried, Applied::Applied(place.changed_at));
    assert_eq!((place.next, place.last, place.tried), (Some(1), step(0, 1).last, None));
    let id = DeadLetterId { place: place_of(0), offset: 0, digest: digest("m") };
    let letter = DeadLetter { id, trouble: trouble("m"), wanted: false, buried_at: place.changed_at };
    assert_eq!(all_letters(&harness.connect_transactional().await).await, [letter]);
    assert_eq!(apply(&store, batch::<H>(&ownership, 1, vec![good(harness, "a", None)])).await, all_applied());
}

/// A consumer that finishes out of order buries a message above the place, which stays.
pub async fn message_is_buried_above_the_place<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let place = read(&store, &ownership.place).await;
    let buried = store.bury(ownership.clone(), 7, trouble("m"), None, none()).await.expect("the store buries");
    assert!(matches!(buried, Applied::Applied(_)));
    assert_eq!(read(&store, &ownership.place).await, place);
    let above = DeadLettersRequest {
        place: Some(place_of(0)),
        offset_min: Some(7),
        limit: 10,
        ..DeadLettersRequest::default()
    };
    assert_eq!(dead_letters(&store, &above).await.len(), 1);
}

/// A burial that is sent again after a lost reply finds its dead letter. The same offset of another log has its own.
pub async fn burial_sent_again_is_one_letter<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    for _ in 0..2 {
        let buried =
            store.bury(ownership.clone(), 0, trouble("m"), Some(step(0, 1)), none()).await.expect("the store buries");
        assert!(matches!(buried, Applied::Applied(_)));
        harness.advance(MS).await;
    }
    assert_eq!(all_letters(&store).await.len(), 1);
    assert_eq!(next_of(&store, &ownership).await, Some(1));
    let _ = store.bury(ownership, 0, trouble("of another log"), None, none()).await.expect("the store buries");
    assert_eq!(all_letters(&store).await.len(), 2);
}

/// The events of a burial are written with its dead letter: once, however often it is sent, and never without it.
pub async fn events_are_written_with_the_letter<H: InboxHarness>(harness: &H) {
    let (store, stale) = begin(harness, 0).await;
    let (_, ownership) = take(&store, &place_of(0)).await;
    let events = |value: &str| {
        let mut events = Events::default();
        events.publish(Event::new("orders.dead").with_value(value.to_owned())).expect("it is a valid event");
        events
    };
    let lost = store.bury(stale, 0, trouble("m"), Some(step(0, 1)), events("lost")).await.expect("the store answers");
    assert_eq!(lost, Applied::Lost);
    for _ in 0..2 {
        let buried = store.bury(ownership.clone(), 0, trouble("m"), Some(step(0, 1)), events("0")).await;
        assert!(matches!(buried, Ok(Applied::Applied(_))));
    }
    let above = store.bury(ownership, 7, trouble("m"), None, events("7")).await.expect("the store buries");
    assert!(matches!(above, Applied::Applied(_)));
    assert_eq!(published(&harness.connect_transactional().await).await, ["0", "7"]);
}

/// Nothing is buried by an owner that has lost its place, or from another offset.
pub async fn stale_owner_buries_nothing<H: InboxHarness>(harness: &H) {
    let (store, stale) = begin(harness, 0).await;
    let (_, current) = take(&store, &place_of(0)).await;
    for (ownership, step) in [(&stale, Some(step(0, 1))), (&stale, None), (&current, Some(step(1, 2)))] {
        let lost = store.bury(ownership.clone(), 0, trouble("m"), step, none()).await.expect("the store answers");
        assert_eq!(lost, Applied::Lost);
    }
    let back =
        store.bury(current.clone(), 0, trouble("m"), Some(Step { from: Some(1), to: 0, last: None }), none()).await;
    assert_eq!(back.expect_err("a place moves only forward").kind(), ErrorKind::Refused);
    assert!(all_letters(&store).await.is_empty());
    assert_eq!(next_of(&store, &current).await, Some(0));
}

/// Everything that is known of a message comes back, and what is not known stays unknown.
pub async fn letter_keeps_what_it_was_given<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let record = RecordId::of(&Scope::new("caller").expect("valid"), &Key::new("key").expect("valid"));
    for (offset, reason) in (0..).zip(Reason::ALL) {
        let bare = Trouble::new(digest("m"), reason, "", u32::MAX);
        let full = Trouble::new(digest("m"), reason, "é'\"\\\n\0", 0)
            .with_trace("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
            .with_record(record)
            .with_key(Bytes::new())
            .with_message(Bytes::from((0..=255).collect::<Vec<u8>>()));
        for (offset, trouble) in [(2 * offset, &bare), (2 * offset + 1, &full)] {
            let _ =
                store.bury(ownership.clone(), offset, trouble.clone(), None, none()).await.expect("the store buries");
            let only = DeadLettersRequest {
                place: Some(place_of(0)),
                offset_min: Some(offset),
                limit: 10,
                ..DeadLettersRequest::default()
            };
            let found = dead_letters(&store, &only).await;
            assert_eq!(found.len(), 1);
            assert_eq!((&found[0].trouble, found[0].id.offset), (trouble, offset));
        }
    }
}

/// Consumer, topic, partition and offset of a dead letter.
type Named<'l> = (&'l str, &'l str, i32, i64);

/// Pages show each dead letter once, in order, and only those that were asked for.
pub async fn pages_show_every_letter_once<H: InboxHarness>(harness: &H) {
    let store = harness.transactional();
    let mut buried = Vec::new();
    for (consumer, topic, partition) in
        [("inventory", "orders", 0), ("inventory", "orders", 10), ("inventory", "b", 2), ("totals", "orders", 0)]
    {
        let (_, ownership) = take(&store, &PlaceName::new(consumer, topic, partition).expect("a valid place")).await;
        for offset in [0, 9, 10, 1 << 40] {
            let _ = store.bury(ownership.clone(), offset, trouble("m"), None, none()).await.expect("the store buries");
            buried.push((consumer, topic, partition, offset));
        }
    }
    buried.sort_unstable();
    let found = |request: DeadLettersRequest| {
        let store = store.clone();
        async move {
            let found = dead_letters(&store, &request).await;
            let name = |id: DeadLetterId| {
                (id.place.consumer().to_owned(), id.place.topic().to_owned(), id.place.partition(), id.offset)
            };
            found.into_iter().map(|letter| name(letter.id)).collect::<Vec<_>>()
        }
    };
    let expected = |wanted: fn(&Named<'_>) -> bool| {
        let of = |&(consumer, topic, partition, offset): &Named<'_>| {
            (consumer.to_owned(), topic.to_owned(), partition, offset)
        };
        buried.iter().filter(|letter| wanted(letter)).map(of).collect::<Vec<_>>()
    };
    for limit in [1, 3, 100, 2 * PAGE_RECORDS_MAX] {
        let all = DeadLettersRequest { limit, ..DeadLettersRequest::default() };
        assert_eq!(found(all.clone()).await, expected(|_| true), "in pages of {limit}");
        let of_consumer = DeadLettersRequest { consumer: Some("inventory".to_owned()), ..all.clone() };
        assert_eq!(found(of_consumer).await, expected(|letter| letter.0 == "inventory"));
        let of_place = DeadLettersRequest { place: Some(place_of(10)), ..all.clone() };
        assert_eq!(found(of_place).await, expected(|letter| letter.2 == 10));
        let above = DeadLettersRequest { place: Some(place_of(10)), offset_min: Some(10), ..all };
        assert_eq!(found(above).await, expected(|letter| letter.2 == 10 && letter.3 >= 10));
    }
    assert!(found(DeadLettersRequest { limit: 1, wanted: true, ..DeadLettersRequest::default() }).await.is_empty());
}

/// An operator finds dead letters by reason, error, key, id and time, alone and together.
pub async fn letters_are_found_by_what_is_known_of_them<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let record = |key| RecordId::of(&Scope::new("caller").expect("valid"), &Key::new(key).expect("valid"));
    let errors = ["", "no stock: é'%_\\", "no stock\0", "timed out"];
    for (offset, error) in (0..).zip(errors) {
        for (nth, reason) in (0..).zip(Reason::ALL) {
            let offset = 10 * offset + nth;
            let trouble = Trouble::new(digest("m"), reason, error, 1);
            let trouble = match nth {
                0 => trouble,
                1 => trouble.with_key(Bytes::new()),
                2 => trouble.with_record(record("1")),
                _ => trouble.with_key(Bytes::from_static(b"\xff\0")).with_record(record("2")),
            };
            let _ = store.bury(ownership.clone(), offset, trouble, None, none()).await.expect("the store buries");
            harness.advance(MS).await;
        }
    }
    let all = all_letters(&store).await;
    let middle = Some(all[all.len() / 2].buried_at);
    let any = DeadLettersRequest { limit: 3, ..DeadLettersRequest::default() };
    let of_error = |text: &str| DeadLettersRequest { error: Some(text.to_owned()), ..any.clone() };
    let requests = [
        (DeadLettersRequest { reason: Some(Reason::Exhausted), ..any.clone() }, 4),
        (of_error("stock"), 10),
        (of_error("é'%_\\"), 5),
        (of_error("stock\0"), 5),
        (of_error("STOCK"), 0),
        (of_error(""), 20),
        (DeadLettersRequest { key: Some(Bytes::new()), ..any.clone() }, 4),
        (DeadLettersRequest { key: Some(Bytes::from_static(b"\xff\0")), ..any.clone() }, 8),
        (DeadLettersRequest { record: Some(record("1")), ..any.clone() }, 4),
        (DeadLettersRequest { record: Some(record("2")), reason: Some(Reason::Reused), ..of_error("timed") }, 1),
        (DeadLettersRequest { from: middle, ..any.clone() }, 10),
        (DeadLettersRequest { until: middle, ..any.clone() }, 10),
        (DeadLettersRequest { from: middle, until: middle, ..any.clone() }, 0),
    ];
    for (request, count) in requests {
        let found = dead_letters(&store, &request).await;
        let expected: Vec<_> = all.iter().filter(|letter| request.asks_for(letter)).cloned().collect();
        assert_eq!(found, expected, "{request:?}");
        assert_eq!(found.len(), count, "{request:?}");
    }
}

/// Dead letters go when they are old, unless somebody wants them; those of another consumer stay.
pub async fn old_letters_that_nobody_wants_are_swept<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let (_, other) = take(&store, &PlaceName::new("totals", "orders", 0).expect("a valid place")).await;
    let bury = async |ownership: &Ownership, offset| {
        let buried = store.bury(ownership.clone(), offset, trouble("m"), None, none()).await.expect("the store buries");
        assert!(matches!(buried, Applied::Applied(_)));
    };
    for offset in 0..5 {
        bury(&ownership, offset).await;
    }
    bury(&other, 0).await;
    let wanted = DeadLetterId { place: place_of(0), offset: 2, digest: digest("m") };
    assert!(store.order(wanted, Order::Replay).await.expect("the store orders"));
    harness.advance(2 * MS).await;
    let sweep =
        async |age, limit| store.sweep_dead_letters("inventory".to_owned(), age, limit).await.expect("it sweeps");
    for age in [Duration::from_secs(3_600), Duration::MAX] {
        assert_eq!(sweep(age, 100).await, 0, "none is so old");
    }
    assert_eq!((sweep(MS, 3).await, sweep(MS, 3).await, sweep(MS, 3).await), (3, 1, 0));
    let left: Vec<_> = all_letters(&store).await.into_iter().map(|letter| letter.id).collect();
    let left: Vec<_> = left.iter().map(|id| (id.place.consumer(), id.offset)).collect();
    assert_eq!(left, [("inventory", 2), ("totals", 0)]);
}

/// An operator orders a dead letter to be replayed, to be kept, or to go.
pub async fn letters_are_ordered_and_discarded<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    for offset in 0..3 {
        let _ = store.bury(ownership.clone(), offset, trouble("m"), None, none()).await.expect("the store buries");
    }
    let id = |offset| DeadLetterId { place: place_of(0), offset, digest: digest("m") };
    let wanted =
        DeadLettersRequest { place: Some(place_of(0)), wanted: true, limit: 10, ..DeadLettersRequest::default() };
    let order = async |offset, order| store.order(id(offset), order).await.expect("the store orders");
    assert!(order(1, Order::Replay).await && order(2, Order::Replay).await && order(2, Order::Keep).await);
    let found = dead_letters(&store, &wanted).await;
    assert_eq!(found.iter().map(|letter| letter.id.offset).collect::<Vec<_>>(), [1]);
    assert!(found[0].wanted);
    assert!(order(0, Order::Discard).await && !order(0, Order::Discard).await && !order(0, Order::Replay).await);
    assert!(!order(7, Order::Keep).await);
    assert_eq!(all_letters(&store).await.len(), 2);
    let other = DeadLetterId { digest: digest("another"), ..id(1) };
    assert!(!store.order(other, Order::Discard).await.expect("the store orders"), "it is another message");
}

/// The message of a dead letter is applied by the owner of the place; in the same commit the dead letter goes, and the
/// place stays.
pub async fn replay_removes_the_letter<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let _ = store.bury(ownership.clone(), 0, trouble("m"), Some(step(0, 1)), none()).await.expect("the store buries");
    let place = read(&store, &ownership.place).await;
    let id = atomic("1");
    let letter = Some(DeadLetterId { place: place_of(0), offset: 0, digest: digest("m") });
    let replay = |part| Batch { step: None, letter: letter.clone(), ..batch::<H>(&ownership, 0, vec![part]) };
    assert_eq!(apply(&store, replay(good(harness, "a", Some(&id)))).await, all_applied());
    assert!(all_letters(&store).await.is_empty());
    assert_eq!(read(&store, &ownership.place).await, place);
    assert_eq!(effects(harness).await, ["a"]);
    assert!(record_of(harness, &id).await.is_some());
    assert_eq!(apply(&store, replay(never::<H>(None))).await, BatchEnd::NoDeadLetter, "it is replayed once");
}

/// A replay that fails, is held, or is by an owner that has lost the place, leaves the dead letter.
pub async fn failed_replay_keeps_the_letter<H: InboxHarness>(harness: &H) {
    let (store, stale) = begin(harness, 0).await;
    let (_, ownership) = take(&store, &place_of(0)).await;
    let _ = store.bury(ownership.clone(), 0, trouble("m"), Some(step(0, 1)), none()).await.expect("the store buries");
    let id = atomic("1");
    committed(attempt(&store, &id, writes(harness, "a", commit("done"))).await);
    let letter = Some(DeadLetterId { place: place_of(0), offset: 0, digest: digest("m") });
    let replay = |ownership, part| Batch { step: None, letter: letter.clone(), ..batch::<H>(ownership, 0, vec![part]) };
    let failed = apply(&store, replay(&ownership, message(harness, "b", None, Ending::RollBack))).await;
    assert_eq!(failed, BatchEnd::Failed { at: Some(0), why: Why::Ended });
    let held = apply(&store, replay(&ownership, never::<H>(Some(&reused(&id))))).await;
    assert!(matches!(held, BatchEnd::Held { at: 0, record: Some(_) }));
    assert!(matches!(apply(&store, replay(&stale, never::<H>(None))).await, BatchEnd::Lost(Some(_))));
    assert_eq!(all_letters(&store).await.len(), 1);
    assert_eq!(effects(harness).await, ["a"]);
    // What is known needs no replay: the dead letter goes.
    let known = apply(&store, replay(&ownership, never::<H>(Some(&again(&id))))).await;
    assert_eq!(known, BatchEnd::Applied { known: vec![0] });
    assert!(all_letters(&store).await.is_empty());
}
