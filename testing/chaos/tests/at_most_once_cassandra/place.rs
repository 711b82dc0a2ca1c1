//! Where the records are: in a keyspace of each test, on the node of all tests.

use std::path::Path;

use keylatch::cassandra::{self, Store};
use testing_support::cassandra::shared_keyspace;
use testing_support::server::Program;

pub(crate) struct Place(String);

impl Place {
    pub(crate) async fn new(_directory: &Path) -> Self {
        let url = shared_keyspace().await;
        cassandra::migrate(&url, &cassandra::Options::default()).await.expect("the tables can be made");
        Self(url)
    }

    /// The program with its records here.
    pub(crate) fn of(&self, program: Program) -> Program {
        program.env("CASSANDRA_URL", &self.0)
    }

    /// The records.
    pub(crate) async fn store(&self) -> Store {
        Store::connect(&self.0).await.expect("another process may connect")
    }
}
