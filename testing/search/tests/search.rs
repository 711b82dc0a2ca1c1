//! Runs every search, or those whose names contain an argument, and prints how many states each has visited.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use keylatch::Guarantee;
use testing_search::searches::SEARCHES;
use testing_search::{Config, Explored, Resource, Seen, explore};

fn main() {
    let begun = Instant::now();
    let only: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let asked = |config: &&Config| only.is_empty() || only.iter().any(|name| config.name.contains(name));
    let searches: Vec<_> = SEARCHES.iter().filter(asked).collect();
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(searches.len());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(config) = searches.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begun = Instant::now();
                    match explore(config) {
                        Ok(Explored { states, steps, depth, seen }) => {
                            let seconds = begun.elapsed().as_secs_f64();
                            eprintln!(
                                "{:<24} {states:>9} states, {steps:>10} steps, depth {depth:>3}, {seconds:>5.1} s",
                                config.name
                            );
                            let missed = missed(config, &seen);
                            assert!(missed.is_empty(), "{}: never happened: {missed:?}; {seen:?}", config.name);
                        }
                        Err(violation) => {
                            eprintln!("{}: {violation}", config.name);
                            found.lock().expect("no search panics").push(config.name);
                        }
                    }
                }
            });
        }
    });
    eprintln!("{} searches in {:.1} s", searches.len(), begun.elapsed().as_secs_f64());
    let found = found.into_inner().expect("no search panics");
    assert!(found.is_empty(), "an invariant does not hold: {found:?}");
}

/// What should have happened in this search and never did: a search in which nothing happens proves nothing.
fn missed(config: &Config, seen: &Seen) -> Vec<&'static str> {
    let (fenced, atomic) = (config.guarantee == Guarantee::Fenced, config.guarantee == Guarantee::Atomic);
    let tombstone = !config.policy.tombstone.is_zero();
    let expected = [
        ("a start", seen.starts, true),
        ("a replay", seen.replays, true),
        ("a mismatch", seen.mismatches, true),
        ("a sweep that removes", seen.removed, true),
        ("an expired answer", seen.expired, tombstone),
        ("a sweep that leaves a tombstone", seen.tombstoned, tombstone),
        ("a takeover", seen.takeovers, fenced),
        ("a claim that is ours", seen.repeated_claims, !atomic),
        ("a lost completion", seen.lost_completions, fenced && config.pauses),
        ("a fenced effect", seen.fenced_effects, fenced && config.resource == Resource::Epoch),
        ("an unknown outcome", seen.unknown, config.guarantee == Guarantee::AtMostOnce),
        ("a resolution", seen.resolved, config.resolves),
        ("a forgotten answer", seen.forgotten, config.forgets),
        ("a late call", seen.late_calls, config.late),
    ];
    expected.into_iter().filter(|(_, times, due)| *due && *times == 0).map(|(name, ..)| name).collect()
}
