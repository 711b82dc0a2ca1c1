//! The HTTP API, over the memory store.

mod access;
mod audit;
mod input;
mod records;
mod setup;
