//! The `.hqf` format (manual, queue and delivery 3.2): a header, the content, frames. Little-endian.
//!
//! ```text
//! header 64 bytes | content | zeros to 8 | META EDIT* ENTRY* COMMIT | UPDATE DONE ...
//! ```
//!
//! What stands up to COMMIT is written once and must be whole. What follows is appended; it ends at the first frame
//! that is not, which is how a crash while appending looks.

use std::collections::BTreeMap;

use bytes::Bytes;
use mail::EditList;
use prost::Message as _;
use uuid::Uuid;

use crate::{
    Corruption, SpoolError,
    disk::DiskFile,
    record::{Commit, Done, Entry, Frame, MessageRecord, Meta, StoredEdits},
    wire,
};

/// Length of the header, and so the offset of the content.
pub(crate) const HEADER_BYTES: u64 = 64;
const MAGIC: [u8; 8] = [0x89, 0x48, 0x51, 0x46, 0x0D, 0x0A, 0x1A, 0x0A];
const VERSION_MAJOR: u16 = 1;
/// Type to length, then payload, then the checksum.
const FRAME_HEAD_BYTES: usize = 8;
/// Longest payload of a frame.
pub(crate) const FRAME_PAYLOAD_BYTES_MAX: usize = 64 << 20;
/// Longest frames part that is read into memory.
const FRAMES_BYTES_MAX: u64 = 256 << 20;

pub(crate) const FLAG_8BIT: u32 = 1;
pub(crate) const FLAG_SMTPUTF8: u32 = 2;
pub(crate) const FLAG_NUL: u32 = 4;

/// Frame types.
mod kind {
    pub(super) const META: u8 = 1;
    pub(super) const EDIT: u8 = 2;
    pub(super) const ENTRY: u8 = 3;
    pub(super) const UPDATE: u8 = 4;
    pub(super) const DONE: u8 = 5;
    pub(super) const COMMIT: u8 = 6;
}

/// The fixed header of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) flags: u32,
    pub(crate) id: Uuid,
    pub(crate) content_bytes: u64,
    pub(crate) content_crc: u32,
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut out = [0; HEADER_BYTES as usize];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&VERSION_MAJOR.to_le_bytes());
        out[12..16].copy_from_slice(&self.flags.to_le_bytes());
        out[16..32].copy_from_slice(self.id.as_bytes());
        out[32..40].copy_from_slice(&HEADER_BYTES.to_le_bytes());
        out[40..48].copy_from_slice(&self.content_bytes.to_le_bytes());
        out[48..52].copy_from_slice(&self.content_crc.to_le_bytes());
        let crc = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Corruption> {
        let bytes = bytes.get(..HEADER_BYTES as usize).ok_or(Corruption::Short)?;
        if bytes[..8] != MAGIC {
            return Err(Corruption::Magic);
        }
        if le32(&bytes[60..]) != crc32c::crc32c(&bytes[..60]) {
            return Err(Corruption::Header);
        }
        if u16::from_le_bytes([bytes[8], bytes[9]]) != VERSION_MAJOR {
            return Err(Corruption::Version);
        }
        let content_bytes = le64(&bytes[40..]);
        if le64(&bytes[32..]) != HEADER_BYTES || frames_offset(content_bytes).is_none() {
            return Err(Corruption::Header);
        }
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[16..32]);
        Ok(Self {
            flags: le32(&bytes[12..]),
            id: Uuid::from_bytes(id),
            content_bytes,
            content_crc: le32(&bytes[48..]),
        })
    }

    /// Where the frames begin.
    pub(crate) fn frames_offset(&self) -> u64 {
        // Checked by `decode`, and lengths of our own are far below.
        frames_offset(self.content_bytes).unwrap_or(u64::MAX)
    }

    /// Zero bytes between content and frames.
    pub(crate) fn padding(&self) -> usize {
        (self.content_bytes.wrapping_neg() % 8) as usize
    }
}

fn frames_offset(content_bytes: u64) -> Option<u64> {
    content_bytes.checked_add(HEADER_BYTES)?.checked_next_multiple_of(8)
}

/// One frame as it lies in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawFrame {
    kind: u8,
    crc: u32,
    /// All of it, padding included.
    raw: Bytes,
    payload_bytes: usize,
}

impl RawFrame {
    /// The whole frame.
    pub(crate) fn bytes(&self) -> Bytes {
        self.raw.clone()
    }

    fn payload(&self) -> &[u8] {
        &self.raw[FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + self.payload_bytes]
    }
}

/// The frames of a message, split at COMMIT.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frames {
    /// Up to COMMIT, without it.
    pub(crate) base: Vec<RawFrame>,
    /// Behind COMMIT.
    pub(crate) appended: Vec<RawFrame>,
    /// Bytes up to the end of COMMIT.
    pub(crate) base_bytes: u64,
    /// Bytes up to the end of the last good frame.
    pub(crate) good_bytes: u64,
}

impl Frames {
    /// Reads the frames part of a file.
    pub(crate) fn parse(bytes: &Bytes) -> Result<Self, Corruption> {
        let mut frames = Self::default();
        let mut at = 0;
        loop {
            let Some(frame) = next_frame(bytes, at) else {
                return Err(if at == bytes.len() { Corruption::Commit } else { Corruption::Frame });
            };
            at += frame.raw.len();
            if frame.kind == kind::COMMIT {
                let commit = Commit::decode(frame.payload()).map_err(|_| Corruption::Commit)?;
                if commit != frames.commit() {
                    return Err(Corruption::Commit);
                }
                break;
            }
            frames.base.push(frame);
        }
        frames.base_bytes = at as u64;
        while let Some(frame) = next_frame(bytes, at) {
            at += frame.raw.len();
            frames.appended.push(frame);
        }
        frames.good_bytes = at as u64;
        Ok(frames)
    }

    /// Adds a frame that was recorded elsewhere (the journal).
    pub(crate) fn append(&mut self, raw: Bytes) -> Result<(), Corruption> {
        let frame =
            next_frame(&raw, 0).filter(|frame| frame.raw.len() == raw.len()).ok_or(Corruption::Frame)?;
        self.appended.push(frame);
        Ok(())
    }

    /// What the frames say, updates applied.
    pub(crate) fn state(&self) -> Result<State, Corruption> {
        let mut state = State::default();
        let mut entries = BTreeMap::new();
        for frame in self.base.iter().chain(&self.appended) {
            state.apply(frame, &mut entries)?;
        }
        for (queue_id, payload) in entries {
            let entry = Entry::decode(&payload[..]).map_err(|_| Corruption::Frame)?;
            if entry.queue_id != queue_id {
                return Err(Corruption::Frame);
            }
            state.entries.push(entry);
        }
        Ok(state)
    }

    /// The same state in as few frames as it takes; unknown frames and members stay, finished entries go.
    pub(crate) fn compacted(&self) -> Result<Vec<u8>, Corruption> {
        let mut state = State::default();
        let mut entries = BTreeMap::new();
        for frame in self.base.iter().chain(&self.appended) {
            state.apply(frame, &mut entries)?;
        }
        let mut out = FrameWriter::default();
        for frame in &self.base {
            match frame.kind {
                kind::ENTRY => {
                    let queue_id = Entry::decode(frame.payload()).map_err(|_| Corruption::Frame)?.queue_id;
                    if let Some(payload) = entries.remove(&queue_id) {
                        out.push(kind::ENTRY, &payload);
                    }
                }
                _ => out.push_raw(frame),
            }
        }
        // Entries that came later stand with the others now.
        for payload in entries.values() {
            out.push(kind::ENTRY, payload);
        }
        out.commit();
        for frame in
            self.appended.iter().filter(|f| !matches!(f.kind, kind::UPDATE | kind::DONE | kind::ENTRY))
        {
            out.push_raw(frame);
        }
        Ok(out.out)
    }

    /// Gives the message another time of reception.
    pub(crate) fn set_received(&mut self, received_s: f64) -> Result<(), Corruption> {
        for frame in self.base.iter_mut().filter(|frame| frame.kind == kind::META) {
            let mut payload = Meta { received_s, ..Meta::default() }.encode_to_vec();
            for (number, bytes) in wire::members(frame.payload()).ok_or(Corruption::Frame)? {
                if number != Meta::RECEIVED {
                    payload.extend_from_slice(bytes);
                }
            }
            let mut out = FrameWriter::default();
            out.push(kind::META, &payload);
            *frame = next_frame(&Bytes::from(out.out), 0).ok_or(Corruption::Frame)?;
        }
        Ok(())
    }

    fn commit(&self) -> Commit {
        let crc = self.base.iter().fold(0, |crc, frame| crc32c::crc32c_append(crc, &frame.crc.to_le_bytes()));
        // More frames than u32 cannot be held.
        Commit { frames: self.base.len() as u32, crc }
    }
}

/// What is known about a message.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) meta: Meta,
    pub(crate) edits: Vec<(u32, EditList)>,
    /// Entries that are not finished, by queue id.
    pub(crate) entries: Vec<Entry>,
    pub(crate) done: Vec<Done>,
}

impl State {
    fn apply(&mut self, frame: &RawFrame, entries: &mut BTreeMap<u64, Vec<u8>>) -> Result<(), Corruption> {
        let bad = |_| Corruption::Frame;
        let payload = frame.payload();
        match frame.kind {
            kind::META => self.meta = Meta::decode(payload).map_err(bad)?,
            kind::EDIT => {
                let stored = StoredEdits::decode(payload).map_err(bad)?;
                let id = stored.id;
                self.edits.push((id, stored.into_list().map_err(|_| Corruption::Frame)?));
            }
            kind::ENTRY => {
                let queue_id = Entry::decode(payload).map_err(bad)?.queue_id;
                entries.insert(queue_id, payload.to_vec());
            }
            kind::UPDATE => {
                let queue_id = crate::EntryUpdate::decode(payload).map_err(bad)?.queue_id;
                if let Some(entry) = entries.get_mut(&queue_id) {
                    *entry = wire::overlay(entry, payload).ok_or(Corruption::Frame)?;
                }
            }
            kind::DONE => {
                let done = Done::decode(payload).map_err(bad)?;
                entries.remove(&done.queue_id);
                self.done.push(done);
            }
            _ => {}
        }
        Ok(())
    }
}

/// Header and frames of a file, content skipped, and its length.
pub(crate) struct FileImage {
    pub(crate) header: Header,
    pub(crate) frames: Frames,
    pub(crate) file_bytes: u64,
}

impl FileImage {
    /// Bytes behind the last good frame.
    pub(crate) fn torn_bytes(&self) -> u64 {
        self.file_bytes - self.good_end()
    }

    /// Where the next frame goes.
    pub(crate) fn good_end(&self) -> u64 {
        self.header.frames_offset() + self.frames.good_bytes
    }
}

/// What reading a file came to: trouble with the disk or with the bytes.
pub(crate) enum ReadError {
    Io(std::io::Error),
    Corrupt(Corruption),
}

impl ReadError {
    pub(crate) fn at(self, path: &std::path::Path) -> SpoolError {
        match self {
            Self::Io(source) => SpoolError::io("read", path, source),
            Self::Corrupt(reason) => SpoolError::Corrupt { path: path.to_owned(), reason },
        }
    }
}

impl From<std::io::Error> for ReadError {
    fn from(source: std::io::Error) -> Self {
        Self::Io(source)
    }
}

impl From<Corruption> for ReadError {
    fn from(reason: Corruption) -> Self {
        Self::Corrupt(reason)
    }
}

/// Reads header and frames of a file.
pub(crate) fn read_file(file: &dyn DiskFile) -> Result<FileImage, ReadError> {
    let file_bytes = file.size()?;
    let mut head = [0; HEADER_BYTES as usize];
    if file.pread(0, &mut head)? < head.len() {
        return Err(Corruption::Short.into());
    }
    let header = Header::decode(&head)?;
    let offset = header.frames_offset();
    if offset > file_bytes {
        return Err(Corruption::Short.into());
    }
    if file_bytes - offset > FRAMES_BYTES_MAX {
        return Err(Corruption::Frame.into());
    }
    // The padding lies before the frames; both are read at once.
    let padding = header.padding();
    let mut bytes = vec![0; (file_bytes - offset) as usize + padding];
    file.pread_exact(offset - padding as u64, &mut bytes)?;
    if bytes[..padding].iter().any(|b| *b != 0) {
        return Err(Corruption::Content.into());
    }
    let frames = Frames::parse(&Bytes::from(bytes).slice(padding..))?;
    Ok(FileImage { header, frames, file_bytes })
}

/// Reads header and frames of an image in memory.
pub(crate) fn read_image(image: &[u8]) -> Result<(Header, Frames), Corruption> {
    let header = Header::decode(image)?;
    let offset = usize::try_from(header.frames_offset()).map_err(|_| Corruption::Short)?;
    let frames = image.get(offset..).ok_or(Corruption::Short)?;
    if image[offset - header.padding()..offset].iter().any(|b| *b != 0) {
        return Err(Corruption::Content);
    }
    Ok((header, Frames::parse(&Bytes::copy_from_slice(frames))?))
}

/// META, EDITs, ENTRYs and COMMIT of a new message.
pub(crate) fn encode_record(record: &MessageRecord) -> Result<Vec<u8>, SpoolError> {
    let mut out = FrameWriter::default();
    out.message(kind::META, &record.meta)?;
    for (id, list) in &record.edits {
        out.message(kind::EDIT, &StoredEdits::new(*id, list))?;
    }
    for entry in &record.entries {
        out.message(kind::ENTRY, entry)?;
    }
    out.commit();
    Ok(out.out)
}

/// A change as a frame.
pub(crate) fn encode_frame(frame: &Frame) -> Result<Vec<u8>, SpoolError> {
    let mut out = FrameWriter::default();
    match frame {
        Frame::Update(update) => out.message(kind::UPDATE, &**update)?,
        Frame::Entry(entry) => out.message(kind::ENTRY, &**entry)?,
        Frame::Done(done) => out.message(kind::DONE, done)?,
    }
    Ok(out.out)
}

#[derive(Default)]
struct FrameWriter {
    out: Vec<u8>,
    count: u32,
    crc: u32,
}

impl FrameWriter {
    fn message(&mut self, kind: u8, message: &impl prost::Message) -> Result<(), SpoolError> {
        let len = message.encoded_len();
        if len > FRAME_PAYLOAD_BYTES_MAX {
            let limit = FRAME_PAYLOAD_BYTES_MAX as u64;
            return Err(SpoolError::TooLarge { what: "queue entry", bytes: len as u64, limit });
        }
        self.push(kind, &message.encode_to_vec());
        Ok(())
    }

    /// `payload` is no longer than [`FRAME_PAYLOAD_BYTES_MAX`].
    fn push(&mut self, kind: u8, payload: &[u8]) {
        let start = self.out.len();
        self.out.extend_from_slice(&[kind, 0, 0, 0]);
        self.out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.out.extend_from_slice(payload);
        let crc = crc32c::crc32c(&self.out[start..]);
        self.out.extend_from_slice(&crc.to_le_bytes());
        self.out.resize(start + (self.out.len() - start).next_multiple_of(8), 0);
        self.count_crc(crc);
    }

    fn push_raw(&mut self, frame: &RawFrame) {
        self.out.extend_from_slice(&frame.raw);
        self.count_crc(frame.crc);
    }

    fn count_crc(&mut self, crc: u32) {
        self.count += 1;
        self.crc = crc32c::crc32c_append(self.crc, &crc.to_le_bytes());
    }

    fn commit(&mut self) {
        let commit = Commit { frames: self.count, crc: self.crc };
        self.push(kind::COMMIT, &commit.encode_to_vec());
    }
}

/// The frame at `at`, if a whole and undamaged one is there.
fn next_frame(bytes: &Bytes, at: usize) -> Option<RawFrame> {
    let rest = bytes.get(at..)?;
    let head = rest.get(..FRAME_HEAD_BYTES)?;
    let payload_bytes = le32(&head[4..]) as usize;
    if payload_bytes > FRAME_PAYLOAD_BYTES_MAX {
        return None;
    }
    let crc_at = FRAME_HEAD_BYTES + payload_bytes;
    let crc = le32(rest.get(crc_at..crc_at + 4)?);
    let len = (crc_at + 4).next_multiple_of(8);
    let padding = rest.get(crc_at + 4..len)?;
    if crc != crc32c::crc32c(&rest[..crc_at]) || padding.iter().any(|b| *b != 0) {
        return None;
    }
    Some(RawFrame { kind: head[0], crc, raw: bytes.slice(at..at + len), payload_bytes })
}

/// All bytes of the frame at `at`, if a whole and undamaged one is there.
pub(crate) fn frame_bytes(bytes: &Bytes, at: usize) -> Option<Bytes> {
    next_frame(bytes, at).map(|frame| frame.raw)
}

/// The update in a frame.
pub(crate) fn decode_update(raw: &Bytes) -> Result<crate::EntryUpdate, Corruption> {
    let frame = next_frame(raw, 0).filter(|frame| frame.kind == kind::UPDATE).ok_or(Corruption::Frame)?;
    crate::EntryUpdate::decode(frame.payload()).map_err(|_| Corruption::Frame)
}

/// The first four bytes; callers pass at least that many.
pub(crate) fn le32(bytes: &[u8]) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[..4]);
    u32::from_le_bytes(out)
}

/// The first eight bytes; callers pass at least that many.
pub(crate) fn le64(bytes: &[u8]) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(out)
}

#[cfg(test)]
mod tests;
