//! The server, as its operator sees it: start, stop, configuration, cleaning up, logs.

#[macro_use]
#[path = "../setup/mod.rs"]
mod setup;
#[path = "../shop/mod.rs"]
mod shop;

mod database;
mod traces;

use std::convert::Infallible;
use std::time::{Duration, Instant};

use keylatch::store::{PAGE_RECORDS_MAX, PageRequest};
use keylatch::{Fingerprint, Key, Policy, Scope};
use reqwest::{Method, StatusCode};
use serde_json::json;
use setup::Setup;
use shop::{Shop, answer, readme_order};
use testing_support::eventually;
use testing_support::server::{Program, StartError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// What the program prints instead of starting.
async fn refused(program: &Program) -> String {
    match program.start().await {
        Err(StartError::Ended { status, output }) => {
            assert_eq!(status.code(), Some(1), "{output}");
            output
        }
        other => panic!("{other:?}"),
    }
}

// ---- Start ---------------------------------------------------------------------------------------------

async fn a_start_says_where_it_is_and_what_to_try(setup: Setup) {
    let shop = Shop::open(setup).await;
    eventually(Duration::from_secs(10), "the whole greeting", async || shop.server.printed().contains("and once more"))
        .await;
    let greeting = shop.server.printed();
    for part in [
        format!("listening  {}", shop.server.url()),
        format!("storing    {}\n", shop.stores.shown()),
        "X-User-Id".to_owned(),
        "share one scope".to_owned(),
        "curl -i -X POST http://localhost:".to_owned(),
    ] {
        assert!(greeting.contains(&part), "{part:?} is not in\n{greeting}");
    }
    // What it says to try can be tried.
    let body = greeting.split("-d '").nth(1).and_then(|rest| rest.split('\'').next()).expect("it has a body");
    assert_eq!(shop.order("my-first-order", body).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_configuration_that_is_wrong_is_told_whole() {
    let stores = Setup::Sqlite.stores();
    let wrong = (stores.program())
        .env("PORT", "eighty")
        .env("HOST", "nowhere")
        .env("DATABASE_URL", "postgres://hidden:hidden@hidden:hidden/hidden")
        .env("DB_PASSWORD", "hidden")
        .env("REDIS_URL", "hidden")
        .env("KAFKA_BROKERS", "hidden");
    let printed = refused(&wrong).await;
    for part in [
        "PORT must be",
        "HOST must be",
        "DATABASE_URL must look like",
        "DB_USER is missing",
        "REDIS_URL must look like",
        "KAFKA_BROKERS must look like",
    ] {
        assert!(printed.contains(part), "{part:?} is not in\n{printed}");
    }
    assert!(!printed.contains("hidden"), "{printed}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_told() {
    let shop = Shop::open(Setup::Sqlite).await;
    let port = shop.server.authority().rsplit(':').next().expect("there is a port");
    let printed = refused(&Setup::Sqlite.stores().program().env("PORT", port)).await;
    assert!(printed.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{printed}");
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_told() {
    let stores = Setup::Sqlite.stores();
    let file = stores.directory().path().join("file");
    std::fs::write(&file, "").expect("there is room for a file");
    let printed = refused(&stores.program().env("DATA_DIR", file.join("data"))).await;
    assert!(printed.contains(&file.join("data").display().to_string()), "{printed}");
}

// ---- Cleaning up ---------------------------------------------------------------------------------------

async fn clean(shop: &Shop, authorization: Option<&str>) -> shop::Answer {
    let mut request = shop.request(Method::POST, "/api/admin/cleanup");
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    answer(request).await
}

#[tokio::test]
async fn cleaning_up_is_open_on_this_machine_only() {
    let home = Shop::open(Setup::Sqlite).await;
    assert_eq!(clean(&home, None).await.json(), json!({ "removed": 0, "tombstoned": 0, "complete": true }));

    let stores = Setup::Sqlite.stores();
    let abroad = Shop::start(&stores.program().env("HOST", "0.0.0.0"), stores).await.expect("it starts");
    for authorization in [None, Some("Bearer "), Some("Bearer x")] {
        let closed = clean(&abroad, authorization).await;
        assert_eq!((closed.status, closed.code().as_str()), (StatusCode::FORBIDDEN, "ADMIN_CLOSED"));
    }
}

#[tokio::test]
async fn a_token_opens_it_and_nothing_else_does() {
    for host in ["0.0.0.0", "127.0.0.1"] {
        let stores = Setup::Sqlite.stores();
        let program = stores.program().env("HOST", host).env("ADMIN_TOKEN", "T0ken-of-the-operator");
        let shop = Shop::start(&program, stores).await.expect("it starts");
        for wrong in [
            None,
            Some(""),
            Some("Bearer"),
            Some("Bearer "),
            Some("Bearer T0ken-of-the-operato"),
            Some("Bearer T0ken-of-the-operator2"),
            Some("Bearer t0ken-of-the-operator"),
            Some("Basic T0ken-of-the-operator"),
            Some("T0ken-of-the-operator"),
        ] {
            let refused = clean(&shop, wrong).await;
            assert_eq!(refused.code(), "ADMIN_TOKEN_REQUIRED", "{wrong:?}");
            assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
            assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
        }
        for right in ["Bearer T0ken-of-the-operator", "bearer T0ken-of-the-operator"] {
            assert_eq!(clean(&shop, Some(right)).await.status, StatusCode::OK);
        }
    }
}

async fn records_that_have_had_their_time_go_and_others_stay(setup: Setup) {
    const EXPIRED: usize = 2_345;
    let shop = Shop::open(setup).await;
    let (key, body) = readme_order();
    let first = shop.order(key, body).await;

    // Another process on the same records, whose own are over at once.
    let policy = Policy { retention: Duration::from_millis(1), tombstone: Duration::ZERO, ..Policy::default() };
    let engine = shop.stores.engine(policy).await;
    let mut runs = JoinSet::new();
    for number in 0..EXPIRED {
        let (scope, key) = (Scope::new(&format!("caller-{number}")), Key::new("k"));
        let (engine, scope, key) = (engine.clone(), scope.expect("it is one"), key.expect("it is one"));
        let done = async |_| Ok::<_, Infallible>(());
        runs.spawn(async move { engine.run(scope, key, Fingerprint::from_bytes([7; 32]), done).await });
    }
    while let Some(run) = runs.join_next().await {
        run.expect("it ends").expect("it runs");
    }

    let cleaned = clean(&shop, None).await.json();
    // Redis removes them by itself.
    let removed = if setup == Setup::Redis { 0 } else { EXPIRED };
    assert_eq!(cleaned["removed"], removed, "{cleaned}");
    assert_eq!(cleaned["complete"], true, "{cleaned}");
    let page = PageRequest { limit: PAGE_RECORDS_MAX, ..PageRequest::default() };
    let left = engine.store().list(page).await.expect("the store lists").value.records;
    // The others are of events.
    let of_requests = left.iter().filter(|record| record.scope.operation().starts_with("POST "));
    assert_eq!(of_requests.count(), 1, "only the record of the order stays");
    assert_eq!(clean(&shop, None).await.json()["removed"], 0);
    let again = shop.order(key, body).await;
    assert!(again.is_replay());
    assert_eq!(again.body, first.body);
}

// ---- What it shows -------------------------------------------------------------------------------------

async fn it_tells_how_it_is(setup: Setup) {
    let shop = Shop::open(setup).await;
    assert_eq!(shop.get("/health").await.json(), json!({ "status": "ok" }));
    assert_eq!(shop.get("/ready").await.json(), json!({ "status": "ready" }));
    let (key, body) = readme_order();
    shop.order(key, body).await;
    shop.order(key, body).await;
    shop.order(key, "{}").await;
    // The order's event is handled by a run of its own.
    let begun = Instant::now();
    let metrics = loop {
        let metrics = shop.get("/metrics").await;
        if metrics.body.contains("keylatch_events_total{fate=\"acknowledged\"} 1") {
            break metrics;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", metrics.body);
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    for line in [
        "keylatch_answers_total{answer=\"run\"} 2",
        "keylatch_relay_active 1",
        "keylatch_answers_total{answer=\"replay\"} 1",
        "keylatch_answers_total{answer=\"mismatch\"} 1",
        "keylatch_running 0",
    ] {
        assert!(metrics.body.lines().any(|found| found == line), "{line:?} is not in\n{}", metrics.body);
    }
    assert!(metrics.body.contains("keylatch_store_seconds_bucket{"), "{}", metrics.body);
}

async fn secrets_are_not_printed(setup: Setup) {
    let stores = setup.stores();
    let program = stores.program().env("RUST_LOG", "trace").env("ADMIN_TOKEN", "sentinel-token");
    let shop = Shop::start(&program, stores).await.expect("it starts");
    let body = r#"{"user_id":"sentinel-user","cart_id":"sentinel-cart","items":[]}"#;
    let caller = |request: reqwest::RequestBuilder| request.header("x-user-id", "sentinel-caller");
    for body in [body, body, "{\"sentinel-other\":1}"] {
        answer(caller(shop.placing("sentinel-key", body))).await;
    }
    answer(caller(shop.placing("sentinel-invalid", "{\"user_id\":\"sentinel\u{1}\"}"))).await;
    answer(caller(shop.placing("sentinel key", body))).await;
    clean(&shop, Some("Bearer sentinel-token")).await;
    clean(&shop, Some("Bearer sentinel-wrong")).await;
    let records = shop.request(Method::GET, "/admin/api/v1/records").header("authorization", "Bearer sentinel-token");
    assert!(answer(records).await.body.contains("sentinel-key"), "an operator sees the key");
    let metrics = shop.get("/metrics").await.body;
    let (status, printed) = shop.server.terminate().await;
    assert!(status.success());
    let audited = printed.contains("keylatch::audit") && printed.contains(r#"action="sweep""#);
    assert!(audited, "it logs something:\n{printed}");
    for shown in [printed, metrics] {
        assert!(!shown.contains("sentinel"), "{shown}");
    }
}

// ---- Stop ----------------------------------------------------------------------------------------------

/// A customer who has sent the head of an order under `key`, and whom the server has asked for its `length` bytes.
async fn half_way(shop: &Shop, key: &str, length: usize) -> TcpStream {
    let mut customer = shop.announced(key, length).await;
    let mut asked = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    customer.read_exact(&mut asked).await.expect("it asks for the body");
    assert!(asked.starts_with(b"HTTP/1.1 100 "), "{:?}", String::from_utf8_lossy(&asked));
    customer
}

async fn a_request_under_way_is_answered_before_the_end(setup: Setup) {
    let shop = Shop::open(setup).await;
    let (key, body) = readme_order();
    let mut customer = half_way(&shop, key, body.len()).await;
    let authority = shop.server.authority().to_owned();

    let Shop { server, stores: _kept, .. } = shop;
    let ending = tokio::spawn(server.terminate());
    eventually(Duration::from_secs(10), "no more connections", async || TcpStream::connect(&authority).await.is_err())
        .await;
    customer.write_all(body.as_bytes()).await.expect("it takes the body");
    let mut answer = String::new();
    customer.read_to_string(&mut answer).await.expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    let (status, printed) = ending.await.expect("it ends");
    assert!(status.success(), "{printed}");
    assert!(printed.contains("all requests have ended"), "{printed}");
}

#[tokio::test]
async fn a_connection_that_hangs_does_not_hold_the_end() {
    let shop = Shop::open(Setup::Sqlite).await;
    let _hanging = half_way(&shop, "k", 9).await;
    let asked = Instant::now();
    let (status, printed) = shop.server.terminate().await;
    assert!(status.success(), "{printed}");
    assert!(printed.contains("some connections did not end"), "{printed}");
    assert!(asked.elapsed() < Duration::from_secs(20), "it took {:?}", asked.elapsed());
}

tests_on!(sqlite: Sqlite, postgres: Postgres, redis: Redis, tiered: Tiered => [
    a_start_says_where_it_is_and_what_to_try,
    records_that_have_had_their_time_go_and_others_stay,
    it_tells_how_it_is,
    secrets_are_not_printed,
    a_request_under_way_is_answered_before_the_end,
]);
