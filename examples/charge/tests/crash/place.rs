//! Where the records are: a directory of the test's own.

use tempfile::TempDir;
use testing_support::server::Program;

pub(crate) struct Place(TempDir);

impl Place {
    #[expect(clippy::unused_async, reason = "other places take time")]
    pub(crate) async fn new() -> Self {
        Self(tempfile::tempdir().expect("there is room for a directory"))
    }

    /// The program, with its records here.
    pub(crate) fn of(&self, program: Program) -> Program {
        program.env("DATA_DIR", self.0.path())
    }
}
