//! How many acknowledged writes are lost when a primary dies under load. Measured for the manual.
//!
//! `KEYLATCH_FAILOVERS` sets how many primaries die in each test; the figures are printed (`--nocapture`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keylatch::machine::{Claimed, Completion};
use keylatch::redis::{Options, Store};
use keylatch::store::{Applied, State, Store as _};
use keylatch::{Outcome, Policy, RecordId};
use testing_support::eventually;
use testing_support::redis::{Cluster, Sentinels};
use tokio::task::JoinSet;

use crate::failover::{connect_cluster, connect_sentinels, takes_claims};
use crate::support::claim;

/// How many clients send requests at once.
const CLIENTS: usize = 64;
/// How long the load runs before a primary dies: long enough for replication to be busy.
const LOAD: Duration = Duration::from_millis(1_000);
const FAILOVER_MAX: Duration = Duration::from_secs(60);

/// The state of replication when the primary dies.
#[derive(Clone, Copy)]
struct Scenario {
    name: &'static str,
    answer_bytes: usize,
    /// How long the replicas have received nothing by then, as if they or the network were too busy.
    behind: Duration,
}

/// The replicas are in step. They still receive what the dead process had handed to the kernel, because only the
/// process dies, and not its machine.
const IN_STEP: Scenario = Scenario { name: "replicas in step", answer_bytes: 64, behind: Duration::ZERO };
/// The replicas are behind. The answers are large, so that the kernel's buffers do not hide that.
const BEHIND: Scenario =
    Scenario { name: "replicas 0.3 s behind", answer_bytes: 64 << 10, behind: Duration::from_millis(300) };

impl Scenario {
    fn answer(self) -> Outcome {
        Outcome::bytes(vec![b'x'; self.answer_bytes])
    }
}

/// What a client was told.
struct Told {
    id: RecordId,
    completed: bool,
}

/// What happened to it.
#[derive(Debug, Default)]
struct Measured {
    failovers: usize,
    claims: usize,
    claims_lost: usize,
    outcomes: usize,
    outcomes_lost: usize,
    failovers_with_loss: usize,
}

fn failovers() -> usize {
    std::env::var("KEYLATCH_FAILOVERS").map_or(1, |number| number.parse().expect("KEYLATCH_FAILOVERS is a number"))
}

/// Sends requests until it is told to stop, each with its own key.
fn load(store: &Store, scenario: Scenario, round: usize, stop: &Arc<AtomicBool>) -> JoinSet<Vec<Told>> {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (store, stop) = (store.clone(), stop.clone());
        clients.spawn(async move {
            let mut told = Vec::new();
            for number in 0_usize.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let claim = claim(&format!("{round}-{client}-{number}"));
                let Ok(claimed) = store.claim(claim.clone()).await else {
                    // Like a client that got 503.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                };
                let Claimed::Won(record) = claimed.value else { panic!("nobody else has the key") };
                let completion = Completion::new(scenario.answer(), &Policy::default());
                let completed = store.complete(record.lease(), completion).await;
                told.push(Told { id: claim.id(), completed: matches!(completed, Ok(Applied::Applied(_))) });
            }
            told
        });
    }
    clients
}

impl Measured {
    /// Counts what is missing although clients were told of it.
    async fn count(&mut self, store: &Store, scenario: Scenario, told: Vec<Told>) {
        let before = self.claims_lost + self.outcomes_lost;
        for Told { id, completed } in told {
            self.claims += 1;
            self.outcomes += usize::from(completed);
            match store.read(id).await.expect("all is well again").value.map(|record| record.state) {
                None => {
                    self.claims_lost += 1;
                    self.outcomes_lost += usize::from(completed);
                }
                Some(State::Running { .. }) => self.outcomes_lost += usize::from(completed),
                Some(State::Completed { outcome, .. }) => assert!(outcome == Some(scenario.answer().into())),
            }
        }
        self.failovers += 1;
        self.failovers_with_loss += usize::from(self.claims_lost + self.outcomes_lost > before);
    }

    #[expect(clippy::print_stderr, reason = "the figures are the result")]
    fn report(&self, what: &str, scenario: Scenario) {
        eprintln!("MEASURED {what}, {}: {self:?}", scenario.name);
        assert!(self.claims > 100 * self.failovers, "there was load: {self:?}");
        assert!(self.claims_lost * 2 < self.claims, "a failover loses the latest, and not what was there: {self:?}");
    }
}

async fn all(clients: JoinSet<Vec<Told>>) -> Vec<Told> {
    clients.join_all().await.into_iter().flatten().collect()
}

async fn measure_sentinels(what: &str, scenario: Scenario, options: Options) {
    let mut group = Sentinels::start();
    let store = connect_sentinels(&group, options).await;
    let mut measured = Measured::default();
    for round in 0..failovers() {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = load(&store, scenario, round, &stop);
        tokio::time::sleep(LOAD).await;
        let primary = group.primary().expect("there is a primary");
        if scenario.behind.is_zero() {
            group.server(primary).kill();
        } else {
            group.pause_replicas(primary);
            tokio::time::sleep(scenario.behind).await;
            group.server(primary).kill();
            group.resume_replicas(primary);
        }
        let key = format!("after-{round}");
        // With a replica missing, nothing is acknowledged by both until the old primary is back.
        group.wait_for_primary_other_than(primary);
        group.server(primary).start_again();
        eventually(FAILOVER_MAX, "claims", async || takes_claims(&store, &key).await).await;
        stop.store(true, Ordering::Relaxed);
        let told = all(clients).await;
        group.wait_until_whole();
        measured.count(&store, scenario, told).await;
    }
    measured.report(what, scenario);
}

async fn measure_cluster(what: &str, scenario: Scenario, options: Options) {
    let mut cluster = Cluster::start();
    let store = connect_cluster(&cluster, options).await;
    let mut measured = Measured::default();
    for round in 0..failovers() {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = load(&store, scenario, round, &stop);
        tokio::time::sleep(LOAD).await;
        let primaries = cluster.primaries();
        let primary = primaries[round % primaries.len()];
        if scenario.behind.is_zero() {
            cluster.node(primary).kill();
        } else {
            cluster.pause_replicas();
            tokio::time::sleep(scenario.behind).await;
            cluster.node(primary).kill();
            cluster.resume_replicas(primary, &primaries);
        }
        cluster.wait_for_primaries_without(primary);
        cluster.node(primary).start_again();
        cluster.wait_until_whole();
        stop.store(true, Ordering::Relaxed);
        let told = all(clients).await;
        eventually(FAILOVER_MAX, "every slot", async || {
            let mut well = true;
            for key in 0..64 {
                well &= store.read(claim(&format!("probe-{key}")).id()).await.is_ok();
            }
            well
        })
        .await;
        measured.count(&store, scenario, told).await;
    }
    measured.report(what, scenario);
}

const WAIT: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_without_wait() {
    measure_sentinels("Sentinel, without WAIT", IN_STEP, Options::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_with_wait() {
    measure_sentinels("Sentinel, WAIT 1 of 2", IN_STEP, Options::default().with_min_replicas(1, WAIT)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_behind_without_wait() {
    measure_sentinels("Sentinel, without WAIT", BEHIND, Options::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_behind_with_wait() {
    measure_sentinels("Sentinel, WAIT 1 of 2", BEHIND, Options::default().with_min_replicas(1, WAIT)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_without_wait() {
    measure_cluster("Cluster, without WAIT", IN_STEP, Options::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_with_wait() {
    measure_cluster("Cluster, WAIT 1 of 1", IN_STEP, Options::default().with_min_replicas(1, WAIT)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_behind_without_wait() {
    measure_cluster("Cluster, without WAIT", BEHIND, Options::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_behind_with_wait() {
    measure_cluster("Cluster, WAIT 1 of 1", BEHIND, Options::default().with_min_replicas(1, WAIT)).await;
}
