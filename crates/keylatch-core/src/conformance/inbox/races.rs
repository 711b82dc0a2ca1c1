//! Many at once, and calls that are cut off.

use super::*;

/// Applies a batch, and tries again while an id is in another transaction. The batch is made anew each time.
async fn apply_in_the_end<S: Inbox>(store: &S, batch: impl Fn() -> Batch<S::Database>) -> BatchEnd {
    for _ in 0..TRIES_MAX {
        match apply(store, batch()).await {
            BatchEnd::Held { record: None, .. } => tokio::time::sleep(MS).await,
            end => return end,
        }
    }
    panic!("an id is held for good");
}

/// Batches of different places do not hold each other up for good.
pub async fn batches_of_different_places_all_commit<H: InboxHarness>(harness: &H) {
    const PLACES: i32 = 16;
    let mut batches = Vec::new();
    for partition in 0..PLACES {
        let (store, ownership) = begin(harness, partition).await;
        let id = atomic(&partition.to_string());
        let parts = vec![good(harness, &format!("{partition:02}"), Some(&id))];
        let batch = batch::<H>(&ownership, 0, parts);
        batches.push(tokio::spawn(async move { apply(&store, batch).await }));
    }
    for end in join_all(batches).await {
        assert_eq!(end.expect("nothing panics"), all_applied());
    }
    let expected: Vec<_> = (0..PLACES).map(|n| format!("{n:02}")).collect();
    assert_eq!(effects(harness).await, expected);
}

/// The same ids in two partitions at once, in different orders: each has one effect, and nobody waits for good.
pub async fn two_batches_race_for_one_id<H: InboxHarness>(harness: &H) {
    const ROUNDS: i64 = 10;
    let stores = [harness.transactional(), harness.connect_transactional().await];
    let (_, first) = begin(harness, 0).await;
    let (_, second) = begin(harness, 1).await;
    for round in 0..ROUNDS {
        let ids: Vec<_> = (0..3).map(|n| atomic(&format!("{round}-{n}"))).collect();
        let make = |ownership: &Ownership, ids: Vec<Claim>| {
            let parts = ids.iter().map(|id| good(harness, id.key().as_str(), Some(&again(id)))).collect();
            batch::<H>(ownership, round * 3, parts)
        };
        let backwards: Vec<_> = ids.iter().rev().cloned().collect();
        let (one, other) = tokio::join!(
            apply_in_the_end(&stores[0], || make(&first, ids.clone())),
            apply_in_the_end(&stores[1], || make(&second, backwards.clone())),
        );
        let (BatchEnd::Applied { known: one }, BatchEnd::Applied { known: other }) = (&one, &other) else {
            panic!("{one:?} and {other:?}")
        };
        assert_eq!(one.len() + other.len(), ids.len(), "each is known to one of them");
    }
    let written = effects(harness).await;
    let mut once = written.clone();
    once.dedup();
    assert_eq!((written.len(), written == once), (3 * usize::try_from(ROUNDS).expect("few"), true));
}

/// An operation that is sent by a request and in a message at once has one effect and one outcome.
pub async fn message_and_request_race_for_one_effect<H: InboxHarness>(harness: &H) {
    const ROUNDS: i64 = 20;
    let (store, ownership) = begin(harness, 0).await;
    for round in 0..ROUNDS {
        let id = atomic(&format!("{round:02}"));
        let make = || batch::<H>(&ownership, round, vec![good(harness, &format!("{round:02}"), Some(&id))]);
        let request = again(&id);
        let (end, attempted) = tokio::join!(
            apply_in_the_end(&store, make),
            attempt(&store, &request, writes(harness, &format!("{round:02}"), commit("done"))),
        );
        let record = match (end, attempted) {
            (BatchEnd::Applied { known }, Transacted::Committed(record)) => {
                assert_eq!(known, [0]);
                record
            }
            (BatchEnd::Applied { known }, Transacted::Held(Some(record))) => {
                assert!(known.is_empty());
                record
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(outcome(&record), Some(&Outcome::bytes("done")));
    }
    let expected: Vec<_> = (0..ROUNDS).map(|n| format!("{n:02}")).collect();
    assert_eq!(effects(harness).await, expected);
}

/// If a place is taken while a batch is applied, the batch is committed before, or never.
pub async fn batch_and_takeover_race_for_one_place<H: InboxHarness>(harness: &H) {
    const ROUNDS: i64 = 30;
    let stores = [harness.transactional(), harness.connect_transactional().await];
    let (_, mut ownership) = begin(harness, 0).await;
    let mut next = 0;
    for round in 0..ROUNDS {
        let parts = (0..4).map(|n| good(harness, &format!("{round:02}-{n}"), None)).collect();
        let batch = batch::<H>(&ownership, next, parts);
        let owner = stores[0].clone();
        let applying = tokio::spawn(async move { apply(&owner, batch).await });
        for _ in 0..round % 4 {
            tokio::task::yield_now().await;
        }
        let (taken, new_owner) = take(&stores[1], &place_of(0)).await;
        match applying.await.expect("nothing panics") {
            BatchEnd::Applied { .. } => {
                assert_eq!(taken.next, Some(next + 4), "the new owner knows of what was committed");
            }
            BatchEnd::Lost(_) => assert_eq!(taken.next, Some(next)),
            other => panic!("{other:?}"),
        }
        next = taken.next.expect("it has begun");
        let written = effects(harness).await;
        assert_eq!(i64::try_from(written.len()).expect("few"), next, "the place counts the effects: {written:?}");
        ownership = new_owner;
    }
}

/// A batch that is dropped at any point is committed as a whole or not at all, and to take the place again tells which.
pub async fn batch_can_be_cut_off<H: InboxHarness>(harness: &H) {
    const POLLS_MAX: usize = 1_000;
    let (store, ownership) = begin(harness, 0).await;
    let mut whole = 0;
    let mut next = 0;
    for polls in 0..POLLS_MAX {
        let ids = [atomic(&format!("{polls}-a")), atomic(&format!("{polls}-b"))];
        let parts = ids.iter().map(|id| good(harness, id.key().as_str(), Some(id))).collect();
        let ended = cut_off(store.apply(batch::<H>(&ownership, next, parts)), polls).await;
        let place = store.take(ownership.place.clone(), ownership.owner).await.expect("the store takes").value;
        assert_eq!(place.epoch, ownership.epoch);
        let committed = place.next == Some(next + 2);
        let written =
            effects(harness).await.into_iter().filter(|effect| effect.starts_with(&format!("{polls}-"))).count();
        let mut records = 0;
        for id in &ids {
            records += usize::from(record_of(harness, id).await.is_some());
        }
        let all = 2 * usize::from(committed);
        assert_eq!((written, records), (all, all), "effects, records and place are one: {place:?}");
        next = place.next.expect("it has begun");
        if ended {
            assert!(committed);
            whole += 1;
            // The number of polls varies.
            if whole == 3 {
                return;
            }
        }
    }
    panic!("a batch is not over after {POLLS_MAX} polls");
}

/// What was acknowledged survives a crash, if the store says that it does.
pub async fn committed_batch_survives<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let id = atomic("1");
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, vec![good(harness, "a", Some(&id))])).await, all_applied());
    let place = read(&store, &ownership.place).await;
    let restarted = harness.restart().await;
    if restarted.durability() >= Durability::Replica {
        assert!(restarted.read(id.id()).await.expect("the store reads").value.is_some());
        assert_eq!(read(&harness.connect_transactional().await, &ownership.place).await, place);
        assert_eq!(effects(harness).await, ["a"]);
    }
}
