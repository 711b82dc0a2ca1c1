//! The names of keys, and which of them share a slot of a Cluster.

use std::sync::{Arc, LazyLock};

use keylatch_core::RecordId;

/// The number of parts into which the records are divided. The key's half of an identity chooses the part, so a busy
/// scope is spread over all nodes of a Cluster. This number is part of the format.
pub(super) const BUCKETS: usize = 64;

/// The keys of one store.
#[derive(Debug, Clone)]
pub(super) struct Keys(Arc<Names>);

#[derive(Debug)]
struct Names {
    /// What `SCAN` matches.
    pattern: Vec<u8>,
    buckets: Box<[Bucket]>,
}

/// The constant parts of one bucket's keys.
#[derive(Debug)]
struct Bucket {
    /// The prefix of a record's key.
    records: Box<[u8]>,
    running: Box<[u8]>,
    due: Box<[u8]>,
    /// The prefix of the key of a scope's records.
    scopes: Box<[u8]>,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        let buckets = TAGS.iter().map(|tag| Bucket::new(prefix, *tag)).collect();
        Self(Arc::new(Names { pattern: pattern(prefix), buckets }))
    }

    /// The key of a record.
    pub(super) fn record(&self, id: RecordId) -> Vec<u8> {
        [&*self.0.buckets[bucket_of(id)].records, id.as_bytes()].concat()
    }

    /// The identity of the record with this key; `None` if it is not a record's key.
    pub(super) fn id_of(&self, key: &[u8]) -> Option<RecordId> {
        let id = RecordId::from_bytes(*key.last_chunk()?);
        (self.record(id) == key).then_some(id)
    }

    /// A pattern that matches the keys of all records, and others.
    pub(super) fn pattern(&self) -> &[u8] {
        &self.0.pattern
    }

    /// The set of running records.
    pub(super) fn running(&self, bucket: usize) -> &[u8] {
        &self.0.buckets[bucket].running
    }

    /// The sorted set of long answers, by when they are to be removed.
    pub(super) fn due(&self, bucket: usize) -> &[u8] {
        &self.0.buckets[bucket].due
    }

    /// The sorted set of a scope's records, by when they end.
    pub(super) fn scope(&self, bucket: usize, scope: [u8; 16]) -> Vec<u8> {
        [&*self.0.buckets[bucket].scopes, &scope].concat()
    }
}

impl Bucket {
    fn new(prefix: &str, tag: u32) -> Self {
        let key = |name: &str| format!("{prefix}:{{{tag}}}:{name}").into_bytes().into_boxed_slice();
        Self { records: key(""), running: key("running"), due: key("due"), scopes: key("s:") }
    }
}

/// A pattern for the keys that begin with `prefix`, with the special characters of `SCAN` escaped.
fn pattern(prefix: &str) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(prefix.len() + 8);
    for byte in prefix.bytes() {
        if matches!(byte, b'*' | b'?' | b'[' | b']' | b'^' | b'\\') {
            pattern.push(b'\\');
        }
        pattern.push(byte);
    }
    pattern.extend(b":{*}:*");
    pattern
}

pub(super) fn bucket_of(id: RecordId) -> usize {
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
    fn the_key_of_a_record_names_it_and_no_other_key_does() {
        let keys = Keys::new("a*b");
        for byte in 0..=u8::MAX {
            let id = RecordId::from_bytes([byte; 32]);
            assert_eq!(keys.id_of(&keys.record(id)), Some(id));
            assert_eq!(keys.id_of(&keys.record(id)[1..]), None);
        }
        assert_eq!(keys.id_of(keys.running(0)), None);
        assert_eq!(keys.id_of(&keys.scope(0, [0; 16])), None);
        assert_eq!(keys.pattern(), b"a\\*b:{*}:*");
    }

    #[test]
    fn buckets_are_spread_evenly_over_the_slots() {
        for (bucket, tag) in TAGS.iter().enumerate() {
            assert_eq!(usize::from(slot_of(tag.to_string().as_bytes())) / (SLOTS / BUCKETS), bucket);
        }
    }
}
