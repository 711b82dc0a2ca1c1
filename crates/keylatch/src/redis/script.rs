//! The scripts: one for each write, called by their hash.

use std::sync::LazyLock;
use std::time::Duration;

use redis::{Cmd, RedisError, Script, Value};

use super::error::Failed;
use super::link::Link;
use crate::Timestamp;

/// A script and its text, for a server that does not know it yet or has forgotten it.
pub(super) struct Lua {
    text: &'static str,
    script: Script,
    /// Whether replicas are waited for.
    waits: bool,
}

/// Declares the scripts, each in a file of its own. All of them begin in the same way.
macro_rules! scripts {
    ($($name:ident = $file:literal, waits: $waits:literal;)*) => {$(
        pub(super) static $name: LazyLock<Lua> =
            LazyLock::new(|| Lua::new(concat!(include_str!("lua/prelude.lua"), include_str!($file)), $waits));
    )*};
}

scripts! {
    CLAIM = "lua/claim.lua", waits: true;
    RENEW = "lua/renew.lua", waits: true;
    COMPLETE = "lua/complete.lua", waits: true;
    RELEASE = "lua/release.lua", waits: true;
    REPLACE = "lua/replace.lua", waits: true;
    SWEEP = "lua/sweep.lua", waits: false;
    READ = "lua/read.lua", waits: false;
    DUE = "lua/due.lua", waits: false;
}

impl Lua {
    fn new(text: &'static str, waits: bool) -> Self {
        Self { text, script: Script::new(text), waits }
    }

    /// Runs it on a record.
    pub(super) async fn run(&self, link: &Link, keys: &[&[u8]], args: &[Arg<'_>]) -> Result<Reply, Failed> {
        Reply::of(self.call(link, keys, args).await?).ok_or(Failed::Nonsense)
    }

    /// Calls it. A server that does not know it gets its text in the same call, and knows it from then on.
    pub(super) async fn call(&self, link: &Link, keys: &[&[u8]], args: &[Arg<'_>]) -> Result<Value, Failed> {
        match self.send(link, &command("EVALSHA", self.script.get_hash(), keys, args)).await {
            Err(Failed::Refused(error)) if is_unknown_script(&error) => {
                // In a box, as all that is rare, so that what is common stays small.
                Box::pin(async { self.send(link, &command("EVAL", self.text, keys, args)).await }).await
            }
            done => done,
        }
    }

    async fn send(&self, link: &Link, command: &Cmd) -> Result<Value, Failed> {
        if self.waits { link.write(command).await } else { link.read(command).await }
    }
}

/// What a script takes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arg<'a> {
    Bytes(&'a [u8]),
    Number(i64),
    /// No time, where there could be one.
    Nothing,
}

impl Arg<'_> {
    /// A span, in milliseconds.
    pub(super) fn span(span: Duration) -> Self {
        Self::Number(i64::try_from(span.as_millis()).unwrap_or(i64::MAX))
    }

    /// A span that may be without end.
    pub(super) fn optional_span(span: Option<Duration>) -> Self {
        span.map_or(Self::Nothing, Self::span)
    }

    /// An instant, if there is one.
    pub(super) fn instant(at: Option<Timestamp>) -> Self {
        at.map_or(Self::Nothing, |at| Self::Number(at.as_millis()))
    }
}

/// What a script returns.
#[derive(Debug)]
pub(super) struct Reply {
    /// The server's clock.
    pub(super) now: Timestamp,
    /// What it has done: 0 for nothing.
    pub(super) done: i64,
    /// The record that is there, where it has done nothing.
    pub(super) record: Option<Vec<u8>>,
}

impl Reply {
    fn of(value: Value) -> Option<Self> {
        let Value::Array(values) = value else { return None };
        let mut values = values.into_iter();
        let (Some(Value::Int(now)), Some(Value::Int(done))) = (values.next(), values.next()) else { return None };
        let record = match values.next() {
            None => None,
            Some(Value::BulkString(record)) => Some(record),
            Some(_) => return None,
        };
        Some(Self { now: Timestamp::from_millis(now), done, record })
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
            Arg::Nothing => command.arg(""),
        };
    }
    command
}

fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::Server(redis::ServerErrorKind::NoScript)
}
