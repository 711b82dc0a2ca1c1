//! Keylatch makes a repeated request safe: the same HTTP request, queue message or function call takes effect **once**
//! and always gets **the same answer**, whatever crashes in between.
//!
//! A client that times out cannot know whether its request took effect, so it sends the request again. With a key that
//! stays the same over all tries, Keylatch recognises the request: it runs it once, records the outcome, and answers
//! every retry from the record.
//!
//! ```no_run
//! use axum::{Router, http::StatusCode, routing::post};
//! use keylatch::http::{IdempotencyLayer, ScopeFrom};
//! use keylatch::sqlite::{Sqlite, Store};
//!
//! # async fn app() -> Result<Router, Box<dyn std::error::Error>> {
//! let store = Store::open("data/keylatch.db").await?;
//! let app = Router::new()
//!     .route("/orders", post(create_order))
//!     .layer(IdempotencyLayer::atomic(store, ScopeFrom::header("x-user-id")).require_key());
//! # Ok(app) }
//!
//! // What it writes in `tx` commits together with the record and the answer, or not at all.
//! async fn create_order(mut tx: keylatch::Tx<Sqlite>, order: String) -> Result<StatusCode, StatusCode> {
//!     let insert = tx.run(move |db| db.execute("INSERT INTO orders (text) VALUES (?1)", [order])).await;
//!     insert.map(|_| StatusCode::CREATED).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
//! }
//! ```
//!
//! # What is promised
//!
//! | guarantee | after a crash half-way | effect |
//! |---|---|---|
//! | [`Atomic`](Guarantee::Atomic) | the transaction is gone; a retry runs afresh | exactly once |
//! | [`Fenced`](Guarantee::Fenced) | the lease ends; a retry runs again, with a higher epoch and the steps that were finished | once, where what it calls honours the derived key or the epoch |
//! | [`AtMostOnce`](Guarantee::AtMostOnce) | the outcome is unknown, until someone resolves it | never twice |
//!
//! The guarantee and the caller have no default, because only the service knows them. The [`manual`] helps to choose a
//! guarantee, and says for every failure what a caller sees, and what later versions may add to.
//!
//! # Where things are
//!
//! | module | what is in it |
//! |---|---|
//! | [`machine`] | all the semantics, pure: what a request gets, and what a store writes |
//! | [`store`] | the contract of a store, and what its author needs; [`memory`], `sqlite`, `postgres`, `redis` and `cassandra` implement it, and the suite in `conformance` tests it |
//! | [`tiered`] | a cache of final outcomes in front of a store |
//! | [`tx`] | `Atomic`: a handler's transaction |
//! | [`inbox`] | the contract of a store that keeps a consumer's place in a log, and applies its messages |
//! | [`outbox`] | events that are published if and only if their transaction committed |
//! | [`recent`] | what this process saw of its latest records, by choice, for operators |
//! | [`Engine`] | claims, runs, records and replays; [`Engine::run`] is the entry point for functions |
//! | [`http`] | the entry point for HTTP: a layer for any tower service, and extractors for axum |
//! | [`entry_point`] | what the author of another entry point needs, such as a consumer or a gateway |
//! | [`Key`], [`Scope`], [`Fingerprint`], [`Record`], [`Outcome`] | the terms, as types |
//!
//! Read in this order: this page, `machine.rs`, `store.rs`, `engine/mod.rs`, `http/service.rs`.
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `http` | yes | the tower layer |
//! | `axum` | yes | extractors: [`Tx`], [`Run`], [`Identity`] |
//! | `sqlite` | | the SQLite store |
//! | `postgres` | | the PostgreSQL store; needs Rust 1.94 |
//! | `tokio-postgres` | | claims in your own transactions of tokio-postgres: `postgres::OwnTx` |
//! | `diesel` | | the same for diesel, with diesel-async |
//! | `redis` | | the store in Redis or Valkey |
//! | `cassandra` | | the store in Apache Cassandra |
//! | `cassandra-tls` | | TLS to its nodes, by the OpenSSL of the system |
//! | `opentelemetry` | | spans in the caller's trace, and the trace in events; see the [manual](manual::observability) |
//! | `conformance` | | the suite that every store passes |
//! | `failpoints` | | for Keylatch's own tests: points where a process kills itself |

mod engine;
pub mod entry_point;
#[cfg(feature = "http")]
pub mod http;
pub mod leader;
pub mod manual;
pub mod outbox;
pub mod recent;
pub mod regions;
pub mod tiered;
pub mod tx;

#[cfg(feature = "cassandra")]
#[doc(inline)]
pub use keylatch_cassandra as cassandra;
#[cfg(feature = "conformance")]
pub use keylatch_core::{conformance, conformance_atomic, conformance_inbox, conformance_outbox};
pub use keylatch_core::{inbox, machine, memory, store};
#[cfg(feature = "postgres")]
#[doc(inline)]
pub use keylatch_postgres as postgres;
#[cfg(feature = "redis")]
#[doc(inline)]
pub use keylatch_redis as redis;
#[cfg(feature = "sqlite")]
#[doc(inline)]
pub use keylatch_sqlite as sqlite;

pub use engine::{
    CLEANUP_PAUSE, CLEANUP_PAUSE_RANGE, Cleanup, Done, Engine, Error, Identity, Quota, Refused, Resolution, Resolved,
    Resolver, Run, RunError, STEP_BYTES_MAX, STEPS_MAX, StepError,
};
pub use keylatch_core::{
    Body, CACHE_AGE, Clock, Epoch, Fingerprint, Guarantee, InvalidKey, InvalidPolicy, InvalidRecordId, InvalidScope,
    KEY_BYTES_MAX, Key, LEASE, LEASE_MS_MIN, Lease, Limits, Outcome, Policy, RETENTION, Record, RecordId,
    SCOPE_FIELD_BYTES_MAX, Scope, TOMBSTONE, Timestamp,
};
pub use tx::{Tx, Verdict};

// Authors of stores find these in `store`, authors of entry points in `entry_point`. Inside the crate they have short names.
#[cfg(feature = "http")]
use engine::{Answer, Final, Request, RunOrTx};
#[cfg(feature = "http")]
use keylatch_core::Hasher;
use keylatch_core::{Name, Notes, Owner, State, failpoint};
