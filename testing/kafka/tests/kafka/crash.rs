//! Processes that are killed, paused, or end in a message.

use std::process::Stdio;
use std::time::Duration;

use keylatch_core::inbox::Reason;
use rand::Rng as _;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use testing_support::at_once;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::consuming::{Db, check};
use crate::setup::{SOON, name, say, send, servers, topic};

/// A consumer in a process of its own. Killed when dropped.
pub(crate) struct Member {
    child: Child,
    said: tokio::task::JoinHandle<String>,
}

impl Member {
    pub(crate) fn start(db: &Db, name: &str, topic: &str, more: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_consumer-under-test"))
            .env("KAFKA_BROKERS", servers())
            .env("CONSUMER", name)
            .env("TOPIC", topic)
            .env("DATABASE", db.address())
            .envs(more.iter().copied())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let said = tokio::spawn(async move {
            let mut said = String::new();
            while let Ok(Some(line)) = lines.next_line().await {
                said.push_str(&line);
                said.push('\n');
            }
            said
        });
        Self { child, said }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.id(), signal).expect("a child can be signalled");
    }

    fn id(&self) -> Pid {
        self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)).expect("it runs")
    }

    /// Stops all of its threads, until it gets `SIGCONT`.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
        // A thread that is in a system call stops at its end.
        waitid(WaitId::Pid(self.id()), WaitIdOptions::STOPPED).expect("a child can be waited for");
    }

    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("a child can be killed");
    }

    /// Waits until it has ended by itself. Returns what it said.
    pub(crate) async fn ended(mut self) -> String {
        tokio::time::timeout(SOON, self.child.wait())
            .await
            .expect("it ends in time")
            .expect("a child can be waited for");
        self.said.await.expect("it speaks text")
    }

    pub(crate) async fn terminate(self) -> String {
        self.signal(Signal::TERM);
        let said = self.ended().await;
        assert!(said.contains("ended: "), "{said}");
        said
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_killed_at_random_under_load_applies_each_message_once() {
    killed_at_random("batches").await;
}

/// Kills consumers in this mode.
pub(crate) async fn killed_at_random(mode: &str) {
    // A short window, so that the next one has soon seen what is known. Kills are no fault of a message, and count as its
    // tries all the same, even if it only waits for the lease of the one before.
    let more = [("MODE", mode), ("WINDOW", "25"), ("TRIES", "100")];
    // A kill takes a few seconds: the broker has to find out.
    let kills = std::env::var("KEYLATCH_KAFKA_KILLS")
        .map_or(6, |kills| kills.parse().expect("KEYLATCH_KAFKA_KILLS is a number"));
    at_once(Db::both().await, async |db| {
        let (topic, name) = (topic(3).await, name("c"));
        let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
        let sending = tokio::spawn({
            let topic = topic.clone();
            async move {
                let mut sent: usize = 0;
                while stopped.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
                    let batch = (sent..sent + 10).flat_map(|nth| {
                        (0..3).map(move |part| say(part, &format!("k{part}-{}", nth % 4), &nth.to_string()))
                    });
                    send(&topic, batch).await;
                    sent += 10;
                    sleep(Duration::from_millis(20)).await;
                }
                sent * 3
            }
        });
        let mut applied = 0;
        for _ in 0..kills {
            let member = Member::start(&db, &name, &topic, &more);
            // It works, and then dies at some moment of that.
            db.await_effects(applied + 1).await;
            let pause = rand::rng().random_range(0..400);
            sleep(Duration::from_millis(pause)).await;
            member.kill().await;
            applied = db.effects().await.len();
        }
        stop.send(()).expect("the sender listens");
        let count = sending.await.expect("the sender ends");
        let member = Member::start(&db, &name, &topic, &more);
        // The others may have applied everything before, so it gets something in each partition.
        send(&topic, (0..3).map(|part| say(part, &format!("k{part}-0"), &count.to_string()))).await;
        let count = count + 3;
        db.await_effects(count).await;
        let said = member.terminate().await;
        assert!(!said.contains("TakenOver=0"), "{said}");
        let effects = db.effects().await;
        check(&effects, &[]);
        assert_eq!(effects.len(), count);
    })
    .await;
}

/// Around the lock of the place, in the handler, and around the commit.
pub(crate) const BOUNDARIES: [&str; 5] =
    ["before-claim", "after-claim", "after-handler-write", "before-commit", "after-commit"];

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_killed_at_a_boundary_of_its_batch_applies_each_message_once() {
    at_once(Db::both().await, async |db| {
        let (topic, name) = (topic(1).await, name("c"));
        let mut sent = 0;
        for boundary in BOUNDARIES {
            // Several batches, so that something was committed before, and ids, which are records of the same commit.
            send(&topic, (sent..sent + 30).map(|nth| say(0, "k", &nth.to_string()))).await;
            sent += 30;
            let at = format!("{boundary}:2:kill");
            let said = Member::start(&db, &name, &topic, &[("KEYLATCH_FAILPOINT", &at), ("BATCH", "10")]).ended().await;
            assert!(!said.contains("ended: ") && !said.contains("panicked"), "{boundary}: {said}");
            let effects = db.effects().await;
            check(&effects, &[]);
            assert!(effects.len() < usize::try_from(sent).unwrap(), "{boundary}: it was killed before the end");
        }
        let member = Member::start(&db, &name, &topic, &[]);
        db.await_effects(usize::try_from(sent).unwrap()).await;
        member.terminate().await;
        let effects = db.effects().await;
        check(&effects, &[]);
        assert_eq!(effects.len(), usize::try_from(sent).unwrap());
        assert!(db.dead_letters().await.is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_ends_the_process_becomes_a_dead_letter_and_the_others_are_applied() {
    at_once(Db::both().await, async |db| {
        let (topic, name) = (topic(1).await, name("c"));
        send(&topic, (0..20).map(|nth| say(0, "k", &format!("{nth}{}", if nth == 11 { " abort" } else { "" })))).await;
        // Once in the batch, and twice by itself.
        for _ in 0..3 {
            let said = Member::start(&db, &name, &topic, &[("TRIES", "2")]).ended().await;
            assert!(!said.contains("ended: "), "{said}");
        }
        let member = Member::start(&db, &name, &topic, &[("TRIES", "2")]);
        db.await_effects(19).await;
        member.terminate().await;
        let (effects, letters) = (db.effects().await, db.dead_letters().await);
        check(&effects, &letters);
        assert_eq!((effects.len(), letters.len()), (19, 1));
        let trouble = &letters[0].trouble;
        assert_eq!((letters[0].id.offset, trouble.reason, trouble.attempts), (11, Reason::Exhausted, 2));
        assert!(trouble.error.contains("the process ended"), "{}", trouble.error);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_is_paused_past_its_session_and_comes_back_changes_nothing() {
    paused_past_its_session("batches").await;
}

/// Pauses a consumer in this mode.
pub(crate) async fn paused_past_its_session(mode: &str) {
    let protocols: [&[(&str, &str)]; 2] = [&[("MODE", mode)], &[("MODE", mode), ("GROUP_PROTOCOL", "consumer")]];
    at_once([Db::postgres().await, Db::postgres().await].into_iter().zip(protocols), async |(db, protocol)| {
        let (topic, name) = (topic(2).await, name("c"));
        let numbers = |from: i32, to: i32| {
            (from..to).flat_map(|nth| [0, 1].map(|part| say(part, &format!("k{part}"), &nth.to_string())))
        };
        send(&topic, numbers(0, 50)).await;
        // It stands in a handler, with its transaction open, when it is paused.
        let paused = Member::start(&db, &name, &topic, protocol);
        db.await_effects(100).await;
        send(&topic, [say(0, "k0", "50 slow:1000")]).await;
        sleep(Duration::from_millis(300)).await;
        paused.pause();
        let other = Member::start(&db, &name, &topic, protocol);
        send(&topic, numbers(51, 100)).await;
        // The other one gets both partitions, and ends the work.
        db.await_effects(199).await;
        paused.signal(Signal::CONT);
        send(&topic, numbers(100, 150)).await;
        db.await_effects(299).await;
        other.terminate().await;
        send(&topic, numbers(150, 160)).await;
        // The one that came back is a member again, and goes on.
        db.await_effects(319).await;
        paused.terminate().await;
        let effects = db.effects().await;
        check(&effects, &db.dead_letters().await);
        assert_eq!(effects.len(), 319);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oracle_finds_what_it_is_there_for() {
    let effect = |id: &str, sequence| testing_kafka::Effect { id: id.into(), key: "k".into(), sequence };
    let found = |effects: Vec<testing_kafka::Effect>| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&effects, &[]))).is_err()
    };
    assert!(!found(vec![effect("a", 1), effect("b", 2)]));
    assert!(found(vec![effect("a", 1), effect("a", 2)]));
    assert!(found(vec![effect("a", 2), effect("b", 1)]));
}
