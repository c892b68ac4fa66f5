//! The spool as its users see it.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use bytes::Bytes;
use mail::{Content, EditList, MailMessage, MemoryContent};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::{
    Frame, MessageRecord, Recovered, SpoolError, SpoolOptions,
    committer::{CommitQueue, Committed, Committer, Settle, Submission},
    disk::{Disk, DiskFile, Open},
    files::{self, Job, Source, StoreJob},
    hqf::{self, FLAG_SMTPUTF8, Frames, HEADER_BYTES, Header},
    record::Done,
    recover::{DIRECTORIES, Location, Scan},
    resident::{Inner, Memory, Op, Phase, Resident, Residents},
    shared::{Counters, Shared, Tick},
    spill,
    staging::{FileContent, Staging},
    ticket::Pending,
};

/// How sure a change must be before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On disk: survives a power cut.
    Synced,
    /// On its way: answered at once; a crash may lose it. Failures are reported as events.
    Written,
}

/// Figures of a spool since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages committed to the journal.
    pub commits: u64,
    /// Messages committed as files.
    pub commits_file: u64,
    /// Syncs of any kind.
    pub syncs: u64,
    /// Journal records written.
    pub records: u64,
    /// Messages written out of the journal.
    pub spills: u64,
    /// Files rewritten.
    pub compactions: u64,
    /// Messages that ended.
    pub removed: u64,
    /// Writes and syncs that failed.
    pub errors: u64,
    /// Messages in the journal now.
    pub residents: u64,
    /// Bytes of them in memory.
    pub memory_bytes: u64,
    /// Journal segments in use now.
    pub segments: u64,
}

/// A spool directory, served by this process alone.
///
/// Dropping it stops its threads and leaves the journal as it is; [`Spool::shutdown`] writes everything out first.
pub struct Spool {
    pub(crate) shared: Arc<Shared>,
    scan: Arc<Scan>,
    threads: Mutex<Threads>,
    _lock: Box<dyn Send + Sync>,
}

#[derive(Default)]
struct Threads {
    committer: Option<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
    spill: Option<JoinHandle<()>>,
    loaders: Vec<JoinHandle<()>>,
}

impl Spool {
    /// Opens a spool and hands over what it holds.
    ///
    /// `on_message` is called for every message: for those of the journal before this returns, for those in files from
    /// the threads that scan them while the spool works already. Messages committed meanwhile are not handed over. Nothing
    /// may be asked of a message in a file before it was: the scan may still be bringing the file up to date.
    /// With `spool.corrupt: fail` this returns when all files have been read.
    ///
    /// # Errors
    /// Options that cannot work, a spool that another process serves, a journal that cannot be read, a corrupt file
    /// if the policy is to fail.
    pub fn open(
        options: SpoolOptions,
        disk: Arc<dyn Disk>,
        on_message: impl Fn(Recovered) + Send + Sync + 'static,
    ) -> Result<Self, SpoolError> {
        options.check()?;
        let lock = prepare(&options, &*disk)?;
        let fail_on_corrupt = options.corrupt == crate::CorruptPolicy::Fail;
        let workers = (0..options.threads_sync).map(|_| files::WorkQueue::default()).collect();
        let shared = Arc::new(Shared {
            options,
            disk,
            residents: Residents::new(),
            commits: CommitQueue::default(),
            workers,
            segments: Mutex::default(),
            ages: Mutex::default(),
            unreleased: Mutex::default(),
            unspilled: Mutex::default(),
            fresh: Mutex::new(Some(HashSet::new())),
            tick: Tick::default(),
            counters: Counters::default(),
            memory_bytes: AtomicUsize::new(0),
            segments_in_use: AtomicUsize::new(0),
            low_space: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            unsynced: Mutex::default(),
            late_last: AtomicU64::new(0),
        });
        let replay = shared.replay()?;
        shared.check_space();
        let on_message: Arc<crate::recover::OnMessage> = Arc::new(on_message);
        let scan = Arc::new(Scan::new(
            Arc::clone(&shared),
            Arc::clone(&on_message),
            replay.residents.len() as u64,
            replay.late,
        ));
        let spool = Self { shared, scan, threads: Mutex::default(), _lock: lock };
        spool.start(replay.sequence_next)?;
        // Before anything can remove the files: a RELEASE that is lost would bring their messages back.
        let mut released = Vec::new();
        for settle in replay.over {
            if let Settle::Spilled { resident } = &settle {
                released.push(Shared::wait_filed(resident));
            }
            spool.shared.retry_release(settle);
        }
        for pending in released {
            // On a full disk it is tried again later; changes of the message wait until then.
            let _ = pending.wait();
        }
        for recovered in replay.residents {
            on_message(recovered);
        }
        spool.start_scan()?;
        if fail_on_corrupt {
            spool.scan.wait()?;
        }
        Ok(spool)
    }

    /// Begins a message. Its content is given to the staging, then both to [`Spool::commit`].
    pub fn stage(&self, id: Uuid) -> Staging {
        Staging::new(Arc::clone(&self.shared), id)
    }

    /// Makes a message durable. It needs at least one entry: a message without any is over.
    ///
    /// The answer comes after the sync. [`SpoolError::Full`] means 452, [`SpoolError::Duplicate`] that the id is stored
    /// already.
    pub fn commit(&self, staging: Staging, record: MessageRecord) -> Pending<Committed> {
        match self.begin_commit(staging, &record) {
            Ok(pending) => pending,
            Err(error) => Pending::ready(Err(error)),
        }
    }

    /// Appends a change to a stored message.
    ///
    /// With [`Durability::Written`] the answer is there at once and failures are events.
    pub fn append(&self, id: Uuid, frame: &Frame, durability: Durability) -> Pending<()> {
        let raw = match hqf::encode_frame(frame) {
            Ok(raw) => Bytes::from(raw),
            Err(error) => return Pending::ready(Err(error)),
        };
        let sync = durability == Durability::Synced;
        self.answered(sync, |completer| self.shared.apply(id, Op::Frame { raw, sync, completer }))
    }

    /// Ends an entry. `last`: it was the last one of the message, which is then gone.
    ///
    /// With [`Durability::Synced`] the message does not come back after a power cut once this has resolved.
    pub fn finish(&self, id: Uuid, done: Done, last: bool, durability: Durability) -> Pending<()> {
        if !last {
            return self.append(id, &Frame::Done(done), durability);
        }
        let sync = durability == Durability::Synced;
        self.answered(sync, |completer| self.shared.apply(id, Op::Finish { sync, completer }))
    }

    /// Removes a message with all its entries.
    pub fn remove(&self, id: Uuid, durability: Durability) -> Pending<()> {
        let sync = durability == Durability::Synced;
        self.answered(sync, |completer| self.shared.apply(id, Op::Finish { sync, completer }))
    }

    /// Makes sure that a message is a file: it is going to wait.
    pub fn spill(&self, id: Uuid) -> Pending<()> {
        let (pending, completer) = Pending::new();
        self.shared.apply(id, Op::Spill { completer });
        pending
    }

    /// Leaves a message as a compact, durable file for someone else and says where. Nothing more may be asked of it
    /// afterwards.
    pub fn unload(&self, id: Uuid) -> Pending<PathBuf> {
        let (pending, completer) = Pending::new();
        self.shared.apply(id, Op::Unload { completer });
        pending
    }

    /// Rewrites the file of a message without what is superseded; it becomes one if it is none.
    pub fn compact(&self, id: Uuid) -> Pending<PathBuf> {
        self.unload(id)
    }

    /// The original of a message, its checksum verified. Blocks unless it is in memory.
    ///
    /// # Errors
    /// [`SpoolError::NotFound`], or [`SpoolError::Corrupt`]: then it must not be sent.
    pub fn content(&self, id: Uuid) -> Result<Arc<dyn Content>, SpoolError> {
        if let Some(memory) = self.resident_memory(id)? {
            return Ok(Arc::new(MemoryContent(memory.0.content)));
        }
        let (file, path) = self.open_message_file(id)?;
        let mut head = [0; HEADER_BYTES as usize];
        if file.pread(0, &mut head).map_err(|e| SpoolError::io("read", &path, e))? < head.len() {
            return Err(SpoolError::Corrupt { path, reason: crate::Corruption::Short });
        }
        let corrupt = |reason| SpoolError::Corrupt { path: path.clone(), reason };
        let header = Header::decode(&head).map_err(corrupt)?;
        if header.id != id {
            return Err(corrupt(crate::Corruption::Name));
        }
        FileContent::verified(file, &header, self.shared.options.journal_maxmessage_bytes)
            .map_err(|e| e.at(&path))
    }

    /// What is stored about a message, read again; changes asked for with [`Durability::Written`] a moment ago may be
    /// missing. Blocks.
    ///
    /// # Errors
    /// As [`Spool::content`].
    pub fn read(&self, id: Uuid) -> Result<Recovered, SpoolError> {
        let path = self.shared.path(&id);
        if let Some((memory, appended, header)) = self.resident_memory(id)? {
            let corrupt = |reason| SpoolError::Corrupt { path: path.clone(), reason };
            let mut frames = Frames::parse(&memory.frames).map_err(corrupt)?;
            for raw in appended {
                frames.append(raw).map_err(corrupt)?;
            }
            return Recovered::new(&header, &frames, Location::Journal, path.clone()).map_err(corrupt);
        }
        let (file, path) = self.open_message_file(id)?;
        let image = hqf::read_file(&*file).map_err(|e| e.at(&path))?;
        Recovered::new(&image.header, &image.frames, Location::File, path.clone())
            .map_err(|reason| SpoolError::Corrupt { path, reason })
    }

    /// A message for export or delivery: the original, with the edits of the entry if one is named. Blocks.
    ///
    /// # Errors
    /// As [`Spool::content`]; [`SpoolError::NotFound`] also for an entry that is over.
    pub fn export(&self, id: Uuid, queue_id: Option<u64>) -> Result<MailMessage, SpoolError> {
        let content = self.content(id)?;
        let Some(queue_id) = queue_id else { return Ok(MailMessage::new(content)) };
        let recovered = self.read(id)?;
        let entry = recovered.entries.iter().find(|entry| entry.queue_id == queue_id);
        let edit_id = entry.ok_or(SpoolError::NotFound(id))?.edit_id;
        let corrupt =
            || SpoolError::Corrupt { path: recovered.path.clone(), reason: crate::Corruption::Frame };
        let edits = match recovered.edits.iter().find(|(id, _)| *id == edit_id) {
            Some((_, edits)) => edits.clone(),
            None if edit_id == 0 => EditList::default(),
            None => return Err(corrupt()),
        };
        MailMessage::with_edits(content, Arc::new(edits)).map_err(|_| corrupt())
    }

    /// Whether a message of that id is stored.
    ///
    /// # Errors
    /// The disk could not be asked.
    pub fn contains(&self, id: Uuid) -> Result<bool, SpoolError> {
        let path = self.shared.path(&id);
        Ok(self.shared.residents.get(&id).is_some()
            || self.shared.disk.exists(&path).map_err(|e| SpoolError::io("look for", &path, e))?)
    }

    /// The path that a message has or will have.
    pub fn path(&self, id: Uuid) -> PathBuf {
        self.shared.path(&id)
    }

    /// Whether free space is below `spool.minfree`, as of the last second.
    pub fn low_space(&self) -> bool {
        self.shared.low_space.load(Ordering::Relaxed)
    }

    /// Whether all files that were there at start have been handed over.
    pub fn is_loaded(&self) -> bool {
        self.scan.is_over()
    }

    /// Blocks until all files that were there at start have been handed over.
    pub fn wait_loaded(&self) {
        // With the policy to fail, `open` has taken the error already.
        let _ = self.scan.wait();
    }

    /// Figures.
    pub fn stats(&self) -> Stats {
        let counters = &self.shared.counters;
        let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            commits: get(&counters.commits),
            commits_file: get(&counters.commits_file),
            syncs: get(&counters.syncs),
            records: get(&counters.records),
            spills: get(&counters.spills),
            compactions: get(&counters.compactions),
            removed: get(&counters.removed),
            errors: get(&counters.errors),
            residents: self.shared.residents.len() as u64,
            memory_bytes: self.shared.memory_bytes.load(Ordering::Relaxed) as u64,
            segments: self.shared.segments_in_use.load(Ordering::Relaxed) as u64,
        }
    }

    /// Takes no more messages, writes everything in the journal out as files, syncs and stops. Blocks.
    ///
    /// # Errors
    /// The first message that could not be written out; it is safe in the journal.
    pub fn shutdown(&self) -> Result<(), SpoolError> {
        self.shared.closed.store(true, Ordering::Release);
        self.scan.stop();
        let mut first_error = None;
        loop {
            // Commits under way when the door was closed appear here in the next turn.
            let spills: Vec<Pending<()>> =
                self.shared.residents.ids().into_iter().map(|id| self.spill(id)).collect();
            if spills.is_empty() {
                break;
            }
            for spill in spills {
                match spill.wait() {
                    Ok(()) | Err(SpoolError::NotFound(_)) => {}
                    Err(error) => first_error = first_error.or(Some(error)),
                }
            }
            if first_error.is_some() {
                break;
            }
        }
        self.stop();
        self.shared.recycle();
        self.wipe_last_segment().map_or_else(Err, |()| first_error.map_or(Ok(()), Err))
    }

    fn wipe_last_segment(&self) -> Result<(), SpoolError> {
        let last = {
            let mut table = self.shared.segments.lock();
            let idle = table.used.len() == 1 && table.used.front().is_some_and(|segment| segment.is_idle());
            if idle { table.used.pop_front() } else { None }
        };
        self.shared.segments_in_use.store(self.shared.segments.lock().used.len(), Ordering::Relaxed);
        last.map_or(Ok(()), |segment| self.shared.free(&segment))
    }

    fn begin_commit(
        &self,
        staging: Staging,
        record: &MessageRecord,
    ) -> Result<Pending<Committed>, SpoolError> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(SpoolError::Closed);
        }
        let frames = Bytes::from(hqf::encode_record(record)?);
        let (header, source) = staging.finish(if record.smtputf8 { FLAG_SMTPUTF8 } else { 0 });
        let options = &self.shared.options;
        let image_bytes = header.frames_offset() + frames.len() as u64;
        // When the disk cannot keep up with spilling, sessions write their files themselves.
        let pressed = self.shared.segments_in_use.load(Ordering::Relaxed) > options.journal_segments * 2;
        match source {
            Source::Memory(content)
                if options.journal_enabled
                    && !pressed
                    && image_bytes <= self.shared.journal_image_bytes_max() =>
            {
                self.commit_to_journal(header, Memory { content, frames }, image_bytes)
            }
            source => {
                if self.shared.residents.get(&header.id).is_some() {
                    return Err(SpoolError::Duplicate(header.id));
                }
                let (pending, completer) = Pending::new();
                let job = StoreJob { header, source, frames, completer };
                self.shared.to_worker(&header.id, Job::Store(Box::new(job)));
                Ok(pending)
            }
        }
    }

    fn commit_to_journal(
        &self,
        header: Header,
        memory: Memory,
        image_bytes: u64,
    ) -> Result<Pending<Committed>, SpoolError> {
        let id = header.id;
        let resident = Arc::new(Resident {
            id,
            header,
            image_bytes,
            place: OnceLock::new(),
            inner: Mutex::new(Inner {
                phase: Phase::Committing,
                memory: Some(memory.clone()),
                frames: Vec::new(),
                pending: Vec::new(),
                waiters: Vec::new(),
            }),
        });
        if self.contains(id)? || !self.shared.residents.insert(&resident) {
            return Err(SpoolError::Duplicate(id));
        }
        self.shared.note_fresh(id);
        let (pending, completer) = Pending::new();
        self.shared.commits.push(Submission::message(resident, &memory, completer));
        Ok(pending)
    }

    /// Content, frames and header of a message in the journal.
    #[allow(clippy::type_complexity)] // one use, three parts
    fn resident_memory(&self, id: Uuid) -> Result<Option<(Memory, Vec<Bytes>, Header)>, SpoolError> {
        let Some(resident) = self.shared.residents.get(&id) else { return Ok(None) };
        let (memory, frames) = {
            let inner = resident.inner.lock();
            if inner.phase == Phase::Gone {
                return Ok(None);
            }
            // Under the lock, so that the segment is live while it is read.
            match &inner.memory {
                Some(memory) => (memory.clone(), inner.frames.clone()),
                None => (self.shared.read_journal(&resident)?, inner.frames.clone()),
            }
        };
        Ok(Some((memory, frames, resident.header)))
    }

    fn open_message_file(&self, id: Uuid) -> Result<(Arc<dyn DiskFile>, PathBuf), SpoolError> {
        let path = self.shared.path(&id);
        let file = self.shared.open_file(&id, &path, Open::Read)?;
        Ok((file, path))
    }

    fn answered(&self, sync: bool, ask: impl FnOnce(Option<crate::ticket::Completer<()>>)) -> Pending<()> {
        if sync {
            let (pending, completer) = Pending::new();
            ask(Some(completer));
            pending
        } else {
            ask(None);
            Pending::ready(Ok(()))
        }
    }

    fn start(&self, sequence_next: u64) -> Result<(), SpoolError> {
        let mut threads = self.threads.lock();
        let committer = Committer::new(Arc::clone(&self.shared), sequence_next);
        threads.committer = Some(spawn("spool-commit", move || committer.run())?);
        for index in 0..self.shared.workers.len() {
            let shared = Arc::clone(&self.shared);
            threads.workers.push(spawn("spool-file", move || files::run(&shared, index))?);
        }
        let shared = Arc::clone(&self.shared);
        threads.spill = Some(spawn("spool-spill", move || spill::run(&shared))?);
        Ok(())
    }

    fn start_scan(&self) -> Result<(), SpoolError> {
        let mut threads = self.threads.lock();
        for _ in 0..self.shared.options.threads_load {
            let scan = Arc::clone(&self.scan);
            threads.loaders.push(spawn("spool-load", move || scan.run())?);
        }
        Ok(())
    }

    /// Ends all threads; what they were given is done first.
    fn stop(&self) {
        let mut threads = std::mem::take(&mut *self.threads.lock());
        self.scan.stop();
        self.shared.tick.stop();
        // A thread that panicked has said so on standard error; the others end all the same.
        for thread in threads.loaders.drain(..).chain(threads.spill.take()) {
            let _ = thread.join();
        }
        // Workers may hand records to the committer and the committer jobs to them: two turns.
        for _ in 0..2 {
            let barriers: Vec<Pending<()>> = self
                .shared
                .workers
                .iter()
                .filter(|_| !threads.workers.is_empty())
                .map(|worker| {
                    let (pending, completer) = Pending::new();
                    worker.push(Job::Barrier(completer));
                    pending
                })
                .collect();
            for barrier in barriers {
                let _ = barrier.wait();
            }
        }
        self.shared.commits.stop();
        if let Some(thread) = threads.committer.take() {
            let _ = thread.join();
        }
        for worker in &self.shared.workers {
            worker.stop();
        }
        for thread in threads.workers.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Locks the spool, creates its directories and removes what was never finished.
fn prepare(options: &SpoolOptions, disk: &dyn Disk) -> Result<Box<dyn Send + Sync>, SpoolError> {
    let root = &options.path;
    let create = |path: &Path| disk.create_dir(path).map_err(|e| SpoolError::io("create directory", path, e));
    create(root)?;
    let lock_path = root.join("lock");
    let lock = disk.lock(&lock_path).map_err(|e| SpoolError::io("lock", &lock_path, e))?;
    let lock = lock.ok_or(SpoolError::Locked(lock_path))?;
    let incoming = root.join("incoming");
    create(&incoming)?;
    create(&root.join("journal"))?;
    for index in 0..DIRECTORIES {
        create(&root.join(format!("{index:02x}")))?;
    }
    if options.fsync {
        disk.sync_dir(root).map_err(|e| SpoolError::io("sync directory", root, e))?;
    }
    for name in disk.list(&incoming).map_err(|e| SpoolError::io("list", &incoming, e))? {
        let path = incoming.join(name);
        disk.unlink(&path).map_err(|e| SpoolError::io("remove", path, e))?;
    }
    Ok(lock)
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, SpoolError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|source| SpoolError::io("start a thread for", name, source))
}
