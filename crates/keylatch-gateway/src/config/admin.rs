//! The table `[admin]`: the listener for operators.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use keylatch_admin::{Audit, Tokens};

use super::mistakes::Mistakes;
use super::table::Table;

/// What the file says of the listener for operators.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Admin {
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) tokens: Option<PathBuf>,
    pub(crate) audit_log: Option<PathBuf>,
}

impl Admin {
    /// Reads the table. Paths are relative to `directory`.
    pub(super) fn read(mut table: Table<'_>, directory: &Path, mistakes: &mut Mistakes) -> Self {
        let listen = table.parsed_by("listen", mistakes, |text| {
            text.parse().map_err(|_| "write an address and a port, such as 127.0.0.1:9090".to_owned())
        });
        let tokens = table.parsed_by("tokens", mistakes, |file| {
            let path = directory.join(file);
            let read = Tokens::read(&path).map(|_| path);
            read.map_err(|wrong| wrong.to_string().replace('\n', "; "))
        });
        let audit_log = table.parsed_by("audit-log", mistakes, |file| {
            let path = directory.join(file);
            let opened = Audit::to_file(&path).map(|_| path.clone());
            opened.map_err(|error| format!("{} cannot be written: {error}", path.display()))
        });
        table.end(mistakes);
        Self { listen, tokens, audit_log }
    }
}
