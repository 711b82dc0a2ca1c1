//! Requests that break off, and a service that dies.

use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::repeat::once;
use super::{Bench, Final, Trouble, difference, is_unknown, status, succeeds};
use crate::report::Verdict;
use crate::target::{NoAnswer, Part, Shot};

/// When clients hang up after their request.
const HANG_UPS_MS: [u64; 5] = [0, 1, 5, 20, 100];
/// The pause in the middle of a slow body.
const SLOW: Duration = Duration::from_secs(1);
/// When the service is killed, after the request is sent.
const KILLS_MS: [u64; 5] = [0, 3, 10, 30, 100];
/// How long a command that restarts the service may take, and how long the service may take to answer again.
const RESTART_MAX: Duration = Duration::from_secs(60);

pub(super) async fn hang_up(bench: &Bench) -> Result<Verdict, Trouble> {
    for after_ms in HANG_UPS_MS {
        let before = bench.count().await?;
        let shot = bench.fresh();
        bench.target.hang_up(&shot, Part::Whole, Duration::from_millis(after_ms)).await?;
        let verdict = comes_back(bench, before, &shot, &format!("a client that hung up after {after_ms} ms")).await?;
        if let failed @ Verdict::Fail { .. } = verdict {
            return Ok(failed);
        }
    }
    Ok(bench.passed())
}

pub(super) async fn half_body(bench: &Bench) -> Result<Verdict, Trouble> {
    if bench.probe.body.len() < 2 {
        return Err("there is no body to break off".to_owned().into());
    }
    let before = bench.count().await?;
    let shot = bench.fresh();
    bench.target.hang_up(&shot, Part::Half, Duration::from_millis(50)).await?;
    comes_back(bench, before, &shot, "a client that sent half a body").await
}

pub(super) async fn slow_body(bench: &Bench) -> Result<Verdict, Trouble> {
    if bench.probe.body.len() < 2 {
        return Err("there is no body to send slowly".to_owned().into());
    }
    let before = bench.count().await?;
    let shot = bench.fresh();
    match bench.target.send_slowly(&shot, SLOW).await {
        Ok(answer) if !succeeds(&answer) && answer.status() != http::StatusCode::REQUEST_TIMEOUT => {
            return Ok(bench.fail(format!("it is answered with {}", status(&answer)), &[&shot]));
        }
        // The service may refuse to wait.
        Ok(_) | Err(NoAnswer::Broken(_)) => {}
        Err(error) => return Err(error.into()),
    }
    comes_back(bench, before, &shot, "a client with a slow body").await
}

/// A client that comes back gets a final answer, and the same once more. There was one effect.
async fn comes_back(bench: &Bench, before: Option<i64>, shot: &Shot, who: &str) -> Result<Verdict, Trouble> {
    let Final { answer, is_final } = bench.settle(shot).await?;
    if !is_final {
        let patience = bench.probe.patience.as_secs_f64();
        return Ok(bench.fail(format!("{who} still gets {} after {patience} s", status(&answer)), &[shot]));
    }
    if !succeeds(&answer) {
        return Ok(bench.fail(format!("{who} gets {} when it comes back", status(&answer)), &[shot]));
    }
    let again = bench.send(shot).await?;
    if let Some(difference) = difference(&answer, &again) {
        return Ok(bench.fail(format!("{who} gets two answers: {difference}"), &[shot, shot]));
    }
    Ok(match once(bench, before, &[shot, shot]).await? {
        Verdict::Fail { found, curl } => Verdict::Fail { found: format!("{who}: {found}"), curl },
        verdict => verdict,
    })
}

pub(super) async fn restart(bench: &Bench) -> Result<Verdict, Trouble> {
    if bench.probe.restart.is_none() && bench.probe.pid.is_none() {
        return Err("give a command by --restart, or a process by --pid".to_owned().into());
    }
    let mut unknown = 0;
    for after_ms in KILLS_MS {
        let before = bench.count().await?;
        let shot = bench.fresh();
        let request = bench.target.send(&shot);
        let killed = async {
            sleep(Duration::from_millis(after_ms)).await;
            kill_service(bench).await
        };
        let (first, killed) = tokio::join!(request, killed);
        killed?;
        wait_for_service(bench).await?;
        let Final { answer, is_final } = bench.settle(&shot).await?;
        let when = format!("killed {after_ms} ms after the request");
        if !is_final {
            let patience = bench.probe.patience.as_secs_f64();
            let found = format!(
                "{when}, the key is still not free after {patience} s: {}; if a lease is longer than that, raise --patience",
                status(&answer)
            );
            return Ok(bench.fail(found, &[&shot]));
        }
        if let Ok(first) = &first
            && succeeds(first)
            && let Some(difference) = difference(first, &answer)
        {
            return Ok(bench.fail(format!("{when}, its answer changed: {difference}"), &[&shot, &shot]));
        }
        let took = bench.since(before).await?;
        if is_unknown(&answer) && took.is_none_or(|effects| effects <= 1) {
            unknown += 1;
            continue;
        }
        if !succeeds(&answer) {
            return Ok(bench.fail(format!("{when}, it is answered with {}", status(&answer)), &[&shot]));
        }
        if let Some(effects) = took.filter(|effects| *effects != 1) {
            return Ok(bench.fail(format!("{when}, it took effect {effects} times"), &[&shot, &shot]));
        }
    }
    Ok(match unknown {
        0 => bench.passed(),
        _ => Verdict::Pass(format!("{unknown} of {} are said to be unknown, and never run again", KILLS_MS.len())),
    })
}

async fn kill_service(bench: &Bench) -> Result<(), Trouble> {
    if let Some(command) = &bench.probe.restart {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(command).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        return match timeout(RESTART_MAX, shell.status()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("--restart ended with {status}").into()),
            Ok(Err(error)) => Err(format!("--restart cannot be run: {error}").into()),
            Err(_) => Err(format!(
                "--restart takes longer than {} s; let it start the service in the background",
                RESTART_MAX.as_secs()
            )
            .into()),
        };
    }
    let Some(pid) = &bench.probe.pid else { return Ok(()) };
    let text = if pid.parse::<i32>().is_ok() {
        pid.clone()
    } else {
        std::fs::read_to_string(pid).map_err(|error| format!("{pid} cannot be read: {error}"))?
    };
    let number = text.trim().parse().ok().filter(|number| *number > 1);
    let number = number.ok_or_else(|| format!("{pid} has no process number"))?;
    kill(Pid::from_raw(number), Signal::SIGKILL)
        .map_err(|error| format!("process {number} cannot be killed: {error}").into())
}

/// Waits until the service answers again.
async fn wait_for_service(bench: &Bench) -> Result<(), Trouble> {
    let until = Instant::now() + RESTART_MAX;
    loop {
        let answer = bench.target.ask(&http::Method::GET, "/").await;
        match answer {
            Ok(_) => return Ok(()),
            Err(error @ NoAnswer::Limit(_)) => return Err(error.into()),
            Err(error) if Instant::now() > until => {
                return Err(
                    format!("the service does not come back within {} s: {error}", RESTART_MAX.as_secs()).into()
                );
            }
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}
