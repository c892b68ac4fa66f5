//! Modifications of a message as patches over its immutable original.
//!
//! An [`EditList`] is sorted; its edits do not overlap. At one offset there may stand one pure insertion followed by
//! one edit that removes bytes: text put in front of a field survives the replacement of that field.

use bytes::{Bytes, BytesMut};

/// One patch: at `offset` of the original, `delete` bytes go and `insert` comes instead.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Edit {
    /// Where in the original, in bytes.
    pub offset: u64,
    /// How many bytes of the original are left out.
    pub delete: u64,
    /// What stands in their place.
    pub insert: Bytes,
}

impl Edit {
    /// First byte of the original behind the removed range.
    fn end(&self) -> u64 {
        self.offset.saturating_add(self.delete)
    }
}

/// On which side of what is already inserted at the same offset a new insertion goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In front of it (the top of a header).
    Before,
    /// Behind it (the end of a header).
    After,
}

/// A run of bytes of the modified message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment<'a> {
    /// This range of the original.
    Original(std::ops::Range<u64>),
    /// These new bytes.
    Inserted(&'a [u8]),
}

/// Why an edit list cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// Edits are unsorted or overlap: the source of the list is damaged.
    #[error("edit {0} is out of order or overlaps the one before")]
    Order(usize),
    /// An edit reaches behind the end of the original.
    #[error("edit of {delete} bytes at offset {offset} passes the end of the message ({len} bytes)")]
    Range {
        /// Start of the edit.
        offset: u64,
        /// Bytes it removes.
        delete: u64,
        /// Length of the original.
        len: u64,
    },
}

/// A sorted list of edits against one original.
///
/// ```
/// use mail::{EditList, Place};
/// let mut edits = EditList::default();
/// edits.replace(0, 5, "HELLO", Place::After);
/// edits.replace(0, 0, "> ", Place::Before);
/// assert_eq!(edits.apply(b"hello world").unwrap(), b"> HELLO world");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct EditList {
    edits: Vec<Edit>,
}

impl EditList {
    /// A list from stored edits.
    ///
    /// # Errors
    /// [`EditError::Order`] if they are unsorted or overlap.
    pub fn from_edits(edits: Vec<Edit>) -> Result<Self, EditError> {
        let mut end = 0;
        let mut insertion_at = None;
        for (index, edit) in edits.iter().enumerate() {
            if edit.offset < end || edit.offset.checked_add(edit.delete).is_none() {
                return Err(EditError::Order(index));
            }
            if insertion_at == Some(edit.offset) && edit.delete == 0 {
                return Err(EditError::Order(index));
            }
            if edit.delete == 0 {
                insertion_at = Some(edit.offset);
            }
            end = edit.end();
        }
        Ok(Self { edits })
    }

    /// Adds a modification in coordinates of the original.
    ///
    /// Earlier edits inside the removed range are replaced by this one; an edit that reaches over its border is merged
    /// with it. Insertions exactly at the border stay.
    pub fn replace(&mut self, offset: u64, delete: u64, insert: impl Into<Bytes>, place: Place) {
        let insert: Bytes = insert.into();
        if delete == 0 { self.insert(offset, insert, place) } else { self.overwrite(offset, delete, insert) }
    }

    /// Takes back whatever removes or replaces bytes inside the range, insertions at its start excepted.
    pub fn revert(&mut self, offset: u64, delete: u64) {
        let end = offset.saturating_add(delete);
        self.edits.retain(|e| !(e.offset >= offset && e.end() <= end && e.delete > 0));
    }

    /// The same as applying `self` and then `later`, whose offsets count in the message that `self` makes of the
    /// original.
    ///
    /// # Errors
    /// [`EditError::Range`] if `self` does not fit an original of `original_len` or `later` the modified message.
    pub fn compose(&self, later: &Self, original_len: u64) -> Result<Self, EditError> {
        let middle_len = self.size(original_len)?;
        later.validate(middle_len)?;
        // The result as runs of original ranges and new bytes, then read back as edits.
        let mut runs: Vec<Run> = Vec::new();
        for segment in later.segments(middle_len) {
            match segment {
                Segment::Inserted(bytes) => runs.push(Run::New(Bytes::copy_from_slice(bytes))),
                Segment::Original(range) => self.runs_between(range, original_len, &mut runs),
            }
        }
        Ok(Self::from_runs(runs, original_len))
    }

    /// Whether nothing is modified.
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// The edits, sorted by offset.
    pub fn edits(&self) -> &[Edit] {
        &self.edits
    }

    /// The bytes inserted (without removal) at `offset`, if any.
    pub fn inserted_at(&self, offset: u64) -> Option<&Bytes> {
        self.edits.iter().find(|e| e.offset == offset && e.delete == 0).map(|e| &e.insert)
    }

    /// Replaces the pure insertion at `offset` by `insert`; an empty one removes it.
    pub fn set_inserted_at(&mut self, offset: u64, insert: impl Into<Bytes>) {
        self.edits.retain(|e| e.offset != offset || e.delete > 0);
        self.insert(offset, insert.into(), Place::Before);
    }

    /// Length of the modified message in bytes.
    ///
    /// # Errors
    /// [`EditError::Range`] if an edit passes `original_len`.
    pub fn size(&self, original_len: u64) -> Result<u64, EditError> {
        self.validate(original_len)?;
        // Removed ranges are disjoint and inside, so this cannot go below zero.
        let removed: u64 = self.edits.iter().map(|e| e.delete).sum();
        let inserted: u64 = self.edits.iter().map(|e| e.insert.len() as u64).sum();
        Ok((original_len - removed).saturating_add(inserted))
    }

    /// Checks that every edit lies inside an original of that length.
    ///
    /// # Errors
    /// [`EditError::Range`] naming the first that does not.
    pub fn validate(&self, original_len: u64) -> Result<(), EditError> {
        match self.edits.last() {
            Some(e) if e.end() > original_len => {
                Err(EditError::Range { offset: e.offset, delete: e.delete, len: original_len })
            }
            _ => Ok(()),
        }
    }

    /// The modified message as runs, in order; ranges are cut at `original_len`.
    pub fn segments(&self, original_len: u64) -> impl Iterator<Item = Segment<'_>> {
        let mut position = 0;
        let tail_start = self.edits.last().map_or(0, Edit::end).min(original_len);
        self.edits
            .iter()
            .flat_map(move |edit| {
                let kept = position.min(original_len)..edit.offset.min(original_len);
                position = edit.end();
                [Segment::Original(kept), Segment::Inserted(&edit.insert[..])]
            })
            .chain(std::iter::once(Segment::Original(tail_start..original_len)))
            .filter(|segment| match segment {
                Segment::Original(range) => !range.is_empty(),
                Segment::Inserted(bytes) => !bytes.is_empty(),
            })
    }

    /// The modified message in memory.
    ///
    /// # Errors
    /// [`EditError::Range`] if an edit passes the end of `original`.
    pub fn apply(&self, original: &[u8]) -> Result<Vec<u8>, EditError> {
        let len = original.len() as u64;
        let mut out = Vec::with_capacity(usize::try_from(self.size(len)?).unwrap_or(original.len()));
        for segment in self.segments(len) {
            match segment {
                // Segments are cut at the length of a slice: both ends fit usize.
                Segment::Original(range) => {
                    out.extend_from_slice(&original[range.start as usize..range.end as usize]);
                }
                Segment::Inserted(bytes) => out.extend_from_slice(bytes),
            }
        }
        Ok(out)
    }

    fn insert(&mut self, offset: u64, insert: Bytes, place: Place) {
        if insert.is_empty() {
            return;
        }
        // Inside a removed range the insertion joins the replacement of that range.
        if let Some(edit) = self
            .edits
            .iter_mut()
            .find(|e| (e.delete == 0 && e.offset == offset) || (e.offset < offset && offset < e.end()))
        {
            edit.insert = match place {
                Place::Before if edit.delete == 0 => joined(&insert, &edit.insert),
                _ => joined(&edit.insert, &insert),
            };
            return;
        }
        let at = self.edits.partition_point(|e| e.offset < offset);
        self.edits.insert(at, Edit { offset, delete: 0, insert });
    }

    fn overwrite(&mut self, offset: u64, delete: u64, insert: Bytes) {
        let delete = delete.min(u64::MAX - offset);
        let (mut start, mut end) = (offset, offset + delete);
        let (mut before, mut after) = (Bytes::new(), Bytes::new());
        self.edits.retain(|e| {
            if e.end() <= offset || e.offset >= offset + delete {
                return true;
            }
            if e.offset < offset {
                start = e.offset;
                before = joined(&before, &e.insert);
            } else if e.end() > offset + delete {
                after = e.insert.clone();
            } else if e.delete == 0 && e.offset == offset {
                return true;
            }
            end = end.max(e.end());
            false
        });
        let insert = joined(&joined(&before, &insert), &after);
        let at = self.edits.partition_point(|e| (e.offset, e.delete > 0) < (start, true));
        self.edits.insert(at, Edit { offset: start, delete: end - start, insert });
    }

    /// What `self` shows in the range `wanted` of its modified message.
    fn runs_between(&self, wanted: std::ops::Range<u64>, original_len: u64, runs: &mut Vec<Run>) {
        let mut position = 0_u64;
        for segment in self.segments(original_len) {
            let len = match &segment {
                Segment::Original(range) => range.end - range.start,
                Segment::Inserted(bytes) => bytes.len() as u64,
            };
            let from = wanted.start.max(position);
            let to = wanted.end.min(position + len);
            if from < to {
                let (skip, take) = (from - position, to - from);
                runs.push(match segment {
                    Segment::Original(range) => Run::Old(range.start + skip, take),
                    // Both lie within a slice.
                    Segment::Inserted(bytes) => {
                        Run::New(Bytes::copy_from_slice(&bytes[skip as usize..(skip + take) as usize]))
                    }
                });
            }
            position += len;
        }
    }

    fn from_runs(runs: Vec<Run>, original_len: u64) -> Self {
        let mut list = Self::default();
        let mut position = 0;
        let mut pending = BytesMut::new();
        let push = |list: &mut Self, from: u64, to: u64, pending: &mut BytesMut| {
            if from != to || !pending.is_empty() {
                list.edits.push(Edit { offset: from, delete: to - from, insert: pending.split().freeze() });
            }
        };
        for run in runs {
            match run {
                Run::New(bytes) => pending.extend_from_slice(&bytes),
                // `later` keeps order, so runs of the original come in ascending order.
                Run::Old(start, len) => {
                    push(&mut list, position, start, &mut pending);
                    position = start + len;
                }
            }
        }
        push(&mut list, position, original_len, &mut pending);
        list
    }
}

enum Run {
    Old(u64, u64),
    New(Bytes),
}

fn joined(first: &Bytes, second: &Bytes) -> Bytes {
    if first.is_empty() {
        return second.clone();
    }
    if second.is_empty() {
        return first.clone();
    }
    let mut out = BytesMut::with_capacity(first.len() + second.len());
    out.extend_from_slice(first);
    out.extend_from_slice(second);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(edits: &[(u64, u64, &'static str)]) -> EditList {
        let mut list = EditList::default();
        for &(offset, delete, insert) in edits {
            list.replace(offset, delete, insert, Place::After);
        }
        list
    }

    #[test]
    fn edits_over_edits() {
        type Edits = [(u64, u64, &'static str)];
        let cases: &[(&Edits, &str)] = &[
            (&[], "0123456789"),
            (&[(0, 0, "a"), (0, 0, "b")], "ab0123456789"),
            (&[(0, 3, "x"), (0, 0, "a"), (0, 3, "y")], "ay3456789"),
            (&[(2, 3, "x"), (4, 3, "y")], "01xy789"),
            (&[(4, 3, "y"), (2, 3, "x")], "01xy789"),
            (&[(4, 1, "y"), (2, 6, "x")], "01x89"),
            (&[(2, 6, "x"), (4, 1, "y")], "01xy89"),
            (&[(5, 0, "i"), (2, 6, "")], "0189"),
            (&[(10, 0, "end"), (9, 1, "")], "012345678end"),
        ];
        for (edits, expected) in cases {
            assert_eq!(list(edits).apply(b"0123456789").unwrap(), expected.as_bytes(), "{edits:?}");
        }
    }

    #[test]
    fn refuses_damaged_lists() {
        let edit = |offset, delete| Edit { offset, delete, insert: Bytes::from_static(b"x") };
        assert_eq!(EditList::from_edits(vec![edit(5, 3), edit(6, 1)]), Err(EditError::Order(1)));
        assert_eq!(EditList::from_edits(vec![edit(5, 0), edit(5, 0)]), Err(EditError::Order(1)));
        assert_eq!(EditList::from_edits(vec![edit(u64::MAX, 2)]), Err(EditError::Order(0)));
        assert!(EditList::from_edits(vec![edit(5, 0), edit(5, 2), edit(7, 0)]).is_ok());
        assert!(list(&[(8, 3, "")]).apply(b"0123456789").is_err());
    }

    fn any_list(len: u64) -> impl Strategy<Value = EditList> {
        prop::collection::vec((0..=len, 0_u64..8, "[a-z]{0,4}", any::<bool>()), 0..8).prop_map(move |edits| {
            let mut list = EditList::default();
            for (offset, delete, insert, before) in edits {
                let place = if before { Place::Before } else { Place::After };
                list.replace(offset, delete.min(len - offset), insert.into_bytes(), place);
            }
            list
        })
    }

    proptest! {
        #[test]
        fn lists_stay_valid(edits in any_list(30)) {
            let original: Vec<u8> = (0..30).map(|n| b'A' + n).collect();
            prop_assert!(EditList::from_edits(edits.edits().to_vec()).is_ok());
            let out = edits.apply(&original).unwrap();
            prop_assert_eq!(out.len() as u64, edits.size(30).unwrap());
        }

        #[test]
        fn composition_is_application_in_turn(first in any_list(30), raw in prop::collection::vec((0_u64..60, 0_u64..8, "[0-9]{0,4}"), 0..6)) {
            let original: Vec<u8> = (0..30).map(|n| b'A' + n).collect();
            let middle = first.apply(&original).unwrap();
            let len = middle.len() as u64;
            let mut second = EditList::default();
            for (offset, delete, insert) in raw {
                let offset = offset.min(len);
                second.replace(offset, delete.min(len - offset), insert.into_bytes(), Place::After);
            }
            let composed = first.compose(&second, 30).unwrap();
            prop_assert!(EditList::from_edits(composed.edits().to_vec()).is_ok());
            prop_assert_eq!(composed.apply(&original).unwrap(), second.apply(&middle).unwrap());
        }
    }
}
