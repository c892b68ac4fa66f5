//! [`Error`]: how a native function or an operation fails.

use crate::value::Value;

/// A failure inside a running script, and whose fault it is.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The script did something that cannot work; it sees an `Exception` with this message and may catch it.
    #[error("{0}")]
    Exception(Box<str>),
    /// A value thrown by the script or on its behalf; may be caught.
    #[error("Uncaught {}", .0.to_string_lossy())]
    Thrown(Value),
    /// The execution has to end: a limit was reached or the host ended it. Cannot be caught.
    #[error("{0}")]
    Fatal(Box<str>),
}

impl Error {
    /// An `Exception` with a message (capital letter, no full stop).
    pub fn exception(message: impl Into<String>) -> Error {
        Error::Exception(message.into().into_boxed_str())
    }

    /// A failure that scripts cannot catch.
    pub fn fatal(message: impl Into<String>) -> Error {
        Error::Fatal(message.into().into_boxed_str())
    }

    /// A result beyond the limits of the library.
    pub fn too_large(function: &str) -> Error {
        Error::exception(format!("{function}(): result too large"))
    }
}
