//! Conditions that a test waits for, and gates that it opens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// Waits until `condition` holds.
///
/// # Panics
///
/// After 20 seconds, with `what` it waited for.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    const PATIENCE: Duration = Duration::from_secs(20);
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A gate at which a handler waits until a test lets it continue.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    /// One that is closed.
    pub fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Opens it for good.
    pub fn open(&self) {
        self.0.add_permits(1);
    }

    /// Waits until it is open. It stays open.
    ///
    /// # Panics
    ///
    /// Never: nobody closes it.
    pub async fn pass(&self) {
        drop(self.0.acquire().await.expect("nobody closes it"));
    }
}
