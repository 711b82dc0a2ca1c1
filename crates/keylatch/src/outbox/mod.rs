//! The outbox: events that are published if and only if their transaction committed.
//!
//! A handler publishes with [`Tx::publish`](crate::Tx::publish); code outside requests does with the store's
//! `execute_and_publish`, `publish_in`, or [`Entered::publish`](crate::tx::Entered::publish). The events are written in the
//! same transaction. A [`Relay`] hands them to a [`Publisher`], such as Kafka's in the crate `keylatch-kafka`, or
//! [`InProcess`] handlers, and deletes each when it is acknowledged. See the [manual](crate::manual::outbox).
//!
//! ```no_run
//! use keylatch::outbox::{Event, Failed, InProcess, Published, Relay};
//! use keylatch::sqlite::{Sqlite, Store};
//! use keylatch::{Engine, Limits, Policy, Tx};
//!
//! # async fn service() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Store::open("data/keylatch.db").await?;
//! let engine = Engine::atomic(store.clone(), Policy::default(), Limits::default())?;
//! let relay = Relay::new(store, InProcess::atomic(engine, "inventory", count)?).start();
//! // … and when the service stops:
//! relay.stop(std::time::Duration::from_secs(5)).await;
//! # Ok(()) }
//!
//! // In a handler of a request: published if and only if the order is committed.
//! async fn order(mut tx: Tx<Sqlite>) -> Result<(), Box<dyn std::error::Error>> {
//!     tx.publish(Event::new("orders").with_key("user-7").with_value(r#"{"item":"tea"}"#))?;
//!     Ok(())
//! }
//!
//! // And for each event, once.
//! async fn count(mut tx: Tx<Sqlite>, _event: Published) -> Result<(), Failed> {
//!     tx.run(|db| db.execute("UPDATE inventory SET ordered = ordered + 1", [])).await?;
//!     Ok(())
//! }
//! ```

mod deferred;
mod failed;
mod in_process;
mod relay;
mod round;
mod telemetry;

pub use failed::Failed;
pub use in_process::{AT_ONCE, InProcess};
pub use keylatch_core::outbox::*;
pub use relay::{
    BATCH_BYTES, BATCH_EVENTS, InvalidRelay, POLL_MAX, RELAY_LEASE, RELAY_LEASE_MS_MIN, Refusals, Relay, RunningRelay,
};
