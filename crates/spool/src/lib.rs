//! The durable store of accepted messages: commit journal, `.hqf` files, recovery.
//!
//! A message is committed to an append-only journal that many sessions share one `fdatasync` of. What is still there
//! after a hold time is written out as its own `.hqf` file; what was delivered before never becomes one. Changes of
//! delivery state are appended as checksummed frames, in the journal or behind the file, wherever the message lives.
//!
//! The crate has its own threads and no async runtime: what takes time is answered by plain `std` futures. Everything
//! done on disk goes through [`disk::Disk`], so that tests can cut the power at every step.

pub mod disk;
mod error;
mod options;
pub mod record;

pub use error::{Corruption, SpoolError};
pub use options::{CorruptPolicy, Event, SpoolOptions};
pub use record::{Done, Entry, EntryUpdate, Frame, MessageRecord, Meta};
pub use uuid::Uuid;
