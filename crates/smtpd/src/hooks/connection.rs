//! The hooks of a connection: variables in, decision out.

use crate::error;
use crate::generation::Generation;
use crate::hooks::ContextValue;
use crate::hooks::decision::{Decision, Phase, Verdict};
pub use crate::hooks::ptr::{PtrResult, confirmed_name};
use crate::hooks::script::{End, Execution, Script};
use crate::hooks::sink::Sink;
pub use crate::hooks::sink::dsn_parameters;
use crate::hooks::variables::{
    address_array, connection_array, id_of, parameters_array, transaction_array, ungreeted_array, variables,
};
use crate::queueing::commit::QueuedRecipient;
use crate::server::facts::{Connection, Goodbye, Transaction};
use hsl::{Array, Value};
use hsl_std::hooks::options::ReplyOptions;
use hsl_std::mail::eod_message;
use mail::{Address, MailMessage};
use parking_lot::Mutex;
use smtp::reply::Enhanced;
use smtp::server::{AuthRequest, Helo};
use std::sync::Arc;

/// Runs the connect hook.
pub async fn connect(
    script: &Script,
    connection: &Connection,
    transaction: &Transaction,
    ptr: Option<PtrResult>,
    context: &mut ContextValue,
) -> Decision {
    let arguments = || {
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
        if let Some(uid) = connection.remote_uid {
            arguments.insert_str("remoteuid", f64::from(uid));
        }
        if let Some(proxy) = &connection.proxy {
            arguments.insert_str("proxyip", proxy.ip.as_str());
            if let Some(tlv) = &proxy.tlv {
                arguments.insert_str("proxytlv", tlv.as_str());
            }
        }
        arguments
    };
    let early = || {
        let mut early = Array::new();
        early.insert_str("id", connection.id.to_string());
        early.insert_str("priority", connection.priority);
        early
    };
    let variables = variables(script, arguments, early, || id_of(transaction));
    decide(script, Phase::Connect, connection, variables, context).await
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
    let arguments = || {
        let mut arguments = Array::new();
        arguments.insert_str("verb", if helo.extended { "EHLO" } else { "HELO" });
        arguments.insert_str("host", helo.host.as_str());
        if helo.extended {
            let offered = offered.iter().map(|item| Value::from(item.as_str()));
            arguments.insert_str("extensions", offered.collect::<Array>());
        }
        arguments
    };
    let variables = variables(script, arguments, || ungreeted_array(connection), || id_of(transaction));
    decide(script, Phase::Helo, connection, variables, context).await
}

/// Runs the proxy hook.
pub async fn proxy(
    script: &Script,
    connection: &Connection,
    transaction: &Transaction,
    line: &[u8],
    context: &mut ContextValue,
) -> Decision {
    let arguments = || {
        let mut arguments = Array::new();
        arguments.insert_str("command", line);
        arguments
    };
    let of_transaction = || match transaction.sender {
        Some(_) => transaction_array(transaction, false),
        None => id_of(transaction),
    };
    let variables = variables(script, arguments, || connection_array(connection), of_transaction);
    decide(script, Phase::Proxy, connection, variables, context).await
}

/// Runs the auth hook.
pub async fn auth(
    script: &Script,
    connection: &Connection,
    transaction: &Transaction,
    request: &AuthRequest,
    context: &mut ContextValue,
) -> Decision {
    let arguments = || {
        let mut arguments = Array::new();
        arguments.insert_str("mechanism", request.mechanism());
        match request {
            AuthRequest::Password { username, password, .. } => {
                arguments.insert_str("username", username.as_slice());
                arguments.insert_str("password", password.as_slice());
            }
            AuthRequest::Response { state, response, .. } => {
                arguments.insert_str("state", f64::from(*state));
                if let Some(response) = response {
                    arguments.insert_str("response", response.as_slice());
                }
            }
        }
        arguments
    };
    let variables = variables(script, arguments, || connection_array(connection), || id_of(transaction));
    decide(script, Phase::Auth, connection, variables, context).await
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
    let arguments = || {
        let mut arguments = Array::new();
        arguments.insert_str("sender", address.to_lower());
        arguments.insert_str("address", address_array(address));
        arguments.insert_str("params", parameters_array(parameters));
        arguments
    };
    let variables = variables(script, arguments, || connection_array(connection), || id_of(transaction));
    decide(script, Phase::MailFrom, connection, variables, context).await
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
    let arguments = || {
        let mut arguments = Array::new();
        arguments.insert_str("recipient", address.to_lower());
        arguments.insert_str("address", address_array(address));
        arguments.insert_str("params", parameters_array(parameters));
        if let Some(transport) = transport {
            arguments.insert_str("transportid", transport);
        }
        arguments
    };
    let of_transaction = || transaction_array(transaction, false);
    let variables = variables(script, arguments, || connection_array(connection), of_transaction);
    decide(script, Phase::RcptTo, connection, variables, context).await
}

/// Runs the eod hook; gives the decision and what it queued.
pub async fn eod(
    script: &Script,
    generation: &Arc<Generation>,
    connection: &Connection,
    transaction: &Transaction,
    message: MailMessage,
    more: Vec<(&'static str, Value)>,
    context: &mut ContextValue,
) -> (Decision, Vec<QueuedRecipient>) {
    let sink = Arc::new(Sink {
        id: transaction.id.to_string(),
        generation: generation.clone(),
        queued: Mutex::new(Vec::new()),
    });
    let arguments = || {
        let mut arguments = Array::new();
        arguments.insert_str("mail", eod_message(&script.mail_class, message, sink.clone()));
        for (name, value) in more {
            arguments.insert_str(name, value);
        }
        arguments
    };
    let of_transaction = || transaction_array(transaction, true);
    let variables = variables(script, arguments, || connection_array(connection), of_transaction);
    let id = transaction.id.to_string();
    let execution = Execution { id, variables, priority: connection.priority, ..Execution::default() };
    let finished = script.run(execution, context).await;
    let decision = match finished.end {
        End::Implicit => Decision::plain(Phase::Eod.implicit_end()),
        end => read_decision(Phase::Eod, end),
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
    let arguments = || goodbye_array(goodbye);
    let variables = variables(script, arguments, || connection_array(connection), Array::new);
    // What the hook says has no effect; its errors are logged and counted by the runner.
    script.run(of_connection(connection, variables), context).await;
}

fn goodbye_array(goodbye: &Goodbye) -> Array {
    let mut arguments = Array::new();
    arguments.insert_str("close", if goodbye.by_remote { "remote" } else { "local" });
    if let Some((reply, state)) = &goodbye.reply {
        let mut array = Array::new();
        array.insert_str("code", f64::from(reply.code));
        if let Some(Enhanced(a, b, c)) = reply.enhanced {
            let numbers = [a, b, c].into_iter().map(|n| Value::from(f64::from(n)));
            array.insert_str("enhanced", numbers.collect::<Array>());
        }
        array.insert_str("reason", reply.text_lines().into_iter().map(Value::from).collect::<Array>());
        array.insert_str("state", *state);
        arguments.insert_str("reply", array);
    }
    if let Some(error) = &goodbye.error {
        let mut array = Array::new();
        array.insert_str("reason", error.reason.as_str());
        array.insert_str("type", error.kind);
        array.insert_str("code", error.code as f64);
        arguments.insert_str("error", array);
    }
    arguments
}

fn of_connection(connection: &Connection, variables: Vec<(&'static str, Value)>) -> Execution {
    let id = connection.id.to_string();
    Execution { id, variables, priority: connection.priority, ..Execution::default() }
}

async fn decide(
    script: &Script,
    phase: Phase,
    connection: &Connection,
    variables: Vec<(&'static str, Value)>,
    context: &mut ContextValue,
) -> Decision {
    let finished = script.run(of_connection(connection, variables), context).await;
    match finished.end {
        End::Implicit => Decision::plain(phase.implicit_end()),
        end => read_decision(phase, end),
    }
}

fn read_decision(phase: Phase, end: End) -> Decision {
    let End::Function(function, args) = end else { return Decision::script_error(phase) };
    let at = |index: usize| args.get(index).cloned().unwrap_or_default();
    let Some(verdict) = Verdict::of_function(&function) else { return Decision::script_error(phase) };
    let (reason, options) = if verdict.has_reason() { (at(0), at(1)) } else { (Value::None, at(0)) };
    // The function itself has checked them, so this cannot fail for what a script passed.
    match ReplyOptions::read(phase.hook(), verdict, &reason, &options) {
        Ok(options) => Decision { verdict, options },
        Err(failure) => {
            error!("", "options of {function}(): {failure}");
            Decision::script_error(phase)
        }
    }
}
