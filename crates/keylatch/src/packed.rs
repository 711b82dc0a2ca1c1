//! An outcome's bytes at rest: as they are, or compressed. Shared by the stores that offer it.
//!
//! zstd, for it is fast in both directions and bodies of text shrink well; through the C library, for the encoders in
//! Rust alone are young. It needs a C compiler, as the SQLite store does.

use std::borrow::Cow;
use std::io;

use crate::{DecodeError, Outcome};

/// The first byte of a compressed outcome; that of one as it is names its format, which is a small number. The length of
/// what was compressed follows, in four bytes, the lowest first.
const COMPRESSED: u8 = b'z';
/// The first level: it is on the path of a request.
const LEVEL: i32 = 1;
/// The largest outcome that is unpacked: a value in PostgreSQL is no larger. What claims to be is damaged.
const UNPACKED_BYTES_MAX: usize = 1 << 30;

/// The bytes to store: compressed if they are at least `from_bytes`, and that makes them smaller.
pub(crate) fn pack(outcome: &Outcome, from_bytes: Option<usize>) -> Vec<u8> {
    let plain = outcome.encode();
    if from_bytes.is_none_or(|from_bytes| plain.len() < from_bytes) {
        return plain;
    }
    let (Ok(length), Ok(compressed)) = (u32::try_from(plain.len()), compress(&plain)) else {
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

/// With a checksum: a byte that has changed must not change the answer.
fn compress(plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
    compressor.include_checksum(true)?;
    compressor.compress(plain)
}

/// Reads what [`pack`] wrote, in this version or an earlier one.
pub(crate) fn unpack(packed: &[u8]) -> Result<Outcome, DecodeError> {
    let plain = match packed.split_first() {
        Some((&COMPRESSED, rest)) => {
            let (length, compressed) = rest.split_first_chunk().ok_or(DecodeError::Malformed)?;
            let length = u32::from_le_bytes(*length) as usize;
            if length > UNPACKED_BYTES_MAX {
                return Err(DecodeError::Malformed);
            }
            let plain = zstd::bulk::decompress(compressed, length).map_err(|_| DecodeError::Malformed)?;
            if plain.len() != length {
                return Err(DecodeError::Malformed);
            }
            Cow::Owned(plain)
        }
        _ => Cow::Borrowed(packed),
    };
    Outcome::decode(&plain)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let outcome = Outcome::bytes("{\"id\":1,\"total\":\"3.10\"}".repeat(60));
        let packed = pack(&outcome, Some(1_024));
        assert_eq!(packed[0], COMPRESSED);
        for end in 0..packed.len() {
            assert!(unpack(&packed[..end]).is_err(), "cut at {end}");
        }
        for at in 0..packed.len() * 8 {
            let mut damaged = packed.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            // A bit of the frame's header may say nothing.
            assert!(unpack(&damaged).is_ok_and(|read| read == outcome) || unpack(&damaged).is_err(), "bit {at}");
        }
        let mut bomb = packed;
        bomb[1..5].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(unpack(&bomb), Err(DecodeError::Malformed));
    }
}
