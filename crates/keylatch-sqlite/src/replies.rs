//! How the callers of a batch are told, once it is committed or has failed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::runtime::{Handle, RuntimeFlavor};

use super::error::BatchFailed;
use super::job::Job;

/// Tells the callers of `jobs` that the batch is committed, or why it failed.
///
/// Where all of them live on one runtime, a task there tells them. A reply from outside may have to wake the runtime,
/// which then serves that one caller and goes back to sleep before it hears of the next; so it is woken once for all.
pub(super) fn reply(jobs: Vec<Box<dyn Job>>, failed: Option<BatchFailed>) {
    let replies = Replies { jobs, failed };
    match replies.runtime() {
        Some(runtime) => drop(runtime.spawn(async move { drop(replies) })),
        None => drop(replies),
    }
}

/// Replies when it is dropped: also if its task is, because the runtime has ended.
struct Replies {
    jobs: Vec<Box<dyn Job>>,
    failed: Option<BatchFailed>,
}

impl Replies {
    /// The runtime on which all callers live, if they are more than one. It has to have threads of its own: another
    /// gets on only while somebody drives it.
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
            // What a caller left behind may panic as it is dropped. The next caller has no part in that.
            let _ = catch_unwind(AssertUnwindSafe(|| job.reply(self.failed.as_ref())));
        }
    }
}
