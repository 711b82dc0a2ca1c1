//! One function per invariant. Each looks at one key only.

use std::collections::BTreeMap;

use super::story::{Complete, Effect, Final, Story};
use super::{Invariant, Violation};
use crate::{Event, Guarantee, Reply};

/// Adds every violation in `story`.
pub(super) fn all(story: &Story<'_>, guarantee: Guarantee, violations: &mut Vec<Violation>) {
    let mut report = |invariant, why, events: Vec<&Event>| {
        let mut events: Vec<_> = events.into_iter().cloned().collect();
        events.sort_by_key(|event| event.at);
        violations.push(Violation { invariant, why, events });
    };
    one_effect(story, guarantee, &mut report);
    one_answer(story, &mut report);
    effect_before_answer(story, &mut report);
    answer_for_good(story, guarantee, &mut report);
    late_owner_changes_nothing(story, &mut report);
    claim_before_start(story, guarantee, &mut report);
    one_request(story, &mut report);
}

/// Adds a violation.
trait Report<'h>: FnMut(Invariant, &'static str, Vec<&'h Event>) {}
impl<'h, F: FnMut(Invariant, &'static str, Vec<&'h Event>)> Report<'h> for F {}

fn one_effect<'h>(story: &Story<'h>, guarantee: Guarantee, report: &mut impl Report<'h>) {
    let effects = || story.effects.iter().map(|effect| effect.event).collect();
    if story.effects.len() > 1 {
        report(Invariant::I1, "more than one effect under one key", effects());
    }
    if !story.effects.is_empty() && story.calls.is_empty() {
        report(Invariant::I1, "an effect that nobody asked for", effects());
    }
    if guarantee == Guarantee::AtMostOnce && story.starts.len() > 1 {
        let starts = story.starts.iter().map(|(event, _)| *event).collect();
        report(Invariant::I1, "started more than once in AtMostOnce", starts);
    }
    let first = story.starts.first().map(|(event, _)| &event.region);
    if let Some((elsewhere, _)) = story.starts.iter().find(|(event, _)| Some(&event.region) != first) {
        report(Invariant::I1, "started in two regions", vec![story.starts[0].0, elsewhere]);
    }
}

fn one_answer<'h>(story: &Story<'h>, report: &mut impl Report<'h>) {
    let mut first: BTreeMap<&str, Final<'h>> = BTreeMap::new();
    for answered in story.finals() {
        let first = first.entry(answered.request).or_insert(answered);
        if !answered.answer.agrees_with(first.answer) {
            report(Invariant::I2, "two final answers to one request differ", vec![first.event, answered.event]);
        }
    }
}

/// A success, or an answer that names its effect, needs that effect, and the effect must come first. (A refusal has
/// none.) One proof per key is enough: its other answers fail for the same reason.
fn effect_before_answer<'h>(story: &Story<'h>, report: &mut impl Report<'h>) {
    for Final { event, answer, .. } in story.finals() {
        let success = (200..300).contains(&answer.status);
        if !success && answer.effect.is_none() {
            continue;
        }
        let its_own = |effect: &&Effect<'_>| answer.effect.as_deref().is_none_or(|name| name == effect.name);
        match story.effects.iter().find(its_own) {
            None => {
                let mut proof: Vec<_> = story.effects.iter().map(|effect| effect.event).collect();
                proof.push(event);
                report(Invariant::I3, "an answer whose effect is not there", proof);
                return;
            }
            Some(effect) if effect.timed && effect.event.at > event.at => {
                report(Invariant::I3, "an answer before its effect", vec![event, effect.event]);
                return;
            }
            Some(_) => {}
        }
    }
}

/// After the first final answer: the same answer, or none for now; and no run.
fn answer_for_good<'h>(story: &Story<'h>, guarantee: Guarantee, report: &mut impl Report<'h>) {
    let mut acknowledged: BTreeMap<&str, &Event> = BTreeMap::new();
    for Final { request, event, .. } in story.finals() {
        let first = acknowledged.entry(request).or_insert(event);
        if event.at < first.at {
            *first = event;
        }
    }
    for call in &story.calls {
        let Some(first) = acknowledged.get(call.request).filter(|first| first.at < call.invoke.at) else { continue };
        let Some((event, reply)) = call.reply else { continue };
        let why = match reply {
            Reply::Final(answer) if answer.replayed => continue,
            Reply::Final(_) => "after the final answer, the same request was run again",
            // The store or the home may be unreachable, or limits may be reached: such replies say nothing about the outcome.
            Reply::Nothing | Reply::Refused { status: 429 | 503 | 504, .. } => continue,
            Reply::Refused { .. } => "after the final answer, the same request was refused",
            Reply::Failed { .. } => "after the final answer, the same request failed",
        };
        report(Invariant::I4, why, vec![first, call.invoke, event]);
    }
    // In `Atomic` the claim comes with the first write: a second start may be running, and cannot commit.
    let first = acknowledged.values().min_by_key(|event| event.at);
    if let Some(first) = first.filter(|_| guarantee != Guarantee::Atomic) {
        for (start, _) in story.starts.iter().filter(|(start, _)| start.at > first.at) {
            report(Invariant::I4, "a handler started after the final answer", vec![first, start]);
        }
    }
}

fn late_owner_changes_nothing<'h>(story: &Story<'h>, report: &mut impl Report<'h>) {
    let applied: Vec<_> = story.completes.iter().filter(|complete| complete.applied).collect();
    if applied.len() > 1 {
        let proof = applied.iter().map(|complete| complete.event).collect();
        report(Invariant::I5, "more than one run wrote its outcome", proof);
    }
    let newest = story.claims.iter().max_by_key(|claim| claim.epoch);
    for Complete { event, epoch, .. } in applied {
        if let Some(newest) = newest.filter(|newest| newest.epoch > *epoch) {
            report(Invariant::I5, "a late owner wrote its outcome", vec![newest.event, event]);
        }
    }
    for (place, earlier) in story.claims.iter().enumerate() {
        for later in &story.claims[place + 1..] {
            if later.epoch == earlier.epoch {
                report(Invariant::I5, "one epoch was granted twice", vec![earlier.event, later.event]);
            } else if later.epoch < earlier.epoch && later.asked_at > earlier.event.at {
                report(Invariant::I5, "an epoch went back", vec![earlier.event, later.event]);
            }
        }
    }
    let mut by_epoch: BTreeMap<u64, &Event> = BTreeMap::new();
    for effect in &story.effects {
        let Some(epoch) = effect.epoch else { continue };
        if let Some(first) = by_epoch.insert(epoch, effect.event) {
            report(Invariant::I5, "two effects with one epoch", vec![first, effect.event]);
        }
    }
}

/// On a lease, each start has its own claim: one that was granted before; or, where claims are not seen, a record whose
/// epoch is at least as high.
fn claim_before_start<'h>(story: &Story<'h>, guarantee: Guarantee, report: &mut impl Report<'h>) {
    if guarantee == Guarantee::Atomic {
        return;
    }
    let mut started: BTreeMap<u64, &Event> = BTreeMap::new();
    for (start, epoch) in &story.starts {
        let Some(epoch) = *epoch else {
            report(Invariant::I6, "a start without an epoch", vec![start]);
            continue;
        };
        let claimed = story.claims.iter().any(|claim| claim.epoch == epoch && claim.event.at <= start.at);
        let recorded = story.records.iter().any(|(_, recorded)| *recorded >= epoch);
        if !claimed && !recorded {
            let mut proof: Vec<_> = story.claims.iter().map(|claim| claim.event).collect();
            proof.push(start);
            report(Invariant::I6, "a start without a durable claim before it", proof);
        }
        if let Some(first) = started.insert(epoch, start) {
            report(Invariant::I6, "two starts on one claim", vec![first, start]);
        }
    }
}

fn one_request<'h>(story: &Story<'h>, report: &mut impl Report<'h>) {
    let Some(first) = story.finals().min_by_key(|answered| answered.event.at) else { return };
    for other in story.finals().filter(|other| other.request != first.request) {
        report(
            Invariant::I7,
            "two different requests have a final answer under one key",
            vec![first.event, other.event],
        );
    }
}
