//! The gateway: this same binary, started again with the gateway's command line in its environment.

use std::env;

use testing_support::server::Program;

const ARGUMENTS: &str = "GATEWAY_ARGUMENTS";

/// The program `keylatch gateway` with these arguments, which have no spaces in them.
pub(crate) fn program(arguments: &str) -> Program {
    let program = env::current_exe().expect("a test knows its program");
    ["--exact", "gateway_program::gateway", "--nocapture", "--test-threads=1"]
        .into_iter()
        .fold(Program::new(program), Program::arg)
        .env(ARGUMENTS, arguments)
}

/// Without the environment there is nothing to start.
#[test]
fn gateway() {
    let arguments = env::var(ARGUMENTS);
    let Ok(arguments) = arguments else { return assert_eq!(arguments, Err(env::VarError::NotPresent)) };
    let _ =
        keylatch_gateway::main_with(["keylatch", "gateway"].into_iter().chain(arguments.split(' ')).map(Into::into));
}
