//! `queue trace`: lines of the daemon as they come.

use std::io::Write as _;

use clap::Args;
use control::frame::Status;
use control::json::{self, Style};
use control::smtpd::{QueueItemId, TraceSmtpRequest};
use prost::Message as _;

use super::selectors::SelectorArgs;
use super::values::item_id;
use super::{CliError, Context};

/// Options of `queue trace`.
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    #[command(flatten)]
    selectors: SelectorArgs,
    /// Message, with or without :queue
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Use new connections, not pooled ones
    #[arg(long)]
    connect: bool,
    /// Show bytes
    #[arg(long)]
    hexdump: bool,
    /// Do not use PIPELINING
    #[arg(long)]
    no_pipelining: bool,
    /// Stop after so many messages
    #[arg(long, value_name = "NUMBER")]
    count: Option<u64>,
}

pub(crate) async fn run(context: &mut Context, args: &TraceArgs) -> Result<(), CliError> {
    let value = SelectorArgs::value;
    let selectors = &args.selectors;
    let id = args.id.as_deref().map(item_id).transpose()?;
    let request = TraceSmtpRequest {
        transportid: value(&selectors.transportid),
        localip: value(&selectors.localip),
        remoteip: value(&selectors.remoteip),
        remotemx: value(&selectors.remotemx),
        recipientdomain: value(&selectors.recipientdomain),
        jobid: value(&selectors.jobid),
        connect: args.connect,
        hexdump: args.hexdump,
        nopipelining: args.no_pipelining,
        grouping: value(&selectors.grouping),
        tenantid: value(&selectors.tenantid),
        id: id.map(|(transaction, queue)| QueueItemId { transaction, queue }),
    };
    let body = request.encode_to_vec();
    if context.global.json_request {
        write_line(&json::to_json("TraceSMTPRequest", &body, Style::Request)?)?;
        if context.global.dry_run {
            return Ok(());
        }
    }
    let as_json = context.global.json;
    let client = context.connected().await?;
    // Lines come when mail goes: there is no time by which one must.
    client.set_timeout(None);
    client.send(b'V', Some(&body)).await?;
    let mut begun = 0;
    loop {
        let reply = client.receive().await?;
        match reply.status {
            Status::Done => return Ok(()),
            Status::Error => return Err(control::client::server_error(&reply).into()),
            Status::Interim => {}
        }
        let line = String::from_utf8_lossy(&reply.payload);
        begun += u64::from(line.contains("Begin trace of message"));
        if args.count.is_some_and(|count| begun > count) {
            return Ok(());
        }
        match as_json {
            true => write_line(&serde_json::Value::from(line.as_ref()).to_string())?,
            false => write_line(&line)?,
        }
    }
}

fn write_line(line: &str) -> Result<(), CliError> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(CliError::Output)
}
