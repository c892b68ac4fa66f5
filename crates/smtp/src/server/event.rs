//! What the machine tells its driver.

use super::auth::AuthRequest;
use super::command::Parameter;
use super::parameters::MailFacts;
use crate::reply::Reply;
use mail::Address;

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
    /// A line for the proxy hook: answer with [`Server::pass`](super::Server::pass) or
    /// [`Server::proxy_reply`](super::Server::proxy_reply).
    Proxy(Vec<u8>),
    /// Decide with [`Server::helo`](super::Server::helo).
    Helo(Helo),
    /// Write the output, then shake hands; then [`Server::tls_started`](super::Server::tls_started), or close.
    StartTls,
    /// Decide with [`Server::auth`](super::Server::auth).
    Auth(AuthRequest),
    /// Decide with [`Server::mail`](super::Server::mail).
    Mail {
        /// The sender; both parts empty for the null sender.
        address: Address,
        /// Validated parameters.
        parameters: Vec<Parameter>,
        /// What the parameters say.
        facts: MailFacts,
    },
    /// Decide with [`Server::rcpt`](super::Server::rcpt).
    Rcpt {
        /// The recipient.
        address: Address,
        /// Validated parameters.
        parameters: Vec<Parameter>,
    },
    /// A message is about to come: answer with [`Server::data`](super::Server::data).
    Data,
    /// A piece of content is in [`Server::content`](super::Server::content), to be stored before the next call.
    Content,
    /// The end of data; decide with [`Server::end_of_data`](super::Server::end_of_data).
    EndOfData(DataSummary),
    /// The message broke a limit and was answered already; drop what was stored of it.
    DataRefused(Reply),
    /// The open transaction is over (RSET, HELO, STARTTLS, or a finished message).
    Reset,
    /// Write the output, then close the connection.
    Close,
}
