//! The program `keylatch`.

use std::process::ExitCode;

fn main() -> ExitCode {
    keylatch_gateway::main()
}
