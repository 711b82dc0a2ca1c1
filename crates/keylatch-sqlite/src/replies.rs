//! Sends the replies of a batch, once it is committed or has failed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::runtime::{Handle, RuntimeFlavor};

use super::error::BatchFailed;
use super::job::Job;

/// Tells the callers of `jobs` that the batch is committed, or why it failed.
///
/// If all of them are on one runtime, a task there sends the replies. A reply from outside may have to wake the
/// runtime, which then serves that one caller and goes back to sleep before the next reply; so it is woken once for
/// all.
pub(super) fn reply(jobs: Vec<Box<dyn Job>>, failed: Option<BatchFailed>) {
    let replies = Replies { jobs, failed };
    match replies.runtime() {
        Some(runtime) => drop(runtime.spawn(async move { drop(replies) })),
        None => drop(replies),
    }
}

/// Replies when it is dropped, even if its task is dropped because the runtime has ended.
struct Replies {
    jobs: Vec<Box<dyn Job>>,
    failed: Option<BatchFailed>,
}

impl Replies {
    /// The runtime of all callers, if there is more than one caller. It must be multi-threaded: another runtime makes
    /// progress only while somebody drives it.
    fn runtime(&self) -> Option<Handle> {
        let (first, others) = self.jobs.split_first()?;
        let runtime = first.runtime()?;
        let id = runtime.id();
        let is_shared = !others.is_empty()
            && runtime.runtime_flavor() == RuntimeFlavor::MultiThread
            && others.iter().all(|job| job.runtime().is_some_and(|runtime| runtime.id() == id));
        is_shared.then(|| runtime.clone())
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        for job in self.jobs.drain(..) {
            // What a caller left behind may panic when it is dropped. That must not affect the next caller.
            let _ = catch_unwind(AssertUnwindSafe(|| job.reply(self.failed.as_ref())));
        }
    }
}
