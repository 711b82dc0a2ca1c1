//! How much memory of the server a record takes.

use std::time::Duration;

use futures_util::future::join_all;
use keylatch::machine::Completion;
use keylatch::redis::Options;
use keylatch::store::Store as _;
use keylatch::{Clock, Outcome, Policy, Timestamp};
use testing_support::redis::{Config, Server};

use crate::support::{applied, claim, connect_with, win};

const RECORDS: usize = 20_000;
const AT_ONCE: usize = 200;
/// What an answer of an API commonly takes.
const BODY: &str = "{\"order_id\":\"0b2f4bb0-6b5e-4a1c-9f0e-2f6f0a1f4f10\",\"status\":\"accepted\",\"total_amount\":\"20.00\",\
                    \"items\":[{\"product_id\":\"prod1\",\"quantity\":2,\"price\":\"10.00\"}],\"user_id\":\"user123\"}";

fn used(server: &Server) -> usize {
    let info = server.ask("INFO memory");
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("it says how much it uses");
    used.trim().parse().expect("a number")
}

#[expect(clippy::print_stderr, reason = "the figures are the result")]
#[tokio::test]
async fn a_record_is_small() {
    let server = Server::start(Config::new().with("appendonly", "no"));
    let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
    let store = connect_with(&server, Options::default().with_clock(clock.clone())).await;
    let before = used(&server);
    for first in (0..RECORDS).step_by(AT_ONCE) {
        let completing = (first..first + AT_ONCE).map(|at| {
            let store = &store;
            async move {
                let claim = claim(&format!("0b2f4bb0-6b5e-4a1c-9f0e-{at:012}"));
                let record = win(store, &claim).await;
                let completion = Completion::new(Outcome::bytes(BODY), &Policy::default());
                applied(&store.complete(record.lease(), completion).await);
            }
        });
        join_all(completing).await;
    }
    let completed = (used(&server) - before) / RECORDS;
    clock.advance(Policy::default().retention + Duration::from_millis(1));
    assert_eq!(store.sweep(usize::MAX).await.unwrap().buried, RECORDS);
    let buried = (used(&server) - before) / RECORDS;
    eprintln!("MEASURED a record with {} bytes of body: {completed} bytes; its tombstone: {buried} bytes", BODY.len());
    assert!(completed < 1_000 && buried < completed, "{completed}, {buried}");
}
