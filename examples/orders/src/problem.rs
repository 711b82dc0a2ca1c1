//! The orders API's own problems, in the form of Keylatch's: `application/problem+json` (RFC 9457).

use axum::Json;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use uuid::Uuid;

use crate::order::{Faults, Invalid};

/// Why a request failed.
#[derive(Debug)]
pub(crate) enum Problem {
    /// 400: the body is not valid JSON. The text says where the error is.
    NotJson(String),
    /// 422: fields of the order are wrong.
    Order(Faults),
    /// 400: a query parameter is wrong.
    Query {
        /// The parameter.
        field: &'static str,
        /// What it must be.
        message: String,
    },
    /// 404: there is no such order.
    NoOrder,
    /// 404: there is nothing at this path.
    NoRoute,
    /// 405: the path is right, the method is not.
    NoMethod,
    /// 409: the caller's key has an order, but its record is gone.
    Taken(Uuid),
    /// 503: the store cannot be read or written now.
    Unavailable,
}

/// Where each problem is explained.
const PAGE: &str = "https://github.com/keylatch/keylatch/blob/main/examples/orders/README.md#problems";

impl Problem {
    /// Logs the error; the client is only told that something failed.
    pub(crate) fn unavailable(error: &dyn std::error::Error) -> Self {
        tracing::error!(%error, "the store failed");
        Self::Unavailable
    }

    const fn kind(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::NotJson(_) => (StatusCode::BAD_REQUEST, "BODY_NOT_JSON", "Body is not JSON"),
            Self::Order(_) => (StatusCode::UNPROCESSABLE_ENTITY, "ORDER_INVALID", "Order is not valid"),
            Self::Query { .. } => (StatusCode::BAD_REQUEST, "QUERY_INVALID", "Query is not valid"),
            Self::NoOrder => (StatusCode::NOT_FOUND, "ORDER_NOT_FOUND", "Order not found"),
            Self::NoRoute => (StatusCode::NOT_FOUND, "NOT_FOUND", "Not found"),
            Self::NoMethod => (StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", "Method not allowed"),
            Self::Taken(_) => (StatusCode::CONFLICT, "ORDER_ALREADY_TAKEN", "Order already taken under this key"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "STORE_UNAVAILABLE", "Store unavailable"),
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::NotJson(why) => format!("The body could not be read as JSON: {why}."),
            Self::Order(faults) => {
                let named: Vec<_> = faults.named.iter().map(|it| format!("{} {}", it.field, it.message)).collect();
                let more = if faults.more > 0 { format!("; and {} more", faults.more) } else { String::new() };
                format!("{}{more}. Nothing was ordered.", named.join("; "))
            }
            Self::Query { field, message } => format!("{field} {message}."),
            Self::NoOrder => "There is no order with this order_id.".into(),
            Self::NoRoute => "Use POST /api/orders, GET /api/orders/{id} or GET /api/orders?user_id=….".into(),
            Self::NoMethod => "The Allow header lists the methods of this path.".into(),
            Self::Taken(_) => "An order was taken under this key before, longer ago than keys are kept. Use a new key \
                               for a new order."
                .into(),
            Self::Unavailable => "Send the request again, with the same key if it had one.".into(),
        }
    }
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        match invalid {
            Invalid::NotJson(why) => Self::NotJson(why),
            Invalid::Faults(faults) => Self::Order(faults),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, code, title) = self.kind();
        let retryable = matches!(self, Self::Unavailable);
        let mut body = json!({
            "type": PAGE,
            "title": title,
            "status": status.as_u16(),
            "detail": self.detail(),
            "code": code,
            "retryable": retryable,
            "error": title,
        });
        match &self {
            Self::Order(faults) => body["errors"] = json!(faults.named),
            Self::Query { field, message } => body["errors"] = json!([{ "field": field, "message": message }]),
            Self::Taken(order_id) => body["order_id"] = json!(order_id),
            _ => {}
        }
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if retryable {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
