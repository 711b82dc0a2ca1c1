//! The client for TypeScript in Chromium: a page that orders, and is reloaded in the middle.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use serde_json::Value;
use testing_support::browser::Browser;
use testing_support::eventually;
use testing_support::faults::Network;
use tokio::net::TcpListener;

use crate::packages::INSTALLED;
use crate::shop::{ORDERS, Shop, Told};
use crate::{FAULTS, ORDERING_MAX, faults};

/// The page reloads itself so often.
const RELOADS: usize = 4;
/// How many orders it has under way.
const IN_FLIGHT: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_reloaded_finishes_what_it_had_begun() {
    let shop = Shop::new().await;
    let server = shop.open().await;
    let lines = Lines::default();
    let pages = serve_pages(lines.clone()).await;
    let network = Network::with_pages(server.authority(), Some(pages), faults).await;
    let browser = Browser::open().await;
    browser.go(network.url()).await;

    let is_over = |line: &Value| line["ended"] == true || line["failed"].is_string();
    eventually(ORDERING_MAX, "the page to end", async || {
        lines.lock().expect("nothing fails with it").iter().any(is_over)
    })
    .await;
    // A browser that has ended does not answer.
    browser.url().await;

    let (mut told, mut failed) = (Told::default(), Vec::new());
    for line in lines.lock().expect("nothing fails with it").iter() {
        told.hear(line);
        failed.extend(line["failed"].as_str().map(str::to_owned));
    }
    assert_eq!(failed, [""; 0]);
    let taken = shop.orders(&server).await;
    for (cart, order) in &told.answered {
        assert_eq!(taken.get(cart), Some(order), "what the page was told is so");
    }
    assert!(!told.resumed.is_empty(), "no reload has hit an order under way");
    for cart in &told.resumed {
        assert!(told.answered.contains_key(cart), "what was resumed has its answer");
    }
    // Between the end of an intent and the line that tells of it, and before an intent is written, the page may go.
    assert!(taken.len() - told.answered.len() <= RELOADS * IN_FLIGHT, "{} of {}", told.answered.len(), taken.len());
    assert!(taken.len() >= ORDERS as usize - RELOADS * IN_FLIGHT, "{}", taken.len());
    for fault in FAULTS {
        assert!(network.happened(fault) > 0, "{fault:?} never happened");
    }
    eprintln!("{} orders, {RELOADS} reloads, {} resumed, {} replays", taken.len(), told.resumed.len(), told.replayed);
    drop(browser);
    server.kill().await;
}

/// What the page has told.
type Lines = Arc<Mutex<Vec<Value>>>;

/// Serves the page and the package. Returns `127.0.0.1:PORT`.
async fn serve_pages(lines: Lines) -> String {
    let page = || file("app/page.html", "text/html");
    let module = || file("app/page.mjs", "text/javascript");
    let package = async |Path(name): Path<String>| {
        assert!(!name.contains(".."), "{name}");
        file(&format!("app/node_modules/keylatch-client/dist/{name}"), "text/javascript").await
    };
    let told = async |State(lines): State<Lines>, body: String| {
        let new = body.lines().map(|line| serde_json::from_str(line).expect("the page tells in JSON"));
        lines.lock().expect("nothing fails with it").extend(new.collect::<Vec<Value>>());
    };
    let pages = Router::new()
        .route("/", get(page))
        .route("/page.mjs", get(module))
        .route("/client/{name}", get(package))
        .route("/told", post(told))
        .with_state(lines);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
    let authority = listener.local_addr().expect("it is bound").to_string();
    tokio::spawn(async { axum::serve(listener, pages).await });
    authority
}

async fn file(name: &str, kind: &'static str) -> impl IntoResponse + use<> {
    let text = std::fs::read(INSTALLED.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    ([(CONTENT_TYPE, kind)], text)
}
