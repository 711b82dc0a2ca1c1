//! What Keylatch's engine and its stores agree on.
//!
//! Services use the crate [`keylatch`](https://docs.rs/keylatch), which exports all of this. This crate is for authors
//! of stores: it has the contract, everything that a store needs to implement it, and the suites that test it.
//!
//! | module | what is in it |
//! |---|---|
//! | [`machine`] | all the semantics, pure: what a request gets, and what a store writes |
//! | [`store`] | the contract of a store, and what its author needs |
//! | [`tx`] | the contract of a store whose transactions handlers can write in: `Atomic` |
//! | [`inbox`] | the contract of a store that keeps a consumer's place in a log, and applies its messages |
//! | [`outbox`] | the contract of a store that keeps events to be published |
//! | [`memory`] | the reference: a store in this process |
//! | `conformance` | the suites that every store passes (feature `conformance`) |
//! | `packed` | outcomes compressed with zstd (feature `compress`) |
//! | `propagation` | the caller's trace, in requests and events (feature `opentelemetry`) |
//! | [`Key`], [`Scope`], [`Fingerprint`], [`Record`], [`Outcome`] | the terms, as types |

mod cache;
mod canonical;
mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
#[doc(hidden)]
pub mod failpoint;
mod fingerprint;
pub mod inbox;
mod key;
pub mod machine;
pub mod memory;
pub mod outbox;
mod outcome;
#[cfg(feature = "compress")]
pub mod packed;
mod policy;
#[cfg(feature = "opentelemetry")]
pub mod propagation;
mod record;
mod scope;
pub mod store;
mod time;
#[doc(hidden)]
pub mod traceparent;
pub mod tx;

pub use cache::Cache;
#[doc(hidden)]
pub use canonical::canonical;
pub use clock::Clock;
pub use fingerprint::{Fingerprint, Hasher};
pub use key::{InvalidKey, KEY_BYTES_MAX, Key, REGION_BYTES_MAX, is_region};
pub use outcome::{Body, DecodeError, Outcome};
pub use policy::{CACHE_AGE, Guarantee, InvalidPolicy, LEASE, LEASE_MS_MIN, Limits, Policy, RETENTION, TOMBSTONE};
pub use record::{Epoch, InvalidRecordId, Lease, Name, Notes, Owner, Record, RecordId, State};
pub use scope::{InvalidScope, SCOPE_FIELD_BYTES_MAX, Scope};
pub use time::Timestamp;
