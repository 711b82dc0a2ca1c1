//! The manual: how to choose a guarantee, the reasons for the defaults, and what happens when something fails.

#[doc = include_str!("guarantee.md")]
pub mod guarantee {}

#[doc = include_str!("defaults.md")]
pub mod defaults {}

#[doc = include_str!("failures.md")]
pub mod failures {}

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
