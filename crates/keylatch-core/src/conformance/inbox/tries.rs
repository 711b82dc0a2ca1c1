//! Tries of a message that may kill its process.

use super::*;

/// A try is counted when it begins, and everyone sees it.
pub async fn tries_are_counted_before_they_start<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    let elsewhere = harness.connect_transactional().await;
    for attempts in 1..=3 {
        let began = store.begin_try(ownership.clone(), 0).await.expect("the store counts");
        assert_eq!(began, Some(attempts));
        let tried = read(&elsewhere, &ownership.place).await.tried;
        assert_eq!(tried, Some(Tried { offset: 0, attempts }));
    }
    let failed = apply(&store, batch::<H>(&ownership, 0, vec![message(harness, "a", None, Ending::RollBack)])).await;
    assert_eq!(failed, BatchEnd::Failed { at: Some(0), why: Why::Ended });
    let began = store.begin_try(ownership, 0).await.expect("the store counts");
    assert_eq!(began, Some(4), "a failure takes back no try");
}

/// Another message starts at 1, and a message that was passed has no tries any more.
pub async fn tries_are_of_one_message<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    for (offset, attempts) in [(0, 1), (0, 2), (1, 1), (0, 1)] {
        let began = store.begin_try(ownership.clone(), offset).await.expect("the store counts");
        assert_eq!(began, Some(attempts));
    }
    assert_eq!(apply(&store, batch::<H>(&ownership, 0, vec![good(harness, "a", None)])).await, all_applied());
    assert_eq!(read(&store, &ownership.place).await.tried, None);
}

/// The tries of an owner that died are known to the next: so a message that kills its process is found.
pub async fn tries_outlive_their_owner<H: InboxHarness>(harness: &H) {
    let (store, ownership) = begin(harness, 0).await;
    store.begin_try(ownership, 0).await.expect("the store counts");
    let (place, next_owner) = take(&harness.connect_transactional().await, &place_of(0)).await;
    assert_eq!((place.after_crash, place.tried), (true, Some(Tried { offset: 0, attempts: 1 })));
    assert_eq!(store.begin_try(next_owner, 0).await.expect("the store counts"), Some(2));
}

/// Whoever has lost its place begins nothing.
pub async fn stale_owner_begins_no_try<H: InboxHarness>(harness: &H) {
    let (store, stale) = begin(harness, 0).await;
    let (place, _) = take(&store, &place_of(0)).await;
    assert_eq!(store.begin_try(stale.clone(), 0).await.expect("the store answers"), None);
    let nobody = Ownership { place: place_of(9), ..stale };
    assert_eq!(store.begin_try(nobody, 0).await.expect("the store answers"), None);
    assert_eq!(read(&store, &place_of(0)).await, place);
}
