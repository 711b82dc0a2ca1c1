//! Planted bugs, as in the library: mistakes that a test must catch (`dev/planted`). Nothing without the feature `planted`.

/// A bug, where it stands in the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A time-out is taken for a request of which nothing was sent.
    TimeOutIsUnsent,
    /// A later attempt of which nothing was sent speaks for those before it.
    FreeOnLaterAttempt,
}

/// Whether `bug` is planted.
#[cfg(not(feature = "planted"))]
pub(crate) const fn has(_: Bug) -> bool {
    false
}

/// Whether `bug` is planted.
///
/// # Panics
///
/// If `KEYLATCH_GATEWAY_PLANTED` names none, since a test with a misspelt bug would pass for the wrong reason.
#[cfg(feature = "planted")]
pub(crate) fn has(bug: Bug) -> bool {
    static PLANTED: std::sync::OnceLock<Option<Bug>> = std::sync::OnceLock::new();
    let planted = PLANTED.get_or_init(|| {
        let name = std::env::var("KEYLATCH_GATEWAY_PLANTED").ok()?;
        Some(named(&name).unwrap_or_else(|| panic!("KEYLATCH_GATEWAY_PLANTED={name} names no bug")))
    });
    *planted == Some(bug)
}

#[cfg(feature = "planted")]
fn named(name: &str) -> Option<Bug> {
    Some(match name {
        "gateway-time-out-is-unsent" => Bug::TimeOutIsUnsent,
        "gateway-free-on-later-attempt" => Bug::FreeOnLaterAttempt,
        _ => return None,
    })
}
