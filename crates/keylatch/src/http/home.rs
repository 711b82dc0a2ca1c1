//! Requests whose home is another region: they go there once, and their answers come back as they are.
//!
//! 1. The home of a request is decided after all of it was read, with its scope and key ([`Homes`]).
//! 2. A request from another region has a signed header. It is never sent on: if its home is not here, or its sender has another map, it gets 503, and nothing ran.
//! 3. Whoever does not have the secret of the regions cannot write that header. A request with a wrong one is treated as
//!    a client's, except that it is not sent on. So two regions with different secrets cannot send it back and forth.
//! 4. A region that cannot be reached gives 503, one that does not answer 504. Both can be sent again with the same key.
//!    No request ever runs in a region that is not its home.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::Either;
use hmac::{Hmac, Mac};
use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use keylatch_core::Cache;
use parking_lot::RwLock;
use sha2::Sha256;
use tower_layer::Layer;
use tower_service::Service;

use super::admit::{Asked, refuse, unshared};
use super::body::{Collected, GuardedBody, Wait, collect};
use super::config::Config;
use super::copies::{self, Told};
use super::headers::IDEMPOTENCY_REGION;
use super::layer::IdempotencyLayer;
use super::problem::Problem;
use super::service::{Idempotency, own};
use super::work::{self, ready};
use super::{answer, request};
use crate::regions::{Decides, Homes, Region};
use crate::tiered::Copies;
use crate::{Clock, InvalidKey, RecordId, Timestamp};

/// How far the clocks of two regions, and the time on the way, may be apart for a request to be accepted.
pub const REGION_HEADER_AGE_MAX: Duration = Duration::from_secs(5 * 60);
/// The shortest secret of the regions.
pub const REGION_SECRET_BYTES_MIN: usize = 32;

/// What all regions know and nobody else: it signs the requests that they send each other.
#[derive(Clone, PartialEq, Eq)]
pub struct RegionSecret(Arc<[u8]>);

/// A secret that is too short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the secret of the regions has less than {REGION_SECRET_BYTES_MIN} bytes; make one by `openssl rand -hex 32`")]
pub struct ShortSecret;

impl RegionSecret {
    /// Takes a secret of at least [`REGION_SECRET_BYTES_MIN`] bytes.
    ///
    /// # Errors
    ///
    /// If it is shorter.
    pub fn new(secret: impl Into<Arc<[u8]>>) -> Result<Self, ShortSecret> {
        let secret = secret.into();
        if secret.len() < REGION_SECRET_BYTES_MIN { Err(ShortSecret) } else { Ok(Self(secret)) }
    }

    /// The HMAC-SHA-256 of these fields, each preceded by its length.
    fn mac(&self, fields: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key may have any length");
        mac.update(b"keylatch region 1");
        for field in fields {
            mac.update(&(field.len() as u64).to_be_bytes());
            mac.update(field);
        }
        mac
    }
}

/// Never shows it.
impl fmt::Debug for RegionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RegionSecret")
    }
}

/// A region's place among the others: its map, and how it signs. Clones share it.
#[derive(Debug, Clone)]
pub struct Regions(Arc<Place>);

#[derive(Debug)]
struct Place {
    homes: RwLock<Homes>,
    secret: RegionSecret,
    clock: Clock,
    copies: Option<Copies<dyn Cache>>,
    lease: Option<Lease>,
}

/// The right of a region to decide, which the others confirm again and again.
#[derive(Debug)]
struct Lease {
    /// Until when it may decide; `None` if nobody has confirmed it.
    until: RwLock<Option<Instant>>,
    /// How far the time in a key may be in the future.
    ahead_max: Duration,
}

/// Where a request comes from. In its extensions, if there are regions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sender {
    /// A client.
    Client,
    /// Another region.
    Region {
        /// Whether its map is the same.
        same_map: bool,
    },
    /// It has a header of a region, which no region has signed.
    Nobody,
}

/// Where a request goes.
#[derive(Debug)]
pub(super) enum Way {
    /// It is decided here.
    Here,
    /// To its home.
    To(Region),
    /// Nowhere for now: a region thinks that its home is here, and it is not; or the maps differ; or nobody may decide.
    Nowhere,
    /// Its home is gone, so nobody knows whether it has run.
    Lost,
    /// Its key was made in the future.
    Ahead,
}

impl Way {
    /// The region to which a request goes that is not decided here; or why it gets no answer.
    pub(super) fn home(self) -> Result<Region, Problem> {
        match self {
            Self::To(home) => Ok(home),
            Self::Lost => Err(Problem::OutcomeUnknown),
            Self::Ahead => Err(Problem::KeyInvalid(InvalidKey::Ahead)),
            Self::Here | Self::Nowhere => Err(Problem::HomeUnreachable),
        }
    }
}

/// The home of a request, in the extensions of the request that a client of [`HomeLayer`] sends there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToHome(pub Region);

impl Regions {
    /// The map of this region, and the secret of all.
    pub fn new(homes: Homes, secret: RegionSecret) -> Self {
        let homes = RwLock::new(homes);
        Self(Arc::new(Place { homes, secret, clock: Clock::system(), copies: None, lease: None }))
    }

    /// Keeps copies of final answers in `cache`, which the processes of this region share, or those of several regions. A
    /// request whose home is elsewhere and that is sent again is answered from a copy, without asking its home. This region
    /// puts its own answers there, too, as soon as they are stored, and no answer waits for that. It may be the cache of a
    /// [`Tiered`](crate::tiered::Tiered) store.
    ///
    /// # Panics
    ///
    /// If it is called after it was cloned.
    #[must_use]
    pub fn with_cache(self, cache: impl Cache) -> Self {
        self.with(|place| place.copies = Some(Copies::into(Arc::new(cache))))
    }

    /// Decides only while a majority of the regions confirms it: see [`hold_until`](Self::hold_until). Only then can the
    /// [`Changes`](crate::regions::Changes) of a map be made while regions cannot reach each other. Refuses keys whose time
    /// is later than now by more than `ahead_max`.
    ///
    /// # Panics
    ///
    /// If it is called after it was cloned.
    #[must_use]
    pub fn with_lease(self, ahead_max: Duration) -> Self {
        self.with(|place| place.lease = Some(Lease { until: RwLock::new(None), ahead_max }))
    }

    fn with(mut self, change: impl FnOnce(&mut Place)) -> Self {
        change(Arc::get_mut(&mut self.0).expect("options come before clones"));
        self
    }

    /// The map now.
    pub fn homes(&self) -> Homes {
        self.0.homes.read().clone()
    }

    /// Replaces the map. Requests that are under way keep theirs.
    pub fn replace(&self, homes: Homes) {
        *self.0.homes.write() = homes;
    }

    /// Until when this region may decide, if it has a [lease](Self::with_lease): a majority of the regions, with it, has
    /// confirmed that no later map is in its store. `None` takes the right away at once.
    pub fn hold_until(&self, until: Option<Instant>) {
        if let Some(lease) = &self.0.lease {
            *lease.until.write() = until;
        }
    }

    /// Whether this region may decide now.
    pub fn holds(&self) -> bool {
        let lease = self.0.lease.as_ref();
        lease.is_none_or(|lease| lease.until.read().is_some_and(|until| Instant::now() < until))
    }

    /// Whether another region has sent this request: then what it says of its client can be trusted. Any path before the
    /// one that the sender saw must still be there.
    pub fn sent(&self, head: &Parts) -> bool {
        matches!(self.sender(head), Sender::Region { .. })
    }

    pub(super) fn sender(&self, head: &Parts) -> Sender {
        let mut lines = head.headers.get_all(IDEMPOTENCY_REGION).iter();
        let Some(line) = lines.next() else { return Sender::Client };
        let signed = line.to_str().ok().filter(|_| lines.next().is_none());
        signed.and_then(|signed| self.verify(signed, head)).unwrap_or(Sender::Nobody)
    }

    /// The sender, if a region has signed this request to this region, a short time ago.
    fn verify(&self, signed: &str, head: &Parts) -> Option<Sender> {
        let Place { secret, clock, .. } = &*self.0;
        let homes = self.homes();
        let fields: Vec<&str> = signed.split(';').collect();
        let [from, to, mark, at, mac] = fields[..] else { return None };
        let mac = hex::decode(mac).ok()?;
        secret.mac(&signed_fields([from, to, mark, at], head)).verify_slice(&mac).ok()?;
        let sent = Timestamp::from_millis(at.parse().ok()?);
        let now = clock.now();
        let apart = sent.until(now).max(now.until(sent));
        let fresh = apart <= REGION_HEADER_AGE_MAX;
        let good = to == homes.this().as_str() && from != to && fresh;
        good.then(|| Sender::Region { same_map: mark == homes.mark() })
    }

    /// Signs a request to the region `to`.
    pub fn sign(&self, to: &Region, head: &Parts) -> HeaderValue {
        let Place { secret, clock, .. } = &*self.0;
        let homes = self.homes();
        let (from, to) = (homes.this().as_str(), to.as_str());
        let (mark, at) = (homes.mark(), clock.now().as_millis().to_string());
        let mac = secret.mac(&signed_fields([from, to, mark, &at], head)).finalize().into_bytes();
        let line = format!("{from};{to};{mark};{at};{mac:x}");
        HeaderValue::from_str(&line).expect("names, numbers and digits are a header value")
    }

    /// Where this request goes. `sender` is what [`sender`](Self::sender) has found.
    pub(super) fn way(&self, request: &crate::Request, sender: &Sender) -> Way {
        let homes = self.0.homes.read();
        if matches!(sender, Sender::Region { same_map: false }) {
            tracing::error!("a request came from a region with another map; give all regions the same map and epoch");
            return Way::Nowhere;
        }
        let home = match homes.decides(&request.scope, &request.key) {
            Decides::Region(home) => home,
            Decides::Lost(_) => return Way::Lost,
            Decides::Nobody => return Way::Nowhere,
        };
        match sender {
            _ if home == homes.this() => self.way_here(request),
            Sender::Client => Way::To(home.clone()),
            Sender::Region { .. } | Sender::Nobody => {
                tracing::error!(%home, "another region sent a request here, and its home is not here: the maps differ");
                Way::Nowhere
            }
        }
    }

    /// The way of a request whose home is here.
    fn way_here(&self, request: &crate::Request) -> Way {
        let Some(Lease { ahead_max, .. }) = &self.0.lease else { return Way::Here };
        if !self.holds() {
            tracing::warn!("a request is refused: this region has no contact with a majority of the regions");
            return Way::Nowhere;
        }
        let latest = self.0.clock.now() + *ahead_max;
        if request.key.made_at().is_some_and(|made_at| made_at > latest) { Way::Ahead } else { Way::Here }
    }

    /// Writes the head of a request to its home `to`.
    fn write_head(&self, to: Region, head: &mut Parts) {
        // A router that nests others has taken a part of the path away.
        head.uri = request::uri(head).clone();
        end_hop(&mut head.headers);
        let signed = self.sign(&to, head);
        head.headers.insert(IDEMPOTENCY_REGION, signed);
        head.extensions.insert(ToHome(to));
    }
}

fn signed_fields<'a>(own: [&'a str; 4], head: &'a Parts) -> [&'a [u8]; 6] {
    let path = request::uri(head).path_and_query().map_or("", |path| path.as_str());
    let [from, to, mark, at] = own.map(str::as_bytes);
    [from, to, mark, at, head.method.as_str().as_bytes(), path.as_bytes()]
}

/// The answer to a request about which another region decides, or none: the copy that is here; otherwise what its `home`
/// says, or the problem.
pub(super) async fn elsewhere<S, B, R>(
    config: Arc<Config>,
    mut waiting: work::Shared<S, B>,
    asked: Box<Asked>,
    home: Result<Region, Problem>,
) -> Result<Response<GuardedBody<R>>, S::Error>
where
    S: Service<Request<GuardedBody<B>>, Response = Response<R>>,
    B: Body<Data = Bytes> + Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
{
    let Some(regions) = &config.regions else { unreachable!("it has a home elsewhere") };
    let shared = regions.0.copies.as_ref().map(Copies::cache);
    if let Some(found) = copies::find(&config, shared, &asked.request).await {
        metrics::counter!("keylatch_copies_given_total").increment(1);
        let mut response = answer::replay(&found, &asked.received).map(GuardedBody::whole);
        if asked.prefers && !asked.request.wait.is_zero() {
            answer::say_applied(&mut response, asked.request.wait);
        }
        return Ok(response);
    }
    let home = match home {
        Ok(home) => home,
        Err(problem) => return Ok(refuse(unshared(&mut waiting), &problem)),
    };
    metrics::counter!("keylatch_sent_home_total", "home" => home.to_string()).increment(1);
    ready(&waiting).await?;
    let taken = waiting.lock().take().expect("nobody has taken it");
    let (mut inner, request) = taken.request(|parts| regions.write_head(home, parts));
    let sent = Instant::now();
    let (mut parts, body) = inner.call(request).await?.into_parts();
    let Some(told) = parts.headers.remove(IDEMPOTENCY_REGION).as_ref().and_then(Told::read) else {
        return Ok(Response::from_parts(parts, GuardedBody::Inner { body }));
    };
    let body = match collect(body, config.keeping.bytes_max, Wait::For(config.keeping.end_max)).await {
        Ok(Collected::Whole(bytes, None)) => {
            if let Some(found) = told.outcome(&asked.request, (parts.status, &parts.headers, &bytes), sent) {
                config.engine.keep(RecordId::of(&asked.request.scope, &asked.request.key), &found);
            }
            GuardedBody::whole(bytes)
        }
        Ok(Collected::Whole(bytes, trailers)) => GuardedBody::ended(bytes, trailers),
        Ok(Collected::TooLong(body, _) | Collected::TooSlow(body)) => body,
        Err(_) => return Ok(own(&Problem::HomeSilent)),
    };
    Ok(Response::from_parts(parts, body))
}

/// Removes the headers that end at this hop
/// ([RFC 9110, section 7.6.1](https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1)).
fn end_hop(headers: &mut HeaderMap) {
    let lines: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
    let named = lines.iter().filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(','));
    for name in named.filter_map(|name| name.trim().parse::<HeaderName>().ok()) {
        headers.remove(name);
    }
    for name in [CONNECTION, TE, TRANSFER_ENCODING, UPGRADE, HeaderName::from_static("keep-alive")] {
        headers.remove(name);
    }
}

/// An [`IdempotencyLayer`] whose requests go to their homes. Made by
/// [`with_homes`](IdempotencyLayer::with_homes).
#[derive(Debug, Clone)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct HomeLayer<C> {
    layer: IdempotencyLayer,
    client: C,
}

impl IdempotencyLayer {
    /// Sends each request whose home is another region there, by `client`, and decides about all others.
    ///
    /// A `client` is a service with the same answers as the one that the layer goes around. It finds the region in the
    /// extensions of a request ([`ToHome`]), sends the request there over TLS, once, with all its headers and its path,
    /// and returns the answer without the headers of that connection. For a request without an answer it returns that of
    /// [`Problem::HomeUnreachable`](super::Problem::HomeUnreachable) if nothing was sent, and of
    /// [`Problem::HomeSilent`](super::Problem::HomeSilent) in all other cases.
    ///
    /// All options of the layer come before this. A layer that [observes](Self::observe) sends nothing away. The home
    /// identifies the caller again, from the same headers: what identifies a caller here must do so there.
    pub fn with_homes<C>(self, regions: Regions, client: C) -> HomeLayer<C> {
        let layer = self.with(|config| {
            if let Some(copies) = &regions.0.copies {
                config.engine.share(copies.clone());
            }
            config.regions = Some(regions);
        });
        HomeLayer { layer, client }
    }
}

impl<S, C: Clone> Layer<S> for HomeLayer<C> {
    type Service = Idempotency<AtHome<S, C>>;

    fn layer(&self, here: S) -> Self::Service {
        self.layer.layer(AtHome { here, elsewhere: Some(self.client.clone()) })
    }
}

/// The service inside a [`HomeLayer`]: a handler, and the client for requests whose home is elsewhere.
#[derive(Debug, Clone)]
pub struct AtHome<S, C> {
    here: S,
    elsewhere: Option<C>,
}

impl<S, C> AtHome<S, C> {
    /// A service without other regions, so that a program has one type for both.
    pub const fn alone(here: S) -> Self {
        Self { here, elsewhere: None }
    }
}

impl<S, C, B, R> Service<Request<GuardedBody<B>>> for AtHome<S, C>
where
    S: Service<Request<GuardedBody<B>>, Response = Response<R>>,
    C: Service<Request<GuardedBody<B>>, Response = Response<R>, Error = S::Error>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Either<S::Future, C::Future>;

    /// Ready when the handler is. A client has to be ready always.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.here.poll_ready(context)
    }

    fn call(&mut self, request: Request<GuardedBody<B>>) -> Self::Future {
        match &mut self.elsewhere {
            Some(client) if request.extensions().get::<ToHome>().is_some() => Either::Right(client.call(request)),
            _ => Either::Left(self.here.call(request)),
        }
    }
}
