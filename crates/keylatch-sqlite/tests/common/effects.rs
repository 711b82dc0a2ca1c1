//! The effects of the cases of `Atomic`, on SQLite.

use futures_util::future::BoxFuture;
use keylatch::sqlite::{Loaned, Store};

/// The table of effects.
pub(crate) const TABLE: &str = "effect";

/// Makes the table.
pub(crate) async fn create(store: &Store) {
    let create = "CREATE TABLE effect (text TEXT NOT NULL)";
    store.execute(|db| db.execute(create, [])).await.expect("the table is made");
}

/// Writes an effect into `table`.
pub(crate) fn write<'t>(tx: &'t mut Loaned, table: &str, effect: String) -> BoxFuture<'t, Result<(), String>> {
    let insert = format!("INSERT INTO {table} (text) VALUES (?1)");
    let written = tx.run(move |db| db.execute(&insert, [effect]));
    Box::pin(async { written.await.map(drop).map_err(|error| error.to_string()) })
}

/// Runs a statement that SQLite refuses.
pub(crate) fn fail(tx: &mut Loaned) -> BoxFuture<'_, ()> {
    let failed = tx.run(|db| db.execute("INSERT INTO effect (text) VALUES (NULL)", []));
    Box::pin(async { drop(failed.await.expect_err("there must be a text")) })
}

/// Tries to end the transaction.
pub(crate) fn end(tx: &mut Loaned) -> BoxFuture<'_, ()> {
    let ended = tx.run(|db| db.execute_batch("COMMIT"));
    Box::pin(async { drop(ended.await) })
}

/// All effects that are committed, in alphabetical order.
pub(crate) fn all(store: &Store) -> BoxFuture<'_, Vec<String>> {
    let read = store
        .query(|db| db.prepare("SELECT text FROM effect ORDER BY text")?.query_map([], |row| row.get(0))?.collect());
    Box::pin(async { read.await.expect("the effects are read") })
}
