//! The hooks of the queue: pre-delivery before each attempt, post-delivery after it.

use crate::delivery::peer::TlsaFacts;
use crate::delivery::result::{Attempt, AttemptError, ConnectionInfo, Ending, ErrorKind};
use crate::generation::Generation;
use crate::hooks::ContextValue;
use crate::hooks::script::{End, Execution, Script};
use crate::hooks::variables::address_array;
use crate::queueing::engine::Engine;
use crate::queueing::job::Job;
use crate::queueing::settle::{DefaultAction, Verdict};
use crate::transport::{Account, Proxy, SessionSettings, Source, Transport};
use crate::{clock, error, warning};
use config::app::Protocol;
use hsl::{Array, Value};
use hsl_std::hooks::options::read_reason;
pub use hsl_std::hooks::options::{BounceOptions, QueueOptions, TryOptions};
use hsl_std::hooks::options::{SourceName, SourceOption};
use mail::dsn::Action;
use queue::{RetryInterval, RetrySchedule};
use spool::Durability;
use spool::record::{EntryUpdate, Pair};
use std::sync::Arc;
use std::time::Duration;

/// How a pre-delivery hook ended.
#[derive(Debug)]
pub enum PreDecision {
    /// Go on, perhaps with overrides.
    Try(Option<Box<TryOptions>>),
    /// Queue again without an attempt.
    Queue(Box<QueueOptions>),
    /// Post-delivery with action BOUNCE.
    Bounce(Box<BounceOptions>),
    /// Post-delivery with action DELETE, and the reason.
    Delete(Option<String>),
}

/// How a post-delivery hook ended.
#[derive(Debug)]
pub enum PostDecision {
    /// The pending action.
    Default,
    /// Queue again.
    Queue(Box<QueueOptions>),
    /// Report and remove.
    Bounce(Box<BounceOptions>),
    /// Remove.
    Delete,
}

/// Runs the pre-delivery hook. A script error puts the entry off for 300 s without counting (Q22).
pub async fn predelivery(
    script: &Script,
    engine: &Engine,
    job: &Job,
    context: &mut ContextValue,
) -> PreDecision {
    let arguments = || {
        let mut arguments = Array::new();
        arguments.insert_str("retry", f64::from(job.retry));
        arguments
    };
    let end = run(script, engine, job, arguments, context).await;
    let (function, args) = match end {
        End::Implicit => return PreDecision::Try(None),
        End::Function(function, args) => (function, args),
        End::Error => {
            let reason = Some("script error in predelivery".to_owned());
            let options = QueueOptions {
                delay_s: Some(300.0),
                increment_retry: false,
                reason,
                ..QueueOptions::default()
            };
            return PreDecision::Queue(Box::new(options));
        }
    };
    let value = args.into_iter().next().unwrap_or_default();
    let read = match function.as_str() {
        "Try" => TryOptions::read(&value).map(|options| {
            for name in options.iter().flat_map(|options| &options.unknown) {
                warning!(job, "Try(): option '{name}' is unknown and has no effect");
            }
            PreDecision::Try(options.map(Box::new))
        }),
        "Queue" => QueueOptions::read(&value).map(|options| PreDecision::Queue(Box::new(options))),
        "Bounce" => BounceOptions::read(&value).map(|options| PreDecision::Bounce(Box::new(options))),
        _ => read_reason(&value).map(PreDecision::Delete),
    };
    // The functions have checked their options already.
    read.unwrap_or_else(|failure| {
        error!(job, "options of {function}(): {failure}");
        PreDecision::Try(None)
    })
}

/// Runs the post-delivery hook; errors and an implicit end take the default action.
pub async fn postdelivery(
    script: &Script,
    engine: &Arc<Engine>,
    job: &Job,
    verdict: &Verdict<'_>,
    mut context: ContextValue,
) -> PostDecision {
    let end = run(script, engine, job, || post_arguments(job, verdict), &mut context).await;
    let End::Function(function, args) = end else { return PostDecision::Default };
    let delivered = verdict.action.is_none();
    if delivered && function != "Default" {
        error!(job, "{function}() after a successful delivery has no effect");
        return PostDecision::Default;
    }
    let value = args.into_iter().next().unwrap_or_default();
    let read = match function.as_str() {
        "Queue" => QueueOptions::read(&value).map(|options| PostDecision::Queue(Box::new(options))),
        "Bounce" => BounceOptions::read(&value).map(|options| PostDecision::Bounce(Box::new(options))),
        "Delete" => Ok(PostDecision::Delete),
        _ => Ok(PostDecision::Default),
    };
    read.unwrap_or_else(|failure| {
        error!(job, "options of {function}(): {failure}");
        PostDecision::Default
    })
}

async fn run(
    script: &Script,
    engine: &Engine,
    job: &Job,
    arguments: impl FnOnce() -> Array,
    context: &mut ContextValue,
) -> End {
    let mut variables = Vec::with_capacity(2);
    if script.uses("arguments") {
        variables.push(("arguments", Value::from(arguments())));
    }
    if script.uses("message") {
        variables.push(("message", Value::from(message_array(engine, job))));
    }
    let metadata =
        job.metadata.iter().map(|(key, value)| (key.clone(), value.clone().into_bytes())).collect();
    let finished = script
        .run(Execution { id: job.to_string(), variables, metadata, ..Execution::default() }, context)
        .await;
    if let Some(metadata) = finished.metadata {
        let pairs =
            metadata.iter().map(|(key, value)| Pair::new(key.clone(), value.clone())).collect::<Vec<_>>();
        let cleared = if pairs.is_empty() { vec![EntryUpdate::METADATA] } else { Vec::new() };
        let update =
            EntryUpdate { queue_id: job.queue_id, metadata: pairs, cleared, ..EntryUpdate::default() };
        engine.append(job, update, Durability::Synced).await;
        engine.set_metadata(job.key, metadata);
    }
    finished.end
}

fn message_array(engine: &Engine, job: &Job) -> Array {
    let mut id = Array::new();
    id.insert_str("transaction", job.id.to_string());
    id.insert_str("queue", job.queue_id as f64);
    let mut array = Array::new();
    array.insert_str("id", id);
    array.insert_str("ts", clock::to_s(job.received));
    array.insert_str("serverid", job.server_id.as_str());
    array.insert_str("sender", job.sender.to_lower());
    array.insert_str("senderaddress", address_array(&job.sender));
    array.insert_str("recipient", job.recipient.to_lower());
    array.insert_str("recipientaddress", address_array(&job.recipient));
    array.insert_str("transportid", job.transport_id.as_str());
    array.insert_str("jobid", job.job_id.as_str());
    array.insert_str("tenantid", job.tenant_id.as_str());
    array.insert_str("priority", f64::from(job.priority));
    array.insert_str("size", job.size as f64);
    array.insert_str("hqfpath", engine.spool.path(job.id).display().to_string());
    if let Some(dsn) = &job.dsn {
        let mut of_dsn = Array::new();
        of_dsn.insert_str("envid", dsn.envid.as_str());
        of_dsn.insert_str("ret", dsn.ret.as_str());
        let notify = dsn.notify.split(',').filter(|word| !word.is_empty()).map(Value::from);
        of_dsn.insert_str("notify", notify.collect::<Array>());
        of_dsn.insert_str("orcpt", dsn.orcpt.as_str());
        array.insert_str("dsn", of_dsn);
    }
    array
}

fn post_arguments(job: &Job, verdict: &Verdict<'_>) -> Array {
    let mut arguments = Array::new();
    arguments.insert_str("retry", f64::from(job.retry));
    arguments.insert_str("expired", verdict.expired);
    if let Some(action) = verdict.action {
        arguments.insert_str("action", action.name());
    }
    arguments.insert_str("grouping", job.grouping.as_str());
    if let Some(attempt) = verdict.attempt {
        arguments.insert_str("attempt", attempt_array(attempt));
    }
    if verdict.action.is_some() || verdict.report.is_some() {
        arguments.insert_str("dsn", dsn_array(job, verdict));
    }
    arguments
}

/// What a report about it says, and the id that one would have which is to be made.
fn dsn_array(job: &Job, verdict: &Verdict<'_>) -> Array {
    let mut dsn = Array::new();
    let action = match (verdict.report, verdict.action) {
        (Some(report), _) => report,
        (None, Some(DefaultAction::Queue)) => Action::Delayed,
        (None, _) => Action::Failed,
    };
    dsn.insert_str("action", action.as_str());
    if verdict.report.is_some() {
        let mut id = Array::new();
        id.insert_str(
            "transaction",
            mail::dsn::report_id(job.id, job.queue_id, action, job.retry).to_string(),
        );
        id.insert_str("queue", 1.0);
        dsn.insert_str("id", id);
    }
    let status = verdict.status();
    let numbers = [status.0, status.1, status.2].into_iter().map(|n| Value::from(f64::from(n)));
    dsn.insert_str("status", numbers.collect::<Array>());
    let (kind, code) = verdict.diagnostic();
    dsn.insert_str("diagnostictype", kind);
    dsn.insert_str("diagnosticcode", code);
    dsn
}

fn attempt_array(attempt: &Attempt) -> Array {
    let mut array = Array::new();
    match &attempt.ending {
        Ending::Reply(state, reply) => {
            let mut result = Array::new();
            result.insert_str("code", f64::from(reply.code));
            if let Some(code) = reply.enhanced {
                let numbers = [code.0, code.1, code.2].into_iter().map(|n| Value::from(f64::from(n)));
                result.insert_str("enhanced", numbers.collect::<Array>());
            }
            result.insert_str("reason", reply.text_lines().into_iter().map(Value::from).collect::<Array>());
            result.insert_str("state", state.name());
            array.insert_str("result", result);
        }
        Ending::Error(error) => {
            let mut of_error = Array::new();
            of_error.insert_str("temporary", error.temporary);
            of_error.insert_str("message", error.message.as_str());
            of_error.insert_str("type", error.kind.name());
            if let Some(dns) = error.dns {
                of_error.insert_str("dns", dns);
            }
            array.insert_str("error", of_error);
        }
    }
    if let Some(info) = &attempt.connection {
        array.insert_str("connection", connection_array(info));
    }
    array.insert_str("duration", attempt.duration_s);
    array
}

fn connection_array(info: &ConnectionInfo) -> Array {
    let mut array = Array::new();
    array.insert_str("id", info.id.as_str());
    array.insert_str("transactions", f64::from(info.transactions));
    if let Some(ip) = info.local_ip {
        array.insert_str("localip", ip.to_string());
    }
    if let Some(id) = &info.local_id {
        array.insert_str("localipid", id.as_str());
    }
    array.insert_str("helo", info.helo.as_str());
    if let Some(ip) = info.remote_ip {
        array.insert_str("remoteip", ip.to_string());
    }
    array.insert_str("remotemx", info.remote_mx.as_str());
    if !info.greeting.is_empty() {
        array.insert_str(
            "remotegreet",
            info.greeting.iter().map(|line| Value::from(line.as_str())).collect::<Array>(),
        );
    }
    array.insert_str("tls", tls_array(info));
    array
}

fn tls_array(info: &ConnectionInfo) -> Array {
    let mut tls = Array::new();
    tls.insert_str("started", info.tls.is_some());
    if let Some(facts) = &info.tls {
        tls.insert_str("protocol", facts.protocol.as_str());
        tls.insert_str("cipher", facts.cipher.as_str());
        tls.insert_str("keysize", f64::from(facts.keysize_bits));
    }
    if let Some(peer) = info.tls.as_ref().and_then(|facts| facts.peer.as_ref()).or(info.tls_peer.as_ref()) {
        let mut of_peer = Array::new();
        of_peer.insert_str("x509", hsl_std::certificate_value(peer.certificate.clone()));
        let chain = peer.chain.iter().map(|one| hsl_std::certificate_value(one.clone()));
        of_peer.insert_str("chain", chain.collect::<Array>());
        if let Some(error) = &peer.error {
            of_peer.insert_str("error", error.as_str());
        }
        tls.insert_str("peercert", of_peer);
    }
    if let Some(report) = info.tls_report {
        tls.insert_str("tlsrpt", report);
    }
    match &info.tlsa {
        None => {}
        Some(TlsaFacts::Failed) => {
            let mut error = Array::new();
            error.insert_str("temporary", true);
            let mut tlsa = Array::new();
            tlsa.insert_str("error", error);
            tls.insert_str("tlsa", tlsa);
        }
        Some(TlsaFacts::Records(records)) => {
            let record = |record: &net::tls::Tlsa| {
                let mut array = Array::new();
                array.insert_str("usage", f64::from(record.usage));
                array.insert_str("selector", f64::from(record.selector));
                array.insert_str("mtype", f64::from(record.matching));
                let hex: String = record.data.iter().map(|byte| format!("{byte:02x}")).collect();
                array.insert_str("data", hex);
                Value::from(array)
            };
            let mut tlsa = Array::new();
            tlsa.insert_str("records", records.iter().map(record).collect::<Array>());
            tls.insert_str("tlsa", tlsa);
        }
    }
    tls
}

/// The transport of an attempt with the overrides of `Try`; an unknown source is an error of the configuration.
pub fn override_transport(
    options: &TryOptions,
    base: &Transport,
    generation: &Generation,
) -> Result<Arc<Transport>, AttemptError> {
    let mut transport = base.clone();
    if let Some(port) = options.port {
        transport.port = port;
    }
    if let Some(wanted) = &options.sources {
        let sources =
            wanted.iter().map(|source| chosen_source(source, generation)).collect::<Result<_, _>>()?;
        transport.set_sources(sources);
    }
    if let Some(random) = options.source_random {
        transport.sources_random = random;
    }
    match options.protocol.as_deref() {
        Some("lmtp") => transport.protocol = Protocol::Lmtp,
        Some("smtp") => transport.protocol = Protocol::Smtp,
        _ => {}
    }
    override_session(options, transport.session_mut());
    generation
        .tls
        .check(&transport.session.tls)
        .map_err(|text| AttemptError::new(ErrorKind::Config, format!("Try(): tls: {text}")))?;
    let filter = &mut transport.filter;
    put(&mut filter.mx_include, &options.mx_include);
    put(&mut filter.mx_exclude, &options.mx_exclude);
    put(&mut filter.ip_include, &options.ip_include);
    put(&mut filter.ip_exclude, &options.ip_exclude);
    let (pooling, wanted) = (&mut transport.pooling, &options.pooling);
    put(&mut pooling.enabled, &wanted.enabled);
    put(&mut pooling.timeout, &wanted.timeout_s.map(seconds_to_duration));
    put(&mut pooling.evictable, &wanted.evictable);
    put(&mut pooling.transactions, &wanted.transactions);
    if let Some(seconds) = options.connect_timeout_s {
        transport.connect_timeout = seconds_to_duration(seconds);
    }
    for (state, seconds) in &options.timeouts_s {
        transport.set_timeout(state, seconds_to_duration(*seconds));
    }
    Ok(Arc::new(transport))
}

fn chosen_source(wanted: &SourceOption, generation: &Generation) -> Result<Source, AttemptError> {
    let mut source = match &wanted.which {
        SourceName::Id(id) => generation.sources.get(id).cloned().ok_or_else(|| {
            AttemptError::new(ErrorKind::Config, format!("Try(): unknown source address '{id}'"))
        })?,
        SourceName::Address(ip) => {
            let known = generation.sources.values().find(|source| source.ip == *ip).cloned();
            known.unwrap_or_else(|| Source { id: String::new(), ip: *ip, helo: None, proxy: None })
        }
    };
    if wanted.helo.is_some() {
        source.helo.clone_from(&wanted.helo);
    }
    Ok(source)
}

fn put<T: Clone>(setting: &mut T, option: &Option<T>) {
    if let Some(option) = option {
        setting.clone_from(option);
    }
}

fn override_session(options: &TryOptions, session: &mut SessionSettings) {
    put(&mut session.pipelining, &options.pipelining);
    put(&mut session.chunking, &options.chunking);
    put(&mut session.nonlocal, &options.nonlocal_source);
    put(&mut session.xclient, &options.xclient);
    if let Some((server, port, version)) = &options.proxy {
        session.proxy = Some(Proxy { server: server.clone(), port: *port, version: *version });
    }
    if let Some((username, password)) = &options.sasl {
        session.auth = Some(Account { username: username.clone(), password: password.clone() });
    }
    let (rules, wanted) = (&mut session.tls, &options.tls);
    put(&mut rules.mode, &wanted.mode);
    put(&mut rules.implicit, &wanted.implicit);
    put(&mut rules.sni, &wanted.sni);
    put(&mut rules.protocols, &wanted.protocols.clone().map(Some));
    put(&mut rules.ciphers, &wanted.ciphers.clone().map(Some));
    put(&mut rules.verify_host, &wanted.verify_host);
    put(&mut rules.verify_names, &wanted.verify_names);
    put(&mut rules.default_ca, &wanted.default_ca);
    put(&mut rules.client_cert, &wanted.client_cert.clone().map(Some));
}

/// The retry schedule with the overrides of `Try`, or none where nothing of it changes.
pub fn override_retry(options: &TryOptions, base: &RetrySchedule) -> Option<RetrySchedule> {
    if options.retry_count.is_none() && options.retry_intervals_s.is_none() {
        return None;
    }
    let mut schedule = base.clone();
    if let Some(count) = options.retry_count {
        schedule.count = count;
    }
    if let Some(intervals) = &options.retry_intervals_s {
        schedule.intervals = intervals
            .iter()
            .map(|seconds| RetryInterval { interval: seconds_to_duration(*seconds), notify: false })
            .collect();
    }
    Some(schedule)
}

fn seconds_to_duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}
