//! Where the records are: in the service's directory.

use std::path::{Path, PathBuf};

use keylatch::sqlite::Store;
use testing_support::server::Program;

pub(crate) struct Place(PathBuf);

impl Place {
    #[expect(clippy::unused_async, reason = "other places take time")]
    pub(crate) async fn new(directory: &Path) -> Self {
        Self(directory.join("letters.db"))
    }

    /// The program with its records here, which is its default.
    #[expect(clippy::unused_self, reason = "other places are to be told")]
    pub(crate) fn of(&self, program: Program) -> Program {
        program
    }

    /// The records.
    pub(crate) async fn store(&self) -> Store {
        Store::open(&self.0).await.expect("another process may open it")
    }
}
