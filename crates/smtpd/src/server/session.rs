//! One client connection from accept to its disconnect hook: drives the SMTP machine, asks the hooks, stores
//! what is received and commits it.

use crate::clock;
use crate::daemon::Daemon;
use crate::generation::{Generation, VirtualServer};
use crate::hooks::decision::{Decision, Phase, Verdict};
use crate::hooks::{ContextValue, connection as hooks};
use crate::queueing::commit::{CommitError, NewMessage, QueuedRecipient};
use crate::server::facts::{Connection, Goodbye, Recipient, Transaction};
use crate::server::limits::Place;
use crate::server::wire::{self, ReadEnd};
use crate::{debug, error, info, warning};
use config::app::EarlyTalker;
use mail::{Address, MailMessage};
use smtp::Reply;
use smtp::reply::Enhanced;
use smtp::server::{DataSummary, Event, Extensions, Helo, Server};
use spool::Staging;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Budget of the client's name look-up.
const PTR_PATIENCE: Duration = Duration::from_secs(5);

/// How long the rest of a client's input is read after the last reply, so that the reply is not lost to a
/// reset.
const LINGER: Duration = Duration::from_secs(2);

fn reply(code: u16, enhanced: (u16, u16, u16), text: &str) -> Reply {
    Reply::new(code, Some(Enhanced(enhanced.0, enhanced.1, enhanced.2)), text)
}

/// Serves a connection to its end.
pub async fn serve(stream: TcpStream, client: SocketAddr, server_id: &str, daemon: Arc<Daemon>) {
    let generation = daemon.generations.current();
    let Some(server) = generation.servers.get(server_id).cloned() else {
        let refusal = reply(421, (4, 3, 2), "Service not available, try again later");
        return refuse(&stream, &refusal).await;
    };
    let Some(place) = server.gate.enter(client.ip(), server.concurrency_total, server.concurrency_per_client)
    else {
        debug!("", "server {server_id}: too many connections, {client} refused");
        return refuse(&stream, &reply(421, (4, 7, 0), "Too many connections")).await;
    };
    let local = match stream.local_addr().and_then(|local| stream.set_nodelay(true).map(|()| local)) {
        Ok(local) => local,
        // The client is gone already.
        Err(_) => return,
    };
    let connection = Connection {
        id: daemon.ids.next(),
        priority: 0.0,
        remote_ip: client.ip().to_canonical().to_string(),
        remote_port: client.port(),
        remote_ptr: None,
        local: SocketAddr::new(local.ip().to_canonical(), local.port()),
        server_id: server.id.clone(),
        helo: None,
    };
    let transaction = Transaction::new(daemon.ids.next());
    let machine = Server::new(server.machine.clone());
    let mut session = Box::new(Session {
        daemon,
        generation,
        server,
        stream,
        machine,
        connection,
        transaction,
        context: ContextValue::default(),
        staging: None,
        refusal: None,
        goodbye: Goodbye::default(),
    });
    debug!(session.connection.id, "connect from {client} to server {server_id}");
    session.run().await;
    session.finish(place).await;
}

async fn refuse(stream: &TcpStream, refusal: &Reply) {
    let mut output = Vec::new();
    refusal.write(&mut output);
    // One try: a refused client is not worth waiting for, and it sees the connection close in any case.
    let _ = stream.try_write(&output);
}

struct Session {
    daemon: Arc<Daemon>,
    generation: Arc<Generation>,
    server: Arc<VirtualServer>,
    stream: TcpStream,
    machine: Server,
    connection: Connection,
    transaction: Transaction,
    context: ContextValue,
    staging: Option<Staging>,
    /// Why the content could not be stored, told at its end.
    refusal: Option<Reply>,
    goodbye: Goodbye,
}

impl Session {
    async fn run(&mut self) {
        if !self.connect().await {
            self.flush().await;
            return;
        }
        let started = Instant::now();
        loop {
            match self.machine.next() {
                Event::NeedInput => {
                    if !self.flush().await || !self.read(started).await {
                        return;
                    }
                }
                Event::Helo(helo) => self.helo(helo).await,
                Event::Mail { address, parameters, .. } => self.mail(address, parameters).await,
                Event::Rcpt { address, parameters } => self.rcpt(address, parameters).await,
                Event::Data => self.data(),
                Event::Content => self.store(),
                Event::EndOfData(summary) => self.end_of_data(summary).await,
                Event::DataRefused(refusal) => {
                    self.staging = None;
                    info!(self.transaction.id, "message refused: {refusal}");
                }
                Event::Reset => {
                    self.staging = None;
                    self.transaction = Transaction::new(self.daemon.ids.next());
                }
                Event::Close => {
                    self.flush().await;
                    self.goodbye.reply =
                        self.machine.last_reply().cloned().map(|last| (last, self.machine.phase()));
                    return;
                }
            }
        }
    }

    /// Looks up the client's name, runs the connect hook and greets; false when the client was sent away.
    async fn connect(&mut self) -> bool {
        let mut ptr_result = None;
        if self.server.remote_ptr {
            let found = hooks::confirmed_name(&self.generation.resolver, &self.connection.remote_ip);
            if let Ok((name, result)) = tokio::time::timeout(PTR_PATIENCE, found).await {
                self.connection.remote_ptr = name;
                ptr_result = Some(result);
            }
        }
        let decision = match &self.server.hooks.connect {
            None => Decision::plain(Verdict::Accept),
            Some(script) => {
                hooks::connect(script, &self.connection, &self.transaction, ptr_result, &mut self.context)
                    .await
            }
        };
        let banner = format!("{} ESMTP", self.server.hostname);
        let answer = decision.reply(Phase::Connect, &banner);
        if decision.verdict != Verdict::Accept {
            self.goodbye.reply = Some((answer.clone(), "CONNECT"));
            self.machine.close_with(answer);
            return false;
        }
        if let Some(remote_ip) = decision.remote_ip {
            self.connection.remote_ip = remote_ip;
        }
        if decision.remote_ptr.is_some() {
            self.connection.remote_ptr = decision.remote_ptr;
        }
        self.connection.priority = decision.priority.unwrap_or(0.0);
        if !self.server.delay.is_zero() {
            tokio::time::sleep(self.server.delay).await;
        }
        if self.server.early_talker == EarlyTalker::Reject && wire::has_spoken(&self.stream).await {
            let answer = reply(554, (5, 5, 1), "Protocol violation: talked before greeting");
            info!(self.connection.id, "early talker {} refused", self.connection.remote_ip);
            self.goodbye.reply = Some((answer.clone(), "CONNECT"));
            self.machine.close_with(answer);
            return false;
        }
        let text = String::from_utf8_lossy(&answer.lines.join(&b'\n')).into_owned();
        self.machine.greet(Some(&text));
        true
    }

    async fn helo(&mut self, helo: Helo) {
        let decision = match &self.server.hooks.helo {
            None => Decision::plain(Verdict::Accept),
            Some(script) => {
                let offered = self.machine.default_extensions().items().to_vec();
                hooks::helo(script, &self.connection, &self.transaction, &helo, &offered, &mut self.context)
                    .await
            }
        };
        if decision.verdict == Verdict::Accept {
            let verb = if helo.extended { "EHLO" } else { "HELO" };
            let host = decision.host.clone().unwrap_or_else(|| helo.host.clone());
            self.connection.helo = Some((verb, host));
        }
        let answer = decision.reply(Phase::Helo, &self.server.hostname);
        let extensions = decision.extensions.map(Extensions::new);
        self.machine.helo(answer, extensions, decision.host, decision.disconnect);
    }

    async fn mail(&mut self, address: Address, parameters: Vec<(String, String)>) {
        if self.daemon.spool.low_space() {
            warning!(self.connection.id, "mail refused: free space of the spool is below its minimum");
            return self.machine.mail(reply(452, (4, 3, 1), "Insufficient system storage"), false);
        }
        let decision = match &self.server.hooks.mailfrom {
            None => Decision::plain(Verdict::Accept),
            Some(script) => {
                hooks::mail(
                    script,
                    &self.connection,
                    &self.transaction,
                    &address,
                    &parameters,
                    &mut self.context,
                )
                .await
            }
        };
        let answer = decision.reply(Phase::MailFrom, "");
        if decision.verdict == Verdict::Accept {
            self.transaction.ts_s = clock::now_s();
            self.transaction.sender = Some(decision.address.unwrap_or(address));
            self.transaction.sender_parameters = parameters;
            self.transaction.recipients.clear();
        }
        self.machine.mail(answer, decision.disconnect);
    }

    async fn rcpt(&mut self, address: Address, parameters: Vec<(String, String)>) {
        let transport = self.server.transport.clone();
        let decision = match self.server.hooks.rcptto.script(&address.domain) {
            None if transport.is_some() => Decision::plain(Verdict::Accept),
            None => return self.machine.rcpt(reply(550, (5, 7, 1), "Relaying denied"), false),
            Some(script) => {
                let transport = transport.as_deref();
                hooks::rcpt(
                    script,
                    &self.connection,
                    &self.transaction,
                    &address,
                    &parameters,
                    transport,
                    &mut self.context,
                )
                .await
            }
        };
        let decision = match &decision.transport {
            Some(id) if !self.generation.transports.contains_key(id) => {
                let known = self.generation.transports.keys().map(String::as_str);
                let near = config::validate::suggestion(id, known);
                error!(self.connection.id, "script error in rcptto: unknown transport '{id}'{near}");
                Decision::script_error()
            }
            _ => decision,
        };
        let answer = decision.reply(Phase::RcptTo, "");
        if decision.verdict == Verdict::Accept {
            let address = decision.address.unwrap_or(address);
            let transport = decision.transport.or(transport);
            self.transaction.recipients.push(Recipient { address, parameters, transport });
        }
        self.machine.rcpt(answer, decision.disconnect);
    }

    /// Opens the store for a message, with our Received field on top.
    fn data(&mut self) {
        let mut staging = self.daemon.spool.stage(self.transaction.id);
        let stored = match self.received_field() {
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

    fn received_field(&self) -> Result<String, String> {
        if !self.server.received {
            return Ok(String::new());
        }
        let time = mail::date::Zoned::local(clock::now().as_secs()).map_err(|error| error.to_string())?;
        let (extended, helo) = match &self.connection.helo {
            Some((verb, host)) => (*verb == "EHLO", host.as_str()),
            None => (false, ""),
        };
        let utf8 = self.transaction.sender_parameters.iter().any(|(keyword, _)| keyword == "SMTPUTF8");
        let received = mail::received::Received {
            helo,
            ptr: self.connection.remote_ptr.as_deref(),
            ip: &self.connection.remote_ip,
            hostname: &self.server.hostname,
            product: &self.server.product,
            protocol: mail::received::Protocol::Smtp { esmtp: extended, tls: false, auth: false, utf8 },
            id: &self.transaction.id.to_string(),
            time: &time,
        };
        received.field().map_err(|error| error.to_string())
    }

    /// Stores a piece of content. A failing disk does not stop the reading: the client is told at the end.
    fn store(&mut self) {
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

    async fn end_of_data(&mut self, summary: DataSummary) {
        let Some(staging) = self.staging.take() else {
            let refusal = self.refusal.take();
            let refusal = refusal.unwrap_or_else(|| reply(451, (4, 3, 0), "Temporary server error"));
            return self.machine.end_of_data(refusal, false);
        };
        let (answer, disconnect) = match self.decide_message(staging, summary).await {
            Ok((answer, disconnect)) => (answer, disconnect),
            Err(failure) => {
                error!(self.transaction.id, "message not accepted: {failure}");
                (failure.reply(), false)
            }
        };
        self.machine.end_of_data(answer, disconnect);
    }

    /// Runs the eod hook (or its default) and commits; the reply may be sent once this returns.
    async fn decide_message(
        &mut self,
        mut staging: Staging,
        summary: DataSummary,
    ) -> Result<(Reply, bool), CommitError> {
        let message = MailMessage::new(staging.content());
        let subject = message.subject().ok().flatten().unwrap_or_default();
        let (decision, queued) = match &self.server.hooks.eod {
            None => (Decision::plain(Verdict::Accept), self.default_recipients(&message)?),
            Some(script) => {
                hooks::eod(
                    script,
                    &self.generation,
                    &self.connection,
                    &self.transaction,
                    message,
                    &mut self.context,
                )
                .await
            }
        };
        let id = self.transaction.id;
        let text = format!("Ok: queued as {id}");
        let answer = decision.reply(Phase::Eod, &text);
        if decision.verdict != Verdict::Accept {
            info!(
                id,
                "message from {} {}: {answer}",
                self.connection.remote_ip,
                match decision.verdict {
                    Verdict::Reject => "rejected",
                    _ => "deferred",
                }
            );
            return Ok((answer, decision.disconnect));
        }
        let entries = queued.len();
        if entries > 0 {
            let message = NewMessage {
                id,
                received_s: self.transaction.ts_s,
                connection: &self.connection,
                subject,
                recipients: queued,
            };
            self.daemon.engine.commit(staging, message).await?;
        }
        info!(
            id,
            "accepted from={} size={} entries={entries} client={}",
            self.transaction.sender.as_ref().map(ToString::to_string).unwrap_or_default(),
            summary.bytes,
            self.connection.remote_ip
        );
        Ok((answer, decision.disconnect))
    }

    /// Without an eod hook every recipient is queued with its transport.
    fn default_recipients(&self, message: &MailMessage) -> Result<Vec<QueuedRecipient>, CommitError> {
        let sender = self.transaction.sender.clone().unwrap_or_default();
        let recipients = self.transaction.recipients.iter().map(|recipient| {
            let Some(transport) = recipient.transport.clone() else {
                return Err(CommitError::NoTransport(recipient.address.to_string()));
            };
            let mut queued =
                QueuedRecipient::new(sender.clone(), recipient.address.clone(), transport, message)
                    .map_err(|error| CommitError::Content(error.to_string()))?;
            queued.dsn = hooks::dsn_parameters(&self.transaction.sender_parameters, &recipient.parameters);
            Ok(queued)
        });
        recipients.collect()
    }

    /// Writes the output; false when the client is gone.
    async fn flush(&mut self) -> bool {
        if self.machine.output().is_empty() {
            return true;
        }
        match wire::write(&self.stream, self.machine.output()).await {
            Ok(()) => true,
            Err(failure) => {
                self.goodbye.by_remote = true;
                self.goodbye.error = Some((failure.to_string(), failure.raw_os_error().unwrap_or(0)));
                false
            }
        }
    }

    /// Reads more input; false ends the session.
    async fn read(&mut self, started: Instant) -> bool {
        let idle = Instant::now() + self.server.idle;
        let session_end = self.server.session_limit.map(|limit| started + limit);
        let in_data = self.machine.phase() == "DATA";
        // A message that is on its way in may arrive whole even while the daemon stops.
        let until_shutdown = if in_data { None } else { Some(&self.daemon.shutdown) };
        let deadline = match session_end {
            Some(end) if !in_data && end < idle => end,
            _ => idle,
        };
        match wire::read(&self.stream, &mut self.machine, deadline, until_shutdown).await {
            ReadEnd::Bytes => true,
            ReadEnd::Closed => {
                self.goodbye.by_remote = true;
                false
            }
            ReadEnd::Error(failure) => {
                self.goodbye.by_remote = true;
                self.goodbye.error = Some((failure.to_string(), failure.raw_os_error().unwrap_or(0)));
                false
            }
            end @ (ReadEnd::Timeout | ReadEnd::Shutdown) => {
                let answer = match end {
                    ReadEnd::Timeout => reply(421, (4, 4, 2), "Timeout"),
                    _ => reply(421, (4, 3, 2), "Service shutting down"),
                };
                self.goodbye.reply = Some((answer.clone(), self.machine.phase()));
                self.machine.close_with(answer);
                self.flush().await;
                false
            }
        }
    }

    /// Closes the connection, gives the place back and runs the disconnect hook.
    async fn finish(self: Box<Session>, place: Place) {
        let Session { server, stream, connection, mut context, staging, goodbye, .. } = *self;
        drop(staging);
        close(&stream, !goodbye.by_remote).await;
        // The hook holds neither socket nor place.
        drop(stream);
        drop(place);
        debug!(connection.id, "disconnect of {}", connection.remote_ip);
        if let Some(script) = &server.hooks.disconnect {
            hooks::disconnect(script, &connection, &goodbye, &mut context).await;
        }
    }
}

/// Ends our side. Where the client had sent more than was read, a plain close would reset the connection and
/// take the last reply with it.
async fn close(stream: &TcpStream, unread: bool) {
    // A client that is gone cannot be told.
    let _ = socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write);
    if !unread {
        return;
    }
    let end = Instant::now() + LINGER;
    let mut scrap = [0u8; 4096];
    while tokio::time::timeout_at(end, stream.readable()).await.is_ok_and(|ready| ready.is_ok()) {
        match stream.try_read(&mut scrap) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
