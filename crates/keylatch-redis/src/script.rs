//! The scripts, called by their hash. None of them parses or copies a record: they compare its header, and write.

use std::sync::LazyLock;

use redis::{Cmd, RedisError, Script, Value};

use super::error::Failed;
use super::link::{Call, Link, Told};
use super::marks::Marks;
use keylatch_core::Timestamp;

/// A script and its text, for a server that does not know it yet or has forgotten it.
pub(super) struct Lua {
    text: &'static str,
    script: Script,
}

/// Declares the scripts, each in a file of its own.
macro_rules! scripts {
    ($($name:ident = $file:literal;)*) => {$(
        pub(super) static $name: LazyLock<Lua> = LazyLock::new(|| Lua::new(include_str!($file)));
    )*};
}

scripts! {
    READ = "lua/read.lua";
    REPLACE = "lua/replace.lua";
    TAKE = "lua/take.lua";
    REMOVE = "lua/remove.lua";
    TIDY = "lua/tidy.lua";
    COUNT = "lua/count.lua";
}

impl Lua {
    fn new(text: &'static str) -> Self {
        Self { text, script: Script::new(text) }
    }

    /// The call with the script's text, for a server that does not have it.
    pub(super) fn command_in_full(&self, keys: &[&[u8]], args: &[Arg<'_>]) -> Cmd {
        command("EVAL", self.text, keys, args)
    }

    /// Calls it. A server that does not know it gets its text in the same call, and knows it from then on.
    pub(super) fn call<'l>(
        &self,
        link: &'l Link,
        keys: &[&[u8]],
        args: &[Arg<'_>],
        marks: Marks,
        waits: bool,
    ) -> impl Future<Output = Result<Told, Failed>> + use<'l> {
        let text = self.text;
        let mut call = Call { command: command("EVALSHA", self.script.get_hash(), keys, args), marks, waits };
        // The future holds the call once, and none of these arguments.
        async move {
            match link.call(&call).await {
                Err(Failed::Refused(error)) if is_unknown_script(&error) => {
                    call.command = with_text(&call.command, text);
                    // Boxed, because it is rare, so that the common case stays small.
                    Box::pin(link.call(&call)).await
                }
                done => done,
            }
        }
    }
}

/// Whether a script did something, of those that say so.
pub(super) fn did(told: &Told) -> Result<bool, Failed> {
    match told.value {
        Value::Int(did) => Ok(did != 0),
        _ => Err(Failed::Nonsense),
    }
}

/// The call of a script by its text instead of its hash.
fn with_text(by_hash: &Cmd, text: &str) -> Cmd {
    let mut command = Cmd::new();
    command.arg("EVAL").arg(text);
    for arg in by_hash.args_iter().skip(2) {
        if let redis::Arg::Simple(arg) = arg {
            command.arg(arg);
        }
    }
    command
}

/// What a script takes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arg<'a> {
    Bytes(&'a [u8]),
    Number(i64),
}

impl<'a, const N: usize> From<&'a [u8; N]> for Arg<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Self::Bytes(bytes)
    }
}

/// What `read.lua` returns.
#[derive(Debug)]
pub(super) struct Read {
    /// The server's clock.
    pub(super) now: Timestamp,
    /// The record that is there, and when its key goes.
    pub(super) record: Option<(Vec<u8>, Option<Timestamp>)>,
}

impl Read {
    pub(super) fn of(value: Value) -> Option<Self> {
        let Value::Array(values) = value else { return None };
        let mut values = values.into_iter();
        let Some(Value::Int(now)) = values.next() else { return None };
        let record = match (values.next(), values.next()) {
            (None, None) => None,
            (Some(Value::Int(end)), Some(Value::BulkString(record))) => {
                Some((record, (end >= 0).then(|| Timestamp::from_millis(end))))
            }
            _ => return None,
        };
        Some(Self { now: Timestamp::from_millis(now), record })
    }
}

fn command(name: &str, script: &str, keys: &[&[u8]], args: &[Arg<'_>]) -> Cmd {
    /// As much as the digits of a number take.
    const NUMBER_BYTES: usize = 20;
    let bytes = |arg: &Arg<'_>| if let Arg::Bytes(bytes) = arg { bytes.len() } else { NUMBER_BYTES };
    let bytes = keys.iter().map(|key| key.len()).chain(args.iter().map(bytes)).sum::<usize>();
    let mut command = Cmd::with_capacity(3 + keys.len() + args.len(), name.len() + script.len() + NUMBER_BYTES + bytes);
    command.arg(name).arg(script).arg(keys.len());
    for key in keys {
        command.arg(*key);
    }
    for arg in args {
        match arg {
            Arg::Bytes(bytes) => command.arg(*bytes),
            Arg::Number(number) => command.arg(*number),
        };
    }
    command
}

fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::Server(redis::ServerErrorKind::NoScript)
}
