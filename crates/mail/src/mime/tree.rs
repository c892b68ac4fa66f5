//! Where the parts of a message lie, found in one pass and without loading it.
//!
//! The scanner never fails on what a message says: odd input becomes one text part, and [`PartErrors`] tells what was
//! wrong. It reads each byte at most twice, keeps a window of [`CHUNK_BYTES`] and one header block, and stops making
//! parts at [`PART_DEPTH_MAX`] levels and [`PARTS_MAX`] parts; what lies deeper stays the body of the last part.
//!
//! A line end in front of a delimiter line belongs to the delimiter (RFC 2046 5.1.1); CRLF and bare LF both count.

use std::{collections::HashMap, io, ops::Range};

use memchr::{memchr, memmem};

use crate::{
    Content, HeaderIndex, content::CHUNK_BYTES, header::HEADER_BYTES_MAX, mime::params::Parameters,
    words::unfold,
};

/// Deepest nesting of parts; the message itself is level 0.
pub const PART_DEPTH_MAX: usize = 100;
/// Most parts of a message.
pub const PARTS_MAX: usize = 10_000;
/// Longest line that can be a delimiter. RFC 2046 allows 70 characters in a boundary.
const DELIMITER_BYTES_MAX: usize = 1024;

/// What was wrong with a part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartErrors {
    /// The header has lines that are no fields, or is longer than is read.
    pub bad_header: bool,
    /// A multipart without its closing delimiter.
    pub unclosed_boundary: bool,
}

impl PartErrors {
    /// The documented names.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let header = self.bad_header.then_some("bad_header");
        header.into_iter().chain(self.unclosed_boundary.then_some("unclosed_boundary"))
    }

    fn join(&mut self, other: Self) {
        self.bad_header |= other.bad_header;
        self.unclosed_boundary |= other.unclosed_boundary;
    }
}

/// The inside of a multipart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Multipart {
    /// The boundary as the header names it.
    pub boundary: Vec<u8>,
    /// The first delimiter; the preamble ends where it starts.
    pub first: Delimiter,
    /// The closing delimiter.
    pub close: Option<Delimiter>,
}

/// Where a delimiter lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delimiter {
    /// With the line end before it; the same as `line` where that belongs to something else.
    pub start: u64,
    /// Its first dash.
    pub line: u64,
    /// Behind its text.
    pub text_end: u64,
    /// Behind its line end.
    pub end: u64,
}

impl Delimiter {
    /// Whether the line end before it is its own.
    pub fn owns_line_end(self) -> bool {
        self.line > self.start
    }
}

/// A part; offsets into the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Index of the part around it.
    pub parent: Option<usize>,
    /// Indexes of the parts inside, in order.
    pub children: Vec<usize>,
    /// Where the delimiter line in front begins, with the line end before it; `start` for the message itself.
    pub delimiter: u64,
    /// First byte of the header.
    pub start: u64,
    /// Behind the last field; `start` without a header.
    pub header_end: u64,
    /// First byte of the body.
    pub body_start: u64,
    /// Behind the last byte of the body.
    pub end: u64,
    /// The delimiter behind it has no line end of its own: what is written at the end must bring one.
    pub needs_line_end: bool,
    /// Set for multipart types whose boundary was found.
    pub multipart: Option<Multipart>,
    /// What was wrong.
    pub errors: PartErrors,
}

impl Part {
    /// The header, the blank line not included.
    pub fn header(&self) -> Range<u64> {
        self.start..self.header_end
    }

    /// The body, with all parts inside.
    pub fn body(&self) -> Range<u64> {
        self.body_start..self.end
    }

    /// Whether a blank line ends the header (without fields: begins the part).
    pub fn has_blank_line(&self) -> bool {
        self.body_start > self.header_end
    }

    /// Text before the first part; `None` if this is no multipart.
    pub fn preamble(&self) -> Option<Range<u64>> {
        let multipart = self.multipart.as_ref()?;
        Some(self.body_start..multipart.first.start)
    }

    /// Text behind the closing delimiter; `None` if this is no multipart or was not closed.
    pub fn epilogue(&self) -> Option<Range<u64>> {
        let close = self.multipart.as_ref()?.close?;
        Some(close.end.min(self.end)..self.end)
    }
}

/// The parts of a message; the first is the message itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    parts: Vec<Part>,
}

impl Tree {
    /// Finds the parts.
    ///
    /// # Errors
    /// What reading the content says.
    pub fn scan(content: &dyn Content) -> io::Result<Self> {
        Scanner::new(content).run()
    }

    /// Only the message itself, as a part without parts inside: where header and body lie. Reads the header alone.
    ///
    /// # Errors
    /// What reading the content says.
    pub fn root_only(content: &dyn Content) -> io::Result<Part> {
        let mut scanner = Scanner::new(content);
        let (part, _) = scanner.read_part(0, 0, None)?;
        Ok(Part { end: content.len().max(part.body_start), ..part })
    }

    /// All parts, each behind the part around it.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// A part by its index.
    pub fn get(&self, index: usize) -> Option<&Part> {
        self.parts.get(index)
    }

    /// The dotted path of a part: `1` for the message, `1.2` for its second part.
    pub fn path(&self, index: usize) -> String {
        let mut numbers = Vec::new();
        let mut at = index;
        while let Some(parent) = self.parts.get(at).and_then(|part| part.parent) {
            let position = self.parts[parent].children.iter().position(|child| *child == at);
            numbers.push(position.map_or(0, |position| position + 1));
            at = parent;
        }
        let mut path = String::from("1");
        for number in numbers.iter().rev() {
            path.push('.');
            path.push_str(&number.to_string());
        }
        path
    }

    /// The part of a dotted path.
    pub fn find(&self, path: &str) -> Option<usize> {
        let mut numbers = path.split('.').map(|word| word.parse::<usize>().ok());
        if numbers.next()? != Some(1) {
            return None;
        }
        let mut at = 0;
        for number in numbers {
            at = *self.parts.get(at)?.children.get(number?.checked_sub(1)?)?;
        }
        Some(at)
    }

    /// The part and everything inside, in document order.
    pub fn subtree(&self, index: usize) -> Vec<usize> {
        let mut found = Vec::new();
        let mut todo = vec![index];
        while let Some(at) = todo.pop() {
            if let Some(part) = self.parts.get(at) {
                found.push(at);
                todo.extend(part.children.iter().rev());
            }
        }
        found
    }

    /// What was wrong with a part and everything inside.
    pub fn errors(&self, index: usize) -> PartErrors {
        let mut all = PartErrors::default();
        for at in self.subtree(index) {
            all.join(self.parts[at].errors);
        }
        all
    }
}

/// A multipart whose closing delimiter has not come.
struct Open {
    part: usize,
    boundary: Vec<u8>,
    /// What the same boundary meant outside.
    outer: Option<usize>,
}

struct Scanner<'a> {
    lines: Lines<'a>,
    parts: Vec<Part>,
    open: Vec<Open>,
    /// Boundary to its place in `open`.
    boundaries: HashMap<Vec<u8>, usize>,
    /// Parts whose end is not known yet, outermost first.
    pending: Vec<usize>,
    /// What lies before has its place: a delimiter cannot reach back over it.
    floor: u64,
}

impl<'a> Scanner<'a> {
    fn new(content: &'a dyn Content) -> Self {
        Self {
            lines: Lines::new(content),
            parts: Vec::new(),
            open: Vec::new(),
            boundaries: HashMap::new(),
            pending: Vec::new(),
            floor: 0,
        }
    }

    fn run(mut self) -> io::Result<Tree> {
        let len = self.lines.len;
        let mut at = self.begin_part(0, 0, None)?;
        while !self.open.is_empty() {
            let Some(line) = self.lines.next_dashes(at)? else { break };
            let (text, next) = self.lines.line(line)?;
            let found = self.boundaries_match(&text);
            at = next;
            let Some((level, closes)) = found else { continue };
            let multipart = self.open[level].part;
            if !closes && self.parts.len() >= PARTS_MAX {
                continue;
            }
            let start = self.lines.before_line_end(line, self.floor)?;
            let text_end = next - (text.len() - text.trim_ascii_end().len()) as u64;
            let delimiter = Delimiter { start, line, text_end, end: next };
            self.end_parts_inside(multipart, delimiter);
            self.close_above(level + 1, true);
            let has_parts = !self.parts[multipart].children.is_empty();
            let Some(inside) = self.parts[multipart].multipart.as_mut() else { continue };
            if !has_parts {
                inside.first = delimiter;
            }
            if closes {
                inside.close = Some(delimiter);
                // Its line end is that of the next delimiter, if one follows at once (RFC 2046 5.1.1).
                self.floor = text_end;
                self.close_above(level, false);
            } else {
                at = self.begin_part(next, start, Some(multipart))?;
            }
        }
        self.close_above(0, true);
        for index in std::mem::take(&mut self.pending) {
            self.parts[index].end = len.max(self.parts[index].body_start);
        }
        // A multipart without any delimiter is one text.
        for part in &mut self.parts {
            if part.children.is_empty()
                && part.multipart.as_ref().is_some_and(|inside| inside.close.is_none())
            {
                part.multipart = None;
                part.errors.unclosed_boundary = true;
            }
        }
        Ok(Tree { parts: self.parts })
    }

    /// Reads the header of the part at `start`; gives where to go on.
    fn begin_part(&mut self, start: u64, delimiter: u64, parent: Option<usize>) -> io::Result<u64> {
        let (part, boundary) = self.read_part(start, delimiter, parent)?;
        let index = self.parts.len();
        let body_start = part.body_start;
        self.floor = body_start;
        self.parts.push(part);
        if let Some(parent) = parent {
            self.parts[parent].children.push(index);
        }
        let depth = self.pending.len();
        self.pending.push(index);
        if let Some(boundary) = boundary
            && depth < PART_DEPTH_MAX
        {
            let first =
                Delimiter { start: body_start, line: body_start, text_end: body_start, end: body_start };
            self.parts[index].multipart = Some(Multipart { boundary: boundary.clone(), first, close: None });
            let outer = self.boundaries.insert(boundary.clone(), self.open.len());
            self.open.push(Open { part: index, boundary, outer });
        }
        Ok(body_start)
    }

    /// The part at `start` up to its body, and its boundary if it is a multipart.
    fn read_part(
        &mut self,
        start: u64,
        delimiter: u64,
        parent: Option<usize>,
    ) -> io::Result<(Part, Option<Vec<u8>>)> {
        let mut block = Vec::new();
        let mut at = start;
        let mut cut = false;
        while at < self.lines.len {
            let before = block.len();
            // The line that ends the header must be seen even when no more of it is kept.
            let room = (HEADER_BYTES_MAX - before).max(DELIMITER_BYTES_MAX);
            let next = self.lines.append_line(at, &mut block, room)?;
            let line = &block[before..];
            if matches!(line, b"\n" | b"\r\n") {
                block.truncate(before);
                at = next;
                break;
            }
            if line.starts_with(b"--") && self.boundaries_match(line).is_some() {
                block.truncate(before);
                break;
            }
            cut |= block.len() > HEADER_BYTES_MAX || (line.len() as u64) < next - at;
            block.truncate(HEADER_BYTES_MAX);
            at = next;
        }
        let index = HeaderIndex::from_block(&block, cut);
        let no_fields = index.fields().is_empty();
        let nameless = index.fields().iter().any(|field| field.name_end == field.start);
        let errors = PartErrors {
            bad_header: cut || index.is_truncated() || nameless || (no_fields && !block.is_empty()),
            unclosed_boundary: false,
        };
        let header_bytes = if no_fields { 0 } else { index.end() as u64 };
        // A text without any field is a body from its first byte.
        let body_start = if no_fields && !block.is_empty() && !cut { start } else { at };
        let boundary = index.named("Content-Type").next().and_then(|field| {
            let value = Parameters::parse(&unfold(index.body(field)));
            if !value.value().starts_with("multipart/") {
                return None;
            }
            let boundary = value.raw("boundary")?;
            (!boundary.is_empty() && boundary.len() < DELIMITER_BYTES_MAX - 8).then_some(boundary)
        });
        let part = Part {
            parent,
            children: Vec::new(),
            delimiter: delimiter.min(start),
            start,
            header_end: start + header_bytes,
            body_start,
            end: body_start,
            needs_line_end: false,
            multipart: None,
            errors,
        };
        Ok((part, boundary))
    }

    /// The open multipart whose delimiter the line is, and whether it is the closing one.
    fn boundaries_match(&self, line: &[u8]) -> Option<(usize, bool)> {
        let text = line.strip_prefix(b"--")?.trim_ascii_end();
        if let Some(level) = self.boundaries.get(text) {
            return Some((*level, false));
        }
        let level = self.boundaries.get(text.strip_suffix(b"--")?)?;
        Some((*level, true))
    }

    /// Ends what lies inside `multipart` in front of a delimiter.
    fn end_parts_inside(&mut self, multipart: usize, delimiter: Delimiter) {
        while let Some(&index) = self.pending.last() {
            if index == multipart {
                return;
            }
            let part = &mut self.parts[index];
            part.end = delimiter.start.max(part.body_start);
            part.needs_line_end = !delimiter.owns_line_end();
            self.pending.pop();
        }
    }

    /// Forgets the open multiparts from `level` on.
    fn close_above(&mut self, level: usize, unclosed: bool) {
        for open in self.open.drain(level..).rev() {
            match open.outer {
                Some(outer) => self.boundaries.insert(open.boundary, outer),
                None => self.boundaries.remove(&open.boundary),
            };
            if unclosed {
                self.parts[open.part].errors.unclosed_boundary = true;
            }
        }
    }
}

/// Content as lines, through a window.
struct Lines<'a> {
    content: &'a dyn Content,
    len: u64,
    window: Vec<u8>,
    window_start: u64,
    finder: memmem::Finder<'static>,
}

impl<'a> Lines<'a> {
    fn new(content: &'a dyn Content) -> Self {
        Self {
            content,
            len: content.len(),
            window: Vec::new(),
            window_start: 0,
            finder: memmem::Finder::new(b"\n--"),
        }
    }

    /// The bytes from `at` on: at least `want` of them, or all there are.
    fn bytes(&mut self, at: u64, want: usize) -> io::Result<&[u8]> {
        let at = at.min(self.len);
        if let Some(all) = self.content.as_slice() {
            // In memory, so the offset fits.
            return Ok(&all[at as usize..]);
        }
        let inside = at >= self.window_start && at <= self.window_start + self.window.len() as u64;
        let have = if inside { (self.window_start + self.window.len() as u64 - at) as usize } else { 0 };
        let rest = self.len - at;
        if (have as u64) < (want as u64).min(rest) {
            let size = rest.min(CHUNK_BYTES.max(want) as u64) as usize;
            self.window.resize(size, 0);
            self.content.read_at(at, &mut self.window)?;
            self.window_start = at;
        }
        Ok(&self.window[(at - self.window_start) as usize..])
    }

    /// The next line from `at` (itself the start of a line) that begins with two dashes.
    fn next_dashes(&mut self, mut at: u64) -> io::Result<Option<u64>> {
        if self.bytes(at, 2)?.starts_with(b"--") {
            return Ok(Some(at));
        }
        let len = self.len;
        let finder = self.finder.clone();
        loop {
            let bytes = self.bytes(at, 3)?;
            if let Some(found) = finder.find(bytes) {
                return Ok(Some(at + found as u64 + 1));
            }
            let next = at + bytes.len() as u64;
            if next >= len {
                return Ok(None);
            }
            // The line end may be the last byte or the last but one.
            at = next - 2;
        }
    }

    /// The line at `at`, cut at [`DELIMITER_BYTES_MAX`], and where the next one begins.
    fn line(&mut self, at: u64) -> io::Result<(Vec<u8>, u64)> {
        let mut text = Vec::new();
        let next = self.append_line(at, &mut text, DELIMITER_BYTES_MAX)?;
        if text.len() as u64 != next - at {
            // Too long for a delimiter.
            text.clear();
        }
        Ok((text, next))
    }

    /// Appends the line at `at`, up to `room` bytes of it; gives where the next one begins.
    fn append_line(&mut self, mut at: u64, out: &mut Vec<u8>, mut room: usize) -> io::Result<u64> {
        let len = self.len;
        loop {
            let bytes = self.bytes(at, 1)?;
            let end = memchr(b'\n', bytes).map(|found| found + 1);
            let line = &bytes[..end.unwrap_or(bytes.len())];
            let kept = line.len().min(room);
            out.extend_from_slice(&line[..kept]);
            room -= kept;
            at += line.len() as u64;
            if end.is_some() || at >= len {
                return Ok(at);
            }
        }
    }

    /// Where the line end before the line at `at` begins, not in front of `limit`.
    fn before_line_end(&mut self, at: u64, limit: u64) -> io::Result<u64> {
        let mut two = [0; 2];
        let have = (at.saturating_sub(limit)).min(2) as usize;
        let two = &mut two[..have];
        self.content.read_at(at - have as u64, two)?;
        Ok(match two {
            [b'\r', b'\n'] => at - 2,
            [.., b'\n'] => at - 1,
            _ => at,
        })
    }
}

#[cfg(test)]
mod tests;
