//! Messages that live in the journal, and the operations on them.
//!
//! Lock order: a resident's `inner`, then the queue of the committer or of a file worker, or the list of ages. The map
//! of residents is never locked together with any of them.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::{SpoolError, hqf::Header, journal::Segment, ticket::Completer};

/// Where a message lies in the journal.
pub(crate) struct Place {
    pub(crate) segment: Arc<Segment>,
    /// First byte of its image.
    pub(crate) offset: u64,
}

/// A message in the journal.
pub(crate) struct Resident {
    pub(crate) id: Uuid,
    pub(crate) header: Header,
    pub(crate) image_bytes: u64,
    /// Set by the committer when it has chosen the place.
    pub(crate) place: OnceLock<Place>,
    pub(crate) inner: Mutex<Inner>,
}

pub(crate) struct Inner {
    pub(crate) phase: Phase,
    /// The content and META to COMMIT, while they are in memory.
    pub(crate) memory: Option<Memory>,
    /// Frames appended since.
    pub(crate) frames: Vec<Bytes>,
    /// What was asked while the phase did not allow it, in order.
    pub(crate) pending: Vec<Op>,
    /// Who waits for it to be a file.
    pub(crate) waiters: Vec<Completer<()>>,
}

#[derive(Clone)]
pub(crate) struct Memory {
    pub(crate) content: Bytes,
    pub(crate) frames: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not yet durable.
    Committing,
    /// Durable in the journal.
    Journal,
    /// Being written as a file; changes wait.
    Spilling,
    /// Its RELEASE is on the way because it is finished.
    Finishing,
    /// A file now, or gone.
    Gone,
}

/// A change of a stored message, wherever it lives.
pub(crate) enum Op {
    /// Append a frame.
    Frame { raw: Bytes, sync: bool, completer: Option<Completer<()>> },
    /// The message is over.
    Finish { sync: bool, completer: Option<Completer<()>> },
    /// Make it a file if it is none.
    Spill { completer: Completer<()> },
    /// Make it a compact, durable file.
    Unload { completer: Completer<PathBuf> },
}

impl Op {
    pub(crate) fn fail(self, error: SpoolError) {
        match self {
            Self::Frame { completer, .. } | Self::Finish { completer, .. } => {
                if let Some(completer) = completer {
                    completer.complete(Err(error));
                }
            }
            Self::Spill { completer } => completer.complete(Err(error)),
            Self::Unload { completer } => completer.complete(Err(error)),
        }
    }
}

/// The messages in the journal by id.
pub(crate) struct Residents {
    shards: Vec<Mutex<HashMap<Uuid, Arc<Resident>>>>,
    count: AtomicUsize,
}

/// Enough that twenty sessions seldom meet.
const SHARDS: usize = 64;

impl Residents {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), count: AtomicUsize::new(0) }
    }

    pub(crate) fn get(&self, id: &Uuid) -> Option<Arc<Resident>> {
        self.shard(id).lock().get(id).cloned()
    }

    /// Adds a message; `false` if one of that id is there.
    pub(crate) fn insert(&self, resident: &Arc<Resident>) -> bool {
        let mut shard = self.shard(&resident.id).lock();
        match shard.entry(resident.id) {
            std::collections::hash_map::Entry::Occupied(_) => false,
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(Arc::clone(resident));
                self.count.fetch_add(1, Ordering::Relaxed);
                true
            }
        }
    }

    pub(crate) fn remove(&self, id: &Uuid) {
        if self.shard(id).lock().remove(id).is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(crate) fn ids(&self) -> Vec<Uuid> {
        self.shards.iter().flat_map(|shard| shard.lock().keys().copied().collect::<Vec<_>>()).collect()
    }

    fn shard(&self, id: &Uuid) -> &Mutex<HashMap<Uuid, Arc<Resident>>> {
        &self.shards[spread(id) % SHARDS]
    }
}

/// A number that spreads ids of every version evenly.
pub(crate) fn spread(id: &Uuid) -> usize {
    crc32c::crc32c(id.as_bytes()) as usize
}
