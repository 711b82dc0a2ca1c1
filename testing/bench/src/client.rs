//! The client beside reqwest, which it sends through, 50 calls in flight, in turns.

use std::time::{Duration, Instant};

use keylatch::Key;
use keylatch_client::{Client, Reqwest};

use crate::Result;
use crate::app::{App, PATH};
use crate::connection::ORDER;
use crate::load::in_flight;
use crate::report::{Table, median};
use crate::server::{Launcher, cpu_of};

const IN_FLIGHT: usize = 50;
const ROUNDS: usize = 9;
/// A call may take so much more than one of reqwest.
const MORE: f64 = 1.05;

/// What a call took: of the time, with so many in flight, and of the process's CPU time. In microseconds.
#[derive(Clone, Copy)]
struct Took {
    time: f64,
    cpu: f64,
}

pub(crate) async fn measure(launcher: &Launcher, quick: bool) -> Result<Table> {
    let (rounds, calls) = if quick { (1, 200) } else { (ROUNDS, 50_000) };
    let server = launcher.start(App::Bare)?;
    let url = format!("http://{}{PATH}", server.address());
    let (bare, client) = (reqwest::Client::new(), Client::<Reqwest>::new());
    let mut made = Vec::new();
    for round in 0..rounds {
        let of_bare = || took(calls, || through_reqwest(&bare, &url));
        let of_client = || took(calls, || through_client(&client, &url));
        made.push(if round % 2 == 0 {
            (of_bare().await?, of_client().await?)
        } else {
            let client = of_client().await?;
            (of_bare().await?, client)
        });
    }
    let title = format!("The client, {IN_FLIGHT} calls in flight, {rounds} rounds of {calls}, medians");
    let columns = ["", "µs/call", "times reqwest", "at most", "CPU µs/call", "times reqwest"];
    let mut table = Table::new(title, &columns);
    let of = |figure: &dyn Fn(&(Took, Took)) -> f64| median(made.iter().map(figure).collect());
    table.line([
        "reqwest".to_owned(),
        format!("{:.1}", of(&|(bare, _)| bare.time)),
        String::new(),
        String::new(),
        format!("{:.1}", of(&|(bare, _)| bare.cpu)),
        String::new(),
    ]);
    table.line([
        "keylatch-client".to_owned(),
        format!("{:.1}", of(&|(_, client)| client.time)),
        format!("{:.3}", of(&|(bare, client)| client.time / bare.time)),
        format!("{MORE:.2}"),
        format!("{:.1}", of(&|(_, client)| client.cpu)),
        format!("{:.3}", of(&|(bare, client)| client.cpu / bare.cpu)),
    ]);
    Ok(table)
}

async fn took<F: Future<Output = Result<()>>>(calls: usize, call: impl Fn() -> F) -> Result<Took> {
    let (began, cpu) = (Instant::now(), cpu_of(std::process::id())?);
    in_flight(IN_FLIGHT, calls, |_| call()).await?;
    let each = |time: Duration| time.as_secs_f64() * 1e6 / calls as f64;
    Ok(Took { time: each(began.elapsed()), cpu: each(cpu_of(std::process::id())?.saturating_sub(cpu)) })
}

async fn through_reqwest(client: &reqwest::Client, url: &str) -> Result<()> {
    let request = client
        .post(url)
        .header("content-type", "application/json")
        .header("x-user-id", "user-1")
        .header("idempotency-key", format!("\"{}\"", Key::random().as_str()))
        .header("prefer", "wait=5")
        .body(ORDER);
    let response = request.send().await?;
    let status = response.status().as_u16();
    taken(status, &response.bytes().await?)
}

async fn through_client(client: &Client<Reqwest>, url: &str) -> Result<()> {
    let call = client.post(url).header("content-type", "application/json").header("x-user-id", "user-1").body(ORDER);
    let answer = call.send().await?;
    taken(answer.status().as_u16(), answer.response.body())
}

fn taken(status: u16, body: &[u8]) -> Result<()> {
    if status == 201 && !body.is_empty() { Ok(()) } else { Err(format!("the order was not taken: {status}").into()) }
}
