//! What the tests of the engine and of the HTTP layer share.

#![allow(dead_code, reason = "each suite uses a part of it")]

pub(crate) mod faulty;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    const PATIENCE: Duration = Duration::from_secs(20);
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A gate at which a handler waits until a test lets it continue.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<Semaphore>);

impl Gate {
    pub(crate) fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    pub(crate) fn open(&self) {
        self.0.add_permits(1);
    }

    /// Waits until it is open. It stays open.
    pub(crate) async fn pass(&self) {
        drop(self.0.acquire().await.expect("nobody closes it"));
    }
}
