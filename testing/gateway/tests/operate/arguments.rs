//! What the command line refuses, and what it says instead.

use crate::setup::{ARGUMENTS, CALLER, DONE, FAILED, Kind, World, run};

#[tokio::test]
async fn each_mistake_is_told_with_its_fix() {
    let world = World::new(Kind::Sqlite).await;
    world.unknown("lost").await;
    let id = "0".repeat(64);
    let act = ["--epoch", "1", "--reason", "why"];
    let with = |command: &[&'static str], more: &[&'static str]| [command, more].concat();
    for (arguments, wanted) in [
        (vec!["keys"], &["list", "show", "release", "resolve", "forget"][..]),
        (vec!["keys", "show"], &["--id", "--stdin"]),
        (vec!["keys", "show", CALLER], &["SCOPE and KEY"]),
        (vec!["keys", "show", "--id", "abc"], &["64 hexadecimal digits"]),
        (vec!["keys", "show", CALLER, "a key"], &["the key cannot be used"]),
        (vec!["keys", "show", "", "lost"], &["the scope cannot be used"]),
        (vec!["keys", "list", "--phase", "stuck"], &["unknown", "abandoned"]),
        (vec!["keys", "list", "--limit", "0"], &["--limit"]),
        (vec!["keys", "list", "--operation", "POST /orders"], &["--scope"]),
        (vec!["keys", "release", CALLER, "lost", "--yes"], &["--epoch", "--reason"]),
        (vec!["keys", "release", CALLER, "lost", "--epoch", "one", "--reason", "why"], &["--epoch"]),
        (
            vec!["keys", "release", CALLER, "lost", "--epoch", "1", "--reason", " ", "--yes"],
            &["reason", "must say why"],
        ),
        (with(&["keys", "resolve", CALLER, "lost"], &act), &["--status", "--never-happened"]),
        (with(&["keys", "resolve", CALLER, "lost", "--status", "99"], &act), &["status", "200 to 599"]),
        (
            with(&["keys", "resolve", CALLER, "lost", "--status", "200", "--never-happened"], &act),
            &["cannot be used with"],
        ),
        (with(&["keys", "resolve", CALLER, "lost", "--status", "200", "--header", "plain"], &act), &["NAME: VALUE"]),
        (
            with(&["keys", "resolve", CALLER, "lost", "--status", "200", "--header", "Set-Cookie: a=b"], &act),
            &["headers"],
        ),
        (
            with(&["keys", "resolve", CALLER, "lost", "--status", "200", "--body", "@/no/such/file"], &act),
            &["--body", "/no/such/file"],
        ),
        (
            with(&["keys", "resolve", "--stdin", "--status", "200", "--body", "@-"], &act),
            &["both the key and the body"],
        ),
        (with(&["keys", "release", CALLER, "lost", "--yes", "--retention", "0s"], &act), &["--retention", "zero"]),
        (with(&["keys", "forget", CALLER, "lost", "--cache", "sqlite:x"], &act), &["--cache", "redis://HOST:PORT"]),
        (vec!["keys", "list", "--store", "mysql://h"], &["sqlite:FILE", "postgres://"]),
        (vec!["keys", "list", "--store", "memory:"], &["in memory belongs to the process"]),
        (vec!["keys", "list", "--schema", "mine"], &["--schema is for PostgreSQL"]),
        (vec!["keys", "list", "--prefix", "mine"], &["--prefix is for Redis and Cassandra"]),
        (vec!["migrate", "--grants", "service"], &["--grants", "PostgreSQL"]),
    ] {
        world.run(&arguments).await.ends(ARGUMENTS).says(wanted);
    }
    let none = world.run_with(&["keys", "show", "--stdin"], "").await.ends(ARGUMENTS);
    none.says(&["each on a line of its own"]);
    let long = format!("{CALLER}\n{}", "k".repeat(5_000));
    world.run_with(&["keys", "show", "--stdin"], &long).await.ends(ARGUMENTS).says(&["longer than"]);
    run(&["keys", "show", "--id", &id], &[], "").await.ends(ARGUMENTS).says(&["--store"]);
    assert_eq!(world.read("lost").await.expect("it is there").epoch.as_u64(), 1, "nothing was changed");
}

#[tokio::test]
async fn every_command_says_how_it_is_used_and_how_it_ends() {
    for command in [
        &["keys", "list"][..],
        &["keys", "show"],
        &["keys", "release"],
        &["keys", "resolve"],
        &["keys", "forget"],
        &["sweep"],
        &["migrate"],
        &["stats"],
        &["dead-letters", "list"],
        &["dead-letters", "replay"],
        &["dead-letters", "keep"],
        &["dead-letters", "discard"],
        &["outbox", "list"],
        &["outbox", "retry"],
        &["outbox", "discard"],
        &["places", "list"],
        &["places", "reset"],
    ] {
        run(&[command, &["--help"]].concat(), &[], "").await.ends(DONE).says(&[
            "Usage: ",
            "--store",
            "KEYLATCH_STORE",
            "--json",
        ]);
    }
    for command in ["show", "lose", "bring-back"] {
        run(&["regions", command, "--help"], &[], "")
            .await
            .ends(DONE)
            .says(&["Usage: ", "--config", "--store", "--json"]);
    }
    run(&["keys", "--help"], &[], "").await.ends(DONE).says(&["Exit codes: 0 done"]);
}

/// As for the other commands: a look makes no file.
#[tokio::test]
async fn a_region_whose_file_is_missing_is_told_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, missing) = (dir.path().join("keylatch.toml"), dir.path().join("eu.db"));
    std::fs::write(dir.path().join("secret"), "0".repeat(64)).expect("a file is written");
    let regions = "[regions]
this = \"us\"
epoch = 1
rule = \"key-prefix\"
secret-file = \"secret\"
lease = \"1s\"
peers = { eu = \"http://127.0.0.1:1\", ap = \"http://127.0.0.1:2\" }
[[route]]
name = \"orders\"
path = \"/orders\"
scope.header = \"X-User-Id\"
guarantee = \"at-most-once\"\n";
    std::fs::write(&config, regions).expect("a file is written");
    let config = config.display().to_string();
    let store = format!("sqlite:{}", missing.display());
    for command in [&["show"][..], &["lose", "eu", "--to", "us", "--reason", "a fire"]] {
        let command = [&["regions"], command, &["--config", &config, "--store", &store]].concat();
        run(&command, &[], "").await.ends(FAILED).says(&["eu.db is not there", "keylatch migrate"]);
    }
    assert!(!missing.exists(), "a look makes no file");
}

/// A store that is down is a failure, for every command, and its password is not shown.
#[tokio::test]
async fn a_store_that_is_down_is_told_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let missing = format!("sqlite:{}", dir.path().join("none.db").display());
    let id = "0".repeat(64);
    let act = ["--id", &id, "--epoch", "1", "--reason", "why"];
    let release = [&["keys", "release", "--yes"], &act[..]].concat();
    let resolve = [&["keys", "resolve", "--status", "200"], &act[..]].concat();
    let forget = [&["keys", "forget"], &act[..]].concat();
    let commands = [
        &["keys", "list"][..],
        &["keys", "show", "--id", &id],
        &release,
        &resolve,
        &forget,
        &["sweep"],
        &["stats"],
        &["outbox", "list"],
        &["places", "list"],
        &["dead-letters", "list"],
    ];
    for url in ["postgres://u:hunter2@127.0.0.1:1/d", "redis://:hunter2@127.0.0.1:1", &missing] {
        // All at once: a database that does not answer is waited for.
        let each = commands.iter().map(|command| async move {
            let ran = run(command, &[("KEYLATCH_STORE", url)], "").await.ends(FAILED);
            assert!(!ran.err.contains("hunter2") && ran.out.is_empty() && !ran.err.is_empty(), "{ran:?}");
            let ran = run(&[command, &["--json"][..]].concat(), &[("KEYLATCH_STORE", url)], "").await.ends(FAILED);
            assert_eq!(ran.json()["error"]["code"], "failed");
            assert!(!ran.out.contains("hunter2"), "{ran:?}");
        });
        futures_util::future::join_all(each).await;
    }
    assert!(!dir.path().join("none.db").exists(), "a look makes no file");
    let ran = run(&["stats"], &[("KEYLATCH_STORE", &missing)], "").await;
    ran.says(&["is not there", "keylatch migrate"]);
}
