//! What the store asks of a server, and says about it.

use keylatch::redis::{ConnectError, Options, Store};
use keylatch::store::{Durability, ErrorKind, Store as _};
use testing_support::redis::{Config, Server};

use crate::support::{applied, claim, completed, completion, connect, connect_with, win};

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
}

#[tokio::test]
async fn a_replica_is_refused() {
    let primary = Server::start(Config::new());
    let replica = Server::start(Config::new().with("replicaof", format!("127.0.0.1 {}", primary.port())));
    let refused = Store::connect(&replica.url()).await;
    assert!(matches!(refused, Err(ConnectError::Replica)), "{refused:?}");
}

/// The rights that the manual asks for are enough, and no others.
#[tokio::test]
async fn a_user_needs_few_rights() {
    let server = Server::start(Config::new());
    let rights = "on >secret ~orders:* +get +set +getrange +setrange +del +zadd +zrem +zrangebyscore \
                  +zrangebylex +zlexcount +evalsha +eval +time +info";
    assert!(server.ask(&format!("ACL SETUSER keylatch {rights}")).starts_with("+OK"));
    let url = server.url().replace("redis://", "redis://keylatch:secret@");
    let store = Store::connect_with(&url, Options::default().with_prefix("orders")).await.unwrap();
    let record = completed(&store, "key").await;
    let page = store.list(keylatch::store::PageRequest { limit: 10, ..Default::default() }).await.unwrap().value;
    assert_eq!(page, std::slice::from_ref(&record));
    assert_eq!(store.count(record.scope, 10).await.unwrap(), 1);
    assert_eq!(store.sweep(10).await.unwrap().total(), 0);
    assert!(store.lapsed(None, 10).await.unwrap().value.is_empty());

    let elsewhere = Store::connect_with(&url, Options::default().with_prefix("payments")).await.unwrap();
    assert_eq!(elsewhere.claim(claim("key")).await.unwrap_err().kind(), ErrorKind::Refused);
    let error = Store::connect(&url.replace("secret", "wrong")).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("wrong"), "a password is shown: {error:?}");
}

/// When the memory is full, nothing new begins, and what has taken effect is still recorded.
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
    assert_eq!(store.count(done.scope, 10).await.unwrap(), 2, "the refused claim has left nothing");

    assert!(server.ask("CONFIG SET maxmemory 0").starts_with("+OK"));
    win(&store, &claim("new")).await;
}
