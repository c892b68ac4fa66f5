//! The error of this crate: what a caller handed over that cannot be used, or a source that could not be read.

use std::io;

use crate::{address::AddressError, edit::EditError};

/// Why an operation on a message failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MailError {
    /// The caller's or peer's address does not follow the grammar.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The caller's edits do not fit the message.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// The caller's header name has bytes outside RFC 5322 `ftext`, or none at all.
    #[error("invalid header name {0:?}")]
    HeaderName(String),
    /// The stored content could not be read (disk).
    #[error("cannot read the message: {0}")]
    Read(#[from] io::Error),
    /// The caller named a snapshot that this message does not have.
    #[error("no snapshot {0}")]
    NoSnapshot(usize),
    /// The caller named a part that this message does not have.
    #[error("no part {0}")]
    NoPart(usize),
    /// A key, an option or a signature cannot be used.
    #[error("{0}")]
    Crypto(String),
    /// The caller's time lies outside the years 0 to 9999.
    #[error("time {0} is out of range")]
    Time(i64),
    /// The message with its edits is larger than memory can address.
    #[error("message of {0} bytes does not fit in memory")]
    TooLarge(u64),
}
