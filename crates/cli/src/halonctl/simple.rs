//! Commands of one request and a line or two of answer.

use std::path::PathBuf;

use clap::Args;
use control::smtpd::queue_import_request::{ImportData, Reset};
use control::smtpd::{
    BoolValue, Condition, QueueExportRequest, QueueImportRequest, QueueImportResponse, QueueItemId,
    QueueQuotaRequest, QueueQuotaResponse, QueueUnloadRequest, QueueUnloadResponse, VersionResponse,
};

use super::conditions::{ConditionArgs, HoldArgs, put_queued_states};
use super::{CliError, Context, values};

/// Options of `queue export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Message ID; with :queue the message as that recipient gets it
    #[arg(value_name = "ID[:QUEUE]")]
    id: String,
    /// File to write to instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) async fn export(context: &mut Context, args: &ExportArgs) -> Result<(), CliError> {
    let (transaction, queue) = values::item_id(&args.id)?;
    let request = QueueExportRequest { id: Some(QueueItemId { transaction, queue }) };
    let Some(message) = context.call(b'W', Some(&request)).await? else { return Ok(()) };
    match &args.output {
        None => context.print_bytes(&message),
        Some(path) => std::fs::write(path, &message)
            .map_err(|error| CliError::File(path.display().to_string(), error))?,
    }
    Ok(())
}

/// Options of `queue unload`.
#[derive(Debug, Args)]
pub(crate) struct UnloadArgs {
    #[command(flatten)]
    conditions: ConditionArgs,
    #[command(flatten)]
    hold: HoldArgs,
    /// Match a message even if only one of its recipients matches
    #[arg(long)]
    partial: bool,
    /// Freeze messages that are in a working state
    #[arg(long)]
    freeze: bool,
}

pub(crate) async fn unload(context: &mut Context, args: &UnloadArgs) -> Result<(), CliError> {
    let mut condition = args.conditions.condition()?;
    args.hold.put(&mut condition);
    if condition != Condition::default() && !args.conditions.names_states() {
        put_queued_states(&mut condition);
    }
    let request = QueueUnloadRequest {
        conditions: (condition != Condition::default()).then_some(condition),
        freeze: args.freeze,
        partial: args.partial,
    };
    let Some(reply) = context.request::<_, QueueUnloadResponse>(b'J', &request).await? else {
        return Ok(());
    };
    if reply.hqfpaths.is_empty() {
        context.print("No messages unloaded\n");
    }
    for path in &reply.hqfpaths {
        context.print(&format!("{path} unloaded\n"));
    }
    if reply.partial > 0 {
        context.print(&format!("{} messages match only in part\n", reply.partial));
    }
    if reply.working > 0 {
        let fate = if args.freeze { "freezing" } else { "in a working state" };
        context.print(&format!("{} messages {fate}\n", reply.working));
    }
    Ok(())
}

/// Options of `queue load`.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    #[command(flatten)]
    source: LoadSource,
    /// Give it a new transaction ID
    #[arg(long)]
    reset_id: bool,
    /// Count as received now
    #[arg(long)]
    reset_ts: bool,
    /// Count retries from 0
    #[arg(long)]
    reset_retrycount: bool,
}

/// What is loaded. The group holds these alone: the other options go with either.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct LoadSource {
    /// Path to the queue file
    #[arg(long, value_name = "FILE")]
    hqf: Option<PathBuf>,
    /// Path to a message
    #[arg(long, value_name = "FILE")]
    rfc822: Option<PathBuf>,
}

pub(crate) async fn load(context: &mut Context, args: &LoadArgs) -> Result<(), CliError> {
    let read = |path: &Option<PathBuf>| match path {
        Some(path) => {
            let bytes = std::fs::read(path);
            bytes.map_err(|error| CliError::File(path.display().to_string(), error))
        }
        None => Ok(Vec::new()),
    };
    let flag = |set: bool| set.then_some(BoolValue { value: true });
    let reset = Reset {
        transactionid: flag(args.reset_id),
        ts: flag(args.reset_ts),
        retrycount: flag(args.reset_retrycount),
    };
    let request = QueueImportRequest {
        data: Some(ImportData { rfc822: read(&args.source.rfc822)?, hqf: read(&args.source.hqf)? }),
        reset: (reset != Reset::default()).then_some(reset),
    };
    if context.request::<_, QueueImportResponse>(b'E', &request).await?.is_some() {
        context.print("Message loaded\n");
    }
    Ok(())
}

pub(crate) async fn quota(context: &mut Context, name: String) -> Result<(), CliError> {
    let request = QueueQuotaRequest { quota: name };
    if let Some(reply) = context.request::<_, QueueQuotaResponse>(b'I', &request).await? {
        context.print(&format!("count: {}\nbytes: {}\n", reply.count, reply.bytes));
    }
    Ok(())
}

pub(crate) async fn version(context: &mut Context) -> Result<(), CliError> {
    if let Some(reply) = context.fetch::<VersionResponse>(b'X').await? {
        let client = env!("CARGO_PKG_VERSION");
        let VersionResponse { major, minor, patch } = reply;
        context.print(&format!("server: {major}.{minor}.{patch}\nclient: {client}\n"));
    }
    Ok(())
}
