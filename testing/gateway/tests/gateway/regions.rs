//! Three regions: each with a PostgreSQL of its own, a gateway and a service, all as processes, and the ways between them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use keylatch::regions::{Homes, Rule};
use keylatch::{Clock, Key, Scope};
use tempfile::TempDir;
use testing_history::ledger;
use testing_history::{Event, Guarantee, Reply, What, check, judge};
use testing_support::certificates::Authority;
use testing_support::client::{Client, Request, Targets};
use testing_support::eventually;
use testing_support::link::Link;
use testing_support::postgres::{Cluster, free_port};
use testing_support::server::{Program, Server};
use tokio::task::JoinSet;

use crate::setup::{Answer, SOON};

pub(crate) const NAMES: [&str; 3] = ["ap", "eu", "us"];
const SECRET: &str = "the secret that all three regions have";

/// What differs between worlds.
pub(crate) struct Options {
    /// Records in PostgreSQL; otherwise in SQLite.
    pub(crate) postgres: bool,
    /// Gateways speak TLS.
    pub(crate) tls: bool,
    /// More of the table `[regions]`, by region.
    pub(crate) more: fn(&str) -> String,
    /// Gateways have a listener for operators, who can move homes by it.
    pub(crate) operators: bool,
    /// A cache in Redis that these regions share; the others have none.
    pub(crate) cache: Option<(String, &'static [&'static str])>,
    /// Further lines of the route `once`.
    pub(crate) once: &'static str,
    /// Further arguments of each gateway.
    pub(crate) arguments: &'static [&'static str],
}

/// Three regions.
pub(crate) struct World {
    pub(crate) regions: BTreeMap<&'static str, Region>,
    /// The way from one region to another.
    pub(crate) links: BTreeMap<(&'static str, &'static str), Link>,
    pub(crate) dir: TempDir,
}

/// One region.
pub(crate) struct Region {
    pub(crate) program: Program,
    pub(crate) gateway: Option<Server>,
    pub(crate) url: String,
    pub(crate) store: String,
    ledger: PathBuf,
    _service: Server,
    _cluster: Option<Cluster>,
}

fn no_more(_: &str) -> String {
    map(1, "key-prefix")
}

fn map(epoch: u64, rule: &str) -> String {
    format!("epoch = {epoch}\nrule = \"{rule}\"\n")
}

impl Options {
    pub(crate) fn new() -> Self {
        Self { postgres: false, tls: false, more: no_more, operators: false, cache: None, once: "", arguments: &[] }
    }
}

const ROUTES: &str = "
[[route]]
name = \"letters\"
path = \"/letters\"
scope.header = \"X-User-Id\"
guarantee = \"at-most-once\"
wait = \"20s\"
[[route]]
name = \"once\"
path = \"/once\"
scope.header = \"X-User-Id\"
guarantee = \"fenced\"
[[route]]
name = \"rest\"
path = \"/{*rest}\"
scope.header = \"X-User-Id\"
guarantee = \"at-most-once\"
";

impl World {
    pub(crate) async fn start(options: Options) -> Self {
        let dir = tempfile::tempdir().expect("there is room for a directory");
        let path = |name: &str| dir.path().join(name).display().to_string();
        let write = |name: &str, text: &str| fs::write(path(name), text).expect("it can be written");
        write("secret", SECRET);
        let ports: BTreeMap<_, _> = NAMES.iter().map(|name| (*name, free_port())).collect();
        let mut links = BTreeMap::new();
        for from in NAMES {
            for to in NAMES.into_iter().filter(|to| *to != from) {
                links.insert((from, to), Link::start(ports[to]).await);
            }
        }
        let authority = Authority::new();
        write("ca.pem", &authority.pem());
        let certificate = authority.certify(&["localhost"]);
        write("server.pem", &certificate.pem);
        write("server.key", &certificate.key);
        let (mut regions, mut stores) = (BTreeMap::new(), BTreeMap::new());
        for name in NAMES {
            let cluster = if options.postgres {
                Some(tokio::task::spawn_blocking(|| Cluster::start("")).await.expect("it starts"))
            } else {
                None
            };
            let in_file = || format!("sqlite:{}", path(&format!("{name}.db")));
            let store = cluster.as_ref().map_or_else(in_file, |cluster| cluster.url("postgres"));
            stores.insert(name, (store, cluster));
        }
        let named: Vec<_> = stores.iter().map(|(name, (store, _))| format!("{name}={store}")).collect();
        for name in NAMES {
            let ledger = dir.path().join(format!("{name}.ledger"));
            let service = Program::new(env!("CARGO_BIN_EXE_upstream")).env("LEDGER", &ledger).env("REGION", name);
            let service = service.start().await.unwrap_or_else(|error| panic!("{error}"));
            let scheme = if options.tls { "https" } else { "http" };
            let peers = links.iter().filter(|((from, _), _)| *from == name);
            let peers: Vec<_> =
                peers.map(|((_, to), link)| format!("{to} = \"{scheme}://localhost:{}\"", link.port())).collect();
            let file = format!("{name}.toml");
            write(
                &file,
                &format!(
                    "[regions]\nthis = \"{name}\"\nsecret-file = \"secret\"\nca-file = \"ca.pem\"\n\
                     peers = {{ {} }}\n{}{}",
                    peers.join(", "),
                    (options.more)(name),
                    ROUTES.replace("guarantee = \"fenced\"\n", &format!("guarantee = \"fenced\"\n{}", options.once))
                ),
            );
            let (store, cluster) = stores.remove(name).expect("each has one");
            let listen = format!("127.0.0.1:{}", ports[name]);
            let mut program = Program::new(env!("CARGO_BIN_EXE_gateway-under-test"));
            for argument in ["gateway", "--listen", &listen, "--upstream", service.url(), "--store", &store, "--config"]
            {
                program = program.arg(argument);
            }
            program = program.arg(path(&file));
            for argument in ["--lease", "1s", "--upstream-key", "received"].iter().chain(options.arguments) {
                program = program.arg(*argument);
            }
            if options.operators {
                program = program.env("KEYLATCH_REGION_STORES", named.join(" "));
                program = program.arg("--admin-listen").arg("127.0.0.1:0");
            }
            if let Some((cache, _)) = options.cache.as_ref().filter(|(_, share)| share.contains(&name)) {
                program = program.arg("--cache").arg(cache);
            }
            if options.tls {
                for argument in ["--tls-cert", &path("server.pem"), "--tls-key", &path("server.key")] {
                    program = program.arg(argument);
                }
            }
            let url = format!("{scheme}://localhost:{}", ports[name]);
            let gateway = if options.tls { None } else { Some(started(&program).await) };
            let region = Region { program, gateway, url, store, ledger, _service: service, _cluster: cluster };
            regions.insert(name, region);
        }
        Self { regions, links, dir }
    }

    pub(crate) async fn send(&self, region: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let client = reqwest::Client::builder().no_proxy().build().expect("a plain client");
        let mut request = client.request(Method::POST, format!("{}{path}", self.regions[region].url)).timeout(SOON);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::read(request.body(body.to_owned()).send().await.expect("an answer")).await
    }

    pub(crate) async fn post(&self, region: &str, path: &str, key: &str, body: &str) -> Answer {
        self.send(region, path, &[("x-user-id", "alice"), ("idempotency-key", key)], body).await
    }

    /// Cuts a region off from both others, in both directions.
    pub(crate) async fn cut(&self, region: &str) {
        for ((from, to), link) in &self.links {
            if *from == region || *to == region {
                link.cut().await;
            }
        }
    }

    pub(crate) async fn mend(&self) {
        for link in self.links.values() {
            link.mend().await;
        }
    }

    /// The ledgers of all regions.
    pub(crate) fn effects(&self) -> Vec<Event> {
        let read = |region: &Region| ledger::read(&region.ledger).expect("the ledger is whole");
        self.regions.values().flat_map(read).collect()
    }

    /// The regions in which a key started, so far.
    pub(crate) fn starts(&self, key: &str) -> Vec<String> {
        let events = self.effects();
        let of_key = events.into_iter().filter(|event| event.key == key && matches!(event.what, What::Start { .. }));
        of_key.map(|event| event.region.expect("it names its region")).collect()
    }
}

pub(crate) async fn started(program: &Program) -> Server {
    program.start().await.unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn letter(scope: &str, key: String, number: usize) -> Request {
    Request {
        path: "/letters",
        scope: scope.to_owned(),
        key,
        body: format!("{{\"number\":{number}}}").into(),
        wait_s: None,
    }
}

pub(crate) fn letter_in(answer: &testing_history::Answer) -> Option<String> {
    let sent: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
    sent.get("letter")?.as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i1_200_alike_in_three_regions_at_once_are_one_effect() {
    let world = World::start(Options { postgres: true, ..Options::new() }).await;
    // On one machine, and as far from each other as regions are.
    for (home, delay) in NAMES.map(|home| (home, 0)).into_iter().chain(NAMES.map(|home| (home, 50))) {
        world.links.values().for_each(|link| link.delay(Duration::from_millis(delay)));
        let key = format!("{home}.alike-{delay}");
        let mut sent = JoinSet::new();
        for nth in 0..200 {
            let (url, key) = (world.regions[NAMES[nth % 3]].url.clone(), key.clone());
            sent.spawn(async move {
                let client = reqwest::Client::builder().no_proxy().build().expect("a plain client");
                let request = client.post(format!("{url}/letters")).timeout(SOON).body("a");
                let request = request.header("x-user-id", "alice").header("idempotency-key", key);
                Answer::read(request.send().await.expect("an answer")).await
            });
        }
        let answers = sent.join_all().await;
        assert!(answers.iter().all(|answer| answer.status == 201), "{answers:?}");
        assert!(answers.iter().all(|answer| answer.body == answers[0].body));
        assert_eq!(answers.iter().filter(|answer| !answer.is_replay()).count(), 1);
        assert_eq!(world.starts(&key), [home], "it ran once, at home");
    }
    world.links.values().for_each(|link| link.delay(Duration::ZERO));
    // The same by the caller.
    let homes = Homes::new("eu", NAMES, Rule::KeyPrefix, 1).unwrap();
    for caller in ["alice", "bob", "carol", "dave"] {
        let home = homes.home(&Scope::new(caller).unwrap(), &Key::new("plain").unwrap()).to_string();
        for region in NAMES {
            let headers = [("x-user-id", caller), ("idempotency-key", "plain")];
            assert_eq!(world.send(region, "/letters", &headers, "a").await.status, 201);
        }
        let starts = world.effects().into_iter().filter(|event| {
            (&*event.scope, &*event.key) == (caller, "plain") && matches!(event.what, What::Start { .. })
        });
        assert_eq!(starts.map(|event| event.region.unwrap()).collect::<Vec<_>>(), [home]);
    }
}

#[tokio::test]
async fn a_home_that_is_cut_off_gives_503_and_its_keys_wait_for_it() {
    let world = World::start(Options::new()).await;
    // So that there are open connections to be lost.
    assert_eq!(world.post("us", "/letters", "eu.before", "a").await.status, 201);
    world.cut("eu").await;
    assert_eq!(world.post("eu", "/letters", "eu.there", "a").await.status, 201);
    for key in ["eu.there", "eu.new"] {
        let refused = world.post("us", "/letters", key, "a").await;
        assert_eq!((refused.status, refused.code().as_str()), (503, "IDEMPOTENCY_HOME_UNREACHABLE"), "{key}");
        assert_eq!((refused.json()["retryable"].as_bool(), refused.header("retry-after")), (Some(true), Some("1")));
    }
    assert!(world.starts("eu.new").is_empty());
    // A copy of what us has seen before is there.
    assert!(world.post("us", "/letters", "eu.before", "a").await.is_replay());
    // Everyone else goes on: the others among themselves, and the region that is cut off with its own keys.
    assert_eq!(world.post("us", "/letters", "ap.1", "a").await.status, 201);
    assert_eq!(world.post("eu", "/letters", "eu.1", "a").await.status, 201);
    assert_eq!(world.post("eu", "/letters", "us.1", "a").await.code(), "IDEMPOTENCY_HOME_UNREACHABLE");
    world.mend().await;
    assert!(world.post("us", "/letters", "eu.before", "a").await.is_replay());
    assert_eq!(world.post("us", "/letters", "eu.new", "a").await.status, 201);
    assert!(world.post("us", "/letters", "eu.1", "a").await.is_replay());
    assert_eq!(world.post("us", "/letters", "eu.1", "b").await.code(), "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(world.starts("eu.new"), ["eu"]);
}

/// The request arrives and runs, and its answer is lost on its way.
#[tokio::test]
async fn a_request_that_was_sent_home_without_an_answer_is_not_called_unsent() {
    let world = World::start(Options::new()).await;
    let link = &world.links[&("us", "eu")];
    link.delay(Duration::from_millis(300));
    let sent = world.post("us", "/letters", "eu.lost", "a");
    let lost = async {
        eventually(SOON, "the letter to be begun", async || world.starts("eu.lost") == ["eu"]).await;
        link.cut().await;
    };
    let (answer, ()) = tokio::join!(sent, lost);
    assert_eq!((answer.status, answer.code().as_str()), (504, "IDEMPOTENCY_HOME_SILENT"));
    assert_eq!(answer.json()["retryable"], true);
    link.mend().await;
    link.delay(Duration::ZERO);
    let again = world.post("us", "/letters", "eu.lost", "a").await;
    assert!(again.status == 201 && again.is_replay(), "{again:?}");
    assert_eq!(world.starts("eu.lost"), ["eu"]);
}

#[tokio::test]
async fn answers_come_back_as_they_are() {
    let world = World::start(Options::new()).await;
    let there = world.post("us", "/echo?a=b", "eu.echo", "the body").await;
    let echo = there.json();
    assert_eq!((there.status, echo["body"].as_str()), (200, Some("the body")));
    assert!(there.header("idempotency-key") == Some("eu.echo") && there.header("idempotency-expires").is_some());
    let head = echo["head"].as_str().unwrap().to_lowercase();
    assert!(head.starts_with("post /echo?a=b ") && head.contains("idempotency-attempt: 1"), "{head}");
    // What only regions tell each other reaches neither the service nor the client.
    assert!(!head.contains("idempotency-region") && there.header("idempotency-region").is_none());
    // The client's own address, and then that of the gateway that sent it home.
    assert!(head.contains("x-forwarded-for: 127.0.0.1, 127.0.0.1"), "{head}");
    // A body that is too large to be kept comes as a stream, and is told the next time.
    let large = world.post("us", "/large/3000000", "eu.large", "a").await;
    assert_eq!((large.status, large.body.len()), (200, 3_000_000));
    assert_eq!(world.post("us", "/large/3000000", "eu.large", "a").await.code(), "IDEMPOTENCY_RESPONSE_NOT_RETAINED");
    for status in ["404", "500", "302"] {
        let answer = world.post("us", &format!("/status/{status}"), &format!("eu.{status}"), "a").await;
        assert_eq!(answer.status.to_string(), status);
    }
    // An unguarded request, and one without a key, are not sent anywhere.
    let url = &world.regions["us"].url;
    let got = reqwest::get(format!("{url}/echo")).await.expect("an answer");
    assert_eq!(got.status(), 200);
    assert_eq!(world.send("us", "/echo", &[("x-user-id", "alice")], "a").await.status, 200);
    assert_eq!(world.post("us", "/half", "eu.half", "a").await.code(), "UPSTREAM_FAILED");
}

/// Nobody without the secret can pose as a region, and a header that no region has signed is never sent on.
#[tokio::test]
async fn a_client_cannot_pose_as_a_region() {
    let world = World::start(Options::new()).await;
    let now = Clock::system().now().as_millis();
    for (nth, signed) in
        ["", "us", "us;eu;1", &format!("us;eu;1;{now};{}", "0".repeat(64)), "us;eu;1;0;zz"].into_iter().enumerate()
    {
        let key = format!("eu.{nth}");
        let headers = [
            ("x-user-id", "alice"),
            ("idempotency-key", &*key),
            ("idempotency-region", signed),
            ("x-forwarded-for", "10.0.0.1"),
        ];
        let answer = world.send("eu", "/echo", &headers, "a").await;
        assert_eq!(answer.status, 200, "{signed}");
        let echo = answer.json();
        assert!(!echo["head"].as_str().unwrap().contains("10.0.0.1"), "what it says of itself is not believed");
        let refused = world.send("us", "/echo", &headers, "a").await;
        assert_eq!((refused.status, refused.code().as_str()), (503, "IDEMPOTENCY_HOME_UNREACHABLE"), "{signed}");
    }
}

fn older_in_us(name: &str) -> String {
    map(if name == "us" { 1 } else { 2 }, "key-prefix")
}

#[tokio::test]
async fn regions_whose_maps_have_different_epochs_refuse_each_other() {
    let world = World::start(Options { more: older_in_us, ..Options::new() }).await;
    for (from, home) in [("us", "eu"), ("eu", "us")] {
        let key = format!("{home}.1");
        let refused = world.post(from, "/letters", &key, "a").await;
        assert_eq!((refused.status, refused.code().as_str()), (503, "IDEMPOTENCY_HOME_UNREACHABLE"));
        assert!(world.starts(&key).is_empty());
    }
    assert_eq!(world.post("ap", "/letters", "eu.1", "a").await.status, 201);
}

#[tokio::test]
async fn regions_talk_over_tls() {
    let mut world = World::start(Options { tls: true, ..Options::new() }).await;
    let ca = world.dir.path().join("ca.pem").display().to_string();
    for region in world.regions.values_mut() {
        region.gateway = Some(started(&region.program).await);
    }
    let url = format!("{}/letters", world.regions["us"].url);
    let send = async |ca: &str| {
        crate::http2::curl(&[
            "--cacert",
            ca,
            "-i",
            "-H",
            "X-User-Id: a",
            "-H",
            "Idempotency-Key: eu.1",
            "-d",
            "a",
            &url,
        ])
        .await
    };
    for replayed in [false, true] {
        let (_, status, answer) = send(&ca).await;
        assert_eq!(status, "201", "{answer}");
        assert_eq!(answer.contains("idempotent-replayed: true"), replayed);
    }
    assert_eq!(world.starts("eu.1"), ["eu"]);
    // Another authority: nothing is sent to a gateway whose certificate cannot be verified.
    fs::write(&ca, Authority::new().pem()).unwrap();
    world.regions.get_mut("us").unwrap().gateway.take().unwrap().kill().await;
    let us = started(&world.regions["us"].program).await;
    let (_, status, answer) =
        crate::http2::curl(&["-k", "-H", "X-User-Id: a", "-H", "Idempotency-Key: eu.2", "-d", "a", &url]).await;
    assert!(status == "503" && answer.contains("IDEMPOTENCY_HOME_UNREACHABLE"), "{answer}");
    drop(us);
}

/// Under load from clients that ask any region: gateways are killed, and regions cut off and back.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i1_one_start_while_gateways_are_killed_and_regions_cut_off() {
    const ROUNDS: usize = 12;
    let mut world = World::start(Options { postgres: true, ..Options::new() }).await;
    let targets = Targets::default();
    targets.set(world.regions.values().map(|region| region.url.clone()));
    let log = testing_history::Log::default();
    let client = Client::new(targets, log.clone(), letter_in);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for nth in 0..12 {
        let (client, stop) = (client.clone(), stop.clone());
        clients.spawn(async move {
            let mut number = nth / 3;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let request = letter("alice", format!("{}.{number}", NAMES[number % 3]), number);
                let accept = |reply: &Reply| matches!(reply, Reply::Final(_)) || reply.is_unknown();
                client.until(&request, Duration::from_secs(5), Duration::from_secs(60), accept).await.expect("an end");
                number += 4;
            }
            number
        });
    }
    for round in 0..ROUNDS {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let name = NAMES[round % 3];
        if round % 2 == 0 {
            let region = world.regions.get_mut(name).unwrap();
            region.gateway.take().unwrap().kill().await;
            region.gateway = Some(started(&region.program).await);
        } else {
            world.cut(name).await;
            tokio::time::sleep(Duration::from_millis(150)).await;
            world.mend().await;
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let keys = clients.join_all().await.into_iter().max().unwrap();
    let mut history = log.events();
    history.extend(world.effects());
    for region in world.regions.values() {
        let store = keylatch::postgres::Store::connect(&region.store).await.unwrap();
        history.extend(testing_support::records::events(&store).await);
    }
    let summary = judge(&history, Guarantee::AtMostOnce);
    eprintln!("{ROUNDS} kills and cuts, up to key {keys}: {summary}");
    assert!(summary.replays > 0 && summary.refused > 0 && summary.answered_keys > 20, "{summary}");
}

fn another_rule_in_us(name: &str) -> String {
    map(1, if name == "us" { "scope" } else { "key-prefix" })
}

/// Planted: the maps of two regions differ under one epoch, so that both are the home of a key. They refuse each other's
/// requests, and the judge sees what happens to those of clients.
#[tokio::test]
async fn i1_two_homes_for_a_moment_are_seen() {
    let world = World::start(Options { more: another_rule_in_us, ..Options::new() }).await;
    let homes = Homes::new("us", NAMES, Rule::Scope, 1).unwrap();
    let at_us = |caller: &String| homes.home(&Scope::new(caller).unwrap(), &Key::new("k").unwrap()).as_str() == "us";
    let caller = (0..100).map(|nth| format!("caller-{nth}")).find(at_us).expect("a third of them is there");
    let log = testing_history::Log::default();
    for region in ["eu", "us"] {
        let targets = Targets::default();
        targets.set([world.regions[region].url.clone()]);
        let client = Client::new(targets, log.clone(), letter_in);
        let reply = client.send(&letter(&caller, "eu.1".to_owned(), 1), SOON).await;
        assert!(matches!(reply, Reply::Final(_)), "{reply:?}");
    }
    let history = [log.events(), world.effects()].concat();
    let violations = check(&history, Guarantee::Fenced).expect_err("two homes are one too many");
    assert!(violations.iter().any(|violation| violation.why == "started in two regions"), "{violations:?}");
    let refused = world.post("us", "/letters", "ap.1", "a").await;
    let refused = if refused.status == 503 { refused } else { world.post("ap", "/letters", "us.1", "a").await };
    assert_eq!(refused.code(), "IDEMPOTENCY_HOME_UNREACHABLE");
}
