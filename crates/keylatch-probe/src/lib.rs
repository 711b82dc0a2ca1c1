//! Checks from outside whether an HTTP API keeps its promise that a repeated request takes effect once.
//!
//! It knows nothing of the service but its URL, a request that has an effect, and a way to count effects. It sends the
//! request again in the ways in which clients do: at once, with another body, after hanging up, from two callers, and
//! through a crash of the service. [`CASES`] is the list.
//!
//! | module | |
//! |---|---|
//! | `args` | the command line |
//! | `plan` | what is sent, and the question before it |
//! | `target` | one request, whole or broken off |
//! | `effects` | counting what took effect |
//! | `cases` | the cases |
//! | `report`, `page` | table, JSON, JUnit and HTML |

mod args;
mod cases;
mod effects;
mod page;
mod plan;
mod report;
mod target;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

pub use args::Probe;
pub use cases::{By, CASES, Case};
pub use report::{Finding, Report, Verdict};

use cases::Bench;
use plan::Plan;

/// Probes, and writes what was found. The exit status is 0 if no case failed, 1 if one did, and 2 if nothing could be
/// checked.
pub async fn run(probe: Probe) -> ExitCode {
    match checked(probe).await {
        Ok(status) => status,
        Err(error) => {
            eprintln!("keylatch probe: {error}");
            ExitCode::from(2)
        }
    }
}

/// Probes without asking, and returns what was found.
///
/// # Errors
///
/// If the request itself does not take effect, or the service cannot be reached: then nothing can be told.
pub async fn probe(probe: Probe) -> Result<Report, String> {
    Bench::new(probe)?.run(false).await
}

async fn checked(probe: Probe) -> Result<ExitCode, String> {
    let plan = Plan::new(&probe);
    if probe.dry_run {
        print(&plan.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    if !probe.yes {
        ask(&plan)?;
    }
    let (json, junit, html) = (probe.json, probe.junit.clone(), probe.html.clone());
    let report = Bench::new(probe)?.run(!json && io::stderr().is_terminal()).await?;
    print(&if json { report.json() } else { report.table() })?;
    for (path, text) in [(junit, report.junit()), (html, page::of(&report))] {
        if let Some(path) = path {
            std::fs::write(&path, text).map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
        }
    }
    Ok(if report.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Shows what will be sent, and asks whether to go on.
fn ask(plan: &Plan) -> Result<(), String> {
    if !io::stdin().is_terminal() {
        return Err(
            "nobody can be asked here; look at what will be sent with --dry-run, and go on with --yes".to_owned()
        );
    }
    eprint!("{plan}\nSend this? [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(|error| error.to_string())?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err("nothing was sent".to_owned()),
    }
}

fn print(text: &str) -> Result<(), String> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| error.to_string())
}
