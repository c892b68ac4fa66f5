//! The file workers: everything that happens to `.hqf` files.
//!
//! A message id always belongs to the same worker, so what is asked of one message happens in order without a lock. A
//! worker takes what waits, does the writes, then one round of syncs, then answers.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use uuid::Uuid;

use crate::{
    Corruption, Event, SpoolError,
    committer::{Committed, Settle, Submission},
    disk::{Disk, DiskFile, Open},
    hqf::{self, FileImage, HEADER_BYTES, Header},
    late::{self, LateFrame, LateQueue},
    resident::{Memory, Op, Resident},
    shared::{Shared, count},
    ticket::Completer,
};

/// Jobs of one round; bounds the files open at a time.
const ROUND_JOBS_MAX: usize = 64;
/// Removals of one round, which hold no file open: an operator may end a hundred thousand messages.
const ROUND_ENDS_MAX: usize = 2048;
/// From this many files or directories in a round on, the whole file system is synced instead of each of them.
const TOGETHER_FILES: usize = 8;
/// A file is looked at for compaction whenever its frames pass a multiple of this, and compacted when what was appended
/// exceeds it and twice the rest.
const COMPACT_BYTES: u64 = 64 << 10;
/// How much content is copied at a time.
const COPY_BYTES: usize = 64 << 10;

/// Something for a worker to do.
pub(crate) enum Job {
    /// Store a new message as a file.
    Store(Box<StoreJob>),
    /// Write a message of the journal as a file.
    Spill(Arc<Resident>),
    /// Change a file.
    Op(Uuid, Op),
    /// A late change that was asked for while others of the file were waiting here: it comes behind them.
    Late(Uuid, LateFrame),
    /// Answer when everything before is done.
    Barrier(Completer<()>),
}

/// A new message on its way into a file.
pub(crate) struct StoreJob {
    pub(crate) header: Header,
    pub(crate) source: Source,
    /// META to COMMIT.
    pub(crate) frames: Bytes,
    pub(crate) completer: Completer<Committed>,
}

/// Where the content of a new message is.
pub(crate) enum Source {
    Memory(Bytes),
    /// In a file under construction, behind room for the header.
    Part(Part),
}

/// A file under construction; removed when dropped.
pub(crate) struct Part {
    disk: Arc<dyn Disk>,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    renamed: bool,
}

impl Part {
    pub(crate) fn create(disk: &Arc<dyn Disk>, path: PathBuf) -> Result<Self, SpoolError> {
        let file = disk.open(&path, Open::Create).map_err(|e| SpoolError::io("create", &path, e))?;
        Ok(Self { disk: Arc::clone(disk), path, file, renamed: false })
    }

    fn write(&self, offset: u64, slices: &[&[u8]]) -> Result<(), SpoolError> {
        let slices: Vec<_> = slices.iter().filter(|s| !s.is_empty()).map(|s| IoSlice::new(s)).collect();
        self.file.pwritev(offset, &slices).map_err(|e| SpoolError::io("write", &self.path, e))
    }

    fn rename(&mut self, to: &Path) -> Result<(), SpoolError> {
        self.disk.rename(&self.path, to).map_err(|e| SpoolError::io("rename", &self.path, e))?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.renamed {
            // What stays is removed at the next start.
            let _ = self.disk.unlink(&self.path);
        }
    }
}

/// The jobs of one worker.
#[derive(Default)]
pub(crate) struct WorkQueue {
    state: Mutex<QueueState>,
    condvar: Condvar,
}

#[derive(Default)]
struct QueueState {
    jobs: VecDeque<Job>,
    late: LateQueue,
    stop: bool,
}

/// What a worker does in one round.
struct Helping {
    /// Jobs, with the late changes of the message that come first.
    jobs: Vec<(Vec<LateFrame>, Job)>,
    /// Late changes of other messages.
    late: Vec<(Uuid, Vec<LateFrame>)>,
}

impl WorkQueue {
    pub(crate) fn push(&self, job: Job) {
        let mut state = self.state.lock();
        if state.stop {
            drop(state);
            // Dropped, it answers that the spool is closed.
            return drop(job);
        }
        state.jobs.push_back(job);
        drop(state);
        self.condvar.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.condvar.notify_one();
    }

    pub(crate) fn add_late(&self, id: Uuid, frame: LateFrame) {
        let mut state = self.state.lock();
        // A change that was only queued is answered already, and must not come behind this one.
        if state.jobs.iter().any(|job| matches!(job, Job::Op(of, _) | Job::Late(of, _) if *of == id)) {
            state.jobs.push_back(Job::Late(id, frame));
            return;
        }
        let is_first = state.late.is_empty();
        late::queue_add(&mut state.late, id, frame);
        drop(state);
        if is_first {
            self.condvar.notify_one();
        }
    }

    fn put_back(&self, id: Uuid, frames: Vec<LateFrame>) {
        self.state.lock().late.put_back(id, frames);
    }

    /// The next round; `None` when stopped and empty.
    fn take(&self) -> Option<Helping> {
        let mut state = self.state.lock();
        while state.jobs.is_empty() && !(state.late.is_due() || state.stop && !state.late.is_empty()) {
            if state.stop {
                return None;
            }
            match state.late.due() {
                Some(due) => drop(self.condvar.wait_until(&mut state, due)),
                None => self.condvar.wait(&mut state),
            }
        }
        let mut others = 0;
        let fits = |job: &&Job| {
            others += usize::from(!matches!(job, Job::Op(_, Op::Finish { .. })));
            others <= ROUND_JOBS_MAX
        };
        let n = state.jobs.iter().take(ROUND_ENDS_MAX).take_while(fits).count();
        let jobs: Vec<Job> = state.jobs.drain(..n).collect();
        let with_late = |job: Job| match &job {
            Job::Op(id, _) | Job::Late(id, _) => (state.late.take_of(id).unwrap_or_default(), job),
            _ => (Vec::new(), job),
        };
        let jobs: Vec<(Vec<LateFrame>, Job)> = jobs.into_iter().map(with_late).collect();
        let late = match (jobs.is_empty(), state.late.is_due() || state.stop) {
            (_, false) => Vec::new(),
            (true, true) => state.late.take_some(late::ROUND_IDLE),
            (false, true) => state.late.take_some(late::ROUND_BUSY),
        };
        Some(Helping { jobs, late })
    }
}

/// Runs a worker until its queue is stopped and empty.
pub(crate) fn run(shared: &Arc<Shared>, index: usize) {
    while let Some(helping) = shared.workers[index].take() {
        let mut round = Round {
            shared,
            index,
            appended: Vec::new(),
            late: Vec::new(),
            behind: Vec::new(),
            publish: Vec::new(),
            directories: Vec::new(),
        };
        let mut barriers = Vec::new();
        for (late, job) in helping.jobs {
            if let Job::Op(id, _) | Job::Late(id, _) = &job
                && !late.is_empty()
            {
                // Also before the end: the file may come back in a crash, and must not be older than was promised.
                round.late(*id, late);
            }
            match job {
                // What came before is not in the file yet, so this must not be either.
                Job::Op(id, op @ (Op::Frame { .. } | Op::Unload { .. })) if round.behind.contains(&id) => {
                    round.refuse(id, op);
                }
                Job::Store(job) => round.store(*job),
                Job::Spill(resident) => round.spill(resident),
                Job::Late(id, frame) if round.behind.contains(&id) => {
                    shared.workers[index].add_late(id, frame);
                }
                Job::Late(id, frame) => round.late(id, vec![frame]),
                Job::Op(id, op) => round.op(id, op),
                Job::Barrier(completer) => barriers.push(completer),
            }
        }
        for (id, late) in helping.late {
            round.late(id, late);
        }
        round.finish();
        for completer in barriers {
            completer.complete(Ok(()));
        }
    }
}

/// What a round has written and must still sync.
struct Round<'a> {
    shared: &'a Arc<Shared>,
    index: usize,
    appended: Vec<Appended>,
    /// Files with late changes, to be synced before those are forgotten.
    late: Vec<LateWritten>,
    /// Messages whose late changes could not be written.
    behind: Vec<Uuid>,
    publish: Vec<Publish>,
    /// Directories with removed names, and who waits for that.
    directories: Vec<(PathBuf, Completer<()>)>,
}

/// Late changes that are written: the message, its file, and what waits for the sync.
type LateWritten = (Uuid, Arc<dyn DiskFile>, PathBuf, Vec<LateFrame>);

/// A frame that is written: the file, its path, and who waits for the sync.
type Appended = (Arc<dyn DiskFile>, PathBuf, Option<Completer<()>>);

/// A complete file under construction.
struct Publish {
    part: Part,
    id: Uuid,
    image_bytes: u64,
    kind: PublishKind,
}

enum PublishKind {
    Store(Completer<Committed>),
    Spill(Arc<Resident>),
}

impl Round<'_> {
    /// Appends late changes to their file.
    fn late(&mut self, id: Uuid, frames: Vec<LateFrame>) {
        let raw: Vec<u8> = frames.iter().flat_map(|frame| frame.raw.iter().copied()).collect();
        match self.append(&id, &raw) {
            Ok((file, path)) => self.late.push((id, file, path, frames)),
            // It ended meanwhile.
            Err(SpoolError::NotFound(_)) => {}
            Err(error @ SpoolError::Corrupt { .. }) => self.shared.event(Event::Write { id, error }),
            Err(error) => {
                self.shared.event(Event::Write { id, error });
                self.shared.workers[self.index].put_back(id, frames);
                self.behind.push(id);
            }
        }
    }

    fn refuse(&self, id: Uuid, op: Op) {
        let error =
            SpoolError::io("write", self.shared.path(&id), io::Error::other("changes before it wait"));
        match op {
            Op::Frame { completer: None, .. } => self.shared.event(Event::Write { id, error }),
            op => op.fail(error),
        }
    }

    fn finish_late(shared: &Shared, late: Vec<LateWritten>) {
        if !shared.options.fsync || late.is_empty() {
            return;
        }
        let all = (late.len() >= TOGETHER_FILES).then(|| shared.sync_all());
        for (id, file, path, frames) in late {
            let synced = all.clone().unwrap_or_else(|| {
                count(&shared.counters.syncs);
                file.fdatasync().map_err(|e| SpoolError::io("sync", &path, e))
            });
            if let Err(error) = synced {
                // They are in the file, but maybe not on the disk: the journal keeps them for the next start.
                shared.event(Event::Write { id, error });
                shared.unsynced.lock().extend(frames);
            }
        }
    }

    fn store(&mut self, job: StoreJob) {
        let id = job.header.id;
        match self.write_store(&job.header, job.source, &job.frames) {
            Ok(part) => {
                let image_bytes = job.header.frames_offset() + job.frames.len() as u64;
                let kind = PublishKind::Store(job.completer);
                self.publish.push(Publish { part, id, image_bytes, kind });
            }
            Err(error) => job.completer.complete(Err(error)),
        }
    }

    fn write_store(&self, header: &Header, source: Source, frames: &[u8]) -> Result<Part, SpoolError> {
        let path = self.shared.path(&header.id);
        let in_this_round = self.publish.iter().any(|publish| publish.id == header.id);
        if in_this_round
            || self.shared.disk.exists(&path).map_err(|e| SpoolError::io("look for", &path, e))?
        {
            return Err(SpoolError::Duplicate(header.id));
        }
        let padding = &[0; 8][..header.padding()];
        match source {
            Source::Memory(content) => {
                let part = Part::create(&self.shared.disk, self.shared.part_path(&header.id))?;
                part.write(0, &[&header.encode(), &content, padding, frames])?;
                Ok(part)
            }
            Source::Part(part) => {
                part.write(HEADER_BYTES + header.content_bytes, &[padding, frames])?;
                part.write(0, &[&header.encode()])?;
                Ok(part)
            }
        }
    }

    fn spill(&mut self, resident: Arc<Resident>) {
        match self.write_spill(&resident) {
            Ok((part, image_bytes)) => {
                let id = resident.id;
                self.publish.push(Publish { part, id, image_bytes, kind: PublishKind::Spill(resident) });
            }
            Err(error) => spill_failed(self.shared, &resident, error),
        }
    }

    fn write_spill(&self, resident: &Arc<Resident>) -> Result<(Part, u64), SpoolError> {
        let (memory, appended) = {
            let inner = resident.inner.lock();
            (inner.memory.clone(), inner.frames.clone())
        };
        let memory = match memory {
            Some(memory) => memory,
            None => self.shared.read_journal(resident)?,
        };
        let header = &resident.header;
        let part = Part::create(&self.shared.disk, self.shared.part_path(&resident.id))?;
        let encoded = header.encode();
        let mut slices: Vec<&[u8]> =
            vec![&encoded, &memory.content, &[0; 8][..header.padding()], &memory.frames];
        slices.extend(appended.iter().map(|frame| &frame[..]));
        let image_bytes = slices.iter().map(|slice| slice.len() as u64).sum();
        part.write(0, &slices)?;
        Ok((part, image_bytes))
    }

    fn op(&mut self, id: Uuid, op: Op) {
        match op {
            Op::Frame { raw, sync, completer } => match self.append(&id, &raw) {
                Ok((file, path)) if sync && self.shared.options.fsync => {
                    self.appended.push((file, path, completer))
                }
                Ok(_) => answer(completer, Ok(())),
                Err(error) => match completer {
                    Some(completer) => completer.complete(Err(error)),
                    None => self.shared.event(Event::Write { id, error }),
                },
            },
            Op::Finish { sync, completer } => {
                let path = self.shared.path(&id);
                let result = match self.shared.disk.unlink(&path) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => Err(SpoolError::NotFound(id)),
                    Err(e) => Err(SpoolError::io("remove", &path, e)),
                    Ok(()) => {
                        count(&self.shared.counters.removed);
                        Ok(())
                    }
                };
                match (result, completer) {
                    (Ok(()), Some(completer)) if sync => {
                        self.directories.push((self.shared.directory(&id), completer));
                    }
                    (Err(error), None) => self.shared.event(Event::Write { id, error }),
                    (result, completer) => answer(completer, result),
                }
            }
            Op::Spill { completer } => {
                let path = self.shared.path(&id);
                completer.complete(match self.shared.disk.exists(&path) {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(SpoolError::NotFound(id)),
                    Err(e) => Err(SpoolError::io("look for", &path, e)),
                });
            }
            Op::Unload { completer } => completer.complete(self.unload(&id)),
        }
    }

    /// Writes a frame behind the last one.
    fn append(&self, id: &Uuid, raw: &[u8]) -> Result<(Arc<dyn DiskFile>, PathBuf), SpoolError> {
        let path = self.shared.path(id);
        let file = self.shared.open_file(id, &path, Open::Write)?;
        let mut end = file.size().map_err(|e| SpoolError::io("look at", &path, e))?;
        if end % 8 != 0 {
            // A write failed half-way and could not be taken back then.
            end = hqf::read_file(&*file).map_err(|e| e.at(&path))?.good_end();
            file.truncate(end).map_err(|e| SpoolError::io("truncate", &path, e))?;
        }
        if let Err(source) = file.pwrite(end, raw) {
            // The tail must end with a whole frame; if this fails too, the next append or start cuts it.
            let _ = file.truncate(end);
            return Err(SpoolError::io("write", &path, source));
        }
        if end / COMPACT_BYTES != (end + raw.len() as u64) / COMPACT_BYTES {
            let image = hqf::read_file(&*file).map_err(|e| e.at(&path))?;
            let appended = image.frames.good_bytes - image.frames.base_bytes;
            let live = image.frames.compacted().map_err(|reason| corrupt(&path, reason))?.len() as u64;
            if appended > COMPACT_BYTES && appended > 2 * live {
                let file = self.shared.rewrite(&path, &*file, &image)?;
                return Ok((file, path));
            }
        }
        Ok((file, path))
    }

    fn unload(&self, id: &Uuid) -> Result<PathBuf, SpoolError> {
        let path = self.shared.path(id);
        let file = self.shared.open_file(id, &path, Open::Write)?;
        let image = hqf::read_file(&*file).map_err(|e| e.at(&path))?;
        if image.frames.appended.is_empty() {
            self.shared.sync_file(&*file, &path)?;
            self.shared.sync_dir(&self.shared.directory(id))?;
        } else {
            self.shared.rewrite(&path, &*file, &image)?;
        }
        Ok(path)
    }

    /// The syncs of the round, and the answers.
    fn finish(self) {
        let Self { shared, appended, late, publish, directories, .. } = self;
        Self::finish_late(shared, late);
        let all = (appended.len() >= TOGETHER_FILES).then(|| shared.sync_all());
        for (file, path, completer) in appended {
            let result = all.clone().unwrap_or_else(|| {
                count(&shared.counters.syncs);
                file.fdatasync().map_err(|e| SpoolError::io("sync", &path, e))
            });
            answer(completer, result);
        }
        let together = shared.options.fsync && publish.len() >= TOGETHER_FILES;
        // All syncs, then all renames: mixed, each rename would give the next sync something to wait for.
        let synced: Vec<Result<(), SpoolError>> = if together {
            let result = shared.sync_all();
            publish.iter().map(|_| result.clone()).collect()
        } else {
            publish.iter().map(|item| shared.sync_file(&*item.part.file, &item.part.path)).collect()
        };
        let mut published = Vec::new();
        for (mut item, synced) in publish.into_iter().zip(synced) {
            shared.note_fresh(item.id);
            let renamed = synced.and_then(|()| item.part.rename(&shared.path(&item.id)));
            match renamed {
                Ok(()) => published.push(item),
                Err(error) => match item.kind {
                    PublishKind::Store(completer) => completer.complete(Err(error)),
                    PublishKind::Spill(resident) => spill_failed(shared, &resident, error),
                },
            }
        }
        let wanted: BTreeSet<PathBuf> = published
            .iter()
            .map(|item| shared.directory(&item.id))
            .chain(directories.iter().map(|(directory, _)| directory.clone()))
            .collect();
        let all =
            (shared.options.fsync && (together || wanted.len() >= TOGETHER_FILES)).then(|| shared.sync_all());
        let sync = |directory: PathBuf| {
            let result = all.clone().unwrap_or_else(|| shared.sync_dir(&directory));
            (directory, result)
        };
        let synced: BTreeMap<PathBuf, Result<(), SpoolError>> = wanted.into_iter().map(sync).collect();
        let result_of = |directory: &Path| synced.get(directory).cloned().unwrap_or(Ok(()));
        for item in published {
            settle_published(
                shared,
                item.id,
                item.image_bytes,
                item.kind,
                &result_of(&shared.directory(&item.id)),
            );
        }
        for (directory, completer) in directories {
            completer.complete(result_of(&directory));
        }
    }
}

fn settle_published(
    shared: &Arc<Shared>,
    id: Uuid,
    image_bytes: u64,
    kind: PublishKind,
    result: &Result<(), SpoolError>,
) {
    match (kind, result) {
        (PublishKind::Store(completer), Ok(())) => {
            count(&shared.counters.commits_file);
            completer.complete(Ok(Committed { path: shared.path(&id), image_bytes, in_journal: false }));
        }
        (PublishKind::Store(completer), Err(error)) => {
            // It was not accepted, so it must not be there after the next start.
            let _ = shared.disk.unlink(&shared.path(&id));
            completer.complete(Err(error.clone()));
        }
        (PublishKind::Spill(resident), Ok(())) => {
            shared.commits.push(Submission::release(id, true, Settle::Spilled { resident }));
        }
        (PublishKind::Spill(resident), Err(error)) => {
            // The file may be there after a crash: nothing may change the message before it surely is.
            shared.event(Event::Spill { id, error: error.clone() });
            shared.fail_waiters(&resident, error);
            shared.unspilled.lock().push(resident);
        }
    }
}

/// The message stays in the journal.
fn spill_failed(shared: &Shared, resident: &Arc<Resident>, error: SpoolError) {
    count(&shared.counters.errors);
    let waiters = {
        let mut inner = resident.inner.lock();
        let waiters = std::mem::take(&mut inner.waiters);
        // Who wanted it unloaded gets the answer; trying at once again would not end.
        let (unloads, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut inner.pending).into_iter().partition(|op| matches!(op, Op::Unload { .. }));
        inner.pending = rest;
        shared.resume(resident, &mut inner);
        for op in unloads {
            op.fail(error.clone());
        }
        waiters
    };
    for waiter in waiters {
        waiter.complete(Err(error.clone()));
    }
    shared.event(Event::Spill { id: resident.id, error });
    shared.ages.lock().push_back((std::time::Instant::now(), Arc::downgrade(resident)));
}

fn answer(completer: Option<Completer<()>>, result: Result<(), SpoolError>) {
    if let Some(completer) = completer {
        completer.complete(result);
    }
}

fn corrupt(path: &Path, reason: Corruption) -> SpoolError {
    SpoolError::Corrupt { path: path.to_owned(), reason }
}

impl Shared {
    pub(crate) fn open_file(
        &self,
        id: &Uuid,
        path: &Path,
        how: Open,
    ) -> Result<Arc<dyn DiskFile>, SpoolError> {
        self.disk.open(path, how).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => SpoolError::NotFound(*id),
            _ => SpoolError::io("open", path, e),
        })
    }

    pub(crate) fn sync_file(&self, file: &dyn DiskFile, path: &Path) -> Result<(), SpoolError> {
        if !self.options.fsync {
            return Ok(());
        }
        count(&self.counters.syncs);
        file.fsync().map_err(|source| SpoolError::io("sync", path, source))
    }

    fn sync_all(&self) -> Result<(), SpoolError> {
        count(&self.counters.syncs);
        let path = &self.options.path;
        self.disk.sync_all(path).map_err(|source| SpoolError::io("sync the file system of", path, source))
    }

    /// Reads content and frames (META to COMMIT) of a message in the journal, checksums verified.
    pub(crate) fn read_journal(&self, resident: &Resident) -> Result<Memory, SpoolError> {
        // The caller holds a resident that is not gone, or one that it spills: its segment is live.
        let Some(place) = resident.place.get() else { return Err(SpoolError::NotFound(resident.id)) };
        let pin = place.segment.pin();
        let path = &place.segment.path;
        // An image in the journal is at most `journal.maxmessage` long.
        let mut image = vec![0; resident.image_bytes as usize];
        place
            .segment
            .file
            .pread_exact(place.offset, &mut image)
            .map_err(|e| SpoolError::io("read", path, e))?;
        drop(pin);
        let header = Header::decode(&image).map_err(|reason| corrupt(path, reason))?;
        if header != resident.header {
            return Err(corrupt(path, Corruption::Header));
        }
        let image = Bytes::from(image);
        let content_end = HEADER_BYTES + header.content_bytes;
        let bad = || corrupt(path, Corruption::Short);
        if header.frames_offset() > image.len() as u64 {
            return Err(bad());
        }
        let content = image.slice(HEADER_BYTES as usize..content_end as usize);
        if crc32c::crc32c(&content) != header.content_crc {
            return Err(corrupt(path, Corruption::Content));
        }
        let frames = image.slice(header.frames_offset() as usize..);
        hqf::Frames::parse(&frames).map_err(|reason| corrupt(path, reason))?;
        Ok(Memory { content, frames })
    }

    /// Replaces a file by one with the same content and compacted frames; durable when it returns.
    pub(crate) fn rewrite(
        &self,
        path: &Path,
        old: &dyn DiskFile,
        image: &FileImage,
    ) -> Result<Arc<dyn DiskFile>, SpoolError> {
        let frames = image.frames.compacted().map_err(|reason| corrupt(path, reason))?;
        let header = &image.header;
        let mut part = Part::create(&self.disk, self.part_path(&header.id))?;
        part.write(0, &[&header.encode()])?;
        let end = header.frames_offset();
        let mut buffer = vec![0; COPY_BYTES];
        let mut at = HEADER_BYTES;
        while at < end {
            let n = (end - at).min(COPY_BYTES as u64) as usize;
            old.pread_exact(at, &mut buffer[..n]).map_err(|e| SpoolError::io("read", path, e))?;
            part.write(at, &[&buffer[..n]])?;
            at += n as u64;
        }
        part.write(end, &[&frames])?;
        self.sync_file(&*part.file, &part.path)?;
        self.note_fresh(header.id);
        part.rename(path)?;
        self.sync_dir(&self.directory(&header.id))?;
        count(&self.counters.compactions);
        Ok(Arc::clone(&part.file))
    }
}
