//! The error of this crate. It is cloned to every session that waited for the same write.

use std::{io, path::PathBuf, sync::Arc};

use uuid::Uuid;

/// Why the spool could not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// The disk has no space left; a session answers 452 and the client tries again.
    #[error("no space left in the spool")]
    Full,
    /// The disk or file system refused an operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer of the system.
        source: Arc<io::Error>,
    },
    /// A file of the spool is damaged.
    #[error("{} is corrupt: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The first thing found wrong.
        reason: Corruption,
    },
    /// Another process serves this spool.
    #[error("{} is locked by another process", .0.display())]
    Locked(PathBuf),
    /// The caller stores or loads an id which the spool already holds.
    #[error("message {0} is already in the spool")]
    Duplicate(Uuid),
    /// The caller names a message which is not in the spool.
    #[error("message {0} is not in the spool")]
    NotFound(Uuid),
    /// The caller's record exceeds what the format can hold.
    #[error("{what} of {bytes} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The most the format takes.
        limit: u64,
    },
    /// The spool is shutting down.
    #[error("the spool is closed")]
    Closed,
    /// The configuration asks for something impossible.
    #[error("spool option {key}: {reason}")]
    Options {
        /// The configuration key.
        key: &'static str,
        /// What is wrong with its value.
        reason: String,
    },
}

impl SpoolError {
    /// An error of the system while doing `action` on `path`; "no space" and "over quota" become [`SpoolError::Full`].
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Io { action, path: path.into(), source: Arc::new(source) },
        }
    }
}

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Corruption {
    /// Shorter than its fixed parts.
    #[error("file too short")]
    Short,
    /// Does not start with the magic bytes.
    #[error("wrong magic")]
    Magic,
    /// A format newer than this program.
    #[error("unknown major version")]
    Version,
    /// The header fails its checksum or contradicts itself.
    #[error("damaged header")]
    Header,
    /// The content fails its checksum or its padding is not zero.
    #[error("damaged content")]
    Content,
    /// A frame before COMMIT fails its checksum or cannot be decoded.
    #[error("damaged frame")]
    Frame,
    /// There is no COMMIT, or it does not match the frames before it.
    #[error("no valid commit record")]
    Commit,
    /// The name of the file is not the id in its header.
    #[error("file name and message id differ")]
    Name,
    /// The id is all zero in a file that is not being loaded.
    #[error("no message id")]
    NoId,
}
