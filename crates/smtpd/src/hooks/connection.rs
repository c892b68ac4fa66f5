//! The hooks of a connection: variables in, decision out.

use crate::error;
use crate::generation::Generation;
use crate::hooks::ContextValue;
use crate::hooks::decision::{Decision, Verdict};
use crate::hooks::script::{End, Script};
use crate::queueing::commit::QueuedRecipient;
use crate::server::facts::{Connection, Goodbye, Transaction};
use hsl::{Array, Value};
use hsl_std::hooks::Hook;
use hsl_std::hooks::options::{self, DsnOptions, EnqueueOptions, ReplyOptions};
use hsl_std::mail::{QueueSink, eod_message};
use mail::{Address, MailMessage};
use net::{DnsError, Resolver};
use parking_lot::Mutex;
use smtp::reply::Enhanced;
use smtp::server::Helo;
use spool::record::DsnParams;
use std::net::IpAddr;
use std::sync::Arc;

/// The result of the client's name look-up, as `remoteptrresult` shows it.
pub struct PtrResult {
    reverse: Result<Vec<String>, DnsError>,
    forward: Option<Result<Vec<IpAddr>, DnsError>>,
}

/// The forward-confirmed name of an address (FCrDNS), and what was found on the way.
pub async fn confirmed_name(resolver: &Resolver, remote_ip: &str) -> (Option<String>, PtrResult) {
    let Ok(address) = remote_ip.parse::<IpAddr>() else {
        let reverse = Err(DnsError::BadName(remote_ip.to_owned()));
        return (None, PtrResult { reverse, forward: None });
    };
    let reverse = resolver.reverse(address).await;
    let Some(name) = reverse.as_ref().ok().and_then(|names| names.first()).cloned() else {
        return (None, PtrResult { reverse, forward: None });
    };
    let forward = resolver.addresses(&name, address.is_ipv4(), address.is_ipv6()).await;
    let confirmed = forward.as_ref().is_ok_and(|addresses| addresses.contains(&address));
    (confirmed.then_some(name), PtrResult { reverse, forward: Some(forward) })
}

impl PtrResult {
    fn to_array(&self) -> Array {
        let mut result = Array::new();
        result.insert_str("reverse", answer(&self.reverse, |name| Value::from(name.as_str())));
        if let Some(forward) = &self.forward {
            result.insert_str("forward", answer(forward, |address| Value::from(address.to_string())));
        }
        result
    }
}

fn answer<T>(answer: &Result<Vec<T>, DnsError>, value: impl Fn(&T) -> Value) -> Array {
    let mut array = Array::new();
    match answer {
        Ok(items) => array.insert_str("result", items.iter().map(value).collect::<Array>()),
        Err(error) => {
            let code = match error {
                DnsError::NxDomain => 3.0,
                DnsError::NoData => 0.0,
                _ => 2.0,
            };
            array.insert_str("error", error.to_string());
            array.insert_str("dnserr", code);
        }
    }
    array
}

/// Runs the connect hook.
pub async fn connect(
    script: &Script,
    connection: &Connection,
    transaction: &Transaction,
    ptr: Option<PtrResult>,
    context: &mut ContextValue,
) -> Decision {
    let mut arguments = Array::new();
    arguments.insert_str("remoteip", connection.remote_ip.as_str());
    arguments.insert_str("remoteport", f64::from(connection.remote_port));
    if let Some(name) = &connection.remote_ptr {
        arguments.insert_str("remoteptr", name.as_str());
    }
    if let Some(ptr) = ptr {
        arguments.insert_str("remoteptrresult", ptr.to_array());
    }
    arguments.insert_str("localip", connection.local.ip().to_string());
    arguments.insert_str("localport", f64::from(connection.local.port()));
    arguments.insert_str("serverid", connection.server_id.as_str());
    let mut early = Array::new();
    early.insert_str("id", connection.id.to_string());
    early.insert_str("priority", connection.priority);
    decide(script, Hook::Connect, connection, arguments, early, id_of(transaction), context).await
}

/// Runs the helo hook.
pub async fn helo(
    script: &Script,
    connection: &Connection,
    transaction: &Transaction,
    helo: &Helo,
    offered: &[String],
    context: &mut ContextValue,
) -> Decision {
    let mut arguments = Array::new();
    arguments.insert_str("verb", if helo.extended { "EHLO" } else { "HELO" });
    arguments.insert_str("host", helo.host.as_str());
    if helo.extended {
        arguments.insert_str(
            "extensions",
            offered.iter().map(|item| Value::from(item.as_str())).collect::<Array>(),
        );
    }
    let mut without_helo = connection.clone();
    without_helo.helo = None;
    let connection_array = connection_array(&without_helo);
    decide(script, Hook::Helo, connection, arguments, connection_array, id_of(transaction), context).await
}

/// Runs the mailfrom hook.
pub async fn mail(
    script: &Script,
    connection: &Connection,
    transaction: &Transaction,
    address: &Address,
    parameters: &[(String, String)],
    context: &mut ContextValue,
) -> Decision {
    let mut arguments = Array::new();
    arguments.insert_str("sender", address.to_lower());
    arguments.insert_str("address", address_array(address));
    arguments.insert_str("params", parameters_array(parameters));
    decide(
        script,
        Hook::MailFrom,
        connection,
        arguments,
        connection_array(connection),
        id_of(transaction),
        context,
    )
    .await
}

/// Runs the rcptto hook.
pub async fn rcpt(
    script: &Script,
    connection: &Connection,
    transaction: &Transaction,
    address: &Address,
    parameters: &[(String, String)],
    transport: Option<&str>,
    context: &mut ContextValue,
) -> Decision {
    let mut arguments = Array::new();
    arguments.insert_str("recipient", address.to_lower());
    arguments.insert_str("address", address_array(address));
    arguments.insert_str("params", parameters_array(parameters));
    if let Some(transport) = transport {
        arguments.insert_str("transportid", transport);
    }
    let transaction = transaction_array(transaction, false);
    decide(script, Hook::RcptTo, connection, arguments, connection_array(connection), transaction, context)
        .await
}

/// Runs the eod hook; gives the decision and what it queued.
pub async fn eod(
    script: &Script,
    generation: &Arc<Generation>,
    connection: &Connection,
    transaction: &Transaction,
    message: MailMessage,
    context: &mut ContextValue,
) -> (Decision, Vec<QueuedRecipient>) {
    let sink = Arc::new(Sink {
        id: transaction.id.to_string(),
        generation: generation.clone(),
        queued: Mutex::new(Vec::new()),
    });
    let mut arguments = Array::new();
    arguments.insert_str("mail", eod_message(&script.mail_class, message, sink.clone()));
    let variables = variables(arguments, connection_array(connection), transaction_array(transaction, true));
    let finished = script.run(transaction.id.to_string(), variables, context, Vec::new()).await;
    let decision = match finished.end {
        // Nothing was said about the message, so nothing happens to it and the client keeps it.
        End::Implicit => Decision::plain(Verdict::Defer),
        end => read_decision(Hook::Eod, end),
    };
    let queued = std::mem::take(&mut *sink.queued.lock());
    (decision, queued)
}

/// Runs the disconnect hook.
pub async fn disconnect(
    script: &Script,
    connection: &Connection,
    goodbye: &Goodbye,
    context: &mut ContextValue,
) {
    let mut arguments = Array::new();
    arguments.insert_str("close", if goodbye.by_remote { "remote" } else { "local" });
    if let Some((reply, state)) = &goodbye.reply {
        let mut array = Array::new();
        array.insert_str("code", f64::from(reply.code));
        if let Some(Enhanced(a, b, c)) = reply.enhanced {
            array.insert_str(
                "enhanced",
                [a, b, c].into_iter().map(|n| Value::from(f64::from(n))).collect::<Array>(),
            );
        }
        array.insert_str("reason", reply.text_lines().into_iter().map(Value::from).collect::<Array>());
        array.insert_str("state", *state);
        arguments.insert_str("reply", array);
    }
    if let Some((reason, code)) = &goodbye.error {
        let mut array = Array::new();
        array.insert_str("reason", reason.as_str());
        array.insert_str("type", "socket");
        array.insert_str("code", f64::from(*code));
        arguments.insert_str("error", array);
    }
    let variables = variables(arguments, connection_array(connection), Array::new());
    // What the hook says has no effect; its errors are logged and counted by the runner.
    script.run(connection.id.to_string(), variables, context, Vec::new()).await;
}

async fn decide(
    script: &Script,
    hook: Hook,
    connection: &Connection,
    arguments: Array,
    connection_array: Array,
    transaction: Array,
    context: &mut ContextValue,
) -> Decision {
    let variables = variables(arguments, connection_array, transaction);
    let finished = script.run(connection.id.to_string(), variables, context, Vec::new()).await;
    match finished.end {
        End::Implicit => Decision::plain(Verdict::Accept),
        end => read_decision(hook, end),
    }
}

fn variables(arguments: Array, connection: Array, transaction: Array) -> Vec<(&'static str, Value)> {
    vec![
        ("arguments", Value::from(arguments)),
        ("connection", Value::from(connection)),
        ("transaction", Value::from(transaction)),
    ]
}

fn read_decision(hook: Hook, end: End) -> Decision {
    let End::Function(function, args) = end else { return Decision::script_error() };
    let at = |index: usize| args.get(index).cloned().unwrap_or_default();
    let (verdict, of_options, reason, options) = match function.as_str() {
        "Accept" => (Verdict::Accept, options::Verdict::Accept, Value::None, at(0)),
        "Reject" => (Verdict::Reject, options::Verdict::Reject, at(0), at(1)),
        _ => (Verdict::Defer, options::Verdict::Defer, at(0), at(1)),
    };
    // The function itself has checked them, so this cannot fail for what a script passed.
    let read = match ReplyOptions::read(hook, of_options, &reason, &options) {
        Ok(read) => read,
        Err(failure) => {
            error!("", "options of {function}(): {failure}");
            return Decision::script_error();
        }
    };
    Decision {
        verdict,
        reason: read.reason,
        code: read.code,
        enhanced: read.enhanced.map(|code| code.map(|(a, b, c)| Enhanced(a, b, c))),
        disconnect: read.disconnect,
        address: read.address,
        transport: read.transport,
        extensions: read.extensions,
        host: read.host,
        remote_ip: read.remote_ip,
        remote_ptr: read.remote_ptr,
        priority: read.priority,
    }
}

/// Collects what `$mail->queue()` is called with.
struct Sink {
    id: String,
    generation: Arc<Generation>,
    queued: Mutex<Vec<QueuedRecipient>>,
}

/// Entries of one message at most; a script that loops must not fill the memory.
const ENTRIES_MAX: usize = 100_000;

impl QueueSink for Sink {
    fn queue(
        &self,
        message: &MailMessage,
        sender: Address,
        recipient: Address,
        transport: String,
        options: EnqueueOptions,
    ) -> Result<u64, hsl::Error> {
        if !self.generation.transports.contains_key(&transport) {
            let known = self.generation.transports.keys().map(String::as_str);
            let near = config::validate::suggestion(&transport, known);
            return Err(hsl::Error::exception(format!("Unknown transport '{transport}'{near}")));
        }
        let mut queued = self.queued.lock();
        if queued.len() >= ENTRIES_MAX {
            return Err(hsl::Error::exception(format!(
                "More than {ENTRIES_MAX} calls of queue() for one message"
            )));
        }
        let one = QueuedRecipient::new(sender, recipient, transport, message);
        let mut one = one.map_err(|error| hsl::Error::exception(error.to_string()))?;
        apply_options(&mut one, options);
        queued.push(one);
        Ok(queued.len() as u64)
    }

    fn transaction(&self) -> String {
        self.id.clone()
    }
}

/// Sets what the options of `queue()` say.
pub fn apply_options(one: &mut QueuedRecipient, options: EnqueueOptions) {
    one.metadata = options.metadata;
    one.hold = options.hold;
    one.job_id = options.job_id;
    one.tenant_id = options.tenant_id;
    one.priority = options.priority;
    one.quotas = options.quotas;
    one.delay_s = options.delay_s;
    one.dsn = options.dsn.map(dsn_record);
}

fn dsn_record(dsn: DsnOptions) -> DsnParams {
    DsnParams { envid: dsn.envid, ret: dsn.ret, notify: dsn.notify, orcpt: dsn.orcpt }
}

/// RFC 3461 parameters of a recipient, for servers without an eod hook.
pub fn dsn_parameters(mail: &[(String, String)], rcpt: &[(String, String)]) -> Option<DsnParams> {
    let get = |parameters: &[(String, String)], keyword: &str| {
        parameters.iter().find(|(known, _)| known == keyword).map(|(_, value)| value.clone())
    };
    let (envid, ret) = (get(mail, "ENVID"), get(mail, "RET"));
    let (notify, orcpt) = (get(rcpt, "NOTIFY"), get(rcpt, "ORCPT"));
    if envid.is_none() && ret.is_none() && notify.is_none() && orcpt.is_none() {
        return None;
    }
    let notify = notify.unwrap_or_default();
    Some(DsnParams {
        envid: envid.unwrap_or_default(),
        ret: ret.unwrap_or_default().to_ascii_uppercase(),
        notify: notify.split(',').filter(|word| !word.is_empty()).map(str::to_ascii_uppercase).collect(),
        orcpt: orcpt.unwrap_or_default(),
    })
}

fn id_of(transaction: &Transaction) -> Array {
    let mut array = Array::new();
    array.insert_str("id", transaction.id.to_string());
    array
}

fn connection_array(connection: &Connection) -> Array {
    let mut array = Array::new();
    array.insert_str("id", connection.id.to_string());
    array.insert_str("priority", connection.priority);
    array.insert_str("remoteip", connection.remote_ip.as_str());
    array.insert_str("remoteport", f64::from(connection.remote_port));
    if let Some(name) = &connection.remote_ptr {
        array.insert_str("remoteptr", name.as_str());
    }
    array.insert_str("localip", connection.local.ip().to_string());
    array.insert_str("localport", f64::from(connection.local.port()));
    array.insert_str("serverid", connection.server_id.as_str());
    if let Some((verb, host)) = &connection.helo {
        let mut helo = Array::new();
        helo.insert_str("verb", *verb);
        helo.insert_str("host", host.as_str());
        array.insert_str("helo", helo);
    }
    array
}

fn transaction_array(transaction: &Transaction, at_eod: bool) -> Array {
    let mut array = id_of(transaction);
    if at_eod {
        array.insert_str("ts", transaction.ts_s);
    }
    if let Some(sender) = &transaction.sender {
        array.insert_str("sender", sender.to_lower());
        array.insert_str("senderaddress", address_array(sender));
        array.insert_str("senderparams", parameters_array(&transaction.sender_parameters));
    }
    let recipients = transaction.recipients.iter().map(|recipient| {
        let mut array = Array::new();
        array.insert_str("recipient", recipient.address.to_lower());
        array.insert_str("address", address_array(&recipient.address));
        array.insert_str("params", parameters_array(&recipient.parameters));
        if let Some(transport) = &recipient.transport {
            array.insert_str("transportid", transport.as_str());
        }
        Value::from(array)
    });
    array.insert_str("recipients", recipients.collect::<Array>());
    array
}

/// `localpart` and `domain` of an address.
pub fn address_array(address: &Address) -> Array {
    let mut array = Array::new();
    array.insert_str("localpart", address.localpart.as_str());
    array.insert_str("domain", address.domain.as_str());
    array
}

fn parameters_array(parameters: &[(String, String)]) -> Array {
    let mut array = Array::new();
    for (keyword, value) in parameters {
        array.insert_str(keyword, value.as_str());
    }
    array
}
