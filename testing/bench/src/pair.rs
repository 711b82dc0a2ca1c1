//! Claim and completion of a key, which the benchmarks of a store count.

use keylatch::machine::{Claim, Claimed, Completion};
use keylatch::store::{Applied, Store};
use keylatch::{Fingerprint, Guarantee, Key, Lease, Outcome, Policy, Scope};

use crate::Result;
use crate::connection::{KEY_PREFIX, ORDER};

/// The operation of all their scopes.
pub(crate) const OPERATION: &str = "POST /api/orders";

/// Claims and completes a new key.
pub(crate) async fn pair(store: &impl Store, user: &str, number: u64, policy: &Policy) -> Result<()> {
    let lease = claim(store, user, number, policy).await?;
    complete(store, lease, policy).await
}

pub(crate) async fn claim(store: &impl Store, user: &str, number: u64, policy: &Policy) -> Result<Lease> {
    let claim = Claim::new(
        Scope::new(user)?.for_operation(OPERATION)?,
        Key::new(&format!("{KEY_PREFIX}{number:016x}"))?,
        Fingerprint::from_bytes([7; 32]),
        Guarantee::Fenced,
        policy,
    );
    match store.claim(claim).await?.value {
        Claimed::Won(record) => Ok(record.lease()),
        Claimed::Held(_) => Err("a new key is held".into()),
    }
}

pub(crate) async fn complete(store: &impl Store, lease: Lease, policy: &Policy) -> Result<()> {
    match store.complete(lease, Completion::new(Outcome::bytes(ORDER), policy)).await? {
        Applied::Applied(_) => Ok(()),
        Applied::Lost => Err("a lease is lost".into()),
    }
}
