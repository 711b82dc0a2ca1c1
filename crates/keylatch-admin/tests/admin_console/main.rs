//! The console in Chromium, over the real API, on SQLite.

mod flows;
mod looks;
mod pictures;
mod safety;
mod world;
