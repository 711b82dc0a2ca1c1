//! Every row runs, and every answer is right. The figures of such a short run say nothing.

use std::process::Command;

#[test]
fn every_row_runs_and_every_answer_is_right() {
    let output = Command::new(env!("CARGO_BIN_EXE_bench")).arg("--quick").output().expect("it can be run");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    for row in [
        "memory, first",
        "SQLite leases, replay",
        "SQLite Atomic, first",
        "one commit for each request",
        "keylatch-client",
        "Redis, first",
        "Redis, replay from Redis",
        "Keylatch, 512 in flight",
        "a completed record, in memory",
        "beside Fastify, first",
        "beside Fastify, replay from Redis",
        "first, AtMostOnce on SQLite",
        "the gateway, replay",
        "elsewhere, replay of a copy",
        "Atomic, an order and an event each",
        "an insert each, with ids",
        "one by one, without ids",
        "SQLite, an insert each, with ids",
        "relay",
        "commit to broker",
        "one node, claim and completion",
        "one node, full",
    ] {
        assert!(printed.contains(&format!("| {row} ")), "no row `{row}` in:\n{printed}");
    }
}
