//! The engine: leases, followers of a run, faults of the store, and futures that are dropped.

mod common;

#[path = "engine/cache.rs"]
mod cache;
#[path = "engine/cleanup.rs"]
mod cleanup;
#[path = "engine/epochs.rs"]
mod epochs;
#[path = "engine/faults.rs"]
mod faults;
#[path = "engine/followers.rs"]
mod followers;
#[path = "engine/futures.rs"]
mod futures;
#[path = "engine/lapses.rs"]
mod lapses;
#[path = "engine/leases.rs"]
mod leases;
#[path = "engine/quotas.rs"]
mod quotas;
#[path = "engine/recent.rs"]
mod recent;
#[path = "engine/resolutions.rs"]
mod resolutions;
#[path = "engine/retention.rs"]
mod retention;
#[path = "engine/world.rs"]
mod world;
