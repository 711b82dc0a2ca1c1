//! Why a command has failed, and the exit codes.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::process::ExitCode;

use keylatch_admin::Error;
use keylatch_admin::ops::Now;
use serde::Serialize;

use super::output::Output;

/// Why a command has failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The arguments cannot be used; says what to change.
    Arguments(String),
    /// The store cannot be opened; says why.
    Store(String),
    /// The operation has no answer.
    Operation(Error),
    /// There is no record under the scope and key, which were given without an operation.
    NoOperation,
    /// None of what was named is there any more.
    NoneOfThem,
    /// Nobody has said yes. Nothing was done.
    NotConfirmed,
    /// The output, the input or a file failed.
    Io(io::Error),
}

/// Everything was done.
const DONE: u8 = 0;
/// The store, the audit file or the output failed. The same command may succeed later.
const FAILED: u8 = 1;
/// The arguments cannot be used.
const ARGUMENTS: u8 = 2;
/// Nothing was changed: another epoch, a living owner, an action that has no meaning now, or nobody who said yes.
const UNCHANGED: u8 = 3;
/// There is no such record, event, dead letter or place.
const NOT_FOUND: u8 = 4;
/// This store has no such thing.
const UNSUPPORTED: u8 = 5;

/// The exit codes, for the help.
pub(super) const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 the store, the audit file or the output failed; 2 the arguments cannot be used; 3 nothing was
changed (another epoch, a living owner, or nobody who said yes); 4 there is no such thing; 5 this store has no such
thing.";

impl Failure {
    const fn code(&self) -> u8 {
        match self {
            Self::Arguments(_) | Self::Operation(Error::Invalid { .. }) => ARGUMENTS,
            Self::Operation(Error::Stale(_) | Error::Alive(_) | Error::NotPossible { .. }) | Self::NotConfirmed => {
                UNCHANGED
            }
            Self::Operation(Error::NotFound(_)) | Self::NoOperation | Self::NoneOfThem => NOT_FOUND,
            Self::Operation(Error::Unsupported { .. }) => UNSUPPORTED,
            _ => FAILED,
        }
    }

    const fn name(&self) -> &'static str {
        match self.code() {
            ARGUMENTS => "arguments",
            NOT_FOUND => "not-found",
            UNSUPPORTED => "unsupported",
            FAILED => "failed",
            _ => match self {
                Self::Operation(Error::Stale(_)) => "stale",
                Self::Operation(Error::Alive(_)) => "alive",
                Self::NotConfirmed => "not-confirmed",
                _ => "not-possible",
            },
        }
    }

    const fn now(&self) -> Option<&Now> {
        match self {
            Self::Operation(Error::Stale(now) | Error::Alive(now) | Error::NotPossible { now, .. }) => Some(now),
            _ => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arguments(why) | Self::Store(why) => f.write_str(why),
            Self::Operation(error) => fmt::Display::fmt(error, f),
            Self::NoOperation => f.write_str(
                "there is no such record. Over HTTP a key belongs to an operation: add it, such as \
                 --operation \"POST /orders\"; `keylatch keys list` shows which there are",
            ),
            Self::NoneOfThem => f.write_str("none of them is there: somebody else was first, or the names are wrong"),
            Self::NotConfirmed => f.write_str("nothing was done: it was not confirmed"),
            Self::Io(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Operation(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The object that a program gets instead of an answer.
#[derive(Debug, Serialize)]
struct Object<'a> {
    error: Detail<'a>,
}

#[derive(Debug, Serialize)]
struct Detail<'a> {
    code: &'static str,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    now: Option<&'a Now>,
}

/// Says what became of a command, and with which code the process ends.
pub(super) fn end(command: &str, ended: Result<(), Failure>, output: Output) -> ExitCode {
    let Err(failure) = ended else { return ExitCode::from(DONE) };
    // Nobody reads the rest of the output, as behind `head`.
    if matches!(&failure, Failure::Io(error) if error.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::from(DONE);
    }
    let said = if output.json {
        let detail = Detail { code: failure.name(), detail: failure.to_string(), now: failure.now() };
        output.object(&Object { error: detail }).is_ok()
    } else {
        false
    };
    if !said {
        eprintln!("keylatch {command}: {failure}");
        if let Failure::Operation(Error::Store(error)) = &failure
            && let Some(cause) = error.source().and_then(std::error::Error::source)
        {
            eprintln!("  because: {cause}");
        }
    }
    ExitCode::from(failure.code())
}
