//! The server side of a session as a pure machine.
//!
//! The driver loops over [`Server::next`]. An event that asks for a decision ([`Event::Helo`],
//! [`Event::Mail`], [`Event::Rcpt`], [`Event::Data`], [`Event::EndOfData`]) holds the machine until the
//! matching answer is given, so hooks of one connection never overlap and replies keep the order of the
//! commands (RFC 2920). Output is taken with [`Server::take_output`] and written before the driver waits
//! for input again.

mod auth;
mod command;
mod content;
mod envelope;
mod event;
mod input;
mod parameters;
mod settings;

use crate::content::DataDecoder;
use crate::reply::Reply;
use auth::Exchange;
pub use auth::{AuthAnswer, AuthRequest};
use command::Command;
pub use command::Parameter;
use content::Chunk;
pub use event::{DataSummary, Event, Helo};
use input::Input;
pub use parameters::{Extensions, MailFacts};
pub use settings::{AuthSettings, Proxied, Settings, TlsSettings};
use std::sync::Arc;

/// The longest command line, in octets with its CRLF; it covers AUTH's 12288 (RFC 4954 4).
pub const COMMAND_LINE_BYTES_MAX: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the greeting was written.
    New,
    Command,
    /// A decision is outstanding.
    AwaitProxy,
    AwaitHelo,
    AwaitTls,
    AwaitAuth,
    AwaitMail,
    AwaitRcpt,
    AwaitData,
    Content,
    Chunk,
    AwaitEnd,
    Closed,
}

/// A server session.
#[derive(Debug)]
pub struct Server {
    settings: Arc<Settings>,
    state: State,
    input: Input,
    output: Vec<u8>,
    extensions: Extensions,
    helo: Option<Helo>,
    /// The greeting under decision.
    pending_helo: Option<Helo>,
    tls: bool,
    peer_certificate: bool,
    /// The exchange that the next line belongs to.
    auth: Option<Exchange>,
    /// The exchange that is under decision.
    asked: Option<Exchange>,
    authenticated: bool,
    auth_failures: u32,
    /// A line that the proxy hook let through.
    passed: Option<Vec<u8>>,
    /// The proxy hook wants the next line, whatever it is.
    proxy_next: bool,
    mail: Option<MailFacts>,
    recipients: usize,
    recipients_tried: usize,
    messages: u64,
    errors: u32,
    decoder: Option<DataDecoder>,
    chunk: Option<Chunk>,
    /// The refusal of the chunk counts as a protocol error.
    chunk_error: bool,
    /// The content comes in chunks.
    chunked: bool,
    /// A chunk failed: only RSET helps.
    dead: bool,
    content: Vec<u8>,
    /// Events that follow without input.
    reset_due: bool,
    /// What the current reply answers, as scripts and logs name it.
    doing: &'static str,
    last_reply: Option<(Reply, &'static str)>,
    dialogue: Vec<String>,
}

impl Server {
    /// A session that has not greeted yet.
    pub fn new(settings: impl Into<Arc<Settings>>) -> Server {
        Server {
            settings: settings.into(),
            state: State::New,
            input: Input::default(),
            output: Vec::new(),
            extensions: Extensions::default(),
            helo: None,
            pending_helo: None,
            tls: false,
            peer_certificate: false,
            auth: None,
            asked: None,
            authenticated: false,
            auth_failures: 0,
            passed: None,
            proxy_next: false,
            mail: None,
            recipients: 0,
            recipients_tried: 0,
            messages: 0,
            errors: 0,
            decoder: None,
            chunk: None,
            chunk_error: false,
            chunked: false,
            dead: false,
            content: Vec::new(),
            reset_due: false,
            doing: "CONNECT",
            last_reply: None,
            dialogue: Vec::new(),
        }
    }

    /// Writes the 220 banner; `text` replaces `<hostname> ESMTP`.
    pub fn greet(&mut self, text: Option<&str>) {
        let default = format!("{} ESMTP", self.settings.hostname);
        self.doing = "BANNER";
        self.put(Reply::new(220, None, text.filter(|text| !text.is_empty()).unwrap_or(&default)));
        self.state = State::Command;
    }

    /// Takes what was read. The driver should not read while more than a few hundred KiB are waiting. While a
    /// handshake is due ([`Event::StartTls`]) anything that comes is a violation that ends the session.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.state == State::AwaitTls && !bytes.is_empty() {
            self.state = State::Closed;
        }
        if self.state != State::Closed {
            self.input.feed(bytes);
        }
    }

    /// Gives back memory while nothing is going on.
    pub fn relax(&mut self) {
        self.input.relax();
        if !self.is_receiving() && self.content.capacity() > 2048 {
            self.content = Vec::new();
        }
    }

    /// True when received bytes wait to be processed (early talkers, pipelining).
    pub fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// True while content is on its way in.
    pub fn is_receiving(&self) -> bool {
        matches!(self.state, State::Content | State::Chunk)
    }

    /// The output so far; the machine keeps none of it.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// The output so far, to be written and then cleared.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// The last reply written, with the command that it answers.
    pub fn last_reply(&self) -> Option<&(Reply, &'static str)> {
        self.last_reply.as_ref()
    }

    /// The lines of the dialogue since the last call, for a verbose log. What a client says in AUTH is left out.
    pub fn take_dialogue(&mut self) -> Vec<String> {
        std::mem::take(&mut self.dialogue)
    }

    /// The piece of content of [`Event::Content`].
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    /// The accepted greeting.
    pub fn session_helo(&self) -> Option<&Helo> {
        self.helo.as_ref()
    }

    /// The extensions that EHLO announces now unless the helo hook says otherwise.
    pub fn default_extensions(&self) -> Extensions {
        let mut left_out = Vec::new();
        if self.tls || !self.settings.tls.available {
            left_out.push("STARTTLS");
        }
        if !self.settings.auth.as_ref().is_some_and(|auth| self.tls || !auth.tls_only) {
            left_out.push("AUTH");
        }
        self.settings.extensions.without(&left_out)
    }

    /// The name of the command that is going on, as scripts and logs see it.
    pub fn phase(&self) -> &'static str {
        self.doing
    }

    /// Ends the session with a reply of the driver's own (time-out, shutdown, refusal).
    pub fn close_with(&mut self, reply: Reply) {
        self.put(reply);
        self.state = State::Closed;
    }

    /// What to do next.
    #[expect(clippy::should_implement_trait, reason = "a state machine, not an iterator")]
    pub fn next(&mut self) -> Event {
        loop {
            if std::mem::take(&mut self.reset_due) {
                return Event::Reset;
            }
            match self.state {
                State::Closed => return Event::Close,
                State::Command => match self.next_command() {
                    Some(event) => return event,
                    None if self.reset_due || self.state != State::Command => continue,
                    None => return Event::NeedInput,
                },
                State::Content => return self.next_content(),
                State::Chunk => match self.next_chunk() {
                    Some(event) => return event,
                    None => continue,
                },
                State::AwaitEnd if self.decoder.is_some() => return self.finish_content(),
                // The driver owes a decision; asking again changes nothing.
                _ => return Event::NeedInput,
            }
        }
    }

    /// Answers [`Event::Proxy`]: the line, or another one in its place, is processed. With `next` the hook sees
    /// the following line too.
    pub fn pass(&mut self, replacement: Option<Vec<u8>>, next: bool) {
        if self.state != State::AwaitProxy {
            return;
        }
        self.state = State::Command;
        self.proxy_next = next;
        if replacement.is_some() {
            self.passed = replacement;
        }
    }

    /// Answers [`Event::Proxy`]: the line is not processed. `next` as in [`pass`](Server::pass).
    pub fn proxy_reply(&mut self, reply: Reply, next: bool, disconnect: bool) {
        if self.state != State::AwaitProxy {
            return;
        }
        self.state = State::Command;
        self.proxy_next = next;
        self.passed = None;
        self.errors = 0;
        self.put_and(reply, disconnect);
    }

    /// Replaces the greeting that the session goes by, as the proxy hook wants it.
    pub fn set_helo(&mut self, helo: Helo) {
        self.helo = Some(helo);
    }

    /// Sets who the client is, as the proxy hook wants it.
    pub fn set_authenticated(&mut self, authenticated: bool) {
        self.authenticated = authenticated;
    }

    /// Tells that the handshake after [`Event::StartTls`], or before the greeting, succeeded. What was said before
    /// is forgotten (RFC 3207 4.2).
    pub fn tls_started(&mut self, peer_certificate: bool) {
        self.tls = true;
        self.peer_certificate = peer_certificate;
        if self.state != State::AwaitTls {
            return;
        }
        self.state = State::Command;
        self.input.clear();
        self.helo = None;
        self.authenticated = false;
        self.extensions = Extensions::default();
        self.proxy_next = false;
        if self.mail.is_some() {
            self.clear_transaction();
        }
    }

    /// Answers [`Event::Helo`]. A positive `reply` greets the session: its first line is followed by the
    /// items of `extensions` (EHLO only), which become the effective set. `host` replaces the stored name.
    pub fn helo(
        &mut self,
        reply: Reply,
        extensions: Option<Extensions>,
        host: Option<String>,
        disconnect: bool,
    ) {
        let Some(mut helo) = self.pending_helo.take() else { return };
        self.state = State::Command;
        if !reply.is_positive() {
            return self.put_and(reply, disconnect);
        }
        if let Some(host) = host {
            helo.host = host;
        }
        self.extensions = match extensions {
            _ if !helo.extended => Extensions::default(),
            Some(extensions) => extensions,
            None => self.default_extensions(),
        };
        let mut reply = Reply { enhanced: None, ..reply };
        reply.lines.extend(self.extensions.items().iter().map(|item| item.clone().into_bytes()));
        self.helo = Some(helo);
        if self.mail.is_some() {
            self.clear_transaction();
        }
        self.put(reply);
    }

    /// Answers [`Event::Mail`].
    pub fn mail(&mut self, reply: Reply, disconnect: bool) {
        if self.state != State::AwaitMail {
            return;
        }
        self.state = State::Command;
        if !reply.is_positive() {
            self.mail = None;
        }
        self.put_and(reply, disconnect);
    }

    /// Answers [`Event::Rcpt`].
    pub fn rcpt(&mut self, reply: Reply, disconnect: bool) {
        if self.state != State::AwaitRcpt {
            return;
        }
        self.state = State::Command;
        if reply.is_positive() {
            self.recipients += 1;
        }
        self.put_and(reply, disconnect);
    }

    /// Handles buffered commands until one needs a decision or the input ends.
    fn next_command(&mut self) -> Option<Event> {
        while self.state == State::Command && !self.reset_due {
            let line = match self.passed.take() {
                Some(line) => line,
                None => {
                    let line = self.take_line()?;
                    self.note_received(&line);
                    let asked = std::mem::take(&mut self.proxy_next);
                    if asked || (self.auth.is_none() && self.settings.proxied.wants(&line)) {
                        self.doing = "PROXY";
                        self.state = State::AwaitProxy;
                        self.passed = Some(line.clone());
                        return Some(Event::Proxy(line));
                    }
                    line
                }
            };
            let event = match self.auth.take() {
                Some(exchange) => self.auth_line(exchange, &line),
                None => self.command(&line),
            };
            if event.is_some() {
                return event;
            }
        }
        None
    }

    fn note_received(&mut self, line: &[u8]) {
        if !self.settings.verbose {
            return;
        }
        let secret = self.auth.is_some() || self.proxy_next;
        let is_auth = line.get(..4).is_some_and(|verb| verb.eq_ignore_ascii_case(b"AUTH"));
        let text = match (secret, is_auth) {
            (true, _) => "< (hidden)".to_owned(),
            (false, true) => "< AUTH (hidden)".to_owned(),
            (false, false) => format!("< {}", String::from_utf8_lossy(line)),
        };
        self.dialogue.push(text);
    }

    fn command(&mut self, line: &[u8]) -> Option<Event> {
        let command = command::parse(line);
        self.doing = command.name();
        match command {
            Command::Helo { extended, host } => return self.helo_command(extended, host),
            Command::Mail(argument) => return self.mail_command(argument),
            Command::Rcpt(argument) => return self.rcpt_command(argument),
            Command::Data => return self.data_command(),
            Command::Bdat(argument) => return self.bdat_command(argument),
            Command::StartTls => return self.starttls_command(),
            Command::Auth(argument) => return self.auth_command(argument),
            Command::Rset => {
                self.clear_transaction();
                self.ok(Reply::fixed(250, (2, 0, 0), "Ok"));
            }
            Command::Noop => self.ok(Reply::fixed(250, (2, 0, 0), "Ok")),
            Command::Vrfy(_) => self.ok(Reply::fixed(
                252,
                (2, 1, 5),
                "Cannot VRFY user, but will accept message and attempt delivery",
            )),
            Command::Help => self.ok(Reply::fixed(214, (2, 0, 0), "See RFC 5321")),
            Command::Quit => {
                self.ok(Reply::fixed(221, (2, 0, 0), "Bye"));
                self.state = State::Closed;
            }
            Command::Expn | Command::NotOffered => {
                self.protocol_error(Reply::fixed(502, (5, 5, 1), "Command not implemented"));
            }
            Command::Foreign => {
                self.put(Reply::fixed(421, (4, 7, 0), "Protocol violation: this is an SMTP server"));
                self.state = State::Closed;
            }
            Command::BadArgument => {
                self.protocol_error(Reply::fixed(501, (5, 5, 4), "Syntax error in command argument"));
            }
            Command::Unknown => self.protocol_error(Reply::fixed(500, (5, 5, 2), "Command not recognized")),
        }
        None
    }

    fn helo_command(&mut self, extended: bool, host: &[u8]) -> Option<Event> {
        if !command::is_valid_host(host) {
            self.protocol_error(Reply::fixed(501, (5, 5, 4), "Syntax error in host name"));
            return None;
        }
        let helo = Helo { extended, host: String::from_utf8_lossy(host).into_owned() };
        self.pending_helo = Some(helo.clone());
        self.state = State::AwaitHelo;
        self.errors = 0;
        Some(Event::Helo(helo))
    }

    fn starttls_command(&mut self) -> Option<Event> {
        if self.tls {
            self.protocol_error(Reply::fixed(503, (5, 5, 1), "TLS is already active"));
        } else if !self.extensions.has("STARTTLS") {
            self.protocol_error(Reply::fixed(502, (5, 5, 1), "Command not implemented"));
        } else if !self.settings.tls.available {
            self.protocol_error(Reply::fixed(454, (4, 7, 0), "TLS not available"));
        } else {
            self.put(Reply::fixed(220, (2, 0, 0), "Ready to start TLS"));
            if self.has_input() {
                // Commands behind STARTTLS would be taken for protected ones by nobody: the session is over.
                self.input.clear();
                self.state = State::Closed;
                return None;
            }
            self.state = State::AwaitTls;
            return Some(Event::StartTls);
        }
        None
    }

    fn clear_transaction(&mut self) {
        self.mail = None;
        self.recipients = 0;
        self.recipients_tried = 0;
        self.decoder = None;
        self.chunk = None;
        self.chunked = false;
        self.dead = false;
        self.reset_due = true;
    }

    fn ok(&mut self, reply: Reply) {
        self.errors = 0;
        self.put(reply);
    }

    fn protocol_error(&mut self, reply: Reply) {
        self.put(reply);
        self.errors += 1;
        if self.settings.errors_max > 0 && self.errors >= self.settings.errors_max {
            self.put(Reply::fixed(421, (4, 7, 0), "Too many errors"));
            self.state = State::Closed;
        }
    }

    fn put_and(&mut self, reply: Reply, disconnect: bool) {
        self.put(reply);
        if disconnect {
            self.state = State::Closed;
        }
    }

    fn put(&mut self, reply: Reply) {
        let before = self.output.len();
        reply.write(&mut self.output);
        self.note_sent(before);
        self.last_reply = Some((reply, self.doing));
    }

    /// A reply of one line, whatever its length.
    fn put_line(&mut self, code: u16, text: &[u8]) {
        let before = self.output.len();
        self.output.extend_from_slice(code.to_string().as_bytes());
        self.output.push(b' ');
        self.output.extend_from_slice(text);
        self.output.extend_from_slice(b"\r\n");
        self.note_sent(before);
        self.last_reply = Some((Reply::new(code, None, text), self.doing));
    }

    fn note_sent(&mut self, from: usize) {
        if self.settings.verbose {
            let text = String::from_utf8_lossy(&self.output[from..]);
            self.dialogue.extend(text.lines().map(|line| format!("> {line}")));
        }
    }
}
