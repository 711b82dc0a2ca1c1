//! The files of deploy/: what can be run here is run, and the rest is parsed and compared with the program.
//!
//! Run: the rules by promtool, a Prometheus that scrapes a gateway, the health check of the image, `check-config` and the
//! command line of every manifest, `systemd-analyze`. Only parsed: the image, compose, Kubernetes, Grafana.

mod alerts;
mod files;
mod manifests;
mod prometheus;
#[expect(dead_code, reason = "the tests of the gateway use the rest")]
#[path = "../gateway/setup.rs"]
mod setup;
