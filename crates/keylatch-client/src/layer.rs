//! Retries as a tower layer, and the options that all clients share.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use keylatch_core::{Clock, Key};
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use crate::bound::Bound;
use crate::call::{Shared, call, random};
use crate::event::Observer;
use crate::policy::{InvalidPolicy, RetryBudget};
use crate::{Answer, BoxError, Error, Event, Journal, Policy, Profile};

/// How a client behaves.
#[derive(Clone, Default)]
pub struct Options {
    profile: Option<Profile>,
    policy: Policy,
    journal: Option<Arc<dyn Journal>>,
    observer: Option<Observer>,
    clock: Clock,
}

impl Options {
    /// The rules of the server. [`Profile::DRAFT`] by default.
    #[must_use]
    pub fn with_profile(self, profile: Profile) -> Self {
        Self { profile: Some(profile), ..self }
    }

    /// The limits.
    #[must_use]
    pub fn with_policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// Keeps intents over crashes. Without a journal, an intent ends with the process.
    #[must_use]
    pub fn with_journal(self, journal: impl Journal) -> Self {
        Self { journal: Some(Arc::new(journal)), ..self }
    }

    /// Is told each step of each call. It must be fast.
    #[must_use]
    pub fn with_observer(self, observer: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self { observer: Some(Arc::new(observer)), ..self }
    }

    /// The clock that dates intents. The machine's by default.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    pub(crate) fn shared(self) -> Result<Shared, InvalidPolicy> {
        let profile = self.profile.unwrap_or(Profile::DRAFT);
        self.policy.check(&profile)?;
        let budget = RetryBudget::new(&self.policy, Instant::now().into_std());
        Ok(Shared {
            profile,
            prefer: self.policy.prefer(),
            policy: self.policy,
            journal: self.journal,
            observer: self.observer,
            clock: self.clock,
            budget,
            bound: Bound::default(),
            calls: AtomicU64::new(0),
            random: Box::new(random),
        })
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("profile", &self.profile).field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// A layer that sends each request until there is a final answer.
///
/// The key of a request is the [`Key`] in its extensions, or else a random one. All services of a layer, and of its
/// clones, share one budget of retries, and know each other's keys.
///
/// ```
/// use http::Request;
/// use keylatch_client::{Key, Options, RetryLayer};
/// use tower::{Layer, ServiceExt};
///
/// # async fn example<S>(http: S) -> Result<(), Box<dyn std::error::Error>>
/// # where S: tower::Service<Request<http_body_util::Full<bytes::Bytes>>, Response = http::Response<http_body_util::Full<bytes::Bytes>>> + Clone + Send + 'static,
/// # S::Error: Into<keylatch_client::BoxError>, S::Future: Send {
/// let service = RetryLayer::new(Options::default())?.layer(http);
/// let request = Request::post("https://shop.example/api/orders")
///     .extension(Key::derive(["order", "user123", "cart456"])?)
///     .body(r#"{"quantity":1}"#.into())?;
/// let answer = service.oneshot(request).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct RetryLayer {
    shared: Arc<Shared>,
}

impl RetryLayer {
    /// A layer with these options.
    ///
    /// # Errors
    ///
    /// If the policy cannot be kept.
    pub fn new(options: Options) -> Result<Self, InvalidPolicy> {
        Ok(Self { shared: Arc::new(options.shared()?) })
    }
}

impl fmt::Debug for RetryLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RetryLayer")
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, transport: S) -> Retry<S> {
        Retry { transport, shared: self.shared.clone() }
    }
}

/// The service of a [`RetryLayer`].
#[derive(Clone)]
pub struct Retry<S> {
    pub(crate) transport: S,
    pub(crate) shared: Arc<Shared>,
}

impl<S: fmt::Debug> fmt::Debug for Retry<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry").field("transport", &self.transport).finish_non_exhaustive()
    }
}

impl<S, B> Service<Request<Bytes>> for Retry<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body + Send,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Answer;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Answer, Error>>;

    /// Each try waits for the transport itself.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Bytes>) -> Self::Future {
        let (transport, shared) = (self.transport.clone(), self.shared.clone());
        let key = request.extensions_mut().remove::<Key>().unwrap_or_else(Key::random);
        Box::pin(async move { call(&shared, transport, key, request).await })
    }
}
