//! Connections that change their protocol, for example to WebSocket: the gateway connects both ends.

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use crate::ahead::Answer;
use crate::headers;
use crate::pool::Lent;

/// Asks the upstream to switch to `protocol`.
pub(crate) fn ask(headers: &mut HeaderMap, protocol: &HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol.clone());
}

/// The upstream's 101 for the client. From then on, what each side sends is passed to the other.
pub(crate) fn switch(
    mut response: Response<Incoming>,
    protocol: &HeaderValue,
    client: OnUpgrade,
    lent: Lent,
) -> Response<Answer> {
    let upstream = hyper::upgrade::on(&mut response);
    let mut answer = Response::new(Answer::whole(bytes::Bytes::new()));
    *answer.status_mut() = response.status();
    *answer.headers_mut() = std::mem::take(response.headers_mut());
    let switched = answer.headers().get(UPGRADE).unwrap_or(protocol).clone();
    headers::end_hop(answer.headers_mut());
    ask(answer.headers_mut(), &switched);
    drop(tokio::spawn(async move {
        let tied = async {
            let (client, upstream) = (client.await?, upstream.await?);
            let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
            copy_bidirectional(&mut client, &mut upstream).await?;
            Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
        };
        if let Err(error) = tied.await {
            tracing::debug!(error, "an upgraded connection broke off");
        }
        // It keeps its permit of the pool until then.
        drop(lent);
    }));
    answer
}
