//! What consumers do in these tests: each message writes a row, and says in its value what else is to happen.
//!
//! The table of effects is the oracle. A message has a sequence number within its key, and a row of it names its id, its key
//! and that number; the rows are numbered in the order in which they were written.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use keylatch::postgres::Postgres;
use keylatch::sqlite::Sqlite;
use keylatch::{Tx, postgres, sqlite};
use keylatch_kafka::{Failed, Message};
use parking_lot::Mutex;

mod outside;

pub use outside::{Outside, apply_outside, open_outside};

/// The table, on SQLite.
pub const SQLITE: &str = "CREATE TABLE IF NOT EXISTS effects (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, \
                          key TEXT NOT NULL, sequence INTEGER NOT NULL)";
/// The table, on PostgreSQL, and one whose numbers are checked at the commit.
pub const POSTGRES: &str = "CREATE TABLE IF NOT EXISTS effects (number bigint GENERATED ALWAYS AS IDENTITY, id text NOT NULL, \
                            key text NOT NULL, sequence bigint NOT NULL); \
                            CREATE TABLE IF NOT EXISTS promised (number int UNIQUE DEFERRABLE INITIALLY DEFERRED)";

/// The row of a message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Effect {
    /// The message's id, or where it is.
    pub id: String,
    /// Its key.
    pub key: String,
    /// Its number within the key.
    pub sequence: i64,
}

/// A message's row, and what else is to happen: `5`, or `5 reject`.
fn told(message: &Message) -> Result<(Effect, String), Failed> {
    let text =
        |bytes: Option<&[u8]>| bytes.map_or("null".to_owned(), |bytes| String::from_utf8_lossy(bytes).into_owned());
    let value = text(message.value().map(|value| &**value));
    let (sequence, also) = value.split_once(' ').unwrap_or((&value, ""));
    let place = || format!("{}/{}/{}", message.topic(), message.partition(), message.offset());
    let id = message.header("message-id").or_else(|| message.header("ce_id")).map_or_else(place, |id| text(Some(id)));
    let key = text(message.key().map(|key| &**key));
    Ok((Effect { id, key, sequence: sequence.parse().unwrap_or(-1) }, also.to_owned()))
}

static MENDED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// From now on, the `broken` and `unwanted` messages of this key are applied.
pub fn mend(key: &str) {
    MENDED.lock().insert(key.to_owned());
}

/// What happens after the row is written.
fn also(effect: &Effect, also: &str) -> Result<(), Failed> {
    static SEEN: Mutex<Option<HashSet<Effect>>> = Mutex::new(None);
    match also {
        "reject" => Err(Failed::reject("the test says so")),
        "broken" if !MENDED.lock().contains(&effect.key) => Err(Failed::again("the service is broken")),
        "unwanted" if !MENDED.lock().contains(&effect.key) => Err(Failed::reject("nobody wants it")),
        "fail" => Err(Failed::again("the test says so")),
        "once" if SEEN.lock().get_or_insert_default().insert(effect.clone()) => Err(Failed::again("the test says so")),
        "abort" => std::process::abort(),
        "panic" => panic!("the test says so"),
        _ => Ok(()),
    }
}

async fn before(also: &str) {
    if let Some(millis) = also.strip_prefix("slow:") {
        tokio::time::sleep(Duration::from_millis(millis.parse().expect("a number"))).await;
    }
}

/// Applies a message on SQLite.
///
/// # Errors
///
/// As the message says.
pub async fn apply_sqlite(mut tx: Tx<Sqlite>, message: Message) -> Result<(), Failed> {
    let (effect, then) = told(&message)?;
    before(&then).await;
    let Effect { id, key, sequence } = effect.clone();
    tx.run(move |db| db.execute("INSERT INTO effects (id, key, sequence) VALUES (?1, ?2, ?3)", (id, key, sequence)))
        .await?;
    also(&effect, &then)
}

/// Applies a message on PostgreSQL.
///
/// # Errors
///
/// As the message says.
pub async fn apply_postgres(mut tx: Tx<Postgres>, message: Message) -> Result<(), Failed> {
    let (effect, then) = told(&message)?;
    sqlx::query("INSERT INTO effects (id, key, sequence) VALUES ($1, $2, $3)")
        .bind(&effect.id)
        .bind(&effect.key)
        .bind(effect.sequence)
        .execute(&mut *tx)
        .await?;
    if then == "defer" {
        // The server finds at the commit that the numbers are not unique.
        sqlx::query("INSERT INTO promised (number) VALUES (1), (1)").execute(&mut *tx).await?;
    }
    before(&then).await;
    also(&effect, &then)
}

/// An environment variable that a program needs.
///
/// # Panics
///
/// If it is not set, or is not text.
pub fn required(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A store in a file, with the table.
///
/// # Panics
///
/// If it cannot be opened.
pub async fn open_sqlite(path: &str) -> sqlite::Store {
    let store = sqlite::Store::open(path).await.expect("the file can be opened");
    store.execute(|db| db.execute(SQLITE, [])).await.expect("the table can be made");
    store
}

/// A store in a database, with the table.
///
/// # Panics
///
/// If it cannot be opened.
pub async fn open_postgres(url: &str) -> postgres::Store {
    // A takeover waits for the transaction of a process that was paused.
    let options = postgres::Options::default().with_handler_pause_max(Some(Duration::from_secs(4)));
    let store = postgres::Store::connect_with(url, options).await.expect("the database answers");
    sqlx::raw_sql(POSTGRES).execute(store.pool()).await.expect("the table can be made");
    store
}
