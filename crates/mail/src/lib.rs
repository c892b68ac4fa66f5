//! Messages as values: addresses, headers, the parts of a message, edits over an untouched original, signatures and
//! sender policies, delivery status notifications. No IO; the DNS is behind a trait.
//!
//! The original bytes of a message never change ([`Content`]). Every modification is an [`EditList`]: a few
//! (offset, removed length, inserted bytes) against those bytes, so that what nobody touched leaves byte for byte
//! as it came and signatures over it stay valid. [`MailMessage`] puts the two together and speaks of header fields.

pub mod address;
pub mod address_list;
pub mod arc;
mod changes;
pub mod content;
pub mod date;
pub mod dkim;
pub mod dmarc;
pub mod dns;
pub mod dsn;
pub mod edit;
mod error;
pub mod header;
pub mod message;
pub mod mime;
pub mod received;
pub mod spf;
pub mod words;

pub use address::{Address, AddressError};
pub use content::{Content, MemoryContent, Patched};
pub use date::Zoned;
pub use edit::{Edit, EditError, EditList, Place, Segment};
pub use error::MailError;
pub use header::{FieldOptions, HeaderIndex, WriteOptions};
pub use message::{MailMessage, NewPart, ROOT, message_id, with_date_now};
pub use mime::{Builder, Tree};
