//! Short byte strings under 32-bit names, without an allocation each.
//!
//! A queue holds millions of strings of ten to a hundred bytes that are written once and read by scans. A heap
//! allocation for each costs a pointer, a length and the allocator's rounding; here a string costs its bytes, two for
//! the length and the rounding to four. Blocks that are given back are kept in a list per size and used again.

/// Blocks are measured in units of this many bytes.
const UNIT: usize = 4;
/// Units per chunk.
const CHUNK_UNITS: usize = 16384;
/// Bytes that hold the length.
const LENGTH: usize = 2;
/// Longest block in a chunk, in units; longer strings are allocated on their own.
const CLASSES: usize = 256;
/// Units that names can tell apart.
const UNITS_MAX: usize = 1 << 31;
/// Marks names of strings with an allocation of their own.
const OWN: u32 = 1 << 31;

/// The name of a string. The default is the empty one, which needs no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Text(u32);

/// The strings.
pub(crate) struct Arena {
    chunks: Vec<Box<[u8]>>,
    /// First unit never used.
    next: usize,
    /// By units: the first free block, as a name; its first bytes hold the name of the next.
    free: [u32; CLASSES + 1],
    own: Vec<Box<[u8]>>,
    own_free: Vec<u32>,
}

impl Arena {
    pub(crate) fn new() -> Arena {
        Arena { chunks: Vec::new(), next: 0, free: [0; CLASSES + 1], own: Vec::new(), own_free: Vec::new() }
    }

    /// Stores a string that is given in pieces.
    pub(crate) fn insert(&mut self, pieces: &[&[u8]]) -> Text {
        let length = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        if length == 0 {
            return Text::default();
        }
        let units = (LENGTH + length).div_ceil(UNIT);
        let Some(at) = (units <= CLASSES).then(|| self.room(units)).flatten() else {
            return self.insert_own(pieces.concat());
        };
        let mut block = &mut self.chunks[at / CHUNK_UNITS][at % CHUNK_UNITS * UNIT..];
        // A block is at most `CLASSES` units long.
        for piece in [&(length as u16).to_le_bytes()[..]].iter().chain(pieces) {
            let (to, rest) = block.split_at_mut(piece.len());
            to.copy_from_slice(piece);
            block = rest;
        }
        Text(at as u32 + 1)
    }

    pub(crate) fn get(&self, text: Text) -> &[u8] {
        match text.0 {
            0 => &[],
            own if own & OWN != 0 => &self.own[(own & !OWN) as usize],
            place => {
                let block = self.block(place);
                let length = usize::from(u16::from_le_bytes([block[0], block[1]]));
                &block[LENGTH..LENGTH + length]
            }
        }
    }

    /// Gives a string back; its name means nothing afterwards.
    pub(crate) fn remove(&mut self, text: Text) {
        match text.0 {
            0 => {}
            own if own & OWN != 0 => {
                self.own[(own & !OWN) as usize] = Box::default();
                self.own_free.push(own & !OWN);
            }
            place => {
                let units = (LENGTH + self.get(text).len()).div_ceil(UNIT);
                let next = self.free[units].to_le_bytes();
                let at = place as usize - 1;
                self.chunks[at / CHUNK_UNITS][at % CHUNK_UNITS * UNIT..][..4].copy_from_slice(&next);
                self.free[units] = place;
            }
        }
    }

    fn block(&self, place: u32) -> &[u8] {
        let at = place as usize - 1;
        &self.chunks[at / CHUNK_UNITS][at % CHUNK_UNITS * UNIT..]
    }

    /// The first unit of a free block. `None` when names have run out.
    fn room(&mut self, units: usize) -> Option<usize> {
        let place = self.free[units];
        if place != 0 {
            let block = self.block(place);
            self.free[units] = u32::from_le_bytes([block[0], block[1], block[2], block[3]]);
            return Some(place as usize - 1);
        }
        let left = self.chunks.len() * CHUNK_UNITS - self.next;
        if left < units {
            if (self.chunks.len() + 1) * CHUNK_UNITS >= UNITS_MAX {
                return None;
            }
            if left > 0 {
                // What is left of the chunk will do for a shorter string.
                let place = self.next as u32 + 1;
                let next = self.free[left].to_le_bytes();
                self.chunks[self.next / CHUNK_UNITS][self.next % CHUNK_UNITS * UNIT..][..4]
                    .copy_from_slice(&next);
                self.free[left] = place;
            }
            self.next = self.chunks.len() * CHUNK_UNITS;
            self.chunks.push(vec![0; CHUNK_UNITS * UNIT].into_boxed_slice());
        }
        let at = self.next;
        self.next += units;
        Some(at)
    }

    fn insert_own(&mut self, bytes: Vec<u8>) -> Text {
        let bytes = bytes.into_boxed_slice();
        match self.own_free.pop() {
            Some(index) => {
                self.own[index as usize] = bytes;
                Text(index | OWN)
            }
            None => {
                self.own.push(bytes);
                // Each belongs to a record or is a long text that records share: 2^31 of them would fill a tebibyte.
                Text((self.own.len() - 1) as u32 | OWN)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_put_in_comes_out(
            steps in prop::collection::vec((any::<bool>(), 0..1200usize, any::<u8>()), 1..400),
        ) {
            let mut arena = Arena::new();
            let mut known: HashMap<u32, Vec<u8>> = HashMap::new();
            for (add, length, byte) in steps {
                if add || known.is_empty() {
                    // Mostly short ones, as in a queue.
                    let length = if length % 3 == 0 { length } else { length % 60 };
                    let bytes = vec![byte; length];
                    let (a, b) = bytes.split_at(length / 2);
                    let text = arena.insert(&[a, b]);
                    prop_assert!(length == 0 || known.insert(text.0, bytes).is_none());
                } else {
                    let key = *known.keys().nth(length % known.len()).unwrap();
                    known.remove(&key);
                    arena.remove(Text(key));
                }
                for (key, bytes) in &known {
                    prop_assert_eq!(arena.get(Text(*key)), &bytes[..]);
                }
            }
        }
    }

    #[test]
    fn room_is_used_again() {
        let mut arena = Arena::new();
        for _ in 0..10 {
            let all: Vec<Text> =
                (0..20_000).map(|i: u32| arena.insert(&[&i.to_le_bytes()[..], b"padding"])).collect();
            all.into_iter().for_each(|text| arena.remove(text));
        }
        let units = (LENGTH + 4 + 7usize).div_ceil(UNIT);
        assert_eq!(arena.chunks.len(), (20_000 * units).div_ceil(CHUNK_UNITS));
    }
}
