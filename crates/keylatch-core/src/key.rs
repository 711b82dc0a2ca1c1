//! The client's idempotency key, and its grammar.

use std::fmt;
use std::sync::Arc;

use crate::{Hasher, Timestamp};

/// A client's idempotency key: 1 to 255 visible ASCII characters (`!` to `~`).
///
/// `Debug` does not show the key: anyone who knows a key and its scope can ask for the answer, so keys do not belong in
/// logs. Use [`as_str`](Self::as_str) to read one on purpose.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

/// The longest key, in bytes: the limit of Stripe and of implementations of the IETF draft.
pub const KEY_BYTES_MAX: usize = 255;

/// The longest name of a region, in bytes.
pub const REGION_BYTES_MAX: usize = 32;

/// Whether `name` is the name of a region: 1 to [`REGION_BYTES_MAX`] lower-case letters, digits and hyphens.
pub fn is_region(name: &str) -> bool {
    let fits = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
    (1..=REGION_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits)
}

/// Why a text is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// Nothing between the quotes, or nothing at all.
    #[error("the key is empty; send 1 to {KEY_BYTES_MAX} visible ASCII characters")]
    Empty,
    /// More than [`KEY_BYTES_MAX`] characters after unquoting.
    #[error("the key is longer than {KEY_BYTES_MAX} characters; a UUID has 36")]
    TooLong,
    /// A space, a control character or a byte outside ASCII.
    #[error(
        "the key has a character at position {0} that is not visible ASCII; use letters, digits and punctuation, \
         without spaces"
    )]
    BadCharacter(usize),
    /// The text opens with a quote that is never closed, or continues after the closing quote.
    #[error("the quoted key has no closing quote at its end; send \"key\" or the bare form key")]
    Unterminated,
    /// A backslash before anything but a quote or a backslash.
    #[error("the quoted key has a backslash at position {0} that escapes neither a quote nor a backslash")]
    BadEscape(usize),
    /// An empty list of parts, from which a key was to be derived.
    #[error("a key is derived from one or more parts; name the intent, for example by [\"order\", user, cart]")]
    NoParts,
    /// The name of a region that is not one.
    #[error("the name of a region is 1 to {REGION_BYTES_MAX} lower-case letters, digits and `-`, such as eu-1")]
    BadRegion,
    /// The time in the key is later than now, by more than a service with several regions allows.
    #[error(
        "the time in the key, a UUID of version 7, is in the future; set the clock of the client, or send another key"
    )]
    Ahead,
}

impl Key {
    /// Takes `text` as it is.
    ///
    /// # Errors
    ///
    /// If it is empty, too long, or has a character that is not visible ASCII.
    pub fn new(text: &str) -> Result<Self, InvalidKey> {
        check(text.as_bytes())?;
        Ok(Self(Arc::from(text)))
    }

    /// A new key for a new intent: a UUID of version 7
    /// ([RFC 9562, section 5.7](https://www.rfc-editor.org/rfc/rfc9562#section-5.7)).
    pub fn random() -> Self {
        Self(Arc::from(uuid::Uuid::now_v7().to_string()))
    }

    /// The key of an intent that `parts` identify: the same in every process, after every restart, and in every language
    /// for which there is a Keylatch client. Two different lists never have the same key.
    ///
    /// Numbers and dates are parts as text: write them in the same way each time.
    ///
    /// ```
    /// use keylatch_core::Key;
    ///
    /// let key = Key::derive(["order", "user123", "cart456"])?;
    /// assert_ne!(key, Key::derive(["order", "user123cart456"])?);
    /// # Ok::<_, keylatch_core::InvalidKey>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If there are no parts.
    pub fn derive<'a>(parts: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidKey> {
        let mut parts = parts.into_iter().peekable();
        parts.peek().ok_or(InvalidKey::NoParts)?;
        let mut hasher = Hasher::with_prefix(b"keylatch client key 1");
        for part in parts {
            hasher.field(part.as_bytes());
        }
        Ok(Self(Arc::from(hex::encode(hasher.finish().as_bytes()))))
    }

    /// This key in a region: `REGION.KEY`. A service whose map of regions goes by the prefix of keys decides about it there.
    ///
    /// ```
    /// use keylatch_core::Key;
    ///
    /// assert_eq!(Key::new("k")?.in_region("eu")?.as_str(), "eu.k");
    /// let key = Key::random().in_region("eu")?;
    /// # assert!(key.as_str().starts_with("eu."));
    /// # Ok::<_, keylatch_core::InvalidKey>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If `region` is not the name of one, or the key becomes too long.
    pub fn in_region(&self, region: &str) -> Result<Self, InvalidKey> {
        if !is_region(region) {
            return Err(InvalidKey::BadRegion);
        }
        Self::new(&format!("{region}.{}", self.0))
    }

    /// When the key was made, by the clock of its client, if it says so: a UUID of version 7, alone or
    /// [in a region](Self::in_region).
    pub fn made_at(&self) -> Option<Timestamp> {
        let uuid = match self.0.split_once('.') {
            Some((region, rest)) if is_region(region) => rest,
            _ => &*self.0,
        };
        // Only the usual form, so that no two texts are one UUID.
        let parsed = uuid::Uuid::try_parse(uuid).ok().filter(|_| uuid.len() == 36)?;
        let (seconds, nanos) = parsed.get_timestamp().filter(|_| parsed.get_version_num() == 7)?.to_unix();
        i64::try_from(seconds * 1_000 + u64::from(nanos / 1_000_000)).ok().map(Timestamp::from_millis)
    }

    /// The value of an `Idempotency-Key` header: the quoted string of
    /// [RFC 9651, section 3.3.3](https://www.rfc-editor.org/rfc/rfc9651#section-3.3.3).
    pub fn to_header(&self) -> String {
        let mut header = String::with_capacity(self.0.len() + 2);
        header.push('"');
        for char in self.0.chars() {
            if matches!(char, '"' | '\\') {
                header.push('\\');
            }
            header.push(char);
        }
        header.push('"');
        header
    }

    /// Reads the value of an `Idempotency-Key` header: the quoted string of
    /// [RFC 9651, section 3.3.3](https://www.rfc-editor.org/rfc/rfc9651#section-3.3.3), or the bare form
    /// that most clients send. Both forms of a key are the same key.
    ///
    /// # Errors
    ///
    /// If the value fits neither form, or the key in it is not valid.
    pub fn from_header(value: &[u8]) -> Result<Self, InvalidKey> {
        let value = value.trim_ascii();
        match value.split_first() {
            None => Err(InvalidKey::Empty),
            Some((b'"', quoted)) => Self::unquote(quoted),
            Some(_) => {
                check(value)?;
                Ok(Self(Arc::from(std::str::from_utf8(value).expect("checked to be ASCII"))))
            }
        }
    }

    fn unquote(quoted: &[u8]) -> Result<Self, InvalidKey> {
        let mut key = String::with_capacity(quoted.len());
        let mut bytes = quoted.iter().copied().enumerate();
        while let Some((at, byte)) = bytes.next() {
            match byte {
                b'"' if at + 1 == quoted.len() => return Self::new(&key),
                b'"' => return Err(InvalidKey::Unterminated),
                b'\\' => match bytes.next() {
                    Some((_, escaped @ (b'"' | b'\\'))) => key.push(char::from(escaped)),
                    Some(_) => return Err(InvalidKey::BadEscape(at)),
                    None => return Err(InvalidKey::Unterminated),
                },
                _ if byte.is_ascii_graphic() => key.push(char::from(byte)),
                _ => return Err(InvalidKey::BadCharacter(at)),
            }
        }
        Err(InvalidKey::Unterminated)
    }

    /// The key itself. Do not log it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(text: &[u8]) -> Result<(), InvalidKey> {
    if text.is_empty() {
        return Err(InvalidKey::Empty);
    }
    if text.len() > KEY_BYTES_MAX {
        return Err(InvalidKey::TooLong);
    }
    match text.iter().position(|byte| !byte.is_ascii_graphic()) {
        Some(at) => Err(InvalidKey::BadCharacter(at)),
        None => Ok(()),
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({} characters)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(value: &str) -> Result<String, InvalidKey> {
        Key::from_header(value.as_bytes()).map(|key| key.as_str().to_owned())
    }

    #[test]
    fn bare_and_quoted_forms_are_the_same_key() {
        assert_eq!(header("abc"), Ok("abc".to_owned()));
        assert_eq!(header("\"abc\""), Ok("abc".to_owned()));
        assert_eq!(header("  \"abc\" "), Ok("abc".to_owned()));
        assert_eq!(header(r#""a\"b\\c""#), Ok(r#"a"b\c"#.to_owned()));
        assert_eq!(header("urn:uuid:1/2"), Ok("urn:uuid:1/2".to_owned()));
        assert_eq!(header(r"a\b"), Ok(r"a\b".to_owned()));
    }

    #[test]
    fn what_is_not_a_key_says_why() {
        let long = "k".repeat(KEY_BYTES_MAX + 1);
        assert_eq!(header(""), Err(InvalidKey::Empty));
        assert_eq!(header("   "), Err(InvalidKey::Empty));
        assert_eq!(header("\"\""), Err(InvalidKey::Empty));
        assert_eq!(header(&long), Err(InvalidKey::TooLong));
        assert_eq!(header(&format!("\"{long}\"")), Err(InvalidKey::TooLong));
        assert_eq!(header("a b"), Err(InvalidKey::BadCharacter(1)));
        assert_eq!(header("a\u{e9}"), Err(InvalidKey::BadCharacter(1)));
        assert_eq!(header("\"a b\""), Err(InvalidKey::BadCharacter(1)));
        assert_eq!(header("\"abc"), Err(InvalidKey::Unterminated));
        assert_eq!(header("\""), Err(InvalidKey::Unterminated));
        assert_eq!(header("\"a\"b\""), Err(InvalidKey::Unterminated));
        assert_eq!(header("\"a\";p=1"), Err(InvalidKey::Unterminated));
        assert_eq!(header(r#""a\"#), Err(InvalidKey::Unterminated));
        assert_eq!(header(r#""a\n""#), Err(InvalidKey::BadEscape(1)));
        assert!(header(&"k".repeat(KEY_BYTES_MAX)).is_ok());
    }

    #[test]
    fn a_uuid_of_version_7_says_when_it_was_made() {
        let made_at = |text: &str| Key::new(text).unwrap().made_at().map(Timestamp::as_millis);
        let uuid = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";
        assert_eq!(made_at(uuid), Some(1_645_557_742_000));
        assert_eq!(made_at(&format!("eu.{uuid}")), Some(1_645_557_742_000));
        assert_eq!(made_at("00000000-0000-7000-8000-000000000000"), Some(0));
        assert_eq!(made_at("ffffffff-ffff-7fff-bfff-ffffffffffff"), Some(281_474_976_710_655));
        let (version_4, simple) = ("919108f7-52d1-4320-9bac-f847db4148a8", uuid.replace('-', ""));
        for text in [version_4, &*simple, &format!("EU.{uuid}"), &format!("eu.us.{uuid}"), &format!("{{{uuid}}}"), "k"]
        {
            assert_eq!(made_at(text), None, "{text}");
        }
    }

    #[test]
    fn debug_keeps_the_key_to_itself() {
        assert_eq!(format!("{:?}", Key::new("secret").unwrap()), "Key(6 characters)");
    }
}
