//! The records of a store, for the history checker.

use keylatch_core::store::{Inspect, PAGE_RECORDS_MAX, PageRequest};
use testing_history::{Event, What};

/// All records that `store` has now.
///
/// # Panics
///
/// If the store cannot be read, or has more than a million records.
pub async fn events(store: &impl Inspect) -> Vec<Event> {
    const PAGES_MAX: usize = 1_000;
    let mut events = Vec::new();
    let mut page = PageRequest { limit: PAGE_RECORDS_MAX, ..PageRequest::default() };
    for _ in 0..PAGES_MAX {
        let read = store.list(page.clone()).await.expect("the store can be read").value;
        events.extend(read.records.iter().map(|record| {
            let what = What::Record { epoch: record.epoch.as_u64() };
            Event::now(record.scope.caller(), record.key.as_str(), what)
        }));
        page.after = read.next;
        if page.after.is_none() {
            return events;
        }
    }
    panic!("more than {PAGES_MAX} pages of records");
}
