//! Where the records are: in a keyspace of the test's own, on the node of all tests.

use keylatch::cassandra;
use testing_support::cassandra::shared_keyspace;
use testing_support::server::Program;

pub(crate) struct Place(String);

impl Place {
    pub(crate) async fn new() -> Self {
        let url = shared_keyspace().await;
        cassandra::migrate(&url, &cassandra::Options::default()).await.expect("the tables can be made");
        Self(url)
    }

    /// The program, with its records here.
    pub(crate) fn of(&self, program: Program) -> Program {
        program.env("CASSANDRA_URL", &self.0)
    }
}
