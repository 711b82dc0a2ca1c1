//! The list of all cases.

/// Runs every case against a subject: an expression that is evaluated anew for each.
#[macro_export]
macro_rules! cases {
    ($subject:expr) => {
        $crate::cases! {
            $subject;
            answers:
                the_first_answer_is_the_handlers_with_key_and_expiry,
                a_replay_has_the_same_status_kept_headers_and_body,
                empty_answers_are_answers,
                the_date_of_a_replay_is_fresh,
                cookies_challenges_and_connection_headers_are_never_kept,
                a_handler_cannot_forge_the_layers_headers,
                a_preference_is_said_to_be_applied_only_where_it_was;
            clients:
                prefer_wait_gets_the_answer_of_the_run_that_is_under_way,
                nobody_waits_longer_than_the_servers_limit,
                two_hundred_identical_requests_run_once,
                a_client_that_leaves_within_its_body_leaves_nothing,
                a_client_that_leaves_does_not_stop_the_work,
                a_duplicate_waits_as_long_as_the_layer_says;
            fingerprint:
                every_field_counts,
                an_absent_query_is_not_an_empty_one,
                other_headers_do_not_count,
                chunked_bodies_count_like_any_other,
                a_chunked_body_with_trailers_reaches_its_handler_whole,
                canonical_json_is_a_choice,
                a_request_whose_caller_is_not_known_is_refused,
                two_callers_with_one_key_never_see_each_other,
                one_key_on_two_routes_or_methods_is_two_keys,
                the_whole_path_counts_where_routers_are_nested;
            key:
                quoted_and_bare_forms_are_the_same_key,
                more_than_one_key_line_is_refused,
                a_key_has_1_to_255_visible_ascii_characters,
                a_missing_key_is_refused_only_where_it_is_required,
                post_and_patch_are_guarded_and_others_by_choice,
                get_head_and_options_always_pass_unguarded,
                the_key_may_come_from_another_header,
                the_key_may_come_from_the_body;
            large:
                a_client_that_sends_everything_first_sees_its_refusal,
                a_client_of_http_sees_its_refusal_and_goes_on,
                a_client_that_waits_to_be_told_to_send_is_not_told;
            recorded:
                statuses_are_recorded_by_the_rule;
            refusals:
                a_body_that_ends_before_its_end_is_400,
                a_body_over_the_limit_is_413,
                a_duplicate_of_a_running_request_is_409,
                a_request_whose_answer_has_expired_is_410,
                a_body_that_does_not_come_is_408;
            retained:
                an_answer_at_the_limit_is_kept,
                an_answer_over_the_limit_is_delivered_and_not_kept,
                an_answer_that_grows_over_the_limit_is_delivered_and_not_kept,
                an_event_stream_is_delivered_as_it_comes_and_not_kept,
                a_stream_without_an_end_in_sight_is_delivered_and_not_kept,
                a_stream_whose_client_hangs_up_is_read_to_its_end,
                a_late_end_is_waited_for_outside_of_atomic;
        }
    };
    ($subject:expr; $($module:ident: $($case:ident),+;)+) => {
        $(mod $module {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::cases::$module::$case(&$subject).await;
            })+
        })+
    };
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// A case that is in no list would never run.
    #[test]
    fn every_case_is_in_the_list() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let list = include_str!("list.rs");
        let mut cases = 0;
        for file in fs::read_dir(sources.join("cases")).expect("the cases are there") {
            let source = fs::read_to_string(file.expect("it can be read").path()).expect("it can be read");
            for line in source.lines().filter(|line| line.ends_with("(at: &impl Subject) {")) {
                let name = line.trim_start_matches("pub async fn ").split('(').next().expect("a name");
                assert!(list.contains(&format!(" {name}")), "{name} is not in the list");
                cases += 1;
            }
        }
        assert!(cases >= 40, "only {cases} cases were found");
    }
}
