//! Properties of all fingerprints, keys, identities and stored bytes.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use keylatch_core::Hasher;
use keylatch_core::store::{DecodeError, Notes};
use keylatch_core::{Body, Fingerprint, InvalidKey, KEY_BYTES_MAX, Key, Outcome, RecordId, Scope};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

// ---- Fingerprints --------------------------------------------------------------------------------------

/// The fields of a request; some may be absent.
type Fields = Vec<Option<Vec<u8>>>;

fn fields() -> impl Strategy<Value = Fields> {
    // Few different bytes, among them the markers of the encoding, so that near misses are likely.
    let byte = prop_oneof![Just(0_u8), Just(1), Just(2), any::<u8>()];
    vec(option::of(vec(byte, 0..12)), 0..6)
}

fn fingerprint(fields: &Fields) -> Fingerprint {
    let mut hasher = Hasher::default();
    for field in fields {
        hasher.optional(field.as_deref());
    }
    hasher.finish()
}

/// Lists of fields that look alike when their bytes are joined.
fn near_misses(fields: &Fields) -> Vec<Fields> {
    let mut near = Vec::new();
    for at in 0..fields.len() {
        let with = |replacement: &[Option<Vec<u8>>], end: usize| [&fields[..at], replacement, &fields[end..]].concat();
        near.push(with(&[], at + 1));
        near.push(with(&[fields[at].clone(), None], at + 1));
        near.push(with(&[fields[at].clone(), Some(Vec::new())], at + 1));
        let Some(field) = &fields[at] else {
            near.push(with(&[Some(Vec::new())], at + 1));
            near.push(with(&[Some(vec![0])], at + 1));
            continue;
        };
        if field.is_empty() {
            near.push(with(&[None], at + 1));
        }
        near.extend((0..=field.len()).map(|cut| {
            let (left, right) = field.split_at(cut);
            with(&[Some(left.to_vec()), Some(right.to_vec())], at + 1)
        }));
        if let Some(Some(next)) = fields.get(at + 1) {
            near.push(with(&[Some([field.as_slice(), next].concat())], at + 2));
            near.push(with(&[Some(next.clone()), Some(field.clone())], at + 2));
        }
        let framed = [&[1], (field.len() as u64).to_be_bytes().as_slice(), field].concat();
        near.push(with(&[Some(framed)], at + 1));
    }
    near
}

proptest! {
    /// Two requests have the same fingerprint if and only if all their fields are equal.
    #[test]
    fn fingerprint_tells_any_two_requests_apart(a in fields(), b in fields()) {
        prop_assert_eq!(fingerprint(&a) == fingerprint(&b), a == b);
    }

    #[test]
    fn fingerprint_tells_near_misses_apart(fields in fields()) {
        for near in near_misses(&fields) {
            prop_assert_eq!(fingerprint(&fields) == fingerprint(&near), fields == near, "{:?}", near);
        }
    }

    /// Every way to build a fingerprint of the same fields gives the same result.
    #[test]
    fn fingerprint_is_the_same_however_it_is_built(fields in vec(vec(any::<u8>(), 0..12), 0..6)) {
        let optional = fields.iter().cloned().map(Some).collect();
        prop_assert_eq!(Fingerprint::of(fields.iter().map(Vec::as_slice)), fingerprint(&optional));
        let stored = *fingerprint(&optional).as_bytes();
        prop_assert_eq!(Fingerprint::from_bytes(stored), fingerprint(&optional));
    }
}

// ---- Keys ----------------------------------------------------------------------------------------------

fn key_text() -> impl Strategy<Value = String> {
    // Quotes and backslashes are more frequent than by chance.
    let character = prop_oneof![4 => b'!'..=b'~', 1 => Just(b'"'), 1 => Just(b'\\')];
    vec(character, 1..=KEY_BYTES_MAX).prop_map(|bytes| String::from_utf8(bytes).expect("ASCII"))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn header() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![3 => b' '..=b'~', 1 => Just(b'"'), 1 => Just(b'\\'), 1 => any::<u8>()];
    vec(byte, 0..300)
}

proptest! {
    /// The quoted form of a key is that key; so is the bare form, unless it looks quoted.
    #[test]
    fn bare_and_quoted_key_agree(text in key_text(), before in "[ \t]{0,3}", after in "[ \t]{0,3}") {
        let key = Key::new(&text).expect("visible ASCII");
        prop_assert_eq!(key.as_str(), &text);
        let read = Key::from_header(format!("{before}{}{after}", quoted(&text)).as_bytes());
        prop_assert_eq!(read.as_ref(), Ok(&key));
        if !text.starts_with('"') {
            let read = Key::from_header(format!("{before}{text}{after}").as_bytes());
            prop_assert_eq!(read.as_ref(), Ok(&key));
        }
    }

    /// Any header value either gives a valid key, or an error that says why not.
    #[test]
    fn header_is_a_valid_key_or_an_error(value in header()) {
        if let Ok(key) = Key::from_header(&value) {
            let text = key.as_str();
            prop_assert!((1..=KEY_BYTES_MAX).contains(&text.len()));
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(Key::from_header(quoted(text).as_bytes()), Ok(key));
        }
    }

    /// Bytes between quotes are a key only if they are correctly escaped.
    #[test]
    fn quoted_header_is_read_to_its_end(inner in header()) {
        let value = [b"\"", inner.as_slice(), b"\""].concat();
        if let Ok(key) = Key::from_header(&value) {
            prop_assert_eq!(quoted(key.as_str()).into_bytes(), value);
        }
    }

    #[test]
    fn one_character_too_many_is_too_many(text in key_text(), more in 1_usize..600) {
        let long = format!("{text}{}", "x".repeat(KEY_BYTES_MAX - text.len() + more));
        prop_assert_eq!(Key::new(&long), Err(InvalidKey::TooLong));
        prop_assert_eq!(Key::from_header(quoted(&long).as_bytes()), Err(InvalidKey::TooLong));
    }
}

// ---- Identities ----------------------------------------------------------------------------------------

fn identity() -> impl Strategy<Value = (Scope, Key)> {
    // Short texts of few characters, so that joined ones often look alike.
    ("[ab:/]{1,4}", "[ab:/]{0,4}", "[ab:/]{1,4}").prop_map(|(caller, operation, key)| {
        let scope = Scope::new(&caller).and_then(|scope| scope.for_operation(&operation));
        (scope.expect("a valid scope"), Key::new(&key).expect("a valid key"))
    })
}

proptest! {
    /// Two records have the same identity if and only if caller, operation and key are equal (I8).
    #[test]
    fn i8_identity_tells_scopes_and_keys_apart(a in identity(), b in identity()) {
        prop_assert_eq!(RecordId::of(&a.0, &a.1) == RecordId::of(&b.0, &b.1), a == b);
    }

    /// The records of a scope, and no others, are in its range.
    #[test]
    fn range_of_a_scope_holds_its_records_alone(a in identity(), b in identity()) {
        let (low, high) = RecordId::range(&a.0);
        let within = |id| low <= id && id <= high;
        prop_assert!(within(RecordId::of(&a.0, &a.1)));
        prop_assert_eq!(within(RecordId::of(&b.0, &b.1)), a.0 == b.0);
    }

    #[test]
    fn identity_is_stored_and_shown_whole(bytes in any::<[u8; 32]>()) {
        let id = RecordId::from_bytes(bytes);
        prop_assert_eq!(*id.as_bytes(), bytes);
        let shown = id.to_string();
        let read: Vec<u8> = (0..64).step_by(2).map(|at| u8::from_str_radix(&shown[at..at + 2], 16).expect("hex")).collect();
        prop_assert_eq!(read, bytes);
    }
}

// ---- Stored bytes --------------------------------------------------------------------------------------

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        3 => vec(any::<u8>(), 0..400).prop_map(|body| Body::Kept(body.into())),
        1 => option::of(any::<[u8; 32]>()).prop_map(|digest| Body::NotRetained { digest }),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let name = "[a-z][a-z0-9-]{0,20}".prop_map(|name| HeaderName::from_bytes(name.as_bytes()).expect("a name"));
    let value = vec(prop_oneof![b' '..=b'~', 0x80..=0xff_u8, Just(b'\t')], 0..40)
        .prop_map(|value| HeaderValue::from_bytes(&value).expect("a value"));
    let status = (100_u16..1_000).prop_map(|status| StatusCode::from_u16(status).expect("a status"));
    (status, vec((name, value), 0..8), body()).prop_map(|(status, headers, body)| Outcome { status, headers, body })
}

fn notes() -> impl Strategy<Value = Notes> {
    let blob = || vec(any::<u8>(), 0..100).prop_map(Bytes::from);
    (vec((".{0,20}", blob()), 0..6), any::<bool>(), any::<bool>()).prop_map(|(steps, released, after_crash)| Notes {
        steps,
        released,
        after_crash,
    })
}

/// Bytes that begin like stored ones.
fn nearly_stored() -> impl Strategy<Value = Vec<u8>> {
    (prop_oneof![Just(1_u8), any::<u8>()], vec(prop_oneof![0_u8..4, any::<u8>()], 0..200))
        .prop_map(|(format, rest)| [&[format], rest.as_slice()].concat())
}

proptest! {
    #[test]
    fn outcome_is_read_as_it_was_stored(outcome in outcome()) {
        prop_assert_eq!(Outcome::decode(&outcome.encode()), Ok(outcome));
    }

    #[test]
    fn notes_are_read_as_they_were_stored(notes in notes()) {
        prop_assert_eq!(Notes::decode(notes.encode().as_deref()), Ok(notes));
    }

    /// No stored bytes make a reader panic, and what it reads is what was stored.
    #[test]
    fn any_bytes_are_an_outcome_or_an_error(stored in nearly_stored()) {
        match Outcome::decode(&stored) {
            Ok(outcome) => prop_assert_eq!(Outcome::decode(&outcome.encode()), Ok(outcome)),
            Err(DecodeError::UnknownFormat(format)) => prop_assert!(format != 1 && format == stored[0]),
            Err(error) => prop_assert_eq!((error, stored[0]), (DecodeError::Malformed, 1)),
        }
    }

    #[test]
    fn any_bytes_are_notes_or_an_error(stored in nearly_stored()) {
        match Notes::decode(Some(&stored)) {
            Ok(notes) => prop_assert_eq!(Notes::decode(notes.encode().as_deref()), Ok(notes)),
            Err(DecodeError::UnknownFormat(format)) => prop_assert!(format != 1 && format == stored[0]),
            Err(error) => prop_assert_eq!((error, stored[0]), (DecodeError::Malformed, 1)),
        }
    }

    /// Stored bytes that are cut off, or continue after their end, are never accepted.
    #[test]
    fn cut_or_longer_bytes_are_an_error(outcome in outcome(), notes in notes(), more in vec(any::<u8>(), 1..9)) {
        let stored = outcome.encode();
        for end in 0..stored.len() {
            prop_assert_eq!(Outcome::decode(&stored[..end]), Err(DecodeError::Malformed));
        }
        prop_assert_eq!(Outcome::decode(&[stored, more.clone()].concat()), Err(DecodeError::Malformed));
        if let Some(stored) = notes.encode() {
            for end in 0..stored.len() {
                prop_assert_eq!(Notes::decode(Some(&stored[..end])), Err(DecodeError::Malformed));
            }
            prop_assert_eq!(Notes::decode(Some(&[stored, more].concat())), Err(DecodeError::Malformed));
        }
    }
}
