//! `keylatch regions`: which region decides about which keys, and what to do when one is lost or comes back.
//!
//! A change has two steps. After the first, nobody decides about the keys of the region. It is in the stores of a majority
//! of the regions before the command waits for one lease: then no region's right to decide by an older map is left. The
//! second step says who decides from then on. A command that was interrupted between the two is run again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keylatch::regions::{Changes, Region};
use keylatch::store::{PAGE_RECORDS_MAX, PageRequest};
use keylatch::{Policy, Record, Timestamp};
use keylatch_admin::audit::{Asked, Before, Stage};
use serde::Serialize;
use tokio::time::sleep;

use super::args::{BringBack, ChangeRegions, Lose, Regions, RegionsAt};
use super::failure::Failure;
use super::open::can_be_reached;
use super::output::{Output, Progress};
use crate::config::{self, Config};
use crate::regions::log::Log;
use crate::store::{Opened, Ways};

/// How far the clocks of the gateways and of the stores of all regions may be apart.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(5);
/// So many records are counted in a store, at most.
const COUNTED_MAX: u64 = 1_000_000;

/// The stores that the command got, by their regions.
struct Stores {
    regions: config::Regions,
    lease: Duration,
    stores: BTreeMap<Region, (Opened, Log)>,
}

/// What a region has.
#[derive(Debug, Default, Serialize)]
struct Counted {
    region: String,
    /// Records, up to a million.
    records: u64,
    /// Those that run now, or whose run has died.
    running: u64,
    /// Those whose keys have no time in them.
    timeless: u64,
}

/// The answer of each command.
#[derive(Debug, Serialize)]
struct Shown {
    changes: Changes,
    /// In which of the stores that were given these changes are.
    stores: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    counted: Vec<Counted>,
    /// Whether anything was changed.
    changed: bool,
}

/// The second step of a change.
enum Then {
    Lose { by: Region },
    BringBack,
}

pub(super) async fn run(command: Regions, output: Output) -> Result<(), Failure> {
    match command {
        Regions::Show(at) => {
            let stores = Stores::open(&at).await?;
            let (changes, numbers, _) = stores.latest().await?;
            let up_to_date = numbers.iter().filter(|(_, number)| **number == changes.number);
            let up_to_date = up_to_date.map(|(region, _)| region.to_string()).collect();
            show(output, Shown { changes, stores: up_to_date, counted: Vec::new(), changed: false })
        }
        Regions::Lose(Lose { region, to, change }) => {
            let stores = Stores::open(&change.at).await?;
            let (region, by) = (stores.region(&region)?, stores.region(&to)?);
            if region == by {
                return Err(Failure::Arguments("another region has to stand in: choose it by --to".to_owned()));
            }
            stores.needs(&by)?;
            stores.change(&region, Then::Lose { by }, &change, output).await
        }
        Regions::BringBack(BringBack { region, change }) => {
            let stores = Stores::open(&change.at).await?;
            let region = stores.region(&region)?;
            stores.needs(&region)?;
            stores.change(&region, Then::BringBack, &change, output).await
        }
    }
}

impl Stores {
    async fn open(at: &RegionsAt) -> Result<Self, Failure> {
        let config = Config::read(&at.config, Policy::default()).map_err(Failure::Arguments)?;
        let none = || Failure::Arguments(format!("{} has no table [regions]", at.config.display()));
        let regions = config.regions.ok_or_else(none)?;
        let Some(lease) = regions.lease else {
            let why = "the table [regions] has no `lease`: without it the homes cannot be moved while gateways run. Stop \
                       all of them, and start them with another map and epoch";
            return Err(Failure::Arguments(why.to_owned()));
        };
        let mut stores = BTreeMap::new();
        for url in &at.stores {
            can_be_reached(url)?;
            let opened = url.open_with(None, Ways::default()).await;
            let opened = opened.map_err(|error| Failure::Store(format!("{url}: {error}")))?;
            let log = Log::new(opened.store.clone());
            let region = log.region().await.map_err(|error| Failure::Store(format!("{url}: {error}")))?;
            let Some(region) = region else {
                return Err(Failure::Arguments(format!("{url}: no gateway of a region has used this store")));
            };
            if regions.homes.region(region.as_str()).is_none() {
                return Err(Failure::Arguments(format!("{url} is the store of {region}, which is not in the file")));
            }
            if stores.insert(region.clone(), (opened, log)).is_some() {
                return Err(Failure::Arguments(format!("two of the stores are of {region}: name each region once")));
            }
        }
        Ok(Self { regions, lease, stores })
    }

    fn region(&self, name: &str) -> Result<Region, Failure> {
        let known = self.regions.homes.region(name).cloned();
        known.ok_or_else(|| Failure::Arguments(format!("`{name}` is not one of the regions in the file")))
    }

    fn needs(&self, region: &Region) -> Result<(), Failure> {
        let why = || Failure::Arguments(format!("name the store of {region} as well: it is to decide"));
        self.stores.contains_key(region).then_some(()).ok_or_else(why)
    }

    /// The latest change in any of the stores, its number in each, and the latest time of any.
    async fn latest(&self) -> Result<(Changes, BTreeMap<Region, u64>, Timestamp), Failure> {
        let (mut latest, mut numbers) = (Changes::default(), BTreeMap::new());
        let mut now = Timestamp::from_millis(0);
        let mut all: Vec<Changes> = Vec::new();
        for (region, (_, log)) in &self.stores {
            let read = log.latest(Changes::default()).await;
            let (changes, of_store) = read.map_err(|error| Failure::Store(format!("{region}: {error}")))?;
            numbers.insert(region.clone(), changes.number);
            now = now.max(of_store);
            if changes.number > latest.number {
                latest = changes.clone();
            }
            all.push(changes);
        }
        if all.iter().any(|changes| changes.number == latest.number && *changes != latest) {
            let why =
                "two regions have different changes under one number: nobody decides until a later change is in all";
            return Err(Failure::Store(why.to_owned()));
        }
        let changed = self.regions.homes.with_changes(latest.clone());
        changed.map_err(|error| Failure::Arguments(error.to_string()))?;
        Ok((latest, numbers, now))
    }

    /// Makes `changes` the latest in each store.
    async fn write(&self, changes: &Changes) -> Result<(), Failure> {
        for (region, (_, log)) in &self.stores {
            let written = log.bring_to(changes).await;
            written.map_err(|error| Failure::Store(format!("{region}: {error}; run the command again")))?;
        }
        Ok(())
    }

    async fn change(self, region: &Region, then: Then, how: &ChangeRegions, output: Output) -> Result<(), Failure> {
        let all = self.regions.homes.regions().len();
        if 2 * self.stores.len() <= all {
            let why = format!(
                "a majority of the {all} regions has to take part, and {} of their stores {} named: name more with --store",
                self.stores.len(),
                if self.stores.len() == 1 { "is" } else { "are" }
            );
            return Err(Failure::Arguments(why));
        }
        let (latest, ..) = self.latest().await?;
        check(&latest, region, &then)?;
        let mut counted = Vec::new();
        for (of, (opened, _)) in &self.stores {
            counted.push(count(of, opened).await?);
        }
        let names = || self.stores.keys().map(ToString::to_string).collect::<Vec<_>>();
        if how.dry_run {
            let changes = second(&latest.close(region), region, &then, Timestamp::from_millis(0));
            return show(output, Shown { changes, stores: names(), counted, changed: false });
        }
        let target = vec![format!("region {region}")];
        let action = if matches!(then, Then::Lose { .. }) { "lose-region" } else { "bring-back-region" };
        let asked = Asked { action, target, reason: how.reason.clone(), before: Before::default() };
        let trail = how.acting.audit()?.asked(&how.acting.actor(), asked).await?;
        let ended = self.both_steps(latest, region, &then).await;
        match &ended {
            Ok(_) => trail.ended(Stage::Done, "the change is in these stores").await,
            Err(_) => trail.ended(Stage::Failed, "the change is perhaps in some of these stores").await,
        }
        show(output, Shown { changes: ended?, stores: names(), counted, changed: true })
    }

    async fn both_steps(&self, latest: Changes, region: &Region, then: &Then) -> Result<Changes, Failure> {
        let closed = if latest.closing.is_some() { latest } else { latest.close(region) };
        self.write(&closed).await?;
        // Clocks that run at different speeds differ by less than that in one lease.
        let wait = self.lease + self.lease / 20 + Duration::from_millis(100);
        let mut progress = Progress::new();
        progress.show(&format!("nobody decides about the keys of {region}; waiting for {wait:?}"));
        sleep(wait).await;
        drop(progress);
        let (_, _, now) = self.latest().await?;
        // No key of this time can have been accepted before.
        let since = now + self.regions.key_ahead_max + CLOCKS_APART_MAX;
        let changes = second(&closed, region, then, since);
        self.write(&changes).await?;
        Ok(changes)
    }
}

fn second(closed: &Changes, region: &Region, then: &Then, since: Timestamp) -> Changes {
    match then {
        Then::Lose { by } => closed.lose(region, by, since),
        Then::BringBack => closed.bring_back(region, since),
    }
}

/// Whether the change has a meaning now.
fn check(latest: &Changes, region: &Region, then: &Then) -> Result<(), Failure> {
    let refuse = |why: String| Err(Failure::NotPossible(why));
    if let Some(closing) = latest.closing.as_ref().filter(|closing| *closing != region) {
        return refuse(format!("a change of {closing} is under way: finish it first, by its command again"));
    }
    match then {
        Then::Lose { .. } if latest.lost.contains(region) => refuse(format!("{region} is lost already")),
        Then::Lose { by } if latest.lost.contains(by) => refuse(format!("{by} is lost: another one has to stand in")),
        Then::BringBack if !latest.lost.contains(region) => refuse(format!("{region} is not lost")),
        _ => Ok(()),
    }
}

/// Counts the records of a region.
async fn count(region: &Region, opened: &Opened) -> Result<Counted, Failure> {
    let mut counted = Counted { region: region.to_string(), ..Counted::default() };
    let mut after = None;
    loop {
        let page = PageRequest { scope: None, after, limit: PAGE_RECORDS_MAX };
        let page = opened.store.list(page).await.map_err(|error| Failure::Store(format!("{region}: {error}")))?.value;
        for record in page.records.iter().filter(|record| !Log::is_own(record)) {
            counted.add(record);
        }
        after = page.next;
        if after.is_none() || counted.records >= COUNTED_MAX {
            return Ok(counted);
        }
    }
}

impl Counted {
    fn add(&mut self, record: &Record) {
        self.records += 1;
        self.running += u64::from(matches!(record.state, keylatch::store::State::Running { .. }));
        self.timeless += u64::from(record.key.made_at().is_none());
    }
}

fn show(output: Output, shown: Shown) -> Result<(), Failure> {
    if output.json {
        return Ok(output.object(&shown)?);
    }
    let Shown { changes, stores, counted, changed } = shown;
    let list = |regions: &BTreeSet<Region>| {
        let names: Vec<_> = regions.iter().map(ToString::to_string).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    output.line(&format!("change    {} in {}", changes.number, stores.join(", ")))?;
    output.line(&format!("lost      {}", list(&changes.lost)))?;
    if let Some(closing) = &changes.closing {
        output.line(&format!("closing   {closing}: nobody decides about its keys until the command is run again"))?;
    }
    for turn in &changes.turns {
        let since = jiff::Timestamp::from_millisecond(turn.since.as_millis()).unwrap_or_default();
        output.line(&format!("turn      keys of {} that are made from {since} on: {} decides", turn.of, turn.by))?;
    }
    for Counted { region, records, running, timeless } in &counted {
        output.line(&format!(
            "counted   {region}: {records} records, {running} of them running, {timeless} without a time in the key"
        ))?;
    }
    if !counted.is_empty() {
        output.line(if changed { "The change was made." } else { "Nothing was changed: this was a rehearsal." })?;
    }
    Ok(())
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
            assert!(matches!(check(changes, region, &then), Err(Failure::NotPossible(_))));
        }
    }
}
