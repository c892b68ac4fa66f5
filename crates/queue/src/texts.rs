//! Texts shared by many records: domains, transports, jobs, reasons. Each is stored once and counted.

use std::hash::BuildHasher as _;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::arena::{Arena, Text};
use crate::intern::Sym;

/// Eight bytes beside the text, of which an arena holds the bytes.
struct Slot {
    text: Text,
    /// Stays at its highest value once it has come there: such a text is kept for good.
    references: u32,
}

/// A counted set of texts.
pub(crate) struct Texts {
    table: HashTable<u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    arena: Arena,
    hasher: DefaultHashBuilder,
}

impl Texts {
    pub(crate) fn new() -> Texts {
        // Slot 0 is the empty text; it is not in the table, `intern` answers it by comparison.
        let empty = Slot { text: Text::default(), references: u32::MAX };
        Texts {
            table: HashTable::new(),
            slots: vec![empty],
            free: Vec::new(),
            arena: Arena::new(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// The symbol of `value`, with one reference more.
    pub(crate) fn intern(&mut self, value: &str) -> Sym {
        if let Some(known) = self.find(value) {
            return self.acquire(known);
        }
        let slot = Slot { text: self.arena.insert(&[value.as_bytes()]), references: 1 };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = slot;
                index
            }
            None => {
                self.slots.push(slot);
                // Symbols live in records whose slabs hold at most 2^28 items of at most 15 symbols each, so the
                // count of distinct ones stays below 2^32.
                (self.slots.len() - 1) as u32
            }
        };
        let (slots, arena, hasher) = (&self.slots, &self.arena, &self.hasher);
        let hash = hasher.hash_one(value.as_bytes());
        let rehash = |&i: &u32| hasher.hash_one(arena.get(slots[i as usize].text));
        self.table.insert_unique(hash, index, rehash);
        Sym(index)
    }

    /// The symbol of `value` if it is known, without counting.
    pub(crate) fn find(&self, value: &str) -> Option<Sym> {
        if value.is_empty() {
            return Some(Sym::EMPTY);
        }
        let hash = self.hasher.hash_one(value.as_bytes());
        let is = |&i: &u32| self.arena.get(self.slots[i as usize].text) == value.as_bytes();
        self.table.find(hash, is).map(|&i| Sym(i))
    }

    pub(crate) fn acquire(&mut self, symbol: Sym) -> Sym {
        if symbol != Sym::EMPTY {
            let references = &mut self.slots[symbol.0 as usize].references;
            *references = references.saturating_add(1);
        }
        symbol
    }

    pub(crate) fn release(&mut self, symbol: Sym) {
        let slot = &mut self.slots[symbol.0 as usize];
        if slot.references == u32::MAX {
            return;
        }
        slot.references -= 1;
        if slot.references > 0 {
            return;
        }
        let text = std::mem::take(&mut slot.text);
        let hash = self.hasher.hash_one(self.arena.get(text));
        if let Ok(found) = self.table.find_entry(hash, |&i| i == symbol.0) {
            found.remove();
        }
        self.arena.remove(text);
        self.free.push(symbol.0);
    }

    pub(crate) fn get(&self, symbol: Sym) -> &str {
        // It was written from a text.
        std::str::from_utf8(self.arena.get(self.slots[symbol.0 as usize].text)).unwrap_or_default()
    }

    /// Number of distinct texts held, the empty one not counted.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_shared_and_vanish_with_their_last_holder() {
        let mut texts = Texts::new();
        let a = texts.intern("example.com");
        let b = texts.intern("example.com");
        assert_eq!(a, b);
        assert_eq!(texts.intern(""), Sym::EMPTY);
        texts.release(Sym::EMPTY);
        texts.release(a);
        assert_eq!(texts.find("example.com"), Some(a));
        texts.release(b);
        assert_eq!(texts.find("example.com"), None);
        assert_eq!(texts.len(), 0);
        let c = texts.intern("example.org");
        assert_eq!((texts.get(c), texts.get(Sym::EMPTY)), ("example.org", ""));
    }

    #[test]
    fn a_count_that_is_full_never_lets_go() {
        let mut texts = Texts::new();
        let a = texts.intern("a");
        texts.slots[a.0 as usize].references = u32::MAX - 1;
        texts.acquire(a);
        texts.acquire(a);
        texts.release(a);
        assert_eq!((texts.get(a), texts.slots[a.0 as usize].references), ("a", u32::MAX));
    }
}
