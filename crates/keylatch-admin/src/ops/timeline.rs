//! The life of a record: what the store knows of it, and what this process saw.

use keylatch::recent::{Event, Recent, What};
use keylatch::store::State;
use keylatch::{Record, RecordId, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use crate::view::{Instant, instant};

/// A moment in the life of a record, on the store's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Moment {
    /// When; `null` if that is not recorded. It can be in the future.
    pub at: Option<Instant>,
    /// What: `claimed`, `attempt`, `step`, `lease-ends`, `takeover`, `completed`, `retention-ends`, `free`.
    pub what: &'static str,
    /// The same in words.
    pub says: String,
}

/// What this process saw of a record. Other processes have seen other things, and it ends with the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Seen {
    /// Since when this process has been remembering, on its own clock.
    pub since: Instant,
    /// What it saw, the oldest first. Equal events that follow each other are one.
    pub events: Vec<SeenEvent>,
    /// How many earlier events it no longer remembers.
    pub forgotten: u64,
}

/// Something that this process saw, once or several times in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct SeenEvent {
    /// When it was first seen, on the clock of this process.
    pub first_at: Instant,
    /// When it was last seen.
    pub last_at: Instant,
    /// How often.
    pub times: u64,
    /// The longest time that one of these requests waited for a run of the same request, in milliseconds.
    pub waited_max_ms: u64,
    /// What: `started`, `began`, `completed`, `not-recorded`, `lease-lost`, `replayed`, `in-progress`, `mismatch`,
    /// `unknown`, `expired`, `quota`, `failed`.
    pub what: &'static str,
    /// The epoch of a run that started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Its attempt number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Whether it took over from a run that had died.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub takeover: Option<bool>,
    /// The parts in which a refused request differed from the one that has the key: `method`, `path`, `query`, `type`,
    /// `body`, `headers`. Not there if this process has not seen both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub differs: Option<Vec<&'static str>>,
}

impl From<Event> for SeenEvent {
    fn from(Event { first_at, last_at, times, waited_max, what }: Event) -> Self {
        let (epoch, attempt, takeover) = match what {
            What::Started { epoch, attempt, takeover } => (Some(epoch.as_u64()), Some(attempt), Some(takeover)),
            _ => (None, None, None),
        };
        let differs = match what {
            What::Mismatch { differs } => {
                differs.map(|differs| differs.parts().map(keylatch::recent::Part::name).collect())
            }
            _ => None,
        };
        let waited_max_ms = u64::try_from(waited_max.as_millis()).unwrap_or(u64::MAX);
        let (first_at, last_at) = (instant(first_at), instant(last_at));
        Self { first_at, last_at, times, waited_max_ms, what: what.name(), epoch, attempt, takeover, differs }
    }
}

/// What `recent` has of the record `id`.
pub(super) fn seen(recent: &Recent, id: RecordId) -> Seen {
    let (events, forgotten) = recent.of(id).map_or_else(Default::default, |seen| (seen.events, seen.forgotten));
    Seen { since: instant(recent.since()), events: events.into_iter().map(Into::into).collect(), forgotten }
}

/// What the store knows of the life of `record`.
pub(super) fn stored(record: &Record) -> Vec<Moment> {
    let moment = |at: Option<Timestamp>, what, says: String| Moment { at: at.map(instant), what, says };
    let attempt = format!("attempt {} won the key, in epoch {}", record.attempt, record.epoch.as_u64());
    let mut moments = vec![
        moment(Some(record.created_at), "claimed", "the first run of this request was claimed".to_owned()),
        moment(None, "attempt", attempt),
    ];
    match &record.state {
        State::Running { lease_ends_at, notes } => {
            moments.extend(notes.steps.iter().map(|(name, _)| moment(None, "step", format!("step `{name}` finished"))));
            let ends = if notes.released { "the run gave its key back without an outcome" } else { "the lease ends" };
            moments.push(moment(Some(*lease_ends_at), "lease-ends", ends.to_owned()));
            let takeover =
                record.takeover_at.map(|at| moment(Some(at), "takeover", "the same request may take over".to_owned()));
            moments.extend(takeover);
        }
        State::Completed { expires_at, .. } if record.free_at.is_some_and(|free_at| free_at < *expires_at) => {
            moments.push(moment(record.free_at, "free", "the key was let go; its epoch is still kept".to_owned()));
            return moments;
        }
        State::Completed { outcome, expires_at } => {
            let says = match outcome {
                Some(outcome) => format!("an answer with the status {} was recorded", outcome.status.as_u16()),
                None => "it took effect, and its answer was recorded".to_owned(),
            };
            moments.push(moment(None, "completed", says));
            moments.push(moment(Some(*expires_at), "retention-ends", "the answer is no longer kept".to_owned()));
        }
    }
    moments.extend(record.free_at.map(|at| moment(Some(at), "free", "anyone may claim the key".to_owned())));
    moments
}
