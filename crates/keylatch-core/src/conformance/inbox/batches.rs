//! Batches: what is committed, and when nothing starts.

use super::*;

/// The writes of all messages, their records and the place are committed together.
pub async fn batch_commits_effects_records_and_place<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let ids = [atomic("1"), atomic("2")];
    let parts = vec![good(harness, "a", Some(&ids[0])), good(harness, "b", None), good(harness, "c", Some(&ids[1]))];
    harness.advance(MS).await;
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, parts)).await, all_applied());
    assert_eq!(effects(harness).await, ["a", "b", "c"]);
    let place = read(&harness.connect_transactional().await, &ownership.place).await;
    assert_eq!((place.next, place.last), (Some(3), step(0, 3).last));
    assert_eq!((place.epoch, place.owner), (ownership.epoch, Some(ownership.owner)));
    for id in ids {
        let record = record_of(harness, &id).await.expect("there is a record");
        assert_eq!((record.owner, outcome(&record)), (id.owner, Some(&Outcome::bytes("done"))));
    }
}

/// What the handlers of a batch publish is written with it, in their order, and never without it.
pub async fn batch_commits_its_events<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let publishes = |value: &'static str, ending: Ending| {
        handled::<H>(move |mut tx| {
            tx.events().publish(Event::new("t").with_value(value)).expect("it is a valid event");
            Box::pin(ready(ending))
        })
    };
    let failed = vec![publishes("a", commit("done")), publishes("b", Ending::RollBack)];
    assert!(matches!(apply(&store, batch::<H>(&ownership, 0, failed)).await, BatchEnd::Failed { .. }));
    assert!(published(&store).await.is_empty());
    let good = vec![publishes("a", commit("done")), publishes("b", commit("done"))];
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, good)).await, all_applied());
    assert_eq!(published(&harness.connect_transactional().await).await, ["a", "b"]);
}

/// A batch that was committed cannot be applied again, and the place tells why.
pub async fn batch_sent_again_is_lost<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, vec![good(harness, "a", None)])).await, all_applied());
    let place = read(&store, &ownership.place).await;
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, vec![never::<H>(None)])).await, BatchEnd::Lost(Some(place)));
    let taken = store.take(ownership.place.clone(), ownership.owner).await.expect("the store takes").value;
    assert_eq!((taken.epoch, taken.next), (ownership.epoch, Some(1)), "to take it again tells the same");
    assert_eq!(effects(harness).await, ["a"]);
}

/// A batch can have a step alone.
pub async fn batch_without_messages_moves_the_place<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let gap = Batch { step: Some(Step { from: Some(0), to: 9, last: None }), ..batch::<H>(&ownership, 0, Vec::new()) };
    assert_eq!(apply(&store, gap).await, all_applied());
    assert_eq!(next_of(&store, &ownership).await, Some(9));
}

/// Too many messages, neither step nor dead letter, another place's dead letter.
pub async fn batch_that_is_no_batch_is_refused<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let many = (0..=BATCH_MESSAGES_MAX).map(|_| never::<H>(None)).collect();
    let letter = Some(DeadLetterId { place: place_of(1), offset: 0, digest: digest("m") });
    let batches = [
        batch::<H>(&ownership, 0, many),
        Batch { step: None, ..batch::<H>(&ownership, 0, vec![never::<H>(None)]) },
        Batch { letter, ..batch::<H>(&ownership, 0, vec![never::<H>(None)]) },
    ];
    for batch in batches {
        assert_eq!(store.apply(batch).await.expect_err("it is no batch").kind(), ErrorKind::Refused);
    }
    assert_eq!(next_of(&store, &ownership).await, Some(0));
}

/// Nothing starts without a place, or with the place of another owner.
pub async fn nobody_applies_without_the_place<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let other = Ownership { owner: Owner::random(), ..ownership.clone() };
    let place = read(&store, &ownership.place).await;
    let id = atomic("1");
    let lost = apply(&store, batch::<H>(&other, 0, vec![never::<H>(Some(&id))])).await;
    assert_eq!(lost, BatchEnd::Lost(Some(place)));
    let nobody = Ownership { place: place_of(9), ..ownership };
    assert_eq!(apply(&store, batch::<H>(&nobody, 0, vec![never::<H>(None)])).await, BatchEnd::Lost(None));
    assert_eq!(record_of(harness, &id).await, None);
}

/// An owner that has lost its place starts nothing.
pub async fn stale_owner_starts_nothing<H: InboxHarness>(harness: &H) {
    let (store, stale) = begin(harness, 0).await;
    let (place, current) = take(&harness.connect_transactional().await, &place_of(0)).await;
    let late = batch::<H>(&stale, 0, vec![never::<H>(None)]);
    assert_eq!(apply(&store, late).await, BatchEnd::Lost(Some(place)));
    assert_eq!(apply(&store, batch::<H>(&current, 0, vec![good(harness, "a", None)])).await, all_applied());
    assert_eq!(effects(harness).await, ["a"]);
}

/// Nothing starts anywhere but at the next offset.
pub async fn nothing_starts_at_another_offset<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let _ = store.advance(ownership.clone(), step(0, 5)).await.expect("the store moves the place");
    let place = read(&store, &ownership.place).await;
    for from in [4, 6] {
        let elsewhere = batch::<H>(&ownership, from, vec![never::<H>(None)]);
        assert_eq!(apply(&store, elsewhere).await, BatchEnd::Lost(Some(place.clone())));
    }
}

/// If a message fails, nothing of its batch is committed, and the messages after it do not start.
pub async fn failed_message_takes_everything_back<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let id = atomic("1");
    let parts = vec![
        good(harness, "a", Some(&id)),
        good(harness, "b", None),
        message(harness, "c", None, Ending::RollBack),
        never::<H>(None),
    ];
    let place = read(&store, &ownership.place).await;
    let failed = BatchEnd::Failed { at: Some(2), why: Why::Ended };
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, parts)).await, failed);
    assert!(effects(harness).await.is_empty());
    assert_eq!(record_of(harness, &id).await, None);
    assert_eq!(read(&store, &ownership.place).await, place);
}

/// After a failure, those before it are one batch, and the failed one goes by itself.
pub async fn those_before_a_failed_message_commit<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let before = || vec![good(harness, "a", Some(&atomic("1"))), good(harness, "b", Some(&atomic("2")))];
    let mut parts = before();
    parts.push(message(harness, "c", Some(&atomic("3")), Ending::RollBack));
    let failed = BatchEnd::Failed { at: Some(2), why: Why::Ended };
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, parts)).await, failed);
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, before())).await, all_applied());
    let alone = || batch::<H>(&ownership, 2, vec![good(harness, "c", Some(&atomic("3")))]);
    assert_eq!(apply(&store, alone()).await, all_applied());
    assert_eq!(effects(harness).await, ["a", "b", "c"]);
    assert_eq!(next_of(&store, &ownership).await, Some(3));
}

/// A refusal that keeps its answer and no writes is a failure of its message.
pub async fn refusal_fails_its_message<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let id = atomic("1");
    let refused = message(harness, "b", Some(&id), Ending::RecordOnly(completion("no")));
    let parts = vec![good(harness, "a", None), refused];
    assert_eq!(
        apply(&store, batch::<H>(&ownership, 0, parts)).await,
        BatchEnd::Failed { at: Some(1), why: Why::Ended }
    );
    assert!(effects(harness).await.is_empty());
    assert_eq!(record_of(harness, &id).await, None);
}

/// A transaction that a handler does not return commits nothing, and is that handler's failure.
pub async fn leaked_transaction_fails_its_message<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let leaks = handled::<H>(|tx| {
        Box::pin(async move {
            mem::forget(tx);
            commit("done")
        })
    });
    let parts = vec![good(harness, "a", None), leaks, never::<H>(None)];
    let failed = BatchEnd::Failed { at: Some(1), why: Why::Misused(Misuse::NotReturned) };
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, parts)).await, failed);
    assert!(effects(harness).await.is_empty());
    // If the handler has a connection, it has leaked, and with it a lock on the place, until the database notices.
    assert_eq!(next_of(&store, &ownership).await, Some(0));
}

/// Whether or not a database continues after a failed statement, all effects of a batch are committed, or none.
pub async fn failed_statement_is_all_or_nothing<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let table = harness.table();
    let fails = handled::<H>(move |mut tx| {
        Box::pin(async move {
            H::write(&mut tx, table, "b".to_owned()).await.expect("the effect is written");
            H::fail(&mut tx).await;
            commit("done")
        })
    });
    let parts = vec![good(harness, "a", None), fails];
    let end = apply(&store, batch::<H>(&ownership, 0, parts)).await;
    let place = next_of(&store, &ownership).await;
    match end {
        BatchEnd::Applied { .. } => assert_eq!((effects(harness).await.join(""), place), ("ab".to_owned(), Some(2))),
        BatchEnd::Failed { why: Why::Misused(_), .. } => {
            assert_eq!((effects(harness).await.join(""), place), (String::new(), Some(0)));
        }
        other => panic!("{other:?}"),
    }
}

/// A panic of a handler reaches the caller, commits nothing, and harms nobody else.
pub async fn panic_commits_nothing<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let (_, other) = begin(harness, 1).await;
    let panics = handled::<H>(|_| Box::pin(async { panic!("of the handler") }));
    let parts = vec![good(harness, "a", None), panics];
    let (panicked, end) = tokio::join!(
        AssertUnwindSafe(apply(&store, batch::<H>(&ownership, 0, parts))).catch_unwind(),
        apply(&store, batch::<H>(&other, 0, vec![good(harness, "b", None)])),
    );
    let panic = panicked.expect_err("the panic reaches its caller");
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"of the handler"));
    assert_eq!(end, all_applied());
    assert_eq!(effects(harness).await, ["b"]);
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, vec![good(harness, "c", None)])).await, all_applied());
}
