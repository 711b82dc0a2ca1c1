//! What a closure of the user's may not do on a connection of ours.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

/// Whether a connection is in the user's hands.
///
/// While it is, SQLite refuses to prepare a statement that would end the batch's transaction, change how the
/// connection works, or write to Keylatch's own tables. And it commits nothing: after an error that has ended the
/// transaction, the next statement would otherwise be one of its own.
#[derive(Debug, Clone, Default)]
pub(super) struct Guard(Arc<AtomicBool>);

impl Guard {
    /// Puts the guard on `conn`. It comes off only with the connection.
    pub(super) fn protect(&self, conn: &mut Connection) -> rusqlite::Result<()> {
        let lent = self.0.clone();
        conn.commit_hook(Some(move || lent.load(Ordering::Relaxed)))?;
        let lent = self.0.clone();
        conn.authorizer(Some(move |context: AuthContext<'_>| {
            // A thread that has the connection got it through a lock after this was set.
            if lent.load(Ordering::Relaxed) && !allowed(context.action) {
                return Authorization::Deny;
            }
            Authorization::Allow
        }))
    }

    /// From now on the connection is the user's, or ours again.
    pub(super) fn set_lent(&self, lent: bool) {
        self.0.store(lent, Ordering::Relaxed);
    }
}

fn allowed(action: AuthAction<'_>) -> bool {
    use AuthAction as A;
    match action {
        A::Transaction { .. } | A::Savepoint { .. } | A::Attach { .. } | A::Detach { .. } => false,
        A::Pragma { pragma_name, .. } => PRAGMAS.iter().any(|name| name.eq_ignore_ascii_case(pragma_name)),
        A::Insert { table_name }
        | A::Update { table_name, .. }
        | A::Delete { table_name }
        | A::CreateTable { table_name }
        | A::CreateTempTable { table_name }
        | A::CreateVtable { table_name, .. }
        | A::CreateIndex { table_name, .. }
        | A::CreateTempIndex { table_name, .. }
        | A::CreateTrigger { table_name, .. }
        | A::CreateTempTrigger { table_name, .. }
        | A::AlterTable { table_name, .. }
        | A::DropTable { table_name }
        | A::DropTempTable { table_name }
        | A::DropVtable { table_name, .. }
        | A::DropIndex { table_name, .. }
        | A::DropTrigger { table_name, .. } => !is_ours(table_name),
        A::CreateView { view_name } | A::CreateTempView { view_name } => !is_ours(view_name),
        A::Unknown { .. } => false,
        _ => true,
    }
}

/// Pragmas that tell about the file, or set what is the user's own in it.
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

fn is_ours(table: &str) -> bool {
    const PREFIX: &str = "keylatch_";
    table.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}
