//! Which requests are guarded, where their key is, what identifies a request, and how much of a body is read.

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderName, Method};

use crate::http::body::Pace;
use crate::http::config::{FingerprintBy, Methods, SkipIf};
use crate::http::layer::IdempotencyLayer;
use crate::http::request::KeyFrom;
use crate::http::scope::named_header;
use crate::http::upstream::UpstreamKey;
use crate::{Fingerprint, Guarantee};

impl IdempotencyLayer {
    /// Refuses requests without a key, with 400. Otherwise they pass unguarded.
    ///
    /// This applies to the methods that the layer guards: POST and PATCH, unless [`with_methods`](Self::with_methods)
    /// says otherwise. A PUT or a DELETE passes without a key. The first one is logged, unless the methods were chosen.
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

    /// Lets requests pass unguarded if `skip` returns `true`, whether they have a key or not.
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

    /// Makes the header `name` part of the fingerprint: a request with another value is a different request.
    ///
    /// # Panics
    ///
    /// If `name` is not the name of a header.
    pub fn with_counted_header<N: TryInto<HeaderName>>(self, name: N) -> Self {
        let name = named_header(name);
        self.with(|config| config.counted_headers.push(name))
    }

    /// Identifies a request by what `fingerprint` makes of its head and body, instead of by method, path, query,
    /// content type, content encoding and body. What it leaves out, such as a time stamp, may differ between two tries.
    ///
    /// Two requests with one key and one fingerprint are one request: the second gets the answer of the first. So do
    /// not leave out anything that changes what the handler does.
    ///
    /// ```
    /// use keylatch::Fingerprint;
    /// use keylatch::http::{IdempotencyLayer, ScopeFrom};
    ///
    /// let store = keylatch::memory::Store::new();
    /// let layer = IdempotencyLayer::fenced(store, ScopeFrom::header("x-user-id")).with_fingerprint(|head, body| {
    ///     // The query has a time stamp, which is ignored.
    ///     Fingerprint::of([head.method.as_str().as_bytes(), head.uri.path().as_bytes(), body])
    /// });
    /// ```
    pub fn with_fingerprint(self, fingerprint: impl Fn(&Parts, &[u8]) -> Fingerprint + Send + Sync + 'static) -> Self {
        self.with(|config| config.fingerprint = Some(FingerprintBy(Arc::new(fingerprint))))
    }

    /// Treats two JSON bodies as the same request if they differ only in white space, in the order of names or in the
    /// spelling of numbers. An ambiguous body (a duplicate name, a lone surrogate, a number out of range, deep nesting)
    /// is compared by its bytes.
    pub fn with_canonical_json(self) -> Self {
        self.with(|config| config.taken.canonical_json = true)
    }

    /// Treats two multipart bodies, such as forms with files, as the same request if they differ only in their
    /// boundary. A client that builds its form anew for each try chooses another one each time.
    ///
    /// The parts are compared in their order, with every byte of their headers and content, and so is the content type
    /// without the boundary. An ambiguous body is compared by its bytes: one with text before the first part or after
    /// the last, a part without headers, white space after a boundary, line ends other than CRLF, or a
    /// `Content-Encoding`. The boundary of a multipart body within a part is compared, too.
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

    /// Refuses request bodies over this many bytes with 413, instead of
    /// [`BODY_BYTES_MAX`](crate::http::BODY_BYTES_MAX).
    pub fn with_body_bytes_max(self, bytes_max: usize) -> Self {
        self.with(|config| config.body_bytes_max = bytes_max)
    }

    /// Sets when a request body arrives too slowly and is refused with 408, instead of
    /// [`BODY_STALL_MAX`](crate::http::BODY_STALL_MAX) and
    /// [`BODY_BYTES_PER_SECOND_MIN`](crate::http::BODY_BYTES_PER_SECOND_MIN): when no data arrives for `stall_max`, or
    /// when it is slower than `bytes_per_second_min` on average once `stall_max` has passed (0 for no such limit).
    ///
    /// A limit on the whole time would refuse a large upload over a slow link, and a limit on pauses alone would let a
    /// client hold a request for ever, byte by byte. With both, a request is read for at most `stall_max`, and a second
    /// more for each `bytes_per_second_min` bytes that have arrived.
    pub fn with_body_pace(self, stall_max: Duration, bytes_per_second_min: u32) -> Self {
        self.with(|config| config.body_pace = Pace { stall_max, bytes_per_second_min })
    }

    /// Passes every request on, and counts what the layer would have answered itself. It shows what a layer would do to
    /// a service before the layer does it.
    ///
    /// It claims and records as any other layer does. The request that wins its key is the run of the key: its answer
    /// is recorded by the [same rules](crate::manual::statuses), and passes unchanged, without `Idempotency-Expires`
    /// and without [upstream headers](Self::with_upstream_headers). A request that would have been replayed or refused
    /// runs as well, at once, without waiting and without a record: the record stays that of the first run, whatever
    /// the second one answers. The layer does not end a run by [`with_run_max`](Self::with_run_max), and requests pass
    /// while the store is unavailable. [`manual::layers`](crate::manual::layers#a-layer-that-observes) has the details.
    ///
    /// The answers that the layer would have given are counted in `keylatch_observed_total`, and logged with the
    /// identity of the record. When the layer stops observing, it replays what was recorded meanwhile.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use axum::{Router, body::Body, routing::post};
    /// use http::Request;
    /// use keylatch::http::{IDEMPOTENT_REPLAYED, IdempotencyLayer, ScopeFrom};
    /// use tower::ServiceExt;
    ///
    /// let layer = IdempotencyLayer::fenced(keylatch::memory::Store::new(), ScopeFrom::header("x-user-id"));
    /// let app = Router::new().route("/orders", post(|| async { "made" })).layer(layer.observe());
    /// for _ in 0..2 {
    ///     let request = Request::post("/orders").header("x-user-id", "alice").header("idempotency-key", "k");
    ///     let response = app.clone().oneshot(request.body(Body::empty())?).await?;
    ///     assert!(!response.headers().contains_key(IDEMPOTENT_REPLAYED)); // it ran twice
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    ///
    /// # Panics
    ///
    /// In `Atomic`, whose handlers cannot run without their transaction.
    pub fn observe(self) -> Self {
        let guarantee = self.config.engine.guarantee();
        assert!(guarantee != Guarantee::Atomic, "a layer cannot observe in `Atomic`: a handler needs its `Tx` to run");
        self.with(|config| config.observe = true)
    }

    /// Describes its run to the service inside in request headers, which a proxy passes on. For a service that cannot
    /// use the extractors.
    ///
    /// | header | what |
    /// |---|---|
    /// | [`Idempotency-Epoch`](crate::http::IDEMPOTENCY_EPOCH) | [`Run::epoch`](crate::Run::epoch) |
    /// | [`Idempotency-Attempt`](crate::http::IDEMPOTENCY_ATTEMPT) | [`Run::attempt`](crate::Run::attempt) |
    /// | [`Idempotency-Derived-Key`](crate::http::IDEMPOTENCY_DERIVED_KEY) | [`Run::key_for("upstream")`](crate::Run::key_for): the same on every attempt of a request, different for every other request |
    /// | [`Idempotency-Key`](crate::http::IDEMPOTENCY_KEY) | as `key` says |
    ///
    /// A request that runs without a record, because the route [fails open](Self::fail_open), has only the derived key.
    /// A request that passes unguarded has none of them, and no `Idempotency-Key` either unless `key` is the received
    /// one. What a client sends under the first three names never arrives, and a client cannot have these headers
    /// removed on the way by naming them in `Connection`.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use bytes::Bytes;
    /// use http::{Request, Response};
    /// use http_body_util::Full;
    /// use keylatch::http::{IdempotencyLayer, ScopeFrom, UpstreamKey};
    /// use tower::{Layer, ServiceExt};
    ///
    /// let layer = IdempotencyLayer::fenced(keylatch::memory::Store::new(), ScopeFrom::header("x-user-id"));
    /// let service = layer.with_upstream_headers(UpstreamKey::Derived).layer(tower::service_fn(|request: Request<_>| async move {
    ///     let headers = request.headers();
    ///     assert_eq!(headers["idempotency-epoch"], "1");
    ///     assert_eq!(headers["idempotency-key"], headers["idempotency-derived-key"]);
    ///     Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::default()))
    /// }));
    /// let request = Request::post("/orders").header("x-user-id", "alice").header("idempotency-key", "k");
    /// service.oneshot(request.body(Full::<Bytes>::default())?).await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    ///
    /// # Panics
    ///
    /// In `Atomic`, which has neither epoch nor derived key.
    pub fn with_upstream_headers(self, key: UpstreamKey) -> Self {
        let guarantee = self.config.engine.guarantee();
        assert!(guarantee != Guarantee::Atomic, "`Atomic` has neither epoch nor derived key to tell");
        self.with(|config| config.upstream = Some(key))
    }
}
