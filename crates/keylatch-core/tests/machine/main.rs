//! The machine as tables: what a request gets of every record at every instant, and what every write makes of
//! every record. A combination without a row fails the tests, and so does one with two.

mod decisions;
mod records;
mod sweeps;
mod writes;
