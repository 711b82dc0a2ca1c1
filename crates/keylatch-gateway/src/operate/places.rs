//! `keylatch places …`: how far consumers have come.

use std::io;

use keylatch_admin::ops::{self, PAGE_MAX, PlaceView};

use super::args::{ListPlaces, Places, ResetPlace};
use super::failure::Failure;
use super::output::Output;
use super::table::{Cell, Column, Paint};
use super::target::confirm;
use super::words::instant;

pub(super) async fn run(command: Places, output: Output) -> Result<(), Failure> {
    match command {
        Places::List(args) => list(args, output).await,
        Places::Reset(args) => reset(args, output).await,
    }
}

async fn list(args: ListPlaces, output: Output) -> Result<(), Failure> {
    let operator = args.common.operator().await?;
    let mut cursor = args.page.cursor;
    loop {
        let limit = Some(if args.page.all { PAGE_MAX } else { args.page.limit.min(PAGE_MAX) });
        let page = operator.list_places(ops::ListPlaces { consumer: args.consumer.clone(), cursor, limit }).await?;
        match (output.json, args.page.all) {
            (true, false) => output.object(&page)?,
            (true, true) => page.places.iter().try_for_each(|place| output.object(place))?,
            (false, _) => print(&page.places, output)?,
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

fn print(places: &[PlaceView], output: Output) -> io::Result<()> {
    const COLUMNS: [Column; 6] = [
        Column::long("CONSUMER"),
        Column::long("TOPIC/PARTITION"),
        Column::number("NEXT"),
        Column::number("EPOCH"),
        Column::text("OWNER"),
        Column::text("CHANGED (UTC)"),
    ];
    let row = |place: &PlaceView| {
        let owner = match (place.owned, place.after_crash) {
            (true, true) => Cell::from("after a crash").painted(Paint::Alert),
            (true, false) => "yes".into(),
            (false, _) => Cell::from("none").painted(Paint::Dim),
        };
        vec![
            place.consumer.as_str().into(),
            format!("{}/{}", place.topic, place.partition).into(),
            place.next.map_or("-".to_owned(), |next| next.to_string()).into(),
            place.epoch.to_string().into(),
            owner,
            instant(place.changed_at).into(),
        ]
    };
    output.table(&COLUMNS, &places.iter().map(row).collect::<Vec<_>>(), "There is no place.")
}

async fn reset(args: ResetPlace, output: Output) -> Result<(), Failure> {
    let operator = args.acting.audited(args.common.operator().await?)?;
    let who = args.acting.actor();
    let request = |dry_run| ops::ResetPlace {
        consumer: args.consumer.clone(),
        topic: args.topic.clone(),
        partition: args.partition,
        epoch: args.epoch,
        next: args.next,
        reason: args.reason.clone(),
        dry_run,
    };
    if !args.dry_run && !args.confirm.yes {
        confirm(&operator.reset_place(&who, request(true)).await?.says)?;
    }
    let moved = operator.reset_place(&who, request(args.dry_run)).await?;
    if output.json {
        return Ok(output.object(&moved)?);
    }
    let title = if moved.applied { "Done:" } else { "Nothing was done; this is what would be:" };
    output.paragraph(title, &moved.says)?;
    Ok(moved.place.map_or(Ok(()), |place| print(&[place], output))?)
}
