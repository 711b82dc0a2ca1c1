//! An outcome's bytes at rest: as they are, or compressed.
//!
//! zstd, for it is fast in both directions and bodies of text shrink well; through the C library, for the encoders in
//! Rust alone are young. It needs a C compiler, as the SQLite store does.

use std::borrow::Cow;

use super::error::Fault;
use super::rows::damaged;
use crate::{DecodeError, Outcome};

/// The first byte of a compressed outcome; that of one as it is names its format, which is a small number. The length of
/// what was compressed follows, in four bytes, the lowest first.
const COMPRESSED: u8 = b'z';
/// The first level: it is on the path of a request.
const LEVEL: i32 = 1;
/// The largest outcome that is unpacked: PostgreSQL has no larger value.
const UNPACKED_BYTES_MAX: usize = 1 << 30;

/// The bytes to store: compressed if they are at least `from_bytes`, and that makes them smaller.
pub(super) fn pack(outcome: &Outcome, from_bytes: Option<usize>) -> Vec<u8> {
    let plain = outcome.encode();
    if from_bytes.is_none_or(|from_bytes| plain.len() < from_bytes) {
        return plain;
    }
    let (Ok(length), Ok(compressed)) = (u32::try_from(plain.len()), zstd::bulk::compress(&plain, LEVEL)) else {
        return plain;
    };
    if compressed.len() + 5 >= plain.len() {
        return plain;
    }
    let mut packed = Vec::with_capacity(compressed.len() + 5);
    packed.push(COMPRESSED);
    packed.extend(length.to_le_bytes());
    packed.extend(compressed);
    packed
}

/// Reads what [`pack`] wrote, in this version or an earlier one.
pub(super) fn unpack(packed: &[u8]) -> Result<Outcome, Fault> {
    let plain = match packed.split_first() {
        Some((&COMPRESSED, rest)) => {
            let (length, compressed) = rest.split_first_chunk().ok_or(DecodeError::Malformed)?;
            let length = u32::from_le_bytes(*length) as usize;
            if length > UNPACKED_BYTES_MAX {
                return Err(DecodeError::Malformed.into());
            }
            let plain = zstd::bulk::decompress(compressed, length).map_err(|error| damaged(error.to_string()))?;
            if plain.len() != length {
                return Err(DecodeError::Malformed.into());
            }
            Cow::Owned(plain)
        }
        _ => Cow::Borrowed(packed),
    };
    Ok(Outcome::decode(&plain)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ErrorKind;

    #[test]
    fn what_is_long_is_compressed_and_comes_back() {
        for length in [0, 1, 1_000, 1_024, 100_000] {
            let outcome = Outcome::bytes("{\"id\":1}".repeat(length));
            let packed = pack(&outcome, Some(1_024));
            assert_eq!(packed[0] == COMPRESSED, length >= 1_000, "{length}");
            assert!(packed.len() < 9_000);
            assert_eq!(unpack(&packed).unwrap(), outcome);
        }
    }

    #[test]
    fn what_gains_nothing_or_is_not_to_be_compressed_stays() {
        let noise: Vec<u8> = (0u32..5_000).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let noise = Outcome::bytes(crate::Fingerprint::of([noise.as_slice()]).as_bytes().to_vec());
        assert_eq!(pack(&noise, Some(0)), noise.encode());
        let text = Outcome::bytes("x".repeat(5_000));
        assert_eq!(pack(&text, None), text.encode());
    }

    #[test]
    fn stored_bytes_stay_readable() {
        let outcome = Outcome::bytes("0".repeat(2_000));
        let stored = b"z\xd7\x07\0\0(\xb5/\xfd`\xd7\x06}\0\0@\x01\xc8\x01\0\0\xd0\x0f0\x01\0\xcc\xff\x80\x0b";
        assert_eq!(unpack(stored).unwrap(), outcome);
    }

    #[test]
    fn damaged_bytes_are_an_error() {
        let packed = pack(&Outcome::bytes("{\"id\":1}".repeat(1_000)), Some(1_024));
        for end in 0..packed.len() {
            assert_eq!(unpack(&packed[..end]).unwrap_err().kind, ErrorKind::Corrupt, "cut at {end}");
        }
        let mut longer = packed.clone();
        longer[1] ^= 1;
        assert_eq!(unpack(&longer).unwrap_err().kind, ErrorKind::Corrupt);
        let mut bomb = packed;
        bomb[1..5].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(unpack(&bomb).unwrap_err().kind, ErrorKind::Corrupt);
    }
}
