//! The memory store passes the conformance suite.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use keylatch_core::conformance::{CASES, Harness};
use keylatch_core::store::Store;
use keylatch_core::{Clock, RecordId, Timestamp, memory};

struct Memory {
    clock: Clock,
    store: memory::Store,
}

impl Memory {
    fn new() -> Self {
        let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
        Self { store: memory::Store::with_clock(clock.clone()), clock }
    }
}

impl Harness for Memory {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    fn connect(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async { self.store() })
    }

    fn restart(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async { Arc::new(memory::Store::with_clock(self.clock.clone())) as Arc<dyn Store> })
    }

    fn advance(&self, by: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.clock.advance(by) })
    }

    fn misplace(&self, from: RecordId, to: RecordId) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.store.misplace(from, to) })
    }
}

keylatch_core::conformance!(Memory::new());

#[test]
fn the_suite_is_whole() {
    assert!(CASES.len() >= 60, "{} cases", CASES.len());
}
