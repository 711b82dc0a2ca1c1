//! Claims in a transaction of the caller's own, outside HTTP.

use sqlx::postgres::PgConnection;

use super::Store;
use super::attempt::{Seen, completed};
use super::error::{Fault, Sent};
use super::ops::scalar;
use super::rows::Found;
use crate::machine::{self, Claim, Claimed, Completion};
use crate::store::{At, Error};
use crate::{Record, Timestamp};

/// Who has the key after a claim in the caller's own transaction.
#[derive(Debug)]
#[must_use]
pub enum InOwn {
    /// The caller's transaction, until it ends.
    Entered(Entered),
    /// This record.
    Held(At<Record>),
    /// Another transaction, at this moment, for whatever request: nothing final can be said of the key.
    Busy,
}

/// A claim that the caller's own transaction has won. Nothing is written yet.
#[derive(Debug)]
pub struct Entered {
    record: Record,
    seen: Seen,
}

impl Store {
    /// Claims the key for the transaction that the caller has open on `conn`: until it ends, nobody else runs the
    /// request. Then write what is to be written, [complete](Self::complete_in), and commit: all of it counts, or
    /// nothing.
    ///
    /// The transaction is best at READ COMMITTED, which is the default: a stricter one may fail where a concurrent claim
    /// of the same key has just ended. If it is not won, roll back before waiting, so that no connection is held
    /// meanwhile.
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
    pub async fn claim_in(&self, conn: &mut PgConnection, claim: &Claim) -> Result<InOwn, Error> {
        let shared = &self.shared;
        let id = claim.id();
        let query = shared
            .query(&shared.statements.enter_own)
            .bind(id.as_bytes().as_slice())
            .bind(claim.owner.as_bytes().as_slice())
            .bind(shared.key_locks.of_key(&id));
        let rows = query.fetch_all(conn).await.map_err(|error| Fault::of(&error, Sent::Harmless))?;
        let found = Found::one(rows)?;
        let (now, previous) = (found.now, found.record()?);
        let seen = Seen::of(previous.as_ref());
        Ok(match machine::claim(previous, claim, now) {
            Claimed::Held(record) => InOwn::Held(At { value: record, now }),
            Claimed::Won(_) if found.flag != 0 => InOwn::Busy,
            Claimed::Won(record) => InOwn::Entered(Entered { record, seen }),
        })
    }

    /// Writes the record of what was [claimed](Self::claim_in) in this transaction. It counts once the caller has
    /// committed. `None` if another has the record after all, on a lease: then roll back, and ask again.
    ///
    /// A commit whose reply is lost may have taken place: the record, if it is there, says so.
    ///
    /// # Errors
    ///
    /// If the store failed, or the transaction is not the one that claimed; it can only be rolled back then.
    pub async fn complete_in(
        &self,
        conn: &mut PgConnection,
        entered: Entered,
        completion: Completion,
    ) -> Result<Option<At<Record>>, Error> {
        let Entered { record, seen } = entered;
        let query = self.shared.finish(&record, &completion, seen, true);
        let rows = query.fetch_all(conn).await.map_err(|error| Fault::of(&error, Sent::Harmless))?;
        let Some(now) = scalar::<Option<i64>>(&rows)?.map(Timestamp::from_millis) else { return Ok(None) };
        Ok(Some(At { value: completed(&record, &completion, now)?, now }))
    }
}
