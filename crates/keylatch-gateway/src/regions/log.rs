//! The changes of the map of regions, in the store of each region.
//!
//! They are records like others: the call "change number 3" has one result in a store, whoever makes it first. So a change
//! that is there never changes, in any kind of store. A reader goes on from the last change that it knows.

use std::sync::Arc;
use std::time::Duration;

use keylatch::regions::{Changes, Region};
use keylatch::store::{Error, Store};
use keylatch::{Body, Engine, Fingerprint, Key, Limits, Policy, Record, RecordId, RunError, Scope, Timestamp};

/// The changes in one store.
#[derive(Debug, Clone)]
pub(crate) struct Log(Engine);

/// Why a change was not written, or a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Store(#[from] Error),
    #[error("the store did not take it: {0}")]
    Written(String),
    #[error("another change has the number {0} in this store; look at the changes again")]
    Taken(u64),
    #[error("this store belongs to another region; each region has a store of its own")]
    OtherRegion,
    #[error("a change in the store cannot be read by this version: {0}")]
    Unreadable(String),
}

/// Longer than any key lives.
const KEPT: Duration = Duration::from_secs(9 * 365 * 24 * 60 * 60);
/// No request has this scope: its operation is no method with a route.
const SCOPE: (&str, &str) = ("keylatch", "regions");

fn scope() -> Scope {
    let scope = Scope::new(SCOPE.0).and_then(|scope| scope.for_operation(SCOPE.1));
    scope.expect("both are plain words")
}

fn key(text: &str) -> Key {
    Key::new(text).expect("it has letters, digits and a full stop")
}

impl Log {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        let policy = Policy { retention: KEPT, ..Policy::default() };
        Self(Engine::fenced(store, policy, Limits::default()).expect("such a policy can be kept"))
    }

    /// The latest change in the store, and the time of the store. `known` is a change that it has, or none.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub(crate) async fn latest(&self, mut known: Changes) -> Result<(Changes, Timestamp), Failure> {
        loop {
            let id = RecordId::of(&scope(), &key(&change(known.number + 1)));
            let read = self.0.store().read(id).await?;
            let Some(written) = read.value.as_ref().and_then(written) else { return Ok((known, read.now)) };
            let next: Changes =
                serde_json::from_slice(written).map_err(|error| Failure::Unreadable(error.to_string()))?;
            if next.number <= known.number {
                return Err(Failure::Unreadable(format!("change {} comes after {}", next.number, known.number)));
            }
            known = next;
        }
    }

    /// Writes `changes` after the change with the number `after`.
    ///
    /// # Errors
    ///
    /// If another change is there, or the store fails.
    pub(crate) async fn write(&self, after: u64, changes: Changes) -> Result<(), Failure> {
        let number = after + 1;
        self.once(&change(number), changes).await?.map_err(|()| Failure::Taken(number))
    }

    /// Makes `changes` the latest in the store. A gateway that learns of a change from another region writes at the same time.
    ///
    /// # Errors
    ///
    /// If another change has its number, or the store fails.
    pub(crate) async fn bring_to(&self, changes: &Changes) -> Result<(), Failure> {
        let mut known = Changes::default();
        loop {
            (known, _) = self.latest(known).await?;
            if known.number >= changes.number {
                return if known == *changes { Ok(()) } else { Err(Failure::Taken(known.number)) };
            }
            match self.write(known.number, changes.clone()).await {
                // Each time the store has a later change, so this comes to an end.
                Err(Failure::Taken(_)) => {}
                written => return written,
            }
        }
    }

    /// Notes that the store is that of `region`.
    ///
    /// # Errors
    ///
    /// If it is another region's.
    pub(crate) async fn belong_to(&self, region: &Region) -> Result<(), Failure> {
        self.once("this", region.clone()).await?.map_err(|()| Failure::OtherRegion)
    }

    /// The region whose store it is, once a gateway has used it.
    pub(crate) async fn region(&self) -> Result<Option<Region>, Failure> {
        let read = self.0.store().read(RecordId::of(&scope(), &key("this"))).await?;
        let Some(written) = read.value.as_ref().and_then(written) else { return Ok(None) };
        serde_json::from_slice(written).map(Some).map_err(|error| Failure::Unreadable(error.to_string()))
    }

    /// Whether a record is one of these.
    pub(crate) fn is_own(record: &Record) -> bool {
        record.scope == scope()
    }

    /// Writes `value` under `name`; `Err(())` if another value is there.
    async fn once<T>(&self, name: &str, value: T) -> Result<Result<(), ()>, Failure>
    where
        T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
    {
        let fingerprint = Fingerprint::of_json(&value).map_err(|error| Failure::Written(error.to_string()))?;
        let run =
            self.0.run(scope(), key(name), fingerprint, |_| async move { Ok::<_, std::convert::Infallible>(value) });
        match run.await {
            Ok(_) => Ok(Ok(())),
            Err(RunError::Refused(keylatch::Refused::Mismatch)) => Ok(Err(())),
            Err(error) => Err(Failure::Written(error.to_string())),
        }
    }
}

fn change(number: u64) -> String {
    format!("change.{number}")
}

/// The result of a call, if it has one.
fn written(record: &Record) -> Option<&[u8]> {
    match &record.outcome()?.body {
        Body::Kept(json) => Some(json),
        Body::NotRetained { .. } => None,
    }
}
