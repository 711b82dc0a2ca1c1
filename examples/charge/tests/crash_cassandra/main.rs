//! The same with the records on Cassandra, as several processes share them. The node itself lives on.

#[path = "../crash/boundaries.rs"]
mod boundaries;
#[path = "../crash/pause.rs"]
mod pause;
mod place;
#[path = "../crash/random.rs"]
mod random;
#[path = "../crash/till.rs"]
mod till;
