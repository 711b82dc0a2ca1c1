//! Which region is the home of a key, when a service runs in several regions that each have a store of their own.
//!
//! Every key has one home: the region whose store decides about it. A [`Homes`] is the map. It is pure: the home follows
//! from the names of the regions, the rule, the scope and the key, and from nothing else. So two regions with the same
//! map agree without talking to each other. A map has an **epoch**, which is one higher with every change of the map;
//! regions whose epochs differ refuse each other's requests.
//!
//! A map can be **changed**: another region stands in for one that is lost, for keys that were made from some time on. What
//! belongs to a key follows from the time in it, so no key ever has two homes: [`Changes`] says how.
//!
//! The HTTP layer sends requests home: see `IdempotencyLayer::with_homes`.
//!
//! ```
//! use keylatch::regions::{Homes, Rule};
//! use keylatch::{Key, Scope};
//!
//! let homes = Homes::new("eu", ["ap", "eu", "us"], Rule::KeyPrefix, 1)?;
//! let alice = Scope::new("alice")?;
//! assert_eq!(homes.home(&alice, &Key::new("us.0192e4a1")?).as_str(), "us");
//! // A key without a region in it belongs where its caller does.
//! assert_eq!(homes.home(&alice, &Key::new("a")?), homes.home(&alice, &Key::new("b")?));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use keylatch_core::is_region;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use keylatch_core::REGION_BYTES_MAX;

use crate::{Key, Scope, Timestamp};

/// The most regions in a map.
pub const REGIONS_MAX: usize = 64;

/// The name of a region: 1 to [`REGION_BYTES_MAX`] lower-case letters, digits and hyphens.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Region(Arc<str>);

impl Region {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Region {
    type Err = InvalidHomes;

    fn from_str(name: &str) -> Result<Self, InvalidHomes> {
        if is_region(name) { Ok(Self(Arc::from(name))) } else { Err(InvalidHomes::Name(name.to_owned())) }
    }
}

impl TryFrom<String> for Region {
    type Error = InvalidHomes;

    fn try_from(name: String) -> Result<Self, InvalidHomes> {
        name.parse()
    }
}

impl From<Region> for String {
    fn from(region: Region) -> Self {
        region.0.as_ref().to_owned()
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({})", self.0)
    }
}

/// What the home of a key follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// From the caller: all keys of a caller have one home, and so all its limits are counted in one place. The callers
    /// are spread evenly. When a region joins or leaves the map, only the callers move that come to it or leave it.
    Scope,
    /// From the key: what stands before its first `.` names its home, as in `eu.0192e4a1-…`. A key that names no region
    /// of the map has its home by [`Scope`](Self::Scope).
    KeyPrefix,
}

/// The rule as it is written in a configuration: `scope` or `key-prefix`.
impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "scope" => Ok(Self::Scope),
            "key-prefix" => Ok(Self::KeyPrefix),
            _ => Err("write \"scope\" (from the caller) or \"key-prefix\" (from a key such as eu.…)".to_owned()),
        }
    }
}

/// The map of homes, as one region sees it. Clones share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Homes(Arc<Map>);

#[derive(Debug, PartialEq, Eq)]
struct Map {
    this: Region,
    /// In the order of their names.
    regions: Vec<Region>,
    rule: Rule,
    epoch: u64,
    changes: Changes,
    mark: String,
}

/// What has changed in a map since it was made, when regions were lost and came back.
///
/// A key keeps its home for as long as it lives. So what changes is the home of keys that are made from some time on, and
/// that time is in the key: a UUID of version 7. A region that is [lost](Self::lost) decides about nothing: the outcome of
/// each request whose home it is is unknown, until it is back. That includes all keys without a time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changes {
    /// Higher with every step of a change; 0 for none.
    pub number: u64,
    /// The number of the step that has made what is lost and who decides as it is here.
    pub made_at: u64,
    /// Tells this step from any other one with its number: whoever takes a first step gives it a name that nobody else
    /// has, and the second has the same.
    pub step: String,
    /// The regions whose keys nobody decides about, while keys get another home.
    pub closing: BTreeSet<Region>,
    /// The regions that are gone.
    pub lost: BTreeSet<Region>,
    /// Who decides about the keys of a region from some time on. Of several turns of one region, the latest counts that
    /// the key is not older than.
    pub turns: Vec<Turn>,
}

/// From some time on, another region decides about the new keys of a region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// The region whose keys they are by the rule.
    pub of: Region,
    /// The time in the first of these keys, in milliseconds since 1970.
    pub since: Timestamp,
    /// The region that decides about them.
    pub by: Region,
}

/// Who decides about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decides<'m> {
    /// This region.
    Region(&'m Region),
    /// A region that is gone: whether the request took effect is not known.
    Lost(&'m Region),
    /// Nobody, for a short time: its keys are getting another home.
    Nobody,
}

/// Why a map cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidHomes {
    /// The name of a region.
    #[error("`{0}` is not the name of a region: use 1 to {REGION_BYTES_MAX} lower-case letters, digits and `-`")]
    Name(String),
    /// Two regions have one name.
    #[error("the region `{0}` is named twice; name it once")]
    Twice(Region),
    /// This region is not in the map.
    #[error("this region, `{0}`, is not one of the regions; add it")]
    NotThere(Region),
    /// A change names a region that is not in the map.
    #[error("the changes of the map name `{0}`, which is not one of the regions; add it")]
    Unknown(Region),
    /// More than [`REGIONS_MAX`] regions.
    #[error("there are more than {REGIONS_MAX} regions")]
    TooMany,
    /// The epoch is zero.
    #[error("the epoch of a map is a number from 1; raise it by one with every change of the map")]
    Epoch,
}

impl Homes {
    /// The map of `regions` with its `epoch`, as the region `this` sees it. The order of the regions does not matter.
    ///
    /// # Errors
    ///
    /// If a name is not valid or occurs twice, `this` is missing, there are more than [`REGIONS_MAX`], or the epoch is 0.
    pub fn new<'a>(
        this: &str,
        regions: impl IntoIterator<Item = &'a str>,
        rule: Rule,
        epoch: u64,
    ) -> Result<Self, InvalidHomes> {
        let this: Region = this.parse()?;
        let mut regions = regions.into_iter().map(str::parse).collect::<Result<Vec<Region>, _>>()?;
        regions.sort();
        if let Some(two) = regions.windows(2).find(|two| two[0] == two[1]) {
            return Err(InvalidHomes::Twice(two[0].clone()));
        }
        if !regions.contains(&this) {
            return Err(InvalidHomes::NotThere(this));
        }
        if regions.len() > REGIONS_MAX {
            return Err(InvalidHomes::TooMany);
        }
        if epoch == 0 {
            return Err(InvalidHomes::Epoch);
        }
        let changes = Changes::default();
        let mark = mark(&regions, rule, epoch, &changes);
        Ok(Self(Arc::new(Map { this, regions, rule, epoch, changes, mark })))
    }

    /// The same map with these changes, instead of those that it has.
    ///
    /// # Errors
    ///
    /// If they name a region that is not in the map.
    pub fn with_changes(&self, changes: Changes) -> Result<Self, InvalidHomes> {
        let Map { this, regions, rule, epoch, .. } = &*self.0;
        let named =
            changes.turns.iter().flat_map(|turn| [&turn.of, &turn.by]).chain(&changes.lost).chain(&changes.closing);
        if let Some(unknown) = named.into_iter().find(|region| !regions.contains(region)) {
            return Err(InvalidHomes::Unknown(unknown.clone()));
        }
        let mark = mark(regions, *rule, *epoch, &changes);
        let (this, regions) = (this.clone(), regions.clone());
        Ok(Self(Arc::new(Map { this, regions, rule: *rule, epoch: *epoch, changes, mark })))
    }

    /// Who decides about this key now.
    pub fn decides(&self, scope: &Scope, key: &Key) -> Decides<'_> {
        let changes = &self.0.changes;
        if changes.number == 0 {
            return Decides::Region(self.home(scope, key));
        }
        let home = self.home(scope, key);
        let decides = changes.turn(home, key.made_at());
        if changes.closing.contains(home) || changes.closing.contains(decides) {
            return Decides::Nobody;
        }
        if changes.lost.contains(decides) { Decides::Lost(decides) } else { Decides::Region(decides) }
    }

    /// The region that decides about this key by the rule, if nothing has changed.
    pub fn home(&self, scope: &Scope, key: &Key) -> &Region {
        let named = match self.0.rule {
            Rule::Scope => None,
            Rule::KeyPrefix => key.as_str().split_once('.').and_then(|(name, _)| self.region(name)),
        };
        named.unwrap_or_else(|| self.home_of_caller(scope.caller()))
    }

    /// This region.
    pub fn this(&self) -> &Region {
        &self.0.this
    }

    /// All regions, in the order of their names.
    pub fn regions(&self) -> &[Region] {
        &self.0.regions
    }

    /// The region of this name.
    pub fn region(&self, name: &str) -> Option<&Region> {
        self.0.regions.iter().find(|region| region.as_str() == name)
    }

    /// What has changed in the map.
    pub fn changes(&self) -> &Changes {
        &self.0.changes
    }

    /// The number of the map.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// What tells this map from every other one: its epoch, and a digest of all else that homes follow from.
    pub fn mark(&self) -> &str {
        &self.0.mark
    }

    /// [Rendezvous hashing](https://en.wikipedia.org/wiki/Rendezvous_hashing): the region with the highest score, of two
    /// equal ones the first by name.
    fn home_of_caller(&self, caller: &str) -> &Region {
        let scores = self.0.regions.iter().map(|region| (score(region, caller), region));
        let best = scores.reduce(|best, next| if next.0 > best.0 { next } else { best });
        best.expect("this region is one of them").1
    }
}

impl Changes {
    /// The region that decides about a key of `home` that was made at this time.
    fn turn<'m>(&'m self, home: &'m Region, made_at: Option<Timestamp>) -> &'m Region {
        let Some(made_at) = made_at else { return home };
        let turns = self.turns.iter().filter(|turn| turn.of == *home && turn.since <= made_at);
        turns.max_by_key(|turn| turn.since).map_or(home, |turn| &turn.by)
    }

    /// The first of two steps of each change, after the one with the number `after`: nobody decides about the keys of
    /// `regions`. Once every region that may still decide by an older map has stopped, comes the second:
    /// [`lose`](Self::lose) or [`bring_back`](Self::bring_back). No other step may ever have the name `step`.
    #[must_use]
    pub fn close(&self, after: u64, regions: impl IntoIterator<Item = Region>, step: String) -> Self {
        Self { number: after + 1, step, closing: regions.into_iter().collect(), ..self.clone() }
    }

    /// `region` is gone, and `by` decides about its keys that are made from `since` on; also about those for which it
    /// stands in.
    #[must_use]
    pub fn lose(&self, region: &Region, by: &Region, since: Timestamp) -> Self {
        let others: BTreeSet<&Region> = self.turns.iter().map(|turn| &turn.of).filter(|of| *of != region).collect();
        let latest = |of: &Region| self.turn(of, Some(Timestamp::from_millis(i64::MAX))) == region;
        let mut changes = self.turned(region, by, since);
        changes.turns.extend(others.into_iter().filter(|of| latest(of)).map(|of| Turn {
            of: of.clone(),
            since,
            by: by.clone(),
        }));
        changes.lost.insert(region.clone());
        changes
    }

    /// `region` is back: it decides about its old keys, and about those that are made from `since` on. Those between
    /// stay where they are.
    #[must_use]
    pub fn bring_back(&self, region: &Region, since: Timestamp) -> Self {
        let mut changes = self.turned(region, region, since);
        changes.lost.remove(region);
        changes
    }

    fn turned(&self, of: &Region, by: &Region, since: Timestamp) -> Self {
        let number = self.number + 1;
        let mut changes = Self { number, made_at: number, closing: BTreeSet::new(), ..self.clone() };
        changes.turns.push(Turn { of: of.clone(), since, by: by.clone() });
        changes
    }
}

fn score(region: &Region, caller: &str) -> u64 {
    digest(b"keylatch home 1", [region.as_str(), caller])
}

fn mark(regions: &[Region], rule: Rule, epoch: u64, changes: &Changes) -> String {
    let rule = match rule {
        Rule::Scope => "scope",
        Rule::KeyPrefix => "key-prefix",
    };
    let written = serde_json::to_string(changes).expect("it has text keys");
    let digest = digest(b"keylatch map 1", regions.iter().map(Region::as_str).chain([rule, &written]));
    format!("{epoch}.{}-{digest:016x}", changes.number)
}

/// The first 8 bytes of the SHA-256 over these fields, each preceded by its length.
fn digest<'a>(what: &[u8], fields: impl IntoIterator<Item = &'a str>) -> u64 {
    let mut hash = Sha256::new_with_prefix(what);
    for field in fields {
        hash.update((field.len() as u64).to_be_bytes());
        hash.update(field.as_bytes());
    }
    let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(hash.finalize());
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn homes(this: &str, regions: &[&str], rule: Rule) -> Homes {
        Homes::new(this, regions.iter().copied(), rule, 1).unwrap()
    }

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    /// Stored data depends on it: it must never change.
    #[test]
    fn the_homes_of_these_callers_stay() {
        let homes = homes("eu", &["ap", "eu", "us"], Rule::Scope);
        let of = |caller: &str| homes.home(&Scope::new(caller).unwrap(), &key("k")).to_string();
        let found: Vec<String> = ["alice", "bob", "carol", "dave", "erin", "frank"].map(of).to_vec();
        assert_eq!(found, FIXED);
    }

    const FIXED: [&str; 6] = ["ap", "ap", "us", "eu", "us", "us"];

    #[test]
    fn all_regions_agree_and_callers_are_spread() {
        let names = ["ap", "eu", "us"];
        let maps = names.map(|this| homes(this, &["us", "ap", "eu"], Rule::Scope));
        let mut spread = BTreeMap::new();
        for nth in 0..3_000 {
            let scope = Scope::new(&format!("tenant-{nth}")).unwrap().for_operation("POST /orders").unwrap();
            let of: Vec<_> = maps.iter().map(|map| map.home(&scope, &key("k")).clone()).collect();
            assert!(of.iter().all(|home| *home == of[0]));
            *spread.entry(of[0].clone()).or_insert(0) += 1;
        }
        assert!(spread.len() == 3 && spread.values().all(|callers| (900..1_100).contains(callers)), "{spread:?}");
    }

    #[test]
    fn only_callers_of_a_region_that_leaves_move() {
        let (three, two) = (homes("eu", &["ap", "eu", "us"], Rule::Scope), homes("eu", &["ap", "eu"], Rule::Scope));
        for nth in 0..1_000 {
            let scope = Scope::new(&format!("tenant-{nth}")).unwrap();
            let (before, after) = (three.home(&scope, &key("k")), two.home(&scope, &key("k")));
            assert!(before == after || before.as_str() == "us");
        }
    }

    #[test]
    fn a_key_may_name_its_home() {
        let homes = homes("eu", &["ap", "eu", "us"], Rule::KeyPrefix);
        let alice = Scope::new("alice").unwrap();
        let of = |text: &str| homes.home(&alice, &key(text)).as_str().to_owned();
        assert_eq!((of("us.1"), of("ap."), of("eu.us.1")), ("us".to_owned(), "ap".to_owned(), "eu".to_owned()));
        let by_caller = of("k");
        for text in ["us", "US.1", "mars.1", ".1", "us-1", "u.s"] {
            assert_eq!(of(text), by_caller, "{text}");
        }
    }

    #[test]
    fn maps_that_differ_in_anything_have_different_marks() {
        let mark = |this: &str, regions: &[&str], rule, epoch| {
            Homes::new(this, regions.iter().copied(), rule, epoch).unwrap().mark().to_owned()
        };
        let one = mark("eu", &["eu", "us"], Rule::Scope, 1);
        assert_eq!(one, mark("us", &["us", "eu"], Rule::Scope, 1), "every region sees the same");
        for other in [
            mark("eu", &["eu", "us"], Rule::Scope, 2),
            mark("eu", &["eu", "us"], Rule::KeyPrefix, 1),
            mark("eu", &["eu", "us", "ap"], Rule::Scope, 1),
        ] {
            assert_ne!(one, other);
        }
    }

    fn close(changes: &Changes, region: &Region) -> Changes {
        changes.close(changes.number, [region.clone()], format!("step {}", changes.number))
    }

    /// A key that was made at this time.
    fn made_at(millis: u64) -> Key {
        let hex = format!("{millis:012x}");
        key(&format!("eu.{}-{}-7cc3-98c4-dc0c0c07398f", &hex[..8], &hex[8..]))
    }

    fn none_but(closing: &str) -> Changes {
        close(&Changes::default(), &closing.parse().unwrap())
    }

    fn written_of(changes: &Changes) -> String {
        serde_json::to_string(changes).unwrap()
    }

    /// One region is lost, another stands in for it, and it comes back: each key has one home all the time.
    #[test]
    fn a_key_keeps_its_home_for_as_long_as_it_lives() {
        let homes = homes("us", &["ap", "eu", "us"], Rule::KeyPrefix);
        let (eu, us) = (homes.region("eu").unwrap().clone(), homes.region("us").unwrap().clone());
        let alice = Scope::new("alice").unwrap();
        let at = Timestamp::from_millis;
        let none = Changes::default();
        let closed = close(&none, &eu);
        let lost = closed.lose(&eu, &us, at(1_000));
        let closed_again = close(&lost, &eu);
        let back = closed_again.bring_back(&eu, at(2_000));
        let (region, gone) = (Decides::Region, Decides::Lost);
        let nobody = Decides::Nobody;
        // Before, while it is closed, lost, closed, back.
        let rows = [
            (key("eu.timeless"), [region(&eu), nobody, gone(&eu), nobody, region(&eu)]),
            (made_at(999), [region(&eu), nobody, gone(&eu), nobody, region(&eu)]),
            (made_at(1_000), [region(&eu), nobody, region(&us), nobody, region(&us)]),
            (made_at(1_999), [region(&eu), nobody, region(&us), nobody, region(&us)]),
            (made_at(2_000), [region(&eu), nobody, region(&us), nobody, region(&eu)]),
            (key("us.timeless"), [region(&us); 5]),
        ];
        for (nth, changes) in [none, closed, lost, closed_again, back].into_iter().enumerate() {
            assert_eq!(changes.number, nth as u64);
            let changed = homes.with_changes(changes.clone()).unwrap();
            for (key, expected) in &rows {
                assert_eq!(changed.decides(&alice, key), expected[nth], "change {nth}, {}", key.as_str());
            }
            assert_eq!(serde_json::from_str::<Changes>(&written_of(&changes)).unwrap(), changes);
            assert_eq!(changed.mark() == homes.mark(), nth == 0);
        }
        assert!(serde_json::from_str::<Changes>(&written_of(&none_but("eu"))).is_ok());
        assert!(serde_json::from_str::<Changes>(&written_of(&none_but("eu")).replace("eu", "EU")).is_err());
        let elsewhere = Changes { lost: ["mars".parse().unwrap()].into(), ..Changes::default() };
        assert!(homes.with_changes(elsewhere).is_err());
    }

    /// The region that stands in is lost, too.
    #[test]
    fn a_region_that_stands_in_may_be_lost_as_well() {
        let homes = homes("ap", &["ap", "eu", "us"], Rule::KeyPrefix);
        let [ap, eu, us] = ["ap", "eu", "us"].map(|name| homes.region(name).unwrap().clone());
        let at = Timestamp::from_millis;
        let one = close(&Changes::default(), &eu).lose(&eu, &us, at(1_000));
        let alice = Scope::new("alice").unwrap();
        let decides = |changes: &Changes, millis| {
            let changed = homes.with_changes(changes.clone()).unwrap();
            format!("{:?}", changed.decides(&alice, &made_at(millis)))
        };
        let closed = close(&one, &us);
        assert_eq!(decides(&closed, 1_500), "Nobody", "it stands in for this key");
        let both = closed.lose(&us, &ap, at(2_000));
        assert_eq!(decides(&both, 500), "Lost(Region(eu))");
        assert_eq!(decides(&both, 1_500), "Lost(Region(us))");
        assert_eq!(decides(&both, 2_500), "Region(Region(ap))");
        let back = close(&both, &us).bring_back(&us, at(3_000));
        assert_eq!(decides(&back, 1_500), "Region(Region(us))", "it has the record");
        assert_eq!(decides(&back, 3_500), "Region(Region(ap))", "it still stands in for the other");
    }

    #[test]
    fn a_map_that_cannot_be_used_says_why() {
        let new = |this: &str, regions: &[&str], epoch| {
            Homes::new(this, regions.iter().copied(), Rule::Scope, epoch).unwrap_err().to_string()
        };
        assert!(new("eu", &["eu", "EU"], 1).contains("`EU` is not the name"));
        assert!(new("", &["eu"], 1).contains("`` is not the name"));
        assert!(new("eu", &["eu", "us", "eu"], 1).contains("`eu` is named twice"));
        assert!(new("eu", &["us"], 1).contains("`eu`, is not one"));
        assert!(new("eu", &["eu"], 0).contains("from 1"));
        let many: Vec<String> = (0..=REGIONS_MAX).map(|nth| format!("r{nth}")).collect();
        assert!(new("r0", &many.iter().map(String::as_str).collect::<Vec<_>>(), 1).contains("more than 64"));
    }
}
