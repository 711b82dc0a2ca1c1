//! The orders server, as its users have it, on each set-up, under everything that can go wrong. Each test ends with the
//! same judgement: one order per key, none besides, and the same answer for good (see `testing-history`).

#[macro_use]
#[path = "../setup/mod.rs"]
mod setup;

mod boundaries;
mod disk;
mod duplicates;
mod gone;
mod heads;
mod kill;
mod load;
mod outages;
mod processes;
mod shop;
