//! The same writes, from memory and without Keylatch.

use std::path::Path;
use std::time::Instant;

use keylatch::postgres::sqlx::{self, Connection as _, PgConnection};

use super::topic::{body, id};
use super::{Applied, BATCH, Mode, Row};
use crate::Result;

const TABLES: &str = "CREATE TABLE IF NOT EXISTS effect (number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body bytea \
                      NOT NULL); CREATE TABLE IF NOT EXISTS inbox (id text PRIMARY KEY); TRUNCATE effect, inbox";
pub(super) const INSERT: &str = "INSERT INTO effect (body) VALUES ($1)";
pub(super) const INSERT_ALL: &str = "INSERT INTO effect (body) SELECT * FROM unnest($1::bytea[])";
/// What an inbox costs at least: a row for each message.
const INBOX: &str = "INSERT INTO inbox (id) SELECT * FROM unnest($1::text[]) ON CONFLICT DO NOTHING";

/// Makes the tables, or empties them.
pub(super) async fn tables(url: &str) -> Result<PgConnection> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql(TABLES).execute(&mut connection).await?;
    Ok(connection)
}

pub(super) async fn postgres(row: Row, url: &str, count: usize) -> Result<Applied> {
    let mut connection = tables(url).await?;
    let size = if row.mode == Mode::Alone { 1 } else { BATCH };
    let bodies: Vec<Vec<u8>> = (0..count).map(body).collect();
    let ids: Vec<String> = (0..count).map(id).collect();
    let began = Instant::now();
    for (bodies, ids) in bodies.chunks(size).zip(ids.chunks(size)) {
        let mut tx = connection.begin().await?;
        if row.ids {
            sqlx::query(INBOX).bind(ids).execute(&mut *tx).await?;
        }
        if row.mode == Mode::All {
            sqlx::query(INSERT_ALL).bind(bodies).execute(&mut *tx).await?;
        } else {
            for body in bodies {
                sqlx::query(INSERT).bind(body).execute(&mut *tx).await?;
            }
        }
        tx.commit().await?;
    }
    Ok(Applied { messages: count, time: began.elapsed(), in_all: count })
}

/// As Keylatch opens its files: a write-ahead log, synced by each commit.
pub(super) fn sqlite(row: Row, file: &Path, count: usize) -> Result<Applied> {
    let mut connection = rusqlite::Connection::open(file)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.execute_batch(
        "CREATE TABLE effect (number INTEGER PRIMARY KEY, body BLOB NOT NULL);
                              CREATE TABLE inbox (id TEXT PRIMARY KEY) WITHOUT ROWID",
    )?;
    let messages: Vec<(String, Vec<u8>)> = (0..count).map(|number| (id(number), body(number))).collect();
    let began = Instant::now();
    for batch in messages.chunks(BATCH) {
        let tx = connection.transaction()?;
        for (id, body) in batch {
            if row.ids {
                tx.prepare_cached("INSERT OR IGNORE INTO inbox (id) VALUES (?1)")?.execute([id])?;
            }
            tx.prepare_cached("INSERT INTO effect (body) VALUES (?1)")?.execute([body])?;
        }
        tx.commit()?;
    }
    Ok(Applied { messages: count, time: began.elapsed(), in_all: count })
}
