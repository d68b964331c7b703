//! Entry point: nothing but the hand-over to the verbs.

use std::process::ExitCode;

fn main() -> ExitCode {
    egress_agent::cli::main()
}
