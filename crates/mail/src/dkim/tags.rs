//! Tag lists (RFC 6376 3.2), as in signatures, keys and DMARC records.

use std::ops::Range;

/// Longest list that is read.
const TAGS_MAX: usize = 100;

/// One tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Case counts.
    pub name: String,
    /// Without the white space around it; folds inside stay.
    pub value: Vec<u8>,
    /// Where the value stands in the text, white space around it included.
    pub(crate) place: Range<usize>,
}

/// A list in which each name occurs once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagList {
    tags: Vec<Tag>,
}

impl TagList {
    /// Reads a list; `None` if the text is none, names a tag twice, or has `v` elsewhere than in front.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut list = Self::default();
        let mut start = 0;
        let pieces: Vec<&[u8]> = text.split(|b| *b == b';').collect();
        for (index, piece) in pieces.iter().enumerate() {
            let from = start;
            start += piece.len() + 1;
            if piece.trim_ascii().is_empty() {
                // Only behind the final semicolon.
                if index + 1 == pieces.len() && index > 0 {
                    break;
                }
                return None;
            }
            let equals = memchr::memchr(b'=', piece)?;
            let name = piece[..equals].trim_ascii();
            let legal = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
            if !name.first()?.is_ascii_alphabetic() || !name.iter().all(legal) {
                return None;
            }
            let name = String::from_utf8_lossy(name).into_owned();
            if list.get(&name).is_some() || (name == "v" && index > 0) || list.tags.len() >= TAGS_MAX {
                return None;
            }
            let value = piece[equals + 1..].trim_ascii().to_vec();
            list.tags.push(Tag { name, value, place: from + equals + 1..from + piece.len() });
        }
        Some(list)
    }

    /// The tags in order.
    pub fn tags(&self) -> &[Tag] {
        &self.tags
    }

    /// The value of a tag.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.tag(name).map(|tag| &tag.value[..])
    }

    pub(crate) fn tag(&self, name: &str) -> Option<&Tag> {
        self.tags.iter().find(|tag| tag.name == name)
    }

    /// The value of a tag as text without any white space.
    pub fn word(&self, name: &str) -> Option<String> {
        let value = self.get(name)?;
        let bytes: Vec<u8> = value.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
        Some(crate::words::text(&bytes))
    }

    /// The value of a tag as a whole number.
    pub fn number(&self, name: &str) -> Option<Result<u64, ()>> {
        self.word(name).map(|word| {
            let digits = !word.is_empty() && word.len() <= 20 && word.bytes().all(|b| b.is_ascii_digit());
            if digits { word.parse().map_err(|_| ()) } else { Err(()) }
        })
    }
}
