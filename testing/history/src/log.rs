//! The log of what the clients of a test see.

use std::sync::Arc;

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

use crate::{Event, Reply, What};

/// The shared log of the clients of one test.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    calls: u64,
    open: usize,
    events: Vec<Event>,
}

impl Log {
    /// Notes that a request is about to be sent.
    #[must_use = "a request without its reply counts as lost"]
    pub fn invoke(&self, scope: &str, key: &str, request: &str) -> Call {
        let mut inner = self.0.lock();
        inner.calls += 1;
        inner.open += 1;
        let call = inner.calls;
        let what = What::Invoke { call, request: request.to_owned() };
        inner.events.push(Event::now(scope, key, what));
        Call { log: self.clone(), scope: scope.to_owned(), key: key.to_owned(), call }
    }

    /// Notes any other event.
    pub fn note(&self, scope: &str, key: &str, what: What) {
        // The instant is read under the lock: the order of the log is the order of its instants.
        let mut inner = self.0.lock();
        inner.events.push(Event::now(scope, key, what));
    }

    /// Requests that have no reply so far.
    pub fn open_calls(&self) -> usize {
        self.0.lock().open
    }

    /// All events so far.
    pub fn events(&self) -> Vec<Event> {
        self.0.lock().events.clone()
    }
}

/// A request without a reply so far.
#[derive(Debug)]
pub struct Call {
    log: Log,
    scope: String,
    key: String,
    call: u64,
}

impl Call {
    /// Notes its reply.
    pub fn reply(self, reply: Reply) {
        self.log.0.lock().open -= 1;
        self.log.note(&self.scope, &self.key, What::Reply { call: self.call, reply });
    }
}

impl Event {
    /// An event that happens now.
    pub fn now(scope: &str, key: &str, what: What) -> Self {
        Self { at: monotonic_ns(), scope: scope.to_owned(), key: key.to_owned(), what, region: None }
    }

    /// The same, in a region.
    #[must_use]
    pub fn in_region(self, region: Option<&str>) -> Self {
        Self { region: region.map(str::to_owned), ..self }
    }
}

/// The clock of all events: nanoseconds since the machine started, the same in all processes.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec))
        .expect("the clock counts upwards from zero")
}
