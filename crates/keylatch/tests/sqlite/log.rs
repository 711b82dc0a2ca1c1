//! The log is written back without stopping anyone, and does not grow without end.

use std::collections::BTreeSet;
use std::sync::mpsc;

use futures_util::future::join_all;
use keylatch::Guarantee;
use keylatch::sqlite::Options;
use keylatch::store::Store as _;

use crate::support::{Fixture, Log, claim};

const CHECKPOINT_PAGES: u32 = 100;

async fn write_without_pause(fixture: &Fixture, claims: usize) {
    let callers = (0..16).map(|_| async {
        for _ in 0..claims / 16 {
            fixture.store.claim(claim(Guarantee::Fenced)).await.unwrap();
        }
    });
    join_all(callers).await;
}

fn log_pages(fixture: &Fixture) -> usize {
    let log = std::fs::metadata(fixture.directory.path().join("keylatch.db-wal")).unwrap().len();
    usize::try_from(log).unwrap() / Log::PAGE_BYTES
}

#[tokio::test]
async fn constant_writing_does_not_make_the_log_grow_without_end() {
    let fixture = Fixture::with(Options::default().with_checkpoint_pages(CHECKPOINT_PAGES)).await;
    let mut starts = BTreeSet::new();
    let mut pages_max = 0;
    for _ in 0..100 {
        write_without_pause(&fixture, 160).await;
        starts.insert(fixture.log().salt());
        pages_max = pages_max.max(log_pages(&fixture));
    }
    assert!(starts.len() >= 10, "the log started anew {} times", starts.len());
    let limit = 20 * usize::try_from(CHECKPOINT_PAGES).unwrap();
    assert!(pages_max < limit, "the log had {pages_max} pages");
}

#[tokio::test]
async fn after_a_long_read_the_log_gives_its_space_back() {
    let fixture = Fixture::with(Options::default().with_checkpoint_pages(CHECKPOINT_PAGES)).await;
    let (end, ended) = mpsc::channel::<()>();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let long = fixture.store.query(move |db| {
        db.query_row("SELECT count(*) FROM keylatch_record", [], |row| row.get::<_, i64>(0))?;
        begun.send(()).unwrap();
        ended.recv().unwrap();
        Ok(())
    });
    let writes = async {
        has_begun.await.unwrap();
        let salt = fixture.log().salt();
        let mut written = 0;
        while log_pages(&fixture) < 10 * usize::try_from(CHECKPOINT_PAGES).unwrap() {
            write_without_pause(&fixture, 160).await;
            written += 160;
            assert!(written < 100_000, "the log does not grow under a read");
        }
        assert_eq!(fixture.log().salt(), salt, "what is being read stays");
        end.send(()).unwrap();
    };
    let (long, ()) = tokio::join!(long, writes);
    long.unwrap();
    let mut written = 0;
    while log_pages(&fixture) >= 5 * usize::try_from(CHECKPOINT_PAGES).unwrap() {
        write_without_pause(&fixture, 160).await;
        written += 160;
        assert!(written < 100_000, "the log keeps its {} pages", log_pages(&fixture));
    }
}
