//! `queue list`.

use clap::Args;
use control::smtpd::queue_list_request::{
    Paging, Sorting, SortingMailAddress, SortingWorking, sorting, sorting_mail_address, sorting_working,
};
use control::smtpd::queue_list_response::QueueItem;
use control::smtpd::queue_list_response::queue_item::State;
use control::smtpd::{
    Condition, Freeze, Order, Queue, QueueListRequest, QueueListResponse, Working, condition,
};

use super::conditions::{ConditionArgs, HoldArgs};
use super::values::local_time;
use super::{CliError, Context};
use crate::table::{Align, Table, six_digits};

/// Options of `queue list`.
#[derive(Debug, Args)]
#[command(
    after_help = "Available states are:\nqueue:   ACTIVE, DEFER\nfreeze:  HOLD, UPDATE\nworking: UNKNOWN, SENDING\n\nNumber and date format:\noperators: >, >=, <, <= and = (eg \">2020-01-01T01:02:03\")\nrange:     .. (eg \"10..20\")\n\nFields: id transaction queue state age ts transportid sender senderdomain recipient recipientdomain\nretrycount retrydelay retryreason jobid tenantid grouping size subject serverid senderip senderhelo\nsaslusername localip remoteip remotemx metadata metadata.<key> tags quotas dsn priority stageid hold\nduration updatefreezing localipsordered hqfpath"
)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    conditions: ConditionArgs,
    #[command(flatten)]
    hold: HoldArgs,
    /// Field to show (repeatable)
    #[arg(short = 'F', long = "field", value_name = "FIELD")]
    field: Vec<String>,
    /// Predefined fields
    #[arg(long, value_enum, default_value_t = View::Default)]
    view: View,
    /// Sort by: ts, sender.localpart, sender.domain, recipient.localpart, recipient.domain, duration, retryts,
    /// size, retrycount; with :desc largest first (repeatable)
    #[arg(long, value_name = "FIELD[:desc]")]
    sort: Vec<String>,
    /// Show at most so many, 0 for all
    #[arg(long, default_value_t = 1000)]
    limit: u64,
    /// Leave out so many
    #[arg(long, default_value_t = 0)]
    offset: u64,
    /// Leave out the line of names
    #[arg(long)]
    no_header: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum View {
    Default,
    Active,
    Defer,
    Connections,
}

impl View {
    fn fields(self) -> &'static [&'static str] {
        match self {
            View::Default => {
                &["id", "state", "ts", "transportid", "sender", "recipient", "retrycount", "retrydelay"]
            }
            View::Active => &[
                "id",
                "ts",
                "transportid",
                "sender",
                "recipient",
                "retrycount",
                "localip",
                "remoteip",
                "remotemx",
                "grouping",
            ],
            View::Defer => {
                &["id", "ts", "transportid", "sender", "recipient", "retrycount", "retrydelay", "retryreason"]
            }
            View::Connections => &[
                "id",
                "state",
                "duration",
                "transportid",
                "sender",
                "recipient",
                "localip",
                "remoteip",
                "remotemx",
            ],
        }
    }

    /// A view of one state asks for it, unless states are named.
    fn put_states(self, condition: &mut Condition) {
        match self {
            View::Default => {}
            View::Active => condition.queues.push(condition::QueueState { queue: Queue::Active as i32 }),
            View::Defer => condition.queues.push(condition::QueueState { queue: Queue::Defer as i32 }),
            View::Connections => condition
                .workings
                .push(condition::WorkingState { working: Working::Sending as i32, updatefreezing: None }),
        }
    }
}

pub(crate) async fn run(context: &mut Context, args: &ListArgs) -> Result<(), CliError> {
    let chosen: Vec<&str> = match args.field.is_empty() {
        true => args.view.fields().to_vec(),
        false => args.field.iter().map(String::as_str).collect(),
    };
    let columns: Vec<(&str, Align)> =
        chosen.into_iter().map(|name| Ok((name, align(name)?))).collect::<Result<_, CliError>>()?;
    let mut condition = args.conditions.condition()?;
    args.hold.put(&mut condition);
    if !args.conditions.names_states() {
        args.view.put_states(&mut condition);
    }
    let request = QueueListRequest {
        conditions: (condition != Condition::default()).then_some(condition),
        sortings: args.sort.iter().map(|text| sorting(text)).collect::<Result<_, _>>()?,
        paging: Some(Paging { offset: args.offset, limit: args.limit }),
    };
    let Some(reply) = context.request::<_, QueueListResponse>(b'F', &request).await? else { return Ok(()) };
    let mut table = Table::new(columns.clone());
    if args.no_header {
        table = table.without_header();
    }
    let now = jiff::Timestamp::now().as_microsecond() as f64 / 1e6;
    for item in &reply.items {
        table.row(columns.iter().map(|(name, _)| cell(item, name, now)));
    }
    context.print(&table.render());
    Ok(())
}

fn sorting(text: &str) -> Result<Sorting, CliError> {
    let (field, order) = match text.split_once(':') {
        None | Some((_, "asc")) => (text.split(':').next().unwrap_or(text), Order::Asc),
        Some((field, "desc")) => (field, Order::Desc),
        Some(_) => return Err(CliError::usage(format!("\"{text}\": only :asc or :desc may follow"))),
    };
    let order = order as i32;
    let address = |part: &str| {
        let sorting = match part {
            "localpart" => sorting_mail_address::SortingMailAddress::Localpart(order),
            _ => sorting_mail_address::SortingMailAddress::Domain(order),
        };
        SortingMailAddress { sorting_mail_address: Some(sorting) }
    };
    let working = SortingWorking { sorting_working: Some(sorting_working::SortingWorking::Duration(order)) };
    let sorting = match field {
        "ts" => sorting::Sorting::Ts(order),
        "sender.localpart" => sorting::Sorting::Sender(address("localpart")),
        "sender.domain" => sorting::Sorting::Sender(address("domain")),
        "recipient.localpart" => sorting::Sorting::Recipient(address("localpart")),
        "recipient.domain" => sorting::Sorting::Recipient(address("domain")),
        "duration" => sorting::Sorting::Working(working),
        "retryts" => sorting::Sorting::Retryts(order),
        "size" => sorting::Sorting::Size(order),
        "retrycount" => sorting::Sorting::Retrycount(order),
        other => return Err(CliError::usage(format!("\"{other}\" is nothing a list can be sorted by"))),
    };
    Ok(Sorting { sorting: Some(sorting) })
}

/// Numbers stand right. Unknown fields are an error here, so that `cell` knows them all.
fn align(field: &str) -> Result<Align, CliError> {
    match field {
        "queue" | "age" | "retrycount" | "retrydelay" | "size" | "priority" | "duration" => Ok(Align::Right),
        "id" | "transaction" | "state" | "ts" | "transportid" | "sender" | "senderdomain" | "recipient"
        | "recipientdomain" | "retryreason" | "jobid" | "tenantid" | "grouping" | "subject" | "serverid"
        | "senderip" | "senderhelo" | "saslusername" | "localip" | "remoteip" | "remotemx" | "metadata"
        | "tags" | "quotas" | "dsn" | "stageid" | "hold" | "updatefreezing" | "localipsordered"
        | "hqfpath" => Ok(Align::Left),
        other if other.starts_with("metadata.") => Ok(Align::Left),
        other => Err(CliError::usage(format!("\"{other}\" is no field; see `halonctl queue list --help`"))),
    }
}

fn cell(item: &QueueItem, field: &str, now: f64) -> String {
    let id = item.id.clone().unwrap_or_default();
    let sender = item.sender.clone().unwrap_or_default();
    let recipient = item.recipient.clone().unwrap_or_default();
    let working = match &item.state {
        Some(State::Working(working)) => Some(working),
        _ => None,
    };
    match field {
        "id" => format!("{}:{}", id.transaction, id.queue),
        "transaction" => id.transaction,
        "queue" => id.queue.to_string(),
        "state" => state(item).to_owned(),
        "age" => format!("{:.0}", (now - item.ts).max(0.0).floor()),
        "ts" => local_time(item.ts),
        "transportid" => item.transportid.clone(),
        "sender" => address(&sender.localpart, &sender.domain),
        "senderdomain" => sender.domain,
        "recipient" => address(&recipient.localpart, &recipient.domain),
        "recipientdomain" => recipient.domain,
        "retrycount" => item.retrycount.to_string(),
        "retrydelay" => format!("{:.0}", item.retrydelay),
        "retryreason" => item.retryreason.clone(),
        "jobid" => item.jobid.clone(),
        "tenantid" => item.tenantid.clone(),
        "grouping" => item.grouping.clone(),
        "size" => item.size.to_string(),
        "subject" => item.subject.clone(),
        "serverid" => item.serverid.clone(),
        "senderip" => item.senderip.clone(),
        "senderhelo" => item.senderhelo.clone(),
        "saslusername" => item.saslusername.clone(),
        "localip" => item.localips.join(", "),
        "remoteip" => item.remoteip.clone(),
        "remotemx" => item.remotemx.clone(),
        "metadata" => {
            item.metadata.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
        }
        "tags" => item.tags.join(", "),
        "quotas" => item.quotas.join(", "),
        "dsn" => item.dsn.as_ref().map(dsn).unwrap_or_default(),
        "priority" => item.priority.to_string(),
        "stageid" => item.stageid.clone(),
        "hold" => item.hold.to_string(),
        "duration" => working.map(|working| six_digits(working.duration)).unwrap_or_default(),
        "updatefreezing" => working.map(|working| working.updatefreezing.to_string()).unwrap_or_default(),
        "localipsordered" => item.localipsordered.to_string(),
        "hqfpath" => item.hqfpath.clone(),
        other => {
            let key = other.strip_prefix("metadata.").unwrap_or_default();
            item.metadata.get(key).cloned().unwrap_or_default()
        }
    }
}

fn address(localpart: &str, domain: &str) -> String {
    if domain.is_empty() { localpart.to_owned() } else { format!("{localpart}@{domain}") }
}

fn state(item: &QueueItem) -> &'static str {
    match &item.state {
        Some(State::Queue(state)) if state.queue == Queue::Active as i32 => "ACTIVE",
        Some(State::Queue(_)) => "DEFER",
        Some(State::Freeze(state)) if state.freeze == Freeze::Hold as i32 => "HOLD",
        Some(State::Freeze(_)) => "UPDATE",
        Some(State::Working(state)) if state.working == Working::Sending as i32 => "SENDING",
        Some(State::Working(_)) => "UNKNOWN",
        None => "",
    }
}

fn dsn(dsn: &control::smtpd::queue_list_response::queue_item::Dsn) -> String {
    let parts = [("envid", &dsn.envid), ("ret", &dsn.ret), ("notify", &dsn.notify), ("orcpt", &dsn.orcpt)];
    let given = parts.iter().filter(|(_, value)| !value.is_empty());
    given.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(", ")
}
