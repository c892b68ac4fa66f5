//! A disk in memory that remembers what a power cut would leave.
//!
//! Every operation is logged. [`SimDisk::cuts`] walks the log and makes, at any point of it, the disks that a crash
//! there may leave: what was synced, and of the rest any subset, writes torn at sectors, names changed or not. That is
//! more than an honest file system does, and so what survives here survives there.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use super::{Disk, DiskFile, Open, Space};

/// A torn write ends at a multiple of this many bytes.
const SECTOR_BYTES: u64 = 512;

/// A simulated disk; clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// What was there before the first logged operation; durable.
    base: Image,
    /// What processes see now.
    now: Image,
    log: Vec<Op>,
    locked: HashSet<PathBuf>,
    full: bool,
    syncs_fail: bool,
    inode_next: u64,
}

#[derive(Clone, Default)]
struct Image {
    names: BTreeMap<PathBuf, u64>,
    files: HashMap<u64, Vec<u8>>,
}

#[derive(Clone, Debug)]
enum Op {
    Data(u64, Data),
    SyncFile(u64),
    /// Names set or removed in one step.
    Names(Vec<(PathBuf, Option<u64>)>),
    SyncDir(PathBuf),
    SyncAll,
    Mark(u64),
}

#[derive(Clone, Debug)]
enum Data {
    Write(u64, Vec<u8>),
    Resize(u64),
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on nothing that needs new room succeeds (`true`), or all does again.
    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// From now on every sync of a file fails (`true`), or works again.
    pub fn set_syncs_fail(&self, fail: bool) {
        self.state().syncs_fail = fail;
    }

    /// Notes in the log that the program has reached a point from which it promises something.
    pub fn mark(&self, number: u64) {
        self.state().log.push(Op::Mark(number));
    }

    /// Operations logged so far.
    pub fn operations(&self) -> usize {
        self.state().log.len()
    }

    /// A copy of the log, to be cut at any point.
    pub fn cuts(&self) -> Cuts {
        let state = self.state();
        Cuts {
            log: state.log.clone(),
            position: 0,
            durable: state.base.clone(),
            unsynced_data: Vec::new(),
            unsynced_names: Vec::new(),
            marks: Vec::new(),
        }
    }

    /// The bytes of a file as processes see them now.
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        state.now.names.get(path).and_then(|inode| state.now.files.get(inode)).cloned()
    }

    /// Puts a file there, durable, without logging it.
    pub fn put(&self, path: &Path, bytes: Vec<u8>) {
        let mut state = self.state();
        let inode = state.new_inode();
        let state = &mut *state;
        for image in [&mut state.base, &mut state.now] {
            image.names.insert(path.to_owned(), inode);
            image.files.insert(inode, bytes.clone());
        }
    }

    /// All file names as processes see them now.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.state().now.names.keys().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere is reported there; the log itself is whole after each push.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    fn new_inode(&mut self) -> u64 {
        self.inode_next += 1;
        self.inode_next
    }

    fn change(&mut self, inode: u64, change: Data) {
        apply(self.now.files.entry(inode).or_default(), &change);
        self.log.push(Op::Data(inode, change));
    }

    fn rename(&mut self, change: Vec<(PathBuf, Option<u64>)>) {
        set_names(&mut self.now.names, &change);
        self.log.push(Op::Names(change));
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        let inode = match (state.now.names.get(path).copied(), how) {
            (Some(inode), Open::Create) => {
                state.change(inode, Data::Resize(0));
                inode
            }
            (Some(inode), _) => inode,
            (None, Open::Create) if state.full => return Err(io::ErrorKind::StorageFull.into()),
            (None, Open::Create) => {
                let inode = state.new_inode();
                state.now.files.insert(inode, Vec::new());
                state.rename(vec![(path.to_owned(), Some(inode))]);
                inode
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let inode = *state.now.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.rename(vec![(from.to_owned(), None), (to.to_owned(), Some(inode))]);
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if !state.now.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.rename(vec![(path.to_owned(), None)]);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.state().log.push(Op::SyncDir(path.to_owned()));
        Ok(())
    }

    fn sync_all(&self, _path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if state.syncs_fail {
            return Err(io::Error::other("simulated sync failure"));
        }
        state.log.push(Op::SyncAll);
        Ok(())
    }

    fn create_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.state();
        let inside = |name: &&PathBuf| name.parent() == Some(path);
        Ok(state
            .now
            .names
            .keys()
            .filter(inside)
            .filter_map(|name| name.file_name().map(PathBuf::from))
            .collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.state().now.names.contains_key(path))
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        let free = if self.state().full { 0 } else { 1 << 40 };
        Ok(Space { bytes: free, inodes: free })
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        if !self.state().locked.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(SimLock { disk: self.clone(), path: path.to_owned() })))
    }
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.state().locked.remove(&self.path);
    }
}

struct SimFile {
    disk: SimDisk,
    inode: u64,
}

impl DiskFile for SimFile {
    fn pread(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let state = self.disk.state();
        let bytes = state.now.files.get(&self.inode).map_or(&[][..], |bytes| bytes);
        let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or(&[]);
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn pwritev(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let mut state = self.disk.state();
        let len = state.now.files.get(&self.inode).map_or(0, Vec::len) as u64;
        if state.full && offset + bytes.len() as u64 > len {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.change(self.inode, Data::Write(offset, bytes));
        Ok(())
    }

    fn fdatasync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.syncs_fail {
            return Err(io::Error::other("simulated sync failure"));
        }
        state.log.push(Op::SyncFile(self.inode));
        Ok(())
    }

    fn fsync(&self) -> io::Result<()> {
        self.fdatasync()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.disk.state().change(self.inode, Data::Resize(len));
        Ok(())
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let have = state.now.files.get(&self.inode).map_or(0, Vec::len) as u64;
        if len > have {
            if state.full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            state.change(self.inode, Data::Resize(len));
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.state().now.files.get(&self.inode).map_or(0, Vec::len) as u64)
    }
}

/// The log of a disk, read up to some point, with what is durable there and what is not.
#[derive(Clone)]
pub struct Cuts {
    log: Vec<Op>,
    position: usize,
    durable: Image,
    unsynced_data: Vec<(u64, Data)>,
    unsynced_names: Vec<Vec<(PathBuf, Option<u64>)>>,
    marks: Vec<u64>,
}

/// How much of what was not synced a crash leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remains {
    /// Nothing.
    Nothing,
    /// Everything (the process was killed, the machine lives).
    Everything,
    /// Each change or not, whole.
    Some,
    /// Each change or not, writes torn at sectors.
    Torn,
}

impl Cuts {
    /// Number of operations in the log.
    pub fn len(&self) -> usize {
        self.log.len()
    }

    /// Whether nothing was logged.
    pub fn is_empty(&self) -> bool {
        self.log.is_empty()
    }

    /// Reads on until `position` operations have been done.
    pub fn advance(&mut self, position: usize) {
        while self.position < position.min(self.log.len()) {
            let op = self.log[self.position].clone();
            self.position += 1;
            match op {
                Op::Data(inode, change) => self.unsynced_data.push((inode, change)),
                Op::SyncFile(inode) => {
                    let file = self.durable.files.entry(inode).or_default();
                    self.unsynced_data.retain(|(of, change)| {
                        if *of == inode {
                            apply(file, change);
                        }
                        *of != inode
                    });
                }
                Op::Names(change) => self.unsynced_names.push(change),
                Op::SyncDir(dir) => self.sync_dir(&dir),
                Op::SyncAll => {
                    for (inode, change) in std::mem::take(&mut self.unsynced_data) {
                        apply(self.durable.files.entry(inode).or_default(), &change);
                    }
                    for change in std::mem::take(&mut self.unsynced_names) {
                        set_names(&mut self.durable.names, &change);
                    }
                }
                Op::Mark(number) => self.marks.push(number),
            }
        }
    }

    /// Marks passed so far.
    pub fn marks(&self) -> &[u64] {
        &self.marks
    }

    /// A disk as a crash here may leave it; `random` chooses.
    pub fn crash(&self, remains: Remains, random: &mut Random) -> SimDisk {
        let mut image = self.durable.clone();
        let keep = |random: &mut Random| match remains {
            Remains::Nothing => false,
            Remains::Everything => true,
            Remains::Some | Remains::Torn => random.below(2) == 0,
        };
        for (inode, change) in &self.unsynced_data {
            let file = image.files.entry(*inode).or_default();
            match change {
                Data::Write(offset, bytes) if remains == Remains::Torn => {
                    write_sectors(file, *offset, bytes, random);
                }
                change if keep(random) => apply(file, change),
                _ => {}
            }
        }
        for change in &self.unsynced_names {
            if keep(random) {
                set_names(&mut image.names, change);
            }
        }
        for inode in image.names.values() {
            image.files.entry(*inode).or_default();
        }
        let inode_next = image.files.keys().copied().max().unwrap_or(0);
        let state = State { base: image.clone(), now: image, inode_next, ..State::default() };
        SimDisk { state: Arc::new(Mutex::new(state)) }
    }

    fn sync_dir(&mut self, dir: &Path) {
        let touches =
            |change: &[(PathBuf, Option<u64>)]| change.iter().any(|(path, _)| path.parent() == Some(dir));
        let (synced, mut rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.unsynced_names).into_iter().partition(|change| touches(change));
        // A name that is durably in another state now is not changed back by an older operation.
        let settled: HashSet<&PathBuf> = synced.iter().flatten().map(|(path, _)| path).collect();
        for change in &mut rest {
            change.retain(|(path, _)| !settled.contains(path));
        }
        for change in &synced {
            set_names(&mut self.durable.names, change);
        }
        self.unsynced_names = rest;
    }
}

/// A small seeded generator (SplitMix64), the same on every machine.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end` (0 if `end` is 0).
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.next_u64() % end }
    }
}

fn apply(file: &mut Vec<u8>, change: &Data) {
    match change {
        Data::Write(offset, bytes) => write_at(file, *offset as usize, bytes),
        Data::Resize(len) => file.resize(*len as usize, 0),
    }
}

fn write_at(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset..end].copy_from_slice(bytes);
}

fn write_sectors(file: &mut Vec<u8>, offset: u64, bytes: &[u8], random: &mut Random) {
    let prefix_only = random.below(2) == 0;
    let mut at = 0;
    while at < bytes.len() {
        let to_border = SECTOR_BYTES - (offset + at as u64) % SECTOR_BYTES;
        let len = (to_border as usize).min(bytes.len() - at);
        if random.below(3) != 0 {
            write_at(file, offset as usize + at, &bytes[at..at + len]);
        } else if prefix_only {
            return;
        }
        at += len;
    }
}

fn set_names(names: &mut BTreeMap<PathBuf, u64>, change: &[(PathBuf, Option<u64>)]) {
    for (path, inode) in change {
        match inode {
            Some(inode) => {
                names.insert(path.clone(), *inode);
            }
            None => {
                names.remove(path);
            }
        }
    }
}
