//! The whole flow in processes that die: a service writes orders and relays their events, and a consumer keeps the inventory.

use std::process::Stdio;
use std::time::Duration;

use keylatch_kafka::Count;
use rand::Rng as _;
use rustix::process::{Pid, Signal, kill_process};
use testing_support::{at_once, eventually};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::consuming::{Db, check, consumer};
use crate::crash::Member;
use crate::setup::{SOON, client, name, servers, topic};

/// How often something is killed on each pair of databases: `KEYLATCH_KAFKA_FLOW_KILLS`, or this.
const KILLS: usize = 10;
/// For so long at most, an order waits for a service that may have been killed.
const ORDER_MAX: Duration = Duration::from_secs(20);

/// The service in a process of its own. Killed when dropped.
struct Service {
    child: Child,
    orders: ChildStdin,
    done: Lines<BufReader<ChildStdout>>,
}

impl Service {
    fn start(db: &Db, topic: &str, more: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_service-under-test"))
            .env("KAFKA_BROKERS", servers())
            .env("TOPIC", topic)
            .env("DATABASE", db.address())
            .envs(more.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        let orders = child.stdin.take().expect("it is piped");
        let done = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { child, orders, done }
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)).expect("it was not waited for");
        kill_process(id, signal).expect("a child can be signalled");
    }

    async fn send(&mut self, number: i64) -> bool {
        self.orders.write_all(format!("{number}\n").as_bytes()).await.is_ok()
    }

    /// Whether the order was acknowledged: otherwise the process is gone.
    async fn order(&mut self, number: i64) -> bool {
        self.send(number).await
            && matches!(self.done.next_line().await, Ok(Some(done)) if done == format!("done {number}"))
    }

    /// Ends in order: nothing is left in the outbox that can be sent.
    async fn end(mut self) {
        drop(self.orders);
        timeout(SOON, self.child.wait()).await.expect("it ends in time").expect("a child can be waited for");
    }
}

/// Sends orders until `kills` processes were killed, each at a moment of its own. Returns how many were acknowledged.
async fn order_while_killing(from: &Db, to: &Db, kills: usize) -> (i64, Member, Service) {
    let (topic, name) = (topic(3).await, name("inventory"));
    let (mut service, mut member) = (Service::start(from, &topic, &[]), Member::start(to, &name, &topic, &[]));
    let mut acknowledged = 0;
    for kill in 0..kills {
        // It works, and then dies at some moment of that.
        let (mut ordered, applied) = (0, to.effects().await.len());
        let pause = Duration::from_millis(rand::rng().random_range(0..300));
        let mut at = None;
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < SOON, "nothing goes on: {ordered} orders since the last kill");
            if at.is_some_and(|at| Instant::now() > at) {
                break;
            }
            if timeout(ORDER_MAX, service.order(acknowledged)).await.expect("a service answers or is gone") {
                (acknowledged, ordered) = (acknowledged + 1, ordered + 1);
            } else {
                service = Service::start(from, &topic, &[]);
            }
            if at.is_none() && to.effects().await.len() > applied {
                at = Some(Instant::now() + pause);
            }
            sleep(Duration::from_millis(10)).await;
        }
        if kill % 2 == 0 {
            // In the middle of an order.
            service.send(acknowledged).await;
            sleep(pause / 20).await;
            service.signal(Signal::KILL);
        } else {
            member.kill().await;
            member = Member::start(to, &name, &topic, &[]);
        }
    }
    loop {
        if service.order(acknowledged).await {
            return (acknowledged + 1, member, service);
        }
        service = Service::start(from, &topic, &[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_acknowledged_order_is_in_the_inventory_once_whoever_is_killed() {
    let kills = std::env::var("KEYLATCH_KAFKA_FLOW_KILLS")
        .map_or(KILLS, |kills| kills.parse().expect("KEYLATCH_KAFKA_FLOW_KILLS is a number"));
    at_once(
        [(Db::sqlite().await, Db::postgres().await), (Db::postgres().await, Db::sqlite().await)],
        async |(from, to)| {
            let (acknowledged, member, service) = order_while_killing(&from, &to, kills).await;
            let acknowledged = usize::try_from(acknowledged).expect("it is positive");
            to.await_effects(acknowledged).await;
            member.terminate().await;
            service.end().await;
            let effects = to.effects().await;
            check(&effects, &to.dead_letters().await);
            assert_eq!((effects.len(), from.effects().await.len()), (acknowledged, acknowledged));
        },
    )
    .await;
}

/// A relay dies, or is paused past its lease, after the broker has acknowledged what it sent and before it has deleted that.
/// The next one sends it again, under the same ids.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_ends_between_acknowledgement_and_deletion_has_its_events_applied_once() {
    const ORDERS: i64 = 10;
    at_once(Db::both().await.into_iter().zip(["kill", "pause"]), async |(from, action)| {
        let (to, topic) = (Db::postgres().await, topic(1).await);
        let consuming = to.start(consumer(client(), &name("inventory"), &topic));
        let at = format!("after-acknowledgement:1:{action}");
        let mut first = Service::start(&from, &topic, &[("KEYLATCH_FAILPOINT", &at)]);
        for number in 0..ORDERS {
            // It may be gone by now.
            let _ = first.send(number).await;
        }
        to.await_effects(1).await;
        let mut second = Service::start(&from, &topic, &[]);
        for number in 0..ORDERS {
            assert!(second.order(number).await, "the second service goes on");
        }
        to.await_effects(usize::try_from(ORDERS).unwrap()).await;
        consuming.await_count(Count::Known, 1).await;
        if action == "pause" {
            first.signal(Signal::CONT);
            assert!(second.order(ORDERS).await);
            first.end().await;
        } else {
            assert!(second.order(ORDERS).await);
        }
        to.await_effects(usize::try_from(ORDERS).unwrap() + 1).await;
        second.end().await;
        eventually(SOON, "the outbox to be empty", async || {
            from.outbox().backlog(1).await.expect("it is counted").value.waiting.at_least() == 0
        })
        .await;
        consuming.stop().await;
        let effects = to.effects().await;
        check(&effects, &to.dead_letters().await);
        assert_eq!(i64::try_from(effects.len()).unwrap(), ORDERS + 1);
    })
    .await;
}
