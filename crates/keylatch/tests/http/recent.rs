//! Which part of a refused request differed, by choice.

use keylatch::recent::{Recent, What};

use crate::app::{App, Seen, Setup};

async fn ok(seen: Seen) -> String {
    format!("run {}", seen.nth)
}

/// The parts in which requests differed that were refused for alice's key.
async fn differing(app: &App, recent: &Recent) -> Vec<Option<Vec<&'static str>>> {
    let records = testing_contract::Running::records(&**app).await;
    let seen = recent.of(records[0].id()).expect("it was seen");
    let differing = seen.events.iter().filter_map(|event| match event.what {
        What::Mismatch { differs } => Some(differs.map(|differs| differs.parts().map(|part| part.name()).collect())),
        _ => None,
    });
    differing.collect()
}

#[tokio::test]
async fn it_says_which_part_of_a_request_differed() {
    let recent = Recent::new(100);
    let remembered = recent.clone();
    let setup = Setup::fenced()
        .layer(|layer| layer.with_canonical_json().with_counted_header("x-version").with_recent(remembered));
    let app = setup.start(ok).await;
    let call = |path: &str| app.call("POST", path).key("k").header("Content-Type", "application/json");
    assert_eq!(call("/orders?a=1").body(r#"{"a":1,"b":2}"#).send().await.status, 200);
    let others = [
        call("/orders?a=1").body(r#"{"a":1,"b":3}"#),
        call("/orders?a=2").body(r#"{"b":2, "a":1}"#),
        call("/orders").body("{}"),
        app.call("POST", "/orders?a=1").key("k").header("Content-Type", "text/plain").body(r#"{"a":1,"b":2}"#),
        call("/orders?a=1").body(r#"{"a":1,"b":2}"#).header("x-version", "2"),
    ];
    for other in others {
        other.send().await.is_problem(422, "IDEMPOTENCY_KEY_REUSED");
    }
    let expected: [&[&str]; 5] = [&["body"], &["query"], &["query", "body"], &["type", "body"], &["headers"]];
    assert_eq!(differing(&app, &recent).await, expected.map(|parts| Some(parts.to_vec())));
}

#[tokio::test]
async fn a_request_that_a_service_identifies_itself_has_no_known_parts() {
    let recent = Recent::new(100);
    let remembered = recent.clone();
    let setup = Setup::fenced()
        .layer(|layer| layer.with_fingerprint(|_, body| keylatch::Fingerprint::of([body])).with_recent(remembered));
    let app = setup.start(ok).await;
    assert_eq!(app.call("POST", "/orders").key("k").body("a").send().await.status, 200);
    app.call("POST", "/orders").key("k").body("b").send().await.is_problem(422, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(differing(&app, &recent).await, [None]);
}
