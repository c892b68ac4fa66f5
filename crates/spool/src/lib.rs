//! The durable store of accepted messages: commit journal, `.hqf` files, recovery.
//!
//! A message is committed to an append-only journal that many sessions share one `fdatasync` of. What is still there
//! after a hold time is written out as its own `.hqf` file; what was delivered before never becomes one. Changes of
//! delivery state are appended as checksummed frames, in the journal or behind the file, wherever the message lives.
//!
//! The crate has its own threads and no async runtime: what takes time is answered by plain `std` futures. Everything
//! done on disk goes through [`disk::Disk`], so that tests can cut the power at every step.
//!
//! ```
//! use std::sync::Arc;
//! use spool::{Entry, MessageRecord, Spool, SpoolOptions, Uuid, disk::SimDisk};
//!
//! let disk = Arc::new(SimDisk::new());
//! let spool = Spool::open(SpoolOptions::new("/spool"), disk, |recovered| drop(recovered))?;
//! let id = Uuid::from_u128(1);
//! let mut staging = spool.stage(id);
//! staging.write(b"Subject: hello\r\n\r\n")?;
//! let entries = vec![Entry { queue_id: 1, ..Entry::default() }];
//! spool.commit(staging, MessageRecord { entries, ..MessageRecord::default() }).wait()?;
//! assert_eq!(spool.content(id)?.len(), 18);
//! # Ok::<(), spool::SpoolError>(())
//! ```

mod committer;
pub mod disk;
mod error;
mod files;
mod hqf;
mod journal;
mod late;
mod load;
mod options;
pub mod record;
mod recover;
mod resident;
mod shared;
mod spill;
mod spool;
mod staging;
mod ticket;
mod wire;

pub use committer::Committed;
pub use error::{Corruption, SpoolError};
pub use load::{LoadOptions, encode_hqf, read_hqf};
pub use options::{CorruptPolicy, Event, SpoolOptions};
pub use record::{Done, Entry, EntryUpdate, Frame, MessageRecord, Meta, Outcome};
pub use recover::{Location, Recovered};
pub use spool::{Durability, Spool, Stats};
pub use staging::Staging;
pub use ticket::Pending;
pub use uuid::Uuid;
