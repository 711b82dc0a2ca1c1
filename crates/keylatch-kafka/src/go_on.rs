//! How an operator lets a partition go on that stands still.

use keylatch_core::inbox::{InvalidPlace, PlaceName, Places};
use keylatch_core::store::{Applied, Error};

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
