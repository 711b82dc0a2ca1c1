//! The contract of a [`Store`], in executable form: the cases that every store passes.
//!
//! An author of a store implements [`Harness`] for it, and names the cases in a test file with one line:
//! `keylatch_core::conformance!(MyHarness::new().await);`. Use the harness of the SQLite store as a starting point.
//!
//! Each case becomes a `#[test]` with its own environment, so that all can run at once. No case is skipped: stores may
//! differ in what they survive, and then the case asks the store what it claims and tests that.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, LocalBoxFuture};

use crate::RecordId;
use crate::store::Store;

pub mod agreement;
pub mod atomic;
pub mod cancellation;
pub mod claim;
pub mod complete;
pub mod concurrency;
pub mod durability;
pub mod expiry;
mod fixture;
pub mod forget;
pub mod identity;
pub mod inbox;
pub mod lapsed;
pub mod limits;
pub mod listing;
pub mod outbox;
pub mod outcomes;
pub mod release;
pub mod renew;
pub mod resolve;
pub mod sweep;
pub mod takeover;

/// The environment of one case: an empty store, separate from that of every other case, and what a test needs to do to
/// it from outside.
///
/// # The clock
///
/// The store's clock stands still, except when [`advance`](Self::advance) moves it: the contract says what happens *at*
/// an instant and what 1 ms before, and a running clock cannot test that. A store that uses a server's clock needs a
/// way to control it, such as its own `now()` function that the harness replaces.
pub trait Harness: Send + Sync {
    /// The store under test. Every call returns the same one.
    fn store(&self) -> Arc<dyn Store>;

    /// Another handle on the same records, as a second process would have.
    fn connect(&self) -> BoxFuture<'_, Arc<dyn Store>>;

    /// The store after this process has died, without warning, and started again.
    ///
    /// Whether the records must still be there depends on its [`durability`](crate::store::Store::durability).
    fn restart(&self) -> BoxFuture<'_, Arc<dyn Store>>;

    /// Moves the store's clock forward by whole milliseconds.
    fn advance(&self, by: Duration) -> BoxFuture<'_, ()>;

    /// Stores a copy of the record `from` under the identity `to`, and replaces what is there, as a damaged store
    /// would.
    fn misplace(&self, from: RecordId, to: RecordId) -> BoxFuture<'_, ()>;
}

/// Makes every case a `#[test]`. The expression builds the harness, anew for each case. It may await.
#[macro_export]
macro_rules! conformance {
    (@each $($then:tt)*) => {
        $crate::conformance! { $($then)*
            claim {
                absent_key_is_won
                won_record_is_what_is_read
                claim_tells_the_time_of_the_store
                running_key_is_held
                repeated_claim_is_ours
                repeated_claim_keeps_its_lease
                repeated_claim_after_its_lease_is_ours
                repeated_claim_after_takeover_is_held
                repeated_claim_after_completion_is_held
                repeated_claim_after_release_runs_anew
                completed_key_is_held_with_its_answer
                reused_key_is_held_while_running
                reused_key_is_held_while_abandoned
                reused_key_is_held_while_unknown
                reused_key_is_held_when_completed
                reused_key_is_held_by_a_tombstone
                token_of_a_finished_run_wins_nothing
                free_key_is_won_by_another_request
                terms_are_those_of_the_claim
                only_an_abandoned_key_is_won_by_the_same_request
            }
            takeover {
                lease_is_taken_over_at_its_end
                only_the_same_request_takes_over
                takeovers_count_epochs_and_attempts
                notes_survive_a_takeover
                renewal_postpones_the_takeover
                at_most_once_is_never_taken_over
                takeover_is_on_its_own_terms
                winner_of_a_takeover_completes
                epochs_only_rise
            }
            renew {
                renewal_counts_from_now
                at_most_once_is_renewed
                late_renewal_holds
                renewal_after_takeover_is_lost
                stale_epoch_renews_nothing
                other_owner_renews_nothing
                completed_record_is_not_renewed
                absent_record_is_not_renewed
                steps_are_noted_in_order
                step_is_noted_once
                renewal_keeps_the_notes
            }
            complete {
                outcome_is_stored
                outcome_takes_the_place_of_the_notes
                repeated_completion_changes_nothing
                repeated_completion_keeps_its_spans
                second_outcome_never_replaces_the_first
                tombstone_gets_no_answer
                late_owner_completes
                unknown_outcome_is_completed
                completion_after_takeover_is_lost
                stale_epoch_completes_nothing
                other_owner_completes_nothing
                absent_record_is_not_completed
                released_run_completes_before_its_retry
                retention_is_that_of_the_completion
            }
            release {
                freed_key_is_won_by_anyone
                freed_record_is_an_epoch
                freed_key_keeps_its_epoch
                freed_record_goes_in_the_end
                at_most_once_is_freed
                retry_runs_at_once
                retry_is_waited_for_and_no_longer
                unknown_is_held_for_good
                repeated_release_frees_nothing_else
                late_owner_releases
                release_after_takeover_is_lost
                completed_record_is_not_released
                stale_epoch_releases_nothing
                other_owner_releases_nothing
                absent_record_is_not_released
                retry_completes
            }
            resolve {
                unknown_run_is_completed
                unknown_run_never_happened
                run_that_never_happened_leaves_no_record
                run_that_does_not_know_is_resolved
                run_is_resolved_from_the_end_of_its_lease
                live_run_is_not_resolved
                renewed_run_is_not_resolved
                only_an_unknown_run_is_resolved
                resolution_sent_again_changes_nothing
                owner_that_comes_back_finds_the_resolution
                first_resolution_counts
                stale_epoch_resolves_nothing
                other_owner_resolves_nothing
                renewal_or_resolution_applies
            }
            forget {
                answer_is_forgotten
                retry_of_a_forgotten_request_never_runs
                forgotten_record_is_swept_at_its_end
                forgotten_again_changes_nothing
                expired_answer_is_forgotten
                only_a_completed_record_is_forgotten
                stale_epoch_forgets_nothing
                other_owner_forgets_nothing
                forgotten_answer_never_comes_back
                completion_or_forgetting_is_first
                sweep_and_forgetting_leave_a_tombstone
            }
            outcomes {
                repeated_headers_keep_their_order
                header_values_need_not_be_utf8
                empty_body_is_an_answer
                body_is_any_bytes
                body_of_a_mebibyte_comes_back
                unretained_body_is_remembered
                every_class_of_status_comes_back
            }
            expiry {
                answer_expires_at_the_instant
                tombstone_ends_at_the_instant
                key_is_free_at_the_instant
                key_without_tombstone_is_free_at_expiry
                abandoned_run_is_free_at_the_instant
                notes_do_not_outlive_their_request
                retention_counts_from_completion
            }
            sweep {
                empty_store_has_nothing_to_sweep
                answer_is_buried_at_the_instant
                tombstone_is_removed_at_the_instant
                unburied_record_is_removed_at_once
                buried_tombstone_holds_its_key
                running_record_is_never_swept
                renewed_record_is_never_swept
                unknown_record_is_never_swept
                retry_that_never_came_is_swept
                sweep_keeps_to_its_limit
                sweep_of_nothing_changes_nothing
                sweep_counts_what_it_did
                sweep_says_whether_there_is_more
            }
            identity {
                scopes_with_one_key_are_apart
                operations_are_apart
                texts_that_run_together_are_apart
                similar_keys_are_apart
                longest_keys_are_apart
                longest_scopes_are_apart
                misplaced_record_is_never_claimed
                overwritten_record_is_never_claimed
                misplaced_record_is_never_read
                misplaced_record_is_never_listed
                misplaced_record_harms_no_other
                record_names_its_identity
            }
            listing {
                absent_record_reads_as_absent
                pages_show_every_record_once
                pages_of_a_scope_show_no_other
                pages_go_on_after_a_record_that_is_gone
                strange_cursor_shows_no_other_scope
                page_of_nothing_is_empty
                page_is_never_too_long
                page_shows_what_is_read
                records_are_counted_by_scope
                records_count_until_they_go
                clock_is_one
                clock_never_goes_back
            }
            lapsed {
                run_lapses_at_the_end_of_its_lease
                renewed_run_lapses_at_its_new_end
                only_lapsed_runs_are_found
                pages_show_every_lapsed_run_once
                page_of_lapsed_runs_is_never_too_long
            }
            limits {
                longest_key_in_the_longest_scope
                every_character_of_a_key
                spans_end_with_time
                lease_of_no_time_is_taken_over_at_once
                many_notes_are_kept
                largest_limits_are_limits
            }
            cancellation {
                claim_can_be_cut_off
                renewal_can_be_cut_off
                completion_can_be_cut_off
                release_can_be_cut_off
                forgetting_can_be_cut_off
                sweep_can_be_cut_off
                reads_can_be_cut_off
                many_calls_can_be_cut_off_at_once
            }
            concurrency {
                one_of_64_claims_wins_a_thousand_times
                one_of_two_requests_wins
                one_of_many_takes_over
                one_of_many_has_a_free_key
                one_claim_sent_often_is_one_claim
                different_keys_all_win
                completion_or_takeover_applies
                release_or_takeover_applies
                one_of_many_outcomes_stays
                steps_noted_at_once_are_all_noted
                many_sweeps_remove_each_record_once
                sweep_never_takes_a_new_claim
                readers_see_whole_records
            }
            durability {
                completed_record_survives
                running_record_survives
                ends_of_runs_survive
                forgotten_answer_stays_forgotten
                every_acknowledged_write_survives
                clock_goes_on
            }
            agreement {
                claim_wins_if_and_only_if_the_machine_says_run
                writes_are_those_of_the_machine
                sweep_is_that_of_the_machine
            }
        }
    };
    (@tests $harness:expr, $($group:ident { $($case:ident)* })*) => {$(
        mod $group {
            use super::*;
            $(
                #[test]
                fn $case() {
                    let harness = ::std::boxed::Box::pin(async { $harness });
                    $crate::conformance::run(harness, |harness| $crate::conformance::compiled::$group::$case(harness));
                }
            )*
        }
    )*};
    (@compiled $($group:ident { $($case:ident)* })*) => {$(
        pub mod $group {
            use super::{Harness, LocalBoxFuture};
            $(
                pub fn $case(harness: &dyn Harness) -> LocalBoxFuture<'_, ()> {
                    Box::pin(super::super::$group::$case(harness))
                }
            )*
        }
    )*};
    (@names $($group:ident { $($case:ident)* })*) => {
        &[$($(concat!(stringify!($group), "::", stringify!($case)),)*)*]
    };
    ($harness:expr) => { $crate::conformance! { @each @tests $harness, } };
}

/// The names of all cases.
pub const CASES: &[&str] = conformance!(@each @names);

/// A case that takes longer hangs.
const CASE_SECONDS_MAX: u64 = 300;

/// The cases, compiled with this crate and not again with every test program.
#[doc(hidden)]
pub mod compiled {
    use futures_util::future::LocalBoxFuture;

    use super::Harness;

    conformance!(@each @compiled);
}

/// Runs one case, on a runtime with several threads.
#[doc(hidden)]
pub fn run<H>(harness: LocalBoxFuture<'_, H>, case: for<'h> fn(&'h H) -> LocalBoxFuture<'h, ()>) {
    block_on(Box::pin(async {
        let harness = harness.await;
        let limit = Duration::from_secs(CASE_SECONDS_MAX);
        tokio::time::timeout(limit, case(&harness)).await.expect("a case ends in time");
    }));
}

fn block_on(case: LocalBoxFuture<'_, ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    runtime.expect("a runtime for the case").block_on(case);
}
