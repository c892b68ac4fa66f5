//! Many changes at once, of messages that are files: written to the journal in one go, to the files later.
//!
//! An operator changes a hundred thousand messages and waits for the answer. A write and a sync for each file take
//! minutes; one stretch of the journal takes a fraction of a second and is as durable. The changes then wait in the
//! queues of the file workers, which append them to the files when they have nothing else to do, behind what was asked of
//! the same file before and ahead of what is asked of it later, so that the order of changes stays. Until they are synced there, their journal
//! segment stays in use.
//!
//! After a crash the scan of the files finds them again. Each change carries a number, and an entry remembers the
//! highest one it has seen, so that none is applied twice and none overrides what came later.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use uuid::Uuid;

use crate::{
    Durability, EntryUpdate, Frame, Spool, SpoolError,
    committer::Submission,
    hqf::{self, FileImage},
    journal::Segment,
    resident::spread,
    shared::Shared,
    ticket::Pending,
};

/// Payload of a journal record with late changes at most; less where segments are short.
const RECORD_BYTES_MAX: u64 = 64 << 10;
/// Files that a worker brings up to date in one round when it has nothing else to do.
pub(crate) const ROUND_IDLE: usize = 512;
/// And when it has.
pub(crate) const ROUND_BUSY: usize = 8;
/// The journal goes first.
const REST: Duration = Duration::from_millis(300);
/// After a failure.
const RETRY: Duration = Duration::from_secs(1);

/// A change that its file does not have yet.
pub(crate) struct LateFrame {
    pub(crate) raw: Bytes,
    /// Held, not read.
    _batch: Arc<LateBatch>,
}

/// Changes that were asked for together. Their segments are in use as long as one of them needs it.
#[derive(Default)]
pub(crate) struct LateBatch {
    segments: Mutex<Vec<Arc<Segment>>>,
}

impl LateBatch {
    /// A record with some of the changes lies in this segment.
    pub(crate) fn lies_in(&self, segment: &Arc<Segment>) {
        let mut segments = self.segments.lock();
        if segments.iter().all(|known| !Arc::ptr_eq(known, segment)) {
            segment.add_live();
            segments.push(Arc::clone(segment));
        }
    }
}

impl Drop for LateBatch {
    fn drop(&mut self) {
        for segment in self.segments.get_mut() {
            segment.remove_live();
        }
    }
}

/// The late changes of a file worker.
#[derive(Default)]
pub(crate) struct LateQueue {
    frames: HashMap<Uuid, Vec<LateFrame>>,
    not_before: Option<Instant>,
}

impl LateQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// When the next round is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.not_before.filter(|_| !self.frames.is_empty())
    }

    pub(crate) fn is_due(&self) -> bool {
        !self.frames.is_empty() && self.not_before.is_none_or(|at| at <= Instant::now())
    }

    fn add(&mut self, id: Uuid, frame: LateFrame) {
        if self.frames.is_empty() {
            self.not_before = Some(Instant::now() + REST);
        }
        self.frames.entry(id).or_default().push(frame);
    }

    /// Those of one message.
    pub(crate) fn take_of(&mut self, id: &Uuid) -> Option<Vec<LateFrame>> {
        if self.frames.is_empty() { None } else { self.frames.remove(id) }
    }

    /// Those of up to so many messages.
    pub(crate) fn take_some(&mut self, count: usize) -> Vec<(Uuid, Vec<LateFrame>)> {
        let ids: Vec<Uuid> = self.frames.keys().take(count).copied().collect();
        let taken = ids.into_iter().filter_map(|id| Some((id, self.frames.remove(&id)?))).collect();
        if self.frames.is_empty() {
            self.frames = HashMap::new();
        }
        taken
    }

    /// They could not be written and are tried again, before what came meanwhile.
    pub(crate) fn put_back(&mut self, id: Uuid, mut frames: Vec<LateFrame>) {
        let slot = self.frames.entry(id).or_default();
        frames.append(slot);
        *slot = frames;
        self.not_before = Some(Instant::now() + RETRY);
    }
}

/// Late changes found in the journal at start, by message.
#[derive(Default)]
pub(crate) struct FoundLate {
    frames: BTreeMap<Uuid, Vec<LateFrame>>,
    batch: Arc<LateBatch>,
}

impl FoundLate {
    pub(crate) fn add(&mut self, id: Uuid, raw: Bytes, segment: &Arc<Segment>) {
        self.batch.lies_in(segment);
        let frame = LateFrame { raw, _batch: Arc::clone(&self.batch) };
        self.frames.entry(id).or_default().push(frame);
    }

    pub(crate) fn take(&mut self, id: &Uuid) -> Vec<LateFrame> {
        self.frames.remove(id).unwrap_or_default()
    }
}

/// The changes in the payload of a journal record; `None` if it is damaged.
pub(crate) fn parse(payload: &Bytes) -> Option<Vec<(Uuid, Bytes)>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < payload.len() {
        let id = payload.get(at..at + 16)?.first_chunk::<16>()?;
        let raw = hqf::frame_bytes(payload, at + 16)?;
        at += 16 + raw.len();
        found.push((Uuid::from_bytes(*id), raw));
    }
    Some(found)
}

impl Spool {
    /// Changes entries of many messages. All answers together say that everything is durable;
    /// [`SpoolError::NotFound`] among them is a message that ended meanwhile.
    pub fn update_many(&self, updates: impl IntoIterator<Item = (Uuid, EntryUpdate)>) -> Vec<Pending<()>> {
        let shared = &self.shared;
        let batch = Arc::new(LateBatch::default());
        let mut answers = Vec::new();
        let mut payload = Vec::new();
        let mut places: Vec<(Uuid, usize)> = Vec::new();
        let limit = (shared.options.journal_segment_bytes / 8).min(RECORD_BYTES_MAX) as usize;
        for (id, mut update) in updates {
            let long = update.encoded_len() + 64 > limit;
            if long || !shared.options.journal_enabled || shared.residents.get(&id).is_some() {
                answers.push(self.append(id, &Frame::Update(Box::new(update)), Durability::Synced));
                continue;
            }
            // One for each: two changes of the same entry would otherwise be taken for one.
            update.late = Some(shared.late_number());
            let raw = match hqf::encode_frame(&Frame::Update(Box::new(update))) {
                Ok(raw) => raw,
                Err(error) => {
                    answers.push(Pending::ready(Err(error)));
                    continue;
                }
            };
            if payload.len() + 16 + raw.len() > limit {
                answers.push(shared.submit_late(&mut payload, &mut places, &batch));
            }
            payload.extend_from_slice(id.as_bytes());
            places.push((id, payload.len()));
            payload.extend_from_slice(&raw);
        }
        if !places.is_empty() {
            answers.push(shared.submit_late(&mut payload, &mut places, &batch));
        }
        answers
    }
}

impl Shared {
    /// The number of a change; higher than any before, also of earlier runs.
    fn late_number(&self) -> u64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_micros()).unwrap_or(0);
        // Only moves forward, so the closure never refuses.
        let before =
            self.late_last.fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| Some(now.max(last + 1)));
        now.max(before.unwrap_or(0) + 1)
    }

    /// Remembers a number that was given before.
    pub(crate) fn saw_late_number(&self, number: u64) {
        self.late_last.fetch_max(number, Ordering::AcqRel);
    }

    fn submit_late(
        &self,
        payload: &mut Vec<u8>,
        places: &mut Vec<(Uuid, usize)>,
        batch: &Arc<LateBatch>,
    ) -> Pending<()> {
        let payload = Bytes::from(std::mem::take(payload));
        let ends = places.iter().skip(1).map(|(_, next)| next - 16).chain([payload.len()]);
        for ((id, from), end) in places.iter().zip(ends) {
            // Before the journal has it: what is asked of the message from now on must come behind.
            let frame = LateFrame { raw: payload.slice(*from..end), _batch: Arc::clone(batch) };
            self.workers[spread(id) % self.workers.len()].add_late(*id, frame);
        }
        places.clear();
        let (pending, completer) = Pending::new();
        self.commits.push(Submission::late(payload, Arc::clone(batch), completer));
        pending
    }

    /// Brings a file that was found at start up to date with what the journal still holds for it.
    pub(crate) fn apply_found(
        &self,
        path: &std::path::Path,
        file: &dyn crate::disk::DiskFile,
        image: &mut FileImage,
        late: Vec<LateFrame>,
    ) -> Result<(), SpoolError> {
        if late.is_empty() {
            return Ok(());
        }
        let bad = |reason| SpoolError::Corrupt { path: path.to_owned(), reason };
        let state = image.frames.state().map_err(bad)?;
        let mut end = image.good_end();
        for frame in late {
            let update = hqf::decode_update(&frame.raw).map_err(bad)?;
            let number = update.late.unwrap_or(0);
            self.saw_late_number(number);
            let entry = state.entries.iter().find(|entry| entry.queue_id == update.queue_id);
            if entry.is_none_or(|entry| entry.late >= number) {
                continue;
            }
            file.pwrite(end, &frame.raw).map_err(|e| SpoolError::io("write", path, e))?;
            end += frame.raw.len() as u64;
            image.frames.append(frame.raw.clone()).map_err(bad)?;
            image.frames.good_bytes += frame.raw.len() as u64;
            image.file_bytes = end;
        }
        self.sync_file(file, path)
    }
}

pub(crate) fn queue_add(queue: &mut LateQueue, id: Uuid, frame: LateFrame) {
    queue.add(id, frame);
}
