//! The orders server, as its users have it, under everything that can go wrong. Each test ends with the same
//! judgement: one order per key, none besides, and the same answer for good (see `testing-history`).

mod boundaries;
mod disk;
mod duplicates;
mod gone;
mod kill;
mod processes;
mod shop;
