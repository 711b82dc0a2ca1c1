//! The stores of the regions, by which operators move homes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use keylatch::Timestamp;
use keylatch::regions::{Changes, Homes, Region};
use keylatch::store::{self, ErrorKind, PAGE_RECORDS_MAX, PageRequest, Store};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::{Log, LogError};
use crate::ops::{Counted, Error};

/// How long a store may take to be opened, or to answer. A change that another process writes may take as long as it lives.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long a change may take to be written: another process may be writing, or may have died while it wrote.
const WRITE_MAX: Duration = Duration::from_secs(40);
/// So many records are counted in a store, at most.
const COUNTED_MAX: u64 = 1_000_000;

/// A map of regions, and those of their stores that this program can reach. Clones share it.
#[derive(Clone)]
pub struct Regions(Arc<Shared>);

struct Shared {
    homes: Homes,
    lease: Option<Duration>,
    key_ahead_max: Duration,
    ways: BTreeMap<Region, Way>,
}

type Opening = BoxFuture<'static, Result<Arc<dyn Store>, String>>;

/// The way to a store, which is opened when it is first needed.
struct Way {
    open: Box<dyn Fn() -> Opening + Send + Sync>,
    opened: OnceCell<(Arc<dyn Store>, Log)>,
}

impl Regions {
    /// The map as it is without changes; for how long a majority lets a region decide, if regions have such a lease; and
    /// how far the time in a key may be in the future.
    pub fn new(homes: Homes, lease: Option<Duration>, key_ahead_max: Duration) -> Self {
        Self(Arc::new(Shared { homes, lease, key_ahead_max, ways: BTreeMap::new() }))
    }

    /// With the store of this region, which is open.
    ///
    /// # Panics
    ///
    /// If it is called after it was cloned.
    #[must_use]
    pub fn with_store(self, region: Region, store: Arc<dyn Store>) -> Self {
        self.with_store_by(region, move || std::future::ready(Ok(store.clone())).boxed())
    }

    /// With the store of this region, which is opened when it is first needed. An error says why it could not be opened.
    ///
    /// # Panics
    ///
    /// If it is called after it was cloned.
    #[must_use]
    pub fn with_store_by(mut self, region: Region, open: impl Fn() -> Opening + Send + Sync + 'static) -> Self {
        let shared = Arc::get_mut(&mut self.0).expect("stores come before clones");
        shared.ways.insert(region, Way { open: Box::new(open), opened: OnceCell::new() });
        self
    }

    pub(crate) fn homes(&self) -> &Homes {
        &self.0.homes
    }

    pub(crate) fn lease(&self) -> Option<Duration> {
        self.0.lease
    }

    pub(crate) fn key_ahead_max(&self) -> Duration {
        self.0.key_ahead_max
    }

    /// The regions whose stores are known.
    pub(crate) fn known(&self) -> impl Iterator<Item = &Region> {
        self.0.ways.keys()
    }

    pub(crate) fn knows(&self, region: &Region) -> bool {
        self.0.ways.contains_key(region)
    }

    /// The store of a region that is known.
    async fn store(&self, region: &Region) -> Result<&(Arc<dyn Store>, Log), Error> {
        let way = &self.0.ways[region];
        let open = async {
            let store = (way.open)().await?;
            let log = Log::new(store.clone());
            match log.region().await.map_err(|error| error.to_string())? {
                Some(of) if of == *region => Ok((store, log)),
                Some(of) => Err(format!("this is the store of {of}: give the one of {region}")),
                None => Err("no gateway of a region has used this store: start one first".to_owned()),
            }
        };
        let opening = way.opened.get_or_try_init(|| open);
        match timeout(ANSWER_MAX, opening).await {
            Ok(opened) => opened.map_err(|why| unavailable(region, why)),
            Err(_) => Err(silent(region)),
        }
    }

    /// The number of the latest change in the store of a region that is known, and the change.
    pub(crate) async fn latest_in(&self, region: &Region) -> Result<(Changes, Timestamp), Error> {
        let (_, log) = self.store(region).await?;
        let read = timeout(ANSWER_MAX, log.latest(Changes::default())).await.map_err(|_| silent(region))?;
        read.map_err(|error| of_log(region, error))
    }

    /// Opens the stores of these regions, which are known.
    pub(crate) async fn open(&self, chosen: Vec<Region>) -> Result<Stores<'_>, Error> {
        for region in &chosen {
            self.store(region).await?;
        }
        Ok(Stores { regions: self, chosen })
    }
}

impl fmt::Debug for Regions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Regions").field("homes", &self.0.homes).finish_non_exhaustive()
    }
}

/// The stores that take part in a change.
pub(crate) struct Stores<'r> {
    regions: &'r Regions,
    chosen: Vec<Region>,
}

impl Stores<'_> {
    pub(crate) fn names(&self) -> Vec<String> {
        self.chosen.iter().map(ToString::to_string).collect()
    }

    /// The latest change in any of them, and the latest time of any.
    pub(crate) async fn latest(&self) -> Result<(Changes, Timestamp), Error> {
        let (mut all, mut now) = (Vec::new(), Timestamp::from_millis(0));
        for region in &self.chosen {
            let (changes, of_store) = self.regions.latest_in(region).await?;
            all.push(changes);
            now = now.max(of_store);
        }
        Ok((latest_of(self.regions.homes(), &all)?, now))
    }

    /// Makes `changes` the latest in each of them.
    pub(crate) async fn write(&self, changes: &Changes) -> Result<(), Error> {
        for region in &self.chosen {
            let (_, log) = self.regions.store(region).await?;
            let written = timeout(WRITE_MAX, log.bring_to(changes)).await.map_err(|_| silent(region))?;
            written.map_err(|error| of_log(region, error))?;
        }
        Ok(())
    }

    /// Counts the records in each of them.
    pub(crate) async fn count(&self) -> Result<Vec<Counted>, Error> {
        let mut all = Vec::new();
        for region in &self.chosen {
            let (store, _) = self.regions.store(region).await?;
            all.push(count(region, store).await?);
        }
        Ok(all)
    }
}

/// The latest of the changes in several stores.
///
/// # Errors
///
/// If two stores have different ones under its number, or it cannot be one of this map.
pub(crate) fn latest_of(homes: &Homes, all: &[Changes]) -> Result<Changes, Error> {
    let latest = all.iter().max_by_key(|changes| changes.number).cloned().unwrap_or_default();
    if all.iter().any(|changes| changes.number == latest.number && *changes != latest) {
        let why = "two regions have different changes under one number: two operators were at it at once. Nobody decides \
                   until a later change is in all: take the stores of a majority that have the same";
        return Err(Error::Store(store::Error::new(ErrorKind::Corrupt, why)));
    }
    let changed = homes.with_changes(latest.clone());
    changed.map_err(|error| Error::Store(store::Error::new(ErrorKind::Corrupt, error)))?;
    Ok(latest)
}

async fn count(region: &Region, store: &Arc<dyn Store>) -> Result<Counted, Error> {
    let mut counted = Counted { region: region.to_string(), records: 0, running: 0, timeless: 0 };
    let mut after = None;
    loop {
        let page = PageRequest { scope: None, after, limit: PAGE_RECORDS_MAX };
        let page = timeout(ANSWER_MAX, store.list(page)).await.map_err(|_| silent(region))?;
        let page = page.map_err(|error| Error::Store(named(region, error.kind(), error)))?.value;
        for record in page.records.iter().filter(|record| !Log::is_own(record)) {
            counted.records += 1;
            counted.running += u64::from(matches!(record.state, store::State::Running { .. }));
            counted.timeless += u64::from(record.key.made_at().is_none());
        }
        after = page.next;
        if after.is_none() || counted.records >= COUNTED_MAX {
            return Ok(counted);
        }
    }
}

fn named(region: &Region, kind: ErrorKind, error: impl fmt::Display) -> store::Error {
    store::Error::new(kind, format!("the store of {region}: {error}"))
}

fn unavailable(region: &Region, why: impl fmt::Display) -> Error {
    Error::Store(named(region, ErrorKind::Unavailable, format!("{why}; or leave it out, if a majority is left")))
}

fn silent(region: &Region) -> Error {
    unavailable(region, "it does not answer")
}

fn of_log(region: &Region, error: LogError) -> Error {
    let kind = match &error {
        LogError::Store(error) => error.kind(),
        LogError::Written(_) | LogError::Taken(_) => ErrorKind::NotKnown,
        LogError::OtherRegion | LogError::Unreadable(_) => ErrorKind::Corrupt,
    };
    Error::Store(named(region, kind, error))
}
