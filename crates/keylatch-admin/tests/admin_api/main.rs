//! The HTTP API, over the memory store.

mod access;
mod records;
mod setup;
