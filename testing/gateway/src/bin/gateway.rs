//! `keylatch`, as the tests start it.

use std::process::ExitCode;

fn main() -> ExitCode {
    keylatch_gateway::main()
}
