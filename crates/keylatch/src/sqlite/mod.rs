//! SQLite.
/// Marks a handler's transaction as one on SQLite.
#[derive(Debug, Clone, Copy)]
pub struct Sqlite;
