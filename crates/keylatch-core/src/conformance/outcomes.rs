//! An outcome is returned byte for byte.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::Harness;
use super::fixture::{POLICY, Subject, again, fenced, outcome};
use crate::machine::Completion;
use crate::{Body, Outcome};

async fn round_trip(harness: &dyn Harness, outcomes: impl IntoIterator<Item = Outcome>) {
    let subject = Subject::new(harness);
    let elsewhere = harness.connect().await;
    for (at, stored) in outcomes.into_iter().enumerate() {
        let claim = fenced(&format!("key-{at}"));
        let record = subject.win(&claim).await;
        let completion = Completion::new(stored.clone(), &POLICY);
        subject.assert_applied(subject.complete(record.lease(), completion).await).await;
        assert_eq!(outcome(&subject.lose(&again(&claim)).await), Some(&stored), "outcome {at}, from a claim");
        let read = elsewhere.read(claim.id()).await.expect("the other handle reads").value;
        assert_eq!(read.as_ref().and_then(outcome), Some(&stored), "outcome {at}, read elsewhere");
    }
}

fn with_headers(headers: &[(HeaderName, &[u8])]) -> Outcome {
    let header = |(name, value): &(HeaderName, &[u8])| {
        (name.clone(), HeaderValue::from_bytes(value).expect("a valid header value"))
    };
    Outcome { headers: headers.iter().map(header).collect(), ..Outcome::bytes("body") }
}

/// Repeated header lines stay, in their order.
pub async fn repeated_headers_keep_their_order(harness: &dyn Harness) {
    let lines: [(HeaderName, &[u8]); 5] = [
        (header::LINK, b"</b>"),
        (header::ETAG, b"\"1\""),
        (header::LINK, b"</a>"),
        (header::LINK, b"</b>"),
        (HeaderName::from_static("x-trace"), b""),
    ];
    round_trip(harness, [with_headers(&lines), with_headers(&[])]).await;
}

/// Header values are bytes, and need not be UTF-8.
pub async fn header_values_need_not_be_utf8(harness: &dyn Harness) {
    let every_byte: Vec<u8> = (0..=u8::MAX).filter(|byte| HeaderValue::from_bytes(&[*byte]).is_ok()).collect();
    let lines: [(HeaderName, &[u8]); 2] = [(header::LOCATION, &every_byte), (header::LOCATION, b"/caf\xe9")];
    round_trip(harness, [with_headers(&lines)]).await;
}

/// An empty body is an answer, and differs from one that was not kept.
pub async fn empty_body_is_an_answer(harness: &dyn Harness) {
    let empty = Outcome { status: StatusCode::NO_CONTENT, ..Outcome::bytes(Bytes::new()) };
    round_trip(harness, [empty]).await;
}

/// A body is bytes: every byte is returned, in any place.
pub async fn body_is_any_bytes(harness: &dyn Harness) {
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    let reversed: Vec<u8> = (0..=u8::MAX).rev().collect();
    round_trip(harness, [every_byte, reversed, vec![0], vec![0; 3], b"'; --\\".to_vec()].map(Outcome::bytes)).await;
}

/// A body of 1 MiB is returned complete.
pub async fn body_of_a_mebibyte_comes_back(harness: &dyn Harness) {
    let body: Vec<u8> = (0..1 << 20_u32).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    round_trip(harness, [Outcome::bytes(body)]).await;
}

/// The store remembers that an answer was not kept, with and without its digest.
pub async fn unretained_body_is_remembered(harness: &dyn Harness) {
    let digests = [None, Some([0; 32]), Some([0xff; 32])];
    let not_retained = digests.map(|digest| Outcome { body: Body::NotRetained { digest }, ..Outcome::bytes("") });
    round_trip(harness, not_retained).await;
}

/// Every class of status is returned, including unusual numbers.
pub async fn every_class_of_status_comes_back(harness: &dyn Harness) {
    let statuses = [100, 200, 201, 299, 304, 308, 400, 404, 418, 499, 500, 599, 600, 999];
    let outcome =
        |status| Outcome { status: StatusCode::from_u16(status).expect("a status"), ..Outcome::bytes("body") };
    round_trip(harness, statuses.map(outcome)).await;
}
