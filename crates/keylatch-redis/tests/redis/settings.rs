//! What the store requires of a server, and what it says about it.

use std::time::Duration;

use keylatch::machine::{Claim, Claimed};
use keylatch::redis::{Cache, ConnectError, Options, Store};
use keylatch::store::{Durability, ErrorKind, Inspect as _, Owner, PageRequest, State, Store as _, Sweep as _};
use keylatch::tiered::Cache as _;
use testing_support::eventually;
use testing_support::redis::{Config, Server};

use crate::support::{FREE, applied, claim, completed, completion, connect, connect_with, win};

#[tokio::test]
async fn a_server_that_evicts_is_refused_unless_allowed() {
    for policy in ["allkeys-lru", "volatile-ttl"] {
        let server = Server::start(Config::new().with("maxmemory-policy", policy));
        let refused = Store::connect(&server.url()).await;
        assert!(matches!(refused, Err(ConnectError::Eviction { .. })), "{refused:?}");
        let store = connect_with(&server, Options::default().allow_eviction()).await;
        completed(&store, "key").await;
    }
}

#[tokio::test]
async fn durability_is_what_the_server_is_set_to() {
    let every_second = Server::start(Config::new());
    assert_eq!(connect(&every_second).await.durability(), Durability::Replica);
    let always = Server::start(Config::new().with("appendfsync", "always"));
    assert_eq!(connect(&always).await.durability(), Durability::Disk);
    let never = Server::start(Config::new().with("appendonly", "no").with("appendfsync", "always"));
    assert_eq!(connect(&never).await.durability(), Durability::Replica);
    // It does not sync while a child process saves.
    let mostly = Server::start(Config::new().with("appendfsync", "always").with("no-appendfsync-on-rewrite", "yes"));
    assert_eq!(connect(&mostly).await.durability(), Durability::Replica);
}

/// Braces in the prefix would determine where a Cluster keeps a key.
#[tokio::test]
async fn a_prefix_with_braces_is_refused() {
    let server = Server::start(Config::new());
    for prefix in ["{}", "a{b}c", "a{", "}"] {
        let refused = Store::connect_with(&server.url(), Options::default().with_prefix(prefix)).await;
        assert!(matches!(refused, Err(ConnectError::Prefix)), "{prefix}: {refused:?}");
    }
}

/// If a server is set to evict while it is in use, the store stops using it, and resumes when that is undone.
#[tokio::test]
async fn a_server_that_begins_to_evict_is_given_up() {
    const SOON: Duration = Duration::from_secs(20);
    let server = Server::start(Config::new());
    let options = Options::default().with_check_every(Duration::from_millis(10));
    let store = connect_with(&server, options.clone()).await;
    let allowed = connect_with(&server, options.with_prefix("allowed").allow_eviction()).await;
    completed(&store, "before").await;
    assert!(server.ask("CONFIG SET maxmemory-policy volatile-ttl").starts_with("+OK"));
    let probe = claim("probe");
    eventually(SOON, "it is given up", async || store.read(probe.id()).await.is_err()).await;
    let refused = store.claim(claim("new")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert!(refused.to_string().contains("volatile-ttl"), "{refused}");
    completed(&allowed, "key").await;
    assert!(server.ask("CONFIG SET maxmemory-policy noeviction").starts_with("+OK"));
    eventually(SOON, "it is used again", async || store.read(probe.id()).await.is_ok()).await;
    completed(&store, "after").await;
}

#[tokio::test]
async fn a_replica_is_refused() {
    let primary = Server::start(Config::new());
    let replica = Server::start(Config::new().with("replicaof", format!("127.0.0.1 {}", primary.port())));
    let refused = Store::connect(&replica.url()).await;
    assert!(matches!(refused, Err(ConnectError::Replica)), "{refused:?}");
}

/// The rights in the manual are enough, and no other rights are needed.
#[tokio::test]
async fn a_user_needs_few_rights() {
    let server = Server::start(Config::new());
    let rights = "on >secret ~orders:* +get +set +getrange +del +pexpiretime +sadd +srem +scard +smembers +sscan +zadd +zrem \
                  +zcount +zrangebyscore +scan +evalsha +eval +time +info";
    assert!(server.ask(&format!("ACL SETUSER keylatch {rights}")).starts_with("+OK"));
    let url = server.url().replace("redis://", "redis://keylatch:secret@");
    let store = Store::connect_with(&url, Options::default().with_prefix("orders")).await.unwrap();
    let record = completed(&store, "key").await;
    let page = store.list(PageRequest { limit: 10, ..PageRequest::default() }).await.unwrap().value.records;
    assert_eq!(page, std::slice::from_ref(&record));
    assert_eq!(store.count(record.scope, 10).await.unwrap().at_least(), 0, "nothing is counted by default");
    assert_eq!(store.sweep(10).await.unwrap().total(), 0);
    assert!(store.lapsed(None, 10).await.unwrap().value.records.is_empty());

    let freed = win(&store, &claim("freed")).await;
    applied(&store.release(freed.lease(), FREE).await);
    // Counting records needs a few more.
    let more = server.ask("ACL SETUSER keylatch +zcard +zremrangebyscore +pexpire");
    assert!(more.starts_with("+OK"));
    let counting = Store::connect_with(&url, Options::default().with_prefix("orders").with_counts()).await.unwrap();
    let counted = completed(&counting, "counted").await;
    assert_eq!(counting.count(counted.scope, 10).await.unwrap().at_least(), 1);

    let elsewhere = Store::connect_with(&url, Options::default().with_prefix("payments")).await.unwrap();
    assert_eq!(elsewhere.claim(claim("key")).await.unwrap_err().kind(), ErrorKind::Refused);
    let error = Store::connect(&url.replace("secret", "wrong")).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("wrong"), "a password is shown: {error:?}");
}

/// A cache needs fewer rights, on keys of its own.
#[tokio::test]
async fn a_cache_needs_fewer_rights() {
    let server = Server::start(Config::new());
    let record = completed(&connect(&server).await, "key").await;
    assert!(server.ask("ACL SETUSER cache on >secret ~orders-cache:* +get +set +info").starts_with("+OK"));
    let url = server.url().replace("redis://", "redis://cache:secret@");
    let cache = Cache::connect(&url, Options::default().with_prefix("orders")).await.unwrap();
    cache.keep(record.clone(), Duration::from_secs(60)).await.unwrap();
    assert_eq!(cache.find(record.id()).await.unwrap(), Some(record));
}

/// Wins a key whose lease ends at once, on a server that grants it for now.
async fn win_short(server: &Server, key: &str) -> Claim {
    assert!(server.ask("CONFIG SET maxmemory 0").starts_with("+OK"));
    let mut claim = claim(key);
    (claim.terms.lease, claim.terms.takeover) = (Duration::ZERO, Some(Duration::ZERO));
    win(&connect(server).await, &claim).await;
    assert!(server.ask("CONFIG SET maxmemory 1").starts_with("+OK"));
    claim
}

/// If the memory is full, nothing new begins, and outcomes of runs are still recorded.
#[tokio::test]
async fn a_full_server_takes_no_claims_and_every_outcome() {
    let server = Server::start(Config::new());
    let store = connect(&server).await;
    let (running, done) = (win(&store, &claim("running")).await, completed(&store, "done").await);
    assert!(server.ask("CONFIG SET maxmemory 1").starts_with("+OK"));

    assert_eq!(store.claim(claim("new")).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let terms = claim("running").terms;
    applied(&store.renew(running.lease(), terms, None).await);
    applied(&store.complete(running.lease(), completion("answer")).await);
    assert_eq!(store.read(done.id()).await.unwrap().value, Some(done.clone()));
    // An existing record is still replayed, or waited for.
    for (key, runs) in [("done", false), ("running", false)] {
        match store.claim(claim(key)).await.unwrap().value {
            Claimed::Held(record) => assert_eq!(matches!(record.state, State::Running { .. }), runs, "{key}"),
            won @ Claimed::Won(_) => panic!("{won:?}"),
        }
    }
    let page = PageRequest { limit: 10, ..PageRequest::default() };
    assert_eq!(store.list(page).await.unwrap().value.records.len(), 2, "the refused claim has left nothing");
    // Nor is a run taken over: that would be a beginning.
    let abandoned = win_short(&server, "abandoned").await;
    let taken = store.claim(Claim { owner: Owner::random(), ..abandoned.clone() }).await;
    assert_eq!(taken.unwrap_err().kind(), ErrorKind::Unavailable);

    assert!(server.ask("CONFIG SET maxmemory 0").starts_with("+OK"));
    win(&store, &claim("new")).await;
}
