//! The gateway's own answers, beside those of the layer: `application/problem+json`.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};

/// Why the gateway itself answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Problem {
    /// 400: the request can be read in two ways, or not at all; with the reason.
    Refused(&'static str),
    /// 401: the route requires a token, and there is no valid one; with the reason.
    TokenInvalid(&'static str),
    /// 405: CONNECT or TRACE.
    MethodRefused,
    /// 503: there is no room for the body of the request.
    Full,
    /// 502: nothing was sent to the upstream.
    Unreachable,
    /// 502: the request was sent, and no complete answer came back. The flag says whether it may be sent again.
    Failed { retryable: bool },
    /// 504: the request was sent, and no answer came in time. The flag says whether it may be sent again.
    TimedOut { retryable: bool },
}

/// Where each problem is explained.
const PAGES: &str = "https://github.com/keylatch/keylatch/blob/main/docs/problems/";

impl Problem {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Refused(_) => StatusCode::BAD_REQUEST,
            Self::TokenInvalid(_) => StatusCode::UNAUTHORIZED,
            Self::MethodRefused => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unreachable | Self::Failed { .. } => StatusCode::BAD_GATEWAY,
            Self::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Full => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Refused(_) => "REQUEST_REFUSED",
            Self::TokenInvalid(_) => "TOKEN_INVALID",
            Self::MethodRefused => "METHOD_REFUSED",
            Self::Full => "GATEWAY_FULL",
            Self::Unreachable => "UPSTREAM_UNREACHABLE",
            Self::Failed { .. } => "UPSTREAM_FAILED",
            Self::TimedOut { .. } => "UPSTREAM_TIMEOUT",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Refused(_) => "Request refused",
            Self::TokenInvalid(_) => "Token missing or invalid",
            Self::MethodRefused => "Method refused",
            Self::Full => "The gateway has no room for the request",
            Self::Unreachable => "The service cannot be reached",
            Self::Failed { .. } => "The service did not answer",
            Self::TimedOut { .. } => "The service did not answer in time",
        }
    }

    fn is_retryable(self) -> bool {
        match self {
            Self::Refused(_) | Self::TokenInvalid(_) | Self::MethodRefused => false,
            Self::Unreachable | Self::Full => true,
            Self::Failed { retryable } | Self::TimedOut { retryable } => retryable,
        }
    }

    fn detail(self) -> &'static str {
        const AGAIN: &str = "The request was sent to the service, and its answer is missing. It can be sent again.";
        const UNKNOWN: &str = "The request was sent to the service, and its answer is missing: whether it took effect is \
                               not known. Find out before you send it in another way.";
        match self {
            Self::Refused(why) | Self::TokenInvalid(why) => why,
            Self::MethodRefused => "CONNECT and TRACE do not pass this gateway.",
            Self::Full => "Too many bodies of requests are in memory. Send the request again with the same key.",
            Self::Unreachable => "Nothing was sent to the service. Send the request again with the same key.",
            Self::Failed { retryable: true } | Self::TimedOut { retryable: true } => AGAIN,
            Self::Failed { retryable: false } | Self::TimedOut { retryable: false } => UNKNOWN,
        }
    }

    /// The answer, with the problem itself in its extensions.
    pub(crate) fn response(self) -> Response<Bytes> {
        let body = serde_json::json!({
            "type": format!("{PAGES}{}.md", self.code().to_ascii_lowercase().replace('_', "-")),
            "title": self.title(),
            "status": self.status().as_u16(),
            "detail": self.detail(),
            "code": self.code(),
            "retryable": self.is_retryable(),
            "error": self.title(),
        });
        let mut response = Response::new(Bytes::from(body.to_string()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match self {
            // Whatever follows on its connection cannot be trusted.
            Self::Refused(_) => drop(headers.insert(CONNECTION, HeaderValue::from_static("close"))),
            Self::MethodRefused => {
                headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            // RFC 6750, section 3.1.
            Self::TokenInvalid(_) => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"invalid_token\""));
            }
            Self::Full => drop(headers.insert(RETRY_AFTER, HeaderValue::from_static("1"))),
            Self::Unreachable | Self::Failed { .. } | Self::TimedOut { .. } => {}
        }
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// One problem of each kind. A new kind does not compile until it is here, and then needs its page.
    fn problems() -> Vec<Problem> {
        let next = |problem: &Problem| match problem {
            Problem::Refused(_) => Some(Problem::TokenInvalid("why")),
            Problem::TokenInvalid(_) => Some(Problem::MethodRefused),
            Problem::MethodRefused => Some(Problem::Full),
            Problem::Full => Some(Problem::Unreachable),
            Problem::Unreachable => Some(Problem::Failed { retryable: true }),
            Problem::Failed { .. } => Some(Problem::TimedOut { retryable: true }),
            Problem::TimedOut { .. } => None,
        };
        std::iter::successors(Some(Problem::Refused("why")), next).collect()
    }

    #[test]
    fn every_problem_has_its_page() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for problem in problems() {
            let body: serde_json::Value = serde_json::from_slice(problem.response().body()).unwrap();
            let page = body["type"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
            let text = fs::read_to_string(root.join("docs/problems").join(&page)).expect(&page);
            assert!(text.starts_with(&format!("# {}\n", problem.code())), "{page}");
            assert!(text.contains(&format!("\nStatus {}.\n", problem.status().as_u16())), "{page}");
            let guide = fs::read_to_string(root.join("docs/GATEWAY.md")).expect("the gateway's guide");
            assert!(guide.contains(&format!("problems/{page}")), "the guide does not link to {page}");
        }
    }
}
