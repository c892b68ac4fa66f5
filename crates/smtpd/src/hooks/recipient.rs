//! The older end-of-data hook: runs once per accepted recipient, and one reply is chosen over all of them
//! (`smtp-hooks` 6).

use crate::error;
use crate::generation::Generation;
use crate::hooks::ContextValue;
use crate::hooks::decision::{Decision, Phase, Verdict};
use crate::hooks::in_line;
use crate::hooks::script::{End, Execution, Script};
use crate::hooks::variables::parameters_array;
use crate::queueing::commit::QueuedRecipient;
use crate::server::facts::{Connection, Recipient, Transaction};
use hsl::{Array, Value};
use hsl_std::hooks::options::ReplyOptions;
use hsl_std::hooks::recipient::{Action, RecipientAction, RecipientRun, RecipientTls};
use mail::{Address, Content, MailMessage};
use parking_lot::Mutex;
use std::sync::Arc;

/// Reject, defer, quarantine, delete, deliver: the higher one is what the client is told.
fn weight(action: Action) -> u8 {
    match action {
        Action::Reject => 6,
        Action::Defer => 5,
        Action::Quarantine(true) => 4,
        Action::Quarantine(false) => 3,
        Action::Delete => 2,
        Action::Deliver => 1,
    }
}

/// Runs the script for each recipient.
pub(crate) async fn decide(
    script: &Script,
    generation: &Arc<Generation>,
    connection: &Connection,
    transaction: &Transaction,
    message: MailMessage,
    context: &mut ContextValue,
) -> (Decision, Vec<QueuedRecipient>) {
    let content = message.content().clone();
    let mut actions: Vec<RecipientAction> = Vec::new();
    let mut metadata = Vec::new();
    let tls = connection.tls.as_ref().map(|tls| RecipientTls {
        protocol: tls.protocol.clone(),
        cipher: tls.cipher.clone(),
        keysize_bits: tls.keysize_bits,
        peer: tls.peer.as_ref().map(|peer| (peer.certificate.clone(), peer.error)),
    });
    for recipient in &transaction.recipients {
        // Each run starts from the original.
        let run = RecipientRun {
            message: Arc::new(Mutex::new(MailMessage::new(content.clone()))),
            sender: transaction.sender.clone().unwrap_or_default(),
            recipient: recipient.address.clone(),
            transport: recipient.transport.clone(),
            delay_s: 0.0,
            metadata: std::mem::take(&mut metadata),
            sender_ip: None,
            sender_helo: None,
            tls: tls.clone(),
            actions: Vec::new(),
        };
        let plain = run_of(recipient, transaction, &content);
        let variables = variables(script, connection, transaction, recipient, actions.len());
        let execution = Execution {
            id: transaction.id.to_string(),
            variables,
            recipient: Some(run),
            priority: connection.priority,
            ..Execution::default()
        };
        let finished = script.run(execution, context).await;
        let Some(mut run) = finished.recipient else {
            actions.push(plain(Action::Defer, Decision::script_error(Phase::EodRcpt).options));
            continue;
        };
        let decided = match finished.end {
            End::Error => {
                vec![plain(Action::Defer, Decision::script_error(Phase::EodRcpt).options)]
            }
            // Done() without any action defers; the end of the script delivers.
            End::Function(name, _) if run.actions.is_empty() && name == "Done" => {
                vec![plain(Action::Defer, ReplyOptions::default())]
            }
            _ if run.actions.is_empty() => match run.deliver() {
                Ok(()) => std::mem::take(&mut run.actions),
                Err(failure) => {
                    error!(transaction.id, "script error in eodrcpt: {failure}");
                    vec![plain(Action::Defer, Decision::script_error(Phase::EodRcpt).options)]
                }
            },
            _ => std::mem::take(&mut run.actions),
        };
        metadata = run.metadata;
        actions.extend(decided);
    }
    settle(script, generation, transaction, &content, actions).await
}

/// Makes actions that a script did not call for.
fn run_of<'a>(
    recipient: &'a Recipient,
    transaction: &'a Transaction,
    content: &Arc<dyn mail::Content>,
) -> impl Fn(Action, ReplyOptions) -> RecipientAction + 'a {
    let size = content.len();
    move |action, reply| RecipientAction {
        action,
        in_line: false,
        reply,
        sender: transaction.sender.clone().unwrap_or_default(),
        recipient: recipient.address.clone(),
        transport: recipient.transport.clone(),
        metadata: Vec::new(),
        job_id: String::new(),
        quotas: Vec::new(),
        delay_s: 0.0,
        edits: (Arc::default(), size),
        sender_ip: None,
        sender_helo: None,
    }
}

/// Chooses the reply, and what is queued with it; what is to be sent in line is sent.
async fn settle(
    script: &Script,
    generation: &Generation,
    transaction: &Transaction,
    content: &Arc<dyn Content>,
    actions: Vec<RecipientAction>,
) -> (Decision, Vec<QueuedRecipient>) {
    let script_error = |text: String| {
        error!(transaction.id, "script error in eodrcpt: {text}");
        (Decision::script_error(Phase::EodRcpt), Vec::new())
    };
    let (in_line, others): (Vec<_>, Vec<_>) = actions.iter().partition(|one| one.in_line);
    let mut queued = Vec::new();
    for action in
        others.into_iter().filter(|one| matches!(one.action, Action::Deliver | Action::Quarantine(_)))
    {
        match queue(generation, action) {
            Ok(one) => queued.push(one),
            Err(text) => return script_error(text),
        }
    }
    let together = match in_line::Together::of(generation, &in_line, content) {
        Ok(together) => together,
        Err(text) => return script_error(text),
    };
    // The first of the heaviest speaks for all.
    let chosen = actions
        .into_iter()
        .reduce(|best, one| if weight(one.action) > weight(best.action) { one } else { best });
    let Some(chosen) = chosen else { return (Decision::plain(Verdict::Accept), queued) };
    let verdict = match chosen.action {
        Action::Reject | Action::Quarantine(true) => Verdict::Reject,
        Action::Defer => Verdict::Defer,
        _ => Verdict::Accept,
    };
    if verdict == Verdict::Defer {
        return (Decision { verdict, options: chosen.reply }, Vec::new());
    }
    if let Some(together) = together
        && let Err(refused) = together.send(script.environment(), transaction.id).await
    {
        return (refused, Vec::new());
    }
    (Decision { verdict, options: chosen.reply }, queued)
}

fn queue(generation: &Generation, action: &RecipientAction) -> Result<QueuedRecipient, String> {
    let Some(transport) = &action.transport else {
        return Err(format!("no transport for {}", action.recipient));
    };
    if !generation.transports.contains_key(transport) {
        let near = config::validate::suggestion(transport, generation.transports.keys().map(String::as_str));
        return Err(format!("unknown transport '{transport}'{near}"));
    }
    let mut metadata = action.metadata.clone();
    for (key, value) in [("senderip", &action.sender_ip), ("senderhelo", &action.sender_helo)] {
        if let Some(value) = value {
            metadata.push((key.to_owned(), value.clone().into_bytes()));
        }
    }
    Ok(QueuedRecipient {
        sender: action.sender.clone(),
        recipient: action.recipient.clone(),
        transport: transport.clone(),
        metadata,
        hold: matches!(action.action, Action::Quarantine(_)),
        job_id: action.job_id.clone(),
        tenant_id: String::new(),
        priority: 0,
        quotas: action.quotas.clone(),
        delay_s: action.delay_s,
        dsn: None,
        edits: action.edits.0.clone(),
        size_bytes: action.edits.1,
    })
}

/// The variables that the script names.
fn variables(
    script: &Script,
    connection: &Connection,
    transaction: &Transaction,
    recipient: &Recipient,
    actions: usize,
) -> Vec<(&'static str, Value)> {
    let none = Address::default();
    let sender = transaction.sender.as_ref().unwrap_or(&none);
    let strings = |get: fn(&Address) -> String| {
        transaction.recipients.iter().map(|one| Value::from(get(&one.address))).collect::<Array>()
    };
    let value = |name: &str| -> Option<Value> {
        Some(match name {
            "senderip" => connection.remote_ip.as_str().into(),
            "senderport" => f64::from(connection.remote_port).into(),
            "serverip" => connection.local.ip().to_string().into(),
            "serverport" => f64::from(connection.local.port()).into(),
            "serverid" => connection.server_id.as_str().into(),
            "senderhelo" => connection.helo.as_ref().map_or("", |(_, host)| host.as_str()).into(),
            "tlsstarted" => connection.tls.is_some().into(),
            "saslauthed" => connection.auth.is_some().into(),
            "saslusername" => {
                let username = connection.auth.as_ref().and_then(|auth| auth.username.as_deref());
                username.unwrap_or_default().into()
            }
            "messageid" => transaction.id.to_string().into(),
            "sender" => sender.to_lower().into(),
            "senderlocalpart" => sender.localpart.as_str().into(),
            "senderdomain" => sender.domain.as_str().into(),
            "senderparams" => parameters_array(&transaction.sender_parameters).into(),
            "recipientdomains" => strings(|address| address.domain.clone()).into(),
            "recipients" => strings(Address::to_lower).into(),
            "recipient" => recipient.address.to_lower().into(),
            "recipientlocalpart" => recipient.address.localpart.as_str().into(),
            "recipientdomain" => recipient.address.domain.as_str().into(),
            "transportid" => recipient.transport.as_deref().unwrap_or_default().into(),
            "actionid" => (actions as f64 + 1.0).into(),
            // `$context` is the runner's.
            _ => return None,
        })
    };
    script.named().filter_map(|name| Some((name, value(name)?))).collect()
}
