//! `halonctl`: control of a running mail daemon.
//!
//! Each command fills one request message, sends it, and prints the reply as the manual shows it or, with
//! `--json`, as it came. Exit codes: 0 done; 1 the server refused, or the one thing asked for does not exist; 2
//! wrong usage; 3 no connection.

mod conditions;
mod config;
mod connections;
mod explain;
mod groupby;
mod hsl;
mod list;
mod misc;
mod policy;
mod selectors;
mod simple;
mod stats;
mod suspend;
mod trace;
mod update;
mod values;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::{CommandFactory as _, Parser, Subcommand};
use control::json::Style;
use control::{Client, ControlError, Endpoint, json};
use prost::Message;

/// Where smtpd listens unless told otherwise.
const SOCKET_DEFAULT: &str = "/var/run/halon/smtpd.ctl";
/// Environment variable naming another socket.
const SOCKET_VARIABLE: &str = "HALONCTL_SOCKET";

/// Control of a running mail daemon
#[derive(Debug, Parser)]
#[command(name = "halonctl", disable_version_flag = true, max_term_width = 120)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Connection and output")]
struct Global {
    /// Control socket: a path or HOST:PORT (default: $HALONCTL_SOCKET, then /var/run/halon/smtpd.ctl)
    #[arg(long, global = true, value_name = "PATH|HOST:PORT")]
    socket: Option<String>,
    /// Seconds to wait for the connection and for each reply
    #[arg(long, global = true, value_name = "SEC")]
    timeout: Option<u64>,
    /// Print the reply as JSON
    #[arg(long, global = true)]
    json: bool,
    /// Print the request as JSON
    #[arg(long, global = true)]
    json_request: bool,
    /// With --json-request: do not send anything
    #[arg(long, global = true, requires = "json_request")]
    dry_run: bool,
    /// No colours (there are none yet; accepted for scripts)
    #[arg(long, global = true, hide = true)]
    no_color: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The queue
    #[command(subcommand)]
    Queue(QueueCommand),
    /// The running configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// The servers that accept mail
    #[command(subcommand)]
    Server(ServerCommand),
    /// The script engine
    #[command(subcommand)]
    Hsl(hsl::HslCommand),
    /// The DNS resolver
    #[command(subcommand)]
    Resolver(config::ResolverCommand),
    /// Counters of the process
    ProcessStats(stats::StatsArgs),
    /// Plugins
    #[command(subcommand)]
    Plugin(misc::PluginCommand),
    /// Licences (none are needed)
    #[command(subcommand)]
    License(misc::LicenseCommand),
    /// Versions of server and client
    Version,
    /// Completion script for a shell
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
enum QueueCommand {
    /// List messages
    List(Box<list::ListArgs>),
    /// Show the distribution of messages
    Groupby(Box<groupby::GroupByArgs>),
    /// Take actions on messages
    Update(Box<update::UpdateArgs>),
    /// Tell why a message is where it is
    Explain(explain::ExplainArgs),
    /// Export a message as message/rfc822
    Export(simple::ExportArgs),
    /// Unload messages from memory, leaving their files in place
    Unload(Box<simple::UnloadArgs>),
    /// Load a queue file or a message
    Load(simple::LoadArgs),
    /// Count and bytes of a quota
    Quota {
        /// Name of the quota
        name: String,
    },
    /// Policies of the active queue
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Suspensions of the active queue
    #[command(subcommand)]
    Suspend(suspend::SuspendCommand),
    /// Delivery settings of the active queue
    #[command(subcommand)]
    Delivery(ReloadCommand),
    /// Outbound connections
    #[command(subcommand)]
    Connections(connections::QueueConnectionsCommand),
    /// Follow deliveries
    Trace(Box<trace::TraceArgs>),
}

#[derive(Debug, Subcommand)]
enum ServerCommand {
    /// Inbound connections
    #[command(subcommand)]
    Connections(connections::ServerConnectionsCommand),
}

#[derive(Debug, Subcommand)]
enum ReloadCommand {
    /// Read the file again
    Reload,
}

/// Why a command fails, and with which exit code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    NotFound(String),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("{0}: {1}")]
    File(String, std::io::Error),
    #[error("cannot write the output: {0}")]
    Output(std::io::Error),
}

impl CliError {
    pub(crate) fn usage(message: impl Into<String>) -> CliError {
        CliError::Usage(message.into())
    }

    fn exit_code(&self) -> u8 {
        match self {
            CliError::Usage(_) | CliError::Control(ControlError::Endpoint(_)) => 2,
            CliError::Control(
                ControlError::Connect { .. } | ControlError::Io(_) | ControlError::Timeout(_),
            ) => 3,
            CliError::Control(_) | CliError::NotFound(_) | CliError::File(..) | CliError::Output(_) => 1,
        }
    }

    /// What the operator may do about it.
    fn advice(&self) -> Option<String> {
        let CliError::Control(ControlError::Connect { source, .. }) = self else { return None };
        Some(match source.kind() {
            std::io::ErrorKind::PermissionDenied => {
                "the socket's owner and group may use it: run as one of them, or with sudo".to_owned()
            }
            _ => format!("is smtpd running? Another socket can be named with --socket or {SOCKET_VARIABLE}"),
        })
    }
}

/// What commands work with: the connection, made when first needed, and where their output goes.
pub(crate) struct Context {
    global: Global,
    client: Option<Client>,
    out: Vec<u8>,
}

impl Context {
    /// Sends a request. `None`: everything there is to print has been printed (`--json`, `--dry-run`).
    pub(crate) async fn call<Q: Message>(
        &mut self,
        letter: u8,
        request: Option<&Q>,
    ) -> Result<Option<Bytes>, CliError> {
        let body = request.map(Message::encode_to_vec);
        let command = control::commands::find(letter);
        if self.global.json_request {
            let text = match (command.and_then(|command| command.request), &body) {
                (Some(name), Some(body)) => json::to_json(name, body, Style::Request)?,
                _ => "{}".to_owned(),
            };
            self.print(&format!("{text}\n"));
            if self.global.dry_run {
                return Ok(None);
            }
        }
        let payload = self.connected().await?.call(letter, body.as_deref()).await?;
        if !self.global.json {
            return Ok(Some(payload));
        }
        match command.map(|command| command.reply) {
            Some(control::commands::ReplyKind::Bytes) => self.out.extend_from_slice(&payload),
            Some(control::commands::ReplyKind::Message(name)) => {
                let text = json::to_json(name, &payload, Style::Reply)?;
                self.print(&format!("{text}\n"));
            }
            _ => self.print("{}\n"),
        }
        Ok(None)
    }

    /// Sends a request and reads the reply message.
    pub(crate) async fn request<Q: Message, R: Message + Default>(
        &mut self,
        letter: u8,
        request: &Q,
    ) -> Result<Option<R>, CliError> {
        self.call(letter, Some(request)).await?.map(decode).transpose()
    }

    /// Sends a command without request.
    pub(crate) async fn fetch<R: Message + Default>(&mut self, letter: u8) -> Result<Option<R>, CliError> {
        self.call::<()>(letter, None).await?.map(decode).transpose()
    }

    /// Sends a command whose success says nothing.
    async fn order(&mut self, letter: u8) -> Result<(), CliError> {
        self.call::<()>(letter, None).await.map(|_| ())
    }

    async fn connected(&mut self) -> Result<&mut Client, CliError> {
        let client = match self.client.take() {
            Some(client) => client,
            None => {
                let variable = std::env::var(SOCKET_VARIABLE).ok().filter(|text| !text.is_empty());
                let given = self.global.socket.clone().or(variable);
                let endpoint = Endpoint::parse(given.as_deref().unwrap_or(SOCKET_DEFAULT))?;
                Client::connect(&endpoint, self.global.timeout.map(Duration::from_secs)).await?
            }
        };
        Ok(self.client.insert(client))
    }

    pub(crate) fn print(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    pub(crate) fn print_bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }
}

fn decode<R: Message + Default>(payload: Bytes) -> Result<R, CliError> {
    R::decode(payload).map_err(|e| CliError::Control(ControlError::Protocol(e.to_string())))
}

/// Runs the tool with these arguments, the program name first.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output with 0, errors to standard error with 2.
            let code = if error.use_stderr() { 2 } else { 0 };
            return if error.print().is_ok() { ExitCode::from(code) } else { ExitCode::from(1) };
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("halonctl: {error}");
            return ExitCode::from(1);
        }
    };
    let mut context = Context { global: cli.global, client: None, out: Vec::new() };
    let result = runtime.block_on(run(&mut context, cli.command));
    let written = write_out(&context.out);
    match result.and(written) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("halonctl: {error}");
            if let Some(advice) = error.advice() {
                eprintln!("  {advice}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn write_out(bytes: &[u8]) -> Result<(), CliError> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        // The reader has seen enough (`| head`).
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(CliError::Output),
    }
}

async fn run(context: &mut Context, command: Command) -> Result<(), CliError> {
    match command {
        Command::Queue(command) => run_queue(context, command).await,
        Command::Config(command) => config::run(context, command).await,
        Command::Server(ServerCommand::Connections(command)) => {
            connections::run_server(context, command).await
        }
        Command::Hsl(command) => hsl::run(context, command).await,
        Command::Resolver(command) => config::run_resolver(context, command).await,
        Command::ProcessStats(args) => stats::run(context, &args).await,
        Command::Plugin(command) => misc::plugin(context, command).await,
        Command::License(command) => misc::license(context, command),
        Command::Version => simple::version(context).await,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "halonctl", &mut script);
            context.print_bytes(&script);
            Ok(())
        }
    }
}

async fn run_queue(context: &mut Context, command: QueueCommand) -> Result<(), CliError> {
    match command {
        QueueCommand::List(args) => list::run(context, &args).await,
        QueueCommand::Groupby(args) => groupby::run(context, &args).await,
        QueueCommand::Update(args) => update::run(context, &args).await,
        QueueCommand::Explain(args) => explain::run(context, &args).await,
        QueueCommand::Export(args) => simple::export(context, &args).await,
        QueueCommand::Unload(args) => simple::unload(context, &args).await,
        QueueCommand::Load(args) => simple::load(context, &args).await,
        QueueCommand::Quota { name } => simple::quota(context, name).await,
        QueueCommand::Policy(command) => policy::run(context, command).await,
        QueueCommand::Suspend(command) => suspend::run(context, command).await,
        QueueCommand::Delivery(ReloadCommand::Reload) => context.order(b'H').await,
        QueueCommand::Connections(command) => connections::run_queue(context, command).await,
        QueueCommand::Trace(args) => trace::run(context, &args).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
