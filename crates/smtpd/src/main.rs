//! The `smtpd` program.

use clap::Parser;
use smtpd::daemon::{self, Options};
use std::path::PathBuf;
use std::process::ExitCode;

/// The mail daemon: receives, queues and delivers mail as its configuration and scripts say.
#[derive(Parser)]
#[command(
    name = "smtpd",
    version,
    after_help = "\
Examples:
  smtpd -f -c ./smtpd.yaml    run in the foreground, log to standard error
  smtpd -t                    check /etc/halon/smtpd.yaml and all it names

Signals: TERM and INT stop (running deliveries may finish), HUP reloads.
Exit status: 0 stopped as asked or test passed; 1 configuration, socket or spool unusable; 2 usage."
)]
struct Arguments {
    /// Stay in the foreground and log to standard error
    #[arg(short = 'f')]
    foreground: bool,
    /// Startup configuration
    #[arg(short = 'c', long, value_name = "PATH", default_value = "/etc/halon/smtpd.yaml")]
    config: PathBuf,
    /// Load everything, report and exit
    #[arg(short = 't', long)]
    test: bool,
    /// Fill !Env "${NAME:default}" in configuration files from the environment
    #[arg(long)]
    config_env_substitution: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.config_env_substitution {
        config::environment::allow();
    }
    let options =
        Options { config: arguments.config, foreground: arguments.foreground, test: arguments.test };
    match daemon::run(&options) {
        Ok(()) => {
            smtpd::log::flush();
            ExitCode::SUCCESS
        }
        Err(error) => {
            for line in error.lines() {
                smtpd::error!("", "Could not load configuration: {line}");
            }
            smtpd::log::flush();
            ExitCode::FAILURE
        }
    }
}
