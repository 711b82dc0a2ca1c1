//! Where the records are: in a database of each test, on a shared server.

use std::path::Path;

use keylatch::postgres::Store;
use testing_support::postgres::shared::database;
use testing_support::server::Program;

pub(crate) struct Place(String);

impl Place {
    pub(crate) async fn new(_directory: &Path) -> Self {
        Self(database().await)
    }

    /// The program with its records here.
    pub(crate) fn of(&self, program: Program) -> Program {
        program.env("DATABASE_URL", &self.0)
    }

    /// The records.
    pub(crate) async fn store(&self) -> Store {
        Store::connect(&self.0).await.expect("another process may connect")
    }
}
