//! Content: stored while it arrives, decided by the eod hook or its default, committed before the reply.

use crate::daemon::Daemon;
use crate::generation::{Generation, VirtualServer};
use crate::hooks::decision::{Decision, Phase, Verdict};
use crate::hooks::{ContextValue, connection as hooks};
use crate::queueing::commit::{CommitError, NewMessage, QueuedRecipient};
use crate::server::facts::{Connection, Transaction};
use crate::server::session::{Session, reply};
use crate::{clock, error, info};
use hsl::Value;
use mail::MailMessage;
use mail::received::{Protocol, Received};
use smtp::Reply;
use smtp::server::DataSummary;
use spool::Staging;
use std::sync::Arc;

/// A message that was received whole, with all that its decision needs.
pub(super) struct Submission<'a> {
    pub(super) daemon: &'a Daemon,
    pub(super) generation: &'a Arc<Generation>,
    pub(super) server: &'a VirtualServer,
    pub(super) connection: &'a Connection,
    pub(super) transaction: &'a Transaction,
    pub(super) context: &'a mut ContextValue,
    /// Further arguments of the eod hook.
    pub(super) arguments: Vec<(&'static str, Value)>,
    /// Octets as the client sent them.
    pub(super) bytes: u64,
}

/// What the client is told.
pub(super) struct Answer {
    pub(super) reply: Reply,
    pub(super) disconnect: bool,
    /// For an HTTP client.
    pub(super) metadata: Value,
}

impl Answer {
    fn plain(reply: Reply) -> Answer {
        Answer { reply, disconnect: false, metadata: Value::None }
    }
}

/// The Received field for a message that begins now; empty where the server adds none.
pub(super) fn received_field(
    server: &VirtualServer,
    connection: &Connection,
    transaction: &Transaction,
    protocol: Protocol,
) -> Result<String, String> {
    if !server.received {
        return Ok(String::new());
    }
    let time = mail::date::Zoned::local(clock::now().as_secs()).map_err(|error| error.to_string())?;
    let received = Received {
        helo: connection.helo.as_ref().map_or("", |(_, host)| host.as_str()),
        ptr: connection.remote_ptr.as_deref(),
        ip: &connection.remote_ip,
        hostname: &server.hostname,
        product: &server.product,
        protocol,
        id: &transaction.id.to_string(),
        time: &time,
    };
    received.field().map_err(|error| error.to_string())
}

impl Submission<'_> {
    /// Decides and commits; the answer may be sent once this returns.
    pub(super) async fn decide(self, staging: Staging) -> Answer {
        let id = self.transaction.id;
        match self.try_decide(staging).await {
            Ok(answer) => answer,
            Err(failure) => {
                error!(id, "message not accepted: {failure}");
                Answer::plain(failure.reply())
            }
        }
    }

    async fn try_decide(self, mut staging: Staging) -> Result<Answer, CommitError> {
        let message = MailMessage::new(staging.content());
        let subject = message.subject().ok().flatten().unwrap_or_default();
        let (phase, (decision, queued)) = match (&self.server.hooks.eod, &self.server.hooks.eodrcpt) {
            (Some(script), _) => {
                let decided = hooks::eod(
                    script,
                    self.generation,
                    self.connection,
                    self.transaction,
                    message,
                    self.arguments,
                    self.context,
                );
                (Phase::Eod, decided.await)
            }
            (None, Some(script)) => {
                let decided = crate::hooks::recipient::decide(
                    script,
                    self.generation,
                    self.connection,
                    self.transaction,
                    message,
                    self.context,
                );
                (Phase::EodRcpt, decided.await)
            }
            (None, None) => {
                let queued = default_recipients(self.transaction, &message)?;
                (Phase::Eod, (Decision::plain(Verdict::Accept), queued))
            }
        };
        let id = self.transaction.id;
        let text = format!("Ok: queued as {id}");
        let reply = decision.reply(phase, &text);
        let options = decision.options;
        if decision.verdict != Verdict::Accept {
            let what = if decision.verdict == Verdict::Reject { "rejected" } else { "deferred" };
            info!(id, "message from {} {what}: {reply}", self.connection.remote_ip);
            // The older form carries out what it decided for other recipients, unless the client comes again.
            if phase == Phase::Eod || decision.verdict == Verdict::Defer || queued.is_empty() {
                return Ok(Answer { reply, disconnect: options.disconnect, metadata: options.metadata });
            }
        }
        let entries = queued.len();
        if entries > 0 {
            let message = NewMessage {
                id,
                received_s: self.transaction.ts_s,
                connection: self.connection,
                subject,
                recipients: queued,
            };
            self.daemon.engine.commit(staging, message).await?;
        }
        if decision.verdict == Verdict::Accept {
            info!(
                id,
                "accepted from={} size={} entries={entries} client={}",
                self.transaction.sender.as_ref().map(ToString::to_string).unwrap_or_default(),
                self.bytes,
                self.connection.remote_ip
            );
        }
        Ok(Answer { reply, disconnect: options.disconnect, metadata: options.metadata })
    }
}

/// Without an eod hook every recipient is queued with its transport.
fn default_recipients(
    transaction: &Transaction,
    message: &MailMessage,
) -> Result<Vec<QueuedRecipient>, CommitError> {
    let sender = transaction.sender.clone().unwrap_or_default();
    let recipients = transaction.recipients.iter().map(|recipient| {
        let Some(transport) = recipient.transport.clone() else {
            return Err(CommitError::NoTransport(recipient.address.to_string()));
        };
        let mut queued = QueuedRecipient::new(sender.clone(), recipient.address.clone(), transport, message)
            .map_err(|error| CommitError::Content(error.to_string()))?;
        queued.dsn = hooks::dsn_parameters(&transaction.sender_parameters, &recipient.parameters);
        Ok(queued)
    });
    recipients.collect()
}

impl Session {
    /// Opens the store for a message, with our Received field on top.
    pub(super) fn data(&mut self) {
        let mut staging = self.daemon.spool.stage(self.transaction.id);
        let utf8 = self.transaction.sender_parameters.iter().any(|(keyword, _)| keyword == "SMTPUTF8");
        let protocol = Protocol::Smtp {
            esmtp: self.connection.helo.as_ref().is_some_and(|(verb, _)| *verb == "EHLO"),
            tls: self.connection.tls.is_some(),
            auth: self.connection.auth.is_some(),
            utf8,
        };
        let stored = match received_field(&self.server, &self.connection, &self.transaction, protocol) {
            Ok(field) => staging.write(field.as_bytes()).map_err(CommitError::from),
            Err(text) => Err(CommitError::Content(text)),
        };
        self.refusal = None;
        match stored {
            Ok(()) => {
                self.staging = Some(staging);
                self.machine.data(None);
            }
            Err(failure) => {
                error!(self.transaction.id, "cannot store a message: {failure}");
                self.machine.data(Some(failure.reply()));
            }
        }
    }

    /// Stores a piece of content. A failing disk does not stop the reading: the client is told at the end.
    pub(super) fn store(&mut self) {
        let Some(staging) = self.staging.as_mut() else { return };
        let content = self.machine.content();
        let stored = if staging.len() + content.len() as u64 > self.daemon.journal_message_max {
            // Long messages go to disk as they come; the runtime moves other work off this thread.
            tokio::task::block_in_place(|| staging.write(content))
        } else {
            staging.write(content)
        };
        if let Err(failure) = stored {
            error!(self.transaction.id, "cannot store a message: {failure}");
            self.staging = None;
            self.refusal = Some(CommitError::from(failure).reply());
        }
    }

    pub(super) async fn end_of_data(&mut self, summary: DataSummary) {
        let Some(staging) = self.staging.take() else {
            let refusal = self.refusal.take();
            let refusal = refusal.unwrap_or_else(|| reply(451, (4, 3, 0), "Temporary server error"));
            return self.machine.end_of_data(refusal, false);
        };
        let submission = Submission {
            daemon: &self.daemon,
            generation: &self.generation,
            server: &self.server,
            connection: &self.connection,
            transaction: &self.transaction,
            context: &mut self.context,
            arguments: Vec::new(),
            bytes: summary.bytes,
        };
        let answer = Box::pin(submission.decide(staging)).await;
        self.machine.end_of_data(answer.reply, answer.disconnect);
    }
}
