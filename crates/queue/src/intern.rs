//! Shared values: each distinct text or address list is stored once and named by a 32-bit symbol.
//!
//! Symbols are counted: whoever stores one in a record acquires it and releases it with the record, so a
//! queue that has seen a million job ids does not keep them for ever.

use std::hash::{BuildHasher, Hash};

use hashbrown::{DefaultHashBuilder, HashTable};

/// The name of an interned value. `Sym::EMPTY` is the empty text or list and needs no counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct Sym(pub(crate) u32);

impl Sym {
    pub(crate) const EMPTY: Sym = Sym(0);
}

struct Slot<T: ?Sized> {
    value: Box<T>,
    references: u64,
}

/// A counted set of values of one kind.
pub(crate) struct Interner<T: ?Sized> {
    table: HashTable<u32>,
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    hasher: DefaultHashBuilder,
}

impl<T> Interner<T>
where
    T: ?Sized + Hash + Eq,
    Box<T>: for<'a> From<&'a T> + Default,
{
    pub(crate) fn new() -> Self {
        // Slot 0 is the empty value; it is not in the table, `intern` answers it by comparison.
        let empty = Slot { value: Box::<T>::default(), references: 1 };
        Interner {
            table: HashTable::new(),
            slots: vec![empty],
            free: Vec::new(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// The symbol of `value`, with one reference more.
    pub(crate) fn intern(&mut self, value: &T) -> Sym {
        if *value == *self.slots[0].value {
            return Sym::EMPTY;
        }
        let hash = self.hasher.hash_one(value);
        if let Some(&index) = self.table.find(hash, |&i| *self.slots[i as usize].value == *value) {
            self.slots[index as usize].references += 1;
            return Sym(index);
        }
        let slot = Slot { value: Box::from(value), references: 1 };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = slot;
                index
            }
            None => {
                self.slots.push(slot);
                // Symbols live in records whose slabs hold fewer than 2^28 items of at most 15 symbols
                // each, so the count of distinct ones stays below 2^32.
                (self.slots.len() - 1) as u32
            }
        };
        let slots = &self.slots;
        let hasher = &self.hasher;
        self.table.insert_unique(hash, index, |&i| hasher.hash_one(&*slots[i as usize].value));
        Sym(index)
    }

    /// The symbol of `value` if it is known, without counting.
    pub(crate) fn find(&self, value: &T) -> Option<Sym> {
        if *value == *self.slots[0].value {
            return Some(Sym::EMPTY);
        }
        let hash = self.hasher.hash_one(value);
        self.table.find(hash, |&i| *self.slots[i as usize].value == *value).map(|&i| Sym(i))
    }

    pub(crate) fn acquire(&mut self, symbol: Sym) -> Sym {
        if symbol != Sym::EMPTY {
            self.slots[symbol.0 as usize].references += 1;
        }
        symbol
    }

    pub(crate) fn release(&mut self, symbol: Sym) {
        if symbol == Sym::EMPTY {
            return;
        }
        let slot = &mut self.slots[symbol.0 as usize];
        slot.references -= 1;
        if slot.references > 0 {
            return;
        }
        let value = std::mem::take(&mut slot.value);
        let hash = self.hasher.hash_one(&*value);
        if let Ok(found) = self.table.find_entry(hash, |&i| i == symbol.0) {
            found.remove();
        }
        self.free.push(symbol.0);
    }

    pub(crate) fn get(&self, symbol: Sym) -> &T {
        &self.slots[symbol.0 as usize].value
    }

    /// Number of distinct values held, the empty one not counted.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shared_and_vanish_with_their_last_holder() {
        let mut texts: Interner<str> = Interner::new();
        let a = texts.intern("example.com");
        let b = texts.intern("example.com");
        assert_eq!(a, b);
        assert_eq!(texts.intern(""), Sym::EMPTY);
        texts.release(a);
        assert_eq!(texts.find("example.com"), Some(a));
        texts.release(b);
        assert_eq!(texts.find("example.com"), None);
        assert_eq!(texts.len(), 0);
        let c = texts.intern("example.org");
        assert_eq!(texts.get(c), "example.org");
    }
}
