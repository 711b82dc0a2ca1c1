//! Tests of the index, and the conformance suite.

use futures_util::FutureExt as _;

use super::*;
use crate::store::Store as _;
use crate::{Fingerprint, Guarantee, Key, Outcome, Policy};

fn claimed(store: &Store, scope: &Scope, key: usize) -> Record {
    let key = Key::new(&key.to_string()).unwrap();
    let fingerprint = Fingerprint::of([b"request".as_slice()]);
    let claim = Claim::new(scope.clone(), key, fingerprint, Guarantee::Fenced, &Policy::default());
    match store.claim(claim).now_or_never().unwrap().unwrap().value {
        Claimed::Won(record) => record,
        Claimed::Held(record) => panic!("held: {record:?}"),
    }
}

#[test]
fn sweeps_find_what_is_due_after_every_write() {
    let clock = Clock::manual(Timestamp::from_millis(0));
    let store = Store::with_clock(clock.clone());
    let scope = Scope::new("caller").unwrap();
    let policy = Policy::default();
    let records: Vec<_> = (0..400).map(|key| claimed(&store, &scope, key)).collect();
    for (at, record) in records.iter().enumerate() {
        let lease = record.lease();
        let applied = match at % 4 {
            0 => store.complete(lease, Completion::new(Outcome::bytes("answer"), &policy)),
            1 => store.release(lease, End::Free(Duration::ZERO)),
            2 => store.release(lease, End::Unknown),
            _ => store.renew(lease, Terms::of(Guarantee::Fenced, &policy), None),
        };
        assert_eq!(applied.now_or_never().unwrap().unwrap(), Applied::Applied(clock.now()));
    }
    clock.advance(policy.retention);
    let swept = |limit| store.sweep(limit).now_or_never().unwrap().unwrap();
    assert_eq!(swept(30), Swept { tombstoned: 30, removed: 0, more: true });
    assert_eq!(swept(1_000), Swept { tombstoned: 70, removed: 0, more: false });
    clock.advance(policy.tombstone + policy.lease);
    assert_eq!(swept(1_000), Swept { tombstoned: 0, removed: 200, more: false });
    let unknown = store.count(scope, u64::MAX).now_or_never().unwrap().unwrap();
    assert_eq!(unknown, Count::Exactly(100), "what is not known is kept");
    clock.advance(Duration::from_secs(u32::MAX.into()));
    assert_eq!(swept(1_000), Swept::default());
    assert!(store.records.lock().due.is_empty());
}

/// The harness is in here, for only here a record can be put where it does not belong.
#[cfg(feature = "conformance")]
mod conformance {
    use super::*;
    use crate::conformance::{CASES, Harness};

    struct Memory {
        clock: Clock,
        store: Store,
    }

    impl Memory {
        fn new() -> Self {
            let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
            Self { store: Store::with_clock(clock.clone()), clock }
        }
    }

    impl Harness for Memory {
        fn store(&self) -> Arc<dyn crate::store::Store> {
            Arc::new(self.store.clone())
        }

        fn connect(&self) -> BoxFuture<'_, Arc<dyn crate::store::Store>> {
            Box::pin(async { self.store() })
        }

        fn restart(&self) -> BoxFuture<'_, Arc<dyn crate::store::Store>> {
            Box::pin(async { Arc::new(Store::with_clock(self.clock.clone())) as Arc<dyn crate::store::Store> })
        }

        fn advance(&self, by: Duration) -> BoxFuture<'_, ()> {
            Box::pin(async move { self.clock.advance(by) })
        }

        fn misplace(&self, from: RecordId, to: RecordId) -> BoxFuture<'_, ()> {
            Box::pin(async move {
                let mut records = self.store.records.lock();
                let record = records.by_id.get(&from).map(|record| (**record).clone());
                records.write(to, record.expect("there is a record to misplace"));
            })
        }
    }

    crate::conformance!(Memory::new());

    #[test]
    fn the_suite_is_whole() {
        assert!(CASES.len() >= 60, "{} cases", CASES.len());
    }
}
