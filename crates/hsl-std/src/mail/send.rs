//! Sending and queueing, and asking other servers (library sections 11, C5, C6).

use super::builder;
use super::dkim::now_s;
use super::object::{data, failed, hostname};
use super::server_array::{SERVER, Server};
use super::session::{ContentFacts, EnvelopeAddress, Facts, Failure, open};
use crate::crypto::keys::certificate_value;
use crate::environment::{self, Environment};
use crate::hooks::options::{EnqueueOptions, read_address};
use crate::support::flag;
use hsl::{
    Args, Array, Error, FunctionDef, NativeClass, NativeCx, Object, OptionDef, Outcome, Value, option,
};
use mail::{Address, Builder, Content, MemoryContent, WriteOptions, Zoned, message_id};
use smtp::Reply;
use std::sync::Arc;

const QUEUE: &[OptionDef] = &[
    option("metadata", "array", "", "Strings that later hooks see."),
    option("jobid", "string", "", "Job."),
    option("tenantid", "string", "", "Tenant."),
    option("priority", "number", "0", "0 normal, 1 high."),
    option("quotas", "array", "", "Names to count in."),
    option("hold", "boolean", "false", "Parks the entry."),
    option("delay", "number", "0", "Seconds before the first attempt."),
    option("dsn", "array", "", "`notify`, `ret`, `envid`, `orcpt`."),
];
const RCPT: &[OptionDef] = &[
    option("extended_result", "boolean", "false", "An array instead of a number."),
    option("error_code", "boolean", "false", "Older name of extended_result."),
];

const QUEUE_SIGNATURE: &str = "queue(sender: string or array, recipient: string or array, transportid: string, options?: array) -> array";
const SEND_SIGNATURE: &str =
    "send(sender: string or array, recipients: string or array, server: string or array) -> array";

/// Adds the methods of messages.
pub(super) fn methods(class: NativeClass) -> NativeClass {
    class
        .method(
            QUEUE_SIGNATURE,
            "Queues the message as it is now for one recipient; gives transaction and queue.",
            queue_message,
        )
        .with_options(QUEUE)
        .method(
            SEND_SIGNATURE,
            "Sends the message as it is now, without the queue; gives how that ended.",
            |cx, object, args| {
                let content = data(object)?.message.0.lock().patched().map_err(failed)?;
                send(cx, &args, content)
            },
        )
}

/// Adds the methods of `MIME`.
pub(super) fn builder_methods(class: NativeClass) -> NativeClass {
    class
        .method(
            QUEUE_SIGNATURE,
            "Queues the message for one recipient; gives transaction and queue.",
            |cx, object, args| {
                let content = complete(object, &environment::of(cx))?;
                queue(cx, &args, content)
            },
        )
        .with_options(QUEUE)
        .method(
            SEND_SIGNATURE,
            "Sends the message, without the queue; gives how that ended.",
            |cx, object, args| {
                let content = complete(object, &environment::of(cx))?;
                send(cx, &args, content)
            },
        )
}

/// The functions of the group.
pub(super) fn functions() -> Vec<FunctionDef> {
    vec![
        FunctionDef::full(
            "smtp_lookup_rcpt(server: string or array, sender: string or array, recipient: string or array, options?: array) -> number or array",
            "Asks a server whether it would take a recipient: 1 yes, 0 no, -1 error.",
            lookup_rcpt,
        )
        .with_options_of("server", SERVER)
        .with_options(RCPT),
        FunctionDef::full(
            "smtp_lookup_auth(server: string or array, username: string, password: string) -> number",
            "Asks a server whether it accepts an account: 1 yes, 0 no, -1 error.",
            lookup_auth,
        )
        .with_options_of("server", SERVER),
    ]
}

/// The message of a builder, with the fields that every message has.
fn complete(object: &Object, environment: &Environment) -> Result<Arc<dyn Content>, Error> {
    let mut builder: Builder = builder::of(object)?.lock().clone();
    if !builder.has_header("Date") {
        let now = i64::try_from(now_s()).unwrap_or(0);
        builder.set_date(&Zoned::local(now).map_err(failed)?).map_err(failed)?;
    }
    if !builder.has_header("Message-ID") {
        let id = message_id(uuid::Uuid::new_v4(), &hostname(environment));
        let as_is = WriteOptions { encode: false, ..WriteOptions::default() };
        builder.add_header("Message-ID", id.as_bytes(), as_is).map_err(failed)?;
    }
    Ok(Arc::new(MemoryContent(builder.message().map_err(failed)?.into())))
}

fn entry(transaction: String, queue: u64) -> Value {
    let mut result = Array::new();
    result.insert_str("transaction", transaction);
    result.insert_str("queue", queue as f64);
    result.into()
}

fn queue_message(cx: &mut NativeCx<'_>, object: &Arc<Object>, args: Args<'_>) -> Result<Outcome, Error> {
    let data = data(object)?;
    let Some(sink) = &data.sink else {
        let content = data.message.0.lock().patched().map_err(failed)?;
        return queue(cx, &args, content);
    };
    let sender = read_address("sender", args.get(0))?;
    let recipient = read_address("recipient", args.get(1))?;
    let options = EnqueueOptions::read(args.get(3))?;
    let transport = args.string(2).to_text().into_owned();
    let number = sink.queue(&data.message.0.lock(), sender, recipient, transport, options)?;
    Ok(entry(sink.transaction(), number).into())
}

/// Hands a message of the script's own to the queue.
fn queue(cx: &mut NativeCx<'_>, args: &Args<'_>, content: Arc<dyn Content>) -> Result<Outcome, Error> {
    let sender = read_address("sender", args.get(0))?;
    let recipient = read_address("recipient", args.get(1))?;
    let options = EnqueueOptions::read(args.get(3))?;
    let transport = args.string(2).to_text().into_owned();
    let Some(queue) = environment::of(cx).mail_queue.clone() else {
        return Err(Error::exception("queue() needs a running smtpd"));
    };
    let queued = queue.queue(content, sender, recipient, transport, options);
    Ok(Outcome::Pending(Box::pin(async move {
        let queued = queued.await.map_err(|text| Error::exception(format!("queue(): {text}")))?;
        Ok(entry(queued.transaction, queued.queue))
    })))
}

/// A server of an argument: an array, or the id of a transport.
fn server_of(value: &Value, environment: &Environment) -> Result<Server, Error> {
    match value {
        Value::Array(array) => Server::read(array, environment),
        other => {
            let id = other.to_string_lossy();
            let known = environment.mail_queue.as_ref().and_then(|queue| queue.transport(&id));
            let known = known.ok_or_else(|| {
                Error::exception(match environment.mail_queue {
                    Some(_) => format!("Unknown transport '{id}'"),
                    None => format!("Transport '{id}' needs a running smtpd; give an array instead"),
                })
            })?;
            let mut array = Array::new();
            for (key, value) in known {
                array.insert_str(&key, value);
            }
            Server::read(&array, environment)
        }
    }
}

fn send(cx: &mut NativeCx<'_>, args: &Args<'_>, content: Arc<dyn Content>) -> Result<Outcome, Error> {
    let environment = environment::of(cx);
    let sender = EnvelopeAddress::read("sender", args.get(0))?;
    let recipients: Vec<EnvelopeAddress> = match args.get(1) {
        Value::Array(list) if list.get_str("localpart").is_none() => {
            list.values().map(|value| EnvelopeAddress::read("recipients", value)).collect::<Result<_, _>>()?
        }
        value => vec![EnvelopeAddress::read("recipients", value)?],
    };
    if recipients.is_empty() {
        return Err(Error::exception("send() needs a recipient"));
    }
    let server = server_of(args.get(2), &environment)?;
    Ok(Outcome::Pending(Box::pin(async move {
        let mut facts = Facts::default();
        let result = transfer(&server, &sender, &recipients, content, &environment, &mut facts).await?;
        Ok(outcome(result, &facts))
    })))
}

/// Sends a message to all recipients in one transaction. The outer error is one of this host.
async fn transfer(
    server: &Server,
    sender: &EnvelopeAddress,
    recipients: &[EnvelopeAddress],
    content: Arc<dyn Content>,
    environment: &Environment,
    facts: &mut Facts,
) -> Result<Result<Reply, Failure>, Error> {
    let for_facts = Arc::clone(&content);
    let about = tokio::task::spawn_blocking(move || ContentFacts::read(&for_facts)).await;
    let about = about.map_err(|error| Error::fatal(format!("mail: {error}")))?.map_err(failed)?;
    let domain = recipients.first().map(|first| first.address.domain.clone()).unwrap_or_default();
    let sent = async {
        let mut session = open(server, &domain, environment, facts).await?;
        if let Err(failure) = session.envelope(sender, recipients, Some(&about)).await {
            // The transaction is over; a server that is gone needs no goodbye.
            if matches!(failure, Failure::Reply(..)) {
                session.quit(true).await;
            }
            return Err(failure);
        }
        let reply = session.content(&*content, recipients.len()).await;
        if !matches!(reply, Err(Failure::Error { .. })) {
            session.quit(false).await;
        }
        reply
    };
    Ok(sent.await)
}

/// Why a message was not taken by the next hop.
#[derive(Debug)]
pub enum SendFailure {
    /// The next hop said no.
    Reply(Reply),
    /// It was not reached, or broke off.
    Error {
        /// It may work later.
        temporary: bool,
        /// For the log.
        reason: String,
    },
}

/// Sends a message through a transport while the client waits; taken means taken for every recipient.
///
/// # Errors
/// What the next hop said, or why there is no answer of it.
pub async fn send_in_line(
    content: Arc<dyn Content>,
    sender: Address,
    recipients: Vec<Address>,
    transport: &str,
    environment: &Environment,
) -> Result<Reply, SendFailure> {
    let own = |error: Error| SendFailure::Error { temporary: true, reason: error.to_string() };
    let server = server_of(&Value::from(transport), environment).map_err(own)?;
    let plain = |address: Address| EnvelopeAddress { address, parameters: String::new() };
    let (sender, recipients) = (plain(sender), recipients.into_iter().map(plain).collect::<Vec<_>>());
    let mut facts = Facts::default();
    let sent = transfer(&server, &sender, &recipients, content, environment, &mut facts).await;
    sent.map_err(own)?.map_err(|failure| match failure {
        Failure::Reply(_, reply) => SendFailure::Reply(reply),
        Failure::Error { temporary, reason } => SendFailure::Error { temporary, reason },
    })
}

/// The result array of `send()`.
fn outcome(result: Result<Reply, Failure>, facts: &Facts) -> Value {
    let mut array = Array::new();
    match result {
        Ok(reply) => array.insert_str("result", reply_array("EOD", &reply)),
        Err(Failure::Reply(state, reply)) => array.insert_str("result", reply_array(state, &reply)),
        Err(Failure::Error { temporary, reason }) => {
            let mut error = Array::new();
            error.insert_str("temporary", temporary);
            error.insert_str("reason", reason.as_str());
            error.insert_str("message", reason);
            array.insert_str("error", error);
        }
    }
    if let Some((local, remote, name)) = &facts.connected {
        let mut connection = Array::new();
        connection.insert_str("localip", local.to_string());
        connection.insert_str("remoteip", remote.to_string());
        connection.insert_str("remotemx", name.as_str());
        array.insert_str("connection", connection);
    }
    array.insert_str("tls", tls_array(facts));
    array.into()
}

fn reply_array(state: &str, reply: &Reply) -> Array {
    let mut array = Array::new();
    array.insert_str("state", state);
    array.insert_str("code", reply.code);
    if let Some(enhanced) = reply.enhanced {
        let numbers = [enhanced.0, enhanced.1, enhanced.2].into_iter().map(Value::from);
        array.insert_str("enhanced", numbers.collect::<Array>());
    }
    array.insert_str("reason", reply.text_lines().into_iter().map(Value::from).collect::<Array>());
    array
}

fn tls_array(facts: &Facts) -> Array {
    let mut array = Array::new();
    array.insert_str("started", facts.tls.started);
    if facts.tls.started {
        array.insert_str("protocol", facts.tls.protocol.as_str());
        array.insert_str("cipher", facts.tls.cipher.as_str());
    }
    if let Some(peer) = &facts.tls.peer {
        let mut certificate = Array::new();
        certificate.insert_str("x509", certificate_value(peer.clone()));
        let chain = facts.tls.chain.iter().cloned().map(certificate_value);
        certificate.insert_str("chain", chain.collect::<Array>());
        if let Some(error) = &facts.tls.error {
            certificate.insert_str("error", error.as_str());
        }
        array.insert_str("peercert", certificate);
    }
    array
}

fn lookup_rcpt(cx: &mut NativeCx<'_>, args: Args<'_>) -> Result<Outcome, Error> {
    let environment = environment::of(cx);
    let server = server_of(args.get(0), &environment)?;
    let sender = EnvelopeAddress::read("sender", args.get(1))?;
    let recipient = EnvelopeAddress::read("recipient", args.get(2))?;
    let options = super::object::options(&args, 3);
    let extended = flag(&options, "extended_result", false) || flag(&options, "error_code", false);
    Ok(Outcome::Pending(Box::pin(async move {
        let mut facts = Facts::default();
        let domain = recipient.address.domain.clone();
        let result = async {
            let mut session = open(&server, &domain, &environment, &mut facts).await?;
            let result = session.envelope(&sender, std::slice::from_ref(&recipient), None).await;
            if !matches!(result, Err(Failure::Error { .. })) {
                session.quit(true).await;
            }
            result
        }
        .await;
        if !extended {
            return Ok(Value::from(number(&result)));
        }
        let mut array = Array::new();
        let (code, message, on_rcptto) = match &result {
            Ok(reply) => (reply.code, reply.text_lines().join("\n"), true),
            Err(Failure::Reply(state, reply)) => {
                (reply.code, reply.text_lines().join("\n"), *state == "RCPT")
            }
            Err(Failure::Error { reason, .. }) => (0, reason.clone(), false),
        };
        array.insert_str("error_code", code);
        array.insert_str("error_message", message);
        array.insert_str("on_rcptto", on_rcptto);
        array.insert_str("tls", tls_array(&facts));
        Ok(array.into())
    })))
}

/// 1 accepted, 0 refused for good, -1 everything else.
fn number(result: &Result<Reply, Failure>) -> f64 {
    match result {
        Ok(_) => 1.0,
        Err(Failure::Reply(_, reply)) if reply.class() == 5 => 0.0,
        Err(_) => -1.0,
    }
}

fn lookup_auth(cx: &mut NativeCx<'_>, args: Args<'_>) -> Result<Outcome, Error> {
    let environment = environment::of(cx);
    let mut server = server_of(args.get(0), &environment)?;
    let text = |i: usize| args.string(i).to_text().into_owned();
    let user = text(1);
    let domain = user.rsplit_once('@').map(|(_, domain)| domain.to_owned()).unwrap_or_default();
    server.log_in_as(user, text(2));
    Ok(Outcome::Pending(Box::pin(async move {
        let mut facts = Facts::default();
        let number = match open(&server, &domain, &environment, &mut facts).await {
            Ok(session) => {
                session.quit(false).await;
                1.0
            }
            // Only what is said to AUTH is about the account.
            Err(Failure::Reply(state, reply)) if state.starts_with("AUTH") && reply.class() == 5 => 0.0,
            Err(_) => -1.0,
        };
        Ok(number.into())
    })))
}
