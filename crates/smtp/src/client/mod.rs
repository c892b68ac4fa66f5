//! The client side of a session as a pure machine, for SMTP (RFC 5321) and LMTP (RFC 2033).
//!
//! The driver connects, then loops over [`Client::next`]: it writes [`Client::take_output`], reads when
//! asked (with the time-out of the named [`State`]), performs the TLS handshake when told, hands in one
//! [`Envelope`] when the session is ready and streams the content when it is invited to. How a transaction
//! ended is told by [`Event::Finished`]; errors of the connection itself are the driver's to report.

mod outcome;

use crate::content::DataEncoder;
use crate::reply::{Enhanced, Reply, ReplyReader};
use mail::Address;
pub use outcome::{Failure, Outcome, State};
use std::collections::VecDeque;

/// SMTP or LMTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// RFC 5321.
    #[default]
    Smtp,
    /// RFC 2033: LHLO, and one reply per recipient after the content.
    Lmtp,
}

/// How much STARTTLS is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StartTls {
    /// Not even when announced.
    Never,
    /// When announced.
    #[default]
    Optional,
    /// Without it nothing is sent.
    Required,
}

/// What a session is to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// SMTP or LMTP.
    pub protocol: Protocol,
    /// Argument of EHLO, HELO or LHLO.
    pub helo: String,
    /// Use PIPELINING when announced.
    pub pipelining: bool,
    /// Use STARTTLS.
    pub starttls: StartTls,
}

/// One transaction: a sender and one recipient.
#[derive(Clone, Debug, Default)]
pub struct Envelope {
    /// Reverse path; both parts empty for the null sender.
    pub sender: Address,
    /// Forward path.
    pub recipient: Address,
    /// Octets of the content, for SIZE.
    pub bytes: u64,
    /// The content has bytes above 127.
    pub has_8bit: bool,
    /// The header needs SMTPUTF8.
    pub needs_smtputf8: bool,
    /// DSN parameters for MAIL (`RET`, `ENVID`), sent when DSN is announced.
    pub dsn_mail: Vec<(String, String)>,
    /// DSN parameters for RCPT (`NOTIFY`, `ORCPT`), sent when DSN is announced.
    pub dsn_rcpt: Vec<(String, String)>,
    /// Further MAIL parameters, sent as they are.
    pub mail_parameters: Vec<(String, String)>,
    /// Further RCPT parameters, sent as they are.
    pub rcpt_parameters: Vec<(String, String)>,
}

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

/// What the server announced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// PIPELINING.
    pub pipelining: bool,
    /// 8BITMIME.
    pub eightbit: bool,
    /// SMTPUTF8.
    pub smtputf8: bool,
    /// STARTTLS.
    pub starttls: bool,
    /// DSN.
    pub dsn: bool,
    /// SIZE: the limit in octets, 0 = none named.
    pub size: Option<u64>,
}

impl Announced {
    fn read(reply: &Reply) -> Announced {
        let mut announced = Announced::default();
        for line in reply.lines.iter().skip(1) {
            let line = String::from_utf8_lossy(line);
            let mut words = line.split_ascii_whitespace();
            match words.next().unwrap_or_default().to_ascii_uppercase().as_str() {
                "PIPELINING" => announced.pipelining = true,
                "8BITMIME" => announced.eightbit = true,
                "SMTPUTF8" => announced.smtputf8 = true,
                "STARTTLS" => announced.starttls = true,
                "DSN" => announced.dsn = true,
                "SIZE" => announced.size = Some(words.next().and_then(|n| n.parse().ok()).unwrap_or(0)),
                _ => {}
            }
        }
        announced
    }
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
    transactions: u32,
    /// The session cannot take another transaction.
    broken: bool,
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
        Client {
            settings,
            reader: ReplyReader::default(),
            output: Vec::new(),
            expected: VecDeque::from([State::Banner]),
            phase: Phase::Greeting,
            announced: Announced::default(),
            tls_active: false,
            greeting: None,
            outcome: None,
            envelope: None,
            encoder: DataEncoder::default(),
            transactions: 0,
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

    /// True when the session may carry another transaction.
    pub fn is_reusable(&self) -> bool {
        matches!(self.phase, Phase::Idle | Phase::Ready) && !self.broken && !self.reader.has_pending()
    }

    /// The handshake succeeded; everything learnt before it is forgotten (RFC 3207 4.2).
    pub fn tls_started(&mut self) {
        self.tls_active = true;
        self.announced = Announced::default();
        self.reader = ReplyReader::default();
        self.command(State::Ehlo, &format!("{} {}", self.hello_verb(), self.settings.helo));
        self.phase = Phase::Greeting;
    }

    /// Begins a transaction; only after [`Event::Ready`].
    pub fn send(&mut self, envelope: Envelope) {
        if !matches!(self.phase, Phase::Idle | Phase::Ready) {
            return;
        }
        self.phase = Phase::Envelope;
        self.outcome = None;
        let (mail, rcpt) = match self.transaction_commands(&envelope) {
            Ok(commands) => commands,
            Err(outcome) => {
                self.outcome = Some(outcome);
                return;
            }
        };
        if self.transactions > 0 {
            self.command(State::Rset, "RSET");
        }
        self.transactions += 1;
        self.command(State::Mail, &mail);
        if self.can_pipeline() {
            self.command(State::Rcpt, &rcpt);
            self.command(State::Data, "DATA");
        }
        self.envelope = Some(envelope);
    }

    /// Ends the session politely; the reply need not be waited for.
    pub fn quit(&mut self) {
        self.output.extend_from_slice(b"QUIT\r\n");
        self.phase = Phase::Closed;
    }

    /// Encodes a piece of content into the output.
    pub fn content(&mut self, bytes: &[u8]) {
        self.encoder.encode(bytes, &mut self.output);
    }

    /// The content is complete.
    pub fn end_content(&mut self) {
        self.encoder.finish(&mut self.output);
        self.expected.push_back(State::Eod);
        self.phase = Phase::AwaitEnd;
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
        if reply.code == 421 {
            self.broken = true;
            self.phase = Phase::Closed;
            let outcome = Outcome { state, result: Ok(reply) };
            return Some(Event::Finished(self.outcome.take().unwrap_or(outcome)));
        }
        match (state, reply.class()) {
            (State::Banner, 2) => {
                self.greeting = Some(reply);
                self.command(State::Ehlo, &format!("{} {}", self.hello_verb(), self.settings.helo));
            }
            (State::Ehlo, 2) => return self.greeted(Announced::read(&reply)),
            (State::Ehlo, 5) if self.may_fall_back() => {
                self.command(State::Helo, &format!("HELO {}", self.settings.helo));
            }
            (State::Helo, 2) => return self.greeted(Announced::default()),
            (State::StartTls, 2) => self.phase = Phase::Handshake,
            (State::StartTls, 4 | 5) if self.settings.starttls != StartTls::Required => {
                self.phase = Phase::Ready;
            }
            (State::StartTls, 4 | 5) => {
                return Some(self.fail_session(state, Failure::TlsRefused(reply.to_string())));
            }
            (State::Rset, _) => {}
            (State::Mail, 2) => self.after_mail(),
            (State::Rcpt, 2) => {
                if self.expected.is_empty() {
                    self.command(State::Data, "DATA");
                }
            }
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
            (State::Mail | State::Rcpt | State::Data, 4 | 5) => {
                if self.outcome.is_none() {
                    self.outcome = Some(Outcome { state, result: Ok(reply) });
                }
            }
            (State::Banner | State::Ehlo | State::Helo, 4 | 5) => {
                self.broken = true;
                self.output.extend_from_slice(b"QUIT\r\n");
                self.phase = Phase::Closed;
                return Some(Event::Finished(Outcome { state, result: Ok(reply) }));
            }
            _ => {
                let failure = Failure::Protocol(format!("unexpected reply '{reply}' in state {state}"));
                return Some(self.fail_session(state, failure));
            }
        }
        None
    }

    fn greeted(&mut self, announced: Announced) -> Option<Event> {
        self.announced = announced;
        if self.tls_active || self.settings.starttls == StartTls::Never {
            self.phase = Phase::Ready;
        } else if self.announced.starttls {
            self.command(State::StartTls, "STARTTLS");
        } else if self.settings.starttls == StartTls::Required {
            let failure = Failure::TlsRefused("STARTTLS not announced".to_owned());
            return Some(self.fail_session(State::Ehlo, failure));
        } else {
            self.phase = Phase::Ready;
        }
        None
    }

    fn after_mail(&mut self) {
        if !self.expected.is_empty() {
            return;
        }
        if let Some(Ok((_, rcpt))) =
            self.envelope.as_ref().map(|envelope| self.transaction_commands(envelope))
        {
            self.command(State::Rcpt, &rcpt);
        }
    }

    /// No reply is due any more: the transaction is over.
    fn finish(&mut self) -> Event {
        self.envelope = None;
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

    fn hello_verb(&self) -> &'static str {
        match self.settings.protocol {
            Protocol::Smtp => "EHLO",
            Protocol::Lmtp => "LHLO",
        }
    }

    fn may_fall_back(&self) -> bool {
        self.settings.protocol == Protocol::Smtp
            && self.settings.starttls != StartTls::Required
            && !self.tls_active
    }

    fn can_pipeline(&self) -> bool {
        self.settings.pipelining && self.announced.pipelining
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
