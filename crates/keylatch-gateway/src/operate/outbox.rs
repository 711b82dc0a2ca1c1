//! `keylatch outbox …`: the events that cannot be published until somebody acts.

use keylatch_admin::Role;
use keylatch_admin::ops::{self, EventOrder, ListStuck, StuckView};

use super::args::{ListOutbox, OrderEvents, Outbox};
use super::dead_letters::print_ordered;
use super::failure::Failure;
use super::output::Output;
use super::stats::of_outbox;
use super::table::{Cell, Column, Paint, shown};
use super::target::confirm;
use super::words::instant;

pub(super) async fn run(command: Outbox, output: Output) -> Result<(), Failure> {
    match command {
        Outbox::List(args) => list(args, output).await,
        Outbox::Retry(args) => order(EventOrder::Retry, args, output).await,
        Outbox::Discard(args) => order(EventOrder::Discard, args, output).await,
    }
}

async fn list(args: ListOutbox, output: Output) -> Result<(), Failure> {
    const COLUMNS: [Column; 5] = [
        Column::text("NUMBER:ID"),
        Column::long("TOPIC"),
        Column::text("WHY"),
        Column::number("BYTES"),
        Column::text("SINCE (UTC)"),
    ];
    let role = if args.errors { Role::Operate } else { Role::View };
    let request = ListStuck { cursor: args.cursor, limit: Some(args.limit) };
    let page = args.common.operator().await?.list_outbox(role, request).await?;
    if output.json {
        return Ok(output.object(&page)?);
    }
    output.pairs(&of_outbox(&page.backlog))?;
    output.line("")?;
    let row = |stuck: &StuckView| {
        let paint = if stuck.why == "held" { Paint::Plain } else { Paint::Alert };
        vec![
            format!("{}:{}", stuck.seq, stuck.id).into(),
            stuck.topic.as_str().into(),
            Cell::from(stuck.why).painted(paint),
            stuck.value_bytes.unwrap_or(0).to_string().into(),
            instant(stuck.stuck_at).into(),
        ]
    };
    output.table(&COLUMNS, &page.stuck.iter().map(row).collect::<Vec<_>>(), "No event is stuck.")?;
    for StuckView { seq, error, .. } in page.stuck.iter().filter(|stuck| stuck.error.is_some()) {
        output.paragraph(&format!("\n{seq}: the publisher says:"), &shown(error.as_deref().unwrap_or_default()))?;
    }
    if let Some(next) = page.next {
        eprintln!("There are more: add --cursor {next}.");
    }
    Ok(())
}

async fn order(order: EventOrder, args: OrderEvents, output: Output) -> Result<(), Failure> {
    let operator = args.acting.audited(args.common.operator().await?)?;
    let who = args.acting.actor();
    let request = |dry_run| ops::OrderEvents { events: args.events.clone(), reason: args.reason.clone(), dry_run };
    if order == EventOrder::Discard && !args.dry_run && !args.confirm.yes {
        let would = operator.order_events(&who, order, request(true)).await?;
        confirm(&format!("{} These are {}.", would.says, would.matched))?;
    }
    print_ordered(&operator.order_events(&who, order, request(args.dry_run)).await?, output)
}
