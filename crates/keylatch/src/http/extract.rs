//! Extractors for axum handlers: `Tx`, `Run`, `Identity`, and each of them as an `Option`.
//!
//! An `Option` is `None` for a request that its layer lets pass unguarded: without a key if none is required, with
//! another method, by [`skip_if`](super::IdempotencyLayer::skip_if), or if the layer fails open or observes. A mistake
//! in the set-up, such as a route without a layer, is still [`NotGuarded`], because `None` would hide it.

use std::fmt;

use axum_core::body::Body;
use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, Response};
use http::Extensions;
use http::request::Parts;

use super::answer::Disposition;
use super::problem::Problem;
use super::request::identity;
use super::unguarded::Unguarded;
use crate::tx::{Database, TxSlot};
use crate::{Identity, Run, Tx};

/// A handler asked for something that the layer of its route does not provide: a mistake in the service.
///
/// As an answer it is [`Problem::NotSetUp`], and its text, which says what to change, goes to the log. If the layer
/// fails open while the store is unavailable, it is [`Problem::StoreUnavailable`]. Nothing is recorded under any
/// guarantee, because the handler was not called: a handler that calls an extractor itself must answer with this only
/// if it has done nothing yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotGuarded {
    asked: &'static str,
    why: Unguarded,
}

impl NotGuarded {
    /// What the handler asked for: `Tx`, `Run` or `Identity`.
    pub fn asked(&self) -> &'static str {
        self.asked
    }

    /// Why it is missing.
    pub fn why(&self) -> &Unguarded {
        &self.why
    }
}

impl std::error::Error for NotGuarded {}

impl fmt::Display for NotGuarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, why } = self;
        let made = match *asked {
            "Tx" => "`IdempotencyLayer::atomic`",
            "Run" => "`IdempotencyLayer::fenced` or `IdempotencyLayer::at_most_once`",
            _ => "an `IdempotencyLayer`",
        };
        write!(f, "this handler asks for `{asked}`, but ")?;
        match why {
            Unguarded::NoLayer => write!(f, "there is no layer around its route; add {made} to it with `.layer(…)`"),
            Unguarded::Method(method) if method.is_safe() => write!(
                f,
                "the layer never guards {method}, which has no effect to guard; use another method, or ask for \
                 `Option<{asked}>`"
            ),
            Unguarded::Method(method) => write!(
                f,
                "the layer does not guard {method}; add it with `.with_methods([…])`, or ask for `Option<{asked}>`"
            ),
            Unguarded::NoKey => write!(
                f,
                "the request has no key, and the layer lets such requests pass; add `.require_key()` to the layer, or \
                 ask for `Option<{asked}>`"
            ),
            Unguarded::Skipped => {
                write!(f, "`.skip_if(…)` told the layer to let this request pass; ask for `Option<{asked}>`")
            }
            Unguarded::Bypassed => write!(
                f,
                "the store is unavailable, and `.fail_open()` told the layer to let requests pass; ask for \
                 `Option<{asked}>`, or remove `.fail_open()`"
            ),
            Unguarded::Observed => write!(
                f,
                "`.observe()` told the layer to pass on requests that it would have answered; ask for \
                 `Option<{asked}>`"
            ),
            Unguarded::OtherGuarantee => write!(f, "its layer has another guarantee; build it with {made}"),
            Unguarded::OtherDatabase => {
                f.write_str("the store of its layer is of another database; ask for a `Tx` of that database")
            }
            Unguarded::Taken => {
                f.write_str("it was taken before, by another argument or a middleware; ask for it once")
            }
        }
    }
}

impl IntoResponse for NotGuarded {
    fn into_response(self) -> Response {
        tracing::error!(error = %self, "a handler asks for something that its layer does not provide");
        let problem = match self.why {
            Unguarded::Bypassed => Problem::StoreUnavailable,
            _ => Problem::NotSetUp,
        };
        let mut response = problem.response().map(Body::from);
        // The handler has not run, but an earlier attempt may have.
        response.extensions_mut().insert(Disposition::Retry);
        response.extensions_mut().insert(self);
        response
    }
}

/// Why the request does not have what was asked for.
fn why(extensions: &Extensions) -> Unguarded {
    match extensions.get() {
        Some(passed @ (Unguarded::Bypassed | Unguarded::Observed)) => passed.clone(),
        // An inner layer may guard what an outer layer let pass.
        _ if identity(extensions).is_some() => Unguarded::OtherGuarantee,
        Some(passed) => passed.clone(),
        None => Unguarded::NoLayer,
    }
}

/// What a handler may ask for.
trait Asked: Sized {
    const NAME: &'static str;

    fn find(extensions: &Extensions) -> Result<Self, Unguarded>;

    fn required(extensions: &Extensions) -> Result<Self, NotGuarded> {
        Self::find(extensions).map_err(|why| NotGuarded { asked: Self::NAME, why })
    }

    fn optional(extensions: &Extensions) -> Result<Option<Self>, NotGuarded> {
        match Self::find(extensions) {
            Ok(found) => Ok(Some(found)),
            Err(why) if why.was_passed() => Ok(None),
            Err(why) => Err(NotGuarded { asked: Self::NAME, why }),
        }
    }
}

impl Asked for Identity {
    const NAME: &'static str = "Identity";

    fn find(extensions: &Extensions) -> Result<Self, Unguarded> {
        let found = identity(extensions).map(|(scope, key)| Self { scope: scope.clone(), key: key.clone() });
        found.ok_or_else(|| why(extensions))
    }
}

impl Asked for Run {
    const NAME: &'static str = "Run";

    fn find(extensions: &Extensions) -> Result<Self, Unguarded> {
        extensions.get().cloned().ok_or_else(|| why(extensions))
    }
}

impl<D: Database> Asked for Tx<D> {
    const NAME: &'static str = "Tx";

    fn find(extensions: &Extensions) -> Result<Self, Unguarded> {
        let slot: &TxSlot = extensions.get().ok_or_else(|| why(extensions))?;
        let missing = if slot.is_of::<D>() { Unguarded::Taken } else { Unguarded::OtherDatabase };
        slot.take().ok_or(missing)
    }
}

macro_rules! extractor {
    ($($asked:ty $(, $database:ident)?;)+) => {$(
        impl<S: Send + Sync $(, $database: Database)?> FromRequestParts<S> for $asked {
            type Rejection = NotGuarded;

            async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, NotGuarded> {
                Self::required(&parts.extensions)
            }
        }

        impl<S: Send + Sync $(, $database: Database)?> OptionalFromRequestParts<S> for $asked {
            type Rejection = NotGuarded;

            async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, NotGuarded> {
                Self::optional(&parts.extensions)
            }
        }
    )+};
}

extractor! {
    Identity;
    Run;
    Tx<D>, D;
}
