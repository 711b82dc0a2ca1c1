//! reqwest as a transport.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use http::uri::Authority;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use parking_lot::Mutex;
use reqwest::Url;
use tower_service::Service;

use crate::BoxError;
use crate::error::Unsendable;

/// Sends through a [`reqwest::Client`], which decides on connections, credentials, proxies and TLS.
#[derive(Clone)]
pub struct Reqwest {
    client: reqwest::Client,
    /// Where the last request went, and so most likely the next one: its URL is not parsed again.
    last: Arc<Mutex<Option<(Uri, Url)>>>,
}

/// Redirects are answers, and are not followed.
impl Default for Reqwest {
    fn default() -> Self {
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build();
        client.expect("reqwest can be set up").into()
    }
}

/// A client that follows redirects sends the request, with its key, to other URLs too: better turn that off.
impl From<reqwest::Client> for Reqwest {
    fn from(client: reqwest::Client) -> Self {
        Self { client, last: Arc::default() }
    }
}

/// Without the last URL, whose query may be a secret.
impl fmt::Debug for Reqwest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reqwest").field("client", &self.client).finish_non_exhaustive()
    }
}

impl Reqwest {
    fn url(&self, uri: &Uri) -> Result<Url, Unsendable> {
        let mut last = self.last.lock();
        match &*last {
            Some((known, url)) if is_same(known, uri) => Ok(url.clone()),
            _ => {
                let url = Url::parse(&uri.to_string()).map_err(Unsendable::new)?;
                *last = Some((uri.clone(), url.clone()));
                Ok(url)
            }
        }
    }

    fn request(&self, request: Request<Full<Bytes>>) -> Result<reqwest::Request, Unsendable> {
        let (parts, body) = request.into_parts();
        let Some(Ok(body)) = body.collect().now_or_never() else { unreachable!("the whole body is there") };
        let mut request = reqwest::Request::new(parts.method, self.url(&parts.uri)?);
        *request.headers_mut() = parts.headers;
        *request.version_mut() = parts.version;
        *request.body_mut() = Some(body.to_bytes().into());
        Ok(request)
    }
}

/// Also in the case of letters, which is not compared in an authority otherwise: it can contain a password.
fn is_same(a: &Uri, b: &Uri) -> bool {
    a == b && a.authority().map(Authority::as_str) == b.authority().map(Authority::as_str)
}

impl Service<Request<Full<Bytes>>> for Reqwest {
    type Response = Response<reqwest::Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        let sent = self.request(request).map(|request| self.client.execute(request));
        Box::pin(async move {
            match sent?.await {
                Ok(response) => Ok(response.into()),
                Err(error) if error.is_builder() => Err(Unsendable::new(error).into()),
                // Without its URL, whose query may be a secret.
                Err(error) => Err(error.without_url().into()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_goes_to_its_own_url() {
        let reqwest = Reqwest::default();
        let urls = [
            "http://a/orders?page=1",
            "http://a/orders?page=1",
            "http://a/orders?page=2",
            "http://a/Orders?page=2",
            "http://b/Orders?page=2",
            "https://b/Orders?page=2",
            "https://me:secret@b/Orders?page=2",
            "https://me:Secret@b/Orders?page=2",
        ];
        for url in urls {
            assert_eq!(reqwest.url(&Uri::from_static(url)).unwrap().as_str(), url);
            assert!(!format!("{reqwest:?}").contains("ecret"), "{reqwest:?}");
        }
        assert!(reqwest.url(&Uri::from_static("/orders")).is_err());
    }
}
