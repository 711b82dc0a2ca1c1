//! Three nodes: each is killed and stopped under load, and two of three at once. The history checker judges all of it.

#[path = "cassandra/support.rs"]
mod support;

use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keylatch::cassandra::{Options, Store};
use keylatch::machine::{self, Claim, Claimed, Completion, Decision};
use keylatch::store::{Applied, ErrorKind, Owner, Store as _};
use keylatch::{Fingerprint, Guarantee, Key, Outcome, Policy, Scope};
use testing_history::{Answer, Call, Log, Reply, What, judge, monotonic_ns};
use testing_support::cassandra::Cluster;
use testing_support::{eventually, records};

use support::{connect, make_keyspace};

const KEYSPACE: &str = "nodes";
static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| Cluster::start(3));
/// A test has the cluster to itself.
static TURN: tokio::sync::Mutex<bool> = tokio::sync::Mutex::const_new(false);
/// How long something may take that needs nodes to notice each other.
const SOON: Duration = Duration::from_secs(60);

async fn cluster() -> (&'static Cluster, tokio::sync::MutexGuard<'static, bool>) {
    let mut made = TURN.lock().await;
    let cluster = tokio::task::spawn_blocking(|| &*CLUSTER).await.expect("the nodes start");
    if !*made {
        make_keyspace(cluster, KEYSPACE, 3, &Options::default()).await;
        *made = true;
    }
    (cluster, made)
}

fn claim(key: &str, guarantee: Guarantee) -> Claim {
    let fingerprint = Fingerprint::of([b"request".as_slice()]);
    Claim::new(Scope::new("caller").unwrap(), Key::new(key).unwrap(), fingerprint, guarantee, &Policy::default())
}

/// Clients that send requests in `AtMostOnce`, as an engine does, and write down what they see.
#[derive(Clone)]
struct Load {
    log: Log,
    stop: Arc<AtomicBool>,
    finished: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

/// How many clients of a load there are, on each store.
const CLIENTS: u64 = 12;
/// How many of them want the same key at about the same time.
const SHARE: u64 = 4;

impl Load {
    fn start(stores: &[Store]) -> (Self, tokio::task::JoinSet<()>) {
        let load = Self { log: Log::default(), stop: Arc::default(), finished: Arc::default(), failed: Arc::default() };
        let mut clients = tokio::task::JoinSet::new();
        for (nth, store) in stores.iter().enumerate() {
            for client in 0..CLIENTS {
                let (load, store) = (load.clone(), store.clone());
                // The stores share the keys, as processes behind one balancer do.
                let (group, offset) = (client / SHARE, nth as u64);
                clients.spawn(async move {
                    let mut round = 0;
                    while !load.stop.load(Ordering::Relaxed) {
                        load.send(&store, &format!("key-{group}-{}", round + offset % 2)).await;
                        round += 1;
                    }
                });
            }
        }
        (load, clients)
    }

    async fn send(&self, store: &Store, key: &str) {
        let mut claim = claim(key, Guarantee::AtMostOnce);
        // A client tries again after an error; now and then the reply of its own claim was lost.
        for _ in 0..40 {
            let call = self.log.invoke("caller", key, "request");
            if self.attempt(store, &claim, call).await {
                return;
            }
            claim.owner = if self.stop.load(Ordering::Relaxed) { return } else { Owner::random() };
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether the request has its final answer, or never will.
    async fn attempt(&self, store: &Store, claim: &Claim, call: Call) -> bool {
        let key = claim.key().as_str();
        let asked_at = monotonic_ns();
        let record = match store.claim(claim.clone()).await {
            Err(error) => {
                self.fails(error.kind());
                call.reply(Reply::Refused { status: 503, code: "IDEMPOTENCY_STORE_UNAVAILABLE".to_owned() });
                return false;
            }
            Ok(at) => match at.value {
                Claimed::Won(record) => record,
                Claimed::Held(record) => {
                    let reply = match machine::decide(Some(&record), claim.fingerprint, at.now) {
                        Decision::Replay(outcome) => Reply::Final(answer(outcome, true)),
                        Decision::Unknown => refused("IDEMPOTENCY_OUTCOME_UNKNOWN"),
                        _ => refused("IDEMPOTENCY_KEY_IN_PROGRESS"),
                    };
                    let ends = matches!(reply, Reply::Final(_)) || reply.is_unknown();
                    call.reply(reply);
                    self.finished.fetch_add(u64::from(ends), Ordering::Relaxed);
                    return ends;
                }
            },
        };
        let epoch = record.epoch.as_u64();
        let note = |what| self.log.note("caller", key, what);
        note(What::Claim { epoch, asked_at });
        note(What::Start { epoch: Some(epoch) });
        let effect = format!("{key}-{}", monotonic_ns());
        note(What::Effect { effect: effect.clone(), epoch: Some(epoch) });
        let outcome = Arc::new(Outcome::bytes(effect));
        let completion = Completion::new(outcome.clone(), &Policy::default());
        for _ in 0..40 {
            match store.complete(record.lease(), completion.clone()).await {
                Ok(applied) => {
                    let applied = matches!(applied, Applied::Applied(_));
                    note(What::Complete { epoch, applied });
                    call.reply(if applied { Reply::Final(answer(&outcome, false)) } else { Reply::Nothing });
                    self.finished.fetch_add(1, Ordering::Relaxed);
                    return true;
                }
                Err(error) => self.fails(error.kind()),
            }
        }
        call.reply(Reply::Nothing);
        true
    }

    fn fails(&self, kind: ErrorKind) {
        assert!(matches!(kind, ErrorKind::Unavailable | ErrorKind::NotKnown), "{kind}");
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until so many more requests have their final answers.
    async fn goes_on(&self, requests: u64, what: &str) {
        let before = self.finished.load(Ordering::Relaxed);
        eventually(SOON, what, async || self.finished.load(Ordering::Relaxed) >= before + requests).await;
    }
}

fn refused(code: &str) -> Reply {
    Reply::Refused { status: 409, code: code.to_owned() }
}

fn answer(outcome: &Outcome, replayed: bool) -> Answer {
    let body = outcome.encode();
    let text = |from: &[u8]| String::from_utf8_lossy(from).into_owned();
    let effect = match &outcome.body {
        keylatch::Body::Kept(bytes) => Some(text(bytes)),
        _ => None,
    };
    Answer { status: 200, headers: Vec::new(), body, replayed, effect }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_never_two_starts_on_cassandra_when_each_node_is_killed_or_stopped_and_two_of_three() {
    let (cluster, _turn) = cluster().await;
    let options = || Options::default().with_prefix("load-");
    let stores = [connect(cluster, KEYSPACE, options()).await, connect(cluster, KEYSPACE, options()).await];
    let (load, clients) = Load::start(&stores);
    load.goes_on(50, "requests before any fault").await;

    for node in 0..3 {
        cluster.pause(node);
        load.goes_on(50, &format!("requests while node {node} stands still")).await;
        cluster.resume(node);
        load.goes_on(20, "requests after it goes on").await;
    }
    cluster.kill(0);
    load.goes_on(50, "requests without node 0").await;
    // Now no majority is left: nothing is answered, and nothing is wrong.
    cluster.pause(1);
    let alone = Instant::now();
    let quiet = AtomicU64::new(u64::MAX);
    eventually(SOON, "a second without answers", async || {
        let finished = load.finished.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(1)).await;
        quiet.store(load.finished.load(Ordering::Relaxed) - finished, Ordering::Relaxed);
        quiet.load(Ordering::Relaxed) == 0
    })
    .await;
    let (before, failed) = (load.finished.load(Ordering::Relaxed), load.failed.load(Ordering::Relaxed));
    eventually(SOON, "errors", async || load.failed.load(Ordering::Relaxed) > failed + CLIENTS).await;
    assert_eq!(load.finished.load(Ordering::Relaxed), before, "nothing is answered by one node of three");
    eprintln!("one of three for {:?}", alone.elapsed());
    cluster.resume(1);
    load.goes_on(50, "requests after a majority is back").await;
    tokio::task::spawn_blocking(move || cluster.start_again(0)).await.expect("the node starts");
    load.goes_on(20, "requests after it is back").await;
    // A node takes half a minute to come back, so the others are killed in a longer run.
    for node in 1..if std::env::var_os("KEYLATCH_CASSANDRA_KILLS").is_some() { 3 } else { 1 } {
        cluster.kill(node);
        load.goes_on(50, &format!("requests without node {node}")).await;
        tokio::task::spawn_blocking(move || cluster.start_again(node)).await.expect("the node starts");
        load.goes_on(20, "requests after it is back").await;
    }

    load.stop.store(true, Ordering::Relaxed);
    clients.join_all().await;
    let mut history = load.log.events();
    history.extend(records::events(&stores[0]).await);
    let (finished, failed) = (load.finished.load(Ordering::Relaxed), load.failed.load(Ordering::Relaxed));
    eprintln!("{finished} finished, {failed} failed; {:?}", judge(&history, testing_history::Guarantee::AtMostOnce));
}

/// A claim whose reply is lost is settled by the store itself, or by the same claim sent again: it wins once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_whose_reply_is_lost_is_settled() {
    let (cluster, _turn) = cluster().await;
    let options = Options::default().with_prefix("lost-").with_response_timeout(Duration::from_millis(500));
    let store = connect(cluster, KEYSPACE, options.with_call_max(Duration::from_secs(2))).await;
    for round in 0..3 {
        let claim = claim(&format!("lost-{round}"), Guarantee::AtMostOnce);
        cluster.pause(1);
        cluster.pause(2);
        let error = store.claim(claim.clone()).await.expect_err("there is no majority");
        assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::NotKnown), "{error}");
        cluster.resume(1);
        cluster.resume(2);
        let won = Arc::new(parking_lot::Mutex::new(None));
        eventually(SOON, "the claim to be granted", async || match store.claim(claim.clone()).await {
            Ok(at) => {
                let Claimed::Won(record) = at.value else { panic!("nobody else claims it: {:?}", at.value) };
                *won.lock() = Some(record);
                true
            }
            Err(error) => {
                assert!(error.retryable(), "{error}");
                false
            }
        })
        .await;
        let won = won.lock().take().expect("it was granted");
        assert_eq!((won.epoch.as_u64(), won.owner), (1, claim.owner));
        assert_eq!(store.read(claim.id()).await.unwrap().value, Some(won.clone()));
        let completion = Completion::new(Outcome::bytes("answer"), &Policy::default());
        assert!(matches!(store.complete(won.lease(), completion).await.unwrap(), Applied::Applied(_)));
    }
}

/// Many claims of one key at once, from three processes over three nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_64_claims_wins_on_three_nodes() {
    const ROUNDS: usize = 50;
    let (cluster, _turn) = cluster().await;
    let mut stores = Vec::new();
    for _ in 0..3 {
        stores.push(connect(cluster, KEYSPACE, Options::default().with_prefix("hot-")).await);
    }
    let rounds = std::env::var("KEYLATCH_CASSANDRA_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().expect("a number"));
    let mut unsure = 0;
    for round in 0..rounds {
        let claims: tokio::task::JoinSet<_> = (0..64)
            .map(|at| {
                let (store, claim) = (stores[at % 3].clone(), claim(&format!("hot-{round}"), Guarantee::Fenced));
                async move { (claim.owner, store.claim(claim).await) }
            })
            .collect();
        let (mut won, mut held) = (Vec::new(), Vec::new());
        for (owner, result) in claims.join_all().await {
            match result.map(|at| at.value) {
                Ok(Claimed::Won(record)) => {
                    assert_eq!(record.owner, owner);
                    won.push(record);
                }
                Ok(Claimed::Held(record)) => held.push(record),
                Err(error) => {
                    assert!(error.retryable(), "{error}");
                    unsure += 1;
                }
            }
        }
        let stored = stores[0].read(claim(&format!("hot-{round}"), Guarantee::Fenced).id()).await;
        let stored = stored.expect("the store reads").value.expect("someone has won");
        assert!(won.len() <= 1, "round {round} has {} winners", won.len());
        assert!(won.iter().chain(&held).all(|record| *record == stored), "all see the winner's record");
    }
    eprintln!("{rounds} rounds of 64 claims; {unsure} were told nothing");
}
