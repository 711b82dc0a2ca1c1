//! The entry points beside HTTP: function calls, and the resolution of unknown outcomes.

#![cfg(all(feature = "axum", feature = "sqlite"))]

mod atomic;
mod function;
mod resolve;

use std::time::Duration;

use keylatch::{Clock, Engine, Fingerprint, Key, Limits, Policy, Scope, Timestamp, memory};

/// A memory store whose clock a test moves.
struct Fixture {
    clock: Clock,
    store: memory::Store,
}

impl Fixture {
    fn new() -> Self {
        let clock = Clock::manual(Timestamp::from_millis(1));
        Self { store: memory::Store::with_clock(clock.clone()), clock }
    }

    fn fenced(&self) -> Engine {
        Engine::fenced(self.store.clone(), Policy::default(), Limits::default()).unwrap()
    }

    fn at_most_once(&self) -> Engine {
        Engine::at_most_once(self.store.clone(), Policy::default(), Limits::default()).unwrap()
    }

    /// After the end of every lease.
    fn lease_ends(&self) {
        self.clock.advance(Policy::default().lease + Duration::from_millis(1));
    }
}

fn scope() -> Scope {
    Scope::new("tenant-7").unwrap()
}

fn key(key: &str) -> Key {
    Key::new(key).unwrap()
}

fn input(text: &str) -> Fingerprint {
    Fingerprint::of([text.as_bytes()])
}

/// A process that starts something and dies: everything that it was doing is gone, and it reported nothing.
fn dies_while<F: Future<Output = ()> + Send + 'static>(doing: F) {
    let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    process.block_on(doing);
    process.shutdown_background();
}
