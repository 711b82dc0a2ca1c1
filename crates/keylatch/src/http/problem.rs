//! Keylatch's own answers: `application/problem+json` ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)).

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use crate::{InvalidKey, Quota, Refused};

/// Why a request got an answer from Keylatch instead of the handler.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// 400: a key is required, and there is none.
    KeyRequired,
    /// 400: the key is not valid.
    KeyInvalid(InvalidKey),
    /// 400: there is more than one key.
    KeyRepeated,
    /// 400: the caller cannot be determined.
    ScopeRequired,
    /// 400: the body was cut off or could not be read.
    BodyIncomplete,
    /// 408: the body arrived too slowly.
    BodyTooSlow,
    /// 409: the same request is running now.
    InProgress,
    /// 409: a run ended half-way in `AtMostOnce`, and nobody has resolved it.
    OutcomeUnknown,
    /// 409: it took effect, but its answer was not kept.
    NotRetained {
        /// The status of the original answer.
        status: StatusCode,
        /// SHA-256 of its body, if all of it was seen.
        digest: Option<[u8; 32]>,
    },
    /// 410: it took effect, and its answer is no longer kept.
    Expired,
    /// 413: the body is over this many bytes; `None` if it is the limit of an outer layer.
    TooLarge(Option<usize>),
    /// 422: the key was used with a different request.
    KeyReused,
    /// 429: a limit is reached.
    Quota(Quota),
    /// 500: the handler failed without an answer. The flag says whether the same request may be sent again.
    HandlerFailed {
        /// Whether nothing of it was recorded.
        retryable: bool,
    },
    /// 500: two layers guard this request under one key. Neither ran it. Remove one of them.
    GuardedTwice,
    /// 500: the handler asks for something that its layer does not provide; see [`Unguarded`](super::Unguarded).
    /// Nothing was recorded.
    NotSetUp,
    /// 503: the store cannot say whether this ran before.
    StoreUnavailable,
    /// 503: the region that decides about this key cannot be reached, or does not decide about it. Nothing ran.
    HomeUnreachable,
    /// 504: the request was sent to the region that decides about this key, and no answer came back. It may have run
    /// there.
    HomeSilent,
}

/// What all answers to one problem have in common.
struct Kind {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    retryable: bool,
    retry_after: Option<&'static str>,
}

impl Problem {
    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.kind().status
    }

    /// The machine-readable code, such as `IDEMPOTENCY_KEY_REUSED`.
    pub fn code(&self) -> &'static str {
        self.kind().code
    }

    /// What went wrong, in a few words of English.
    pub fn title(&self) -> &'static str {
        self.kind().title
    }

    /// Whether the same request, sent again with the same key, may succeed.
    pub fn is_retryable(&self) -> bool {
        self.kind().retryable
    }

    fn kind(&self) -> Kind {
        let kind = |status, code, title, retryable, retry_after| Kind { status, code, title, retryable, retry_after };
        match self {
            Self::KeyRequired => {
                kind(StatusCode::BAD_REQUEST, "IDEMPOTENCY_KEY_REQUIRED", "Idempotency key required", false, None)
            }
            Self::KeyInvalid(_) | Self::KeyRepeated => {
                kind(StatusCode::BAD_REQUEST, "IDEMPOTENCY_KEY_INVALID", "Idempotency key invalid", false, None)
            }
            Self::ScopeRequired => {
                kind(StatusCode::BAD_REQUEST, "IDEMPOTENCY_SCOPE_REQUIRED", "Caller cannot be determined", false, None)
            }
            Self::BodyIncomplete => {
                kind(StatusCode::BAD_REQUEST, "REQUEST_INCOMPLETE", "Request body incomplete", true, None)
            }
            Self::BodyTooSlow => {
                kind(StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT", "Request body too slow", true, None)
            }
            Self::InProgress => kind(
                StatusCode::CONFLICT,
                "IDEMPOTENCY_KEY_IN_PROGRESS",
                "Request with this idempotency key is in progress",
                true,
                Some("1"),
            ),
            Self::OutcomeUnknown => kind(
                StatusCode::CONFLICT,
                "IDEMPOTENCY_OUTCOME_UNKNOWN",
                "Outcome of the original request is unknown",
                false,
                None,
            ),
            Self::NotRetained { .. } => kind(
                StatusCode::CONFLICT,
                "IDEMPOTENCY_RESPONSE_NOT_RETAINED",
                "Request took effect, but its response was not retained",
                false,
                None,
            ),
            Self::Expired => kind(StatusCode::GONE, "IDEMPOTENCY_KEY_EXPIRED", "Idempotency key expired", false, None),
            Self::TooLarge(_) => {
                kind(StatusCode::PAYLOAD_TOO_LARGE, "REQUEST_TOO_LARGE", "Request body too large", false, None)
            }
            Self::KeyReused => kind(
                StatusCode::UNPROCESSABLE_ENTITY,
                "IDEMPOTENCY_KEY_REUSED",
                "Idempotency key reused with different request",
                false,
                None,
            ),
            Self::Quota(_) => kind(
                StatusCode::TOO_MANY_REQUESTS,
                "IDEMPOTENCY_QUOTA_EXCEEDED",
                "Too many requests from this caller",
                true,
                Some("1"),
            ),
            Self::HandlerFailed { retryable } => kind(
                StatusCode::INTERNAL_SERVER_ERROR,
                "HANDLER_FAILED",
                "The service failed to answer",
                *retryable,
                None,
            ),
            Self::GuardedTwice | Self::NotSetUp => kind(
                StatusCode::INTERNAL_SERVER_ERROR,
                "IDEMPOTENCY_NOT_SET_UP",
                "The service is not set up for this request",
                false,
                None,
            ),
            Self::StoreUnavailable => kind(
                StatusCode::SERVICE_UNAVAILABLE,
                "IDEMPOTENCY_STORE_UNAVAILABLE",
                "Idempotency store unavailable",
                true,
                Some("1"),
            ),
            Self::HomeUnreachable => kind(
                StatusCode::SERVICE_UNAVAILABLE,
                "IDEMPOTENCY_HOME_UNREACHABLE",
                "Home region of the idempotency key unreachable",
                true,
                Some("1"),
            ),
            Self::HomeSilent => kind(
                StatusCode::GATEWAY_TIMEOUT,
                "IDEMPOTENCY_HOME_SILENT",
                "Home region of the idempotency key did not answer",
                true,
                Some("1"),
            ),
        }
    }

    /// What the client should know and do, in sentences of English.
    pub fn detail(&self) -> String {
        let detail = match self {
            Self::KeyRequired => {
                "Send an Idempotency-Key header: a new value for every new request, such as a UUID, and the same value \
                 when you send a request again."
            }
            Self::KeyInvalid(why) => return format!("Idempotency-Key is invalid: {why}."),
            Self::KeyRepeated => "Send one Idempotency-Key header line, with one key.",
            Self::ScopeRequired => "The request does not say who calls, so its key has no name space. Nothing ran.",
            Self::BodyIncomplete => {
                "The request body ended before it was complete. Nothing ran; send the request again with the same key."
            }
            Self::BodyTooSlow => {
                "The request body arrived too slowly. Nothing ran; send the request again with the same key."
            }
            Self::InProgress => {
                "A request with this key is running now. Send the request again after the time in Retry-After, or with \
                 Prefer: wait=N to wait for the answer."
            }
            Self::OutcomeUnknown => {
                "An earlier try of this request ended half-way. It is not known whether it took effect, so the request \
                 is not run again until the operator has resolved it."
            }
            Self::NotRetained { .. } => {
                "This request took effect before. Its response was too large to keep, or was a stream; original_status \
                 is its status. Read the result from the service."
            }
            Self::Expired => {
                "This request took effect before, and its response is no longer kept. It is not run again; use a new \
                 key for a new request."
            }
            Self::TooLarge(Some(limit)) => return format!("The body is over the limit of {limit} bytes. Nothing ran."),
            Self::TooLarge(None) => "The body is over the limit of this service. Nothing ran.",
            Self::KeyReused => {
                "This key belongs to a request with another method, path, query, content type or body. Use a new key \
                 for a new request."
            }
            Self::Quota(Quota::RecordsPerScope) => "Too many idempotency keys of this caller are still kept.",
            Self::Quota(Quota::RunningPerCaller) => "This caller has too many requests running.",
            Self::Quota(Quota::Running) => "This service has too many requests running.",
            Self::HandlerFailed { retryable: true } => {
                "Nothing was recorded. Send the request again with the same key."
            }
            Self::HandlerFailed { retryable: false } => "The failure was recorded, and this request is not run again.",
            Self::GuardedTwice => "Two layers of this service guard this request, so its handler did not run.",
            Self::NotSetUp => {
                "The handler of this request asks for something that the layer around it does not provide. Nothing was \
                 recorded. The log of the service says what to change."
            }
            Self::StoreUnavailable => {
                "The service cannot tell now whether this request ran before. Send it again with the same key: if it \
                 has an answer, you get that answer."
            }
            Self::HomeUnreachable => {
                "Another region decides about this key, and it cannot be reached now. Nothing ran. Send the request again \
                 with the same key, here or there."
            }
            Self::HomeSilent => {
                "Another region decides about this key. The request was sent there, and no answer came back, so it may \
                 have run. Send it again with the same key, here or there: if it has an answer, you get that answer."
            }
        };
        detail.to_owned()
    }

    /// The answer, with the problem itself in its extensions: code around the layer finds it there, and may give it in
    /// another format. Outer layers recognise by it that the answer is not a handler's.
    pub fn response(&self) -> Response<Bytes> {
        let kind = self.kind();
        let mut body = serde_json::json!({
            "type": format!("{PAGES}{}.md", kind.code.to_ascii_lowercase().replace('_', "-")),
            "title": kind.title,
            "status": kind.status.as_u16(),
            "detail": self.detail(),
            "code": kind.code,
            "retryable": kind.retryable,
            "error": kind.title,
        });
        if let Self::NotRetained { status, digest } = self {
            body["original_status"] = status.as_u16().into();
            body["original_digest"] = digest.map(digest_field).into();
        }
        let mut response = Response::new(Bytes::from(body.to_string()));
        *response.status_mut() = kind.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = kind.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        response.extensions_mut().insert(self.clone());
        response
    }
}

/// Where each problem is explained.
const PAGES: &str = "https://github.com/keylatch/keylatch/blob/main/docs/problems/";

/// A digest as `sha-256=` and hexadecimal digits.
fn digest_field(digest: [u8; 32]) -> String {
    format!("sha-256={}", hex::encode(digest))
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Mismatch => Self::KeyReused,
            Refused::InProgress => Self::InProgress,
            Refused::Unknown => Self::OutcomeUnknown,
            Refused::Expired => Self::Expired,
            Refused::Quota(quota) => Self::Quota(quota),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    fn read(path: impl AsRef<Path>) -> String {
        let path = root().join(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// One problem of each kind. A new kind does not compile until it is here, and then needs its page.
    fn problems() -> Vec<Problem> {
        let next = |problem: &Problem| match problem {
            Problem::KeyRequired => Some(Problem::KeyInvalid(InvalidKey::Empty)),
            Problem::KeyInvalid(_) => Some(Problem::KeyRepeated),
            Problem::KeyRepeated => Some(Problem::ScopeRequired),
            Problem::ScopeRequired => Some(Problem::BodyIncomplete),
            Problem::BodyIncomplete => Some(Problem::BodyTooSlow),
            Problem::BodyTooSlow => Some(Problem::InProgress),
            Problem::InProgress => Some(Problem::OutcomeUnknown),
            Problem::OutcomeUnknown => Some(Problem::NotRetained { status: StatusCode::OK, digest: None }),
            Problem::NotRetained { .. } => Some(Problem::Expired),
            Problem::Expired => Some(Problem::TooLarge(None)),
            Problem::TooLarge(_) => Some(Problem::KeyReused),
            Problem::KeyReused => Some(Problem::Quota(Quota::Running)),
            Problem::Quota(_) => Some(Problem::HandlerFailed { retryable: true }),
            Problem::HandlerFailed { .. } => Some(Problem::GuardedTwice),
            Problem::GuardedTwice => Some(Problem::NotSetUp),
            Problem::NotSetUp => Some(Problem::StoreUnavailable),
            Problem::StoreUnavailable => Some(Problem::HomeUnreachable),
            Problem::HomeUnreachable => Some(Problem::HomeSilent),
            Problem::HomeSilent => None,
        };
        std::iter::successors(Some(Problem::KeyRequired), next).collect()
    }

    /// The gateway and the operator API have their own problems, and their own tests for the pages.
    fn of_others(page: &str) -> bool {
        const PAGES: [&str; 4] = ["gateway-full.md", "method-refused.md", "request-refused.md", "token-invalid.md"];
        page.starts_with("upstream-") || page.starts_with("admin-") || PAGES.contains(&page)
    }

    #[test]
    fn every_problem_has_its_page_and_every_page_its_problem() {
        let mut pages = BTreeSet::new();
        for problem in problems() {
            let body: serde_json::Value = serde_json::from_slice(problem.response().body()).unwrap();
            let link = body["type"].as_str().unwrap();
            let page = link.rsplit('/').next().unwrap().to_owned();
            let text = read(Path::new("docs/problems").join(&page));
            assert!(text.starts_with(&format!("# {}\n", problem.code())), "{page}");
            assert!(text.contains(&format!("\nStatus {}.\n", problem.status().as_u16())), "{page}");
            assert!(read("README.md").contains(&format!("docs/problems/{page}")), "the README does not link to {page}");
            pages.insert(page);
        }
        let there: BTreeSet<_> = fs::read_dir(root().join("docs/problems"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|page| !of_others(page))
            .collect();
        assert_eq!(pages, there);
    }
}
