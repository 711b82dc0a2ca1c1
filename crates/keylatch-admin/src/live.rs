//! Numbers as they change: a snapshot each second, as server-sent events.
//!
//! All streams share one snapshot, so the store is asked once a second however many consoles are open.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::response::sse::{Event, Sse};
use futures_util::Stream;
use futures_util::stream::unfold;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde::Serialize;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use utoipa::ToSchema;

use crate::ops::{ListPlaces, PlaceView, Stats, StatsOf};
use crate::problem::Problem;
use crate::router::Shared;
use crate::view;

/// How often a stream gets a snapshot.
const EVERY: Duration = Duration::from_secs(1);
/// How long a snapshot serves all streams: less than [`EVERY`], so that each stream gets a new one each time.
const FRESH: Duration = Duration::from_millis(900);
/// The most streams at once.
const STREAMS_MAX: usize = 32;
/// The most series of metrics in a snapshot.
const SERIES_MAX: usize = 2_000;
/// The most places in a snapshot.
const PLACES: u32 = 100;

/// The numbers of one moment.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Snapshot {
    /// When, on the clock of this process.
    at: view::Instant,
    /// The metrics of this process, by series, such as `keylatch_answers_total{answer="replay"}`. Counters begin at 0
    /// when the process starts. Not there if the program has given no metrics.
    metrics: BTreeMap<String, f64>,
    /// How much there is in the store; `null` if it does not answer.
    stats: Option<Stats>,
    /// The first places of consumers, at most 100. Empty if the store has none.
    places: Vec<PlaceView>,
}

/// What the streams share.
#[derive(Debug)]
pub(crate) struct Live {
    streams: Arc<Semaphore>,
    latest: Mutex<Option<(Instant, Arc<str>)>>,
}

impl Default for Live {
    fn default() -> Self {
        Self { streams: Arc::new(Semaphore::new(STREAMS_MAX)), latest: Mutex::default() }
    }
}

impl Live {
    /// A snapshot that is fresh.
    async fn snapshot(&self, shared: &Shared) -> Arc<str> {
        let mut latest = self.latest.lock().await;
        if let Some((_, snapshot)) = latest.as_ref().filter(|(made, _)| made.elapsed() < FRESH) {
            return snapshot.clone();
        }
        let snapshot = Snapshot::take(shared).await;
        let snapshot: Arc<str> = serde_json::to_string(&snapshot).expect("it has only texts and numbers").into();
        *latest = Some((Instant::now(), snapshot.clone()));
        snapshot
    }
}

impl Snapshot {
    async fn take(shared: &Shared) -> Self {
        let metrics = shared.metrics.as_ref().map(|metrics| series(&metrics.render())).unwrap_or_default();
        let stats = match tokio::time::timeout(EVERY, shared.operator.stats(StatsOf::default())).await {
            Ok(Ok(stats)) => Some(stats),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a snapshot without numbers of the store");
                None
            }
            Err(_) => None,
        };
        let places = match &stats {
            Some(_) => shared.operator.list_places(ListPlaces { limit: Some(PLACES), ..ListPlaces::default() }).await,
            None => return Self { at: view::Instant::now(), metrics, stats, places: Vec::new() },
        };
        let places = places.map(|page| page.places).unwrap_or_default();
        Self { at: view::Instant::now(), metrics, stats, places }
    }
}

/// Keylatch's series of a text in the format of Prometheus, and their values.
fn series(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| line.starts_with("keylatch_"));
    let read = lines.filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok().filter(|value: &f64| value.is_finite())?))
    });
    read.take(SERIES_MAX).collect()
}

/// A stream of snapshots, until the client leaves, its token is taken away, or the process stops.
pub(crate) fn stream(
    shared: Arc<Shared>,
    headers: &HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>> + use<>>, Problem> {
    let permit = shared.live.streams.clone().try_acquire_owned().map_err(|_| Problem::Busy)?;
    let mut credentials = HeaderMap::new();
    for line in headers.get_all(AUTHORIZATION) {
        credentials.append(AUTHORIZATION, line.clone());
    }
    let stream = Streaming { ticks: tokio::time::interval(EVERY), shared, credentials, _permit: permit };
    Ok(Sse::new(unfold(stream, Streaming::next)))
}

struct Streaming {
    ticks: tokio::time::Interval,
    shared: Arc<Shared>,
    credentials: HeaderMap,
    _permit: OwnedSemaphorePermit,
}

impl Streaming {
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        tokio::select! {
            () = self.shared.stopped() => return None,
            _ = self.ticks.tick() => {}
        }
        self.shared.access.actor(&self.credentials).ok()?;
        let snapshot = self.shared.live.snapshot(&self.shared).await;
        Some((Ok(Event::default().event("snapshot").data(&*snapshot)), self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_read_with_their_labels() {
        let text = "# HELP keylatch_answers_total x\nkeylatch_answers_total{answer=\"a b\"} 7\nother 1\n\
                    keylatch_running 0\nkeylatch_odd NaN\nkeylatch_store_seconds_sum{operation=\"claim\"} 0.25\n";
        let series = series(text);
        assert_eq!(series.len(), 3);
        assert_eq!(series["keylatch_answers_total{answer=\"a b\"}"], 7.0);
        assert_eq!(series["keylatch_store_seconds_sum{operation=\"claim\"}"], 0.25);
    }
}
