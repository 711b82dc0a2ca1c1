//! `keylatch`, as a program that the tests of this package can be sure to have built.

use std::process::ExitCode;

fn main() -> ExitCode {
    keylatch_gateway::main()
}
