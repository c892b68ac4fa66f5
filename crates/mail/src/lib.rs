//! Messages as values: addresses, headers, edits over an untouched original, delivery status notifications. No IO.
//!
//! The original bytes of a message never change ([`Content`]). Every modification is an [`EditList`]: a few
//! (offset, removed length, inserted bytes) against those bytes, so that what nobody touched leaves byte for byte
//! as it came and signatures over it stay valid.

pub mod address;
pub mod content;
pub mod edit;
mod error;

pub use address::{Address, AddressError};
pub use content::{Content, MemoryContent};
pub use edit::{Edit, EditError, EditList, Place, Segment};
pub use error::MailError;
