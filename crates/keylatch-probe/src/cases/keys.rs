//! Keys that are missing, empty, overlong or odd.

use keylatch_core::Key;

use super::repeat::once;
use super::{Bench, Trouble, difference, is_refused, status, succeeds};
use crate::report::Verdict;
use crate::target::Shot;

pub(super) async fn no_key(bench: &Bench) -> Result<Verdict, Trouble> {
    let before = bench.count().await?;
    let shot = Shot { key: None, ..bench.fresh() };
    let first = bench.send(&shot).await?;
    if is_refused(&first) {
        return Ok(Verdict::Pass(format!("refused with {}", status(&first))));
    }
    let second = bench.send(&shot).await?;
    if !succeeds(&first) || !succeeds(&second) {
        let found = format!("{} and {} instead of a refusal", status(&first), status(&second));
        return Ok(bench.fail(found, &[&shot, &shot]));
    }
    let shared = match bench.since(before).await? {
        Some(effects) => effects < 2,
        None => bench.is_replay(&first, &second) == Some(true),
    };
    Ok(if shared {
        bench.fail("two requests without a key share an answer", &[&shot, &shot])
    } else {
        Verdict::Pass("accepted: each takes effect".to_owned())
    })
}

pub(super) async fn empty_key(bench: &Bench) -> Result<Verdict, Trouble> {
    let before = bench.count().await?;
    let shot = bench.with_key(b"");
    let first = bench.send(&shot).await?;
    if is_refused(&first) {
        return Ok(Verdict::Pass(format!("refused with {}", status(&first))));
    }
    let second = bench.send(&shot).await?;
    let found = match bench.since(before).await? {
        Some(1) => "all requests with an empty key share one answer".to_owned(),
        Some(effects) => format!("it is taken for no key: two requests took effect {effects} times"),
        None => format!("{} and {} instead of a refusal", status(&first), status(&second)),
    };
    Ok(bench.fail(found, &[&shot, &shot]))
}

/// Longer than any service allows: Stripe's limit is 255.
const LONG: usize = 300;

pub(super) async fn long_key(bench: &Bench) -> Result<Verdict, Trouble> {
    let before = bench.count().await?;
    let mut key = Key::random().as_str().repeat(LONG / 36 + 1).into_bytes();
    key.truncate(LONG);
    let shot = bench.with_key(&key);
    key[LONG - 1] ^= 1;
    let sibling = bench.with_key(&key);
    let first = bench.send(&shot).await?;
    if is_refused(&first) {
        return Ok(Verdict::Pass(format!("refused with {}", status(&first))));
    }
    if !succeeds(&first) {
        return Ok(bench.fail(format!("{} instead of a refusal", status(&first)), &[&shot]));
    }
    let other = bench.send(&sibling).await?;
    let again = bench.send(&shot).await?;
    let is_cut = match bench.since(before).await? {
        Some(effects) => effects == 1,
        None => bench.is_replay(&first, &other) == Some(true),
    };
    if is_cut {
        return Ok(bench.fail("two long keys that differ at their end are one key", &[&shot, &sibling]));
    }
    if let Some(difference) = difference(&first, &again) {
        return Ok(bench.fail(format!("a long key is no key: {difference}"), &[&shot, &shot]));
    }
    Ok(Verdict::Pass(format!("a key of {LONG} characters works")))
}

pub(super) async fn odd_key(bench: &Bench) -> Result<Verdict, Trouble> {
    let id = Key::random();
    let odd: [(&str, &[u8]); 3] = [
        ("punctuation", br"!#$%&'()*+,-./:;<=>?@[]^_`{|}~"),
        ("a space", b"a b"),
        ("bytes outside ASCII", b"\xc3\xa9\xff"),
    ];
    for (what, bytes) in odd {
        let before = bench.count().await?;
        let shot = bench.with_key(&[id.as_str().as_bytes(), bytes].concat());
        let first = bench.send(&shot).await?;
        let second = bench.send(&shot).await?;
        if is_refused(&first) && is_refused(&second) {
            continue;
        }
        if let Some(difference) = difference(&first, &second) {
            let found = format!("a key with {what} is not kept: {difference}");
            return Ok(bench.fail(found, &[&shot, &shot]));
        }
        if !succeeds(&first) {
            let found = format!("a key with {what} is answered with {}", status(&first));
            return Ok(bench.fail(found, &[&shot]));
        }
        if let failed @ Verdict::Fail { .. } = once(bench, before, &[&shot, &shot]).await? {
            return Ok(failed);
        }
    }
    Ok(bench.passed())
}

pub(super) async fn key_case(bench: &Bench) -> Result<Verdict, Trouble> {
    let before = bench.count().await?;
    let key = Key::random();
    let (lower, upper) = (format!("{}-probe", key.as_str()), format!("{}-PROBE", key.as_str()));
    let (lower, upper) = (bench.with_key(lower.as_bytes()), bench.with_key(upper.as_bytes()));
    let first = bench.send(&lower).await?;
    let second = bench.send(&upper).await?;
    let is_one = match bench.since(before).await? {
        Some(effects) => effects < 2,
        None => bench.is_replay(&first, &second) == Some(true),
    };
    Ok(if is_one || !succeeds(&second) {
        let found = format!("the second key is taken for the first: {}", status(&second));
        bench.fail(found, &[&lower, &upper])
    } else {
        bench.passed()
    })
}
