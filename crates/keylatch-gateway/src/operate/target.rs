//! Which record the arguments name, and what they read from the standard input.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};

use keylatch::{Key, RecordId, Scope};
use keylatch_admin::Error;

use super::args::Which;
use super::failure::Failure;

/// The longest line that is read: a scope is shorter.
const LINE_BYTES_MAX: u64 = 4_096;

/// How a record is named.
const WHICH: &str =
    "say which record: SCOPE and KEY; or --id HEX, the id of a record; or --stdin, to be asked for scope and key";

impl Which {
    /// The id of the record.
    ///
    /// # Errors
    ///
    /// If the arguments, or the lines of the standard input, name none.
    pub(super) fn id(&self) -> Result<String, Failure> {
        if let Some(id) = &self.id {
            return Ok(id.clone());
        }
        let (scope, key) = match (&self.scope, &self.key) {
            (Some(scope), Some(key)) => (scope.clone(), key.clone()),
            _ if self.stdin => (line("Scope: ")?, line("Key: ")?),
            _ => return Err(Failure::Arguments(WHICH.to_owned())),
        };
        let operation = self.operation.as_deref().unwrap_or_default();
        let scope = Scope::new(&scope).and_then(|scope| scope.for_operation(operation));
        let scope = scope.map_err(|error| Failure::Arguments(format!("the scope cannot be used: {error}")))?;
        let key = Key::new(&key).map_err(|error| Failure::Arguments(format!("the key cannot be used: {error}")))?;
        Ok(RecordId::of(&scope, &key).to_string())
    }
}

impl Which {
    /// What `error` means for this record.
    pub(super) fn explain(&self, error: Error) -> Failure {
        match error {
            Error::NotFound(_) if self.id.is_none() && self.operation.is_none() => Failure::NoOperation,
            error => error.into(),
        }
    }
}

/// The next line of the standard input, which a person at a terminal is asked for.
fn line(prompt: &str) -> Result<String, Failure> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        eprint!("{prompt}");
    }
    let mut line = String::new();
    stdin.lock().take(LINE_BYTES_MAX).read_line(&mut line)?;
    match line.strip_suffix('\n') {
        Some(line) => Ok(line.strip_suffix('\r').unwrap_or(line).to_owned()),
        None if line.is_empty() => Err(Failure::Arguments(
            "the standard input has no scope and key: give each on a line of its own".to_owned(),
        )),
        None if line.len() as u64 == LINE_BYTES_MAX => {
            Err(Failure::Arguments(format!("a line of the standard input is longer than {LINE_BYTES_MAX} bytes")))
        }
        None => Ok(line),
    }
}

/// Asks for a yes.
///
/// # Errors
///
/// If there is none.
pub(super) fn confirm(what: &str) -> Result<(), Failure> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        eprintln!("{what}");
        return Err(Failure::Arguments("there is nobody to ask: add --yes if that is what you want".to_owned()));
    }
    eprint!("{what}\nType yes to go on: ");
    let mut line = String::new();
    stdin.lock().take(LINE_BYTES_MAX).read_line(&mut line)?;
    if line.trim() == "yes" { Ok(()) } else { Err(Failure::NotConfirmed) }
}
