//! Regions in one process: each a router with a layer, which are each other's clients.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::routing::post;
use http::{Request, Response, StatusCode};
use keylatch::http::{
    GuardedBody, IDEMPOTENCY_REGION, IdempotencyLayer, Problem, RegionSecret, Regions, ScopeFrom, ToHome,
};
use keylatch::memory::Store;
use keylatch::regions::{Homes, Rule};
use keylatch::sqlite;
use serde_json::Value;
use tower::ServiceExt;

const NAMES: [&str; 2] = ["eu", "us"];

struct World {
    dir: tempfile::TempDir,
    routers: Arc<OnceLock<BTreeMap<&'static str, Router>>>,
    runs: Arc<AtomicUsize>,
    /// How many requests each region got, from clients and from the other.
    asked: Arc<[AtomicUsize; 2]>,
}

impl World {
    /// Two regions, with an epoch and a secret for each.
    async fn new(epochs: [u64; 2], secrets: [u8; 2]) -> Self {
        let world = Self {
            dir: tempfile::tempdir().unwrap(),
            routers: Arc::default(),
            runs: Arc::default(),
            asked: Arc::default(),
        };
        let open = |name: &str| sqlite::Store::open(world.dir.path().join(name));
        let stores = [open("eu").await.unwrap(), open("us").await.unwrap()];
        let region = |nth: usize| {
            let homes = Homes::new(NAMES[nth], NAMES, Rule::KeyPrefix, epochs[nth]).unwrap();
            let regions = Regions::new(homes, RegionSecret::new(vec![secrets[nth]; 32]).unwrap());
            let layer = IdempotencyLayer::fenced(stores[nth].clone(), ScopeFrom::header("x-user-id"));
            let (routers, runs) = (world.routers.clone(), world.runs.clone());
            let client = tower::service_fn(move |request: Request<GuardedBody<Body>>| {
                let routers = routers.clone();
                async move {
                    let ToHome(home) = request.extensions().get::<ToHome>().expect("it goes home").clone();
                    let router = routers.get().expect("they are built")[home.as_str()].clone();
                    let (mut parts, body) = request.into_parts();
                    parts.extensions.clear();
                    router.oneshot(Request::from_parts(parts, Body::new(body))).await
                }
            });
            let handler = move |body: String| async move {
                runs.fetch_add(1, Ordering::SeqCst);
                let status = if body == "fail" { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::CREATED };
                (status, [("set-cookie", "a=1"), ("x-other", "1")], format!("{body} in {}", NAMES[nth]))
            };
            let asked = world.asked.clone();
            let count = move |request: Request<Body>| {
                asked[nth].fetch_add(1, Ordering::SeqCst);
                request
            };
            let app = Router::new().route("/orders", post(handler)).layer(layer.with_homes(regions, client));
            // The part of a path that a router has taken away still counts.
            (NAMES[nth], Router::new().nest("/api", app).layer(tower::util::MapRequestLayer::new(count)))
        };
        world.routers.set(BTreeMap::from([region(0), region(1)])).expect("once");
        world
    }

    async fn send(&self, region: &str, request: Request<Body>) -> (StatusCode, http::HeaderMap, String) {
        let router = self.routers.get().unwrap()[region].clone();
        let response: Result<Response<Body>, Infallible> = router.oneshot(request).await;
        let (parts, body) = response.unwrap().into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    fn asked(&self, region: &str) -> usize {
        self.asked[NAMES.iter().position(|name| *name == region).unwrap()].load(Ordering::SeqCst)
    }

    fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }
}

fn order(key: &str, body: &'static str) -> Request<Body> {
    let request = Request::post("/api/orders?a=b").header("x-user-id", "alice").header("idempotency-key", key);
    request.header("connection", "x-hop").header("x-hop", "1").body(Body::from(body)).unwrap()
}

fn code(body: &str) -> String {
    serde_json::from_str::<Value>(body).unwrap()["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn i1_a_key_runs_at_home_wherever_it_is_asked_for() {
    let world = World::new([1, 1], [1, 1]).await;
    for (nth, region) in ["us", "eu", "us"].into_iter().enumerate() {
        let (status, headers, body) = world.send(region, order("eu.1", "tea")).await;
        assert_eq!((status, body.as_str()), (StatusCode::CREATED, "tea in eu"));
        assert_eq!(headers.contains_key("idempotent-replayed"), nth > 0);
        assert!(!headers.contains_key(IDEMPOTENCY_REGION));
    }
    let (status, _, body) = world.send("us", order("eu.1", "coffee")).await;
    assert_eq!((status, code(&body).as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "IDEMPOTENCY_KEY_REUSED"));
    assert_eq!(world.send("us", order("us.1", "tea")).await.2, "tea in us");
    assert_eq!(world.runs(), 2);
}

/// Once it is here, it is given here, whether the home is there or not; and only to the same caller and request.
#[tokio::test]
async fn i9_a_replay_of_another_regions_answer_is_local() {
    let world = World::new([1, 1], [1, 1]).await;
    let first = world.send("us", order("eu.1", "tea")).await;
    let sent_home = world.asked("eu");
    for _ in 0..3 {
        let again = world.send("us", order("eu.1", "tea")).await;
        assert_eq!((again.0, &again.2), (first.0, &first.2));
        assert_eq!(again.1["idempotent-replayed"], "true");
        assert_eq!(again.1["idempotency-expires"], first.1["idempotency-expires"], "it expires when the home says");
        assert_eq!((&again.1["content-type"], again.1.contains_key("set-cookie")), (&first.1["content-type"], false));
        assert!(first.1.contains_key("set-cookie") && !again.1.contains_key(IDEMPOTENCY_REGION));
    }
    assert_eq!(world.asked("eu"), sent_home, "the home was not asked");
    // I7, I8: another request, and another caller, are for the home to answer.
    assert_eq!(code(&world.send("us", order("eu.1", "coffee")).await.2), "IDEMPOTENCY_KEY_REUSED");
    let mut bob = order("eu.1", "tea");
    bob.headers_mut().insert("x-user-id", "bob".parse().unwrap());
    assert!(!world.send("us", bob).await.1.contains_key("idempotent-replayed"));
    assert_eq!((world.asked("eu"), world.runs()), (sent_home + 2, 2));
    // A replay that comes from home is kept as well.
    world.send("eu", order("eu.2", "tea")).await;
    for _ in 0..2 {
        assert!(world.send("us", order("eu.2", "tea")).await.1.contains_key("idempotent-replayed"));
    }
    assert_eq!(world.asked("eu"), sent_home + 4);
}

#[tokio::test]
async fn what_is_not_final_is_never_kept() {
    let world = World::new([1, 1], [1, 1]).await;
    for (nth, body) in ["fail", "fail"].into_iter().enumerate() {
        assert_eq!(world.send("us", order("eu.1", body)).await.0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(world.runs(), nth + 1);
    }
}

#[tokio::test]
async fn maps_or_secrets_that_differ_stop_a_request() {
    for world in [World::new([1, 2], [1, 1]).await, World::new([2, 1], [1, 1]).await] {
        let (status, _, body) = world.send("us", order("eu.1", "tea")).await;
        assert_eq!((status, code(&body).as_str()), (StatusCode::SERVICE_UNAVAILABLE, "IDEMPOTENCY_HOME_UNREACHABLE"));
        assert_eq!(world.runs(), 0);
    }
    // To a region with another secret it is the request of a client, whose home is there.
    let world = World::new([1, 1], [1, 2]).await;
    assert_eq!(world.send("us", order("eu.1", "tea")).await.2, "tea in eu");
}

/// A header from elsewhere is no reason to send a request on, so nothing goes in circles.
#[tokio::test]
async fn a_request_that_nobody_has_signed_is_not_sent_on() {
    let world = World::new([1, 1], [1, 1]).await;
    for lines in [&["us;eu;1;0;00"][..], &["", ""], &["\u{e9}"]] {
        let mut request = order("eu.1", "tea");
        for line in lines {
            request.headers_mut().append(IDEMPOTENCY_REGION, line.parse().unwrap());
        }
        let (status, _, body) = world.send("us", request).await;
        assert_eq!((status, code(&body).as_str()), (StatusCode::SERVICE_UNAVAILABLE, "IDEMPOTENCY_HOME_UNREACHABLE"));
    }
    assert_eq!(world.runs(), 0);
}

#[tokio::test]
async fn a_client_says_what_it_knows_of_a_request_without_an_answer() {
    for (problem, status) in [
        (Problem::HomeUnreachable, StatusCode::SERVICE_UNAVAILABLE),
        (Problem::HomeSilent, StatusCode::GATEWAY_TIMEOUT),
    ] {
        let regions =
            Regions::new(Homes::new("us", NAMES, Rule::KeyPrefix, 1).unwrap(), RegionSecret::new(vec![1; 32]).unwrap());
        let unreachable = problem.clone();
        let client = tower::service_fn(move |_: Request<GuardedBody<Body>>| {
            let problem = unreachable.clone();
            async move { Ok::<_, Infallible>(problem.response().map(Body::from)) }
        });
        let layer = IdempotencyLayer::fenced(Store::new(), ScopeFrom::header("x-user-id")).with_homes(regions, client);
        let app = Router::new().route("/api/orders", post(|| async { "here" })).layer(layer);
        let response = app.oneshot(order("eu.1", "tea")).await.unwrap();
        assert_eq!(response.status(), status);
        assert!(problem.is_retryable() && response.headers()["retry-after"] == "1");
    }
}

#[test]
fn a_short_secret_is_refused_and_none_is_shown() {
    assert!(RegionSecret::new(vec![1; 31]).is_err());
    let secret = RegionSecret::new(b"a secret that nobody is to see, ever".to_vec()).unwrap();
    let regions = Regions::new(Homes::new("us", NAMES, Rule::Scope, 1).unwrap(), secret);
    assert!(!format!("{regions:?}").contains("nobody"));
}
