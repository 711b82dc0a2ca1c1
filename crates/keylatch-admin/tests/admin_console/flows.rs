//! What an operator does.

use serde_json::json;
use testing_support::browser::{Browser, SHOWN_MAX};
use testing_support::eventually;

use keylatch::store::State;

use crate::world::{ALICE, BOB, CALLER, World, open, operator, sign_in};

/// The button of an action in the page, and the one that confirms it.
const RELEASE: &str = "[data-action=release]";
const RESOLVE: &str = "[data-action=resolve]";
const CONFIRM: &str = "dialog button[type=submit]";

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_opens_nothing_and_the_right_one_stays_in_the_tab() {
    let world = World::new().await;
    let browser = Browser::open().await;
    browser.go(&world.console()).await;
    sign_in(&browser, "operate-token-0123456789abcdef-wrong").await;
    browser.shows("[role=alert]", "not known").await;
    assert_eq!(browser.count("nav a").await, 0);
    sign_in(&browser, ALICE).await;
    browser.shows("h1", "Now").await;
    browser.shows(".session", "alice, operate").await;
    let kept = "return [sessionStorage.length, Object.values(sessionStorage), localStorage.length, document.cookie]";
    assert_eq!(browser.run(kept, json!([])).await, json!([1, [ALICE], 0, ""]));

    // A reload stays signed in, and another tab is not.
    browser.go(&world.console()).await;
    browser.shows(".session", "alice").await;
    browser.click(".session button").await;
    browser.shows("h1", "console").await;
    assert_eq!(browser.run(kept, json!([])).await, json!([0, [], 0, ""]));
    assert!(!browser.url().await.contains(ALICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_taken_away_leads_to_the_sign_in() {
    let world = World::new().await;
    let browser = operator(&world, ALICE).await;
    open(&browser, &world, "records", "Records").await;
    world.access.replace(keylatch_admin::Tokens::parse(&format!("view:bob:{BOB}")).unwrap());
    browser.shows("[role=alert]", "not valid any more").await;
    assert_eq!(browser.count("nav a").await, 0);
    sign_in(&browser, BOB).await;
    browser.shows(".session", "bob, view").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_found_by_scope_and_key_and_shows_its_life() {
    let world = World::new().await;
    assert_eq!(world.send("/api/orders?a=1", "order-1", "a book").await.0, 201);
    for _ in 0..3 {
        assert_eq!(world.send("/api/orders?a=1", "order-1", "a book").await.0, 201);
    }
    assert_eq!(world.send("/api/orders?a=2", "order-1", "another book").await.0, 422);
    let browser = operator(&world, ALICE).await;
    browser.press("/").await;
    browser.shows("h1", "Find").await;
    browser.fill("input[name=caller]", CALLER).await;
    browser.fill("input[name=operation]", "POST /api/orders").await;
    browser.fill("input[name=key]", "order-2").await;
    browser.click("form button[type=submit]").await;
    browser.shows("[role=alert]", "no such record").await;
    browser.fill("input[name=key]", "order-1").await;
    browser.click("form button[type=submit]").await;
    browser.shows("h1", "order-1").await;
    assert!(!browser.url().await.contains("order-1"), "a key does not get into the address");

    // Two clocks: the order between a moment of the store and one of the process is that of their times.
    let said = "return ['li:not(.process)', '.process'].map(of =>
        [...document.querySelectorAll(`.timeline ${of}[data-what]`)].map(e => e.dataset.what))";
    let of_the_store = ["claimed", "attempt", "completed", "retention-ends", "free"];
    let of_the_process = ["began", "completed", "replayed", "mismatch"];
    assert_eq!(browser.run(said, json!([])).await, json!([of_the_store, of_the_process]));
    browser.shows(".timeline [data-what=replayed]", "3 times").await;
    let parts = "return [...document.querySelectorAll('.parts li')].map(e => e.textContent)";
    assert_eq!(browser.run(parts, json!([])).await, json!(["query", "body"]));
    browser.shows(".sources", "Seen by this process since").await;

    browser.click("[data-action=show]").await;
    browser.shows("pre.content", "{\"ordered\":\"a book\"}").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_views_gets_no_body_and_does_nothing() {
    let world = World::new().await;
    world.send("/api/orders", "order-1", "a secret book").await;
    let unknown = world.unknown_payment("payment-1").await;
    world.dead_letter(10, "a secret error").await;
    let browser = operator(&world, BOB).await;
    let id = crate::world::id(CALLER, "POST /api/orders", "order-1");
    open(&browser, &world, &format!("record/{id}"), "order-1").await;
    browser.shows("[data-content=hidden]", "role operate only").await;
    assert_eq!(browser.count("pre").await, 0);
    open(&browser, &world, &format!("record/{unknown}"), "payment-1").await;
    assert_eq!(browser.count("main button[data-action]:not(:disabled)").await, 0);
    open(&browser, &world, "dead-letters", "Dead letters").await;
    browser.shows("tbody", "inventory: orders/0").await;
    assert_eq!(browser.count("main button[data-action]").await, 0);
    let page = browser.run("return document.documentElement.outerHTML", json!([])).await;
    assert!(!page.as_str().unwrap().contains("secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_outcome_is_released_and_its_retry_runs() {
    let world = World::new().await;
    let id = world.unknown_payment("payment-1").await;
    let browser = operator(&world, ALICE).await;
    browser.shows(".needs", "unknown outcome").await;
    browser.click(".needs a").await;
    browser.shows("h1", "Stuck").await;
    browser.click("tbody a").await;
    browser.shows("h1", "payment-1").await;
    browser.click(RELEASE).await;
    browser.shows("dialog", "it takes effect a second time").await;

    // Without a reason, or without being sure, nothing is sent.
    browser.click(CONFIRM).await;
    browser.fill("dialog [name=reason]", "the bank has nothing of it").await;
    browser.click(CONFIRM).await;
    assert!(matches!(world.state_of(id).await, Some(State::Running { .. })), "nothing was released");
    browser.click("dialog [name=sure]").await;
    browser.click(CONFIRM).await;
    browser.is_gone("dialog").await;
    browser.shows(".head .chip", "free").await;
    assert_eq!(world.send("/api/payments", "payment-1", "lost").await.0, 408);
    assert_eq!(world.epoch_of(id).await, Some(2), "its retry ran");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_outcome_is_resolved_and_its_retry_gets_the_answer() {
    let world = World::new().await;
    let id = world.unknown_payment("payment-1").await;
    let browser = operator(&world, ALICE).await;
    open(&browser, &world, &format!("record/{id}"), "payment-1").await;
    browser.click(RESOLVE).await;
    browser.shows("dialog", "it never runs again").await;
    browser.fill("dialog [name=status]", "201").await;
    browser.fill("dialog [name=headers]", "set-cookie: a=b").await;
    browser.fill("dialog [name=body]", "paid, says the bank").await;
    browser.fill("dialog [name=reason]", "the bank says so").await;
    browser.click(CONFIRM).await;
    browser.shows("dialog [role=alert]", "Headers").await;
    browser.fill("dialog [name=headers]", "content-type: text/plain").await;
    browser.click(CONFIRM).await;
    browser.is_gone("dialog").await;
    browser.shows(".head .chip", "completed").await;
    assert_eq!(world.send("/api/payments", "payment-1", "lost").await, (201, "paid, says the bank".to_owned()));
    assert_eq!(world.epoch_of(id).await, Some(1), "it did not run again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_forgotten_and_its_retry_is_told_so() {
    let world = World::new().await;
    assert_eq!(world.send("/api/orders", "order-1", "a book").await.0, 201);
    let id = crate::world::id(CALLER, "POST /api/orders", "order-1");
    let browser = operator(&world, ALICE).await;
    open(&browser, &world, &format!("record/{id}"), "order-1").await;
    browser.click("[data-action=forget]").await;
    browser.fill("dialog [name=reason]", "the customer asked for it").await;
    browser.click(CONFIRM).await;
    browser.is_gone("dialog").await;
    browser.shows(".head .chip", "tombstone").await;
    // It can only be forgotten once more, for a cache that was not told.
    assert_eq!(browser.count("main button[data-action]:not(:disabled)").await, 1);
    assert_eq!(browser.count("main button[data-action=forget]:not(:disabled)").await, 1);
    assert_eq!(world.send("/api/orders", "order-1", "a book").await.0, 410);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_page_changes_nothing_and_says_what_is_there() {
    let world = World::new().await;
    let id = world.unknown_payment("payment-1").await;
    let browser = operator(&world, ALICE).await;
    open(&browser, &world, &format!("record/{id}"), "payment-1").await;
    browser.click(RELEASE).await;
    browser.fill("dialog [name=reason]", "too late").await;
    browser.click("dialog [name=sure]").await;
    // Somebody else releases it, and a retry runs.
    let other = operator(&world, ALICE).await;
    open(&other, &world, &format!("record/{id}"), "payment-1").await;
    other.click(RELEASE).await;
    other.fill("dialog [name=reason]", "first").await;
    other.click("dialog [name=sure]").await;
    other.click(CONFIRM).await;
    other.is_gone("dialog").await;
    assert_eq!(world.send("/api/payments", "payment-1", "lost").await.0, 408);

    browser.click(CONFIRM).await;
    browser.shows("dialog [role=alert]", "Nothing was changed").await;
    browser.shows("dialog [data-now]", "unknown in epoch 2").await;
    assert_eq!(world.epoch_of(id).await, Some(2));
    browser.click("dialog .notice + .buttons button").await;
    browser.is_gone("dialog").await;
    browser.shows(".facts", "Epoch2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_replayed_kept_and_discarded() {
    let world = World::new().await;
    world.dead_letter(10, "the item is not known").await;
    let browser = operator(&world, ALICE).await;
    open(&browser, &world, "dead-letters", "Dead letters").await;
    browser.shows("tbody", "the item is not known").await;
    let confirm = async |action: &str, says: &str| {
        browser.click(&format!("tbody [data-action={action}]")).await;
        browser.shows("dialog", says).await;
        browser.fill("dialog [name=reason]", "the item is known now").await;
        browser.click(CONFIRM).await;
        browser.is_gone("dialog").await;
    };
    confirm("replay", "not applied a second time").await;
    browser.shows("tbody .chip", "will be replayed").await;
    assert_eq!(world.wanted().await, [true]);
    confirm("keep", "stay dead letters").await;
    browser.is_gone("tbody .chip").await;
    assert_eq!(world.wanted().await, [false]);
    confirm("discard", "never applied").await;
    browser.shows(".empty", "No dead letters").await;
    assert_eq!(world.wanted().await, [false; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_event_is_discarded_and_those_behind_it_go_on() {
    let world = World::new().await;
    for (nth, what) in ["nothing", "a book"].into_iter().enumerate() {
        assert_eq!(world.send("/api/orders", &format!("order-{nth}"), what).await.0, 201);
    }
    world.publish().await;
    let browser = operator(&world, ALICE).await;
    browser.shows(".needs", "refused event").await;
    open(&browser, &world, "events", "Events").await;
    browser.shows("tbody", "an order for nothing").await;
    browser.click("tbody [data-action=discard]").await;
    browser.fill("dialog [name=reason]", "a mistake").await;
    browser.click(CONFIRM).await;
    browser.is_gone("dialog").await;
    browser.is_gone("tbody [data-action=discard]").await;
    let backlog = async || keylatch::outbox::Outbox::backlog(&world.store, 10).await.unwrap().value;
    assert_eq!(backlog().await.refused.at_least(), 0);
    world.publish().await;
    assert_eq!(backlog().await.held.at_least(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_moved() {
    let world = World::new().await;
    world.dead_letter(10, "the item is not known").await;
    let browser = operator(&world, ALICE).await;
    open(&browser, &world, "places", "Places").await;
    browser.shows("tbody", "inventory: orders/0").await;
    browser.click("tbody [data-action=reset]").await;
    browser.fill("dialog [name=next]", "5").await;
    browser.shows("dialog [data-says]", "The messages from 5 to 10 are read again").await;
    browser.fill("dialog [name=reason]", "read them again").await;
    browser.click("dialog [name=sure]").await;
    browser.click(CONFIRM).await;
    browser.is_gone("dialog").await;
    let moved = keylatch::inbox::Places::place(&world.store, crate::world::place()).await.unwrap().value.unwrap();
    assert_eq!((moved.next, moved.owner), (Some(5), None));
    browser.shows("tbody .chip", "free").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_records_are_read_page_by_page_from_the_keyboard() {
    const RECORDS: usize = 10_000;
    let world = World::new().await;
    world.many_records(RECORDS).await;
    let browser = operator(&world, ALICE).await;
    browser.press("3").await;
    browser.shows("h1", "Records").await;
    browser.shows(".pager", "Page 1").await;
    browser.press("n").await;
    browser.shows(".pager", "Page 2").await;
    assert!(browser.count("tbody tr").await <= 100, "a page takes the room of a page");
    browser.press("p").await;
    browser.shows(".pager", "Page 1").await;
    browser.press("jj").await;
    let focused = "return document.activeElement.closest('tr')?.rowIndex ?? -1";
    assert!(browser.run(focused, json!([])).await.as_i64().unwrap() >= 2);
    browser.press("\u{e007}").await;
    browser.shows("h1", "Record of many-").await;

    // All of them, page by page.
    open(&browser, &world, "records", "Records").await;
    browser.shows(".pager", "Page 1").await;
    let ids = "return [...document.querySelectorAll('tbody a')].map(e => e.hash)";
    let mut seen = std::collections::BTreeSet::new();
    for page in 1.. {
        browser.shows(".pager", &format!("Page {page},")).await;
        let shown = browser.run(ids, json!([])).await;
        seen.extend(shown.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()));
        if browser.count(".pager [data-key=n]:not(:disabled)").await == 0 {
            break;
        }
        browser.press("n").await;
    }
    assert_eq!(seen.len(), RECORDS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_list_that_is_too_old_starts_again() {
    let world = World::new().await;
    world.many_records(150).await;
    let browser = operator(&world, ALICE).await;
    open(&browser, &world, "records", "Records").await;
    browser.shows(".pager", "Page 1").await;
    // The store knows no such place in the list, as if the list had changed its order.
    let forget = "const sent = window.fetch; window.fetch = (url, options) => {
        if (url.searchParams.has('cursor')) { url.searchParams.set('cursor', 'b2xk'); }
        return sent(url, options);
    }";
    browser.run(forget, json!([])).await;
    browser.press("n").await;
    browser.shows("main", "Start from the first page").await;
    browser.click("main .buttons button").await;
    browser.shows(".pager", "Page 1").await;
    eventually(SHOWN_MAX, "the rows", async || browser.count("tbody tr").await == 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_live() {
    let world = World::new().await;
    let browser = operator(&world, ALICE).await;
    browser.shows(".live", "live").await;
    let label =
        "return [...document.querySelectorAll('.chart svg')].map(e => e.getAttribute('aria-label')).join('\\n')";
    let said = async || browser.run(label, json!([])).await.as_str().unwrap().to_owned();
    let mut sent = 0;
    eventually(SHOWN_MAX, "requests, replays and latencies to be counted", async || {
        for _ in 0..3 {
            world.send("/api/orders", &format!("order-{sent}"), "a book").await;
        }
        sent += 1;
        let said = said().await;
        let is_counted = |title: &str| {
            said.lines()
                .any(|line| line.starts_with(title) && !line.contains("no numbers") && !line.ends_with("time 0"))
        };
        is_counted("Requests a second") && is_counted("Replays a second") && is_counted("Store latency")
    })
    .await;
    assert!(said().await.contains("Unknown outcomes: now 0"));
    world.unknown_payment("payment-1").await;
    browser.shows(".needs", "unknown outcome").await;
    browser.shows("nav [data-page=stuck] .badge", "1").await;
}
