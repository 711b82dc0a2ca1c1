//! Every Rust name in backticks in the documents exists in the sources.
//!
//! Checked are paths (`Engine::run`), calls (`require_key()`) and options (`with_…`). Code blocks are not: rustdoc or
//! `readme.rs` runs them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Methods of other crates that the documents name on purpose: those of sqlx.
const OTHERS: [&str; 3] = ["extra_float_digits", "persistent", "statement_cache_capacity"];

/// Crates whose own names the documents may give.
const OTHER_CRATES: [&str; 8] = ["axum", "diesel", "rusqlite", "sea_orm", "sqlx", "std", "tokio", "tokio_postgres"];

/// What `Tx<Sqlite>` dereferences to: its methods are called on the `Tx`.
const TX_TARGET: &str = "Session";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The files under `directory` with this extension.
fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut found = Vec::new();
    for path in entries {
        if path.is_dir() {
            if !path.ends_with("target") && !path.ends_with("node_modules") {
                found.extend(files(&path, extension));
            }
        } else if path.extension().is_some_and(|of_file| of_file == extension) {
            found.push(path);
        }
    }
    found
}

/// What the library's sources define.
struct Sources {
    /// Each file, with the modules that it is.
    files: Vec<(Vec<String>, String)>,
}

impl Sources {
    fn read() -> Self {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let read = |path: PathBuf| {
            // `keylatch-redis/src/options.rs` is the modules `redis` and `options`, and the root of that crate is
            // `redis`. The roots of `keylatch` and `keylatch-core` are both `lib`.
            let modules = path.strip_prefix(&crates).unwrap().with_extension("");
            let modules = modules.iter().map(|part| part.to_str().unwrap().trim_start_matches("keylatch-").to_owned());
            let is_root = path.starts_with(crates.join("keylatch")) || path.starts_with(crates.join("keylatch-core"));
            let named = modules.filter(|module| match module.as_str() {
                "keylatch" | "core" | "src" | "mod" => false,
                "lib" => is_root,
                _ => true,
            });
            (named.collect(), fs::read_to_string(path).unwrap())
        };
        let sources = fs::read_dir(&crates).unwrap().map(|entry| entry.unwrap().path().join("src"));
        Self { files: sources.flat_map(|source| files(&source, "rs")).map(read).collect() }
    }

    fn lines(&self) -> impl Iterator<Item = &str> {
        self.files.iter().flat_map(|(_, text)| text.lines())
    }

    fn has_function(&self, name: &str) -> bool {
        self.lines().any(|line| defines(line, &["fn"], name))
    }

    /// Whether `name` is a module that defines or exports `item`.
    fn has_in_module(&self, name: &str, item: &str) -> bool {
        let mut lines = self
            .files
            .iter()
            .filter(|(modules, _)| modules.iter().any(|module| module == name))
            .flat_map(|(_, text)| text.lines());
        let kinds = ["struct", "enum", "trait", "type", "fn", "const", "mod", "macro_rules!"];
        lines.any(|line| {
            defines(line, &kinds, item) || (line.starts_with("pub use ") && words(line).any(|word| word == item))
        })
    }

    /// Whether `name` is a type or trait, and `item` is one of its functions, constants, variants or fields.
    fn has_in_type(&self, name: &str, item: &str) -> bool {
        let mut of_type = false;
        for line in self.lines() {
            // A top-level item begins and ends without indentation.
            let head = ["impl", "pub struct", "pub enum", "pub trait"].iter().any(|start| line.starts_with(start));
            if head && !line.trim_end().ends_with(';') {
                of_type = words(line).any(|word| word == name);
            }
            if of_type && !head {
                let member = line.strip_prefix("    ").map(|member| member.strip_prefix("pub ").unwrap_or(member));
                let member = member.filter(|member| words(member).next() == Some(item) && member.starts_with(item));
                if member.is_some() || defines(line, &["fn", "const", "type"], item) {
                    return true;
                }
            }
            of_type &= !line.starts_with('}');
        }
        false
    }

    /// Whether the root of `keylatch` or `keylatch-core` has `name`: as a module, or as an export.
    fn has_in_root(&self, name: &str) -> bool {
        let roots = self.files.iter().filter(|(modules, _)| *modules == ["lib"]);
        roots.flat_map(|(_, text)| text.split(';')).any(|item| {
            item.lines().any(|line| defines(line, &["mod"], name))
                || item.contains("pub use ") && words(item).any(|word| word == name)
        })
    }

    fn has_path(&self, path: &str) -> bool {
        let mut names: Vec<_> = path.split("::").collect();
        if names.first().is_some_and(|first| OTHER_CRATES.contains(first)) {
            return true;
        }
        if names.first() == Some(&"keylatch") {
            names.remove(0);
        }
        match names[..] {
            [] => true,
            [name] => self.has_in_root(name),
            _ => names.windows(2).all(|pair| {
                self.has_in_module(pair[0], pair[1])
                    || self.has_in_type(pair[0], pair[1])
                    || pair[0] == "Tx" && self.has_in_type(TX_TARGET, pair[1])
            }),
        }
    }
}

/// Whether `line` defines `name` as an item of one of these kinds.
fn defines(line: &str, kinds: &[&str], name: &str) -> bool {
    let mut before = "";
    !line.trim_start().starts_with("//")
        && words(line).any(|word| {
            word == name && kinds.contains(&before) || {
                before = word;
                false
            }
        })
}

/// The identifiers in `line`.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|letter: char| !(letter.is_alphanumeric() || letter == '_')).filter(|word| !word.is_empty())
}

/// The text in backticks in `page`, outside of code blocks.
fn spans(page: &str) -> Vec<&str> {
    let prose = page.split("```").step_by(2);
    prose.flat_map(str::lines).flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// The names that `span` mentions, and those of them that do not exist.
fn missing<'s>(sources: &Sources, span: &'s str) -> (usize, Vec<&'s str>) {
    let mut names: Vec<(&str, bool)> = Vec::new();
    for path in span.split(|letter: char| !(letter.is_alphanumeric() || "_:".contains(letter))) {
        let is_path = path.contains("::") && !path.starts_with(':') && !path.ends_with(':');
        if is_path {
            names.push((path, sources.has_path(path)));
        }
    }
    for before in span.split('(').rev().skip(1) {
        let name = words(before).last().filter(|name| before.ends_with(name) && !before.contains("::"));
        let name = name.filter(|name| name.starts_with(|letter: char| letter.is_lowercase()));
        names.extend(name.map(|name| (name, sources.has_function(name) || OTHERS.contains(&name))));
    }
    if span.starts_with("with_") && !span.contains('(') {
        names.push((span, sources.has_function(span)));
    }
    let absent = names.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect();
    (names.len(), absent)
}

#[test]
fn a_name_that_is_not_there_is_found_missing() {
    let sources = Sources::read();
    let there = [
        "Engine::run",
        "Policy::retention",
        "Resolved::NotUnknown",
        "keylatch::entry_point",
        "keylatch::entry_point::Request",
        "sqlite::Store",
        "machine::decide",
        "require_key()",
        "with_canonical_json",
        "engine.store().lapsed(None, 100)",
        ".persistent(false)",
    ];
    for span in there {
        let (names, absent) = missing(&sources, span);
        assert!(names > 0 && absent.is_empty(), "{span}: {absent:?} of {names}");
    }
    let absent = [
        "optional_key()",
        "Engine::sleep",
        "Policy::forget",
        "Problem::run",
        "keylatch::window",
        "sqlite::Shop",
        "Nothing::run",
        "with_luck",
        "engine.store().collapsed(None, 100)",
    ];
    for span in absent {
        assert_eq!(missing(&sources, span).1.len(), 1, "{span}");
    }
    for span in ["keylatch_running", "IDEMPOTENCY_KEY_REUSED", "409", "Prefer: wait=5", "Atomic"] {
        assert_eq!(missing(&sources, span), (0, Vec::new()), "{span}");
    }
}

#[test]
fn every_name_in_the_documents_exists() {
    let sources = Sources::read();
    let mut pages: BTreeSet<_> = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|page| root().join(page)).into();
    for room in ["docs", "crates", "examples", "testing"] {
        pages.extend(files(&root().join(room), "md"));
    }
    let (mut checked, mut absent) = (0, Vec::new());
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for span in spans(&text) {
            let (names, missing) = missing(&sources, span);
            checked += names;
            absent.extend(missing.iter().map(|name| format!("{}: {name}", page.display())));
        }
    }
    assert!(absent.is_empty(), "these are named and do not exist:\n{}", absent.join("\n"));
    assert!(checked > 50, "only {checked} names were found");
}
