//! `keylatch`, for the tests to start.

use std::process::ExitCode;

fn main() -> ExitCode {
    keylatch_gateway::main()
}
