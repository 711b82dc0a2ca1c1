//! Where the key comes from, and which requests are guarded.

use http::{Method, StatusCode};

use crate::{Seen, Setup, Subject};

async fn ok(seen: Seen) -> String {
    format!("run {}", seen.nth)
}

pub async fn quoted_and_bare_forms_are_the_same_key(at: &impl Subject) {
    let app = Setup::fenced().start(at, ok).await;
    for (at, (sent, keys)) in [("abc", 1), ("\"abc\"", 1), (r#""a\"b\\c""#, 2), (r#"a"b\c"#, 2)].into_iter().enumerate()
    {
        let reply = app.call("POST", "/orders").key(sent).send().await;
        assert_eq!((reply.status, reply.body_text()), (200, format!("run {keys}").as_str()), "{sent}");
        assert_eq!(reply.replayed(), at % 2 == 1, "{sent}");
        assert_eq!(reply.text("idempotency-key").as_deref(), Some(sent), "as it was received");
    }
    assert_eq!(app.records().await.len(), 2);
}

pub async fn more_than_one_key_line_is_refused(at: &impl Subject) {
    let app = Setup::fenced().start(at, ok).await;
    for second in ["a", "b"] {
        let reply = app.call("POST", "/orders").key("a").key(second).send().await;
        let problem = reply.is_problem(400, "IDEMPOTENCY_KEY_INVALID");
        assert_eq!(problem["retryable"], false);
    }
    assert_eq!((app.runs(), app.records().await.len()), (0, 0));
}

pub async fn a_key_has_1_to_255_visible_ascii_characters(at: &impl Subject) {
    let app = Setup::fenced().start(at, ok).await;
    // `"` begins the quoted form, so it does not come first.
    let visible: String = ('!'..='~').rev().collect();
    let longest = "k".repeat(255);
    let good = [&visible, "a", ":/", &longest, &format!("\"{longest}\"")].map(str::to_owned);
    for key in &good {
        let reply = app.call("POST", "/orders").key(key).send().await;
        assert_eq!((reply.status, reply.replayed()), (200, *key == good[4]), "{key}");
    }
    assert_eq!(app.runs(), 4);
    let too_long = "k".repeat(256);
    let bad: [&[u8]; 13] = [
        b"",
        b"\"\"",
        b"a b",
        b"\"a b\"",
        b"a\tb",
        b"a\xe9",
        b"\xc3\xa9",
        b"\"a",
        b"\"a\"b\"",
        b"\"a\";p=1",
        b"\"a\\n\"",
        too_long.as_bytes(),
        &[b"\"", too_long.as_bytes(), b"\""].concat(),
    ];
    for key in bad {
        let reply = app.call("POST", "/orders").key(key).send().await;
        let problem = reply.is_problem(400, "IDEMPOTENCY_KEY_INVALID");
        assert_eq!((&problem["title"], &problem["retryable"]), (&"Idempotency key invalid".into(), &false.into()));
        assert!(reply.text("retry-after").is_none());
    }
    assert_eq!((app.runs(), app.records().await.len()), (4, 4));
}

pub async fn a_missing_key_is_refused_only_where_it_is_required(at: &impl Subject) {
    let required = Setup { require_key: true, ..Setup::fenced() }.start(at, ok).await;
    let problem = required.call("POST", "/orders").send().await.is_problem(400, "IDEMPOTENCY_KEY_REQUIRED");
    assert_eq!((&problem["title"], &problem["retryable"]), (&"Idempotency key required".into(), &false.into()));
    assert_eq!((required.runs(), required.records().await.len()), (0, 0));
    assert_eq!(required.call("POST", "/orders").key("k").send().await.status, 200);

    let free = Setup::fenced().start(at, ok).await;
    for run in ["run 1", "run 2"] {
        let reply = free.call("POST", "/orders").send().await;
        assert_eq!((reply.status, reply.body_text()), (200, run));
        assert!(reply.text("idempotency-expires").is_none());
    }
    assert!(free.records().await.is_empty());
}

pub async fn post_and_patch_are_guarded_and_others_by_choice(at: &impl Subject) {
    let app = Setup::fenced().start(at, ok).await;
    for (method, replayed) in [("POST", true), ("PATCH", true), ("PUT", false), ("DELETE", false)] {
        let call = app.call(method, "/orders").key("k");
        assert!(!call.send().await.replayed());
        assert_eq!(call.send().await.replayed(), replayed, "{method}");
    }
    let app = Setup { methods: Some(vec![Method::PUT, Method::DELETE]), ..Setup::fenced() }.start(at, ok).await;
    for (method, replayed) in [("POST", false), ("PATCH", false), ("PUT", true), ("DELETE", true)] {
        let call = app.call(method, "/orders").key("k");
        assert!(!call.send().await.replayed());
        assert_eq!(call.send().await.replayed(), replayed, "{method}");
    }
}

pub async fn get_head_and_options_always_pass_unguarded(at: &impl Subject) {
    async fn seen(seen: Seen) -> (StatusCode, [(&'static str, String); 1]) {
        let header = |name: &str| seen.parts.headers.get(name).map_or("-", |value| value.to_str().unwrap());
        let both = format!("{} {}", header("idempotency-key"), header("idempotent-replayed"));
        (StatusCode::OK, [("x-seen", both)])
    }
    let app = Setup { require_key: true, ..Setup::fenced() }.start(at, seen).await;
    for method in ["GET", "HEAD", "OPTIONS"] {
        for _ in 0..2 {
            let reply = app.call(method, "/orders").key("a bad key").header("Idempotent-Replayed", "no").send().await;
            assert_eq!((reply.status, reply.text("x-seen").as_deref()), (200, Some("a bad key -")), "{method}");
            assert!(!reply.replayed() && reply.text("idempotency-key").is_none());
        }
    }
    assert_eq!((app.runs(), app.records().await.len()), (6, 0));
}

pub async fn the_key_may_come_from_another_header(at: &impl Subject) {
    let app = Setup { key_header: Some("x-github-delivery"), require_key: true, ..Setup::fenced() }.start(at, ok).await;
    let delivery = app.call("POST", "/orders").header("X-GitHub-Delivery", "72d3162e").key("ignored");
    let (first, again) = (delivery.send().await, delivery.send().await);
    assert_eq!((first.replayed(), again.replayed()), (false, true));
    assert_eq!(again.text("idempotency-key").as_deref(), Some("72d3162e"));
    app.call("POST", "/orders").key("k").send().await.is_problem(400, "IDEMPOTENCY_KEY_REQUIRED");
}

pub async fn the_key_may_come_from_the_body(at: &impl Subject) {
    let app = Setup { key_pointer: Some("/event/id"), ..Setup::fenced() }.start(at, ok).await;
    let event = |body: &str| app.call("POST", "/orders").json(body);
    for (body, key) in [(r#"{"event":{"id":"evt_1"}}"#, "evt_1"), (r#"{"event":{"id":42}}"#, "42")] {
        let (first, again) = (event(body).send().await, event(body).send().await);
        assert_eq!((first.replayed(), again.replayed()), (false, true), "{body}");
        assert_eq!(again.text("idempotency-key").as_deref(), Some(key));
    }
    event(r#"{"event":{"id":"evt_1"},"more":1}"#).send().await.is_problem(422, "IDEMPOTENCY_KEY_REUSED");
    event(r#"{"event":{"id":"a b"}}"#).send().await.is_problem(400, "IDEMPOTENCY_KEY_INVALID");
    for keyless in ["{}", "not JSON", r#"{"event":{"id":null}}"#] {
        let (first, again) = (event(keyless).send().await, event(keyless).send().await);
        assert_ne!(first.body, again.body, "unguarded: {keyless}");
    }
    let required = Setup { key_pointer: Some("/id"), require_key: true, ..Setup::fenced() }.start(at, ok).await;
    required.call("POST", "/orders").json("{}").send().await.is_problem(400, "IDEMPOTENCY_KEY_REQUIRED");
}
