//! The log is written back without stopping anyone, and does not grow without limit.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, mpsc};

use futures_util::future::join_all;
use keylatch::Guarantee;
use keylatch::sqlite::{Options, TxError};
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

/// How far a test has written, and how many reads have begun.
#[derive(Default)]
struct Progress {
    state: Mutex<(usize, usize)>,
    changed: Condvar,
}

impl Progress {
    fn wrote(&self, claims: usize) {
        self.state.lock().unwrap().0 += claims;
        self.changed.notify_all();
    }

    /// Reads until another read has begun, or this much is written.
    fn read_until_another_has_begun(&self, claims: usize) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.changed.notify_all();
        let (written, begun) = *state;
        let goes_on = |state: &mut (usize, usize)| state.1 == begun && state.0 < written + claims;
        drop(self.changed.wait_while(state, goes_on).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn staggered_reads_do_not_keep_the_log_from_starting_anew() {
    let fixture = Fixture::with(Options::default().with_checkpoint_pages(CHECKPOINT_PAGES).with_query_threads(2)).await;
    let progress = Arc::new(Progress::default());
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (store, progress) = (fixture.store.clone(), progress.clone());
            tokio::spawn(async move {
                loop {
                    let progress = progress.clone();
                    let read = store.query(move |db| {
                        db.query_row("SELECT count(*) FROM keylatch_record", [], |row| row.get::<_, i64>(0))?;
                        progress.read_until_another_has_begun(160);
                        Ok(())
                    });
                    read.await.unwrap();
                }
            })
        })
        .collect();
    let mut starts = BTreeSet::new();
    let mut pages_max = 0;
    for _ in 0..100 {
        write_without_pause(&fixture, 160).await;
        progress.wrote(160);
        starts.insert(fixture.log().salt());
        pages_max = pages_max.max(log_pages(&fixture));
    }
    readers.iter().for_each(tokio::task::JoinHandle::abort);
    progress.wrote(1_000);
    assert!(starts.len() >= 3, "the log started anew {} times", starts.len());
    let limit = 50 * usize::try_from(CHECKPOINT_PAGES).unwrap();
    assert!(pages_max < limit, "the log had {pages_max} pages");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_under_which_the_log_comes_to_its_limit_is_interrupted() {
    let options = Options::default().with_checkpoint_pages(CHECKPOINT_PAGES).with_log_pages_max(4 * CHECKPOINT_PAGES);
    let fixture = Fixture::with(options).await;
    fixture.win(&claim(Guarantee::Fenced)).await;
    let store = fixture.store.clone();
    let endless = tokio::spawn(async move {
        let sql = "WITH RECURSIVE n (n) AS (SELECT epoch FROM keylatch_record UNION ALL SELECT n + 1 FROM n)
                   SELECT count(*) FROM n WHERE n < 0";
        store.query(move |db| db.query_row(sql, [], |row| row.get::<_, i64>(0))).await
    });
    let mut written = 0;
    while !endless.is_finished() {
        write_without_pause(&fixture, 160).await;
        written += 160;
        assert!(written < 1_000_000, "it is not interrupted");
    }
    let error = endless.await.unwrap().unwrap_err();
    assert!(matches!(error, TxError::LogTooLong), "{error}");
    let salt = fixture.log().salt();
    while fixture.log().salt() == salt {
        write_without_pause(&fixture, 160).await;
        written += 160;
        assert!(written < 1_000_000, "the log does not start anew");
    }
    fixture.store.query(|db| db.query_row("SELECT 1", [], |row| row.get::<_, i64>(0))).await.unwrap();
}
