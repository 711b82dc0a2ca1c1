//! The program that orders through the Rust client: this same binary, started again with an environment. As those in other
//! languages, it tells each step in a line of JSON. If there is a journal, it finishes what that has first.

use std::env;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keylatch_client::{Answer, Client, Entry, FileJournal, Key, Options, Policy, Reqwest};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// The program, to be given its environment.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env::current_exe().expect("a test knows its program"));
    command.args(["--exact", "rust_program::orders", "--nocapture", "--test-threads=1"]);
    command
}

/// Without an environment it says what is missing, and with one it orders.
#[tokio::test(flavor = "multi_thread")]
async fn orders() {
    match env::var("URL") {
        Ok(url) => order_all(&url, env::var("JOURNAL").ok()).await,
        Err(_) => assert_eq!(number("FIRST").unwrap_err(), "FIRST is missing"),
    }
}

fn number(name: &str) -> Result<u64, String> {
    let text = env::var(name).map_err(|_| format!("{name} is missing"))?;
    text.parse().map_err(|_| format!("{name} is no number"))
}

/// The tests are impatient: a try that hears nothing is given up soon, and retries are not spread.
fn policy() -> Policy {
    Policy {
        tries_max: 100,
        try_max: Duration::from_secs(3),
        time_max: Duration::from_secs(100),
        pause_max: Duration::from_millis(500),
        prefer_wait: Duration::from_secs(1),
        retries_per_s: 1000.0,
        ..Policy::default()
    }
}

async fn order_all(url: &str, journal: Option<String>) {
    let [first, orders, in_flight, users] = ["FIRST", "ORDERS", "IN_FLIGHT", "USERS"].map(|name| number(name).unwrap());
    let http = reqwest::Client::builder().no_proxy().build().expect("a plain client needs nothing");
    let mut options = Options::default().with_policy(policy());
    let has_journal = journal.is_some();
    if let Some(journal) = journal {
        options = options.with_journal(FileJournal::open(journal).expect("the journal opens"));
    }
    let client = Client::over(Reqwest::from(http), options).expect("the policy can be kept");
    let pending = client.pending().await.expect("the journal is read");
    for Entry { request, .. } in &pending {
        let body: Value = serde_json::from_slice(request.body()).expect("the body is an order");
        tell(&json!({"resuming": body["cart_id"]}));
    }
    for entry in pending {
        told(&client.resume(entry).await.expect("it is finished"));
    }
    let (url, next) = (format!("{url}/api/orders"), Arc::new(AtomicU64::new(first)));
    let mut workers = JoinSet::new();
    for _ in 0..in_flight {
        let (client, url, next) = (client.clone(), url.clone(), next.clone());
        workers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= orders {
                    return;
                }
                tell(&json!({"begun": number}));
                let (user, cart) = (format!("user-{}", number % users), format!("cart-{number}"));
                // With a journal the key may be random, because the journal remembers it.
                let key = match has_journal {
                    true => Key::random(),
                    false => Key::derive(["order", &user, &cart]).expect("there are parts"),
                };
                let items = json!([{"product_id": "prod1", "quantity": 2, "price": 10.5}]);
                let order = json!({"user_id": user, "cart_id": cart, "items": items});
                told(&client.post(&url).json(&order).key(key).send().await.expect("there is an answer"));
            }
        });
    }
    while let Some(done) = workers.join_next().await {
        done.expect("no order fails");
    }
}

fn told(answer: &Answer) {
    let order: Value = answer.json().expect("an answer is JSON");
    tell(&json!({
        "cart_id": order["cart_id"], "order_id": order["order_id"], "status": answer.status().as_u16(),
        "tries": answer.tries, "replayed": answer.replayed,
    }));
}

/// Writes a line at once. The test harness may have begun one before.
fn tell(line: &Value) {
    use std::io::Write as _;
    std::io::stdout().write_all(format!("\n{line}\n").as_bytes()).expect("somebody listens");
}
