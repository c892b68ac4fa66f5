//! What the threads of a spool share, and how a change finds its way.

use std::{
    collections::{HashSet, VecDeque},
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use parking_lot::{Condvar, Mutex};
use uuid::Uuid;

use crate::{
    Event, SpoolError, SpoolOptions,
    committer::{CommitQueue, Settle, Submission},
    disk::Disk,
    files::{Job, WorkQueue},
    journal::SegmentTable,
    late::LateFrame,
    resident::{Inner, Op, Phase, Resident, Residents, spread},
    ticket::Pending,
};

/// Everything the threads share.
pub(crate) struct Shared {
    pub(crate) options: SpoolOptions,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) residents: Residents,
    pub(crate) commits: CommitQueue,
    pub(crate) workers: Vec<WorkQueue>,
    pub(crate) segments: Mutex<SegmentTable>,
    /// Residents by the time they were committed, oldest first.
    pub(crate) ages: Mutex<VecDeque<(Instant, Weak<Resident>)>>,
    /// RELEASE records that could not be written, to be tried again.
    pub(crate) unreleased: Mutex<Vec<Settle>>,
    /// Spills that failed behind the rename, to be tried again.
    pub(crate) unspilled: Mutex<Vec<Arc<Resident>>>,
    /// Ids stored while the files are being scanned.
    pub(crate) fresh: Mutex<Option<HashSet<Uuid>>>,
    pub(crate) tick: Tick,
    pub(crate) counters: Counters,
    pub(crate) memory_bytes: AtomicUsize,
    pub(crate) segments_in_use: AtomicUsize,
    pub(crate) low_space: AtomicBool,
    pub(crate) closed: AtomicBool,
    /// Late changes whose files could not be synced; they keep their segments.
    pub(crate) unsynced: Mutex<Vec<LateFrame>>,
    /// The last number of a late change.
    pub(crate) late_last: AtomicU64,
}

/// Wakes the spill thread before its time.
#[derive(Default)]
pub(crate) struct Tick {
    pub(crate) state: Mutex<TickState>,
    pub(crate) condvar: Condvar,
}

#[derive(Default)]
pub(crate) struct TickState {
    pub(crate) wanted: bool,
    pub(crate) stop: bool,
}

impl Tick {
    pub(crate) fn wake(&self) {
        self.state.lock().wanted = true;
        self.condvar.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.condvar.notify_one();
    }
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) commits_file: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) spills: AtomicU64,
    pub(crate) compactions: AtomicU64,
    pub(crate) removed: AtomicU64,
    pub(crate) errors: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Shared {
    pub(crate) fn event(&self, event: Event) {
        (self.options.events)(event);
    }

    pub(crate) fn directory(&self, id: &Uuid) -> PathBuf {
        self.options.path.join(format!("{:02x}", id.as_bytes()[0]))
    }

    pub(crate) fn path(&self, id: &Uuid) -> PathBuf {
        self.directory(id).join(format!("{id}.hqf"))
    }

    pub(crate) fn part_path(&self, id: &Uuid) -> PathBuf {
        self.options.path.join("incoming").join(format!("{id}.part"))
    }

    pub(crate) fn journal_path(&self) -> PathBuf {
        self.options.path.join("journal")
    }

    /// Notes an id that the scan of the files must not take for one of the last run.
    pub(crate) fn note_fresh(&self, id: Uuid) {
        if let Some(fresh) = &mut *self.fresh.lock() {
            fresh.insert(id);
        }
    }

    pub(crate) fn to_worker(&self, id: &Uuid, job: Job) {
        self.workers[spread(id) % self.workers.len()].push(job);
    }

    /// Does `op` where the message lives.
    pub(crate) fn apply(&self, id: Uuid, op: Op) {
        match self.residents.get(&id) {
            Some(resident) => self.dispatch(&resident, &mut resident.inner.lock(), op),
            None => self.to_worker(&id, Job::Op(id, op)),
        }
    }

    /// Does `op` on a resident whose lock is held.
    pub(crate) fn dispatch(&self, resident: &Arc<Resident>, inner: &mut Inner, op: Op) {
        match (inner.phase, op) {
            (Phase::Gone, op) => self.to_worker(&resident.id, Job::Op(resident.id, op)),
            (Phase::Spilling, Op::Spill { completer }) => inner.waiters.push(completer),
            (Phase::Committing | Phase::Spilling | Phase::Finishing, op) => inner.pending.push(op),
            (Phase::Journal, Op::Frame { raw, sync, completer }) => {
                inner.frames.push(raw.clone());
                self.commits.push(Submission::frame(resident.id, raw, sync, completer));
            }
            (Phase::Journal, Op::Finish { sync, completer }) => {
                inner.phase = Phase::Finishing;
                let settle = Settle::Finished { resident: Arc::clone(resident), completer };
                self.commits.push(Submission::release(resident.id, sync, settle));
            }
            (Phase::Journal, Op::Spill { completer }) => {
                inner.waiters.push(completer);
                self.spill(resident, inner);
            }
            (Phase::Journal, op @ Op::Unload { .. }) => {
                self.spill(resident, inner);
                inner.pending.push(op);
            }
        }
    }

    /// Hands a resident in [`Phase::Journal`] to its file worker.
    pub(crate) fn spill(&self, resident: &Arc<Resident>, inner: &mut Inner) {
        inner.phase = Phase::Spilling;
        self.to_worker(&resident.id, Job::Spill(Arc::clone(resident)));
    }

    /// The resident can be changed in the journal (again): does what waited.
    pub(crate) fn resume(&self, resident: &Arc<Resident>, inner: &mut Inner) {
        inner.phase = Phase::Journal;
        for op in std::mem::take(&mut inner.pending) {
            self.dispatch(resident, inner, op);
        }
    }

    /// The resident is a file (`true`) or over: forgets it.
    pub(crate) fn forget(&self, resident: &Arc<Resident>, is_file: bool) {
        let (pending, waiters) = {
            let mut inner = resident.inner.lock();
            inner.phase = Phase::Gone;
            if inner.memory.take().is_some() {
                self.memory_bytes.fetch_sub(resident.image_bytes as usize, Ordering::Relaxed);
            }
            inner.frames = Vec::new();
            let pending = std::mem::take(&mut inner.pending);
            if is_file {
                // Under the lock, so that nothing asked later overtakes them.
                for op in pending {
                    self.to_worker(&resident.id, Job::Op(resident.id, op));
                }
                (Vec::new(), std::mem::take(&mut inner.waiters))
            } else {
                (pending, std::mem::take(&mut inner.waiters))
            }
        };
        self.residents.remove(&resident.id);
        for op in pending {
            op.fail(SpoolError::NotFound(resident.id));
        }
        for waiter in waiters {
            waiter.complete(if is_file { Ok(()) } else { Err(SpoolError::NotFound(resident.id)) });
        }
    }

    /// Waits for the message to be a file, whatever its phase.
    pub(crate) fn wait_filed(resident: &Resident) -> Pending<()> {
        let (pending, completer) = Pending::new();
        resident.inner.lock().waiters.push(completer);
        pending
    }

    /// Tells who waits for the message to be a file that it did not work this time.
    pub(crate) fn fail_waiters(&self, resident: &Resident, error: &SpoolError) {
        let waiters = std::mem::take(&mut resident.inner.lock().waiters);
        for waiter in waiters {
            waiter.complete(Err(error.clone()));
        }
    }

    pub(crate) fn sync_dir(&self, path: &Path) -> Result<(), SpoolError> {
        if !self.options.fsync {
            return Ok(());
        }
        count(&self.counters.syncs);
        self.disk.sync_dir(path).map_err(|source| SpoolError::io("sync directory", path, source))
    }
}
