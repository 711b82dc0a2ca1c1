//! The options of a store.

use std::time::Duration;

use super::error::OpenError;
use super::synced::Replay;

/// The options of a [`Store`](super::Store). The defaults suit a service of a few processes.
#[derive(Debug, Clone)]
pub struct Options {
    pub(super) schema: String,
    pub(super) migrate: bool,
    pub(super) connections_max: u32,
    pub(super) connect_max: Duration,
    pub(super) statement_max: Duration,
    pub(super) handler_statement_max: Option<Duration>,
    pub(super) handler_pause_max: Option<Duration>,
    pub(super) handlers_max: Option<usize>,
    pub(super) batch_records_max: usize,
    pub(super) batches_at_once: usize,
    pub(super) compress_from_bytes: Option<usize>,
    pub(super) transaction_pooling: bool,
    pub(super) replay: Replay,
}

/// The default of [`Options::with_schema`].
pub const SCHEMA: &str = "keylatch";
/// The default of [`Options::with_connections_max`]: a server of four cores does the most work on about this many.
pub const CONNECTIONS_MAX: u32 = 16;
/// The default of [`Options::with_connect_max`]: longer than a server takes to restart after an orderly stop, and
/// shorter than most clients wait.
pub const CONNECT_MAX: Duration = Duration::from_secs(5);
/// The default of [`Options::with_statement_max`]: a statement of this store takes milliseconds. One that takes this
/// long will not return.
pub const STATEMENT_MAX: Duration = Duration::from_secs(10);
/// The default of [`Options::with_handler_statement_max`]: as long as most proxies wait for an answer.
pub const HANDLER_STATEMENT_MAX: Duration = Duration::from_secs(30);
/// The default of [`Options::with_handler_pause_max`]: a handler that awaits something else for this long blocks its
/// locks and a connection for everyone else.
pub const HANDLER_PAUSE_MAX: Duration = Duration::from_secs(30);
/// The default of [`Options::with_batch_records_max`]: at this size the share of a commit is so small that more records
/// would only make the first ones wait longer.
pub const BATCH_RECORDS_MAX: usize = 128;
/// The default of [`Options::with_batches_at_once`]: while one waits for the disk, the other is computed.
pub const BATCHES_AT_ONCE: usize = 2;
/// The default of [`Options::with_compression`]: below a kilobyte there is little to gain, and PostgreSQL stores the
/// row in one piece.
pub const COMPRESS_FROM_BYTES: usize = 1024;

impl Default for Options {
    fn default() -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            migrate: true,
            connections_max: CONNECTIONS_MAX,
            connect_max: CONNECT_MAX,
            statement_max: STATEMENT_MAX,
            handler_statement_max: Some(HANDLER_STATEMENT_MAX),
            handler_pause_max: Some(HANDLER_PAUSE_MAX),
            handlers_max: None,
            batch_records_max: BATCH_RECORDS_MAX,
            batches_at_once: BATCHES_AT_ONCE,
            compress_from_bytes: Some(COMPRESS_FROM_BYTES),
            transaction_pooling: false,
            replay: Replay::Committed,
        }
    }
}

impl Options {
    /// The schema in which Keylatch's tables are; [`SCHEMA`] by default. Lower-case letters, digits and `_`.
    #[must_use]
    pub fn with_schema(self, schema: &str) -> Self {
        Self { schema: schema.to_owned(), ..self }
    }

    /// Never changes the schema when it connects: the schema must exist. For a role without the right to, if another
    /// role calls [`migrate`](super::migrate).
    #[must_use]
    pub fn without_migration(self) -> Self {
        Self { migrate: false, ..self }
    }

    /// How many connections [`Store::connect`](super::Store::connect) opens at most, at least 1; [`CONNECTIONS_MAX`]
    /// by default.
    #[must_use]
    pub fn with_connections_max(self, connections: u32) -> Self {
        Self { connections_max: connections.max(1), ..self }
    }

    /// How long to wait for a connection, new or from the pool; [`CONNECT_MAX`] by default. After that the store is
    /// unavailable. While no new connection can be made, all callers but one at a time fail at once.
    #[must_use]
    pub fn with_connect_max(self, time: Duration) -> Self {
        Self { connect_max: time, ..self }
    }

    /// How long one of the store's own statements may take; [`STATEMENT_MAX`] by default. After that its connection is
    /// closed, and it is not known whether the statement was executed.
    #[must_use]
    pub fn with_statement_max(self, time: Duration) -> Self {
        Self { statement_max: time, ..self }
    }

    /// How long a handler's statement may take in `Atomic`, in whole milliseconds; [`HANDLER_STATEMENT_MAX`] by
    /// default. The server stops it then, and the handler gets the error. `None` leaves it to the server's setting.
    #[must_use]
    pub fn with_handler_statement_max(self, time: Option<Duration>) -> Self {
        Self { handler_statement_max: time, ..self }
    }

    /// How long a handler may await something else inside its transaction, in whole milliseconds; [`HANDLER_PAUSE_MAX`]
    /// by default. The server ends the transaction then. `None` leaves it to the server's setting.
    #[must_use]
    pub fn with_handler_pause_max(self, time: Option<Duration>) -> Self {
        Self { handler_pause_max: time, ..self }
    }

    /// How many handlers in `Atomic` hold a connection of the pool at once, at least 1; by default all of the pool's
    /// connections but one, or all where there are fewer than three. Others wait for their turn.
    ///
    /// A handler that holds a `keylatch::Tx` should not take another connection from the same pool: if all
    /// of them are held by handlers that want one more, all are stuck. The connection that is left is for handlers that
    /// do so anyway, one after the other. If they need more at once, set this to half, or give them their own pool.
    #[must_use]
    pub fn with_handlers_max(self, handlers: usize) -> Self {
        Self { handlers_max: Some(handlers.max(1)), ..self }
    }

    /// How many claims, or completions, share a statement at most, at least 1; [`BATCH_RECORDS_MAX`] by default.
    #[must_use]
    pub fn with_batch_records_max(self, records: usize) -> Self {
        Self { batch_records_max: records.max(1), ..self }
    }

    /// How many batches of claims, of completions and of looks may run at once, for each of the three, at least 1;
    /// [`BATCHES_AT_ONCE`] by default. Each has a connection of the pool while there is work.
    #[must_use]
    pub fn with_batches_at_once(self, batches: usize) -> Self {
        Self { batches_at_once: batches.max(1), ..self }
    }

    /// Outcomes of at least this many bytes are compressed (zstd); [`COMPRESS_FROM_BYTES`] by default, `None` for
    /// never. Both forms can always be read.
    #[must_use]
    pub fn with_compression(self, from_bytes: Option<usize>) -> Self {
        Self { compress_from_bytes: from_bytes, ..self }
    }

    /// For a server behind PgBouncer in transaction mode, before its version 1.21 or with `max_prepared_statements` 0:
    /// each statement runs in its own transaction and is prepared anew, which takes three more round trips. The pool
    /// must not keep prepared statements either: with [`Store::with_pool`](super::Store::with_pool), set
    /// `statement_cache_capacity(0)`, for the sake of the handlers, and `extra_float_digits(None)`, which PgBouncer
    /// refuses.
    #[must_use]
    pub fn with_transaction_pooling(self) -> Self {
        Self { transaction_pooling: true, ..self }
    }

    /// Which records an answer may come from; [`Replay::Committed`] by default.
    #[must_use]
    pub fn with_replay(self, replay: Replay) -> Self {
        Self { replay, ..self }
    }

    /// How many handlers may hold a connection of a pool of this size.
    pub(super) fn handlers_max(&self, connections: u32) -> usize {
        let connections = connections as usize;
        let spared = if connections < 3 { connections } else { connections - 1 };
        self.handlers_max.unwrap_or(spared).max(1)
    }

    /// Checks that the schema's name is valid, because it is written into statements.
    pub(super) fn check(&self) -> Result<(), OpenError> {
        const NAME_BYTES_MAX: usize = 63;
        let name = &self.schema;
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let starts = !name.is_empty() && !name.as_bytes()[0].is_ascii_digit() && !name.starts_with("pg_");
        if starts && name.len() <= NAME_BYTES_MAX && name.bytes().all(fits) {
            return Ok(());
        }
        Err(OpenError::SchemaName(name.clone()))
    }
}
