//! `queue explain`: why a message is where it is.

use crate::clock;
use crate::control::convert;
use crate::daemon::Daemon;
use control::server::{Answer, parse, payload};
use control::smtpd as wire;
use queue::{
    AddressView, BucketView, Cause, Explanation, Field, LaneView, Phase, State, SuspensionSource,
    SuspensionView, Time,
};
use std::collections::BTreeMap;
use wire::queue_explain_response as out;

pub(super) fn explain(daemon: &Daemon, body: &[u8]) -> Answer {
    let request: wire::QueueExplainRequest = parse(body)?;
    let wanted = request.id.unwrap_or_default();
    let id = uuid::Uuid::try_parse(&wanted.transaction).map_err(|_| convert::INVALID.to_owned())?;
    let now = clock::now();
    let queue = daemon.engine.queue.lock();
    let keys = match wanted.queue {
        0 => queue.entries_of(id),
        number => queue.find(id, number).into_iter().collect(),
    };
    let mut items: Vec<out::Item> = keys
        .into_iter()
        .filter_map(|key| {
            let (view, found) = (queue.entry(key)?, queue.explain(now, key)?);
            Some(out::Item {
                id: Some(wire::QueueItemId { transaction: id.to_string(), queue: view.queue_id() }),
                recipient: format!("{}@{}", view.recipient_localpart(), view.recipient_domain()),
                transportid: view.transport_id().to_owned(),
                retrycount: u64::from(view.retry_count()),
                retryreason: view.retry_reason().to_owned(),
                ..item(&found, now)
            })
        })
        .collect();
    drop(queue);
    if items.is_empty() {
        return Err("No such message in the queue".to_owned());
    }
    items.sort_by_key(|item| item.id.as_ref().map(|id| id.queue));
    Ok(payload(&wire::QueueExplainResponse { items }))
}

fn item(found: &Explanation, now: Time) -> out::Item {
    let phase = |phase| match phase {
        Phase::Predelivery => "predelivery",
        Phase::Delivery => "delivery",
        Phase::Postdelivery => "postdelivery",
    };
    let (running, most) = found.attempts;
    out::Item {
        state: found.state.name().to_owned(),
        working: found.work.map(|work| phase(work.phase).to_owned()).unwrap_or_default(),
        duration: found.work.map_or(0.0, |work| now.since(work.since).as_secs_f64()),
        freezing: found.work.is_some_and(|work| work.freezing),
        retrydelay: seconds_until(now, found.due),
        ahead: found.ahead,
        of: found.of,
        next: found.next.map(|at| double(seconds_until(now, at))),
        attempts: u64::from(running),
        maxattempts: u64::from(most),
        lane: found.lane.as_ref().map(|view| lane(view, now)),
        summary: summary(found, now),
        ..out::Item::default()
    }
}

fn double(value: f64) -> wire::DoubleValue {
    wire::DoubleValue { value }
}

fn seconds_until(now: Time, at: Time) -> f64 {
    at.0.saturating_sub(now.0) as f64 / 1e6
}

fn texts(fields: &[(Field, String)]) -> BTreeMap<String, String> {
    fields.iter().map(|(field, text)| (field.name().to_owned(), text.clone())).collect()
}

fn lane(view: &LaneView, now: Time) -> out::Lane {
    out::Lane {
        fields: texts(&view.fields),
        priority: u64::from(view.priority),
        ready: view.ready,
        lanesahead: view.lanes_ahead,
        addresses: view.addresses.iter().map(|view| address(view, now)).collect(),
    }
}

fn address(view: &AddressView, now: Time) -> out::Address {
    out::Address {
        localip: view.ip.to_string(),
        free: view.is_free(),
        suspensions: view.suspensions.iter().map(suspension).collect(),
        buckets: view.buckets.iter().map(|view| bucket(view, now)).collect(),
    }
}

fn suspension(view: &SuspensionView) -> out::Suspension {
    let source = if view.source == SuspensionSource::Static { "static" } else { "dynamic" };
    out::Suspension {
        id: view.id.clone(),
        source: source.to_owned(),
        tag: view.tag.clone().unwrap_or_default(),
        ttl: view.ttl.map_or(0.0, |ttl| ttl.as_secs_f64()),
        fields: texts(&view.fields),
    }
}

fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Concurrency => "concurrency",
        Cause::Rate => "rate",
        Cause::ConnectInterval => "connectinterval",
    }
}

fn bucket(view: &BucketView, now: Time) -> out::Bucket {
    let limits = view.applied.limits.clone().unwrap_or_default();
    let number = |value: u32| wire::UInt64Value { value: u64::from(value) };
    out::Bucket {
        policy: view.policy as u64,
        fields: texts(&view.fields),
        dynamicid: view.applied.dynamic.clone().unwrap_or_default(),
        tag: limits.tag.unwrap_or_default(),
        concurrency: limits.concurrency.map(number),
        running: u64::from(view.running),
        ratecount: limits.rate.map(|rate| number(rate.count)),
        rateinterval: limits.rate.map_or(0.0, |rate| rate.interval.as_secs_f64()),
        tokens: view.tokens.map(double),
        connectinterval: limits.connect_interval.map(|interval| double(interval.as_secs_f64())),
        stopped: view.stopped,
        blocked: view.blocked.map(|blocked| cause(blocked).to_owned()).unwrap_or_default(),
        frees: view.free_at.map(|at| double(seconds_until(now, at))),
        waiting: view.waiting,
    }
}

/// The answer in one sentence.
fn summary(found: &Explanation, now: Time) -> String {
    let after = |at: Time| format!("{:.1} s", seconds_until(now, at).max(0.0));
    match found.state {
        State::Hold => "parked until an operator or a script releases it".to_owned(),
        State::Update => "frozen until an update acts on it".to_owned(),
        State::Unknown => "in a hook or in name resolution".to_owned(),
        State::Sending => "being sent".to_owned(),
        State::Defer if found.due <= now => {
            format!("due, waiting for pre-delivery behind {} others", found.ahead)
        }
        State::Defer => format!("waiting for its next attempt in {}", after(found.due)),
        State::Active => active_summary(found, now, after),
    }
}

fn active_summary(found: &Explanation, now: Time, after: impl Fn(Time) -> String) -> String {
    let Some(lane) = &found.lane else { return String::new() };
    let (running, most) = found.attempts;
    if running >= most {
        return format!("all {most} attempts that may run at once are running (queues.concurrency.total)");
    }
    if lane.addresses.iter().any(AddressView::is_free) {
        return match (found.ahead, lane.lanes_ahead) {
            (0, 0) => "next in line".to_owned(),
            (ahead, lanes) => format!("in line: {ahead} before it in its lane, {lanes} lanes before that"),
        };
    }
    let mut reasons: Vec<String> = Vec::new();
    for address in &lane.addresses {
        let suspended = address.suspensions.first().map(|suspension| {
            let tag = suspension.tag.as_ref().map(|tag| format!(" ({tag})")).unwrap_or_default();
            format!("suspended by {}{tag}", suspension.id)
        });
        let blocked = address.buckets.iter().find(|bucket| bucket.blocked.is_some()).map(|bucket| {
            let what = bucket.blocked.map_or("", cause);
            format!("at its {what} limit in policy {}", bucket.policy)
        });
        let reason = suspended.or(blocked).unwrap_or_default();
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    let when = match found.next {
        Some(at) if at > now => format!(", free in {}", after(at)),
        Some(_) => String::new(),
        None => ", until that ends".to_owned(),
    };
    format!("{}{when}; {} before it in its lane", reasons.join("; "), found.ahead)
}
