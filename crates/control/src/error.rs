//! What can go wrong between client and server.

use std::path::PathBuf;

/// The one error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Operator or host: nobody answers there.
    #[error("cannot connect to {endpoint}: {source}")]
    Connect {
        /// Socket path or host and port.
        endpoint: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// Operator: the text names neither a path nor a host with port.
    #[error("\"{0}\" is neither a socket path nor HOST:PORT")]
    Endpoint(String),
    /// Host: the connection broke.
    #[error("control connection: {0}")]
    Io(#[from] std::io::Error),
    /// Server: it did not answer in time.
    #[error("no reply within {0} s")]
    Timeout(u64),
    /// Server: it refused; the text is its own.
    #[error("{0}")]
    Server(String),
    /// Server: bytes that are no reply.
    #[error("the server's reply is not understood: {0}")]
    Protocol(String),
    /// Client: a request the server cannot read.
    #[error("{0}")]
    BadRequest(#[from] crate::frame::RequestError),
    /// Client: text that is not the JSON of a message.
    #[error("invalid JSON for {message}: {source}")]
    Json {
        /// Name of the message.
        message: String,
        /// What is wrong and where.
        source: serde_json::Error,
    },
    /// Us: a message name that is not in the schema.
    #[error("no message {0} in the schema")]
    UnknownMessage(String),
    /// Operator: a stale or foreign file where the socket should be.
    #[error("{path}: {source}")]
    Socket {
        /// The path.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}
