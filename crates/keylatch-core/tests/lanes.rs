//! An exhaustive search over the bookkeeping of a consumer that finishes messages out of order: two members of a group read
//! one partition, with the real place and the real tracker. A member may die, lose a reply, or be taken over between any
//! two steps. Every state that can be reached is visited once.

use std::collections::{HashMap, HashSet, VecDeque};

use keylatch_core::inbox::{LastMessage, Ownership, Place, PlaceName, Step, Tracker, advance, give_back, take};
use keylatch_core::store::Owner;
use keylatch_core::{Fingerprint, Timestamp};

/// The offsets of the messages: the log has a gap.
const LOG: [i64; 2] = [0, 2];
/// Behind the last message.
const END: i64 = 4;
/// How many owners there are in all.
const TAKES_MAX: u8 = 4;
const MEMBERS: usize = 2;

/// Something that a consumer may get wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    /// The place follows the highest message that is done.
    HighestIsMark,
    /// A message is done when it starts.
    DoneAtStart,
    /// What was done above the mark is not looked up.
    RecordsIgnored,
    /// A new owner goes on where the member had read to before.
    ReadsOn,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    place: Option<Place>,
    /// How often each message took effect. Effect and record are one commit.
    effects: [u8; LOG.len()],
    takes: u8,
    members: [Member; MEMBERS],
}

/// A process, as far as it knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Member {
    owned: Option<Owned>,
    /// Where it had read to before, for a mistaken one.
    read_to: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Owned {
    ownership: Ownership,
    tracker: Tracker,
    /// For each message, how far it has come here.
    stages: [Stage; LOG.len()],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    Unread,
    Open,
    /// It has taken effect, or was known; the reply is on its way.
    Committed,
    Told,
}

#[derive(Debug, Clone, Copy)]
enum Action {
    /// It gets the partition, whether or not the other knows.
    Take,
    Read,
    /// It has read to the end of the log.
    ReachEnd,
    Commit(usize),
    Tell(usize),
    Advance {
        reply_is_lost: bool,
    },
    GiveBack,
    /// It dies, or drops what it has lost.
    Die,
}

const ACTIONS: [Action; 11] = [
    Action::Take,
    Action::Read,
    Action::ReachEnd,
    Action::Commit(0),
    Action::Commit(1),
    Action::Tell(0),
    Action::Tell(1),
    Action::Advance { reply_is_lost: false },
    Action::Advance { reply_is_lost: true },
    Action::GiveBack,
    Action::Die,
];

/// How often the interesting things happened.
#[derive(Debug, Default)]
struct Seen {
    states: usize,
    takeovers: usize,
    known: usize,
    fenced: usize,
    steps: usize,
    lost_replies: usize,
    out_of_order: usize,
}

const NOW: Timestamp = Timestamp::from_millis(0);

fn digest() -> Fingerprint {
    Fingerprint::of([b"message".as_slice()])
}

fn name() -> PlaceName {
    PlaceName::new("inventory", "orders", 0).unwrap()
}

/// What `action` of `member` leads to; `None` if it cannot do that now.
fn after(state: &State, member: usize, action: Action, bug: Option<Bug>, seen: &mut Seen) -> Option<State> {
    let mut next = state.clone();
    let acting = &mut next.members[member];
    match action {
        Action::Take => {
            if acting.owned.is_some() || state.takes == TAKES_MAX {
                return None;
            }
            let before = state.place.as_ref().is_some_and(|place| place.owner.is_some());
            seen.takeovers += usize::from(before);
            let owner = Owner::from_bytes([state.takes; 16]);
            let mut place = take(state.place.as_ref(), &name(), owner, NOW);
            let ownership = place.ownership().unwrap();
            if place.next.is_none() {
                let begin = Step { from: None, to: 0, last: None };
                place = advance(&place, &ownership, &begin, NOW).unwrap();
            }
            let from = place.next.unwrap();
            let from = if bug == Some(Bug::ReadsOn) { from.max(acting.read_to) } else { from };
            acting.owned = Some(Owned { ownership, tracker: Tracker::new(from), stages: [Stage::Unread; LOG.len()] });
            next.place = Some(place);
            next.takes += 1;
            return Some(next);
        }
        Action::Die => {
            acting.owned.take()?;
            return Some(next);
        }
        _ => {}
    }
    let read_to = &mut acting.read_to;
    let owned = acting.owned.as_mut()?;
    match action {
        Action::Read => {
            let at = LOG.iter().position(|offset| *offset >= owned.tracker.position())?;
            owned.tracker.read(LOG[at], digest()).unwrap();
            owned.stages[at] = Stage::Open;
            *read_to = owned.tracker.position();
            if bug == Some(Bug::DoneAtStart) {
                owned.tracker.done(LOG[at]);
            }
        }
        Action::ReachEnd => {
            let at_end = LOG.iter().all(|offset| *offset < owned.tracker.position());
            if !at_end || owned.tracker.position() == END {
                return None;
            }
            owned.tracker.skip_to(END);
        }
        Action::Commit(at) => {
            if owned.stages[at] != Stage::Open {
                return None;
            }
            owned.stages[at] = Stage::Committed;
            let is_known = next.effects[at] > 0;
            seen.known += usize::from(is_known);
            seen.out_of_order += usize::from(next.effects[..at].contains(&0));
            if !is_known || bug == Some(Bug::RecordsIgnored) {
                next.effects[at] += 1;
            }
        }
        Action::Tell(at) => {
            if owned.stages[at] != Stage::Committed {
                return None;
            }
            owned.stages[at] = Stage::Told;
            let was_open = owned.tracker.done(LOG[at]);
            assert!(was_open || bug == Some(Bug::DoneAtStart), "a message ends once");
        }
        Action::Advance { reply_is_lost } => {
            let mut step = owned.tracker.step();
            if bug == Some(Bug::HighestIsMark) {
                let highest = (0..LOG.len()).rev().find(|at| owned.stages[*at] == Stage::Told)?;
                let is_last_read = owned.stages[highest + 1..].iter().all(|stage| *stage == Stage::Unread);
                let to = if is_last_read { owned.tracker.position() } else { LOG[highest] + 1 };
                let last = Some(LastMessage { offset: LOG[highest], digest: digest() });
                let from = state.place.as_ref()?.next;
                step = (from < Some(to)).then_some(Step { from, to, last });
            }
            let step = step?;
            match advance(state.place.as_ref()?, &owned.ownership, &step, NOW) {
                Some(place) => {
                    seen.steps += 1;
                    seen.lost_replies += usize::from(reply_is_lost);
                    next.place = Some(place);
                    if !reply_is_lost {
                        owned.tracker.stepped(&step);
                    }
                }
                None => {
                    seen.fenced += 1;
                    acting.owned = None;
                }
            }
        }
        Action::GiveBack => {
            if owned.tracker.open() > 0 {
                return None;
            }
            if let Some(place) = give_back(state.place.as_ref()?, &owned.ownership, NOW) {
                next.place = Some(place);
            }
            acting.owned = None;
        }
        Action::Take | Action::Die => unreachable!("done above"),
    }
    Some(next)
}

/// What must be true in every state, and from one to the next.
fn breach(before: &State, state: &State) -> Option<&'static str> {
    if state.effects.iter().any(|effects| *effects > 1) {
        return Some("a message has two effects");
    }
    let next_of = |state: &State| state.place.as_ref().and_then(|place| place.next).unwrap_or(0);
    let next = next_of(state);
    if next < next_of(before) {
        return Some("the place went back");
    }
    let passed = || LOG.iter().zip(state.effects).filter(|(offset, _)| **offset < next);
    if passed().any(|(_, effects)| effects == 0) {
        return Some("the place has passed a message without an effect");
    }
    let last = state.place.as_ref().and_then(|place| place.last).map(|last| last.offset);
    if last != passed().map(|(offset, _)| *offset).next_back() {
        return Some("the place does not know the last message that it has passed");
    }
    None
}

/// Whether the first member, alone and undisturbed, brings the place to the end of the log.
fn ends(state: &State, bug: Option<Bug>) -> bool {
    let mut state = State { takes: TAKES_MAX - 1, ..state.clone() };
    state.members[0].owned = None;
    let mut seen = Seen::default();
    let undisturbed = ACTIONS.iter().filter(|action| !matches!(action, Action::Die | Action::GiveBack));
    let undisturbed: Vec<_> =
        undisturbed.filter(|action| !matches!(action, Action::Advance { reply_is_lost: true })).collect();
    while let Some(next) = undisturbed.iter().find_map(|action| after(&state, 0, **action, bug, &mut seen)) {
        state = next;
    }
    state.place.and_then(|place| place.next) == Some(END) && !state.effects.contains(&0)
}

/// Visits every state; the first breach, and the way there, is an error.
fn search(bug: Option<Bug>) -> Result<Seen, String> {
    let start = State { place: None, effects: [0; LOG.len()], takes: 0, members: Default::default() };
    let mut came_by: HashMap<State, Option<(State, usize, Action)>> = HashMap::from([(start.clone(), None)]);
    let mut frontier = VecDeque::from([start]);
    let mut settled = HashSet::new();
    let mut seen = Seen::default();
    while let Some(state) = frontier.pop_front() {
        for member in 0..MEMBERS {
            for action in ACTIONS {
                let Some(next) = after(&state, member, action, bug, &mut seen) else { continue };
                let mut breach = breach(&state, &next);
                let found = (next.place.clone(), next.effects, next.members[0].read_to);
                if breach.is_none() && settled.insert(found) && !ends(&next, bug) {
                    breach = Some("a message is neither applied nor found again");
                }
                if let Some(breach) = breach {
                    let mut way = vec![(member, action)];
                    let mut at = &state;
                    while let Some(Some((before, member, action))) = came_by.get(at) {
                        way.push((*member, *action));
                        at = before;
                    }
                    way.reverse();
                    return Err(format!("{breach}, after {way:?}"));
                }
                if !came_by.contains_key(&next) {
                    came_by.insert(next.clone(), Some((state.clone(), member, action)));
                    frontier.push_back(next);
                }
            }
        }
    }
    seen.states = came_by.len();
    Ok(seen)
}

#[test]
fn i14_lanes_apply_each_message_once_whoever_dies() {
    let seen = search(None).unwrap_or_else(|breach| panic!("{breach}"));
    eprintln!("{seen:?}");
    let Seen { states, takeovers, known, fenced, steps, lost_replies, out_of_order } = seen;
    assert!(states > 10_000, "{states} states are too few");
    assert!([takeovers, known, fenced, steps, lost_replies, out_of_order].iter().all(|happened| *happened > 0));
}

#[test]
fn each_planted_bug_is_found() {
    for (bug, breach) in [
        (Bug::HighestIsMark, "the place has passed a message without an effect"),
        (Bug::DoneAtStart, "the place has passed a message without an effect"),
        (Bug::RecordsIgnored, "a message has two effects"),
        (Bug::ReadsOn, "a message is neither applied nor found again"),
    ] {
        let found = search(Some(bug)).expect_err("the search finds the bug");
        assert!(found.starts_with(breach), "{bug:?}: {found}");
    }
}
