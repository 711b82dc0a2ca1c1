//! The HTTP layer: a [tower](https://docs.rs/tower) layer for any service.
//!
//! 1. GET, HEAD, OPTIONS and TRACE pass unguarded. POST and PATCH are guarded, and other methods if you choose them.
//! 2. The whole request is read and hashed, within limits of size and time, **before** its key is claimed.
//! 3. A request without a usable key, scope or body is refused and leaves no record.
//! 4. The same request runs once. Later ones get the same status, kept headers and body, and
//!    `Idempotent-Replayed: true`; requests that arrive meanwhile get 409, or wait as long as `Prefer: wait=N` says.
//! 5. A different request with the same key gets 422 and sees nothing of the stored answer.
//! 6. The outcome is in the store before the first byte of the answer is sent.
//! 7. A client that hangs up does not cancel the work. The work runs on its own task, where task-locals of outer layers
//!    are not visible: layers that set task-locals go inside. Spans are carried over.
//! 8. Only the headers on a list are kept with an answer; never `Set-Cookie` or headers that concern one connection.
//! 9. A 2xx, 3xx or 4xx is recorded, except 408, 425 and 429, which in `AtMostOnce` leave the outcome unknown. A 5xx is
//!    recorded in `AtMostOnce` only. A handler can override this with a [`Disposition`].
//! 10. An answer of Keylatch's own, from an inner layer, is never recorded.
//! 11. Headers that only this side sets, such as `Idempotency-Epoch`, are removed from every request, guarded or not.
//!     Headers that a service sends to its layer, such as `Idempotency-Disposition`, are removed from every answer.
//!
//! # Deployment caveat
//!
//! The layer must see every request that has the guarded effect: put it outside of retries, and inside of
//! authentication, which determines the caller. The manual has a page on
//! [which layer goes where](crate::manual::layers). A handler must have only one layer: a second one for the same key
//! answers 500 at the first request, and nothing runs. A proxy in front that sends a request twice is handled like any
//! client that retries.

mod admit;
mod answer;
mod body;
mod choices;
mod config;
mod copies;
mod drain;
#[cfg(feature = "axum")]
mod extract;
mod future;
mod headers;
mod home;
mod layer;
mod multipart;
mod observe;
mod pass;
mod problem;
mod request;
mod rest;
mod route;
mod scope;
mod service;
mod trace;
mod unguarded;
mod upstream;
mod words;
mod work;

pub use answer::Disposition;
pub use body::GuardedBody;
#[cfg(feature = "axum")]
pub use extract::NotGuarded;
pub use future::ResponseFuture;
pub use headers::{
    IDEMPOTENCY_ATTEMPT, IDEMPOTENCY_DERIVED_KEY, IDEMPOTENCY_DISPOSITION, IDEMPOTENCY_EPOCH, IDEMPOTENCY_EXPIRES,
    IDEMPOTENCY_KEY, IDEMPOTENCY_REGION, IDEMPOTENCY_STATUS, IDEMPOTENT_REPLAYED, NeverKept, check_kept,
};
pub use home::{
    AtHome, HomeLayer, REGION_HEADER_AGE_MAX, REGION_SECRET_BYTES_MIN, RegionSecret, Regions, ShortSecret, ToHome,
};
pub use layer::{
    ANSWER_BYTES_MAX, ANSWER_END_MAX, BODY_BYTES_MAX, BODY_BYTES_PER_SECOND_MIN, BODY_STALL_MAX, IdempotencyLayer,
};
pub use problem::Problem;
pub use route::Route;
pub use scope::ScopeFrom;
pub use service::Idempotency;
pub use unguarded::Unguarded;
pub use upstream::UpstreamKey;
