//! The `hsl-lint` program: reads a request as YAML on standard input, reports as YAML on standard error.

use clap::Parser;
use cli::lint::{Report, lint};
use config::load::FILE_BYTES_MAX;
use std::io::Read;
use std::process::ExitCode;

/// Checks one HSL script.
#[derive(Parser)]
#[command(
    name = "hsl-lint",
    version,
    after_help = "\
Standard input is YAML: {version, phase, data, files: [{id, data, binary}], scripting, plugins}. phase is a hook
(connect, helo, mailfrom, rcptto, eod, disconnect, predelivery, postdelivery) or empty for a file.

Exit status: 0 the script compiles, warnings are YAML on standard error; 1 it does not, standard error is YAML
{message, severity, line, column, file?, path?, more?}; 2 the request is wrong."
)]
struct Arguments {}

fn main() -> ExitCode {
    Arguments::parse();
    let mut input = Vec::new();
    if let Err(error) = std::io::stdin().lock().take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut input) {
        eprintln!("hsl-lint: standard input: {error}");
        return ExitCode::from(2);
    }
    match lint(&input) {
        Ok(Report::Clean) => ExitCode::SUCCESS,
        Ok(Report::Warnings(yaml)) => {
            eprint!("{yaml}");
            ExitCode::SUCCESS
        }
        Ok(Report::Errors(yaml)) => {
            eprint!("{yaml}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("hsl-lint: {error}");
            ExitCode::from(2)
        }
    }
}
