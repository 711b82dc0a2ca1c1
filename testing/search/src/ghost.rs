//! What an omniscient observer remembers, and the invariants.
//!
//! The observer sees every write as it happens, and computes from the policy alone what must hold. It does not read the
//! instants that the machine wrote into the record.

use std::fmt;

use keylatch::machine::Decision;
use keylatch::{Epoch, Guarantee, Timestamp};

use crate::config::{Config, Resource};
use crate::state::{Attempt, Ending, OPERATOR, is_same, maker, millis};

/// What an observer remembers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ghost {
    /// The latest outcome that was written.
    answer: Option<Final>,
    /// The request that has the key, and until when.
    bound: Option<Bound>,
    /// The latest effect.
    effect: Option<Effect>,
    /// `AtMostOnce`: a handler was started, and its owner has not said that nothing happened.
    started: bool,
    /// A handler said that its outcome is not known.
    said_unknown: bool,
    /// When the lease of the latest run ends.
    lease_ends_at: Option<Timestamp>,
    /// The epoch of the latest claim, and until when no claim may have a lower one.
    epoch: Option<(Epoch, Until)>,
    /// The owners whose claims were written, one bit each.
    granted: u16,
}

#[derive(Debug, Clone, Copy)]
struct Final {
    same: bool,
    outcome: u8,
    at: Timestamp,
    /// An operator has taken it away.
    forgotten: bool,
}

#[derive(Debug, Clone, Copy)]
struct Bound {
    same: bool,
    until: Until,
}

#[derive(Debug, Clone, Copy)]
struct Effect {
    same: bool,
    owner: u8,
    epoch: Epoch,
    until: Until,
}

/// An instant, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Until(Option<Timestamp>);

impl Until {
    fn is_past(self, now: Timestamp) -> bool {
        self.0.is_some_and(|until| until <= now)
    }
}

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its name in docs/ARCHITECTURE.md.
    pub invariant: &'static str,
    /// What happened.
    pub what: &'static str,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

type Checked<T = ()> = Result<T, Violation>;

fn check(holds: bool, invariant: &'static str, what: &'static str) -> Checked {
    if holds { Ok(()) } else { Err(Violation { invariant, what }) }
}

impl Ghost {
    /// A claim was written that was not there before.
    pub fn claimed(&mut self, request: u8, owner: u8, epoch: Epoch, now: Timestamp, config: &Config) -> Checked {
        let same = is_same(request);
        check(!self.is_remembered(now, config), "I4", "a key is claimed anew before its tombstone has ended")?;
        let bound = self.bound(now);
        check(bound.is_none_or(|bound| bound.same == same), "I7", "another request has claimed a key that is held")?;
        let effect = self.effect(now);
        check(effect.is_none_or(|effect| effect.same == same), "I1", "another request runs after an effect")?;
        if self.answer.is_some() {
            // Its tombstone has ended: this is a new start.
            self.started = false;
        }
        self.said_unknown = false;
        let known = self.epoch.filter(|(_, until)| !until.is_past(now));
        check(known.is_none_or(|(latest, _)| epoch >= latest), "I5", "a claim has a lower epoch than the one before")?;
        self.epoch = Some((epoch, held_until(now, config)));
        self.bound = Some(Bound { same, until: held_until(now, config) });
        self.lease_ends_at = Some(now + config.policy.lease);
        self.granted |= 1 << owner;
        Ok(())
    }

    /// A lease was renewed.
    pub fn renewed(&mut self, now: Timestamp, config: &Config) {
        self.lease_ends_at = Some(now + config.policy.lease);
        if let Some(bound) = &mut self.bound {
            bound.until = held_until(now, config);
        }
        self.keep_epoch(held_until(now, config));
    }

    /// An outcome was written that was not there before.
    pub fn completed(&mut self, same: bool, outcome: u8, now: Timestamp, config: &Config) -> Checked {
        check(!self.is_remembered(now, config), "I2", "an outcome takes the place of another")?;
        if let (Resource::Epoch, Some(row), true) = (config.resource, self.effect(now), outcome != OPERATOR) {
            check(row.owner == outcome, "I1", "the effect that stands is not that of the outcome")?;
        }
        let until = Until(Some(now + config.keep()));
        self.answer = Some(Final { same, outcome, at: now, forgotten: false });
        self.bound = Some(Bound { same, until });
        self.keep_epoch(until);
        self.protect_effect(until, now);
        Ok(())
    }

    /// A resolution is written.
    pub fn resolved(&self, now: Timestamp) -> Checked {
        check(self.lease_ends_at.is_none_or(|end| end <= now), "I5", "a resolution ends a run that is under way")
    }

    /// An operator has taken an answer away.
    pub fn forgotten(&mut self) -> Checked {
        let Some(answer) = &mut self.answer else { return check(false, "I5", "a run is forgotten that has no answer") };
        answer.forgotten = true;
        Ok(())
    }

    /// A run was ended without an outcome.
    pub fn released(&mut self, end: Ending, now: Timestamp, config: &Config) {
        self.lease_ends_at = None;
        if !self.is_remembered(now, config) {
            self.keep_epoch(Until((end != Ending::Unknown).then(|| now + config.keep())));
        }
        match end {
            Ending::Free => {
                self.bound = None;
                self.started = false;
            }
            Ending::Retry => {
                let until = Until(Some(now + config.keep()));
                self.protect_effect(until, now);
                self.hold(until);
            }
            Ending::Unknown => {
                self.said_unknown = true;
                self.hold(Until(None));
            }
        }
    }

    fn keep_epoch(&mut self, until: Until) {
        if let Some((_, kept)) = &mut self.epoch {
            *kept = until;
        }
    }

    fn hold(&mut self, until: Until) {
        if let Some(bound) = &mut self.bound {
            bound.until = until;
        }
    }

    /// The effect of the run that ends is protected as long as its key is held.
    fn protect_effect(&mut self, until: Until, now: Timestamp) {
        let same = self.bound.map(|bound| bound.same);
        if let Some(effect) = self.effect(now).filter(|effect| Some(effect.same) == same) {
            self.effect = Some(Effect { until, ..effect });
        }
    }

    /// An answer is removed from the store.
    pub fn tombstoned(&self, now: Timestamp, config: &Config) -> Checked {
        let expired = self.answer.is_none_or(|answer| answer.at + config.policy.retention <= now);
        check(expired, "I12", "an answer is swept before its retention has ended")
    }

    /// A record is removed from the store.
    pub fn removed(&mut self, now: Timestamp, config: &Config) -> Checked {
        check(self.bound(now).is_none(), "I12", "a record is swept while a request has the key")?;
        check(!self.is_remembered(now, config), "I12", "a record is swept before its tombstone has ended")?;
        self.bound = None;
        Ok(())
    }

    /// A handler starts.
    pub fn starts(&mut self, attempt: &Attempt, config: &Config) -> Checked {
        check(self.has_granted(attempt.owner), "I6", "a handler starts before its claim is in the store")?;
        if config.guarantee == Guarantee::AtMostOnce {
            check(!self.started, "I1", "a second handler starts")?;
            self.started = true;
        }
        Ok(())
    }

    /// A handler calls its resource; `false` if the resource refuses.
    pub fn takes_effect(&mut self, attempt: &Attempt, now: Timestamp, config: &Config) -> Checked<bool> {
        let same = is_same(attempt.request);
        let before = self.effect(now);
        match config.resource {
            Resource::Plain => check(before.is_none(), "I1", "a second effect")?,
            Resource::DerivedKey if before.is_some() => return Ok(before.is_some_and(|effect| effect.same == same)),
            Resource::DerivedKey => {}
            Resource::Epoch if before.is_some_and(|row| row.epoch > attempt.epoch) => return Ok(false),
            Resource::Epoch => {
                let theirs = self.answer.filter(|_| self.is_remembered(now, config));
                let stands = theirs.is_none_or(|answer| answer.outcome == attempt.owner);
                check(stands, "I1", "a late effect takes the place of the answer's")?;
            }
        }
        let until = self.bound(now).filter(|bound| bound.same == same).map_or(Until(Some(now)), |bound| bound.until);
        self.effect = Some(Effect { same, owner: attempt.owner, epoch: attempt.epoch, until });
        Ok(true)
    }

    /// A transaction commits its handler's writes.
    pub fn commits_effect(&mut self, request: u8, owner: u8, now: Timestamp, config: &Config) -> Checked {
        check(self.effect(now).is_none(), "I1", "a second effect is committed")?;
        let until = Until(Some(now + config.keep()));
        self.effect = Some(Effect { same: is_same(request), owner, epoch: Epoch::FIRST, until });
        Ok(())
    }

    /// A request gets a final answer.
    pub fn answers(&self, request: u8, outcome: u8) -> Checked {
        let Some(answer) = self.answer else { return check(false, "I3", "an answer is not in the store") };
        check(answer.same == is_same(request), "I7", "a request gets another request's answer")?;
        check(answer.outcome == outcome, "I2", "two final answers differ")
    }

    /// A request gets its decision.
    pub fn decides(&self, request: u8, decision: &Decision<'_>, now: Timestamp, config: &Config) -> Checked {
        let same = is_same(request);
        if self.bound(now).is_some_and(|bound| bound.same != same) {
            let refused = *decision == Decision::Mismatch;
            return check(refused, "I7", "another request is told more than that the key is held");
        }
        if let Some(answer) = self.answer.filter(|_| self.is_remembered(now, config)) {
            let kept = now < answer.at + config.policy.retention && !answer.forgotten;
            let right = match decision {
                Decision::Replay(outcome) => kept && maker(outcome) == answer.outcome,
                Decision::Expired => !kept,
                _ => false,
            };
            return check(right, "I4", "a request that has its answer gets something else");
        }
        match decision {
            Decision::Replay(_) => check(false, "I4", "a request gets an answer that nobody remembers"),
            _ => Ok(()),
        }
    }

    /// Whether this owner's claim was written.
    pub fn has_granted(&self, owner: u8) -> bool {
        self.granted & 1 << owner != 0
    }

    /// Whether a handler was started and has not said that nothing happened.
    pub fn has_started(&self) -> bool {
        self.started
    }

    /// Whether the handler of the latest run said that its outcome is not known.
    pub fn said_unknown(&self) -> bool {
        self.said_unknown
    }

    /// Whether the answer or its tombstone has not ended.
    fn is_remembered(&self, now: Timestamp, config: &Config) -> bool {
        self.answer.is_some_and(|answer| now < answer.at + config.keep())
    }

    fn bound(&self, now: Timestamp) -> Option<Bound> {
        self.bound.filter(|bound| !bound.until.is_past(now))
    }

    fn effect(&self, now: Timestamp) -> Option<Effect> {
        self.effect.filter(|effect| !effect.until.is_past(now))
    }

    /// Adds everything that affects later steps.
    pub(crate) fn encode(&self, now: Timestamp, config: &Config, bytes: &mut Vec<u8>, name: &mut dyn FnMut(u8) -> u8) {
        let left = |until: Until| until.0.map_or(u8::MAX, |until| millis(now.until(until)));
        match self.answer {
            None => bytes.push(0),
            Some(answer) => {
                let left = millis(now.until(answer.at + config.keep()));
                bytes.extend([1 + u8::from(answer.same) + 2 * u8::from(answer.forgotten), name(answer.outcome), left]);
            }
        }
        match self.bound(now) {
            None => bytes.push(0),
            Some(bound) => bytes.extend([1 + u8::from(bound.same), left(bound.until)]),
        }
        match self.effect(now) {
            None => bytes.push(0),
            Some(effect) => {
                let epoch = u8::try_from(effect.epoch.as_u64()).expect("few epochs");
                bytes.extend([1 + u8::from(effect.same), name(effect.owner), epoch, left(effect.until)]);
            }
        }
        match self.epoch.filter(|(_, until)| !until.is_past(now)) {
            None => bytes.push(0),
            Some((epoch, until)) => {
                bytes.extend([u8::try_from(epoch.as_u64()).expect("few epochs"), left(until)]);
            }
        }
        bytes.push(self.lease_ends_at.map_or(0, |end| millis(now.until(end))));
        bytes.push(u8::from(self.started) | u8::from(self.said_unknown) << 1);
    }
}

/// Until when a claim or a renewal holds the key for its request.
fn held_until(now: Timestamp, config: &Config) -> Until {
    match config.guarantee {
        Guarantee::AtMostOnce => Until(None),
        Guarantee::Atomic | Guarantee::Fenced => Until(Some(now + config.policy.lease + config.keep())),
    }
}
