//! A region is lost and comes back, by the HTTP API, on the stores of three regions.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures_util::FutureExt as _;
use http::Request;
use http_body_util::BodyExt as _;
use keylatch::regions::{Changes, Homes, Region, Rule};
use keylatch::store::Store;
use keylatch::{Guarantee, Outcome};
use keylatch_admin::regions::{Log, Regions};
use keylatch_admin::{Access, Admin, Audit, Operator, Tokens};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::setup::{claim, complete};

const NAMES: [&str; 3] = ["ap", "eu", "us"];
const VIEWER: &str = "viewer-0123456789abcdef0123456789";
const OPERATOR: &str = "operator-0123456789abcdef01234567";
const LEASE: Option<Duration> = Some(Duration::from_millis(200));
const AHEAD_MAX: Duration = Duration::from_secs(1);

fn homes() -> Homes {
    Homes::new("us", NAMES, Rule::KeyPrefix, 1).unwrap()
}

fn region(name: &str) -> Region {
    name.parse().unwrap()
}

/// The API of a program in us that knows these stores.
fn api<S: Store + Clone>(stores: &[S; 3], known: &[&str], lease: Option<Duration>, audit: &Path) -> Router {
    let mut regions = Regions::new(homes(), lease, AHEAD_MAX);
    for (name, store) in NAMES.iter().zip(stores).filter(|(name, _)| known.contains(name)) {
        let store = store.clone();
        // Opened when it is needed, as those of other regions are.
        regions = regions.with_store_by(region(name), move || {
            let store: Arc<dyn Store> = Arc::new(store.clone());
            std::future::ready(Ok(store)).boxed()
        });
    }
    let operator = Operator::new(Arc::new(stores[2].clone())).with_regions(regions);
    with_tokens(operator.with_audit(Audit::to_file(audit).unwrap()))
}

fn with_tokens(operator: Operator) -> Router {
    let tokens = Tokens::parse(&format!("view:grafana:{VIEWER}\noperate:alice:{OPERATOR}\n")).unwrap();
    Admin::new(operator, Access::new(Some(tokens), IpAddr::from([10, 0, 0, 1]))).router()
}

/// Without a body it is a GET.
async fn ask(api: &Router, token: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    let request = Request::builder().method(if body.is_some() { "POST" } else { "GET" });
    let request = request.uri(format!("/api/v1{path}")).header("host", "admin.example");
    let request = request.header("authorization", format!("Bearer {token}")).header("content-type", "application/json");
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    let answer = api.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

/// Asks, and expects this problem.
async fn refused(api: &Router, path: &str, body: Value, expected: (u16, &str, &str)) {
    let (status, answer) = ask(api, OPERATOR, path, Some(body.clone())).await;
    let (status_wanted, code, why) = expected;
    assert_eq!((status, answer["code"].as_str()), (status_wanted, Some(code)), "{body}: {answer}");
    assert!(answer["detail"].as_str().unwrap().contains(why), "{body}: {answer}");
}

async fn a_region_is_lost_and_back(stores: [impl Store + Clone; 3]) {
    let directory = tempfile::tempdir().unwrap();
    let audit = directory.path().join("audit.jsonl");
    let lines = || -> Vec<Value> {
        let text = fs::read_to_string(&audit).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    for (name, store) in NAMES.iter().zip(&stores) {
        Log::new(Arc::new(store.clone())).belong_to(&region(name)).await.unwrap();
    }
    let done = claim(&stores[2], "us.1", Guarantee::Fenced).await;
    complete(&stores[2], &done, Outcome::bytes("done")).await;
    claim(&stores[2], "0192e4a1-5b1e-7cc3-98c4-dc0c0c07398f", Guarantee::Fenced).await;
    let two = api(&stores, &["ap", "us"], LEASE, &audit);
    let all = api(&stores, &NAMES, LEASE, &audit);

    let (status, map) = ask(&two, VIEWER, "/regions", None).await;
    assert_eq!((status, &map["epoch"], &map["lease_ms"]), (200, &json!(1), &json!(200)), "{map}");
    assert_eq!(map["changes"], json!({ "number": 0, "closing": [], "lost": [], "turns": [] }));
    assert_eq!(map["regions"][0], json!({ "region": "ap", "lost": false, "change": 0, "problem": null }));
    assert_eq!((&map["regions"][1]["region"], &map["regions"][1]["change"]), (&json!("eu"), &Value::Null));

    let lose = |more: Value| {
        let mut body = json!({ "region": "eu", "to": "us", "reason": "it is gone" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let back = || json!({ "region": "eu", "reason": "it is there" });
    for (path, body) in [("/regions/lose", lose(json!({}))), ("/regions/bring-back", back())] {
        let (status, answer) = ask(&two, VIEWER, path, Some(body)).await;
        assert_eq!((status, answer["code"].as_str()), (403, Some("ADMIN_ROLE_TOO_WEAK")));
    }
    let invalid = |why| (400, "ADMIN_REQUEST_INVALID", why);
    for (more, why) in [
        (json!({ "stores": ["us"] }), "a majority"),
        (json!({ "stores": ["ap", "eu"] }), "--region-store"),
        (json!({ "stores": ["us", "mars"] }), "not one of the regions: ap, eu, us"),
        (json!({ "region": "mars" }), "not one of the regions"),
        (json!({ "to": "eu" }), "another region"),
        (json!({ "reason": "" }), "must say why"),
    ] {
        refused(&two, "/regions/lose", lose(more), invalid(why)).await;
    }
    refused(&all, "/regions/lose", lose(json!({ "stores": ["ap", "eu"] })), invalid("the store of us")).await;
    refused(&two, "/regions/bring-back", back(), invalid("the store of eu")).await;
    refused(&all, "/regions/bring-back", back(), (409, "ADMIN_NOT_POSSIBLE", "is not lost")).await;

    // A rehearsal counts, and changes nothing.
    let (status, planned) = ask(&two, OPERATOR, "/regions/lose", Some(lose(json!({ "dry_run": true })))).await;
    assert_eq!((status, &planned["applied"]), (200, &json!(false)), "{planned}");
    assert_eq!((&planned["stores"], &planned["changes"]["lost"]), (&json!(["ap", "us"]), &json!(["eu"])));
    assert_eq!(planned["counted"][1], json!({ "region": "us", "records": 2, "running": 1, "timeless": 1 }));
    assert_eq!(ask(&two, VIEWER, "/regions", None).await.1["changes"]["number"], 0);
    assert!(lines().is_empty(), "nothing of that was an action");

    let (status, lost) = ask(&two, OPERATOR, "/regions/lose", Some(lose(json!({})))).await;
    assert_eq!((status, &lost["applied"], &lost["changes"]["number"]), (200, &json!(true), &json!(2)), "{lost}");
    assert_eq!((&lost["changes"]["turns"][0]["of"], &lost["changes"]["turns"][0]["by"]), (&json!("eu"), &json!("us")));
    let stages: Vec<_> = lines().iter().map(|line| (line["stage"].clone(), line["action"].clone())).collect();
    assert_eq!(stages, [("asked".into(), "lose-region".into()), ("done".into(), "lose-region".into())]);
    let line = lines()[0].clone();
    assert_eq!((&line["who"]["name"], &line["target"][0]), (&json!("alice"), &json!("region eu")));
    assert_eq!(line["reason"], "it is gone");
    let (_, map) = ask(&all, VIEWER, "/regions", None).await;
    let seen = |map: &Value| {
        NAMES.map(|name| {
            let of_name = |view: &&Value| view["region"] == name;
            map["regions"].as_array().unwrap().iter().find(of_name).unwrap()["change"].as_u64()
        })
    };
    assert_eq!((seen(&map), &map["regions"][1]["lost"]), ([Some(2), Some(0), Some(2)], &json!(true)));
    let (_, again) = ask(&two, OPERATOR, "/regions/lose", Some(lose(json!({})))).await;
    assert_eq!((&again["code"], &again["now"]["regions"]["number"]), (&json!("ADMIN_NOT_POSSIBLE"), &json!(2)));

    // Somebody was interrupted after the first step, which is in one store: the next change replaces it.
    let interrupt = async |regions: [&str; 1]| {
        let log = Log::new(Arc::new(stores[0].clone()));
        let before = log.latest(Changes::default()).await.unwrap().0;
        let closed = before.close(before.number, regions.map(region), "interrupted".to_owned());
        log.write(before.number, closed).await.unwrap();
    };
    interrupt(["ap"]).await;
    let (_, map) = ask(&all, VIEWER, "/regions", None).await;
    assert_eq!((&map["changes"]["closing"], &map["majority"]), (&json!(["ap"]), &json!(false)));
    let (status, brought) = ask(&all, OPERATOR, "/regions/bring-back", Some(back())).await;
    assert_eq!((status, &brought["changes"]["lost"]), (200, &json!([])), "{brought}");
    let (_, map) = ask(&all, VIEWER, "/regions", None).await;
    assert_eq!((seen(&map), &map["changes"]["closing"]), ([Some(5); 3], &json!([])));
    assert_eq!(map["majority"], json!(true));
}

#[tokio::test]
async fn what_is_not_set_up_says_how() {
    let directory = tempfile::tempdir().unwrap();
    let audit = directory.path().join("audit.jsonl");
    let stores = NAMES.map(|_| keylatch::memory::Store::new());
    for (name, store) in NAMES.iter().zip(&stores) {
        Log::new(Arc::new(store.clone())).belong_to(&region(name)).await.unwrap();
    }
    let lose = || json!({ "region": "eu", "to": "us", "reason": "it is gone" });
    let none = with_tokens(Operator::new(Arc::new(stores[2].clone())));
    refused(&none, "/regions/lose", lose(), (501, "ADMIN_UNSUPPORTED", "[regions]")).await;
    assert_eq!(ask(&none, VIEWER, "/regions", None).await.0, 501);
    let unleased = api(&stores, &NAMES, None, &audit);
    refused(&unleased, "/regions/lose", lose(), (501, "ADMIN_UNSUPPORTED", "lease")).await;
    assert_eq!(ask(&unleased, VIEWER, "/regions", None).await.1["lease_ms"], Value::Null);
    let alone = api(&stores, &["us"], LEASE, &audit);
    refused(&alone, "/regions/lose", lose(), (400, "ADMIN_REQUEST_INVALID", "--region-store")).await;

    // One store is gone, and one is another region's.
    let us: Arc<dyn Store> = Arc::new(stores[2].clone());
    let (own, wrong) = (us.clone(), us.clone());
    let regions = Regions::new(homes(), LEASE, AHEAD_MAX)
        .with_store(region("us"), own)
        .with_store_by(region("ap"), || std::future::ready(Err("the host is down".to_owned())).boxed())
        .with_store_by(region("eu"), move || std::future::ready(Ok(wrong.clone())).boxed());
    let broken = with_tokens(Operator::new(us).with_regions(regions));
    let unavailable = |why| (503, "ADMIN_STORE_UNAVAILABLE", why);
    refused(&broken, "/regions/lose", lose(), unavailable("store of ap: the host is down")).await;
    let with_eu = json!({ "region": "ap", "to": "us", "reason": "it is gone" });
    refused(&broken, "/regions/lose", with_eu, unavailable("this is the store of us")).await;
    let (status, map) = ask(&broken, VIEWER, "/regions", None).await;
    assert_eq!((status, &map["regions"][2]["change"]), (200, &json!(0)), "{map}");
    for nth in [0, 1] {
        assert!(map["regions"][nth]["problem"].is_string() && map["regions"][nth]["change"].is_null(), "{map}");
    }
}

#[tokio::test]
async fn on_sqlite() {
    let directories = NAMES.map(|_| tempfile::tempdir().unwrap());
    let [a, b, c] = &directories;
    let (ap, eu) = (crate::setup::sqlite(a.path()).await, crate::setup::sqlite(b.path()).await);
    a_region_is_lost_and_back([ap, eu, crate::setup::sqlite(c.path()).await]).await;
}

#[tokio::test]
async fn on_postgres() {
    let (ap, eu) = (crate::setup::postgres().await, crate::setup::postgres().await);
    a_region_is_lost_and_back([ap, eu, crate::setup::postgres().await]).await;
}

#[tokio::test]
async fn on_redis() {
    let server = testing_support::redis::Server::start(testing_support::redis::Config::new());
    let of = async |name: &str| {
        let options = keylatch::redis::Options::default().with_prefix(name);
        keylatch::redis::Store::connect_with(&server.url(), options).await.unwrap()
    };
    a_region_is_lost_and_back([of("ap").await, of("eu").await, of("us").await]).await;
}
