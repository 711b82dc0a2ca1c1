//! The steps of a run: what is recorded, and what is under way.

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::STEPS_MAX;

/// The steps of one run.
pub(super) struct Steps {
    list: Mutex<List>,
    /// Told whenever a step that was under way is over.
    over: Notify,
}

struct List {
    /// Results of the finished steps of this and of earlier attempts, by name.
    noted: Vec<(String, Bytes)>,
    /// The names of those under way.
    under_way: Vec<String>,
    /// Whether one was ever under way.
    any_begun: bool,
}

/// What a call for a step leads to.
pub(super) enum Begun<'s> {
    /// It was done before, with this result.
    Noted(Bytes),
    /// The run has too many steps.
    TooMany,
    /// Nobody else does it.
    Place(Place<'s>),
}

/// The step of a name, under way until this is dropped.
pub(super) struct Place<'s> {
    steps: &'s Steps,
    name: &'s str,
}

impl Steps {
    /// Those of earlier attempts.
    pub(super) fn new(noted: Vec<(String, Bytes)>) -> Self {
        Self { list: Mutex::new(List { noted, under_way: Vec::new(), any_begun: false }), over: Notify::new() }
    }

    /// Whether a step has begun, in this attempt or an earlier one: then it may have had its effect, also if it failed.
    #[cfg(feature = "http")]
    pub(super) fn any_begun(&self) -> bool {
        let list = self.list.lock();
        list.any_begun || !list.noted.is_empty()
    }

    /// Begins the step of `name`, once nobody else is at it.
    pub(super) async fn begin<'s>(&'s self, name: &'s str) -> Begun<'s> {
        loop {
            // Before the look, so that no end between the two is missed.
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
    /// Notes the result, which is recorded.
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
