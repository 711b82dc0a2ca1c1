//! Redis as a cache of final outcomes, in front of a store of truth.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use redis::{Cmd, Value, cmd};
use tokio::sync::Semaphore;

use super::error::Failed;
use super::value::{self, HEADER_BYTES, KEEP_MS_MAX};
use super::{ConnectError, Options, Store};
use keylatch_core::store::{Durability, Error, ErrorKind};
use keylatch_core::{Record, RecordId};

/// The value in place of a copy that an operator has taken away, so that no copy that is under way takes its place. No
/// record has it: each begins with its format.
const FORGOTTEN: &[u8] = b"forgotten";

/// A cache in Redis or Valkey, for `keylatch::tiered::Tiered`. It may evict, and needs no append-only file: what it
/// loses is read from the store of truth.
#[derive(Debug, Clone)]
pub struct Cache {
    store: Store,
    /// The permit to connect: one attempt at a time.
    connecting: Arc<Semaphore>,
}

impl Cache {
    /// Connects to the server at `url` with these options. Copies are stored under the prefix followed by `-cache`,
    /// each with a time to live.
    ///
    /// A server that cannot be reached now is not an error: the cache tries again later, and nobody waits for it
    /// meanwhile. A connection may take as long as [`Options::with_connect_timeout`] says, even if its callers need an
    /// answer sooner.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`]; each says what to do.
    pub async fn connect(url: &str, options: Options) -> Result<Self, ConnectError> {
        let prefix = format!("{}-cache", options.prefix);
        let options = Options { is_cache: true, ..options.with_prefix(&prefix).allow_eviction() };
        let link = Store::link(url, &options)?;
        match link.connect().await {
            Err(error @ ConnectError::Unreachable(_)) => {
                tracing::warn!(%error, "there is no cache for now; the store is asked meanwhile");
            }
            connected => drop(connected?),
        }
        Ok(Self { store: Store::new(link, Durability::Replica, &options), connecting: Arc::new(Semaphore::new(1)) })
    }

    /// Asks the server, if there is a connection. If not, the call fails at once and a connection is made in the
    /// background: the caller of a cache has less time than a handshake may take, and an attempt that is cancelled each
    /// time would never succeed.
    async fn ask(&self, command: &Cmd) -> Result<Value, Error> {
        let link = &self.store.0.link;
        if link.is_connected() {
            return Ok(link.ask(command).await?);
        }
        if let Ok(place) = self.connecting.clone().try_acquire_owned() {
            let store = self.store.clone();
            drop(tokio::spawn(async move {
                if let Err(error) = store.0.link.connect().await {
                    tracing::warn!(%error, "there is no cache for now; the store is asked meanwhile");
                }
                drop(place);
            }));
        }
        Err(Error::new(ErrorKind::Unavailable, "the cache is still connecting"))
    }
}

impl keylatch_core::Cache for Cache {
    fn find(&self, id: RecordId) -> BoxFuture<'_, Result<Option<Record>, Error>> {
        Box::pin(async move {
            match self.ask(cmd("GET").arg(self.store.0.keys.record(id))).await? {
                Value::Nil => Ok(None),
                Value::BulkString(bytes) if bytes == FORGOTTEN => Ok(None),
                Value::BulkString(bytes) => Ok(Some(value::decode(id, &bytes, None)?.record)),
                _ => Err(Failed::Nonsense.into()),
            }
        })
    }

    fn keep(&self, record: Record, keep: Duration) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let now = record.created_at;
            let value = value::encode(&record, &[0; HEADER_BYTES], now, self.store.0.compress_from_bytes);
            let millis = value::millis_of(keep).clamp(1, KEEP_MS_MAX);
            let mut set = cmd("SET");
            set.arg(self.store.0.keys.record(record.id())).arg(value.bytes).arg("PX").arg(millis).arg("NX");
            self.ask(&set).await?;
            Ok(())
        })
    }

    fn forget(&self, id: RecordId, block: Duration) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let millis = value::millis_of(block).clamp(1, KEEP_MS_MAX);
            let mut set = cmd("SET");
            set.arg(self.store.0.keys.record(id)).arg(FORGOTTEN).arg("PX").arg(millis);
            self.ask(&set).await?;
            Ok(())
        })
    }
}
