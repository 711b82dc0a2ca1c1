//! The events of one key, sorted by kind.

use std::collections::BTreeMap;

use crate::{Answer, Event, Reply, What};

/// Everything that happened to one (scope, key), each list in the order of time.
pub(super) struct Story<'h> {
    pub(super) calls: Vec<Call<'h>>,
    pub(super) claims: Vec<Claim<'h>>,
    pub(super) starts: Vec<(&'h Event, Option<u64>)>,
    pub(super) effects: Vec<Effect<'h>>,
    pub(super) completes: Vec<Complete<'h>>,
    pub(super) records: Vec<(&'h Event, u64)>,
}

/// A request, and how it ended.
pub(super) struct Call<'h> {
    pub(super) invoke: &'h Event,
    pub(super) request: &'h str,
    pub(super) reply: Option<(&'h Event, &'h Reply)>,
}

pub(super) struct Claim<'h> {
    pub(super) event: &'h Event,
    pub(super) epoch: u64,
    pub(super) asked_at: u64,
}

pub(super) struct Effect<'h> {
    pub(super) event: &'h Event,
    pub(super) name: &'h str,
    pub(super) epoch: Option<u64>,
    /// Whether the event's instant is the effect's.
    pub(super) timed: bool,
}

pub(super) struct Complete<'h> {
    pub(super) event: &'h Event,
    pub(super) epoch: u64,
    pub(super) applied: bool,
}

/// A request with its final answer.
#[derive(Clone, Copy)]
pub(super) struct Final<'h> {
    pub(super) request: &'h str,
    pub(super) event: &'h Event,
    pub(super) answer: &'h Answer,
}

impl<'h> Story<'h> {
    pub(super) fn read(events: &[&'h Event]) -> Self {
        let mut story = Self {
            calls: Vec::new(),
            claims: Vec::new(),
            starts: Vec::new(),
            effects: Vec::new(),
            completes: Vec::new(),
            records: Vec::new(),
        };
        let mut places = BTreeMap::new();
        for event in events {
            match &event.what {
                What::Invoke { call, request } => {
                    let twice = places.insert(*call, story.calls.len());
                    assert!(twice.is_none(), "the history is damaged: two requests with the number {call}");
                    story.calls.push(Call { invoke: event, request, reply: None });
                }
                What::Reply { call, reply } => {
                    let place = places.get(call).copied();
                    let place = place.unwrap_or_else(|| panic!("the history is damaged: no request for {event:?}"));
                    let twice = story.calls[place].reply.replace((event, reply));
                    assert!(twice.is_none(), "the history is damaged: two replies to the request {call}");
                }
                What::Claim { epoch, asked_at } => {
                    story.claims.push(Claim { event, epoch: *epoch, asked_at: *asked_at });
                }
                What::Start { epoch } => story.starts.push((event, *epoch)),
                What::Effect { effect, epoch } => {
                    story.effects.push(Effect { event, name: effect, epoch: *epoch, timed: true });
                }
                What::Found { effect } => story.effects.push(Effect { event, name: effect, epoch: None, timed: false }),
                What::Complete { epoch, applied } => {
                    story.completes.push(Complete { event, epoch: *epoch, applied: *applied });
                }
                What::Record { epoch } => story.records.push((event, *epoch)),
            }
        }
        story
    }

    /// The final answers, in the order of the requests.
    pub(super) fn finals(&self) -> impl Iterator<Item = Final<'h>> {
        self.calls.iter().filter_map(|call| match call.reply {
            Some((event, Reply::Final(answer))) => Some(Final { request: call.request, event, answer }),
            _ => None,
        })
    }
}
