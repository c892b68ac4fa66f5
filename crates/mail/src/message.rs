//! A message: its original bytes and the modifications recorded so far.
//!
//! As in the manual, modifications are recorded, not applied: what reads fields and bodies reads the original, what
//! writes the message ([`MailMessage::patched`], [`MailMessage::to_bytes`]) applies them. Fields are counted in the
//! original, from the top; fields that were added are found only by [`MailMessage::set_header`] and
//! [`MailMessage::del_header`] without an index, so that setting a missing field twice leaves one.
//!
//! Parts are named by their index in the [`Tree`]; [`ROOT`] is the message itself, and what concerns only its header
//! never reads the body. The tree is made when the first part is asked for.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use uuid::Uuid;

use crate::{
    Content, EditList, FieldOptions, HeaderIndex, MailError, Patched, Place, Segment, WriteOptions,
    changes::{PartChanges, write_part, write_tail},
    content::for_each_chunk,
    mime::{Part, Tree},
    words::{contained, encode, folded_field, text, unfold},
};

mod header;
mod parts;

pub use parts::NewPart;

/// The message itself among its parts.
pub const ROOT: usize = 0;

/// A message with recorded modifications. Clones share everything until one of them is modified.
#[derive(Clone)]
pub struct MailMessage {
    content: Arc<dyn Content>,
    state: Arc<State>,
    snapshots: Vec<Arc<State>>,
    found: Arc<Found>,
}

/// What was learnt about the original.
#[derive(Default)]
struct Found {
    header: OnceLock<HeaderIndex>,
    root: OnceLock<Part>,
    tree: OnceLock<Tree>,
}

#[derive(Clone, Default)]
struct State {
    /// Edits by offset, below all others.
    raw: Arc<EditList>,
    parts: BTreeMap<usize, PartChanges>,
    /// Modifications since the beginning.
    count: usize,
    /// All of it as one list, once asked for.
    rendered: OnceLock<Arc<EditList>>,
}

impl MailMessage {
    /// A message without modifications.
    pub fn new(content: Arc<dyn Content>) -> Self {
        Self { content, state: Arc::default(), snapshots: Vec::new(), found: Arc::default() }
    }

    /// A message with modifications made earlier.
    ///
    /// # Errors
    /// [`MailError::Edit`] if they do not fit the content.
    pub fn with_edits(content: Arc<dyn Content>, edits: Arc<EditList>) -> Result<Self, MailError> {
        edits.validate(content.len())?;
        let count = edits.edits().len();
        let state = State { raw: edits, count, ..State::default() };
        Ok(Self { content, state: Arc::new(state), snapshots: Vec::new(), found: Arc::default() })
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
        let len = self.content.len();
        if start.checked_add(count).is_none_or(|end| end > len) {
            return Err(crate::EditError::Range { offset: start, delete: count, len }.into());
        }
        let state = self.change();
        Arc::make_mut(&mut state.raw).replace(start, count, data, Place::After);
        Ok(())
    }

    /// Remembers the modifications made so far; costs a reference.
    pub fn snapshot(&mut self) -> usize {
        self.snapshots.push(Arc::clone(&self.state));
        self.snapshots.len() - 1
    }

    /// Goes back to a snapshot; it can be restored again.
    ///
    /// # Errors
    /// [`MailError::NoSnapshot`].
    pub fn restore(&mut self, id: usize) -> Result<(), MailError> {
        self.state = Arc::clone(self.snapshots.get(id).ok_or(MailError::NoSnapshot(id))?);
        Ok(())
    }

    /// Takes back all modifications and returns how many they were.
    pub fn reset(&mut self) -> usize {
        std::mem::take(&mut self.state).count
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
        if let Some(index) = self.found.header.get() {
            return Ok(index);
        }
        let index = HeaderIndex::read(&*self.content)?;
        Ok(self.found.header.get_or_init(|| index))
    }

    /// The original bytes.
    pub fn content(&self) -> &Arc<dyn Content> {
        &self.content
    }

    /// The parts of the original; the first call reads it once.
    ///
    /// # Errors
    /// Reading the content failed.
    pub fn tree(&self) -> Result<&Tree, MailError> {
        if let Some(tree) = self.found.tree.get() {
            return Ok(tree);
        }
        let tree = Tree::scan(&*self.content)?;
        Ok(self.found.tree.get_or_init(|| tree))
    }

    /// A part. [`ROOT`] without the tree is known without reading the body.
    fn geometry(&self, part: usize) -> Result<&Part, MailError> {
        if part == ROOT && self.found.tree.get().is_none() {
            if let Some(root) = self.found.root.get() {
                return Ok(root);
            }
            let root = Tree::root_only(&*self.content)?;
            return Ok(self.found.root.get_or_init(|| root));
        }
        self.tree()?.get(part).ok_or(MailError::NoPart(part))
    }

    /// The modifications as one list.
    ///
    /// # Errors
    /// Reading the header failed.
    pub fn edits(&self) -> Result<Arc<EditList>, MailError> {
        if let Some(list) = self.state.rendered.get() {
            return Ok(Arc::clone(list));
        }
        let list = if self.state.parts.is_empty() {
            Arc::clone(&self.state.raw)
        } else {
            let mut list = EditList::clone(&self.state.raw);
            self.render(&mut list, ROOT)?;
            Arc::new(list)
        };
        Ok(Arc::clone(self.state.rendered.get_or_init(|| list)))
    }

    /// As [`MailMessage::edits`], a Date that was left for later filled in.
    fn edits_now(&self) -> Result<Arc<EditList>, MailError> {
        let list = self.edits()?;
        Ok(with_date_now(&list)?.map_or(list, Arc::new))
    }

    /// Puts a Date field into the header, or changes the one that is there, whose value is the moment of sending; gives
    /// the number of fields changed. The value is filled in by [`with_date_now`].
    ///
    /// # Errors
    /// Reading the header failed.
    pub fn set_date_later(&mut self) -> Result<usize, MailError> {
        // Written here and not by a script, which cannot write NUL into a field.
        let field = Bytes::from([&b"Date: "[..], &DATE_LATER, b"\r\n"].concat());
        self.set_part_field(ROOT, "Date", None, field)
    }

    /// Writes the changes of a part and of what is inside.
    fn render(&self, list: &mut EditList, index: usize) -> Result<(), MailError> {
        let none = PartChanges::default();
        let own = self.state.parts.get(&index);
        let changes = own.unwrap_or(&none);
        // Without changes further down the tree is not needed.
        let deeper = self.state.parts.range(index + 1..).next().is_some();
        if own.is_none() && !deeper {
            return Ok(());
        }
        let needs_tree =
            deeper || changes.preamble.is_some() || changes.epilogue.is_some() || changes.has_parts();
        let part = if needs_tree {
            self.tree()?.get(index).ok_or(MailError::NoPart(index))?
        } else {
            self.geometry(index)?
        };
        if changes.removed && index != ROOT {
            list.replace(part.delimiter, part.end - part.delimiter, Bytes::new(), Place::After);
            return Ok(());
        }
        if let Some(whole) = &changes.whole {
            list.replace(part.start, part.end - part.start, whole.clone(), Place::After);
            self.end_line(list, part);
            return Ok(());
        }
        if own.is_some() {
            let header = self.part_header(index)?;
            write_part(list, part, &header, changes);
        }
        if changes.body.is_none() {
            for child in &part.children {
                self.render(list, *child)?;
            }
        }
        write_tail(list, part, changes);
        if own.is_some() {
            self.end_line(list, part);
        }
        Ok(())
    }

    /// A part that was empty may end where a delimiter begins: what was put into it needs a line end.
    fn end_line(&self, list: &mut EditList, part: &Part) {
        if part.needs_line_end {
            list.replace(part.end, 0, &b"\r\n"[..], Place::After);
        }
    }

    /// The header of a part of the original.
    ///
    /// # Errors
    /// Reading it failed, or there is no such part.
    pub fn part_header(&self, part: usize) -> Result<std::borrow::Cow<'_, HeaderIndex>, MailError> {
        use std::borrow::Cow;
        if part == ROOT {
            return self.header().map(Cow::Borrowed);
        }
        let range = self.geometry(part)?.header();
        let mut block = Vec::new();
        for_each_chunk(&*self.content, range, |piece| {
            block.extend_from_slice(piece);
            Ok::<(), MailError>(())
        })?;
        Ok(Cow::Owned(HeaderIndex::parse(&block)))
    }

    /// The modified message as content that is read piece by piece.
    ///
    /// # Errors
    /// As [`MailMessage::edits`].
    pub fn patched(&self) -> Result<Arc<dyn Content>, MailError> {
        let edits = self.edits_now()?;
        if edits.is_empty() {
            return Ok(Arc::clone(&self.content));
        }
        Ok(Arc::new(Patched::new(Arc::clone(&self.content), edits)?))
    }

    /// Bytes of the modified message.
    ///
    /// # Errors
    /// As [`MailMessage::edits`].
    pub fn size(&self) -> Result<u64, MailError> {
        Ok(self.edits()?.size(self.content.len())?)
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
        for segment in self.edits_now()?.segments(self.content.len()) {
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

    fn change(&mut self) -> &mut State {
        let state = Arc::make_mut(&mut self.state);
        state.rendered.take();
        state.count += 1;
        state
    }

    fn change_part(&mut self, part: usize) -> &mut PartChanges {
        self.change().parts.entry(part).or_default()
    }
}

/// What stands for a date to be filled in; of its length, so that sizes hold.
const DATE_LATER: [u8; 31] = [0; 31];

/// The list with the date of now where [`MailMessage::set_date_later`] left room; `None` if it left none.
///
/// # Errors
/// [`MailError::Time`].
pub fn with_date_now(list: &EditList) -> Result<Option<EditList>, MailError> {
    let later = |insert: &[u8]| memchr::memmem::find(insert, &[&b"Date: "[..], &DATE_LATER].concat());
    if !list.edits().iter().any(|edit| later(&edit.insert).is_some()) {
        return Ok(None);
    }
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let date = crate::Zoned::local(i64::try_from(now).unwrap_or(0))?.rfc5322()?;
    let mut edits = list.edits().to_vec();
    for edit in &mut edits {
        let Some(at) = later(&edit.insert) else { continue };
        let mut text = edit.insert.to_vec();
        text.splice(at + 6..at + 6 + DATE_LATER.len(), date.bytes());
        edit.insert = text.into();
    }
    Ok(Some(EditList::from_edits(edits)?))
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

/// A field as it is put into a header.
///
/// # Errors
/// [`MailError::HeaderName`].
pub fn written_field(name: &str, value: &[u8], options: WriteOptions) -> Result<Vec<u8>, MailError> {
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
