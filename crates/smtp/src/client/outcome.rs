//! How a transaction or a session ended.

use crate::reply::Reply;
use std::fmt;

/// The command (or moment) a reply belongs to; the names appear in `attempt.result.state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the commands")]
pub enum State {
    Banner,
    Ehlo,
    Lhlo,
    Helo,
    StartTls,
    Xclient,
    /// The challenge of CRAM-MD5 is due.
    AuthCramMd5,
    AuthPlain,
    /// LOGIN: the question for the user name is due.
    AuthLogin,
    /// LOGIN: the question for the password is due.
    AuthLoginUser,
    /// The answer to the last line of a login of several lines.
    Auth,
    Mail,
    Rcpt,
    Data,
    /// The reply to a chunk before the last.
    Bdat,
    /// The reply to the final dot or the last chunk.
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
            State::Lhlo => "LHLO",
            State::Helo => "HELO",
            State::StartTls => "STARTTLS",
            State::Xclient => "XCLIENT",
            State::AuthCramMd5 => "AUTH-CRAM-MD5",
            State::AuthPlain => "AUTH-PLAIN",
            State::AuthLogin => "AUTH-LOGIN",
            State::AuthLoginUser => "AUTH-LOGIN-USER",
            State::Auth => "AUTH",
            State::Bdat => "BDAT",
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
            State::AuthCramMd5 | State::AuthPlain | State::AuthLogin | State::AuthLoginUser => "AUTH",
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
    /// TLS is required and the server refuses it: temporary.
    #[error("{0}")]
    TlsRefused(String),
    /// TLS is required and the server does not offer it: temporary.
    #[error("{0}")]
    TlsNotOffered(String),
    /// There is an account to log in with, and no way to do so: temporary.
    #[error("{0}")]
    NoLogin(String),
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
