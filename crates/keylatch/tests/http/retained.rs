//! Answers that are delivered in full, and are not kept, because they have trailers.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::StreamBody;
use keylatch::Guarantee;
use testing_contract::cases::retained::{is_not_retained, sha_256};

use crate::app::Setup;

const ALL: [Guarantee; 3] = [Guarantee::Atomic, Guarantee::Fenced, Guarantee::AtMostOnce];

#[tokio::test]
async fn an_answer_with_trailers_is_delivered_with_them_and_not_kept() {
    fn with_trailers() -> Response {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "900150983".parse().expect("a value"));
        let frames = [Frame::data(Bytes::from("ab")), Frame::data(Bytes::from("c")), Frame::trailers(trailers)];
        let frames = frames.map(Ok::<_, std::io::Error>);
        ([("trailer", "x-sum")], Body::new(StreamBody::new(stream::iter(frames)))).into_response()
    }
    for guarantee in ALL {
        let app = Setup::new(guarantee).start(|_| async { with_trailers() }).await;
        let first = app.order().header("TE", "trailers").send().await;
        assert_eq!((first.body_text(), first.whole), ("abc", true));
        assert_eq!(first.trailers.trim(), "x-sum: 900150983");
        is_not_retained(&app, 200, sha_256(b"abc")).await;
    }
}
