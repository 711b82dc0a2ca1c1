//! `keylatch keys …`: records.

use std::fs::File;
use std::io::{self, Read as _};

use keylatch_admin::ops::{
    Acted, Change, Get, Header, ListRecords, PAGE_MAX, Plan, RESOLVE_BODY_BYTES_MAX, RecordDetail,
};
use keylatch_admin::view::{OutcomeView, Phase, RecordView};
use keylatch_admin::{Operator, ops};

use super::args::{Forget, Keys, List, PhaseName, Release, Resolve, Seen, Show};
use super::failure::Failure;
use super::open::policy;
use super::output::Output;
use super::table::{Cell, Column, Paint, shown};
use super::target::confirm;
use super::words::{instant, optional};

pub(super) async fn run(command: Keys, output: Output) -> Result<(), Failure> {
    match command {
        Keys::List(args) => list(args, output).await,
        Keys::Show(args) => show(args, output).await,
        Keys::Release(args) => release(args, output).await,
        Keys::Resolve(args) => resolve(*args, output).await,
        Keys::Forget(args) => forget(args, output).await,
    }
}

// ---- Reading -------------------------------------------------------------------------------------------

async fn list(args: List, output: Output) -> Result<(), Failure> {
    let operator = args.common.operator().await?;
    let request = |cursor: Option<String>, limit| ListRecords {
        caller: args.scope.clone(),
        operation: args.operation.clone(),
        phase: args.phase.map(Phase::from),
        cursor,
        limit: Some(limit),
    };
    if args.page.all {
        let mut cursor = args.page.cursor.clone();
        loop {
            let page = operator.list(request(cursor, PAGE_MAX)).await?;
            match output.json {
                true => page.records.iter().try_for_each(|record| output.object(record))?,
                // A page may be empty although there is more: few records may be in the phase.
                false if page.records.is_empty() => {}
                false => table(&page.records, args.ids, output)?,
            }
            cursor = page.next;
            if cursor.is_none() {
                return Ok(());
            }
        }
    }
    let page = collect(&operator, args.page.cursor.clone(), args.page.limit, request).await?;
    if output.json {
        return Ok(output.object(&page)?);
    }
    table(&page.records, args.ids, output)?;
    if let Some(next) = page.next {
        eprintln!("There may be more: add --cursor {next}, or --all.");
    }
    Ok(())
}

/// As many records as were asked for, from as many pages as that takes.
async fn collect(
    operator: &Operator,
    cursor: Option<String>,
    limit: u32,
    request: impl Fn(Option<String>, u32) -> ListRecords,
) -> Result<ops::RecordPage, Failure> {
    let mut page = operator.list(request(cursor, limit.min(PAGE_MAX))).await?;
    loop {
        let missing = limit.saturating_sub(u32::try_from(page.records.len()).unwrap_or(u32::MAX));
        let Some(cursor) = page.next.clone().filter(|_| missing > 0) else { return Ok(page) };
        let more = operator.list(request(Some(cursor), missing.min(PAGE_MAX))).await?;
        page.records.extend(more.records);
        page.next = more.next;
        page.now = more.now;
    }
}

fn table(records: &[RecordView], ids: bool, output: Output) -> io::Result<()> {
    const NAMED: [Column; 6] = [
        Column::text("PHASE"),
        Column::number("EPOCH"),
        Column::text("CREATED (UTC)"),
        Column::long("SCOPE"),
        Column::long("OPERATION"),
        Column::long("KEY"),
    ];
    const IDS: [Column; 3] = [Column::text("PHASE"), Column::number("EPOCH"), Column::text("ID")];
    let row = |record: &RecordView| {
        let phase = Cell::from(record.phase.name()).painted(paint(record.phase));
        let epoch = record.epoch.to_string().into();
        if ids {
            return vec![phase, epoch, record.id.as_str().into()];
        }
        vec![
            phase,
            epoch,
            instant(record.created_at).into(),
            record.scope.caller.as_str().into(),
            operation(record).into(),
            record.key.as_str().into(),
        ]
    };
    let rows: Vec<_> = records.iter().map(row).collect();
    output.table(if ids { &IDS } else { &NAMED }, &rows, "There is no such record.")
}

const fn paint(phase: Phase) -> Paint {
    match phase {
        Phase::Unknown => Paint::Alert,
        Phase::Running | Phase::Abandoned => Paint::Busy,
        Phase::Free | Phase::Tombstone => Paint::Dim,
        Phase::Completed => Paint::Plain,
    }
}

fn operation(record: &RecordView) -> &str {
    let operation = &record.scope.operation;
    if operation.is_empty() { "-" } else { operation }
}

async fn show(args: Show, output: Output) -> Result<(), Failure> {
    let id = args.which.id()?;
    let detail = args.common.operator().await?.get(&id, Get { body: args.body }).await;
    let detail = detail.map_err(|error| args.which.explain(error))?;
    if output.json {
        return Ok(output.object(&detail)?);
    }
    print(&detail, output)?;
    if args.body {
        content(&detail, output)?;
    }
    Ok(())
}

fn print(detail: &RecordDetail, output: Output) -> io::Result<()> {
    const MOMENTS: [Column; 3] = [Column::text("WHEN (UTC)"), Column::text("WHAT"), Column::text("IN WORDS")];
    output.pairs(&facts(&detail.record))?;
    output.line("")?;
    let moment =
        |moment: &ops::Moment| vec![optional(moment.at).into(), moment.what.into(), moment.says.as_str().into()];
    output.table(&MOMENTS, &detail.timeline.iter().map(moment).collect::<Vec<_>>(), "")?;
    output.line("")?;
    for Plan { action, possible, says, .. } in &detail.actions {
        let may = if *possible { "is possible" } else { "is not possible" };
        output.paragraph(&format!("keylatch keys {} {may}:", action.name()), says)?;
    }
    output.line(&format!("\nAll times are UTC, by the store's clock, which shows {}.", instant(detail.now)))
}

fn facts(record: &RecordView) -> Vec<(&'static str, Cell)> {
    let answer = record.outcome.as_ref().map_or("none".to_owned(), answer);
    let mut facts = vec![
        ("id", record.id.as_str().into()),
        ("scope", record.scope.caller.as_str().into()),
        ("operation", operation(record).into()),
        ("key", record.key.as_str().into()),
        ("phase", Cell::from(record.phase.name()).painted(paint(record.phase))),
        ("guarantee", guarantee(record).into()),
        ("epoch", record.epoch.to_string().into()),
        ("attempt", record.attempt.to_string().into()),
        ("answer", answer.into()),
    ];
    if record.after_crash {
        facts.push(("after a crash", "yes: the attempt before has died".into()));
    }
    facts
}

const fn guarantee(record: &RecordView) -> &'static str {
    match record.guarantee {
        keylatch_admin::view::GuaranteeName::Atomic => "atomic",
        keylatch_admin::view::GuaranteeName::Fenced => "fenced",
        keylatch_admin::view::GuaranteeName::AtMostOnce => "at-most-once",
    }
}

fn answer(outcome: &OutcomeView) -> String {
    match outcome.body_bytes {
        Some(bytes) => format!("status {}, {bytes} bytes", outcome.status),
        None => format!("status {}, its body was not kept", outcome.status),
    }
}

fn content(detail: &RecordDetail, output: Output) -> io::Result<()> {
    let Some(kept) = &detail.kept else { return output.line("\nThere is no answer to show.") };
    output.line(&format!("\nThe answer: status {}", kept.status))?;
    for Header { name, value } in &kept.headers {
        output.line(&format!("{}: {}", shown(name), shown(value)))?;
    }
    match &kept.body {
        Some(body) => {
            output.line("")?;
            body.lines().try_for_each(|line| output.line(&shown(line)))?;
            if !kept.body_is_exact {
                output.line("\n(Bytes that are no text are shown as \u{fffd}.)")?;
            }
            Ok(())
        }
        None => output.line("\n(Its body was not kept.)"),
    }
}

// ---- Acting ----------------------------------------------------------------------------------------------

async fn release(args: Release, output: Output) -> Result<(), Failure> {
    let id = args.which.id()?;
    let operator = args.acting.audited(args.common.operator().await?.with_policy(policy(args.kept)?))?;
    let change = change(args.seen);
    if !change.dry_run && !args.confirm.yes {
        let would = operator.release(&args.acting.actor(), &id, Change { dry_run: true, ..change.clone() }).await;
        let would = would.map_err(|error| args.which.explain(error))?;
        confirm(&warning(&would))?;
    }
    let done = operator.release(&args.acting.actor(), &id, change).await;
    acted(&done.map_err(|error| args.which.explain(error))?, output)
}

async fn resolve(args: Resolve, output: Output) -> Result<(), Failure> {
    let Some(status) = args.status else {
        if !args.never_happened {
            let why = "say what became of the run: --status STATUS, with --header and --body, if it took effect; or \
                       --never-happened";
            return Err(Failure::Arguments(why.to_owned()));
        }
        let Resolve { which, seen, confirm, kept, acting, common, .. } = args;
        return release(Release { which, seen, confirm, kept, acting, common }, output).await;
    };
    if args.which.stdin && args.body.as_deref() == Some("@-") {
        let why = "the standard input cannot be both the key and the body: give the body as @FILE";
        return Err(Failure::Arguments(why.to_owned()));
    }
    let headers = args.header.iter().map(|header| self::header(header)).collect::<Result<_, _>>()?;
    let body = args.body.as_deref().map(body).transpose()?.unwrap_or_default();
    let id = args.which.id()?;
    let operator = args.acting.audited(args.common.operator().await?.with_policy(policy(args.kept)?))?;
    let Seen { epoch, reason, dry_run } = args.seen;
    let request = ops::Resolve { epoch, reason, dry_run, status, headers, body };
    let done = operator.resolve(&args.acting.actor(), &id, request).await;
    acted(&done.map_err(|error| args.which.explain(error))?, output)
}

async fn forget(args: Forget, output: Output) -> Result<(), Failure> {
    let id = args.which.id()?;
    let operator = args.acting.audited(args.common.operator_with(args.cache.as_ref()).await?)?;
    let done = operator.forget(&args.acting.actor(), &id, change(args.seen)).await;
    acted(&done.map_err(|error| args.which.explain(error))?, output)
}

fn change(Seen { epoch, reason, dry_run }: Seen) -> Change {
    Change { epoch, reason, dry_run }
}

/// What a person must know before saying yes.
fn warning(would: &Acted) -> String {
    let record = would.record.as_ref().map(|record| format!("{} in epoch {}", record.phase.name(), record.epoch));
    format!("It is {} now. {}", record.unwrap_or_default(), would.plan.says)
}

fn acted(acted: &Acted, output: Output) -> Result<(), Failure> {
    if output.json {
        return Ok(output.object(acted)?);
    }
    let verb = if acted.applied { "Done" } else { "Nothing was done; this is what would be" };
    output.paragraph(&format!("{verb}: {}.", acted.plan.action.name()), &acted.plan.says)?;
    match &acted.record {
        Some(record) => output.pairs(&facts(record))?,
        None => output.line("The record is gone.")?,
    }
    Ok(())
}

fn header(text: &str) -> Result<Header, Failure> {
    let wrong =
        || Failure::Arguments("--header is NAME: VALUE, such as --header 'Content-Type: text/plain'".to_owned());
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    Ok(Header { name: name.trim().to_owned(), value: value.trim().to_owned() })
}

/// The body of an answer: the text itself, or that of a file.
fn body(text: &str) -> Result<String, Failure> {
    let Some(file) = text.strip_prefix('@') else { return Ok(text.to_owned()) };
    let unreadable = |error: io::Error| Failure::Arguments(format!("--body: {file} cannot be read: {error}"));
    let limit = RESOLVE_BODY_BYTES_MAX as u64 + 1;
    let mut bytes = Vec::new();
    let read = match file {
        "-" => io::stdin().lock().take(limit).read_to_end(&mut bytes),
        file => File::open(file).map_err(unreadable)?.take(limit).read_to_end(&mut bytes),
    };
    read.map_err(unreadable)?;
    if bytes.len() > RESOLVE_BODY_BYTES_MAX {
        return Err(Failure::Arguments(format!("--body: an answer has at most {RESOLVE_BODY_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| Failure::Arguments("--body: it must be text, in UTF-8".to_owned()))
}

impl From<PhaseName> for Phase {
    fn from(name: PhaseName) -> Self {
        match name {
            PhaseName::Free => Self::Free,
            PhaseName::Running => Self::Running,
            PhaseName::Abandoned => Self::Abandoned,
            PhaseName::Unknown => Self::Unknown,
            PhaseName::Completed => Self::Completed,
            PhaseName::Tombstone => Self::Tombstone,
        }
    }
}
