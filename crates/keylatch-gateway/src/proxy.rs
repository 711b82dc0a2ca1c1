//! The service inside the layer: sends a request to the upstream once, and returns its answer with what is known of the
//! effect.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use keylatch::http::{Disposition, GuardedBody};
use keylatch::{Guarantee, Run};
use tower_service::Service;
use tracing::{Instrument as _, Span};

use crate::ahead::{Ahead, Answer, BrokeOff, FromUpstream};
use crate::front::{TakesTrailers, WantsUpgrade};
use crate::headers;
use crate::outgoing::{Broke, Outgoing, Progress};
use crate::pool::{Failure, Lent, Pool};
use crate::problem::Problem;
use crate::room::{Arriving, Share};
use crate::{trace, upgrade};

/// Sends requests to the upstream.
#[derive(Clone)]
pub(crate) struct Proxy(Arc<Inner>);

struct Inner {
    pool: Pool,
    rules: Rules,
}

/// How requests and answers are passed on.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) guarantee: Guarantee,
    /// The host that the upstream gets, instead of the client's.
    pub(crate) host: Option<HeaderValue>,
    pub(crate) ahead: Ahead,
    /// How long the upstream may be silent during an answer.
    pub(crate) answer_silence_max: Duration,
    /// How long an HTTP/1.1 client may pause within the body of an unguarded request.
    pub(crate) body_silence_max: Duration,
    /// Whether spans are exported.
    pub(crate) traces: bool,
    /// Whether it leads to the gateway of another region, which decides about the request.
    pub(crate) to_region: bool,
}

/// What is known of a request when its answer is made.
struct Asked {
    run: Option<Run>,
    method: Method,
}

impl Proxy {
    pub(crate) fn new(pool: Pool, rules: Rules) -> Self {
        Self(Arc::new(Inner { pool, rules }))
    }
}

impl Service<Request<GuardedBody<Arriving>>> for Proxy {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<GuardedBody<Arriving>>) -> Self::Future {
        let inner = self.0.clone();
        Box::pin(async move { Ok(inner.answer(request).await) })
    }
}

impl Inner {
    async fn answer(&self, request: Request<GuardedBody<Arriving>>) -> Response<Answer> {
        let (mut parts, body) = request.into_parts();
        let run = parts.extensions.remove::<Run>();
        // The body of a guarded request is held until the end of this.
        let share = parts.extensions.remove::<Share>();
        if let (None, Some(share), false) = (&run, &share, self.rules.to_region) {
            share.pass();
        }
        let asked = Asked { run, method: parts.method.clone() };
        // Only an unguarded request may upgrade its connection.
        let upgrade = if asked.run.is_none() { wanted_upgrade(&mut parts) } else { None };
        let silence_max = self.body_silence_max(&asked, &parts);
        self.rules.write_head(&mut parts);
        if let Some((protocol, _)) = &upgrade {
            upgrade::ask(&mut parts.headers, protocol);
        }
        let takes_trailers = parts.extensions.remove::<TakesTrailers>();
        parts.extensions = http::Extensions::new();
        if let Some(takes_trailers) = takes_trailers {
            parts.extensions.insert(takes_trailers);
        }
        let span = if self.rules.traces { trace::upstream(&parts.method, &mut parts.headers) } else { Span::none() };
        let (body, progress) = Outgoing::new(body, silence_max);
        let sent = self.pool.send(Request::from_parts(parts, body), &progress).instrument(span.clone()).await;
        match &sent {
            Ok((response, _)) => trace::answered(&span, response),
            Err(_) => drop(span.record("otel.status_code", "ERROR")),
        }
        drop(span);
        match sent {
            Ok((response, lent)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => match upgrade {
                Some((protocol, client)) => upgrade::switch(response, &protocol, client, lent),
                None => self.failed(&asked, "the upstream switched protocols, which nobody had asked for"),
            },
            Ok((response, lent)) => self.pass_back(&asked, response, lent).await,
            Err(failure) => self.without_answer(&asked, &failure, &progress),
        }
    }

    /// How long the client may pause within the body. The layer has already read the body of a guarded request. Over
    /// HTTP/2 there is no limit: it may be a gRPC call with long pauses, and the connection is checked by pings.
    fn body_silence_max(&self, asked: &Asked, parts: &Parts) -> Option<Duration> {
        (asked.run.is_none() && parts.version < Version::HTTP_2).then_some(self.rules.body_silence_max)
    }

    async fn pass_back(&self, asked: &Asked, response: Response<Incoming>, lent: Lent) -> Response<Answer> {
        let (mut parts, body) = response.into_parts();
        let length_of_other = asked.method == Method::HEAD || parts.status == StatusCode::NOT_MODIFIED;
        headers::end_hop(&mut parts.headers);
        if !length_of_other {
            // hyper writes the length of the body that it gets.
            parts.headers.remove(CONTENT_LENGTH);
        }
        let silence_max = (!may_be_silent(&parts.headers)).then_some(self.rules.answer_silence_max);
        let body = FromUpstream::new(body, lent, silence_max);
        let answer = if (asked.run.is_some() || self.rules.to_region) && !is_event_stream(&parts.headers) {
            match Answer::read_ahead(body, self.rules.ahead).await {
                Ok(answer) => answer,
                Err(BrokeOff::Silent) => return self.timed_out(asked),
                Err(error @ BrokeOff::Off(_)) => return self.failed(asked, &error.to_string()),
            }
        } else {
            Answer::streamed(body)
        };
        let mut passed = Response::new(answer);
        *passed.status_mut() = parts.status;
        *passed.headers_mut() = parts.headers;
        passed
    }

    fn without_answer(&self, asked: &Asked, failure: &Failure, progress: &Progress) -> Response<Answer> {
        match (failure, progress.broke()) {
            // Only a body that is being streamed can break, so the request is not guarded.
            (_, Some(Broke::Silent)) => keylatch::http::Problem::BodyTooSlow.response().map(Answer::whole),
            (_, Some(Broke::Off)) => keylatch::http::Problem::BodyIncomplete.response().map(Answer::whole),
            (Failure::NotSent(why), None) => {
                tracing::warn!(why, "a request could not be sent to the upstream");
                self.own(asked, Problem::Unreachable, asked.nothing_sent())
            }
            (Failure::Sent(error), None) => self.failed(asked, &described(error)),
            (Failure::TimedOut, None) => self.timed_out(asked),
        }
    }

    fn failed(&self, asked: &Asked, why: &str) -> Response<Answer> {
        tracing::warn!(why, "the upstream did not answer");
        self.own(asked, Problem::Failed { retryable: self.is_retryable(asked) }, self.perhaps_done())
    }

    fn timed_out(&self, asked: &Asked) -> Response<Answer> {
        tracing::warn!("the upstream did not answer in time");
        self.own(asked, Problem::TimedOut { retryable: self.is_retryable(asked) }, self.perhaps_done())
    }

    fn own(&self, asked: &Asked, problem: Problem, disposition: Disposition) -> Response<Answer> {
        if self.rules.to_region {
            let home = match problem {
                Problem::Unreachable => keylatch::http::Problem::HomeUnreachable,
                _ => keylatch::http::Problem::HomeSilent,
            };
            return home.response().map(Answer::whole);
        }
        metrics::counter!("keylatch_gateway_upstream_failures_total", "code" => problem.code()).increment(1);
        let mut response = problem.response().map(Answer::whole);
        if asked.run.is_some() {
            response.extensions_mut().insert(disposition);
        }
        response
    }

    /// The disposition of a guarded request that was sent and has no complete answer.
    fn perhaps_done(&self) -> Disposition {
        match self.rules.guarantee {
            Guarantee::AtMostOnce => Disposition::Unknown,
            Guarantee::Fenced | Guarantee::Atomic => Disposition::Retry,
        }
    }

    fn is_retryable(&self, asked: &Asked) -> bool {
        if asked.run.is_some() { self.rules.guarantee != Guarantee::AtMostOnce } else { asked.method.is_idempotent() }
    }
}

impl Asked {
    /// The disposition if nothing was sent. It cannot say that earlier attempts had no effect.
    fn nothing_sent(&self) -> Disposition {
        match &self.run {
            Some(run) if run.attempt() > 1 => Disposition::Retry,
            _ => Disposition::Free,
        }
    }
}

impl Rules {
    /// Writes the head of a request as the upstream gets it.
    fn write_head(&self, parts: &mut Parts) {
        let headers = &mut parts.headers;
        // hyper itself sends `100 Continue` when it is due, and writes the framing of the body that it gets.
        headers.remove(EXPECT);
        headers.remove(CONTENT_LENGTH);
        if let Some(host) = &self.host {
            headers.insert(HOST, host.clone());
        }
        parts.version = Version::HTTP_11;
    }
}

/// The protocol that the client asks to upgrade to, and its end of the connection.
fn wanted_upgrade(parts: &mut Parts) -> Option<(HeaderValue, OnUpgrade)> {
    let WantsUpgrade(protocol) = parts.extensions.remove()?;
    Some((protocol, parts.extensions.remove::<OnUpgrade>()?))
}

/// An event stream has no end to wait for.
fn is_event_stream(headers: &HeaderMap) -> bool {
    has_type(headers, "text/event-stream")
}

/// Whether an answer of this type may be silent for long.
fn may_be_silent(headers: &HeaderMap) -> bool {
    is_event_stream(headers) || has_type(headers, "application/grpc")
}

fn has_type(headers: &HeaderMap, wanted: &str) -> bool {
    let given = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    given.get(..wanted.len()).is_some_and(|start| start.eq_ignore_ascii_case(wanted.as_bytes()))
}

/// A hyper error with its cause. Neither contains bytes of the request.
fn described(error: &hyper::Error) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}
