//! Keylatch's consumers.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use keylatch::Tx;
use keylatch::inbox::Inbox;
use keylatch::postgres::{self, Postgres, sqlx};
use keylatch::sqlite::{self, Sqlite};
use keylatch_kafka::{Consumer, Count, Failed, Message, Running};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::topic::{LONGEST, Topic};
use super::{Applied, BATCH, Mode, Row, raw};
use crate::Result;

pub(super) async fn postgres(row: Row, url: &str, topic: &Topic, count: usize) -> Result<Applied> {
    drop(raw::tables(url).await?);
    let store = postgres::Store::connect(url).await?;
    let running = match row.mode {
        Mode::Each | Mode::Alone => consumer(row, topic).each(store, insert)?,
        Mode::All => consumer(row, topic).all(store, insert_all)?,
    };
    run(running, count).await
}

pub(super) async fn sqlite(row: Row, file: &Path, topic: &Topic, count: usize) -> Result<Applied> {
    let store = sqlite::Store::open(file).await?;
    let table = "CREATE TABLE effect (number INTEGER PRIMARY KEY, body BLOB NOT NULL)";
    store.execute(move |db| db.execute(table, [])).await?;
    run(consumer(row, topic).each(store, insert_in_file)?, count).await
}

/// Each has a name of its own, and begins at the beginning.
fn consumer(row: Row, topic: &Topic) -> Consumer {
    static NAMES: AtomicU32 = AtomicU32::new(0);
    let name = format!("bench-{}", NAMES.fetch_add(1, Ordering::Relaxed));
    let consumer = Consumer::new(topic.kafka(), &name, [topic.name]);
    consumer.with_batch_max(if row.mode == Mode::Alone { 1 } else { BATCH })
}

async fn run<S: Inbox>(running: Running<S>, count: usize) -> Result<Applied> {
    let stats = running.stats();
    let (stop, stopped) = oneshot::channel::<()>();
    let consuming = tokio::spawn(running.run_until(async { drop(stopped.await) }));
    let until = Instant::now() + LONGEST;
    let applied = || usize::try_from(stats.of(Count::Applied)).unwrap_or(usize::MAX);
    let reach = async |count| {
        while applied() < count {
            if Instant::now() > until {
                return Err(format!("{} messages were applied", applied()));
            }
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    };
    // Joining the group is not measured.
    reach(1).await?;
    let (began, before) = (Instant::now(), applied());
    reach(count).await?;
    let (messages, time) = (applied() - before, began.elapsed());
    drop(stop);
    consuming.await?;
    let troubles = [Count::Retried, Count::Buried, Count::Fenced].map(|count| stats.of(count));
    if troubles.iter().any(|times| *times > 0) {
        return Err(format!("messages were retried, buried, fenced: {troubles:?}").into());
    }
    Ok(Applied { messages, time, in_all: applied() })
}

fn value(message: &Message) -> std::result::Result<Vec<u8>, Failed> {
    message.value().map(|value| value.to_vec()).ok_or_else(|| Failed::reject("it has no value"))
}

async fn insert(mut tx: Tx<Postgres>, message: Message) -> std::result::Result<(), Failed> {
    sqlx::query(raw::INSERT).bind(value(&message)?).execute(&mut *tx).await?;
    Ok(())
}

async fn insert_all(mut tx: Tx<Postgres>, messages: Vec<Message>) -> std::result::Result<(), Failed> {
    let values = messages.iter().map(value).collect::<std::result::Result<Vec<_>, _>>()?;
    sqlx::query(raw::INSERT_ALL).bind(values).execute(&mut *tx).await?;
    Ok(())
}

async fn insert_in_file(mut tx: Tx<Sqlite>, message: Message) -> std::result::Result<(), Failed> {
    let value = value(&message)?;
    tx.run(move |db| db.prepare_cached("INSERT INTO effect (body) VALUES (?1)")?.execute([value])).await?;
    Ok(())
}
