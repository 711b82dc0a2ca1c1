//! What a handler returns if it could not apply a message.

use std::error::Error;
use std::fmt;

/// A message was not applied. Its writes are rolled back.
///
/// Every error converts into one that means "try again", so `?` does. What will never succeed is
/// [rejected](Self::reject), and becomes a dead letter at once.
pub struct Failed {
    error: Box<dyn Error + Send + Sync>,
    again: bool,
}

impl Failed {
    /// It will never succeed: the message becomes a dead letter, with this text.
    pub fn reject(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { error: error.into(), again: false }
    }

    /// It may succeed later: the message is tried again.
    pub fn again(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { error: error.into(), again: true }
    }

    /// Whether trying again may help.
    pub fn may_succeed_later(&self) -> bool {
        self.again
    }

    /// The error and its causes, in one line.
    pub(crate) fn text(&self) -> String {
        let mut text = self.error.to_string();
        let mut cause = self.error.source();
        while let Some(error) = cause {
            let more = error.to_string();
            // Many errors say their cause themselves.
            if !text.contains(&more) {
                text.push_str(": ");
                text.push_str(&more);
            }
            cause = error.source();
        }
        text
    }
}

/// Not an [`Error`] itself, so that every error can be converted.
impl<E: Error + Send + Sync + 'static> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::again(error)
    }
}

impl fmt::Debug for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.again { "Failed::again" } else { "Failed::reject" };
        f.debug_tuple(name).field(&self.error).finish()
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_mark_means_again() {
        fn apply(text: &str) -> Result<i32, Failed> {
            let number: i32 = text.parse()?;
            if number < 0 { Err(Failed::reject("it is negative")) } else { Ok(number) }
        }
        assert!(apply("x").unwrap_err().may_succeed_later());
        let rejected = apply("-1").unwrap_err();
        assert!(!rejected.may_succeed_later());
        assert_eq!(rejected.to_string(), "it is negative");
        assert_eq!(apply("5").unwrap(), 5);
    }
}
