//! Everything the spool does on disk, as a trait, so that a simulated disk can lose power at every step.

mod real;
pub mod sim;

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

pub use real::RealDisk;
pub use sim::SimDisk;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// Existing, for reading.
    Read,
    /// Existing, for reading and writing.
    Write,
    /// New, for reading and writing; an old one of the name is cut to zero length.
    Create,
}

/// Free space of a file system as an unprivileged process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes available.
    pub bytes: u64,
    /// Inodes available; `u64::MAX` where the file system does not count them.
    pub inodes: u64,
}

/// A file system.
///
/// Every method returns what the system says. A name is durable only after [`Disk::sync_dir`] on its directory,
/// written bytes and the length of a file only after [`DiskFile::fdatasync`] or [`DiskFile::fsync`].
pub trait Disk: Send + Sync {
    /// Opens a file.
    ///
    /// # Errors
    /// Those of `open(2)`.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>>;
    /// Replaces `to` by `from` in one step.
    ///
    /// # Errors
    /// Those of `rename(2)`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a name.
    ///
    /// # Errors
    /// Those of `unlink(2)`.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// Those of `fsync(2)`.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes everything durable that was written to the file system of `path`, names too: of many files at once.
    ///
    /// # Errors
    /// Those of `syncfs(2)`.
    fn sync_all(&self, path: &Path) -> io::Result<()>;
    /// Creates a directory and its parents; one that is there is fine.
    ///
    /// # Errors
    /// Those of `mkdir(2)`.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Names of the files in a directory, in any order.
    ///
    /// # Errors
    /// Those of `readdir(3)`.
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
    /// Whether a file of that name exists.
    ///
    /// # Errors
    /// Those of `stat(2)`, "not found" excepted.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Free space where `path` lies.
    ///
    /// # Errors
    /// Those of `statvfs(3)`.
    fn space(&self, path: &Path) -> io::Result<Space>;
    /// Takes the lock file for as long as the returned guard lives; `None` if another process has it.
    ///
    /// # Errors
    /// Those of `open(2)` and `flock(2)`.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>>;
}

/// An open file. Positions are explicit, so that threads can share it.
pub trait DiskFile: Send + Sync {
    /// Reads up to `buf.len()` bytes; less only at the end of the file.
    ///
    /// # Errors
    /// Those of `pread(2)`.
    fn pread(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Writes all slices one behind the other.
    ///
    /// # Errors
    /// Those of `pwritev(2)`; some of the bytes may then be written.
    fn pwritev(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()>;
    /// Makes bytes and length durable.
    ///
    /// # Errors
    /// Those of `fdatasync(2)`; what was written since the last success is then in an unknown state.
    fn fdatasync(&self) -> io::Result<()>;
    /// Makes everything about the file durable.
    ///
    /// # Errors
    /// Those of `fsync(2)`, as for [`DiskFile::fdatasync`].
    fn fsync(&self) -> io::Result<()>;
    /// Cuts or extends the file.
    ///
    /// # Errors
    /// Those of `ftruncate(2)`.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Reserves room so that later writes below `len` cannot run out of it; the file reads as zeros there.
    ///
    /// # Errors
    /// Those of `fallocate(2)`.
    fn preallocate(&self, len: u64) -> io::Result<()>;
    /// Length in bytes.
    ///
    /// # Errors
    /// Those of `fstat(2)`.
    fn size(&self) -> io::Result<u64>;
}

impl dyn DiskFile + '_ {
    /// Writes all bytes.
    ///
    /// # Errors
    /// As [`DiskFile::pwritev`].
    pub fn pwrite(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.pwritev(offset, &[IoSlice::new(bytes)])
    }

    /// Fills `buf`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before.
    pub fn pread_exact(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if self.pread(offset, buf)? < buf.len() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}
