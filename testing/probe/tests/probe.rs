//! The probe finds each mistake of a server that is wrong on purpose, and nothing else.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use clap::Parser;
use keylatch_probe::{CASES, Probe, Report, Verdict};
use testing_probe::{MISTAKES, Mistake, Service};
use testing_support::restartable::Restartable;
use tokio::net::TcpListener;
use tokio::process::Command;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    probe: Probe,
}

/// How long the probe waits for a final answer, in seconds. A key that is taken for ever costs this much.
const PATIENCE: &str = "2";

/// The probe of the service at `url`, with these arguments besides.
fn arguments(url: &str, patience: &str, more: &[&str]) -> Probe {
    let url = format!("{url}/api/orders");
    let given = [
        "probe",
        &url,
        "--body",
        r#"{"user_id":"u1","quantity":2}"#,
        "-H",
        "X-User-Id: u1",
        "--other-caller",
        "X-User-Id: u2",
        "--effects",
        "GET /api/orders",
        "--count",
        ".data.orders",
        "--patience",
        patience,
        "--yes",
    ];
    Cli::try_parse_from(given.into_iter().chain(more.iter().copied())).unwrap_or_else(|error| panic!("{error}")).probe
}

/// The service with this mistake, in this process.
async fn started(mistake: Option<Mistake>) -> String {
    served(Service::new(mistake, None)).await
}

/// A service, in this process.
async fn served(service: Arc<Service>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("it listens"));
    tokio::spawn(service.serve(listener));
    url
}

fn failed(report: &Report) -> Vec<&'static str> {
    let failed = report.findings.iter().filter(|finding| matches!(finding.verdict, Verdict::Fail { .. }));
    failed.map(|finding| finding.case.name).collect()
}

/// What a mistake must be found by, and what else may find it, depending on which of two requests is faster.
fn found_by(mistake: Mistake) -> (&'static str, &'static [&'static str]) {
    match mistake {
        Mistake::ThirdAnswerDiffers => ("replay", &["at-once", "hang-up", "half-body", "slow-body"]),
        Mistake::LooksThenActs => ("at-once", &["hang-up"]),
        Mistake::IgnoresBody | Mistake::RunsOtherBody => ("other-body", &[]),
        Mistake::SharesCallers => ("two-callers", &[]),
        Mistake::WedgesOnError => ("after-error", &[]),
        Mistake::ReplaysCookie => ("replay-headers", &[]),
        Mistake::MarksNothing => ("replay-marked", &[]),
        Mistake::SplitsVersions => ("http2", &[]),
        Mistake::SharesNoKey => ("no-key", &[]),
        Mistake::TakesEmptyForNone => ("empty-key", &[]),
        Mistake::CutsKeys => ("long-key", &[]),
        Mistake::FailsOnOddKeys => ("odd-key", &[]),
        Mistake::FoldsCase => ("key-case", &[]),
        Mistake::CancelsOnHangUp => ("hang-up", &[]),
        // It takes the key for a broken body, too.
        Mistake::ClaimsBeforeBody => ("half-body", &["after-error"]),
        Mistake::FailsOnSlowBody => ("slow-body", &[]),
        Mistake::ForgetsOnCrash | Mistake::WedgesOnCrash => ("restart", &[]),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mistake_is_found_and_nothing_else() {
    let probed = MISTAKES.map(|mistake| {
        tokio::spawn(async move {
            let url = started(Some(mistake)).await;
            keylatch_probe::probe(arguments(&url, PATIENCE, &["--at-once", "40"]))
                .await
                .unwrap_or_else(|error| panic!("{mistake:?}: {error}"))
        })
    });
    for (mistake, report) in MISTAKES.into_iter().zip(probed) {
        let report = report.await.expect("it is probed");
        let (must, may) = found_by(mistake);
        let failed = failed(&report);
        if must == "restart" {
            // These need a crash: see below.
            assert_eq!(failed, [""; 0], "{mistake:?}: {}", report.table());
            continue;
        }
        assert!(failed.contains(&must), "{mistake:?} is to be found by {must}: {}", report.table());
        let others: Vec<_> = failed.into_iter().filter(|name| *name != must && !may.contains(name)).collect();
        assert_eq!(others, [""; 0], "{mistake:?} is only {must}: {}", report.table());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_keeps_its_promise_passes() {
    let url = started(None).await;
    let report = keylatch_probe::probe(arguments(&url, PATIENCE, &[])).await.expect("it is probed");
    assert_eq!(failed(&report), [""; 0], "{}", report.table());
    let unknown: Vec<_> =
        report.findings.iter().filter(|finding| matches!(finding.verdict, Verdict::CannotTell(_))).collect();
    assert_eq!(unknown.iter().map(|finding| finding.case.name).collect::<Vec<_>>(), ["restart"], "{}", report.table());
    assert_eq!(report.findings.len(), CASES.len());
}

/// Every case finds something: otherwise it could as well not be there.
#[test]
fn each_case_has_a_mistake() {
    for case in CASES.iter().filter(|case| case.name != "first") {
        assert!(MISTAKES.iter().any(|mistake| found_by(*mistake).0 == case.name), "{} has no mistake", case.name);
    }
}

/// Probes the service as a process that is killed and started again.
async fn through_crashes(mistake: Option<Mistake>) -> Report {
    let mistake = mistake.map(|mistake| format!("{mistake:?}")).unwrap_or_default();
    let program = env!("CARGO_BIN_EXE_wrong-server");
    let service = Restartable::start(|port| format!("'{program}' {port} orders {mistake}")).await;
    let more = ["--only", "restart", "--restart", &service.restart()];
    keylatch_probe::probe(arguments(&service.url(), PATIENCE, &more)).await.expect("it is probed")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_breaks_is_found() {
    let report = through_crashes(None).await;
    assert_eq!(failed(&report), [""; 0], "{}", report.table());
    for mistake in MISTAKES.into_iter().filter(|mistake| found_by(*mistake).0 == "restart") {
        let report = through_crashes(Some(mistake)).await;
        assert_eq!(failed(&report), ["restart"], "{mistake:?}: {}", report.table());
    }
}

/// The gateway gives a service that knows nothing of keys what it lacks, in every case.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_behind_the_gateway_passes() {
    let upstream = served(Service::without_keys()).await;
    let program = env!("CARGO_BIN_EXE_probe-under-test");
    let gateway = Restartable::start(|port| {
        format!(
            "'{program}' gateway --listen 127.0.0.1:{port} --upstream {upstream} --store sqlite:keylatch.db \
             --scope header:X-User-Id --guarantee at-most-once --require-key --lease 2s"
        )
    })
    .await;
    // A key that was running when the gateway died is taken until its lease ends, and its outcome is unknown then.
    let probe = arguments(&gateway.url(), "20", &["--restart", &gateway.restart()]);
    let report = keylatch_probe::probe(probe).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(failed(&report), [""; 0], "{}", report.table());
    assert!(
        report.findings.iter().all(|finding| !matches!(finding.verdict, Verdict::CannotTell(_))),
        "{}",
        report.table()
    );
}

async fn keylatch(arguments: &[&str]) -> (i32, String, String) {
    let program = Path::new(env!("CARGO_BIN_EXE_probe-under-test"));
    let done = Command::new(program).arg("probe").args(arguments).stdin(Stdio::null()).output().await.expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("it is text");
    (done.status.code().expect("it ends by itself"), text(done.stdout), text(done.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_asks_first_and_reports_in_each_form() {
    let url = format!("{}/api/orders", started(Some(Mistake::MarksNothing)).await);
    let directory = tempfile::tempdir().expect("a directory");
    let (junit, html) = (directory.path().join("probe.xml"), directory.path().join("probe.html"));
    let given =
        [url.as_str(), "--body", r#"{"quantity":2}"#, "-H", "Authorization: SENTINEL", "--only", "replay-marked"];

    let (status, _, said) = keylatch(&given).await;
    assert_eq!(status, 2, "nobody can be asked: {said}");
    assert!(said.contains("--yes"), "{said}");

    let (status, said, _) = keylatch(&[&given[..], &["--dry-run"]].concat()).await;
    assert_eq!(status, 0);
    assert!(said.contains("replay-marked") && said.contains("requests"), "{said}");

    let (junit, html) = (junit.display().to_string(), html.display().to_string());
    let (status, table, _) = keylatch(&[&given[..], &["--yes", "--junit", &junit, "--html", &html]].concat()).await;
    assert_eq!(status, 1, "{table}");
    let (junit, html) = (std::fs::read_to_string(&junit).unwrap(), std::fs::read_to_string(&html).unwrap());
    let (status, json, _) = keylatch(&[&given[..], &["--yes", "--json"]].concat()).await;
    assert_eq!(status, 1, "{json}");
    let parsed: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
    assert_eq!((parsed["failed"].as_u64(), parsed["cases"][1]["case"].as_str()), (Some(1), Some("replay-marked")));
    for text in [&table, &json, &junit, &html] {
        assert!(text.contains("the replay does not say so"), "{text}");
        assert!(text.contains("curl -i -X POST"), "{text}");
        assert!(!text.contains("SENTINEL"), "a secret is not reported: {text}");
    }

    let (status, _, said) = keylatch(&["http://127.0.0.1:1/", "--yes"]).await;
    assert_eq!(status, 2, "{said}");
    let (status, _, said) = keylatch(&[&url, "--yes", "--only", "nothing"]).await;
    assert_eq!(status, 2, "{said}");
    assert!(said.contains("at-once"), "{said}");
    let (status, _, said) = keylatch(&[&given[..], &["--yes", "--requests-max", "1"]].concat()).await;
    assert_eq!(status, 2, "{said}");
}
