//! `queue policy`.

use clap::{Args, Subcommand};
use control::smtpd::policy_condition_add_request::{Fields, If, Then, then::Rate};
use control::smtpd::policy_condition_response::Item;
use control::smtpd::{
    DoubleValue, PolicyConditionAddRequest, PolicyConditionAddResponse, PolicyConditionDeleteRequest,
    PolicyConditionDeleteResponse, PolicyConditionResponse, PolicyConditionUpdateRequest,
    PolicyConditionUpdateResponse, PolicyMatchRequest, PolicyMatchResponse, PolicyRateRefillRequest,
    PolicyRateRefillResponse, StringValue, policy_condition_update_request,
};

use super::selectors::{COLUMNS, SelectorArgs, text};
use super::values::{key_value, number, seconds};
use super::{CliError, Context};
use crate::table::{Align, Table, six_digits};

/// Subcommands of `queue policy`.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// List dynamic conditions
    List {
        /// More columns
        #[arg(long)]
        wide: bool,
    },
    /// Add a dynamic condition
    Add(Box<AddArgs>),
    /// Change a dynamic condition
    Update {
        /// ID of the condition
        id: String,
        #[command(flatten)]
        limits: LimitArgs,
        /// Seconds it lives from now, 0 for no end
        #[arg(long, value_name = "SEC")]
        ttl: Option<f64>,
    },
    /// Delete a dynamic condition
    Delete {
        /// ID of the condition
        id: String,
    },
    /// Read the policy file again
    Reload,
    /// Groups that policies roll values up to
    #[command(subcommand)]
    Grouping(super::misc::GroupingCommand),
    /// Show which policies apply to these values
    Match(Box<SelectorArgs>),
    /// Rate counters
    #[command(subcommand)]
    Rate(RateCommand),
}

/// Subcommands of `queue policy rate`.
#[derive(Debug, Subcommand)]
pub(crate) enum RateCommand {
    /// Refill the counter with exactly these values (an option without value is empty), or all
    Refill {
        #[command(flatten)]
        selectors: SelectorArgs,
        /// Starts to give back (all)
        #[arg(long, value_name = "NUMBER")]
        tokens: Option<f64>,
    },
    /// Refill wholly
    Clear {
        #[command(flatten)]
        selectors: SelectorArgs,
    },
}

/// Options of `queue policy add`.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Fields of the counter (repeatable, or a comma list)
    #[arg(short = 'F', long, value_name = "FIELD", value_delimiter = ',')]
    fields: Vec<String>,
    #[command(flatten)]
    selectors: SelectorArgs,
    #[command(flatten)]
    limits: LimitArgs,
    /// Seconds it lives, 0 for no end
    #[arg(long, value_name = "SEC", default_value_t = 0.0)]
    ttl: f64,
    /// ID (made by the server)
    #[arg(long, value_name = "UUID", default_value = "", hide_default_value = true)]
    id: String,
}

/// Limits.
#[derive(Debug, Args)]
pub(crate) struct LimitArgs {
    /// Attempts started: N/SECONDS, or N per second
    #[arg(long, value_name = "N/SEC")]
    rate: Option<String>,
    /// Attempts running
    #[arg(long, value_name = "NUMBER")]
    concurrency: Option<u64>,
    /// Seconds between new connections
    #[arg(long, value_name = "SEC")]
    connectinterval: Option<f64>,
    /// Tag, at most 24 characters
    #[arg(long, value_name = "STRING")]
    tag: Option<String>,
    /// Later policies are not evaluated
    #[arg(long)]
    stop: bool,
    /// Property (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    property: Vec<String>,
}

impl LimitArgs {
    fn is_empty(&self) -> bool {
        self.rate.is_none()
            && self.concurrency.is_none()
            && self.connectinterval.is_none()
            && self.tag.is_none()
            && !self.stop
            && self.property.is_empty()
    }

    fn rate(&self) -> Result<Option<(u64, f64)>, CliError> {
        let Some(text) = &self.rate else { return Ok(None) };
        let (count, interval) = text.split_once('/').unwrap_or((text, "1"));
        let rate = (number(count)?, seconds(interval)?);
        if rate.0 == 0 || rate.1 <= 0.0 {
            return Err(CliError::usage(format!("\"{text}\" is not a rate like 10/600")));
        }
        Ok(Some(rate))
    }

    fn then(&self) -> Result<Then, CliError> {
        Ok(Then {
            rate: self.rate()?.map(|(count, interval)| Rate { count, interval }),
            concurrency: self.concurrency.unwrap_or(0),
            tag: self.tag.clone().map(|value| StringValue { value }),
            stop: self.stop,
            properties: self.property.iter().map(|text| key_value(text)).collect::<Result<_, _>>()?,
            connectinterval: self.connectinterval.map(|value| DoubleValue { value }),
            ratealgorithm: None,
        })
    }
}

pub(crate) async fn run(context: &mut Context, command: PolicyCommand) -> Result<(), CliError> {
    match command {
        PolicyCommand::List { wide } => list(context, wide).await,
        PolicyCommand::Add(args) => add(context, &args).await,
        PolicyCommand::Update { id, limits, ttl } => update(context, id, &limits, ttl).await,
        PolicyCommand::Delete { id } => {
            let request = PolicyConditionDeleteRequest { id: id.clone() };
            let reply = context.request::<_, PolicyConditionDeleteResponse>(b'x', &request).await?;
            match reply {
                Some(reply) if reply.affected == 0 => Err(CliError::NotFound(format!("no condition {id}"))),
                _ => Ok(()),
            }
        }
        PolicyCommand::Reload => context.order(b'p').await,
        PolicyCommand::Grouping(command) => super::misc::grouping(context, command).await,
        PolicyCommand::Match(selectors) => show_matches(context, &selectors).await,
        PolicyCommand::Rate(RateCommand::Refill { selectors, tokens }) => {
            refill(context, &selectors, tokens.unwrap_or(0.0), "refilled").await
        }
        PolicyCommand::Rate(RateCommand::Clear { selectors }) => {
            refill(context, &selectors, 0.0, "cleared").await
        }
    }
}

async fn list(context: &mut Context, wide: bool) -> Result<(), CliError> {
    let Some(reply) = context.fetch::<PolicyConditionResponse>(b'v').await? else { return Ok(()) };
    let left = |name: &'static str| (name, Align::Left);
    let mut columns = vec![("id", Align::Right), left("fields")];
    columns.extend(COLUMNS.map(left));
    columns.extend(["concurrency", "rate", "ttl"].map(|name| (name, Align::Right)));
    columns.push(left("tag"));
    if wide {
        columns.extend(["tenantid", "connectinterval", "stop", "properties"].map(left));
    }
    let mut table = Table::new(columns);
    for item in &reply.items {
        table.row(row(item, wide));
    }
    context.print(&table.render());
    Ok(())
}

fn row(item: &Item, wide: bool) -> Vec<String> {
    let fields = item.fields.unwrap_or_default();
    let when = item.r#if.clone().unwrap_or_default();
    let then = item.then.clone().unwrap_or_default();
    let named = [
        (fields.tenantid, "tenantid"),
        (fields.transportid, "transportid"),
        (fields.localip, "localip"),
        (fields.remoteip, "remoteip"),
        (fields.remotemx, "remotemx"),
        (fields.recipientdomain, "recipientdomain"),
        (fields.jobid, "jobid"),
        (fields.grouping, "grouping"),
    ];
    let names: Vec<&str> = named.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
    let rate = then.rate.map(|rate| format!("{}/{}", rate.count, six_digits(rate.interval)));
    let number = |value: u64| if value == 0 { String::new() } else { value.to_string() };
    let mut cells = vec![
        item.id.clone(),
        names.join(", "),
        text(&when.transportid),
        text(&when.localip),
        text(&when.remoteip),
        text(&when.remotemx),
        text(&when.recipientdomain),
        text(&when.jobid),
        text(&when.grouping),
        number(then.concurrency),
        rate.unwrap_or_default(),
        if item.ttl == 0.0 { String::new() } else { six_digits(item.ttl) },
        text(&then.tag),
    ];
    if wide {
        let properties = then.properties.iter().map(|(key, value)| format!("{key}={value}"));
        cells.extend([
            text(&when.tenantid),
            then.connectinterval.map(|interval| six_digits(interval.value)).unwrap_or_default(),
            then.stop.to_string(),
            properties.collect::<Vec<_>>().join(", "),
        ]);
    }
    cells
}

async fn add(context: &mut Context, args: &AddArgs) -> Result<(), CliError> {
    let mut fields = Fields::default();
    for name in &args.fields {
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
    if args.limits.is_empty() {
        return Err(CliError::usage("a condition needs a limit: --rate, --concurrency, --connectinterval…"));
    }
    let selectors = &args.selectors;
    let value = SelectorArgs::value;
    let request = PolicyConditionAddRequest {
        fields: Some(fields),
        r#if: Some(If {
            transportid: value(&selectors.transportid),
            localip: value(&selectors.localip),
            remoteip: value(&selectors.remoteip),
            remotemx: value(&selectors.remotemx),
            recipientdomain: value(&selectors.recipientdomain),
            jobid: value(&selectors.jobid),
            grouping: value(&selectors.grouping),
            tenantid: value(&selectors.tenantid),
        }),
        then: Some(args.limits.then()?),
        ttl: args.ttl,
        id: args.id.clone(),
    };
    if let Some(reply) = context.request::<_, PolicyConditionAddResponse>(b'w', &request).await? {
        context.print(&format!("{}\n", reply.id));
    }
    Ok(())
}

async fn update(
    context: &mut Context,
    id: String,
    limits: &LimitArgs,
    ttl: Option<f64>,
) -> Result<(), CliError> {
    use policy_condition_update_request::{Then, then::Rate};
    let Some(new) = (!limits.is_empty()).then(|| limits.then()).transpose()? else {
        let request = PolicyConditionUpdateRequest { id, then: None, ttl: life(ttl) };
        return send_update(context, &request).await;
    };
    let then = Then {
        rate: new.rate.map(|rate| Rate { count: rate.count, interval: rate.interval }),
        concurrency: new.concurrency,
        tag: new.tag,
        stop: new.stop,
        connectinterval: new.connectinterval,
        ratealgorithm: new.ratealgorithm,
        properties: new.properties,
    };
    let request = PolicyConditionUpdateRequest { id, then: Some(then), ttl: life(ttl) };
    send_update(context, &request).await
}

async fn send_update(context: &mut Context, request: &PolicyConditionUpdateRequest) -> Result<(), CliError> {
    if let Some(reply) = context.request::<_, PolicyConditionUpdateResponse>(b'P', request).await? {
        context.print(&format!("{} policies affected\n", reply.affected));
    }
    Ok(())
}

/// In updates 0 stands for "unchanged" and a negative number for "no end".
pub(crate) fn life(ttl: Option<f64>) -> f64 {
    match ttl {
        None => 0.0,
        Some(ttl) if ttl <= 0.0 => -1.0,
        Some(ttl) => ttl,
    }
}

async fn show_matches(context: &mut Context, selectors: &SelectorArgs) -> Result<(), CliError> {
    let value = |text: &Option<String>| text.clone().unwrap_or_default();
    let request = PolicyMatchRequest {
        transportid: value(&selectors.transportid),
        localip: value(&selectors.localip),
        remoteip: value(&selectors.remoteip),
        remotemx: value(&selectors.remotemx),
        recipientdomain: value(&selectors.recipientdomain),
        jobid: value(&selectors.jobid),
        grouping: value(&selectors.grouping),
        tenantid: value(&selectors.tenantid),
    };
    let Some(reply) = context.request::<_, PolicyMatchResponse>(b'S', &request).await? else { return Ok(()) };
    let texts = ["fields", "dynamic", "tags", "stop"].map(|name| (name, Align::Left));
    let numbers = ["concurrency", "concurrent", "rate", "tokens", "connectinterval"];
    let mut table = Table::new(texts.into_iter().chain(numbers.map(|name| (name, Align::Right))));
    for matched in reply.policies {
        let fields = matched.fields.unwrap_or_default();
        let named = [
            (fields.tenantid, "tenantid"),
            (fields.transportid, "transportid"),
            (fields.localip, "localip"),
            (fields.remoteip, "remoteip"),
            (fields.remotemx, "remotemx"),
            (fields.recipientdomain, "recipientdomain"),
            (fields.jobid, "jobid"),
            (fields.grouping, "grouping"),
        ];
        let names: Vec<&str> = named.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
        let rate = matched.rate.map(|rate| format!("{}/{}", rate.count, six_digits(rate.interval)));
        let tokens = if rate.is_some() { six_digits(matched.tokens) } else { String::new() };
        let ids: Vec<String> = matched.dynamic.into_iter().map(|dynamic| dynamic.id).collect();
        table.row([
            names.join(", "),
            ids.join(", "),
            matched.tags.join(", "),
            matched.stop.to_string(),
            matched.concurrency.map(|limit| limit.value.to_string()).unwrap_or_default(),
            matched.concurrent.to_string(),
            rate.unwrap_or_default(),
            tokens,
            matched.connectinterval.map(|interval| six_digits(interval.value)).unwrap_or_default(),
        ]);
    }
    context.print(&table.render());
    Ok(())
}

async fn refill(
    context: &mut Context,
    selectors: &SelectorArgs,
    tokens: f64,
    verb: &str,
) -> Result<(), CliError> {
    let value = SelectorArgs::value;
    let request = PolicyRateRefillRequest {
        transportid: value(&selectors.transportid),
        localip: value(&selectors.localip),
        remoteip: value(&selectors.remoteip),
        remotemx: value(&selectors.remotemx),
        recipientdomain: value(&selectors.recipientdomain),
        jobid: value(&selectors.jobid),
        tokens,
        grouping: value(&selectors.grouping),
        tenantid: value(&selectors.tenantid),
    };
    if let Some(reply) = context.request::<_, PolicyRateRefillResponse>(b'B', &request).await? {
        context.print(&format!("{} buckets {verb}\n", reply.affected));
    }
    Ok(())
}
