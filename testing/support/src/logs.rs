//! What a program logs, as text.

use std::io::{self, Write};
use std::sync::Arc;

use parking_lot::Mutex;

/// What was written. A clone is the same one, so that a subscriber can have one for each line.
#[derive(Debug, Clone, Default)]
pub struct Logs(Arc<Mutex<Vec<u8>>>);

impl Logs {
    /// All of it so far.
    ///
    /// # Panics
    ///
    /// If it is not text.
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).expect("a log is text")
    }
}

impl Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
