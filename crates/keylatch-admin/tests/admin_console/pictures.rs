//! The pictures in the README. `KEYLATCH_PICTURES=1` writes them; otherwise they are only taken.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use testing_support::browser::{Browser, SHOWN_MAX};
use testing_support::eventually;

use crate::world::{ALICE, World, open, operator};

/// The largest picture, in bytes: it is in the history of the repository for good.
const PICTURE_BYTES_MAX: usize = 250_000;

#[tokio::test(flavor = "multi_thread")]
async fn the_pictures_in_the_readme_show_the_console() {
    let is_kept = std::env::var_os("KEYLATCH_PICTURES").is_some();
    let world = World::new().await;
    world.send("/api/orders", "refused", "nothing").await;
    let _relay = world.relay();
    world.dead_letter(45_120, "there is no such item: 4711").await;
    let key = "b2b6f0ce-3f0e-4c1e-9f57-5d1c7b8a4e21";
    let id = world.unknown_payment(key).await;
    let browser = operator(&world, ALICE).await;
    browser.resize(1_280, 950).await;
    browser.shows(".live", "live").await;
    // A curve needs some time.
    let time = Duration::from_secs(if is_kept { 120 } else { 2 });
    for retries in [3, 1, 5] {
        traffic(&world, time / 3).await;
        for _ in 0..retries {
            world.send("/api/payments", key, "lost").await;
        }
        world.send("/api/payments?again", key, "more").await;
    }
    eventually(SHOWN_MAX, "the numbers", async || browser.count(".chart .curve").await > 5).await;
    take(&browser, "console-now.png", is_kept).await;
    open(&browser, &world, &format!("record/{id}"), key).await;
    browser.shows(".parts", "body").await;
    take(&browser, "console-record.png", is_kept).await;
}

/// Requests as a shop gets them, for this time.
async fn traffic(world: &World, time: Duration) {
    let started = Instant::now();
    for nth in 0_u32.. {
        let so_far = started.elapsed();
        if so_far >= time {
            return;
        }
        let order = format!("order-{nth}");
        let again = format!("order-{}", nth.saturating_sub(nth % 7));
        world.send("/api/orders", &order, "a book").await;
        if nth % 3 == 0 {
            world.send("/api/orders", &again, "a book").await;
        }
        if nth % 97 == 5 {
            world.send("/api/orders", &again, "a pen").await;
        }
        // More of them at some times than at others.
        let busy = (so_far.as_secs_f64() / 9.0).sin() + 1.3;
        tokio::time::sleep(Duration::from_millis(40).div_f64(busy)).await;
    }
}

async fn take(browser: &Browser, name: &str, is_kept: bool) {
    // Without the ring around what has the focus.
    browser.run("document.activeElement.blur()", json!([])).await;
    let picture = browser.screenshot().await;
    assert!(picture.starts_with(b"\x89PNG") && picture.len() < PICTURE_BYTES_MAX, "{name}: {} bytes", picture.len());
    if is_kept {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/images").join(name);
        std::fs::write(&path, picture).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
