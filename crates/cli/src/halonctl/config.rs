//! `config`: reload, live stage, check and show; and `resolver`.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use control::smtpd::config_get_request::File;
use control::smtpd::{
    ConfigCheckRequest, ConfigCheckResponse, ConfigGetRequest, ConfigGetResponse, ConfigGreenConditions,
    ConfigGreenDeployRequest, ConfigGreenStatusResponse, ResolverCacheClearRequest,
    ResolverCacheClearResponse, ResolverQueryRequest, ResolverQueryResponse, StringValue,
    resolver_query_response::Target,
};

use super::{CliError, Context};

/// Subcommands of `config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Reload the running configuration
    Reload,
    /// A parallel configuration for part of the traffic
    #[command(subcommand)]
    Livestage(LivestageCommand),
    /// Validate and compile a file without using it
    Check {
        /// The file, - for standard input
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
        /// Which file it is
        #[arg(long = "type", value_enum, default_value_t = FileArg::App)]
        kind: FileArg,
    },
    /// Print a running file
    Show {
        /// Which
        #[arg(value_enum, default_value_t = FileArg::App)]
        file: FileArg,
    },
}

/// Subcommands of `config livestage`.
#[derive(Debug, Subcommand)]
pub(crate) enum LivestageCommand {
    /// Start a stage
    Start(Box<StartArgs>),
    /// Show the stage
    Status,
    /// End the stage
    Cancel,
}

/// Options of `config livestage start`.
#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Name of the stage
    #[arg(long)]
    id: String,
    /// Running configuration, - for standard input
    #[arg(long)]
    file: PathBuf,
    /// For clients from this address or network (repeatable)
    #[arg(long, value_name = "IP")]
    remoteip: Vec<String>,
    /// For this server (repeatable)
    #[arg(long, value_name = "ID")]
    serverid: Vec<String>,
    /// For a random share of connections, above 0 and up to 1
    #[arg(long, value_name = "SHARE")]
    probability: Option<f32>,
    /// For so many seconds
    #[arg(long, value_name = "SEC")]
    time: Option<u64>,
    /// For so many connections
    #[arg(long, value_name = "NUMBER")]
    count: Option<u64>,
}

/// A running file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FileArg {
    App,
    Policy,
    Suspend,
    Delivery,
    Green,
}

impl FileArg {
    fn number(self) -> i32 {
        let file = match self {
            FileArg::App => File::App,
            FileArg::Policy => File::Policy,
            FileArg::Suspend => File::Suspend,
            FileArg::Delivery => File::Delivery,
            FileArg::Green => File::Green,
        };
        file as i32
    }
}

/// Subcommands of `resolver`.
#[derive(Debug, Subcommand)]
pub(crate) enum ResolverCommand {
    /// Clear the cache, wholly or for one domain
    Clear {
        /// The domain
        domain: Option<String>,
    },
    /// Show the next hop of a domain
    Query {
        /// The domain
        domain: String,
        /// Transaction ID the choice depends on
        #[arg(long, value_name = "UUID", default_value = "", hide_default_value = true)]
        seed: String,
        /// Retry count the choice depends on
        #[arg(long, value_name = "NUMBER", default_value_t = 0)]
        retry: u64,
        /// Show all candidates in order
        #[arg(long)]
        all: bool,
    },
    /// Read the resolver's configuration again
    Reload,
}

fn read(path: &Path) -> Result<String, CliError> {
    let mut text = String::new();
    let result = match path.to_str() {
        Some("-") => std::io::stdin().read_to_string(&mut text).map(|_| ()),
        _ => std::fs::read_to_string(path).map(|read| text = read),
    };
    result.map_err(|error| CliError::File(path.display().to_string(), error))?;
    Ok(text)
}

pub(crate) async fn run(context: &mut Context, command: ConfigCommand) -> Result<(), CliError> {
    match command {
        ConfigCommand::Reload => context.order(b'r').await,
        ConfigCommand::Livestage(LivestageCommand::Start(args)) => start(context, &args).await,
        ConfigCommand::Livestage(LivestageCommand::Status) => status(context).await,
        ConfigCommand::Livestage(LivestageCommand::Cancel) => context.order(b'c').await,
        ConfigCommand::Check { file, kind } => {
            let request = ConfigCheckRequest { file: kind.number(), config: read(&file)? };
            check(context, &request).await
        }
        ConfigCommand::Show { file } => {
            let request = ConfigGetRequest { file: file.number() };
            if let Some(reply) = context.request::<_, ConfigGetResponse>(b'4', &request).await? {
                context.print(&reply.config);
            }
            Ok(())
        }
    }
}

async fn start(context: &mut Context, args: &StartArgs) -> Result<(), CliError> {
    // Zero would mean "no such condition" on the wire.
    if args.probability.is_some_and(|share| !(share > 0.0 && share <= 1.0)) {
        return Err(CliError::usage("--probability takes a number above 0 and up to 1"));
    }
    let conditions = ConfigGreenConditions {
        remoteips: args.remoteip.clone(),
        serverids: args.serverid.clone(),
        probability: args.probability.unwrap_or(0.0),
        time: args.time.unwrap_or(0),
        count: args.count.unwrap_or(0),
    };
    let request = ConfigGreenDeployRequest {
        id: args.id.clone(),
        conditions: (conditions != ConfigGreenConditions::default()).then_some(conditions),
        config: read(&args.file)?,
        connectionbound: false,
    };
    context.call(b'a', Some(&request)).await.map(|_| ())
}

async fn status(context: &mut Context) -> Result<(), CliError> {
    let Some(payload) = context.call::<()>(b'b', None).await? else { return Ok(()) };
    if payload.is_empty() {
        context.print("No live stage\n");
        return Ok(());
    }
    let stage = super::decode::<ConfigGreenStatusResponse>(payload)?;
    context.print(&stage_line(&stage));
    Ok(())
}

fn stage_line(stage: &ConfigGreenStatusResponse) -> String {
    let limits = stage.conditions.clone().unwrap_or_default();
    let part = |now: u64, most: u64| if most > 0 { format!("{now}/{most}") } else { now.to_string() };
    let (count, time) = (part(stage.count, limits.count), part(stage.time, limits.time));
    let expired = if stage.expired { " (expired)" } else { "" };
    format!("{}: {count} connections(s), {time} runtime{expired}\n", stage.id)
}

async fn check(context: &mut Context, request: &ConfigCheckRequest) -> Result<(), CliError> {
    let Some(reply) = context.request::<_, ConfigCheckResponse>(b'5', request).await? else {
        return Ok(());
    };
    for error in &reply.errors {
        let place = match &error.location {
            Some(at) => format!("{}:{}:{}", at.file, at.beginline, at.begincolumn),
            None => error.pointer.clone(),
        };
        let separator = if place.is_empty() { "" } else { ": " };
        context.print(&format!("{place}{separator}{}\n", error.message));
    }
    match reply.errors.len() {
        0 => Ok(()),
        count => Err(CliError::NotFound(format!("{count} errors"))),
    }
}

pub(crate) async fn run_resolver(context: &mut Context, command: ResolverCommand) -> Result<(), CliError> {
    match command {
        ResolverCommand::Reload => context.order(b'k').await,
        ResolverCommand::Clear { domain } => {
            let request = ResolverCacheClearRequest { domain: domain.map(|value| StringValue { value }) };
            if let Some(reply) = context.request::<_, ResolverCacheClearResponse>(b'C', &request).await? {
                context.print(&format!("{} entries cleared\n", reply.affected));
            }
            Ok(())
        }
        ResolverCommand::Query { domain, seed, retry, all } => {
            let request = ResolverQueryRequest { domain, seed, retry, ipv4: true, ipv6: true };
            let Some(reply) = context.request::<_, ResolverQueryResponse>(b'2', &request).await? else {
                return Ok(());
            };
            if !reply.error.is_empty() {
                return Err(CliError::NotFound(reply.error));
            }
            let targets = if all { reply.all } else { reply.next.into_iter().collect() };
            let texts: Vec<String> = targets.iter().map(target).collect();
            context.print(&texts.join("\n"));
            Ok(())
        }
    }
}

fn target(target: &Target) -> String {
    let mut text =
        format!("address: {}\nhostname: {}\ndnssec: {}\n", target.address, target.hostname, target.dnssec);
    if target.tlsa.is_empty() && !target.tlsadnssec {
        return text;
    }
    text.push_str(&format!("tlsa:\n  dnssec: {}\n  records:\n", target.tlsadnssec));
    for record in &target.tlsa {
        text.push_str(&format!(
            "    - usage: {}\n      selector: {}\n      mtype: {}\n      data: {}\n",
            record.usage, record.selector, record.mtype, record.data
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_in_one_line() {
        let stage = |time, count, limits: Option<(u64, u64)>, expired| ConfigGreenStatusResponse {
            id: "t1".into(),
            expired,
            time,
            count,
            conditions: limits.map(|(time, count)| ConfigGreenConditions {
                time,
                count,
                ..Default::default()
            }),
        };
        for (stage, expected) in [
            (stage(30, 2, Some((3600, 0)), false), "t1: 2 connections(s), 30/3600 runtime\n"),
            (stage(3, 2, None, false), "t1: 2 connections(s), 3 runtime\n"),
            (stage(3, 2, Some((0, 9)), true), "t1: 2/9 connections(s), 3 runtime (expired)\n"),
        ] {
            assert_eq!(stage_line(&stage), expected);
        }
    }
}
