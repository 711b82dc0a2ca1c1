//! `Atomic` on SQLite.

use std::future::poll_fn;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::panic::{Location, resume_unwind};
use std::sync::Arc;
use std::task::Poll;

use futures_util::future::BoxFuture;
use rusqlite::Connection;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::Store;
use super::attempt::{Attempt, Reply};
use super::error::{BatchFailed, TxError};
use super::guard::Guard;
use super::lent::{Failure, Lent};
use super::loan::{Lender, Loan};
use super::outbox::Published;
use super::savepoint::savepoint;
use keylatch_core::Record;
use keylatch_core::machine::Claim;
use keylatch_core::outbox::{Events, Publishes};
use keylatch_core::store::{At, Error, Store as _};
use keylatch_core::tx::{Database, Ending, Seen, Start, Transacted, Transactional, Work};

/// Marks a handler's transaction as one on SQLite.
#[derive(Debug, Clone, Copy)]
pub struct Sqlite;

impl Database for Sqlite {
    type Handle = Loaned;
}

/// What a `keylatch::Tx<Sqlite>` is made of. It goes back to the store when it is dropped.
#[derive(Debug)]
pub struct Loaned {
    session: Session,
    events: Events,
}

impl Loaned {
    /// The handler's end of what `lender` lends, of a transaction with these events so far.
    pub(super) fn of(lender: &Lender, events: Events) -> Self {
        Self { session: Session(lender.loan()), events }
    }
}

impl Deref for Loaned {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl DerefMut for Loaned {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}

impl Drop for Loaned {
    fn drop(&mut self) {
        self.session.0.give_back(mem::take(&mut self.events));
    }
}

impl Publishes for Loaned {
    fn events(&mut self) -> &mut Events {
        &mut self.events
    }
}

/// What a handler does with its `Tx<Sqlite>`: a cell into which the writer puts its connection.
#[derive(Debug)]
pub struct Session(Arc<Loan>);

impl Session {
    /// Runs `closure` on the database file, in this handler's transaction.
    ///
    /// What it writes commits together with the record and the answer. [`Store::query`] sees it only then.
    ///
    /// From the first use to its end, the handler must not await anything but further uses of this `Tx`, because it
    /// holds the file's only writer. A handler that does is stopped, its writes are rolled back, and it gets
    /// [`Misuse::AwaitedInside`](keylatch_core::tx::Misuse::AwaitedInside). So await everything else before. From the
    /// first use on it also runs on the writer's thread, where task-locals that are set outside the layer are not
    /// visible.
    ///
    /// Use [`prepare_cached`](Connection::prepare_cached) for frequent statements. Foreign keys are checked, deferred
    /// ones when the handler has ended.
    ///
    /// For a closure with its own error type, use [`try_run`](Self::try_run); for a part that may fail without the
    /// rest, [`savepoint`](Self::savepoint).
    ///
    /// # Errors
    ///
    /// [`TxError::Sql`] if the closure fails; the transaction continues, with what other statements wrote.
    /// [`TxError::Over`] if the handler has ended, or was stopped. [`TxError::TooLong`] if it has held the writer for
    /// longer than [`Options::with_closure_time_max`](super::Options::with_closure_time_max) allows.
    #[track_caller]
    pub fn run<T, F>(&mut self, closure: F) -> impl Future<Output = Result<T, TxError>> + Send + use<'_, T, F>
    where
        T: Send,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send,
    {
        let closure = |db: &Connection, guard: &Guard| closure(db).map_err(|error| guard.explain(error).into());
        self.lent(closure, |refused| Err(refused))
    }

    /// As [`run`](Self::run), for a closure with the caller's own error type, which is returned unchanged:
    ///
    /// ```
    /// # use keylatch::{Tx, sqlite::Sqlite};
    /// #[derive(Debug)]
    /// enum Refusal { SoldOut, Database(rusqlite::Error) }
    ///
    /// impl From<rusqlite::Error> for Refusal {
    ///     fn from(error: rusqlite::Error) -> Self { Self::Database(error) }
    /// }
    ///
    /// async fn take(tx: &mut Tx<Sqlite>) -> Result<i64, Refusal> {
    ///     tx.try_run(|db| {
    ///         let left: i64 = db.query_row("SELECT pieces FROM stock", [], |row| row.get(0))?;
    ///         if left == 0 { return Err(Refusal::SoldOut); }
    ///         db.execute("UPDATE stock SET pieces = pieces - 1", [])?;
    ///         Ok(left - 1)
    ///     })
    ///     .await
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// The closure's own; the other errors of `run` are converted into [`rusqlite::Error`], as [`TxError`] does.
    #[track_caller]
    pub fn try_run<T, E, F>(&mut self, closure: F) -> impl Future<Output = Result<T, E>> + Send + use<'_, T, E, F>
    where
        T: Send,
        E: From<rusqlite::Error> + Send,
        F: FnOnce(&Connection) -> Result<T, E> + Send,
    {
        self.lent(|db, _| closure(db), |refused| Err(rusqlite::Error::from(refused).into()))
    }

    /// As [`try_run`](Self::try_run), in a savepoint: if the closure fails, its writes are rolled back, and the
    /// transaction continues with what other closures wrote.
    ///
    /// # Errors
    ///
    /// As `try_run`.
    #[track_caller]
    pub fn savepoint<T, E, F>(&mut self, closure: F) -> impl Future<Output = Result<T, E>> + Send + use<'_, T, E, F>
    where
        T: Send,
        E: From<rusqlite::Error> + Send,
        F: FnOnce(&Connection) -> Result<T, E> + Send,
    {
        self.try_run(|db| savepoint(db, closure))
    }

    #[track_caller]
    fn lent<R, F>(&mut self, closure: F, refused: fn(TxError) -> R) -> impl Future<Output = R> + Send + use<'_, R, F>
    where
        R: Send,
        F: FnOnce(&Connection, &Guard) -> R + Send,
    {
        let place = Location::caller();
        let mut closure = Some(closure);
        poll_fn(move |cx| self.0.poll_run(cx, &mut closure, refused, place))
    }
}

impl Transactional for Store {
    type Database = Sqlite;

    fn look(&self, claim: &Claim) -> BoxFuture<'_, Result<At<Seen>, Error>> {
        let read = self.read(claim.id());
        // An attempt is answered when its transaction has ended, so a look cannot miss a running one.
        Box::pin(async { read.await.map(|At { value: record, now }| At { value: Seen { record, busy: false }, now }) })
    }

    /// The handler begins on the caller's task. When it first wants the connection, it moves to the writer, which claims
    /// the key for it.
    fn transact(
        &self,
        claim: Claim,
        _: At<Option<Record>>,
        start: Start<Sqlite>,
    ) -> BoxFuture<'_, Result<At<Transacted>, Error>> {
        Box::pin(async move {
            let lender = Lender::default();
            let mut work = start(Loaned::of(&lender, Events::default()));
            let ending = drive(&mut work, &lender).await;
            let lent = Lent { work: Some(work), ending, lender, runtime: Handle::try_current().ok() };
            let (reply, replied) = oneshot::channel();
            let published = Published::to(self.0.published.clone());
            self.0.writer.send::<Error>(Attempt { claim, lent, published, result: None, reply }).await?;
            let Ok(Reply { result, work }) = replied.await else { return Err(BatchFailed::unanswered().into()) };
            drop(work);
            match result {
                Ok(transacted) => Ok(transacted),
                Err(Failure::Store(error)) => Err(error),
                Err(Failure::Panic(panic)) => resume_unwind(panic),
            }
        })
    }
}

/// Polls the handler on this task until it ends or wants the connection; in the second case it has not ended yet.
fn drive<'w>(work: &'w mut Work, lender: &'w Lender) -> impl Future<Output = Option<Ending>> + use<'w> {
    poll_fn(|cx| {
        lender.driven_by(cx.waker());
        match work.as_mut().poll(cx) {
            Poll::Ready(ending) => Poll::Ready(Some(ending)),
            Poll::Pending if lender.is_wanted() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
}
