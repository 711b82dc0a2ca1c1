//! What a log may have: neither keys, nor bodies, nor passwords.

use crate::setup::{CALLER, World, on_every_store, run};

const KEY: &str = "key-sentinel";
const BODY: &str = "body-sentinel";

on_every_store! {
    nothing_secret_is_logged;
}

async fn nothing_secret_is_logged(world: &World) {
    world.unknown(KEY).await;
    world.completed(&format!("{KEY}-2"), BODY).await;
    let second = format!("{KEY}-2");
    let file = world.path("audit.jsonl");
    let variables = [
        ("KEYLATCH_STORE", world.url.as_str()),
        ("RUST_LOG", "trace"),
        ("KEYLATCH_AUDIT_LOG", file.to_str().expect("text")),
    ];
    let act = ["--epoch", "1", "--reason", "a test"];
    let mut logged = String::new();
    for arguments in [
        &["keys", "list"][..],
        &["keys", "list", "--scope", CALLER, "--json"],
        &["keys", "show", CALLER, KEY, "--body"],
        &[&["keys", "release", CALLER, KEY, "--yes"], &["--epoch", "5", "--reason", "a test"][..]].concat(),
        &[&["keys", "resolve", CALLER, KEY, "--status", "200", "--body", BODY], &act[..]].concat(),
        &[&["keys", "resolve", CALLER, KEY, "--status", "200", "--body", BODY], &act[..]].concat(),
        &["keys", "show", CALLER, &second, "--body"],
        &[&["keys", "forget", CALLER, &second], &act[..]].concat(),
        &["sweep"],
        &["stats", "--scope", CALLER],
    ] {
        logged += &run(arguments, &variables, "").await.err;
    }
    logged += &std::fs::read_to_string(&file).expect("there is an audit file");
    assert!(logged.contains("forget"), "something is logged");
    for secret in [KEY, BODY] {
        let lines: Vec<_> = logged.lines().filter(|line| line.contains(secret)).take(3).collect();
        assert!(lines.is_empty(), "{secret}: {lines:#?}");
    }
}
