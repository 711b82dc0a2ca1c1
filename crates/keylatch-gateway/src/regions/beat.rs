//! The lease of a region: it decides only while a majority of the regions confirms that there is no later map.
//!
//! Again and again it reads the latest change from its own store, and asks the gateways of the others for theirs, which
//! read it from their stores at that moment. If a majority has the same one, this region may decide for the time of the
//! lease, counted from before it asked. So once a later change is in the stores of a majority, nobody's right to decide by
//! an older map lives longer than one lease. A region that was cut off, and comes back, learns the latest map before it
//! decides about anything.

use std::time::{Duration, Instant};

use http::header::HOST;
use http::request::Parts;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use keylatch::http::{GuardedBody, IDEMPOTENCY_REGION, Regions};
use keylatch::regions::{Changes, Region};
use keylatch_admin::regions::{Log, LogError};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower_service::Service as _;

use super::Peers;
use crate::upstream::Upstream;

/// Where a gateway tells other regions its map.
pub(crate) const PATH: &str = "/.well-known/keylatch/regions";
/// How long the answer of another region may be.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// What a gateway tells.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Map {
    mark: String,
    changes: Changes,
}

/// This region among the others. A clone is the same.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) regions: Regions,
    pub(crate) log: Log,
}

impl Member {
    /// Takes the latest changes from the store of this region.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or has changes that this map cannot have.
    pub(crate) async fn refresh(&self) -> Result<(), LogError> {
        let homes = self.regions.homes();
        let (changes, _) = self.log.latest(homes.changes().clone()).await?;
        if changes.number > homes.changes().number {
            tracing::warn!(change = changes.number, "the map of regions has changed");
            let changed = homes.with_changes(changes).map_err(|error| LogError::Unreadable(error.to_string()))?;
            self.regions.replace(changed);
            // What was confirmed was the map before.
            self.regions.hold_until(None);
        }
        Ok(())
    }

    /// The map, for another region that asks for it: as it is in the store now.
    pub(crate) async fn tell(&self) -> Option<String> {
        if let Err(error) = self.refresh().await {
            tracing::error!(%error, "the map of regions cannot be read");
            return None;
        }
        let homes = self.regions.homes();
        let map = Map { mark: homes.mark().to_owned(), changes: homes.changes().clone() };
        serde_json::to_string(&map).ok()
    }

    /// Renews the lease until the process ends.
    pub(crate) async fn hold(self, peers: Peers, urls: Vec<(Region, Upstream)>, lease: Duration) {
        let pause = lease / 5;
        let mut held = false;
        loop {
            let began = Instant::now();
            match timeout(lease, self.beat(&peers, &urls, pause)).await {
                Ok(Ok(true)) => self.regions.hold_until(began.checked_add(lease)),
                Ok(Ok(false)) | Err(_) => {}
                Ok(Err(error)) => tracing::error!(%error, "the map of regions cannot be read"),
            }
            let holds = self.regions.holds();
            if holds != held {
                match holds {
                    true => tracing::info!("a majority of the regions has this map: this region decides"),
                    false => tracing::error!("no majority of the regions has this map: this region decides nothing"),
                }
            }
            held = holds;
            metrics::gauge!("keylatch_gateway_region_decides").set(if held { 1.0 } else { 0.0 });
            sleep(pause.saturating_sub(began.elapsed())).await;
        }
    }

    /// Whether a majority has the same map.
    async fn beat(&self, peers: &Peers, urls: &[(Region, Upstream)], patience: Duration) -> Result<bool, LogError> {
        self.refresh().await?;
        let mut asking = JoinSet::new();
        for (region, url) in urls {
            let (this, peers, region, url) = (self.clone(), peers.clone(), region.clone(), url.clone());
            asking.spawn(async move { timeout(patience, this.ask(&peers, &region, &url)).await.ok().flatten() });
        }
        let maps: Vec<Map> = asking.join_all().await.into_iter().flatten().collect();
        let homes = self.regions.homes();
        let number = homes.changes().number;
        if let Some(later) = maps.iter().filter(|map| map.changes.number > number).max_by_key(|map| map.changes.number)
        {
            self.log.write(number, later.changes.clone()).await?;
            self.refresh().await?;
            return Ok(false);
        }
        let same = 1 + maps.iter().filter(|map| map.mark == homes.mark()).count();
        Ok(2 * same > homes.regions().len())
    }

    async fn ask(&self, peers: &Peers, region: &Region, url: &Upstream) -> Option<Map> {
        let (mut parts, ()) = Request::get(PATH).body(()).ok()?.into_parts();
        parts.headers.insert(HOST, HeaderValue::from_str(url.authority.as_str()).ok()?);
        let signed = self.regions.sign(region, &parts);
        parts.headers.insert(IDEMPOTENCY_REGION, signed);
        let answered = peers.to(region)?.call(Request::from_parts(parts, GuardedBody::default())).await;
        let (head, body) = answered.ok()?.into_parts();
        if head.status != StatusCode::OK {
            return None;
        }
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.ok()?.to_bytes();
        serde_json::from_slice(&body).ok()
    }
}

/// Whether another region asks for the map.
pub(crate) fn asks_for_map(head: &Parts, sent: bool) -> bool {
    sent && head.uri.path() == PATH
}
