//! Effects in the same file, fenced by the lease.

use rusqlite::{Connection, params};

use super::TxError;
use keylatch_core::Lease;

/// Fails unless `lease` still holds its record, in the transaction of `db`: its other writes commit only if nobody has
/// taken over before.
///
/// For a run on a lease (`keylatch::Run::lease`) whose effect is in the file that keeps its record:
///
/// ```no_run
/// # async fn effect(store: keylatch::sqlite::Store, run: keylatch::Run) -> Result<(), Box<dyn std::error::Error>> {
/// let lease = run.lease();
/// store
///     .execute(move |db| {
///         keylatch::sqlite::assert_owner(db, lease)?;
///         db.execute("UPDATE stock SET pieces = pieces - 1 WHERE product = 'p1'", [])
///     })
///     .await?;
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// [`rusqlite::Error::UserFunctionError`] with [`LeaseLost`] if it does not, or SQLite's own error.
pub fn assert_owner(db: &Connection, lease: Lease) -> rusqlite::Result<()> {
    let epoch = i64::try_from(lease.epoch.as_u64()).unwrap_or(i64::MAX);
    let mut statement = db.prepare_cached(include_str!("sql/owner.sql"))?;
    let owned = statement.query_row(params![lease.id.as_bytes(), epoch, lease.owner.as_bytes()], |row| row.get(0))?;
    if owned { Ok(()) } else { Err(rusqlite::Error::UserFunctionError(Box::new(LeaseLost))) }
}

/// Another attempt has taken over, or the run has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lease was lost: another attempt has taken over, or the run has ended; this one must stop")]
pub struct LeaseLost;

impl TxError {
    /// Whether it is because [`assert_owner`] found the lease lost.
    pub fn is_lease_lost(&self) -> bool {
        match self {
            Self::Sql(rusqlite::Error::UserFunctionError(error)) => error.is::<LeaseLost>(),
            _ => false,
        }
    }
}
