//! `AtMostOnce`: never two starts, wherever the service dies or is paused. Later requests are told that the outcome is
//! unknown, until somebody resolves it. The records are in a file.

mod boundaries;
mod office;
mod pause;
mod place;
mod random;
