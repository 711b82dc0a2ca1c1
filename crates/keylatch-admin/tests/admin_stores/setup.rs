//! Stores, and what is in them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keylatch::machine::{Claim, Claimed, Completion};
use keylatch::store::{Applied, At, Store};
use keylatch::{Fingerprint, Guarantee, Key, Outcome, Policy, Record, Scope};
use keylatch_admin::{Actor, Operator, Role, Via};

/// How long something may take that happens soon.
pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) async fn sqlite(directory: &Path) -> keylatch::sqlite::Store {
    keylatch::sqlite::Store::open(directory.join("keylatch.db")).await.unwrap()
}

pub(crate) async fn postgres() -> keylatch::postgres::Store {
    let database = testing_support::postgres::shared::database().await;
    keylatch::postgres::Store::connect(&database).await.unwrap()
}

pub(crate) fn operator(store: impl Store) -> Operator {
    Operator::new(Arc::new(store))
}

pub(crate) fn who() -> Actor {
    Actor { name: "alice".to_owned(), role: Role::Operate, via: Via::Program }
}

/// A run that is dead at once: its lease is short.
pub(crate) async fn claim(store: &impl Store, key: &str, guarantee: Guarantee) -> Record {
    claim_for(store, key, guarantee, Duration::from_millis(keylatch::LEASE_MS_MIN)).await
}

pub(crate) async fn claim_for(store: &impl Store, key: &str, guarantee: Guarantee, lease: Duration) -> Record {
    let policy = Policy { lease, ..Policy::default() };
    let (scope, fingerprint) = (Scope::new("user-7").unwrap(), Fingerprint::of([key.as_bytes()]));
    match store.claim(Claim::new(scope, Key::new(key).unwrap(), fingerprint, guarantee, &policy)).await.unwrap() {
        At { value: Claimed::Won(record), .. } => record,
        held => panic!("{held:?}"),
    }
}

pub(crate) async fn complete(store: &impl Store, record: &Record, outcome: Outcome) {
    let completion = Completion::new(outcome, &Policy::default());
    assert!(matches!(store.complete(record.lease(), completion).await.unwrap(), Applied::Applied(_)));
}
