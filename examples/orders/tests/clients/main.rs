//! The clients for Rust, Python and TypeScript, the last two as their users install them, against the orders API, and
//! through a gateway before it, over a network that loses, delays and repeats requests and answers. Meanwhile the server,
//! the gateway and the clients themselves are killed.
//!
//! The judge is the API's own list of orders: each order is there once, and is the one that the client was told of. The
//! clients' own tests run here, too.

mod browser;
mod gateway_program;
mod own_tests;
mod packages;
mod readmes;
mod rust_program;
mod shop;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use testing_support::eventually;
use testing_support::faults::{Fault, Network};
use testing_support::server::Server;

use packages::Client;
use shop::{ORDERS, Orders, Run, Shop, Told};

/// How long a client may take for all its orders, on a slow machine.
const ORDERING_MAX: Duration = Duration::from_secs(300);

/// Something happens to one request in five. The pattern does not repeat with that of the clients.
fn faults(number: u64) -> Option<Fault> {
    match number % 101 {
        3 | 20 | 41 | 67 | 90 => Some(Fault::LostBefore),
        7 | 29 | 47 | 73 | 95 => Some(Fault::LostAfter),
        11 | 36 | 59 | 79 => Some(Fault::Cut),
        14 | 44 | 83 => Some(Fault::Late),
        17 | 53 | 87 => Some(Fault::Twice),
        62 => Some(Fault::Silent),
        _ => None,
    }
}

const FAULTS: [Fault; 6] = [Fault::LostBefore, Fault::LostAfter, Fault::Cut, Fault::Late, Fault::Twice, Fault::Silent];

/// 2,000 orders, while the network is bad and the server is killed again and again.
async fn each_order_is_taken_once_and_each_answer_is_known(client: Client) {
    let shop = Shop::new().await;
    let mut server = Some(shop.open().await);
    let network = Network::start(at(&server).authority(), faults).await;
    order_over(&network, client, async |_| {
        kill(&mut server).await;
        network.lead_to(server.insert(shop.open().await).authority());
    })
    .await
    .check(&network, &shop.orders(at(&server)).await);
    kill(&mut server).await;
}

/// The same through a gateway. The server and the gateway are killed in turn.
async fn each_order_through_the_gateway_is_taken_once_and_each_answer_is_known(client: Client) {
    let shop = Shop::new().await;
    let mut server = Some(shop.open().await);
    let mut gateway = Some(shop.open_gateway().await);
    let network = Network::start(at(&gateway).authority(), faults).await;
    order_over(&network, client, async |number| {
        if number % 2 == 0 {
            kill(&mut server).await;
            server = Some(shop.open().await);
        } else {
            kill(&mut gateway).await;
            network.lead_to(gateway.insert(shop.open_gateway().await).authority());
        }
    })
    .await
    .check(&network, &shop.orders(at(&server)).await);
    kill(&mut gateway).await;
    kill(&mut server).await;
}

fn at(server: &Option<Server>) -> &Server {
    server.as_ref().expect("it runs")
}

async fn kill(server: &mut Option<Server>) {
    server.take().expect("it runs").kill().await;
}

/// The client orders, and meanwhile `kill` is called again and again. Returns what the client was told.
async fn order_over(network: &Network, client: Client, mut kill: impl AsyncFnMut(u64)) -> Told {
    const KILLS: u64 = 4;
    let mut run = Run::start(client, network.url(), 0, None);
    let mut caught = 0;
    for number in 1..=KILLS {
        let after = number * ORDERS / (KILLS + 1);
        eventually(ORDERING_MAX, "so many requests", async || network.requests() >= after || run.has_ended()).await;
        caught += u64::from(!run.has_ended());
        kill(number).await;
    }
    let told = run.ended(ORDERING_MAX).await;
    assert_eq!(caught, KILLS, "something was killed while the client ordered");
    told
}

impl Told {
    /// Each order was taken once, the client knows the answer, and every fault of the network happened.
    fn check(&self, network: &Network, taken: &Orders) {
        assert_eq!(taken.len() as u64, ORDERS);
        assert_eq!(self.answered, *taken, "the client was told of each order, and of no other");
        for fault in FAULTS {
            assert!(network.happened(fault) > 0, "{fault:?} never happened");
        }
        assert!(self.tries > ORDERS && self.replayed > 0, "{self:?}");
        eprintln!("{ORDERS} orders in {} tries, {} replays", self.tries, self.replayed);
    }
}

/// The client is killed half-way, again and again. Its next process finishes what the journal has.
async fn what_was_begun_before_a_crash_is_finished_after_it(client: Client) {
    const CRASHES: u64 = 4;
    let shop = Shop::new().await;
    let server = shop.open().await;
    let network = Network::start(server.authority(), faults).await;
    let journal = tempfile::tempdir().expect("there is room for a directory");
    let journal = journal.path().join("journal");
    let (mut answered, mut begun) = (BTreeMap::new(), 0);
    let mut resumed_in_all = 0;
    let mut left = BTreeSet::new();
    for crash in 0..=CRASHES {
        let mut run = Run::start(client, network.url(), begun, Some(&journal));
        let told = if crash == CRASHES {
            run.ended(ORDERING_MAX).await
        } else {
            let enough = network.requests() + ORDERS / (CRASHES + 2);
            eventually(ORDERING_MAX, "so many requests", async || network.requests() >= enough || run.has_ended())
                .await;
            run.killed().await
        };
        // It resumed exactly what was there, unless it was killed before it came so far.
        let resumed: BTreeSet<_> = told.resumed.iter().cloned().collect();
        assert_eq!(told.resumed.len(), resumed.len(), "each intent is resumed once");
        assert_eq!(resumed, left);
        resumed_in_all += resumed.len();
        begun = begun.max(told.begun);
        answered.extend(told.answered);
        left = client.pending(&journal);
    }
    assert!(left.is_empty(), "the last process has left nothing: {left:?}");
    assert!(resumed_in_all > 0, "no crash has hit an order under way");

    let taken = shop.orders(&server).await;
    let carts: BTreeSet<_> = taken.keys().collect();
    assert_eq!(carts.len(), taken.len());
    for (cart, order) in &answered {
        assert_eq!(taken.get(cart), Some(order), "what the client was told is so");
    }
    // Between the end of an intent and the line that tells of it, a kill may fall.
    let untold = taken.len() - answered.len();
    assert!(untold as u64 <= CRASHES * shop::IN_FLIGHT, "{untold} orders of which nobody was told");
    assert!(taken.len() as u64 >= ORDERS - CRASHES * shop::IN_FLIGHT);
    eprintln!("{} orders, {CRASHES} crashes, {resumed_in_all} resumed, {untold} untold", taken.len());
    server.kill().await;
}

macro_rules! tests_of {
    ($($client:ident: $which:expr),+ $(,)?) => { $(
        mod $client {
            #[tokio::test(flavor = "multi_thread")]
            async fn each_order_is_taken_once_and_each_answer_is_known() {
                super::each_order_is_taken_once_and_each_answer_is_known($which).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn each_order_through_the_gateway_is_taken_once_and_each_answer_is_known() {
                super::each_order_through_the_gateway_is_taken_once_and_each_answer_is_known($which).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_was_begun_before_a_crash_is_finished_after_it() {
                super::what_was_begun_before_a_crash_is_finished_after_it($which).await;
            }
        }
    )+ };
}

tests_of! {
    node: crate::packages::Client::Node,
    python_httpx: crate::packages::Client::Python("httpx"),
    python_httpx_async: crate::packages::Client::Python("httpx-async"),
    python_requests: crate::packages::Client::Python("requests"),
    rust: crate::packages::Client::Rust,
}
