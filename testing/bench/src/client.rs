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
const ROUNDS: usize = 61;
/// As the client's time-out for a try.
const TIME_OUT: Duration = Duration::from_secs(30);
/// A call may take so much more than one of reqwest.
const MORE: f64 = 1.05;

/// What a call took: of the time, with so many in flight, and of the process's CPU time. In microseconds.
#[derive(Clone, Copy)]
struct Took {
    time: f64,
    cpu: f64,
}

/// Which client makes the calls.
#[derive(Clone, Copy)]
enum Caller {
    Reqwest,
    /// With a time-out for the whole call.
    TimeOut,
    Keylatch,
}

const CALLERS: [(&str, Caller); 3] =
    [("reqwest", Caller::Reqwest), ("reqwest with a time-out", Caller::TimeOut), ("keylatch-client", Caller::Keylatch)];

pub(crate) async fn measure(launcher: &Launcher, quick: bool) -> Result<Table> {
    let (rounds, calls) = if quick { (1, 200) } else { (ROUNDS, 10_000) };
    let server = launcher.start(App::Bare)?;
    let url = format!("http://{}{PATH}", server.address());
    let (bare, client) = (reqwest::Client::new(), Client::<Reqwest>::new());
    let mut made = Vec::new();
    for round in 0..rounds {
        let mut of_round = [Took { time: f64::NAN, cpu: f64::NAN }; CALLERS.len()];
        for turn in 0..CALLERS.len() {
            let at = (round + turn) % CALLERS.len();
            of_round[at] = match CALLERS[at].1 {
                Caller::Reqwest => took(calls, || through_reqwest(&bare, &url, None)).await?,
                Caller::TimeOut => took(calls, || through_reqwest(&bare, &url, Some(TIME_OUT))).await?,
                Caller::Keylatch => took(calls, || through_client(&client, &url)).await?,
            };
        }
        made.push(of_round);
    }
    let title = format!("The client, {IN_FLIGHT} calls in flight, {rounds} rounds of {calls}, medians");
    let columns = ["", "µs/call", "times reqwest", "at most", "CPU µs/call", "times reqwest"];
    let mut table = Table::new(title, &columns);
    for (at, (name, caller)) in CALLERS.into_iter().enumerate() {
        let of = |figure: fn(&Took) -> f64| median(made.iter().map(|of_round| figure(&of_round[at])).collect());
        let beside = |figure: fn(&Took) -> f64| {
            let ratios = made.iter().map(|of_round| figure(&of_round[at]) / figure(&of_round[0]));
            if at == 0 { String::new() } else { format!("{:.3}", median(ratios.collect())) }
        };
        let at_most = if matches!(caller, Caller::Keylatch) { format!("{MORE:.2}") } else { String::new() };
        table.line([
            name.to_owned(),
            format!("{:.1}", of(|took| took.time)),
            beside(|took| took.time),
            at_most,
            format!("{:.1}", of(|took| took.cpu)),
            beside(|took| took.cpu),
        ]);
    }
    Ok(table)
}

async fn took<F: Future<Output = Result<()>>>(calls: usize, call: impl Fn() -> F) -> Result<Took> {
    let (began, cpu) = (Instant::now(), cpu_of(std::process::id())?);
    in_flight(IN_FLIGHT, calls, |_| call()).await?;
    let each = |time: Duration| time.as_secs_f64() * 1e6 / calls as f64;
    Ok(Took { time: each(began.elapsed()), cpu: each(cpu_of(std::process::id())?.saturating_sub(cpu)) })
}

async fn through_reqwest(client: &reqwest::Client, url: &str, time_out: Option<Duration>) -> Result<()> {
    let mut request = client
        .post(url)
        .header("content-type", "application/json")
        .header("x-user-id", "user-1")
        .header("idempotency-key", format!("\"{}\"", Key::random().as_str()))
        .header("prefer", "wait=5")
        .body(ORDER);
    if let Some(time_out) = time_out {
        request = request.timeout(time_out);
    }
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
