//! What the tests of the Redis store share.

use std::time::Duration;

use keylatch::machine::{Claim, Claimed, Completion, End};
use keylatch::redis::{Options, Store};
use keylatch::store::{Applied, Error, Store as _};
use keylatch::{Fingerprint, Guarantee, Key, Outcome, Policy, Record, Scope};
use testing_support::redis::Server;

/// It did not happen, and the epoch is kept for a while.
pub(crate) const FREE: End = End::Free(Duration::from_secs(600));

pub(crate) async fn connect(server: &Server) -> Store {
    Store::connect(&server.url()).await.expect("the server can be reached")
}

pub(crate) async fn connect_with(server: &Server, options: Options) -> Store {
    Store::connect_with(&server.url(), options).await.expect("the server can be reached")
}

pub(crate) fn claim(key: &str) -> Claim {
    claim_under(Guarantee::Fenced, key)
}

pub(crate) fn claim_under(guarantee: Guarantee, key: &str) -> Claim {
    let fingerprint = Fingerprint::of([b"request".as_slice()]);
    Claim::new(Scope::new("caller").unwrap(), Key::new(key).unwrap(), fingerprint, guarantee, &Policy::default())
}

pub(crate) fn completion(answer: &'static str) -> Completion {
    Completion::new(Outcome::bytes(answer), &Policy::default())
}

/// Claims, and wins.
pub(crate) async fn win(store: &Store, claim: &Claim) -> Record {
    match store.claim(claim.clone()).await.expect("the store claims").value {
        Claimed::Won(record) => record,
        Claimed::Held(record) => panic!("held by {record:?}"),
    }
}

/// Claims, completes, and returns the record.
pub(crate) async fn completed(store: &Store, key: &str) -> Record {
    let record = win(store, &claim(key)).await;
    applied(&store.complete(record.lease(), completion("answer")).await);
    store.read(record.id()).await.unwrap().value.expect("it is there")
}

pub(crate) fn applied(result: &Result<Applied, Error>) {
    assert!(matches!(result, Ok(Applied::Applied(_))), "{result:?}");
}
