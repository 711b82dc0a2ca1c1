//! Reads the files of deploy/.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub(crate) fn deploy(file: &str) -> PathBuf {
    root().join("deploy").join(file)
}

pub(crate) fn text(file: &str) -> String {
    let path = root().join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The only document of a YAML file of deploy/.
pub(crate) fn yaml(file: &str) -> Value {
    let path = format!("deploy/{file}");
    serde_saphyr::from_str(&text(&path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What a program prints, if it succeeds.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).current_dir(root()).output();
    let output = output.unwrap_or_else(|error| panic!("{program} cannot be started: {error}"));
    let printed = [output.stdout, output.stderr].map(|printed| String::from_utf8_lossy(&printed).into_owned()).concat();
    if output.status.success() { Ok(printed) } else { Err(printed) }
}

/// The strings of a list.
pub(crate) fn strings(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// A metric, as a table of the documentation describes it.
#[derive(Debug)]
pub(crate) struct Metric {
    pub(crate) kind: String,
    /// Its labels with their values, if the table names them.
    pub(crate) labels: BTreeMap<String, BTreeSet<String>>,
}

/// All metrics of the library, the gateway and the consumer. Tests compare these tables with the code.
pub(crate) fn metrics() -> BTreeMap<String, Metric> {
    let pages =
        ["crates/keylatch/src/manual/observability.md", "docs/GATEWAY.md", "crates/keylatch-kafka/src/manual.md"];
    let pages = pages.map(text).concat();
    let rows = pages.lines().filter(|line| line.starts_with("| `keylatch_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (cells[1].trim_matches('`').to_owned(), Metric { kind: cells[2].to_owned(), labels: labels(cells[3]) })
    })
    .collect()
}

/// `label`: `value`, `value`; or `label` (`value`, `value`), `label` (…).
fn labels(cell: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut labels = BTreeMap::new();
    if let Some((label, values)) = cell.split_once(": ") {
        let values = values.split('`').skip(1).step_by(2).map(str::to_owned);
        labels.insert(label.trim_matches('`').to_owned(), values.collect());
        return labels;
    }
    for part in cell.split("), ") {
        let (label, values) = part.split_once(" (").unwrap_or((part, ""));
        // What follows a semicolon or says more in words is not a closed list.
        let closed = !values.contains(';') && !values.contains(" to ") && !values.contains('…');
        let values = values.split('`').skip(1).step_by(2).filter(|_| closed).map(str::to_owned);
        if !label.is_empty() {
            labels.insert(label.trim_matches('`').to_owned(), values.collect());
        }
    }
    labels
}
