//! Keylatch behind Kafka: each message takes effect once, and events leave if and only if their transaction has
//! committed.
//!
//! A [`Consumer`] applies messages in transactions of your database. How far it has come is a row of the same database,
//! the *place*, which moves in the same commit as the effects. So neither a crash, nor a rebalance, nor a lost or
//! rewound group offset applies a message twice or skips one.
//!
//! ```no_run
//! use keylatch::Tx;
//! use keylatch::sqlite::{Sqlite, Store};
//! use keylatch_kafka::{Consumer, Failed, Kafka, Message};
//!
//! // What it writes in `tx` commits together with the place, or not at all. `?` means: try again later.
//! async fn apply(mut tx: Tx<Sqlite>, message: Message) -> Result<(), Failed> {
//!     let Some(value) = message.value() else { return Err(Failed::reject("an order has a value")) };
//!     let order = String::from_utf8(value.to_vec()).map_err(Failed::reject)?;
//!     tx.run(move |db| db.execute("INSERT INTO orders (text) VALUES (?1)", [order])).await?;
//!     Ok(())
//! }
//!
//! # async fn service() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Store::open("data/keylatch.db").await?;
//! let kafka = Kafka::new("127.0.0.1:9092");
//! let consumer = Consumer::new(kafka, "inventory", ["orders"]).each(store, apply)?;
//! consumer.run_until(async { drop(tokio::signal::ctrl_c().await) }).await;
//! # Ok(()) }
//! ```
//!
//! # What is promised
//!
//! - **A message has one effect**, and is in the end applied or a dead letter, never both and never neither. The same
//!   message sent twice has one effect as well, if it has an [id](MessageId).
//! - **The messages of a partition are applied in their order.** One that fails and may succeed later holds up its
//!   partition until it is applied or a dead letter. In [lanes](Consumer::lanes) this is so for the messages of a key:
//!   those of different keys are applied at once, and in any [guarantee](Consumer::lanes_on_lease).
//! - **Nobody applies anything for a partition that they have lost**: the place carries an epoch, which is checked
//!   under a lock before a handler starts. A process that was paused and comes back changes nothing.
//! - **Another log is noticed.** If a topic is deleted and created again, or truncated, its partitions stand still, and
//!   the log says [how to go on](go_on).
//!
//! A dead letter is a row of the database: see [`Places::dead_letters`](keylatch_core::inbox::Places::dead_letters). It
//! is written in the commit in which the place passes the message, and applied after all if an operator
//! [orders](keylatch_core::inbox::Places::order) so. By choice it also goes to
//! [a topic](Consumer::with_dead_letter_topic).
//!
//! [`Producer`] publishes the events of `keylatch::outbox::Relay`. The [`manual`] says what happens when something
//! fails.
//!
//! # Where things are
//!
//! ```text
//!  poller  (thread)   polls the client; never waits for a database or a handler
//!    │  rebalances, messages                 ▲ assign at the place, commit
//!    ▼                                       │
//!  group   (task)     which partitions are ours; open: takes the place, compares the log
//!    │                 leased (task for each topic): instead of a group, a lease in the store
//!    ▼
//!  worker  (task for each partition)   owned: tries, dead letters, waiting
//!                                      batches: many messages in one transaction; lanes: each through an engine
//! ```

mod attempt;
mod backoff;
mod batches;
mod cleaner;
mod consumer;
mod dead_letter;
mod go_on;
mod group;
mod id;
mod lanes;
mod leased;
#[doc = include_str!("manual.md")]
pub mod manual {}
mod message;
mod open;
mod owned;
mod partition;
mod poller;
mod producer;
mod progress;
mod settings;
mod stats;
mod telemetry;
mod trace;
mod worker;

pub use consumer::{
    AHEAD_BYTES, AHEAD_MESSAGES, BATCH_BYTES, BATCH_MESSAGES, Consumer, DEAD_IN_ROW, DRAIN, InvalidConsumer, LEASE,
    PAUSE, PAUSE_MAX, Running, STOP, StartAt, TRIES,
};
pub use go_on::{GoOnError, Replay, go_on, replay};
pub use id::{Extractor, MessageId};
pub use keylatch::outbox::Failed;
pub use lanes::{LANES, WINDOW};
pub use message::Message;
pub use producer::{MESSAGE_TIMEOUT, Producer};
pub use settings::{InvalidSettings, Kafka};
pub use stats::{Count, Stats, Stopped};
