//! Where the fields of a header lie, found tolerantly and within bounds.

use bytes::Bytes;

use crate::{Content, MailError, words::WordEncoding};

/// A header block is read no further than this.
pub const HEADER_BYTES_MAX: usize = 4 << 20;
/// No more fields than this are indexed.
pub const FIELDS_MAX: usize = 65_536;
/// How much is read from the content at a time.
const CHUNK_BYTES: usize = 16 << 10;

/// How a field is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldOptions {
    /// The whole raw field, name and final line end included.
    pub field: bool,
    /// Encoded words and charset to UTF-8; otherwise the unfolded raw body.
    pub decode: bool,
}

impl Default for FieldOptions {
    fn default() -> Self {
        Self { field: false, decode: true }
    }
}

/// How a field is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    /// Encode non-ASCII words and fold at 78 columns; otherwise the value is written as given (line ends in it can
    /// only fold, never end the field).
    pub encode: bool,
    /// Spelling of encoded words.
    pub encoding: WordEncoding,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { encode: true, encoding: WordEncoding::Shorter }
    }
}

/// One field of a [`HeaderIndex`]; offsets into its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// First byte of the name.
    pub start: usize,
    /// Behind the last byte of the name; equal to `start` in a line that is no field.
    pub name_end: usize,
    /// Behind the colon.
    pub body_start: usize,
    /// Behind the final line end.
    pub end: usize,
}

/// The header block of a message and its fields.
#[derive(Clone, Debug, Default)]
pub struct HeaderIndex {
    block: Bytes,
    fields: Vec<Field>,
    truncated: bool,
}

impl HeaderIndex {
    /// Reads the header of a message.
    ///
    /// # Errors
    /// What reading the content says.
    pub fn read(content: &dyn Content) -> Result<Self, MailError> {
        if let Some(all) = content.as_slice() {
            let head = &all[..all.len().min(HEADER_BYTES_MAX)];
            let end = block_end(head, 0).unwrap_or(head.len());
            return Ok(Self::new(Bytes::copy_from_slice(&head[..end]), end == head.len() && end < all.len()));
        }
        let len = usize::try_from(content.len()).unwrap_or(usize::MAX).min(HEADER_BYTES_MAX);
        let mut block = Vec::new();
        while block.len() < len {
            let from = block.len();
            block.resize(len.min(from + CHUNK_BYTES), 0);
            content.read_at(from as u64, &mut block[from..])?;
            // A blank line may begin in the chunk before.
            if let Some(end) = block_end(&block, from.saturating_sub(4)) {
                block.truncate(end);
                return Ok(Self::new(block.into(), false));
            }
        }
        let truncated = (block.len() as u64) < content.len();
        Ok(Self::new(block.into(), truncated))
    }

    /// Indexes the header at the start of `bytes`.
    pub fn parse(bytes: &[u8]) -> Self {
        let head = &bytes[..bytes.len().min(HEADER_BYTES_MAX)];
        let end = block_end(head, 0).unwrap_or(head.len());
        Self::new(Bytes::copy_from_slice(&head[..end]), end == head.len() && end < bytes.len())
    }

    /// Indexes a block that was already cut at the blank line; `truncated` if its end was not reached.
    pub(crate) fn from_block(block: &[u8], truncated: bool) -> Self {
        Self::new(Bytes::copy_from_slice(block), truncated)
    }

    /// The fields, top first. Lines that are no fields have an empty name.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The name of a field as written.
    pub fn name(&self, field: &Field) -> &[u8] {
        &self.block[field.start..field.name_end]
    }

    /// The raw body of a field, with its folds and line end.
    pub fn body(&self, field: &Field) -> &[u8] {
        &self.block[field.body_start..field.end]
    }

    /// The whole raw field.
    pub fn raw(&self, field: &Field) -> &[u8] {
        &self.block[field.start..field.end]
    }

    /// The fields of a name, top first; case does not count.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Field> {
        self.fields.iter().filter(move |field| self.name(field).eq_ignore_ascii_case(name.as_bytes()))
    }

    /// Where the header ends: the offset of the blank line behind it, or of the body if there is no header at all.
    pub fn end(&self) -> usize {
        self.fields.last().map_or(0, |field| field.end)
    }

    /// The header block without the blank line.
    pub fn block(&self) -> &[u8] {
        &self.block[..self.end()]
    }

    /// Whether the header is longer than [`HEADER_BYTES_MAX`] or has more than [`FIELDS_MAX`] fields; the rest is not
    /// indexed.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// A field in the form `options` asks for.
    pub fn value(&self, field: &Field, options: FieldOptions) -> Vec<u8> {
        match options {
            FieldOptions { field: true, .. } => self.raw(field).to_vec(),
            FieldOptions { decode: true, .. } => crate::words::decode(self.body(field)).into_bytes(),
            FieldOptions { .. } => crate::words::unfold(self.body(field)),
        }
    }

    fn new(block: Bytes, truncated: bool) -> Self {
        let mut index = Self { block, fields: Vec::new(), truncated };
        let bytes = index.block.clone();
        let mut start = 0;
        while start < bytes.len() {
            let end = line_end(&bytes, start);
            let line = &bytes[start..end];
            if matches!(line.first(), Some(b' ' | b'\t'))
                && let Some(last) = index.fields.last_mut()
            {
                last.end = end;
                start = end;
                continue;
            }
            if index.fields.len() == FIELDS_MAX {
                index.truncated = true;
                break;
            }
            let (name_end, body_start) = match name_len(line) {
                Some((name, colon)) => (start + name, start + colon + 1),
                None => (start, start),
            };
            index.fields.push(Field { start, name_end, body_start, end });
            start = end;
        }
        // A text without any field is a body, and a cut field is no field.
        if index.fields.iter().all(|field| field.name_end == field.start) {
            index.fields.clear();
        }
        if index.truncated && index.fields.last().is_some_and(|field| field.end == bytes.len()) {
            index.fields.pop();
        }
        index
    }
}

/// The length of the name and the place of the colon, if the line begins a field (RFC 5322 3.6.8; white space before
/// the colon is obsolete syntax, 4.5).
fn name_len(line: &[u8]) -> Option<(usize, usize)> {
    let colon = memchr::memchr(b':', line)?;
    let name = line[..colon].trim_ascii_end();
    (!name.is_empty() && name.iter().all(|b| matches!(b, 33..=57 | 59..=126))).then_some((name.len(), colon))
}

/// Behind the line end that follows `start`, or the end of the text.
fn line_end(bytes: &[u8], start: usize) -> usize {
    memchr::memchr(b'\n', &bytes[start..]).map_or(bytes.len(), |at| start + at + 1)
}

/// The offset of the blank line that ends the header, searched from `from`; CRLF and bare LF both count.
fn block_end(bytes: &[u8], from: usize) -> Option<usize> {
    let blank = |at: usize| matches!(bytes.get(at..), Some([b'\n', ..] | [b'\r', b'\n', ..]));
    if from == 0 && blank(0) {
        return Some(0);
    }
    memchr::memchr_iter(b'\n', &bytes[from..]).map(|at| from + at + 1).find(|&next| blank(next))
}

#[cfg(test)]
mod tests {
    use std::io;

    use proptest::prelude::*;

    use super::*;
    use crate::MemoryContent;

    struct OnDisk(MemoryContent);

    impl Content for OnDisk {
        fn len(&self) -> u64 {
            self.0.len()
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            self.0.read_at(offset, buf)
        }
        fn as_slice(&self) -> Option<&[u8]> {
            None
        }
    }

    fn names(bytes: &[u8]) -> Vec<String> {
        let index = HeaderIndex::parse(bytes);
        index.fields().iter().map(|f| String::from_utf8_lossy(index.name(f)).into_owned()).collect()
    }

    #[test]
    fn tolerant() {
        let cases: &[(&[u8], &[&str])] = &[
            (b"A: 1\r\n b\r\nB : 2\r\n\r\nC: 3\r\n", &["A", "B"]),
            (b"A: 1\nB: 2\n\nbody", &["A", "B"]),
            (b"From me today\r\nA: 1\r\n\r\n", &["", "A"]),
            (b"no header at all\r\nreally\r\n", &[]),
            (b"\r\nA: 1\r\n", &[]),
            (b"", &[]),
            (b"A: 1", &["A"]),
            (b" lost\r\nA: 1\r\n", &["", "A"]),
        ];
        for (bytes, expected) in cases {
            assert_eq!(&names(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn bounded() {
        let mut huge = b"A: 1\r\nB: ".to_vec();
        huge.resize(HEADER_BYTES_MAX + 100, b'x');
        let index = HeaderIndex::read(&OnDisk(MemoryContent(huge.clone().into()))).unwrap();
        assert!(index.is_truncated());
        assert_eq!(index.fields().len(), 1);
        assert_eq!(names(&huge), ["A"]);
        let many = b"A:\r\n".repeat(FIELDS_MAX + 5);
        assert!(HeaderIndex::parse(&many).is_truncated());
    }

    proptest! {
        #[test]
        fn disk_and_memory_agree(text in "([A-C]: x\r\n|[A-C]:\n| y\r\n|\r|\n|z){0,40}", pad in 0_usize..3) {
            let mut bytes = text.into_bytes();
            if pad > 0 {
                let mut long = b"P: ".to_vec();
                long.resize(CHUNK_BYTES - pad, b'p');
                long.extend_from_slice(b"\r\n");
                long.extend_from_slice(&bytes);
                bytes = long;
            }
            let content = MemoryContent(bytes.into());
            let memory = HeaderIndex::read(&content).unwrap();
            let disk = HeaderIndex::read(&OnDisk(content)).unwrap();
            prop_assert_eq!(memory.fields(), disk.fields());
        }
    }
}
