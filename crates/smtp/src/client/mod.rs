//! The client side of a session as a pure machine, for SMTP (RFC 5321) and LMTP (RFC 2033).
//!
//! The driver connects, then loops over [`Client::next`]: it writes [`Client::take_output`], reads when
//! asked (with the time-out of the named [`State`]), performs the TLS handshake when told, hands in one
//! [`Envelope`] when the session is ready and streams the content when it is invited to. How a transaction
//! ended is told by [`Event::Finished`]; errors of the connection itself are the driver's to report.

mod login;
mod outcome;
mod settings;

use crate::content::DataEncoder;
use crate::reply::{Enhanced, Reply, ReplyReader};
use mail::Address;
pub use outcome::{Failure, Outcome, State};
pub use settings::{Announced, Credentials, Envelope, Protocol, Settings, StartTls};
use std::collections::VecDeque;

/// Content is sent in chunks of this size where BDAT is used, octets.
const CHUNK_BYTES: usize = 1 << 20;

/// What the driver has to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Write the output, then read with the time-out of this state.
    NeedInput(State),
    /// Shake hands, then call [`Client::tls_started`]; a failed handshake ends the connection.
    StartTls,
    /// The session is open: call [`Client::send`] or [`Client::quit`].
    Ready,
    /// Write the content through [`Client::content`], then call [`Client::end_content`].
    SendContent,
    /// The transaction (or, before one began, the session) ended so.
    Finished(Outcome),
    /// Write the output, then close.
    Close,
}

/// A client session.
#[derive(Debug)]
pub struct Client {
    settings: Settings,
    reader: ReplyReader,
    output: Vec<u8>,
    /// Replies that are due, in the order of the commands written.
    expected: VecDeque<State>,
    phase: Phase,
    announced: Announced,
    tls_active: bool,
    greeting: Option<Reply>,
    /// The outcome of the running transaction once it is known, while further replies are still due.
    outcome: Option<Outcome>,
    envelope: Option<Envelope>,
    encoder: DataEncoder,
    /// Content that is not a whole chunk yet, where BDAT is used.
    chunk: Vec<u8>,
    transactions: u32,
    /// What comes before the first transaction and is done once.
    done: Once,
    /// A reply to MAIL, or to what follows it, was read in this transaction.
    mail_answered: bool,
    /// The session cannot take another transaction.
    broken: bool,
}

/// Steps of a session that are taken once.
#[derive(Clone, Copy, Debug, Default)]
struct Once {
    starttls: bool,
    xclient: bool,
    auth: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Greeting,
    Handshake,
    /// Event::Ready is due.
    Ready,
    /// Ready was told; nothing to do until the driver acts.
    Idle,
    Envelope,
    /// Event::SendContent is due or being followed.
    Content,
    AwaitEnd,
    Closed,
}

impl Client {
    /// A session whose connection was just opened.
    pub fn new(settings: Settings) -> Client {
        let tls_active = settings.implicit_tls;
        Client {
            settings,
            reader: ReplyReader::default(),
            output: Vec::new(),
            expected: VecDeque::from([State::Banner]),
            phase: Phase::Greeting,
            announced: Announced::default(),
            tls_active,
            greeting: None,
            outcome: None,
            envelope: None,
            encoder: DataEncoder::default(),
            chunk: Vec::new(),
            transactions: 0,
            done: Once::default(),
            mail_answered: false,
            broken: false,
        }
    }

    /// Takes what was read.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.reader.feed(bytes);
    }

    /// The output so far.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// The output so far, to be written and then cleared.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// The state whose reply is due, for reports and time-outs.
    pub fn state(&self) -> State {
        self.expected.front().copied().unwrap_or(match self.phase {
            Phase::Greeting => State::Banner,
            Phase::Handshake => State::StartTls,
            Phase::Content if self.uses_chunks() => State::Bdat,
            Phase::Content => State::Data,
            Phase::AwaitEnd => State::Eod,
            Phase::Envelope => State::Mail,
            Phase::Ready | Phase::Idle | Phase::Closed => State::Quit,
        })
    }

    /// The 220 greeting, once read.
    pub fn greeting(&self) -> Option<&Reply> {
        self.greeting.as_ref()
    }

    /// What the last EHLO announced.
    pub fn announced(&self) -> &Announced {
        &self.announced
    }

    /// True after a completed handshake.
    pub fn is_tls(&self) -> bool {
        self.tls_active
    }

    /// Transactions begun so far.
    pub fn transactions(&self) -> u32 {
        self.transactions
    }

    /// True once the peer has answered MAIL in this transaction: it was alive, and what it said counts.
    pub fn mail_answered(&self) -> bool {
        self.mail_answered
    }

    /// True when the session may carry another transaction.
    pub fn is_reusable(&self) -> bool {
        matches!(self.phase, Phase::Idle | Phase::Ready) && !self.broken && !self.reader.has_pending()
    }

    /// The handshake succeeded; everything learnt before it is forgotten (RFC 3207 4.2).
    pub fn tls_started(&mut self) {
        self.tls_active = true;
        self.announced = Announced::default();
        self.reader = ReplyReader::default();
        self.say_hello();
        self.phase = Phase::Greeting;
    }

    /// Begins a transaction; only after [`Event::Ready`].
    pub fn send(&mut self, envelope: Envelope) {
        if !matches!(self.phase, Phase::Idle | Phase::Ready) {
            return;
        }
        self.phase = Phase::Envelope;
        self.outcome = None;
        self.mail_answered = false;
        let (mail, rcpt) = match self.transaction_commands(&envelope) {
            Ok(commands) => commands,
            Err(outcome) => {
                self.outcome = Some(outcome);
                return;
            }
        };
        let is_first = self.transactions == 0;
        self.transactions += 1;
        self.envelope = Some(envelope);
        if !is_first {
            self.command(State::Rset, "RSET");
            if !self.can_pipeline() {
                return;
            }
        }
        self.command(State::Mail, &mail);
        if self.can_pipeline() {
            self.command(State::Rcpt, &rcpt);
            // A chunk is content: it is not sent before the recipient is taken.
            if !self.uses_chunks() {
                self.command(State::Data, "DATA");
            }
        }
    }

    /// Ends the session politely; the reply need not be waited for.
    pub fn quit(&mut self) {
        self.output.extend_from_slice(b"QUIT\r\n");
        self.phase = Phase::Closed;
    }

    /// Encodes a piece of content into the output.
    pub fn content(&mut self, bytes: &[u8]) {
        if !self.uses_chunks() {
            return self.encoder.encode(bytes, &mut self.output);
        }
        for piece in bytes.chunks(CHUNK_BYTES) {
            self.encoder.encode_lines(piece, &mut self.chunk);
            if self.chunk.len() >= CHUNK_BYTES {
                self.send_chunk(State::Bdat);
            }
        }
    }

    /// The content is complete.
    pub fn end_content(&mut self) {
        if self.uses_chunks() {
            self.encoder.finish_lines(&mut self.chunk);
            self.send_chunk(State::Eod);
        } else {
            self.encoder.finish(&mut self.output);
            self.expected.push_back(State::Eod);
        }
        self.phase = Phase::AwaitEnd;
    }

    fn send_chunk(&mut self, state: State) {
        let last = if state == State::Eod { " LAST" } else { "" };
        self.command(state, &format!("BDAT {}{last}", self.chunk.len()));
        self.output.append(&mut self.chunk);
    }

    /// The peer closed the connection.
    pub fn peer_closed(&mut self) -> Outcome {
        let state = self.state();
        self.broken = true;
        self.phase = Phase::Closed;
        self.outcome.take().unwrap_or(Outcome {
            state,
            result: Err(Failure::Closed("connection closed by peer".to_owned())),
        })
    }

    /// While content is still being written: how the transaction ended, if the peer has said so already.
    pub fn early_end(&mut self) -> Option<Outcome> {
        loop {
            let reply = self.reader.next_reply().ok()??;
            let state = self.expected.pop_front().unwrap_or(if self.uses_chunks() {
                State::Bdat
            } else {
                State::Eod
            });
            if matches!(reply.class(), 4 | 5) {
                self.broken = true;
                self.phase = Phase::Closed;
                return Some(Outcome { state, result: Ok(reply) });
            }
        }
    }

    /// What to do next.
    #[expect(clippy::should_implement_trait, reason = "a state machine, not an iterator")]
    pub fn next(&mut self) -> Event {
        loop {
            match self.phase {
                Phase::Closed => return Event::Close,
                Phase::Ready => {
                    self.phase = Phase::Idle;
                    return Event::Ready;
                }
                Phase::Handshake => return Event::StartTls,
                Phase::Content => return Event::SendContent,
                Phase::Envelope | Phase::AwaitEnd if self.expected.is_empty() => {
                    return self.finish();
                }
                _ => {}
            }
            let reply = match self.reader.next_reply() {
                Ok(Some(reply)) => reply,
                Ok(None) => return Event::NeedInput(self.state()),
                Err(error) => {
                    let state = self.state();
                    self.broken = true;
                    self.phase = Phase::Closed;
                    let outcome = Outcome { state, result: Err(Failure::Protocol(error.to_string())) };
                    return Event::Finished(self.outcome.take().unwrap_or(outcome));
                }
            };
            let Some(state) = self.expected.pop_front() else {
                // A reply nobody asked for: usually a 421 on an idle connection.
                self.broken = true;
                self.phase = Phase::Closed;
                return Event::Close;
            };
            if let Some(event) = self.reply(state, reply) {
                return event;
            }
        }
    }

    fn reply(&mut self, state: State, reply: Reply) -> Option<Event> {
        // A server that is about to close says so to whatever comes next, so that 421 is no answer to MAIL.
        if matches!(state, State::Mail) && reply.code != 421 {
            self.mail_answered = true;
        }
        if reply.code == 421 {
            self.broken = true;
            self.phase = Phase::Closed;
            let outcome = Outcome { state, result: Ok(reply) };
            return Some(Event::Finished(self.outcome.take().unwrap_or(outcome)));
        }
        match (state, reply.class()) {
            (State::Banner, 2) => {
                self.greeting = Some(reply);
                self.say_hello();
            }
            (State::Ehlo | State::Lhlo, 2) => return self.greeted(Announced::read(&reply)),
            (State::Ehlo, 5) if self.may_fall_back() => {
                self.command(State::Helo, &format!("HELO {}", self.settings.helo));
            }
            (State::Helo, 2) => return self.greeted(Announced::default()),
            // RFC 3207 4.2: what was sent before the handshake is not trusted.
            (State::StartTls, 2) if self.reader.has_pending() => {
                let failure = Failure::TlsRefused("text behind the reply to STARTTLS".to_owned());
                return Some(self.fail_session(state, failure));
            }
            (State::StartTls, 2) => self.phase = Phase::Handshake,
            (State::StartTls, 4 | 5) if self.settings.starttls != StartTls::Required => {
                return self.identify();
            }
            (State::StartTls, 4 | 5) => {
                return Some(self.fail_session(state, Failure::TlsRefused(reply.to_string())));
            }
            // The server says the session anew, as after a greeting.
            (State::Xclient, 2) => self.say_hello(),
            (
                State::AuthCramMd5 | State::AuthPlain | State::AuthLogin | State::AuthLoginUser | State::Auth,
                2 | 3,
            ) => return self.authenticate(state, &reply),
            (State::Rset, 2) => {
                if self.expected.is_empty()
                    && let Some(Ok((mail, _))) = self.current_commands()
                {
                    self.command(State::Mail, &mail);
                }
            }
            (State::Mail, 2) => self.after_mail(),
            (State::Rcpt, 2) => {
                if self.uses_chunks() {
                    if self.outcome.is_none() {
                        self.phase = Phase::Content;
                    }
                } else if self.expected.is_empty() {
                    self.command(State::Data, "DATA");
                }
            }
            (State::Bdat, 2) => {}
            (State::Data, 3) if self.outcome.is_none() => self.phase = Phase::Content,
            (State::Data, 3) => {
                // The envelope was refused after DATA had been pipelined: an empty message ends it
                // (RFC 2920 3.1).
                self.output.extend_from_slice(b".\r\n");
                self.expected.push_back(State::Eod);
                self.phase = Phase::AwaitEnd;
            }
            (State::Eod, _) if self.outcome.is_some() => {}
            (State::Eod, 2 | 4 | 5) => self.outcome = Some(Outcome { state, result: Ok(reply) }),
            (State::Mail | State::Rcpt | State::Data | State::Bdat, 4 | 5) => {
                if self.outcome.is_none() {
                    self.outcome = Some(Outcome { state, result: Ok(reply) });
                }
            }
            (
                State::Banner
                | State::Ehlo
                | State::Lhlo
                | State::Helo
                | State::Xclient
                | State::AuthCramMd5
                | State::AuthPlain
                | State::AuthLogin
                | State::AuthLoginUser
                | State::Auth
                | State::Rset,
                4 | 5,
            ) => return Some(self.refused(state, reply)),
            _ => {
                let failure = Failure::Protocol(format!("unexpected reply '{reply}' in state {state}"));
                return Some(self.fail_session(state, failure));
            }
        }
        None
    }

    fn greeted(&mut self, announced: Announced) -> Option<Event> {
        self.announced = announced;
        if self.tls_active || self.done.starttls || self.settings.starttls == StartTls::Never {
            self.identify()
        } else if self.announced.starttls {
            self.done.starttls = true;
            self.command(State::StartTls, "STARTTLS");
            None
        } else if self.settings.starttls == StartTls::Required {
            let failure = Failure::TlsNotOffered("STARTTLS not announced".to_owned());
            Some(self.fail_session(State::Ehlo, failure))
        } else {
            self.identify()
        }
    }

    fn after_mail(&mut self) {
        if !self.expected.is_empty() {
            return;
        }
        if let Some(Ok((_, rcpt))) = self.current_commands() {
            self.command(State::Rcpt, &rcpt);
        }
    }

    fn current_commands(&self) -> Option<Result<(String, String), Outcome>> {
        self.envelope.as_ref().map(|envelope| self.transaction_commands(envelope))
    }

    fn say_hello(&mut self) {
        let (state, verb) = match self.settings.protocol {
            Protocol::Smtp => (State::Ehlo, "EHLO"),
            Protocol::Lmtp => (State::Lhlo, "LHLO"),
        };
        self.command(state, &format!("{verb} {}", self.settings.helo));
    }

    /// No reply is due any more: the transaction is over.
    fn finish(&mut self) -> Event {
        self.envelope = None;
        self.chunk = Vec::new();
        match self.outcome.take() {
            Some(outcome) => {
                self.phase = Phase::Idle;
                Event::Finished(outcome)
            }
            None => self.fail_session(State::Mail, Failure::Protocol("dialogue out of step".to_owned())),
        }
    }

    fn fail_session(&mut self, state: State, failure: Failure) -> Event {
        self.broken = true;
        self.phase = Phase::Closed;
        self.output.extend_from_slice(b"QUIT\r\n");
        let outcome = Outcome { state, result: Err(failure) };
        Event::Finished(self.outcome.take().unwrap_or(outcome))
    }

    fn may_fall_back(&self) -> bool {
        self.settings.protocol == Protocol::Smtp
            && self.settings.starttls != StartTls::Required
            && !self.tls_active
    }

    fn can_pipeline(&self) -> bool {
        self.settings.pipelining && self.announced.pipelining
    }

    /// Chunks are written one after the other without waiting, so they need PIPELINING too.
    fn uses_chunks(&self) -> bool {
        self.settings.chunking && self.announced.chunking && self.can_pipeline()
    }

    /// The MAIL and RCPT lines, or the outcome where the server's limits make sending pointless.
    fn transaction_commands(&self, envelope: &Envelope) -> Result<(String, String), Outcome> {
        let refuse = |code, enhanced: Enhanced, text: &str| Outcome {
            state: State::Mail,
            result: Err(Failure::Engine(Reply::new(code, Some(enhanced), text))),
        };
        if let Some(limit) = self.announced.size.filter(|&limit| limit > 0 && envelope.bytes > limit) {
            let text =
                format!("Message of {} bytes exceeds the size limit {limit} of the server", envelope.bytes);
            return Err(refuse(552, Enhanced(5, 3, 4), &text));
        }
        let addresses = [&envelope.sender, &envelope.recipient];
        let ascii = addresses.iter().all(|a| a.localpart.is_ascii() && a.domain.is_ascii());
        let smtputf8 = self.announced.smtputf8 && (envelope.needs_smtputf8 || !ascii);
        let path = |address: &Address| -> Result<String, Outcome> {
            if smtputf8 || (address.localpart.is_ascii() && address.domain.is_ascii()) {
                return Ok(address.to_string());
            }
            let text = "Address needs SMTPUTF8, which the server does not offer";
            if !address.localpart.is_ascii() {
                return Err(refuse(553, Enhanced(5, 6, 7), text));
            }
            let domain = mail::address::domain_to_ascii(&address.domain)
                .map_err(|_| refuse(553, Enhanced(5, 6, 7), text))?;
            Ok(Address { localpart: address.localpart.clone(), domain }.to_string())
        };
        let mut mail = format!("MAIL FROM:<{}>", path(&envelope.sender)?);
        if self.announced.size.is_some() {
            mail.push_str(&format!(" SIZE={}", envelope.bytes));
        }
        if self.announced.eightbit && envelope.has_8bit {
            mail.push_str(" BODY=8BITMIME");
        }
        if smtputf8 {
            mail.push_str(" SMTPUTF8");
        }
        let mut rcpt = format!("RCPT TO:<{}>", path(&envelope.recipient)?);
        if self.announced.dsn {
            push_parameters(&mut mail, &envelope.dsn_mail);
            push_parameters(&mut rcpt, &envelope.dsn_rcpt);
        }
        push_parameters(&mut mail, &envelope.mail_parameters);
        push_parameters(&mut rcpt, &envelope.rcpt_parameters);
        Ok((mail, rcpt))
    }

    fn command(&mut self, state: State, line: &str) {
        // A line break in an address or a parameter would be a second command.
        self.output.extend(line.bytes().filter(|&b| b != b'\r' && b != b'\n' && b != 0));
        self.output.extend_from_slice(b"\r\n");
        self.expected.push_back(state);
    }
}

fn push_parameters(line: &mut String, parameters: &[(String, String)]) {
    for (keyword, value) in parameters {
        line.push(' ');
        line.push_str(keyword);
        if !value.is_empty() {
            line.push('=');
            line.push_str(value);
        }
    }
}

/// An address for an [`Envelope`] from its usual spelling; an empty text is the null sender.
///
/// # Errors
/// The text is no address.
pub fn address(text: &str) -> Result<Address, mail::AddressError> {
    Address::parse(text)
}
