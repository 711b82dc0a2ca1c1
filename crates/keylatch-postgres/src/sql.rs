//! The statements, in the schema of the store.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Postgres};

use super::options::Options;
use super::span_ms;

/// A statement with the name of the store's schema.
#[derive(Debug, Clone)]
pub(super) struct Statement {
    text: Arc<str>,
    /// Whether its plan may be kept.
    kept: bool,
}

impl Statement {
    /// `text` with everything of Keylatch's in `schema`, whose name [was checked](super::Options::check).
    pub(super) fn new(text: &str, schema: &str) -> Self {
        Self { text: in_schema(text, schema).into(), kept: true }
    }

    /// A statement that the server plans each time: how many rows it reads depends on the parameters and on the table,
    /// and it is rare, so the extra round trip does not matter.
    pub(super) fn planned_each_time(text: &str, schema: &str) -> Self {
        Self { kept: false, ..Self::new(text, schema) }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// A query of it, to be prepared once for each connection or, behind a pooler that knows no prepared statements,
    /// each time.
    pub(super) fn query<'q>(&self, prepared: bool) -> Query<'q, Postgres, PgArguments> {
        sqlx::query(AssertSqlSafe(self.text.clone())).persistent(prepared && self.kept)
    }
}

/// `text` with everything of Keylatch's in `schema`.
pub(super) fn in_schema(text: &str, schema: &str) -> String {
    text.replace("keylatch.", &format!("{schema}."))
        .replace("SCHEMA IF NOT EXISTS keylatch;", &format!("SCHEMA IF NOT EXISTS {schema};"))
}

/// The SQL that begins a transaction with limits on its pauses and statements; `None` leaves a limit to the server's
/// setting.
fn begin(pause_max: Option<Duration>, statement_max: Option<Duration>) -> String {
    let millis = |span: Option<Duration>| {
        // Zero would mean no limit.
        span.map_or_else(|| "DEFAULT".to_owned(), |span| span_ms(span).clamp(1, i32::MAX.into()).to_string())
    };
    include_str!("sql/begin.sql")
        .replace(":pause_ms", &millis(pause_max))
        .replace(":statement_ms", &millis(statement_max))
}

/// The SQL that begins one of the store's own transactions. The caller limits its statements: a limit on the server
/// would apply to the commit too, and could end its wait for a standby.
pub(super) fn begin_own(options: &Options) -> String {
    begin(Some(options.statement_max), None)
}

/// Every statement of a store.
#[derive(Debug)]
pub(super) struct Statements {
    pub(super) claim: Statement,
    pub(super) renew: Statement,
    pub(super) complete: Statement,
    pub(super) release: Statement,
    pub(super) resolve: Statement,
    pub(super) forget: Statement,
    pub(super) clock: Statement,
    pub(super) sweep: Statement,
    pub(super) read: Statement,
    pub(super) list: Statement,
    pub(super) lapsed: Statement,
    pub(super) count: Statement,
    pub(super) look: Statement,
    /// Begins a transaction of the store's own.
    pub(super) begin: Statement,
    /// Begins a handler's transaction, and takes the key for it.
    pub(super) enter: Statement,
    pub(super) enter_own: Statement,
    pub(super) finish_new: Statement,
    pub(super) finish_over: Statement,
    pub(super) synced: Statement,
    pub(super) take_place: Statement,
    pub(super) place_read: Statement,
    pub(super) places: Statement,
    pub(super) change_place: Statement,
    /// Begins a transaction for a batch of messages, and locks the place for it.
    pub(super) enter_place: Statement,
    pub(super) find: Statement,
    pub(super) pass: Statement,
    pub(super) letters: Statement,
    pub(super) dead_letter_exists: Statement,
    pub(super) dead_letter_want: Statement,
    pub(super) dead_letter_discard: Statement,
    pub(super) dead_letter_sweep: Statement,
    pub(super) place_remove: Statement,
    pub(super) publish: Statement,
    pub(super) pending: Statement,
    pub(super) settle: Statement,
    pub(super) stuck: Statement,
    pub(super) release_event: Statement,
    pub(super) backlog: Statement,
}

impl Statements {
    pub(super) fn new(options: &Options) -> Self {
        let statement = |text: &str| Statement::new(text, &options.schema);
        let planned_each_time = |text| Statement::planned_each_time(text, &options.schema);
        let entering = |enter: &str| {
            let mut statements = vec![begin(options.handler_pause_max, options.handler_statement_max)];
            if options.transaction_pooling {
                statements.push(include_str!("sql/forget_statements.sql").to_owned());
            }
            statements.push(enter.to_owned());
            statement(&statements.join(";\n"))
        };
        Self {
            claim: statement("SELECT * FROM keylatch.claim($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"),
            renew: statement(include_str!("sql/renew.sql")),
            complete: statement("SELECT clock, applied FROM keylatch.complete($1, $2, $3, $4, $5, $6)"),
            release: statement(include_str!("sql/release.sql")),
            resolve: statement(include_str!("sql/resolve.sql")),
            forget: statement(include_str!("sql/forget.sql")),
            clock: statement("SELECT keylatch.clock()"),
            sweep: planned_each_time(include_str!("sql/sweep.sql")),
            read: statement(include_str!("sql/read.sql")),
            list: planned_each_time(include_str!("sql/list.sql")),
            lapsed: planned_each_time(include_str!("sql/lapsed.sql")),
            count: planned_each_time(include_str!("sql/count.sql")),
            look: statement("SELECT * FROM keylatch.look($1, $2)"),
            begin: statement(&begin_own(options)),
            enter: entering(include_str!("sql/enter.sql")),
            enter_own: statement(include_str!("sql/enter_own.sql")),
            finish_new: statement(include_str!("sql/finish_new.sql")),
            finish_over: statement(include_str!("sql/finish_over.sql")),
            synced: statement(include_str!("sql/synced.sql")),
            take_place: statement(
                "SELECT keylatch.clock() AS clock, p.* FROM keylatch.take_place($1, $2, $3, $4) AS p",
            ),
            place_read: statement(include_str!("sql/place_read.sql")),
            places: planned_each_time(include_str!("sql/places.sql")),
            change_place: statement(include_str!("sql/change_place.sql")),
            enter_place: entering(include_str!("sql/enter_place.sql")),
            find: statement("SELECT * FROM keylatch.find($1)"),
            pass: statement(include_str!("sql/pass.sql")),
            letters: planned_each_time(include_str!("sql/dead_letters.sql")),
            dead_letter_exists: statement(include_str!("sql/dead_letter_exists.sql")),
            dead_letter_want: statement(include_str!("sql/dead_letter_want.sql")),
            dead_letter_discard: statement(include_str!("sql/dead_letter_discard.sql")),
            dead_letter_sweep: planned_each_time(include_str!("sql/dead_letter_sweep.sql")),
            place_remove: statement(include_str!("sql/place_remove.sql")),
            publish: statement(include_str!("sql/publish.sql")),
            pending: statement(include_str!("sql/pending.sql")),
            settle: statement("SELECT clock, applied FROM keylatch.settle_events($1, $2, $3, $4, $5, $6, $7)"),
            stuck: planned_each_time(include_str!("sql/stuck.sql")),
            release_event: statement("SELECT keylatch.release_event($1, $2, $3)"),
            backlog: planned_each_time(include_str!("sql/backlog.sql")),
        }
    }
}
