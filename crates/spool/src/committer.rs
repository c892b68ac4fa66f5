//! The committer: one thread that writes whatever waits in one go, syncs once, and wakes everybody.

use std::{
    io::IoSlice,
    path::PathBuf,
    sync::{Arc, Weak, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use uuid::Uuid;

use crate::{
    Event, SpoolError,
    disk::Open,
    journal::{
        FreeFile, RECORD_HEAD_BYTES, SEGMENT_HEADER_BYTES, Segment, kind, record_bytes, record_head,
        segment_header,
    },
    late::LateBatch,
    resident::{Memory, Place, Resident},
    shared::{Shared, count},
    ticket::Completer,
};

/// Records that nobody waits for are written with the next sync, or after this long.
const LINGER: Duration = Duration::from_millis(20);
/// This part of a segment takes no new messages, so that FRAME and RELEASE find room on a full disk.
const RESERVE_PART: u64 = 16;

/// What a stored message is called and how large it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The path that the message has or will have.
    pub path: PathBuf,
    /// Bytes of its image (header, content, frames).
    pub image_bytes: u64,
    /// Whether it is in the journal (else it is a file already).
    pub in_journal: bool,
}

/// A record on its way into the journal.
pub(crate) struct Submission {
    kind: u8,
    sync: bool,
    /// The payload in pieces, written one behind the other.
    pieces: [Bytes; 4],
    payload_bytes: u64,
    payload_crc: u32,
    settle: Settle,
}

/// What follows when a record is written (and synced, if it is to be).
pub(crate) enum Settle {
    /// A message is accepted.
    Commit { resident: Arc<Resident>, completer: Completer<Committed> },
    /// A change is recorded.
    Frame { completer: Option<Completer<()>> },
    /// Changes of files are recorded.
    Late { batch: Arc<LateBatch>, completer: Completer<()> },
    /// A finished message is released.
    Finished { resident: Arc<Resident>, completer: Option<Completer<()>> },
    /// A message that is a file now is released.
    Spilled { resident: Arc<Resident> },
    /// A message whose commit failed is released, in case it is on disk all the same.
    Dropped { resident: Arc<Resident> },
}

impl Submission {
    pub(crate) fn message(resident: Arc<Resident>, memory: &Memory, completer: Completer<Committed>) -> Self {
        let header = resident.header.encode();
        let mut head = Vec::with_capacity(header.len());
        head.extend_from_slice(&header);
        const ZEROS: [u8; 8] = [0; 8];
        let padding = Bytes::from_static(&ZEROS[..resident.header.padding()]);
        let pieces = [Bytes::from(head), memory.content.clone(), padding, memory.frames.clone()];
        Self::new(kind::MESSAGE, true, pieces, Settle::Commit { resident, completer })
    }

    pub(crate) fn frame(id: Uuid, raw: Bytes, sync: bool, completer: Option<Completer<()>>) -> Self {
        let pieces = [Bytes::copy_from_slice(id.as_bytes()), raw, Bytes::new(), Bytes::new()];
        Self::new(kind::FRAME, sync, pieces, Settle::Frame { completer })
    }

    pub(crate) fn late(payload: Bytes, batch: Arc<LateBatch>, completer: Completer<()>) -> Self {
        let pieces = [payload, Bytes::new(), Bytes::new(), Bytes::new()];
        Self::new(kind::LATE, true, pieces, Settle::Late { batch, completer })
    }

    pub(crate) fn release(id: Uuid, sync: bool, settle: Settle) -> Self {
        let pieces = [Bytes::copy_from_slice(id.as_bytes()), Bytes::new(), Bytes::new(), Bytes::new()];
        Self::new(kind::RELEASE, sync, pieces, settle)
    }

    fn new(kind: u8, sync: bool, pieces: [Bytes; 4], settle: Settle) -> Self {
        let payload_bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        let payload_crc = pieces.iter().fold(0, |crc, piece| crc32c::crc32c_append(crc, piece));
        Self { kind, sync, pieces, payload_bytes, payload_crc, settle }
    }
}

/// Where sessions leave their records.
#[derive(Default)]
pub(crate) struct CommitQueue {
    state: Mutex<QueueState>,
    condvar: Condvar,
}

#[derive(Default)]
struct QueueState {
    items: Vec<Submission>,
    /// Somebody waits for one of them.
    urgent: bool,
    stop: bool,
}

impl CommitQueue {
    pub(crate) fn push(&self, item: Submission) {
        let mut state = self.state.lock();
        if state.stop {
            drop(state);
            // Dropped, it answers that the spool is closed.
            return drop(item);
        }
        let wake = item.sync && !state.urgent || state.items.is_empty();
        state.urgent |= item.sync;
        state.items.push(item);
        drop(state);
        if wake {
            self.condvar.notify_one();
        }
    }

    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.condvar.notify_one();
    }

    /// Everything that waits; `false` when stopped and empty.
    fn take(&self, into: &mut Vec<Submission>) -> bool {
        let mut state = self.state.lock();
        while state.items.is_empty() {
            if state.stop {
                return false;
            }
            self.condvar.wait(&mut state);
        }
        let until = Instant::now() + LINGER;
        while !state.urgent && !state.stop {
            if self.condvar.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        state.urgent = false;
        std::mem::swap(&mut state.items, into);
        true
    }
}

/// The thread's own state.
pub(crate) struct Committer {
    shared: Arc<Shared>,
    active: Option<Active>,
    sequence_next: u64,
}

struct Active {
    segment: Arc<Segment>,
    position: u64,
    unsynced: bool,
}

impl Committer {
    pub(crate) fn new(shared: Arc<Shared>, sequence_next: u64) -> Self {
        Self { shared, active: None, sequence_next }
    }

    pub(crate) fn run(mut self) {
        let mut items = Vec::new();
        while self.shared.commits.take(&mut items) {
            self.write_batch(&mut items);
        }
        if self.shared.options.fsync
            && let Some(active) = self.active.filter(|active| active.unsynced)
            && let Err(source) = active.segment.file.fdatasync()
        {
            let error = SpoolError::io("sync", &active.segment.path, source);
            self.shared.event(Event::Journal { error });
        }
    }

    fn write_batch(&mut self, items: &mut Vec<Submission>) {
        let mut written = Vec::with_capacity(items.len());
        let mut group: Vec<Submission> = Vec::with_capacity(items.len());
        let mut group_bytes = 0;
        for item in items.drain(..) {
            let need = record_bytes(item.payload_bytes);
            if !self.fits(&item, group_bytes + need) {
                self.write_group(&mut group, &mut written);
                group_bytes = 0;
                if !self.fits(&item, need)
                    && let Err(error) = self.rotate(&mut written)
                {
                    self.settle(item.settle, Err(error));
                    continue;
                }
            }
            group_bytes += need;
            group.push(item);
        }
        self.write_group(&mut group, &mut written);
        if written.iter().any(|item| item.sync) {
            let result = self.sync();
            self.settle_all(&mut written, result);
        } else {
            self.settle_all(&mut written, Ok(()));
        }
    }

    /// Whether `bytes` more, ending in `item`, have room in the active segment.
    fn fits(&self, item: &Submission, bytes: u64) -> bool {
        let Some(active) = &self.active else { return false };
        let size = active.segment.bytes;
        let end = if item.kind == kind::MESSAGE { size - size / RESERVE_PART } else { size };
        active.position + bytes <= end
    }

    /// Writes records that fit one behind the other.
    fn write_group(&mut self, group: &mut Vec<Submission>, written: &mut Vec<Submission>) {
        if group.is_empty() {
            return;
        }
        let Some(active) = &mut self.active else {
            // Records are grouped only for an active segment.
            for item in group.drain(..) {
                self.settle(item.settle, Err(SpoolError::Closed));
            }
            return;
        };
        let mut heads = Vec::with_capacity(group.len());
        let mut position = active.position;
        for item in &*group {
            if let Settle::Commit { resident, .. } = &item.settle {
                let place =
                    Place { segment: Arc::clone(&active.segment), offset: position + RECORD_HEAD_BYTES };
                if resident.place.set(place).is_ok() {
                    active.segment.add_live();
                }
            }
            if let Settle::Late { batch, .. } = &item.settle {
                batch.lies_in(&active.segment);
            }
            // Payloads are at most a segment long, and segments of more than 4 GiB take no longer ones (see `limit`).
            let head = record_head(item.kind, item.payload_bytes as u32, self.sequence_next);
            let crc =
                crc32c::crc32c_combine(crc32c::crc32c(&head), item.payload_crc, item.payload_bytes as usize);
            let mut tail = [0; 12];
            tail[..4].copy_from_slice(&crc.to_le_bytes());
            let whole = record_bytes(item.payload_bytes);
            heads.push((head, tail, (whole - RECORD_HEAD_BYTES - item.payload_bytes) as usize));
            self.sequence_next += 1;
            position += whole;
        }
        let mut slices = Vec::with_capacity(group.len() * 6);
        for (item, (head, tail, tail_bytes)) in group.iter().zip(&heads) {
            slices.push(IoSlice::new(head));
            slices.extend(
                item.pieces.iter().filter(|piece| !piece.is_empty()).map(|piece| IoSlice::new(piece)),
            );
            slices.push(IoSlice::new(&tail[..*tail_bytes]));
        }
        let result = active.segment.file.pwritev(active.position, &slices);
        drop(slices);
        match result {
            Ok(()) => {
                active.position = position;
                active.unsynced = true;
                self.shared.counters.records.fetch_add(group.len() as u64, Ordering::Relaxed);
                written.append(group);
            }
            Err(source) => {
                let error = SpoolError::io("write", &active.segment.path, source);
                // Nobody knows what is on disk behind `position`: write on elsewhere.
                let sealed = self.sync();
                self.active = None;
                self.settle_all(written, sealed);
                self.settle_all(group, Err(error));
            }
        }
    }

    fn sync(&mut self) -> Result<(), SpoolError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        if !self.shared.options.fsync || !active.unsynced {
            return Ok(());
        }
        count(&self.shared.counters.syncs);
        match active.segment.file.fdatasync() {
            Ok(()) => {
                active.unsynced = false;
                Ok(())
            }
            Err(source) => {
                let error = SpoolError::io("sync", &active.segment.path, source);
                // A failed sync may have dropped pages: what is in memory is not what is on disk any more.
                self.active = None;
                Err(error)
            }
        }
    }

    /// Continues in a new segment. On failure the old one stays for what fits into its reserve.
    fn rotate(&mut self, written: &mut Vec<Submission>) -> Result<(), SpoolError> {
        let fresh = self.shared.take_segment_file()?;
        let result = self.sync();
        self.settle_all(written, result);
        let mut table = self.shared.segments.lock();
        let header = segment_header(table.number_next, self.sequence_next);
        if let Err(source) = fresh.file.pwrite(0, &header) {
            let error = SpoolError::io("write", &fresh.path, source);
            table.free.push(fresh);
            return Err(error);
        }
        table.number_next += 1;
        let segment = Arc::new(Segment::new(fresh.path, fresh.file, fresh.bytes));
        table.used.push_back(Arc::clone(&segment));
        self.shared.segments_in_use.store(table.used.len(), Ordering::Relaxed);
        drop(table);
        self.active = Some(Active { segment, position: SEGMENT_HEADER_BYTES, unsynced: true });
        self.shared.tick.wake();
        Ok(())
    }

    fn settle_all(&mut self, items: &mut Vec<Submission>, result: Result<(), SpoolError>) {
        let mut aged = Vec::new();
        for item in items.drain(..) {
            if result.is_ok()
                && let Settle::Commit { resident, .. } = &item.settle
            {
                aged.push(Arc::downgrade(resident));
            }
            // What nobody waited for counts as written, synced or not.
            self.settle(item.settle, if item.sync { result.clone() } else { Ok(()) });
        }
        self.age(aged);
    }

    fn age(&self, residents: Vec<Weak<Resident>>) {
        if residents.is_empty() {
            return;
        }
        let now = Instant::now();
        self.shared.ages.lock().extend(residents.into_iter().map(|resident| (now, resident)));
    }

    fn settle(&self, settle: Settle, result: Result<(), SpoolError>) {
        if result.is_err() {
            count(&self.shared.counters.errors);
        }
        self.shared.settle(settle, result);
    }
}

impl Shared {
    fn settle(&self, settle: Settle, result: Result<(), SpoolError>) {
        let release = |resident: &Resident| {
            if let Some(place) = resident.place.get()
                && place.segment.remove_live()
                && self.segments_in_use.load(Ordering::Relaxed) > self.options.journal_segments
            {
                // Segments are short, and this one may be free now.
                self.tick.wake();
            }
        };
        match (settle, result) {
            (Settle::Commit { resident, completer }, Ok(())) => {
                count(&self.counters.commits);
                let mut inner = resident.inner.lock();
                let size = resident.image_bytes as usize;
                let before = self.memory_bytes.fetch_add(size, Ordering::Relaxed);
                if before.saturating_add(size) as u64 > self.options.journal_memory_bytes {
                    self.memory_bytes.fetch_sub(size, Ordering::Relaxed);
                    inner.memory = None;
                }
                self.resume(&resident, &mut inner);
                drop(inner);
                completer.complete(Ok(Committed {
                    path: self.path(&resident.id),
                    image_bytes: resident.image_bytes,
                    in_journal: true,
                }));
            }
            (Settle::Commit { resident, completer }, Err(error)) => {
                // Not counted yet: `forget` must not take it off.
                resident.inner.lock().memory = None;
                self.forget(&resident, false);
                if resident.place.get().is_some() {
                    self.unreleased.lock().push(Settle::Dropped { resident });
                }
                completer.complete(Err(error));
            }
            (Settle::Frame { completer }, result) => {
                if let Some(completer) = completer {
                    completer.complete(result);
                } else if let Err(error) = result {
                    self.event(Event::Journal { error });
                }
            }
            (Settle::Late { batch, completer }, result) => {
                drop(batch);
                completer.complete(result);
            }
            (Settle::Finished { resident, completer }, Ok(())) => {
                count(&self.counters.removed);
                self.forget(&resident, false);
                release(&resident);
                if let Some(completer) = completer {
                    completer.complete(Ok(()));
                }
            }
            (Settle::Finished { resident, completer: Some(completer) }, Err(error)) => {
                self.resume(&resident, &mut resident.inner.lock());
                completer.complete(Err(error));
            }
            (Settle::Finished { resident, completer: None }, Err(error)) => {
                self.event(Event::Write { id: resident.id, error });
                self.unreleased.lock().push(Settle::Finished { resident, completer: None });
            }
            (Settle::Spilled { resident }, Ok(())) => {
                count(&self.counters.spills);
                self.forget(&resident, true);
                release(&resident);
            }
            (Settle::Dropped { resident }, Ok(())) => release(&resident),
            (settle @ (Settle::Spilled { .. } | Settle::Dropped { .. }), Err(error)) => {
                if let Settle::Spilled { resident } = &settle {
                    self.fail_waiters(resident, &error);
                }
                self.event(Event::Journal { error });
                self.unreleased.lock().push(settle);
            }
        }
    }

    /// A RELEASE that failed, once more.
    pub(crate) fn retry_release(&self, settle: Settle) {
        let id = match &settle {
            Settle::Finished { resident, .. }
            | Settle::Spilled { resident }
            | Settle::Dropped { resident } => resident.id,
            Settle::Commit { .. } | Settle::Frame { .. } | Settle::Late { .. } => return,
        };
        let sync = matches!(settle, Settle::Spilled { .. });
        self.commits.push(Submission::release(id, sync, settle));
    }

    /// A free segment file, a new one if there is none.
    fn take_segment_file(&self) -> Result<FreeFile, SpoolError> {
        if let Some(free) = self.segments.lock().free.pop() {
            return Ok(free);
        }
        self.new_segment_file()
    }

    /// Creates a segment file with all its room.
    pub(crate) fn new_segment_file(&self) -> Result<FreeFile, SpoolError> {
        let directory = self.journal_path();
        let number = {
            let mut table = self.segments.lock();
            table.file_next += 1;
            table.file_next
        };
        let path = directory.join(format!("{number}.jnl"));
        let bytes = self.options.journal_segment_bytes;
        let file = self.disk.open(&path, Open::Create).map_err(|e| SpoolError::io("create", &path, e))?;
        if let Err(source) = file.preallocate(bytes) {
            // Without its room it is worth nothing; if it stays, the next start finds it free and too short.
            let _ = self.disk.unlink(&path);
            return Err(SpoolError::io("preallocate", &path, source));
        }
        if self.options.fsync {
            file.fsync().map_err(|e| SpoolError::io("sync", &path, e))?;
        }
        self.sync_dir(&directory)?;
        Ok(FreeFile { path, file, bytes })
    }

    /// The largest image that goes into the journal.
    pub(crate) fn journal_image_bytes_max(&self) -> u64 {
        let segment = self.options.journal_segment_bytes;
        let room = segment - segment / RESERVE_PART - SEGMENT_HEADER_BYTES - record_bytes(0);
        self.options.journal_maxmessage_bytes.min(room).min(u64::from(u32::MAX) / 2)
    }
}
