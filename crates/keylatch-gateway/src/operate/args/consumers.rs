//! The commands for messages and events.

use clap::{Args, Subcommand};
use keylatch_admin::ops::{DeadLetterFilter, EventName};

use super::{Acting, Common, Confirm, Page};

/// `keylatch dead-letters …`
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetters {
    /// List them.
    List(ListDeadLetters),
    /// Have them applied after all, by the consumers that own their places.
    Replay(OrderDeadLetters),
    /// Take a replay back that has not happened yet: they stay dead letters.
    Keep(OrderDeadLetters),
    /// Remove them for good.
    Discard(OrderDeadLetters),
}

/// Which dead letters.
#[derive(Debug, Clone, Args)]
pub(crate) struct OfConsumer {
    /// Only this consumer's.
    #[arg(long, value_name = "NAME")]
    pub(crate) consumer: Option<String>,
    /// Only those of this topic.
    #[arg(long, value_name = "NAME", requires = "partition", requires = "consumer")]
    pub(crate) topic: Option<String>,
    /// Only those of this partition.
    #[arg(long, value_name = "NUMBER", requires = "topic")]
    pub(crate) partition: Option<i32>,
    /// Only those from this offset on.
    #[arg(long, value_name = "OFFSET", requires = "partition")]
    pub(crate) offset_min: Option<i64>,
    /// Only those that are wanted: somebody has asked for a replay.
    #[arg(long)]
    pub(crate) wanted: bool,
    /// Only those that were given up as this: rejected, undecodable, exhausted, reused or outcome_unknown.
    #[arg(long, value_name = "REASON")]
    pub(crate) given_up_as: Option<String>,
    /// Only those whose error has this text in it.
    #[arg(long, value_name = "TEXT")]
    pub(crate) error: Option<String>,
    /// Only those of messages with this key.
    #[arg(long, value_name = "TEXT")]
    pub(crate) key: Option<String>,
    /// Only those that were given up at this time or later, such as 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// Only those that were given up before this time.
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
}

impl From<OfConsumer> for DeadLetterFilter {
    fn from(of: OfConsumer) -> Self {
        let OfConsumer { consumer, topic, partition, offset_min, wanted, given_up_as, error, key, from, until } = of;
        Self {
            consumer,
            topic,
            partition,
            offset_min,
            wanted,
            reason: given_up_as,
            error,
            key,
            from,
            until,
            cursor: None,
        }
    }
}

/// `keylatch dead-letters list`
#[derive(Debug, Args)]
pub(crate) struct ListDeadLetters {
    #[command(flatten)]
    pub(crate) of: OfConsumer,
    /// Also their ids and the last error of each, which may quote the message.
    #[arg(long)]
    pub(crate) errors: bool,
    #[command(flatten)]
    pub(crate) page: Page,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// What becomes of dead letters.
#[derive(Debug, Args)]
pub(crate) struct OrderDeadLetters {
    /// These, by their ids, as `dead-letters list --errors` shows them.
    #[arg(value_name = "ID", conflicts_with = "consumer")]
    pub(crate) ids: Vec<String>,
    #[command(flatten)]
    pub(crate) of: OfConsumer,
    /// Why, for the audit.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// Only say what would be done.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) confirm: Confirm,
    #[command(flatten)]
    pub(crate) acting: Acting,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `keylatch outbox …`
#[derive(Debug, Subcommand)]
pub(crate) enum Outbox {
    /// How much there is, and the events that are stuck.
    List(ListOutbox),
    /// Try events again. If one has held back its key, those behind it follow it.
    Retry(OrderEvents),
    /// Remove events for good: they are never published.
    Discard(OrderEvents),
}

/// `keylatch outbox list`
#[derive(Debug, Args)]
pub(crate) struct ListOutbox {
    /// Also what the publisher says of each, which may quote the event.
    #[arg(long)]
    pub(crate) errors: bool,
    /// How many at most.
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) limit: u32,
    /// Go on behind the event with this number.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) cursor: Option<u64>,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// What becomes of stuck events.
#[derive(Debug, Args)]
pub(crate) struct OrderEvents {
    /// Each as NUMBER:ID, as `outbox list` shows them.
    #[arg(value_name = "NUMBER:ID", required = true, value_parser = event)]
    pub(crate) events: Vec<EventName>,
    /// Why, for the audit.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// Only say what would be done.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) confirm: Confirm,
    #[command(flatten)]
    pub(crate) acting: Acting,
    #[command(flatten)]
    pub(crate) common: Common,
}

fn event(text: &str) -> Result<EventName, String> {
    let parts = text.split_once(':').and_then(|(seq, id)| Some((seq.parse().ok()?, id)));
    let (seq, id) = parts.ok_or("it is NUMBER:ID, as `keylatch outbox list` shows it")?;
    Ok(EventName { seq, id: id.to_owned() })
}

/// `keylatch places …`
#[derive(Debug, Subcommand)]
pub(crate) enum Places {
    /// List them.
    List(ListPlaces),
    /// Move a place to another offset, forward or back. Forward skips messages for good; back reads them again.
    Reset(ResetPlace),
}

/// `keylatch places list`
#[derive(Debug, Args)]
pub(crate) struct ListPlaces {
    /// Only this consumer's.
    #[arg(long, value_name = "NAME")]
    pub(crate) consumer: Option<String>,
    #[command(flatten)]
    pub(crate) page: Page,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `keylatch places reset`
#[derive(Debug, Args)]
pub(crate) struct ResetPlace {
    /// Who consumes.
    pub(crate) consumer: String,
    /// What it reads.
    pub(crate) topic: String,
    /// Which part of that.
    pub(crate) partition: i32,
    /// The next offset to apply, from 0.
    #[arg(long, value_name = "OFFSET")]
    pub(crate) next: i64,
    /// The epoch that `places list` has shown. If the place is in another one by now, nothing is changed.
    #[arg(long, value_name = "NUMBER", required_unless_present = "new", conflicts_with = "new")]
    pub(crate) epoch: Option<u64>,
    /// The place is not there yet.
    #[arg(long)]
    pub(crate) new: bool,
    /// Why, for the audit.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// Only say what would be done.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) confirm: Confirm,
    #[command(flatten)]
    pub(crate) acting: Acting,
    #[command(flatten)]
    pub(crate) common: Common,
}
