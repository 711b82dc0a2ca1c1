//! Idempotency keys and retries for HTTP clients.
//!
//! A client that times out cannot know whether its request took effect. If it sends the request again with the same
//! idempotency key and the same bytes, a server that keeps such keys lets it take effect once, and gives the same answer.
//! This crate does that: it sends a request until there is a final answer.
//!
//! ```no_run
//! use keylatch_client::{Client, Key};
//!
//! # async fn example(order: &serde_json::Value, user: &str, cart: &str) -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new();
//! let key = Key::derive(["order", user, cart])?;
//! let answer = client.post("https://shop.example/api/orders").json(order).key(key).send().await?;
//! println!("{} {}", answer.status(), if answer.replayed { "again" } else { "for the first time" });
//! # Ok(()) }
//! ```
//!
//! - **Which key.** [`Key::derive`] makes the same key for the same intent in every process and after every restart.
//!   [`Key::random`] makes a new one. A key belongs to one request: with another method, URL or body, a call fails before
//!   anything is sent.
//! - **What the server says decides.** A [`Profile`] tells what each answer means: Keylatch and the IETF draft, or Stripe.
//!   A final answer ends the call, whatever its status. What cannot be tried again is an [`Error`] that says what to do.
//! - **Limits.** A [`Policy`] bounds the tries and the time of each call, and the retries of all calls of a client
//!   together, so that an outage is not made worse.
//! - **A journal**, by choice: key and request are on disk before the first try, so a program that dies half-way can
//!   finish with the same key. See [`Journal`] and [`Client::pending`].
//! - **Any transport.** [`Client::over`] sends through any tower service, and [`RetryLayer`] is the same as a layer.
//!
//! A call is cancelled by dropping its future. Its intent stays in the journal.
//!
//! The clients for Python and TypeScript behave in the same way: all of them run one table of cases, `clients/cases`.

mod answer;
mod bound;
mod call;
mod client;
mod error;
mod event;
#[cfg(feature = "journal")]
mod file;
mod journal;
mod layer;
mod policy;
mod profile;
mod request;
#[cfg(feature = "reqwest")]
mod transport;

pub use answer::Answer;
pub use client::{Call, Client};
pub use error::{Error, GaveUp, Unsendable, Unsettled};
pub use event::{Event, Step, Why};
#[cfg(feature = "journal")]
pub use file::FileJournal;
pub use journal::{CREDENTIALS, Entry, Journal, JournalError};
pub use keylatch_core::{Clock, InvalidKey, KEY_BYTES_MAX, Key, Timestamp};
pub use layer::{Options, Retry, RetryLayer};
pub use policy::{InvalidPolicy, Policy};
pub use profile::{Meaning, Profile};
#[cfg(feature = "reqwest")]
pub use transport::Reqwest;

/// An error of any type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[cfg(test)]
mod tests;
