//! The threads of a store: each takes all waiting jobs, runs them in one transaction, and replies.
//!
//! Batches form without a timer: while one is being committed, arriving jobs wait, and go together in the next. There
//! is no delay under a low load, and one commit for many jobs under a high one.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::checkpoint::Checkpoints;
use super::db::Db;
use super::error::{BatchFailed, Fault};
use super::gate::Gate;
use super::job::{Call, Job, Stop};
use super::replies;

/// The queue of some threads that do the same.
#[derive(Debug)]
pub(super) struct Queue(mpsc::Sender<Box<dyn Job>>);

/// One thread.
pub(super) struct Worker {
    pub(super) db: Db,
    /// The statement that begins a batch.
    pub(super) begin: &'static str,
    pub(super) batch_jobs_max: usize,
    /// After this time a batch takes no further job.
    pub(super) batch_time_max: Duration,
    /// The writer's checks between batches.
    pub(super) checkpoints: Option<Checkpoints>,
    /// The gate at which its batches may have to wait.
    pub(super) gate: Option<Arc<Gate>>,
    /// Threads to wait for at the end: the connection that is closed last removes the log, and if two are closed at
    /// once, neither does.
    pub(super) outlasts: Vec<JoinHandle<()>>,
}

impl Queue {
    /// Starts the threads. They end when the queue is dropped and everything in it is done.
    pub(super) fn start(
        name: &str,
        queue_jobs_max: usize,
        workers: Vec<Worker>,
    ) -> io::Result<(Self, Vec<JoinHandle<()>>)> {
        let (sender, receiver) = mpsc::channel(queue_jobs_max);
        let jobs = Arc::new(Mutex::new(receiver));
        let start = |worker: Worker| {
            let jobs = jobs.clone();
            thread::Builder::new().name(name.to_owned()).spawn(move || worker.run(&jobs))
        };
        let threads = workers.into_iter().map(start).collect::<Result<_, _>>()?;
        Ok((Self(sender), threads))
    }

    /// A sender that does not keep the queue open.
    pub(super) fn downgrade(&self) -> mpsc::WeakSender<Box<dyn Job>> {
        self.0.downgrade()
    }

    /// Queues `work`, and waits for the end of its batch.
    pub(super) fn call<T, E, F>(&self, work: F) -> impl Future<Output = Result<T, E>> + Send
    where
        F: FnOnce(&mut Db) -> Result<T, Fault<E>> + Send + 'static,
        T: Send + 'static,
        E: Send + From<BatchFailed> + 'static,
    {
        let (reply, replied) = oneshot::channel();
        let sent = self.send(Call::new(work, reply));
        async move {
            sent.await?;
            replied.await.unwrap_or_else(|_| Err(E::from(BatchFailed::unanswered())))
        }
    }

    /// Puts a job into the queue, once there is room.
    pub(super) fn send<E: From<BatchFailed>>(
        &self,
        job: impl Job + 'static,
    ) -> impl Future<Output = Result<(), E>> + Send {
        // Before the first await, so that the future does not hold the job itself.
        let job: Box<dyn Job> = Box::new(job);
        async move {
            match self.0.try_send(job) {
                Ok(()) => Ok(()),
                Err(TrySendError::Full(job)) => Box::pin(self.0.send(job)).await.map_err(|_| BatchFailed::ended()),
                Err(TrySendError::Closed(_)) => Err(BatchFailed::ended()),
            }
            .map_err(E::from)
        }
    }
}

impl Worker {
    fn run(mut self, jobs: &Mutex<mpsc::Receiver<Box<dyn Job>>>) {
        self.serve(jobs);
        let others = self.checkpoints.take().map(Checkpoints::end).into_iter().chain(self.outlasts);
        for thread in others {
            // If it panicked, that was reported at the time.
            let _ = thread.join();
        }
        drop(self.db);
    }

    fn serve(&mut self, jobs: &Mutex<mpsc::Receiver<Box<dyn Job>>>) {
        let mut batch = Vec::new();
        let mut alone = 0_usize;
        let mut failing = false;
        let mut latest = 0;
        loop {
            let jobs_max = if alone > 0 { 1 } else { self.batch_jobs_max };
            if self.checkpoints.is_some() {
                let_them_come_back(jobs, latest);
            } else if self.batch_jobs_max > 1 {
                // The next reader is often about to run on this core, and would otherwise be interrupted to wake this
                // thread: then each read would be its own batch, and begin by looking up what has changed.
                thread::yield_now();
            }
            // The lock is released before the work, so that another thread of the queue takes the next jobs.
            if jobs.lock().blocking_recv_many(&mut batch, jobs_max) == 0 {
                return;
            }
            latest = batch.len();
            while !batch.is_empty() {
                let Part { jobs, culprit, mut committed } = self.commit_gated(&mut batch);
                alone = match &committed {
                    Err(failed) if failed.is_of_one() && jobs > 1 => ALONE_JOBS,
                    _ => alone.saturating_sub(jobs),
                };
                if jobs == 1 {
                    committed = committed.map_err(BatchFailed::alone);
                }
                report(&committed, &mut failing);
                let rest = batch.split_off(jobs);
                let culprit = batch.split_off(jobs - usize::from(culprit));
                replies::reply(batch, committed.err());
                replies::reply(culprit, None);
                batch = rest;
                if let Some(checkpoints) = &mut self.checkpoints {
                    checkpoints.between_batches(self.db.conn());
                }
            }
        }
    }

    /// As `commit`, when the gate is open.
    fn commit_gated(&mut self, batch: &mut [Box<dyn Job>]) -> Part {
        let Some(gate) = self.gate.clone() else { return self.commit(batch) };
        gate.enter();
        let part = self.commit(batch);
        gate.leave();
        part
    }

    /// Runs the first jobs of `batch` in one transaction: all, unless one ends it or they take too long. A panic in the
    /// store's own code fails the batch, not the thread.
    fn commit(&mut self, batch: &mut [Box<dyn Job>]) -> Part {
        let part = catch_unwind(AssertUnwindSafe(|| self.try_commit(batch)));
        let part = part.unwrap_or_else(|_| Part::failed(batch.len(), BatchFailed::by_panic()));
        if part.committed.is_err() && self.db.in_transaction() {
            // If this fails too, the next batch fails at its beginning, and so on until it succeeds.
            let _ = self.db.execute(include_str!("sql/rollback.sql"));
        }
        part
    }

    fn try_commit(&mut self, batch: &mut [Box<dyn Job>]) -> Part {
        let all = batch.len();
        if let Err(error) = self.begin() {
            return Part::failed(all, BatchFailed::before_commit(error));
        }
        let begun = Instant::now();
        let mut jobs = 0;
        for job in batch {
            jobs += 1;
            if job.is_abandoned() {
                continue;
            }
            match job.run(&mut self.db) {
                Ok(()) => {}
                Err(Stop::Failed(error)) => return Part::failed(all, BatchFailed::before_commit(error)),
                Err(Stop::Ended) => return Part { jobs, culprit: true, committed: Err(BatchFailed::by_another()) },
            }
            if begun.elapsed() >= self.batch_time_max {
                break;
            }
        }
        let committed = self.db.execute(include_str!("sql/commit.sql")).map_err(BatchFailed::by_commit);
        Part { jobs, culprit: false, committed }
    }

    fn begin(&mut self) -> rusqlite::Result<()> {
        if self.db.in_transaction() {
            self.db.execute(include_str!("sql/rollback.sql"))?;
        }
        self.db.execute(self.begin)?;
        self.db.look_at_schema()
    }
}

/// The result of the first jobs of a batch.
struct Part {
    /// How many jobs.
    jobs: usize,
    /// Whether the last of them has ended the transaction. It has its own reply.
    culprit: bool,
    committed: Result<(), BatchFailed>,
}

impl Part {
    fn failed(jobs: usize, failed: BatchFailed) -> Self {
        Self { jobs, culprit: false, committed: Err(failed) }
    }
}

/// After a large batch, its callers are just waking up, and most will send again at once. To take only the first of
/// them would make all others wait for a sync of the disk. So the thread yields to them a few times. Under a low load
/// nobody waits.
fn let_them_come_back(jobs: &Mutex<mpsc::Receiver<Box<dyn Job>>>, latest: usize) {
    if latest < CROWD_JOBS_MIN {
        return;
    }
    for _ in 0..CROWD_YIELDS_MAX {
        if jobs.lock().len() >= latest {
            return;
        }
        thread::yield_now();
    }
}

/// From how many jobs on a batch is large.
const CROWD_JOBS_MIN: usize = 4;
/// How often the thread yields to their callers. With 64 callers on two busy cores, 3 was better than 0 and not worse
/// than 10 or 50.
const CROWD_YIELDS_MAX: usize = 3;

/// How many jobs get their own commit after one job has failed a whole batch: that job is likely to be tried again, and
/// must not fail the others each time.
const ALONE_JOBS: usize = 1_000;

/// Logs when batches begin to fail and when they succeed again, and not each time.
fn report(committed: &Result<(), BatchFailed>, failing: &mut bool) {
    match committed {
        Err(failed) if !*failing => {
            let error = rusqlite::Error::from(failed);
            tracing::error!(%error, advice = failed.advice(), "SQLite cannot commit; the callers get errors, and the \
                                                               next batch tries again");
            *failing = true;
        }
        Ok(()) if *failing => {
            tracing::info!("SQLite can commit again");
            *failing = false;
        }
        _ => {}
    }
}
