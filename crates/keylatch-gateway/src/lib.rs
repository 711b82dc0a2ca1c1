//! Keylatch in front of any service: the program `keylatch`.
//!
//! `keylatch gateway` is a reverse proxy.
//! [docs/GATEWAY.md](https://github.com/keylatch/keylatch/blob/main/docs/GATEWAY.md) says how to run it, and which
//! guarantee to choose for a service that you cannot change.
//!
//! A request passes `front` (refuses it, or writes it in one form) → Keylatch's layer → `proxy` → `pool` → the
//! upstream. `run` builds all of it from `args`. There is no other path, so the gateway promises what the layer
//! promises.

mod access;
mod admin;
mod ahead;
mod args;
mod config;
mod front;
mod headers;
mod layers;
mod outgoing;
mod pool;
mod problem;
mod proxy;
mod reload;
mod room;
mod routes;
mod run;
mod store;
mod tls;
mod upgrade;
mod upstream;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use keylatch::Policy;
use keylatch_probe::Probe;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command};
use crate::config::Config;

/// Checks the file, and prints its mistakes.
#[expect(clippy::print_stdout, reason = "it is the answer to the command")]
fn check_config(file: &Path) -> ExitCode {
    match Config::read(file, Policy::default()) {
        Ok(config) => {
            let count = config.routes.len();
            println!("{}: {count} route{}, no mistakes", file.display(), if count == 1 { "" } else { "s" });
            ExitCode::SUCCESS
        }
        Err(mistakes) => {
            eprint!("{mistakes}");
            ExitCode::FAILURE
        }
    }
}

fn run_probe(probe: Probe) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(keylatch_probe::run(probe)),
        Err(error) => {
            eprintln!("keylatch probe: {error}");
            ExitCode::from(2)
        }
    }
}

/// Runs the program with the command line of the process, and returns its exit code.
pub fn main() -> ExitCode {
    main_with(std::env::args_os())
}

/// Runs the program with `arguments`, the first of which is its name, and returns its exit code.
pub fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let gateway = match Cli::parse_from(arguments).command {
        Command::Gateway(gateway) => gateway,
        Command::CheckConfig { file } => return check_config(&file),
        Command::Probe(probe) => return run_probe(*probe),
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run::run(*gateway)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
