//! The steps of a run: finished and running.

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::STEPS_MAX;

/// The steps of one run.
pub(super) struct Steps {
    list: Mutex<List>,
    /// Notified whenever a running step ends.
    over: Notify,
}

struct List {
    /// Results of the finished steps of this and of earlier attempts, by name.
    noted: Vec<(String, Bytes)>,
    /// The names of running steps.
    under_way: Vec<String>,
    /// Whether a step ever ran.
    any_begun: bool,
}

/// What a call for a step leads to.
pub(super) enum Begun<'s> {
    /// It was done before, with this result.
    Noted(Bytes),
    /// The run has too many steps.
    TooMany,
    /// The caller may do it: nobody else does.
    Place(Place<'s>),
}

/// A running step, until this is dropped.
pub(super) struct Place<'s> {
    steps: &'s Steps,
    name: &'s str,
}

impl Steps {
    /// The steps of earlier attempts.
    pub(super) fn new(noted: Vec<(String, Bytes)>) -> Self {
        Self { list: Mutex::new(List { noted, under_way: Vec::new(), any_begun: false }), over: Notify::new() }
    }

    /// Whether a step has begun, in this attempt or an earlier one: then it may have had an effect, even if it failed.
    #[cfg(feature = "http")]
    pub(super) fn any_begun(&self) -> bool {
        let list = self.list.lock();
        list.any_begun || !list.noted.is_empty()
    }

    /// Begins the step `name`, once nobody else is running it.
    pub(super) async fn begin<'s>(&'s self, name: &'s str) -> Begun<'s> {
        loop {
            // Before the check, so that no end in between is missed.
            let over = self.over.notified();
            {
                let mut list = self.list.lock();
                if let Some((_, result)) = list.noted.iter().find(|(noted, _)| noted == name) {
                    return Begun::Noted(result.clone());
                }
                if !list.under_way.iter().any(|other| other == name) {
                    if list.noted.len() + list.under_way.len() >= STEPS_MAX {
                        return Begun::TooMany;
                    }
                    list.under_way.push(name.to_owned());
                    list.any_begun = true;
                    return Begun::Place(Place { steps: self, name });
                }
            }
            over.await;
        }
    }
}

impl Place<'_> {
    /// Notes the recorded result.
    pub(super) fn note(self, result: Bytes) {
        let mut list = self.steps.list.lock();
        list.under_way.retain(|name| name != self.name);
        list.noted.push((self.name.to_owned(), result));
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.steps.list.lock().under_way.retain(|name| name != self.name);
        self.steps.over.notify_waiters();
    }
}
