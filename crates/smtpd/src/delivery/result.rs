//! How an attempt ended, in the words of the post-delivery variables.

use crate::delivery::peer::TlsaFacts;
use net::HopError;
use net::dial::DialError;
use net::tls::PeerFacts;
use smtp::Reply;
use smtp::client::{Failure, Outcome, State};
use std::net::IpAddr;

/// `attempt.error.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documented values")]
pub enum ErrorKind {
    Config,
    Dane,
    Dns,
    Network,
    Protocol,
    Smtp,
    Tls,
}

impl ErrorKind {
    /// The documented value.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Config => "config",
            ErrorKind::Dane => "dane",
            ErrorKind::Dns => "dns",
            ErrorKind::Network => "network",
            ErrorKind::Protocol => "protocol",
            ErrorKind::Smtp => "smtp",
            ErrorKind::Tls => "tls",
        }
    }
}

/// `attempt.error`.
#[derive(Clone, Debug)]
pub struct AttemptError {
    /// Kind.
    pub kind: ErrorKind,
    /// Worth another attempt.
    pub temporary: bool,
    /// For logs and reports.
    pub message: String,
    /// `error.dns`, for kind dns.
    pub dns: Option<&'static str>,
    /// Status of a report.
    pub status: (u16, u16, u16),
}

impl AttemptError {
    /// A temporary error with the status of its kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> AttemptError {
        let status = match kind {
            ErrorKind::Tls | ErrorKind::Dane => (4, 7, 5),
            ErrorKind::Dns => (4, 4, 3),
            ErrorKind::Config => (4, 3, 5),
            ErrorKind::Protocol | ErrorKind::Smtp => (4, 5, 0),
            ErrorKind::Network => (4, 4, 1),
        };
        AttemptError { kind, temporary: true, message: message.into(), dns: None, status }
    }
}

impl From<HopError> for AttemptError {
    fn from(error: HopError) -> AttemptError {
        AttemptError {
            kind: ErrorKind::Dns,
            temporary: error.is_temporary(),
            status: error.status(),
            dns: Some(error.kind.name()),
            message: error.message,
        }
    }
}

impl From<DialError> for AttemptError {
    fn from(error: DialError) -> AttemptError {
        let kind = match error {
            DialError::Bind { .. } => ErrorKind::Config,
            _ => ErrorKind::Network,
        };
        AttemptError::new(kind, error.to_string())
    }
}

/// `attempt.result` or `attempt.error`.
#[derive(Clone, Debug)]
pub enum Ending {
    /// The peer's deciding reply and the state it answered.
    Reply(State, Reply),
    /// There was none.
    Error(AttemptError),
}

impl From<Outcome> for Ending {
    fn from(outcome: Outcome) -> Ending {
        match outcome.result {
            Ok(reply) => Ending::Reply(outcome.state, reply),
            Err(Failure::Engine(reply)) => Ending::Error(AttemptError {
                kind: ErrorKind::Smtp,
                temporary: false,
                message: reply.to_string(),
                dns: None,
                status: reply.enhanced.map_or((5, 0, 0), |code| (code.0, code.1, code.2)),
            }),
            Err(Failure::TlsRefused(text) | Failure::TlsNotOffered(text)) => {
                Ending::Error(AttemptError::new(ErrorKind::Tls, text))
            }
            Err(Failure::Closed(text)) => {
                let text = format!("{text} in state {}", outcome.state);
                Ending::Error(AttemptError::new(ErrorKind::Network, text))
            }
            Err(failure) => Ending::Error(AttemptError::new(ErrorKind::Protocol, failure.to_string())),
        }
    }
}

/// What became of the recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The next hop took it.
    Delivered,
    /// To be tried again.
    Temporary,
    /// Final.
    Permanent,
}

impl Ending {
    /// The class by the documented table.
    pub fn class(&self) -> Class {
        match self {
            Ending::Reply(State::Eod, reply) if reply.is_positive() => Class::Delivered,
            Ending::Reply(_, reply) if reply.class() == 5 => Class::Permanent,
            Ending::Reply(..) => Class::Temporary,
            Ending::Error(error) if error.temporary => Class::Temporary,
            Ending::Error(_) => Class::Permanent,
        }
    }

    /// One line for logs and the retry reason.
    pub fn text(&self) -> String {
        match self {
            Ending::Reply(state, reply) => format!("{reply} (in reply to {})", state.command_text()),
            Ending::Error(error) => error.message.clone(),
        }
    }

    /// The status of a report: the peer's enhanced code where its class fits, else the bare class.
    pub fn status(&self) -> (u16, u16, u16) {
        match self {
            Ending::Reply(_, reply) => match reply.enhanced {
                Some(code) if code.0 == reply.class() => (code.0, code.1, code.2),
                _ => (reply.class(), 0, 0),
            },
            Ending::Error(error) => error.status,
        }
    }
}

/// `attempt.connection`.
#[derive(Clone, Debug, Default)]
pub struct ConnectionInfo {
    /// UUID of the connection.
    pub id: String,
    /// Number of this transaction on it, from 1.
    pub transactions: u32,
    /// Our address.
    pub local_ip: Option<IpAddr>,
    /// `addresses[].id` of it, if configured.
    pub local_id: Option<String>,
    /// What we said in EHLO.
    pub helo: String,
    /// The peer.
    pub remote_ip: Option<IpAddr>,
    /// Its name.
    pub remote_mx: String,
    /// Its greeting.
    pub greeting: Vec<String>,
    /// Protocol and cipher where TLS is on.
    pub tls: Option<net::tls::TlsFacts>,
    /// Its certificate, where the handshake was refused because of it.
    pub tls_peer: Option<PeerFacts>,
    /// What went wrong with TLS, as RFC 8460 4.3 calls it; also where the message went without it.
    pub tls_report: Option<&'static str>,
    /// TLSA records that were looked at.
    pub tlsa: Option<TlsaFacts>,
    /// LMTP was spoken.
    pub is_lmtp: bool,
    /// It announced DSN.
    pub announced_dsn: bool,
}

/// `attempt`.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// How it ended.
    pub ending: Ending,
    /// Present once connected.
    pub connection: Option<ConnectionInfo>,
    /// Seconds.
    pub duration_s: f64,
}
