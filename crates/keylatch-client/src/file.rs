//! A journal in a SQLite file.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use keylatch_core::{Key, Timestamp};
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension as _, Row, TransactionBehavior, params};

use crate::journal::CREDENTIALS;
use crate::{BoxError, Entry, Journal, JournalError};

/// The most entries of a journal. They are unanswered requests, so as many mean that something is wrong.
const ENTRIES_MAX: u32 = 10_000;
/// The largest body in a journal: each one is written to disk before it is sent.
const ENTRY_BODY_BYTES_MAX: usize = 1 << 20;
/// How long a write waits for another process.
const BUSY_MAX: Duration = Duration::from_secs(30);

/// A journal in a SQLite file, which only this user may read: it contains the bodies of requests. Several processes may
/// share it. It keeps at most 10,000 entries, each with a body of at most 1 MiB.
///
/// `Authorization`, `Cookie` and `Proxy-Authorization` are not written. Give other secrets to the transport, and not to
/// the call.
pub struct FileJournal(Mutex<Connection>);

impl FileJournal {
    /// Opens the file, or creates it. It blocks the thread.
    ///
    /// # Errors
    ///
    /// If it cannot be opened, or has another format.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, JournalError> {
        create_private(path.as_ref()).map_err(|error| JournalError::Failed(error.into()))?;
        let mut db = Connection::open(path).map_err(failed)?;
        set_up(&mut db)?;
        Ok(Self(Mutex::new(db)))
    }
}

#[cfg(unix)]
fn create_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).map(drop)
}

#[cfg(not(unix))]
fn create_private(_: &Path) -> std::io::Result<()> {
    Ok(())
}

fn set_up(db: &mut Connection) -> Result<(), JournalError> {
    db.busy_timeout(BUSY_MAX).map_err(failed)?;
    db.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    // A commit is on disk before it returns.
    db.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    match tx.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)? {
        0 => {
            tx.execute_batch(include_str!("intent.sql")).map_err(failed)?;
            tx.pragma_update(None, "user_version", 1).map_err(failed)?;
        }
        1 => {}
        format => return Err(JournalError::Format(format)),
    }
    tx.commit().map_err(failed)
}

impl Journal for FileJournal {
    fn begin(&self, entry: Entry) -> Result<Entry, JournalError> {
        let request = &entry.request;
        if request.body().len() > ENTRY_BODY_BYTES_MAX {
            return Err(JournalError::TooLarge { bytes_max: ENTRY_BODY_BYTES_MAX });
        }
        let mut db = self.0.lock();
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let select = "SELECT key, created_unix_ms, method, url, headers, body FROM intent WHERE key = ?1";
        let found = tx.query_row(select, [entry.key.as_str()], |row| Ok(read(row))).optional().map_err(failed)?;
        if let Some(found) = found {
            return found;
        }
        let entries: u32 = tx.query_row("SELECT count(*) FROM intent", [], |row| row.get(0)).map_err(failed)?;
        if entries >= ENTRIES_MAX {
            return Err(JournalError::Full { entries });
        }
        let row = params![
            entry.key.as_str(),
            entry.created_at.as_millis(),
            request.method().as_str(),
            request.uri().to_string(),
            headers(request),
            &request.body()[..],
        ];
        tx.execute("INSERT INTO intent VALUES (?1, ?2, ?3, ?4, ?5, ?6)", row).map_err(failed)?;
        tx.commit().map_err(failed)?;
        Ok(entry)
    }

    fn end(&self, key: &Key) -> Result<(), JournalError> {
        self.0.lock().execute("DELETE FROM intent WHERE key = ?1", [key.as_str()]).map(drop).map_err(failed)
    }

    fn pending(&self) -> Result<Vec<Entry>, JournalError> {
        let db = self.0.lock();
        let select =
            "SELECT key, created_unix_ms, method, url, headers, body FROM intent ORDER BY created_unix_ms, rowid";
        let mut select = db.prepare(select).map_err(failed)?;
        let rows = select.query_map([], |row| Ok(read(row))).map_err(failed)?;
        rows.map(|row| row.map_err(failed)?).collect()
    }
}

impl fmt::Debug for FileJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileJournal")
    }
}

/// The headers of a request as lines, without credentials.
fn headers(request: &Request<Bytes>) -> Vec<u8> {
    let mut lines = Vec::new();
    for (name, value) in request.headers().iter().filter(|(name, _)| !CREDENTIALS.contains(name)) {
        lines.extend_from_slice(name.as_str().as_bytes());
        lines.push(b':');
        lines.extend_from_slice(value.as_bytes());
        lines.push(b'\n');
    }
    lines
}

fn read(row: &Row<'_>) -> Result<Entry, JournalError> {
    let text = |at| row.get::<_, String>(at).map_err(failed);
    let wrong = |error: BoxError| JournalError::Failed(error);
    let key = Key::new(&text(0)?).map_err(|error| wrong(error.into()))?;
    let created_at = Timestamp::from_millis(row.get(1).map_err(failed)?);
    let mut request = Request::builder().method(text(2)?.as_str()).uri(text(3)?);
    let lines = row.get::<_, Vec<u8>>(4).map_err(failed)?;
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        let name = HeaderName::from_bytes(name).map_err(|error| wrong(error.into()))?;
        let value = HeaderValue::from_bytes(value.get(1..).unwrap_or_default()).map_err(|error| wrong(error.into()))?;
        request = request.header(name, value);
    }
    let body = row.get::<_, Vec<u8>>(5).map_err(failed)?;
    let request = request.body(Bytes::from(body)).map_err(|error| wrong(error.into()))?;
    Ok(Entry { key, request, created_at })
}

fn failed(error: rusqlite::Error) -> JournalError {
    JournalError::Failed(error.into())
}
