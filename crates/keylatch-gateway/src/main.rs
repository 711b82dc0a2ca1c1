//! `keylatch`, the program.

use std::process::ExitCode;

fn main() -> ExitCode {
    keylatch_gateway::main()
}
