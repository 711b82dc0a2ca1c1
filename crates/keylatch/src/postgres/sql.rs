//! The statements, in the schema of the store.

use std::sync::Arc;

use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Postgres};

use super::options::Options;

/// A statement, once it names the store's schema.
#[derive(Debug, Clone)]
pub(super) struct Statement(Arc<str>);

impl Statement {
    /// `text` with everything of Keylatch's in `schema`, whose name [was checked](super::Options::check).
    pub(super) fn new(text: &str, schema: &str) -> Self {
        Self(in_schema(text, schema).into())
    }

    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// A query of it, to be prepared once for each connection or, behind a pooler that knows no prepared statements,
    /// each time.
    pub(super) fn query<'q>(&self, prepared: bool) -> Query<'q, Postgres, PgArguments> {
        sqlx::query(AssertSqlSafe(self.0.clone())).persistent(prepared)
    }
}

/// `text` with everything of Keylatch's in `schema`.
pub(super) fn in_schema(text: &str, schema: &str) -> String {
    text.replace("keylatch.", &format!("{schema}."))
        .replace("SCHEMA IF NOT EXISTS keylatch;", &format!("SCHEMA IF NOT EXISTS {schema};"))
}

/// Every statement of a store.
#[derive(Debug)]
pub(super) struct Statements {
    pub(super) claim: Statement,
    pub(super) renew: Statement,
    pub(super) complete: Statement,
    pub(super) release: Statement,
    pub(super) resolve: Statement,
    pub(super) sweep: Statement,
    pub(super) read: Statement,
    pub(super) list: Statement,
    pub(super) lapsed: Statement,
    pub(super) count: Statement,
    pub(super) look: Statement,
    pub(super) enter: Statement,
    pub(super) enter_own: Statement,
    pub(super) finish: Statement,
    pub(super) synced: Statement,
}

impl Statements {
    pub(super) fn new(options: &Options) -> Self {
        let statement = |text| Statement::new(text, &options.schema);
        let enter = if options.transaction_pooling {
            include_str!("sql/enter_pooled.sql")
        } else {
            include_str!("sql/enter.sql")
        };
        Self {
            claim: statement(include_str!("sql/claim.sql")),
            renew: statement(include_str!("sql/renew.sql")),
            complete: statement(include_str!("sql/complete.sql")),
            release: statement(include_str!("sql/release.sql")),
            resolve: statement(include_str!("sql/resolve.sql")),
            sweep: statement(include_str!("sql/sweep.sql")),
            read: statement(include_str!("sql/read.sql")),
            list: statement(include_str!("sql/list.sql")),
            lapsed: statement(include_str!("sql/lapsed.sql")),
            count: statement(include_str!("sql/count.sql")),
            look: statement(include_str!("sql/look.sql")),
            enter: statement(enter),
            enter_own: statement(include_str!("sql/enter_own.sql")),
            finish: statement(include_str!("sql/finish.sql")),
            synced: statement(include_str!("sql/synced.sql")),
        }
    }
}
