//! Jobs for the store's threads.

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::db::Db;
use super::error::{BatchFailed, Fault};

/// One part of a batch.
///
/// It runs, the batch is committed, and only then does it reply.
pub(super) trait Job: Send {
    /// Whether nobody waits for the reply any more; then it need not run.
    fn is_abandoned(&self) -> bool;

    /// The runtime of its caller, if any.
    fn runtime(&self) -> Option<&Handle>;

    /// Does its part.
    ///
    /// # Errors
    ///
    /// If the batch cannot continue. A failure of this job alone is a reply.
    fn run(&mut self, db: &mut Db) -> Result<(), Stop>;

    /// Sends the result to its caller: that of `run`, or why the batch was not committed.
    fn reply(self: Box<Self>, failed: Option<&BatchFailed>);
}

/// Why a batch cannot continue after a job.
#[derive(Debug)]
pub(super) enum Stop {
    /// The job has ended the transaction. It has its own reply; the writes of earlier jobs are gone.
    Ended,
    /// SQLite failed.
    Failed(rusqlite::Error),
}

/// A job that does nothing: it makes the writer do its checks between batches.
pub(super) struct Nudge;

impl Job for Nudge {
    fn is_abandoned(&self) -> bool {
        true
    }

    fn runtime(&self) -> Option<&Handle> {
        None
    }

    fn run(&mut self, _: &mut Db) -> Result<(), Stop> {
        Ok(())
    }

    fn reply(self: Box<Self>, _: Option<&BatchFailed>) {}
}

/// A job that is a closure, with its result as the reply.
pub(super) struct Call<F, T, E> {
    work: Option<F>,
    result: Option<Result<T, E>>,
    runtime: Option<Handle>,
    reply: oneshot::Sender<Result<T, E>>,
}

impl<F, T, E> Call<F, T, E> {
    /// Call it on the caller's runtime.
    pub(super) fn new(work: F, reply: oneshot::Sender<Result<T, E>>) -> Self {
        Self { work: Some(work), result: None, runtime: Handle::try_current().ok(), reply }
    }
}

impl<F, T, E> Job for Call<F, T, E>
where
    F: FnOnce(&mut Db) -> Result<T, Fault<E>> + Send,
    T: Send,
    E: Send + From<BatchFailed>,
{
    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn runtime(&self) -> Option<&Handle> {
        self.runtime.as_ref()
    }

    fn run(&mut self, db: &mut Db) -> Result<(), Stop> {
        let Some(work) = self.work.take() else { return Ok(()) };
        let (result, stop) = match work(db) {
            Ok(value) => (Ok(value), Ok(())),
            Err(Fault::Job(error)) => (Err(error), Ok(())),
            Err(Fault::Ended(error)) => (Err(error), Err(Stop::Ended)),
            Err(Fault::Batch(error)) => return Err(Stop::Failed(error)),
        };
        self.result = Some(result);
        stop
    }

    fn reply(self: Box<Self>, failed: Option<&BatchFailed>) {
        let result = match (failed, self.result) {
            (Some(failed), _) => Err(E::from(failed.clone())),
            (None, Some(result)) => result,
            (None, None) => return, // It was abandoned, and did not run.
        };
        // A caller that no longer waits can ask again.
        let _ = self.reply.send(result);
    }
}
