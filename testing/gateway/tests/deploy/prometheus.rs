//! A Prometheus with the rules of deploy/, which scrapes a gateway.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use serde_json::Value;
use testing_support::eventually;
use tokio::process::{Child, Command};

use crate::alerts::queries;
use crate::files::deploy;
use crate::setup::Pair;

/// A scrape, an evaluation and a look take seconds on a machine that is busy.
const LONG: Duration = Duration::from_secs(60);

struct Prometheus {
    url: String,
    client: reqwest::Client,
    _process: Child,
    _directory: tempfile::TempDir,
}

impl Prometheus {
    /// Scrapes `target` each second, with the rules of deploy/.
    async fn start(target: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = fs::read_to_string(deploy("prometheus/prometheus.yml")).unwrap();
        let rules = deploy("prometheus/alerts.yml").canonicalize().unwrap();
        let config = config
            .replace("15s", "1s")
            .replace("[alerts.yml]", &format!("[{}]", rules.display()))
            .replace("gateway:9090", target);
        let file = directory.path().join("prometheus.yml");
        fs::write(&file, config).unwrap();
        // It does not print its address: the port is one that was free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--log.level=error")
            .kill_on_drop(true)
            .spawn()
            .expect("prometheus is installed");
        let client = reqwest::Client::builder().no_proxy().timeout(LONG).build().unwrap();
        let this = Self { url: format!("http://127.0.0.1:{port}"), client, _process: process, _directory: directory };
        eventually(LONG, "Prometheus to be ready", async || {
            let ready = this.client.get(format!("{}/-/ready", this.url)).send().await;
            ready.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        this
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let mut url = reqwest::Url::parse(&format!("{}/api/v1/{path}", self.url)).unwrap();
        url.query_pairs_mut().extend_pairs(query);
        let answer = self.client.get(url).send().await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        assert_eq!(answer["status"], "success", "{path} {query:?}: {answer}");
        answer["data"].clone()
    }

    async fn query(&self, query: &str) -> Vec<Value> {
        self.get("query", &[("query", query)]).await["result"].as_array().unwrap().clone()
    }
}

#[tokio::test]
async fn prometheus_scrapes_the_gateway_and_an_unknown_outcome_raises_its_alert() {
    let arguments = ["--admin-listen", "127.0.0.1:0", "--cleanup-every", "20ms"];
    let pair = Pair::new("at-most-once", &arguments).await;
    let printed = pair.gateway.printed();
    let admin = printed.lines().find_map(|line| line.trim().strip_prefix("admin")).expect("it says where");
    let target = admin.trim().trim_start_matches("http://").split('/').next().unwrap();
    let prometheus = Prometheus::start(target).await;
    eventually(LONG, "a scrape", async || prometheus.query("up{job=\"keylatch\"} == 1").await.len() == 1).await;

    // The service breaks the connection off: nobody knows whether the letter was sent.
    for (path, key) in [("/letters", "a"), ("/letters", "a"), ("/nothing", "b")] {
        pair.post(path, key, "a").await;
    }
    for series in [
        "keylatch_answers_total{answer=\"replay\"} == 1",
        "keylatch_lapsed_runs{state=\"unknown\"} == 1",
        "keylatch_gateway_requests_total{route=\"all\",outcome=\"replayed\",status=\"2xx\"} == 1",
        "keylatch_gateway_upstream_failures_total{code=\"UPSTREAM_FAILED\"} == 1",
        "keylatch_gateway_request_seconds_bucket{outcome=\"recorded\",le=\"60\"} == 1",
        "keylatch_store_seconds_count{operation=\"claim\"} > 0",
    ] {
        eventually(LONG, series, async || prometheus.query(series).await.len() == 1).await;
    }
    // It fires once this has lasted for a minute.
    eventually(LONG, "the alert", async || {
        let alerts = prometheus.get("alerts", &[]).await;
        let alerts = alerts["alerts"].as_array().unwrap().clone();
        alerts.iter().any(|alert| {
            alert["labels"]["alertname"] == "KeylatchOutcomeUnknown"
                && ["pending", "firing"].contains(&alert["state"].as_str().unwrap())
        })
    })
    .await;
    let alerts = prometheus.get("alerts", &[]).await;
    let silent = ["KeylatchDown", "KeylatchStoreDown", "KeylatchRunStuck", "KeylatchLeaseLost", "KeylatchUnguarded"];
    for alert in alerts["alerts"].as_array().unwrap() {
        assert!(!silent.contains(&alert["labels"]["alertname"].as_str().unwrap()), "{alert}");
    }
    let rules = prometheus.get("rules", &[]).await;
    for group in rules["groups"].as_array().unwrap() {
        for rule in group["rules"].as_array().unwrap() {
            assert_eq!(rule["health"], "ok", "{rule}");
        }
    }
    for query in queries() {
        prometheus.query(&query).await;
    }
}
