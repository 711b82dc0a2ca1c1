//! How much of the server's memory a record takes.

use futures_util::future::join_all;
use keylatch::machine::Completion;
use keylatch::redis::{COMPRESS_FROM_BYTES, Options, Store};
use keylatch::store::Store as _;
use keylatch::{Outcome, Policy};
use testing_support::redis::{Config, Server};

use crate::support::{applied, claim, connect_with, win};

const RECORDS: usize = 20_000;
const AT_ONCE: usize = 200;
/// The typical size of an API's answer.
const BODY: &str = "{\"order_id\":\"0b2f4bb0-6b5e-4a1c-9f0e-2f6f0a1f4f10\",\"status\":\"accepted\",\"total_amount\":\"20.00\",\
                    \"items\":[{\"product_id\":\"prod1\",\"quantity\":2,\"price\":\"10.00\"}],\"user_id\":\"user123\"}";

fn used(server: &Server) -> usize {
    let info = server.ask("INFO memory");
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("it says how much it uses");
    used.trim().parse().expect("a number")
}

/// A longer answer in JSON: a page of orders of 4 KiB, all different.
fn page_of_orders(number: usize) -> String {
    let mut page = String::from("[");
    for item in 0.. {
        let distinct = (number << 8) | item;
        let (a, b) = (distinct.wrapping_mul(0x9e37_79b9_7f4a_7c15), distinct.wrapping_mul(0xbf58_476d_1ce4_e5b9));
        let order = format!(
            "{{\"order_id\":\"{a:016x}{b:016x}\",\"status\":\"accepted\",\"total_cents\":{},\"user_id\":\"user-{}\"}},",
            b % 100_000,
            a % 1_000,
        );
        if page.len() + order.len() > 4_096 {
            break;
        }
        page.push_str(&order);
    }
    page.pop();
    page + "]"
}

/// Completes records with these answers, and returns how many bytes of the server's memory each takes.
async fn memory_of(server: &Server, store: &Store, records: usize, body: impl Fn(usize) -> String) -> usize {
    let before = used(server);
    for first in (0..records).step_by(AT_ONCE) {
        let completing = (first..first + AT_ONCE).map(|at| {
            let body = body(at);
            async move {
                let claim = claim(&format!("0b2f4bb0-6b5e-4a1c-9f0e-{at:012}"));
                let record = win(store, &claim).await;
                let completion = Completion::new(Outcome::bytes(body), &Policy::default());
                applied(&store.complete(record.lease(), completion).await);
            }
        });
        join_all(completing).await;
    }
    (used(server) - before) / records
}

#[expect(clippy::print_stderr, reason = "the figures are the result")]
#[tokio::test]
async fn a_record_is_small() {
    let server = Server::start(Config::new().with("appendonly", "no"));
    let store = connect_with(&server, Options::default()).await;
    let completed = memory_of(&server, &store, RECORDS, |_| BODY.to_owned()).await;
    let before = used(&server);
    for first in (0..RECORDS).step_by(AT_ONCE) {
        let claims: Vec<_> =
            (first..first + AT_ONCE).map(|at| claim(&format!("5d1c3a7e-6b5e-4a1c-9f0e-{at:012}"))).collect();
        join_all(claims.iter().map(|claim| win(&store, claim))).await;
    }
    let running = (used(&server) - before) / RECORDS;
    eprintln!("MEASURED a record with {} bytes of body: {completed} bytes; a running one: {running} bytes", BODY.len());
    assert!(completed < 700 && running < 700, "{completed}, {running}");
}

#[expect(clippy::print_stderr, reason = "the figures are the result")]
#[tokio::test]
async fn a_long_answer_takes_less_when_it_is_compressed() {
    let mut taken = [0, 0];
    for (taken, from_bytes) in taken.iter_mut().zip([None, Some(COMPRESS_FROM_BYTES)]) {
        let server = Server::start(Config::new().with("appendonly", "no"));
        let store = connect_with(&server, Options::default().with_compression(from_bytes)).await;
        *taken = memory_of(&server, &store, RECORDS / 4, page_of_orders).await;
    }
    let [plain, compressed] = taken;
    let body = page_of_orders(1).len();
    eprintln!("MEASURED a record with {body} bytes of JSON: {plain} bytes; compressed: {compressed} bytes");
    assert!(compressed * 2 < plain, "{compressed}, {plain}");
}
