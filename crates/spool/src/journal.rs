//! The segments of the commit journal: their format and how they are read back (manual, queue and delivery 3.4).
//!
//! ```text
//! header 512 bytes | record | record | ... (whatever was there before)
//! record: type u8 | flags u8 | 0 u16 | length u32 | sequence u64 | payload | CRC32C u32 | zeros to 8
//! ```
//!
//! Sequence numbers run on without gap inside a segment, so what an earlier use of the file left behind the last
//! record is never taken for one. A segment without a valid header is free.
//!
//! Segments are reused oldest first only: a RELEASE lies in the segment of its MESSAGE or in a later one, and must
//! not vanish before it. The header of a free segment is wiped, and that synced, before anything else is written.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use uuid::Uuid;

use crate::{
    disk::DiskFile,
    hqf::{self, Frames, Header, le32, le64},
};

/// Room for the header; a sector of its own, so that writing records never tears it.
pub(crate) const SEGMENT_HEADER_BYTES: u64 = 512;
const MAGIC: [u8; 8] = [0x89, 0x48, 0x4A, 0x4E, 0x0D, 0x0A, 0x1A, 0x0A];
const VERSION_MAJOR: u16 = 1;
pub(crate) const RECORD_HEAD_BYTES: u64 = 16;
const RECORD_CRC_BYTES: u64 = 4;
/// How much is read at a time while replaying.
const READ_BYTES: usize = 256 << 10;

/// Record types.
pub(crate) mod kind {
    /// A complete `.hqf` image.
    pub(crate) const MESSAGE: u8 = 1;
    /// A message id and one frame.
    pub(crate) const FRAME: u8 = 2;
    /// A message id: it is done, or its `.hqf` is durable.
    pub(crate) const RELEASE: u8 = 3;
    /// Message ids, each with a frame that its `.hqf` gets later.
    pub(crate) const LATE: u8 = 4;
}

/// A segment in use.
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) bytes: u64,
    /// Messages in it that are not released.
    live: AtomicUsize,
    /// Readers of messages in it.
    pins: AtomicUsize,
    damaged: AtomicBool,
}

impl Segment {
    pub(crate) fn new(path: PathBuf, file: Arc<dyn DiskFile>, bytes: u64) -> Self {
        Self {
            path,
            file,
            bytes,
            live: AtomicUsize::new(0),
            pins: AtomicUsize::new(0),
            damaged: AtomicBool::new(false),
        }
    }

    pub(crate) fn add_live(&self) {
        self.live.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether that was the last one.
    pub(crate) fn remove_live(&self) -> bool {
        self.live.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Something in it could not be read: it is kept aside instead of being reused.
    pub(crate) fn set_damaged(&self) {
        self.damaged.store(true, Ordering::Release);
    }

    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Acquire)
    }

    /// Keeps the segment from being reused; taken only while a live message in it is held.
    pub(crate) fn pin(self: &Arc<Self>) -> Pin {
        self.pins.fetch_add(1, Ordering::AcqRel);
        Pin(Arc::clone(self))
    }

    /// Whether it can be reused. No pin is taken once nothing is live, so the order of the two reads matters.
    pub(crate) fn is_idle(&self) -> bool {
        self.live.load(Ordering::Acquire) == 0 && self.pins.load(Ordering::Acquire) == 0
    }
}

/// A reader's hold on a segment.
pub(crate) struct Pin(Arc<Segment>);

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.pins.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A segment file that holds nothing.
pub(crate) struct FreeFile {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) bytes: u64,
}

/// All segment files.
#[derive(Default)]
pub(crate) struct SegmentTable {
    /// Oldest first; the one being written is last.
    pub(crate) used: VecDeque<Arc<Segment>>,
    pub(crate) free: Vec<FreeFile>,
    /// Number in the name of the next file.
    pub(crate) file_next: u64,
    /// Number in the header of the next segment.
    pub(crate) number_next: u64,
}

/// Length of a record with a payload of that many bytes.
pub(crate) fn record_bytes(payload_bytes: u64) -> u64 {
    (RECORD_HEAD_BYTES + payload_bytes + RECORD_CRC_BYTES).next_multiple_of(8)
}

pub(crate) fn record_head(kind: u8, payload_bytes: u32, sequence: u64) -> [u8; RECORD_HEAD_BYTES as usize] {
    let mut out = [0; RECORD_HEAD_BYTES as usize];
    out[0] = kind;
    out[4..8].copy_from_slice(&payload_bytes.to_le_bytes());
    out[8..].copy_from_slice(&sequence.to_le_bytes());
    out
}

pub(crate) fn segment_header(number: u64, sequence_first: u64) -> [u8; 64] {
    let mut out = [0; 64];
    out[..8].copy_from_slice(&MAGIC);
    out[8..10].copy_from_slice(&VERSION_MAJOR.to_le_bytes());
    out[16..24].copy_from_slice(&number.to_le_bytes());
    out[24..32].copy_from_slice(&sequence_first.to_le_bytes());
    let crc = crc32c::crc32c(&out[..60]);
    out[60..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// What a segment holds.
pub(crate) struct Replayed {
    pub(crate) number: u64,
    pub(crate) sequence_next: u64,
    pub(crate) records: Vec<Record>,
    /// Where a record began that is not whole.
    pub(crate) torn_at: Option<u64>,
}

pub(crate) enum Record {
    Message(Box<JournalMessage>),
    Frame(Uuid, Bytes),
    Release(Uuid),
    /// Changes of messages that are files.
    Late(Vec<(Uuid, Bytes)>),
    /// A message that was written damaged; the reason is in the payload.
    Bad(crate::Corruption),
}

pub(crate) struct JournalMessage {
    pub(crate) header: Header,
    pub(crate) frames: Frames,
    /// Where its image begins in the segment.
    pub(crate) offset: u64,
    pub(crate) image_bytes: u64,
}

/// Reads a segment; `None` if it is free.
pub(crate) fn replay(file: &dyn DiskFile) -> io::Result<Option<Replayed>> {
    let file_bytes = file.size()?;
    let mut reader = Reader { file, file_bytes, buffer: Vec::new(), start: 0 };
    let Some(header) = reader.bytes(0, 64)? else { return Ok(None) };
    if header[..8] != MAGIC
        || le32(&header[60..]) != crc32c::crc32c(&header[..60])
        || u16::from_le_bytes([header[8], header[9]]) != VERSION_MAJOR
    {
        return Ok(None);
    }
    let mut out = Replayed {
        number: le64(&header[16..]),
        sequence_next: le64(&header[24..]),
        records: Vec::new(),
        torn_at: None,
    };
    let mut at = SEGMENT_HEADER_BYTES;
    while let Some(head) = reader.bytes(at, RECORD_HEAD_BYTES)? {
        let (kind, payload_bytes, sequence) = (head[0], u64::from(le32(&head[4..])), le64(&head[8..]));
        if kind == 0 || sequence != out.sequence_next {
            break;
        }
        let whole = RECORD_HEAD_BYTES + payload_bytes + RECORD_CRC_BYTES;
        let record = match reader.bytes(at, whole)? {
            Some(bytes) => {
                let (bytes, crc) = bytes.split_at((RECORD_HEAD_BYTES + payload_bytes) as usize);
                (le32(crc) == crc32c::crc32c(bytes))
                    .then(|| record(kind, &bytes[RECORD_HEAD_BYTES as usize..], at + RECORD_HEAD_BYTES))
            }
            None => None,
        };
        let Some(record) = record else {
            out.torn_at = Some(at);
            break;
        };
        out.records.extend(record);
        out.sequence_next = out.sequence_next.saturating_add(1);
        at += record_bytes(payload_bytes);
    }
    Ok(Some(out))
}

/// The meaning of an undamaged record; `None` for types of a later version.
fn record(kind: u8, payload: &[u8], offset: u64) -> Option<Record> {
    let id = payload.first_chunk::<16>().map(|id| Uuid::from_bytes(*id));
    match (kind, id) {
        (kind::MESSAGE, _) => Some(match hqf::read_image(payload) {
            Ok((header, frames)) => {
                let image_bytes = payload.len() as u64;
                Record::Message(Box::new(JournalMessage { header, frames, offset, image_bytes }))
            }
            Err(reason) => Record::Bad(reason),
        }),
        (kind::FRAME, Some(id)) => Some(Record::Frame(id, Bytes::copy_from_slice(&payload[16..]))),
        (kind::RELEASE, Some(id)) => Some(Record::Release(id)),
        (kind::LATE, _) => Some(match crate::late::parse(&Bytes::copy_from_slice(payload)) {
            Some(changes) => Record::Late(changes),
            None => Record::Bad(crate::Corruption::Frame),
        }),
        (kind::FRAME | kind::RELEASE, None) => Some(Record::Bad(crate::Corruption::Short)),
        _ => None,
    }
}

/// Reads a file forward through a buffer.
struct Reader<'a> {
    file: &'a dyn DiskFile,
    file_bytes: u64,
    buffer: Vec<u8>,
    start: u64,
}

impl Reader<'_> {
    /// The bytes of a range, or `None` if the file ends before its end.
    fn bytes(&mut self, at: u64, len: u64) -> io::Result<Option<&[u8]>> {
        let Some(end) = at.checked_add(len).filter(|end| *end <= self.file_bytes) else { return Ok(None) };
        if at < self.start || end > self.start + self.buffer.len() as u64 {
            // `len` is inside the file, which is no larger than a segment may be.
            let want = (self.file_bytes - at).min((len as usize).max(READ_BYTES) as u64);
            self.buffer.resize(want as usize, 0);
            self.start = at;
            self.file.pread_exact(at, &mut self.buffer)?;
        }
        let from = (at - self.start) as usize;
        Ok(Some(&self.buffer[from..from + len as usize]))
    }
}

/// The number in the name of a segment file.
pub(crate) fn file_number(name: &Path) -> Option<u64> {
    if name.extension()? != "jnl" {
        return None;
    }
    name.file_stem()?.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::disk::{Disk, Open, SimDisk};

    fn segment(records: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut out = segment_header(3, 10).to_vec();
        out.resize(SEGMENT_HEADER_BYTES as usize, 0);
        for (n, (kind, payload)) in records.iter().enumerate() {
            let start = out.len();
            out.extend(record_head(*kind, payload.len() as u32, 10 + n as u64));
            out.extend(payload);
            let crc = crc32c::crc32c(&out[start..]);
            out.extend(crc.to_le_bytes());
            out.resize(start + record_bytes(payload.len() as u64) as usize, 0);
        }
        out
    }

    fn replayed(bytes: Vec<u8>) -> Option<Replayed> {
        let disk = SimDisk::new();
        disk.put(Path::new("/s"), bytes);
        replay(&*disk.open(Path::new("/s"), Open::Read).unwrap()).unwrap()
    }

    fn releases(n: usize) -> Vec<(u8, Vec<u8>)> {
        vec![(kind::RELEASE, vec![7; 16]); n]
    }

    #[test]
    fn ends_where_records_end() {
        let good = segment(&releases(3));
        assert_eq!(replayed(good.clone()).unwrap().records.len(), 3);
        let mut preallocated = good.clone();
        preallocated.resize(4096, 0);
        let out = replayed(preallocated).unwrap();
        assert_eq!((out.records.len(), out.sequence_next, out.torn_at), (3, 13, None));
        // Records of an earlier use of the file do not count.
        let mut stale = good.clone();
        let mut head = segment_header(9, 11).to_vec();
        head.resize(512, 0);
        stale.splice(..512, head);
        assert_eq!(replayed(stale).unwrap().records.len(), 0);
        assert!(replayed(vec![0; 4096]).is_none());
        assert!(replayed(vec![]).is_none());
    }

    #[test]
    fn damage_ends_the_replay() {
        let good = segment(&releases(3));
        let record = record_bytes(16) as usize;
        for at in 512 + record..512 + record + 36 {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            let out = replayed(bad).unwrap();
            assert_eq!(out.records.len(), 1, "{at}");
        }
        let out = replayed(good[..good.len() - 1 - 4].to_vec()).unwrap();
        assert_eq!((out.records.len(), out.torn_at), (2, Some(512 + 2 * record as u64)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), keep in 0_usize..700, kind in 0_u8..5) {
            let _ = replayed(bytes.clone());
            let mut mixed = segment(&[(kind, bytes.clone()), (kind::FRAME, bytes.clone())]);
            mixed.truncate(keep);
            mixed.extend(bytes);
            let _ = replayed(mixed);
        }
    }
}
