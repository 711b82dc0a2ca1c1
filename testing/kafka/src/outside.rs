//! Handlers on a lease: what they do is not in a transaction of ours.

use keylatch::{Run, sqlite};
use keylatch_kafka::{Failed, Message};
use sqlx::PgPool;

use crate::{Effect, also, before, told};

/// What such a handler calls: it writes down each start, and takes effect once for each id, as a provider does that
/// honours keys.
#[derive(Debug, Clone)]
pub enum Outside {
    /// A file.
    Sqlite(sqlite::Store),
    /// A server.
    Postgres(PgPool),
}

/// With its table.
///
/// # Panics
///
/// If it does not answer.
pub async fn open_outside(outside: Outside) -> Outside {
    const SQLITE: &str = "CREATE TABLE IF NOT EXISTS starts (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, \
                          epoch INTEGER NOT NULL)";
    const POSTGRES: &str = "CREATE TABLE IF NOT EXISTS starts (number bigint GENERATED ALWAYS AS IDENTITY, id text NOT NULL, \
                            epoch bigint NOT NULL)";
    match &outside {
        Outside::Sqlite(store) => {
            store.execute(|db| db.execute(SQLITE, [])).await.expect("the table can be made");
        }
        Outside::Postgres(pool) => {
            sqlx::query(POSTGRES).execute(pool).await.expect("the table can be made");
        }
    }
    outside
}

impl Outside {
    async fn start(&self, id: &str, epoch: i64) -> Result<(), Failed> {
        match self {
            Self::Sqlite(store) => {
                let id = id.to_owned();
                let insert = "INSERT INTO starts (id, epoch) VALUES (?1, ?2)";
                store.execute(move |db| db.execute(insert, (id, epoch))).await?;
            }
            Self::Postgres(pool) => {
                let insert = sqlx::query("INSERT INTO starts (id, epoch) VALUES ($1, $2)");
                insert.bind(id).bind(epoch).execute(pool).await?;
            }
        }
        Ok(())
    }

    async fn effect(&self, Effect { id, key, sequence }: Effect) -> Result<(), Failed> {
        match self {
            Self::Sqlite(store) => {
                let insert = "INSERT INTO effects (id, key, sequence) SELECT ?1, ?2, ?3 \
                              WHERE NOT EXISTS (SELECT 1 FROM effects WHERE id = ?1)";
                store.execute(move |db| db.execute(insert, (id, key, sequence))).await?;
            }
            Self::Postgres(pool) => {
                let insert = sqlx::query(
                    "INSERT INTO effects (id, key, sequence) SELECT $1, $2, $3 \
                     WHERE NOT EXISTS (SELECT 1 FROM effects WHERE id = $1)",
                );
                insert.bind(id).bind(key).bind(sequence).execute(pool).await?;
            }
        }
        Ok(())
    }

    /// Id and epoch of each start, in their order.
    ///
    /// # Panics
    ///
    /// If it does not answer.
    pub async fn starts(&self) -> Vec<(String, i64)> {
        const SELECT: &str = "SELECT id, epoch FROM starts ORDER BY number";
        match self {
            Self::Sqlite(store) => {
                let starts = store.query(|db| {
                    let mut statement = db.prepare(SELECT)?;
                    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
                });
                starts.await.expect("the table can be read")
            }
            Self::Postgres(pool) => sqlx::query_as(SELECT).fetch_all(pool).await.expect("the table can be read"),
        }
    }
}

/// Applies a message outside.
///
/// # Errors
///
/// As the message says.
///
/// # Panics
///
/// As the message says.
pub async fn apply_outside(outside: Outside, run: Run, message: Message) -> Result<(), Failed> {
    let (effect, then) = told(&message)?;
    let epoch = i64::try_from(run.epoch().as_u64()).expect("an epoch is small");
    outside.start(&effect.id, epoch).await?;
    before(&then).await;
    outside.effect(effect.clone()).await?;
    also(&effect, &then)
}
