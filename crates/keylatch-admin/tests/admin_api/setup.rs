//! A router over a memory store whose clock the test moves, and a client of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use keylatch::machine::{Claim, Claimed, Completion};
use keylatch::store::{At, Store as _};
use keylatch::{Clock, Fingerprint, Guarantee, Key, Outcome, Policy, Record, Scope, Timestamp, memory};
use keylatch_admin::{Access, Admin, Operator, Tokens};
use serde_json::Value;
use tower::ServiceExt as _;

pub(crate) const VIEWER: &str = "viewer-0123456789abcdef0123456789";
pub(crate) const OPERATOR: &str = "operator-0123456789abcdef01234567";

/// The clock of the store.
pub(crate) const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

pub(crate) struct World {
    pub(crate) store: memory::Store,
    pub(crate) clock: Clock,
    pub(crate) admin: Admin,
    pub(crate) router: Router,
}

/// An answer of the API.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().expect("a problem").to_owned()
    }
}

impl World {
    /// With a token for each role.
    pub(crate) fn new() -> Self {
        let tokens = Tokens::parse(&format!("view:grafana:{VIEWER}\noperate:alice:{OPERATOR}\n")).unwrap();
        Self::with(Access::new(Some(tokens), IpAddr::from([10, 0, 0, 1])))
    }

    pub(crate) fn with(access: Access) -> Self {
        let clock = Clock::manual(START);
        let store = memory::Store::with_clock(clock.clone());
        let admin = Admin::new(Operator::new(Arc::new(store.clone())), access);
        let router = admin.router();
        Self { store, clock, admin, router }
    }

    /// Sends a request as it is.
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, text: String::from_utf8(body.to_vec()).unwrap() }
    }

    pub(crate) async fn get(&self, token: &str, path: &str) -> Answer {
        self.send(request(Method::GET, path, Some(token), None)).await
    }

    pub(crate) async fn post(&self, token: &str, path: &str, body: &Value) -> Answer {
        self.send(request(Method::POST, path, Some(token), Some(body))).await
    }

    /// Claims `key` as the caller `user-7` of `POST /orders`.
    pub(crate) async fn claim(&self, key: &str, guarantee: Guarantee) -> Record {
        let scope = Scope::new("user-7").unwrap().for_operation("POST /orders").unwrap();
        let fingerprint = Fingerprint::of([key.as_bytes()]);
        let claim = Claim::new(scope, Key::new(key).unwrap(), fingerprint, guarantee, &Policy::default());
        match self.store.claim(claim).await.unwrap() {
            At { value: Claimed::Won(record), .. } => record,
            held => panic!("{held:?}"),
        }
    }

    /// A record whose run died: its outcome is unknown.
    pub(crate) async fn unknown(&self, key: &str) -> Record {
        let record = self.claim(key, Guarantee::AtMostOnce).await;
        self.clock.advance(keylatch::LEASE + Duration::from_secs(1));
        record
    }

    /// A record with an answer of `body`.
    pub(crate) async fn completed(&self, key: &str, body: &'static str) -> Record {
        let record = self.claim(key, Guarantee::Fenced).await;
        let completion = Completion::new(Outcome::bytes(body), &Policy::default());
        let _ = self.store.complete(record.lease(), completion).await.unwrap();
        record
    }
}

pub(crate) fn request(method: Method, path: &str, token: Option<&str>, body: Option<&Value>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path).header("host", "admin.example");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    match body {
        Some(body) => request.header("content-type", "application/json").body(Body::from(body.to_string())).unwrap(),
        None => request.body(Body::empty()).unwrap(),
    }
}
