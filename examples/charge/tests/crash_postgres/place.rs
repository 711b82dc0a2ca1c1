//! Where the records are: a database of the test's own, on a server that all share.

use testing_support::postgres::shared::database;
use testing_support::server::Program;

pub(crate) struct Place(String);

impl Place {
    pub(crate) async fn new() -> Self {
        Self(database().await)
    }

    /// The program, with its records here.
    pub(crate) fn of(&self, program: Program) -> Program {
        program.env("DATABASE_URL", &self.0)
    }
}
