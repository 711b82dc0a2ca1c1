//! What the author of an entry point needs.
//!
//! Entry points lead to an [`Engine`](crate::Engine): [`http`](crate::http) is one, [`Engine::run`](crate::Engine::run)
//! is another. An entry point for something else, such as a queue or a gateway, builds a [`Request`], passes the work
//! to [`Engine::answer`](crate::Engine::answer), and turns the [`Answer`] into what its caller understands.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use std::time::Duration;
//!
//! use keylatch::entry_point::{Answer, RunOrTx, Hasher, Request};
//! use keylatch::tx::Verdict;
//! use keylatch::{Engine, Key, Limits, Outcome, Policy, Scope};
//!
//! let engine = Engine::fenced(keylatch::memory::Store::new(), Policy::default(), Limits::default())?;
//! let mut hasher = Hasher::default();
//! hasher.field(b"the bytes of the message");
//! let request = Request {
//!     scope: Scope::new("orders")?,
//!     key: Key::new("message-7")?,
//!     fingerprint: hasher.finish(),
//!     wait: Duration::ZERO,
//! };
//! for again in [false, true] {
//!     let work = |given: RunOrTx| async move {
//!         let run = given.run().expect("`Fenced` hands out runs");
//!         (Verdict::Keep(Outcome::bytes(format!("attempt {}", run.attempt()))), ())
//!     };
//!     let answer = engine.answer(request.clone(), work).await?;
//!     assert_eq!(matches!(answer, Answer::Replayed(_)), again);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

pub use crate::engine::{Answer, Final, Ran, Request, RunOrTx};
pub use keylatch_core::Hasher;
#[cfg(feature = "opentelemetry")]
pub use keylatch_core::propagation;
