//! reqwest as a transport.

use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
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
        let (parts, body) = request.into_parts();
        let Some(Ok(body)) = body.collect().now_or_never() else { unreachable!("the whole body is there") };
        let request = reqwest::Request::try_from(Request::from_parts(parts, body.to_bytes()));
        let sent = request.map(|request| self.0.execute(request)).map_err(Unsendable::new);
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
