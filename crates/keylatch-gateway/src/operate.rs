//! The commands for operators: what [`keylatch_admin::Operator`] can do, on the command line.
//!
//! | module | what is in it |
//! |---|---|
//! | `args` | the commands and their arguments |
//! | `keys`, `sweep`, `migrate`, `dead_letters`, `outbox`, `places`, `regions`, `stats` | one command each |
//! | `open`, `target` | the store and the operator; the record that is named |
//! | `output`, `table`, `words` | tables for people, JSON for programs |
//! | `failure` | the exit codes |

mod args;
mod dead_letters;
mod failure;
mod keys;
mod migrate;
mod open;
mod outbox;
mod output;
mod places;
mod regions;
mod stats;
mod sweep;
mod table;
mod target;
mod words;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

pub(crate) use self::args::Operate;
use self::args::{Acting, BringBack, DeadLetters, Keys, Lose, Outbox, Places, Regions};
use self::failure::{Failure, end};
use self::output::Output;

/// Runs a command, and returns its exit code.
pub(crate) fn run(command: Operate) -> ExitCode {
    let (name, output) = (command.name(), Output::new(command.json()));
    let has_file = command.acting().is_some_and(|acting| acting.audit_log.is_some());
    log(has_file);
    let ended = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(command.run(output)),
        Err(error) => Err(error.into()),
    };
    end(name, ended, output)
}

/// Warnings, and the audit events that are in no file, go to the standard error.
fn log(has_file: bool) {
    let usual = if has_file { "warn".to_owned() } else { format!("warn,{}=info", keylatch_admin::audit::TARGET) };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}

impl Operate {
    async fn run(self, output: Output) -> Result<(), Failure> {
        match self {
            Self::Keys(command) => keys::run(command, output).await,
            Self::Sweep(args) => sweep::run(args, output).await,
            Self::Migrate(args) => migrate::run(args, output).await,
            Self::DeadLetters(command) => dead_letters::run(command, output).await,
            Self::Outbox(command) => outbox::run(command, output).await,
            Self::Places(command) => places::run(command, output).await,
            Self::Regions(command) => regions::run(command, output).await,
            Self::Stats(args) => stats::run(args, output).await,
        }
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Keys(Keys::List(_)) => "keys list",
            Self::Keys(Keys::Show(_)) => "keys show",
            Self::Keys(Keys::Release(_)) => "keys release",
            Self::Keys(Keys::Resolve(_)) => "keys resolve",
            Self::Keys(Keys::Forget(_)) => "keys forget",
            Self::Sweep(_) => "sweep",
            Self::Migrate(_) => "migrate",
            Self::DeadLetters(DeadLetters::List(_)) => "dead-letters list",
            Self::DeadLetters(DeadLetters::Replay(_)) => "dead-letters replay",
            Self::DeadLetters(DeadLetters::Keep(_)) => "dead-letters keep",
            Self::DeadLetters(DeadLetters::Discard(_)) => "dead-letters discard",
            Self::Outbox(Outbox::List(_)) => "outbox list",
            Self::Outbox(Outbox::Retry(_)) => "outbox retry",
            Self::Outbox(Outbox::Discard(_)) => "outbox discard",
            Self::Places(Places::List(_)) => "places list",
            Self::Places(Places::Reset(_)) => "places reset",
            Self::Regions(Regions::Show(_)) => "regions show",
            Self::Regions(Regions::Lose(_)) => "regions lose",
            Self::Regions(Regions::BringBack(_)) => "regions bring-back",
            Self::Stats(_) => "stats",
        }
    }

    const fn json(&self) -> bool {
        match self {
            Self::Keys(Keys::List(args)) => args.common.json,
            Self::Keys(Keys::Show(args)) => args.common.json,
            Self::Keys(Keys::Release(args)) => args.common.json,
            Self::Keys(Keys::Resolve(args)) => args.common.json,
            Self::Keys(Keys::Forget(args)) => args.common.json,
            Self::Sweep(args) => args.common.json,
            Self::Migrate(args) => args.common.json,
            Self::DeadLetters(DeadLetters::List(args)) => args.common.json,
            Self::DeadLetters(DeadLetters::Replay(args) | DeadLetters::Keep(args) | DeadLetters::Discard(args)) => {
                args.common.json
            }
            Self::Outbox(Outbox::List(args)) => args.common.json,
            Self::Outbox(Outbox::Retry(args) | Outbox::Discard(args)) => args.common.json,
            Self::Places(Places::List(args)) => args.common.json,
            Self::Places(Places::Reset(args)) => args.common.json,
            Self::Regions(Regions::Show(at)) => at.json,
            Self::Regions(Regions::Lose(Lose { change, .. }) | Regions::BringBack(BringBack { change, .. })) => {
                change.at.json
            }
            Self::Stats(args) => args.common.json,
        }
    }

    const fn acting(&self) -> Option<&Acting> {
        match self {
            Self::Keys(Keys::Release(args)) => Some(&args.acting),
            Self::Keys(Keys::Resolve(args)) => Some(&args.acting),
            Self::Keys(Keys::Forget(args)) => Some(&args.acting),
            Self::Sweep(args) => Some(&args.acting),
            Self::DeadLetters(DeadLetters::Replay(args) | DeadLetters::Keep(args) | DeadLetters::Discard(args)) => {
                Some(&args.acting)
            }
            Self::Outbox(Outbox::Retry(args) | Outbox::Discard(args)) => Some(&args.acting),
            Self::Places(Places::Reset(args)) => Some(&args.acting),
            Self::Regions(Regions::Lose(Lose { change, .. }) | Regions::BringBack(BringBack { change, .. })) => {
                Some(&change.acting)
            }
            _ => None,
        }
    }
}
