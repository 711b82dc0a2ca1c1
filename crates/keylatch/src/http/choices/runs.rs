//! How long a run may take, what is kept of its answer, and what the layer answers itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, Response, StatusCode};
use http_body::Body;

use crate::http::headers::NeverKept;
use crate::http::layer::IdempotencyLayer;
use crate::http::problem::Problem;
use crate::http::scope::named_header;
use crate::http::words::Words;
use crate::recent::Recent;
use crate::{Cleanup, Guarantee, Limits, Policy};

impl IdempotencyLayer {
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

    /// Keeps answers for `retention`, and their tombstones for `tombstone` after that, instead of the times in the
    /// engine's policy. Everything else is shared with the other layers of the engine. This is for a route whose
    /// clients retry for longer, or whose answers should be removed sooner. A later [`with_policy`](Self::with_policy)
    /// replaces it.
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

    /// Sets the limits. The layer gets a new engine on the same store: ask for [`engine`](Self::engine) after this.
    pub fn with_limits(self, limits: Limits) -> Self {
        self.with(|config| {
            let policy = *config.engine.policy();
            config.engine = config.engine.anew(policy, limits).expect("its policy was kept before");
        })
    }

    /// Cleans the store in this way, instead of the default [`Cleanup`].
    pub fn with_cleanup(self, cleanup: Cleanup) -> Self {
        self.with(|config| config.engine = config.engine.clone().with_cleanup(cleanup))
    }

    /// Remembers in `recent` what comes of the requests, and which part of a request differed that was refused; see
    /// [`Engine::with_recent`](crate::Engine::with_recent).
    pub fn with_recent(self, recent: Recent) -> Self {
        self.with(|config| config.engine = config.engine.clone().with_recent(recent))
    }

    /// Lets a duplicate of a running request wait this long for its answer, instead of getting 409 at once, if it does
    /// not ask for another time with `Prefer: wait=N`. [`Limits::wait_max`] is the longest wait.
    pub fn with_wait(self, wait: Duration) -> Self {
        self.with(|config| config.wait = wait)
    }

    /// Ends a run whose handler has not answered within this time, from when the key is claimed. Without it there is no
    /// limit, and a handler that never ends holds its key for as long as the process lives.
    ///
    /// The handler is dropped at any point of its work, as by a [time-out inside](crate::manual::layers). In `Atomic`
    /// its writes are rolled back and the key is free, and in `Fenced` the same request may run again, with the steps
    /// that were finished: the client gets 500. In `AtMostOnce` the outcome is unknown, and the client gets 409. A
    /// request that waits for the run may run again. So limit what the handler awaits inside the handler, where it
    /// knows what has happened, and set this to a longer time, as a last resort.
    ///
    /// A handler that blocks its thread, and does not await, cannot be ended. On SQLite the part inside a
    /// [`Tx`](crate::Tx) has its own limit, `with_closure_time_max` of the store's options. The limit on the body of an
    /// answer is [`with_answer_end_max`](Self::with_answer_end_max). A request that passes unguarded has no limit.
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

    /// Frees the key if the handler answers with one of these statuses: nothing is recorded, in `Atomic` the writes are
    /// rolled back, and the client may correct its request and send it with the same key. For validation that fails
    /// before anything has happened.
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
    /// It does not apply to a run that may still have had an effect: one after an earlier attempt, or one in which a
    /// step began. A handler can override this rule for one answer with a [`Disposition`](crate::http::Disposition).
    ///
    /// # Panics
    ///
    /// If one is not a status, or is under 400; or, in `AtMostOnce`, if it is 408, 425, 429 or a 5xx: an inner layer
    /// may answer with these after the handler has started, so only a `Disposition` can say that nothing happened.
    pub fn free_on<T: TryInto<StatusCode>>(self, statuses: impl IntoIterator<Item = T>) -> Self {
        let guarantee = self.config.engine.guarantee();
        let statuses = statuses.into_iter().map(|status| status.try_into().unwrap_or_else(|_| panic!("not a status")));
        let statuses: Vec<StatusCode> = statuses.inspect(|status| check_free(*status, guarantee)).collect();
        self.with(|config| config.keeping.free_on = statuses)
    }

    /// Lets the service inside say what is to become of its answer's record, like a
    /// [`Disposition`](crate::http::Disposition), in the header
    /// [`Idempotency-Disposition`](crate::http::IDEMPOTENCY_DISPOSITION) of its answer. For a service behind a proxy,
    /// in any language. Without this the header is removed and ignored.
    ///
    /// | value | meaning |
    /// |---|---|
    /// | `record` | this is the answer, whatever its status |
    /// | `retry` | it failed, and the same request may run again |
    /// | `free` | it did not happen, in this attempt or an earlier one: the key is free for any request |
    /// | `unknown` | it is not known whether it happened: the request does not run again until it is resolved |
    ///
    /// The value is not case-sensitive. A `Disposition` in the extensions takes precedence. Any other value, or more
    /// than one line, is logged as an error: then the rule for the status applies, without [`free_on`](Self::free_on).
    /// The header never reaches a client.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use axum::{Router, body::Body, routing::post};
    /// use http::Request;
    /// use keylatch::http::{IDEMPOTENCY_DISPOSITION, IdempotencyLayer, ScopeFrom};
    /// use tower::ServiceExt;
    ///
    /// let layer = IdempotencyLayer::at_most_once(keylatch::memory::Store::new(), ScopeFrom::header("x-user-id"));
    /// // It stands for a proxy in front of a service that has no paper, and says so.
    /// let upstream = post(|| async { ([(IDEMPOTENCY_DISPOSITION, "free")], "no paper") });
    /// let app = Router::new().route("/letters", upstream).layer(layer.trust_disposition_header());
    /// for _ in 0..2 {
    ///     let request = Request::post("/letters").header("x-user-id", "alice").header("idempotency-key", "k");
    ///     let response = app.clone().oneshot(request.body(Body::empty())?).await?;
    ///     assert_eq!(response.status(), 200); // it ran twice
    ///     assert!(!response.headers().contains_key(IDEMPOTENCY_DISPOSITION));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    pub fn trust_disposition_header(self) -> Self {
        self.with(|config| config.keeping.header_trusted = true)
    }

    /// Keeps answers of up to this many bytes, instead of [`ANSWER_BYTES_MAX`](crate::http::ANSWER_BYTES_MAX).
    pub fn with_answer_bytes_max(self, bytes_max: usize) -> Self {
        self.with(|config| config.keeping.bytes_max = bytes_max)
    }

    /// Keeps answers whose body ends within this time, instead of [`ANSWER_END_MAX`](crate::http::ANSWER_END_MAX). In
    /// `Atomic` a body must be complete when the handler returns.
    pub fn with_answer_end_max(self, end_max: Duration) -> Self {
        self.with(|config| config.keeping.end_max = end_max)
    }

    /// Keeps the answer's header `name` as well.
    ///
    /// # Errors
    ///
    /// If it cannot be kept, like `Set-Cookie`.
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
    /// `keylatch_bypassed_total`. If a record exists but cannot be read, the answer is still 503.
    pub fn fail_open(self) -> Self {
        self.with(|config| config.fail_open = true)
    }

    /// Answers in your own format when the layer reports a [`Problem`], instead of as `application/problem+json`.
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
    /// Headers of Keylatch's answer that yours does not set are kept, such as `Retry-After` and
    /// `Cache-Control: no-store`. The problem is in the extensions of your answer, as it would be in Keylatch's. This
    /// includes the problem of a handler that asks for something that its layer does not provide
    /// ([`NotGuarded`](crate::http::NotGuarded)). The head of every request is copied for this.
    ///
    /// The body of your answer must be complete at once, like one made of text, bytes or JSON. Otherwise Keylatch's
    /// answer is sent, and the log says so.
    pub fn with_problem<B>(self, answer: impl Fn(&Problem, &Parts) -> Response<B> + Send + Sync + 'static) -> Self
    where
        B: Body<Data = Bytes>,
    {
        self.with(|config| config.words = Some(Words::new(answer)))
    }
}

/// Refuses a rule that would free the key of a request that may have had an effect.
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
