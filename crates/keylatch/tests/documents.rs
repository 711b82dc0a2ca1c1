//! What the documents refer to exists. `http/problem.rs` tests that each problem has its page.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The tests that ARCHITECTURE.md names for the invariants exist.
#[test]
fn every_invariant_names_tests_that_exist() {
    let mut sources = String::new();
    for directory in ["crates", "examples", "testing"] {
        gather(&root().join(directory), &mut sources);
    }
    let page = read("docs/ARCHITECTURE.md");
    let rows = page.lines().filter(|line| line.starts_with("| I"));
    let mut named = 0;
    for row in rows {
        let tests = row.rsplit('|').nth(1).unwrap();
        let tests: Vec<_> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test is named in {row}");
        for test in tests {
            let there = ["(", "<"].iter().any(|after| sources.contains(&format!("fn {test}{after}")));
            assert!(there, "there is no test {test}");
            named += 1;
        }
    }
    assert!(named >= 13, "only {named} tests are named");
}

/// ARCHITECTURE.md names every module of the library, and the tests that compare stores with the machine.
#[test]
fn every_module_has_its_place() {
    let page = read("docs/ARCHITECTURE.md");
    let (_, modules) = page.split_once("\n## Modules\n").unwrap();
    const STORES: [&str; 4] = ["keylatch-sqlite", "keylatch-postgres", "keylatch-redis", "keylatch-cassandra"];
    for name in ["keylatch-core", "keylatch"].into_iter().chain(STORES) {
        let (_, section) = modules.split_once(&format!("\ncrates/{name} ")).unwrap();
        let section = section.split("\ncrates/").next().unwrap();
        for entry in fs::read_dir(root().join("crates").join(name).join("src")).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap();
            let named = section.contains(&format!("{stem}.rs")) || section.contains(&format!("{stem}/"));
            assert!(named || stem == "lib", "{name} does not list {}", path.display());
        }
    }
    let mut sources = String::new();
    gather(&root().join("crates"), &mut sources);
    let (_, agreement) = page.split_once("\n## The store compares, the machine decides\n").unwrap();
    let mut named = 0;
    for test in
        agreement.lines().filter(|line| line.starts_with("- `")).flat_map(|line| line.split('`').skip(1).step_by(2))
    {
        let there = ["(", "<"].iter().any(|after| sources.contains(&format!("fn {test}{after}")));
        assert!(there, "there is no test {test}");
        named += 1;
    }
    assert!(named >= 6, "only {named} tests are named");
}

/// The README shows the code that `readme.rs` and the example of a consumer run.
#[test]
fn the_code_in_the_readmes_is_run() {
    let run = [include_str!("readme.rs").to_owned(), read("examples/queue_consumer/src/main.rs")].concat();
    let run: BTreeSet<_> = run.lines().map(str::trim).map(str::to_owned).collect();
    for page in ["README.md", "crates/keylatch/README.md"] {
        let text = read(page);
        let shown: Vec<_> = text.split("```rust\n").skip(1).flat_map(|code| code.split("```").next()).collect();
        assert!(!shown.is_empty(), "{page} shows no code");
        for line in shown.iter().flat_map(|code| code.lines()).map(str::trim).filter(|line| !line.is_empty()) {
            assert!(run.contains(line), "{page} shows code that is not run: {line}");
        }
    }
}

/// The versions in the READMEs are those that are tested together.
#[test]
fn the_readmes_ask_for_the_versions_of_this_workspace() {
    let workspace = read("Cargo.toml");
    // Up to the first number that determines compatibility: 0.39 for 0.39.1, 1 for 1.54.
    let compatible = |version: &str| {
        let numbers = version.split('.').take(if version.starts_with("0.") { 2 } else { 1 });
        numbers.collect::<Vec<_>>().join(".")
    };
    for page in ["README.md", "crates/keylatch/README.md"] {
        let text = read(page);
        let asked = text.split("```toml\n[dependencies]\n").nth(1).and_then(|rest| rest.split("```").next());
        let asked: Vec<_> = asked.unwrap_or_else(|| panic!("{page} has no dependencies")).lines().collect();
        for line in &asked {
            let (name, version) = (line.split(' ').next().unwrap(), quoted(line));
            let ours = workspace.lines().find(|line| line.starts_with(&format!("{name} = ")));
            let ours = ours.unwrap_or_else(|| panic!("{page}: the workspace does not depend on {name}"));
            let ours = ours.split("version").last().map(quoted).unwrap();
            assert_eq!(version, compatible(ours), "{page}: {name}");
        }
        assert!(asked.len() >= 4, "{page}");
    }
}

/// The first text in quotes.
fn quoted(line: &str) -> &str {
    line.split('"').nth(1).unwrap_or_else(|| panic!("no version in {line}"))
}

/// Links between documents work.
#[test]
fn links_lead_to_files() {
    let pages =
        ["README.md", "CONTRIBUTING.md", "docs/ARCHITECTURE.md", "examples/orders/README.md"].map(PathBuf::from);
    let problems = fs::read_dir(root().join("docs/problems")).unwrap().map(|entry| entry.unwrap().path());
    let mut followed = 0;
    for page in pages.into_iter().chain(problems) {
        let text = read(&page);
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if link.contains("://") || link.starts_with('#') {
                continue;
            }
            let target = root().join(&page).parent().unwrap().join(link.split('#').next().unwrap());
            assert!(target.exists(), "{}: {link} leads nowhere", page.display());
            followed += 1;
        }
    }
    assert!(followed > 20, "only {followed} links were found");
}

fn gather(directory: &Path, sources: &mut String) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            gather(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}
