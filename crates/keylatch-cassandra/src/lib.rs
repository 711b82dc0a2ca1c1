//! The store in Apache Cassandra, and in what speaks CQL with lightweight transactions: sharded over nodes, strongly
//! consistent for each key, and alive without a node or a data centre.
//!
//! **What it promises.** Each write is one lightweight transaction at `SERIAL`: a majority of the replicas of its key
//! agree on it before it is acknowledged, in all data centres together. So nothing that was acknowledged is lost while
//! a majority lives, and a majority decides. The handler's own writes are elsewhere, so `Atomic` does not compile;
//! `Fenced` and `AtMostOnce` do. See docs/CASSANDRA.md for replication, clocks and compaction.
//!
//! | table | a row | decides |
//! |---|---|---|
//! | `record` | one record, in a partition of its own | everything |
//! | `running` | a claim that may be running | nothing: it finds what is under way, and what was abandoned |
//! | `by_scope` | a record of a scope | nothing: it lists and counts |
//!
//! **After an error nobody knows what happened**: a transaction that timed out may have taken effect, or may yet. A
//! read at `SERIAL` finishes or discards it, and the revision in the row tells whose write is there. The store does
//! this by itself, for a bounded time.
//!
//! **One call at a time for each key of this process**, because transactions on one partition disturb each other.
//!
//! **A lease never rests on a time to live.** Completed records have one, so nothing has to sweep them; running records
//! have none.

mod address;
mod clock;
mod error;
mod gate;
mod index;
mod link;
mod ops;
mod options;
mod pages;
mod runs;
mod scan;
mod schema;
#[cfg(feature = "tls")]
mod tls;
mod value;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

pub use error::ConnectError;
#[cfg(feature = "conformance")]
use keylatch_core::Clock;
use keylatch_core::RecordId;
pub use options::{
    CALL_MAX, CLOCK_UNCERTAINTY, COMPRESS_FROM_BYTES, CONNECT_TIMEOUT, INDEX_KEPT, Options, RESPONSE_TIMEOUT, Survives,
};
pub use schema::{SCHEMA_CQL, SCHEMA_VERSION, migrate};
#[cfg(feature = "tls")]
pub use tls::Tls;

/// A store in Cassandra. A clone is the same store, on the same connections.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    link: Arc<link::Link>,
    names: index::Names,
    clock: Arc<clock::ClusterClock>,
    gates: gate::Gates,
    /// The current runs whose records this process has written.
    runs: runs::Runs,
    endings: index::Endings,
    /// What a scan of all records reads at once.
    part: scan::Part,
    /// Where the next sweep goes on.
    swept_to: Mutex<Option<RecordId>>,
    clock_uncertainty: Duration,
    /// How much later than its end a column ends.
    margin: Duration,
    call_max: Duration,
    index_kept: Duration,
    compress_from_bytes: Option<usize>,
    synced: bool,
    #[cfg(feature = "conformance")]
    manual: Option<Clock>,
}

/// How much later than its end a column ends at least, beside the uncertainty of two clocks: a node's clock that is off
/// by this much ends nothing too early.
const MARGIN: Duration = Duration::from_secs(60);

impl Store {
    /// Connects to the cluster and keyspace at `url`: `cassandra://[user:password@]host[:port],host[:port]/keyspace`. A
    /// few nodes are enough; they name the others. `?survives=nothing`, `node` or `data-centre` at its end takes the
    /// place of [`Options::with_survives`], and `?data-centre=NAME` of [`Options::with_data_centre`]; `&` between them. With
    /// the feature `tls`, `?ca=FILE` encrypts connections, and `&cert=FILE&key=FILE` show who this process is: see
    /// `Options::with_tls`.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`]; each says what to do.
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        Self::connect_with(url, Options::default()).await
    }

    /// Connects to the cluster and keyspace at `url` with these options.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`]; each says what to do.
    pub async fn connect_with(url: &str, options: Options) -> Result<Self, ConnectError> {
        let address = address::Address::parse(url)?;
        let session = link::session(&address, &options).await?;
        schema::check_replication(&session, &address, &options).await?;
        if options.migrate {
            schema::migrate_on(&session, &address.keyspace).await?;
        } else {
            schema::version(&session, &address.keyspace).await?;
        }
        let link = Arc::new(link::Link::new(session).await?);
        let names = index::Names::new(&options.prefix);
        let store = Self(Arc::new(Inner {
            endings: index::Endings::start(link.clone(), names.clone()),
            link,
            names,
            clock: Arc::default(),
            gates: gate::Gates::default(),
            runs: runs::Runs::default(),
            part: scan::Part::default(),
            swept_to: Mutex::default(),
            margin: MARGIN + options.clock_uncertainty * 2,
            clock_uncertainty: options.clock_uncertainty,
            call_max: options.call_max,
            index_kept: options.index_kept,
            compress_from_bytes: options.compress_from_bytes,
            synced: options.synced,
            #[cfg(feature = "conformance")]
            manual: options.clock,
        }));
        store.now().await.map_err(|failed| ConnectError::Clock(failed.into()))?;
        Ok(store)
    }
}

/// Does not show the address, which may contain a password.
impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cassandra::Store({:?})", self.0.names)
    }
}
