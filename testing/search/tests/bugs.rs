//! Tests of the search: it finds each planted bug, as a violation of the right invariant.

use testing_search::searches::{
    AT_MOST_ONCE, AT_MOST_ONCE_CALM, ATOMIC, FENCED_BY_EPOCH, FENCED_BY_KEY, FENCED_CALM, FENCED_SHORT,
};
use testing_search::{Bug, Config, explore};

/// The search finds `bug` as a violation of `invariant`.
fn finds(config: Config, bug: Bug, invariant: &str) {
    match explore(&config.with(bug)) {
        Ok(explored) => panic!("{bug:?} is not found in {} states of {:?}", explored.states, config.name),
        Err(found) => {
            eprintln!("{bug:?} in {:?}, after {} states: {found}", config.name, found.states);
            assert_eq!(found.violation.invariant, invariant);
            assert!(found.trace.len() > 1, "a bug shows only by what happens");
        }
    }
}

#[test]
fn finds_a_completion_without_epoch() {
    finds(FENCED_BY_KEY, Bug::NoEpochInComplete, "I5");
}

#[test]
fn finds_an_outcome_that_is_replaced() {
    finds(AT_MOST_ONCE, Bug::OutcomeReplaced, "I2");
}

#[test]
fn finds_a_store_that_ignores_the_fingerprint() {
    finds(FENCED_BY_KEY, Bug::FingerprintIgnored, "I7");
}

#[test]
fn finds_a_sweep_of_a_running_record() {
    finds(FENCED_BY_KEY, Bug::SweepOfRunning, "I12");
    finds(AT_MOST_ONCE, Bug::SweepOfRunning, "I12");
}

#[test]
fn finds_a_takeover_in_at_most_once() {
    finds(AT_MOST_ONCE, Bug::TakeoverInAtMostOnce, "I1");
}

#[test]
fn finds_a_lost_reply_taken_for_a_failure() {
    finds(FENCED_CALM, Bug::LostReplyIsFailure, "I1");
    finds(AT_MOST_ONCE_CALM, Bug::LostReplyIsFailure, "I10");
}

#[test]
fn finds_a_release_after_completion() {
    finds(FENCED_BY_KEY, Bug::ReleaseAfterComplete, "I4");
}

#[test]
fn finds_an_answer_before_its_record() {
    finds(FENCED_BY_KEY, Bug::AnswerBeforeRecord, "I3");
}

#[test]
fn finds_a_start_before_its_claim() {
    finds(FENCED_BY_KEY, Bug::StartBeforeClaim, "I6");
    finds(AT_MOST_ONCE, Bug::StartBeforeClaim, "I6");
}

#[test]
fn finds_a_withdrawal_that_forgets_an_earlier_attempt() {
    finds(FENCED_BY_KEY, Bug::WithdrawForgets, "I1");
}

#[test]
fn finds_a_transaction_that_does_not_claim() {
    finds(ATOMIC, Bug::CommitWithoutClaim, "I4");
}

#[test]
fn finds_an_epoch_that_stays() {
    finds(FENCED_BY_EPOCH, Bug::EpochStays, "I1");
    finds(FENCED_SHORT, Bug::EpochStays, "I1");
}

#[test]
fn finds_an_owner_that_takes_an_operators_outcome_for_its_own() {
    finds(AT_MOST_ONCE, Bug::ForeignOutcomeIsOurs, "I2");
}

#[test]
fn finds_a_resolution_of_a_run_that_goes_on() {
    finds(AT_MOST_ONCE, Bug::ResolutionIgnoresLease, "I5");
}

#[test]
fn finds_a_forgotten_answer_without_its_tombstone() {
    finds(AT_MOST_ONCE, Bug::ForgetLeavesNothing, "I4");
    finds(AT_MOST_ONCE, Bug::ForgetFrees, "I12");
}

#[test]
fn finds_a_freed_key_that_forgets_its_epoch() {
    finds(FENCED_SHORT, Bug::FreeForgetsEpoch, "I5");
}
