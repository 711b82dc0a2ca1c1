//! The table `[regions]`: which regions there are, where their gateways are, and which key has its home where.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keylatch::http::RegionSecret;
use keylatch::regions::{Homes, Region, Rule};

use super::mistakes::Mistakes;
use super::table::Table;
use crate::args::Span;
use crate::upstream::{Protocol, Upstream};

/// The regions, as this one sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Regions {
    pub(crate) homes: Homes,
    pub(crate) secret: RegionSecret,
    /// The gateways of all other regions.
    pub(crate) peers: Vec<(Region, Upstream)>,
    /// The file of authorities that sign the certificates of these gateways; `None` for those of the system.
    pub(crate) authorities: Option<PathBuf>,
    /// For how long a majority of the regions lets this one decide; `None` if it decides without.
    pub(crate) lease: Option<Duration>,
    /// How far the time in a key may be in the future, if there is a lease.
    pub(crate) key_ahead_max: Duration,
}

/// The shortest lease: a shorter one would end with every pause of a network between regions.
const LEASE_MIN: Duration = Duration::from_secs(1);
/// The fewest regions of which a majority is left without one of them.
const MAJORITY_OF: usize = 3;
/// The default of `key-ahead-max`: clocks of clients that are set by the network are closer.
const KEY_AHEAD_MAX: Duration = Duration::from_secs(5 * 60);

impl Regions {
    /// Reads the table. Paths are relative to `directory`.
    pub(super) fn read(mut table: Table<'_>, directory: &Path, mistakes: &mut Mistakes) -> Option<Self> {
        let this = table.string("this", mistakes);
        if table.get("this").is_none() {
            table.misses("this", "name the region of this gateway: this = \"eu\"", mistakes);
        }
        let epoch = table.number("epoch", mistakes);
        if table.get("epoch").is_none() {
            table.misses("epoch", "number the map, one higher with every change: epoch = 1", mistakes);
        }
        let rule = table.parsed::<Rule>("rule", mistakes);
        if table.get("rule").is_none() {
            table.misses("rule", "choose what decides: rule = \"scope\" or rule = \"key-prefix\"", mistakes);
        }
        let secret = table.parsed_by("secret-file", mistakes, |file| read_secret(&directory.join(file)));
        if table.get("secret-file").is_none() {
            table.misses("secret-file", "name a file with a secret that all regions have", mistakes);
        }
        let authorities = table.string("ca-file", mistakes).map(|file| directory.join(file.value));
        let lease = table.parsed_by("lease", mistakes, |text| match text.parse::<Span>() {
            Ok(Span(lease)) if lease >= LEASE_MIN => Ok(lease),
            Ok(_) => Err("a lease is 1s or longer, such as \"10s\"".to_owned()),
            Err(error) => Err(error),
        });
        let key_ahead_max = table.parsed::<Span>("key-ahead-max", mistakes);
        let peers = peers(&mut table, this.as_ref().map(|this| this.value), mistakes);
        let at = table.at.clone();
        let name = table.name.clone();
        table.end(mistakes);
        let (this, peers) = (this?, peers?);
        let names = peers.iter().map(|(name, _)| name.as_str()).chain([this.value]);
        let homes = match Homes::new(this.value, names, rule.unwrap_or(Rule::Scope), epoch.unwrap_or(1)) {
            Ok(homes) => homes,
            Err(error) => {
                mistakes.add(&at, format!("{name} are no map"), error.to_string());
                return None;
            }
        };
        if lease.is_some() && homes.regions().len() < MAJORITY_OF {
            let fix = "with fewer than three, no majority is left when one is lost: leave it out";
            mistakes.add(&at, format!("`lease` of {name} cannot be used"), fix);
        }
        rule?;
        epoch?;
        let peers = peers.into_iter().filter_map(|(name, url)| Some((homes.region(&name)?.clone(), url))).collect();
        let key_ahead_max = key_ahead_max.map_or(KEY_AHEAD_MAX, |span| span.0);
        Some(Self { homes, secret: secret?, peers, authorities, lease, key_ahead_max })
    }
}

/// The URLs of all regions but this one, which may be listed as well, so that all regions can have the same list.
fn peers(table: &mut Table<'_>, this: Option<&str>, mistakes: &mut Mistakes) -> Option<Vec<(String, Upstream)>> {
    if table.get("peers").is_none() {
        table.misses("peers", "list the gateways of the others: peers = { us = \"https://us.example\" }", mistakes);
        return None;
    }
    let mut listed = table.table("peers", "`peers` of the regions".to_owned(), mistakes)?;
    let mut peers = Vec::new();
    let mut good = true;
    for (name, url) in listed.texts(mistakes) {
        match url.value.parse::<Upstream>().and_then(secured) {
            Ok(url) if Some(name) != this => peers.push((name.to_owned(), url)),
            Ok(_) => {}
            Err(fix) => {
                mistakes.add(&url.at, format!("the URL of region `{name}` cannot be used"), fix);
                good = false;
            }
        }
    }
    if good && peers.is_empty() {
        mistakes.add(&listed.at, "there is no other region", "add one, or take the table [regions] out");
        good = false;
    }
    good.then_some(peers)
}

/// Requests have the credentials of clients in them, so between machines they go over TLS.
fn secured(url: Upstream) -> Result<Upstream, String> {
    let local =
        url.host() == "localhost" || url.host().parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if url.protocol == Protocol::Tls || local {
        Ok(url)
    } else {
        Err("write https://HOST:PORT: requests to another machine go over TLS".to_owned())
    }
}

fn read_secret(file: &Path) -> Result<RegionSecret, String> {
    let text = fs::read(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    RegionSecret::new(text.trim_ascii_end()).map_err(|error| format!("{}: {error}", file.display()))
}
