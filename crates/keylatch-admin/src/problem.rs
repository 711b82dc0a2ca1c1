//! The API's own answers: `application/problem+json`.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use keylatch::store::ErrorKind;
use serde::Serialize;
use utoipa::ToSchema;

use crate::ops::{Error, Now};

/// Where each problem is explained.
const PAGES: &str = "https://github.com/keylatch/keylatch/blob/main/docs/problems/";

/// Why a request has no other answer.
#[derive(Debug)]
pub(crate) enum Problem {
    /// 401: the token is missing or wrong.
    TokenRequired,
    /// 403: there are no tokens, and other machines can reach the listener.
    Closed,
    /// 403: the token's role may not do this.
    RoleTooWeak,
    /// 403: the request names another host.
    HostRefused,
    /// 403: the request comes from a page of another origin.
    OriginRefused,
    /// 404: there is no such route.
    NoRoute,
    /// 405: the route has other methods.
    NoMethod,
    /// 413: the body is too large.
    TooLarge,
    /// 415: the body is not declared as JSON.
    NotJson,
    /// 503: there are as many streams as there may be.
    Busy,
    /// The operation has no answer.
    Failed(Error),
}

/// What a problem says.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Document {
    /// The page that explains it.
    #[serde(rename = "type")]
    page: String,
    /// What went wrong, in a few words.
    title: &'static str,
    /// The status.
    status: u16,
    /// What to know and do.
    detail: String,
    /// The machine-readable code.
    code: &'static str,
    /// Whether the same request, sent again, may succeed.
    retryable: bool,
    /// The same as `title`.
    error: &'static str,
    /// What is there now, if it is not what the request expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    now: Option<Now>,
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Problem {
    /// Status, code and title.
    fn kind(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::TokenRequired => (StatusCode::UNAUTHORIZED, "ADMIN_TOKEN_REQUIRED", "Operator's token required"),
            Self::Closed => (StatusCode::FORBIDDEN, "ADMIN_CLOSED", "Administration is closed"),
            Self::RoleTooWeak => (StatusCode::FORBIDDEN, "ADMIN_ROLE_TOO_WEAK", "The token's role may not do this"),
            Self::HostRefused => (StatusCode::FORBIDDEN, "ADMIN_HOST_REFUSED", "Host refused"),
            Self::OriginRefused => (StatusCode::FORBIDDEN, "ADMIN_ORIGIN_REFUSED", "Origin refused"),
            Self::NoRoute => (StatusCode::NOT_FOUND, "ADMIN_NOT_FOUND", "Not found"),
            Self::NoMethod => (StatusCode::METHOD_NOT_ALLOWED, "ADMIN_METHOD_NOT_ALLOWED", "Method not allowed"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "REQUEST_TOO_LARGE", "Request body too large"),
            Self::NotJson => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "ADMIN_REQUEST_INVALID", "Request invalid"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "ADMIN_BUSY", "Too many live streams"),
            Self::Failed(error) => of_operation(error),
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::TokenRequired => "Send Authorization: Bearer and your token.".to_owned(),
            Self::Closed => {
                "No tokens are set, and other machines can reach this address. Set tokens, or listen on a loopback address."
                    .to_owned()
            }
            Self::RoleTooWeak => "This needs a token with the role operate.".to_owned(),
            Self::HostRefused => {
                "Without tokens, only requests to localhost or to a loopback address are answered, so that no web page \
                 can send them. Use http://localhost, or set tokens."
                    .to_owned()
            }
            Self::OriginRefused => {
                "The request comes from a page of another origin. Open the console at the address of this listener, and let \
                 a proxy in front of it pass the Host header on."
                    .to_owned()
            }
            Self::NoRoute => "GET api/v1/openapi.json lists the routes.".to_owned(),
            Self::NoMethod => "The Allow header lists the methods of this path.".to_owned(),
            Self::TooLarge => "The body of this request is larger than the route takes.".to_owned(),
            Self::NotJson => "Send the body with Content-Type: application/json.".to_owned(),
            Self::Busy => "Close another console, or try again later.".to_owned(),
            Self::Failed(error) => sentence(&error.to_string()),
        }
    }

    fn is_retryable(&self) -> bool {
        match self {
            Self::Busy => true,
            Self::Failed(error) => error.is_retryable(),
            _ => false,
        }
    }

    fn document(self) -> Document {
        let (status, code, title) = self.kind();
        let page = format!("{PAGES}{}.md", code.to_ascii_lowercase().replace('_', "-"));
        let (detail, retryable) = (self.detail(), self.is_retryable());
        let now = match self {
            Self::Failed(Error::Stale(now) | Error::Alive(now) | Error::NotPossible { now, .. }) => Some(now),
            _ => None,
        };
        Document { page, title, status: status.as_u16(), detail, code, retryable, error: title, now }
    }
}

fn of_operation(error: &Error) -> (StatusCode, &'static str, &'static str) {
    match error {
        Error::Invalid { .. } => (StatusCode::BAD_REQUEST, "ADMIN_REQUEST_INVALID", "Request invalid"),
        Error::NotFound(_) => (StatusCode::NOT_FOUND, "ADMIN_NOT_FOUND", "Not found"),
        Error::Stale(_) => (StatusCode::CONFLICT, "ADMIN_EPOCH_STALE", "Epoch is stale"),
        Error::Alive(_) => (StatusCode::CONFLICT, "ADMIN_OWNER_ALIVE", "The owner of the run is alive"),
        Error::NotPossible { .. } => (StatusCode::CONFLICT, "ADMIN_NOT_POSSIBLE", "Not possible now"),
        Error::Unsupported { .. } => (StatusCode::NOT_IMPLEMENTED, "ADMIN_UNSUPPORTED", "Not supported here"),
        Error::Audit(_) => (StatusCode::SERVICE_UNAVAILABLE, "ADMIN_AUDIT_FAILED", "Audit file cannot be written"),
        Error::Store(error) => match error.kind() {
            ErrorKind::Corrupt => {
                (StatusCode::INTERNAL_SERVER_ERROR, "ADMIN_RECORD_UNREADABLE", "A stored record cannot be read")
            }
            ErrorKind::Refused => (StatusCode::INTERNAL_SERVER_ERROR, "ADMIN_STORE_REFUSED", "The store refused"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "ADMIN_STORE_UNAVAILABLE", "Store unavailable"),
        },
    }
}

/// The words of an error, as a sentence.
fn sentence(words: &str) -> String {
    let mut letters = words.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, retryable) = (self.kind().0, self.is_retryable());
        let mut response = (status, Json(self.document())).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if retryable {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io;
    use std::path::Path;

    use keylatch::store;

    use super::*;

    /// One problem of each kind. A new kind does not compile until it is in `next`, and then needs its page.
    fn problems() -> Vec<Problem> {
        let next = |problem: &Problem| match problem {
            Problem::TokenRequired => Some(Problem::Closed),
            Problem::Closed => Some(Problem::RoleTooWeak),
            Problem::RoleTooWeak => Some(Problem::HostRefused),
            Problem::HostRefused => Some(Problem::OriginRefused),
            Problem::OriginRefused => Some(Problem::NoRoute),
            Problem::NoRoute => Some(Problem::NoMethod),
            Problem::NoMethod => Some(Problem::TooLarge),
            Problem::TooLarge => Some(Problem::Busy),
            Problem::Busy => Some(Problem::NotJson),
            Problem::NotJson | Problem::Failed(_) => None,
        };
        let of_store = |kind| Error::Store(store::Error::new(kind, "why"));
        let failed = [
            Error::invalid("field", "why"),
            Error::NotFound("record"),
            Error::Stale(Now::Gone),
            Error::Alive(Now::Gone),
            Error::NotPossible { why: "why".to_owned(), now: Now::Gone },
            Error::Unsupported { what: "what", stores: "which" },
            Error::Audit(io::Error::other("why")),
            of_store(ErrorKind::Unavailable),
            of_store(ErrorKind::NotKnown),
            of_store(ErrorKind::Corrupt),
            of_store(ErrorKind::Refused),
        ];
        let all = std::iter::successors(Some(Problem::TokenRequired), next);
        all.chain(failed.map(Problem::Failed)).collect()
    }

    #[test]
    fn every_problem_has_its_page() {
        let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/problems");
        for problem in problems() {
            let is_second_status = matches!(problem, Problem::NotJson);
            let document = problem.document();
            let page = document.page.rsplit('/').next().unwrap().to_owned();
            let text = fs::read_to_string(pages.join(&page)).expect(&page);
            assert!(text.starts_with(&format!("# {}\n", document.code)), "{page}");
            assert!(is_second_status || text.contains(&format!("\nStatus {}.\n", document.status)), "{page}");
        }
    }
}
