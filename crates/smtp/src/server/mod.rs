//! The server side of a session as a pure machine.
//!
//! The driver loops over [`Server::next`]. An event that asks for a decision ([`Event::Helo`],
//! [`Event::Mail`], [`Event::Rcpt`], [`Event::Data`], [`Event::EndOfData`]) holds the machine until the
//! matching answer is given, so hooks of one connection never overlap and replies keep the order of the
//! commands (RFC 2920). Output is taken with [`Server::take_output`] and written before the driver waits
//! for input again.

mod command;
mod parameters;

use crate::content::{BareLineFeed, DataDecoder};
use crate::reply::{Enhanced, Reply};
pub use command::Parameter;
use command::{Command, PathError};
use mail::Address;
use parameters::ParameterError;
pub use parameters::{Extensions, MailFacts};

/// The longest command line, in octets with its CRLF; it covers AUTH's 12288 (RFC 4954 4).
pub const COMMAND_LINE_BYTES_MAX: usize = 16 * 1024;

/// How much decoded content is handed out at once, in octets.
const CONTENT_BYTES_MAX: usize = 256 * 1024;

/// What a server allows; from `servers[]` of the running configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name in the greeting and the HELO reply.
    pub hostname: String,
    /// `phases.data.maxsize`, octets, 0 = no limit.
    pub size_max: u64,
    /// `phases.data.maxhops`, Received fields, 0 = no limit.
    pub hops_max: u32,
    /// `phases.data.maxlinelength`, octets, 0 = no limit.
    pub data_line_bytes_max: u64,
    /// `phases.data.barelinefeed`.
    pub bare_line_feed: BareLineFeed,
    /// `phases.rcptto.maxrecipients`.
    pub recipients_max: usize,
    /// `phases.mailfrom.maxmessages`, 0 = no limit.
    pub messages_max: u64,
    /// `maxerrors`: protocol errors in a row, 0 = no limit.
    pub errors_max: u32,
    /// `phases.helo.required`.
    pub helo_required: bool,
    /// Announced by default after EHLO, in order.
    pub extensions: Extensions,
}

impl Settings {
    /// The documented defaults.
    pub fn new(hostname: impl Into<String>) -> Settings {
        let size_max: u64 = 50 * 1024 * 1024;
        Settings {
            hostname: hostname.into(),
            size_max,
            hops_max: 100,
            data_line_bytes_max: 0,
            bare_line_feed: BareLineFeed::Normalize,
            recipients_max: 1000,
            messages_max: 0,
            errors_max: 20,
            helo_required: true,
            extensions: Extensions::new([
                "PIPELINING".to_owned(),
                format!("SIZE {size_max}"),
                "8BITMIME".to_owned(),
                "SMTPUTF8".to_owned(),
                "ENHANCEDSTATUSCODES".to_owned(),
            ]),
        }
    }
}

/// The greeting command of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Helo {
    /// True for EHLO.
    pub extended: bool,
    /// The argument as sent (lossy UTF-8).
    pub host: String,
}

/// What was seen of a message while it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataSummary {
    /// Octets of content.
    pub bytes: u64,
    /// The content has bytes above 127.
    pub has_8bit: bool,
    /// The content has NUL bytes.
    pub has_nul: bool,
}

/// What the driver has to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Write the output, then read more.
    NeedInput,
    /// Decide with [`Server::helo`].
    Helo(Helo),
    /// Decide with [`Server::mail`].
    Mail {
        /// The sender; both parts empty for the null sender.
        address: Address,
        /// Validated parameters.
        parameters: Vec<Parameter>,
        /// What the parameters say.
        facts: MailFacts,
    },
    /// Decide with [`Server::rcpt`].
    Rcpt {
        /// The recipient.
        address: Address,
        /// Validated parameters.
        parameters: Vec<Parameter>,
    },
    /// A message is about to come: answer with [`Server::data`].
    Data,
    /// A piece of content is in [`Server::content`], to be stored before the next call.
    Content,
    /// The end of data; decide with [`Server::end_of_data`].
    EndOfData(DataSummary),
    /// The message broke a limit and was answered already; drop what was stored of it.
    DataRefused(Reply),
    /// The open transaction is over (RSET, HELO, or a finished message).
    Reset,
    /// Write the output, then close the connection.
    Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the greeting was written.
    New,
    Command,
    /// A decision is outstanding.
    AwaitHelo,
    AwaitMail,
    AwaitRcpt,
    AwaitData,
    Content,
    AwaitEnd,
    Closed,
}

/// A server session.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    state: State,
    input: Vec<u8>,
    input_start: usize,
    output: Vec<u8>,
    /// Rest of an over-long command line is being thrown away.
    discarding: bool,
    extensions: Extensions,
    helo: Option<Helo>,
    /// The greeting under decision.
    pending_helo: Option<Helo>,
    mail: Option<MailFacts>,
    recipients: usize,
    recipients_tried: usize,
    messages: u64,
    errors: u32,
    decoder: Option<DataDecoder>,
    content: Vec<u8>,
    /// Events that follow without input.
    reset_due: bool,
    last_reply: Option<Reply>,
}

impl Server {
    /// A session that has not greeted yet.
    pub fn new(settings: Settings) -> Server {
        Server {
            settings,
            state: State::New,
            input: Vec::new(),
            input_start: 0,
            output: Vec::new(),
            discarding: false,
            extensions: Extensions::default(),
            helo: None,
            pending_helo: None,
            mail: None,
            recipients: 0,
            recipients_tried: 0,
            messages: 0,
            errors: 0,
            decoder: None,
            content: Vec::new(),
            reset_due: false,
            last_reply: None,
        }
    }

    /// Writes the 220 banner; `text` replaces `<hostname> ESMTP`.
    pub fn greet(&mut self, text: Option<&str>) {
        let default = format!("{} ESMTP", self.settings.hostname);
        self.put(Reply::new(220, None, text.filter(|text| !text.is_empty()).unwrap_or(&default)));
        self.state = State::Command;
    }

    /// Takes what was read. The driver should not read while more than a few hundred KiB are waiting.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.input_start > 0 {
            self.input.drain(..self.input_start);
            self.input_start = 0;
        }
        self.input.extend_from_slice(bytes);
    }

    /// Gives back memory while nothing is going on.
    pub fn relax(&mut self) {
        if !self.has_input() {
            self.input_start = 0;
            if self.input.capacity() > 2048 {
                self.input = Vec::new();
            } else {
                self.input.clear();
            }
        }
        if self.state != State::Content && self.content.capacity() > 2048 {
            self.content = Vec::new();
        }
    }

    /// True when received bytes wait to be processed (early talkers, pipelining).
    pub fn has_input(&self) -> bool {
        self.input_start < self.input.len()
    }

    /// The output so far; the machine keeps none of it.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// The output so far, to be written and then cleared.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// The last reply written.
    pub fn last_reply(&self) -> Option<&Reply> {
        self.last_reply.as_ref()
    }

    /// The piece of content of [`Event::Content`].
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    /// The accepted greeting.
    pub fn session_helo(&self) -> Option<&Helo> {
        self.helo.as_ref()
    }

    /// The extensions that EHLO announces unless the helo hook says otherwise.
    pub fn default_extensions(&self) -> &Extensions {
        &self.settings.extensions
    }

    /// The name of the phase, as scripts and logs see it.
    pub fn phase(&self) -> &'static str {
        match self.state {
            State::New => "CONNECT",
            State::Content | State::AwaitData => "DATA",
            State::AwaitEnd => "EOD",
            State::Closed => "QUIT",
            _ if self.recipients > 0 => "RCPT",
            _ if self.mail.is_some() => "MAIL",
            _ if self.helo.is_some() => "HELO",
            _ => "BANNER",
        }
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
                    None if self.reset_due => continue,
                    None if self.state == State::Closed => return Event::Close,
                    None => return Event::NeedInput,
                },
                State::Content => return self.next_content(),
                State::AwaitEnd if self.decoder.is_some() => return self.finish_content(),
                // The driver owes a decision; asking again changes nothing.
                _ => return Event::NeedInput,
            }
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
            None => self.settings.extensions.clone(),
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

    /// Answers [`Event::Data`]: `None` invites the content, a reply refuses it.
    pub fn data(&mut self, refusal: Option<Reply>) {
        if self.state != State::AwaitData {
            return;
        }
        match refusal {
            Some(reply) => {
                self.state = State::Command;
                self.put(reply);
            }
            None => {
                self.state = State::Content;
                self.decoder = Some(DataDecoder::new(self.settings.bare_line_feed));
                self.put(Reply::new(354, None, "Start mail input; end with <CRLF>.<CRLF>"));
            }
        }
    }

    /// Answers [`Event::EndOfData`].
    pub fn end_of_data(&mut self, reply: Reply, disconnect: bool) {
        if self.state != State::AwaitEnd {
            return;
        }
        self.state = State::Command;
        self.messages += 1;
        self.clear_transaction();
        self.put_and(reply, disconnect);
    }

    fn next_content(&mut self) -> Event {
        self.content.clear();
        while self.has_input() {
            let Some(decoder) = self.decoder.as_mut() else {
                self.state = State::Command;
                return Event::NeedInput;
            };
            let input = &self.input[self.input_start..];
            let input = &input[..input.len().min(CONTENT_BYTES_MAX)];
            let (used, ended) = decoder.decode(input, &mut self.content);
            self.input_start += used;
            if self.settings.size_max > 0 && decoder.bytes() > self.settings.size_max {
                // It is read to its end and then refused, so nothing of it needs to be kept.
                self.content.clear();
            }
            if ended {
                self.state = State::AwaitEnd;
                return if self.content.is_empty() { self.finish_content() } else { Event::Content };
            }
            if !self.content.is_empty() {
                return Event::Content;
            }
        }
        Event::NeedInput
    }

    /// Tells the end of data, once the last content was handed out.
    fn finish_content(&mut self) -> Event {
        let Some(decoder) = self.decoder.take() else { return Event::NeedInput };
        let refusal = self.content_refusal(&decoder);
        match refusal {
            Some(reply) => {
                self.state = State::Command;
                self.messages += 1;
                self.clear_transaction();
                self.reset_due = true;
                self.put(reply.clone());
                Event::DataRefused(reply)
            }
            None => Event::EndOfData(DataSummary {
                bytes: decoder.bytes(),
                has_8bit: decoder.seen_8bit(),
                has_nul: decoder.seen_nul(),
            }),
        }
    }

    fn content_refusal(&self, decoder: &DataDecoder) -> Option<Reply> {
        let settings = &self.settings;
        if settings.size_max > 0 && decoder.bytes() > settings.size_max {
            let text = format!("Message size exceeds the limit of {} bytes", settings.size_max);
            Some(Reply::fixed(552, (5, 3, 4), &text))
        } else if settings.hops_max > 0 && decoder.hops() > settings.hops_max {
            Some(Reply::fixed(554, (5, 4, 6), "Too many hops, routing loop detected"))
        } else if settings.bare_line_feed == BareLineFeed::Reject && decoder.seen_bare() {
            Some(Reply::fixed(550, (5, 6, 0), "Bare LF or CR not allowed"))
        } else if settings.data_line_bytes_max > 0 && decoder.line_bytes_max() > settings.data_line_bytes_max
        {
            let text = format!("Line longer than {} bytes", settings.data_line_bytes_max);
            Some(Reply::fixed(550, (5, 6, 0), &text))
        } else {
            None
        }
    }

    /// Handles buffered commands until one needs a decision or the input ends.
    fn next_command(&mut self) -> Option<Event> {
        while self.state == State::Command && !self.reset_due {
            let line = self.take_line()?;
            if let Some(event) = self.command(&line) {
                return Some(event);
            }
        }
        None
    }

    /// The next command line without its end, or none when it is not complete. Lines that break the rules
    /// for line ends and length are answered here.
    fn take_line(&mut self) -> Option<Vec<u8>> {
        loop {
            let rest = &self.input[self.input_start..];
            let Some(end) = memchr::memchr(b'\n', rest) else {
                if self.discarding {
                    self.input_start = self.input.len();
                } else if rest.len() >= COMMAND_LINE_BYTES_MAX {
                    self.discarding = true;
                    self.input_start = self.input.len();
                }
                return None;
            };
            let line = &rest[..end];
            let (line, bare) = match line.strip_suffix(b"\r") {
                Some(line) => (line, false),
                None => (line, true),
            };
            let too_long = end + 1 > COMMAND_LINE_BYTES_MAX;
            let has_cr = memchr::memchr(b'\r', line).is_some();
            let has_nul = memchr::memchr(0, line).is_some();
            let line = line.to_vec();
            self.input_start += end + 1;
            if std::mem::take(&mut self.discarding) || too_long {
                self.protocol_error(Reply::fixed(500, (5, 5, 2), "Line too long"));
            } else if has_nul {
                self.put(Reply::fixed(421, (4, 7, 0), "Protocol violation: NUL in command"));
                self.state = State::Closed;
            } else if has_cr || (bare && self.settings.bare_line_feed == BareLineFeed::Reject) {
                let more = self.has_input();
                self.protocol_error(Reply::fixed(500, (5, 5, 2), "Bare LF or CR not allowed"));
                // Commands hidden behind a bare LF are a smuggling attempt, not a client's slip.
                if bare && more && self.settings.bare_line_feed == BareLineFeed::Reject {
                    self.state = State::Closed;
                }
            } else {
                return Some(line);
            }
            if self.state != State::Command {
                return None;
            }
        }
    }

    fn command(&mut self, line: &[u8]) -> Option<Event> {
        match command::parse(line) {
            Command::Helo { extended, host } => return self.helo_command(extended, host),
            Command::Mail(argument) => return self.mail_command(argument),
            Command::Rcpt(argument) => return self.rcpt_command(argument),
            Command::Data => return self.data_command(),
            Command::Rset => {
                self.clear_transaction();
                self.reset_due = true;
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

    fn mail_command(&mut self, argument: &[u8]) -> Option<Event> {
        if self.settings.helo_required && self.helo.is_none() {
            self.protocol_error(Reply::fixed(503, (5, 5, 1), "Send HELO or EHLO first"));
            return None;
        }
        if self.mail.is_some() {
            self.protocol_error(Reply::fixed(503, (5, 5, 1), "Nested MAIL command"));
            return None;
        }
        if self.settings.messages_max > 0 && self.messages >= self.settings.messages_max {
            self.put(Reply::fixed(421, (4, 7, 0), "Too many messages in this session"));
            self.state = State::Closed;
            return None;
        }
        let smtputf8 = self.extensions.has("SMTPUTF8");
        let parsed = command::parse_path(argument, "FROM", |parameters| {
            smtputf8 && parameters.iter().any(|(keyword, _)| keyword == "SMTPUTF8")
        });
        let (address, parameters) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                self.protocol_error(path_reply(&error, (5, 1, 7), "Bad sender address syntax"));
                return None;
            }
        };
        match self.extensions.check_mail(&parameters, self.settings.size_max) {
            Ok(facts) => {
                self.mail = Some(facts);
                self.recipients = 0;
                self.recipients_tried = 0;
                self.state = State::AwaitMail;
                self.errors = 0;
                Some(Event::Mail { address, parameters, facts })
            }
            Err(error) => {
                self.protocol_error(parameter_reply(&error));
                None
            }
        }
    }

    fn rcpt_command(&mut self, argument: &[u8]) -> Option<Event> {
        let Some(facts) = self.mail else {
            self.protocol_error(Reply::fixed(503, (5, 5, 1), "Send MAIL first"));
            return None;
        };
        self.recipients_tried += 1;
        let parsed = command::parse_path(argument, "TO", |_| facts.smtputf8);
        let (address, parameters) = match parsed {
            Ok((address, _)) if address.localpart.is_empty() => {
                self.protocol_error(Reply::fixed(501, (5, 1, 3), "Bad recipient address syntax"));
                return None;
            }
            Ok(parsed) => parsed,
            Err(error) => {
                self.protocol_error(path_reply(&error, (5, 1, 3), "Bad recipient address syntax"));
                return None;
            }
        };
        if let Err(error) = self.extensions.check_rcpt(&parameters) {
            self.protocol_error(parameter_reply(&error));
            return None;
        }
        if self.recipients >= self.settings.recipients_max {
            self.put(Reply::fixed(452, (4, 5, 3), "Too many recipients"));
            return None;
        }
        self.state = State::AwaitRcpt;
        self.errors = 0;
        Some(Event::Rcpt { address, parameters })
    }

    fn data_command(&mut self) -> Option<Event> {
        if self.mail.is_none() {
            self.protocol_error(Reply::fixed(503, (5, 5, 1), "Send MAIL first"));
        } else if self.recipients == 0 && self.recipients_tried == 0 {
            self.protocol_error(Reply::fixed(503, (5, 5, 1), "Send RCPT first"));
        } else if self.recipients == 0 {
            self.put(Reply::fixed(554, (5, 5, 1), "No valid recipients"));
        } else {
            self.state = State::AwaitData;
            self.errors = 0;
            return Some(Event::Data);
        }
        None
    }

    fn clear_transaction(&mut self) {
        self.mail = None;
        self.recipients = 0;
        self.recipients_tried = 0;
        self.decoder = None;
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
        reply.write(&mut self.output);
        self.last_reply = Some(reply);
    }
}

fn path_reply(error: &PathError, enhanced: (u16, u16, u16), text: &str) -> Reply {
    match error {
        PathError::Address => Reply::fixed(501, enhanced, text),
        PathError::NotAscii => Reply::fixed(553, (5, 6, 7), "Non-ASCII address without SMTPUTF8"),
        PathError::Parameter => Reply::fixed(501, (5, 5, 4), "Syntax error in parameters"),
    }
}

fn parameter_reply(error: &ParameterError) -> Reply {
    match error {
        ParameterError::Unknown(keyword) => {
            Reply::new(555, Some(Enhanced(5, 5, 4)), format!("Parameter {keyword} not recognized"))
        }
        ParameterError::Value(keyword) => {
            Reply::new(501, Some(Enhanced(5, 5, 4)), format!("Bad value of parameter {keyword}"))
        }
        ParameterError::TooLarge => Reply::fixed(552, (5, 3, 4), "Message size exceeds the limit"),
    }
}
