//! Records.

use std::time::Duration;

use keylatch::machine::Claimed;
use keylatch::store::{State, Store as _};
use keylatch::tiered::Tiered;
use keylatch::{Outcome, redis};
use testing_support::eventually;
use testing_support::redis::{Config, Server as Redis};

use crate::setup::{
    ARGUMENTS, CALLER, DONE, FAILED, Kind, NOT_FOUND, UNCHANGED, World, id, on_cassandra, on_every_store,
};

const SOON: Duration = Duration::from_secs(30);

on_every_store! {
    records_are_listed_by_scope_and_phase;
    pages_of_a_list_go_on;
    a_record_is_found_by_its_scope_and_key_or_its_id;
    a_record_that_is_not_there_is_told_so;
    an_answer_is_shown_on_demand;
    a_key_is_let_go_after_a_yes;
    a_stale_epoch_changes_nothing;
    a_living_owner_loses_nothing;
    an_operators_answer_is_every_retrys_answer;
    a_run_that_never_happened_runs_again;
    a_forgotten_answer_never_runs_again;
    a_dry_run_changes_nothing;
}

on_cassandra! {
    records_are_listed_by_scope_and_phase;
    pages_of_a_list_go_on;
    a_key_is_let_go_after_a_yes;
    an_operators_answer_is_every_retrys_answer;
    a_forgotten_answer_never_runs_again;
}

async fn records_are_listed_by_scope_and_phase(world: &World) {
    world.completed("done", "answer").await;
    let unknown = world.unknown("lost").await;
    world.running("under-way").await;
    world.abandoned("left").await;

    let table = world.run(&["keys", "list"]).await.ends(DONE);
    let table = table.says(&["PHASE", "EPOCH", "CREATED (UTC)", "SCOPE", "KEY", "completed", "unknown", "running"]);
    assert_eq!(table.out.lines().count(), 5, "{table:?}");
    assert!(!table.out.contains('\x1b'), "colours are for terminals: {table:?}");
    world.run(&["keys", "list", "--ids"]).await.ends(DONE).says(&[&unknown.id().to_string()]);
    world.run(&["keys", "list", "--scope", "nobody"]).await.ends(DONE).says(&["There is no such record."]);

    let (code, page) = world.json(&["keys", "list", "--scope", CALLER, "--phase", "unknown"]).await;
    let records = page["records"].as_array().expect("a list").clone();
    assert_eq!((code, records.len(), page["next"].is_null()), (DONE, 1, true), "{page}");
    assert_eq!(records[0]["key"], "lost");
    assert_eq!(records[0]["scope"]["caller"], CALLER);
    assert_eq!(records[0]["epoch"], 1);
    assert_eq!(records[0]["id"], unknown.id().to_string());
    // Without a scope: those that need a person.
    let (_, page) = world.json(&["keys", "list", "--phase", "abandoned"]).await;
    assert_eq!(page["records"][0]["key"], "left", "{page}");
}

async fn pages_of_a_list_go_on(world: &World) {
    for at in 0..7 {
        world.unknown(&format!("key-{at}")).await;
    }
    let mut keys = Vec::new();
    let mut cursor = None::<String>;
    loop {
        let next = cursor.iter().flat_map(|cursor| ["--cursor", cursor]);
        let arguments: Vec<_> = ["keys", "list", "--limit", "3"].into_iter().chain(next).collect();
        let (code, page) = world.json(&arguments).await;
        assert_eq!(code, DONE, "{page}");
        let records = page["records"].as_array().expect("a list");
        assert!(records.len() <= 3);
        keys.extend(records.iter().map(|record| record["key"].as_str().expect("a key").to_owned()));
        match page["next"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    keys.sort();
    let all: Vec<_> = (0..7).map(|at| format!("key-{at}")).collect();
    assert_eq!(keys, all);
    let lines = world.run(&["keys", "list", "--all", "--json"]).await.ends(DONE).lines();
    assert_eq!(lines.len(), 7);
    assert!(lines.iter().all(|record| record["phase"] == "unknown"), "{lines:?}");
    world.run(&["keys", "list", "--limit", "3"]).await.ends(DONE).says(&["--cursor ", "--all"]);
    world.run(&["keys", "list", "--cursor", "zz"]).await.ends(ARGUMENTS).says(&["cursor"]);
}

async fn a_record_is_found_by_its_scope_and_key_or_its_id(world: &World) {
    let record = world.unknown("lost").await;
    let id = record.id().to_string();
    for (arguments, input) in [
        (&["keys", "show", CALLER, "lost", "--json"][..], String::new()),
        (&["keys", "show", "--id", &id, "--json"], String::new()),
        (&["keys", "show", "--stdin", "--json"], format!("{CALLER}\nlost\n")),
        (&["keys", "show", "--stdin", "--json"], format!("{CALLER}\r\nlost")),
    ] {
        let detail = world.run_with(arguments, &input).await.ends(DONE).json();
        assert_eq!(detail["record"]["id"], id);
        assert_eq!(detail["record"]["phase"], "unknown");
        assert_eq!(detail["record"]["guarantee"], "at-most-once");
        assert!(detail["timeline"].as_array().is_some_and(|moments| !moments.is_empty()), "{detail}");
    }
    let shown = world.run(&["keys", "show", CALLER, "lost"]).await.ends(DONE);
    let shown =
        shown.says(&[&id, "unknown", "at-most-once", "keylatch keys release is possible", "second time", "UTC"]);
    assert!(shown.out.lines().all(|line| line.chars().count() <= 80), "{}", shown.out);
    world.run(&["keys", "show", CALLER, "lost", "--operation", "POST /other"]).await.ends(NOT_FOUND);
}

async fn a_record_that_is_not_there_is_told_so(world: &World) {
    let id = id("nothing").to_string();
    world
        .run(&["keys", "show", CALLER, "nothing"])
        .await
        .ends(NOT_FOUND)
        .says(&["there is no such record", "--operation"]);
    for action in [
        &["keys", "show", "--id", &id][..],
        &["keys", "release", "--id", &id, "--epoch", "1", "--reason", "gone", "--yes"],
        &["keys", "resolve", "--id", &id, "--epoch", "1", "--reason", "gone", "--status", "200"],
        &["keys", "resolve", "--id", &id, "--epoch", "1", "--reason", "gone", "--never-happened", "--yes"],
        &["keys", "forget", "--id", &id, "--epoch", "1", "--reason", "gone"],
    ] {
        let (code, error) = world.json(action).await;
        assert_eq!((code, error["error"]["code"].as_str()), (NOT_FOUND, Some("not-found")), "{action:?}: {error}");
    }
}

async fn an_answer_is_shown_on_demand(world: &World) {
    world.completed("done", "42 apples\x1b[2J").await;
    let without = world.run(&["keys", "show", CALLER, "done"]).await.ends(DONE).says(&["status 201"]);
    assert!(!without.out.contains("42 apples"), "{without:?}");
    let with = world.run(&["keys", "show", CALLER, "done", "--body"]).await.ends(DONE);
    let with = with.says(&["status 201", "content-type: text/plain", "42 apples\\u{1b}[2J"]);
    assert!(!with.out.contains('\x1b'), "it must not move the cursor");
    let (_, detail) = world.json(&["keys", "show", CALLER, "done", "--body"]).await;
    assert_eq!(detail["kept"]["body"], "42 apples\x1b[2J");
    assert_eq!(detail["kept"]["status"], 201);
}

async fn a_key_is_let_go_after_a_yes(world: &World) {
    let record = world.unknown("lost").await;
    let release = ["keys", "release", CALLER, "lost", "--epoch", "1", "--reason", "the provider has no charge"];
    // Nobody is there to say yes.
    world.run(&release).await.ends(ARGUMENTS).says(&["second time", "--yes"]);
    assert_eq!(world.read("lost").await.as_ref(), Some(&record));
    let (code, acted) = world.json(&[&release[..], &["--yes"]].concat()).await;
    assert_eq!((code, &acted["applied"]), (DONE, &true.into()), "{acted}");
    assert_eq!(acted["plan"]["second_run"], true);
    match world.retry("lost").await {
        Claimed::Won(next) => assert_eq!(next.epoch, record.epoch.next()),
        Claimed::Held(record) => panic!("it should run: {record:?}"),
    }
}

async fn a_stale_epoch_changes_nothing(world: &World) {
    let unknown = world.unknown("lost").await;
    let completed = world.completed("done", "answer").await;
    for (action, key, more) in [
        ("release", "lost", &["--yes"][..]),
        ("resolve", "lost", &["--status", "200"]),
        ("resolve", "lost", &["--never-happened", "--yes"]),
        ("forget", "done", &[]),
    ] {
        let arguments = [&["keys", action, CALLER, key, "--epoch", "7", "--reason", "late"][..], more].concat();
        world.run(&arguments).await.ends(UNCHANGED).says(&["nothing was changed", "in epoch 1"]);
        let (code, error) = world.json(&arguments).await;
        assert_eq!((code, &error["error"]["code"]), (UNCHANGED, &"stale".into()), "{error}");
        assert_eq!(error["error"]["now"]["record"]["epoch"], 1, "it says what is there: {error}");
    }
    assert_eq!(world.read("lost").await, Some(unknown));
    assert_eq!(world.read("done").await, Some(completed));
}

async fn a_living_owner_loses_nothing(world: &World) {
    let running = world.running("under-way").await;
    for (action, more) in
        [("release", &["--yes"][..]), ("resolve", &["--status", "200"]), ("resolve", &["--never-happened", "--yes"])]
    {
        let arguments =
            [&["keys", action, CALLER, "under-way", "--epoch", "1", "--reason", "stuck"][..], more].concat();
        world.run(&arguments).await.ends(UNCHANGED).says(&["alive", "its lease ends at"]);
        assert_eq!(world.json(&arguments).await.1["error"]["code"], "alive");
    }
    let forget = ["keys", "forget", CALLER, "under-way", "--epoch", "1", "--reason", "private"];
    world.run(&forget).await.ends(UNCHANGED);
    assert_eq!(world.read("under-way").await, Some(running));
}

async fn an_operators_answer_is_every_retrys_answer(world: &World) {
    world.unknown("lost").await;
    let body = world.path("body.json");
    std::fs::write(&body, r#"{"paid":true}"#).expect("the file is written");
    let body = format!("@{}", body.display());
    let resolve = ["keys", "resolve", CALLER, "lost", "--epoch", "1", "--reason", "the provider has charged it"];
    let answer = ["--status", "201", "--header", "Content-Type: application/json", "--body", &body];
    let (code, acted) = world.json(&[&resolve[..], &answer].concat()).await;
    assert_eq!((code, &acted["record"]["phase"]), (DONE, &"completed".into()), "{acted}");
    let Claimed::Held(held) = world.retry("lost").await else { panic!("it never runs again") };
    let State::Completed { outcome: Some(outcome), .. } = held.state else { panic!("{held:?}") };
    assert_eq!((outcome.status.as_u16(), &outcome.body), (201, &Outcome::bytes(r#"{"paid":true}"#).body));
    assert_eq!(outcome.headers[0].1, "application/json");
    // It is final: a second one is told what is there.
    let again = world.run(&[&resolve[..], &["--status", "500"]].concat()).await.ends(UNCHANGED);
    again.says(&["nothing was changed", "completed"]);
}

async fn a_run_that_never_happened_runs_again(world: &World) {
    world.unknown("lost").await;
    let resolve =
        ["keys", "resolve", CALLER, "lost", "--epoch", "1", "--reason", "it was never sent", "--never-happened"];
    world.run(&resolve).await.ends(ARGUMENTS).says(&["--yes"]);
    world.run(&[&resolve[..], &["--yes"]].concat()).await.ends(DONE);
    assert!(matches!(world.retry("lost").await, Claimed::Won(_)));
}

async fn a_forgotten_answer_never_runs_again(world: &World) {
    let record = world.completed("done", "private").await;
    let forget = ["keys", "forget", CALLER, "done", "--epoch", "1", "--reason", "the caller has asked for it"];
    let (code, acted) = world.json(&forget).await;
    assert_eq!((code, &acted["record"]["phase"]), (DONE, &"tombstone".into()), "{acted}");
    let Claimed::Held(held) = world.retry("done").await else { panic!("it never runs again") };
    assert!(matches!(held.state, State::Completed { outcome: None, .. }), "{held:?}");
    assert_eq!(held.free_at, record.free_at, "its tombstone keeps its end");
}

async fn a_dry_run_changes_nothing(world: &World) {
    let (unknown, completed) = (world.unknown("lost").await, world.completed("done", "answer").await);
    for (action, key, more) in
        [("release", "lost", &[][..]), ("resolve", "lost", &["--status", "200"]), ("forget", "done", &[])]
    {
        let arguments = ["keys", action, CALLER, key, "--epoch", "1", "--reason", "a look", "--dry-run"];
        let (code, acted) = world.json(&[&arguments[..], more].concat()).await;
        assert_eq!((code, &acted["applied"], &acted["plan"]["possible"]), (DONE, &false.into(), &true.into()));
    }
    assert_eq!((world.read("lost").await, world.read("done").await), (Some(unknown), Some(completed)));
}

/// The cache in front of the store forgets the answer, too; and if it cannot be told, that is a failure, and can be
/// done again.
#[tokio::test]
async fn a_cache_in_front_of_the_store_forgets_too() {
    let world = World::new(Kind::Sqlite).await;
    let server = Redis::start(Config::new());
    let cache = redis::Cache::connect(&server.url(), redis::Options::default()).await.expect("it is there");
    let service = Tiered::new(world.store.clone(), cache);
    let record = world.completed("done", "private").await;
    assert!(service.read(record.id()).await.expect("it reads").value.is_some());
    eventually(SOON, "a copy", async || !server.ask("KEYS keylatch-cache:*").trim().is_empty()).await;

    let forget = ["keys", "forget", CALLER, "done", "--epoch", "1", "--reason", "ticket 7"];
    let unreachable = [&forget[..], &["--cache", "redis://127.0.0.1:1"]].concat();
    world.run(&unreachable).await.ends(FAILED).says(&["the cache was not told", "send this again"]);
    world.run(&[&forget[..], &["--cache", &server.url()]].concat()).await.ends(DONE);
    let read = service.read(record.id()).await.expect("it reads").value.expect("its tombstone is there");
    assert!(matches!(read.state, State::Completed { outcome: None, .. }), "{read:?}");
}
