//! What was changed about the parts of a message, kept by part and written as one edit list when it is needed.
//!
//! Changes name the original: a field by its number in the header of its part, a body by its part. So each method of
//! the manual is one entry here, and the order in which scripts call them does not matter for where bytes go.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::{EditList, HeaderIndex, Place, header::Field, mime::Part};

/// The changes of one part.
#[derive(Clone, Debug, Default)]
pub(crate) struct PartChanges {
    /// Fields put on top, topmost first.
    pub(crate) top: VecDeque<Bytes>,
    /// Fields put at the end of the header.
    pub(crate) bottom: Vec<Bytes>,
    /// Fields replaced, by number; empty for removed ones.
    pub(crate) fields: BTreeMap<usize, Bytes>,
    /// The body, coded.
    pub(crate) body: Option<Bytes>,
    pub(crate) preamble: Option<Bytes>,
    pub(crate) epilogue: Option<Bytes>,
    /// Parts put in front of the first one and behind the last one.
    pub(crate) before: VecDeque<Bytes>,
    pub(crate) after: Vec<Bytes>,
    /// The part becomes the first of a new multipart.
    pub(crate) wrap: Option<Wrap>,
    /// Another part in place of this one.
    pub(crate) whole: Option<Bytes>,
    pub(crate) removed: bool,
}

/// A multipart around what was a single part.
#[derive(Clone, Debug)]
pub(crate) struct Wrap {
    pub(crate) boundary: String,
    /// The Content-Type field of the multipart, boundary included.
    pub(crate) field: Bytes,
}

impl PartChanges {
    /// The field as it is now; `None` if it was removed.
    pub(crate) fn current<'a>(
        &'a self,
        header: &'a HeaderIndex,
        number: usize,
        field: &Field,
    ) -> Option<&'a [u8]> {
        match self.fields.get(&number) {
            Some(text) if text.is_empty() => None,
            Some(text) => Some(text),
            None => Some(header.raw(field)),
        }
    }

    /// Whether the last field as it is now has a line end: a cut message may lack it, a written field never does.
    fn header_is_ended(&self, header: &HeaderIndex) -> bool {
        let Some(last) = header.fields().len().checked_sub(1) else { return true };
        let moves = self.wrap.is_some() && is_content_field(header.name(&header.fields()[last]));
        moves || self.fields.contains_key(&last) || header.block().ends_with(b"\n")
    }

    fn changes_body(&self) -> bool {
        self.body.is_some()
            || self.wrap.is_some()
            || self.preamble.as_ref().is_some_and(|text| !text.is_empty())
            || !self.before.is_empty()
            || !self.after.is_empty()
    }
}

/// Whether a field belongs to the content and not to the message around it.
pub(crate) fn is_content_field(name: &[u8]) -> bool {
    name.len() > 8 && name[..8].eq_ignore_ascii_case(b"Content-")
}

/// The name of a written field.
pub(crate) fn name_of(field: &[u8]) -> &[u8] {
    let end = memchr::memchr(b':', field).unwrap_or(0);
    field[..end].trim_ascii_end()
}

/// Writes the changes of one part, not those of the parts inside.
pub(crate) fn write_part(list: &mut EditList, part: &Part, header: &HeaderIndex, changes: &PartChanges) {
    let mut head = Header::new(list, part, header, changes);
    let moved = head.write_fields();
    if changes.changes_body() && !part.has_blank_line() && part.header_end > part.start {
        // A message that ends with its header gets the line that ends one.
        let line: &'static [u8] =
            if changes.header_is_ended(header) || !changes.bottom.is_empty() || changes.wrap.is_some() {
                b"\r\n"
            } else {
                b"\r\n\r\n"
            };
        list.replace(part.header_end, 0, line, Place::After);
    }
    if let Some(wrap) = &changes.wrap {
        let mut front = Vec::new();
        for piece in &changes.before {
            front.extend_from_slice(format!("--{}\r\n", wrap.boundary).as_bytes());
            front.extend_from_slice(piece);
            front.extend_from_slice(b"\r\n");
        }
        front.extend_from_slice(format!("--{}\r\n", wrap.boundary).as_bytes());
        front.extend_from_slice(&moved);
        front.extend_from_slice(b"\r\n");
        list.replace(part.body_start, 0, front, Place::After);
    }
    if let Some(body) = &changes.body {
        list.replace(part.body_start, part.end - part.body_start, body.clone(), Place::After);
    } else if changes.wrap.is_none() && part.multipart.is_some() {
        write_inside_front(list, part, changes);
    }
}

/// Writes what comes behind the parts inside.
pub(crate) fn write_tail(list: &mut EditList, part: &Part, changes: &PartChanges) {
    if let Some(wrap) = &changes.wrap {
        let mut tail = delimited(&wrap.boundary, changes.after.iter());
        tail.extend_from_slice(format!("\r\n--{}--", wrap.boundary).as_bytes());
        if part.parent.is_none() {
            tail.extend_from_slice(b"\r\n");
        }
        list.replace(part.end, 0, tail, Place::After);
        return;
    }
    let Some(inside) = part.multipart.as_ref().filter(|_| changes.body.is_none()) else { return };
    let boundary = String::from_utf8_lossy(&inside.boundary);
    match &inside.close {
        Some(close) => {
            let mut text = delimited(&boundary, changes.after.iter());
            if !text.is_empty() && !close.owns_line_end() {
                // The line before is ended already, and the delimiter has no line end to share.
                text.drain(..2);
                text.extend_from_slice(b"\r\n");
            }
            list.replace(close.start, 0, text, Place::After);
            if let Some(epilogue) = &changes.epilogue {
                let start = close.end.min(part.end);
                let mut text = epilogue.to_vec();
                if !text.is_empty() && (close.end > part.end || close.end == close.text_end) {
                    text.splice(0..0, *b"\r\n");
                }
                list.replace(start, part.end - start, text, Place::After);
            }
        }
        None if !changes.after.is_empty() || changes.epilogue.is_some() => {
            let mut text = delimited(&boundary, changes.after.iter());
            text.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
            text.extend_from_slice(changes.epilogue.as_deref().unwrap_or_default());
            list.replace(part.end, 0, text, Place::After);
        }
        None => {}
    }
}

/// Preamble and parts in front of the first one.
fn write_inside_front(list: &mut EditList, part: &Part, changes: &PartChanges) {
    let Some(inside) = &part.multipart else { return };
    let first = inside.first.start;
    let alone = !inside.first.owns_line_end();
    if let Some(preamble) = &changes.preamble {
        let mut text = preamble.to_vec();
        if alone && !text.is_empty() {
            text.extend_from_slice(b"\r\n");
        }
        list.replace(part.body_start, first - part.body_start, text, Place::After);
    }
    let boundary = String::from_utf8_lossy(&inside.boundary);
    let mut text = delimited(&boundary, changes.before.iter());
    if alone && !text.is_empty() {
        text.drain(..2);
        text.extend_from_slice(b"\r\n");
    }
    list.replace(first, 0, text, Place::After);
}

fn delimited<'a>(boundary: &str, parts: impl Iterator<Item = &'a Bytes>) -> Vec<u8> {
    let mut text = Vec::new();
    for part in parts {
        text.extend_from_slice(format!("\r\n--{boundary}\r\n").as_bytes());
        text.extend_from_slice(part);
    }
    text
}

fn joined<'a>(fields: impl Iterator<Item = &'a Bytes>) -> Vec<u8> {
    let mut text = Vec::new();
    for field in fields {
        text.extend_from_slice(field);
    }
    text
}

struct Header<'a> {
    list: &'a mut EditList,
    part: &'a Part,
    header: &'a HeaderIndex,
    changes: &'a PartChanges,
}

impl<'a> Header<'a> {
    fn new(
        list: &'a mut EditList,
        part: &'a Part,
        header: &'a HeaderIndex,
        changes: &'a PartChanges,
    ) -> Self {
        Self { list, part, header, changes }
    }

    /// Writes the fields; gives those that move into the first part of a new multipart.
    fn write_fields(&mut self) -> Vec<u8> {
        let (part, changes) = (self.part, self.changes);
        let wraps = changes.wrap.is_some();
        let stays = |field: &&Bytes| !(wraps && is_content_field(name_of(field)));
        let mut moved: Vec<u8> = Vec::new();
        let mut top = joined(changes.top.iter().filter(stays));
        let mut bottom = joined(changes.bottom.iter().filter(stays));
        if wraps {
            moved = joined(changes.top.iter().chain(&changes.bottom).filter(|field| !stays(field)));
        }
        for (number, field) in self.header.fields().iter().enumerate() {
            let moves = wraps && is_content_field(self.header.name(field));
            if moves && let Some(text) = changes.current(self.header, number, field) {
                moved.extend_from_slice(text);
                if !text.ends_with(b"\n") {
                    moved.extend_from_slice(b"\r\n");
                }
            }
            let text = if moves { Some(Bytes::new()) } else { changes.fields.get(&number).cloned() };
            if let Some(text) = text {
                let len = (field.end - field.start) as u64;
                self.list.replace(part.start + field.start as u64, len, text, Place::After);
            }
        }
        if let Some(wrap) = &changes.wrap {
            if part.parent.is_none() && self.header.named("MIME-Version").next().is_none() {
                bottom.extend_from_slice(b"MIME-Version: 1.0\r\n");
            }
            bottom.extend_from_slice(&wrap.field);
        }
        if part.header_end == part.start {
            // No header yet; a body without blank line needs the one that ends a header.
            top.append(&mut bottom);
            if !top.is_empty() && !part.has_blank_line() && part.end > part.start
                || changes.changes_body() && !part.has_blank_line()
            {
                top.extend_from_slice(b"\r\n");
            }
            self.list.replace(part.start, 0, top, Place::Before);
            return moved;
        }
        self.list.replace(part.start, 0, top, Place::Before);
        if !bottom.is_empty() && !changes.header_is_ended(self.header) {
            bottom.splice(0..0, *b"\r\n");
        }
        self.list.replace(part.header_end, 0, bottom, Place::After);
        moved
    }
}
