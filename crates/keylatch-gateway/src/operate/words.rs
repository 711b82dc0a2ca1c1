//! Values in words.

use keylatch_admin::view::Instant;

/// An instant, in UTC and to the second.
pub(super) fn instant(at: Instant) -> String {
    let text = at.to_string();
    let seconds = text.split(['.', 'Z']).next().unwrap_or_default();
    seconds.replace('T', " ")
}

/// The same, or a dash if it is not known.
pub(super) fn optional(at: Option<Instant>) -> String {
    at.map_or("-".to_owned(), instant)
}
