//! `process-stats`: the counters as `name: value` lines or OpenMetrics text.
//!
//! Names are the field paths of the reply message, in the order of the manual's list. Lists go by index in the
//! text form and by label in OpenMetrics.

use std::fmt::Write as _;

use clap::Args;
use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};

use super::{CliError, Context};

/// Options of `process-stats`.
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Only names that match (`*` and `?`)
    glob: Option<String>,
    /// OpenMetrics text
    #[arg(long, conflicts_with = "glob")]
    openmetrics: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Gauge,
    Counter,
    /// A text that becomes a label.
    Label,
}

use Kind::{Counter as C, Gauge as G, Label as L};

/// A counter: path with `N` for list places and `PHASE` for the hooks of a server, type, meaning.
struct Metric(&'static str, Kind, &'static str);

const PHASES: [&str; 8] = ["connect", "proxy", "helo", "auth", "mailfrom", "rcptto", "eod", "disconnect"];

#[rustfmt::skip]
const METRICS: &[Metric] = &[
    Metric("process.pid", G, "Process id"),
    Metric("process.runtime", C, "Seconds since start"),
    Metric("process.version.major", C, "Version, first number"),
    Metric("process.version.minor", C, "Version, second number"),
    Metric("process.version.patch", C, "Version, third number"),
    Metric("process.license.expiration", C, "Always 0"),
    Metric("resolver.pending", G, "Queries waiting to be sent"),
    Metric("resolver.dedup", G, "Queries joined to a running one"),
    Metric("resolver.running", G, "Queries awaiting a reply"),
    Metric("resolver.maxrunning", C, "Limit of queries awaiting a reply"),
    Metric("resolver.cache.size", G, "Entries in the cache"),
    Metric("resolver.cache.maxsize", C, "Limit of entries in the cache"),
    Metric("resolver.cache.hits", C, "Questions answered from the cache"),
    Metric("resolver.cache.misses", C, "Questions not found in the cache"),
    Metric("resolver.cache.expires", C, "Entries dropped by TTL"),
    Metric("resolver.cache.evicts", C, "Entries dropped to make room"),
    Metric("resolver.cache.skips", C, "Answers that cannot be cached"),
    Metric("resolver.domain.cache.size", G, "Domains in the cache"),
    Metric("resolver.domain.cache.maxsize", C, "Limit of domains in the cache"),
    Metric("resolver.domain.cache.hits", C, "Domains found in the cache"),
    Metric("resolver.domain.cache.misses", C, "Domains not found in the cache"),
    Metric("resolver.domain.cache.expires", C, "Domains dropped by TTL"),
    Metric("resolver.domain.cache.evicts", C, "Domains dropped to make room"),
    Metric("servers.N.serverid", L, ""),
    Metric("servers.N.connections.concurrent", G, "Connected clients"),
    Metric("servers.N.connections.maxconcurrent", C, "Limit of connected clients"),
    Metric("servers.N.scripts.PHASE.pending", G, "Hooks waiting"),
    Metric("servers.N.scripts.PHASE.running", G, "Hooks executing"),
    Metric("servers.N.scripts.PHASE.finished", C, "Hooks completed"),
    Metric("servers.N.scripts.PHASE.errors", C, "Hooks ended by an error"),
    Metric("servers.N.scripts.PHASE.threads", G, "Threads used"),
    Metric("servers.N.scripts.PHASE.suspended", G, "Hooks waiting in a call"),
    Metric("servers.N.scripts.PHASE.threadid", L, ""),
    Metric("queue.loader.count", C, "Messages loaded into memory"),
    Metric("queue.loader.pending", G, "Messages waiting to be loaded"),
    Metric("queue.loader.active", G, "Messages in memory"),
    Metric("queue.loader.maxactive", C, "Limit of messages in memory"),
    Metric("queue.scripts.predelivery.pending", G, "Hooks waiting"),
    Metric("queue.scripts.predelivery.running", G, "Hooks executing"),
    Metric("queue.scripts.predelivery.finished", C, "Hooks completed"),
    Metric("queue.scripts.predelivery.errors", C, "Hooks ended by an error"),
    Metric("queue.scripts.predelivery.threads", G, "Threads used"),
    Metric("queue.scripts.predelivery.suspended", G, "Hooks waiting in a call"),
    Metric("queue.scripts.predelivery.threadid", L, ""),
    Metric("queue.scripts.postdelivery.pending", G, "Hooks waiting"),
    Metric("queue.scripts.postdelivery.running", G, "Hooks executing"),
    Metric("queue.scripts.postdelivery.finished", C, "Hooks completed"),
    Metric("queue.scripts.postdelivery.errors", C, "Hooks ended by an error"),
    Metric("queue.scripts.postdelivery.threads", G, "Threads used"),
    Metric("queue.scripts.postdelivery.suspended", G, "Hooks waiting in a call"),
    Metric("queue.scripts.postdelivery.threadid", L, ""),
    Metric("queue.queue.defer.size", G, "Deferred messages"),
    Metric("queue.queue.active.size", G, "Active messages"),
    Metric("queue.queue.active.priorities.N.size", G, "Active messages by priority"),
    Metric("queue.freeze.hold.size", G, "Messages on hold"),
    Metric("queue.freeze.update.size", G, "Messages frozen for an update"),
    Metric("queue.freeze.update.pending", G, "Working messages that will be frozen"),
    Metric("queue.policy.concurrency.counters", G, "Concurrency counters in memory"),
    Metric("queue.policy.concurrency.suspends", G, "Suspensions made by them"),
    Metric("queue.policy.rate.buckets", G, "Rate buckets in memory"),
    Metric("queue.policy.rate.suspends", G, "Suspensions made by them"),
    Metric("queue.policy.connectinterval.buckets", G, "Connect intervals in memory"),
    Metric("queue.policy.connectinterval.suspends", G, "Suspensions made by them"),
    Metric("queue.policy.dynamic.suspends", G, "Suspensions added at run time"),
    Metric("queue.policy.dynamic.conditions", G, "Policy conditions added at run time"),
    Metric("queue.pickup.count", C, "Messages picked up"),
    Metric("queue.pickup.skips", C, "Combinations skipped because suspended"),
    Metric("queue.pickup.misses", C, "Searches without result"),
    Metric("queue.pickup.pending", G, "Picked up, waiting for a delivery loop"),
    Metric("queue.pickup.evals", C, "Suspend evaluations"),
    Metric("queue.pickup.putback", C, "Messages put back into the queue"),
    Metric("queue.quota.size", G, "Quota names"),
    Metric("queue.connections.concurrent", G, "Outbound connections"),
    Metric("queue.connections.maxconcurrent", C, "Limit of outbound connections"),
    Metric("queue.connections.pooling.size", G, "Connections kept open"),
    Metric("queue.connections.pooling.maxsize", C, "Limit of connections kept open"),
    Metric("queue.connections.pooling.hits", C, "Connections used again"),
    Metric("queue.connections.pooling.misses", C, "Connections that had to be opened"),
    Metric("queue.connections.pooling.expires", C, "Connections closed when idle"),
    Metric("queue.connections.pooling.evicts", C, "Connections closed to make room"),
    Metric("queue.connections.pooling.skips", C, "Connections not kept, the pool being full"),
    Metric("queue.delivery.delivered", C, "Deliveries"),
    Metric("queue.delivery.delayed", C, "Temporary failures"),
    Metric("queue.delivery.failed", C, "Permanent failures"),
    Metric("queue.release.pending", G, "Messages waiting for post-delivery"),
    Metric("threads.scripts.N.id", L, ""),
    Metric("threads.scripts.N.pending", G, "New scripts waiting"),
    Metric("threads.scripts.N.rescheduled", G, "Resumed scripts waiting"),
    Metric("threads.scripts.N.running", G, "Running threads"),
    Metric("threads.scripts.N.maxrunning", C, "Limit of running threads"),
    Metric("threads.scripts.N.scripts", G, "Started scripts"),
    Metric("threads.scripts.N.maxscripts", C, "Limit of started scripts"),
    Metric("cluster.connected", G, "Link to the orchestrator"),
    Metric("cluster.hosts", G, "Known hosts"),
    Metric("monitor.ready", G, "Started"),
    Metric("monitor.healthy", G, "Healthy"),
    Metric("spool.minfree", G, "1 while too little space is free"),
];

pub(crate) async fn run(context: &mut Context, args: &StatsArgs) -> Result<(), CliError> {
    let Some(payload) = context.call::<()>(b'q', None).await? else { return Ok(()) };
    let stats = control::json::decode("ProcessStatsResponse", &payload)?;
    let text = if args.openmetrics { openmetrics(&stats) } else { plain(&stats, args.glob.as_deref()) };
    context.print(&text);
    Ok(())
}

/// `name: value` lines.
pub(crate) fn plain(stats: &DynamicMessage, glob: Option<&str>) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        if glob.is_none_or(|glob| matches_glob(glob, name)) {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{name}: {value}");
        }
    };
    for block in blocks() {
        for (start, place) in places(stats, block) {
            for metric in block {
                let path = metric.0.replacen(".N", &place, 1);
                for (phase, path) in phases(&path) {
                    let Some(value) = lookup(stats, &start, metric.0, phase) else { continue };
                    if path == "process.runtime" {
                        let seconds = number(&value);
                        line("process.runtime", format!("{:.0}", seconds.floor()));
                        line("process.elapsed", seconds.to_string());
                        continue;
                    }
                    line(&path, text(&value));
                }
            }
        }
    }
    out
}

/// Metrics that go together: those of one list are printed place by place, others one by one.
fn blocks() -> Vec<&'static [Metric]> {
    METRICS.chunk_by(|a, b| list_of(a.0).is_some() && list_of(a.0) == list_of(b.0)).collect()
}

/// Path of the list in a path.
fn list_of(path: &str) -> Option<&str> {
    path.split_once(".N").map(|(list, _)| list)
}

/// The messages a block is read from, with the text that takes the place of `.N`.
fn places(stats: &DynamicMessage, block: &[Metric]) -> Vec<(DynamicMessage, String)> {
    let Some(list) = block.first().and_then(|metric| list_of(metric.0)) else {
        return vec![(stats.clone(), String::new())];
    };
    let Some(Value::List(items)) = walk(stats, list.split('.')) else { return Vec::new() };
    let item = |(i, value): (usize, Value)| match value {
        Value::Message(message) => Some((message, format!(".{i}"))),
        _ => None,
    };
    items.into_iter().enumerate().filter_map(item).collect()
}

/// A path once for each hook, if it goes by hooks.
fn phases(path: &str) -> Vec<(Option<&'static str>, String)> {
    match path.contains("PHASE") {
        true => PHASES.iter().map(|phase| (Some(*phase), path.replace("PHASE", phase))).collect(),
        false => vec![(None, path.to_owned())],
    }
}

fn lookup(start: &DynamicMessage, place: &DynamicMessage, path: &str, phase: Option<&str>) -> Option<Value> {
    let (from, rest) = match path.split_once(".N.") {
        Some((_, rest)) => (place, rest),
        None => (start, path),
    };
    walk(from, rest.split('.').map(|part| if part == "PHASE" { phase.unwrap_or(part) } else { part }))
}

/// The value at the end of a path; `None` when a message on the way is absent.
fn walk<'p>(message: &DynamicMessage, mut path: impl Iterator<Item = &'p str>) -> Option<Value> {
    let name = path.next()?;
    let field = message.descriptor().get_field_by_name(name)?;
    let is_message = matches!(field.kind(), prost_reflect::Kind::Message(_)) && !field.is_list();
    if is_message && !message.has_field(&field) {
        return None;
    }
    let value = message.get_field(&field).into_owned();
    match &value {
        Value::Message(inner) => walk(inner, path),
        _ => Some(value),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(set) => u8::from(*set).to_string(),
        other => number(other).to_string(),
    }
}

fn number(value: &Value) -> f64 {
    match value {
        Value::U64(number) => *number as f64,
        Value::U32(number) => f64::from(*number),
        Value::F64(number) => *number,
        Value::Bool(set) => f64::from(u8::from(*set)),
        _ => 0.0,
    }
}

/// OpenMetrics text: `halon_` names, labels instead of indexes, families with their samples together.
pub(crate) fn openmetrics(stats: &DynamicMessage) -> String {
    let mut families: Vec<(String, &Metric, String)> = Vec::new();
    for metric in METRICS.iter().filter(|metric| metric.1 != Kind::Label) {
        let block = std::slice::from_ref(metric);
        for (start, place) in places(stats, block) {
            for (phase, path) in phases(metric.0) {
                let Some(value) = lookup(stats, &start, metric.0, phase) else { continue };
                let name = format!("halon_{}", path.replace(".N", "").replace('.', "_"));
                let labels = labels(stats, &start, metric.0, phase, &place);
                let sample = format!("{name}{labels} {}\n", text(&value));
                match families.iter_mut().find(|(known, ..)| *known == name) {
                    Some((.., samples)) => samples.push_str(&sample),
                    None => families.push((name, metric, sample)),
                }
            }
        }
    }
    let mut out = String::new();
    for (name, Metric(path, kind, help), samples) in families {
        let kind = if *kind == Kind::Gauge { "gauge" } else { "counter" };
        let _ = writeln!(out, "# TYPE {name} {kind}");
        if matches!(*path, "process.runtime" | "process.license.expiration") {
            let _ = writeln!(out, "# UNIT {name} seconds");
        }
        let _ = writeln!(out, "# HELP {name} {help}");
        out.push_str(&samples);
    }
    out.push_str("# EOF\n");
    out
}

fn labels(
    stats: &DynamicMessage,
    place: &DynamicMessage,
    path: &str,
    phase: Option<&str>,
    index: &str,
) -> String {
    let get = |from: &DynamicMessage, path: &[&str]| {
        walk(from, path.iter().copied()).map(|value| text(&value)).unwrap_or_default()
    };
    let mut labels: Vec<(&str, String)> = Vec::new();
    if path.starts_with("servers.") {
        labels.push(("serverid", get(place, &["serverid"])));
        if let Some(phase) = phase {
            labels.push(("threadid", get(place, &["scripts", phase, "threadid"])));
        }
    } else if path.starts_with("queue.scripts.") {
        let hook = path.split('.').nth(2).unwrap_or_default();
        labels.push(("threadid", get(stats, &["queue", "scripts", hook, "threadid"])));
    } else if path.starts_with("threads.scripts.") {
        labels.push(("id", get(place, &["id"])));
    } else if path.contains(".priorities.N") {
        labels.push(("priority", index.trim_start_matches('.').to_owned()));
    }
    if labels.is_empty() {
        return String::new();
    }
    let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escape(v))).collect();
    format!("{{{}}}", pairs.join(","))
}

/// `*` any text, `?` any character.
fn matches_glob(glob: &str, text: &str) -> bool {
    let (glob, text): (Vec<char>, Vec<char>) = (glob.chars().collect(), text.chars().collect());
    let (mut g, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match glob.get(g) {
            Some('*') => {
                star = Some((g, t));
                g += 1;
            }
            Some(&c) if c == '?' || c == text[t] => (g, t) = (g + 1, t + 1),
            _ => match star {
                // The star takes one character more.
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (g, t) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    glob[g..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use control::smtpd::{ProcessStatsResponse, process_stats_response as stats};
    use prost::Message as _;

    use super::*;

    fn sample() -> DynamicMessage {
        let script = stats::Script { pending: 3, threadid: "_default".into(), ..Default::default() };
        let reply = ProcessStatsResponse {
            process: Some(stats::Process { pid: 48_535, runtime: 3638.25, ..Default::default() }),
            servers: vec![stats::ServerCounters {
                serverid: "inbound".into(),
                connections: Some(stats::Connections { concurrent: 2, maxconcurrent: 10 }),
                scripts: Some(stats::Scripts { eod: Some(script), ..Default::default() }),
            }],
            queue: Some(stats::Queue {
                queue: Some(stats::queue::Queue {
                    active: Some(stats::queue::queue::Active {
                        size: 5,
                        priorities: vec![
                            stats::queue::queue::active::Priority { size: 4 },
                            stats::queue::queue::active::Priority { size: 1 },
                        ],
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        control::json::decode("ProcessStatsResponse", &reply.encode_to_vec()).unwrap()
    }

    #[test]
    fn lines_are_in_order_and_absent_messages_print_nothing() {
        let expected = "process.pid: 48535\nprocess.runtime: 3638\nprocess.elapsed: 3638.25\n\
            servers.0.serverid: inbound\nservers.0.connections.concurrent: 2\n\
            servers.0.connections.maxconcurrent: 10\nservers.0.scripts.eod.pending: 3\n\
            servers.0.scripts.eod.running: 0\nservers.0.scripts.eod.finished: 0\nservers.0.scripts.eod.errors: 0\n\
            servers.0.scripts.eod.threads: 0\nservers.0.scripts.eod.suspended: 0\n\
            servers.0.scripts.eod.threadid: _default\nqueue.queue.active.size: 5\n\
            queue.queue.active.priorities.0.size: 4\nqueue.queue.active.priorities.1.size: 1\n";
        assert_eq!(plain(&sample(), None), expected);
        assert_eq!(plain(&sample(), Some("*.priorities.1*")), "queue.queue.active.priorities.1.size: 1\n");
    }

    #[test]
    fn openmetrics_has_labels_and_an_end() {
        let text = openmetrics(&sample());
        for line in [
            "# TYPE halon_process_pid gauge",
            "# UNIT halon_process_runtime seconds",
            "halon_process_runtime 3638.25",
            "halon_servers_connections_concurrent{serverid=\"inbound\"} 2",
            "halon_servers_scripts_eod_pending{serverid=\"inbound\",threadid=\"_default\"} 3",
            "halon_queue_queue_active_priorities_size{priority=\"1\"} 1",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn every_name_is_a_path_of_the_message() {
        for Metric(path, ..) in METRICS {
            let mut message = control::json::descriptor("ProcessStatsResponse").unwrap();
            let mut parts = path.split('.').filter(|part| *part != "N").peekable();
            while let Some(part) = parts.next() {
                let part = if part == "PHASE" { "eod" } else { part };
                let field = message.get_field_by_name(part).unwrap_or_else(|| panic!("{path}: {part}"));
                match field.kind() {
                    prost_reflect::Kind::Message(inner) => message = inner,
                    _ => assert!(parts.peek().is_none(), "{path}"),
                }
            }
        }
    }

    #[test]
    fn globs() {
        for (glob, text, expected) in [
            ("*", "a.b", true),
            ("a.*", "a.b", true),
            ("a.?", "a.b", true),
            ("a", "a.b", false),
            ("*b*b", "abcb", true),
            ("*b*c", "abcb", false),
            ("", "", true),
        ] {
            assert_eq!(matches_glob(glob, text), expected, "{glob} {text}");
        }
    }
}
