//! The names of keys: which of them belong together in one slot of a Cluster.

use std::sync::{Arc, LazyLock};

use crate::RecordId;

/// Into how many parts the records are divided, each with indexes of its own. Chosen by the key's half of an identity,
/// so that one busy scope is spread over all nodes of a Cluster. Part of the format.
pub(super) const BUCKETS: usize = 64;

/// The keys of one store.
#[derive(Debug, Clone)]
pub(super) struct Keys(Arc<[Bucket]>);

/// What the keys of one bucket are made of: the same for every call.
#[derive(Debug)]
struct Bucket {
    /// What a record's key begins with.
    records: Box<[u8]>,
    ids: Box<[u8]>,
    due: Box<[u8]>,
    leases: Box<[u8]>,
}

/// The keys of one record, in the order in which the scripts take them: its own, and its bucket's indexes.
pub(super) type RecordKeys<'k> = [&'k [u8]; 4];

/// An index of a bucket; its members are identities.
#[derive(Debug, Clone, Copy)]
pub(super) enum Index {
    /// Every record; the score is 0, so that they are in the order of their identities.
    Ids,
    /// Those that are completed, by when a sweep has something to do.
    Due,
    /// Those that are running, by when their lease ends.
    Leases,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self(TAGS.iter().map(|tag| Bucket::new(prefix, *tag)).collect())
    }

    /// The key of a record.
    pub(super) fn record(&self, id: RecordId) -> Vec<u8> {
        [&*self.0[bucket_of(id)].records, id.as_bytes()].concat()
    }

    /// The key `record` of a record, and those of the indexes that it stands in.
    pub(super) fn all<'k>(&'k self, id: RecordId, record: &'k [u8]) -> RecordKeys<'k> {
        let Bucket { ids, due, leases, .. } = &self.0[bucket_of(id)];
        [record, ids, due, leases]
    }

    /// The key of an index of a bucket.
    pub(super) fn index(&self, bucket: usize, index: Index) -> &[u8] {
        let bucket = &self.0[bucket];
        match index {
            Index::Ids => &bucket.ids,
            Index::Due => &bucket.due,
            Index::Leases => &bucket.leases,
        }
    }
}

impl Bucket {
    fn new(prefix: &str, tag: u32) -> Self {
        let key = |name: &str| format!("{prefix}:{{{tag}}}:{name}").into_bytes().into_boxed_slice();
        Self { records: key(""), ids: key("ids"), due: key("due"), leases: key("leases") }
    }
}

fn bucket_of(id: RecordId) -> usize {
    usize::from(id.as_bytes()[16]) % BUCKETS
}

/// For each bucket the lowest number whose slot lies in that bucket's part of the 16,384 slots: the buckets are spread
/// evenly over a Cluster whose nodes have equal ranges.
static TAGS: LazyLock<[u32; BUCKETS]> = LazyLock::new(|| {
    std::array::from_fn(|bucket| {
        let in_bucket = |tag: &u32| usize::from(slot_of(tag.to_string().as_bytes())) * BUCKETS / SLOTS == bucket;
        (0..).find(in_bucket).expect("every slot has a number")
    })
});

const SLOTS: usize = 16_384;

/// The slot of a hash tag: CRC-16/XMODEM modulo the number of slots (the Redis Cluster specification).
fn slot_of(tag: &[u8]) -> u16 {
    let mut crc = 0_u16;
    for byte in tag {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        }
    }
    crc % 16_384
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(slot_of(b"123456789"), 0x31c3);
    }

    #[test]
    fn buckets_are_spread_evenly_over_the_slots() {
        for (bucket, tag) in TAGS.iter().enumerate() {
            assert_eq!(usize::from(slot_of(tag.to_string().as_bytes())) / (SLOTS / BUCKETS), bucket);
        }
    }
}
