//! A message: its original bytes and the modifications recorded so far.
//!
//! As in the manual, modifications are recorded, not applied: what reads fields reads the original, what writes the
//! message ([`MailMessage::to_bytes`], [`EditList::segments`]) applies them. Fields are counted in the original, from
//! the top; fields that were added are found only by [`MailMessage::set_header`] and [`MailMessage::del_header`]
//! without an index, so that setting a missing field twice leaves one.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use uuid::Uuid;

use crate::{
    Content, EditList, FieldOptions, HeaderIndex, MailError, Place, Segment, WriteOptions,
    header::Field,
    words::{contained, encode, folded_field, text, unfold},
};

/// A message with recorded modifications. Clones share everything until one of them is modified.
#[derive(Clone)]
pub struct MailMessage {
    content: Arc<dyn Content>,
    edits: Arc<EditList>,
    snapshots: Vec<Arc<EditList>>,
    index: Arc<OnceLock<HeaderIndex>>,
}

impl MailMessage {
    /// A message without modifications.
    pub fn new(content: Arc<dyn Content>) -> Self {
        Self { content, edits: Arc::default(), snapshots: Vec::new(), index: Arc::default() }
    }

    /// A message with modifications made earlier.
    ///
    /// # Errors
    /// [`MailError::Edit`] if they do not fit the content.
    pub fn with_edits(content: Arc<dyn Content>, edits: Arc<EditList>) -> Result<Self, MailError> {
        edits.validate(content.len())?;
        Ok(Self { content, edits, snapshots: Vec::new(), index: Arc::default() })
    }

    /// Puts a field on top of the header.
    ///
    /// # Errors
    /// [`MailError::HeaderName`], or reading the header failed.
    pub fn prepend_header(
        &mut self,
        name: &str,
        value: &[u8],
        options: WriteOptions,
    ) -> Result<(), MailError> {
        let field = written_field(name, value, options)?;
        let header_missing = self.header()?.fields().is_empty() && !self.starts_with_line_end()?;
        let edits = Arc::make_mut(&mut self.edits);
        if header_missing && !self.content.is_empty() && edits.inserted_at(0).is_none() {
            // A body without header needs the blank line that ends one.
            edits.replace(0, 0, &b"\r\n"[..], Place::Before);
        }
        edits.replace(0, 0, field, Place::Before);
        Ok(())
    }

    /// Puts a field at the end of the header.
    ///
    /// # Errors
    /// As [`MailMessage::prepend_header`].
    pub fn append_header(
        &mut self,
        name: &str,
        value: &[u8],
        options: WriteOptions,
    ) -> Result<(), MailError> {
        let header = self.header()?;
        let end = header.end();
        if end == 0 {
            return self.prepend_header(name, value, options);
        }
        let mut field = written_field(name, value, options)?;
        if !header.block().ends_with(b"\n") && self.edits.inserted_at(end as u64).is_none() {
            field.splice(0..0, *b"\r\n");
        }
        Arc::make_mut(&mut self.edits).replace(end as u64, 0, field, Place::After);
        Ok(())
    }

    /// Replaces a field and returns how many were changed (0 or 1). Without `index` it is the topmost one, be it of
    /// the original or added; a field that does not exist is put on top (only for no index and index 0).
    ///
    /// # Errors
    /// As [`MailMessage::prepend_header`].
    pub fn set_header(
        &mut self,
        name: &str,
        value: &[u8],
        index: Option<usize>,
        options: WriteOptions,
    ) -> Result<usize, MailError> {
        let field = written_field(name, value, options)?;
        let original = self.header()?.named(name).nth(index.unwrap_or(0)).copied();
        if let Some(at) = original {
            self.overwrite(&at, field);
            return Ok(1);
        }
        if index.unwrap_or(0) > 0 {
            return Ok(0);
        }
        let added = [0, self.header()?.end() as u64];
        for offset in added {
            let Some(inserted) = self.edits.inserted_at(offset).cloned() else { continue };
            let parsed = HeaderIndex::parse(&inserted);
            let Some(at) = parsed.named(name).next() else { continue };
            let text = [&inserted[..at.start], &field, &inserted[at.end..]].concat();
            Arc::make_mut(&mut self.edits).set_inserted_at(offset, text);
            return Ok(1);
        }
        self.prepend_header(name, value, options)?;
        Ok(1)
    }

    /// Removes fields and returns how many: without `index` all of the name, added ones too.
    ///
    /// # Errors
    /// Reading the header failed.
    pub fn del_header(&mut self, name: &str, index: Option<usize>) -> Result<usize, MailError> {
        let header = self.header()?;
        let end = header.end() as u64;
        let found: Vec<Field> = match index {
            Some(index) => header.named(name).nth(index).copied().into_iter().collect(),
            None => header.named(name).copied().collect(),
        };
        let mut removed = 0;
        for field in found {
            if self.replacement(&field).is_none_or(|text| !text.is_empty()) {
                removed += 1;
                self.overwrite(&field, Vec::new());
            }
        }
        if index.is_none() {
            removed += self.del_added(name, 0);
            if end > 0 {
                removed += self.del_added(name, end);
            }
        }
        Ok(removed)
    }

    /// Gives all fields of a name another one and returns how many; their bodies stay byte for byte.
    ///
    /// # Errors
    /// [`MailError::HeaderName`], or reading the header failed.
    pub fn rename_header(&mut self, name: &str, new_name: &str) -> Result<usize, MailError> {
        check_name(new_name)?;
        let header = self.header()?;
        let found: Vec<(Field, Vec<u8>)> = header
            .named(name)
            .map(|field| {
                let current = self.replacement(field).map_or(header.raw(field), |text| text);
                let colon = memchr::memchr(b':', current).unwrap_or(current.len());
                (
                    *field,
                    if current.is_empty() {
                        Vec::new()
                    } else {
                        [new_name.as_bytes(), &current[colon..]].concat()
                    },
                )
            })
            .filter(|(_, text)| !text.is_empty())
            .collect();
        for (field, text) in &found {
            self.overwrite(field, text.clone());
        }
        Ok(found.len())
    }

    /// Replaces `count` bytes at `start` of the original.
    ///
    /// # Errors
    /// [`MailError::Edit`] if the range passes the end.
    pub fn modify_content(
        &mut self,
        start: u64,
        count: u64,
        data: impl Into<Bytes>,
    ) -> Result<(), MailError> {
        let mut edits = EditList::clone(&self.edits);
        edits.replace(start, count, data, Place::After);
        let past_end = start.checked_add(count).is_none_or(|end| end > self.content.len());
        if past_end {
            let len = self.content.len();
            return Err(crate::EditError::Range { offset: start, delete: count, len }.into());
        }
        self.edits = Arc::new(edits);
        Ok(())
    }

    /// Remembers the modifications made so far; costs a reference.
    pub fn snapshot(&mut self) -> usize {
        self.snapshots.push(Arc::clone(&self.edits));
        self.snapshots.len() - 1
    }

    /// Goes back to a snapshot; it can be restored again.
    ///
    /// # Errors
    /// [`MailError::NoSnapshot`].
    pub fn restore(&mut self, id: usize) -> Result<(), MailError> {
        self.edits = Arc::clone(self.snapshots.get(id).ok_or(MailError::NoSnapshot(id))?);
        Ok(())
    }

    /// Takes back all modifications and returns how many edits they were.
    pub fn reset(&mut self) -> usize {
        std::mem::take(&mut self.edits).edits().len()
    }

    /// A field of the original: the one of that name at `index` from the top.
    ///
    /// # Errors
    /// Reading the header failed.
    pub fn get_header(
        &self,
        name: &str,
        index: usize,
        options: FieldOptions,
    ) -> Result<Option<Vec<u8>>, MailError> {
        let header = self.header()?;
        Ok(header.named(name).nth(index).map(|field| header.value(field, options)))
    }

    /// All fields of a name in the original, top first.
    ///
    /// # Errors
    /// Reading the header failed.
    pub fn get_headers(&self, name: &str, options: FieldOptions) -> Result<Vec<Vec<u8>>, MailError> {
        let header = self.header()?;
        Ok(header.named(name).map(|field| header.value(field, options)).collect())
    }

    /// The names of all fields of the original, lower-case, top first.
    ///
    /// # Errors
    /// Reading the header failed.
    pub fn header_names(&self) -> Result<Vec<String>, MailError> {
        let header = self.header()?;
        let names = header.fields().iter().map(|field| header.name(field)).filter(|name| !name.is_empty());
        Ok(names.map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()).collect())
    }

    /// The decoded Subject of the original.
    ///
    /// # Errors
    /// Reading the header failed.
    pub fn subject(&self) -> Result<Option<String>, MailError> {
        let value = self.get_header("Subject", 0, FieldOptions::default())?;
        Ok(value.map(|bytes| text(&bytes)))
    }

    /// Number of Received fields in the original (hops).
    ///
    /// # Errors
    /// Reading the header failed.
    pub fn received_count(&self) -> Result<usize, MailError> {
        Ok(self.header()?.named("Received").count())
    }

    /// The header of the original.
    ///
    /// # Errors
    /// Reading it failed.
    pub fn header(&self) -> Result<&HeaderIndex, MailError> {
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        let index = HeaderIndex::read(&*self.content)?;
        Ok(self.index.get_or_init(|| index))
    }

    /// The original bytes.
    pub fn content(&self) -> &Arc<dyn Content> {
        &self.content
    }

    /// The modifications.
    pub fn edits(&self) -> &Arc<EditList> {
        &self.edits
    }

    /// Bytes of the modified message.
    ///
    /// # Errors
    /// [`MailError::Edit`] if the modifications do not fit, which their checks exclude.
    pub fn size(&self) -> Result<u64, MailError> {
        Ok(self.edits.size(self.content.len())?)
    }

    /// The modified message in memory.
    ///
    /// # Errors
    /// Reading the content failed, or it does not fit in memory.
    pub fn to_bytes(&self) -> Result<Vec<u8>, MailError> {
        let size = self.size()?;
        let mut out = Vec::new();
        let room = usize::try_from(size).map_err(|_| MailError::TooLarge(size))?;
        out.try_reserve_exact(room).map_err(|_| MailError::TooLarge(size))?;
        for segment in self.edits.segments(self.content.len()) {
            match segment {
                Segment::Inserted(bytes) => out.extend_from_slice(bytes),
                Segment::Original(range) => {
                    let from = out.len();
                    // No longer than `size`, which fits.
                    out.resize(from + (range.end - range.start) as usize, 0);
                    self.content.read_at(range.start, &mut out[from..])?;
                }
            }
        }
        Ok(out)
    }

    fn overwrite(&mut self, field: &Field, new: Vec<u8>) {
        let len = (field.end - field.start) as u64;
        Arc::make_mut(&mut self.edits).replace(field.start as u64, len, new, Place::After);
    }

    /// What stands in place of a whole field, if it was replaced or removed.
    fn replacement(&self, field: &Field) -> Option<&[u8]> {
        let covers = |e: &&crate::Edit| {
            e.delete > 0 && e.offset <= field.start as u64 && e.offset + e.delete >= field.end as u64
        };
        self.edits.edits().iter().find(covers).map(|e| &e.insert[..])
    }

    fn del_added(&mut self, name: &str, offset: u64) -> usize {
        let Some(inserted) = self.edits.inserted_at(offset).cloned() else { return 0 };
        let parsed = HeaderIndex::parse(&inserted);
        let mut kept = Vec::with_capacity(inserted.len());
        let (mut from, mut removed) = (0, 0);
        for field in parsed.named(name) {
            kept.extend_from_slice(&inserted[from..field.start]);
            from = field.end;
            removed += 1;
        }
        if removed > 0 {
            kept.extend_from_slice(&inserted[from..]);
            Arc::make_mut(&mut self.edits).set_inserted_at(offset, kept);
        }
        removed
    }

    fn starts_with_line_end(&self) -> Result<bool, MailError> {
        let mut first = [0; 1];
        if self.content.is_empty() {
            return Ok(false);
        }
        self.content.read_at(0, &mut first)?;
        Ok(matches!(first[0], b'\r' | b'\n'))
    }
}

/// A Message-ID for a message of ours.
pub fn message_id(id: Uuid, hostname: &str) -> String {
    format!("<{id}@{hostname}>")
}

/// RFC 5322 `ftext`.
fn check_name(name: &str) -> Result<(), MailError> {
    let legal = |b: u8| matches!(b, 33..=57 | 59..=126);
    if name.is_empty() || name.len() > 900 || !name.bytes().all(legal) {
        return Err(MailError::HeaderName(name.chars().take(80).collect()));
    }
    Ok(())
}

fn written_field(name: &str, value: &[u8], options: WriteOptions) -> Result<Vec<u8>, MailError> {
    check_name(name)?;
    if options.encode {
        // Line ends with the white space behind them are folds already: one line first.
        let line = unfold(&contained(value)).into_iter().filter(|b| *b != 0).collect::<Vec<u8>>();
        return Ok(folded_field(name, encode(&text(&line), options.encoding).as_bytes()));
    }
    Ok([name.as_bytes(), b": ", &contained(value)[..], b"\r\n"].concat())
}

#[cfg(test)]
mod tests;
