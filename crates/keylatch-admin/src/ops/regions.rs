//! Regions: which of them decides about which keys, and what to do when one is lost or comes back.
//!
//! A change has two steps. After the first, nobody decides about the keys of the region. It is in the stores of a majority
//! of the regions before anyone waits for one lease: then no region's right to decide by an older map is left. The second
//! step says who decides from then on. A change that was interrupted between the two is asked for again.

use std::time::Duration;

use keylatch::Timestamp;
use keylatch::regions::{Changes, Region, Turn};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use utoipa::ToSchema;

use super::records::check_reason;
use super::{Error, Now, Operator};
use crate::audit::{Actor, Asked, Before};
use crate::regions::{Regions, Stores, latest_of};
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
    /// One higher with each step of a change; 0 for none.
    pub number: u64,
    /// The region about whose keys nobody decides until its change is asked for again.
    pub closing: Option<String>,
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
            closing: changes.closing.as_ref().map(ToString::to_string),
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
    /// The latest changes in any of the stores that could be read.
    pub changes: ChangesView,
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
    /// If there are no regions, no store can be read, or two of them have different changes under one number.
    pub async fn regions(&self) -> Result<MapView, Error> {
        let regions = self.map_of_regions()?;
        let (mut views, mut all, mut failed) = (Vec::new(), Vec::new(), None);
        for region in regions.homes().regions() {
            let mut view = RegionView { region: region.to_string(), lost: false, change: None, problem: None };
            if !regions.knows(region) {
                view.problem = Some("this program does not know its store");
                views.push(view);
                continue;
            }
            match regions.latest_in(region).await {
                Ok((changes, _)) => {
                    view.change = Some(changes.number);
                    all.push(changes);
                }
                Err(error) => {
                    tracing::warn!(%region, %error, "the map of regions cannot be read");
                    view.problem = Some("its store cannot be read; the log says why");
                    failed = Some(error);
                }
            }
            views.push(view);
        }
        if let (true, Some(error)) = (all.is_empty(), failed) {
            return Err(error);
        }
        let latest = latest_of(regions.homes(), &all)?;
        for view in &mut views {
            view.lost = latest.lost.iter().any(|lost| lost.as_str() == view.region);
        }
        let lease_ms = regions.lease().map(|lease| u64::try_from(lease.as_millis()).unwrap_or(u64::MAX));
        Ok(MapView { epoch: regions.homes().epoch(), lease_ms, changes: (&latest).into(), regions: views })
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
        let (latest, now) = stores.latest().await?;
        check(&latest, &region, &then)?;
        let mut changed = RegionsChanged {
            applied: false,
            says,
            changes: (&then.second(&latest.close(&region), &region, now)).into(),
            stores: stores.names(),
            counted: stores.count().await?,
        };
        if dry_run {
            return Ok(changed);
        }
        let action = if matches!(then, Then::Lose { .. }) { "lose-region" } else { "bring-back-region" };
        let asked = Asked { action, target: vec![format!("region {region}")], reason, before: Before::default() };
        let work = async {
            let closed = if latest.closing.is_some() { latest } else { latest.close(&region) };
            both_steps(&stores, &closed, (&region, &then), (lease, regions.key_ahead_max()), progress).await
        };
        let says =
            |changes: &Changes| format!("change {} is in the stores of {}", changes.number, stores.names().join(", "));
        let changes = self.audited(who, asked, work, says).await?;
        changed.changes = (&changes).into();
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

async fn both_steps(
    stores: &Stores<'_>,
    closed: &Changes,
    (region, then): (&Region, &Then),
    (lease, key_ahead_max): (Duration, Duration),
    progress: impl FnOnce(Duration),
) -> Result<Changes, Error> {
    stores.write(closed).await?;
    // Clocks that run at different speeds differ by less than that in one lease.
    let wait = lease + lease / 20 + Duration::from_millis(100);
    progress(wait);
    sleep(wait).await;
    let (_, now) = stores.latest().await?;
    // No key of this time can have been accepted before.
    let changes = then.second(closed, region, now + key_ahead_max + CLOCKS_APART_MAX);
    stores.write(&changes).await?;
    Ok(changes)
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
fn check(latest: &Changes, region: &Region, then: &Then) -> Result<(), Error> {
    let why = match (then, &latest.closing) {
        (_, Some(closing)) if closing != region => {
            format!("a change of {closing} is under way: finish it first, by asking for it again")
        }
        (Then::Lose { .. }, _) if latest.lost.contains(region) => format!("{region} is lost already"),
        (Then::Lose { by }, _) if latest.lost.contains(by) => format!("{by} is lost: another one has to stand in"),
        (Then::BringBack, _) if !latest.lost.contains(region) => format!("{region} is not lost"),
        _ => return Ok(()),
    };
    Err(Error::NotPossible { why, now: Now::Regions(Box::new(latest.into())) })
}

#[cfg(test)]
mod tests {
    use keylatch::regions::{Homes, Rule};

    use super::*;

    #[test]
    fn only_changes_with_a_meaning_are_made() {
        let homes = Homes::new("eu", ["ap", "eu", "us"], Rule::Scope, 1).unwrap();
        let [ap, eu, us] = ["ap", "eu", "us"].map(|name| homes.region(name).unwrap().clone());
        let lost = Changes::default().close(&eu).lose(&eu, &us, Timestamp::from_millis(1));
        let lose = |by: &Region| Then::Lose { by: by.clone() };
        assert!(check(&Changes::default(), &eu, &lose(&us)).is_ok());
        assert!(check(&Changes::default().close(&eu), &eu, &lose(&us)).is_ok(), "it was interrupted");
        assert!(check(&lost, &eu, &Then::BringBack).is_ok());
        for (changes, region, then) in [
            (&lost, &eu, lose(&us)),
            (&lost, &ap, lose(&eu)),
            (&Changes::default(), &eu, Then::BringBack),
            (&Changes::default().close(&ap), &eu, lose(&us)),
        ] {
            assert!(matches!(check(changes, region, &then), Err(Error::NotPossible { .. })));
        }
    }
}
