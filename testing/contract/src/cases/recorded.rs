//! What is recorded of an answer, by its status.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use http::StatusCode;
use keylatch_core::Guarantee;

use crate::{Seen, Setup, Subject};

/// What a second request finds.
#[derive(Debug, PartialEq, Eq)]
enum Then {
    /// The same answer again.
    Replay,
    /// A new run.
    Runs,
    /// Nobody knows.
    Unknown,
}

pub async fn statuses_are_recorded_by_the_rule(at: &impl Subject) {
    const STATUSES: [u16; 20] =
        [200, 201, 202, 204, 206, 301, 303, 304, 307, 400, 401, 404, 409, 410, 422, 408, 425, 429, 500, 503];
    for &guarantee in at.guarantees() {
        let answered = Arc::new(Mutex::new(HashSet::new()));
        // The status that the path asks for, and then 299.
        let handler = move |seen: Seen| {
            let asked = seen.parts.uri.path().rsplit('/').next().and_then(|status| status.parse::<u16>().ok());
            let asked = asked.expect("the path ends with a status");
            let is_first = answered.lock().expect("nobody panics with it").insert(asked);
            std::future::ready(StatusCode::from_u16(if is_first { asked } else { 299 }).expect("a status"))
        };
        let app = Setup::new(guarantee).start(at, handler).await;
        for (nth, status) in STATUSES.into_iter().enumerate() {
            let expected = match status {
                // The layers that make these drop a handler half-way.
                408 | 425 | 429 if guarantee == Guarantee::AtMostOnce => Then::Unknown,
                408 | 425 | 429 => Then::Runs,
                500.. if guarantee != Guarantee::AtMostOnce => Then::Runs,
                _ => Then::Replay,
            };
            let call = app.call("POST", &format!("/orders/{status}")).key(format!("k{nth}"));
            let runs = app.runs();
            let first = call.send().await;
            assert_eq!((first.status, first.replayed()), (status, false), "{guarantee:?}");
            let again = call.send().await;
            let then = match (again.status, again.replayed(), app.runs() - runs) {
                (same, true, 1) if same == status && again.body == first.body => Then::Replay,
                (299, false, 2) => Then::Runs,
                (409, false, 1) => {
                    again.is_problem(409, "IDEMPOTENCY_OUTCOME_UNKNOWN");
                    Then::Unknown
                }
                other => panic!("{guarantee:?} {status}: {first:?}, then {other:?}"),
            };
            assert_eq!(then, expected, "{guarantee:?} {status}");
            let expires = first.text("idempotency-expires").is_some();
            assert_eq!(expires, then == Then::Replay, "{guarantee:?} {status}: {first:?}");
        }
    }
}
