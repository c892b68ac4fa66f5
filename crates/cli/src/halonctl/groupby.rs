//! `queue groupby`.

use clap::Args;
use control::smtpd::queue_group_by_request::counts::return_type::unique::Unique as UniqueField;
use control::smtpd::queue_group_by_request::counts::return_type::{
    ReturnType as CountReturn, Type as ReturnKind, Unique,
};
use control::smtpd::queue_group_by_request::counts::{ReturnType as CountReturnType, Type as CountType};
use control::smtpd::queue_group_by_request::group_by::GroupUnique;
use control::smtpd::queue_group_by_request::sorting::SortingType;
use control::smtpd::queue_group_by_request::{Counts, Fields, GroupBy, Paging, ReturnType, Sorting};
use control::smtpd::{
    Condition, Freeze, Groupings, Order, Queue, QueueGroupByRequest, QueueGroupByResponse, StringRegexValue,
    StringValue, Working, string_regex_value,
};

use super::conditions::{ConditionArgs, HoldArgs};
use super::values::{self, expression};
use super::{CliError, Context};
use crate::table::{Align, Table};

/// Options of `queue groupby`.
#[derive(Debug, Args)]
pub(crate) struct GroupByArgs {
    #[command(flatten)]
    conditions: ConditionArgs,
    #[command(flatten)]
    hold: HoldArgs,
    /// Columns to group by: transportid recipientdomain senderdomain jobid senderip remoteip remotemx localip
    /// grouping tenantid serverid metadata.<key> (repeatable, or a comma list)
    #[arg(
        short = 'G',
        long,
        value_name = "FIELD",
        value_delimiter = ',',
        default_value = "transportid,recipientdomain"
    )]
    groupby: Vec<String>,
    /// Predefined counts
    #[arg(long, value_enum, default_value_t = View::None)]
    view: View,
    /// Count: state=ACTIVE, age>3600, retrydelay<60, retrycount>=3, priority=1; with :bytes, :unique=FIELD or
    /// :unique*=FIELD (over all rows) behind (repeatable)
    #[arg(long, value_name = "EXPR")]
    count: Vec<String>,
    /// Add up bytes instead of messages
    #[arg(long)]
    bytes: bool,
    /// Sort by total, N (group column) or cN (count column), from 0; with :desc largest first (repeatable)
    #[arg(long, value_name = "COLUMN[:desc]")]
    sort: Vec<String>,
    /// Show at most so many rows, 0 for all
    #[arg(long, default_value_t = 50)]
    limit: u64,
    /// Leave out so many
    #[arg(long, default_value_t = 0)]
    offset: u64,
    /// Show values of a field together: NAME:field=pattern (repeatable)
    #[arg(long, value_name = "NAME:FIELD=PATTERN")]
    rollup: Vec<String>,
    /// Show values as the policy with exactly these fields rolls them up (comma list)
    #[arg(long, value_name = "FIELDS", value_delimiter = ',')]
    policy: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum View {
    None,
    State,
    Age,
    Retry,
    Retrycount,
}

/// Intervals of the views `age` and `retry`: name, from, to in seconds.
const INTERVALS: [(&str, Option<u32>, Option<u32>); 8] = [
    ("<1m", None, Some(60)),
    ("1-5m", Some(60), Some(300)),
    ("5-15m", Some(300), Some(900)),
    ("15-60m", Some(900), Some(3600)),
    ("1-6h", Some(3600), Some(21_600)),
    ("6-24h", Some(21_600), Some(86_400)),
    ("1-3d", Some(86_400), Some(259_200)),
    (">3d", Some(259_200), None),
];

/// Intervals of the view `retrycount`.
const RETRIES: [(&str, &str); 6] =
    [("0", "0"), ("1", "1"), ("2-4", "2..4"), ("5-9", "5..9"), ("10-19", "10..19"), ("≥20", ">=20")];

pub(crate) async fn run(context: &mut Context, args: &GroupByArgs) -> Result<(), CliError> {
    let mut counts = view_counts(args.view)?;
    for text in &args.count {
        counts.push((text.clone(), count(text)?));
    }
    let mut condition = args.conditions.condition()?;
    args.hold.put(&mut condition);
    let return_type = if args.bytes { ReturnType::Bytes } else { ReturnType::Count };
    let mut groupings = std::collections::BTreeMap::<String, Groupings>::new();
    for text in &args.rollup {
        rollup(text, &mut groupings)?;
    }
    let groupbys = args.groupby.iter().map(|name| group_by(name)).collect::<Result<_, _>>()?;
    let request = QueueGroupByRequest {
        conditions: (condition != Condition::default()).then_some(condition),
        sortings: args.sort.iter().map(|text| sorting(text)).collect::<Result<_, _>>()?,
        paging: Some(Paging { offset: args.offset, limit: args.limit }),
        groupbys,
        counts: counts.iter().map(|(_, count)| count.clone()).collect(),
        r#return: return_type as i32,
        groupings,
        policygroupings: fields(&args.policy)?,
    };
    let Some(reply) = context.request::<_, QueueGroupByResponse>(b'D', &request).await? else {
        return Ok(());
    };
    let groups = args.groupby.iter().map(|name| (name.clone(), Align::Left));
    let numbers = counts.into_iter().map(|(name, _)| (name, Align::Right));
    let mut table = Table::new(groups.chain([("total".to_owned(), Align::Right)]).chain(numbers));
    for item in reply.items {
        let numbers = item.counts.iter().map(u64::to_string);
        table.row(item.groupbys.into_iter().chain([item.total.to_string()]).chain(numbers));
    }
    context.print(&table.render());
    Ok(())
}

fn view_counts(view: View) -> Result<Vec<(String, Counts)>, CliError> {
    let named = |name: &str, expression: String| Ok((name.to_owned(), count(&expression)?));
    // An interval holds its lower end, so the neighbours share no message: bounds are whole seconds in the
    // request, ">=" below and "<" above.
    let intervals = |field: &str| {
        let of = |(name, from, to): &(&str, Option<u32>, Option<u32>)| {
            let mut compare = control::smtpd::CompareTime::default();
            let parse = if field == "age" { values::compare_age } else { values::compare_delay };
            if let Some(from) = from {
                let lower = parse(&format!(">={from}"))?;
                (compare.lte, compare.gte) = (lower.lte.or(compare.lte), lower.gte.or(compare.gte));
            }
            if let Some(to) = to {
                let upper = parse(&format!("<{to}"))?;
                (compare.lt, compare.gt) = (upper.lt.or(compare.lt), upper.gt.or(compare.gt));
            }
            let kind = if field == "age" { CountType::Ts(compare) } else { CountType::Retryts(compare) };
            Ok(((*name).to_owned(), Counts { r#type: Some(kind), ..Counts::default() }))
        };
        INTERVALS.iter().map(of).collect::<Result<Vec<_>, CliError>>()
    };
    match view {
        View::None => Ok(Vec::new()),
        View::State => ["ACTIVE", "DEFER", "HOLD", "UNKNOWN", "SENDING"]
            .iter()
            .map(|state| named(state, format!("state={state}")))
            .collect(),
        View::Age => intervals("age"),
        View::Retry => intervals("retrydelay"),
        View::Retrycount => {
            RETRIES.iter().map(|(name, test)| named(name, format!("retrycount{test}"))).collect()
        }
    }
}

fn count(text: &str) -> Result<Counts, CliError> {
    let (test, returns) = match text.split_once(':') {
        Some((test, suffix)) => (test, Some(returns(suffix)?)),
        None => (text, None),
    };
    let wrong = || {
        CliError::usage(format!(
            "\"{text}\" is no count; like state=ACTIVE, age>3600, retrydelay<60, retrycount>=3, priority=1"
        ))
    };
    // Longer names first: `retrycount` and `retrydelay` begin alike, `state` stands alone.
    let names = ["retrycount", "retrydelay", "priority", "state", "age"];
    let (name, operand) =
        names.iter().find_map(|name| Some((*name, test.strip_prefix(name)?))).ok_or_else(wrong)?;
    let kind = match name {
        "retrycount" => CountType::Retrycount(values::compare_number(operand)?),
        "priority" => CountType::Priority(values::compare_number(operand)?),
        "retrydelay" => CountType::Retryts(values::compare_delay(operand)?),
        "age" => CountType::Ts(values::compare_age(operand)?),
        _ => match operand.strip_prefix('=').map(str::to_ascii_uppercase).as_deref() {
            Some("ACTIVE") => CountType::Queue(Queue::Active as i32),
            Some("DEFER") => CountType::Queue(Queue::Defer as i32),
            Some("HOLD") => CountType::Freeze(Freeze::Hold as i32),
            Some("UPDATE") => CountType::Freeze(Freeze::Update as i32),
            Some("UNKNOWN") => CountType::Working(Working::Unknown as i32),
            Some("SENDING") => CountType::Working(Working::Sending as i32),
            _ => return Err(wrong()),
        },
    };
    Ok(Counts { r#type: Some(kind), r#return: returns })
}

fn returns(suffix: &str) -> Result<CountReturnType, CliError> {
    let of = |return_type| CountReturnType { return_type: Some(return_type) };
    if suffix == "bytes" {
        return Ok(of(CountReturn::Type(ReturnKind::Bytes as i32)));
    }
    let (field, nogrouping) = match (suffix.strip_prefix("unique="), suffix.strip_prefix("unique*=")) {
        (Some(field), _) => (field, false),
        (_, Some(field)) => (field, true),
        _ => {
            let message = format!("\":{suffix}\": only :bytes, :unique=FIELD or :unique*=FIELD may follow");
            return Err(CliError::usage(message));
        }
    };
    let unique = match field {
        "transportid" => UniqueField::Transportid(true),
        "recipientdomain" => UniqueField::Recipientdomain(true),
        "senderdomain" => UniqueField::Senderdomain(true),
        "jobid" => UniqueField::Jobid(true),
        "senderip" => UniqueField::Senderip(true),
        "remoteip" => UniqueField::Remoteip(true),
        "remotemx" => UniqueField::Remotemx(true),
        "localip" => UniqueField::Localip(true),
        "grouping" => UniqueField::Grouping(true),
        "tenantid" => UniqueField::Tenantid(true),
        "serverid" => UniqueField::Serverid(true),
        other => match other.strip_prefix("metadata.") {
            Some(key) => UniqueField::Metadata(key.to_owned()),
            None => return Err(no_column(other)),
        },
    };
    Ok(of(CountReturn::Unique(Unique { nogrouping, unique: Some(unique) })))
}

fn group_by(name: &str) -> Result<GroupBy, CliError> {
    let unique = match name {
        "transportid" => GroupUnique::Transportid(true),
        "recipientdomain" => GroupUnique::Recipientdomain(true),
        "senderdomain" => GroupUnique::Senderdomain(true),
        "jobid" => GroupUnique::Jobid(true),
        "senderip" => GroupUnique::Senderip(true),
        "remoteip" => GroupUnique::Remoteip(true),
        "remotemx" => GroupUnique::Remotemx(true),
        "localip" => GroupUnique::Localip(true),
        "grouping" => GroupUnique::Grouping(true),
        "tenantid" => GroupUnique::Tenantid(true),
        "serverid" => GroupUnique::Serverid(true),
        other => match other.strip_prefix("metadata.") {
            Some(key) => GroupUnique::Metadata(key.to_owned()),
            None => return Err(no_column(other)),
        },
    };
    Ok(GroupBy { group_unique: Some(unique) })
}

fn no_column(name: &str) -> CliError {
    CliError::usage(format!("\"{name}\" is nothing messages can be grouped by; see --help"))
}

fn sorting(text: &str) -> Result<Sorting, CliError> {
    let (column, order) = match text.split_once(':') {
        None => (text, Order::Asc),
        Some((column, "asc")) => (column, Order::Asc),
        Some((column, "desc")) => (column, Order::Desc),
        Some(_) => return Err(CliError::usage(format!("\"{text}\": only :asc or :desc may follow"))),
    };
    let sorting = match (column, column.strip_prefix('c')) {
        ("total", _) => SortingType::Total(true),
        (_, Some(number)) => SortingType::Count(values::number(number)?),
        (number, None) => SortingType::Groupby(values::number(number)?),
    };
    Ok(Sorting { order: order as i32, sorting_type: Some(sorting) })
}

fn rollup(text: &str, into: &mut std::collections::BTreeMap<String, Groupings>) -> Result<(), CliError> {
    let parts = text.split_once(':').and_then(|(name, rest)| Some((name, rest.split_once('=')?)));
    let Some((name, (field, pattern))) = parts.filter(|(name, _)| !name.is_empty()) else {
        return Err(CliError::usage(format!("\"{text}\" is not of the form NAME:field=pattern")));
    };
    let group = into.entry(name.to_owned()).or_default();
    let regex = || match expression(pattern) {
        Some(inner) => {
            StringRegexValue { value: inner.to_owned(), r#type: string_regex_value::MatchType::Regex as i32 }
        }
        None => StringRegexValue {
            value: pattern.to_owned(),
            r#type: string_regex_value::MatchType::Exact as i32,
        },
    };
    let address = || StringValue { value: pattern.to_owned() };
    match field {
        "transportid" => group.transportid.push(regex()),
        "localip" => group.localip.push(address()),
        "remoteip" => group.remoteip.push(address()),
        "remotemx" => group.remotemx.push(regex()),
        "recipientdomain" => group.recipientdomain.push(regex()),
        "jobid" => group.jobid.push(regex()),
        "grouping" => group.grouping.push(regex()),
        "tenantid" => group.tenantid.push(regex()),
        other => return Err(CliError::usage(format!("\"{other}\" is not a queue field"))),
    }
    Ok(())
}

fn fields(names: &[String]) -> Result<Option<Fields>, CliError> {
    if names.is_empty() {
        return Ok(None);
    }
    let mut fields = Fields::default();
    for name in names {
        let field = match name.trim() {
            "transportid" => &mut fields.transportid,
            "localip" => &mut fields.localip,
            "remoteip" => &mut fields.remoteip,
            "remotemx" => &mut fields.remotemx,
            "recipientdomain" => &mut fields.recipientdomain,
            "jobid" => &mut fields.jobid,
            "grouping" => &mut fields.grouping,
            "tenantid" => &mut fields.tenantid,
            other => return Err(CliError::usage(format!("\"{other}\" is not a queue field"))),
        };
        *field = true;
    }
    Ok(Some(fields))
}
