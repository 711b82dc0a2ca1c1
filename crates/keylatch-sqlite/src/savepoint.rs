//! A part of a closure that can fail without the rest.

use rusqlite::Connection;

/// Runs `closure` in a savepoint: if it fails or panics, only its writes are rolled back. For closures of
/// [`tx.run(…)`](super::Session::run) and [`Store::execute`](super::Store::execute); savepoints may be nested.
///
/// ```no_run
/// # async fn example(store: keylatch::sqlite::Store) -> Result<(), Box<dyn std::error::Error>> {
/// store
///     .execute(|db| {
///         db.execute("INSERT INTO job (name) VALUES ('nightly')", [])?;
///         // The job stays even if the notice fails.
///         let _ = keylatch::sqlite::savepoint(db, |db| db.execute("INSERT INTO notice (name) VALUES ('nightly')", []));
///         Ok(())
///     })
///     .await?;
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// The closure's, or SQLite's own.
pub fn savepoint<T, E>(db: &Connection, closure: impl FnOnce(&Connection) -> Result<T, E>) -> Result<T, E>
where
    E: From<rusqlite::Error>,
{
    let open = Open::begin(db)?;
    let done = closure(db)?;
    open.release()?;
    Ok(done)
}

/// A savepoint that is rolled back unless it is released.
struct Open<'db>(Option<&'db Connection>);

// Of savepoints with one name, SQLite means the innermost.

impl<'db> Open<'db> {
    fn begin(db: &'db Connection) -> rusqlite::Result<Self> {
        db.prepare_cached("SAVEPOINT own")?.execute([])?;
        Ok(Self(Some(db)))
    }

    fn release(mut self) -> rusqlite::Result<()> {
        match self.0.take() {
            Some(db) => db.prepare_cached("RELEASE own")?.execute([]).map(drop),
            None => Ok(()),
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let Some(db) = self.0 else { return };
        // These fail if a statement has ended the transaction. Then there is nothing left to roll back.
        let undone = db.prepare_cached("ROLLBACK TO own").and_then(|mut undo| undo.execute([]));
        let _ = undone.and_then(|_| db.prepare_cached("RELEASE own")?.execute([]));
    }
}
