//! `keylatch dead-letters …`: the messages that consumers have given up.

use std::io;

use keylatch_admin::Role;
use keylatch_admin::ops::{self, DeadLetterFilter, DeadLetterView, Order, Ordered, PAGE_MAX};

use super::args::{DeadLetters, ListDeadLetters, OrderDeadLetters};
use super::failure::Failure;
use super::output::Output;
use super::table::{Cell, Column, Paint, shown};
use super::target::confirm;
use super::words::instant;

pub(super) async fn run(command: DeadLetters, output: Output) -> Result<(), Failure> {
    match command {
        DeadLetters::List(args) => list(args, output).await,
        DeadLetters::Replay(args) => order(Order::Replay, args, output).await,
        DeadLetters::Keep(args) => order(Order::Keep, args, output).await,
        DeadLetters::Discard(args) => order(Order::Discard, args, output).await,
    }
}

async fn list(args: ListDeadLetters, output: Output) -> Result<(), Failure> {
    let operator = args.common.operator().await?;
    let shows_content = args.errors || args.of.error.is_some() || args.of.key.is_some();
    let role = if shows_content { Role::Operate } else { Role::View };
    let mut cursor = args.page.cursor;
    loop {
        let filter = DeadLetterFilter { cursor, ..args.of.clone().into() };
        let limit = Some(if args.page.all { PAGE_MAX } else { args.page.limit.min(PAGE_MAX) });
        let page = operator.list_dead_letters(role, filter, limit).await?;
        match (output.json, args.page.all) {
            (true, false) => output.object(&page)?,
            (true, true) => page.dead_letters.iter().try_for_each(|letter| output.object(letter))?,
            (false, _) => print(&page.dead_letters, args.errors, output)?,
        }
        match page.next {
            Some(next) if args.page.all => cursor = Some(next),
            Some(next) => {
                if !output.json {
                    eprintln!("There are more: add --cursor {next}, or --all.");
                }
                return Ok(());
            }
            None => return Ok(()),
        }
    }
}

fn print(letters: &[DeadLetterView], errors: bool, output: Output) -> io::Result<()> {
    const COLUMNS: [Column; 7] = [
        Column::long("CONSUMER"),
        Column::long("TOPIC/PARTITION"),
        Column::number("OFFSET"),
        Column::text("REASON"),
        Column::number("TRIES"),
        Column::text("WANTED"),
        Column::text("SINCE (UTC)"),
    ];
    let row = |letter: &DeadLetterView| {
        let wanted = if letter.wanted { Cell::from("yes").painted(Paint::Busy) } else { "no".into() };
        vec![
            letter.consumer.as_str().into(),
            format!("{}/{}", letter.topic, letter.partition).into(),
            letter.offset.to_string().into(),
            letter.reason.into(),
            letter.attempts.to_string().into(),
            wanted,
            instant(letter.buried_at).into(),
        ]
    };
    output.table(&COLUMNS, &letters.iter().map(row).collect::<Vec<_>>(), "There is no dead letter.")?;
    if errors {
        for letter in letters {
            output.line(&format!(
                "\n{}/{} at {}: id {}",
                shown(&letter.topic),
                letter.partition,
                letter.offset,
                letter.id
            ))?;
            output.paragraph("the last error:", &shown(letter.error.as_deref().unwrap_or("none")))?;
        }
    }
    Ok(())
}

async fn order(order: Order, args: OrderDeadLetters, output: Output) -> Result<(), Failure> {
    if args.ids.is_empty() && args.of.consumer.is_none() {
        let why = "say which dead letters: their ids, as `keylatch dead-letters list --errors` shows them; or \
                   --consumer NAME for all of a consumer";
        return Err(Failure::Arguments(why.to_owned()));
    }
    let operator = args.acting.audited(args.common.operator().await?)?;
    let who = args.acting.actor();
    let filter = DeadLetterFilter::from(args.of);
    let by_filter = filter.consumer.is_some();
    let request = |cursor: Option<String>, dry_run| ops::OrderDeadLetters {
        ids: args.ids.clone(),
        filter: by_filter.then(|| DeadLetterFilter { cursor, ..filter.clone() }),
        reason: args.reason.clone(),
        dry_run,
    };
    if order == Order::Discard && !args.dry_run && !args.confirm.yes {
        let would = operator.order_dead_letters(&who, order, request(None, true)).await?;
        let more = if would.next.is_some() { " or more" } else { "" };
        confirm(&format!("{} These are {}{more}.", would.says, would.matched))?;
    }
    let mut all = operator.order_dead_letters(&who, order, request(None, args.dry_run)).await?;
    while let Some(cursor) = all.next.take_if(|_| !args.dry_run) {
        let next = operator.order_dead_letters(&who, order, request(Some(cursor), false)).await?;
        all = Ordered { matched: all.matched + next.matched, done: all.done + next.done, ..next };
    }
    print_ordered(&all, output)
}

/// Says what became of dead letters, or of events.
///
/// # Errors
///
/// If it was done for none: somebody else was first, or the names are wrong.
pub(super) fn print_ordered(ordered: &Ordered, output: Output) -> Result<(), Failure> {
    if ordered.applied && ordered.done == 0 && ordered.matched > 0 {
        return Err(Failure::NoneOfThem);
    }
    if output.json {
        return Ok(output.object(ordered)?);
    }
    let more = if ordered.next.is_some() { " or more" } else { "" };
    let title = match ordered.applied {
        true => format!("Done for {} of {}.", ordered.done, ordered.matched),
        false => format!("Nothing was done; this is what would be, for {}{more}:", ordered.matched),
    };
    Ok(output.paragraph(&title, &ordered.says)?)
}
