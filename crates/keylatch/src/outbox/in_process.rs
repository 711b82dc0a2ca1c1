//! Handlers in this process, as a publisher.

use std::collections::HashMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::time::timeout_at;
use tracing::Span;

use super::{Failed, Published, Publisher, Sent};
use crate::engine::telemetry::{span, within};
use crate::{Done, Engine, Fingerprint, InvalidScope, Key, Refused, Run, RunError, Scope, Tx, tx};

/// How many events are handled at once; those of one key are handled one after the other.
pub const AT_ONCE: usize = 16;

/// Hands each event to a handler in this process, through an engine: the id of the event is the key, so each takes effect
/// once, however often it is handed out.
///
/// A handler that fails is called again later, and its key waits; one that [rejects](Failed::reject) an event refuses it for
/// good. The engine keeps a record for each event, for as long as its [`Policy`](crate::Policy) says: longer than a relay
/// can be down between an acknowledgement and the deletion, which is minutes, and not days.
pub struct InProcess {
    handle: Box<Handle>,
    scope: Scope,
}

type Handle = dyn Fn(Scope, Key, Published) -> BoxFuture<'static, Result<Done<()>, RunError<Failed>>> + Send + Sync;

impl InProcess {
    /// Hands each event to `handler` with a transaction of the engine's store. `subscriber` names the handler: each of
    /// several gets every event once.
    ///
    /// # Errors
    ///
    /// If the name cannot be part of a [`Scope`].
    ///
    /// # Panics
    ///
    /// When the first event is handled: if the engine was not made by [`Engine::atomic`] with a store of `D`.
    pub fn atomic<D, F>(
        engine: Engine,
        subscriber: &str,
        handler: impl Fn(Tx<D>, Published) -> F + Send + Sync + 'static,
    ) -> Result<Self, InvalidScope>
    where
        D: tx::Database,
        F: Future<Output = Result<(), Failed>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        Self::new(subscriber, move |scope, key, event: Published| {
            let (engine, handler) = (engine.clone(), handler.clone());
            let fingerprint = fingerprint(&event);
            Box::pin(async move { engine.transact(scope, key, fingerprint, move |tx: Tx<D>| handler(tx, event)).await })
        })
    }

    /// Hands each event to `handler` on a lease: see [`Fenced`](crate::Guarantee::Fenced) and
    /// [`AtMostOnce`](crate::Guarantee::AtMostOnce).
    ///
    /// # Errors
    ///
    /// If the name cannot be part of a [`Scope`].
    ///
    /// # Panics
    ///
    /// When the first event is handled: if the engine was made by [`Engine::atomic`].
    pub fn on_lease<F>(
        engine: Engine,
        subscriber: &str,
        handler: impl Fn(Run, Published) -> F + Send + Sync + 'static,
    ) -> Result<Self, InvalidScope>
    where
        F: Future<Output = Result<(), Failed>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        Self::new(subscriber, move |scope, key, event: Published| {
            let (engine, handler) = (engine.clone(), handler.clone());
            let fingerprint = fingerprint(&event);
            Box::pin(async move { engine.run(scope, key, fingerprint, move |run| handler(run, event)).await })
        })
    }

    fn new(
        subscriber: &str,
        handle: impl Fn(Scope, Key, Published) -> BoxFuture<'static, Result<Done<()>, RunError<Failed>>>
        + Send
        + Sync
        + 'static,
    ) -> Result<Self, InvalidScope> {
        let scope = Scope::new(subscriber)?.for_operation("event")?;
        Ok(Self { handle: Box::new(handle), scope })
    }

    async fn one(&self, event: &Published, until: Instant) -> Sent {
        let key = Key::new(&event.id.to_string()).expect("a UUID is a valid key");
        let handled = AssertUnwindSafe((self.handle)(self.scope.clone(), key, event.clone())).catch_unwind();
        let handled = within(span_of(event), handled);
        match timeout_at(until.into(), handled).await {
            Ok(Ok(done)) => sent(done),
            Ok(Err(_)) => Sent::Later("the handler panicked".to_owned()),
            Err(_) => Sent::Later("the handler has not ended yet".to_owned()),
        }
    }
}

/// The span around a handler of this event, linked to the span in which it was published.
fn span_of(published: &Published) -> Span {
    let Published { id, event } = published;
    let span = span(|| tracing::info_span!("keylatch.event", topic = event.topic(), event = %id));
    #[cfg(feature = "opentelemetry")]
    keylatch_core::propagation::link(&span, |name| {
        event.headers().iter().find(|(header, _)| header == name).map(|(_, value)| &**value)
    });
    span
}

/// What the end of a handler means for its event.
fn sent(done: Result<Done<()>, RunError<Failed>>) -> Sent {
    match done {
        Ok(_) => Sent::Acknowledged,
        // It took effect before.
        Err(RunError::NotRetained | RunError::Refused(Refused::Expired)) => Sent::Acknowledged,
        Err(RunError::Work(failed)) if failed.is_final() => Sent::Refused(failed.to_string()),
        Err(RunError::Refused(refused @ (Refused::Mismatch | Refused::Unknown))) => {
            Sent::Refused(format!("{refused:?}"))
        }
        Err(error) => Sent::Later(error.to_string()),
    }
}

fn fingerprint(Published { event, .. }: &Published) -> Fingerprint {
    let headers = event.encode_headers();
    let optional = |part: Option<&[u8]>| part.map_or(Vec::new(), |part| [&[1], part].concat());
    Fingerprint::of([
        event.topic().as_bytes(),
        &optional(event.key().map(|key| &key[..])),
        &optional(event.value().map(|value| &value[..])),
        &optional(headers.as_deref()),
    ])
}

impl Publisher for InProcess {
    fn publish<'p>(&'p self, events: &'p [Published], until: Instant) -> BoxFuture<'p, Vec<Sent>> {
        Box::pin(async move {
            // The events of each key, by their positions.
            let mut lines: Vec<Vec<usize>> = Vec::new();
            let mut of_key = HashMap::new();
            for (at, Published { event, .. }) in events.iter().enumerate() {
                match event.key() {
                    None => lines.push(vec![at]),
                    Some(key) => {
                        let line = *of_key.entry((event.topic(), key)).or_insert_with(|| {
                            lines.push(Vec::new());
                            lines.len() - 1
                        });
                        lines[line].push(at);
                    }
                }
            }
            let mut sent = vec![Sent::Later("an event before it has failed".to_owned()); events.len()];
            let handled = stream::iter(lines).map(|line| async move {
                let mut done = Vec::new();
                for at in line {
                    let one = self.one(&events[at], until).await;
                    let goes_on = one == Sent::Acknowledged;
                    done.push((at, one));
                    if !goes_on {
                        break;
                    }
                }
                done
            });
            let mut handled = handled.buffer_unordered(AT_ONCE);
            while let Some(done) = handled.next().await {
                for (at, one) in done {
                    sent[at] = one;
                }
            }
            sent
        })
    }
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InProcess({})", self.scope.caller())
    }
}
