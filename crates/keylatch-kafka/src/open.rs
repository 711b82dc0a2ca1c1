//! Where a partition begins: the place is taken, and the log is compared with it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use keylatch_core::Owner;
use keylatch_core::inbox::{Inbox, LastMessage, Ownership, Place, PlaceName, PlacesRequest, Step, Tried};

use keylatch_core::store::{At, Error, PAGE_RECORDS_MAX};
use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::TopicPartitionList;
use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::consumer::{Setup, StartAt};
use crate::owned::how_to_go_on;
use crate::partition::Partition;
use crate::poller::{Context, Poller, ask};
use crate::stats::Count;

/// How long a broker may take to answer one question.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// How often the log is asked for its ends before a partition with a place begins without that: the client finds out later
/// whether the offset is there.
const ENDS_TRIES: u32 = 3;

/// A partition whose place is taken.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) partition: Partition,
    pub(crate) ownership: Ownership,
    /// The next offset of the place.
    pub(crate) next: i64,
    /// From where it is fetched.
    pub(crate) fetch: i64,
    /// The message that must come first, if it is still there.
    pub(crate) check: Option<LastMessage>,
    /// The tries of one message that were counted.
    pub(crate) tried: Option<Tried>,
    /// Whether the owner before may have died in a message.
    pub(crate) after_crash: bool,
    /// Why it must not begin.
    pub(crate) stopped: Option<String>,
}

/// Whether the partition `number`, which has no place, was added after the consumer began with its topic. `known` are the
/// partitions that have one.
///
/// Whoever begins writes the places of all partitions, the highest number first. So if one with a lower number has a place,
/// this one would have had one before it.
fn is_added(known: &[i32], number: i32) -> bool {
    known.iter().any(|known| *known < number)
}

/// What opens partitions.
pub(crate) struct Opener<S: Inbox> {
    pub(crate) setup: Arc<Setup<S>>,
    pub(crate) poller: Arc<Poller>,
}

impl<S: Inbox> Opener<S> {
    /// Takes the place of `partition`. It waits for the database as long as that takes; drop it to give up.
    ///
    /// `None` if the client is gone.
    pub(crate) async fn open(&self, partition: Partition) -> Option<Opened> {
        let name = match PlaceName::new(&self.setup.name, &partition.topic, partition.number) {
            Ok(name) => name,
            Err(error) => unreachable!("the broker has such a partition: {error}"),
        };
        let store = &self.setup.store;
        let place = self.insist(|| store.place(name.clone())).await.value;
        if place.is_none_or(|place| place.next.is_none()) {
            self.begin(&partition).await?;
        }
        let owner = Owner::random();
        let mut place = self.insist(|| store.take(name.clone(), owner)).await.value;
        let mut ownership = place.ownership().expect("a place that was taken has an owner");
        while place.next.is_none() {
            // Its row is older than this version's way to begin.
            let to = self.first_offset(&partition).await?;
            let step = Step { from: None, to, last: None };
            let _ = self.insist(|| store.advance(ownership.clone(), step)).await;
            place = self.insist(|| store.take(name.clone(), owner)).await.value;
            ownership = place.ownership().expect("a place that was taken has an owner");
        }
        if place.after_crash {
            self.setup.stats.add(Count::TakenOver, 1);
        }
        Some(self.compared(partition, place, ownership).await)
    }

    /// Compares the place with the log.
    async fn compared(&self, partition: Partition, place: Place, ownership: Ownership) -> Opened {
        let next = place.next.expect("it has one");
        let ends = self.ends_of_known(&partition).await;
        let mut opened = Opened {
            partition,
            ownership,
            next,
            fetch: next,
            check: place.last,
            tried: place.tried,
            after_crash: place.after_crash,
            stopped: None,
        };
        if let Some((low, high)) = ends {
            let wrong = if high < next {
                Some(format!(
                    "the log ends at offset {high}, but this consumer has applied all before {next}: the topic was deleted \
                     and created again, or truncated"
                ))
            } else if low > next {
                Some(format!(
                    "the log begins at offset {low}, but the next message to apply is {next}: what is between was removed \
                     before it was applied"
                ))
            } else {
                None
            };
            if let Some(wrong) = wrong {
                opened.stopped = Some(format!("{wrong}. {}", how_to_go_on(&place.name)));
                opened.fetch = high;
                return opened;
            }
            opened.check = opened.check.filter(|last| last.offset >= low);
        }
        if let Some(last) = opened.check {
            opened.fetch = last.offset;
        }
        opened
    }

    /// Writes down where the consumer begins in all partitions of the topic, so that those that are added later are told
    /// apart: they begin at their beginning. See [`is_added`].
    async fn begin(&self, partition: &Partition) -> Option<()> {
        let known = self.known(partition).await;
        let added = is_added(&known, partition.number);
        // The highest number first: see there.
        let numbers: Vec<_> = if known.is_empty() { self.numbers(partition).await? } else { vec![partition.number] };
        for number in numbers.into_iter().rev() {
            let partition = Partition { topic: partition.topic.clone(), number };
            let at = if added { self.ends(&partition).await?.0 } else { self.first_offset(&partition).await? };
            let name = PlaceName::new(&self.setup.name, &partition.topic, number).expect("the broker has it");
            // Lost if somebody else was faster.
            let _ = self.insist(|| self.setup.store.move_to(name.clone(), None, at)).await;
        }
        Some(())
    }

    /// The partitions of the topic that have a place.
    async fn known(&self, partition: &Partition) -> Vec<i32> {
        let mut request =
            PlacesRequest { consumer: Some(self.setup.name.clone()), after: None, limit: PAGE_RECORDS_MAX };
        let mut known = Vec::new();
        loop {
            let At { value: page, .. } = self.insist(|| self.setup.store.places(request.clone())).await;
            let of_topic = page.items.iter().filter(|place| place.name.topic() == &*partition.topic);
            known.extend(of_topic.map(|place| place.name.partition()));
            match page.next {
                Some(next) => request.after = Some(next),
                None => return known,
            }
        }
    }

    /// All partitions of the topic, in ascending order.
    async fn numbers(&self, partition: &Partition) -> Option<Vec<i32>> {
        let topic = partition.topic.clone();
        let mut numbers = self
            .asked(move |client| {
                let metadata = client.fetch_metadata(Some(&topic), ANSWER_MAX)?;
                let topic = metadata.topics().iter().find(|found| found.name() == &*topic);
                Ok(topic.map(|topic| topic.partitions().iter().map(|one| one.id()).collect()).unwrap_or_default())
            })
            .await?;
        let numbers: &mut Vec<i32> = &mut numbers;
        if !numbers.contains(&partition.number) {
            numbers.push(partition.number);
        }
        numbers.sort_unstable();
        Some(std::mem::take(numbers))
    }

    /// Where a partition begins that was there at the start: what the group has committed, else the setting.
    async fn first_offset(&self, partition: &Partition) -> Option<i64> {
        let (low, high) = self.ends(partition).await?;
        let asked = partition.clone();
        let committed = self
            .asked(move |client| {
                let mut list = TopicPartitionList::new();
                list.add_partition(&asked.topic, asked.number);
                let list = client.committed_offsets(list, ANSWER_MAX)?;
                let found = list.find_partition(&asked.topic, asked.number);
                Ok(found.and_then(|found| match found.offset() {
                    Offset::Offset(offset) => Some(offset),
                    _ => None,
                }))
            })
            .await?;
        match committed {
            Some(offset) if (low..=high).contains(&offset) => Some(offset),
            Some(offset) => {
                tracing::warn!(%partition, offset, low, high, "the group's committed offset is not in the log");
                Some(low)
            }
            None => Some(match self.setup.options.start_at {
                StartAt::Beginning => low,
                StartAt::End => high,
            }),
        }
    }

    /// The first offset of the log, and the one after the last.
    async fn ends(&self, partition: &Partition) -> Option<(i64, i64)> {
        let partition = partition.clone();
        self.asked(move |client| client.fetch_watermarks(&partition.topic, partition.number, ANSWER_MAX)).await
    }

    /// The same, unless the broker does not answer for a while.
    async fn ends_of_known(&self, partition: &Partition) -> Option<(i64, i64)> {
        for nth in 1..=ENDS_TRIES {
            let partition = partition.clone();
            let client = self.poller.client()?;
            let ends = move |client: &BaseConsumer<Context>| {
                client.fetch_watermarks(&partition.topic, partition.number, ANSWER_MAX)
            };
            match ask(client, ends).await {
                Ok(ends) => return Some(ends),
                Err(error) => tracing::debug!(%error, "no answer to where the log begins and ends"),
            }
            sleep(Backoff::OF_SERVERS.after(nth)).await;
        }
        None
    }

    /// Asks the broker until it answers. `None` if the client is gone.
    async fn asked<T, F>(&self, question: F) -> Option<T>
    where
        T: Send + 'static,
        F: Fn(&BaseConsumer<Context>) -> KafkaResult<T> + Clone + Send + 'static,
    {
        let mut failures = 0;
        loop {
            let error: KafkaError = match ask(self.poller.client()?, question.clone()).await {
                Ok(answer) => return Some(answer),
                Err(error) => error,
            };
            failures += 1;
            if failures == 1 {
                tracing::warn!(%error, "waiting for Kafka to say where a partition begins");
            }
            sleep(Backoff::OF_SERVERS.after(failures)).await;
        }
    }

    /// Asks the database until it answers.
    async fn insist<'s, T>(&self, mut call: impl FnMut() -> BoxFuture<'s, Result<T, Error>>) -> T {
        let mut failures = 0;
        loop {
            let error = match call().await {
                Ok(value) => return value,
                Err(error) => error,
            };
            failures += 1;
            if failures == 1 || !error.retryable() {
                tracing::warn!(%error, "waiting for the store to take a place");
            }
            sleep(Backoff::OF_SERVERS.after(failures)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_added;

    #[test]
    fn a_partition_was_added_if_a_lower_one_has_a_place() {
        // Whoever began has not come so far: 0 to 3 were there.
        for number in [0, 1] {
            assert!(!is_added(&[2, 3], number), "{number}");
        }
        // 2 to 4 were added, and are opened in any order.
        for known in [&[0, 1][..], &[0, 1, 3], &[0, 1, 4], &[0, 1, 3, 4]] {
            assert!(is_added(known, 2), "{known:?}");
        }
        // The same while whoever began has not come so far.
        assert!(is_added(&[1, 3], 2));
        assert!(!is_added(&[1, 3], 0));
    }
}
