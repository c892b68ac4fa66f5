//! `queue suspend`.

use clap::{Args, Subcommand};
use control::smtpd::suspend_request::{Condition, Filter, Paging};
use control::smtpd::suspend_response::Source;
use control::smtpd::{
    StringValue, SuspendAddRequest, SuspendAddResponse, SuspendDeleteRequest, SuspendDeleteResponse,
    SuspendRequest, SuspendResponse, SuspendUpdateRequest, SuspendUpdateResponse,
};

use super::policy::life;
use super::selectors::{COLUMNS, SelectorArgs, text};
use super::values::key_value;
use super::{CliError, Context};
use crate::table::{Align, Table, six_digits};

/// Subcommands of `queue suspend`.
#[derive(Debug, Subcommand)]
pub(crate) enum SuspendCommand {
    /// List suspensions
    List(Box<ListArgs>),
    /// Add a suspension
    Add(Box<AddArgs>),
    /// Change a suspension
    Update {
        /// ID of the suspension
        id: String,
        /// Seconds it lives from now, 0 for no end
        #[arg(long, value_name = "SEC")]
        ttl: Option<f64>,
        /// Tag, at most 24 characters
        #[arg(long, value_name = "STRING")]
        tag: Option<String>,
    },
    /// Delete a suspension
    Delete {
        /// ID of the suspension
        id: String,
    },
    /// Read the suspend file again
    Reload,
}

/// Options of `queue suspend list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only this one
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    selectors: SelectorArgs,
    /// Tag
    #[arg(long, value_name = "STRING")]
    tag: Option<String>,
    /// Those that concern pickup with these values
    #[arg(long)]
    pickup: bool,
    /// At most so many, 0 for all
    #[arg(long, default_value_t = 0)]
    limit: u64,
    /// Only from this source
    #[arg(long, value_name = "SOURCE", value_parser = ["static", "concurrency", "rate", "dynamic", "connectinterval"])]
    source: Option<String>,
}

/// Options of `queue suspend add`.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    #[command(flatten)]
    selectors: SelectorArgs,
    /// Seconds it lives, 0 for no end
    #[arg(long, value_name = "SEC", default_value_t = 0.0)]
    ttl: f64,
    /// Tag, at most 24 characters
    #[arg(long, value_name = "STRING")]
    tag: Option<String>,
    /// ID (made by the server)
    #[arg(long, value_name = "UUID", default_value = "", hide_default_value = true)]
    id: String,
    /// Property (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    property: Vec<String>,
}

pub(crate) async fn run(context: &mut Context, command: SuspendCommand) -> Result<(), CliError> {
    match command {
        SuspendCommand::List(args) => list(context, &args).await,
        SuspendCommand::Add(args) => add(context, &args).await,
        SuspendCommand::Update { id, ttl, tag } => {
            let tag = tag.map(|value| StringValue { value });
            let request = SuspendUpdateRequest { ttl: life(ttl), tag, id };
            if let Some(reply) = context.request::<_, SuspendUpdateResponse>(b'O', &request).await? {
                context.print(&format!("{} suspends affected\n", reply.affected));
            }
            Ok(())
        }
        SuspendCommand::Delete { id } => {
            let request = SuspendDeleteRequest { id: id.clone() };
            match context.request::<_, SuspendDeleteResponse>(b'u', &request).await? {
                Some(reply) if reply.affected == 0 => Err(CliError::NotFound(format!("no suspension {id}"))),
                _ => Ok(()),
            }
        }
        SuspendCommand::Reload => context.order(b'o').await,
    }
}

async fn list(context: &mut Context, args: &ListArgs) -> Result<(), CliError> {
    let value = SelectorArgs::value;
    let selectors = &args.selectors;
    let condition = Condition {
        transportid: value(&selectors.transportid),
        localips: selectors.localip.clone().into_iter().collect(),
        remoteip: value(&selectors.remoteip),
        remotemx: value(&selectors.remotemx),
        recipientdomain: value(&selectors.recipientdomain),
        jobid: value(&selectors.jobid),
        tag: value(&args.tag),
        pickup: args.pickup,
        grouping: value(&selectors.grouping),
        tenantid: value(&selectors.tenantid),
    };
    let filter = match &args.id {
        Some(id) => Some(Filter::Id(id.clone())),
        None => (condition != Condition::default()).then_some(Filter::Condition(condition)),
    };
    let paging = (args.limit > 0).then_some(Paging { limit: args.limit });
    let request = SuspendRequest { paging, filter };
    let Some(reply) = context.request::<_, SuspendResponse>(b's', &request).await? else { return Ok(()) };
    let left = |name: &'static str| (name, Align::Left);
    let mut columns = vec![("id", Align::Right), left("source")];
    columns.extend(COLUMNS.map(left));
    columns.extend([("ttl", Align::Right), left("tag")]);
    let mut table = Table::new(columns);
    for item in &reply.items {
        let source = source(item.source);
        if args.source.as_deref().is_some_and(|wanted| wanted != source) {
            continue;
        }
        table.row([
            item.id.clone(),
            source.to_owned(),
            text(&item.transportid),
            text(&item.localip),
            text(&item.remoteip),
            text(&item.remotemx),
            text(&item.recipientdomain),
            text(&item.jobid),
            text(&item.grouping),
            if item.ttl == 0.0 { String::new() } else { six_digits(item.ttl) },
            text(&item.tag),
        ]);
    }
    context.print(&table.render());
    Ok(())
}

fn source(number: i32) -> &'static str {
    match Source::try_from(number) {
        Ok(Source::Static) => "static",
        Ok(Source::Concurrency) => "concurrency",
        Ok(Source::Rate) => "rate",
        Ok(Source::Dynamic) => "dynamic",
        Ok(Source::Connectinterval) => "connectinterval",
        Err(_) => "unknown",
    }
}

async fn add(context: &mut Context, args: &AddArgs) -> Result<(), CliError> {
    let value = SelectorArgs::value;
    let selectors = &args.selectors;
    let request = SuspendAddRequest {
        transportid: value(&selectors.transportid),
        localip: value(&selectors.localip),
        remoteip: value(&selectors.remoteip),
        remotemx: value(&selectors.remotemx),
        recipientdomain: value(&selectors.recipientdomain),
        jobid: value(&selectors.jobid),
        ttl: args.ttl,
        tag: value(&args.tag),
        id: args.id.clone(),
        grouping: value(&selectors.grouping),
        tenantid: value(&selectors.tenantid),
        properties: args.property.iter().map(|text| key_value(text)).collect::<Result<_, _>>()?,
    };
    if let Some(reply) = context.request::<_, SuspendAddResponse>(b't', &request).await? {
        context.print(&format!("{}\n", reply.id));
    }
    Ok(())
}
