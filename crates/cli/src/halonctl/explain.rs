//! `queue explain`: why a message is where it is.

use std::collections::BTreeMap;

use clap::Args;
use control::smtpd::queue_explain_response::{Address, Bucket, Item, Lane, Suspension};
use control::smtpd::{QueueExplainRequest, QueueExplainResponse, QueueItemId};

use super::{CliError, Context, values};
use crate::table::{Align, Table, six_digits};

/// Options of `queue explain`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  halonctl queue explain c6321f4c-1671-11ea-885e-005056914940:1\n  \
                        halonctl queue explain c6321f4c-1671-11ea-885e-005056914940 --json")]
pub(crate) struct ExplainArgs {
    /// Message ID; without :queue all of its recipients
    #[arg(value_name = "ID[:QUEUE]")]
    id: String,
}

pub(crate) async fn run(context: &mut Context, args: &ExplainArgs) -> Result<(), CliError> {
    let (transaction, queue) = values::item_id(&args.id)?;
    let request = QueueExplainRequest { id: Some(QueueItemId { transaction, queue }) };
    let Some(reply) = context.request::<_, QueueExplainResponse>(b'7', &request).await? else {
        return Ok(());
    };
    for (number, item) in reply.items.iter().enumerate() {
        if number > 0 {
            context.print("\n");
        }
        context.print(&render(item));
    }
    Ok(())
}

fn render(item: &Item) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            out.push_str(&format!("{name}: {value}\n"));
        }
    };
    let id = item.id.clone().unwrap_or_default();
    line("id", format!("{}:{}", id.transaction, id.queue));
    line("state", item.state.clone());
    line("summary", item.summary.clone());
    line("recipient", item.recipient.clone());
    line("transportid", item.transportid.clone());
    if !item.working.is_empty() {
        line("working", format!("{} for {} s", item.working, six_digits(item.duration)));
        line("freezing", if item.freezing { "yes".to_owned() } else { String::new() });
    }
    line("retrycount", item.retrycount.to_string());
    line("retrydelay", six_digits(item.retrydelay));
    line("lasterror", item.retryreason.clone());
    if item.of > 0 {
        line("position", format!("{} of {}", item.ahead + 1, item.of));
    }
    if let Some(next) = &item.next {
        line("nextpickup", format!("{} s", six_digits(next.value)));
    }
    line("attempts", format!("{} of {}", item.attempts, item.maxattempts));
    if let Some(lane) = &item.lane {
        line("lane", describe(&lane.fields));
        line("priority", lane.priority.to_string());
        line("inline", in_line(&item.state, lane));
        out.push_str(&table(lane).render());
    }
    out
}

fn in_line(state: &str, lane: &Lane) -> String {
    match (state, lane.ready) {
        ("ACTIVE", true) => format!("yes, {} lanes before it", lane.lanesahead),
        ("ACTIVE", false) => "no, it waits for what blocks it".to_owned(),
        _ => String::new(),
    }
}

fn describe(fields: &BTreeMap<String, String>) -> String {
    let given = fields.iter().filter(|(_, value)| !value.is_empty());
    given.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

/// One row for each counter and suspension of each source address.
fn table(lane: &Lane) -> Table {
    let left = |name: &str| (name.to_owned(), Align::Left);
    let right = |name: &str| (name.to_owned(), Align::Right);
    let mut table = Table::new([
        left("localip"),
        left("what"),
        left("key"),
        right("running"),
        right("concurrency"),
        right("tokens"),
        right("rate"),
        right("connectinterval"),
        left("blocked"),
        right("frees"),
        right("waiting"),
        left("tag"),
    ]);
    for address in &lane.addresses {
        address.suspensions.iter().for_each(|suspension| table.row(suspension_row(address, suspension)));
        address.buckets.iter().for_each(|bucket| table.row(bucket_row(address, bucket)));
        if address.suspensions.is_empty() && address.buckets.is_empty() {
            table.row([address.localip.clone(), "no policy".to_owned()]);
        }
    }
    table
}

fn suspension_row(address: &Address, suspension: &Suspension) -> Vec<String> {
    let mut row = vec![
        address.localip.clone(),
        format!("{} suspend {}", suspension.source, suspension.id),
        describe(&suspension.fields),
    ];
    row.extend(std::iter::repeat_n(String::new(), 5));
    let frees = if suspension.ttl > 0.0 { six_digits(suspension.ttl) } else { String::new() };
    row.extend(["suspended".to_owned(), frees, String::new(), suspension.tag.clone()]);
    row
}

fn bucket_row(address: &Address, bucket: &Bucket) -> Vec<String> {
    let what = match (bucket.stopped, bucket.dynamicid.as_str()) {
        (true, _) => format!("policy {} (behind a stop)", bucket.policy),
        (false, "") => format!("policy {}", bucket.policy),
        (false, id) => format!("policy {} ({id})", bucket.policy),
    };
    let number = |value: f64| six_digits(value);
    vec![
        address.localip.clone(),
        what,
        describe(&bucket.fields),
        bucket.running.to_string(),
        bucket.concurrency.as_ref().map(|n| n.value.to_string()).unwrap_or_default(),
        bucket.tokens.as_ref().map(|n| number(n.value)).unwrap_or_default(),
        bucket.ratecount.as_ref().map(|n| format!("{}/{}", n.value, bucket.rateinterval)).unwrap_or_default(),
        bucket.connectinterval.as_ref().map(|n| number(n.value)).unwrap_or_default(),
        bucket.blocked.clone(),
        bucket.frees.as_ref().map(|n| number(n.value)).unwrap_or_default(),
        bucket.waiting.to_string(),
        bucket.tag.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_at_a_limit() {
        let bucket = Bucket {
            fields: [("remotemx".to_owned(), "mx.example".to_owned())].into(),
            concurrency: Some(control::smtpd::UInt64Value { value: 2 }),
            running: 2,
            blocked: "concurrency".to_owned(),
            waiting: 3,
            ..Bucket::default()
        };
        let address =
            Address { localip: "192.0.2.1".to_owned(), buckets: vec![bucket], ..Address::default() };
        let lane = Lane { addresses: vec![address], ..Lane::default() };
        let item = Item {
            state: "ACTIVE".to_owned(),
            ahead: 4,
            of: 10,
            retryreason: "451 later".to_owned(),
            lane: Some(lane),
            ..Item::default()
        };
        let text = render(&item);
        for expected in ["state: ACTIVE\n", "position: 5 of 10\n", "lasterror: 451 later\n", "inline: no"] {
            assert!(text.contains(expected), "{expected} is missing in\n{text}");
        }
        let row = text.lines().last().unwrap_or_default();
        let cells: Vec<&str> = row.split('│').map(str::trim).collect();
        assert_eq!(cells[1..7], ["192.0.2.1", "policy 0", "remotemx=mx.example", "2", "2", ""]);
        assert_eq!(cells[9], "concurrency");
    }
}
