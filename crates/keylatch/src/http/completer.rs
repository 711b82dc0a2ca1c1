//! Finishes abandoned runs without their clients.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use parking_lot::Mutex;
use tower_service::Service;

use super::body::GuardedBody;
use super::layer::Config;
use super::work::{Stage, Waiting, work};
use crate::machine::{self, Phase};
use crate::store::PAGE_RECORDS_MAX;
use crate::{Answer, Error, Record, State};

/// Picks up runs whose lease has ended, and runs the handler again with the stored request. Made by
/// [`IdempotencyLayer::completer`](super::IdempotencyLayer::completer).
///
/// What it runs on is the service without the layer, and without what else stands around that: an extension that
/// an authentication layer puts into a request is not there. The client gets the answer when it retries.
pub struct Completer<S> {
    config: Arc<Config>,
    service: S,
}

/// What one round of a [`Completer`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Round {
    /// Abandoned runs that were run again.
    pub run: usize,
    /// Those among them whose answer is now recorded.
    pub recorded: usize,
    /// Abandoned runs whose request was not stored, or cannot be opened.
    pub skipped: usize,
}

impl<S> Completer<S> {
    pub(super) fn new(config: Arc<Config>, service: S) -> Self {
        Self { config, service }
    }

    /// Goes once through the runs that are abandoned now, one after the other. For a task that does so now and then.
    ///
    /// # Errors
    ///
    /// If the store failed.
    pub async fn round<B, R>(&mut self) -> Result<Round, Error>
    where
        S: Service<Request<GuardedBody<B>>, Response = Response<R>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        R: Body<Data = Bytes> + Send + 'static,
    {
        let (mut round, mut after) = (Round::default(), None);
        loop {
            let page = self.config.engine.store().lapsed(after, PAGE_RECORDS_MAX).await?;
            let Some(last) = page.value.last() else { return Ok(round) };
            after = Some(last.id());
            for record in page.value {
                if machine::phase(Some(&record), page.now) == Phase::Abandoned && !released(&record) {
                    self.finish(record, &mut round, PhantomData).await?;
                }
            }
        }
    }

    async fn finish<B, R>(&mut self, record: Record, round: &mut Round, _: PhantomData<B>) -> Result<(), Error>
    where
        S: Service<Request<GuardedBody<B>>, Response = Response<R>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        R: Body<Data = Bytes> + Send + 'static,
    {
        let Some(request) = self.open(&record) else {
            round.skipped += 1;
            return Ok(());
        };
        let service = self.service.clone();
        let mut ready = std::mem::replace(&mut self.service, service);
        if std::future::poll_fn(|context| ready.poll_ready(context)).await.is_err() {
            round.skipped += 1;
            return Ok(());
        }
        let Record { scope, key, fingerprint, .. } = record;
        let (parts, body) = request.map(GuardedBody::whole).into_parts();
        let waiting = Waiting { inner: ready, parts, body };
        let stage = Arc::new(Mutex::new(Stage::Waiting(waiting)));
        let asked = crate::Request { scope, key, fingerprint, wait: Duration::ZERO, sealed: None };
        let config = self.config.clone();
        let answer = self.config.engine.answer(asked, move |handed| work(config, stage, handed)).await?;
        if let Answer::Ran(ran) = answer {
            round.run += 1;
            round.recorded += usize::from(ran.expires_at.is_some());
        }
        Ok(())
    }

    /// The request that the record keeps, ready for its handler.
    fn open(&self, record: &Record) -> Option<Request<Bytes>> {
        let State::Running { notes, .. } = &record.state else { return None };
        let opened = self.config.sealing.as_ref()?.open(record.id(), notes.request.as_ref()?);
        opened.inspect_err(|error| tracing::warn!(%error, "an abandoned run cannot be finished")).ok()
    }
}

/// Whether the run ended by its own word: then its client was told, and may retry.
fn released(record: &Record) -> bool {
    matches!(&record.state, State::Running { notes, .. } if notes.released)
}

impl<S> fmt::Debug for Completer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Completer")
    }
}
