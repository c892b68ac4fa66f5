//! The `hsh` program: runs HSL scripts from the command line.

use clap::Parser;
use cli::hsh::{Options, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("hsh: {message}");
            ExitCode::from(2)
        }
    }
}
