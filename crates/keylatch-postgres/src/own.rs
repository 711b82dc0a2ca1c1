//! Claims in the caller's own transaction, outside HTTP.

pub(super) mod client;
#[cfg(feature = "diesel")]
mod diesel;
mod sent;
#[cfg(feature = "tokio-postgres")]
mod tokio_postgres;

use client::{OwnTx, Param};
use sent::SentRow;
pub(super) use sent::instant;

use super::error::Fault;
use super::rows::damaged;
use super::transaction::Recorded;
use super::{Store, outbox, span_ms};
use keylatch_core::Record;
use keylatch_core::machine::{Claim, Completion};
use keylatch_core::outbox::Events;
use keylatch_core::store::{At, Error, ErrorKind};
use keylatch_core::tx::{Entered, InOwn, Seen};

impl Store {
    /// Claims the key for `tx`, a transaction that the caller has begun, of sqlx or [another client](OwnTx): until it
    /// ends, nobody else runs the request. Then do your writes, [complete](Self::complete_in), and commit: everything
    /// is committed, or nothing.
    ///
    /// It never waits for another transaction: if one holds the key, it says so. Then roll back before you wait and ask
    /// again, so that you hold no connection meanwhile. [`machine::decide`](keylatch_core::machine::decide) says what a
    /// held record means.
    ///
    /// Use READ COMMITTED, which is the default: at a stricter level the transaction may fail if a concurrent claim of
    /// the same key has just ended. If it has no `idle_in_transaction_session_timeout`, it gets one of
    /// [`Options::with_handler_pause_max`](super::Options::with_handler_pause_max), so that a process that stops in the
    /// middle does not keep the key.
    ///
    /// ```no_run
    /// # async fn example(store: keylatch::postgres::Store, claim: keylatch::machine::Claim) -> Result<(), Box<dyn std::error::Error>> {
    /// use keylatch::machine::Completion;
    /// use keylatch::postgres::{InOwn, sqlx};
    /// use keylatch::{Outcome, Policy};
    ///
    /// let mut tx = store.pool().begin().await?;
    /// if let InOwn::Entered(entered) = store.claim_in(&mut tx, &claim).await? {
    ///     sqlx::query("INSERT INTO invoice (customer) VALUES ('c1')").execute(&mut *tx).await?;
    ///     let completion = Completion::new(Outcome::bytes("done"), &Policy::default());
    ///     if store.complete_in(&mut tx, entered, completion).await?.is_some() {
    ///         tx.commit().await?;
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// If the store failed; the transaction can only be rolled back then.
    pub async fn claim_in<T: OwnTx + ?Sized>(&self, tx: &mut T, claim: &Claim) -> Result<InOwn, Error> {
        let id = claim.id();
        let params = vec![
            Param::Bytes(Some(id.as_bytes().to_vec())),
            Param::Bytes(Some(claim.owner.as_bytes().to_vec())),
            Param::Number(Some(self.shared.key_locks.of_key(&id))),
            Param::Number(self.shared.options.handler_pause_max.map(span_ms)),
        ];
        let call = self.shared.call(&self.shared.statements.enter_own, params);
        let reply = tx.call(call).await.map_err(|error| error.0)?;
        let reply = reply.ok_or_else(|| damaged("a claim has no reply"))?;
        let found = SentRow::read(&reply)?;
        let record = found.record.map(|(id, fields)| fields.record(id)).transpose()?;
        Ok(InOwn::of(claim, At { value: Seen { record, busy: found.flag != 0 }, now: found.now }))
    }

    /// Writes the record of what was [claimed](Self::claim_in) in this transaction, and the events that were
    /// [published](Entered::publish) with it. They count once the caller has committed. `None` if another owner has the record on a lease: then roll back and ask again.
    ///
    /// A commit whose reply is lost may have taken place. [Claim](Self::claim_in) again in a new transaction: either
    /// the record is there, or the transaction has not ended yet and the key is busy, or the claim wins because nothing
    /// was committed. After a commit with events, [wake](keylatch_core::outbox::Outbox::wake) the relay.
    ///
    /// # Errors
    ///
    /// If the store failed, or the transaction is not the one that claimed; it can only be rolled back then.
    pub async fn complete_in<T: OwnTx + ?Sized>(
        &self,
        tx: &mut T,
        entered: Entered,
        completion: Completion,
    ) -> Result<Option<At<Record>>, Error> {
        let finish = self.shared.finish(&entered, &completion, true, entered.events());
        let reply = tx.call(finish).await.map_err(|error| error.0)?;
        match Recorded::read(reply.as_deref())? {
            Recorded::At(now) => Ok(Some(At { value: entered.completed(&completion, now), now })),
            Recorded::Lost => Ok(None),
            Recorded::Ended => {
                let what = "the transaction was ended before its record was written";
                Err(Fault::new(ErrorKind::Refused, what).into())
            }
        }
    }

    /// Publishes events if `tx` commits, a transaction that the caller has begun, with or without a claim. Call it after
    /// your last statement: it locks the keys of the events until the commit, so that their order is that of the commits.
    /// After the commit, [wake](keylatch_core::outbox::Outbox::wake) the relay.
    ///
    /// # Errors
    ///
    /// If the store failed; the transaction can only be rolled back then.
    pub async fn publish_in<T: OwnTx + ?Sized>(&self, tx: &mut T, events: Events) -> Result<(), Error> {
        if events.is_empty() {
            return Ok(());
        }
        let call = self.shared.call(&self.shared.statements.publish, outbox::pack(&events).into());
        tx.call(call).await.map(drop).map_err(|error| error.0.into())
    }
}
