//! The machine as tables: what a request gets for every record at every instant, and what every write makes of every
//! record. A combination with no row fails the tests, and so does one with two.

mod decisions;
mod records;
mod sweeps;
mod writes;
