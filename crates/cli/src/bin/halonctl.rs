//! `halonctl`: control of a running mail daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::halonctl::main(std::env::args_os())
}
