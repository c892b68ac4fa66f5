//! The immutable bytes of a message, wherever they lie.

use std::{io, ops::Range, sync::Arc};

use bytes::Bytes;

use crate::{EditError, EditList, Segment};

/// How much is read from content on disk at a time.
pub const CHUNK_BYTES: usize = 64 << 10;

/// Read access to the original bytes of a message.
pub trait Content: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> u64;

    /// Whether there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the range passes the end, or what the disk says.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// All bytes at once, if they are in memory anyway.
    fn as_slice(&self) -> Option<&[u8]>;
}

/// Content held in memory; clones share it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryContent(pub Bytes);

impl Content for MemoryContent {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let source = self.0.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(source);
        Ok(())
    }

    fn as_slice(&self) -> Option<&[u8]> {
        Some(&self.0)
    }
}

/// Hands the bytes of a range to `sink`, a piece at a time; content on disk is not loaded as a whole.
///
/// # Errors
/// What reading or the sink says; a range past the end is `UnexpectedEof`.
pub fn for_each_chunk<E: From<io::Error>>(
    content: &dyn Content,
    range: Range<u64>,
    mut sink: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    if let Some(all) = content.as_slice() {
        let from = usize::try_from(range.start).map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        let to = usize::try_from(range.end).map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        let bytes = all.get(from..to).ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        return sink(bytes);
    }
    // Small ranges are read at once; both bounds keep the length within usize.
    let size = range.end.saturating_sub(range.start).min(CHUNK_BYTES as u64);
    let mut buffer = vec![0; size as usize];
    let mut at = range.start;
    while at < range.end {
        let n = (range.end - at).min(size) as usize;
        content.read_at(at, &mut buffer[..n])?;
        sink(&buffer[..n])?;
        at += n as u64;
    }
    Ok(())
}

/// A range of other content.
pub struct Slice {
    content: Arc<dyn Content>,
    start: u64,
    len: u64,
}

impl Slice {
    /// The bytes of `range`, cut at the end of the content.
    pub fn new(content: Arc<dyn Content>, range: Range<u64>) -> Self {
        let end = range.end.min(content.len());
        let start = range.start.min(end);
        Self { content, start, len: end - start }
    }
}

impl Content for Slice {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let inside = offset.checked_add(buf.len() as u64).is_some_and(|end| end <= self.len);
        if !inside {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.content.read_at(self.start + offset, buf)
    }

    fn as_slice(&self) -> Option<&[u8]> {
        // Inside the content's slice, so both fit.
        self.content.as_slice()?.get(self.start as usize..(self.start + self.len) as usize)
    }
}

/// Content with edits applied, read piece by piece: nothing but the edits is in memory.
pub struct Patched {
    content: Arc<dyn Content>,
    edits: Arc<EditList>,
    /// Where each run begins in the modified message, in order.
    runs: Vec<(u64, Run)>,
    len: u64,
}

#[derive(Clone, Copy)]
enum Run {
    Original(u64),
    /// Index of the edit.
    Inserted(usize),
}

impl Patched {
    /// The content as the edits make it.
    ///
    /// # Errors
    /// [`EditError::Range`] if they do not fit.
    pub fn new(content: Arc<dyn Content>, edits: Arc<EditList>) -> Result<Self, EditError> {
        let len = edits.size(content.len())?;
        let mut runs = Vec::with_capacity(edits.edits().len() * 2 + 1);
        let mut at = 0;
        let mut inserted = edits.edits().iter().enumerate().filter(|(_, edit)| !edit.insert.is_empty());
        for segment in edits.segments(content.len()) {
            match segment {
                Segment::Original(range) => {
                    runs.push((at, Run::Original(range.start)));
                    at += range.end - range.start;
                }
                Segment::Inserted(bytes) => {
                    // Segments name the non-empty insertions in the order of the edits.
                    if let Some((index, _)) = inserted.next() {
                        runs.push((at, Run::Inserted(index)));
                    }
                    at += bytes.len() as u64;
                }
            }
        }
        Ok(Self { content, edits, runs, len })
    }
}

impl Content for Patched {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let inside = offset.checked_add(buf.len() as u64).is_some_and(|end| end <= self.len);
        if !inside {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut index = self.runs.partition_point(|(start, _)| *start <= offset).saturating_sub(1);
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let (start, run) = self.runs[index];
            let end = self.runs.get(index + 1).map_or(self.len, |(next, _)| *next);
            let n = usize::try_from(end - at).unwrap_or(usize::MAX).min(buf.len() - done);
            let target = &mut buf[done..done + n];
            match run {
                Run::Original(from) => self.content.read_at(from + (at - start), target)?,
                Run::Inserted(edit) => {
                    let from = (at - start) as usize;
                    target.copy_from_slice(&self.edits.edits()[edit].insert[from..from + n]);
                }
            }
            done += n;
            index += 1;
        }
        Ok(())
    }

    fn as_slice(&self) -> Option<&[u8]> {
        if self.edits.is_empty() { self.content.as_slice() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Place;

    proptest! {
        #[test]
        fn patched_reads_what_apply_makes(
            raw in prop::collection::vec((0_u64..20, 0_u64..6, "[a-z]{0,4}"), 0..6),
            from in 0_u64..30, len in 0_usize..30,
        ) {
            let original = Bytes::from_static(b"ABCDEFGHIJKLMNOPQRST");
            let mut edits = EditList::default();
            for (offset, delete, insert) in raw {
                edits.replace(offset, delete.min(20 - offset), insert.into_bytes(), Place::After);
            }
            let whole = edits.apply(&original).unwrap();
            let patched = Patched::new(Arc::new(MemoryContent(original)), Arc::new(edits)).unwrap();
            prop_assert_eq!(patched.len(), whole.len() as u64);
            let from = from.min(patched.len());
            let mut buf = vec![0; len.min(whole.len() - from as usize)];
            patched.read_at(from, &mut buf).unwrap();
            prop_assert_eq!(&buf[..], &whole[from as usize..from as usize + buf.len()]);
            prop_assert!(patched.read_at(patched.len(), &mut [0]).is_err());
        }
    }

    #[test]
    fn reads_inside_and_refuses_outside() {
        let content = MemoryContent(Bytes::from_static(b"hello"));
        let mut buf = [0; 3];
        content.read_at(2, &mut buf).unwrap();
        assert_eq!(&buf, b"llo");
        for offset in [3, 5, u64::MAX] {
            assert_eq!(content.read_at(offset, &mut buf).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
