//! How a handler of an event fails.

use std::error::Error;
use std::fmt;

/// Why a handler did not apply an event or a message. What it wrote in its transaction is rolled back.
///
/// Any error becomes one with `?`, and means "try again". [`reject`](Self::reject) means "never".
#[derive(Debug)]
pub struct Failed {
    source: Box<dyn Error + Send + Sync>,
    is_final: bool,
}

impl Failed {
    /// It can never be applied, for this reason, which operators see: it must have nothing that may not be logged.
    pub fn reject(reason: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { source: reason.into(), is_final: true }
    }

    /// It is to be tried again, for this reason.
    pub fn again(reason: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { source: reason.into(), is_final: false }
    }

    /// Whether it can never be applied.
    pub const fn is_final(&self) -> bool {
        self.is_final
    }
}

/// The error and its causes, in one line.
impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.source.to_string();
        let mut cause = self.source.source();
        while let Some(error) = cause {
            let more = error.to_string();
            // Many errors say their cause themselves.
            if !text.contains(&more) {
                text.push_str(": ");
                text.push_str(&more);
            }
            cause = error.source();
        }
        f.write_str(&text)
    }
}

/// For `?` in a handler. It is not an error itself, so that every error can become one.
impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::again(error)
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
        assert!(!apply("x").unwrap_err().is_final());
        let rejected = apply("-1").unwrap_err();
        assert!(rejected.is_final());
        assert_eq!(rejected.to_string(), "it is negative");
        assert_eq!(apply("5").unwrap(), 5);
    }
}
