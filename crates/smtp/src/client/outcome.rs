//! How a transaction or a session ended.

use crate::reply::Reply;
use std::fmt;

/// The command (or moment) a reply belongs to; the names appear in `attempt.result.state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the commands")]
pub enum State {
    Banner,
    Ehlo,
    Helo,
    StartTls,
    Mail,
    Rcpt,
    Data,
    /// The reply to the final dot.
    Eod,
    Rset,
    Quit,
}

impl State {
    /// The documented name.
    pub fn name(self) -> &'static str {
        match self {
            State::Banner => "BANNER",
            State::Ehlo => "EHLO",
            State::Helo => "HELO",
            State::StartTls => "STARTTLS",
            State::Mail => "MAIL",
            State::Rcpt => "RCPT",
            State::Data => "DATA",
            State::Eod => "EOD",
            State::Rset => "RSET",
            State::Quit => "QUIT",
        }
    }

    /// Default time-out in seconds (RFC 5321 4.5.3.2).
    pub fn timeout_s(self) -> u32 {
        match self {
            State::Data => 120,
            State::Eod => 600,
            State::Quit => 10,
            _ => 300,
        }
    }

    /// The words of a report, as in "in reply to RCPT TO".
    pub fn command_text(self) -> &'static str {
        match self {
            State::Banner => "connection",
            State::Mail => "MAIL FROM",
            State::Rcpt => "RCPT TO",
            State::Eod => "end of DATA",
            other => other.name(),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why there is no reply to report.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The peer does not speak SMTP: temporary.
    #[error("{0}")]
    Protocol(String),
    /// The peer closed the connection: temporary.
    #[error("{0}")]
    Closed(String),
    /// TLS is required and cannot be had: temporary.
    #[error("{0}")]
    TlsRefused(String),
    /// The engine itself found that the server cannot take the message: permanent.
    #[error("{0}")]
    Engine(Reply),
}

/// The end of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Where it ended.
    pub state: State,
    /// The deciding reply, or why there is none.
    pub result: Result<Reply, Failure>,
}

impl Outcome {
    /// True when the message was taken over by the peer.
    pub fn is_delivered(&self) -> bool {
        self.state == State::Eod && matches!(&self.result, Ok(reply) if reply.is_positive())
    }
}
