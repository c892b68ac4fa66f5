//! The spill thread: writes out of the journal what has been there too long, and reuses segments.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crate::{
    Event, SpoolError,
    files::Job,
    journal::{FreeFile, Segment},
    resident::{Phase, Resident},
    shared::Shared,
};

/// Free space and failed writes are looked at this often, and idle segments found at the latest after it.
const TICK: Duration = Duration::from_secs(1);
/// Segment files kept though nothing is in them, besides the active one.
const SPARE_FILES: usize = 1;

/// Runs until stopped.
pub(crate) fn run(shared: &Arc<Shared>) {
    let mut space_checked: Option<Instant> = None;
    loop {
        let due = shared.spill_due(Instant::now());
        shared.recycle();
        shared.keep_spare();
        if space_checked.is_none_or(|at| at.elapsed() >= TICK) {
            shared.check_space();
            shared.retry();
            space_checked = Some(Instant::now());
        }
        let mut state = shared.tick.state.lock();
        if !state.stop && !state.wanted {
            let wait = due.map_or(TICK, |due| due.saturating_duration_since(Instant::now()).min(TICK));
            // A little longer than asked, so that what is due together goes together.
            shared.tick.condvar.wait_for(&mut state, wait + Duration::from_millis(10));
        }
        if state.stop {
            return;
        }
        state.wanted = false;
    }
}

impl Shared {
    /// Hands over what is older than the hold time or stands in the way of segment reuse; says when the next is due.
    fn spill_due(&self, now: Instant) -> Option<Instant> {
        let mut ripe: Vec<Arc<Resident>> = Vec::new();
        let mut next = None;
        let pressed = self.pressed_segment();
        {
            let mut ages = self.ages.lock();
            while let Some((since, resident)) = ages.front() {
                let Some(resident) = resident.upgrade() else {
                    ages.pop_front();
                    continue;
                };
                let in_pressed = pressed.as_ref().is_some_and(|segment| {
                    resident.place.get().is_some_and(|place| Arc::ptr_eq(&place.segment, segment))
                });
                let due = *since + self.options.journal_hold;
                if due > now && !in_pressed {
                    next = Some(due);
                    break;
                }
                ages.pop_front();
                ripe.push(resident);
            }
        }
        for resident in ripe {
            let mut inner = resident.inner.lock();
            if inner.phase == Phase::Journal {
                self.spill(&resident, &mut inner);
            }
        }
        next
    }

    /// The oldest segment, if too many are in use.
    fn pressed_segment(&self) -> Option<Arc<Segment>> {
        let table = self.segments.lock();
        (table.used.len() > self.options.journal_segments).then(|| table.used.front().cloned()).flatten()
    }

    /// Frees idle segments, oldest first; the newest is being written and stays.
    pub(crate) fn recycle(&self) {
        loop {
            let segment = {
                let mut table = self.segments.lock();
                if table.used.len() < 2 || !table.used.front().is_some_and(|segment| segment.is_idle()) {
                    return;
                }
                let Some(segment) = table.used.pop_front() else { return };
                segment
            };
            if let Err(error) = self.free(&segment) {
                self.event(Event::Journal { error });
                // Without its wiped header it must stay the oldest: younger ones may hold the RELEASEs of its messages.
                self.segments.lock().used.push_front(segment);
                return;
            }
            self.segments_in_use.store(self.segments.lock().used.len(), Ordering::Relaxed);
        }
    }

    /// Wipes the header of a segment and makes its file free for reuse, or removes it. A damaged one is renamed: it is
    /// never deleted.
    pub(crate) fn free(&self, segment: &Segment) -> Result<(), SpoolError> {
        let (path, file) = (&segment.path, &segment.file);
        if segment.is_damaged() {
            let mut aside = path.clone().into_os_string();
            aside.push(".corrupt");
            self.disk.rename(path, Path::new(&aside)).map_err(|e| SpoolError::io("rename", path, e))?;
            return self.sync_dir(&self.journal_path());
        }
        file.pwrite(0, &[0; 64]).map_err(|e| SpoolError::io("write", path, e))?;
        if self.options.fsync {
            file.fdatasync().map_err(|e| SpoolError::io("sync", path, e))?;
        }
        let mut table = self.segments.lock();
        let wanted = self.options.journal_enabled && segment.bytes == self.options.journal_segment_bytes;
        if wanted && table.used.len() + table.free.len() < self.options.journal_segments {
            table.free.push(FreeFile { path: path.clone(), file: Arc::clone(file), bytes: segment.bytes });
            return Ok(());
        }
        drop(table);
        // Wiped, it holds nothing: whether its removal is durable does not matter.
        self.disk.unlink(path).map_err(|e| SpoolError::io("remove", path, e))
    }

    /// Has a free segment file ready before the active one is full.
    fn keep_spare(&self) {
        if !self.options.journal_enabled || self.segments.lock().free.len() >= SPARE_FILES {
            return;
        }
        match self.new_segment_file() {
            Ok(file) => self.segments.lock().free.push(file),
            // On a full disk this repeats; reception has answered 452 by then and says so.
            Err(SpoolError::Full) => {}
            Err(error) => self.event(Event::Journal { error }),
        }
    }

    /// What failed before, once more.
    fn retry(&self) {
        for settle in std::mem::take(&mut *self.unreleased.lock()) {
            self.retry_release(settle);
        }
        for resident in std::mem::take(&mut *self.unspilled.lock()) {
            self.to_worker(&resident.id.clone(), Job::Spill(resident));
        }
    }

    /// Compares free space with `spool.minfree`.
    pub(crate) fn check_space(&self) {
        let options = &self.options;
        if options.minfree_bytes == 0 && options.minfree_inodes == 0 {
            return;
        }
        match self.disk.space(&options.path) {
            Ok(space) => {
                let low = space.bytes < options.minfree_bytes || space.inodes < options.minfree_inodes;
                self.low_space.store(low, Ordering::Relaxed);
            }
            Err(source) => {
                let error = SpoolError::io("look at the space of", &options.path, source);
                self.event(Event::Journal { error });
            }
        }
    }
}
