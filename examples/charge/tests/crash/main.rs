//! `Fenced`, with a step and a derived key: one payment for each charge, and always the same answer, wherever the
//! service dies or is paused. The test plays the payment provider, and counts. The records are in a file.

mod boundaries;
mod pause;
mod place;
mod random;
mod till;
