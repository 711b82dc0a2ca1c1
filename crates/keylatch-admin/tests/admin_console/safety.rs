//! Clients choose keys, scopes, headers and bodies. Whatever is in them, the page shows it as text.

use serde_json::{Value, json};
use testing_support::browser::Browser;

use crate::world::{ALICE, World, id, open, operator, place};

/// Runs if any of the texts below ever becomes markup.
const HACK: &str = "<img/src=x/onerror=window.hacked=1><script>window.hacked=1</script><svg/onload=window.hacked=1>";

/// What a hostile client may have in a key: visible ASCII.
const KEY: &str =
    "\"><img/src=x/onerror=window.hacked=1><script>window.hacked=1</script>javascript:window.hacked=1//'{{7*7}}";

async fn was_hacked(browser: &Browser) -> bool {
    browser.run("return window.hacked !== undefined", json!([])).await == json!(true)
}

/// What the browser has logged of its own defence, or of a mistake in the page's code. That there is no such record, or
/// that an action is refused, is no mistake.
async fn complaints(browser: &Browser) -> Vec<String> {
    let mut lines = browser.logged().await;
    lines.retain(|line| !line.contains("Failed to load resource"));
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_choose_is_shown_as_text() {
    let world = World::new().await;
    // Also one that reverses the text after it, and one that cannot be seen.
    let caller = format!("ada\u{202e}{HACK}\u{200b}");
    let operation = "POST /api/payments";
    let record = {
        use keylatch::{Engine, Fingerprint, Key, Limits, Policy, Scope};
        let scope = Scope::new(&caller).unwrap().for_operation(operation).unwrap();
        let engine = Engine::at_most_once(world.store.clone(), Policy::default(), Limits::default()).unwrap();
        let run = engine.run(scope, Key::new(KEY).unwrap(), Fingerprint::of([b"x".as_slice()]), async |run| {
            run.step(HACK, async |_| Ok::<_, std::io::Error>(1)).await.unwrap();
            Err::<u8, _>(std::io::Error::other("half-way"))
        });
        run.await.unwrap_err();
        id(&caller, operation, KEY)
    };
    world.send("/api/orders", "order-1", HACK).await;
    world.dead_letter(10, HACK).await;

    let browser = operator(&world, ALICE).await;
    open(&browser, &world, "records", "Records").await;
    browser.shows("tbody", KEY).await;
    browser.shows("tbody", &format!("ada\\u{{202e}}{HACK}\\u{{200b}}")).await;
    open(&browser, &world, &format!("record/{record}"), KEY).await;
    browser.shows(".timeline", HACK).await;
    browser.shows(".facts", KEY).await;
    assert!(browser.run("return document.title", json!([])).await.as_str().unwrap().contains(KEY));

    // An operator writes it as an answer, too.
    browser.click("[data-action=resolve]").await;
    browser.fill("dialog [name=headers]", &format!("content-type: {HACK}")).await;
    browser.fill("dialog [name=body]", HACK).await;
    browser.fill("dialog [name=reason]", HACK).await;
    browser.click("dialog button[type=submit]").await;
    browser.is_gone("dialog").await;
    browser.click("[data-action=show]").await;
    browser.shows("pre.content", HACK).await;
    browser.shows("[aria-label=Headers]", HACK).await;

    let order = id(crate::world::CALLER, "POST /api/orders", "order-1");
    open(&browser, &world, &format!("record/{order}"), "order-1").await;
    browser.click("[data-action=show]").await;
    browser.shows("[aria-label=Headers]", "\"<b>1</b>\"").await;
    browser.shows("pre.content", "onerror").await;

    open(&browser, &world, "dead-letters", "Dead letters").await;
    browser.shows("tbody", HACK).await;
    browser.click("tbody [data-action=replay]").await;
    browser.shows("dialog", place().topic()).await;

    // In the address, and in a search.
    open(&browser, &world, &format!("record/{HACK}"), "Record").await;
    browser.shows("[role=alert]", "64 hexadecimal digits").await;
    open(&browser, &world, "find", "Find").await;
    for field in ["caller", "operation", "key"] {
        browser.fill(&format!("input[name={field}]"), HACK).await;
    }
    browser.click("form button[type=submit]").await;
    browser.shows("[role=alert]", "no such record").await;

    assert_eq!(browser.count("main img, main script, main b, main svg[onload]").await, 0);
    assert!(!was_hacked(&browser).await);
    assert_eq!(complaints(&browser).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_browser_runs_nothing_but_the_embedded_files() {
    let world = World::new().await;
    let browser = operator(&world, ALICE).await;
    // Were the page to forget itself, the policy would hold.
    let attempts = [
        ("markup from a text", "document.body.innerHTML = '<b>x</b>'"),
        (
            "a script's text",
            "const s = document.createElement('script'); s.textContent = 'window.hacked = 1'; document.body.append(s)",
        ),
        (
            "a script's source",
            "const s = document.createElement('script'); s.src = 'data:,window.hacked=1'; document.body.append(s)",
        ),
        ("a text as code", "Function('window.hacked = 1')()"),
        ("a policy of one's own", "trustedTypes.createPolicy('mine', { createHTML: (text) => text })"),
        (
            "a frame's content",
            "const f = document.createElement('iframe'); f.srcdoc = '<b>x</b>'; document.body.append(f)",
        ),
        ("a listener", "document.body.setAttribute('onclick', 'window.hacked = 1')"),
    ];
    for (what, attempt) in attempts {
        // In a turn of its own: what the driver itself runs is exempt from the policy.
        let script = format!(
            "return new Promise((end) => setTimeout(() => {{
                try {{ (() => {{ {attempt} }})(); end('done') }} catch (error) {{ end(error.name) }}
            }}))"
        );
        let failed = browser.run(&script, json!([])).await;
        assert_ne!(failed, json!("done"), "{what}");
    }
    assert!(!was_hacked(&browser).await);
    // It talks to its own origin only.
    let elsewhere = "return new Promise((end) => {
        addEventListener('securitypolicyviolation', (event) => end(event.effectiveDirective));
        fetch('http://127.0.0.1:9/').then(() => end('sent'));
    })";
    assert_eq!(browser.run(elsewhere, json!([])).await, json!("connect-src"));
}

#[tokio::test]
async fn the_page_comes_with_its_policy_and_without_a_token() {
    let world = World::new().await;
    let client = reqwest::Client::new();
    let page = client.get(world.console()).send().await.unwrap();
    assert_eq!(page.status(), 200);
    let header =
        |name: &str| page.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    let policy = header("content-security-policy");
    for part in
        ["default-src 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'", "base-uri 'none'"]
    {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"), "{policy}");
    assert_eq!((header("x-content-type-options"), header("set-cookie")), ("nosniff".to_owned(), String::new()));
    // A browser that has this version is told so.
    let again = client.get(world.console()).header("if-none-match", header("etag")).send().await.unwrap();
    assert_eq!((again.status(), again.content_length()), (reqwest::StatusCode::NOT_MODIFIED, Some(0)));
    // Without the slash, it leads to the page.
    let short = client.get(world.console().trim_end_matches('/')).send().await.unwrap();
    assert_eq!((short.status(), short.url().as_str()), (reqwest::StatusCode::OK, world.console().as_str()));
    let missing: Value =
        client.get(format!("{}missing.js", world.console())).send().await.unwrap().json().await.unwrap();
    assert_eq!(missing["status"], 404);
}
