//! The manual: how to choose a guarantee, the reasons for the defaults, and what happens when something fails.
//!
//! # What may grow
//!
//! Errors and refusals are `#[non_exhaustive]`, including [`http::Problem`](crate::http::Problem) and [`Refused`](crate::Refused): later versions may add to
//! them. The types that decide whether a request runs, or what becomes of its record, are not: [`Guarantee`](crate::Guarantee),
//! [`tx::Verdict`](crate::tx::Verdict), [`tx::Transacted`](crate::tx::Transacted), [`store::Applied`](crate::store::Applied), [`store::State`](crate::store::State), [`Body`](crate::Body), [`entry_point::Answer`](crate::entry_point::Answer), and all of
//! [`machine`](crate::machine). A store or an entry point that does not handle a new variant must not compile, because a catch-all arm
//! could lead to a second run.

#[doc = include_str!("guarantee.md")]
pub mod guarantee {}

#[doc = include_str!("defaults.md")]
pub mod defaults {}

#[doc = include_str!("failures.md")]
pub mod failures {}

#[doc = include_str!("outbox.md")]
pub mod outbox {}

#[doc = include_str!("observability.md")]
pub mod observability {}

#[cfg(feature = "http")]
#[doc = include_str!("statuses.md")]
pub mod statuses {}

#[cfg(feature = "http")]
#[doc = include_str!("layers.md")]
pub mod layers {}

#[cfg(feature = "sqlite")]
#[doc = include_str!("sqlite.md")]
pub mod sqlite {}

#[cfg(feature = "postgres")]
#[doc = include_str!("postgres.md")]
pub mod postgres {}

#[cfg(feature = "redis")]
#[doc = include_str!("redis.md")]
pub mod redis {}

#[cfg(feature = "postgres")]
#[doc = include_str!("postgres_operations.md")]
pub mod postgres_operations {}
