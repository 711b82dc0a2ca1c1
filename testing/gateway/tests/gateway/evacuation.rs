//! A region is lost, another one stands in for it, and it comes back: with leases, on PostgreSQL.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Method;
use keylatch::regions::{Changes, Turn};
use keylatch::{Clock, Key, Timestamp};
use serde_json::{Value, json};
use testing_history::{Guarantee, Log, Reply, check, judge};
use testing_support::client::{Client, Targets};
use testing_support::eventually;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::operators;
use crate::regions::{NAMES, Options, World, letter, letter_in, started};
use crate::setup::{Answer, SOON};

const LEASE: Duration = Duration::from_secs(1);

fn with_lease(_: &str) -> String {
    "epoch = 1\nrule = \"key-prefix\"\nlease = \"1s\"\nkey-ahead-max = \"1s\"\n".to_owned()
}

/// A new key of a region.
fn key(region: &str) -> String {
    Key::random().in_region(region).expect("it is a region").as_str().to_owned()
}

impl World {
    /// Waits until every gateway decides.
    async fn decides(&self) {
        for name in NAMES {
            self.accepts(name, name).await;
        }
    }

    /// Waits until `region` answers a new key of `home`.
    async fn accepts(&self, region: &str, home: &str) {
        let what = format!("{region} to answer keys of {home}");
        let answered = async || self.post(region, "/letters", &key(home), "a").await.status == 201;
        eventually(SOON, &what, answered).await;
    }

    /// Runs `keylatch regions …` on the stores of these regions, as a JSON object, or what it says instead.
    async fn regions(&self, command: &[&str], of: &[&str]) -> Result<Value, String> {
        let file = self.dir.path().join("us.toml");
        let mut program = Command::new(env!("CARGO_BIN_EXE_gateway-under-test"));
        program.arg("regions").args(command).args(["--json", "--config"]).arg(file);
        for region in of {
            program.args(["--store", &self.regions[region].store]);
        }
        let output = program.output().await.expect("it runs");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let object: Value = serde_json::from_str(&printed)
            .unwrap_or_else(|_| panic!("{printed}\n{}", String::from_utf8_lossy(&output.stderr)));
        if output.status.success() { Ok(object) } else { Err(object["error"]["detail"].as_str().unwrap().to_owned()) }
    }

    async fn lose(&self, region: &str, to: &str, of: &[&str]) -> Result<Value, String> {
        self.regions(&["lose", region, "--to", to, "--reason", "it is gone"], of).await
    }
}

impl World {
    /// Asks the operators' API of a region, without a token.
    async fn operators(&self, region: &str, path: &str, body: Option<Value>) -> Value {
        let gateway = self.regions[region].gateway.as_ref().expect("it runs");
        let url = format!("{}/api/v1/{path}", operators::admin(gateway).await);
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let (status, answer) = operators::ask(method, url, None, body.as_ref()).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }
}

/// Waits until a key that is made now belongs to the latest turn.
async fn after_the_turn(shown: &Value) {
    let turns = shown["changes"]["turns"].as_array().unwrap().iter();
    let since = turns.map(|turn| turn["since"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap()).max();
    let since = Timestamp::from_millis(since.unwrap().as_millisecond());
    sleep(Clock::system().now().until(since) + Duration::from_millis(5)).await;
}

fn is_unknown(answer: &Answer) -> bool {
    answer.status == 409 && answer.code() == "IDEMPOTENCY_OUTCOME_UNKNOWN"
}

fn is_unreachable(answer: &Answer) -> bool {
    answer.status == 503 && answer.code() == "IDEMPOTENCY_HOME_UNREACHABLE"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i1_a_region_is_lost_evacuated_and_back() {
    let mut world = World::start(Options { postgres: true, more: with_lease, operators: true, ..Options::new() }).await;
    world.decides().await;
    let (here, there, timeless) = (key("eu"), key("eu"), "eu.timeless".to_owned());
    // One whose answer the others have seen, one that only its home knows, and one without a time.
    assert_eq!(world.post("us", "/letters", &here, "a").await.status, 201);
    assert_eq!(world.post("eu", "/letters", &there, "a").await.status, 201);
    assert_eq!(world.post("eu", "/letters", &timeless, "a").await.status, 201);
    let ahead = world.post("us", "/letters", &ahead_of_now(Duration::from_secs(600)), "a").await;
    assert_eq!((ahead.status, ahead.code().as_str()), (400, "IDEMPOTENCY_KEY_INVALID"));

    // Cut off from all others, it decides about nothing after one lease: not even about its own keys.
    world.cut("eu").await;
    sleep(LEASE + LEASE / 2).await;
    assert!(is_unreachable(&world.post("eu", "/letters", &key("eu"), "a").await));
    assert!(world.post("eu", "/letters", &there, "a").await.is_replay(), "its process remembers");
    assert!(is_unreachable(&world.post("us", "/letters", &there, "a").await));
    assert!(world.post("us", "/letters", &here, "a").await.is_replay(), "a copy is here");
    world.accepts("us", "ap").await;

    // A rehearsal counts, and changes nothing.
    let rehearsal = ["lose", "eu", "--to", "us", "--reason", "it is gone", "--dry-run"];
    let shown = world.regions(&rehearsal, &["us", "ap"]).await.unwrap();
    assert_eq!((&shown["applied"], &shown["changes"]["lost"][0]), (&Value::Bool(false), &"eu".into()));
    assert!(
        shown["counted"]
            .as_array()
            .unwrap()
            .iter()
            .any(|counted| counted["region"] == "us" && counted["records"].as_u64() > Some(0))
    );
    let by_api = json!({ "region": "eu", "to": "us", "reason": "it is gone", "dry_run": true });
    let by_api = world.operators("ap", "regions/lose", Some(by_api)).await;
    assert_eq!((&by_api["applied"], &by_api["counted"]), (&Value::Bool(false), &shown["counted"]));
    assert_eq!(world.regions(&["show"], &["us", "ap"]).await.unwrap()["changes"]["number"], 0);
    for (command, of, why) in [
        (&rehearsal[..], &["us"][..], "a majority"),
        (&rehearsal[..], &["ap", "eu"][..], "the store of us"),
        (&["lose", "eu", "--to", "eu", "--reason", "r"][..], &["us", "ap"][..], "another region"),
        (&["lose", "mars", "--to", "us", "--reason", "r"][..], &["us", "ap"][..], "not one of the regions"),
        (&["bring-back", "eu", "--reason", "r"][..], &["us", "eu"][..], "is not lost"),
    ] {
        let refused = world.regions(command, of).await.unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }

    let lost = world.lose("eu", "us", &["us", "ap"]).await.unwrap();
    assert_eq!(lost["changes"]["lost"][0], "eu");
    assert!(world.lose("eu", "us", &["us", "ap"]).await.unwrap_err().contains("lost already"));
    after_the_turn(&lost).await;
    // What is made from now on is decided by the other, wherever it is asked for.
    world.accepts("us", "eu").await;
    world.accepts("ap", "eu").await;
    let meanwhile = key("eu");
    assert_eq!(world.post("ap", "/letters", &meanwhile, "a").await.status, 201);
    assert_eq!(world.starts(&meanwhile), ["us"]);
    // What was made before is unknown, never free, unless its answer is here.
    for region in ["us", "ap"] {
        assert!(is_unknown(&world.post(region, "/letters", &there, "a").await));
        assert!(is_unknown(&world.post(region, "/letters", &timeless, "a").await));
        assert!(is_unknown(&world.post(region, "/letters", "eu.never-seen", "a").await));
    }
    assert!(world.post("us", "/letters", &here, "a").await.is_replay());

    // The old region, with its older map, serves nothing: as it is, and after a restart.
    for restarted in [false, true] {
        assert!(is_unreachable(&world.post("eu", "/letters", &key("eu"), "a").await));
        assert!(!restarted || is_unreachable(&world.post("eu", "/letters", &there, "a").await));
        let eu = world.regions.get_mut("eu").unwrap();
        eu.gateway.take().unwrap().kill().await;
        eu.gateway = Some(started(&eu.program).await);
    }
    // Back among the others, it learns the map before it decides about anything.
    world.mend().await;
    let learned = async || world.post("eu", "/letters", &meanwhile, "a").await.is_replay();
    eventually(SOON, "it to learn the map", learned).await;
    assert!(is_unknown(&world.post("eu", "/letters", &timeless, "a").await), "nobody has brought it back");
    assert_eq!(world.starts(&meanwhile), ["us"]);

    // By the API of any region.
    let back = json!({ "region": "eu", "reason": "it is there" });
    let back = world.operators("us", "regions/bring-back", Some(back)).await;
    assert_eq!(back["changes"]["lost"], Value::Array(Vec::new()));
    assert_eq!(world.operators("eu", "regions", None).await["changes"], back["changes"]);
    eventually(SOON, "its old keys to be answered", async || {
        world.post("us", "/letters", &there, "a").await.is_replay()
    })
    .await;
    assert!(world.post("ap", "/letters", &timeless, "a").await.is_replay());
    assert!(world.post("eu", "/letters", &meanwhile, "a").await.is_replay());
    after_the_turn(&back).await;
    let latest = key("eu");
    let answered = async || world.post("us", "/letters", &latest, "a").await.status == 201;
    eventually(SOON, "its new keys to be answered", answered).await;
    assert_eq!((world.starts(&latest), world.starts(&there)), (vec!["eu".to_owned()], vec!["eu".to_owned()]));
}

/// A key of eu with a time so far in the future.
fn ahead_of_now(by: Duration) -> String {
    let at = (Clock::system().now() + by).as_millis();
    let hex = format!("{at:012x}");
    format!("eu.{}-{}-7cc3-98c4-dc0c0c07398f", &hex[..8], &hex[8..])
}

/// Under load from clients everywhere, whose keys are new all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i1_one_start_while_a_region_is_lost_evacuated_and_back() {
    let mut world = World::start(Options { postgres: true, more: with_lease, ..Options::new() }).await;
    world.decides().await;
    let targets = Targets::default();
    targets.set(world.regions.values().map(|region| region.url.clone()));
    let log = Log::default();
    let client = Client::new(targets, log.clone(), letter_in);
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for nth in 0..12_usize {
        let (client, stop) = (client.clone(), stop.clone());
        clients.spawn(async move {
            let mut number = nth;
            while !stop.load(Ordering::Relaxed) {
                let request = letter("alice", key(NAMES[number % 3]), number);
                // Until there is an answer, or the client gives up for now; each key is asked for again at the end.
                let accept = |reply: &Reply| matches!(reply, Reply::Final(_)) || reply.is_unknown();
                let _ = client.until(&request, Duration::from_secs(2), Duration::from_secs(3), accept).await;
                number += 1;
            }
        });
    }
    let kill = async |world: &mut World, name: &str| {
        let region = world.regions.get_mut(name).unwrap();
        region.gateway.take().unwrap().kill().await;
        region.gateway = Some(started(&region.program).await);
    };
    sleep(Duration::from_millis(500)).await;
    world.cut("eu").await;
    sleep(Duration::from_millis(500)).await;
    kill(&mut world, "ap").await;
    let lost = world.lose("eu", "us", &["us", "ap"]).await.unwrap();
    kill(&mut world, "us").await;
    after_the_turn(&lost).await;
    sleep(Duration::from_secs(2)).await;
    kill(&mut world, "eu").await;
    world.mend().await;
    sleep(Duration::from_secs(2)).await;
    let back = world.regions(&["bring-back", "eu", "--reason", "it is there"], &NAMES).await.unwrap();
    kill(&mut world, "us").await;
    after_the_turn(&back).await;
    sleep(Duration::from_secs(2)).await;
    stop.store(true, Ordering::Relaxed);
    clients.join_all().await;
    let asked: BTreeSet<_> = log.events().into_iter().map(|event| event.key).collect();
    let mut starts = BTreeMap::<_, usize>::new();
    // Without those by which the test has waited for gateways.
    let events: Vec<_> = world.effects().into_iter().filter(|event| asked.contains(&event.key)).collect();
    for key in &asked {
        let of_key = events
            .iter()
            .filter(|event| event.key == *key && matches!(event.what, testing_history::What::Start { .. }));
        for event in of_key {
            *starts.entry((key[..2].to_owned(), event.region.clone().unwrap())).or_default() += 1;
        }
    }
    let mut history = log.events();
    history.extend(events);
    for region in world.regions.values() {
        let store = keylatch::postgres::Store::connect(&region.store).await.unwrap();
        let records = testing_support::records::events(&store).await;
        history.extend(records.into_iter().filter(|event| asked.contains(&event.key)));
    }
    let summary = judge(&history, Guarantee::AtMostOnce);
    eprintln!("{} keys: {summary}; starts by region of the key and of the run: {starts:?}", asked.len());
    assert!(starts.contains_key(&("eu".to_owned(), "us".to_owned())), "another region has stood in: {starts:?}");
    assert!(starts.contains_key(&("eu".to_owned(), "eu".to_owned())) && summary.answered_keys > 20, "{summary}");
}

fn eu_without(name: &str) -> String {
    if name == "eu" { "epoch = 1\nrule = \"key-prefix\"\n".to_owned() } else { with_lease(name) }
}

/// Sends one key to two regions, and returns whether the judge sees two starts.
async fn is_seen(world: &World, key: &str, regions: [&str; 2]) -> bool {
    let log = Log::default();
    for region in regions {
        let targets = Targets::default();
        targets.set([world.regions[region].url.clone()]);
        let client = Client::new(targets, log.clone(), letter_in);
        let reply = client.send(&letter("alice", key.to_owned(), 1), SOON).await;
        assert!(matches!(reply, Reply::Final(_)), "{reply:?}");
    }
    let of_key = world.effects().into_iter().filter(|event| event.key == key);
    let history: Vec<_> = log.events().into_iter().chain(of_key).collect();
    let violations = check(&history, Guarantee::AtMostOnce).expect_err("it ran twice");
    violations.iter().any(|violation| violation.why == "started in two regions")
}

/// Planted: the region that was cut off compares its map with nobody's.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i1_an_epoch_that_is_not_compared_is_seen() {
    let world = World::start(Options { more: eu_without, ..Options::new() }).await;
    world.accepts("us", "us").await;
    world.cut("eu").await;
    let lost = world.lose("eu", "us", &["us", "ap"]).await.unwrap();
    after_the_turn(&lost).await;
    world.accepts("us", "eu").await;
    assert!(is_seen(&world, &key("eu"), ["eu", "us"]).await);
}

/// Planted: the new home takes keys that were made before the turn, as if their records could not be elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i1_unknown_taken_for_free_is_seen() {
    let world = World::start(Options { postgres: true, more: with_lease, ..Options::new() }).await;
    world.decides().await;
    let old = key("eu");
    let log = Log::default();
    let targets = Targets::default();
    targets.set([world.regions["eu"].url.clone()]);
    let reply = Client::new(targets, log.clone(), letter_in).send(&letter("alice", old.clone(), 1), SOON).await;
    assert!(matches!(reply, Reply::Final(_)), "{reply:?}");
    world.cut("eu").await;
    let [eu, us] = ["eu", "us"].map(|name| name.parse::<keylatch::regions::Region>().unwrap());
    let changes = Changes {
        number: 1,
        lost: [eu.clone()].into(),
        turns: vec![Turn { of: eu, since: Timestamp::from_millis(0), by: us }],
        made_at: 1,
        ..Changes::default()
    };
    for region in ["us", "ap"] {
        let store = keylatch::postgres::Store::connect(&world.regions[region].store).await.unwrap();
        keylatch_admin::regions::Log::new(Arc::new(store)).write(0, changes.clone()).await.unwrap();
    }
    world.accepts("us", "eu").await;
    let targets = Targets::default();
    targets.set([world.regions["us"].url.clone()]);
    let reply = Client::new(targets, log.clone(), letter_in).send(&letter("alice", old.clone(), 1), SOON).await;
    assert!(matches!(reply, Reply::Final(_)), "it ran again: {reply:?}");
    let of_key = world.effects().into_iter().filter(|event| event.key == old);
    let history: Vec<_> = log.events().into_iter().chain(of_key).collect();
    let violations = check(&history, Guarantee::AtMostOnce).expect_err("it ran twice");
    assert!(violations.iter().any(|violation| violation.why == "started in two regions"), "{violations:?}");
}

/// One store cannot be that of two regions.
#[tokio::test]
async fn a_store_belongs_to_one_region() {
    let world = World::start(Options::new()).await;
    let (eu, us) = (&world.regions["eu"], &world.regions["us"]);
    let program = testing_support::server::Program::new(env!("CARGO_BIN_EXE_gateway-under-test"));
    let file = world.dir.path().join("us.toml").display().to_string();
    let arguments = [
        "gateway",
        "--listen",
        "127.0.0.1:0",
        "--upstream",
        "http://127.0.0.1:1",
        "--store",
        &eu.store,
        "--config",
        &file,
    ];
    let program = arguments.iter().fold(program, |program, argument| program.arg(*argument));
    let refused = program.start().await.unwrap_err().to_string();
    assert!(refused.contains("this store belongs to another region"), "{refused}");
    assert_ne!(eu.store, us.store);
}

/// The stores by which operators move homes are checked before the gateway starts.
#[tokio::test]
async fn stores_of_regions_that_cannot_be_used_are_refused() {
    const LISTEN: [&str; 2] = ["--admin-listen", "127.0.0.1:0"];
    let mut world = World::start(Options::new()).await;
    let us = world.regions.get_mut("us").unwrap();
    us.gateway.take().unwrap().kill().await;
    let refused = async |arguments: &[&str]| {
        let program = arguments.iter().fold(us.program.clone(), |program, word| program.arg(*word));
        program.start().await.unwrap_err().to_string()
    };
    for (stores, why) in [
        (&["mars=sqlite:k.db"][..], "not one of the regions"),
        (&["eu=sqlite:a.db", "eu=sqlite:b.db"], "given twice"),
        (&["eu=memory:"], "belongs to the process that made it"),
        (&["sqlite:k.db"], "write NAME=URL"),
    ] {
        let stores = stores.iter().flat_map(|store| ["--region-store", store]);
        let said = refused(&LISTEN.into_iter().chain(stores).collect::<Vec<_>>()).await;
        assert!(said.contains(why), "{said}");
    }
    let said = refused(&["--region-store", "eu=sqlite:k.db"]).await;
    assert!(said.contains("there is no listener for operators"), "{said}");
}
