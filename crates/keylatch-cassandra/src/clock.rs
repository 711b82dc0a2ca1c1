//! What time it is for the store.
//!
//! Several nodes are asked, and the one in the middle counts: a single node whose clock is off changes nothing, even if
//! most of the others do not answer for a while. Between two questions this process's monotonic clock goes on from the
//! answer. The error is that of the nodes' clocks, and half a round trip: the
//! [clock uncertainty](super::Options::with_clock_uncertainty).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::Mutex;
use scylla::policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy};
use scylla::value::CqlTimestamp;

use super::error::Failed;
use super::link::{self, Link};
use keylatch_core::Timestamp;

/// How old an answer may be before the nodes are asked again, beside the calls.
const ASKED_EVERY: Duration = Duration::from_secs(1);
/// How old an answer may be before calls wait for a new one: two machines drift apart by less than a millisecond in
/// this time.
const AGE_MAX: Duration = Duration::from_secs(10);
/// How many nodes are asked.
const NODES_ASKED_MAX: usize = 5;
/// How long they have to answer: a slower answer says less than the uncertainty allows.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// The time of the cluster. It never goes back.
#[derive(Debug, Default)]
pub(super) struct ClusterClock {
    sample: Mutex<Option<Sample>>,
    /// Someone asks now.
    asking: AtomicBool,
    latest: AtomicI64,
}

/// What time it was.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// In the middle between question and answer.
    at: Instant,
    time: Timestamp,
}

impl ClusterClock {
    /// The time now.
    pub(super) async fn now(self: &Arc<Self>, link: &Arc<Link>) -> Result<Timestamp, Failed> {
        let known = *self.sample.lock();
        let Some(known) = known.filter(|known| known.at.elapsed() < AGE_MAX) else { return self.ask(link).await };
        if known.at.elapsed() > ASKED_EVERY && !self.asking.swap(true, Ordering::Relaxed) {
            let (clock, link) = (self.clone(), link.clone());
            tokio::spawn(async move {
                // A failure leaves the answer that is there; the next call asks again.
                let _ = clock.ask(&link).await;
                clock.asking.store(false, Ordering::Relaxed);
            });
        }
        Ok(self.at(known))
    }

    /// The sample, gone on to now.
    fn at(&self, sample: Sample) -> Timestamp {
        let now = (sample.time + sample.at.elapsed()).as_millis();
        let latest = self.latest.fetch_max(now, Ordering::AcqRel);
        Timestamp::from_millis(now.max(latest))
    }

    async fn ask(&self, link: &Link) -> Result<Timestamp, Failed> {
        let nodes = link.session.get_cluster_state();
        let up = nodes.get_nodes_info().iter().filter(|node| node.is_connected()).take(NODES_ASKED_MAX);
        let answers = join_all(up.map(|node| async move {
            let mut statement = link.time.clone();
            let target = NodeIdentifier::Node(node.clone());
            statement.set_load_balancing_policy(Some(SingleTargetLoadBalancingPolicy::new(target, None)));
            statement.set_request_timeout(Some(ANSWER_MAX));
            let asked = Instant::now();
            let time = link.rows::<(CqlTimestamp,)>(&statement, ()).await?.pop();
            let (time,) = time.ok_or(Failed::Nonsense("no time"))?;
            Ok::<_, Failed>(Sample { at: asked + asked.elapsed() / 2, time: link::time(time) })
        }));
        let mut failed = Failed::NotSent("no node can be reached".to_owned());
        let (answers, mut samples) = (answers.await, Vec::new());
        let asked = answers.len();
        for answer in answers {
            match answer {
                Ok(sample) => samples.push(sample),
                Err(error) => failed = error,
            }
        }
        let mut sample = self.sample.lock();
        let Some(next) = next(samples, asked, *sample) else { return Err(failed) };
        *sample = Some(next);
        Ok(self.at(next))
    }
}

/// The sample in the middle, if most of the nodes that were asked have answered. Otherwise the one that is known, as long
/// as it is not too old: the clock of the few may be off.
fn next(samples: Vec<Sample>, asked: usize, known: Option<Sample>) -> Option<Sample> {
    let known = known.filter(|known| 2 * samples.len() <= asked && known.at.elapsed() < AGE_MAX);
    known.or_else(|| middle(samples))
}

/// The sample in the middle, by what time it makes it now.
fn middle(mut samples: Vec<Sample>) -> Option<Sample> {
    let first = samples.first()?.at;
    samples.sort_by_key(|sample| {
        let since = i64::try_from(sample.at.saturating_duration_since(first).as_millis()).unwrap_or(i64::MAX);
        sample.time.as_millis().saturating_sub(since)
    });
    samples.get((samples.len() - 1) / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_clock_that_is_off_does_not_count() {
        let at = Instant::now();
        let sample = |millis| Sample { at, time: Timestamp::from_millis(millis) };
        for off in [-10_000, 10_000] {
            let middle = middle(vec![sample(1_000), sample(1_000 + off), sample(1_003)]).unwrap();
            assert!((1_000..=1_003).contains(&middle.time.as_millis()));
        }
        assert_eq!(middle(vec![sample(5)]).unwrap().time.as_millis(), 5);
        assert!(middle(Vec::new()).is_none());
    }

    #[test]
    fn a_few_nodes_count_only_if_nothing_else_is_known() {
        let at = Instant::now();
        let sample = |millis| Sample { at, time: Timestamp::from_millis(millis) };
        let next = |samples, known| next(samples, 3, known).map(|sample| sample.time.as_millis());
        assert_eq!(next(vec![sample(11_000)], Some(sample(1_000))), Some(1_000));
        assert_eq!(next(vec![sample(11_000)], None), Some(11_000));
        assert_eq!(next(vec![sample(11_000), sample(1_002)], Some(sample(1_000))), Some(1_002));
        if let Some(long_ago) = at.checked_sub(AGE_MAX) {
            let old = Sample { at: long_ago, time: Timestamp::from_millis(1_000) };
            assert_eq!(next(vec![sample(11_000)], Some(old)), Some(11_000));
        }
        assert_eq!(next(Vec::new(), None), None);
    }
}
