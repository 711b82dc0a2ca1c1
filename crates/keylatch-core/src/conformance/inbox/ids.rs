//! The ids of messages are records.

use super::*;

/// The same id at two offsets is one effect: the second is known, and the place passes it.
pub async fn known_message_is_passed<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let id = atomic("1");
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, vec![good(harness, "a", Some(&id))])).await, all_applied());
    let record = record_of(harness, &id).await;
    let parts = vec![good(harness, "b", None), never::<H>(Some(&again(&id))), good(harness, "c", Some(&atomic("2")))];
    let known = BatchEnd::Applied { known: vec![1] };
    assert_eq!(apply(&store, batch::<H>(&ownership, 1, parts)).await, known);
    assert_eq!(effects(harness).await, ["a", "b", "c"]);
    assert_eq!(next_of(&store, &ownership).await, Some(4));
    assert_eq!(record_of(harness, &id).await, record, "the record stays as it was");
    let (_, elsewhere) = begin(harness, 1).await;
    let duplicate = batch::<H>(&elsewhere, 0, vec![never::<H>(Some(&again(&id)))]);
    assert_eq!(apply(&store, duplicate).await, BatchEnd::Applied { known: vec![0] }, "also in another partition");
}

/// The same twice in a batch.
pub async fn message_twice_in_a_batch_has_one_effect<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let id = atomic("1");
    let parts = vec![good(harness, "a", Some(&id)), good(harness, "b", None), never::<H>(Some(&again(&id)))];
    let known = BatchEnd::Applied { known: vec![2] };
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, parts)).await, known);
    assert_eq!(effects(harness).await, ["a", "b"]);
    assert_eq!(next_of(&store, &ownership).await, Some(3));
}

/// An id that belongs to another message holds the batch there.
pub async fn id_of_another_message_is_held<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let id = atomic("1");
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, vec![good(harness, "a", Some(&id))])).await, all_applied());
    let parts = vec![good(harness, "b", None), never::<H>(Some(&reused(&id)))];
    let record = record_of(harness, &id).await.expect("there is a record");
    let held = held_at(1, record, Subject::new(harness).now().await);
    assert_eq!(apply(&store, batch::<H>(&ownership, 1, parts)).await, held);
    assert_eq!(effects(harness).await, ["a"]);
    assert_eq!(next_of(&store, &ownership).await, Some(1));
}

/// The same within a batch: the second waits until the first is committed.
pub async fn id_of_another_message_in_the_batch_is_held<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let id = atomic("1");
    let parts = vec![good(harness, "a", Some(&id)), never::<H>(Some(&reused(&id)))];
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, parts)).await, BatchEnd::Held { at: 1, record: None });
    assert!(effects(harness).await.is_empty());
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, vec![good(harness, "a", Some(&id))])).await, all_applied());
    let alone = batch::<H>(&ownership, 1, vec![never::<H>(Some(&reused(&id)))]);
    assert!(matches!(apply(&store, alone).await, BatchEnd::Held { at: 0, record: Some(_) }));
}

/// An operation that runs on a lease holds the batch.
pub async fn id_on_a_lease_is_held<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let subject = Subject::new(harness);
    let lease = subject.win(&fenced("1")).await;
    let id = Claim { guarantee: Guarantee::Atomic, ..again(&fenced("1")) };
    let parts = vec![good(harness, "a", None), never::<H>(Some(&id))];
    let running = held_at(1, lease.clone(), subject.now().await);
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, parts)).await, running);
    subject.assert_applied(subject.complete(lease.lease(), completion("done")).await).await;
    let parts = vec![good(harness, "a", None), never::<H>(Some(&id))];
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, parts)).await, BatchEnd::Applied { known: vec![1] });
}

/// When the lease has ended, the message takes over, with the next epoch.
pub async fn lapsed_lease_is_taken_over<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let subject = Subject::new(harness);
    let lease = subject.win(&fenced("1")).await;
    subject.advance(LEASE).await;
    let id = Claim { guarantee: Guarantee::Atomic, ..again(&fenced("1")) };
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, vec![good(harness, "a", Some(&id))])).await, all_applied());
    let record = record_of(harness, &id).await.expect("there is a record");
    assert_eq!((record.epoch, record.attempt, record.owner), (lease.epoch.next(), 2, id.owner));
    assert_eq!(subject.complete(lease.lease(), completion("late")).await, Applied::Lost);
}

/// An operation whose outcome is unknown holds the batch until it is resolved.
pub async fn unknown_outcome_is_held<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let subject = Subject::new(harness);
    let unknown = subject.win(&claim_of(Guarantee::AtMostOnce, "1")).await;
    subject.advance(LEASE + RETENTION + TOMBSTONE).await;
    let id = Claim { guarantee: Guarantee::Atomic, ..again(&fenced("1")) };
    let parts = vec![never::<H>(Some(&id))];
    let held = held_at(0, unknown, subject.now().await);
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, parts)).await, held);
}

/// What a request did is known to a message with the same id.
pub async fn operation_of_a_request_is_known<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let id = atomic("1");
    committed(attempt(&store, &id, writes(harness, "a", commit("done"))).await);
    let parts = vec![never::<H>(Some(&again(&id)))];
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, parts)).await, BatchEnd::Applied { known: vec![0] });
    assert_eq!(effects(harness).await, ["a"]);
}

/// What a message did is known to a request with the same id, with its outcome.
pub async fn operation_of_a_message_is_known<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let id = atomic("1");
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, vec![good(harness, "a", Some(&id))])).await, all_applied());
    let record = held(attempt(&store, &again(&id), writes(harness, "b", commit("again"))).await);
    assert_eq!(outcome(&record), Some(&Outcome::bytes("done")));
    let Claimed::Held(held) = Subject::new(harness).claim(&again(&id)).await else { panic!("it is held") };
    assert_eq!(held, record);
    assert_eq!(effects(harness).await, ["a"]);
}

/// An id is known after its answer has expired, until its tombstone ends. Then it is another operation's.
pub async fn id_is_known_until_its_tombstone_ends<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let subject = Subject::new(harness);
    let id = atomic("1");
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, vec![good(harness, "a", Some(&id))])).await, all_applied());
    subject.advance(RETENTION + TOMBSTONE - MS).await;
    subject.sweep(10).await;
    let parts = vec![never::<H>(Some(&again(&id)))];
    assert_eq!(apply(&store, batch::<H>(&ownership, 1, parts)).await, BatchEnd::Applied { known: vec![0] });
    subject.advance(MS).await;
    let next = reused(&id);
    assert_eq!(apply(&store, batch::<H>(&ownership, 2, vec![good(harness, "b", Some(&next))])).await, all_applied());
    let record = record_of(harness, &next).await.expect("there is a record");
    assert_eq!((record.epoch, record.attempt, record.fingerprint), (Epoch::FIRST.next(), 1, next.fingerprint));
    assert_eq!(effects(harness).await, ["a", "b"]);
}

/// A record has the outcome, and the times, with which its handler ended.
pub async fn record_is_what_the_handler_ended_with<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let ids = [atomic("1"), atomic("2")];
    let longer = Policy { retention: 2 * RETENTION, ..POLICY };
    let ending = Ending::Commit(Completion::new(Outcome::bytes("longer"), &longer));
    let parts = vec![good(harness, "a", Some(&ids[0])), message(harness, "b", Some(&ids[1]), ending)];
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, parts)).await, all_applied());
    let now = Subject::new(harness).now().await;
    let records = [record_of(harness, &ids[0]).await, record_of(harness, &ids[1]).await]
        .map(|record| record.expect("it is there"));
    assert_eq!(
        (outcome(&records[0]), records[0].free_at),
        (Some(&Outcome::bytes("done")), Some(now + RETENTION + TOMBSTONE))
    );
    let expected = (Some(&Outcome::bytes("longer")), Some(now + 2 * RETENTION + TOMBSTONE));
    assert_eq!((outcome(&records[1]), records[1].free_at), expected);
    for (record, id) in records.iter().zip(&ids) {
        assert_eq!((record.created_at, record.attempt, record.fingerprint), (now, 1, id.fingerprint));
        assert_eq!((&record.scope, &record.key, record.guarantee), (id.scope(), id.key(), Guarantee::Atomic));
    }
}

/// A message without an id has the place alone.
pub async fn message_without_an_id_has_no_record<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, vec![good(harness, "a", None)])).await, all_applied());
    assert!(Subject::new(harness).list_all().await.is_empty());
}

/// A handler of many messages gets the positions of those that are to be applied.
pub async fn handler_of_many_gets_those_to_apply<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let ids: Vec<_> = (0..4).map(|n| atomic(&n.to_string())).collect();
    let first = batch::<H>(&ownership, 0, vec![good(harness, "first", Some(&ids[1]))]);
    assert_eq!(apply(&store, first).await, all_applied());
    let table = harness.table();
    let many = Part::<DatabaseOf<H>> {
        // The second is known from before, and the last from the batch.
        ids: vec![Some(again(&ids[0])), Some(again(&ids[1])), None, Some(again(&ids[3])), Some(again(&ids[0]))],
        start: Box::new(move |mut tx, positions| {
            Box::pin(async move {
                let effect = format!("{positions:?}");
                H::write(&mut tx, table, effect).await.expect("the effect is written");
                commit("done")
            })
        }),
    };
    let end = apply(&store, batch::<H>(&ownership, 1, vec![many])).await;
    assert_eq!(end, BatchEnd::Applied { known: vec![1, 4] });
    assert_eq!(effects(harness).await, ["[0, 2, 3]", "first"]);
    assert_eq!(next_of(&store, &ownership).await, Some(6));
    for id in [&ids[0], &ids[3]] {
        assert!(record_of(harness, id).await.is_some());
    }
}

/// A part whose messages are all known has nothing to do, but the place passes it.
pub async fn part_of_known_messages_is_not_started<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let ids = [atomic("1"), atomic("2")];
    let parts = ids.iter().map(|id| good(harness, id.key().as_str(), Some(id))).collect();
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, parts)).await, all_applied());
    let known = Part::<DatabaseOf<H>> { ids: ids.iter().map(|id| Some(again(id))).collect(), ..never::<H>(None) };
    let end = apply(&store, batch::<H>(&ownership, 2, vec![known])).await;
    assert_eq!(end, BatchEnd::Applied { known: vec![0, 1] });
    assert_eq!(next_of(&store, &ownership).await, Some(4));
}
