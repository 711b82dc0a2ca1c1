//! The stores of the regions, by which operators move homes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, FutureExt as _};
use keylatch::Timestamp;
use keylatch::regions::{Changes, Homes, Region};
use keylatch::store::{self, ErrorKind, PAGE_RECORDS_MAX, PageRequest, Store};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::{Had, Log, LogError};
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

    /// What the store of a region has that is known.
    pub(crate) async fn had_by(&self, region: &Region) -> Result<Had, Error> {
        let (_, log) = self.store(region).await?;
        let read = timeout(ANSWER_MAX, log.had(Changes::default())).await.map_err(|_| silent(region))?;
        read.map_err(|error| of_log(region, error))
    }

    /// Opens the stores of these regions, which are known.
    pub(crate) async fn open(&self, chosen: Vec<Region>) -> Result<Stores<'_>, Error> {
        for region in &chosen {
            self.store(region).await?;
        }
        Ok(Stores { regions: self, chosen })
    }

    /// Whether so many regions are a majority.
    pub(crate) fn is_majority(&self, count: usize) -> bool {
        2 * count > self.0.homes.regions().len()
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

    /// What they have.
    ///
    /// # Errors
    ///
    /// If one cannot be read, or has what cannot be a change of this map.
    pub(crate) async fn read(&self) -> Result<Found, Error> {
        let mut found = Found::nothing();
        for region in &self.chosen {
            let had = self.regions.had_by(region).await?;
            for changes in [&had.latest, &had.made] {
                check_map(self.regions.homes(), changes)?;
            }
            found.push(region.clone(), had);
        }
        Ok(found)
    }

    /// Writes `changes` into each of these stores whose latest change still has the number beside it, and returns those that
    /// took it: a majority of the regions.
    ///
    /// # Errors
    ///
    /// If a majority does not take it. Then some may have it.
    pub(crate) async fn write(
        &self,
        after: impl ExactSizeIterator<Item = (Region, u64)>,
        changes: &Changes,
    ) -> Result<Vec<Region>, Error> {
        let (mut took, mut left) = (Vec::new(), after.len());
        for (region, after) in after {
            let (_, log) = self.regions.store(&region).await?;
            left -= 1;
            let failed = match timeout(WRITE_MAX, log.write(after, changes.clone())).await {
                Ok(Ok(())) => {
                    took.push(region);
                    continue;
                }
                Ok(Err(error)) => of_log(&region, error),
                Err(_) => silent(&region),
            };
            tracing::warn!(%region, %failed, "a step of a change of regions was not taken");
            if !self.regions.is_majority(took.len() + left) {
                return Err(failed);
            }
        }
        Ok(took)
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

/// What several stores have.
pub(crate) struct Found {
    all: Vec<(Region, Had)>,
    asked: Instant,
}

impl Found {
    /// Nothing yet; the stores are asked from now on.
    pub(crate) fn nothing() -> Self {
        Self { all: Vec::new(), asked: Instant::now() }
    }

    /// Adds what the store of a region has.
    pub(crate) fn push(&mut self, region: Region, had: Had) {
        self.all.push((region, had));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The latest change: of those with the highest number, the one that most of them have. And in how many it is.
    pub(crate) fn latest(&self) -> (Changes, usize) {
        let all = || self.all.iter().map(|(_, had)| &had.latest);
        let latest = all().max_by_key(|changes| (changes.number, self.with(changes), &changes.step));
        latest.map_or_else(|| (Changes::default(), 0), |latest| (latest.clone(), self.with(latest)))
    }

    /// The highest number in any.
    pub(crate) fn number(&self) -> u64 {
        self.all.iter().map(|(_, had)| had.latest.number).max().unwrap_or_default()
    }

    /// Each region, and the number of the latest change in its store.
    pub(crate) fn numbers(&self) -> impl ExactSizeIterator<Item = (Region, u64)> {
        self.all.iter().map(|(region, had)| (region.clone(), had.latest.number))
    }

    /// What the next change is made of: of all changes that any of them ever had, the one whose lost regions and turns are
    /// the latest. A second step that a majority has is always among those of another majority, and every later one was made
    /// of it.
    pub(crate) fn made(&self) -> Changes {
        let made = self.all.iter().map(|(_, had)| &had.made).max_by_key(|changes| changes.made_at);
        made.cloned().unwrap_or_default()
    }

    /// The regions about whose keys nobody may decide before the next change is made: those that are closed in any of them.
    /// The second step of their change may be in another store, and be found later.
    pub(crate) fn closing(&self) -> BTreeSet<Region> {
        self.all.iter().flat_map(|(_, had)| had.latest.closing.iter().cloned()).collect()
    }

    /// In how many these changes are the latest.
    pub(crate) fn with(&self, changes: &Changes) -> usize {
        self.all.iter().filter(|(_, had)| had.latest == *changes).count()
    }

    /// How long ago they were asked.
    pub(crate) fn age(&self) -> Duration {
        self.asked.elapsed()
    }

    /// The latest time of any.
    pub(crate) fn now(&self) -> Timestamp {
        self.all.iter().map(|(_, had)| had.now).max().unwrap_or(Timestamp::from_millis(0))
    }
}

/// Whether these can be changes of this map.
pub(crate) fn check_map(homes: &Homes, changes: &Changes) -> Result<(), Error> {
    let changed = homes.with_changes(changes.clone());
    changed.map(drop).map_err(|error| Error::Store(store::Error::new(ErrorKind::Corrupt, error)))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Of three stores one has the second step of a change, one its first, and one the first of another, which has not seen
    /// the second.
    #[test]
    fn a_change_is_made_of_the_latest_second_step_and_keeps_closed_what_is() {
        let [ap, eu, us] = ["ap", "eu", "us"].map(|name| name.parse::<Region>().unwrap());
        let closed = Changes::default().close(0, [eu.clone()], "a".to_owned());
        let lost = closed.lose(&eu, &us, Timestamp::from_millis(1));
        let other = Changes::default().close(2, [ap.clone()], "b".to_owned());
        let had = |latest: &Changes, made: &Changes| Had {
            latest: latest.clone(),
            made: made.clone(),
            now: Timestamp::from_millis(1),
        };
        let none = Changes::default();
        let all =
            vec![(ap.clone(), had(&other, &none)), (eu.clone(), had(&closed, &none)), (us.clone(), had(&lost, &lost))];
        let found = Found { all, ..Found::nothing() };
        assert_eq!((found.number(), found.made()), (3, lost.clone()));
        assert_eq!(found.closing(), [ap.clone(), eu.clone()].into());
        assert_eq!((found.with(&lost), found.with(&none)), (1, 0));
        let numbers: Vec<_> = found.numbers().collect();
        assert_eq!(numbers, [(ap, 3), (eu.clone(), 1), (us, 2)]);
        // The latest of those with the highest number is the one that most stores have.
        let third = lost.close(2, [], "c".to_owned());
        let all = [&lost, &third, &other, &third].map(|latest| (eu.clone(), had(latest, &none)));
        assert_eq!(Found { all: all.to_vec(), ..Found::nothing() }.latest(), (third, 2));
    }
}
