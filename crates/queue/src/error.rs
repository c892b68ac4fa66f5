//! What can go wrong, and by whose fault.

use uuid::Uuid;

/// The one error of this crate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// Caller: the ticket was given back before, reclaimed by someone else, or belongs to another phase.
    #[error("the work ticket for queue entry {0} is no longer valid")]
    StaleTicket(u32),
    /// Caller: the entry is gone.
    #[error("no such queue entry")]
    NoSuchEntry,
    /// Caller: the entry is being worked on and cannot be changed.
    #[error("the queue entry is being worked on")]
    Working,
    /// Caller: the message is already in the queue.
    #[error("message {0} is already in the queue")]
    Duplicate(Uuid),
    /// Caller: a queue id occurs twice in one message.
    #[error("queue id {queue_id} occurs twice in message {message}")]
    DuplicateQueueId {
        /// The message.
        message: Uuid,
        /// The repeated number.
        queue_id: u64,
    },
    /// Caller: a message without recipients cannot be queued.
    #[error("a message needs at least one recipient")]
    NoRecipients,
    /// Us: more entries than the index can number.
    #[error("the queue index is full")]
    Full,
    /// Client: a local part above 65,535 bytes.
    #[error("local part of {0} bytes is too long")]
    AddressTooLong(usize),
    /// Client: a metadata value above 4 GiB.
    #[error("the value of metadata key \"{0}\" is too long")]
    MetadataTooLong(String),
    /// Configuration or client: a pattern that is no valid regular expression.
    #[error("invalid regular expression /{pattern}/: {reason}")]
    Regex {
        /// The expression.
        pattern: String,
        /// What the library says about it.
        reason: String,
    },
    /// Configuration or client: neither an address nor a network.
    #[error("\"{0}\" is neither an IP address nor a network")]
    Network(String),
    /// Client: no policy counts by exactly these fields.
    #[error("no policy has exactly the fields {0}")]
    UnknownCounter(String),
    /// Client: a condition names a field its counter does not have.
    #[error("field {0} is not among the fields of the policy")]
    FieldNotInCounter(&'static str),
    /// Client: the id of a dynamic condition or suspension is taken.
    #[error("Already exists")]
    AlreadyExists(String),
    /// Client: tags have at most 24 characters.
    #[error("Tag too long")]
    TagTooLong,
    /// Client: a rate or interval that cannot be kept.
    #[error("a rate needs a count and an interval above zero")]
    InvalidRate,
    /// Client: an update that changes nothing.
    #[error("Invalid request")]
    NothingToDo,
}

/// Longest tag of a policy or suspension, in characters (a public limit since version 6.0).
pub(crate) const TAG_CHARACTERS_MAX: usize = 24;

pub(crate) fn check_tag(tag: Option<&str>) -> Result<(), QueueError> {
    match tag {
        Some(tag) if tag.chars().count() > TAG_CHARACTERS_MAX => Err(QueueError::TagTooLong),
        _ => Ok(()),
    }
}
