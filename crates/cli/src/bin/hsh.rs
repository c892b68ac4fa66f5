//! The `hsh` program: runs HSL scripts from the command line.

use clap::Parser;
use cli::hsh::{Options, run};
use std::process::ExitCode;

/// Scripts make and drop many small values.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("hsh: {message}");
            ExitCode::from(2)
        }
    }
}
