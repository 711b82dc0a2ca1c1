//! Cleans up in the background, from one task.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::telemetry::Lapsed;
use super::{Error, Inner};
use crate::store::Swept;
use crate::{Guarantee, Owner};

/// The default pause of a [`Cleanup`]. Such a delay does not matter beside days of retention, and a sweep of a store in
/// which nothing is due costs as much as one read.
pub const CLEANUP_PAUSE: Duration = Duration::from_secs(60);
/// The shortest pause of a [`Cleanup`], and the longest.
pub const CLEANUP_PAUSE_RANGE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(24 * 60 * 60));

/// Records in one slice. Other writes go between two slices, and none waits for more than one: on SQLite a slice is one
/// transaction of the only writer.
const SLICE_RECORDS: usize = 100;
/// After a slice, cleaning pauses for this many times as long as the slice took, so it uses at most a quarter of the
/// time.
const REST_PART: u32 = 3;

/// Lapsed runs that are counted after a pause: an alert needs to know whether there are any, and a page costs the same
/// however many there are.
const LAPSED_RUNS: usize = 100;

/// How an engine cleans its store in the background: it removes the answers of expired records, and records past their
/// tombstone, in slices of 100, so that others can use the store between them.
///
/// It cleans after each pause, until nothing is due. It begins with the first request of a process and ends with the
/// engine or at [`shutdown`](crate::Engine::shutdown). An error is logged, and it tries again after the next pause.
///
/// If several processes share a store, each of them does so after its own random pause: the first one cleans, and the
/// others find nothing to do. If two clean at once, each record is still cleaned once: on PostgreSQL each skips the
/// records that the other has locked, and elsewhere they take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cleanup {
    pause: Option<Duration>,
}

impl Cleanup {
    /// Cleans after each `pause`, at random longer or shorter by up to a half. The pause is at least 10 ms and at most
    /// a day.
    pub fn every(pause: Duration) -> Self {
        let (shortest, longest) = CLEANUP_PAUSE_RANGE;
        Self { pause: Some(pause.clamp(shortest, longest)) }
    }

    /// Never cleans. Then you must call [`Engine::sweep`](crate::Engine::sweep), or the store grows without end.
    pub const fn off() -> Self {
        Self { pause: None }
    }
}

/// After each [`CLEANUP_PAUSE`].
impl Default for Cleanup {
    fn default() -> Self {
        Self::every(CLEANUP_PAUSE)
    }
}

/// The task that cleans, once it has started, and its settings.
#[derive(Debug, Default)]
pub(super) struct Cleaner {
    cleanup: Cleanup,
    task: Option<AbortOnDropHandle<()>>,
}

impl Cleaner {
    /// The current settings.
    #[cfg(feature = "http")]
    pub(super) fn cleanup(&self) -> Cleanup {
        self.cleanup
    }
}

/// Starts the task if it is wanted and not running: it ends with its runtime, and an engine may outlive a runtime.
pub(super) fn start(engine: &Arc<Inner>) {
    let mut cleaner = engine.cleaner.lock();
    let Some(pause) = cleaner.cleanup.pause else { return };
    if cleaner.task.as_ref().is_none_or(AbortOnDropHandle::is_finished) {
        cleaner.task = Some(AbortOnDropHandle::new(tokio::spawn(clean(Arc::downgrade(engine), pause))));
    }
}

/// Cleans in this way from now on. The task starts again with the next request.
pub(super) fn set(engine: &Inner, cleanup: Cleanup) {
    *engine.cleaner.lock() = Cleaner { cleanup, task: None };
}

async fn clean(engine: Weak<Inner>, pause: Duration) {
    let mut lapsed: Option<Lapsed> = None;
    loop {
        sleep(by_chance(pause)).await;
        if let Some(engine) = engine.upgrade().filter(|engine| engine.guarantee != Guarantee::Atomic) {
            let lapsed = lapsed.get_or_insert_with(|| Lapsed::new(engine.guarantee));
            if let Ok(runs) = engine.count_lapsed().await {
                lapsed.set(runs);
            }
        }
        loop {
            let Some(engine) = engine.upgrade() else { return };
            if engine.closing.load(Ordering::Acquire) {
                return;
            }
            let begun = Instant::now();
            match engine.sweep(SLICE_RECORDS).await {
                Ok(Swept { more: true, .. }) => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "the store could not be cleaned; the cleaner will try again");
                    break;
                }
            }
            let rest = begun.elapsed() * REST_PART;
            drop(engine);
            sleep(rest).await;
        }
    }
}

/// Between half of `pause` and one and a half times `pause`, so that processes that started together do not clean
/// together.
fn by_chance(pause: Duration) -> Duration {
    let [low, high, ..] = *Owner::random().as_bytes();
    pause / 2 + pause * u32::from(u16::from_le_bytes([low, high])) / (1 << 16)
}

impl Inner {
    /// Counts the lapsed runs of this engine's guarantee, as far as one page of the store goes.
    async fn count_lapsed(&self) -> Result<usize, Error> {
        let page = self.store.lapsed(None, LAPSED_RUNS).await?.value;
        Ok(page.records.iter().filter(|record| record.guarantee == self.guarantee).count())
    }

    /// Cleans up to `limit` records, and counts them.
    pub(super) async fn sweep(&self, limit: usize) -> Result<Swept, Error> {
        let swept = self.store.sweep(limit).await?;
        super::telemetry::swept(swept);
        Ok(swept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It starts without being called.
    #[tokio::test]
    async fn an_engine_cleans_unless_it_is_told_not_to() {
        use crate::{Engine, Fingerprint, Key, Limits, Policy, Scope, memory};

        let engine = Engine::fenced(memory::Store::new(), Policy::default(), Limits::default()).unwrap();
        let is_at_it =
            |engine: &Engine| engine.inner.cleaner.lock().task.as_ref().is_some_and(|task| !task.is_finished());
        assert!(!is_at_it(&engine), "it may not be in a runtime yet");
        let asks = async |engine: &Engine| {
            let (scope, key) = (Scope::new("caller").unwrap(), Key::new("key").unwrap());
            let work = |_| async { Ok::<_, std::convert::Infallible>(1) };
            engine.run(scope, key, Fingerprint::of([b"input".as_slice()]), work).await.unwrap();
        };
        asks(&engine).await;
        assert!(is_at_it(&engine));
        assert_eq!(engine.inner.cleaner.lock().cleanup, Cleanup::every(CLEANUP_PAUSE));
        let off = Engine::fenced(memory::Store::new(), Policy::default(), Limits::default()).unwrap();
        let off = off.with_cleanup(Cleanup::off());
        asks(&off).await;
        assert!(!is_at_it(&off));
    }

    #[test]
    fn a_pause_is_neither_short_nor_long() {
        for (asked, got) in [
            (Duration::ZERO, Duration::from_millis(10)),
            (CLEANUP_PAUSE, CLEANUP_PAUSE),
            (Duration::MAX, Duration::from_secs(24 * 60 * 60)),
        ] {
            assert_eq!(Cleanup::every(asked), Cleanup { pause: Some(got) });
            for _ in 0..100 {
                let pause = by_chance(got);
                assert!(got / 2 <= pause && pause < got + got / 2 + Duration::from_nanos(1), "{pause:?}");
            }
        }
    }
}
