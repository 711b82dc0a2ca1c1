//! The changes of the map of regions, in the store of each region.
//!
//! They are records like others: the call "change number 3" has one result in a store, whoever makes it first. So a change
//! that is there never changes, in any kind of store. A reader goes on from the last change that it knows.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use keylatch::regions::{Changes, Region};
use keylatch::store::{Error, Store};
use keylatch::{Body, Engine, Fingerprint, Key, Limits, Policy, Record, RecordId, Scope, Timestamp};

/// The changes in one store.
#[derive(Debug, Clone)]
pub struct Log(Engine);

/// Why a change was not written, or a store cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] Error),
    /// The store did not take it, or it is not known whether it did.
    #[error("the store did not take it: {0}")]
    Written(String),
    /// Another change has its number in this store.
    #[error("another change has the number {0} in this store; look at the changes again")]
    Taken(u64),
    /// Each region has a store of its own.
    #[error("this store belongs to another region; each region has a store of its own")]
    OtherRegion,
    /// What is there is not understood.
    #[error("a change in the store cannot be read by this version: {0}")]
    Unreadable(String),
}

/// What a store has.
#[derive(Debug, Clone)]
pub(crate) struct Had {
    /// The latest change.
    pub(crate) latest: Changes,
    /// Of all changes that it has ever had, the one whose lost regions and turns are the latest. It need not be `latest`: who
    /// took that step may not have known of it.
    pub(crate) made: Changes,
    /// The time of the store.
    pub(crate) now: Timestamp,
}

/// Longer than any key lives.
const KEPT: Duration = Duration::from_secs(9 * 365 * 24 * 60 * 60);
/// For how long a process that died while it wrote keeps others from writing: less than [`Limits::wait_max`], for which they
/// wait.
const LEASE: Duration = Duration::from_secs(5);
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
    /// The changes in `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        let policy = Policy { lease: LEASE, retention: KEPT, ..Policy::default() };
        Self(Engine::fenced(store, policy, Limits::default()).expect("such a policy can be kept"))
    }

    /// The latest change in the store, and the time of the store. `known` is a change that it has, or none.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub async fn latest(&self, known: Changes) -> Result<(Changes, Timestamp), LogError> {
        let Had { latest, now, .. } = self.had(known).await?;
        Ok((latest, now))
    }

    /// What the store has, from `known` on, which is a change that it has, or none.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub(crate) async fn had(&self, known: Changes) -> Result<Had, LogError> {
        let (mut latest, mut made) = (known.clone(), known);
        loop {
            let id = RecordId::of(&scope(), &key(&change(latest.number + 1)));
            let read = self.0.store().read(id).await?;
            let Some(written) = read.value.as_ref().and_then(written) else {
                return Ok(Had { latest, made, now: read.now });
            };
            let next: Changes =
                serde_json::from_slice(written).map_err(|error| LogError::Unreadable(error.to_string()))?;
            if next.number <= latest.number {
                return Err(LogError::Unreadable(format!("change {} comes after {}", next.number, latest.number)));
            }
            if next.made_at > made.made_at {
                made = next.clone();
            }
            latest = next;
        }
    }

    /// Writes `changes`, if the change with the number `after` is still the latest in the store.
    ///
    /// # Errors
    ///
    /// If another change is there, or the store fails.
    pub async fn write(&self, after: u64, changes: Changes) -> Result<(), LogError> {
        let number = after + 1;
        self.once(&change(number), changes).await?.map_err(|()| LogError::Taken(number))
    }

    /// Notes that the store is that of `region`.
    ///
    /// # Errors
    ///
    /// If it is another region's.
    pub async fn belong_to(&self, region: &Region) -> Result<(), LogError> {
        self.once("this", region.clone()).await?.map_err(|()| LogError::OtherRegion)
    }

    /// The region whose store it is, once a gateway has used it.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub async fn region(&self) -> Result<Option<Region>, LogError> {
        let read = self.0.store().read(RecordId::of(&scope(), &key("this"))).await?;
        let Some(written) = read.value.as_ref().and_then(written) else { return Ok(None) };
        serde_json::from_slice(written).map(Some).map_err(|error| LogError::Unreadable(error.to_string()))
    }

    /// Whether a record is one of these.
    pub fn is_own(record: &Record) -> bool {
        record.scope == scope()
    }

    /// Writes `value` under `name`; `Err(())` if another value is there. While another process writes, it waits.
    async fn once<T>(&self, name: &str, value: T) -> Result<Result<(), ()>, LogError>
    where
        T: Clone + PartialEq + serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
    {
        let wanted = value.clone();
        let run = self.0.run(scope(), key(name), fingerprint(), |_| async move { Ok::<_, Infallible>(value) });
        let done = run.await.map_err(|error| LogError::Written(error.to_string()))?;
        Ok(if done.value == wanted { Ok(()) } else { Err(()) })
    }
}

/// The same for all values. So if a process died while it wrote one, another one takes over, with the value of its own.
fn fingerprint() -> Fingerprint {
    Fingerprint::of([&b"regions"[..]])
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

#[cfg(test)]
mod tests {
    use keylatch::machine::{Claim, Claimed};
    use keylatch::{Guarantee, memory};
    use tokio::time::timeout;

    use super::*;

    /// Longer than the lease of a writer that has died, on a machine that is busy.
    const SOON: Duration = Duration::from_secs(60);

    fn changes(number: u64, lost: &str) -> Changes {
        Changes { number, lost: [lost.parse().unwrap()].into(), ..Changes::default() }
    }

    /// Another process has begun to write change 1, and has a lease of this time.
    async fn begun(store: &memory::Store, lease: Duration) -> Record {
        let policy = Policy { lease, retention: KEPT, ..Policy::default() };
        let claim = Claim::new(scope(), key("change.1"), fingerprint(), Guarantee::Fenced, &policy);
        match store.claim(claim).await.unwrap().value {
            Claimed::Won(record) => record,
            held => panic!("{held:?}"),
        }
    }

    #[tokio::test]
    async fn a_writer_that_died_holds_nobody_up_for_long() {
        let store = memory::Store::new();
        begun(&store, Duration::from_millis(300)).await;
        let log = Log::new(Arc::new(store));
        timeout(SOON, log.write(0, changes(1, "eu"))).await.expect("it comes to an end").unwrap();
        assert_eq!(log.latest(Changes::default()).await.unwrap().0, changes(1, "eu"));
    }

    /// What a change is made of is kept, also if a later first step was made of something earlier.
    #[tokio::test]
    async fn the_latest_second_step_is_found_behind_a_later_first_step() {
        let log = Log::new(Arc::new(memory::Store::new()));
        let eu: Region = "eu".parse().unwrap();
        let first = Changes::default().close(0, [eu.clone()], "a".to_owned());
        let second = first.bring_back(&eu, Timestamp::from_millis(1));
        let later = Changes::default().close(2, [eu], "b".to_owned());
        for (after, step) in [&first, &second, &later].into_iter().enumerate() {
            log.write(after as u64, step.clone()).await.unwrap();
        }
        let had = log.had(Changes::default()).await.unwrap();
        assert_eq!((had.latest, had.made), (later, second));
    }

    #[tokio::test]
    async fn of_two_changes_with_one_number_one_is_in_the_store() {
        let log = Log::new(Arc::new(memory::Store::new()));
        log.write(0, changes(1, "ap")).await.unwrap();
        log.write(0, changes(1, "ap")).await.unwrap();
        assert!(matches!(log.write(0, changes(1, "eu")).await, Err(LogError::Taken(1))));
        log.write(1, changes(3, "eu")).await.unwrap();
        assert!(matches!(log.write(1, changes(2, "eu")).await, Err(LogError::Taken(2))));
        assert_eq!(log.latest(changes(1, "ap")).await.unwrap().0, changes(3, "eu"));
    }
}
