//! Tests of the conformance suite: a store with a planted bug fails the case for that bug, and the same store without a
//! bug passes all cases.

use std::panic::{AssertUnwindSafe, catch_unwind};

use futures_util::future::LocalBoxFuture;
use keylatch_core::conformance;

mod broken;
mod bug;

use broken::Broken;
use bug::Bug;

keylatch_core::conformance!(Broken::new(None));

/// A store may list in any order, in pages as short as it likes, and need not count everything.
mod loose {
    use super::Broken;

    keylatch_core::conformance!(Broken::loose());
}

/// Each bug, and the case that must catch it.
macro_rules! catches {
    ($($bug:ident: $group:ident::$case:ident;)*) => {
        mod catches {
            use super::*;
            $(
                #[test]
                #[expect(non_snake_case, reason = "named as the bug is")]
                fn $bug() {
                    assert_caught(Bug::$bug, |broken| conformance::compiled::$group::$case(broken));
                }
            )*

            /// A bug without a test does not compile: this match would be incomplete.
            #[expect(dead_code, reason = "it is there to be compiled")]
            fn whole(bug: Bug) {
                match bug {
                    $(Bug::$bug => {})*
                }
            }
        }
    };
}

catches! {
    ClaimTooEarly: takeover::lease_is_taken_over_at_its_end;
    ClaimTooLate: takeover::lease_is_taken_over_at_its_end;
    FreeTooEarly: expiry::key_is_free_at_the_instant;
    OwnerForgotten: claim::repeated_claim_is_ours;
    OwnerRememberedForGood: claim::repeated_claim_after_completion_is_held;
    FingerprintIgnored: takeover::only_the_same_request_takes_over;
    RepeatedClaimRenews: claim::repeated_claim_keeps_its_lease;
    ClaimInTwoSteps: concurrency::one_of_64_claims_wins_a_thousand_times;
    EpochStays: takeover::takeovers_count_epochs_and_attempts;
    NotesLostInTakeover: takeover::notes_survive_a_takeover;
    NotesOutliveRequest: expiry::notes_do_not_outlive_their_request;
    RenewIgnoresEpoch: renew::stale_epoch_renews_nothing;
    RenewIgnoresOwner: renew::other_owner_renews_nothing;
    RenewFromLeaseEnd: renew::renewal_counts_from_now;
    StepNotedTwice: renew::step_is_noted_once;
    CompleteIgnoresEpoch: complete::stale_epoch_completes_nothing;
    CompleteIgnoresOwner: complete::other_owner_completes_nothing;
    SecondOutcomeReplaces: complete::second_outcome_never_replaces_the_first;
    SecondOutcomeIsApplied: complete::second_outcome_never_replaces_the_first;
    ReleaseIgnoresEpoch: release::stale_epoch_releases_nothing;
    ReleaseIgnoresOwner: release::other_owner_releases_nothing;
    ReleaseFreesCompleted: release::completed_record_is_not_released;
    UnknownIsFreed: release::unknown_is_held_for_good;
    FreeForgetsEpoch: release::freed_key_keeps_its_epoch;
    ResolveIgnoresEpoch: resolve::stale_epoch_resolves_nothing;
    ResolveIgnoresOwner: resolve::other_owner_resolves_nothing;
    ResolveIgnoresLease: resolve::live_run_is_not_resolved;
    ResolveTooEarly: resolve::run_is_resolved_from_the_end_of_its_lease;
    ForgetIgnoresEpoch: forget::stale_epoch_forgets_nothing;
    ForgetIgnoresOwner: forget::other_owner_forgets_nothing;
    ForgetRemoves: forget::retry_of_a_forgotten_request_never_runs;
    ForgetFrees: forget::retry_of_a_forgotten_request_never_runs;
    ForgetProlongs: forget::forgotten_record_is_swept_at_its_end;
    ForgetKeepsTheAnswer: forget::answer_is_forgotten;
    ForgetEndsRuns: forget::only_a_completed_record_is_forgotten;
    ForgetSucceedsOnce: forget::forgotten_again_changes_nothing;
    SweepTooEarly: sweep::answer_is_buried_at_the_instant;
    SweepTakesRunning: sweep::running_record_is_never_swept;
    SweepWithoutLimit: sweep::sweep_keeps_to_its_limit;
    SweepForgetsTombstone: sweep::buried_tombstone_holds_its_key;
    SweepForgetsEpoch: release::freed_record_goes_in_the_end;
    SweepHidesMore: sweep::sweep_says_whether_there_is_more;
    SweepNeverEnds: sweep::sweep_says_whether_there_is_more;
    HeadersSorted: outcomes::repeated_headers_keep_their_order;
    EmptyBodyIsNotRetained: outcomes::empty_body_is_an_answer;
    DigestLost: outcomes::unretained_body_is_remembered;
    MisplacedIsAbsent: identity::misplaced_record_is_never_claimed;
    MisplacedIsRead: identity::misplaced_record_is_never_read;
    MisplacedIsListed: identity::misplaced_record_is_never_listed;
    OperationIgnored: identity::operations_are_apart;
    KeyCaseIgnored: identity::similar_keys_are_apart;
    PageGoesOnAfterItsFirst: listing::pages_show_every_record_once;
    PagesEndEarly: listing::pages_show_every_record_once;
    PageStartsWithAfter: listing::pages_show_every_record_once;
    PageTooLong: listing::page_is_never_too_long;
    PageOfAllScopes: listing::pages_of_a_scope_show_no_other;
    CountOfAllScopes: listing::records_are_counted_by_scope;
    CountWithoutLimit: listing::records_are_counted_by_scope;
    CountIsSureOfItsLimit: listing::records_are_counted_by_scope;
    ClockOfTheCaller: claim::claim_tells_the_time_of_the_store;
    LapsedTooLate: lapsed::run_lapses_at_the_end_of_its_lease;
    LapsedWithCompleted: lapsed::only_lapsed_runs_are_found;
    CancelledClaimHoldsTheStore: cancellation::claim_can_be_cut_off;
    DurableInNameOnly: durability::completed_record_survives;
    SpansWrapAround: limits::spans_end_with_time;
}

fn assert_caught(bug: Bug, case: for<'h> fn(&'h Broken) -> LocalBoxFuture<'h, ()>) {
    let broken = Box::pin(async { Broken::new(Some(bug)) });
    let ran = catch_unwind(AssertUnwindSafe(|| conformance::run(broken, case)));
    assert!(ran.is_err(), "the case passes although the store has the bug {bug:?}");
}
