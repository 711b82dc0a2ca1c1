//! What is stored beside the records, when processes die at the worst moment: it decides nothing, no run is lost from
//! sight, and superfluous entries are removed.

use std::time::Duration;

use keylatch::redis::Options;
use keylatch::store::{Inspect as _, PageRequest, Store as _, Sweep as _};
use keylatch::{Guarantee, RecordId};
use testing_support::eventually;
use testing_support::redis::{Config, Server};

use crate::expiry::{key_of, raw};
use crate::support::{FREE, applied, claim, claim_under, completed, completion, connect, connect_with, win};

const SOON: Duration = Duration::from_secs(30);
/// Where a server keeps the running records: in the first bucket.
const RUNNING: &str = "keylatch:{10}:running";

async fn running(server: &Server) -> Vec<RecordId> {
    let ids: Vec<Vec<u8>> = redis::cmd("SMEMBERS").arg(RUNNING).query_async(&mut raw(server).await).await.unwrap();
    ids.into_iter().map(|id| RecordId::from_bytes(id.try_into().expect("an identity"))).collect()
}

async fn mark_running(server: &Server, id: RecordId) {
    let _: () = redis::cmd("SADD").arg(RUNNING).arg(id.as_bytes()).query_async(&mut raw(server).await).await.unwrap();
}

#[tokio::test]
async fn what_runs_is_known_and_what_has_ended_is_taken_out() {
    let server = Server::start(Config::new());
    let store = connect(&server).await;
    let record = win(&store, &claim("key")).await;
    assert_eq!(running(&server).await, [record.id()]);
    applied(&store.complete(record.lease(), completion("answer")).await);
    // With the next calls, or after a short time without calls.
    eventually(SOON, "it is taken out", async || running(&server).await.is_empty()).await;
    // A replay leaves nothing, either.
    let _held = store.claim(claim("key")).await.unwrap();
    eventually(SOON, "it is taken out", async || running(&server).await.is_empty()).await;
    // A run that was released is removed in the same step.
    let freed = win(&store, &claim("freed")).await;
    applied(&store.release(freed.lease(), FREE).await);
    assert!(!running(&server).await.contains(&freed.id()));
}

/// A process that died between marking its run and claiming its key has left an identity without a record.
#[tokio::test]
async fn an_identity_without_a_record_is_no_run() {
    for sweeps in [false, true] {
        let server = Server::start(Config::new());
        let store = connect(&server).await;
        let runs = win(&store, &claim("runs")).await;
        let never = claim("never").id();
        mark_running(&server, never).await;
        if sweeps {
            assert_eq!(store.sweep(10).await.unwrap().total(), 0);
        } else {
            assert!(store.lapsed(None, 10).await.unwrap().value.records.is_empty());
        }
        assert_eq!(running(&server).await, [runs.id()]);
    }
}

/// A process died before it removed the mark of a run that it had completed.
#[tokio::test]
async fn a_completed_run_that_is_still_written_down_is_no_run() {
    let server = Server::start(Config::new());
    let store = connect(&server).await;
    let record = completed(&store, "key").await;
    eventually(SOON, "it is taken out", async || running(&server).await.is_empty()).await;
    mark_running(&server, record.id()).await;
    assert!(store.lapsed(None, 10).await.unwrap().value.records.is_empty());
    assert!(running(&server).await.is_empty());
    assert_eq!(store.read(record.id()).await.unwrap().value, Some(record));
}

/// A value of a later version may be running: its mark stays, and the search reports why it ends there.
#[tokio::test]
async fn what_cannot_be_read_stays_written_down() {
    let server = Server::start(Config::new());
    let store = connect(&server).await;
    let record = win(&store, &claim("key")).await;
    let (key, mut raw) = (key_of(&server, &record).await, raw(&server).await);
    let _: () = redis::cmd("SETRANGE").arg(&key).arg(0).arg(b"\x03").query_async(&mut raw).await.unwrap();
    assert_eq!(store.sweep(10).await.unwrap().total(), 0);
    assert!(store.lapsed(None, 10).await.is_err());
    assert_eq!(running(&server).await, [record.id()]);
}

/// Another process finds an abandoned run, whatever happened to its owner.
#[tokio::test]
async fn another_process_finds_what_was_abandoned() {
    let server = Server::start(Config::new());
    let store = connect(&server).await;
    let mut abandoned = claim_under(Guarantee::AtMostOnce, "key");
    abandoned.terms.lease = Duration::ZERO;
    let record = win(&store, &abandoned).await;
    drop(store);
    let found = connect(&server).await.lapsed(None, 10).await.unwrap().value.records;
    assert_eq!(found.iter().map(keylatch::Record::id).collect::<Vec<_>>(), [record.id()]);
}

/// Records with other prefixes are not touched, even if a prefix is a pattern.
#[tokio::test]
async fn prefixes_that_match_each_other_share_nothing() {
    let server = Server::start(Config::new());
    let any = connect_with(&server, Options::default().with_prefix("*").with_counts()).await;
    let star = connect_with(&server, Options::default().with_prefix("a*").with_counts()).await;
    let plain = connect_with(&server, Options::default().with_prefix("ab").with_counts()).await;
    for (store, key) in [(&any, "any"), (&star, "star"), (&plain, "plain")] {
        completed(store, key).await;
    }
    for (store, key) in [(&any, "any"), (&star, "star"), (&plain, "plain")] {
        let page = store.list(PageRequest { limit: 10, ..PageRequest::default() }).await.unwrap().value.records;
        assert_eq!(page.iter().map(|record| record.key.as_str()).collect::<Vec<_>>(), [key]);
        assert_eq!(store.count(page[0].scope.clone(), 10).await.unwrap().at_least(), 1);
    }
}
