//! The real server on a free port and stores of its own, and a customer who asks it.
#![allow(dead_code, reason = "each file of tests needs its own part of this")]

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;
use testing_support::server::{Program, Server, StartError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::setup::{Setup, Stores};

/// A running server. Its stores go when it does.
pub(crate) struct Shop {
    pub(crate) server: Server,
    pub(crate) stores: Stores,
    http: reqwest::Client,
}

/// What the server answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: String,
}

impl Shop {
    pub(crate) async fn open(setup: Setup) -> Self {
        let stores = setup.stores();
        Self::start(&stores.program(), stores).await.expect("the server starts")
    }

    pub(crate) async fn start(program: &Program, stores: Stores) -> Result<Self, StartError> {
        let http = reqwest::Client::builder().no_proxy().build().expect("a plain client needs nothing");
        Ok(Self { server: program.start().await?, stores, http })
    }

    /// Stops the server with SIGTERM and starts it again on the same stores.
    pub(crate) async fn reopen(self) -> Self {
        let (status, printed) = self.server.terminate().await;
        assert!(status.success(), "{printed}");
        Self::start(&self.stores.program(), self.stores).await.expect("the server starts again")
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.server.url()))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        answer(self.request(Method::GET, path)).await
    }

    pub(crate) async fn order(&self, key: &str, body: &str) -> Answer {
        answer(self.placing(key, body)).await
    }

    /// The request that places an order, as `curl -d` sends it; to be added to.
    pub(crate) fn placing(&self, key: &str, body: &str) -> RequestBuilder {
        self.request(Method::POST, "/api/orders")
            .header("content-type", "application/json")
            .header("idempotency-key", key)
            .body(body.to_owned())
    }

    /// A customer who has sent the head of an order of so many bytes, as `curl` does before a large body.
    pub(crate) async fn announced(&self, key: &str, bytes: usize) -> TcpStream {
        let authority = self.server.authority();
        let head = format!(
            "POST /api/orders HTTP/1.1\r\nHost: {authority}\r\nIdempotency-Key: {key}\r\nContent-Length: {bytes}\r\n\
             Expect: 100-continue\r\nConnection: close\r\n\r\n"
        );
        let mut customer = TcpStream::connect(authority).await.expect("it listens");
        customer.write_all(head.as_bytes()).await.expect("it takes the head");
        customer
    }

    /// What is answered to the head of an order of so many bytes.
    pub(crate) async fn announce(&self, key: &str, bytes: usize) -> String {
        let mut customer = self.announced(key, bytes).await;
        let mut answer = String::new();
        customer.read_to_string(&mut answer).await.expect("it answers");
        answer
    }

    /// All orders of a user.
    pub(crate) async fn orders_of(&self, user_id: &str) -> Vec<Value> {
        let page = self.get(&format!("/api/orders?user_id={user_id}&limit=1000")).await;
        let Value::Array(orders) = page.json()["orders"].take() else { panic!("{page:?}") };
        orders
    }
}

pub(crate) async fn answer(request: RequestBuilder) -> Answer {
    let response = request.send().await.expect("the server answers");
    let (status, headers) = (response.status(), response.headers().clone());
    Answer { status, headers, body: response.text().await.expect("the answer is whole") }
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of a problem.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16(), "{self:?}");
        assert_eq!(problem["error"], problem["title"], "{self:?}");
        assert_eq!(self.header("cache-control"), Some("no-store"), "{self:?}");
        problem["code"].as_str().expect("a problem has a code").to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("it is text"))
    }

    pub(crate) fn is_replay(&self) -> bool {
        self.header("idempotent-replayed") == Some("true")
    }
}

/// The order of the README: its key and its body, taken from there.
pub(crate) fn readme_order() -> (&'static str, &'static str) {
    const README: &str = include_str!("../../../../README.md");
    let between = |start: &str, end: &str| {
        let from = README.find(start).expect("the README has the curl") + start.len();
        &README[from..][..README[from..].find(end).expect("it ends")]
    };
    (between("-H \"Idempotency-Key: ", "\""), between("-d '", "'"))
}
