//! Events: how many wait, and those that cannot be published until an operator acts.

use keylatch::outbox::{Place, Stuck, Why};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::dead_letters::{ORDERS_MAX, Ordered};
use super::records::check_reason;
use super::{Error, Operator, OutboxStats, scan, stats};
use crate::access::Role;
use crate::audit::{Actor, Asked, Before};
use crate::view::{Instant, instant};

/// How many events are in memory at once.
const CHUNK: usize = 32;

/// Which stuck events to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListStuck {
    /// Where to go on: `next` of the page before.
    pub cursor: Option<u64>,
    /// How many at most, from 1 to 500; 50 if it is left out.
    pub limit: Option<u32>,
}

/// How much there is in the outbox, and a part of the list of stuck events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct OutboxPage {
    /// How much there is.
    pub backlog: OutboxStats,
    /// Events that cannot be published until an operator acts, in the order of their numbers.
    pub stuck: Vec<StuckView>,
    /// Where the list goes on; `null` on the last page.
    pub next: Option<u64>,
}

/// An event that cannot be published until an operator acts, without its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct StuckView {
    /// Its number in the outbox.
    pub seq: u64,
    /// Its id.
    pub id: String,
    /// Its topic.
    pub topic: String,
    /// The size of its key.
    pub key_bytes: Option<u64>,
    /// The size of its value.
    pub value_bytes: Option<u64>,
    /// How many headers it has.
    pub headers: u64,
    /// When it was written.
    pub created_at: Instant,
    /// When it was found that it cannot be published.
    pub stuck_at: Instant,
    /// Why: `refused` (it holds back its key), `held` (it waits behind a refused one) or `set-aside`.
    pub why: &'static str,
    /// What the publisher says, which may quote the event. Only for the role `operate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl StuckView {
    fn new(stuck: &Stuck, role: Role) -> Self {
        let event = &stuck.event.event;
        let bytes = |bytes: Option<&bytes::Bytes>| bytes.map(|bytes| bytes.len() as u64);
        let (why, error) = match &stuck.why {
            Why::Refused(error) => ("refused", Some(error.clone())),
            Why::Held => ("held", None),
            Why::SetAside(error) => ("set-aside", Some(error.clone())),
        };
        Self {
            seq: stuck.seq,
            id: stuck.event.id.to_string(),
            topic: event.topic().to_owned(),
            key_bytes: bytes(event.key()),
            value_bytes: bytes(event.value()),
            headers: event.headers().len() as u64,
            created_at: instant(stuck.created_at),
            stuck_at: instant(stuck.stuck_at),
            why,
            error: error.filter(|_| role >= Role::Operate),
        }
    }
}

/// Which event: its number and its id. A number alone could be another event's later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EventName {
    /// Its number in the outbox.
    pub seq: u64,
    /// Its id.
    pub id: String,
}

/// What becomes of stuck events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventOrder {
    /// They are tried again. Those behind them follow.
    Retry,
    /// They are removed. Those behind them are published.
    Discard,
}

impl EventOrder {
    const fn action(self) -> &'static str {
        match self {
            Self::Retry => "retry-events",
            Self::Discard => "discard-events",
        }
    }

    const fn says(self) -> &'static str {
        match self {
            Self::Retry => "These events are tried again. If one has held back its key, those behind it follow it.",
            Self::Discard => {
                "These events are removed for good, and never published. If one has held back its key, those behind it are \
                 published without it."
            }
        }
    }
}

/// Asks what is to become of stuck events.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderEvents {
    /// These, at most 1,000.
    pub events: Vec<EventName>,
    /// Why: 1 to 1,000 bytes, without control characters.
    pub reason: String,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

impl Operator {
    /// How much there is in the outbox, and a page of the events that are stuck, with their errors if `role` may see them.
    ///
    /// # Errors
    ///
    /// If the store has no outbox, the request cannot be used, or the store fails.
    pub async fn list_outbox(&self, role: Role, request: ListStuck) -> Result<OutboxPage, Error> {
        let (outbox, limit) = (self.outbox()?, scan::limit(request.limit)?);
        let backlog = outbox.backlog(stats::COUNTED_MAX).await?.into();
        let (mut stuck, mut after) = (Vec::<StuckView>::new(), request.cursor);
        loop {
            let chunk = CHUNK.min(limit - stuck.len());
            let found = outbox.stuck(after, chunk).await?;
            let is_last = found.len() < chunk;
            stuck.extend(found.into_iter().map(|stuck| StuckView::new(&stuck, role)));
            after = stuck.last().map(|last| last.seq).or(after);
            if is_last || stuck.len() >= limit {
                return Ok(OutboxPage { backlog, stuck, next: after.filter(|_| !is_last) });
            }
        }
    }

    /// Orders what becomes of stuck events.
    ///
    /// # Errors
    ///
    /// If the store has no outbox, the request cannot be used, the audit file cannot be written, or the store fails. Then
    /// some may be done: the same order can be given again.
    pub async fn order_events(&self, who: &Actor, order: EventOrder, request: OrderEvents) -> Result<Ordered, Error> {
        let OrderEvents { events, reason, dry_run } = request;
        check_reason(&reason)?;
        if !(1..=ORDERS_MAX).contains(&events.len()) {
            return Err(Error::invalid("events", format!("must be 1 to {ORDERS_MAX}")));
        }
        let outbox = self.outbox()?;
        let place = |EventName { seq, id }: &EventName| {
            let id =
                id.parse().map_err(|error| Error::invalid("events", format!("have an id that is none: {error}")))?;
            Ok(Place { seq: *seq, id })
        };
        let places = events.iter().map(place).collect::<Result<Vec<_>, Error>>()?;
        let (says, matched) = (order.says().to_owned(), places.len() as u64);
        let mut ordered = Ordered { applied: !dry_run, says, matched, done: 0, next: None };
        if dry_run {
            return Ok(ordered);
        }
        let target = places.iter().map(|place| format!("{} {}", place.seq, place.id)).collect();
        let asked = Asked { action: order.action(), target, reason, before: Before::default() };
        let work = async {
            for place in places {
                let done = match order {
                    EventOrder::Retry => outbox.retry(place).await?,
                    EventOrder::Discard => outbox.discard(place).await?,
                };
                ordered.done += u64::from(done);
            }
            Ok(ordered)
        };
        self.audited(who, asked, work, |ordered| format!("done for {} of {}", ordered.done, ordered.matched)).await
    }
}
