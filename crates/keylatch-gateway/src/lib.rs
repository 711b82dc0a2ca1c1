//! Keylatch in front of any service: the program `keylatch`, from its command line to its end.
//!
//! `keylatch gateway` is a reverse proxy. [docs/GATEWAY.md](https://github.com/keylatch/keylatch/blob/main/docs/GATEWAY.md)
//! says how it is run, and which guarantee to choose for a service that one cannot change.
//!
//! The way of a request: `front` (what is refused, what is written anew) → Keylatch's layer → `proxy` → `pool` → the
//! upstream. `run` puts it together from the `args`. There is no second path: what the layer promises, the gateway does.

mod access;
mod admin;
mod ahead;
mod args;
mod front;
mod headers;
mod outgoing;
mod planted;
mod pool;
mod problem;
mod proxy;
mod run;
mod store;
mod tls;
mod upgrade;
mod upstream;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command};

/// Runs the program: reads the command line of the process, does what it says, and ends with what to give to the shell.
pub fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let ended =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Into::into).and_then(|runtime| {
            match command {
                Command::Gateway(gateway) => runtime.block_on(run::run(*gateway)),
            }
        });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
