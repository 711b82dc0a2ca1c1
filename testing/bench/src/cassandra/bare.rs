//! The two transactions that the store sends for a pair, with values of the same sizes, and nothing else. They are the
//! baseline.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use keylatch::store::Owner;
use keylatch::{Key, RecordId, Scope};
use scylla::client::PoolSize;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::policies::retry::FallthroughRetryPolicy;
use scylla::response::query_result::QueryResult;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency};
use scylla::value::Row;
use testing_support::cassandra::Cluster;

use crate::Result;
use crate::connection::KEY_PREFIX;

const CLAIM: &str = include_str!("../../../../crates/keylatch-cassandra/src/cql/claim.cql");
const REPLACE: &str = include_str!("../../../../crates/keylatch-cassandra/src/cql/replace.cql");
/// A record and its entry in the list of a scope, without a transaction: they only have to be there.
const FILL: [&str; 2] = [
    "UPDATE record USING TTL ? SET epoch = ?, owner = ?, revision = ?, record = ?, outcome = ? WHERE id = ?",
    "INSERT INTO by_scope (scope, bucket, key, at) VALUES (?, ?, ?, 0) USING TTL ?",
];
/// How many records are written at once.
const FILLED_AT_ONCE: u64 = 128;
const FILLED_SCOPES: u64 = 1_000;
/// What a completed record has left of its time by default: nine days.
const TTL: i32 = 777_600;
/// Longer than Cassandra itself tries.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Bare {
    session: Session,
    claim: PreparedStatement,
    replace: PreparedStatement,
    fill: [PreparedStatement; 2],
    /// The columns of a record that the store has written.
    record: Vec<u8>,
    outcome: Vec<u8>,
}

impl Bare {
    /// A session as the store has one, on a keyspace where the store has written a record.
    pub(super) async fn connect(cluster: &Cluster, keyspace: &str) -> Result<Self> {
        let profile = ExecutionProfile::builder()
            .consistency(Consistency::Quorum)
            .serial_consistency(Some(SerialConsistency::Serial))
            .request_timeout(Some(TIMEOUT))
            .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
            .build();
        let session = SessionBuilder::new()
            .known_nodes(cluster.servers())
            .use_keyspace(keyspace, true)
            .default_execution_profile_handle(profile.into_handle())
            .pool_size(PoolSize::PerHost(std::num::NonZeroUsize::MIN))
            .tcp_nodelay(true)
            .build()
            .await?;
        let rows = session.query_unpaged("SELECT record, outcome FROM record", ()).await?.into_rows_result()?;
        let (record, outcome) = rows.first_row::<(Vec<u8>, Vec<u8>)>()?;
        Ok(Self {
            claim: session.prepare(CLAIM).await?,
            replace: session.prepare(REPLACE).await?,
            fill: [session.prepare(FILL[0]).await?, session.prepare(FILL[1]).await?],
            session,
            record,
            outcome,
        })
    }

    /// Writes a new record, and writes it again with an answer.
    pub(super) async fn pair(&self, run: &str, number: u64) -> Result<()> {
        let (id, owner) = (id(&format!("bare-{run}"), number)?, Owner::random());
        let (id, owner) = (id.as_bytes().as_slice(), owner.as_bytes().as_slice());
        let claimed = self.session.execute_unpaged(&self.claim, (1_i64, owner, 1_i64, &self.record, id)).await?;
        applied(claimed)?;
        let values = (TTL, 1_i64, owner, 2_i64, &self.record, &self.outcome, id, 1_i64, owner, 1_i64);
        applied(self.session.execute_unpaged(&self.replace, values).await?)
    }

    /// Writes so many completed records of other keys.
    pub(super) async fn fill(&self, records: u64) -> Result<()> {
        let one = |first| async move {
            for number in (first..records).step_by(usize::try_from(FILLED_AT_ONCE)?) {
                let (id, owner) = (id(&format!("fill-{}", number % FILLED_SCOPES), number)?, Owner::random());
                let (id, owner) = (id.as_bytes().as_slice(), owner.as_bytes().as_slice());
                let record = (TTL, 1_i64, owner, 2_i64, &self.record, &self.outcome, id);
                let entry = (&id[..16], i32::from(id[17] % 16), &id[16..], TTL);
                tokio::try_join!(
                    self.session.execute_unpaged(&self.fill[0], record),
                    self.session.execute_unpaged(&self.fill[1], entry),
                )?;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        };
        try_join_all((0..FILLED_AT_ONCE).map(one)).await.map(drop)
    }
}

fn applied(result: QueryResult) -> Result<()> {
    let rows = result.into_rows_result()?;
    match rows.first_row::<Row>()?.columns.first() {
        Some(Some(scylla::value::CqlValue::Boolean(true))) => Ok(()),
        _ => Err("a new key is taken".into()),
    }
}

fn id(user: &str, number: u64) -> Result<RecordId> {
    Ok(RecordId::of(&Scope::new(user)?, &Key::new(&format!("{KEY_PREFIX}{number:016x}"))?))
}
