//! One call: a request is sent until there is a final answer.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use keylatch_core::{Clock, Key};
use rand::Rng as _;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout_at};
use tower_service::Service;

use crate::bound::Bound;
use crate::error::{Error, GaveUp, Unsendable, Unsettled};
use crate::event::{Event, Observer, Step, Why};
use crate::policy::RetryBudget;
use crate::profile::{Meaning, is_replay, retry_after};
use crate::request::{IDEMPOTENCY_KEY, Identity, PREFER, check, public_url};
use crate::{Answer, BoxError, Entry, Journal, JournalError, Policy, Profile};

/// What all calls of a client share.
pub(crate) struct Shared {
    pub(crate) profile: Profile,
    pub(crate) policy: Policy,
    /// What each request asks for with `Prefer`.
    pub(crate) prefer: Option<HeaderValue>,
    pub(crate) journal: Option<Arc<dyn Journal>>,
    pub(crate) observer: Option<Observer>,
    pub(crate) clock: Clock,
    pub(crate) budget: RetryBudget,
    pub(crate) bound: Bound,
    pub(crate) calls: AtomicU64,
    /// A number of at least 0 and less than 1, for each pause.
    pub(crate) random: Box<dyn Fn() -> f64 + Send + Sync>,
}

pub(crate) fn random() -> f64 {
    rand::rng().random()
}

/// No try is given less time.
const TRY_MIN: Duration = Duration::from_millis(1);

/// A call.
struct Calling<'c> {
    shared: &'c Shared,
    number: u64,
    key: Key,
    request: Request<Bytes>,
    url: String,
    tries: u32,
    ended: bool,
}

/// What came of a try.
enum Got {
    Response(Response<Bytes>),
    Nothing(Why, BoxError),
}

/// Sends `request` until there is a final answer.
pub(crate) async fn call<S, B>(
    shared: &Shared,
    transport: S,
    key: Key,
    request: Request<Bytes>,
) -> Result<Answer, Error>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body,
    B::Error: Into<BoxError>,
{
    check(&request)?;
    if !shared.bound.bind(&key, &Identity::of(&request)) {
        return Err(Error::KeyReused(Unsettled { key, tries: 0, answer: None }));
    }
    // Only a journal is asked for the keys that are not in use.
    let _in_use = shared.journal.is_some().then(|| shared.bound.enter(&key));
    let url = if shared.observer.is_some() { public_url(&request) } else { String::new() };
    let number = shared.calls.fetch_add(1, Ordering::Relaxed) + 1;
    let mut calling = Calling { shared, number, key, request, url, tries: 0, ended: false };
    let done = calling.run(transport).await;
    if let Err(error) = &done {
        calling.tell(Step::Error { name: error.name() });
    }
    calling.ended = true;
    done
}

impl Calling<'_> {
    async fn run<S, B>(&mut self, mut transport: S) -> Result<Answer, Error>
    where
        S: Service<Request<Full<Bytes>>, Response = Response<B>>,
        S::Error: Into<BoxError>,
        B: Body,
        B::Error: Into<BoxError>,
    {
        self.begin().await?;
        let Shared { policy, profile, .. } = self.shared;
        let mut now = Instant::now();
        let until = now + policy.time_max;
        self.add_headers();
        loop {
            self.tries += 1;
            self.tell(Step::Try);
            let deadline = now + policy.try_max.min(until.saturating_duration_since(now)).max(TRY_MIN);
            let (why, status, pause) = match self.send(&mut transport, deadline).await? {
                Got::Nothing(why, error) => (why, None, self.pause(until, None, None, Some(error))?),
                Got::Response(response) => {
                    let (meaning, status) = (profile.meaning(&response), response.status());
                    let replayed = is_replay(&response);
                    let answer = Answer { response, replayed, tries: self.tries, key: self.key.clone() };
                    let why = match meaning {
                        Meaning::Answer => return self.end(answer).await,
                        Meaning::Retry => Why::Retry,
                        Meaning::InProgress => Why::InProgress,
                        refused => return Err(self.fail(refused, answer).await),
                    };
                    let after = retry_after(answer.response.headers(), self.shared.clock.now());
                    (why, Some(status), self.pause(until, after, Some(answer), None)?)
                }
            };
            self.tell(Step::Pause { why, status, pause });
            sleep(pause).await;
            // A pause can take longer than it should.
            now = Instant::now();
        }
    }

    /// Writes the intent down before the first try.
    async fn begin(&self) -> Result<(), Error> {
        let Some(journal) = self.shared.journal.clone() else { return Ok(()) };
        let Shared { clock, policy, profile, .. } = self.shared;
        let mine = Entry { key: self.key.clone(), request: self.request.clone(), created_at: clock.now() };
        let entry = blocking(move || journal.begin(mine)).await?;
        let unsent = || Unsettled { key: self.key.clone(), tries: 0, answer: None };
        if Identity::of(&entry.request) != Identity::of(&self.request) {
            return Err(Error::KeyReused(unsent()));
        }
        let age = entry.created_at.until(clock.now());
        if age.saturating_add(policy.time_max) > profile.key_max() {
            return Err(Error::TooOld(unsent()));
        }
        Ok(())
    }

    fn add_headers(&mut self) {
        let Shared { prefer, profile, .. } = self.shared;
        let mut value = HeaderValue::try_from(profile.header(&self.key)).expect("a key is visible ASCII");
        value.set_sensitive(true);
        let headers = self.request.headers_mut();
        headers.insert(IDEMPOTENCY_KEY, value);
        if let Some(prefer) = prefer {
            headers.insert(PREFER, prefer.clone());
        }
    }

    /// Sends the request once, and reads the answer to its end.
    async fn send<S, B>(&self, transport: &mut S, deadline: Instant) -> Result<Got, Error>
    where
        S: Service<Request<Full<Bytes>>, Response = Response<B>>,
        S::Error: Into<BoxError>,
        B: Body,
        B::Error: Into<BoxError>,
    {
        let sent = async {
            poll_fn(|cx| transport.poll_ready(cx)).await.map_err(Into::into)?;
            let response = transport.call(self.request.clone().map(Full::new)).await.map_err(Into::into)?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, self.shared.policy.answer_bytes_max).collect().await?.to_bytes();
            Ok::<_, BoxError>(Response::from_parts(parts, body))
        };
        match timeout_at(deadline, sent).await {
            Ok(Ok(response)) => Ok(Got::Response(response)),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                Err(Error::AnswerTooLarge(Unsettled { key: self.key.clone(), tries: self.tries, answer: None }))
            }
            Ok(Err(error)) => match error.downcast::<Unsendable>() {
                Ok(unsendable) => Err(Error::Unsendable(*unsendable)),
                Err(error) => Ok(Got::Nothing(Why::Lost, error)),
            },
            Err(elapsed) => Ok(Got::Nothing(Why::Silent, elapsed.into())),
        }
    }

    /// The pause before the next try.
    ///
    /// # Errors
    ///
    /// If there is no next try.
    fn pause(
        &self,
        until: Instant,
        after: Option<Duration>,
        answer: Option<Answer>,
        source: Option<BoxError>,
    ) -> Result<Duration, Error> {
        let Shared { policy, budget, .. } = self.shared;
        let give_up = |why| {
            let call = Unsettled { key: self.key.clone(), tries: self.tries, answer: answer.map(Box::new) };
            Err(Error::GaveUp { call, why, after, source })
        };
        if self.tries >= policy.tries_max {
            return give_up(GaveUp::Tries);
        }
        let now = Instant::now();
        let pause = policy.pause(self.tries, after, (self.shared.random)()).max(budget.reserve(now.into_std()));
        if pause >= until.saturating_duration_since(now) {
            budget.give_back();
            return give_up(GaveUp::Time);
        }
        Ok(pause)
    }

    async fn end(&self, answer: Answer) -> Result<Answer, Error> {
        self.shared.budget.answered();
        // After a 401 the caller logs in again, and the intent can be resumed. A recorded 401 does not change.
        if answer.status() != StatusCode::UNAUTHORIZED || answer.replayed {
            self.forget().await?;
        }
        self.tell(Step::Answer { status: answer.status(), replayed: answer.replayed });
        Ok(answer)
    }

    async fn fail(&self, meaning: Meaning, answer: Answer) -> Error {
        let call = Unsettled { key: self.key.clone(), tries: self.tries, answer: Some(Box::new(answer)) };
        let error = match meaning {
            // Its intent stays in the journal.
            Meaning::OutcomeUnknown => return Error::OutcomeUnknown(call),
            Meaning::KeyReused => Error::KeyReused(call),
            Meaning::NotRetained => Error::ResponseNotRetained(call),
            Meaning::Expired => Error::KeyExpired(call),
            Meaning::Answer | Meaning::Retry | Meaning::InProgress => {
                unreachable!("the call goes on, or has an answer")
            }
        };
        match self.forget().await {
            Ok(()) => error,
            Err(failed) => failed.into(),
        }
    }

    async fn forget(&self) -> Result<(), JournalError> {
        let Some(journal) = self.shared.journal.clone() else { return Ok(()) };
        let key = self.key.clone();
        blocking(move || journal.end(&key)).await
    }

    fn tell(&self, step: Step) {
        if let Some(observer) = &self.shared.observer {
            let (method, url) = (self.request.method().clone(), self.url.clone());
            observer(&Event { call: self.number, method, url, tries: self.tries, step });
        }
    }
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.tell(Step::Error { name: "stopped" });
        }
    }
}

/// Does what waits for a disk.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JournalError> + Send + 'static,
) -> Result<T, JournalError> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(JournalError::Failed(error.into())))
}
