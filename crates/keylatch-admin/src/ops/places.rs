//! The places of consumers: how far they have come.

use keylatch::Epoch;
use keylatch::inbox::{Listed, Place, PlaceName, PlacesRequest};
use keylatch::store::{Applied, At};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::records::check_reason;
use super::{Error, Now, Operator, scan};
use crate::audit::{Actor, Asked, Before};
use crate::view::{Instant, instant};

/// Which places to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListPlaces {
    /// Only this consumer's.
    pub consumer: Option<String>,
    /// Where to go on: `next` of the page before, of the same list.
    pub cursor: Option<String>,
    /// How many at most, from 1 to 500; 50 if it is left out.
    pub limit: Option<u32>,
}

/// A part of a list of places.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PlacePage {
    /// The places, in the order of consumer, topic and partition.
    pub places: Vec<PlaceView>,
    /// Where the list goes on; `null` on the last page.
    pub next: Option<String>,
    /// The store's clock.
    pub now: Instant,
}

/// How far a consumer has come in a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PlaceView {
    /// Who consumes.
    pub consumer: String,
    /// What it reads.
    pub topic: String,
    /// Which part of that.
    pub partition: i32,
    /// The fencing number. To move the place, it must be the one that the operator has seen.
    pub epoch: u64,
    /// Whether a process has it.
    pub owned: bool,
    /// The next offset to apply; `null` until the first owner has said where it begins.
    pub next: Option<i64>,
    /// Whether the owner before this one has not given it back: it may have died in a message.
    pub after_crash: bool,
    /// The message that is tried by itself.
    pub tried: Option<TriedView>,
    /// When it was last taken, moved or given back, or counted a try.
    pub changed_at: Instant,
}

/// How often a message was tried by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct TriedView {
    /// Where it is.
    pub offset: i64,
    /// The tries that have begun.
    pub attempts: u32,
}

impl From<&Place> for PlaceView {
    fn from(place: &Place) -> Self {
        Self {
            consumer: place.name.consumer().to_owned(),
            topic: place.name.topic().to_owned(),
            partition: place.name.partition(),
            epoch: place.epoch.as_u64(),
            owned: place.owner.is_some(),
            next: place.next,
            after_crash: place.after_crash,
            tried: place.tried.map(|tried| TriedView { offset: tried.offset, attempts: tried.attempts }),
            changed_at: instant(place.changed_at),
        }
    }
}

/// Asks to move a place to another offset.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResetPlace {
    /// Who consumes.
    pub consumer: String,
    /// What it reads.
    pub topic: String,
    /// Which part of that.
    pub partition: i32,
    /// The epoch of the place that the operator has seen; `null` if there was none. In another epoch nothing is changed.
    #[serde(deserialize_with = "required")]
    #[schema(required)]
    pub epoch: Option<u64>,
    /// The next offset to apply, from 0.
    pub next: i64,
    /// Why: 1 to 1,000 bytes, without control characters.
    pub reason: String,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// An option that must be given: `null` says that there is none.
fn required<'de, D: Deserializer<'de>>(value: D) -> Result<Option<u64>, D::Error> {
    Option::deserialize(value)
}

/// What became of a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PlaceMoved {
    /// Whether it was done; `false` for a dry run.
    pub applied: bool,
    /// What it does.
    pub says: String,
    /// The place after it, or as it is if nothing was done.
    pub place: Option<PlaceView>,
    /// The store's clock.
    pub now: Instant,
}

impl Operator {
    /// A page of the places of consumers.
    ///
    /// # Errors
    ///
    /// If the store has none, the request cannot be used, or the store fails.
    pub async fn list_places(&self, request: ListPlaces) -> Result<PlacePage, Error> {
        let ListPlaces { consumer, cursor, limit } = request;
        let page = PlacesRequest { consumer, after: scan::cursor(cursor.as_deref())?, limit: scan::limit(limit)? };
        let At { value: Listed { items, next }, now } = self.places()?.places(page).await.map_err(Error::of_page)?;
        let (places, next) = (items.iter().map(Into::into).collect(), next.map(|next| next.to_string()));
        Ok(PlacePage { places, next, now: instant(now) })
    }

    /// Moves a place to another offset, forward or back. Whoever has it loses it, and takes it again from there.
    ///
    /// # Errors
    ///
    /// If nothing was changed: see [`Error`].
    pub async fn reset_place(&self, who: &Actor, request: ResetPlace) -> Result<PlaceMoved, Error> {
        let ResetPlace { consumer, topic, partition, epoch, next, reason, dry_run } = request;
        check_reason(&reason)?;
        if next < 0 {
            return Err(Error::invalid("next", "must be an offset from 0"));
        }
        let name = PlaceName::new(&consumer, &topic, partition);
        let name = name.map_err(|error| Error::invalid("the place", format!("cannot be used: {error}")))?;
        let places = self.places()?;
        let At { value: found, now } = places.place(name.clone()).await?;
        let says = words(found.as_ref(), next);
        let check = || {
            let is_seen = found.as_ref().map(|place| place.epoch.as_u64()) == epoch;
            if is_seen { Ok(()) } else { Err(Error::Stale(there(found.as_ref()))) }
        };
        if dry_run {
            check()?;
            let place = found.as_ref().map(Into::into);
            return Ok(PlaceMoved { applied: false, says, place, now: instant(now) });
        }
        let before = Before {
            epoch: found.as_ref().map(|place| place.epoch.as_u64()),
            phase: None,
            next: found.as_ref().and_then(|place| place.next),
        };
        let asked = Asked { action: "reset-place", target: vec![name.to_string()], reason, before };
        let work = async {
            check()?;
            let applied = places.move_to(name.clone(), epoch.map(Epoch::from_u64), next).await?;
            let At { value: place, now } = places.place(name.clone()).await?;
            match applied {
                Applied::Applied(_) => {
                    Ok(PlaceMoved { applied: true, says, place: place.as_ref().map(Into::into), now: instant(now) })
                }
                Applied::Lost => Err(Error::Stale(there(place.as_ref()))),
            }
        };
        self.audited(who, asked, work, |_| format!("the next offset is {next}")).await
    }
}

fn there(place: Option<&Place>) -> Now {
    place.map_or(Now::Gone, |place| Now::Place(Box::new(place.into())))
}

/// What the move to `next` means.
fn words(place: Option<&Place>, next: i64) -> String {
    let owner = match place {
        Some(Place { owner: Some(_), .. }) => " Whoever has the place loses it, and takes it again from there.",
        _ => "",
    };
    let what = match place.and_then(|place| place.next) {
        Some(from) if next > from => {
            format!("The messages from {from} to {} are skipped, and never applied.", next - 1)
        }
        Some(from) if next < from => format!(
            "The messages from {next} to {} are read again. One whose id has a record is not applied a second time; one \
             without an id, or whose record was swept, is.",
            from - 1
        ),
        Some(_) => "The place stays where it is.".to_owned(),
        None => format!("The consumer begins at {next}."),
    };
    what + owner
}
