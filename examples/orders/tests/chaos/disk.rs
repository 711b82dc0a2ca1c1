//! Disks that run full, that cannot be written any more, and that lose what they were given.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use testing_history::Reply;
use testing_support::client::{Raw, Request};
use testing_support::disk::Disk;
use testing_support::eventually;
use testing_support::server::StartError;
use testing_support::syncs::FailingSyncs;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::setup::Setup;
use crate::shop::{SOON, Shop, order, order_of};

const DISK_BYTES: u64 = 16 << 20;
/// Room for all the orders of a test, were they not so large.
const ORDERS_MAX: usize = 1_000;
/// Makes a body of tens of KiB, so that a full disk is felt soon.
const ITEMS: usize = 1_000;
/// How long trouble lasts, and how long there is none.
const PERIOD: Duration = Duration::from_millis(60);

#[tokio::test(flavor = "multi_thread")]
async fn i3_i4_hold_on_a_disk_that_runs_full_and_it_comes_back_by_itself() {
    let mut shop = Shop::new(Setup::Sqlite);
    let disk = Disk::new(shop.stores.directory().path(), DISK_BYTES);
    shop.program = disk.start_on(shop.program);
    let server = shop.open().await;
    let mut answered = take(&shop, "before", 5).await;

    disk.fill().unwrap();
    let refused = order_until_refused(&shop, &mut answered).await;
    assert_refusal(&shop, &refused).await;
    for request in &answered {
        assert_replayed(&shop, request).await;
    }
    disk.free().unwrap();
    answered.push(comes_back(&shop, refused).await);
    answered.extend(take(&shop, "after", 5).await);

    // And once more, with a death while the disk is full.
    disk.fill().unwrap();
    let refused = order_until_refused(&shop, &mut answered).await;
    server.kill().await;
    disk.free().unwrap();
    let server = shop.open().await;
    answered.push(comes_back(&shop, refused).await);

    finish(&shop, &answered).await;
    server.kill().await;
}

/// A batch that does not fit fails as a whole; whoever was in it tries again.
#[tokio::test(flavor = "multi_thread")]
async fn i1_to_i4_hold_on_a_disk_that_runs_full_time_and_again_under_load() {
    /// The log alone would fill a smaller one.
    const BYTES: u64 = 64 << 20;
    let mut shop = Shop::new(Setup::Sqlite);
    let disk = Disk::new(shop.stores.directory().path(), BYTES);
    shop.program = disk.start_on(shop.program);
    let server = shop.open().await;
    order_through(shop, async || {
        disk.fill().unwrap();
        sleep(PERIOD).await;
        disk.free().unwrap();
    })
    .await;
    server.kill().await;
}

/// A batch that was not synced fails as a whole, and the next is written over it.
#[tokio::test(flavor = "multi_thread")]
async fn i1_to_i4_hold_when_syncs_fail_time_and_again_under_load() {
    let shop = Shop::new(Setup::Sqlite);
    let server = shop.open().await;
    order_through(shop, async || {
        let failing = FailingSyncs::of(&server);
        sleep(PERIOD).await;
        drop(failing);
    })
    .await;
    server.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_i4_hold_when_writes_fail_and_it_comes_back_by_itself() {
    let mut shop = Shop::new(Setup::Sqlite);
    shop.program = shop.program.survives_denied_writes();
    let mut server = shop.open().await;
    let mut answered = take(&shop, "before", 5).await;
    for round in 0..10 {
        server.deny_writes(true);
        let refused = order_until_refused(&shop, &mut answered).await;
        assert_refusal(&shop, &refused).await;
        assert_replayed(&shop, &answered[0]).await;
        if round % 3 == 2 {
            server.kill().await;
            server = shop.open().await;
        } else {
            server.deny_writes(false);
        }
        answered.push(comes_back(&shop, refused).await);
    }
    finish(&shop, &answered).await;
    server.kill().await;
}

/// What was written and not synced may be there after a death, or not: it was acknowledged to nobody.
#[tokio::test(flavor = "multi_thread")]
async fn i3_i4_hold_when_syncs_fail_and_it_comes_back_by_itself() {
    let shop = Shop::new(Setup::Sqlite);
    let mut server = shop.open().await;
    let mut answered = take(&shop, "before", 5).await;
    for round in 0..10 {
        let failing = FailingSyncs::of(&server);
        let refused = order_until_refused(&shop, &mut answered).await;
        assert_refusal(&shop, &refused).await;
        assert_replayed(&shop, &answered[0]).await;
        if round % 2 == 1 {
            server.kill().await;
            drop(failing);
            server = shop.open().await;
        } else {
            drop(failing);
        }
        answered.push(comes_back(&shop, refused).await);
    }
    finish(&shop, &answered).await;
    server.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_disk_is_named_at_the_start_and_loses_nothing() {
    let mut shop = Shop::new(Setup::Sqlite);
    let disk = Disk::new(shop.stores.directory().path(), DISK_BYTES);
    shop.program = disk.start_on(shop.program);
    let server = shop.open().await;
    let answered = take(&shop, "before", 5).await;
    server.kill().await;

    disk.read_only(true);
    let started = shop.program.start().await;
    let Err(StartError::Ended { status, output }) = started else {
        panic!("it must say that it cannot store anything, and end: {started:?}");
    };
    assert!(!status.success());
    assert!(output.contains(&shop.stores.file().display().to_string()), "it names the file: {output}");
    assert!(output.contains("read-only"), "it says what is wrong: {output}");

    disk.read_only(false);
    let server = shop.open().await;
    finish(&shop, &answered).await;
    server.kill().await;
}

/// Has many clients order, two under each key, while there is `trouble` time and again. It must be felt, and everything
/// be taken once.
async fn order_through(shop: Shop, mut trouble: impl AsyncFnMut()) {
    const CLIENTS: usize = 8;
    const ORDERS: usize = 400;
    let orders: Vec<_> = (0..ORDERS).map(|number| order_of("user", format!("key-{number}"), ITEMS / 10)).collect();
    let (shop, orders, next) = (Arc::new(shop), Arc::new(orders), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (shop, orders, next) = (shop.clone(), orders.clone(), next.clone());
        clients.spawn(async move {
            while let Some(request) = orders.get(next.fetch_add(1, Ordering::Relaxed) / 2) {
                shop.ask_all_again(std::slice::from_ref(request)).await;
            }
        });
    }
    let mut times = 0;
    while !clients.is_empty() {
        times += 1;
        trouble().await;
        sleep(PERIOD).await;
        while let Some(ended) = clients.try_join_next() {
            ended.expect("every client gets its answers");
        }
    }
    shop.ask_all_again(&orders).await;
    let summary = shop.judge().await;
    eprintln!("trouble {times} times: {summary}");
    assert_eq!((summary.effects, summary.answered_keys), (ORDERS, ORDERS));
    assert!(summary.refused > 0, "the trouble must have been felt");
}

/// Takes orders that must be taken.
async fn take(shop: &Shop, name: &str, count: usize) -> Vec<Request> {
    let requests: Vec<_> = (0..count).map(|number| order("user", format!("{name}-{number}"))).collect();
    shop.ask_all_again(&requests).await;
    requests
}

/// Sends large orders until one is refused, which it returns.
async fn order_until_refused(shop: &Shop, answered: &mut Vec<Request>) -> Request {
    for _ in 0..ORDERS_MAX {
        let request = order_of("user", format!("large-{}", answered.len()), ITEMS);
        match shop.client.send(&request, SOON).await {
            Reply::Final(answer) if answer.status == 201 => answered.push(request),
            Reply::Refused { status: 503, code } if code == "IDEMPOTENCY_STORE_UNAVAILABLE" => return request,
            other => panic!("neither taken nor refused as unavailable: {other:?}"),
        }
    }
    panic!("{ORDERS_MAX} large orders were taken by a disk that cannot be written");
}

/// The refusal is a problem that says when to try again.
async fn assert_refusal(shop: &Shop, request: &Request) {
    let (_, raw) = shop.client.look(request, SOON).await;
    let Raw { status, headers, body } = raw.expect("a refusal is an answer");
    let body = String::from_utf8_lossy(&body);
    assert_eq!(status, 503, "{body}");
    let header = |name| headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!(header("content-type"), Some("application/problem+json"));
    assert_eq!(header("cache-control"), Some("no-store"));
    let seconds: u64 = header("retry-after").expect("it says when to try again").parse().expect("in seconds");
    assert!(seconds < 60, "{seconds}");
    assert!(body.contains("\"retryable\":true"), "{body}");
}

/// What was answered before is answered all the same.
async fn assert_replayed(shop: &Shop, request: &Request) {
    let reply = shop.client.send(request, SOON).await;
    assert!(matches!(&reply, Reply::Final(answer) if answer.replayed), "{reply:?}");
}

/// Without a restart, the order is taken once the disk can be written.
async fn comes_back(shop: &Shop, request: Request) -> Request {
    const BACK_MAX: Duration = Duration::from_secs(10);
    eventually(
        BACK_MAX,
        "orders to be taken again",
        async || matches!(shop.client.send(&request, SOON).await, Reply::Final(answer) if answer.status == 201),
    )
    .await;
    request
}

async fn finish(shop: &Shop, answered: &[Request]) {
    shop.ask_all_again(answered).await;
    let summary = shop.judge().await;
    eprintln!("{summary}");
    assert_eq!(summary.effects, answered.len(), "one order for each that was answered, and none besides");
}
