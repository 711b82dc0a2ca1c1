//! All operations, on any store. The HTTP API and the command line both use them.

mod dead_letters;
mod error;
mod outbox;
mod places;
mod plan;
mod records;
mod regions;
mod resolve;
mod scan;
mod stats;
mod sweep;
mod timeline;

use std::fmt;
use std::sync::Arc;

use keylatch::inbox::Places;
use keylatch::outbox::Outbox;
use keylatch::recent::Recent;
use keylatch::store::Store;
use keylatch::{Engine, Policy};

pub use self::dead_letters::{
    DeadLetterFilter, DeadLetterPage, DeadLetterView, ListDeadLetters, ORDERS_MAX, Order, OrderDeadLetters, Ordered,
};
pub use self::error::{Error, Now};
pub use self::outbox::{EventName, EventOrder, ListStuck, OrderEvents, OutboxPage, StuckView};
pub use self::places::{ListPlaces, PlaceMoved, PlacePage, PlaceView, ResetPlace};
pub use self::plan::{Action, Plan};
pub use self::records::{
    Acted, Change, Find, Get, Header, Kept, ListRecords, PAGE, PAGE_MAX, REASON_BYTES_MAX, RecordDetail, RecordPage,
};
pub use self::regions::{
    BringRegionBack, ChangesView, Counted, LoseRegion, MapView, RegionView, RegionsChanged, TurnView,
};
pub use self::resolve::{HEADERS_MAX, RESOLVE_BODY_BYTES_MAX, Resolve};
pub use self::stats::{CountView, LapsedStats, OutboxStats, Stats, StatsOf, StoreStats};
pub use self::sweep::{SWEEP_MAX, SweepAnswer, SweepRequest};
pub use self::timeline::{Moment, Seen, SeenEvent};
use crate::audit::{Actor, Asked, Audit, Stage};
use crate::regions::Regions;

/// Which stores have more than records.
const HAVE_TABLES: &str = "SQLite and PostgreSQL have it; memory, Redis and Cassandra keep records only";

/// Everything that can be done for an operator. Clones share it.
///
/// It checks no role: whoever calls it may do what it does. The HTTP API checks before it calls.
#[derive(Clone)]
pub struct Operator {
    store: Arc<dyn Store>,
    outbox: Option<Arc<dyn Outbox>>,
    places: Option<Arc<dyn Places>>,
    engine: Option<Engine>,
    recent: Option<Recent>,
    regions: Option<Regions>,
    policy: Policy,
    audit: Audit,
}

impl Operator {
    /// For the records of `store`. Audit events go to the log.
    pub fn new(store: Arc<dyn Store>) -> Self {
        let (policy, audit) = (Policy::default(), Audit::default());
        Self { store, outbox: None, places: None, engine: None, recent: None, regions: None, policy, audit }
    }

    /// For the records of the engine's store, with its policy. What a sweep removes is counted with what the engine
    /// removes itself.
    pub fn of(engine: &Engine) -> Self {
        let (store, policy) = (engine.store().clone(), *engine.policy());
        Self { engine: Some(engine.clone()), policy, ..Self::new(store) }
    }

    /// With the events of this outbox.
    #[must_use]
    pub fn with_outbox(self, outbox: Arc<dyn Outbox>) -> Self {
        Self { outbox: Some(outbox), ..self }
    }

    /// With the places and dead letters of consumers.
    #[must_use]
    pub fn with_places(self, places: Arc<dyn Places>) -> Self {
        Self { places: Some(places), ..self }
    }

    /// With what this process saw of its latest records, for their time lines.
    #[must_use]
    pub fn with_recent(self, recent: Recent) -> Self {
        Self { recent: Some(recent), ..self }
    }

    /// With this map of regions.
    #[must_use]
    pub fn with_regions(self, regions: Regions) -> Self {
        Self { regions: Some(regions), ..self }
    }

    /// With these times for what is resolved: how long an answer that an operator writes is kept, its tombstone, and the
    /// epoch of a key that is released.
    #[must_use]
    pub fn with_policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// With audit events to there.
    #[must_use]
    pub fn with_audit(self, audit: Audit) -> Self {
        Self { audit, ..self }
    }

    /// The store of the records.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    fn outbox(&self) -> Result<&dyn Outbox, Error> {
        self.outbox.as_deref().ok_or(Error::Unsupported { what: "outbox", stores: HAVE_TABLES })
    }

    fn places(&self) -> Result<&dyn Places, Error> {
        self.places.as_deref().ok_or(Error::Unsupported { what: "places of consumers", stores: HAVE_TABLES })
    }

    /// Does `work` between two audit events. `says` puts into words what it has done.
    async fn audited<T>(
        &self,
        who: &Actor,
        asked: Asked,
        work: impl Future<Output = Result<T, Error>>,
        says: impl FnOnce(&T) -> String,
    ) -> Result<T, Error> {
        let trail = self.audit.asked(who, asked).await.map_err(Error::Audit)?;
        let ended = work.await;
        match &ended {
            Ok(done) => trail.ended(Stage::Done, &says(done)).await,
            Err(error) => trail.ended(error.stage(), &error.to_string()).await,
        }
        ended
    }
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operator").field("store", &self.store).finish_non_exhaustive()
    }
}
