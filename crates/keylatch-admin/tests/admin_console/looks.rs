//! The page is usable by everyone: contrast, names of controls, the keyboard, small screens.

use serde_json::{Value, json};
use testing_support::browser::Browser;

use crate::world::{ALICE, World, id, open, operator};

/// Computes the contrasts of the page that is shown.
const LOW_CONTRASTS: &str = concat!(include_str!("contrast.js"), "return contrasts()");

/// What makes the page wider than its window, if it is.
const TOO_WIDE: &str = "
    const [page, window] = [document.scrollingElement.scrollWidth, document.documentElement.clientWidth];
    const sticks_out = (element) => element.getBoundingClientRect().right > window + 1;
    return page <= window ? [] : [`${page} on ${window}`,
        ...[...document.querySelectorAll('body *')].filter(sticks_out).map(({ outerHTML }) => outerHTML.slice(0, 80))];
";

/// Roles of what is used or read as one thing: each needs a name.
const NAMED: [&str; 10] =
    ["button", "checkbox", "combobox", "dialog", "image", "link", "navigation", "spinbutton", "table", "textbox"];

/// What is used and has no name, as a screen reader finds it.
async fn nameless(browser: &Browser) -> (usize, Vec<Value>) {
    let tree = browser.command("Accessibility.getFullAXTree", json!({})).await;
    let nodes = tree["nodes"].as_array().expect("a tree").iter().filter(|node| node["ignored"] == false);
    let named: Vec<_> = nodes
        .filter(|node| NAMED.iter().any(|role| node["role"]["value"] == *role || node["role"]["value"] == "img"))
        .collect();
    let nameless = named.iter().filter(|node| node["name"]["value"].as_str().is_none_or(|name| name.trim().is_empty()));
    (named.len(), nameless.map(|node| (*node).clone()).collect())
}

/// A world in which every page has something to show.
async fn busy() -> (World, keylatch::RecordId) {
    let world = World::new().await;
    for (nth, what) in ["nothing", "a book", "a pen"].into_iter().enumerate() {
        world.send("/api/orders", &format!("order-{nth}"), what).await;
        world.send("/api/orders", &format!("order-{nth}"), what).await;
        world.send("/api/orders", &format!("order-{nth}"), "another").await;
    }
    world.publish().await;
    world.dead_letter(10, "the item is not known").await;
    let unknown = world.unknown_payment("payment-1").await;
    world.send("/api/payments", "payment-1", "lost").await;
    (world, unknown)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_has_contrast_names_and_room_in_both_schemes_on_a_desk_and_on_a_phone() {
    let (world, unknown) = busy().await;
    let browser = operator(&world, ALICE).await;
    browser.shows(".live", "live").await;
    let completed = id(crate::world::CALLER, "POST /api/orders", "order-1");
    let pages = [
        ("now", "Now", ".chart"),
        ("find", "Find", "form"),
        ("records", "Records", "tbody tr"),
        ("stuck", "Stuck", "tbody tr"),
        ("dead-letters", "Dead letters", "tbody tr"),
        ("events", "Events", "tbody tr"),
        ("places", "Places", "tbody tr"),
        (&format!("record/{unknown}"), "payment-1", ".timeline li"),
        (&format!("record/{completed}"), "order-1", ".timeline li"),
        ("record/0", "Record", "[role=alert]"),
    ];
    let mut checked = 0;
    for (page, heading, something) in pages {
        open(&browser, &world, page, heading).await;
        browser.shows(something, "").await;
        for scheme in ["light", "dark"] {
            browser.prefer(scheme).await;
            checked += has_contrast(&browser, &format!("{page}, {scheme}")).await;
        }
        has_names(&browser, page).await;
        for width in [360, 1_280] {
            browser.resize(width, 800).await;
            let too_wide = browser.run(TOO_WIDE, json!([])).await;
            assert_eq!(too_wide, json!([]), "{page} on {width}");
        }
    }
    assert!(checked > 500, "only {checked} contrasts were computed");

    // Questions, and the help.
    open(&browser, &world, &format!("record/{unknown}"), "payment-1").await;
    for action in ["release", "resolve"] {
        browser.click(&format!("[data-action={action}]")).await;
        browser.shows("dialog", "epoch").await;
        for scheme in ["light", "dark"] {
            browser.prefer(scheme).await;
            has_contrast(&browser, action).await;
        }
        has_names(&browser, action).await;
        browser.press("\u{e00c}").await;
        browser.is_gone("dialog").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sign_in_has_contrast_and_names() {
    let world = World::new().await;
    let browser = Browser::open().await;
    browser.go(&world.console()).await;
    crate::world::sign_in(&browser, "wrong").await;
    browser.shows("[role=alert]", "not known").await;
    for scheme in ["light", "dark"] {
        browser.prefer(scheme).await;
        has_contrast(&browser, scheme).await;
    }
    has_names(&browser, "the sign-in").await;
}

async fn has_contrast(browser: &Browser, page: &str) -> u64 {
    let found = browser.run(LOW_CONTRASTS, json!([])).await;
    assert_eq!(found["low"], json!([]), "{page}");
    found["checked"].as_u64().expect("it is a number")
}

async fn has_names(browser: &Browser, page: &str) {
    let (named, nameless) = nameless(browser).await;
    assert!(named > 2, "{page}: only {named} controls were found");
    assert_eq!(nameless, [Value::Null; 0], "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keyboard_reaches_every_page_and_can_be_switched_off() {
    let (world, _) = busy().await;
    let browser = operator(&world, ALICE).await;
    let headings = ["Now", "Find", "Records", "Stuck", "Dead letters", "Events", "Places"];
    for (nth, heading) in headings.into_iter().enumerate() {
        // Where the focus is in a field, a digit is text.
        browser.run("document.activeElement.blur()", json!([])).await;
        browser.press(&(nth + 1).to_string()).await;
        browser.shows("h1", heading).await;
        assert_eq!(browser.count("nav [aria-current=page]").await, 1);
    }
    open(&browser, &world, "stuck?phase=unknown", "Stuck").await;
    browser.shows("tbody tr", "payment-1").await;
    browser.press("j").await;
    browser.press("\u{e007}").await;
    browser.shows("h1", "payment-1").await;
    let focus = browser.run("return document.activeElement.tagName", json!([])).await;
    assert_eq!(focus, json!("H1"), "a new page has the focus at its heading");
    browser.press("?").await;
    browser.shows("dialog h2", "Keyboard").await;
    browser.click("dialog input[type=checkbox]").await;
    browser.press("\u{e00c}").await;
    browser.is_gone("dialog").await;
    browser.press("1").await;
    assert_eq!(browser.text("h1").await.as_deref(), Some("Record of payment-1"), "single keys are off");
}
