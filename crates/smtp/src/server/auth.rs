//! AUTH (RFC 4954): the exchange of PLAIN and LOGIN, and challenges of any other mechanism for the auth hook.

use super::{Event, Server, State};
use crate::reply::Reply;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

/// The longest name of a mechanism (RFC 4422 3.1).
const MECHANISM_BYTES_MAX: usize = 20;

/// What the auth hook is asked.
#[derive(Clone, PartialEq, Eq)]
pub enum AuthRequest {
    /// Name and password are complete (PLAIN, LOGIN).
    Password {
        /// In upper case.
        mechanism: String,
        /// As sent.
        username: Vec<u8>,
        /// As sent.
        password: Vec<u8>,
    },
    /// One response of any other mechanism.
    Response {
        /// In upper case.
        mechanism: String,
        /// Challenges so far.
        state: u32,
        /// Decoded; none where AUTH came without an initial response.
        response: Option<Vec<u8>>,
    },
}

impl AuthRequest {
    /// The mechanism, in upper case.
    pub fn mechanism(&self) -> &str {
        match self {
            AuthRequest::Password { mechanism, .. } | AuthRequest::Response { mechanism, .. } => mechanism,
        }
    }
}

impl fmt::Debug for AuthRequest {
    /// Secrets are left out, so that no log can show them (invariant S16).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthRequest({})", self.mechanism())
    }
}

/// How the hook decided.
#[derive(Clone, Debug)]
pub enum AuthAnswer {
    /// The client is who it says (2xx).
    Accept(Reply),
    /// It is not (5xx); counts as a failed attempt.
    Reject(Reply),
    /// It could not be found out (4xx).
    Defer(Reply),
    /// Ask on: the challenge before encoding, and its code where it is not 334.
    Challenge(Vec<u8>, Option<u16>),
}

/// An exchange that is going on.
pub(super) struct Exchange {
    mechanism: String,
    step: Step,
}

enum Step {
    /// The next line has all credentials.
    Plain,
    LoginName,
    LoginPassword(Vec<u8>),
    /// The next line answers this many challenges.
    Other(u32),
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Exchange({})", self.mechanism)
    }
}

impl Server {
    pub(super) fn auth_command(&mut self, argument: &[u8]) -> Option<Event> {
        let Some(settings) = &self.settings.auth else {
            self.protocol_error(Reply::fixed(502, (5, 5, 1), "Command not implemented"));
            return None;
        };
        if settings.tls_only && !self.tls {
            self.protocol_error(Reply::fixed(538, (5, 7, 11), "Encryption required for authentication"));
            return None;
        }
        let Some(mechanisms) = self.extensions.arguments("AUTH") else {
            self.protocol_error(Reply::fixed(502, (5, 5, 1), "Command not implemented"));
            return None;
        };
        if self.authenticated || self.mail.is_some() {
            let text =
                if self.mail.is_some() { "AUTH inside a mail transaction" } else { "Already authenticated" };
            self.protocol_error(Reply::fixed(503, (5, 5, 1), text));
            return None;
        }
        let mut words = argument.split(|&b| b == b' ' || b == b'\t').filter(|word| !word.is_empty());
        let (word, initial) = (words.next().unwrap_or_default(), words.next());
        if word.is_empty() || words.next().is_some() {
            self.protocol_error(Reply::fixed(501, (5, 5, 4), "Syntax error in command argument"));
            return None;
        }
        let mechanism = String::from_utf8_lossy(word).to_ascii_uppercase();
        let known = mechanisms.iter().any(|known| known.eq_ignore_ascii_case(&mechanism));
        if word.len() > MECHANISM_BYTES_MAX || !known {
            self.protocol_error(Reply::fixed(504, (5, 5, 4), "Mechanism not supported"));
            return None;
        }
        let initial = match initial {
            None => None,
            Some(b"=") => Some(Vec::new()),
            Some(text) => match STANDARD.decode(text) {
                Ok(bytes) => Some(bytes),
                Err(_) => {
                    self.undecodable();
                    return None;
                }
            },
        };
        self.errors = 0;
        let step = match mechanism.as_str() {
            "PLAIN" => Step::Plain,
            "LOGIN" => Step::LoginName,
            _ => return self.ask(AuthRequest::Response { mechanism, state: 0, response: initial }),
        };
        match initial {
            Some(response) => self.exchange(mechanism, step, response),
            None => {
                let prompt: &[u8] = if matches!(step, Step::Plain) { b"" } else { b"Username:" };
                self.challenge(prompt, 334);
                self.auth = Some(Exchange { mechanism, step });
                None
            }
        }
    }

    /// A line of the client in an exchange.
    pub(super) fn auth_line(&mut self, exchange: Exchange, line: &[u8]) -> Option<Event> {
        self.doing = "AUTH";
        if line == b"*" {
            self.protocol_error(Reply::fixed(501, (5, 7, 0), "Authentication cancelled"));
            return None;
        }
        match STANDARD.decode(line) {
            Ok(response) => self.exchange(exchange.mechanism, exchange.step, response),
            Err(_) => {
                self.undecodable();
                None
            }
        }
    }

    fn exchange(&mut self, mechanism: String, step: Step, response: Vec<u8>) -> Option<Event> {
        match step {
            Step::Plain => {
                let parts: Vec<&[u8]> = response.split(|&b| b == 0).collect();
                // The authorization identity in front is ignored (`smtp-hooks` 5.4).
                let [_, username, password] = parts[..] else {
                    self.undecodable();
                    return None;
                };
                let (username, password) = (username.to_vec(), password.to_vec());
                self.ask(AuthRequest::Password { mechanism, username, password })
            }
            Step::LoginName => {
                self.challenge(b"Password:", 334);
                self.auth = Some(Exchange { mechanism, step: Step::LoginPassword(response) });
                None
            }
            Step::LoginPassword(username) => {
                self.ask(AuthRequest::Password { mechanism, username, password: response })
            }
            Step::Other(state) => {
                self.ask(AuthRequest::Response { mechanism, state, response: Some(response) })
            }
        }
    }

    fn ask(&mut self, request: AuthRequest) -> Option<Event> {
        let state = match &request {
            AuthRequest::Password { .. } => 0,
            AuthRequest::Response { state, .. } => *state,
        };
        self.asked = Some(Exchange { mechanism: request.mechanism().to_owned(), step: Step::Other(state) });
        self.state = State::AwaitAuth;
        Some(Event::Auth(request))
    }

    /// Answers [`Event::Auth`].
    pub fn auth(&mut self, answer: AuthAnswer, disconnect: bool) {
        let Some(exchange) = self.asked.take().filter(|_| self.state == State::AwaitAuth) else { return };
        self.state = State::Command;
        match answer {
            AuthAnswer::Accept(reply) => {
                self.authenticated = true;
                self.put_and(reply, disconnect);
            }
            AuthAnswer::Defer(reply) => self.put_and(reply, disconnect),
            AuthAnswer::Reject(reply) => {
                self.put_and(reply, disconnect);
                self.auth_failures += 1;
                let failures_max = self.settings.auth.as_ref().map_or(0, |auth| auth.failures_max);
                if failures_max > 0 && self.auth_failures >= failures_max && self.state != State::Closed {
                    self.put(Reply::fixed(421, (4, 7, 0), "Too many authentication failures"));
                    self.state = State::Closed;
                }
            }
            AuthAnswer::Challenge(text, code) => {
                self.challenge(&text, code.unwrap_or(334));
                let state = match exchange.step {
                    Step::Other(state) => state.saturating_add(1),
                    _ => 1,
                };
                self.auth = Some(Exchange { mechanism: exchange.mechanism, step: Step::Other(state) });
                if disconnect {
                    self.state = State::Closed;
                }
            }
        }
    }

    /// True once AUTH succeeded in this session (and STARTTLS has not cleared it).
    pub fn is_authenticated(&self) -> bool {
        self.authenticated
    }

    fn challenge(&mut self, text: &[u8], code: u16) {
        let encoded = STANDARD.encode(text);
        // One line of its own length: a challenge must not be cut into several.
        self.put_line(code, encoded.as_bytes());
    }

    fn undecodable(&mut self) {
        self.protocol_error(Reply::fixed(501, (5, 5, 2), "Response cannot be decoded"));
    }
}
