//! The layer: how it is made.

use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::answer::Keeping;
use super::body::Pace;
use super::config::{Config, Methods};
use super::headers::{IDEMPOTENCY_KEY, Kept};
use super::request::{KeyFrom, Taken};
use super::scope::ScopeFrom;
use super::service::Idempotency;
use crate::store::Store;
use crate::tx::Transactional;
use crate::{Engine, Limits, Policy};

/// Makes every request with an `Idempotency-Key` to the services behind it take effect once.
///
/// Two things have no default, because only the service knows them: the guarantee, and who calls.
///
/// ```
/// use keylatch::http::{IdempotencyLayer, ScopeFrom};
///
/// let store = keylatch::memory::Store::new();
/// let layer = IdempotencyLayer::fenced(store, ScopeFrom::header("x-user-id")).require_key();
/// ```
///
/// Without a scope it does not compile:
///
/// ```compile_fail,E0061
/// # use keylatch::http::{IdempotencyLayer, ScopeFrom};
/// # let store = keylatch::memory::Store::new();
/// let layer = IdempotencyLayer::fenced(store).require_key();
/// ```
///
/// Nor does `Atomic` on a store without transactions, such as the memory store:
///
/// ```compile_fail,E0277
/// # use keylatch::http::{IdempotencyLayer, ScopeFrom};
/// # let store = keylatch::memory::Store::new();
/// let layer = IdempotencyLayer::atomic(store, ScopeFrom::header("x-user-id")).require_key();
/// ```
#[derive(Debug, Clone)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct IdempotencyLayer {
    pub(super) config: Arc<Config>,
}

/// The default limit on a request's body: 2 MiB, as in axum. The body is held in memory while it is hashed.
pub const BODY_BYTES_MAX: usize = 2 << 20;
/// The default for the longest pause in a request's body: longer than a phone needs to find its network again.
pub const BODY_STALL_MAX: Duration = Duration::from_secs(30);
/// The default for the average pace of a request's body, once [`BODY_STALL_MAX`] has passed. Any usable link is faster.
pub const BODY_BYTES_PER_SECOND_MIN: u32 = 1_000;
/// The default limit on a kept answer: 1 MiB. A larger answer is delivered, and recorded as not retained.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;
/// The default time in which an answer's body must end to be kept, outside `Atomic`.
pub const ANSWER_END_MAX: Duration = Duration::from_secs(5);

impl IdempotencyLayer {
    /// Exactly once: claim, the handler's writes through its [`Tx`](crate::Tx), and the answer are one transaction of
    /// `store`'s database.
    pub fn atomic<S: Transactional>(store: S, scope: ScopeFrom) -> Self {
        let engine = Engine::atomic(store, Policy::default(), Limits::default());
        Self::new(engine.expect("the default policy can be kept"), scope)
    }

    /// A lease with an epoch: after a crash a retry runs again, with what its handler gets from [`Run`](crate::Run).
    pub fn fenced<S: Store>(store: S, scope: ScopeFrom) -> Self {
        let engine = Engine::fenced(store, Policy::default(), Limits::default());
        Self::new(engine.expect("the default policy can be kept"), scope)
    }

    /// Never twice: after a crash the outcome is unknown until someone resolves it.
    pub fn at_most_once<S: Store>(store: S, scope: ScopeFrom) -> Self {
        let engine = Engine::at_most_once(store, Policy::default(), Limits::default());
        Self::new(engine.expect("the default policy can be kept"), scope)
    }

    /// The guarantee, policy and limits of `engine`, which other layers may share.
    pub fn new(engine: Engine, scope: ScopeFrom) -> Self {
        let config = Config {
            engine,
            scope,
            methods: Methods::default(),
            key_from: KeyFrom::Header(IDEMPOTENCY_KEY),
            taken: Taken::default(),
            counted_headers: Vec::new(),
            fingerprint: None,
            wait: Duration::ZERO,
            run_max: None,
            key_required: false,
            body_bytes_max: BODY_BYTES_MAX,
            body_pace: Pace { stall_max: BODY_STALL_MAX, bytes_per_second_min: BODY_BYTES_PER_SECOND_MIN },
            keeping: Keeping {
                kept: Kept::default(),
                free_on: Vec::new(),
                bytes_max: ANSWER_BYTES_MAX,
                end_max: ANSWER_END_MAX,
                header_trusted: false,
            },
            fail_open: false,
            skip_if: None,
            words: None,
            upstream: None,
            observe: false,
            regions: None,
        };
        Self { config: Arc::new(config) }
    }

    /// The engine behind the layer: to sweep, to resolve unknown outcomes, to shut down.
    pub fn engine(&self) -> &Engine {
        &self.config.engine
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = Idempotency<S>;

    fn layer(&self, inner: S) -> Idempotency<S> {
        Idempotency::new(self.config.clone(), inner)
    }
}
