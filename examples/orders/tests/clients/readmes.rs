//! What the READMEs of the clients show, run against the orders API.

use std::path::Path;
use std::process::Command;

use crate::packages::{INSTALLED, run};
use crate::shop::Shop;

#[tokio::test]
async fn the_readme_for_node_works() {
    let before = "const [user, cart] = ['alice', 'cart-1'];
const order = { user_id: user, cart_id: cart, items: [{ product_id: 'prod1', quantity: 1, price: 2 }] };\n";
    let mut node = INSTALLED.node();
    let program = |text: &str| {
        let path = INSTALLED.path("app/readme.mjs");
        std::fs::write(&path, format!("{before}{text}")).expect("the directory is ours");
        node.arg(path);
        node
    };
    check("typescript", "```ts\n", program).await;
}

#[tokio::test]
async fn the_readme_for_python_works() {
    let before = "user, cart = 'alice', 'cart-1'
order = {'user_id': user, 'cart_id': cart, 'items': [{'product_id': 'prod1', 'quantity': 1, 'price': 2}]}\n";
    let mut python = INSTALLED.python();
    let program = |text: &str| {
        python.arg("-c").arg(format!("{before}{text}"));
        python
    };
    check("python", "```python\n", program).await;
}

#[tokio::test]
async fn the_readme_for_rust_works_with_the_package() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = std::fs::read_to_string(workspace.join("crates/keylatch-client/README.md")).expect("it is there");
    let block = readme.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next()).expect("it has a block");
    let shop = Shop::new().await;
    let server = shop.open().await;
    let program = format!(
        "#[tokio::main(flavor = \"current_thread\")]
        async fn main() -> Result<(), Box<dyn std::error::Error>> {{
            let (user, cart) = (\"alice\", \"cart-1\");
            let item = serde_json::json!({{\"product_id\": \"prod1\", \"quantity\": 1, \"price\": 2}});
            let order = serde_json::json!({{\"user_id\": user, \"cart_id\": cart, \"items\": [item]}});
            {}
            Ok(())
        }}",
        block.replace("https://shop.example", server.url())
    );
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let sources = directory.path().join("app/src");
    std::fs::create_dir_all(&sources).expect("there is room for a directory");
    std::fs::write(sources.join("main.rs"), program).expect("the directory is ours");
    let install = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/install_crate.sh");
    run(Command::new("bash").arg(install).arg(&workspace).arg(directory.path()));
    assert_eq!(run(&mut Command::new(directory.path().join("built/debug/app"))), "201 Created replayed: false\n");
    server.kill().await;
}

/// Runs the first two blocks of code, which order and resume.
async fn check(client: &str, fence: &str, program: impl FnOnce(&str) -> Command) {
    let shop = Shop::new().await;
    let server = shop.open().await;
    let readme = std::fs::read_to_string(INSTALLED.path(&format!("clients/{client}/README.md"))).expect("it is there");
    let blocks: Vec<_> = readme.split(fence).skip(1).take(2).filter_map(|rest| rest.split("```").next()).collect();
    let text = blocks.concat().replace("https://shop.example", server.url());
    assert_eq!(blocks.len(), 2);
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let mut program = program(&text);
    let printed = run(program.current_dir(directory.path()));
    assert!(printed.contains("alice") && printed.to_lowercase().contains("false"), "{printed}");
    server.kill().await;
}
