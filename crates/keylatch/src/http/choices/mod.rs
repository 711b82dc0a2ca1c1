//! The options of a layer.

mod requests;
mod runs;
