//! `keylatch sweep`: cleaning up.

use keylatch_admin::ops::{SweepAnswer, SweepRequest};

use super::args::Sweep;
use super::failure::Failure;
use super::output::{Output, Progress};

pub(super) async fn run(args: Sweep, output: Output) -> Result<(), Failure> {
    let operator = args.acting.audited(args.common.operator().await?)?;
    let who = args.acting.actor();
    let (mut all, mut progress) = (SweepAnswer::default(), Progress::new());
    // One call cleans for a bounded time.
    while !all.complete {
        let request = SweepRequest { reason: args.reason.clone() };
        let before = all;
        let answer = operator.sweep(&who, request, |so_far| progress.show(&words(sum(before, so_far)))).await?;
        all = sum(before, answer);
    }
    drop(progress);
    if output.json {
        return Ok(output.object(&all)?);
    }
    Ok(output.line(&words(all))?)
}

const fn sum(before: SweepAnswer, answer: SweepAnswer) -> SweepAnswer {
    SweepAnswer {
        removed: before.removed + answer.removed,
        tombstoned: before.tombstoned + answer.tombstoned,
        complete: answer.complete,
    }
}

fn words(SweepAnswer { removed, tombstoned, complete }: SweepAnswer) -> String {
    let end = if complete { "; nothing is left to clean" } else { "" };
    format!("{removed} records removed, {tombstoned} became tombstones{end}")
}
