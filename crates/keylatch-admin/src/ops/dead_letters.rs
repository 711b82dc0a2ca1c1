//! Dead letters: messages that consumers have given up.

use std::time::{Duration, Instant};

use bytes::Bytes;
use keylatch::Timestamp;
use keylatch::inbox::{self, DeadLetter, DeadLetterId, DeadLettersRequest, Listed, PlaceName, Reason};
use keylatch::store::{At, Cursor};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::records::check_reason;
use super::{Error, Operator, scan};
use crate::access::Role;
use crate::audit::{Actor, Asked, Before};
use crate::view::{self, instant};

/// How many are in memory at once, with their messages.
const CHUNK: usize = 16;
/// The most dead letters, or events, of one order.
pub const ORDERS_MAX: usize = 1_000;
/// How long one call looks for dead letters.
const LOOKING_MAX: Duration = Duration::from_secs(10);

/// Which dead letters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterFilter {
    /// Only this consumer's. An order needs it.
    pub consumer: Option<String>,
    /// Only those of this topic; needs consumer and partition.
    pub topic: Option<String>,
    /// Only those of this partition; needs consumer and topic.
    pub partition: Option<i32>,
    /// Only those from this offset on; needs consumer, topic and partition.
    pub offset_min: Option<i64>,
    /// Only those that are wanted.
    #[serde(default)]
    pub wanted: bool,
    /// Only those that were given up for this reason: `rejected`, `undecodable`, `exhausted`, `reused` or
    /// `outcome_unknown`.
    pub reason: Option<String>,
    /// Only those that were given up at this time (RFC 3339) or later.
    pub from: Option<String>,
    /// Only those that were given up before this time (RFC 3339).
    pub until: Option<String>,
    /// Only those whose error has this text in it. Only for the role `operate`.
    pub error: Option<String>,
    /// Only those of messages with this key, which is text. Only for the role `operate`.
    pub key: Option<String>,
    /// Where to go on: `next` of the answer before, for the same filter.
    pub cursor: Option<String>,
}

/// Which dead letters to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListDeadLetters {
    /// Only this consumer's.
    pub consumer: Option<String>,
    /// Only those of this topic; needs consumer and partition.
    pub topic: Option<String>,
    /// Only those of this partition; needs consumer and topic.
    pub partition: Option<i32>,
    /// Only those from this offset on; needs consumer, topic and partition.
    pub offset_min: Option<i64>,
    /// Only those that are wanted.
    #[serde(default)]
    pub wanted: bool,
    /// Only those that were given up for this reason: `rejected`, `undecodable`, `exhausted`, `reused` or
    /// `outcome_unknown`.
    pub reason: Option<String>,
    /// Only those that were given up at this time (RFC 3339) or later.
    pub from: Option<String>,
    /// Only those that were given up before this time (RFC 3339).
    pub until: Option<String>,
    /// Where to go on: `next` of the page before, of the same list.
    pub cursor: Option<String>,
    /// How many at most, from 1 to 500; 50 if it is left out.
    pub limit: Option<u32>,
}

/// A part of a list of dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct DeadLetterPage {
    /// The dead letters, in the order of consumer, topic, partition and offset.
    pub dead_letters: Vec<DeadLetterView>,
    /// Where the list goes on; `null` on the last page.
    pub next: Option<String>,
    /// The store's clock.
    pub now: view::Instant,
}

/// A message that was given up, without its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct DeadLetterView {
    /// Its identity, for an order.
    pub id: String,
    /// Who has given it up.
    pub consumer: String,
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Why: `rejected`, `undecodable`, `exhausted`, `reused` or `outcome_unknown`.
    pub reason: &'static str,
    /// The last error, which may quote the message. Only for the role `operate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How often it was tried.
    pub attempts: u32,
    /// Whether an operator wants it to be applied after all.
    pub wanted: bool,
    /// When it was given up.
    pub buried_at: view::Instant,
    /// The trace in which it was produced.
    pub trace: Option<String>,
    /// The record of its id.
    pub record: Option<String>,
    /// The size of its key.
    pub key_bytes: Option<u64>,
    /// The size of the whole message, if that is kept.
    pub message_bytes: Option<u64>,
}

impl DeadLetterView {
    fn new(letter: DeadLetter, role: Role) -> Self {
        let DeadLetter { id, trouble, wanted, buried_at } = letter;
        let bytes = |bytes: Option<Bytes>| bytes.map(|bytes| bytes.len() as u64);
        Self {
            id: id.cursor().to_string(),
            consumer: id.place.consumer().to_owned(),
            topic: id.place.topic().to_owned(),
            partition: id.place.partition(),
            offset: id.offset,
            reason: trouble.reason.name(),
            error: (role >= Role::Operate).then_some(trouble.error),
            attempts: trouble.attempts,
            wanted,
            buried_at: instant(buried_at),
            trace: trouble.trace,
            record: trouble.record.map(|record| record.to_string()),
            key_bytes: bytes(trouble.key),
            message_bytes: bytes(trouble.message),
        }
    }
}

/// What becomes of dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// They are wanted: the owners of their places apply them.
    Replay,
    /// They are no longer wanted, and stay.
    Keep,
    /// They are removed.
    Discard,
}

impl Order {
    const fn action(self) -> &'static str {
        match self {
            Self::Replay => "replay-dead-letters",
            Self::Keep => "keep-dead-letters",
            Self::Discard => "discard-dead-letters",
        }
    }

    const fn says(self) -> &'static str {
        match self {
            Self::Replay => {
                "The owners of their places apply these messages after all. One whose id has a record is not applied a \
                 second time."
            }
            Self::Keep => "These messages are not applied, and stay dead letters.",
            Self::Discard => "These dead letters are removed for good. Their messages are never applied.",
        }
    }
}

impl From<Order> for inbox::Order {
    fn from(order: Order) -> Self {
        match order {
            Order::Replay => Self::Replay,
            Order::Keep => Self::Keep,
            Order::Discard => Self::Discard,
        }
    }
}

/// Asks what is to become of dead letters. Either `ids` or `filter`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderDeadLetters {
    /// These, at most 1,000.
    #[serde(default)]
    pub ids: Vec<String>,
    /// All that it matches, 1,000 at a time.
    pub filter: Option<DeadLetterFilter>,
    /// Why: 1 to 1,000 bytes, without control characters.
    pub reason: String,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// What became of dead letters, or of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Ordered {
    /// Whether it was done; `false` for a dry run.
    pub applied: bool,
    /// What it does.
    pub says: String,
    /// How many were named, or matched the filter.
    pub matched: u64,
    /// For how many it was done.
    pub done: u64,
    /// Where to go on with the same filter; `null` if these are all.
    pub next: Option<String>,
}

impl Operator {
    /// A page of at most `limit` dead letters, with their errors if `role` may see them.
    ///
    /// # Errors
    ///
    /// If the store has none, the request cannot be used, or the store fails.
    pub async fn list_dead_letters(
        &self,
        role: Role,
        filter: DeadLetterFilter,
        limit: Option<u32>,
    ) -> Result<DeadLetterPage, Error> {
        let limit = scan::limit(limit)?;
        if role < Role::Operate && (filter.error.is_some() || filter.key.is_some()) {
            return Err(Error::invalid("error and key", "are for the role operate: they tell of the content"));
        }
        let (letters, next, now) =
            self.letters(filter.request()?, limit, |letter| DeadLetterView::new(letter, role)).await?;
        Ok(DeadLetterPage { dead_letters: letters, next: next.map(|next| next.to_string()), now })
    }

    /// Orders what becomes of dead letters.
    ///
    /// # Errors
    ///
    /// If the store has none, the request cannot be used, the audit file cannot be written, or the store fails. Then some
    /// may be done: the same order can be given again.
    pub async fn order_dead_letters(
        &self,
        who: &Actor,
        order: Order,
        request: OrderDeadLetters,
    ) -> Result<Ordered, Error> {
        let OrderDeadLetters { ids, filter, reason, dry_run } = request;
        check_reason(&reason)?;
        let places = self.places()?;
        let (letters, next) = match (filter, ids.len()) {
            (Some(filter), 0) if filter.consumer.is_some() => {
                let (letters, next, _) = self.letters(filter.request()?, ORDERS_MAX, |letter| letter.id).await?;
                (letters, next)
            }
            (Some(_), 0) => return Err(Error::invalid("filter", "must name a consumer")),
            (None, 1..=ORDERS_MAX) => (ids.iter().map(|id| letter_id(id)).collect::<Result<_, _>>()?, None),
            _ => return Err(Error::invalid("ids", format!("must be 1 to {ORDERS_MAX}, or there must be a filter"))),
        };
        let mut ordered = Ordered {
            applied: !dry_run,
            says: order.says().to_owned(),
            matched: letters.len() as u64,
            done: 0,
            next: next.map(|next| next.to_string()),
        };
        if dry_run {
            return Ok(ordered);
        }
        let target = letters.iter().map(|id| format!("{}@{}", id.place, id.offset)).collect();
        let asked = Asked { action: order.action(), target, reason, before: Before::default() };
        let work = async {
            for letter in letters {
                ordered.done += u64::from(places.order(letter, order.into()).await?);
            }
            Ok(ordered)
        };
        self.audited(who, asked, work, |ordered| format!("done for {} of {}", ordered.done, ordered.matched)).await
    }

    /// Collects up to `limit` dead letters, a few at a time, and keeps what `keep` makes of each.
    async fn letters<T>(
        &self,
        mut request: DeadLettersRequest,
        limit: usize,
        keep: impl Fn(DeadLetter) -> T,
    ) -> Result<(Vec<T>, Option<Cursor>, view::Instant), Error> {
        let places = self.places()?;
        let (started, mut kept) = (Instant::now(), Vec::new());
        loop {
            request.limit = CHUNK.min(limit - kept.len());
            let At { value: Listed { items, next }, now } =
                places.dead_letters(request.clone()).await.map_err(Error::of_page)?;
            kept.extend(items.into_iter().map(&keep));
            if next.is_none() || kept.len() >= limit || started.elapsed() >= LOOKING_MAX {
                return Ok((kept, next, instant(now)));
            }
            request.after = next;
        }
    }
}

impl From<ListDeadLetters> for DeadLetterFilter {
    fn from(list: ListDeadLetters) -> Self {
        let ListDeadLetters { consumer, topic, partition, offset_min, wanted, reason, from, until, cursor, limit: _ } =
            list;
        Self { consumer, topic, partition, offset_min, wanted, reason, from, until, error: None, key: None, cursor }
    }
}

impl DeadLetterFilter {
    fn request(self) -> Result<DeadLettersRequest, Error> {
        let Self { consumer, topic, partition, offset_min, wanted, reason, from, until, error, key, cursor } = self;
        let place = match (&consumer, &topic, partition) {
            (Some(consumer), Some(topic), Some(partition)) => {
                let name = PlaceName::new(consumer, topic, partition);
                Some(name.map_err(|error| Error::invalid("the place", format!("cannot be used: {error}")))?)
            }
            (_, None, None) => None,
            _ => return Err(Error::invalid("topic", "needs consumer, topic and partition together")),
        };
        if offset_min.is_some() && place.is_none() {
            return Err(Error::invalid("offset_min", "needs consumer, topic and partition"));
        }
        let reason = match reason.map(|name| Reason::named(&name)) {
            Some(None) => {
                return Err(Error::invalid(
                    "reason",
                    format!("must be one of {}", Reason::ALL.map(Reason::name).join(", ")),
                ));
            }
            known => known.flatten(),
        };
        Ok(DeadLettersRequest {
            consumer,
            place,
            offset_min,
            wanted,
            reason,
            error,
            key: key.map(Bytes::from),
            from: time("from", from)?,
            until: time("until", until)?,
            after: scan::cursor(cursor.as_deref())?,
            ..DeadLettersRequest::default()
        })
    }
}

fn time(field: &'static str, text: Option<String>) -> Result<Option<Timestamp>, Error> {
    let Some(text) = text else { return Ok(None) };
    let at: jiff::Timestamp =
        text.parse().map_err(|_| Error::invalid(field, "must be a time of RFC 3339, such as 2026-01-31T12:00:00Z"))?;
    Ok(Some(Timestamp::from_millis(at.as_millisecond())))
}

fn letter_id(text: &str) -> Result<DeadLetterId, Error> {
    let invalid = || Error::invalid("ids", "must be ids of dead letters, as their list shows them");
    DeadLetterId::of_cursor(&text.parse().map_err(|_| invalid())?).map_err(|_| invalid())
}
