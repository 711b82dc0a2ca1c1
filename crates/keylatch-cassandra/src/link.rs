//! The statements, and the connections that they are sent over.

use std::sync::Arc;
use std::time::Duration;

use scylla::client::PoolSize;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::deserialize::row::DeserializeRow;
use scylla::errors::{DbError, NewSessionError, RequestAttemptError, UseKeyspaceError};
use scylla::policies::host_filter::DcHostFilter;
use scylla::policies::retry::{RequestInfo, RetryDecision, RetryPolicy, RetrySession};
use scylla::response::query_result::QueryResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency};
use scylla::value::{CqlValue, MaybeUnset, Row as AnyRow};

use super::address::Address;
use super::error::{ConnectError, Failed};
use super::options::Options;
use super::scan;
use super::value::{Columns, Keep, Row};
use keylatch_core::{Lease, Timestamp};

/// How often a connection is tried when nothing else is sent. A node that has stopped is no longer asked after this and
/// the response timeout.
const KEEPALIVE: Duration = Duration::from_secs(1);

/// The session, and every statement of the store.
pub(super) struct Link {
    pub(super) session: Session,
    claim: PreparedStatement,
    replace: PreparedStatement,
    /// Two statements: the answer's column ends before the others.
    complete: Batch,
    remove: PreparedStatement,
    read: PreparedStatement,
    /// The same, of what is committed: for lists.
    pub(super) look: PreparedStatement,
    pub(super) exist: PreparedStatement,
    page: PreparedStatement,
    /// Both entries of a claim, in one message.
    marks: Batch,
    unmark_running: PreparedStatement,
    pub(super) clean_running: PreparedStatement,
    pub(super) list_running: PreparedStatement,
    pub(super) mark_scope: PreparedStatement,
    pub(super) clean_scope: PreparedStatement,
    pub(super) list_scope: PreparedStatement,
    pub(super) time: PreparedStatement,
}

/// What became of a transaction.
#[derive(Debug)]
pub(super) enum Cas<T> {
    Applied,
    /// Its condition was not met.
    Not(T),
}

/// How a statement is sent.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A transaction, at `SERIAL`, sent once.
    Transaction,
    /// A read at `SERIAL`: it finishes what another transaction has left behind, and sees it.
    SerialRead,
    /// Of what a majority has.
    Read,
    /// Of an index, to a majority.
    Write,
    /// Of one node.
    One,
}

/// A session on the cluster at `address`.
pub(super) async fn session(address: &Address, options: &Options) -> Result<Session, ConnectError> {
    // The driver doubles nothing by itself, and repeats only what was refused: a write that it repeats could take effect
    // twice.
    let profile = ExecutionProfile::builder()
        .consistency(Consistency::Quorum)
        .serial_consistency(Some(SerialConsistency::Serial))
        .request_timeout(Some(options.response_timeout))
        .retry_policy(Arc::new(ElsewhereIfRefused))
        .speculative_execution_policy(None)
        .build();
    let mut builder = SessionBuilder::new()
        .known_nodes(&address.nodes)
        .use_keyspace(&address.keyspace, true)
        .keyspaces_to_fetch([&address.keyspace])
        .fetch_full_schema_metadata(false)
        .default_execution_profile_handle(profile.into_handle())
        .connection_timeout(options.connect_timeout)
        .pool_size(PoolSize::PerHost(std::num::NonZeroUsize::MIN))
        .keepalive_interval(KEEPALIVE)
        .keepalive_timeout(options.response_timeout)
        .tcp_nodelay(true);
    if let Some(login) = address.login(options.login.as_ref()) {
        builder = builder.user(login.user, login.password);
    }
    let centre = address.data_centre.as_ref().or(options.data_centre.as_ref());
    if let Some(name) = centre {
        builder = builder.host_filter(Arc::new(DcHostFilter::new(name.clone())));
    }
    #[cfg(not(feature = "tls"))]
    if address.tls.is_some() {
        return Err(ConnectError::WithoutTls);
    }
    #[cfg(feature = "tls")]
    let builder = super::tls::encrypted(builder, address, options)?;
    let session = builder.build().await.map_err(|error| match error {
        NewSessionError::UseKeyspaceError(UseKeyspaceError::RequestError(RequestAttemptError::DbError(
            DbError::Invalid,
            _,
        ))) => ConnectError::NoKeyspace { keyspace: address.keyspace.clone() },
        error => ConnectError::Unreachable(Box::new(error)),
    })?;
    let nodes = session.get_cluster_state();
    match centre.filter(|name| nodes.get_nodes_info().iter().all(|node| node.datacenter.as_ref() != Some(name))) {
        None => Ok(session),
        Some(name) => Err(ConnectError::NoDataCentre { name: name.clone() }),
    }
}

/// A node that knows of too few living replicas refuses a statement before it does anything. It may be cut off from the
/// others, so another one is asked.
#[derive(Debug)]
struct ElsewhereIfRefused;

impl RetryPolicy for ElsewhereIfRefused {
    fn new_session(&self) -> Box<dyn RetrySession> {
        Box::new(Self)
    }
}

impl RetrySession for ElsewhereIfRefused {
    fn decide_should_retry(&mut self, failed: RequestInfo<'_>) -> RetryDecision {
        match failed.error {
            RequestAttemptError::DbError(DbError::Unavailable { .. }, _) => RetryDecision::RetryNextTarget(None),
            _ => RetryDecision::DontRetry,
        }
    }

    fn reset(&mut self) {}
}

async fn prepare(session: &Session, cql: &str, kind: Kind) -> Result<PreparedStatement, ConnectError> {
    let mut prepared = session.prepare(cql).await.map_err(|error| ConnectError::Prepare(Box::new(error)))?;
    prepared.set_use_cached_result_metadata(matches!(kind, Kind::SerialRead | Kind::Read));
    prepared.set_consistency(match kind {
        Kind::SerialRead => Consistency::Serial,
        Kind::One => Consistency::One,
        Kind::Transaction | Kind::Read | Kind::Write => Consistency::Quorum,
    });
    Ok(prepared)
}

impl Link {
    pub(super) async fn new(session: Session) -> Result<Self, ConnectError> {
        use Kind::{One, Read, SerialRead, Transaction, Write};
        macro_rules! prepared {
            ($($name:ident: $kind:ident),* $(,)?) => {
                tokio::try_join!($(prepare(
                    &session,
                    include_str!(concat!("cql/", stringify!($name), ".cql")),
                    $kind
                )),*)?
            };
        }
        let (claim, replace, replace_all, set_outcome, remove) = prepared! {
            claim: Transaction, replace: Transaction, replace_all: Transaction, set_outcome: Transaction,
            remove: Transaction,
        };
        let (read, look, exist, page, time) = prepared! {
            read: SerialRead, look: Read, exist: Read, page: Read, time: One,
        };
        let (mark_running, unmark_running, clean_running, list_running) = prepared! {
            mark_running: Write, unmark_running: Write, clean_running: Write, list_running: Read,
        };
        let (mark_scope, clean_scope, list_scope) = prepared! {
            mark_scope: Write, clean_scope: Write, list_scope: Read,
        };
        let mut complete =
            Batch::new_with_statements(BatchType::Unlogged, vec![replace_all.into(), set_outcome.into()]);
        complete.set_consistency(Consistency::Quorum);
        complete.set_serial_consistency(Some(SerialConsistency::Serial));
        let marks = vec![mark_running.into(), mark_scope.clone().into()];
        let mut marks = Batch::new_with_statements(BatchType::Unlogged, marks);
        marks.set_consistency(Consistency::Quorum);
        Ok(Self {
            session,
            claim,
            replace,
            complete,
            remove,
            read,
            look,
            exist,
            page,
            marks,
            unmark_running,
            clean_running,
            list_running,
            mark_scope,
            clean_scope,
            list_scope,
            time,
        })
    }

    /// Writes the first record of a key, or returns the columns of the one that is there.
    pub(super) async fn claim(&self, id: &[u8], row: &Row) -> Result<Cas<Columns>, Failed> {
        let values = (row.epoch, row.owner.as_slice(), row.revision, &row.record, id);
        let result = self.session.execute_unpaged(&self.claim, values).await.map_err(|error| Failed::of(&error))?;
        let mut columns = match applied(result)? {
            Cas::Applied => return Ok(Cas::Applied),
            Cas::Not(columns) => columns.into_iter(),
        };
        let mut next = || columns.next().flatten();
        let columns = (number(next().as_ref())?, blob(next())?, number(next().as_ref())?, blob(next())?, blob(next())?);
        Ok(Cas::Not(columns))
    }

    /// Writes a record in place of the one with this lease and revision. `outcome`: whether the old row may have an
    /// answer.
    pub(super) async fn replace(
        &self,
        id: &[u8],
        row: &Row,
        keep: Keep,
        (lease, revision): (&Lease, i64),
        had_outcome: bool,
    ) -> Result<Cas<()>, Failed> {
        let owner = lease.owner.as_bytes().as_slice();
        let condition = (super::value::stored_epoch(lease.epoch), owner, revision);
        let (written, outcome) = (row.owner.as_slice(), row.outcome.as_deref());
        let result = if outcome.is_some() && keep.outcome != keep.record {
            let all = (keep.record, row.epoch, written, row.revision, &row.record, id);
            let all = (all.0, all.1, all.2, all.3, all.4, all.5, condition.0, condition.1, condition.2);
            self.session.batch(&self.complete, (all, (keep.outcome, outcome, id))).await
        } else {
            let outcome = match outcome {
                None if !had_outcome => MaybeUnset::Unset,
                outcome => MaybeUnset::Set(outcome),
            };
            let (epoch, owner, revision) = condition;
            let values =
                (keep.record, row.epoch, written, row.revision, &row.record, outcome, id, epoch, owner, revision);
            self.session.execute_unpaged(&self.replace, values).await
        };
        Ok(match applied(result.map_err(|error| Failed::of(&error))?)? {
            Cas::Applied => Cas::Applied,
            Cas::Not(_) => Cas::Not(()),
        })
    }

    /// Removes the record with this lease and revision.
    pub(super) async fn remove(&self, id: &[u8], lease: &Lease, revision: i64) -> Result<Cas<()>, Failed> {
        let epoch = super::value::stored_epoch(lease.epoch);
        let values = (id, epoch, lease.owner.as_bytes().as_slice(), revision);
        let result = self.session.execute_unpaged(&self.remove, values).await.map_err(|error| Failed::of(&error))?;
        Ok(match applied(result)? {
            Cas::Applied => Cas::Applied,
            Cas::Not(_) => Cas::Not(()),
        })
    }

    /// Reads a row as the latest transaction left it.
    pub(super) async fn read(&self, id: &[u8]) -> Result<Columns, Failed> {
        Ok(self.rows::<Columns>(&self.read, (id,)).await?.pop().unwrap_or_default())
    }

    /// So many of the first rows with a token after the one and up to the other.
    pub(super) async fn page(&self, after: i64, to: i64, limit: usize) -> Result<Vec<scan::Row>, Failed> {
        type Row = (i64, Vec<u8>, Option<i64>, Option<Vec<u8>>, Option<i64>, Option<Vec<u8>>, Option<Vec<u8>>);
        let limit = i32::try_from(limit).unwrap_or(i32::MAX);
        let rows: Vec<Row> = self.rows(&self.page, (after, to, limit)).await?;
        let row = |(token, key, epoch, owner, revision, record, outcome): Row| scan::Row {
            token,
            key,
            columns: (epoch, owner, revision, record, outcome),
        };
        Ok(rows.into_iter().map(row).collect())
    }

    /// The rows that a statement reads.
    pub(super) async fn rows<R>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<Vec<R>, Failed>
    where
        R: for<'f, 'm> DeserializeRow<'f, 'm>,
    {
        let result = self.session.execute_unpaged(statement, values).await;
        let rows = result.map_err(|error| Failed::of_read(&error))?.into_rows_result();
        let rows = rows.map_err(|_| Failed::Nonsense("a read without rows"))?;
        let rows = rows.rows::<R>().map_err(|_| Failed::Nonsense("a read of other columns"))?;
        rows.collect::<Result<_, _>>().map_err(|_| Failed::Nonsense("a row that cannot be read"))
    }

    /// Writes both entries of a claim.
    pub(super) async fn mark(&self, running: impl SerializeRow, scope: impl SerializeRow) -> Result<(), Failed> {
        let marked = self.session.batch(&self.marks, (running, scope)).await;
        marked.map(drop).map_err(|error| Failed::of_read(&error))
    }

    /// Removes the entries of runs that have ended, in one message.
    pub(super) async fn unmark(&self, entries: Vec<impl SerializeRow>) -> Result<(), Failed> {
        let statements = entries.iter().map(|_| self.unmark_running.clone().into()).collect();
        let mut batch = Batch::new_with_statements(BatchType::Unlogged, statements);
        batch.set_consistency(Consistency::Quorum);
        self.session.batch(&batch, entries).await.map(drop).map_err(|error| Failed::of_read(&error))
    }

    /// Writes to an index. It can be sent again.
    pub(super) async fn write(&self, statement: &PreparedStatement, values: impl SerializeRow) -> Result<(), Failed> {
        // What an index may name needs not to be known: a failed write is one that did not happen.
        self.session.execute_unpaged(statement, values).await.map(drop).map_err(|error| Failed::of_read(&error))
    }
}

/// Whether a transaction was applied; if not, the columns that follow the answer.
fn applied(result: QueryResult) -> Result<Cas<Vec<Option<CqlValue>>>, Failed> {
    const NONSENSE: Failed = Failed::Nonsense("the result of a transaction");
    let rows = result.into_rows_result().map_err(|_| NONSENSE)?;
    let row = rows.first_row::<AnyRow>().map_err(|_| NONSENSE)?;
    let mut columns = row.columns;
    match columns.first() {
        Some(Some(CqlValue::Boolean(true))) => Ok(Cas::Applied),
        Some(Some(CqlValue::Boolean(false))) => Ok(Cas::Not(columns.split_off(1))),
        _ => Err(NONSENSE),
    }
}

fn number(value: Option<&CqlValue>) -> Result<Option<i64>, Failed> {
    match value {
        None => Ok(None),
        Some(CqlValue::BigInt(number)) => Ok(Some(*number)),
        Some(_) => Err(Failed::Nonsense("a column that is no number")),
    }
}

fn blob(value: Option<CqlValue>) -> Result<Option<Vec<u8>>, Failed> {
    match value {
        None => Ok(None),
        Some(CqlValue::Blob(bytes)) => Ok(Some(bytes)),
        Some(_) => Err(Failed::Nonsense("a column that is no blob")),
    }
}

/// A time as the cluster tells it.
pub(super) fn time(value: scylla::value::CqlTimestamp) -> Timestamp {
    Timestamp::from_millis(value.0)
}
