//! `Fenced`, with a step and a derived key: one payment for each charge, and the same answer for good, wherever the
//! service dies or stands still. The payment provider is played here, and counts. The records
//! are in a file.

mod boundaries;
mod pause;
mod place;
mod random;
mod till;
