//! Delivery while the client waits, as `Deliver(["queue" => false])` of the older end-of-data hook asks for it
//! (`smtp-hooks` 6): one transaction with one fixed server for all recipients, whose answer is the client's.

use crate::generation::Generation;
use crate::hooks::decision::{Decision, Verdict};
use crate::{info, warning};
use hsl_std::Environment;
use hsl_std::hooks::options::ReplyOptions;
use hsl_std::hooks::recipient::RecipientAction;
use hsl_std::mail::{SendFailure, send_in_line};
use mail::{Address, Content, MailMessage};
use net::nexthop::Target;
use smtp::Reply;
use std::sync::Arc;
use uuid::Uuid;

/// A message with all recipients that it is sent to in line.
pub(super) struct Together {
    content: Arc<dyn Content>,
    sender: Address,
    recipients: Vec<Address>,
    transport: String,
}

impl Together {
    /// Joins the actions; none where there are none.
    ///
    /// # Errors
    /// They cannot share one transaction: what a script did wrong.
    pub(super) fn of(
        generation: &Generation,
        actions: &[&RecipientAction],
        content: &Arc<dyn Content>,
    ) -> Result<Option<Together>, String> {
        let Some(first) = actions.first() else { return Ok(None) };
        let Some(id) = first.transport.clone() else {
            return Err(format!("no transport for {}", first.recipient));
        };
        let Some(transport) = generation.transports.get(&id) else {
            let near = config::validate::suggestion(&id, generation.transports.keys().map(String::as_str));
            return Err(format!("unknown transport '{id}'{near}"));
        };
        if matches!(Target::parse(&transport.server, "recipient.invalid"), Target::Mx(_)) {
            return Err(format!(
                "delivery without the queue needs a fixed server, transport '{id}' has none"
            ));
        }
        for other in actions {
            let differs = if other.transport.as_ref() != Some(&id) {
                "transport"
            } else if other.sender != first.sender {
                "sender"
            } else if other.edits.0 != first.edits.0 {
                "changes to the message"
            } else {
                continue;
            };
            return Err(format!(
                "delivery without the queue is one for all recipients, but {} has another {differs} than {}",
                other.recipient, first.recipient
            ));
        }
        let message = MailMessage::with_edits(content.clone(), first.edits.0.clone());
        let content = message.and_then(|message| message.patched()).map_err(|error| error.to_string())?;
        let recipients = actions.iter().map(|action| action.recipient.clone()).collect();
        Ok(Some(Together { content, sender: first.sender.clone(), recipients, transport: id }))
    }

    /// Sends it. Where the next hop does not take it for everybody, the decision is what the client is told.
    pub(super) async fn send(self, environment: &Environment, id: Uuid) -> Result<(), Decision> {
        let Together { content, sender, recipients, transport } = self;
        let (from, count) = (sender.to_string(), recipients.len());
        match send_in_line(content, sender, recipients, &transport, environment).await {
            Ok(reply) => {
                info!(
                    id,
                    "sent without the queue from={from} recipients={count} transport={transport}: {reply}"
                );
                Ok(())
            }
            Err(SendFailure::Reply(reply)) => {
                warning!(id, "not taken without the queue, transport={transport}: {reply}");
                Err(passed_on(reply))
            }
            Err(SendFailure::Error { temporary, reason }) => {
                warning!(id, "not sent without the queue, transport={transport}: {reason}");
                Err(Decision::plain(if temporary { Verdict::Defer } else { Verdict::Reject }))
            }
        }
    }
}

/// The next hop's refusal as ours.
fn passed_on(reply: Reply) -> Decision {
    let verdict = match reply.class() {
        5 => Verdict::Reject,
        4 => Verdict::Defer,
        // An answer out of place says nothing about the message.
        _ => return Decision::plain(Verdict::Defer),
    };
    let options = ReplyOptions {
        code: Some(reply.code),
        enhanced: reply.enhanced.map(|code| Some((code.0, code.1, code.2))),
        reason: reply.lines,
        ..ReplyOptions::default()
    };
    Decision { verdict, options }
}
