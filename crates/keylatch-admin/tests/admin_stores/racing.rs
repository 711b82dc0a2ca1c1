//! Several operators move homes at once, each with the stores of a majority of its own, and some die half-way: no key has
//! two homes, each change that has no majority says so, and whoever asks again gets one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keylatch::regions::{Changes, Decides, Homes, Region, Rule};
use keylatch::store::ErrorKind;
use keylatch::{Clock, Key, Scope, Timestamp, memory, sqlite};
use keylatch_admin::ops::{BringRegionBack, LoseRegion, RegionsChanged};
use keylatch_admin::regions::{Log, Regions};
use keylatch_admin::{Error, Operator};
use tempfile::TempDir;
use testing_support::eventually;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::setup::{SOON, who};

const NAMES: [&str; 5] = ["ap", "eu", "me", "sa", "us"];
const LEASE: Duration = Duration::from_millis(200);
const AHEAD_MAX: Duration = Duration::from_secs(1);
/// How often gateways renew their lease.
const BEAT: Duration = Duration::from_millis(50);
/// Keys are looked at whose times are so far apart, and back so far.
const KEYS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

fn region(name: &str) -> Region {
    name.parse().unwrap()
}

/// Five regions, each with a store in a file.
struct World {
    stores: [sqlite::Store; 5],
    _directories: [TempDir; 5],
}

impl World {
    async fn new() -> Self {
        let directories = NAMES.map(|_| tempfile::tempdir().unwrap());
        let [a, b, c, d, e] = &directories;
        let open = async |directory: &TempDir| crate::setup::sqlite(directory.path()).await;
        let stores = [open(a).await, open(b).await, open(c).await, open(d).await, open(e).await];
        let world = Self { stores, _directories: directories };
        for (log, name) in world.logs().iter().zip(NAMES) {
            log.belong_to(&region(name)).await.unwrap();
        }
        world
    }

    fn logs(&self) -> [Log; 5] {
        self.stores.each_ref().map(|store| Log::new(Arc::new(store.clone())))
    }

    /// One more operator, who knows all stores.
    fn operator(&self) -> Operator {
        let mut regions = Regions::new(homes("us"), Some(LEASE), AHEAD_MAX);
        for (name, store) in NAMES.iter().zip(&self.stores) {
            regions = regions.with_store(region(name), Arc::new(store.clone()));
        }
        Operator::new(Arc::new(memory::Store::new())).with_regions(regions)
    }

    /// Makes a change with all stores, until it has a majority. Returns it.
    async fn finish(&self) -> RegionsChanged {
        let (operator, mut done) = (self.operator(), None);
        eventually(SOON, "a change with a majority", async || {
            let lost = operator.regions().await.unwrap().changes.lost;
            let wish = match lost.first() {
                Some(region) => Wish::BringBack(region.clone()),
                None => Wish::Lose("eu".to_owned(), "us".to_owned()),
            };
            done = wish.make(&operator, None).await.ok();
            done.is_some()
        })
        .await;
        done.expect("it was made")
    }
}

fn homes(this: &str) -> Homes {
    Homes::new(this, NAMES, Rule::KeyPrefix, 1).unwrap()
}

/// What an operator wants.
#[derive(Debug)]
enum Wish {
    Lose(String, String),
    BringBack(String),
}

impl Wish {
    async fn make(&self, operator: &Operator, stores: Option<Vec<String>>) -> Result<RegionsChanged, Error> {
        let reason = "a test".to_owned();
        match self {
            Self::Lose(region, to) => {
                let (region, to) = (region.clone(), to.clone());
                let request = LoseRegion { region, to, stores, reason, dry_run: false };
                operator.lose_region(&who(), request, |_| {}).await
            }
            Self::BringBack(region) => {
                let request = BringRegionBack { region: region.clone(), stores, reason, dry_run: false };
                operator.bring_region_back(&who(), request, |_| {}).await
            }
        }
    }
}

/// A few numbers from a seed: splitmix64.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % end).unwrap()
    }

    fn millis(&mut self, end: u64) -> Duration {
        Duration::from_millis(self.below(end) as u64)
    }

    /// Between three and five of the regions, with `decides`.
    fn majority(&mut self, decides: &str) -> Vec<String> {
        let mut others: Vec<_> = NAMES.into_iter().filter(|name| *name != decides).collect();
        let count = 2 + self.below(3);
        while others.len() > count {
            others.remove(self.below(others.len() as u64));
        }
        others.into_iter().chain([decides]).map(str::to_owned).collect()
    }
}

fn made_at(home: &str, at: Timestamp) -> Key {
    let hex = format!("{:012x}", at.as_millis());
    Key::new(&format!("{home}.{}-{}-7cc3-98c4-dc0c0c07398f", &hex[..8], &hex[8..])).unwrap()
}

/// Which region may have accepted a key, by the key's home and time. The first counts.
#[derive(Debug, Default)]
struct Accepted(std::sync::Mutex<BTreeMap<(&'static str, i64), Region>>);

impl Accepted {
    /// A region may decide by this map until then.
    fn decides(&self, map: &Homes, until: Timestamp) {
        let step = KEYS.0.as_millis() as i64;
        let latest = (until + AHEAD_MAX).as_millis() / step;
        let back = KEYS.1.as_millis() as i64 / step;
        let alice = Scope::new("alice").unwrap();
        for home in NAMES {
            for nth in latest - back..=latest {
                let key = made_at(home, Timestamp::from_millis(nth * step));
                if let Decides::Region(by) = map.decides(&alice, &key)
                    && by == map.this()
                {
                    let mut accepted = self.0.lock().unwrap();
                    let first = accepted.entry((home, nth)).or_insert_with(|| by.clone());
                    assert_eq!(first, by, "{} has two homes", key.as_str());
                }
            }
        }
    }
}

/// The gateway of a region, as it holds its lease: with a majority that has the map of its store it decides for the time of
/// a lease, and it brings a later map into its store.
async fn gateway(nth: usize, logs: [Log; 5], accepted: Arc<Accepted>, stop: Arc<AtomicBool>) {
    let clock = Clock::system();
    let mut known = Changes::default();
    while !stop.load(Ordering::Relaxed) {
        let began = clock.now();
        known = logs[nth].latest(known).await.unwrap().0;
        let mut maps = Vec::new();
        for log in &logs {
            maps.push(log.latest(Changes::default()).await.unwrap().0);
        }
        let later = maps.iter().filter(|map| map.number > known.number).max_by_key(|map| map.number);
        if let Some(later) = later {
            // Another change may have come first.
            let _ = logs[nth].write(known.number, later.clone()).await;
        } else if 2 * maps.iter().filter(|map| **map == known).count() > NAMES.len() {
            let map = homes(NAMES[nth]).with_changes(known.clone()).unwrap();
            accepted.decides(&map, began + LEASE);
        }
        sleep(BEAT).await;
    }
}

/// Three operators at once, each at a time, with a wish and with stores by the seed; one of three dies at some moment.
/// Returns how many changes were made, and how many had no majority.
async fn race(world: &World, seed: u64) -> (usize, usize) {
    let mut numbers = Numbers(seed);
    let lost = world.operator().regions().await.unwrap().changes.lost;
    let mut racing = JoinSet::new();
    for _ in 0..3 {
        let at = numbers.below(5);
        let (name, to) = (NAMES[at], NAMES[(at + 1 + numbers.below(4)) % 5]);
        let (wish, decides) = match lost.iter().any(|lost| lost == name) {
            true => (Wish::BringBack(name.to_owned()), name),
            false => (Wish::Lose(name.to_owned(), to.to_owned()), to),
        };
        let stores = numbers.majority(decides);
        let (begins, dies) = (numbers.millis(150), numbers.millis(600));
        let lives = if numbers.below(3) > 0 { SOON } else { dies };
        let operator = world.operator();
        racing.spawn(async move {
            sleep(begins).await;
            timeout(lives, wish.make(&operator, Some(stores))).await
        });
    }
    let (mut made, mut without) = (0, 0);
    for ended in racing.join_all().await {
        match ended {
            Ok(Ok(_)) => made += 1,
            Ok(Err(Error::Store(error))) => {
                let said = error.to_string();
                assert!(
                    error.kind() == ErrorKind::NotKnown && said.contains("not in the stores of a majority"),
                    "{said}"
                );
                assert!(
                    said.contains("run `keylatch regions lose ") || said.contains("run `keylatch regions bring-back ")
                );
                without += 1;
            }
            // Another operator was first; or it died.
            Ok(Err(Error::NotPossible { .. })) | Err(_) => {}
            Ok(Err(error)) => panic!("{error}"),
        }
    }
    (made, without)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i1_operators_at_once_end_with_one_change_and_no_key_has_two_homes() {
    let world = World::new().await;
    let (accepted, stop) = (Arc::new(Accepted::default()), Arc::new(AtomicBool::new(false)));
    let mut gateways = JoinSet::new();
    for nth in 0..NAMES.len() {
        gateways.spawn(gateway(nth, world.logs(), accepted.clone(), stop.clone()));
    }
    let (mut made, mut without) = (0, 0);
    for seed in 0..16 {
        let raced = race(&world, seed).await;
        (made, without) = (made + raced.0, without + raced.1);
        let finished = world.finish().await;
        let map = world.operator().regions().await.unwrap();
        assert!(map.majority && map.changes == finished.changes && map.changes.closing.is_empty(), "{seed}: {map:?}");
    }
    // The last turn has come, and all gateways decide by one map.
    eventually(SOON, "the same change in all stores", async || {
        let map = world.operator().regions().await.unwrap();
        map.regions.iter().all(|region| region.change == Some(map.changes.number))
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    gateways.join_all().await;
    let accepted = accepted.0.lock().unwrap();
    let moved = accepted.iter().filter(|((home, _), by)| by.as_str() != *home).count();
    eprintln!("{made} made at once, {without} without a majority; {} keys, {moved} elsewhere", accepted.len());
    assert!(!accepted.is_empty(), "regions have decided");
}

/// Each of three operators has got its first step into some stores, and none into a majority.
#[tokio::test]
async fn three_first_steps_with_one_number_are_replaced() {
    let world = World::new().await;
    let logs = world.logs();
    for (nth, closed) in ["eu", "eu", "ap", "ap", "me"].into_iter().enumerate() {
        let first = Changes::default().close(0, [region(closed)], format!("operator {closed}"));
        logs[nth].write(0, first).await.unwrap();
    }
    let operator = world.operator();
    let map = operator.regions().await.unwrap();
    assert!(!map.majority, "nobody decides: {map:?}");
    let stores = || Some(["ap", "me", "us"].map(str::to_owned).to_vec());
    let lose = Wish::Lose("sa".to_owned(), "us".to_owned());
    let changed = lose.make(&operator, stores()).await.unwrap();
    assert_eq!((changed.changes.number, &changed.stores), (3, &stores().unwrap()));
    assert_eq!((changed.changes.closing.len(), changed.changes.lost), (0, vec!["sa".to_owned()]));
    let map = operator.regions().await.unwrap();
    assert!(map.majority && map.changes.number == 3, "{map:?}");
    // What the others wanted can be asked for again.
    Wish::Lose("eu".to_owned(), "us".to_owned()).make(&operator, stores()).await.unwrap();
    assert_eq!(operator.regions().await.unwrap().changes.lost, ["eu", "sa"]);
}

/// A second step that only one store has may have been that of a majority. Whoever sees it goes on from it, also behind the
/// first step of somebody who has not seen it; and keeps closed what was.
#[tokio::test]
async fn a_second_step_in_one_store_is_not_lost() {
    let world = World::new().await;
    let logs = world.logs();
    let [ap, eu, us] = ["ap", "eu", "us"].map(region);
    let closed = Changes::default().close(0, [eu.clone()], "a".to_owned());
    for log in &logs[..3] {
        log.write(0, closed.clone()).await.unwrap();
    }
    let lost = closed.lose(&eu, &us, Timestamp::from_millis(1));
    logs[0].write(1, lost.clone()).await.unwrap();
    // Somebody who has read the others only, and died after the first step.
    let other = Changes::default().close(2, [ap, eu], "b".to_owned());
    for (log, after) in logs.iter().zip([2, 1, 1]) {
        log.write(after, other.clone()).await.unwrap();
    }
    let operator = world.operator();
    let map = operator.regions().await.unwrap();
    assert_eq!((map.changes.closing.join(" "), map.changes.lost.join(" ")), ("ap eu".to_owned(), "eu".to_owned()));
    let names = |names: [&str; 3]| Some(names.map(str::to_owned).to_vec());
    // It has no majority yet: asked for again, it gets one.
    let lose = Wish::Lose("eu".to_owned(), "us".to_owned());
    let again = lose.make(&operator, names(["ap", "me", "us"])).await.unwrap();
    assert_eq!((again.changes.number, again.changes.lost, again.changes.turns.len()), (5, vec!["eu".to_owned()], 2));
    let again = lose.make(&operator, names(["ap", "me", "us"])).await;
    assert!(matches!(&again, Err(Error::NotPossible { why, .. }) if why == "eu is lost already"), "{again:?}");
    let back = Wish::BringBack("eu".to_owned()).make(&operator, names(["ap", "eu", "me"])).await.unwrap();
    assert_eq!((back.changes.number, back.changes.lost.len()), (7, 0));
    let turns: Vec<_> = back.changes.turns.iter().map(|turn| (turn.of.as_str(), turn.by.as_str())).collect();
    assert_eq!(turns, [("eu", "us"), ("eu", "us"), ("eu", "eu")], "the keys of the turns before stay with us");
}
