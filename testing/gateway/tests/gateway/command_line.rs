//! The command line: what it refuses, and what its listener for operators answers.

use testing_support::eventually;
use testing_support::server::{Program, StartError};

use crate::setup::{Pair, SOON, gateway};

/// The output of a program that does not start.
async fn refused(program: &Program) -> String {
    match program.start().await {
        Err(StartError::Ended { output, .. }) => output,
        other => panic!("it should not start: {other:?}"),
    }
}

#[tokio::test]
async fn each_mistake_is_told_with_its_fix() {
    let good = ["--store", "memory:", "--scope", "shared:all", "--guarantee", "fenced"];
    let upstream = "http://127.0.0.1:9";
    let with = |name: &'static str, value: &'static str| {
        let mut given = good;
        match given.iter().position(|argument| *argument == name) {
            Some(at) => given[at + 1] = value,
            None => return gateway(upstream, &[&good[..], &[name, value]].concat()),
        }
        gateway(upstream, &given)
    };
    for (program, wanted) in [
        (with("--guarantee", "atomic"), &["one database transaction", "Take fenced", "at-most-once"][..]),
        (with("--guarantee", "exactly-once"), &["it is fenced or at-most-once"]),
        (with("--store", "mysql://h"), &["sqlite:FILE", "postgres://"]),
        (with("--store", "sqlite:/dev/null/keylatch.db"), &["the store cannot be used", "/dev/null"]),
        (with("--scope", "X-User-Id"), &["header:X-User-Id"]),
        (with("--lease", "1ms"), &["--lease", "shorter than 100 ms"]),
        (with("--methods", "GET"), &["--methods has GET", "leave it out"]),
        (with("--cache", "redis://h"), &["--cache", "leave it out"]),
        (with("--wait-max", "soon"), &["500ms, 30s, 10m or 24h"]),
        (with("--request-body-max", "big"), &["64KiB or 1MiB"]),
        (with("--upstream-key", "mine"), &["withheld, received or derived"]),
        (gateway("localhost:9000", &good), &["http://HOST:PORT"]),
        (gateway("http://h/path", &good), &["without a path"]),
        (gateway(upstream, &good[..4]), &["--guarantee"]),
        (gateway(upstream, &good[2..]), &["--store"]),
        (gateway(upstream, &[&good[..2], &good[4..]].concat()), &["--scope"]),
    ] {
        let output = refused(&program).await;
        for wanted in wanted {
            assert!(output.contains(wanted), "{wanted:?} is not in:\n{output}");
        }
    }
}

#[tokio::test]
async fn a_secret_of_the_store_is_not_printed() {
    let arguments = ["--store", "redis://:hunter2@127.0.0.1:1", "--scope", "shared:all", "--guarantee", "fenced"];
    let output = refused(&gateway("http://127.0.0.1:9", &arguments)).await;
    assert!(output.contains("Redis") && !output.contains("hunter2"), "{output}");
}

/// The address of its listener for operators.
pub(crate) fn admin(pair: &Pair) -> String {
    let printed = pair.gateway.printed();
    let line = printed.lines().find_map(|line| line.trim().strip_prefix("admin")).expect("it says where");
    line.trim().split_once("/metrics").expect("an address").0.to_owned()
}

#[tokio::test]
async fn expired_records_are_removed_in_either_guarantee() {
    for guarantee in ["fenced", "at-most-once"] {
        let expires = ["--retention", "1ms", "--tombstone", "0s", "--cleanup-every", "20ms"];
        let pair = Pair::new(guarantee, &[&expires[..], &["--admin-listen", "127.0.0.1:0"]].concat()).await;
        assert_eq!(pair.post("/letters", "k", "a").await.status, 201);
        let (client, url) = (reqwest::Client::builder().no_proxy().build().unwrap(), admin(&pair) + "/metrics");
        eventually(SOON, "the record to be removed", async || {
            let metrics = client.get(&url).timeout(SOON).send().await.unwrap().text().await.unwrap();
            metrics.contains(r#"keylatch_records_total{change="removed"} 1"#)
        })
        .await;
    }
}

#[tokio::test]
async fn operators_learn_how_it_goes_and_nothing_of_the_requests() {
    const SECRETS: [&str; 5] = ["key-sentinel", "body-sentinel", "token-sentinel", "user-sentinel", "query-sentinel"];
    let arguments = ["--admin-listen", "127.0.0.1:0", "--access-log", "--require-key"];
    let pair = Pair::new("at-most-once", &arguments).await;
    let admin = admin(&pair);
    let headers = [
        ("x-user-id", "user-sentinel"),
        ("idempotency-key", "key-sentinel"),
        ("authorization", "Bearer token-sentinel"),
    ];
    for path in ["/letters?query-sentinel", "/letters?query-sentinel", "/nothing?query-sentinel"] {
        pair.send(http::Method::POST, path, &headers, "body-sentinel").await;
    }
    pair.send(http::Method::GET, "/echo?query-sentinel", &headers[..1], "").await;
    pair.send("SENTINEL".parse().unwrap(), "/echo", &headers[..1], "").await;

    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = async |path: &str| {
        let answer = client.get(format!("{admin}{path}")).timeout(SOON).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(ask("/healthz").await.0, 200);
    assert_eq!(ask("/readyz").await.0, 200);
    let (_, metrics) = ask("/metrics").await;
    for wanted in [
        r#"keylatch_gateway_requests_total{route="all",outcome="recorded",status="2xx"} 1"#,
        r#"keylatch_gateway_requests_total{route="all",outcome="replayed",status="2xx"} 1"#,
        r#"keylatch_gateway_requests_total{route="all",outcome="passed",status="2xx"} 2"#,
        "keylatch_gateway_request_seconds_bucket",
    ] {
        assert!(metrics.contains(wanted), "{wanted} is not in:\n{metrics}");
    }
    let (status, printed) = pair.gateway.terminate().await;
    assert!(status.success(), "{printed}");
    let lines: Vec<serde_json::Value> =
        printed.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect();
    let outcomes: Vec<_> = lines.iter().map(|line| line["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["recorded", "replayed", "refused", "passed", "passed"], "{printed}");
    for secret in SECRETS.into_iter().chain(["SENTINEL"]) {
        assert!(!metrics.contains(secret) && !printed.contains(secret), "{secret}:\n{printed}\n{metrics}");
    }
}

#[tokio::test]
async fn it_drains_when_it_is_told_to_stop() {
    let arguments = ["--upstream-key", "received"];
    let pair = std::sync::Arc::new(Pair::new("at-most-once", &arguments).await);
    let asking = tokio::spawn({
        let pair = pair.clone();
        async move { pair.post("/letters", "k", "a").await }
    });
    eventually(SOON, "the letter to be begun", async || pair.starts("k") == 1).await;
    pair.gateway.ask_to_end();
    assert_eq!(asking.await.unwrap().status, 201, "what is under way comes to its end");
    let pair = std::sync::Arc::into_inner(pair).expect("nobody else has it");
    assert!(pair.gateway.ended().await.success());
}
