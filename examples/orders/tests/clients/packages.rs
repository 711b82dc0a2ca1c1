//! The packages of the clients: built as one would publish them, and installed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use serde_json::Value;
use tempfile::TempDir;

use crate::rust_program;

/// A client, and the library that it sends through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    Node,
    Python(&'static str),
    Rust,
}

/// A directory with copies of the clients, and their packages installed. It goes with the process.
pub(crate) struct Installed {
    directory: TempDir,
}

/// Built once, for all tests.
pub(crate) static INSTALLED: LazyLock<Installed> = LazyLock::new(Installed::new);

const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../clients");
const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");

impl Installed {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("there is room for a directory");
        let install = Path::new(PROGRAMS).join("install.sh");
        run(Command::new("bash").arg(install).arg(CLIENTS).arg(PROGRAMS).arg(directory.path()));
        Self { directory }
    }

    /// Where `install.sh` has put this.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Python, with the package installed.
    pub(crate) fn python(&self) -> Command {
        self.in_app(self.path("venv/bin/python"))
    }

    /// Node. A program in the directory of the app finds the package.
    pub(crate) fn node(&self) -> Command {
        self.in_app("node")
    }

    fn in_app(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.path("app"));
        command
    }
}

impl Client {
    /// The program that orders.
    pub(crate) fn program(self) -> Command {
        match self {
            Self::Node => {
                let mut command = INSTALLED.node();
                command.arg("orders.mjs");
                command
            }
            Self::Python(library) => {
                let mut command = INSTALLED.python();
                command.args(["orders.py", library]);
                command
            }
            Self::Rust => rust_program::program(),
        }
    }

    /// The carts of the orders in the journal, as a third party reads it.
    pub(crate) fn pending(self, journal: &Path) -> BTreeSet<String> {
        let bodies: Vec<Vec<u8>> = match self {
            Self::Node => {
                let files = std::fs::read_dir(journal).expect("the journal is a directory");
                let paths = files.map(|file| file.expect("it can be listed").path());
                paths.filter(|path| path.extension().is_some_and(|of| of == "json")).map(body_in_file).collect()
            }
            Self::Python(_) | Self::Rust => {
                let db = rusqlite::Connection::open(journal).expect("the journal is a file of SQLite");
                let mut bodies = db.prepare("SELECT body FROM intent").expect("it has its table");
                let bodies = bodies.query_map([], |row| row.get(0)).expect("it can be read");
                bodies.collect::<Result<_, _>>().expect("bodies are bytes")
            }
        };
        bodies.iter().map(|body| cart_in(body)).collect()
    }
}

fn body_in_file(path: PathBuf) -> Vec<u8> {
    let text = std::fs::read(path).expect("an entry is whole");
    let entry: Value = serde_json::from_slice(&text).expect("an entry is JSON");
    base64(entry["body"].as_str().expect("an entry has a body"))
}

fn cart_in(body: &[u8]) -> String {
    let order: Value = serde_json::from_slice(body).expect("the body is that of an order");
    order["cart_id"].as_str().expect("an order has a cart").to_owned()
}

/// The bytes that `text` stands for (RFC 4648, section 4).
fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.trim_end_matches('=').chars().map(|digit| DIGITS.find(digit).expect("a digit of base64"));
    let (mut bytes, mut bits, mut kept) = (Vec::new(), 0_usize, 0);
    for digit in digits {
        bits = bits << 6 | digit;
        kept += 6;
        if kept >= 8 {
            kept -= 8;
            bytes.push(u8::try_from(bits >> kept & 0xff).expect("eight bits"));
        }
        bits &= (1 << kept) - 1;
    }
    bytes
}

/// Runs a command to its end, and fails with what it printed. Returns that.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let printed = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} ended with {}, and printed:\n{printed}", output.status);
    printed
}
