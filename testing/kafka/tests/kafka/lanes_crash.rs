//! Lanes in processes that are killed, paused, or end in a message.

use std::collections::{HashMap, HashSet};

use keylatch_core::inbox::Reason;
use testing_support::at_once;

use crate::consuming::{Db, check};
use crate::crash::{BOUNDARIES, Member, killed_at_random, paused_past_its_session};
use crate::setup::{name, say, send, topic};

/// Messages of five keys, from `from` up to `to`.
fn numbers(from: usize, to: usize) -> impl Iterator<Item = crate::setup::Say> {
    (from..to).map(|nth| say(0, &format!("k{}", nth % 5), &nth.to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_that_are_killed_at_a_boundary_apply_each_message_once() {
    // The engine has the same ones; the last is between the record and the place.
    at_once(["lanes", "fenced"], async |mode| {
        at_once(Db::both().await, async |db| {
            let (topic, name) = (topic(1).await, name("c"));
            let mut sent = 0;
            for boundary in BOUNDARIES {
                send(&topic, numbers(sent, sent + 30)).await;
                sent += 30;
                let at = format!("{boundary}:9:kill");
                let more = [("KEYLATCH_FAILPOINT", at.as_str()), ("MODE", mode)];
                let said = Member::start(&db, &name, &topic, &more).ended().await;
                assert!(!said.contains("ended: ") && !said.contains("panicked"), "{mode}, {boundary}: {said}");
                let effects = db.effects().await;
                check(&effects, &[]);
                assert!(effects.len() < sent, "{mode}, {boundary}: it was killed before the end");
            }
            let member = Member::start(&db, &name, &topic, &[("MODE", mode)]);
            db.await_effects(sent).await;
            let said = member.terminate().await;
            assert!(!said.contains("TakenOver=0") && !said.contains("Known=0"), "{mode}: {said}");
            let effects = db.effects().await;
            check(&effects, &[]);
            assert_eq!(effects.len(), sent);
            assert!(db.dead_letters().await.is_empty());
            if mode == "fenced" {
                assert!(started_again(&db).await > 0, "nothing was taken over");
            }
        })
        .await;
    })
    .await;
}

/// How many messages were started more than once; each time with a higher epoch.
async fn started_again(db: &Db) -> usize {
    let mut epochs: HashMap<String, Vec<i64>> = HashMap::new();
    for (id, epoch) in db.outside().await.starts().await {
        epochs.entry(id).or_default().push(epoch);
    }
    assert!(epochs.values().all(|epochs| epochs.is_sorted_by(|one, next| one < next)), "{epochs:?}");
    epochs.values().filter(|epochs| epochs.len() > 1).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_never_starts_a_message_twice_whenever_it_is_killed() {
    at_once(Db::both().await, async |db| {
        let (topic, name) = (topic(1).await, name("c"));
        let mut sent = 0;
        for boundary in BOUNDARIES {
            send(&topic, numbers(sent, sent + 20)).await;
            sent += 20;
            let at = format!("{boundary}:7:kill");
            let more = [("KEYLATCH_FAILPOINT", at.as_str()), ("MODE", "at-most-once")];
            let said = Member::start(&db, &name, &topic, &more).ended().await;
            assert!(!said.contains("ended: ") && !said.contains("panicked"), "{boundary}: {said}");
        }
        // One that ends the process does so once.
        send(&topic, [say(0, "k0", &format!("{sent} abort"))]).await;
        sent += 1;
        let said = Member::start(&db, &name, &topic, &[("MODE", "at-most-once")]).ended().await;
        assert!(!said.contains("ended: "), "{said}");
        let member = Member::start(&db, &name, &topic, &[("MODE", "at-most-once")]);
        db.await_next(&name, &topic, i64::try_from(sent).unwrap()).await;
        member.terminate().await;
        let starts = db.outside().await.starts().await;
        let started: HashSet<_> = starts.iter().map(|(id, _)| id).collect();
        assert_eq!(started.len(), starts.len(), "{starts:?}");
        // Each is applied or a dead letter, or both if it died after its effect: that is what is not known.
        let (effects, letters) = (db.effects().await, db.dead_letters().await);
        check(&effects, &[]);
        assert!(letters.iter().all(|letter| letter.trouble.reason == Reason::OutcomeUnknown));
        let mut numbers: HashSet<_> = effects.iter().map(|effect| effect.sequence).collect();
        numbers.extend(letters.iter().map(|letter| letter.id.offset));
        assert_eq!(numbers.len(), sent);
        assert!((2..=BOUNDARIES.len() * 8 + 1).contains(&letters.len()), "{}", letters.len());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_ends_the_process_is_found_among_those_of_other_lanes() {
    at_once(Db::both().await.into_iter().zip(["lanes", "fenced"]), async |(db, mode)| {
        let (topic, name) = (topic(1).await, name("c"));
        let value = |nth| format!("{nth}{}", if nth == 11 { " abort" } else { "" });
        send(&topic, (0..20).map(|nth| say(0, &format!("k{}", nth % 4), &value(nth)))).await;
        let more = [("TRIES", "2"), ("MODE", mode)];
        // Once among others, and twice by itself.
        for _ in 0..3 {
            let said = Member::start(&db, &name, &topic, &more).ended().await;
            assert!(!said.contains("ended: "), "{said}");
        }
        let member = Member::start(&db, &name, &topic, &more);
        db.await_next(&name, &topic, 20).await;
        member.terminate().await;
        let (effects, letters) = (db.effects().await, db.dead_letters().await);
        // A provider has the effect of the one that ended the process, if it was on a lease.
        let applied = if mode == "fenced" { 20 } else { 19 };
        check(&effects, &[]);
        assert_eq!((effects.len(), letters.len()), (applied, 1), "{mode}");
        let trouble = &letters[0].trouble;
        assert_eq!((letters[0].id.offset, trouble.reason, trouble.attempts), (11, Reason::Exhausted, 2));
        assert!(trouble.error.contains("the process ended"), "{}", trouble.error);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_that_are_killed_at_random_under_load_apply_each_message_once() {
    killed_at_random("lanes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_on_a_lease_that_are_killed_at_random_under_load_apply_each_message_once() {
    killed_at_random("fenced").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_of_lanes_that_is_paused_past_its_session_and_comes_back_changes_nothing() {
    paused_past_its_session("lanes").await;
}
