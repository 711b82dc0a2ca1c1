//! A consumer in lanes, as a service makes it.

use std::sync::Arc;

use keylatch::{Cleanup, Engine, Limits, Run, Tx};
use keylatch_core::inbox::Inbox;
use keylatch_core::store::{Durability, Store as _};
use keylatch_core::{Guarantee, Policy};

use super::through::Through;
use crate::consumer::Mode;
use crate::{Consumer, Failed, InvalidConsumer, Message, Running};

impl Consumer {
    /// Applies each message in a transaction of its own, in lanes: messages of different keys at once, those of one key
    /// in the order of their partition, and those without a key whenever there is room.
    ///
    /// A message that fails and may succeed later holds up its key, and no other. Each message has a record: that of
    /// its id, or if it has none, that of its place. [Batches](Self::each) are faster where one transaction for many
    /// messages will do.
    ///
    /// # Errors
    ///
    /// As [`each`](Self::each); and if records are kept for a shorter time than a message may be tried.
    pub fn lanes<S, H, F>(self, store: S, handler: H) -> Result<Running<S>, InvalidConsumer>
    where
        S: Inbox + Clone,
        H: Fn(Tx<S::Database>, Message) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Failed>> + Send + 'static,
    {
        // Messages are not bounded as callers are. The consumer cleans its store itself.
        let limits = Limits { records_per_scope_max: i64::MAX as u64, cache_bytes_max: 0, ..Limits::default() };
        let engine = Engine::atomic(store.clone(), self.options.policy, limits)?.with_cleanup(Cleanup::off());
        self.check_records(engine.policy(), store.durability())?;
        let through = Through::transactions(engine, &self.options, handler);
        self.in_lanes(store, through)
    }

    /// Applies each message on a lease of `engine`, which is `Fenced` or `AtMostOnce`, in lanes as
    /// [`lanes`](Self::lanes) does. For a handler whose effect is not in a database of ours: it gets its epoch, derived
    /// keys, and steps.
    ///
    /// Places and dead letters are in `store`; records are in the engine's store, which may be another one, such as
    /// Redis. The engine's policy says how long they are kept, and its limit on the records of a scope must be higher
    /// than the number of messages in that time.
    ///
    /// In `AtMostOnce` a handler that has failed is not started again, because it may have had its effect: the message
    /// is a dead letter whose outcome is unknown, unless the handler has said otherwise with [`Run::on_error`], or the
    /// engine's [resolver](Engine::with_resolver) knows better.
    ///
    /// ```no_run
    /// use keylatch::sqlite::Store;
    /// use keylatch::{Engine, Limits, Policy, Run};
    /// use keylatch_kafka::{Consumer, Failed, Kafka, Message};
    ///
    /// async fn notify(run: Run, message: Message) -> Result<(), Failed> {
    ///     // `key` is the same on every attempt.
    ///     run.step("mail", |key| async move { send_mail(&key, &message).await }).await?;
    ///     Ok(())
    /// }
    /// # async fn send_mail(_: &keylatch::Key, _: &Message) -> Result<(), std::io::Error> { Ok(()) }
    ///
    /// # async fn service(stopped: impl Future<Output = ()>) -> Result<(), Box<dyn std::error::Error>> {
    /// let store = Store::open("data/keylatch.db").await?;
    /// let engine = Engine::fenced(store.clone(), Policy::default(), Limits::default())?;
    /// let consumer = Consumer::new(Kafka::new("127.0.0.1:9092"), "mailer", ["orders"]);
    /// consumer.lanes_on_lease(engine, store, notify)?.run_until(stopped).await;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`lanes`](Self::lanes); and if the engine is `Atomic`, or keeps its records in memory.
    pub fn lanes_on_lease<S, H, F>(self, engine: Engine, store: S, handler: H) -> Result<Running<S>, InvalidConsumer>
    where
        S: Inbox,
        H: Fn(Run, Message) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Failed>> + Send + 'static,
    {
        if engine.guarantee() == Guarantee::Atomic {
            return Err(InvalidConsumer::Atomic);
        }
        self.check_records(engine.policy(), engine.store().durability())?;
        let through = Through::leases(engine, &self.options, handler);
        self.in_lanes(store, through)
    }

    /// With so many handlers of lanes at once, over all partitions, and so many messages of a partition that may be
    /// read past the oldest that is not done, instead of [`LANES`](crate::LANES) and [`WINDOW`](crate::WINDOW).
    ///
    /// A message that waits for its next try holds up its partition once the window is full.
    #[must_use]
    pub fn with_lanes(mut self, at_once: usize, window: usize) -> Self {
        (self.options.lanes, self.options.window) = (at_once, window);
        self
    }

    fn in_lanes<S: Inbox>(self, store: S, through: Through) -> Result<Running<S>, InvalidConsumer> {
        self.running(store, Mode::Lanes(Arc::new(through)))
    }

    /// What is done is known by its record until the place has passed it: as long as the oldest message is tried.
    fn check_records(&self, policy: &Policy, durability: Durability) -> Result<(), InvalidConsumer> {
        let (tried_for, kept) = (self.options.backoff.longest_of(self.options.tries), policy.keep());
        if kept < tried_for {
            return Err(InvalidConsumer::Retention { tried_for, kept });
        }
        if durability == Durability::Process {
            return Err(InvalidConsumer::NotDurable);
        }
        Ok(())
    }
}
