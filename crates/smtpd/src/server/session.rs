//! One SMTP connection from its greeting to its disconnect hook: drives the machine, reads and writes. What the events
//! lead to is in [`phases`](super::phases) and [`message`](super::message).

use crate::daemon::Daemon;
use crate::generation::{Generation, VirtualServer};
use crate::hooks::{ContextValue, connection as hooks};
use crate::server::facts::{Broken, Connection, Goodbye, Transaction};
use crate::server::limits::Place;
use crate::server::stream::Stream;
use crate::server::wire::{self, ReadEnd};
use crate::{debug, info};
use smtp::Reply;
use smtp::reply::Enhanced;
use smtp::server::{Event, Server};
use spool::Staging;
use std::sync::Arc;
use tokio::time::Instant;

/// Content that a client must send within the idle time; who drips is as good as silent. Octets.
const PROGRESS_BYTES_MIN: usize = 512;

pub(super) fn reply(code: u16, enhanced: (u16, u16, u16), text: &str) -> Reply {
    Reply::new(code, Some(Enhanced(enhanced.0, enhanced.1, enhanced.2)), text)
}

pub(super) struct Session {
    pub(super) daemon: Arc<Daemon>,
    pub(super) generation: Arc<Generation>,
    pub(super) server: Arc<VirtualServer>,
    pub(super) stream: Stream,
    pub(super) machine: Server,
    pub(super) connection: Connection,
    pub(super) transaction: Transaction,
    pub(super) context: ContextValue,
    pub(super) staging: Option<Staging>,
    /// Why the content could not be stored, told at its end.
    pub(super) refusal: Option<Reply>,
    pub(super) goodbye: Goodbye,
    /// When the client's time is up.
    deadline: Instant,
    /// Content since the deadline was set.
    progress_bytes: usize,
}

impl Session {
    pub(super) fn new(
        daemon: Arc<Daemon>,
        generation: Arc<Generation>,
        server: Arc<VirtualServer>,
        stream: Stream,
        connection: Connection,
    ) -> Box<Session> {
        let mut machine = Server::new(server.machine.clone());
        if let Some(tls) = &connection.tls {
            machine.tls_started(tls.peer.is_some());
        }
        let transaction = Transaction::new(daemon.ids.next());
        let deadline = Instant::now() + server.idle;
        Box::new(Session {
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
            deadline,
            progress_bytes: 0,
        })
    }

    pub(super) async fn run(&mut self) {
        if !self.connect().await {
            self.flush().await;
            return;
        }
        let session_end = self.server.session_limit.map(|limit| Instant::now() + limit);
        let mut answered = true;
        loop {
            let event = self.machine.next();
            self.log_dialogue();
            answered |= !matches!(event, Event::NeedInput | Event::Content);
            match event {
                Event::NeedInput => {
                    answered |= !self.machine.output().is_empty();
                    if !self.flush().await {
                        return;
                    }
                    // The client's time begins when it has our answer, and runs for a whole command, not for each
                    // octet of it.
                    if std::mem::take(&mut answered) {
                        self.restart_clock();
                    }
                    if !self.read(session_end).await {
                        return;
                    }
                }
                Event::Proxy(line) => self.proxy(line).await,
                Event::Helo(helo) => self.helo(helo).await,
                Event::StartTls => {
                    if !self.flush().await || !self.start_tls().await {
                        return;
                    }
                }
                Event::Auth(request) => self.auth(request).await,
                Event::Mail { address, parameters, .. } => self.mail(address, parameters).await,
                Event::Rcpt { address, parameters } => self.rcpt(address, parameters).await,
                Event::Data => self.data(),
                Event::Content => self.store(),
                Event::EndOfData(summary) => self.end_of_data(summary).await,
                Event::DataRefused(refusal) => {
                    self.staging = None;
                    self.refusal = None;
                    info!(self.transaction.id, "message refused: {refusal}");
                }
                Event::Reset => {
                    self.staging = None;
                    self.refusal = None;
                    self.transaction = Transaction::new(self.daemon.ids.next());
                }
                Event::Close => {
                    self.flush().await;
                    self.goodbye.reply = self.machine.last_reply().cloned();
                    return;
                }
            }
        }
    }

    fn restart_clock(&mut self) {
        self.deadline = Instant::now() + self.server.idle;
        self.progress_bytes = 0;
    }

    fn log_dialogue(&mut self) {
        if self.server.machine.verbose {
            for line in self.machine.take_dialogue() {
                info!(self.connection.id, "{line}");
            }
        }
    }

    async fn start_tls(&mut self) -> bool {
        let (Some(tls), Some(socket)) = (self.server.tls.clone(), self.stream.take_plain()) else {
            // The machine offers STARTTLS once, and only where there is a certificate.
            self.goodbye.error =
                Some(Broken { reason: "TLS not available".to_owned(), kind: "tls", code: 0 });
            return false;
        };
        match tls.accept(socket).await {
            Ok((stream, facts)) => {
                debug!(self.connection.id, "{} with {}", facts.protocol, facts.cipher);
                self.stream = Stream::Tls(stream);
                self.machine.tls_started(facts.peer.is_some());
                self.connection.tls = Some(Arc::new(facts));
                self.connection.helo = None;
                self.connection.auth = None;
                self.restart_clock();
                true
            }
            Err(failure) => {
                info!(self.connection.id, "{} from {}", failure.reason, self.connection.remote_ip);
                self.goodbye.error = Some(Broken { reason: failure.reason, kind: "tls", code: failure.code });
                false
            }
        }
    }

    /// Writes the output; false when the client is gone.
    pub(super) async fn flush(&mut self) -> bool {
        self.log_dialogue();
        if self.machine.output().is_empty() {
            return true;
        }
        match wire::write(&mut self.stream, self.machine.output()).await {
            Ok(()) => true,
            Err(failure) => {
                self.goodbye.by_remote = true;
                self.goodbye.error = Some(Broken::socket(&failure));
                false
            }
        }
    }

    /// Reads more input; false ends the session.
    async fn read(&mut self, session_end: Option<Instant>) -> bool {
        let in_data = self.machine.is_receiving();
        // A message that is on its way in may arrive whole even while the daemon stops.
        let until_shutdown = if in_data { None } else { Some(&self.daemon.shutdown) };
        let deadline = match session_end {
            Some(end) if !in_data && end < self.deadline => end,
            _ => self.deadline,
        };
        match wire::read(&mut self.stream, &mut self.machine, deadline, until_shutdown).await {
            ReadEnd::Bytes(count) => {
                self.progress_bytes += count;
                if in_data && self.progress_bytes >= PROGRESS_BYTES_MIN {
                    self.restart_clock();
                }
                true
            }
            ReadEnd::Closed => {
                self.goodbye.by_remote = true;
                false
            }
            ReadEnd::Error(failure) => {
                self.goodbye.by_remote = true;
                self.goodbye.error = Some(Broken::socket(&failure));
                false
            }
            end @ (ReadEnd::Timeout | ReadEnd::Shutdown) => {
                let (answer, state) = match end {
                    ReadEnd::Timeout => (reply(421, (4, 4, 2), "Timeout"), "TIMEOUT"),
                    _ => (reply(421, (4, 3, 2), "Service shutting down"), self.machine.phase()),
                };
                self.goodbye.reply = Some((answer.clone(), state));
                self.machine.close_with(answer);
                self.flush().await;
                false
            }
        }
    }

    /// Closes the connection, gives the place back and runs the disconnect hook.
    pub(super) async fn finish(self: Box<Session>, place: Place) {
        let Session { server, mut stream, connection, mut context, staging, goodbye, .. } = *self;
        drop(staging);
        wire::close(&mut stream, !goodbye.by_remote).await;
        // The hook holds neither socket nor place.
        drop(stream);
        drop(place);
        debug!(connection.id, "disconnect of {}", connection.remote_ip);
        if let Some(script) = &server.hooks.disconnect {
            Box::pin(hooks::disconnect(script, &connection, &goodbye, &mut context)).await;
        }
    }
}
