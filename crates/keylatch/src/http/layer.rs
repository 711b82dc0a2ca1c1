//! The layer, and what can be chosen of it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, Method, Response, StatusCode};
use http_body::Body;
use tower_layer::Layer;

use super::answer::Keeping;
use super::body::Pace;
use super::headers::{IDEMPOTENCY_KEY, Kept, NeverKept};
use super::problem::Problem;
use super::request::{KeyFrom, Taken};
use super::scope::{ScopeFrom, named_header};
use super::service::Idempotency;
use super::unguarded::Unguarded;
use super::words::Words;
use crate::store::Store;
use crate::tx::Transactional;
use crate::{Cleanup, Engine, Fingerprint, Guarantee, Limits, Policy};

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
    pub(super) methods: Methods,
    pub(super) key_from: KeyFrom,
    pub(super) taken: Taken,
    pub(super) counted_headers: Vec<HeaderName>,
    pub(super) fingerprint: Option<FingerprintBy>,
    /// How long a duplicate waits that does not say how long.
    pub(super) wait: Duration,
    /// How long a handler may take to answer.
    pub(super) run_max: Option<Duration>,
    pub(super) key_required: bool,
    pub(super) body_bytes_max: usize,
    pub(super) body_pace: Pace,
    pub(super) keeping: Keeping,
    pub(super) fail_open: bool,
    pub(super) skip_if: Option<SkipIf>,
    pub(super) words: Option<Words>,
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
            },
            fail_open: false,
            skip_if: None,
            words: None,
        };
        Self { config: Arc::new(config) }
    }

    /// Keeps leases and answers as `policy` says. The layer gets a new engine on the same store: ask for
    /// [`engine`](Self::engine) after this.
    ///
    /// # Panics
    ///
    /// If the policy cannot be kept; see [`Policy::check`].
    pub fn with_policy(self, policy: Policy) -> Self {
        self.with(|config| {
            let limits = *config.engine.limits();
            config.engine = config.engine.anew(policy, limits).expect("the policy of a layer can be kept");
        })
    }

    /// Keeps answers for `retention`, and their tombstones for `tombstone` after that, in place of what the policy of the
    /// engine says. Everything else is shared with the other layers of the engine: for a route whose clients retry for
    /// longer, or whose answers should be gone sooner. A [`with_policy`](Self::with_policy) after this takes its place.
    ///
    /// ```
    /// use std::time::Duration;
    /// use keylatch::http::{IdempotencyLayer, ScopeFrom};
    /// use keylatch::{Engine, Limits, Policy};
    ///
    /// const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    /// let engine = Engine::fenced(keylatch::memory::Store::new(), Policy::default(), Limits::default())?;
    /// let orders = IdempotencyLayer::new(engine.clone(), ScopeFrom::header("x-user-id"));
    /// // The queue delivers again for a week.
    /// let webhooks = IdempotencyLayer::new(engine, ScopeFrom::header("x-sender")).with_retention(7 * DAY, 7 * DAY);
    /// # Ok::<(), keylatch::InvalidPolicy>(())
    /// ```
    ///
    /// # Panics
    ///
    /// If the policy cannot be kept with these; see [`Policy::check`].
    pub fn with_retention(self, retention: Duration, tombstone: Duration) -> Self {
        self.with(|config| {
            let engine = config.engine.clone().with_retention(retention, tombstone);
            config.engine = engine.expect("the retention of a layer can be kept");
        })
    }

    /// Has as much of anything as `limits` say. The layer gets a new engine on the same store: ask for
    /// [`engine`](Self::engine) after this.
    pub fn with_limits(self, limits: Limits) -> Self {
        self.with(|config| {
            let policy = *config.engine.policy();
            config.engine = config.engine.anew(policy, limits).expect("its policy was kept before");
        })
    }

    /// Cleans the store in this way, in place of the default [`Cleanup`].
    pub fn with_cleanup(self, cleanup: Cleanup) -> Self {
        self.with(|config| config.engine = config.engine.clone().with_cleanup(cleanup))
    }

    /// Refuses requests without a key, with 400. Otherwise they pass unguarded.
    ///
    /// This is for the methods that the layer guards: POST and PATCH, unless [`with_methods`](Self::with_methods) says
    /// otherwise. A PUT or a DELETE passes without a key. The first that does is named in the log, unless the methods were
    /// chosen.
    pub fn require_key(self) -> Self {
        self.with(|config| config.key_required = true)
    }

    /// Guards these methods instead of POST and PATCH.
    ///
    /// # Panics
    ///
    /// If one of them is GET, HEAD, OPTIONS or TRACE, which have no effect to guard and always pass; or if there is none.
    pub fn with_methods(self, methods: impl IntoIterator<Item = Method>) -> Self {
        let methods = Methods::chosen(methods.into_iter().collect());
        self.with(|config| config.methods = methods)
    }

    /// Lets the requests pass unguarded for which `skip` says so, whether they have a key or not.
    ///
    /// ```
    /// use keylatch::http::{IdempotencyLayer, ScopeFrom};
    ///
    /// let store = keylatch::memory::Store::new();
    /// let layer = IdempotencyLayer::fenced(store, ScopeFrom::header("x-user-id"))
    ///     .require_key()
    ///     .skip_if(|head| head.uri.path() == "/orders/price");
    /// ```
    pub fn skip_if(self, skip: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.with(|config| config.skip_if = Some(SkipIf(Arc::new(skip))))
    }

    /// Answers in your own words where the layer has a [`Problem`] to tell, instead of as `application/problem+json`.
    /// `answer` gets the problem and the head of the request.
    ///
    /// ```
    /// use axum::Json;
    /// use axum::response::IntoResponse;
    /// use keylatch::http::{IdempotencyLayer, ScopeFrom};
    ///
    /// let store = keylatch::memory::Store::new();
    /// let layer = IdempotencyLayer::fenced(store, ScopeFrom::header("x-user-id")).with_problem(|problem, _head| {
    ///     let body = serde_json::json!({ "error": { "code": problem.code(), "message": problem.title() } });
    ///     (problem.status(), Json(body)).into_response()
    /// });
    /// ```
    ///
    /// Headers of our answer that yours does not set are kept, such as `Retry-After` and `Cache-Control: no-store`. The
    /// problem is in the extensions of your answer, as it is in ours. So is that of a handler that asks for what its layer
    /// does not give ([`NotGuarded`](super::NotGuarded)). The head of every request is copied for this.
    ///
    /// The body of your answer must be there at once, as one made of text, bytes or JSON is; otherwise ours is given, and
    /// the log says so.
    pub fn with_problem<B>(self, answer: impl Fn(&Problem, &Parts) -> Response<B> + Send + Sync + 'static) -> Self
    where
        B: Body<Data = Bytes>,
    {
        self.with(|config| config.words = Some(Words::new(answer)))
    }

    /// Lets a duplicate of a running request wait this long for its answer, where it does not say how long by
    /// `Prefer: wait=N`, instead of getting 409 at once. At most [`Limits::wait_max`] counts.
    pub fn with_wait(self, wait: Duration) -> Self {
        self.with(|config| config.wait = wait)
    }

    /// Ends a run whose handler has not answered within this time, from when the key is claimed. Without it there is no
    /// limit, and a handler that never ends holds its key for as long as the process lives.
    ///
    /// The handler is dropped at any point of its work, as by a [time-out inside](crate::manual::layers). In `Atomic` its
    /// writes are taken back and the key is free, and in `Fenced` the same request may run again, with the steps that were
    /// finished: the client gets 500. In `AtMostOnce` the outcome is unknown, and it gets 409. Whoever waits for the
    /// run may run it again. So bound what the handler awaits within the handler, where it knows what has happened, and
    /// let this be the longer time that catches the rest.
    ///
    /// What does not await is not ended: nobody can drop a handler that blocks its thread. On SQLite the part inside a
    /// [`Tx`](crate::Tx) has its own limit, by `with_closure_time_max` of the store's options. The body of an answer has
    /// [`with_answer_end_max`](Self::with_answer_end_max), and a request that passes unguarded has no limit here.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
    /// use std::time::Duration;
    ///
    /// use axum::{Router, body::Body, routing::post};
    /// use http::Request;
    /// use keylatch::http::{IdempotencyLayer, ScopeFrom};
    /// use tower::ServiceExt;
    ///
    /// let layer = IdempotencyLayer::fenced(keylatch::memory::Store::new(), ScopeFrom::header("x-user-id"));
    /// let app = Router::new()
    ///     .route("/orders", post(std::future::pending::<()>))
    ///     .layer(layer.with_run_max(Duration::from_secs(60)));
    /// let request = Request::post("/orders").header("x-user-id", "alice").header("idempotency-key", "k");
    /// let response = app.oneshot(request.body(Body::empty())?).await?;
    /// assert_eq!(response.status(), 500);
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn with_run_max(self, run_max: Duration) -> Self {
        assert!(!run_max.is_zero(), "a handler needs some time to run");
        self.with(|config| config.run_max = Some(run_max))
    }

    /// Frees the key where the handler answers with one of these statuses: nothing is recorded, in `Atomic` the writes are
    /// taken back, and the client may mend its request and send it with the same key. For validation that fails before
    /// anything has happened.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use axum::{Router, body::Body, routing::post};
    /// use http::{Request, StatusCode};
    /// use keylatch::http::{IdempotencyLayer, ScopeFrom};
    /// use tower::ServiceExt;
    ///
    /// async fn order(pieces: String) -> StatusCode {
    ///     if pieces.parse::<u32>().is_ok() { StatusCode::CREATED } else { StatusCode::UNPROCESSABLE_ENTITY }
    /// }
    ///
    /// let layer = IdempotencyLayer::fenced(keylatch::memory::Store::new(), ScopeFrom::header("x-user-id"));
    /// let app = Router::new().route("/orders", post(order)).layer(layer.free_on([400, 422]));
    /// for (pieces, status) in [("two", 422), ("2", 201)] {
    ///     let request = Request::post("/orders").header("x-user-id", "alice").header("idempotency-key", "k");
    ///     let response = app.clone().oneshot(request.body(Body::from(pieces))?).await?;
    ///     assert_eq!(response.status().as_u16(), status);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    ///
    /// It does not count for a run that may have had an effect all the same: one after an earlier attempt, or with a step
    /// that began. For one answer a handler says it by a [`Disposition`](super::Disposition), against this rule too.
    ///
    /// # Panics
    ///
    /// If one is not a status, or is under 400; or, in `AtMostOnce`, if it is 408, 425, 429 or a 5xx: a layer inside may
    /// make these once the handler has started, so only a `Disposition` can say that nothing happened.
    pub fn free_on<T: TryInto<StatusCode>>(self, statuses: impl IntoIterator<Item = T>) -> Self {
        let guarantee = self.config.engine.guarantee();
        let statuses = statuses.into_iter().map(|status| status.try_into().unwrap_or_else(|_| panic!("not a status")));
        let statuses: Vec<StatusCode> = statuses.inspect(|status| check_free(*status, guarantee)).collect();
        self.with(|config| config.keeping.free_on = statuses)
    }

    /// Counts the request's header `name` as part of the request: with another value it is another request.
    ///
    /// # Panics
    ///
    /// If `name` is not the name of a header.
    pub fn with_counted_header<N: TryInto<HeaderName>>(self, name: N) -> Self {
        let name = named_header(name);
        self.with(|config| config.counted_headers.push(name))
    }

    /// Takes what `fingerprint` makes of a request's head and body for what makes it the same request, instead of method,
    /// path, query, content type, content encoding and body. What it leaves out may differ between two tries, such as a
    /// time stamp.
    ///
    /// Two requests with one key and one fingerprint are one request: the second gets the answer of the first. So leave
    /// nothing out that changes what the handler does.
    ///
    /// ```
    /// use keylatch::Fingerprint;
    /// use keylatch::http::{IdempotencyLayer, ScopeFrom};
    ///
    /// let store = keylatch::memory::Store::new();
    /// let layer = IdempotencyLayer::fenced(store, ScopeFrom::header("x-user-id")).with_fingerprint(|head, body| {
    ///     // The query has a time stamp, which does not count.
    ///     Fingerprint::of([head.method.as_str().as_bytes(), head.uri.path().as_bytes(), body])
    /// });
    /// ```
    pub fn with_fingerprint(self, fingerprint: impl Fn(&Parts, &[u8]) -> Fingerprint + Send + Sync + 'static) -> Self {
        self.with(|config| config.fingerprint = Some(FingerprintBy(Arc::new(fingerprint))))
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
        self.with(|config| config.taken.canonical_json = true)
    }

    /// Takes two multipart bodies, such as forms with files, for the same request if they differ only in their boundary.
    /// A client that builds its form anew for each try chooses another one each time.
    ///
    /// Each part counts in its order, with every byte of its headers and its content, and so does the content type
    /// without the boundary. A body that leaves doubt counts by its bytes: one with text before the first part or after
    /// the last, a part without headers, white space behind a boundary, line ends other than CRLF, or a `Content-Encoding`.
    /// So does the boundary of a multipart body within a part.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use axum::{Router, body::Body, routing::post};
    /// use http::Request;
    /// use keylatch::http::{IDEMPOTENT_REPLAYED, IdempotencyLayer, ScopeFrom};
    /// use tower::ServiceExt;
    ///
    /// let layer = IdempotencyLayer::fenced(keylatch::memory::Store::new(), ScopeFrom::header("x-user-id"));
    /// let app = Router::new().route("/photos", post(|| async { "kept" })).layer(layer.with_multipart_parts());
    /// for (boundary, replayed) in [("a1", false), ("b2", true)] {
    ///     let part = "Content-Disposition: form-data; name=\"title\"\r\n\r\nThe sea";
    ///     let request = Request::post("/photos").header("x-user-id", "alice").header("idempotency-key", "k");
    ///     let request = request.header("content-type", format!("multipart/form-data; boundary={boundary}"));
    ///     let body = Body::from(format!("--{boundary}\r\n{part}\r\n--{boundary}--\r\n"));
    ///     let response = app.clone().oneshot(request.body(body)?).await?;
    ///     assert_eq!(response.headers().contains_key(IDEMPOTENT_REPLAYED), replayed);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    pub fn with_multipart_parts(self) -> Self {
        self.with(|config| config.taken.multipart_parts = true)
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

    /// The engine behind the layer: to sweep, to resolve unknown outcomes, to shut down.
    pub fn engine(&self) -> &Engine {
        &self.config.engine
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }
}

impl Config {
    /// Why a request with this head passes unguarded; `None` if it does not, as far as its head tells.
    pub(super) fn passes(&self, head: &Parts) -> Option<Unguarded> {
        if !self.methods.guards(&head.method) {
            if self.key_required {
                self.methods.name_unguarded(&head.method);
            }
            return Some(Unguarded::Method(head.method.clone()));
        }
        if self.skip_if.as_ref().is_some_and(|skip| skip.skips(head)) {
            return Some(Unguarded::Skipped);
        }
        let keyed = self.key_required || self.key_from.may_be_in(&head.headers);
        (!keyed).then_some(Unguarded::NoKey)
    }
}

/// The methods that are guarded.
#[derive(Debug, Clone)]
pub(super) struct Methods {
    guarded: Vec<Method>,
    /// Whether the log has named one that passes although a key is required; so it has from the start where the methods
    /// were chosen.
    named: Arc<AtomicBool>,
}

impl Default for Methods {
    fn default() -> Self {
        Self { guarded: vec![Method::POST, Method::PATCH], named: Arc::default() }
    }
}

impl Methods {
    fn chosen(guarded: Vec<Method>) -> Self {
        assert!(!guarded.is_empty(), "`with_methods` needs a method to guard");
        for method in &guarded {
            assert!(
                !method.is_safe(),
                "{method} has no effect to guard: leave it out of `with_methods`, and it passes"
            );
        }
        Self { guarded, named: Arc::new(AtomicBool::new(true)) }
    }

    pub(super) fn guards(&self, method: &Method) -> bool {
        self.guarded.contains(method)
    }

    /// Names `method` in the log, which passes although the layer requires a key: once, for it may be on purpose.
    pub(super) fn name_unguarded(&self, method: &Method) {
        if !method.is_safe() && !self.named.load(Ordering::Relaxed) && !self.named.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %method,
                "a request passes without a key, although the layer requires one: it guards POST and PATCH; choose the \
                 methods by `with_methods`"
            );
        }
    }
}

/// Refuses a rule that would free the key of a request which may have had its effect.
fn check_free(status: StatusCode, guarantee: Guarantee) {
    assert!(status.as_u16() >= 400, "{status} tells of an effect, so it cannot free the key");
    let of_layers = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
    let may_have_started = status.is_server_error() || of_layers.contains(&status);
    assert!(
        guarantee != Guarantee::AtMostOnce || !may_have_started,
        "in `AtMostOnce` {status} cannot free the key: a layer inside may make it once the handler has started; \
         let the handler say so by `Disposition::Free`"
    );
}

/// What makes a request the same request.
#[derive(Clone)]
pub(super) struct FingerprintBy(Arc<Sameness>);

type Sameness = dyn Fn(&Parts, &[u8]) -> Fingerprint + Send + Sync;

impl FingerprintBy {
    pub(super) fn fingerprint(&self, head: &Parts, body: &[u8]) -> Fingerprint {
        (self.0)(head, body)
    }
}

impl fmt::Debug for FingerprintBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FingerprintBy")
    }
}

/// Which requests pass unguarded.
#[derive(Clone)]
pub(super) struct SkipIf(Arc<dyn Fn(&Parts) -> bool + Send + Sync>);

impl SkipIf {
    pub(super) fn skips(&self, head: &Parts) -> bool {
        (self.0)(head)
    }
}

impl fmt::Debug for SkipIf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SkipIf")
    }
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = Idempotency<S>;

    fn layer(&self, inner: S) -> Idempotency<S> {
        Idempotency::new(self.config.clone(), inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use parking_lot::Mutex;

    use super::*;

    /// What is logged while `work` runs.
    fn logged(work: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Log(Arc<Mutex<Vec<u8>>>);

        impl io::Write for Log {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().extend_from_slice(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
        tracing::subscriber::with_default(subscriber, work);
        String::from_utf8(log.0.lock().clone()).expect("a log is text")
    }

    #[test]
    fn a_method_that_passes_a_layer_that_requires_a_key_is_named_once() {
        let layer = || IdempotencyLayer::fenced(crate::memory::Store::new(), ScopeFrom::header("x-user-id"));
        let (post, put) = (Method::POST, Method::PUT);
        let pass = |layer: &IdempotencyLayer, methods: &[&Method]| {
            logged(|| {
                for method in methods {
                    let (head, ()) = http::Request::builder().method(*method).body(()).expect("a request").into_parts();
                    let _ = layer.config.passes(&head);
                }
            })
        };
        let required = layer().require_key();
        assert_eq!(pass(&required, &[&Method::GET, &post]), "");
        let log = pass(&required, &[&put, &put, &Method::DELETE]);
        assert!(log.contains("PUT") && log.contains("with_methods") && log.lines().count() == 1, "{log}");
        assert_eq!(pass(&layer(), &[&put]), "", "no key is required");
        assert_eq!(pass(&layer().require_key().with_methods([post]), &[&put]), "", "the methods were chosen");
    }
}
