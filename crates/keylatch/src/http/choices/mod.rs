//! What can be chosen of a layer.

mod requests;
mod runs;
