//! Who did what, and why: in a file, or in the log.

use serde_json::Value;

use crate::setup::{CALLER, DONE, FAILED, UNCHANGED, World, on_every_store};

on_every_store! {
    each_action_is_in_the_file_before_and_after;
    actions_without_a_file_are_in_the_log;
    an_action_that_cannot_be_audited_does_not_happen;
}

async fn each_action_is_in_the_file_before_and_after(world: &World) {
    world.unknown("lost").await;
    let completed = world.completed("done", "answer").await;
    let file = world.path("audit.jsonl");
    let with = ["--audit-log", file.to_str().expect("text"), "--as", "erin"];
    let act = ["--reason", "ticket 7"];
    for (arguments, code) in [
        (&["keys", "release", CALLER, "lost", "--yes", "--epoch", "9"][..], UNCHANGED),
        (&["keys", "resolve", CALLER, "lost", "--status", "200", "--epoch", "1"], DONE),
        (&["keys", "forget", CALLER, "done", "--epoch", "1"], DONE),
        (&["sweep"], DONE),
    ] {
        let ran = world.run(&[arguments, &act, &with].concat()).await.ends(code);
        assert!(!ran.err.contains("keylatch::audit"), "what is in the file is not in the log: {ran:?}");
    }
    // A look leaves nothing.
    world.run(&["keys", "show", CALLER, "done"]).await.ends(DONE);
    let text = std::fs::read_to_string(&file).expect("there is a file");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let stages: Vec<_> = lines.iter().map(|line| (line["action"].as_str(), line["stage"].as_str())).collect();
    let expected = [
        ("release", "asked"),
        ("release", "refused"),
        ("resolve", "asked"),
        ("resolve", "done"),
        ("forget", "asked"),
        ("forget", "done"),
        ("sweep", "asked"),
        ("sweep", "done"),
    ];
    assert_eq!(stages, expected.map(|(action, stage)| (Some(action), Some(stage))), "{text}");
    for line in &lines {
        assert_eq!((&line["who"]["name"], &line["who"]["via"]), (&"erin".into(), &"command-line".into()));
        assert_eq!(line["reason"], "ticket 7");
    }
    assert_eq!(lines[4]["target"][0], completed.id().to_string());
    assert_eq!((&lines[4]["before"]["phase"], &lines[4]["before"]["epoch"]), (&"completed".into(), &1.into()));
    assert!(!text.contains("answer") && !text.contains("lost"), "neither a key nor a body: {text}");
}

async fn actions_without_a_file_are_in_the_log(world: &World) {
    world.completed("done", "answer").await;
    let forget = ["keys", "forget", CALLER, "done", "--epoch", "1", "--reason", "ticket 7", "--as", "erin", "--json"];
    let ran = world.run(&forget).await.ends(DONE);
    assert_eq!(ran.json()["applied"], true, "the answer is on the standard output alone");
    assert_eq!(ran.err.lines().filter(|line| line.contains("keylatch::audit")).count(), 2, "{ran:?}");
    ran.says(&["erin", "ticket 7", "forget"]);
}

async fn an_action_that_cannot_be_audited_does_not_happen(world: &World) {
    let completed = world.completed("done", "answer").await;
    let forget = ["keys", "forget", CALLER, "done", "--epoch", "1", "--reason", "ticket 7"];
    let ran = world.run(&[&forget[..], &["--audit-log", "/no/such/directory/audit"]].concat()).await;
    ran.ends(FAILED).says(&["nothing was done", "/no/such/directory/audit"]);
    assert_eq!(world.read("done").await, Some(completed));
}
