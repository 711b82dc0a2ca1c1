//! The searches that the test runs.

use keylatch::Guarantee;

use crate::config::{Config, Resource, policy};

/// The start of every search: nothing fails.
const CALM: Config = Config {
    name: "",
    guarantee: Guarantee::Fenced,
    resource: Resource::Plain,
    policy: policy(2, 2, 1),
    sends: [2, 2, 1],
    crashes: 0,
    losses: 0,
    late: false,
    pauses: false,
    resolves: false,
    forgets: false,
    bug: None,
};

/// The faults of most searches.
const STORMY: Config =
    Config { policy: policy(1, 1, 1), sends: [2, 1, 1], crashes: 1, losses: 1, late: true, pauses: true, ..CALM };

/// `Fenced`, a resource that knows the derived key: replies are lost as often as a claim is tried.
pub const FENCED_BY_KEY: Config =
    Config { name: "fenced, derived key", resource: Resource::DerivedKey, losses: 2, late: false, ..STORMY };

/// `Fenced`, a resource that compares epochs: calls arrive late.
pub const FENCED_BY_EPOCH: Config = Config { name: "fenced, epoch", resource: Resource::Epoch, ..STORMY };

/// `Fenced`, a lease that can be renewed in time.
pub const FENCED_LONG: Config =
    Config { name: "fenced, long lease", policy: policy(2, 1, 1), late: false, ..FENCED_BY_EPOCH };

/// `Fenced`, no tombstone: the key soon becomes free, again and again.
pub const FENCED_SHORT: Config =
    Config { name: "fenced, no tombstone", policy: policy(1, 1, 0), sends: [2, 1, 2], late: false, ..FENCED_BY_EPOCH };

/// `Fenced`, a resource without protection: if no process dies or pauses, there is still one effect.
pub const FENCED_CALM: Config = Config { name: "fenced, no crash", losses: 3, ..CALM };

/// `AtMostOnce`, with an operator.
pub const AT_MOST_ONCE: Config = Config {
    name: "at most once",
    guarantee: Guarantee::AtMostOnce,
    losses: 2,
    resolves: true,
    forgets: true,
    ..STORMY
};

/// `AtMostOnce`: if no process dies or pauses, no outcome is unknown.
pub const AT_MOST_ONCE_CALM: Config =
    Config { name: "at most once, no crash", guarantee: Guarantee::AtMostOnce, losses: 3, ..CALM };

/// `Atomic`: claim, effect and outcome in one step, which may be lost or late.
pub const ATOMIC: Config = Config {
    name: "atomic",
    guarantee: Guarantee::Atomic,
    policy: policy(2, 2, 1),
    crashes: 2,
    losses: 2,
    forgets: true,
    ..STORMY
};

/// All of them, the longest first.
pub const SEARCHES: [Config; 8] =
    [FENCED_BY_EPOCH, AT_MOST_ONCE, FENCED_BY_KEY, FENCED_LONG, FENCED_SHORT, ATOMIC, FENCED_CALM, AT_MOST_ONCE_CALM];
