//! A message while it is being received.

use std::{io, sync::Arc};

use bytes::Bytes;
use mail::{Content, MemoryContent};
use uuid::Uuid;

use crate::{
    Corruption, SpoolError,
    disk::DiskFile,
    files::{Part, Source},
    hqf::{FLAG_8BIT, FLAG_NUL, HEADER_BYTES, Header},
    shared::Shared,
};

/// A message under construction. Small ones stay in memory, large ones go to `incoming/` while they arrive. Dropping it
/// removes what was written.
///
/// The content is written in order from its first byte; a Received field is written first by the caller.
pub struct Staging {
    shared: Arc<Shared>,
    id: Uuid,
    body: Body,
    content_bytes: u64,
    crc: u32,
    flags: u32,
}

enum Body {
    Memory(Vec<u8>),
    Sealed(Bytes),
    Part(Part),
}

impl Staging {
    pub(crate) fn new(shared: Arc<Shared>, id: Uuid) -> Self {
        Self { shared, id, body: Body::Memory(Vec::new()), content_bytes: 0, crc: 0, flags: 0 }
    }

    /// Appends content. Beyond `journal.maxmessage` this writes to disk on the calling thread.
    ///
    /// # Errors
    /// [`SpoolError::Full`] or [`SpoolError::Io`]; [`SpoolError::Closed`] after [`Staging::content`] was asked for.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        match &mut self.body {
            Body::Memory(memory) => {
                if (memory.len() + bytes.len()) as u64 <= self.shared.options.journal_maxmessage_bytes {
                    memory.extend_from_slice(bytes);
                } else {
                    let part = Part::create(&self.shared.disk, self.shared.part_path(&self.id))?;
                    write_part(&part, HEADER_BYTES, memory)?;
                    write_part(&part, HEADER_BYTES + self.content_bytes, bytes)?;
                    self.body = Body::Part(part);
                }
            }
            Body::Part(part) => write_part(part, HEADER_BYTES + self.content_bytes, bytes)?,
            Body::Sealed(_) => return Err(SpoolError::Closed),
        }
        self.content_bytes += bytes.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        if self.flags & FLAG_8BIT == 0 && !bytes.is_ascii() {
            self.flags |= FLAG_8BIT;
        }
        if self.flags & FLAG_NUL == 0 && bytes.contains(&0) {
            self.flags |= FLAG_NUL;
        }
        Ok(())
    }

    /// The content written so far, for scripts; nothing can be written to memory afterwards.
    pub fn content(&mut self) -> Arc<dyn Content> {
        match &mut self.body {
            Body::Memory(memory) => {
                let bytes = Bytes::from(std::mem::take(memory));
                self.body = Body::Sealed(bytes.clone());
                Arc::new(MemoryContent(bytes))
            }
            Body::Sealed(bytes) => Arc::new(MemoryContent(bytes.clone())),
            Body::Part(part) => {
                Arc::new(FileContent { file: Arc::clone(&part.file), content_bytes: self.content_bytes })
            }
        }
    }

    /// Message id.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Content bytes so far.
    pub fn len(&self) -> u64 {
        self.content_bytes
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.content_bytes == 0
    }

    /// Whether there are bytes above 127.
    pub fn has_8bit(&self) -> bool {
        self.flags & FLAG_8BIT != 0
    }

    /// Whether there are NUL bytes.
    pub fn has_nul(&self) -> bool {
        self.flags & FLAG_NUL != 0
    }

    pub(crate) fn finish(self, flags: u32) -> (Header, Source) {
        let header = Header {
            flags: self.flags | flags,
            id: self.id,
            content_bytes: self.content_bytes,
            content_crc: self.crc,
        };
        let source = match self.body {
            Body::Memory(memory) => Source::Memory(Bytes::from(memory)),
            Body::Sealed(bytes) => Source::Memory(bytes),
            Body::Part(part) => Source::Part(part),
        };
        (header, source)
    }
}

fn write_part(part: &Part, offset: u64, bytes: &[u8]) -> Result<(), SpoolError> {
    part.file.pwrite(offset, bytes).map_err(|e| SpoolError::io("write", &part.path, e))
}

/// Content in a file, behind the header.
pub(crate) struct FileContent {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) content_bytes: u64,
}

impl FileContent {
    /// The content of a file, verified. Up to `memory_bytes` it is kept in memory.
    pub(crate) fn verified(
        file: Arc<dyn DiskFile>,
        header: &Header,
        memory_bytes: u64,
    ) -> Result<Arc<dyn Content>, crate::hqf::ReadError> {
        let content_bytes = header.content_bytes;
        if content_bytes > file.size()? {
            return Err(Corruption::Short.into());
        }
        if content_bytes <= memory_bytes {
            let mut bytes = vec![0; content_bytes as usize];
            file.pread_exact(HEADER_BYTES, &mut bytes)?;
            if crc32c::crc32c(&bytes) != header.content_crc {
                return Err(Corruption::Content.into());
            }
            return Ok(Arc::new(MemoryContent(bytes.into())));
        }
        let mut buffer = vec![0; VERIFY_BYTES];
        let (mut at, mut crc) = (0, 0);
        while at < content_bytes {
            let n = (content_bytes - at).min(VERIFY_BYTES as u64) as usize;
            file.pread_exact(HEADER_BYTES + at, &mut buffer[..n])?;
            crc = crc32c::crc32c_append(crc, &buffer[..n]);
            at += n as u64;
        }
        if crc != header.content_crc {
            return Err(Corruption::Content.into());
        }
        Ok(Arc::new(Self { file, content_bytes }))
    }
}

/// How much is read at a time for the checksum.
const VERIFY_BYTES: usize = 128 << 10;

impl Content for FileContent {
    fn len(&self) -> u64 {
        self.content_bytes
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let inside = offset.checked_add(buf.len() as u64).is_some_and(|end| end <= self.content_bytes);
        if !inside {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file.pread_exact(HEADER_BYTES + offset, buf)
    }

    fn as_slice(&self) -> Option<&[u8]> {
        None
    }
}
