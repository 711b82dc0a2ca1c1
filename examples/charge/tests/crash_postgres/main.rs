//! The same with the records on PostgreSQL, as several processes share them.

#[path = "../crash/boundaries.rs"]
mod boundaries;
#[path = "../crash/pause.rs"]
mod pause;
mod place;
#[path = "../crash/random.rs"]
mod random;
#[path = "../crash/till.rs"]
mod till;
