//! What is found at start: the replay of the journal and the scan of the files.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use mail::EditList;
use parking_lot::{Condvar, Mutex};
use uuid::Uuid;

use crate::{
    CorruptPolicy, Corruption, Event, SpoolError,
    committer::Settle,
    disk::Open,
    hqf::{self, FLAG_8BIT, FLAG_NUL, FLAG_SMTPUTF8, Frames, Header},
    journal::{self, FreeFile, JournalMessage, Record, Segment},
    late::FoundLate,
    record::{Done, Entry, Meta},
    resident::{Inner, Phase, Place, Resident},
    shared::Shared,
    staging::FileContent,
};

/// Where a message lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// In the journal; it becomes a file soon.
    Journal,
    /// In its own file.
    File,
}

/// A stored message without its content.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Message id.
    pub id: Uuid,
    /// Facts of reception.
    pub meta: Meta,
    /// Edit lists by id.
    pub edits: Vec<(u32, EditList)>,
    /// Entries that are not finished, updates applied. One with `delivered` set must not be sent again: only its
    /// post-delivery is due.
    pub entries: Vec<Entry>,
    /// Entries that are finished, as far as they are still recorded.
    pub done: Vec<Done>,
    /// Length of the original in bytes.
    pub content_bytes: u64,
    /// The original has bytes above 127.
    pub has_8bit: bool,
    /// The original has NUL bytes.
    pub has_nul: bool,
    /// The message needs SMTPUTF8.
    pub smtputf8: bool,
    /// Where it is now.
    pub location: Location,
    /// The path that it has or will have.
    pub path: PathBuf,
}

impl Recovered {
    pub(crate) fn new(
        header: &Header,
        frames: &Frames,
        location: Location,
        path: PathBuf,
    ) -> Result<Self, Corruption> {
        let state = frames.state()?;
        Ok(Self {
            id: header.id,
            meta: state.meta,
            edits: state.edits,
            entries: state.entries,
            done: state.done,
            content_bytes: header.content_bytes,
            has_8bit: header.flags & FLAG_8BIT != 0,
            has_nul: header.flags & FLAG_NUL != 0,
            smtputf8: header.flags & FLAG_SMTPUTF8 != 0,
            location,
            path,
        })
    }
}

pub(crate) type OnMessage = dyn Fn(Recovered) + Send + Sync;

/// The result of replaying the journal.
pub(crate) struct Replay {
    pub(crate) sequence_next: u64,
    /// Messages that live in the journal.
    pub(crate) residents: Vec<Recovered>,
    /// Messages that are over or a file, though no RELEASE says so.
    pub(crate) over: Vec<Settle>,
    /// Changes that files may not have.
    pub(crate) late: FoundLate,
}

struct Live {
    message: JournalMessage,
    segment: Arc<Segment>,
}

impl Shared {
    /// Reads all segments, fills the segment table and says what is alive.
    pub(crate) fn replay(&self) -> Result<Replay, SpoolError> {
        let directory = self.journal_path();
        let names = self.disk.list(&directory).map_err(|e| SpoolError::io("list", &directory, e))?;
        let mut table = self.segments.lock();
        let mut found = Vec::new();
        for name in names {
            let Some(number) = journal::file_number(&name) else { continue };
            table.file_next = table.file_next.max(number);
            let path = directory.join(&name);
            let file = self.disk.open(&path, Open::Write).map_err(|e| SpoolError::io("open", &path, e))?;
            let bytes = file.size().map_err(|e| SpoolError::io("look at", &path, e))?;
            found.push(FreeFile { path, file, bytes });
        }
        let mut replayed = self.replay_all(found)?;
        replayed.sort_by_key(|(_, segment)| segment.as_ref().map(|segment| segment.number));
        let mut sequence_next = 1;
        let mut alive: BTreeMap<Uuid, Live> = BTreeMap::new();
        let mut late = FoundLate::default();
        for (file, segment) in replayed {
            let Some(segment) = segment else {
                if file.bytes == self.options.journal_segment_bytes && self.options.journal_enabled {
                    table.free.push(file);
                } else {
                    self.disk.unlink(&file.path).map_err(|e| SpoolError::io("remove", &file.path, e))?;
                }
                continue;
            };
            if self.options.fsync {
                // What was read may be in memory only; from here on it counts as stored.
                file.file.fdatasync().map_err(|e| SpoolError::io("sync", &file.path, e))?;
            }
            if let Some(offset) = segment.torn_at {
                self.event(Event::TornSegment { path: file.path.clone(), offset });
            }
            table.number_next = table.number_next.max(segment.number.saturating_add(1));
            sequence_next = sequence_next.max(segment.sequence_next);
            let used = Arc::new(Segment::new(file.path, file.file, file.bytes));
            for record in segment.records {
                self.replay_record(record, &used, &mut alive, &mut late)?;
            }
            table.used.push_back(used);
        }
        self.segments_in_use.store(table.used.len(), Ordering::Relaxed);
        drop(table);
        self.sort_out(alive, sequence_next, late)
    }

    fn replay_all(
        &self,
        files: Vec<FreeFile>,
    ) -> Result<Vec<(FreeFile, Option<journal::Replayed>)>, SpoolError> {
        let waiting = Mutex::new(files);
        let done = Mutex::new(Vec::new());
        let failed = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..self.options.threads_load.min(waiting.lock().len()) {
                scope.spawn(|| {
                    loop {
                        let Some(file) = waiting.lock().pop() else { return };
                        match journal::replay(&*file.file) {
                            Ok(segment) => done.lock().push((file, segment)),
                            Err(source) => *failed.lock() = Some(SpoolError::io("read", &file.path, source)),
                        }
                    }
                });
            }
        });
        match failed.into_inner() {
            Some(error) => Err(error),
            None => Ok(done.into_inner()),
        }
    }

    fn replay_record(
        &self,
        record: Record,
        segment: &Arc<Segment>,
        alive: &mut BTreeMap<Uuid, Live>,
        late: &mut FoundLate,
    ) -> Result<(), SpoolError> {
        match record {
            Record::Message(message) => {
                let id = message.header.id;
                alive.insert(id, Live { message: *message, segment: Arc::clone(segment) });
            }
            Record::Frame(id, raw) => {
                if let Some(live) = alive.get_mut(&id)
                    && let Err(reason) = live.message.frames.append(raw)
                {
                    self.journal_damage(segment, reason)?;
                }
            }
            Record::Release(id) => {
                alive.remove(&id);
            }
            Record::Late(changes) => {
                for (id, raw) in changes {
                    late.add(id, raw, segment);
                }
            }
            Record::Bad(reason) => self.journal_damage(segment, reason)?,
        }
        Ok(())
    }

    fn journal_damage(&self, segment: &Segment, reason: Corruption) -> Result<(), SpoolError> {
        let error = SpoolError::Corrupt { path: segment.path.clone(), reason };
        if self.options.corrupt == CorruptPolicy::Fail {
            return Err(error);
        }
        segment.set_damaged();
        self.event(Event::Corrupt { error, renamed: None });
        Ok(())
    }

    fn sort_out(
        &self,
        alive: BTreeMap<Uuid, Live>,
        sequence_next: u64,
        late: FoundLate,
    ) -> Result<Replay, SpoolError> {
        let mut out = Replay { sequence_next, residents: Vec::new(), over: Vec::new(), late };
        let now = Instant::now();
        // Their hold time was over when the last run ended.
        let since = now.checked_sub(self.options.journal_hold).unwrap_or(now);
        for (id, Live { message, segment }) in alive {
            let frames = &message.frames;
            let recovered = match Recovered::new(&message.header, frames, Location::Journal, self.path(&id)) {
                Ok(recovered) => recovered,
                Err(reason) => {
                    self.journal_damage(&segment, reason)?;
                    continue;
                }
            };
            segment.add_live();
            let resident = resident(&message, segment);
            if recovered.entries.is_empty() {
                out.over.push(Settle::Dropped { resident });
            } else if self.is_good_file(&id)? {
                // It was written from the journal and holds at least what stands here. Until its RELEASE is durable
                // nothing may change it, or a crash would bring this state back.
                resident.inner.lock().phase = Phase::Spilling;
                self.residents.insert(&resident);
                out.over.push(Settle::Spilled { resident });
            } else {
                self.residents.insert(&resident);
                self.note_fresh(id);
                self.ages.lock().push_back((since, Arc::downgrade(&resident)));
                out.residents.push(recovered);
            }
        }
        Ok(out)
    }

    /// Whether the message is a whole file already.
    fn is_good_file(&self, id: &Uuid) -> Result<bool, SpoolError> {
        let path = self.path(id);
        let file = match self.open_file(id, &path, Open::Read) {
            Ok(file) => file,
            Err(SpoolError::NotFound(_)) => return Ok(false),
            Err(error) => return Err(error),
        };
        match hqf::read_file(&*file).and_then(|image| {
            FileContent::verified(file, &image.header, 0)?;
            Ok(image.header.id == *id && image.frames.state().is_ok())
        }) {
            Ok(good) => Ok(good),
            Err(hqf::ReadError::Corrupt(_)) => Ok(false),
            Err(hqf::ReadError::Io(source)) => Err(SpoolError::io("read", path, source)),
        }
    }

    /// Reads one file found at start. `None` if it is over and now removed.
    fn load(&self, path: &Path, late: &Mutex<FoundLate>) -> Result<Option<Recovered>, SpoolError> {
        let bad = |reason| SpoolError::Corrupt { path: path.to_owned(), reason };
        let name = path.file_stem().and_then(|stem| stem.to_str());
        let id = name.and_then(|name| Uuid::try_parse(name).ok()).ok_or_else(|| bad(Corruption::Name))?;
        let file = self.open_file(&id, path, Open::Write)?;
        let mut image = hqf::read_file(&*file).map_err(|e| e.at(path))?;
        if image.header.id.is_nil() {
            return Err(bad(Corruption::NoId));
        }
        if image.header.id != id || path != self.path(&id) {
            return Err(bad(Corruption::Name));
        }
        if image.torn_bytes() > 0 {
            file.truncate(image.good_end()).map_err(|e| SpoolError::io("truncate", path, e))?;
            self.sync_file(&*file, path)?;
            self.event(Event::TornTail { path: path.to_owned(), bytes: image.torn_bytes() });
            image.file_bytes = image.good_end();
        }
        let late = late.lock().take(&id);
        self.apply_found(path, &*file, &mut image, late)?;
        let recovered =
            Recovered::new(&image.header, &image.frames, Location::File, path.to_owned()).map_err(bad)?;
        recovered.entries.iter().for_each(|entry| self.saw_late_number(entry.late));
        if recovered.entries.is_empty() {
            self.disk.unlink(path).map_err(|e| SpoolError::io("remove", path, e))?;
            return Ok(None);
        }
        Ok(Some(recovered))
    }
}

fn resident(message: &JournalMessage, segment: Arc<Segment>) -> Arc<Resident> {
    let place = OnceLock::from(Place { segment, offset: message.offset });
    Arc::new(Resident {
        id: message.header.id,
        header: message.header,
        image_bytes: message.image_bytes,
        place,
        inner: Mutex::new(Inner {
            phase: Phase::Journal,
            memory: None,
            frames: message.frames.appended.iter().map(|frame| frame.bytes()).collect(),
            pending: Vec::new(),
            waiters: Vec::new(),
        }),
    })
}

/// The scan of the files, shared by its threads.
pub(crate) struct Scan {
    shared: Arc<Shared>,
    on_message: Arc<OnMessage>,
    /// What the journal holds for files that have not been read yet.
    late: Mutex<FoundLate>,
    directory_next: AtomicUsize,
    messages: AtomicU64,
    corrupt: AtomicU64,
    threads: AtomicUsize,
    failed: Mutex<Option<SpoolError>>,
    stop: AtomicBool,
    ended: Mutex<bool>,
    condvar: Condvar,
}

/// Directories by the first byte of the id.
pub(crate) const DIRECTORIES: usize = 256;

impl Scan {
    pub(crate) fn new(
        shared: Arc<Shared>,
        on_message: Arc<OnMessage>,
        messages: u64,
        late: FoundLate,
    ) -> Self {
        let threads = shared.options.threads_load;
        Self {
            shared,
            on_message,
            late: Mutex::new(late),
            directory_next: AtomicUsize::new(0),
            messages: AtomicU64::new(messages),
            corrupt: AtomicU64::new(0),
            threads: AtomicUsize::new(threads),
            failed: Mutex::new(None),
            stop: AtomicBool::new(false),
            ended: Mutex::new(false),
            condvar: Condvar::new(),
        }
    }

    /// The work of one of its threads.
    pub(crate) fn run(&self) {
        loop {
            let index = self.directory_next.fetch_add(1, Ordering::Relaxed);
            if index >= DIRECTORIES || self.stop.load(Ordering::Relaxed) {
                break;
            }
            self.directory(index);
        }
        if self.threads.fetch_sub(1, Ordering::AcqRel) == 1 {
            *self.shared.fresh.lock() = None;
            if !self.stop.load(Ordering::Relaxed) {
                // Messages that are gone need no changes; the segments are free of them now.
                *self.late.lock() = FoundLate::default();
                let messages = self.messages.load(Ordering::Relaxed);
                let corrupt = self.corrupt.load(Ordering::Relaxed);
                self.shared.event(Event::Loaded { messages, corrupt });
            }
            *self.ended.lock() = true;
            self.condvar.notify_all();
        }
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits for the end; says what stopped it if `spool.corrupt` is `fail`.
    pub(crate) fn wait(&self) -> Result<(), SpoolError> {
        let mut ended = self.ended.lock();
        while !*ended {
            self.condvar.wait(&mut ended);
        }
        drop(ended);
        self.failed.lock().take().map_or(Ok(()), Err)
    }

    pub(crate) fn is_over(&self) -> bool {
        *self.ended.lock()
    }

    fn directory(&self, index: usize) {
        let directory = self.shared.options.path.join(format!("{index:02x}"));
        let names = match self.shared.disk.list(&directory) {
            Ok(names) => names,
            Err(source) => return self.bad(SpoolError::io("list", &directory, source)),
        };
        for name in names {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            if name.extension().is_none_or(|extension| extension != "hqf") || self.is_fresh(&name) {
                continue;
            }
            match self.shared.load(&directory.join(&name), &self.late) {
                Ok(Some(recovered)) => {
                    self.messages.fetch_add(1, Ordering::Relaxed);
                    (self.on_message)(recovered);
                }
                // Over, or removed since it was listed.
                Ok(None) | Err(SpoolError::NotFound(_)) => {}
                Err(error) => self.bad(error),
            }
        }
    }

    fn is_fresh(&self, name: &Path) -> bool {
        let id = name.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| Uuid::try_parse(stem).ok());
        let fresh = self.shared.fresh.lock();
        id.is_some_and(|id| fresh.as_ref().is_some_and(|fresh| fresh.contains(&id)))
    }

    fn bad(&self, error: SpoolError) {
        self.corrupt.fetch_add(1, Ordering::Relaxed);
        let mut renamed = None;
        match (self.shared.options.corrupt, &error) {
            (CorruptPolicy::Fail, _) => {
                *self.failed.lock() = Some(error);
                return self.stop();
            }
            (CorruptPolicy::Rename, SpoolError::Corrupt { path, .. }) => {
                let mut to = path.clone().into_os_string();
                to.push(".corrupt");
                let to = PathBuf::from(to);
                match self.shared.disk.rename(path, &to) {
                    Ok(()) => renamed = Some(to),
                    Err(source) => {
                        let error = SpoolError::io("rename", path, source);
                        self.shared.event(Event::Corrupt { error, renamed: None });
                    }
                }
            }
            _ => {}
        }
        self.shared.event(Event::Corrupt { error, renamed });
    }
}
