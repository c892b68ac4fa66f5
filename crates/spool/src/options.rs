//! What can be configured, and what the spool reports while it works.

use std::{path::PathBuf, sync::Arc, time::Duration};

use uuid::Uuid;

use crate::SpoolError;

/// What to do with an unreadable `.hqf` file found at start (`spool.corrupt`). It is never deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CorruptPolicy {
    /// Report it and leave it.
    #[default]
    Ignore,
    /// Report it and append `.corrupt` to its name.
    Rename,
    /// Refuse to start.
    Fail,
}

/// Settings of one spool; names as in `smtpd.yaml` under `spool`.
#[derive(Clone)]
pub struct SpoolOptions {
    /// `environment.spool.path`: the queue directory.
    pub path: PathBuf,
    /// `fsync`: whether anything is synced at all. `false` risks accepted mail at a power cut.
    pub fsync: bool,
    /// `corrupt`.
    pub corrupt: CorruptPolicy,
    /// `minfree.bytes`; 0 is off.
    pub minfree_bytes: u64,
    /// `minfree.inodes`; 0 is off.
    pub minfree_inodes: u64,
    /// `journal.enabled`: `false` writes every message as its own file before it is reported stored.
    pub journal_enabled: bool,
    /// `journal.segment`: bytes of one segment file.
    pub journal_segment_bytes: u64,
    /// `journal.segments`: segments in use above which the oldest is spilled.
    pub journal_segments: usize,
    /// `journal.maxmessage`: larger images are written as files at once.
    pub journal_maxmessage_bytes: u64,
    /// `journal.hold`: how long a message may live in the journal.
    pub journal_hold: Duration,
    /// Bytes of journalled messages that stay in memory for delivery; beyond it they are read from their segment.
    pub journal_memory_bytes: u64,
    /// `threads.load`: threads that read the files at start.
    pub threads_load: usize,
    /// `threads.sync`: threads that write, sync and remove files.
    pub threads_sync: usize,
    /// Where events go (log lines, counters). Called from the spool's threads; must return soon.
    pub events: Arc<dyn Fn(Event) + Send + Sync>,
}

impl SpoolOptions {
    /// The defaults of the manual for a spool at `path`; events are dropped.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            fsync: true,
            corrupt: CorruptPolicy::Ignore,
            minfree_bytes: 0,
            minfree_inodes: 0,
            journal_enabled: true,
            journal_segment_bytes: 64 << 20,
            journal_segments: 8,
            journal_maxmessage_bytes: 1 << 20,
            journal_hold: Duration::from_secs(2),
            journal_memory_bytes: 64 << 20,
            threads_load: 4,
            threads_sync: 8,
            events: Arc::new(|_| {}),
        }
    }

    /// Refuses values that cannot work.
    pub(crate) fn check(&self) -> Result<(), SpoolError> {
        let bad = |key, reason: String| Err(SpoolError::Options { key, reason });
        if self.journal_segment_bytes < SEGMENT_BYTES_MIN || self.journal_segment_bytes > SEGMENT_BYTES_MAX {
            return bad(
                "journal.segment",
                format!(
                    "{} bytes; must be between {SEGMENT_BYTES_MIN} and {SEGMENT_BYTES_MAX}",
                    self.journal_segment_bytes
                ),
            );
        }
        if self.journal_segments == 0 {
            return bad("journal.segments", "must be at least 1".into());
        }
        if self.threads_load == 0 || self.threads_load > THREADS_MAX {
            return bad("threads.load", format!("must be between 1 and {THREADS_MAX}"));
        }
        if self.threads_sync == 0 || self.threads_sync > THREADS_MAX {
            return bad("threads.sync", format!("must be between 1 and {THREADS_MAX}"));
        }
        Ok(())
    }
}

/// A smaller segment has no room for a message and its reserve.
const SEGMENT_BYTES_MIN: u64 = 16 << 10;
/// Offsets in a segment stay far below what `off_t` can say.
const SEGMENT_BYTES_MAX: u64 = 1 << 40;
/// More threads than this are a typing error.
const THREADS_MAX: usize = 1024;

/// Something an operator wants to know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A damaged file was found and treated as `spool.corrupt` says; `renamed` is its new name.
    Corrupt {
        /// What is wrong with which file.
        error: SpoolError,
        /// Where it is now, if it was renamed.
        renamed: Option<PathBuf>,
    },
    /// The tail behind the last good frame of a file was cut off after a crash.
    TornTail {
        /// The file.
        path: PathBuf,
        /// Bytes removed.
        bytes: u64,
    },
    /// The replay of a segment ended before its last record was complete (a crash while writing).
    TornSegment {
        /// The segment file.
        path: PathBuf,
        /// Where its good records end.
        offset: u64,
    },
    /// A change that nobody waits for could not be written; it is kept in memory only.
    Write {
        /// The message.
        id: Uuid,
        /// Why.
        error: SpoolError,
    },
    /// A message could not be written out of the journal; it stays there and is tried again.
    Spill {
        /// The message.
        id: Uuid,
        /// Why.
        error: SpoolError,
    },
    /// A journal segment could not be created, reset or removed.
    Journal {
        /// Why.
        error: SpoolError,
    },
    /// All files that were there at start have been read.
    Loaded {
        /// Messages handed over, from files and journal.
        messages: u64,
        /// Files found damaged.
        corrupt: u64,
    },
}
