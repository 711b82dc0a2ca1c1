//! A request that is sent again.

use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use http::header::{CONTENT_TYPE, ETAG, LOCATION, SET_COOKIE};

use super::{
    Answer, Bench, Final, Trouble, another, difference, is_marked, is_refused, may_be_retried, status, succeeds,
};
use crate::report::Verdict;
use crate::target::Shot;

pub(super) async fn first(bench: &Bench) -> Result<Verdict, Trouble> {
    let before = bench.count().await?;
    let (one, other) = (bench.fresh(), bench.fresh());
    let answer = bench.send(&one).await?;
    if !succeeds(&answer) {
        let body = String::from_utf8_lossy(&answer.body()[..answer.body().len().min(300)]).into_owned();
        return Ok(bench.fail(format!("the answer is {}: {body}", status(&answer)), &[&one]));
    }
    let second = bench.send(&other).await?;
    bench.answers_differ.store(answer.body() != second.body(), Ordering::Relaxed);
    Ok(match bench.since(before).await? {
        Some(2) | None => bench.passed(),
        Some(effects) => bench.fail(
            format!(
                "two requests with two keys took effect {effects} times; does --effects count this request's effects?"
            ),
            &[&one, &other],
        ),
    })
}

pub(super) async fn replay(bench: &Bench) -> Result<Verdict, Trouble> {
    let before = bench.count().await?;
    let shot = bench.fresh();
    let first = bench.send(&shot).await?;
    for nth in ["second", "third"] {
        let again = bench.send(&shot).await?;
        if let Some(difference) = difference(&first, &again) {
            return Ok(bench.fail(format!("the {nth} answer is not the first: {difference}"), &[&shot, &shot]));
        }
    }
    once(bench, before, &[&shot, &shot]).await
}

/// Passes if there was one effect since then.
pub(super) async fn once(bench: &Bench, before: Option<i64>, shots: &[&Shot]) -> Result<Verdict, Trouble> {
    Ok(match bench.since(before).await? {
        Some(1) | None => bench.passed(),
        Some(effects) => bench.fail(format!("it took effect {effects} times"), shots),
    })
}

/// How often so many are sent at once, because a race is not lost each time.
pub(super) const CROWDS: usize = 3;

pub(super) async fn at_once(bench: &Bench) -> Result<Verdict, Trouble> {
    for _ in 0..CROWDS {
        if let failed @ Verdict::Fail { .. } = crowd(bench).await? {
            return Ok(failed);
        }
    }
    Ok(bench.passed())
}

async fn crowd(bench: &Bench) -> Result<Verdict, Trouble> {
    let before = bench.count().await?;
    let shot = bench.fresh();
    let answers = join_all((0..bench.probe.at_once).map(|_| bench.target.send(&shot))).await;
    // A connection that is refused in the crowd is no mistake of what is probed here.
    let finals: Vec<Answer> = answers.into_iter().flatten().filter(|answer| !may_be_retried(answer)).collect();
    let Final { answer, is_final } = bench.settle(&shot).await?;
    if !is_final {
        let patience = bench.probe.patience.as_secs_f64();
        return Ok(
            bench.fail(format!("there is no final answer after {patience} s, but {}", status(&answer)), &[&shot])
        );
    }
    // Counted first: two effects say more than two answers.
    let verdict = once(bench, before, &[&shot, &shot]).await?;
    let difference = finals.iter().find_map(|one| difference(one, &answer));
    Ok(match (verdict, difference) {
        (Verdict::Pass(_), Some(difference)) => {
            bench.fail(format!("the answers differ: {difference}"), &[&shot, &shot])
        }
        (verdict, _) => verdict,
    })
}

pub(super) async fn other_body(bench: &Bench) -> Result<Verdict, Trouble> {
    let Some(body) = bench.probe.other_body.clone().or_else(|| another(&bench.probe.body)) else {
        return Err("the body is no JSON with a number or a text to change: give another one by --other-body"
            .to_owned()
            .into());
    };
    let before = bench.count().await?;
    let shot = bench.fresh();
    let other = Shot { body, ..shot.clone() };
    let first = bench.send(&shot).await?;
    let refused = bench.send(&other).await?;
    let shots = [&shot, &other];
    if succeeds(&refused) {
        let found = match bench.is_replay(&first, &refused) {
            Some(true) => "it got the answer of the other request",
            Some(false) => "it ran",
            None => "it was answered with success",
        };
        return Ok(bench.fail(format!("{found}: {} instead of a refusal", status(&refused)), &shots));
    }
    if !is_refused(&refused) {
        return Ok(
            bench.fail(format!("{} instead of a refusal (422 in the draft, 400 at Stripe)", status(&refused)), &shots)
        );
    }
    let again = bench.send(&shot).await?;
    if let Some(difference) = difference(&first, &again) {
        return Ok(bench.fail(format!("after the refusal, the first request has another answer: {difference}"), &shots));
    }
    once(bench, before, &shots).await
}

pub(super) async fn two_callers(bench: &Bench) -> Result<Verdict, Trouble> {
    let Some(caller) = bench.probe.other_caller.clone() else {
        return Err("give the header of another caller by --other-caller".to_owned().into());
    };
    let shot = bench.fresh();
    let other = Shot { header: Some(caller), ..shot.clone() };
    let first = bench.send(&shot).await?;
    let second = bench.send(&other).await?;
    Ok(match (succeeds(&second), bench.is_replay(&first, &second)) {
        (_, Some(true)) => bench.fail("the second caller got the answer of the first", &[&shot, &other]),
        (false, _) if second.status().is_server_error() => bench.fail(status(&second).to_string(), &[&shot, &other]),
        (true, None) => return Err("all answers are alike, so it cannot be told whose one is".to_owned().into()),
        _ => Verdict::Pass(String::new()),
    })
}

pub(super) async fn after_error(bench: &Bench) -> Result<Verdict, Trouble> {
    if bench.probe.body.len() < 2 {
        return Err("there is no body to break".to_owned().into());
    }
    let before = bench.count().await?;
    let shot = bench.fresh();
    let broken = Shot { body: bench.probe.body.slice(..bench.probe.body.len() / 2), ..shot.clone() };
    let first = bench.send(&broken).await?;
    if succeeds(&first) {
        return Err(format!("half of the body is accepted, with {}", status(&first)).into());
    }
    let second = bench.send(&broken).await?;
    if first.status() != second.status() {
        let found = format!("a broken body is answered with {}, and again with {}", status(&first), status(&second));
        return Ok(bench.fail(found, &[&broken, &broken]));
    }
    let whole = bench.settle(&shot).await?;
    if !whole.is_final || whole.answer.status().is_server_error() {
        let found = format!("after a broken body, the key is of no use: {}", status(&whole.answer));
        return Ok(bench.fail(found, &[&broken, &shot]));
    }
    let expected = i64::from(succeeds(&whole.answer));
    Ok(match bench.since(before).await? {
        Some(effects) if effects != expected => {
            bench.fail(format!("it took effect {effects} times instead of {expected}"), &[&broken, &shot])
        }
        _ => bench.passed(),
    })
}

pub(super) async fn replay_headers(bench: &Bench) -> Result<Verdict, Trouble> {
    let shot = bench.fresh();
    let first = bench.send(&shot).await?;
    let again = bench.send(&shot).await?;
    if again.headers().contains_key(SET_COOKIE) {
        return Ok(bench.fail("the replay sets a cookie", &[&shot, &shot]));
    }
    for name in [CONTENT_TYPE, LOCATION, ETAG] {
        if first.headers().get(&name) != again.headers().get(&name) {
            return Ok(bench.fail(format!("the replay has another {name}"), &[&shot, &shot]));
        }
    }
    Ok(Verdict::Pass(String::new()))
}

pub(super) async fn replay_marked(bench: &Bench) -> Result<Verdict, Trouble> {
    let shot = bench.fresh();
    let first = bench.send(&shot).await?;
    let again = bench.send(&shot).await?;
    Ok(if is_marked(&first) {
        bench.fail("the first answer says that it is a replay", &[&shot])
    } else if !is_marked(&again) {
        bench.fail("the replay does not say so", &[&shot, &shot])
    } else {
        Verdict::Pass(String::new())
    })
}

pub(super) async fn http2(bench: &Bench) -> Result<Verdict, Trouble> {
    let before = bench.count().await?;
    let shot = bench.fresh();
    let first = bench.send(&shot).await?;
    let Some(again) = bench.target.send_by_http2(&shot).await? else {
        return Err("the service does not speak HTTP/2 here".to_owned().into());
    };
    if let Some(difference) = difference(&first, &again) {
        return Ok(bench.fail(format!("the answer by HTTP/2 is not the first: {difference}"), &[&shot, &shot]));
    }
    once(bench, before, &[&shot, &shot]).await
}
