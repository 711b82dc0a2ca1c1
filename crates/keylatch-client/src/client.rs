//! A client: a transport with retries, and the usual way to build a request.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri, request};
use http_body::Body;
use http_body_util::Full;
use keylatch_core::Key;
use serde::Serialize;
use tower_layer::Layer as _;
use tower_service::Service;

use crate::call::{blocking, call};
use crate::error::Unsendable;
use crate::layer::{Options, Retry, RetryLayer};
#[cfg(feature = "reqwest")]
use crate::transport::Reqwest;
use crate::{Answer, BoxError, Entry, Error, InvalidPolicy, JournalError};

/// Sends requests until there is a final answer. Clones share one budget of retries, and know each other's keys.
#[derive(Debug, Clone)]
pub struct Client<S>(Retry<S>);

#[cfg(feature = "reqwest")]
impl Client<Reqwest> {
    /// A client over reqwest, with the default options.
    ///
    /// # Panics
    ///
    /// If reqwest cannot be set up, as [`reqwest::Client::new`].
    pub fn new() -> Self {
        Self::over(Reqwest::default(), Options::default()).expect("the default policy can be kept")
    }
}

#[cfg(feature = "reqwest")]
impl Default for Client<Reqwest> {
    fn default() -> Self {
        Self::new()
    }
}

/// How many headers a call usually has: with the two of the client, as many as an allocation of the map takes.
const HEADERS: usize = 6;

impl<S> Client<S> {
    /// A client over `transport`: a [`Reqwest`](crate::Reqwest), or any tower service for requests. It decides on everything
    /// else: connections, credentials, proxies, TLS. Every error of it means that the request may have been sent, except
    /// [`Unsendable`].
    ///
    /// # Errors
    ///
    /// If the policy cannot be kept.
    pub fn over(transport: S, options: Options) -> Result<Self, InvalidPolicy> {
        Ok(Self(RetryLayer::new(options)?.layer(transport)))
    }

    /// Begins a POST request.
    pub fn post(&self, url: impl AsRef<str>) -> Call<'_, S> {
        self.request(Method::POST, url)
    }

    /// Begins a PATCH request.
    pub fn patch(&self, url: impl AsRef<str>) -> Call<'_, S> {
        self.request(Method::PATCH, url)
    }

    /// Begins a request.
    pub fn request(&self, method: Method, url: impl AsRef<str>) -> Call<'_, S> {
        let request = Uri::try_from(url.as_ref()).map_err(Unsendable::new).map(|uri| {
            let (mut parts, ()) = Request::new(()).into_parts();
            (parts.method, parts.uri) = (method, uri);
            parts.headers.reserve(HEADERS);
            parts
        });
        Call { client: self, request, body: Bytes::new(), key: None }
    }

    /// The same client, whose random pauses take this fraction of their limit.
    #[cfg(test)]
    pub(crate) fn with_random(mut self, fraction: f64) -> Self {
        let shared = std::sync::Arc::get_mut(&mut self.0.shared).expect("a new client is not shared");
        shared.random = Box::new(move || fraction);
        self
    }

    /// The intents of the journal that no call of this client is about to finish, the oldest first: those of a process
    /// that died, or of calls that ended without a final answer.
    ///
    /// ```no_run
    /// # async fn example(client: keylatch_client::Client<keylatch_client::Reqwest>) -> Result<(), Box<dyn std::error::Error>> {
    /// for entry in client.pending().await? {
    ///     match client.resume(entry).await {
    ///         Ok(answer) => println!("{}", answer.status()),
    ///         Err(error) => eprintln!("{error}"),
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// If the journal failed. Without a journal there is none.
    pub async fn pending(&self) -> Result<Vec<Entry>, JournalError> {
        let shared = &self.0.shared;
        let Some(journal) = shared.journal.clone() else { return Ok(Vec::new()) };
        let mut entries = blocking(move || journal.pending()).await?;
        entries.retain(|entry| !shared.bound.is_in_use(&entry.key));
        Ok(entries)
    }
}

impl<S, B> Client<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: Body,
    B::Error: Into<BoxError>,
{
    /// Sends `request` until there is a final answer.
    ///
    /// # Errors
    ///
    /// If there is none; each error says what to do.
    pub async fn send(&self, key: Key, request: Request<Bytes>) -> Result<Answer, Error> {
        call(&self.0.shared, self.0.transport.clone(), key, request).await
    }

    /// Finishes an intent from the journal, with its key and its bytes.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send). What cannot be finished now stays in the journal.
    pub async fn resume(&self, entry: Entry) -> Result<Answer, Error> {
        self.send(entry.key, entry.request).await
    }
}

/// A request that is being built.
#[derive(Debug)]
#[must_use = "a call does nothing before it is sent"]
pub struct Call<'c, S> {
    client: &'c Client<S>,
    request: Result<request::Parts, Unsendable>,
    body: Bytes,
    key: Option<Key>,
}

impl<S> Call<'_, S> {
    /// The key of the intent; a random one if this is not called.
    pub fn key(self, key: Key) -> Self {
        Self { key: Some(key), ..self }
    }

    /// Sets a header.
    pub fn header(mut self, name: impl TryInto<HeaderName>, value: impl TryInto<HeaderValue>) -> Self {
        if let Ok(parts) = &mut self.request {
            match (name.try_into(), value.try_into()) {
                (Ok(name), Ok(value)) => drop(parts.headers.insert(name, value)),
                _ => self.request = Err(Unsendable::new("a header has a name or a value that cannot be sent")),
            }
        }
        self
    }

    /// The body, as it is.
    pub fn body(self, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// The body, as JSON.
    pub fn json(mut self, body: &(impl Serialize + ?Sized)) -> Self {
        match serde_json::to_vec(body) {
            Ok(json) => {
                self.body = json.into();
                self.header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            }
            Err(error) => Self { request: Err(Unsendable::new(error)), ..self },
        }
    }
}

impl<S, B> Call<'_, S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: Body,
    B::Error: Into<BoxError>,
{
    /// Sends the request until there is a final answer.
    ///
    /// # Errors
    ///
    /// As [`Client::send`].
    pub async fn send(self) -> Result<Answer, Error> {
        let request = Request::from_parts(self.request?, self.body);
        self.client.send(self.key.unwrap_or_else(Key::random), request).await
    }
}
