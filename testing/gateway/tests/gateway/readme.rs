//! The README's service in Python behind the gateway, started with the README's own command.

use std::fs;
use std::path::Path;
use std::process::Output;

use testing_support::server::Program;
use tokio::process::Command;
use tokio::time::timeout;

use crate::setup::{SOON, gateway};

#[tokio::test]
async fn the_readmes_order_is_one_order() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let script = root.join("examples/gateway_python/orders.py");
    assert!(readme.contains(&fs::read_to_string(&script).unwrap()), "the README shows the script as it is");

    // It does not print its address: the port is one that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let mut python = Command::new("python3");
    let _service = python.arg(&script).env("PORT", &port).kill_on_drop(true).spawn().expect("python3 is installed");
    testing_support::eventually(SOON, "the service to listen", async || {
        tokio::net::TcpStream::connect(format!("127.0.0.1:{port}")).await.is_ok()
    })
    .await;

    let directory = tempfile::tempdir().unwrap();
    let arguments = argument_of(&readme, "cargo run -p keylatch-gateway -- gateway --listen 127.0.0.1:8080 ");
    let arguments = arguments.replace('\\', "").replace("--upstream http://127.0.0.1:9000", "");
    let arguments = arguments.replace("keylatch.db", &directory.path().join("keylatch.db").display().to_string());
    let arguments: Vec<_> = arguments.split_whitespace().collect();
    let upstream = format!("http://127.0.0.1:{port}");
    let program: Program = gateway(&upstream, &arguments);
    let server = program.start().await.unwrap_or_else(|error| panic!("{error}"));

    let order = argument_of(&readme, "curl -i http://127.0.0.1:8080/orders");
    let order = format!("curl -i -sS {}/orders {}", server.url(), order.lines().next().unwrap());
    for replayed in [false, true, true] {
        let answer = run(&order).await;
        let text = String::from_utf8_lossy(&answer.stdout).to_lowercase();
        assert!(text.starts_with("http/1.1 201 ") && text.ends_with("{\"order\": 1}\n"), "{text}");
        assert_eq!(text.contains("idempotent-replayed: true"), replayed, "{text}");
    }
    let other = run(&order.replace("order-1", "order-2")).await;
    assert!(String::from_utf8_lossy(&other.stdout).ends_with("{\"order\": 2}\n"));

    // What an operator sees of it, by the README's own commands.
    let commands = readme.split_once("\n## For operators\n").expect("the README has a part for operators").1;
    let commands = commands.split("\n\n").nth(1).expect("it has commands");
    let mut shown = String::new();
    for command in commands.lines().map(str::trim).filter_map(|line| line.strip_prefix("keylatch ")) {
        let store = format!("KEYLATCH_STORE=sqlite:{}/keylatch.db", directory.path().display());
        let ran = run(&format!("{store} {} {command}", env!("CARGO_BIN_EXE_gateway-under-test"))).await;
        assert!(ran.status.success(), "{command}: {}", String::from_utf8_lossy(&ran.stderr));
        shown.push_str(&String::from_utf8(ran.stdout).expect("text"));
    }
    for wanted in ["unknown outcomes", "There is no such record.", "order-1", "completed", "status 201"] {
        assert!(shown.contains(wanted), "{wanted:?} is not in:\n{shown}");
    }
}

/// A service that honours the derived key gives the same order to every attempt, even after it has been killed.
async fn honours_the_derived_key(interpreter: &str, script: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(script);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let directory = tempfile::tempdir().unwrap();
    let start = async || {
        let mut service = Command::new(interpreter);
        service.arg(&script).env("PORT", &port);
        service.env("DB", directory.path().join("orders.db")).env("ORDERS", directory.path().join("orders"));
        let service = service.kill_on_drop(true).spawn().unwrap_or_else(|error| panic!("{interpreter}: {error}"));
        testing_support::eventually(SOON, "the service to listen", async || {
            tokio::net::TcpStream::connect(format!("127.0.0.1:{port}")).await.is_ok()
        })
        .await;
        service
    };
    let mut service = start().await;
    let order = async |key: String| {
        let answer = run(&format!("curl -sS http://127.0.0.1:{port}/ -d a -H 'Idempotency-Derived-Key: {key}'")).await;
        String::from_utf8(answer.stdout).unwrap()
    };
    let (one, two) = ("1".repeat(64), "2".repeat(64));
    let first = order(one.clone()).await;
    assert!(first.contains("\"order\""), "{first}");
    assert_eq!(order(one.clone()).await, first);
    service.kill().await.unwrap();
    let service = start().await;
    assert_eq!(order(one).await, first);
    assert_ne!(order(two).await, first);

    let arguments = ["--store", "memory:", "--scope", "shared:all", "--guarantee", "fenced", "--require-key"];
    let server = gateway(&format!("http://127.0.0.1:{port}"), &arguments).start().await.unwrap();
    let order = format!("curl -sS {}/ -d a -H 'Idempotency-Key: k'", server.url());
    let first = run(&order).await.stdout;
    assert!(String::from_utf8_lossy(&first).contains("\"order\""), "{}", String::from_utf8_lossy(&first));
    assert_eq!(run(&order).await.stdout, first);
    drop(service);
}

#[tokio::test]
async fn the_example_in_python_honours_the_derived_key() {
    honours_the_derived_key("python3", "gateway_python/honours.py").await;
}

#[tokio::test]
async fn the_example_in_node_honours_the_derived_key() {
    honours_the_derived_key("node", "gateway_node/honours.mjs").await;
}

/// The text after `command` in the README, to the end of its paragraph.
fn argument_of(readme: &str, command: &str) -> String {
    let after = readme.split_once(command).unwrap_or_else(|| panic!("the README has no `{command}`")).1;
    after.split("\n\n").next().unwrap().to_owned()
}

async fn run(command: &str) -> Output {
    let mut shell = Command::new("sh");
    let running = shell.args(["-c", command]).kill_on_drop(true).output();
    timeout(SOON, running).await.expect("curl ends").expect("curl is installed")
}
