//! Writes that arrive together share a statement: while one statement runs, new writes wait, and share the next. A
//! write that arrives alone goes at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;

use super::Shared;
use super::error::Fault;
use super::link::Link;
use super::locked::LockWait;
use super::metrics::BatchMetrics;
use keylatch_core::RecordId;
use keylatch_core::store::ErrorKind;

/// A write that can share a statement with others of its kind.
pub(super) trait Job: Send + Sync + Sized + 'static {
    /// The reply to its caller.
    type Done: Send;

    /// Its name in metrics.
    const OPERATION: &'static str;

    /// How many share a statement at most, whatever [the options](super::Options::with_batch_records_max) say.
    const RECORDS_MAX: usize = usize::MAX;

    /// The identity of its record: the order within a batch.
    fn id(&self) -> RecordId;

    /// About how many bytes it sends.
    fn size(&self) -> usize;

    /// Runs `jobs`, in the order of their records, in one statement.
    fn run(
        jobs: &[Waiting<Self>],
        shared: &Shared,
        link: &mut Link,
    ) -> impl Future<Output = Result<Vec<Reply<Self::Done>>, Fault>> + Send;
}

/// The result of a job in a statement.
pub(super) enum Reply<T> {
    Done(Result<T, Fault>),
    /// The record appeared and disappeared meanwhile: the job is tried again at once.
    Again,
    /// Another transaction has locked the record: the job is tried again later. The rest of the batch does not wait for
    /// it.
    Locked,
}

/// A job, and its waiting caller.
#[derive(Debug)]
pub(super) struct Waiting<J: Job> {
    pub(super) job: J,
    reply: oneshot::Sender<Result<J::Done, Fault>>,
    /// Set once a lock has blocked it.
    lock: Option<LockWait>,
}

/// The queue for jobs of one kind. When the last clone is dropped, waiting jobs are done, and the workers end.
pub(super) struct Queue<J: Job>(mpsc::Sender<Waiting<J>>);

/// Jobs that may wait for a batch. More would only wait here instead of with their callers, who can still give up.
const QUEUE_JOBS_MAX: usize = 4_096;
/// How many jobs that a lock has blocked share a statement at most: each may take about a millisecond to find that the
/// lock is still held.
const LOCKED_RECORDS_MAX: usize = 16;
/// The most bytes in one statement, unless one job alone has more.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// How often one job may be tried again.
const TRIES_MAX: u32 = 16;
/// How long a worker keeps its connection for the next batch: under load the worker never returns it, which would cost
/// a round trip each time, and under a low load nobody needs it.
const KEEP: Duration = Duration::from_millis(5);

impl<J: Job> Queue<J> {
    /// Starts the workers, on this runtime.
    pub(super) fn start(shared: &Arc<Shared>) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_JOBS_MAX);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..shared.options.batches_at_once {
            let metrics = BatchMetrics::new(J::OPERATION);
            let again = sender.downgrade();
            let worker = Worker { queue: receiver.clone(), again, shared: shared.clone(), metrics };
            drop(tokio::spawn(worker.serve()));
        }
        Self(sender)
    }

    /// Queues `job`, and waits for the end of its batch.
    pub(super) async fn call(&self, job: J) -> Result<J::Done, Fault> {
        let (reply, replied) = oneshot::channel();
        self.0.send(Waiting { job, reply, lock: None }).await.map_err(|_| ended())?;
        let unanswered = || Fault::new(ErrorKind::NotKnown, "the runtime on which this store was opened has ended");
        replied.await.unwrap_or_else(|_| Err(unanswered()))
    }
}

impl<J: Job> Clone for Queue<J> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Nothing was sent to the server.
fn ended() -> Fault {
    Fault::new(ErrorKind::Unavailable, "the runtime on which this store was opened has ended")
}

struct Worker<J: Job> {
    queue: Arc<Mutex<mpsc::Receiver<Waiting<J>>>>,
    /// A sender for jobs that are tried again later.
    again: mpsc::WeakSender<Waiting<J>>,
    shared: Arc<Shared>,
    metrics: BatchMetrics,
}

impl<J: Job> Worker<J> {
    async fn serve(self) {
        let mut link = None;
        let mut jobs = Vec::with_capacity(self.jobs_max());
        loop {
            let keep = if link.is_some() { KEEP } else { Duration::MAX };
            match self.next(&mut jobs, keep).await {
                Some(0) => return,
                Some(_) => self.work(&mut jobs, &mut link).await,
                None => link = None,
            }
            if !self.shared.links.can_spare() {
                link = None;
            }
        }
    }

    /// Takes all waiting jobs; `None` if nothing has arrived for as long as `keep`.
    async fn next(&self, jobs: &mut Vec<Waiting<J>>, keep: Duration) -> Option<usize> {
        // The time limit includes the wait for the lock, whose holder may wait for ever. The lock is released before
        // the work, so that another worker takes the next jobs.
        let receiving = async { self.queue.lock().await.recv_many(jobs, self.jobs_max()).await };
        timeout(keep, receiving).await.ok()
    }

    fn jobs_max(&self) -> usize {
        self.shared.options.batch_records_max.min(J::RECORDS_MAX)
    }

    async fn work(&self, jobs: &mut Vec<Waiting<J>>, link: &mut Option<Link>) {
        // Nobody waits for these any more, and they have not begun.
        jobs.retain(|waiting| !waiting.reply.is_closed());
        // Jobs that a lock has blocked go separately, so that the lock does not block others.
        jobs.sort_by_key(|waiting| (waiting.lock.is_some(), waiting.job.id()));
        while !jobs.is_empty() {
            let together = fitting(jobs);
            let batch: Vec<_> = jobs.drain(..together).collect();
            self.batch(batch, link).await;
        }
    }

    async fn batch(&self, batch: Vec<Waiting<J>>, link: &mut Option<Link>) {
        let Err((fault, batch)) = self.attempt(batch, link).await else { return };
        // One of them may have made all fail; a statement that failed in this way has done nothing.
        let alone = batch.len() > 1 && fault.kind != ErrorKind::NotKnown && fault.code.is_some();
        for waiting in batch {
            let failed =
                if alone { self.attempt(vec![waiting], link).await } else { Err((fault.clone(), vec![waiting])) };
            if let Err((fault, failed)) = failed {
                failed.into_iter().for_each(|waiting| waiting.answer(Err(fault.clone())));
            }
        }
    }

    /// Replies to all, or returns them with the reason.
    async fn attempt(
        &self,
        mut batch: Vec<Waiting<J>>,
        kept: &mut Option<Link>,
    ) -> Result<(), (Fault, Vec<Waiting<J>>)> {
        for _ in 0..TRIES_MAX {
            let link = match kept {
                Some(link) => link,
                None => match self.shared.links.link().await {
                    Ok(link) => kept.insert(link),
                    Err(fault) => return Err((fault, batch)),
                },
            };
            let started = Instant::now();
            let replies = match J::run(&batch, &self.shared, link).await {
                Ok(replies) => {
                    self.metrics.record(batch.len(), started);
                    replies
                }
                Err(fault) => {
                    *kept = None;
                    return Err((fault, batch));
                }
            };
            let mut again = Vec::new();
            for (waiting, reply) in batch.into_iter().zip(replies) {
                match reply {
                    Reply::Done(done) => waiting.answer(done),
                    Reply::Again => again.push(waiting),
                    Reply::Locked => self.postpone(waiting),
                }
            }
            if again.is_empty() {
                return Ok(());
            }
            batch = again;
        }
        Err((Fault::new(ErrorKind::Unavailable, "the record came and went on every try"), batch))
    }

    /// Runs a job later that a lock blocks. Meanwhile it holds no connection.
    fn postpone(&self, mut waiting: Waiting<J>) {
        let wait = waiting.lock.get_or_insert_with(LockWait::begin);
        let pause = match wait.pause(self.shared.options.statement_max) {
            Ok(pause) => pause,
            Err(fault) => return waiting.answer(Err(fault)),
        };
        let Some(again) = self.again.upgrade() else { return waiting.answer(Err(ended())) };
        drop(tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            if let Err(mpsc::error::SendError(waiting)) = again.send(waiting).await {
                waiting.answer(Err(ended()));
            }
        }));
    }
}

impl<J: Job> Waiting<J> {
    fn answer(self, reply: Result<J::Done, Fault>) {
        // A caller that is gone may ask again.
        let _ = self.reply.send(reply);
    }
}

/// How many of the first jobs share one statement.
fn fitting<J: Job>(jobs: &[Waiting<J>]) -> usize {
    let mut bytes = 0;
    let locked = jobs.first().is_some_and(|waiting| waiting.lock.is_some());
    let fits = |waiting: &&Waiting<J>| {
        bytes += waiting.job.size();
        bytes <= BATCH_BYTES_MAX && waiting.lock.is_some() == locked
    };
    let records_max = if locked { LOCKED_RECORDS_MAX } else { usize::MAX };
    jobs.iter().take(records_max).take_while(fits).count().max(1)
}
