//! The same with the records on Cassandra, as if several processes shared them. The node itself is not killed.

#[path = "../at_most_once/boundaries.rs"]
mod boundaries;
#[path = "../at_most_once/office.rs"]
mod office;
#[path = "../at_most_once/pause.rs"]
mod pause;
mod place;
#[path = "../at_most_once/random.rs"]
mod random;
