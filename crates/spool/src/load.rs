//! Taking in `.hqf` files from elsewhere.

use std::{
    io,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use mail::Content;
use uuid::Uuid;

use crate::{
    Frame, Location, Recovered, Spool, SpoolError,
    disk::{Disk, DiskFile, Open},
    files::{Job, StoreJob},
    hqf::{self, FLAG_8BIT, FLAG_NUL, FLAG_SMTPUTF8, Frames, HEADER_BYTES, Header},
    record::{EntryUpdate, MessageRecord},
    staging::FileContent,
    ticket::Pending,
};

/// How much content is copied at a time.
const COPY_BYTES: usize = 64 << 10;

/// Changes to make while loading a foreign file.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoadOptions {
    /// Store it under this id instead of its own.
    pub id: Option<Uuid>,
    /// New time of reception, Unix time.
    pub received_s: Option<f64>,
    /// Start with no attempts made.
    pub reset_retry: bool,
}

/// Reads a `.hqf` file wherever it lies: what it says and its original, verified. Needs no open spool.
///
/// # Errors
/// [`SpoolError::Corrupt`], or the disk cannot be read.
pub fn read_hqf(disk: &dyn Disk, path: &Path) -> Result<(Recovered, Arc<dyn Content>), SpoolError> {
    let file = disk.open(path, Open::Read).map_err(|e| SpoolError::io("open", path, e))?;
    let image = hqf::read_file(&*file).map_err(|e| e.at(path))?;
    let recovered = Recovered::new(&image.header, &image.frames, Location::File, path.to_owned())
        .map_err(|reason| SpoolError::Corrupt { path: path.to_owned(), reason })?;
    let content = FileContent::verified(file, &image.header, MEMORY_BYTES).map_err(|e| e.at(path))?;
    Ok((recovered, content))
}

/// A message in the form of a `.hqf` file without an id, for programs that hand it to a daemon, which loads it under an
/// id of its own.
///
/// # Errors
/// The content cannot be read, or a record is too long.
pub fn encode_hqf(content: &dyn Content, record: &MessageRecord) -> Result<Vec<u8>, SpoolError> {
    let failed = |e: io::Error| SpoolError::io("read", Path::new("(message)"), e);
    let length = usize::try_from(content.len()).map_err(|e| failed(io::Error::other(e)))?;
    let mut image = vec![0; HEADER_BYTES as usize + length];
    let start = HEADER_BYTES as usize;
    let mut at = start;
    while at < image.len() {
        let end = image.len().min(at + COPY_BYTES);
        content.read_at((at - start) as u64, &mut image[at..end]).map_err(failed)?;
        at = end;
    }
    let bytes = &image[start..];
    let mut flags = if record.smtputf8 { FLAG_SMTPUTF8 } else { 0 };
    if !bytes.is_ascii() {
        flags |= FLAG_8BIT;
    }
    if bytes.contains(&0) {
        flags |= FLAG_NUL;
    }
    let content_crc = crc32c::crc32c(bytes);
    let header = Header { flags, id: Uuid::nil(), content_bytes: content.len(), content_crc };
    image[..start].copy_from_slice(&header.encode());
    image.resize(image.len() + header.padding(), 0);
    image.extend_from_slice(&hqf::encode_record(record)?);
    Ok(image)
}

/// Content up to this size is read into memory by [`read_hqf`].
const MEMORY_BYTES: u64 = 1 << 20;

impl Spool {
    /// Copies a foreign `.hqf` file into the spool. Blocks.
    ///
    /// # Errors
    /// A damaged or unreadable source, an id that is taken, a full disk.
    pub fn load(&self, source: &Path, options: LoadOptions) -> Result<Recovered, SpoolError> {
        let file =
            self.shared.disk.open(source, Open::Read).map_err(|e| SpoolError::io("open", source, e))?;
        self.load_from(&*file, source, options)
    }

    /// As [`Spool::load`], from the bytes of such a file.
    ///
    /// # Errors
    /// As [`Spool::load`].
    pub fn load_bytes(&self, bytes: Bytes, options: LoadOptions) -> Result<Recovered, SpoolError> {
        self.load_from(&BytesFile(bytes), Path::new("(imported)"), options)
    }

    fn load_from(
        &self,
        file: &dyn DiskFile,
        source: &Path,
        options: LoadOptions,
    ) -> Result<Recovered, SpoolError> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(SpoolError::Closed);
        }
        let corrupt = |reason| SpoolError::Corrupt { path: source.to_owned(), reason };
        let mut image = hqf::read_file(file).map_err(|e| e.at(source))?;
        let own = Some(image.header.id).filter(|id| !id.is_nil());
        let id = options.id.or(own).unwrap_or_else(Uuid::new_v4);
        if self.contains(id)? {
            return Err(SpoolError::Duplicate(id));
        }
        if let Some(received_s) = options.received_s {
            image.frames.set_received(received_s).map_err(corrupt)?;
        }
        if options.reset_retry {
            for entry in image.frames.state().map_err(corrupt)?.entries {
                let update =
                    EntryUpdate { queue_id: entry.queue_id, retry: Some(0), ..EntryUpdate::default() };
                let raw = hqf::encode_frame(&Frame::Update(Box::new(update)))?;
                image.frames.append(raw.into()).map_err(corrupt)?;
            }
        }
        let frames = Bytes::from(image.frames.compacted().map_err(corrupt)?);
        let mut staging = self.stage(id);
        let mut buffer = vec![0; COPY_BYTES];
        let mut at = 0;
        while at < image.header.content_bytes {
            let n = (image.header.content_bytes - at).min(COPY_BYTES as u64) as usize;
            file.pread_exact(HEADER_BYTES + at, &mut buffer[..n])
                .map_err(|e| SpoolError::io("read", source, e))?;
            staging.write(&buffer[..n])?;
            at += n as u64;
        }
        let (header, body) = staging.finish(image.header.flags & FLAG_SMTPUTF8);
        if header.content_crc != image.header.content_crc {
            return Err(corrupt(crate::Corruption::Content));
        }
        let parsed = Frames::parse(&frames).map_err(corrupt)?;
        let recovered =
            Recovered::new(&header, &parsed, Location::File, self.shared.path(&id)).map_err(corrupt)?;
        let (pending, completer) = Pending::new();
        let job = StoreJob { header, source: body, frames, completer };
        self.shared.to_worker(&id, Job::Store(Box::new(job)));
        pending.wait()?;
        Ok(recovered)
    }
}

/// Bytes read as if they were a file.
struct BytesFile(Bytes);

impl DiskFile for BytesFile {
    fn pread(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or(&[]);
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn pwritev(&self, _: u64, _: &[io::IoSlice<'_>]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn fdatasync(&self) -> io::Result<()> {
        Ok(())
    }

    fn fsync(&self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn preallocate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }
}
