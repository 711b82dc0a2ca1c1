//! The file of tokens: `ROLE:NAME:TOKEN`, one on a line.

use std::fmt;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use subtle::ConditionallySelectable as _;

use super::Role;
use super::secret::Secret;
use crate::audit::{Actor, Via};

/// The shortest token, in bytes. Sixteen random bytes in hexadecimal have so many.
pub const TOKEN_BYTES_MIN: usize = 32;
/// The longest token, in bytes.
const TOKEN_BYTES_MAX: usize = 1_024;
/// The longest name of a token, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// The most tokens.
pub const TOKENS_MAX: usize = 1_000;
/// The largest file of tokens, in bytes.
pub const TOKENS_FILE_BYTES_MAX: u64 = 1 << 20;

/// Tokens, each with a role and the name of whoever has it.
#[derive(Debug)]
pub struct Tokens(Vec<Token>);

#[derive(Debug)]
struct Token {
    role: Role,
    name: String,
    secret: Secret,
}

/// Everything that is wrong with a file of tokens. It never has a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidTokens(Vec<String>);

impl Tokens {
    /// Reads the file at `path`: see [`parse`](Self::parse).
    ///
    /// # Errors
    ///
    /// If it cannot be read, or for all its mistakes.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, InvalidTokens> {
        let path = path.as_ref();
        let unreadable =
            |error: &dyn fmt::Display| InvalidTokens(vec![format!("{}: it cannot be read: {error}", path.display())]);
        let mut text = String::new();
        let file = fs::File::open(path).map_err(|error| unreadable(&error))?;
        file.take(TOKENS_FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| unreadable(&error))?;
        if text.len() as u64 > TOKENS_FILE_BYTES_MAX {
            return Err(unreadable(&format!("it has more than {TOKENS_FILE_BYTES_MAX} bytes")));
        }
        Self::parse(&text).map_err(|InvalidTokens(wrong)| {
            InvalidTokens(wrong.into_iter().map(|wrong| format!("{}: {wrong}", path.display())).collect())
        })
    }

    /// Reads `ROLE:NAME:TOKEN` from each line: `view:grafana:…` or `operate:alice:…`. Empty lines, and those that begin
    /// with `#`, are passed over. Two lines may have one name, to replace a token without a gap.
    ///
    /// # Errors
    ///
    /// All mistakes, each with the number of its line: an unknown role; a name that is not 1 to 64 of the characters
    /// `a-z`, `A-Z`, `0-9`, `.`, `_`, `-` and `@`; a token that is shorter than [`TOKEN_BYTES_MIN`], is not visible
    /// ASCII, or is there twice; no token, or too many.
    pub fn parse(text: &str) -> Result<Self, InvalidTokens> {
        let (mut tokens, mut wrong) = (Vec::<Token>::new(), Vec::new());
        for (nth, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match Token::parse(line) {
                Ok(token) if tokens.iter().any(|other| other.secret.same(&token.secret).into()) => {
                    wrong.push(format!(
                        "line {}: the token is there twice; give everyone a token of their own",
                        nth + 1
                    ));
                }
                Ok(token) if tokens.len() < TOKENS_MAX => tokens.push(token),
                Ok(_) => {
                    wrong.push(format!("line {}: there are more than {TOKENS_MAX} tokens", nth + 1));
                    break;
                }
                Err(why) => wrong.push(format!("line {}: {why}", nth + 1)),
            }
        }
        if tokens.is_empty() && wrong.is_empty() {
            wrong.push("there is no token; write ROLE:NAME:TOKEN on a line".to_owned());
        }
        if wrong.is_empty() { Ok(Self(tokens)) } else { Err(InvalidTokens(wrong)) }
    }

    /// One token with a role, for a program that has its token elsewhere.
    ///
    /// Its length is not checked.
    pub fn one(role: Role, name: impl Into<String>, token: &str) -> Self {
        Self(vec![Token { role, name: name.into(), secret: Secret::of(token.as_bytes()) }])
    }

    /// Whose token it is. All are compared, whichever it is.
    pub(super) fn actor(&self, offered: &[u8]) -> Option<Actor> {
        let offered = Secret::of(offered);
        let none = u64::MAX;
        let found = self
            .0
            .iter()
            .zip(0..)
            .fold(none, |found, (token, nth)| u64::conditional_select(&found, &nth, token.secret.same(&offered)));
        let token = self.0.get(usize::try_from(found).ok()?)?;
        Some(Actor { name: token.name.clone(), role: token.role, via: Via::Token })
    }
}

impl Token {
    fn parse(line: &str) -> Result<Self, String> {
        let mut parts = line.splitn(3, ':');
        let (Some(role), Some(name), Some(token)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("write ROLE:NAME:TOKEN, such as operate:alice:…".to_owned());
        };
        let Some(role) = Role::ALL.into_iter().find(|known| known.name() == role) else {
            return Err("unknown role; it is view or operate".to_owned());
        };
        let in_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'@');
        if !(1..=NAME_BYTES_MAX).contains(&name.len()) || !name.bytes().all(in_name) {
            return Err(format!(
                "a name has 1 to {NAME_BYTES_MAX} of the characters a-z, A-Z, 0-9, '.', '_', '-' and '@'"
            ));
        }
        if !(TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len()) {
            return Err(format!(
                "a token has {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} characters; `openssl rand -hex 32` makes one"
            ));
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a token is visible ASCII without spaces; `openssl rand -hex 32` makes one".to_owned());
        }
        Ok(Self { role, name: name.to_owned(), secret: Secret::of(token.as_bytes()) })
    }
}

impl fmt::Display for InvalidTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for InvalidTokens {}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: &str = "0123456789abcdef0123456789abcdef";
    const BOB: &str = "fedcba9876543210:edcba9876543210";

    #[test]
    fn a_file_says_who_may_do_what() {
        let text = format!("# people\noperate:alice:{ALICE}\n\n  view:bob@example.org:{BOB}\r\n");
        let tokens = Tokens::parse(&text).unwrap();
        let actor = |token: &str| tokens.actor(token.as_bytes()).map(|actor| (actor.name, actor.role));
        assert_eq!(actor(ALICE), Some(("alice".to_owned(), Role::Operate)));
        assert_eq!(actor(BOB), Some(("bob@example.org".to_owned(), Role::View)));
        for wrong in ["", "alice", &ALICE[1..], &format!("{ALICE}0"), &ALICE.to_uppercase()] {
            assert_eq!(actor(wrong), None, "{wrong}");
        }
        assert!(!format!("{tokens:?}").contains(ALICE));
    }

    #[test]
    fn every_mistake_is_told_with_its_line_and_without_the_token() {
        let text = format!(
            "operate:alice:{ALICE}\nadmin:bob:{BOB}\noperate::{BOB}\nview:c:short\nview:d:{BOB} {BOB}\nview\nview:e:{ALICE}\n"
        );
        let wrong = Tokens::parse(&text).unwrap_err().to_string();
        let lines: Vec<_> = wrong.lines().collect();
        let expected = [
            "line 2: unknown role",
            "line 3: a name has",
            "line 4: a token has 32",
            "line 5: a token is visible",
            "line 6: write ROLE:NAME:TOKEN",
            "line 7: the token is there twice",
        ];
        assert_eq!(lines.len(), expected.len(), "{wrong}");
        assert!(lines.iter().zip(expected).all(|(line, start)| line.starts_with(start)), "{wrong}");
        assert!(!wrong.contains(ALICE) && !wrong.contains(BOB) && !wrong.contains("short"));
        assert!(Tokens::parse("# nobody\n").unwrap_err().to_string().contains("there is no token"));
    }

    #[test]
    fn a_file_is_bounded() {
        let line = |nth: usize| format!("view:v:{nth:032}\n");
        let most: String = (0..TOKENS_MAX).map(line).collect();
        assert!(Tokens::parse(&most).is_ok());
        assert!(Tokens::parse(&(most + &line(TOKENS_MAX))).is_err());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        assert!(Tokens::read(&path).unwrap_err().to_string().contains("cannot be read"));
        let large = usize::try_from(TOKENS_FILE_BYTES_MAX).unwrap() + 1;
        fs::write(&path, "#".repeat(large)).unwrap();
        assert!(Tokens::read(&path).unwrap_err().to_string().contains("bytes"));
    }
}
