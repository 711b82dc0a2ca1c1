//! What a user's closure may not do on the store's connection, and how the connection is restored afterwards.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{Action, AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode};

use super::checkpoint;

/// The guard of one connection.
///
/// While the connection is lent to a closure, SQLite refuses to prepare a statement that would end the batch's
/// transaction, change how the connection works, or write to Keylatch's own tables. It refuses every commit: after an
/// error that has ended the transaction, the next statement would otherwise commit by itself. And it interrupts a
/// statement that runs past the closure's time limit.
///
/// Changes by other means than statements are undone when the closure has ended.
#[derive(Debug, Clone)]
pub(super) struct Guard(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    is_lent: AtomicBool,
    /// When the closure's time is over, in milliseconds since `opened`.
    until_ms: AtomicU64,
    opened: Instant,
    /// Whether the closure has replaced one of the guard's own hooks.
    is_off: AtomicBool,
    /// Whether the closure has prepared a statement that changes the schema.
    changes_schema: AtomicBool,
    /// Why the closure's latest statement was refused, if one was.
    refused: Mutex<Option<Refused>>,
    time_max: Option<Duration>,
    is_writer: bool,
    busy_timeout: Duration,
    configs: Vec<(DbConfig, bool)>,
    limits: Vec<(Limit, i32)>,
}

/// How often a running statement checks whether its time is over: a fraction of a millisecond, in steps of SQLite's
/// virtual machine.
const STEPS_BETWEEN_LOOKS: i32 = 10_000;

/// Prepared statements that each connection keeps: the store's are fewer than 30, the rest is for the user's.
pub(super) const STATEMENTS_MAX: usize = 128;

impl Guard {
    /// Puts a guard on `conn`, which is set up. A closure may use it for `time_max`.
    pub(super) fn protect(
        conn: &Connection,
        busy_timeout: Duration,
        time_max: Option<Duration>,
        is_writer: bool,
    ) -> rusqlite::Result<Self> {
        let configs = CONFIGS.iter().filter_map(|config| Some((*config, conn.db_config(*config).ok()?))).collect();
        let limits = LIMITS.iter().filter_map(|limit| Some((*limit, conn.limit(*limit).ok()?))).collect();
        let guard = Self(Arc::new(Shared {
            is_lent: AtomicBool::new(false),
            until_ms: AtomicU64::new(u64::MAX),
            opened: Instant::now(),
            is_off: AtomicBool::new(false),
            changes_schema: AtomicBool::new(false),
            refused: Mutex::new(None),
            time_max,
            is_writer,
            busy_timeout,
            configs,
            limits,
        }));
        guard.hook(conn)?;
        Ok(guard)
    }

    fn hook(&self, conn: &Connection) -> rusqlite::Result<()> {
        let hook = Hook(self.0.clone());
        conn.commit_hook(Some(move || hook.shared().is_lent.load(Ordering::Relaxed)))?;
        let hook = Hook(self.0.clone());
        conn.progress_handler(STEPS_BETWEEN_LOOKS, Some(move || hook.shared().is_over()))?;
        let hook = Hook(self.0.clone());
        conn.authorizer(Some(move |context: AuthContext<'_>| hook.shared().authorize(context.action)))?;
        self.0.is_off.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// From now on a closure has the connection.
    pub(super) fn lend(&self) {
        *self.0.refused.lock() = None;
        let until = self.0.time_max.map_or(u64::MAX, |time| millis(self.0.opened.elapsed() + time));
        self.0.until_ms.store(until, Ordering::Relaxed);
        self.0.is_lent.store(true, Ordering::Relaxed);
    }

    /// The store has the connection again. Undoes what the closure has changed, and says whether its writes count.
    pub(super) fn take_back(&self, conn: &Connection) -> Returned {
        let is_late = self.0.is_over();
        self.0.is_lent.store(false, Ordering::Relaxed);
        if self.restore(conn).unwrap_or(true) {
            Returned::Changed
        } else if is_late {
            Returned::Late
        } else {
            Returned::Fine
        }
    }

    /// Ends the time of the closure that has the connection now, if any.
    pub(super) fn interrupt(&self) {
        self.0.until_ms.store(0, Ordering::Relaxed);
    }

    /// Whether the closure's time is over.
    pub(super) fn is_over(&self) -> bool {
        self.0.is_over()
    }

    /// The error of a closure, with the rule that its statement broke, if it did.
    pub(super) fn explain(&self, error: rusqlite::Error) -> rusqlite::Error {
        use rusqlite::Error as E;
        let Some(refused) = self.0.refused.lock().take() else { return error };
        match error {
            E::SqlInputError { error, sql, offset, .. } if error.code == DENIED => {
                E::SqlInputError { error, msg: refused.to_string(), sql, offset }
            }
            E::SqliteFailure(error, _) if error.code == DENIED => E::SqliteFailure(error, Some(refused.to_string())),
            error => error,
        }
    }

    /// Whether a closure may have changed the schema since this was last asked.
    pub(super) fn took_schema_change(&self) -> bool {
        self.0.changes_schema.swap(false, Ordering::Relaxed)
    }

    /// Restores the settings that all users of the connection share. Returns whether they were changed in a way that
    /// may have altered what the closure's own statements did.
    fn restore(&self, conn: &Connection) -> rusqlite::Result<bool> {
        let mut changed = false;
        for (config, value) in &self.0.configs {
            if conn.db_config(*config)? != *value {
                conn.set_db_config(*config, *value)?;
                changed = true;
            }
        }
        for (limit, value) in &self.0.limits {
            if conn.limit(*limit)? != *value {
                conn.set_limit(*limit, *value)?;
                changed = true;
            }
        }
        if self.0.is_off.load(Ordering::Relaxed) {
            self.hook(conn)?;
            changed = true;
        }
        // These hooks would see other callers' data later.
        conn.update_hook(None::<fn(Action, &str, &str, i64)>)?;
        conn.rollback_hook(None::<fn()>)?;
        conn.busy_timeout(self.0.busy_timeout)?;
        conn.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        if self.0.is_writer {
            checkpoint::watch(conn);
        }
        Ok(changed)
    }
}

/// The state in which a closure returns the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Returned {
    Fine,
    /// Too late.
    Late,
    /// Changed: the closure's writes cannot be relied on.
    Changed,
}

/// The guard's handle on a hook. SQLite keeps one of each kind, and drops it if a closure sets its own.
struct Hook(Arc<Shared>);

impl Hook {
    /// So that a closure captures the hook itself, and drops it.
    fn shared(&self) -> &Shared {
        &self.0
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.0.is_off.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    // A thread gets the connection through a lock after these are set.

    fn is_over(&self) -> bool {
        self.is_lent.load(Ordering::Relaxed) && millis(self.opened.elapsed()) >= self.until_ms.load(Ordering::Relaxed)
    }

    fn authorize(&self, action: AuthAction<'_>) -> Authorization {
        if !self.is_lent.load(Ordering::Relaxed) {
            return Authorization::Allow;
        }
        if changes_schema(&action) {
            self.changes_schema.store(true, Ordering::Relaxed);
        }
        let Some(refused) = refused(action) else { return Authorization::Allow };
        tracing::warn!("a statement of a closure was {refused}");
        *self.refused.lock() = Some(refused);
        Authorization::Deny
    }
}

const DENIED: ErrorCode = ErrorCode::AuthorizationForStatementDenied;

/// The rule that a statement breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("refused: {rule}. If a migration needs this, run it on its own connection before the store is opened")]
struct Refused {
    rule: Cow<'static, str>,
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The rule that forbids this action to a closure; `None` if it is allowed.
fn refused(action: AuthAction<'_>) -> Option<Refused> {
    use AuthAction as A;
    let rule: Cow<'static, str> = match action {
        A::Transaction { .. } => {
            "Keylatch begins and ends the transaction of a closure; for a part that may fail, see `sqlite::savepoint`"
                .into()
        }
        A::Attach { .. } | A::Detach { .. } => "a closure may use only the file of its store".into(),
        A::Pragma { pragma_name, .. } if PRAGMAS.iter().all(|name| !name.eq_ignore_ascii_case(pragma_name)) => {
            format!("PRAGMA {pragma_name} changes the connection, which other callers use as well").into()
        }
        A::Unknown { .. } => "this version does not know what the statement does".into(),
        // A savepoint that is still open when the closure ends is ended with its unit.
        A::Savepoint { savepoint_name: name, .. }
        | A::Insert { table_name: name }
        | A::Update { table_name: name, .. }
        | A::Delete { table_name: name }
        | A::CreateTable { table_name: name }
        | A::CreateTempTable { table_name: name }
        | A::CreateVtable { table_name: name, .. }
        | A::CreateIndex { table_name: name, .. }
        | A::CreateTempIndex { table_name: name, .. }
        | A::CreateTrigger { table_name: name, .. }
        | A::CreateTempTrigger { table_name: name, .. }
        | A::AlterTable { table_name: name, .. }
        | A::DropTable { table_name: name }
        | A::DropTempTable { table_name: name }
        | A::DropVtable { table_name: name, .. }
        | A::DropIndex { table_name: name, .. }
        | A::DropTrigger { table_name: name, .. }
        | A::CreateView { view_name: name }
        | A::CreateTempView { view_name: name }
            if is_ours(name) =>
        {
            "names that begin with `keylatch_` are Keylatch's: a closure may only read tables with such names".into()
        }
        _ => return None,
    };
    Some(Refused { rule })
}

/// Whether a table may have other constraints afterwards.
fn changes_schema(action: &AuthAction<'_>) -> bool {
    use AuthAction as A;
    matches!(action, A::CreateTable { .. } | A::CreateTempTable { .. } | A::CreateVtable { .. } | A::AlterTable { .. })
}

/// Pragmas that read facts about the file, or set the user's own fields in it.
const PRAGMAS: [&str; 19] = [
    "application_id",
    "collation_list",
    "compile_options",
    "data_version",
    "database_list",
    "foreign_key_check",
    "foreign_key_list",
    "freelist_count",
    "function_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "page_count",
    "quick_check",
    "table_info",
    "table_list",
    "table_xinfo",
    "user_version",
];

/// Settings of a connection that can be changed without a statement.
const CONFIGS: [DbConfig; 20] = [
    DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY,
    DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER,
    DbConfig::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER,
    DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE,
    DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG,
    DbConfig::SQLITE_DBCONFIG_TRIGGER_EQP,
    DbConfig::SQLITE_DBCONFIG_RESET_DATABASE,
    DbConfig::SQLITE_DBCONFIG_DEFENSIVE,
    DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA,
    DbConfig::SQLITE_DBCONFIG_LEGACY_ALTER_TABLE,
    DbConfig::SQLITE_DBCONFIG_DQS_DML,
    DbConfig::SQLITE_DBCONFIG_DQS_DDL,
    DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW,
    DbConfig::SQLITE_DBCONFIG_LEGACY_FILE_FORMAT,
    DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA,
    DbConfig::SQLITE_DBCONFIG_STMT_SCANSTATUS,
    DbConfig::SQLITE_DBCONFIG_REVERSE_SCANORDER,
    DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_CREATE,
    DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_WRITE,
    DbConfig::SQLITE_DBCONFIG_ENABLE_COMMENTS,
];

const LIMITS: [Limit; 12] = [
    Limit::SQLITE_LIMIT_LENGTH,
    Limit::SQLITE_LIMIT_SQL_LENGTH,
    Limit::SQLITE_LIMIT_COLUMN,
    Limit::SQLITE_LIMIT_EXPR_DEPTH,
    Limit::SQLITE_LIMIT_COMPOUND_SELECT,
    Limit::SQLITE_LIMIT_VDBE_OP,
    Limit::SQLITE_LIMIT_FUNCTION_ARG,
    Limit::SQLITE_LIMIT_ATTACHED,
    Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH,
    Limit::SQLITE_LIMIT_VARIABLE_NUMBER,
    Limit::SQLITE_LIMIT_TRIGGER_DEPTH,
    Limit::SQLITE_LIMIT_WORKER_THREADS,
];

fn is_ours(name: &str) -> bool {
    const PREFIX: &str = "keylatch_";
    name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}
