//! Keylatch makes a repeated request safe: it takes effect **once** and always gets **the same answer**.
mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
mod engine;
mod failpoint;
mod fingerprint;
#[cfg(feature = "http")]
pub mod http;
mod key;
pub mod machine;
pub mod memory;
mod outcome;
mod policy;
mod record;
mod scope;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod store;
mod time;
pub mod tx;

pub use clock::Clock;
pub use engine::{
    Answer, Done, Ended, Engine, Error, Final, Quota, Ran, Refused, Request, Resolution, Resolved, Resolver, Run,
    RunError, STEP_BYTES_MAX, StepError,
};
pub use fingerprint::{Fingerprint, Hasher};
pub use key::{InvalidKey, KEY_BYTES_MAX, Key};
pub use outcome::{Body, DecodeError, Outcome};
pub use policy::{Guarantee, InvalidPolicy, LEASE, LEASE_MS_MIN, Limits, Policy, RETENTION, TOMBSTONE};
pub use record::{Epoch, Lease, Notes, Owner, Record, RecordId, State};
pub use scope::{InvalidScope, SCOPE_FIELD_BYTES_MAX, Scope};
pub use time::Timestamp;
pub use tx::Tx;
