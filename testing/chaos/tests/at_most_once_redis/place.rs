//! Where the records are: on a server of each test.

use std::path::Path;

use keylatch::redis::Store;
use testing_support::redis::{Config, Server};
use testing_support::server::Program;

pub(crate) struct Place(Server);

impl Place {
    #[expect(clippy::unused_async, reason = "other places take time")]
    pub(crate) async fn new(_directory: &Path) -> Self {
        Self(Server::start(Config::new()))
    }

    /// The program with its records here.
    pub(crate) fn of(&self, program: Program) -> Program {
        program.env("REDIS_URL", self.0.url())
    }

    /// The records.
    pub(crate) async fn store(&self) -> Store {
        Store::connect(&self.0.url()).await.expect("another process may connect")
    }
}
