//! What the gateway exports, and the trace that runs through it.

use std::collections::BTreeMap;
use std::time::Duration;

use testing_support::eventually;
use testing_support::otlp::{Collector, Seen, Value};
use tokio::net::TcpListener;

use crate::command_line::admin;
use crate::setup::{Pair, SOON, gateway};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A gateway that exports to `collector` every 100 ms.
async fn exporting(guarantee: &str, collector: &str, arguments: &[&str]) -> Pair {
    let dir = tempfile::tempdir().unwrap();
    let upstream = crate::setup::Service::start(&dir.path().join("ledger"), 0).await;
    let store = format!("sqlite:{}", dir.path().join("keylatch.db").display());
    let given =
        ["--store", &store, "--scope", "header:X-User-Id", "--guarantee", guarantee, "--otlp-endpoint", collector];
    let program = gateway(&upstream.url, &[&given[..], arguments].concat());
    let program = program.env("OTEL_BSP_SCHEDULE_DELAY", "100").env("OTEL_METRIC_EXPORT_INTERVAL", "100");
    let program = program.env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20token-of-the-collector");
    let server = program.start().await.unwrap_or_else(|error| panic!("{error}"));
    Pair::of(server, upstream, dir)
}

/// The only span of this name, once it has arrived.
async fn only(collector: &Collector, name: &str) -> Seen {
    eventually(SOON, name, async || !collector.named(name).is_empty()).await;
    let mut named = collector.named(name);
    assert_eq!(named.len(), 1, "{named:?}");
    named.remove(0)
}

#[tokio::test]
async fn a_trace_runs_from_the_client_through_the_gateway_to_the_service() {
    let collector = Collector::start().await;
    let pair = exporting("fenced", &collector.url, &["--access-log"]).await;
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    let headers = [
        ("x-user-id", "alice"),
        ("idempotency-key", "k"),
        ("traceparent", &traceparent),
        ("tracestate", "vendor=1"),
        ("baggage", "a=1"),
    ];
    assert_eq!(pair.send(http::Method::POST, "/once", &headers, "a").await.status, 201);

    let upstream = only(&collector, "gateway.upstream").await;
    let run = only(&collector, "keylatch.run").await;
    let guarded = only(&collector, "keylatch.request").await;
    let request = only(&collector, "gateway.request").await;
    for span in [&request, &guarded, &run, &upstream] {
        assert_eq!((&*span.trace, &*span.service), (TRACE, "keylatch-gateway"), "{span:?}");
    }
    assert_eq!(request.parent, PARENT);
    assert_eq!((&guarded.parent, &run.parent, &upstream.parent), (&request.id, &guarded.id, &run.id));
    assert_eq!((request.kind, upstream.kind), (2, 3), "a server's and a client's");
    assert_eq!((&*request.attributes["route"], &*request.attributes["outcome"]), ("all", "recorded"));
    assert_eq!(request.attributes["http.response.status_code"], "201");

    let seen = pair.upstream.upstream.seen();
    assert_eq!(seen[0].header("traceparent"), Some(format!("00-{TRACE}-{}-01", upstream.id)));
    assert_eq!(seen[0].header("tracestate").as_deref(), Some("vendor=1"));
    assert_eq!(seen[0].header("baggage").as_deref(), Some("a=1"));
    assert_eq!(collector.authorization().as_deref(), Some("Bearer token-of-the-collector"));

    // A replay is a span of its own, and reaches no service.
    assert!(pair.send(http::Method::POST, "/once", &headers, "a").await.is_replay());
    eventually(SOON, "the replay", async || collector.named("gateway.request").len() == 2).await;
    assert_eq!(collector.named("gateway.request")[1].attributes["outcome"], "replayed");
    assert_eq!(collector.named("gateway.upstream").len(), 1);
    let (status, printed) = pair.gateway.terminate().await;
    assert!(status.success(), "{printed}");
    let line = printed.lines().find(|line| line.starts_with('{')).expect("the log of requests");
    assert_eq!(serde_json::from_str::<serde_json::Value>(line).unwrap()["trace_id"], TRACE);
}

#[tokio::test]
async fn a_trace_begins_here_if_the_client_has_none_or_an_invalid_one() {
    let collector = Collector::start().await;
    let pair = exporting("at-most-once", &collector.url, &[]).await;
    let two = format!("00-{TRACE}-{PARENT}-01");
    for given in [&[][..], &[("traceparent", "00-1-2-01")], &[("traceparent", &*two), ("traceparent", &*two)]] {
        let headers = [&[("x-user-id", "alice")][..], given].concat();
        assert_eq!(pair.send(http::Method::GET, "/echo", &headers, "").await.status, 200);
    }
    eventually(SOON, "three requests", async || collector.named("gateway.upstream").len() == 3).await;
    eventually(SOON, "three requests", async || collector.named("gateway.request").len() == 3).await;
    let told: Vec<_> = pair.upstream.upstream.seen().iter().map(|seen| seen.header("traceparent").unwrap()).collect();
    for request in collector.named("gateway.request") {
        assert!(request.parent.is_empty() && request.trace != TRACE, "{request:?}");
        let of_request = |span: &&Seen| span.parent == request.id && span.trace == request.trace;
        let spans = collector.named("gateway.upstream");
        let upstream = spans.iter().find(of_request).expect("what was sent is in the request's trace");
        assert!(told.contains(&format!("00-{}-{}-01", request.trace, upstream.id)));
    }
}

#[tokio::test]
async fn nothing_is_exported_of_a_trace_that_the_caller_does_not_sample_or_beyond_the_share() {
    let collector = Collector::start().await;
    let pair = exporting("fenced", &collector.url, &["--otlp-share", "0"]).await;
    let traceparent = |flags| format!("00-{TRACE}-{PARENT}-{flags}");
    let (unsampled, sampled) = (traceparent("00"), traceparent("01"));
    for given in [&[][..], &[("traceparent", &*unsampled)], &[("traceparent", &*sampled)]] {
        let headers = [&[("x-user-id", "alice")][..], given].concat();
        assert_eq!(pair.send(http::Method::GET, "/echo", &headers, "").await.status, 200);
    }
    only(&collector, "gateway.request").await;
    let (status, _) = pair.gateway.terminate().await;
    assert!(status.success());
    let spans = collector.spans();
    assert!(spans.len() == 2 && spans.iter().all(|span| span.trace == TRACE), "{spans:?}");
    // The service is told the decision.
    let flags: Vec<_> = pair.upstream.upstream.seen().iter().map(|seen| seen.header("traceparent").unwrap()).collect();
    assert!(flags[0].ends_with("-00") && flags[1].ends_with("-00") && flags[2].ends_with("-01"), "{flags:?}");
}

#[tokio::test]
async fn the_series_that_prometheus_sees_are_exported_with_their_values() {
    let collector = Collector::start().await;
    let pair = exporting("at-most-once", &collector.url, &["--admin-listen", "127.0.0.1:0"]).await;
    for key in ["a", "a", "b"] {
        pair.post("/letters", key, "a").await;
    }
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let metrics = client.get(admin(&pair) + "/metrics").send().await.unwrap().text().await.unwrap();
    let seen_by_prometheus = scraped(&metrics);
    assert!(seen_by_prometheus.len() > 15, "{metrics}");
    let (mut left, limit) = (Vec::new(), std::time::Instant::now() + SOON);
    loop {
        let exported = collector.metrics();
        left.clear();
        left.extend(seen_by_prometheus.iter().filter(|(name, value)| exported.get(*name) != Some(*value)));
        if left.is_empty() || std::time::Instant::now() > limit {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(left.is_empty(), "not exported, or with another value:\n{left:#?}\n{:#?}", collector.metrics());
}

#[tokio::test]
async fn no_client_can_make_more_series() {
    let pair = Pair::new("fenced", &["--admin-listen", "127.0.0.1:0", "--require-key"]).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let series = async || {
        let page = client.get(admin(&pair) + "/metrics").send().await.unwrap().text().await.unwrap();
        let names = page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        names.map(|(name, _)| name.to_owned()).collect::<std::collections::BTreeSet<_>>()
    };
    let all = async |nth: usize| {
        let key = format!("key-{nth}");
        for status in ["200", "201", "301", "404", "422", "500", "503"] {
            pair.post(&format!("/status/{status}?{nth}"), &format!("{key}-{status}"), "a").await;
        }
        for body in ["a", "a", "b"] {
            pair.post(&format!("/letters/{nth}"), &key, body).await;
        }
        pair.post("/nothing", &key, "a").await;
        let user = format!("user-{nth}");
        let headers = [("x-user-id", &*user), ("accept", &*key)];
        for method in ["GET", "POST", "DELETE", "TRACE", &format!("METHOD-{nth}")] {
            pair.send(method.parse().unwrap(), &format!("/echo/{nth}"), &headers, "a").await;
        }
    };
    all(0).await;
    let before = series().await;
    for nth in 1..20 {
        all(nth).await;
    }
    let more: Vec<_> = series().await.difference(&before).cloned().collect();
    assert!(more.is_empty() && before.len() > 50, "{more:?} beside {}", before.len());
}

/// The series of a page for Prometheus.
fn scraped(page: &str) -> BTreeMap<String, Value> {
    let mut series = BTreeMap::new();
    let mut histograms: BTreeMap<String, (Vec<f64>, Vec<u64>, f64)> = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap();
        let (plain, labels) = name.split_once('{').unwrap_or((name, ""));
        let labels: Vec<&str> = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()).collect();
        let (others, bound): (Vec<&str>, Vec<&str>) = labels.into_iter().partition(|label| !label.starts_with("le="));
        let of =
            |plain: &str| if others.is_empty() { plain.to_owned() } else { format!("{plain}{{{}}}", others.join(",")) };
        if let Some(plain) = plain.strip_suffix("_bucket") {
            let (bounds, counts, _) = histograms.entry(of(plain)).or_default();
            let bound = bound[0].trim_start_matches("le=").trim_matches('"');
            if bound != "+Inf" {
                bounds.push(bound.parse().unwrap());
            }
            counts.push(value as u64);
        } else if let Some(plain) = plain.strip_suffix("_sum") {
            histograms.entry(of(plain)).or_default().2 = value;
        } else if !plain.ends_with("_count") {
            series.insert(of(plain), Value::Number(value));
        }
    }
    for (name, (bounds, counts, sum)) in histograms {
        // Prometheus adds the buckets up.
        let single = counts.iter().scan(0, |before, count| Some(count - std::mem::replace(before, *count))).collect();
        series.insert(name, Value::Histogram(bounds, single, sum));
    }
    series
}

#[tokio::test]
async fn a_collector_that_never_answers_or_is_not_there_holds_up_no_request_and_no_end() {
    // It accepts connections, and never says anything.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone_url = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    for url in [silent_url, gone_url] {
        let pair = exporting("fenced", &url, &[]).await;
        // More spans than the queue has room for.
        let answers = futures_util::future::join_all((0..1_000).map(|n| {
            let pair = &pair;
            async move { pair.post("/status/201", &format!("k{n}"), "a").await.status }
        }));
        assert!(answers.await.iter().all(|status| *status == 201));
        let (status, printed) = pair.gateway.terminate().await;
        assert!(status.success(), "{printed}");
        assert!(printed.contains("could not be exported in time"), "{printed}");
    }
}

#[tokio::test]
async fn neither_spans_nor_metrics_nor_logs_have_anything_of_a_request() {
    const SECRETS: [&str; 6] =
        ["key-sentinel", "body-sentinel", "token-sentinel", "user-sentinel", "query-sentinel", "path-sentinel"];
    let collector = Collector::start().await;
    for (guarantee, format) in [("at-most-once", "json"), ("fenced", "text")] {
        let arguments = ["--access-log", "--require-key", "--log-format", format, "--admin-listen", "127.0.0.1:0"];
        let pair = exporting(guarantee, &collector.url, &arguments).await;
        let headers = [
            ("x-user-id", "user-sentinel"),
            ("idempotency-key", "key-sentinel"),
            ("authorization", "Bearer token-sentinel"),
            ("cookie", "session=token-sentinel"),
        ];
        for path in ["/letters", "/letters", "/nothing", "/says/unknown", "/status/500", "/half", "/path-sentinel"] {
            for body in ["body-sentinel", "body-sentinel", "another body-sentinel"] {
                let path = format!("{path}?query-sentinel");
                let own = [("idempotency-key", &*format!("key-sentinel{}", path.len()))];
                let headers: Vec<_> = headers.iter().filter(|(name, _)| *name != "idempotency-key").copied().collect();
                pair.send(http::Method::POST, &path, &[&headers[..], &own].concat(), body).await;
            }
        }
        pair.send(http::Method::POST, "/letters?query-sentinel", &headers[..1], "body-sentinel").await;
        pair.send("TOKEN-SENTINEL".parse().unwrap(), "/echo?query-sentinel", &headers[..1], "").await;
        let (status, printed) = pair.gateway.terminate().await;
        assert!(status.success(), "{printed}");
        for secret in SECRETS.into_iter().chain(["TOKEN-SENTINEL", "token-of-the-collector"]) {
            assert!(!printed.contains(secret), "{secret}:\n{printed}");
            assert!(!collector.has(secret), "{secret} was exported: {:#?}", collector.spans());
        }
        let logged = |line: &&str| line.contains("WARN");
        let lines: Vec<_> = printed.lines().filter(logged).collect();
        assert!(!lines.is_empty(), "{printed}");
        let is_json =
            |line: &&str| serde_json::from_str::<serde_json::Value>(line).is_ok_and(|line| line["level"] == "WARN");
        assert_eq!(lines.iter().all(is_json), format == "json", "{printed}");
    }
    // The sentinels were in what the spans are about.
    assert!(collector.spans().len() > 40);
    let failed = collector.named("gateway.upstream").iter().filter(|span| span.failed).count();
    assert!(failed > 2, "{failed} spans say that the upstream failed");
    assert!(collector.metrics().keys().any(|name| name.starts_with("keylatch_gateway_upstream_failures_total")));
}

#[tokio::test]
async fn the_file_says_where_to_export_and_its_mistakes_are_told() {
    let collector = Collector::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keylatch.toml");
    let route = "[[route]]\nname = \"all\"\npath = \"/{*rest}\"\nscope.shared = \"all\"\nguarantee = \"fenced\"\n";
    let telemetry = format!("[telemetry]\notlp-endpoint = \"{}\"\nlog-format = \"json\"\n", collector.url);
    std::fs::write(&file, format!("{telemetry}{route}")).unwrap();
    let upstream = crate::setup::Service::start(&dir.path().join("ledger"), 0).await;
    let path = file.display().to_string();
    let arguments = ["--store", "memory:", "--config", &path];
    let program = gateway(&upstream.url, &arguments).env("OTEL_SERVICE_NAME", "front");
    let server = program.start().await.unwrap_or_else(|error| panic!("{error}"));
    let pair = Pair::of(server, upstream, dir);
    assert_eq!(pair.post("/letters", "k", "a").await.status, 201);
    // What is left is exported at the end.
    assert!(pair.gateway.terminate().await.0.success());
    assert_eq!(only(&collector, "gateway.request").await.service, "front");

    for (option, value, wanted) in [
        ("--otlp-endpoint", "collector:4318", "such as http://127.0.0.1:4318"),
        ("--otlp-endpoint", "http://user:hunter2@h", "OTEL_EXPORTER_OTLP_HEADERS"),
        ("--otlp-share", "2", "a number from 0 to 1"),
        ("--log-format", "xml", "it is text or json"),
    ] {
        let mut gateway = tokio::process::Command::new(env!("CARGO_BIN_EXE_gateway-under-test"));
        let output = gateway.args(["gateway", "--upstream", "http://h", option, value]).output().await.unwrap();
        let printed = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && printed.contains(wanted), "{wanted}:\n{printed}");
    }
}
