//! A transaction that is lent to a handler, and committed together with what is recorded in it.
//!
//! The caller chooses what is recorded: a statement that takes a lock when the transaction begins, and one that writes
//! at its end. Between the two the transaction can be lent any number of times.

use keylatch_core::Timestamp;
use keylatch_core::failpoint::{self, Point};
use keylatch_core::outbox::Events;
use keylatch_core::store::ErrorKind;
use keylatch_core::tx::Misuse;
use sqlx::postgres::PgRow;
use tokio::sync::OwnedSemaphorePermit;

use super::Shared;
use super::error::{Fault, Sent};
use super::link::{Link, PgQuery};
use super::ops::scalar;
use super::own::client::Call;
use super::own::instant;
use super::tx::{Home, Loaned};

/// An open transaction.
pub(super) struct Transaction<'s> {
    shared: &'s Shared,
    link: Link,
    /// The events that it publishes; whoever records writes them too.
    events: Events,
    /// The permit of a handler for a connection. It is released with the connection.
    _turn: OwnedSemaphorePermit,
}

/// Why a transaction was not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Its lock is another's, or what it protects has changed.
    Held,
    /// There is a record of one of the ids, in whatever state.
    Recorded,
}

impl Refused {
    fn read(fault: &Fault) -> Option<Self> {
        match fault.code.as_deref()? {
            "KL001" | "KL002" | "KL003" => Some(Self::Held),
            "KL004" => Some(Self::Recorded),
            _ => None,
        }
    }
}

/// How a transaction ended.
pub(super) enum Ended {
    /// It is committed; this is the time of its record.
    Committed(Timestamp),
    /// Another owner had recorded before. Nothing is committed.
    Lost,
    /// Nothing is committed.
    Misused(Misuse),
}

impl Shared {
    /// Begins a transaction with `sql`, in one round trip, unless `sql` refuses it.
    pub(super) async fn begin(&self, sql: String) -> Result<Result<Transaction<'_>, Refused>, Fault> {
        let turn = self.links.turn().await?;
        let mut link = self.links.link().await?;
        match self.links.begin(&mut link, sql).await {
            Ok(()) => Ok(Ok(Transaction { shared: self, link, events: Events::default(), _turn: turn })),
            Err(fault) => {
                let refused = Refused::read(&fault).ok_or(fault)?;
                self.links.rollback(&mut link).await?;
                Ok(Err(refused))
            }
        }
    }
}

impl Transaction<'_> {
    /// Lends it to the work of `start`, until that ends. `None` if it was not returned as it was lent: then it is
    /// closed.
    pub(super) async fn lend<F: Future>(self, start: impl FnOnce(Loaned) -> F) -> (F::Output, Option<Self>) {
        let Self { shared, link, events, _turn } = self;
        let (home, loaned) = Home::lend(link, events);
        let ended = start(loaned).await;
        let returned = home.close().filter(|(link, _)| link.is_at_top());
        (ended, returned.map(|(link, events)| Self { shared, link, events, _turn }))
    }

    /// Runs a statement of the store's own.
    pub(super) async fn rows(&mut self, query: PgQuery<'_>) -> Result<Vec<PgRow>, Fault> {
        self.shared.links.rows_inside(&mut self.link, query).await
    }

    /// The events that it publishes.
    pub(super) const fn events(&self) -> &Events {
        &self.events
    }

    /// Rolls back what was written.
    pub(super) async fn roll_back(mut self) {
        if let Err(fault) = self.shared.links.rollback(&mut self.link).await {
            tracing::debug!(%fault, "a transaction is rolled back by its connection's end");
        }
    }

    /// Records, and commits.
    pub(super) async fn commit(mut self, record: PgQuery<'_>) -> Result<Ended, Fault> {
        let links = &self.shared.links;
        let rows = match links.rows_inside(&mut self.link, record).await {
            Ok(rows) => rows,
            Err(fault) if fault.has_code("25P02") => return Ok(Ended::Misused(Misuse::Failed)),
            Err(fault) if fault.has_code("42501") => return Ok(Ended::Misused(Misuse::OtherRole)),
            // The records of a batch are inserted without a rule for those that are there.
            Err(fault) if fault.has_code("23505") => {
                links.rollback(&mut self.link).await?;
                return Ok(Ended::Lost);
            }
            // A pooler keeps an open transaction on one server. It has sent the parts of this statement to two.
            Err(fault) if self.shared.options.transaction_pooling && fault.is_of_pooler() => {
                return Ok(Ended::Misused(Misuse::Ended));
            }
            Err(fault) => return Err(fault),
        };
        let at = match Recorded::read(scalar(&rows)?)? {
            Recorded::At(at) => at,
            Recorded::Ended => return Ok(Ended::Misused(Misuse::Ended)),
            Recorded::Lost => {
                links.rollback(&mut self.link).await?;
                return Ok(Ended::Lost);
            }
        };
        failpoint::hit(Point::BeforeCommit);
        match links.commit(&mut self.link).await {
            Ok(()) => self.committed(at).await,
            // A constraint that is checked at the commit.
            Err(fault) if fault.kind == ErrorKind::Refused && fault.code.is_some() => {
                let code = fault.code.as_deref();
                tracing::warn!(code, "PostgreSQL refused the commit of a handler's transaction");
                Ok(Ended::Misused(Misuse::Failed))
            }
            Err(fault) => Err(fault),
        }
    }

    /// Rolls back what was written, and records in a separate transaction.
    pub(super) async fn record_only(mut self, record: Call) -> Result<Ended, Fault> {
        let links = &self.shared.links;
        links.rollback(&mut self.link).await?;
        self.events = Events::default();
        failpoint::hit(Point::BeforeCommit);
        let rows = links.rows_on(&mut self.link, Sent::Perhaps, || record.clone().into_query()).await?;
        match Recorded::read(scalar(&rows)?)? {
            Recorded::At(at) => self.committed(at).await,
            Recorded::Lost | Recorded::Ended => Ok(Ended::Lost),
        }
    }

    async fn committed(mut self, at: Timestamp) -> Result<Ended, Fault> {
        failpoint::hit(Point::AfterCommit);
        if !self.events.is_empty() {
            self.shared.published.notify_one();
        }
        self.shared.kept(&mut self.link).await?;
        Ok(Ended::Committed(at))
    }
}

/// The reply of a statement that records.
pub(super) enum Recorded {
    /// It has recorded.
    At(Timestamp),
    /// Another owner had recorded before.
    Lost,
    /// It has not recorded, because the transaction is not the one that was begun for it.
    Ended,
}

impl Recorded {
    pub(super) fn read(reply: Option<&[u8]>) -> Result<Self, Fault> {
        match reply {
            None => Ok(Self::Lost),
            Some([]) => Ok(Self::Ended),
            Some(bytes) => instant(bytes).map(Self::At),
        }
    }
}
