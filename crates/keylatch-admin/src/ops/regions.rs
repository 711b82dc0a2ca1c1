//! Regions: which of them decides about which keys, and what to do when one is lost or comes back.
//!
//! A change has two steps. After the first, nobody decides about the keys of the region. It is in the stores of a majority
//! of the regions before anyone waits for one lease: then no region's right to decide by an older map is left. The second
//! step says who decides from then on.
//!
//! Several operators may be at it at once, and each may die at any moment. So each change works like a round of
//! [Paxos](https://lamport.azurewebsites.net/pubs/paxos-simple.pdf) over the stores of the regions:
//!
//! 1. It reads the stores of a majority. It is made of the latest second step that any of them ever had.
//! 2. Its first step has a higher number than all that is there, and a name of its own, so that of two first steps with one
//!    number one has a majority at most. A store takes it only if it still has what was read. It closes also all regions
//!    that are closed in any of these stores, because the second step of their change may be in a store that was not read,
//!    and may be found later.
//! 3. Its second step goes into the stores that still have its first as the latest. So if a later change has come between in
//!    too many of them, this one has no majority, and says so. Asked for again, it is made anew.
//!
//! A change that was interrupted between its steps is replaced by the next one, of whichever region.

use std::time::Duration;

use keylatch::regions::{Changes, Region, Turn};
use keylatch::store::{self, ErrorKind};
use keylatch::{Key, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use utoipa::ToSchema;

use super::records::check_reason;
use super::{Error, Now, Operator};
use crate::audit::{Actor, Asked, Before};
use crate::regions::{Found, Regions, Stores, check_map};
use crate::view::{Instant, instant};

/// How far the clocks of the gateways and of the stores of all regions may be apart.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(5);

/// Asks that another region decides about the new keys of one that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoseRegion {
    /// The region that is gone.
    pub region: String,
    /// The region that stands in.
    pub to: String,
    /// The regions whose stores take part: a majority, with the one that stands in. All that are known but the one that is
    /// gone, if it is left out.
    #[serde(default)]
    pub stores: Option<Vec<String>>,
    /// Why: 1 to 1,000 bytes, without control characters.
    pub reason: String,
    /// Only check everything, and count.
    #[serde(default)]
    pub dry_run: bool,
}

/// Asks that a region decides again.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BringRegionBack {
    /// The region that is back.
    pub region: String,
    /// The regions whose stores take part: a majority, with the one that is back. All that are known, if it is left out.
    #[serde(default)]
    pub stores: Option<Vec<String>>,
    /// Why: 1 to 1,000 bytes, without control characters.
    pub reason: String,
    /// Only check everything, and count.
    #[serde(default)]
    pub dry_run: bool,
}

/// What has changed in a map since it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ChangesView {
    /// Higher with each step of a change; 0 for none.
    pub number: u64,
    /// The regions about whose keys nobody decides until the second step of a change.
    pub closing: Vec<String>,
    /// The regions that are gone.
    pub lost: Vec<String>,
    /// Who decides about the keys of a region from some time on.
    pub turns: Vec<TurnView>,
}

/// From some time on, a region decides about the new keys of a region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct TurnView {
    /// The region whose keys they are by the rule.
    pub of: String,
    /// The time in the first of these keys.
    pub since: Instant,
    /// The region that decides about them.
    pub by: String,
}

impl From<&Changes> for ChangesView {
    fn from(changes: &Changes) -> Self {
        let turn =
            |turn: &Turn| TurnView { of: turn.of.to_string(), since: instant(turn.since), by: turn.by.to_string() };
        Self {
            number: changes.number,
            closing: changes.closing.iter().map(ToString::to_string).collect(),
            lost: changes.lost.iter().map(ToString::to_string).collect(),
            turns: changes.turns.iter().map(turn).collect(),
        }
    }
}

/// A map, and who is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct MapView {
    /// The number of the map, as its file has it.
    pub epoch: u64,
    /// For how long a majority lets a region decide, in milliseconds; `null` if regions decide without, so that homes cannot
    /// be moved.
    pub lease_ms: Option<u64>,
    /// The latest changes in any of the stores that could be read; of several with one number, those that most of them
    /// have. What is lost, and the turns, are those of the latest second step that any of these stores ever had: the next
    /// change is made of it.
    pub changes: ChangesView,
    /// Whether these are the latest in the stores of a majority. If not, no region decides for long: gateways bring a later
    /// change to the others, but if two have one number, an operator has to ask for a change.
    pub majority: bool,
    /// All regions.
    pub regions: Vec<RegionView>,
}

/// A region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RegionView {
    /// Its name.
    pub region: String,
    /// Whether it is gone.
    pub lost: bool,
    /// The number of the latest change in its store; `null` if that could not be read.
    pub change: Option<u64>,
    /// Why it could not be read.
    pub problem: Option<&'static str>,
}

/// What became of a change, or what would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RegionsChanged {
    /// Whether it was done; `false` for a dry run.
    pub applied: bool,
    /// What it does.
    pub says: String,
    /// The changes of the map after it. In a dry run the time of its turn is not known, and is that of now.
    pub changes: ChangesView,
    /// The regions whose stores take part.
    pub stores: Vec<String>,
    /// What is in these stores.
    pub counted: Vec<Counted>,
}

/// What is in the store of a region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Counted {
    /// The region.
    pub region: String,
    /// Its records, up to a million and some.
    pub records: u64,
    /// Those that run, or whose run has died.
    pub running: u64,
    /// Those whose keys have no time in them.
    pub timeless: u64,
}

/// The second step of a change.
enum Then {
    Lose { by: Region },
    BringBack,
}

impl Operator {
    /// The map of regions, and who is in it. A store that cannot be read is named, with the reason.
    ///
    /// # Errors
    ///
    /// If there are no regions, no store can be read, or one has what cannot be a change of this map.
    pub async fn regions(&self) -> Result<MapView, Error> {
        let regions = self.map_of_regions()?;
        let (mut views, mut found, mut failed) = (Vec::new(), Found::nothing(), None);
        for region in regions.homes().regions() {
            let mut view = RegionView { region: region.to_string(), lost: false, change: None, problem: None };
            if !regions.knows(region) {
                view.problem = Some("this program does not know its store");
                views.push(view);
                continue;
            }
            match regions.had_by(region).await {
                Ok(had) => {
                    view.change = Some(had.latest.number);
                    found.push(region.clone(), had);
                }
                Err(error) => {
                    tracing::warn!(%region, %error, "the map of regions cannot be read");
                    view.problem = Some("its store cannot be read; the log says why");
                    failed = Some(error);
                }
            }
            views.push(view);
        }
        if let (true, Some(error)) = (found.is_empty(), failed) {
            return Err(error);
        }
        let ((latest, count), made) = (found.latest(), found.made());
        let latest = Changes { lost: made.lost, turns: made.turns, ..latest };
        check_map(regions.homes(), &latest)?;
        let majority = regions.is_majority(count);
        for view in &mut views {
            view.lost = latest.lost.iter().any(|lost| lost.as_str() == view.region);
        }
        let lease_ms = regions.lease().map(|lease| u64::try_from(lease.as_millis()).unwrap_or(u64::MAX));
        Ok(MapView { epoch: regions.homes().epoch(), lease_ms, changes: (&latest).into(), majority, regions: views })
    }

    /// A region is gone: another one decides about its keys that are made from now on. It takes one lease; `progress` gets
    /// to know how long, when it begins to wait.
    ///
    /// # Errors
    ///
    /// See [`Error`]. If a store has failed, the change may be in some of them: ask again.
    pub async fn lose_region(
        &self,
        who: &Actor,
        request: LoseRegion,
        progress: impl FnOnce(Duration),
    ) -> Result<RegionsChanged, Error> {
        let LoseRegion { region, to, stores, reason, dry_run } = request;
        check_reason(&reason)?;
        let regions = self.map_of_regions()?;
        let (region, by) = (find(regions, "region", &region)?, find(regions, "to", &to)?);
        if region == by {
            return Err(Error::invalid("to", "has to be another region, which stands in"));
        }
        let chosen = choose(regions, stores, |known| *known != region, &by)?;
        let says = format!(
            "{by} decides about the keys of {region} that are made from the turn on. The outcome of each request with an older \
             key, or one without a time, is unknown until {region} is back."
        );
        let change = Change { regions, region, then: Then::Lose { by }, reason, dry_run, says };
        self.change_regions(who, change, chosen, progress).await
    }

    /// A region is back: it decides about its old keys, and about those that are made from now on. It takes one lease;
    /// `progress` gets to know how long, when it begins to wait.
    ///
    /// # Errors
    ///
    /// See [`Error`]. If a store has failed, the change may be in some of them: ask again.
    pub async fn bring_region_back(
        &self,
        who: &Actor,
        request: BringRegionBack,
        progress: impl FnOnce(Duration),
    ) -> Result<RegionsChanged, Error> {
        let BringRegionBack { region, stores, reason, dry_run } = request;
        check_reason(&reason)?;
        let regions = self.map_of_regions()?;
        let region = find(regions, "region", &region)?;
        let chosen = choose(regions, stores, |_| true, &region)?;
        let says = format!(
            "{region} decides about its keys that were made before it was lost, and about those that are made from the turn \
             on. Those between stay where they are. If its store was lost with it, its old keys would be free: then never do \
             this."
        );
        self.change_regions(
            who,
            Change { regions, region, then: Then::BringBack, reason, dry_run, says },
            chosen,
            progress,
        )
        .await
    }

    fn map_of_regions(&self) -> Result<&Regions, Error> {
        let stores = "a gateway has one by the table [regions] of its file";
        self.regions.as_ref().ok_or(Error::Unsupported { what: "map of regions", stores })
    }

    async fn change_regions(
        &self,
        who: &Actor,
        change: Change<'_>,
        chosen: Vec<Region>,
        progress: impl FnOnce(Duration),
    ) -> Result<RegionsChanged, Error> {
        let Change { regions, region, then, reason, dry_run, says } = change;
        let Some(lease) = regions.lease() else {
            let stores = "without it homes cannot be moved while gateways run: stop all of them, and start them with another \
                          map and epoch";
            return Err(Error::Unsupported { what: "`lease` in the table [regions]", stores });
        };
        let stores = regions.open(chosen).await?;
        let found = stores.read().await?;
        check(regions, &found, &region, &then)?;
        let mut changed = RegionsChanged {
            applied: false,
            says,
            changes: (&then.second(&first(&found, &region), &region, found.now())).into(),
            stores: stores.names(),
            counted: stores.count().await?,
        };
        if dry_run {
            return Ok(changed);
        }
        let action = if matches!(then, Then::Lose { .. }) { "lose-region" } else { "bring-back-region" };
        let asked = Asked { action, target: vec![format!("region {region}")], reason, before: Before::default() };
        let work = async { both_steps(regions, &stores, found, (&region, &then), lease, progress).await };
        let says = |(changes, took): &(Changes, Vec<String>)| {
            format!("change {} is in the stores of {}", changes.number, took.join(", "))
        };
        let (changes, took) = self.audited(who, asked, work, says).await?;
        changed.changes = (&changes).into();
        changed.stores = took;
        changed.applied = true;
        Ok(changed)
    }
}

/// A change that was asked for.
struct Change<'r> {
    regions: &'r Regions,
    region: Region,
    then: Then,
    reason: String,
    dry_run: bool,
    says: String,
}

/// Returns the second step, and in which stores it is.
async fn both_steps(
    regions: &Regions,
    stores: &Stores<'_>,
    mut found: Found,
    (region, then): (&Region, &Then),
    lease: Duration,
    progress: impl FnOnce(Duration),
) -> Result<(Changes, Vec<String>), Error> {
    // Clocks that run at different speeds differ by less than that in one lease.
    let wait = lease + lease / 20 + Duration::from_millis(100);
    if found.closing().is_empty() {
        progress(wait);
    } else {
        // Whoever has begun this change may be about to end it.
        progress(2 * wait);
        let begun = found.number();
        sleep(wait).await;
        found = stores.read().await?;
        check(regions, &found, region, then)?;
        if found.number() != begun && !found.closing().is_empty() {
            return Err(again(region, then, "another operator has begun a change just now"));
        }
    }
    let closed = first(&found, region);
    let took = stores.write(found.numbers(), &closed).await.map_err(|error| again(region, then, error))?;
    sleep(wait).await;
    // No key of this time can have been accepted before.
    let since = found.now() + found.age() + regions.key_ahead_max() + CLOCKS_APART_MAX;
    let changes = then.second(&closed, region, since);
    let after = took.into_iter().map(|region| (region, closed.number));
    let took = stores.write(after, &changes).await.map_err(|error| again(region, then, error))?;
    Ok((changes, took.iter().map(ToString::to_string).collect()))
}

/// The first step of a change.
fn first(found: &Found, region: &Region) -> Changes {
    let closing = found.closing().into_iter().chain([region.clone()]);
    found.made().close(found.number(), closing, Key::random().as_str().to_owned())
}

/// The change has no majority.
fn again(region: &Region, then: &Then, why: impl std::fmt::Display) -> Error {
    let command = match then {
        Then::Lose { by } => format!("lose {region} --to {by}"),
        Then::BringBack => format!("bring-back {region}"),
    };
    let why = format!(
        "this change is not in the stores of a majority: {why}. Look with `keylatch regions show`, and run `keylatch regions \
         {command}` again: it finishes this change or replaces it. Until then nobody may decide about some of the keys"
    );
    Error::Store(store::Error::new(ErrorKind::NotKnown, why))
}

impl Then {
    fn second(&self, closed: &Changes, region: &Region, since: Timestamp) -> Changes {
        match self {
            Self::Lose { by } => closed.lose(region, by, since),
            Self::BringBack => closed.bring_back(region, since),
        }
    }
}

/// The region of this name.
fn find(regions: &Regions, field: &'static str, name: &str) -> Result<Region, Error> {
    let all = || regions.homes().regions().iter().map(Region::as_str).collect::<Vec<_>>().join(", ");
    let found = regions.homes().region(name).cloned();
    found.ok_or_else(|| Error::invalid(field, format!("`{name}` is not one of the regions: {}", all())))
}

/// The regions whose stores take part: those that are named, or those that are known and `usual`. `decides` has to be one.
fn choose(
    regions: &Regions,
    named: Option<Vec<String>>,
    usual: impl Fn(&Region) -> bool,
    decides: &Region,
) -> Result<Vec<Region>, Error> {
    let mut chosen = Vec::new();
    match named {
        None => chosen.extend(regions.known().filter(|region| usual(region)).cloned()),
        Some(named) => {
            for name in named {
                let region = find(regions, "stores", &name)?;
                if !regions.knows(&region) {
                    let why = format!(
                        "names {region}, whose store this program does not know; a gateway gets it by --region-store"
                    );
                    return Err(Error::invalid("stores", why));
                }
                chosen.push(region);
            }
        }
    }
    // In one order, so that of two changes at once one is refused before it has begun.
    chosen.sort();
    chosen.dedup();
    let all = regions.homes().regions().len();
    if 2 * chosen.len() <= all {
        let why = format!(
            "are {} of the {all} regions', and a majority has to take part: name more, or give a gateway more by \
             --region-store",
            chosen.len()
        );
        return Err(Error::invalid("the stores", why));
    }
    if !chosen.contains(decides) {
        let why = format!("do not include the store of {decides}, which is to decide: name it as well");
        return Err(Error::invalid("the stores", why));
    }
    Ok(chosen)
}

/// Whether the change has a meaning now.
fn check(regions: &Regions, found: &Found, region: &Region, then: &Then) -> Result<(), Error> {
    let made = found.made();
    let is_settled = found.closing().is_empty() && regions.is_majority(found.with(&made));
    let meaning = meaning(&made, is_settled, region, then);
    meaning.map_err(|why| Error::NotPossible { why, now: Now::Regions(Box::new((&made).into())) })
}

/// A change that is made already can be made again if it is not settled, that is, in the stores of a majority: so it is.
fn meaning(made: &Changes, is_settled: bool, region: &Region, then: &Then) -> Result<(), String> {
    match then {
        Then::Lose { by } if made.lost.contains(by) => Err(format!("{by} is lost: another one has to stand in")),
        Then::Lose { .. } if made.lost.contains(region) && is_settled => Err(format!("{region} is lost already")),
        Then::BringBack if !made.lost.contains(region) && is_settled => Err(format!("{region} is not lost")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use keylatch::regions::{Homes, Rule};

    use super::*;

    #[test]
    fn only_changes_with_a_meaning_are_made() {
        let homes = Homes::new("eu", ["ap", "eu", "us"], Rule::Scope, 1).unwrap();
        let [ap, eu, us] = ["ap", "eu", "us"].map(|name| homes.region(name).unwrap().clone());
        let closed = Changes::default().close(0, [eu.clone()], "a".to_owned());
        let lost = closed.lose(&eu, &us, Timestamp::from_millis(1));
        let lose = |by: &Region| Then::Lose { by: by.clone() };
        for (changes, region, then) in
            [(&Changes::default(), &eu, lose(&us)), (&closed, &eu, lose(&us)), (&lost, &eu, Then::BringBack)]
        {
            assert_eq!(meaning(changes, true, region, &then), Ok(()));
        }
        for (changes, region, then) in
            [(&lost, &eu, lose(&us)), (&lost, &ap, lose(&eu)), (&Changes::default(), &eu, Then::BringBack)]
        {
            assert!(meaning(changes, true, region, &then).is_err());
        }
        // What has no majority yet can be made again, to get one.
        assert_eq!(meaning(&lost, false, &eu, &lose(&us)), Ok(()));
        assert_eq!(meaning(&Changes::default(), false, &eu, &Then::BringBack), Ok(()));
        assert!(meaning(&lost, false, &ap, &lose(&eu)).is_err());
    }
}
