//! Which requests are guarded, where their key stands, what makes two of them the same, and how much of them is read.

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

    /// Passes every request on, and counts what it would have answered by itself: to see what a layer would do to a service
    /// before it does it.
    ///
    /// It claims and records as any other layer does. The request that wins its key is the run of the key: its answer is
    /// recorded by the [same rules](crate::manual::statuses), and passes as it is, without `Idempotency-Expires` and without
    /// [upstream headers](Self::with_upstream_headers). A request that would have been replayed or refused runs as well, at
    /// once, without waiting and without a record: the record stays that of the first run, whatever the second one
    /// answers. Nor does the layer end a run by [`with_run_max`](Self::with_run_max), and while the store is unavailable
    /// requests pass. [`manual::layers`](crate::manual::layers#a-layer-that-observes) has the details.
    ///
    /// What would have been is counted in `keylatch_observed_total`, and logged with the identity of the record. A layer
    /// that observes no longer answers with what was recorded meanwhile.
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

    /// Tells the service inside of its run by request headers, where it cannot use the extractors: a proxy hands them on.
    ///
    /// | header | what |
    /// |---|---|
    /// | [`Idempotency-Epoch`](crate::http::IDEMPOTENCY_EPOCH) | [`Run::epoch`](crate::Run::epoch) |
    /// | [`Idempotency-Attempt`](crate::http::IDEMPOTENCY_ATTEMPT) | [`Run::attempt`](crate::Run::attempt) |
    /// | [`Idempotency-Derived-Key`](crate::http::IDEMPOTENCY_DERIVED_KEY) | [`Run::key_for("upstream")`](crate::Run::key_for): the same on every attempt of a request, another for every other |
    /// | [`Idempotency-Key`](crate::http::IDEMPOTENCY_KEY) | as `key` says |
    ///
    /// A request that runs without a record, because the route [fails open](Self::fail_open), has the derived key alone.
    /// One that passes unguarded has none of them, and no `Idempotency-Key` either unless it is to be the one received.
    /// What a client sends under the first three names never arrives, nor can it have them removed on the way by naming them
    /// in `Connection`.
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
