//! The orders API passes every case of `keylatch probe`, also when it is killed in the middle of a request.

use clap::Parser;
use keylatch_probe::{CASES, Probe, Verdict};
use testing_support::restartable::Restartable;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    probe: Probe,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_orders_api_passes_every_case() {
    let program = env!("CARGO_BIN_EXE_orders");
    let service = Restartable::start(|port| format!("env -u DATABASE_URL PORT={port} DATA_DIR=. '{program}'")).await;
    let body = r#"{"user_id":"u1","cart_id":"c1","items":[{"product_id":"p1","quantity":2,"price":10.5}]}"#;
    let url = format!("{}/api/orders", service.url());
    let restart = service.restart();
    let given = [
        "probe",
        &url,
        "--body",
        body,
        "--effects",
        "GET /api/orders?user_id=u1&limit=1000",
        "--count",
        ".orders",
        "--restart",
        &restart,
        "--yes",
    ];
    let probe = Cli::try_parse_from(given).unwrap_or_else(|error| panic!("{error}")).probe;
    let report = keylatch_probe::probe(probe).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report.failed(), 0, "{}", report.table());
    assert_eq!(report.findings.len(), CASES.len());
    let unknown = report.findings.iter().filter(|finding| matches!(finding.verdict, Verdict::CannotTell(_)));
    // It has no callers but the user in the body. Whether it serves HTTP/2 depends on the features of the build.
    let unknown: Vec<_> = unknown.map(|finding| finding.case.name).filter(|name| *name != "http2").collect();
    assert_eq!(unknown, ["two-callers"]);
}
