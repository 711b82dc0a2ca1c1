//! An append-only file of events that survives a kill -9 of its writer, and never merges two events.
//!
//! One line of JSON per event, written in one `write` to a file opened for appending: lines of many threads and
//! processes do not mix, and written lines are in the page cache, which survives the death of a process.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use crate::Event;

/// A ledger, open for appending.
#[derive(Debug)]
pub struct Ledger(File);

impl Ledger {
    /// Opens the ledger at `path`, and creates it if necessary.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().create(true).append(true).open(path).map(Self)
    }

    /// Writes one event.
    ///
    /// # Errors
    ///
    /// If the file cannot be written, or the disk took only a part of the line.
    pub fn append(&self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        match (&self.0).write(&line)? {
            written if written == line.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

/// Reads all events of the ledger at `path`; none if it was never opened.
///
/// # Errors
///
/// If the file cannot be read, or contains a line that is not an event.
pub fn read(path: &Path) -> io::Result<Vec<Event>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read?,
    };
    text.lines().map(|line| serde_json::from_str(line).map_err(io::Error::from)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;
    use crate::What;

    #[test]
    fn keeps_every_event_of_many_writers_even_equal_ones() {
        const WRITERS: usize = 8;
        const EACH: usize = 200;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let event = Arc::new(Event::now("s", "k", What::Effect { effect: "e".repeat(300), epoch: Some(1) }));
        let writers: Vec<_> = (0..WRITERS)
            .map(|_| {
                let (ledger, event) = (Ledger::open(&path).unwrap(), event.clone());
                thread::spawn(move || (0..EACH).for_each(|_| ledger.append(&event).unwrap()))
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        let events = read(&path).unwrap();
        assert_eq!(events.len(), WRITERS * EACH);
        assert!(events.iter().all(|read| *read == *event));
    }

    #[test]
    fn a_damaged_line_is_an_error_and_no_file_is_an_empty_ledger() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        assert_eq!(read(&path).unwrap(), []);
        fs::write(&path, "{\"at\":1,\n").unwrap();
        assert!(read(&path).is_err());
    }
}
