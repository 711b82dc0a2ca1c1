//! reqwest as a transport.

use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::Full;
use tower_service::Service;

use crate::BoxError;
use crate::error::Unsendable;

/// Sends through a [`reqwest::Client`], which decides on connections, credentials, proxies and TLS.
#[derive(Debug, Clone)]
pub struct Reqwest(reqwest::Client);

/// Redirects are answers, and are not followed.
impl Default for Reqwest {
    fn default() -> Self {
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build();
        Self(client.expect("reqwest can be set up"))
    }
}

/// A client that follows redirects sends the request, with its key, to other URLs too: better turn that off.
impl From<reqwest::Client> for Reqwest {
    fn from(client: reqwest::Client) -> Self {
        Self(client)
    }
}

impl Service<Request<Full<Bytes>>> for Reqwest {
    type Response = Response<reqwest::Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        let client = self.0.clone();
        Box::pin(async move {
            let request = reqwest::Request::try_from(request.map(reqwest::Body::wrap)).map_err(Unsendable::new)?;
            match client.execute(request).await {
                Ok(response) => Ok(response.into()),
                Err(error) if error.is_builder() => Err(Unsendable::new(error).into()),
                // Without its URL, whose query may be a secret.
                Err(error) => Err(error.without_url().into()),
            }
        })
    }
}
