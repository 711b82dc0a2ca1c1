//! Where the records are: a server of the test's own.

use testing_support::redis::{Config, Server};
use testing_support::server::Program;

pub(crate) struct Place(Server);

impl Place {
    #[expect(clippy::unused_async, reason = "other places take time")]
    pub(crate) async fn new() -> Self {
        Self(Server::start(Config::new()))
    }

    /// The program, with its records here.
    pub(crate) fn of(&self, program: Program) -> Program {
        program.env("REDIS_URL", self.0.url())
    }
}
