//! Cleans up in slices, so that other writes go between them.

use std::time::{Duration, Instant};

use rusqlite::params;

use super::db::Db;
use super::error::Fault;
use super::rows;
use super::worker::Queue;
use keylatch_core::machine::{self, Change};
use keylatch_core::store::{Error, Swept};
use keylatch_core::{Outcome, State};

/// How many records one slice looks at.
const SLICE_RECORDS_MAX: usize = 100;
/// After this time a slice takes no further record. A long answer has many pages to free.
const SLICE_TIME_MAX: Duration = Duration::from_millis(5);

/// Cleans up to `limit` records.
pub(super) async fn sweep(writer: &Queue, limit: usize) -> Result<Swept, Error> {
    let mut swept = Swept::default();
    let mut after = Some(Place::FIRST);
    while let (Some(from), true) = (after, swept.total() < limit) {
        let left = limit - swept.total();
        match writer.call(move |db| slice(db, from, left)).await {
            Ok(slice) => {
                swept += slice.swept;
                after = slice.after;
            }
            Err(error) if swept.total() == 0 => return Err(error),
            // What was done stays done. The next sweep reports the error.
            Err(_) => return Ok(Swept { more: true, ..swept }),
        }
    }
    Ok(swept.within(limit))
}

/// How far a sweep has come. It does not look again at records that it has left: a record that cannot be read stays for
/// an operator to look at, and must not block the others.
#[derive(Debug, Clone, Copy)]
struct Place {
    due_at: i64,
    rowid: i64,
}

impl Place {
    const FIRST: Self = Self { due_at: i64::MIN, rowid: i64::MIN };
}

struct Slice {
    swept: Swept,
    /// Where to go on, if there may be more.
    after: Option<Place>,
}

fn slice(db: &mut Db, from: Place, limit: usize) -> Result<Slice, Fault> {
    let (now, begun) = (db.now(), Instant::now());
    // A sweep does not need the answer, which may be long. This stands in for it, and is never written.
    let any = Outcome::bytes(&b""[..]).encode();
    let mut slice = Slice { swept: Swept::default(), after: None };
    let (mut found, mut damaged) = (Vec::new(), None);
    let mut statement = db.prepare(include_str!("sql/due.sql"))?;
    let mut rows = db.done(statement.query(params![now.as_millis(), from.due_at, from.rowid, any]))?;
    while let Some(row) = db.done(rows.next())? {
        let place = Place { rowid: db.done(row.get(0))?, due_at: db.done(row.get(18))? };
        match rows::decode(row) {
            Ok(due) => found.push((place, due)),
            Err(error) => damaged = damaged.or(Some(error)),
        }
        if found.len() >= SLICE_RECORDS_MAX.min(limit) {
            slice.after = Some(place);
            break;
        }
    }
    drop(rows);
    drop(statement);
    if let Some(first) = damaged {
        tracing::error!(%first, "records that are due to be cleaned cannot be read; they are left as they are");
    }
    for (place, due) in found {
        match machine::sweep(&due.record, now) {
            Change::None => {}
            Change::Write(next) => {
                assert!(matches!(next.state, State::Completed { outcome: None, .. }), "a sweep takes answers away");
                db.put(next.id(), Some(due.rowid), &next)?;
                slice.swept.tombstoned += 1;
            }
            Change::Remove => {
                db.delete(due.rowid)?;
                slice.swept.removed += 1;
            }
        }
        if begun.elapsed() >= SLICE_TIME_MAX {
            slice.after = Some(place);
            break;
        }
    }
    Ok(slice)
}
