//! `keylatch regions`: which region decides about which keys, and what to do when one is lost or comes back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use keylatch::regions::Region;
use keylatch::store::Store;
use keylatch::{Policy, memory};
use keylatch_admin::Operator;
use keylatch_admin::ops::{BringRegionBack, ChangesView, Counted, LoseRegion, MapView, RegionsChanged};
use keylatch_admin::regions::{Log, Regions as Map};

use super::args::{BringBack, Lose, Regions, RegionsAt};
use super::failure::Failure;
use super::open::can_be_reached;
use super::output::{Output, Progress};
use crate::config::{self, Config};
use crate::store::Ways;

pub(super) async fn run(command: Regions, output: Output) -> Result<(), Failure> {
    match command {
        Regions::Show(at) => {
            let (operator, _) = open(&at).await?;
            show_map(output, &operator.regions().await?)
        }
        Regions::Lose(Lose { region, to, change }) => {
            let (operator, stores) = open(&change.at).await?;
            let operator = change.acting.audited(operator)?;
            let (reason, dry_run) = (change.reason.clone(), change.dry_run);
            let request = LoseRegion { region: region.clone(), to, stores: Some(stores), reason, dry_run };
            let mut progress = Progress::new();
            let changed = operator.lose_region(&change.acting.actor(), request, waiting(&mut progress, &region)).await;
            drop(progress);
            show(output, &changed?)
        }
        Regions::BringBack(BringBack { region, change }) => {
            let (operator, stores) = open(&change.at).await?;
            let operator = change.acting.audited(operator)?;
            let (reason, dry_run) = (change.reason.clone(), change.dry_run);
            let request = BringRegionBack { region: region.clone(), stores: Some(stores), reason, dry_run };
            let mut progress = Progress::new();
            let changed =
                operator.bring_region_back(&change.acting.actor(), request, waiting(&mut progress, &region)).await;
            drop(progress);
            show(output, &changed?)
        }
    }
}

/// Shows for how long nobody decides about the keys of `region`.
fn waiting(progress: &mut Progress, region: &str) -> impl FnOnce(Duration) {
    move |wait| progress.show(&format!("nobody decides about the keys of {region}; waiting for {wait:?}"))
}

/// The operator of the regions whose stores were named, and the names of these.
async fn open(at: &RegionsAt) -> Result<(Operator, Vec<String>), Failure> {
    let config = Config::read(&at.config, Policy::default()).map_err(Failure::Arguments)?;
    let none = || Failure::Arguments(format!("{} has no table [regions]", at.config.display()));
    let config::Regions { homes, lease, key_ahead_max, .. } = config.regions.ok_or_else(none)?;
    let mut map = Map::new(homes.clone(), lease, key_ahead_max);
    let mut stores: BTreeSet<Region> = BTreeSet::new();
    for url in &at.stores {
        can_be_reached(url)?;
        let opened = url.open_with(None, Ways::default()).await;
        let opened = opened.map_err(|error| Failure::Store(format!("{url}: {error}")))?;
        let region = Log::new(opened.store.clone()).region().await;
        let region = region.map_err(|error| Failure::Store(format!("{url}: {error}")))?;
        let Some(region) = region else {
            return Err(Failure::Arguments(format!("{url}: no gateway of a region has used this store")));
        };
        if homes.region(region.as_str()).is_none() {
            return Err(Failure::Arguments(format!("{url} is the store of {region}, which is not in the file")));
        }
        if !stores.insert(region.clone()) {
            return Err(Failure::Arguments(format!("two of the stores are of {region}: name each region once")));
        }
        map = map.with_store(region, opened.store);
    }
    // The records of one store are no concern of these commands.
    let records: Arc<dyn Store> = Arc::new(memory::Store::new());
    let stores = stores.iter().map(ToString::to_string).collect();
    Ok((Operator::new(records).with_regions(map), stores))
}

fn show_map(output: Output, map: &MapView) -> Result<(), Failure> {
    if output.json {
        return Ok(output.object(map)?);
    }
    let in_stores: Vec<_> =
        map.regions.iter().filter_map(|view| Some(format!("{} in {}", view.change?, view.region))).collect();
    output.line(&format!(
        "change    {}",
        if in_stores.is_empty() { "not known".to_owned() } else { in_stores.join(", ") }
    ))?;
    if !map.majority {
        let why = "no majority has one change in the stores that were named: name more, or run `lose` or `bring-back`";
        output.line(&format!("majority  {why}"))?;
    }
    show_changes(output, &map.changes)
}

fn show(output: Output, changed: &RegionsChanged) -> Result<(), Failure> {
    if output.json {
        return Ok(output.object(changed)?);
    }
    let RegionsChanged { applied, says, changes, stores, counted } = changed;
    output.line(&format!("change    {} in {}", changes.number, stores.join(", ")))?;
    show_changes(output, changes)?;
    for Counted { region, records, running, timeless } in counted {
        output.line(&format!(
            "counted   {region}: {records} records, {running} of them running, {timeless} without a time in the key"
        ))?;
    }
    let title = if *applied { "The change was made:" } else { "Nothing was changed. The change would do this:" };
    Ok(output.paragraph(title, says)?)
}

fn show_changes(output: Output, changes: &ChangesView) -> Result<(), Failure> {
    let lost = if changes.lost.is_empty() { "none".to_owned() } else { changes.lost.join(", ") };
    output.line(&format!("lost      {lost}"))?;
    if !changes.closing.is_empty() {
        let closing = changes.closing.join(", ");
        output.line(&format!("closing   {closing}: nobody decides about these keys until the end of a change"))?;
    }
    for turn in &changes.turns {
        output.line(&format!(
            "turn      keys of {} that are made from {} on: {} decides",
            turn.of, turn.since, turn.by
        ))?;
    }
    Ok(())
}
