//! What operators do: let a partition go on that stands still, and have dead letters applied after all.

use keylatch_core::inbox::{DeadLetterId, DeadLettersRequest, InvalidPlace, Order, PlaceName, Places};
use keylatch_core::store::{Applied, Error, PAGE_RECORDS_MAX};

/// Why a place was not moved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GoOnError {
    /// It is not the name of a place.
    #[error(transparent)]
    Name(#[from] InvalidPlace),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Error),
    /// There is no such place, and no offset was given.
    #[error("the consumer has no place in this partition; give the offset where it is to begin")]
    NoPlace,
    /// Somebody took or moved the place at the same moment.
    #[error("the place was taken or moved at the same moment; look at it, and call again")]
    Changed,
}

/// Moves the place of `consumer` in a partition to `offset`, the next message to apply; `None` leaves it where it stands.
///
/// For a partition that stands still, and for one that is to be applied again from an earlier offset. Whoever works on the
/// partition loses it, and takes it again within seconds. The last message is forgotten, so the log is not compared with
/// it. Messages with an id that have taken effect are known, and are not applied again within their retention.
///
/// # Errors
///
/// See [`GoOnError`].
pub async fn go_on(
    store: &(impl Places + ?Sized),
    consumer: &str,
    topic: &str,
    partition: i32,
    offset: Option<i64>,
) -> Result<(), GoOnError> {
    let name = PlaceName::new(consumer, topic, partition)?;
    let place = store.place(name.clone()).await?.value;
    let next = offset.or_else(|| place.as_ref()?.next).ok_or(GoOnError::NoPlace)?;
    match store.move_to(name, place.map(|place| place.epoch), next).await? {
        Applied::Applied(_) => Ok(()),
        Applied::Lost => Err(GoOnError::Changed),
    }
}

/// Whether a replay is only tried on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// It only says which dead letters it would be.
    DryRun,
    /// They are applied.
    ForReal,
}

/// Has all dead letters applied after all that `request` asks for, and returns which these are. Its `limit` is the most
/// that there may be; where it goes on ([`after`](DeadLettersRequest::after)) counts too.
///
/// They are applied within seconds by the owner of each place, in the order of their offsets. One that fails again stays.
/// A call that fails half-way can be made again.
///
/// ```no_run
/// use keylatch::inbox::{DeadLettersRequest, Places, Reason};
/// use keylatch_kafka::{Replay, replay};
///
/// # async fn operator(store: &dyn Places) -> Result<(), Box<dyn std::error::Error>> {
/// let exhausted = DeadLettersRequest {
///     consumer: Some("inventory".to_owned()),
///     reason: Some(Reason::Exhausted),
///     error: Some("timed out".to_owned()),
///     limit: 10_000,
///     ..DeadLettersRequest::default()
/// };
/// println!("{} dead letters", replay(store, exhausted.clone(), Replay::DryRun).await?.len());
/// replay(store, exhausted, Replay::ForReal).await?;
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// If the store fails.
pub async fn replay(
    store: &(impl Places + ?Sized),
    mut request: DeadLettersRequest,
    replay: Replay,
) -> Result<Vec<DeadLetterId>, Error> {
    let mut found = Vec::new();
    let most = request.limit;
    while found.len() < most {
        request.limit = (most - found.len()).min(PAGE_RECORDS_MAX);
        let page = store.dead_letters(request.clone()).await?.value;
        for letter in page.items {
            // It may have gone meanwhile.
            if replay == Replay::DryRun || store.order(letter.id.clone(), Order::Replay).await? {
                found.push(letter.id);
            }
        }
        match page.next {
            Some(next) => request.after = Some(next),
            None => break,
        }
    }
    Ok(found)
}
