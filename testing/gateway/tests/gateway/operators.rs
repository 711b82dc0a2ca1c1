//! The listener for operators: who is let in, what they see and do, and what the audit log has.

use std::fs;
use std::path::Path;

use reqwest::{Client, Method};
use serde_json::{Value, json};
use testing_support::eventually;
use testing_support::server::Server;

use crate::setup::{Pair, SOON, Service, gateway};

const VIEWER: &str = "viewer-0123456789abcdef0123456789";
const OPERATOR: &str = "operator-0123456789abcdef01234567";
const LATER: &str = "later-0123456789abcdef0123456789a";

/// The address of the listener for operators.
pub(crate) async fn admin(server: &Server) -> String {
    let printed = || server.printed().lines().find_map(|line| line.trim().strip_prefix("operators").map(str::to_owned));
    eventually(SOON, "the greeting", async || printed().is_some()).await;
    let line = printed().expect("it was there");
    line.trim().split_once("/api/v1").expect("an address").0.to_owned()
}

pub(crate) async fn ask(method: Method, url: String, token: Option<&str>, body: Option<&Value>) -> (u16, Value) {
    let client = Client::builder().no_proxy().build().expect("a plain client");
    let mut request = client.request(method, url).timeout(SOON);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body {
        request = request.json(body);
    }
    let answer = request.send().await.expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

fn write_tokens(path: &Path, tokens: &[(&str, &str)]) {
    let lines: String = tokens.iter().map(|(who, token)| format!("{who}:{token}\n")).collect();
    fs::write(path, lines).expect("there is room for a file");
}

#[tokio::test]
async fn an_operator_finds_what_became_of_a_request_and_takes_its_answer_away() {
    const SECRETS: [&str; 4] = ["key-sentinel", "body-sentinel", VIEWER, OPERATOR];
    let dir = tempfile::tempdir().expect("there is room for a directory");
    let (tokens, log) = (dir.path().join("tokens"), dir.path().join("audit.jsonl"));
    write_tokens(&tokens, &[("view:grafana", VIEWER), ("operate:alice", OPERATOR)]);
    let (tokens_text, log_text) = (tokens.display().to_string(), log.display().to_string());
    let more = ["--admin-listen", "127.0.0.1:0", "--admin-tokens", &tokens_text, "--audit-log", &log_text];
    let pair = Pair::new("fenced", &more).await;
    let api = admin(&pair.gateway).await + "/api/v1";
    for body in ["body-sentinel", "body-sentinel", "another body"] {
        pair.post("/letters", "key-sentinel", body).await;
    }

    assert_eq!(ask(Method::GET, format!("{api}/records"), None, None).await.0, 401);
    let (status, page) = ask(Method::GET, format!("{api}/records"), Some(VIEWER), None).await;
    assert_eq!(status, 200, "{page}");
    let record = &page["records"][0];
    assert_eq!((&record["key"], &record["phase"]), (&json!("key-sentinel"), &json!("completed")));
    let name = json!({ "scope": record["scope"], "key": record["key"] });
    let (_, found) = ask(Method::POST, format!("{api}/records/find"), Some(VIEWER), Some(&name)).await;
    let seen: Vec<_> = found["seen"]["events"].as_array().expect("a list").iter().map(|event| &event["what"]).collect();
    assert_eq!(seen, ["started", "completed", "replayed", "mismatch"], "{found}");
    assert_eq!(found["seen"]["events"][3]["differs"], json!(["body"]));

    let forget = format!("{api}/records/{}/forget", record["id"].as_str().expect("an id"));
    let change = json!({ "epoch": record["epoch"], "reason": "asked by the customer" });
    assert_eq!(ask(Method::POST, forget.clone(), Some(VIEWER), Some(&change)).await.0, 403);
    let (status, acted) = ask(Method::POST, forget, Some(OPERATOR), Some(&change)).await;
    assert_eq!((status, &acted["record"]["phase"]), (200, &json!("tombstone")), "{acted}");

    let lines: Vec<Value> = fs::read_to_string(&log)
        .expect("an audit log")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    let stages: Vec<_> = lines.iter().map(|line| (&line["stage"], &line["who"]["name"], &line["action"])).collect();
    let (alice, action) = (&json!("alice"), &json!("forget"));
    assert_eq!(stages, [(&json!("asked"), alice, action), (&json!("done"), alice, action)]);
    assert_eq!(lines[0]["before"], json!({ "epoch": 1, "phase": "completed" }));
    assert_eq!(lines[0]["reason"], "asked by the customer");
    let (status, printed) = pair.gateway.terminate().await;
    assert!(status.success(), "{printed}");
    assert!(printed.contains("keylatch::audit") && printed.contains("asked by the customer"), "{printed}");
    let logged = printed + &fs::read_to_string(&log).expect("an audit log");
    for secret in SECRETS {
        assert!(!logged.contains(secret), "{secret}:\n{logged}");
    }
}

#[tokio::test]
async fn tokens_are_read_again_on_sighup_and_a_wrong_file_changes_nothing() {
    let dir = tempfile::tempdir().expect("there is room for a directory");
    let service = Service::start(&dir.path().join("ledger"), 0).await;
    let file = dir.path().join("keylatch.toml");
    let route = "[[route]]\nname = \"a\"\npath = \"/letters\"\nscope.shared = \"all\"\nguarantee = \"fenced\"\n";
    fs::write(&file, format!("[admin]\nlisten = \"127.0.0.1:0\"\ntokens = \"tokens\"\n{route}")).expect("room");
    let tokens = dir.path().join("tokens");
    write_tokens(&tokens, &[("view:grafana", VIEWER)]);
    let file = file.display().to_string();
    let gateway = gateway(&service.url, &["--store", "memory:", "--config", &file]).start().await.expect("it starts");
    let me = admin(&gateway).await + "/api/v1/me";
    let knows = async |token: &str| ask(Method::GET, me.clone(), Some(token), None).await.0 == 200;
    assert!(knows(VIEWER).await && !knows(LATER).await);
    fs::write(&tokens, "view:late:short\n").expect("room");
    gateway.hang_up();
    eventually(SOON, "the refusal of the file", async || gateway.printed().contains("a token has 32")).await;
    assert!(knows(VIEWER).await, "what was read before counts on");
    write_tokens(&tokens, &[("operate:late", LATER)]);
    gateway.hang_up();
    eventually(SOON, "the new token", async || knows(LATER).await).await;
    assert!(!knows(VIEWER).await, "the old one is gone");
}
