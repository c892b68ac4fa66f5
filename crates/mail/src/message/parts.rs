//! Parts of a message: what they are, what is in them, and how they are put in, taken out and replaced.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;

use super::{MailMessage, ROOT, check_name};
use crate::{
    Content, EditList, FieldOptions, HeaderIndex, MailError, Patched, WriteOptions,
    changes::{PartChanges, Wrap, is_content_field, write_part, write_tail},
    content::{Slice, for_each_chunk},
    mime::{Parameters, PartErrors, TransferEncoding, codec::Decoder},
    words::unfold,
};

/// A part that is put into a message: its header, a blank line and its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPart(pub Bytes);

impl PartChanges {
    pub(crate) fn has_parts(&self) -> bool {
        !self.before.is_empty() || !self.after.is_empty()
    }
}

impl MailMessage {
    /// The Content-Type of a part with its parameters; `None` without the field.
    ///
    /// # Errors
    /// Reading the header failed.
    pub fn content_type(&self, part: usize) -> Result<Option<Parameters>, MailError> {
        self.parameters(part, "Content-Type")
    }

    /// The file name of a part, from Content-Disposition or else Content-Type.
    ///
    /// # Errors
    /// Reading the header failed.
    pub fn file_name(&self, part: usize) -> Result<Option<String>, MailError> {
        let disposition = self.parameters(part, "Content-Disposition")?;
        let name = disposition.and_then(|value| value.get("filename"));
        if name.is_some() {
            return Ok(name);
        }
        Ok(self.content_type(part)?.and_then(|value| value.get("name")))
    }

    fn parameters(&self, part: usize, name: &str) -> Result<Option<Parameters>, MailError> {
        let header = self.part_header(part)?;
        let found = header.named(name).next().map(|field| Parameters::parse(&unfold(header.body(field))));
        Ok(found)
    }

    /// The transfer encoding of a part; unknown ones are taken as 8bit.
    ///
    /// # Errors
    /// Reading the header failed.
    pub fn transfer_encoding(&self, part: usize) -> Result<TransferEncoding, MailError> {
        let value = self.part_field(part, "Content-Transfer-Encoding", 0, FieldOptions::default())?;
        Ok(match value {
            None => TransferEncoding::SevenBit,
            Some(name) => TransferEncoding::from_name(&name).unwrap_or(TransferEncoding::EightBit),
        })
    }

    /// Where the body of a part lies; `None` for a multipart, whose body is its parts.
    ///
    /// # Errors
    /// Reading the message failed, or there is no such part.
    pub fn body_range(&self, part: usize) -> Result<Option<Range<u64>>, MailError> {
        if part == ROOT
            && !self.content_type(ROOT)?.is_some_and(|kind| kind.value().starts_with("multipart/"))
        {
            return Ok(Some(self.geometry(ROOT)?.body()));
        }
        let part = self.tree()?.get(part).ok_or(MailError::NoPart(part))?;
        Ok(part.multipart.is_none().then(|| part.body()))
    }

    /// The body of a part in memory, decoded or as it stands there; `None` for a multipart.
    ///
    /// # Errors
    /// Reading failed, or it does not fit in memory.
    pub fn body(&self, part: usize, decode: bool) -> Result<Option<Vec<u8>>, MailError> {
        let Some(range) = self.body_range(part)? else { return Ok(None) };
        let encoding = if decode { self.transfer_encoding(part)? } else { TransferEncoding::Binary };
        let mut decoder = Decoder::new(encoding);
        let mut out = Vec::new();
        for_each_chunk(&*self.content, range, |piece| {
            out.try_reserve(piece.len()).map_err(|_| MailError::TooLarge(piece.len() as u64))?;
            decoder.push(piece, &mut out);
            Ok::<(), MailError>(())
        })?;
        decoder.finish(&mut out);
        Ok(Some(out))
    }

    /// The text before the first part; `None` if the part is no multipart.
    ///
    /// # Errors
    /// Reading the message failed, or there is no such part.
    pub fn preamble(&self, part: usize) -> Result<Option<Vec<u8>>, MailError> {
        let found = self.tree()?.get(part).ok_or(MailError::NoPart(part))?;
        found.preamble().map(|range| self.read_range(range)).transpose()
    }

    /// The text behind the closing delimiter; `None` if the part is no multipart.
    ///
    /// # Errors
    /// Reading the message failed, or there is no such part.
    pub fn epilogue(&self, part: usize) -> Result<Option<Vec<u8>>, MailError> {
        let found = self.tree()?.get(part).ok_or(MailError::NoPart(part))?;
        if found.multipart.is_none() {
            return Ok(None);
        }
        found.epilogue().map_or(Ok(Some(Vec::new())), |range| self.read_range(range).map(Some))
    }

    /// Bytes of a part in the original, header included.
    ///
    /// # Errors
    /// Reading the message failed, or there is no such part.
    pub fn part_size(&self, part: usize) -> Result<u64, MailError> {
        let found = self.geometry(part)?;
        Ok(found.end - found.start)
    }

    /// What was wrong with a part and all inside.
    ///
    /// # Errors
    /// Reading the message failed.
    pub fn part_errors(&self, part: usize) -> Result<PartErrors, MailError> {
        Ok(self.tree()?.errors(part))
    }

    fn read_range(&self, range: Range<u64>) -> Result<Vec<u8>, MailError> {
        let mut out = Vec::new();
        for_each_chunk(&*self.content, range, |piece| {
            out.try_reserve(piece.len()).map_err(|_| MailError::TooLarge(piece.len() as u64))?;
            out.extend_from_slice(piece);
            Ok::<(), MailError>(())
        })?;
        Ok(out)
    }

    /// Replaces the body of a part. Without `encoding` the best one is taken; Content-Transfer-Encoding is set to match.
    /// A multipart becomes a text.
    ///
    /// # Errors
    /// Reading the message failed, or there is no such part.
    pub fn set_body(
        &mut self,
        part: usize,
        data: &[u8],
        encoding: Option<TransferEncoding>,
    ) -> Result<(), MailError> {
        let kind = self.content_type(part)?;
        let multipart = kind.as_ref().is_some_and(|kind| kind.value().starts_with("multipart/"));
        let text = multipart || kind.as_ref().is_none_or(|kind| kind.value().starts_with("text/"));
        let encoding = encoding.unwrap_or_else(|| TransferEncoding::best(data, text));
        if multipart {
            self.set_part_header(part, "Content-Type", b"text/plain; charset=utf-8", None, AS_IS)?;
        }
        let named = self.part_field(part, "Content-Transfer-Encoding", 0, FieldOptions::default())?.is_some();
        if named || encoding != TransferEncoding::SevenBit {
            self.set_part_header(part, "Content-Transfer-Encoding", encoding.name().as_bytes(), None, AS_IS)?;
        }
        // Checks that the part exists before anything is recorded about it.
        self.geometry(part)?;
        let coded = encoding.encode(data, text);
        self.change_part(part).body = Some(coded.into());
        Ok(())
    }

    /// Replaces the text before the first part; false if the part is no multipart.
    ///
    /// # Errors
    /// Reading the message failed, or there is no such part.
    pub fn set_preamble(&mut self, part: usize, text: &[u8]) -> Result<bool, MailError> {
        if self.multipart_boundary(part)?.is_none() {
            return Ok(false);
        }
        self.change_part(part).preamble = Some(Bytes::copy_from_slice(text));
        Ok(true)
    }

    /// Replaces the text behind the closing delimiter; false if the part is no multipart.
    ///
    /// # Errors
    /// Reading the message failed, or there is no such part.
    pub fn set_epilogue(&mut self, part: usize, text: &[u8]) -> Result<bool, MailError> {
        if self.multipart_boundary(part)?.is_none() {
            return Ok(false);
        }
        self.change_part(part).epilogue = Some(Bytes::copy_from_slice(text));
        Ok(true)
    }

    /// Takes a part out, with everything inside. The message itself stays.
    ///
    /// # Errors
    /// Reading the message failed, or there is no such part.
    pub fn remove_part(&mut self, part: usize) -> Result<(), MailError> {
        self.geometry(part)?;
        if part != ROOT {
            self.change_part(part).removed = true;
        }
        Ok(())
    }

    /// Puts a part in front of the first one inside `part`, which becomes a multipart of type `kind` if it is none.
    ///
    /// # Errors
    /// Reading the message failed, or there is no such part.
    pub fn prepend_part(&mut self, part: usize, new: NewPart, kind: &str) -> Result<(), MailError> {
        self.ensure_multipart(part, kind)?;
        self.change_part(part).before.push_front(new.0);
        Ok(())
    }

    /// Puts a part behind the last one inside `part`, which becomes a multipart of type `kind` if it is none.
    ///
    /// # Errors
    /// Reading the message failed, or there is no such part.
    pub fn append_part(&mut self, part: usize, new: NewPart, kind: &str) -> Result<(), MailError> {
        self.ensure_multipart(part, kind)?;
        self.change_part(part).after.push(new.0);
        Ok(())
    }

    /// Puts another part in place of one. In place of the message itself: its content is replaced and with it the
    /// Content fields, the rest of the header stays.
    ///
    /// # Errors
    /// Reading the message failed, or there is no such part.
    pub fn replace_part(&mut self, part: usize, new: NewPart) -> Result<(), MailError> {
        if part != ROOT {
            self.geometry(part)?;
            self.change_part(part).whole = Some(new.0);
            return Ok(());
        }
        let names: Vec<String> = self.header_names()?;
        for name in names.iter().filter(|name| is_content_field(name.as_bytes())) {
            self.del_header(name, None)?;
        }
        let index = HeaderIndex::parse(&new.0);
        let mime_version = self.header()?.named("MIME-Version").next().is_some();
        for field in index.fields() {
            let name = index.name(field);
            let content =
                is_content_field(name) || (!mime_version && name.eq_ignore_ascii_case(b"MIME-Version"));
            if content {
                self.change_part(ROOT).bottom.push(Bytes::copy_from_slice(index.raw(field)));
            }
        }
        let start = crate::mime::Tree::root_only(&crate::MemoryContent(new.0.clone()))?.body_start;
        // Inside the part, so it fits.
        self.change_part(ROOT).body = Some(new.0.slice(start as usize..));
        Ok(())
    }

    /// A part with its changes, to be put into another message or to be read.
    ///
    /// # Errors
    /// Reading the message failed, or there is no such part.
    pub fn part_content(&self, part: usize) -> Result<Arc<dyn Content>, MailError> {
        if part == ROOT {
            return self.patched();
        }
        let geometry = self.tree()?.get(part).ok_or(MailError::NoPart(part))?;
        let mut list = EditList::default();
        self.render_alone(&mut list, part)?;
        let whole = Patched::new(Arc::clone(&self.content), Arc::new(list.clone()))?;
        // The part in the modified message: edits lie inside of it, so only its end moves.
        let grown = whole.len() + geometry.end - self.content.len();
        Ok(Arc::new(Slice::new(Arc::new(whole), geometry.start..grown)))
    }

    fn render_alone(&self, list: &mut EditList, part: usize) -> Result<(), MailError> {
        // A removed part is still itself when it is put elsewhere.
        let none = PartChanges::default();
        let changes = self.state.parts.get(&part).unwrap_or(&none);
        let geometry = self.tree()?.get(part).ok_or(MailError::NoPart(part))?;
        if let Some(whole) = &changes.whole {
            list.replace(geometry.start, geometry.end - geometry.start, whole.clone(), crate::Place::After);
            return Ok(());
        }
        write_part(list, geometry, &*self.part_header(part)?, changes);
        if changes.body.is_none() {
            for child in &geometry.children {
                self.render(list, *child)?;
            }
        }
        write_tail(list, geometry, changes);
        Ok(())
    }

    /// A part with its changes in memory.
    ///
    /// # Errors
    /// Reading failed, or it does not fit in memory.
    pub fn part_bytes(&self, part: usize) -> Result<NewPart, MailError> {
        let content = self.part_content(part)?;
        let mut out = Vec::new();
        for_each_chunk(&*content, 0..content.len(), |piece| {
            out.try_reserve(piece.len()).map_err(|_| MailError::TooLarge(content.len()))?;
            out.extend_from_slice(piece);
            Ok::<(), MailError>(())
        })?;
        Ok(NewPart(out.into()))
    }

    fn multipart_boundary(&self, part: usize) -> Result<Option<&[u8]>, MailError> {
        let found = self.tree()?.get(part).ok_or(MailError::NoPart(part))?;
        Ok(found.multipart.as_ref().map(|inside| &inside.boundary[..]))
    }

    fn ensure_multipart(&mut self, part: usize, kind: &str) -> Result<(), MailError> {
        let changes = self.state.parts.get(&part);
        let wrapped = changes.is_some_and(|changes| changes.wrap.is_some());
        let replaced = changes.is_some_and(|changes| changes.body.is_some());
        if wrapped || (self.multipart_boundary(part)?.is_some() && !replaced) {
            return Ok(());
        }
        // Nothing of what a script says may end the field.
        let kind: String = kind.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
        check_name(kind.split(';').next().unwrap_or_default().trim())?;
        let boundary = uuid::Uuid::new_v4().simple().to_string();
        let field = format!("Content-Type: {kind};\r\n\tboundary=\"{boundary}\"\r\n").into();
        self.change_part(part).wrap = Some(Wrap { boundary, field });
        Ok(())
    }
}

const AS_IS: WriteOptions = WriteOptions { encode: false, encoding: crate::words::WordEncoding::Shorter };
