//! Reading many records with little memory.

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use keylatch::Timestamp;
use keylatch::store::{At, Cursor, Page};

use super::records::RecordPage;
use super::{Error, PAGE, PAGE_MAX};
use crate::view::{Phase, RecordView, instant};

/// How many records are in memory at once, with their answers.
const CHUNK: usize = 64;
/// How many records one page looks at, to find those of a phase.
const LOOKED_AT_MAX: usize = 20_000;
/// How long it looks: an operator gets what was found by then, and where to go on.
const LOOKING_MAX: Duration = Duration::from_millis(500);

/// The size of a page.
pub(super) fn limit(asked: Option<u32>) -> Result<usize, Error> {
    match asked {
        None => Ok(PAGE as usize),
        Some(limit @ 1..=PAGE_MAX) => Ok(limit as usize),
        Some(_) => Err(Error::invalid("limit", format!("must be a number from 1 to {PAGE_MAX}"))),
    }
}

/// Where a list goes on.
pub(super) fn cursor(text: Option<&str>) -> Result<Option<Cursor>, Error> {
    text.map(str::parse).transpose().map_err(|_| Error::invalid("cursor", "must be `next` of the page before"))
}

/// Collects a page of records in `phase`, or in any, from the chunks that `read` gets.
pub(super) async fn collect<'s>(
    mut after: Option<Cursor>,
    limit: usize,
    phase: Option<Phase>,
    read: impl Fn(Option<Cursor>, usize) -> BoxFuture<'s, Result<At<Page>, keylatch::store::Error>>,
) -> Result<RecordPage, Error> {
    let started = Instant::now();
    let (mut records, mut looked_at) = (Vec::new(), 0);
    loop {
        let chunk = CHUNK.min(limit - records.len());
        let At { value: Page { records: found, next }, now } = read(after, chunk).await.map_err(Error::of_page)?;
        looked_at += found.len();
        records.extend(seen(&found, now, phase));
        after = next;
        let is_enough = records.len() >= limit || looked_at >= LOOKED_AT_MAX || started.elapsed() >= LOOKING_MAX;
        if after.is_none() || is_enough {
            return Ok(RecordPage { records, next: after.map(|next| next.to_string()), now: instant(now) });
        }
    }
}

fn seen(records: &[keylatch::Record], now: Timestamp, phase: Option<Phase>) -> impl Iterator<Item = RecordView> {
    let views = records.iter().map(move |record| RecordView::new(record, now));
    views.filter(move |view| phase.is_none_or(|phase| view.phase == phase))
}
