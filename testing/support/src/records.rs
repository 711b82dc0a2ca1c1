//! The records of a store, for the history checker.

use std::time::Duration;

use keylatch_core::store::{Inspect, PAGE_RECORDS_MAX, Page, PageRequest};
use testing_history::{Event, What};

use super::eventually;

/// How long a store may be unavailable after what a test has done to it.
const BACK_MAX: Duration = Duration::from_secs(60);

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
        let read = read(store, &page).await;
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

async fn read(store: &impl Inspect, page: &PageRequest) -> Page {
    let mut read = Page::default();
    eventually(BACK_MAX, "records", async || match store.list(page.clone()).await {
        Ok(at) => {
            read = at.value;
            true
        }
        Err(error) => {
            assert!(error.retryable(), "{error}");
            false
        }
    })
    .await;
    read
}
