//! The layer, and what can be chosen of it.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};
use tower_layer::Layer;

use super::answer::Keeping;
use super::body::Pace;
use super::headers::{IDEMPOTENCY_KEY, Kept, NeverKept};
use super::request::KeyFrom;
use super::scope::{ScopeFrom, named_header};
use super::service::Idempotency;
use crate::store::Store;
use crate::tx::Transactional;
use crate::{Engine, Limits, Policy};

/// Makes every request with an `Idempotency-Key` to the services behind it take effect once.
///
/// It has no default for the two things that only the caller knows: what is promised, and who calls.
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
    config: Arc<Config>,
}

#[derive(Debug, Clone)]
pub(super) struct Config {
    pub(super) engine: Engine,
    pub(super) scope: ScopeFrom,
    pub(super) methods: Vec<Method>,
    pub(super) key_from: KeyFrom,
    pub(super) canonical_json: bool,
    pub(super) key_required: bool,
    pub(super) body_bytes_max: usize,
    pub(super) body_pace: Pace,
    pub(super) keeping: Keeping,
    pub(super) fail_open: bool,
}

/// The default limit of a request's body: 2 MiB, as axum's own. It is held in memory while it is hashed.
pub const BODY_BYTES_MAX: usize = 2 << 20;
/// The default of the longest time in which nothing of a request's body may come: longer than a phone needs to find its
/// network again.
pub const BODY_STALL_MAX: Duration = Duration::from_secs(30);
/// The default of the pace that a request's body must keep on average, once [`BODY_STALL_MAX`] has passed. Every link over
/// which people send requests is faster.
pub const BODY_BYTES_PER_SECOND_MIN: u32 = 1_000;
/// The default limit of an answer that is kept: 1 MiB. A larger one is delivered, and recorded as not retained.
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
            methods: vec![Method::POST, Method::PATCH],
            key_from: KeyFrom::Header(IDEMPOTENCY_KEY),
            canonical_json: false,
            key_required: false,
            body_bytes_max: BODY_BYTES_MAX,
            body_pace: Pace { stall_max: BODY_STALL_MAX, bytes_per_second_min: BODY_BYTES_PER_SECOND_MIN },
            keeping: Keeping { kept: Kept::default(), bytes_max: ANSWER_BYTES_MAX, end_max: ANSWER_END_MAX },
            fail_open: false,
        };
        Self { config: Arc::new(config) }
    }

    /// Refuses requests without a key, with 400. Otherwise they pass unguarded.
    pub fn require_key(self) -> Self {
        self.with(|config| config.key_required = true)
    }

    /// Guards these methods instead of POST and PATCH. GET, HEAD, OPTIONS and TRACE have no effect to guard, and
    /// always pass.
    pub fn with_methods(self, methods: impl IntoIterator<Item = Method>) -> Self {
        let guarded = methods.into_iter().filter(|method| !method.is_safe()).collect();
        self.with(|config| config.methods = guarded)
    }

    /// Takes the key from the header `name` instead, for senders that know nothing of `Idempotency-Key`, such as
    /// `X-GitHub-Delivery`.
    ///
    /// # Panics
    ///
    /// If `name` is not the name of a header.
    pub fn with_key_header<N: TryInto<HeaderName>>(self, name: N) -> Self {
        let name = named_header(name);
        self.with(|config| config.key_from = KeyFrom::Header(name))
    }

    /// Takes the key from a JSON body instead: the string or whole number at `pointer`
    /// ([RFC 6901](https://www.rfc-editor.org/rfc/rfc6901)), such as `/id` of an event.
    pub fn with_key_pointer(self, pointer: &str) -> Self {
        self.with(|config| config.key_from = KeyFrom::Pointer(pointer.into()))
    }

    /// Takes two JSON bodies for the same request if they differ only in white space, in the order of names or in the
    /// spelling of numbers. A body that leaves doubt (a name that stands twice, a lone surrogate, a number out of
    /// range, deep nesting) counts by its bytes.
    pub fn with_canonical_json(self) -> Self {
        self.with(|config| config.canonical_json = true)
    }

    /// Refuses request bodies over this many bytes with 413, instead of [`BODY_BYTES_MAX`].
    pub fn with_body_bytes_max(self, bytes_max: usize) -> Self {
        self.with(|config| config.body_bytes_max = bytes_max)
    }

    /// Refuses request bodies that come too slowly with 408, instead of by [`BODY_STALL_MAX`] and
    /// [`BODY_BYTES_PER_SECOND_MIN`]: those of which nothing comes for `stall_max`, and those that are slower than
    /// `bytes_per_second_min` on average once `stall_max` has passed (0 for no such limit).
    ///
    /// A limit of the whole time would refuse a large upload over a slow link, and one of the silence alone would let a
    /// client hold a request for ever, byte by byte. With both a request is read for `stall_max` at the most, and
    /// a second more for each `bytes_per_second_min` that have come.
    pub fn with_body_pace(self, stall_max: Duration, bytes_per_second_min: u32) -> Self {
        self.with(|config| config.body_pace = Pace { stall_max, bytes_per_second_min })
    }

    /// Keeps answers of up to this many bytes, instead of [`ANSWER_BYTES_MAX`].
    pub fn with_answer_bytes_max(self, bytes_max: usize) -> Self {
        self.with(|config| config.keeping.bytes_max = bytes_max)
    }

    /// Keeps answers whose body ends within this time, instead of [`ANSWER_END_MAX`]. In `Atomic` a body must be
    /// there when the handler returns.
    pub fn with_answer_end_max(self, end_max: Duration) -> Self {
        self.with(|config| config.keeping.end_max = end_max)
    }

    /// Keeps the answer's header `name` as well.
    ///
    /// # Errors
    ///
    /// If it must never be kept, as `Set-Cookie`.
    ///
    /// # Panics
    ///
    /// If `name` is not the name of a header.
    pub fn with_kept_header<N: TryInto<HeaderName>>(mut self, name: N) -> Result<Self, NeverKept> {
        Arc::make_mut(&mut self.config).keeping.kept.add(named_header(name))?;
        Ok(self)
    }

    /// Runs requests unguarded while the store is unavailable, instead of refusing them with 503. Such a request may
    /// take effect twice. Its answer carries `Idempotency-Status: bypassed`, and is counted in
    /// `keylatch_bypassed_total`. Where a record is there and cannot be read, it is 503 all the same.
    pub fn fail_open(self) -> Self {
        self.with(|config| config.fail_open = true)
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
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
