//! Tests of the judge: a sound history passes, and each way to corrupt it is found, with the right name.

use testing_history::{Answer, Event, Guarantee, Invariant, Reply, Summary, What, check};

/// A run on a lease that dies, a second one that completes, the late first owner, and clients that retry.
fn sound() -> Vec<Event> {
    vec![
        at(10, invoke(1, "buy")),
        at(12, claim(1, 11)),
        at(13, What::Start { epoch: Some(1) }),
        at(20, reply(1, Reply::Nothing)),
        at(21, invoke(2, "buy")),
        at(24, claim(2, 22)),
        at(25, What::Start { epoch: Some(2) }),
        at(26, invoke(3, "buy")),
        at(27, reply(3, refused(409, "IDEMPOTENCY_KEY_IN_PROGRESS"))),
        at(28, effect("order-7", Some(2))),
        at(29, complete(2, true)),
        at(30, reply(2, Reply::Final(answer(false)))),
        at(31, complete(1, false)),
        at(40, invoke(4, "buy")),
        at(41, reply(4, Reply::Final(answer(true)))),
        at(50, invoke(5, "buy")),
        at(51, reply(5, refused(503, "IDEMPOTENCY_STORE_UNAVAILABLE"))),
        at(52, invoke(6, "sell")),
        at(53, reply(6, refused(422, "IDEMPOTENCY_KEY_REUSED"))),
        at(60, invoke(7, "buy")),
    ]
}

#[test]
fn a_sound_history_passes_and_is_counted() {
    let summary = check(&sound(), Guarantee::Fenced).unwrap();
    let counted = Summary {
        keys: 1,
        answered_keys: 1,
        calls: 7,
        first_answers: 1,
        replays: 1,
        refused: 3,
        failed: 0,
        lost: 2,
        claims: 2,
        starts: 2,
        effects: 1,
    };
    assert_eq!(summary, counted);
}

#[test]
fn the_order_of_the_log_does_not_matter() {
    let mut history = sound();
    history.reverse();
    assert!(check(&history, Guarantee::Fenced).is_ok());
}

#[test]
fn keys_and_scopes_are_apart() {
    let mut history = sound();
    history.extend(in_scope("another", 100, sound()));
    assert_eq!(check(&history, Guarantee::Fenced).unwrap().effects, 2);
}

// ---- One corruption after another ----------------------------------------------------------------------

#[test]
fn i1_two_effects() {
    broken(with(at(28, effect("order-8", None))), Invariant::I1, "more than one effect");
}

#[test]
fn i1_an_effect_that_nobody_asked_for() {
    let mut stray = at(28, What::Found { effect: "order-9".to_owned() });
    stray.key = "never-sent".to_owned();
    broken(with(stray), Invariant::I1, "nobody asked for");
}

#[test]
fn i1_two_starts_in_at_most_once() {
    let violations = check(&sound(), Guarantee::AtMostOnce).unwrap_err();
    let found: Vec<_> = violations.iter().map(|violation| violation.invariant).collect();
    assert_eq!(found, [Invariant::I1], "{violations:?}");
}

#[test]
fn i2_another_status() {
    let other = Answer { status: 200, ..answer(true) };
    broken(replaced(at(41, reply(4, Reply::Final(other)))), Invariant::I2, "differ");
}

#[test]
fn i2_another_header() {
    let other = Answer { headers: vec![("location".to_owned(), "/orders/8".to_owned())], ..answer(true) };
    broken(replaced(at(41, reply(4, Reply::Final(other)))), Invariant::I2, "differ");
}

#[test]
fn i2_another_byte() {
    let other = Answer { body: b"{\"order\":\"8\"}".to_vec(), ..answer(true) };
    broken(replaced(at(41, reply(4, Reply::Final(other)))), Invariant::I2, "differ");
}

#[test]
fn i3_an_answer_without_its_effect() {
    broken(without(28), Invariant::I3, "not there");
}

#[test]
fn i3_an_answer_with_another_effect() {
    broken(replaced(at(28, effect("order-8", Some(2)))), Invariant::I3, "not there");
}

#[test]
fn i3_an_answer_before_its_effect() {
    let mut history = without(28);
    history.push(at(33, effect("order-7", Some(2))));
    broken(history, Invariant::I3, "before its effect");
}

#[test]
fn i4_run_again() {
    broken(replaced(at(41, reply(4, Reply::Final(answer(false))))), Invariant::I4, "run again");
}

#[test]
fn i4_refused_afterwards() {
    for (status, code) in
        [(409, "IDEMPOTENCY_KEY_IN_PROGRESS"), (409, "IDEMPOTENCY_OUTCOME_UNKNOWN"), (410, "IDEMPOTENCY_KEY_EXPIRED")]
    {
        broken(replaced(at(41, reply(4, refused(status, code)))), Invariant::I4, "refused");
    }
}

#[test]
fn i4_failed_afterwards() {
    broken(replaced(at(41, reply(4, Reply::Failed { status: 500 }))), Invariant::I4, "failed");
}

#[test]
fn i4_started_afterwards() {
    let mut history = with(at(45, What::Start { epoch: Some(3) }));
    history.push(at(45, What::Record { epoch: 3 }));
    broken(history, Invariant::I4, "started after");
}

#[test]
fn i5_both_runs_complete() {
    let violations = check(&replaced(at(31, complete(1, true))), Guarantee::Fenced).unwrap_err();
    assert!(violations.iter().all(|violation| violation.invariant == Invariant::I5), "{violations:?}");
    assert!(violations.iter().any(|violation| violation.why.contains("more than one run")), "{violations:?}");
}

#[test]
fn i5_only_the_late_owner_completes() {
    let mut history = replaced(at(31, complete(1, true)));
    history.retain(|event| event.at != 29);
    broken(history, Invariant::I5, "late owner");
}

#[test]
fn i5_an_epoch_twice() {
    broken(with(at(24, claim(2, 23))), Invariant::I5, "granted twice");
}

#[test]
fn i5_an_epoch_goes_back() {
    let mut history = sound();
    for event in &mut history {
        match &mut event.what {
            What::Claim { epoch, .. } | What::Start { epoch: Some(epoch) } => *epoch = 3 - *epoch,
            _ => {}
        }
    }
    history.retain(|event| !matches!(event.what, What::Complete { .. }));
    broken(history, Invariant::I5, "went back");
}

#[test]
fn i6_no_claim() {
    broken(without(24), Invariant::I6, "without a durable claim");
}

#[test]
fn i6_a_claim_that_comes_later() {
    let mut history = without(24);
    history.push(at(26, claim(2, 22)));
    broken(history, Invariant::I6, "without a durable claim");
}

#[test]
fn i6_a_record_stands_for_a_claim_that_was_not_seen_only_if_it_is_new_enough() {
    let mut history = without(24);
    history.push(at(99, What::Record { epoch: 2 }));
    assert!(check(&history, Guarantee::Fenced).is_ok());
    history.pop();
    history.push(at(99, What::Record { epoch: 1 }));
    broken(history, Invariant::I6, "without a durable claim");
}

#[test]
fn i6_two_starts_on_one_claim() {
    broken(with(at(26, What::Start { epoch: Some(2) })), Invariant::I6, "two starts");
}

#[test]
fn i7_another_request_gets_the_answer() {
    broken(replaced(at(53, reply(6, Reply::Final(answer(true))))), Invariant::I7, "two different requests");
}

#[test]
fn a_violation_shows_the_events_that_prove_it() {
    let violations = check(&replaced(at(41, reply(4, Reply::Final(answer(false))))), Guarantee::Fenced).unwrap_err();
    let text = violations[0].to_string();
    assert!(text.starts_with("I4 is broken: "), "{text}");
    assert!(text.contains("Invoke { call: 4") && text.contains("order-7"), "{text}");
}

#[test]
#[should_panic(expected = "no request for")]
fn a_reply_without_its_request_is_no_history() {
    let _ = check(&without(10), Guarantee::Fenced);
}

// ---- Shorthands for events ------------------------------------------------------------------------------

/// `history` breaks exactly this invariant, once, with this proof.
fn broken(history: impl AsRef<[Event]>, invariant: Invariant, why: &str) {
    let violations = check(history.as_ref(), Guarantee::Fenced).expect_err("it is corrupted");
    let [violation] = violations.as_slice() else { panic!("not one violation: {violations:?}") };
    assert_eq!(violation.invariant, invariant, "{violation}");
    assert!(violation.why.contains(why), "{violation}");
    assert!(!violation.events.is_empty(), "{violation}");
}

fn with(event: Event) -> Vec<Event> {
    let mut history = sound();
    history.push(event);
    history
}

fn without(at: u64) -> Vec<Event> {
    let mut history = sound();
    let before = history.len();
    history.retain(|event| event.at != at);
    assert_eq!(history.len(), before - 1, "one event goes");
    history
}

fn replaced(event: Event) -> Vec<Event> {
    let mut history = without(event.at);
    history.push(event);
    history
}

/// A run that dies in one region, and its next attempt in another: each region has its own epochs, so both may win.
#[test]
fn starts_in_two_regions_are_found() {
    let mut history = sound();
    for event in history.iter_mut().filter(|event| matches!(event.what, What::Start { .. })) {
        event.region = Some(if event.at < 20 { "eu" } else { "us" }.to_owned());
    }
    let violations = check(&history, Guarantee::Fenced).expect_err("two regions are one too many");
    assert!(violations[0].invariant == Invariant::I1 && violations[0].to_string().contains(" in us"), "{violations:?}");
    for event in &mut history {
        event.region = event.region.take().map(|_| "eu".to_owned());
    }
    assert!(check(&history, Guarantee::Fenced).is_ok());
}

fn in_scope(scope: &str, calls: u64, mut history: Vec<Event>) -> Vec<Event> {
    for event in &mut history {
        event.scope = scope.to_owned();
        if let What::Invoke { call, .. } | What::Reply { call, .. } = &mut event.what {
            *call += calls;
        }
    }
    history
}

fn at(at: u64, what: What) -> Event {
    Event { at, scope: "tenant".to_owned(), key: "key".to_owned(), what, region: None }
}

fn invoke(call: u64, request: &str) -> What {
    What::Invoke { call, request: request.to_owned() }
}

fn reply(call: u64, reply: Reply) -> What {
    What::Reply { call, reply }
}

fn refused(status: u16, code: &str) -> Reply {
    Reply::Refused { status, code: code.to_owned() }
}

fn claim(epoch: u64, asked_at: u64) -> What {
    What::Claim { epoch, asked_at }
}

fn complete(epoch: u64, applied: bool) -> What {
    What::Complete { epoch, applied }
}

fn effect(effect: &str, epoch: Option<u64>) -> What {
    What::Effect { effect: effect.to_owned(), epoch }
}

fn answer(replayed: bool) -> Answer {
    Answer {
        status: 201,
        headers: vec![("location".to_owned(), "/orders/7".to_owned())],
        body: b"{\"order\":\"7\"}".to_vec(),
        replayed,
        effect: Some("order-7".to_owned()),
    }
}
