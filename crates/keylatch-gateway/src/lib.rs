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
mod operate;
mod outgoing;
mod pool;
mod problem;
mod proxy;
mod regions;
mod reload;
mod room;
mod routes;
mod run;
mod store;
mod telemetry;
mod tls;
mod trace;
mod upgrade;
mod upstream;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use keylatch::Policy;
use keylatch_probe::Probe;

use crate::args::{Cli, Command, Gateway};
use crate::config::Config;
use crate::telemetry::Installed;

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

async fn run_gateway(gateway: Gateway) -> ExitCode {
    let installed = match Installed::new(&gateway) {
        Ok(installed) => installed,
        Err(error) => {
            eprintln!("keylatch gateway: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = run::run(gateway, &installed).await;
    let code = match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    };
    installed.end().await;
    code
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
        Command::Operate(command) => return operate::run(*command),
    };
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(run_gateway(*gateway)),
        Err(error) => {
            eprintln!("keylatch gateway: {error}");
            ExitCode::FAILURE
        }
    }
}
