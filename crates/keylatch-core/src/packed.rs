//! An outcome's stored bytes, plain or compressed. A store always reads both.
//!
//! zstd, because it is fast in both directions and text shrinks well; through the C library, because the encoders in
//! pure Rust are young. It needs a C compiler, like the SQLite store.
//!
//! A version of Keylatch without compression reads the first byte as an unknown format and refuses to answer; it does
//! not run the request again.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io;

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::get_frame_content_size;

use crate::{DecodeError, Outcome};

/// The first byte of a compressed outcome; that of a plain one is its format, which is a small number. The uncompressed
/// length follows, in four bytes, little-endian.
const COMPRESSED: u8 = b'z';
const HEAD_BYTES: usize = 5;
/// The lowest level, because compression is on the path of a request.
const LEVEL: i32 = 1;
/// The largest outcome that is compressed, and so the most that decompression ever produces. It is far more than a
/// layer keeps of an answer by default; a larger outcome is stored as it is.
const UNPACKED_BYTES_MAX: usize = 64 << 20;

thread_local! {
    // Reused, because their tables are larger than most bodies: creating them would cost more than the work.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The bytes to store: compressed if they are at least `from_bytes`, and that makes them smaller.
pub fn pack(outcome: &Outcome, from_bytes: Option<usize>) -> Vec<u8> {
    let plain = outcome.encode();
    let fits = from_bytes.is_some_and(|from_bytes| (from_bytes..=UNPACKED_BYTES_MAX).contains(&plain.len()));
    // A failure means that memory is short: then the outcome is stored as it is.
    match fits.then(|| compress(&plain)) {
        Some(Ok(packed)) if packed.len() < plain.len() => packed,
        _ => plain,
    }
}

/// Reads what [`pack`] wrote, in this version or an earlier one.
pub fn unpack(packed: &[u8]) -> Result<Outcome, DecodeError> {
    let plain = match packed.split_first() {
        Some((&COMPRESSED, rest)) => Cow::Owned(decompress(rest).ok_or(DecodeError::Malformed)?),
        _ => Cow::Borrowed(packed),
    };
    Outcome::decode(&plain)
}

fn compress(plain: &[u8]) -> io::Result<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|kept| {
        let compressor = match kept {
            Some(kept) => kept,
            None => kept.insert(compressor()?),
        };
        let compressed = compressor.compress(plain)?;
        let length = u32::try_from(plain.len()).map_err(io::Error::other)?;
        let mut packed = Vec::with_capacity(HEAD_BYTES + compressed.len());
        packed.push(COMPRESSED);
        packed.extend(length.to_le_bytes());
        packed.extend(compressed);
        Ok(packed)
    })
}

/// With a checksum: a byte that has changed must not change the answer.
fn compressor() -> io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(LEVEL)?;
    compressor.include_checksum(true)?;
    Ok(compressor)
}

/// The decompressed bytes; `None` if they are damaged, which includes another length than the recorded one, or one over
/// the limit.
fn decompress(stored: &[u8]) -> Option<Vec<u8>> {
    let (length, compressed) = stored.split_first_chunk()?;
    let length = u32::from_le_bytes(*length) as usize;
    let of_frame = get_frame_content_size(compressed).ok()??;
    if length > UNPACKED_BYTES_MAX || of_frame != length as u64 {
        return None;
    }
    DECOMPRESSOR.with_borrow_mut(|kept| {
        let decompressor = match kept {
            Some(kept) => kept,
            None => kept.insert(Decompressor::new().ok()?),
        };
        let plain = decompressor.decompress(compressed, length).ok()?;
        (plain.len() == length).then_some(plain)
    })
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
            assert_eq!(unpack(&packed), Ok(outcome));
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
        assert_eq!(unpack(stored), Ok(outcome));
    }

    #[test]
    fn what_is_too_large_to_unpack_is_stored_as_it_is() {
        let large = Outcome::bytes(vec![b'x'; UNPACKED_BYTES_MAX]);
        let packed = pack(&large, Some(0));
        assert_ne!(packed[0], COMPRESSED);
        assert_eq!(unpack(&packed), Ok(large));
    }

    #[test]
    fn damaged_bytes_are_an_error() {
        let outcome = Outcome::bytes("{\"id\":1,\"total\":\"3.10\"}".repeat(60));
        let packed = pack(&outcome, Some(1_024));
        assert_eq!(packed[0], COMPRESSED);
        for end in 0..packed.len() {
            assert_eq!(unpack(&packed[..end]), Err(DecodeError::Malformed), "cut at {end}");
        }
        for at in 0..packed.len() * 8 {
            let mut damaged = packed.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            // A bit of the frame's header may have no meaning.
            assert!(unpack(&damaged).is_ok_and(|read| read == outcome) || unpack(&damaged).is_err(), "bit {at}");
        }
        let mut longer = packed;
        longer.extend(b"more");
        assert_eq!(unpack(&longer), Err(DecodeError::Malformed));
    }

    #[test]
    fn nothing_unpacks_to_more_than_the_limit() {
        let bomb = vec![0; UNPACKED_BYTES_MAX + 1];
        let packed = compress(&bomb).expect("it can be compressed");
        assert!(packed.len() < 100_000);
        assert_eq!(unpack(&packed), Err(DecodeError::Malformed));
        let mut understated = packed;
        understated[1..HEAD_BYTES].copy_from_slice(&1_024_u32.to_le_bytes());
        assert_eq!(unpack(&understated), Err(DecodeError::Malformed));
    }
}
