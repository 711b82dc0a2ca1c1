//! The same with the records in Redis, as several processes share them. The server itself lives on.

#[path = "../crash/boundaries.rs"]
mod boundaries;
#[path = "../crash/pause.rs"]
mod pause;
mod place;
#[path = "../crash/random.rs"]
mod random;
#[path = "../crash/till.rs"]
mod till;
