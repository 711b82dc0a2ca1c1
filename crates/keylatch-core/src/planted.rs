//! Planted bugs: the mistakes that this field makes, to be made on purpose. Nothing without the feature `planted`.
//!
//! A test that cannot fail proves nothing. `dev/planted` runs, for each of these, the test that must catch it, with the
//! bug named in `KEYLATCH_PLANTED`, and is content only if that test fails.

/// A bug, where it stands in the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "planted"), allow(dead_code, reason = "some are in modules that are features"))]
pub enum Bug {
    /// A completion does not ask whose the record is.
    CompleteWithoutEpoch,
    /// The answer is sent before its record is durable.
    AnswerBeforeRecord,
    /// The handler is a part of the HTTP future, and is dropped with it.
    HandlerInRequest,
    /// A key is released after its outcome was written.
    ReleaseAfterComplete,
    /// A sweep removes records that are running.
    SweepRunning,
    /// A claim whose reply was lost is taken for one that failed.
    LostReplyIsFailure,
    /// A scope does not say who calls.
    ScopeWithoutCaller,
    /// `Set-Cookie` is kept with the answer.
    KeepSetCookie,
    /// An answer that is too large to keep frees its key.
    OversizeFreesKey,
    /// SQLite is told not to sync.
    NoSync,
}

/// Whether `bug` is planted.
#[cfg(not(feature = "planted"))]
#[allow(dead_code, reason = "asked by modules that are features")]
pub const fn has(_: Bug) -> bool {
    false
}

/// Whether `bug` is planted.
///
/// # Panics
///
/// If `KEYLATCH_PLANTED` names none, since a test with a misspelt bug would pass for the wrong reason.
#[cfg(feature = "planted")]
#[allow(dead_code, reason = "asked by modules that are features")]
pub fn has(bug: Bug) -> bool {
    static PLANTED: std::sync::OnceLock<Option<Bug>> = std::sync::OnceLock::new();
    let planted = PLANTED.get_or_init(|| {
        let name = std::env::var("KEYLATCH_PLANTED").ok()?;
        Some(named(&name).unwrap_or_else(|| panic!("KEYLATCH_PLANTED={name} names no bug")))
    });
    *planted == Some(bug)
}

#[cfg(feature = "planted")]
fn named(name: &str) -> Option<Bug> {
    Some(match name {
        "complete-without-epoch" => Bug::CompleteWithoutEpoch,
        "answer-before-record" => Bug::AnswerBeforeRecord,
        "handler-in-request" => Bug::HandlerInRequest,
        "release-after-complete" => Bug::ReleaseAfterComplete,
        "sweep-running" => Bug::SweepRunning,
        "lost-reply-is-failure" => Bug::LostReplyIsFailure,
        "scope-without-caller" => Bug::ScopeWithoutCaller,
        "keep-set-cookie" => Bug::KeepSetCookie,
        "oversize-frees-key" => Bug::OversizeFreesKey,
        "no-sync" => Bug::NoSync,
        _ => return None,
    })
}
