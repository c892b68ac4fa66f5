//! The insertion-ordered hash map behind arrays that are no lists.

use super::key::{Key, hash_str};
use crate::string::Str;
use crate::value::Value;
use hashbrown::{HashTable, hash_table};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Maps up to this many entries are searched linearly.
pub(super) const LINEAR_MAX: usize = 8;

#[derive(Clone)]
pub(super) struct Entry {
    pub(super) key: Key,
    /// `Value::Undef` marks a removed entry.
    pub(super) value: Value,
}

/// Where an entry is; the hash beside it lets the table grow without a look at the entries.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    hash: u32,
    at: u32,
}

#[derive(Clone)]
pub(super) struct Map {
    pub(super) entries: Vec<Entry>,
    pub(super) live: usize,
    /// Made by the first search in a map that is too long for a linear one; many maps are only walked.
    pub(super) index: OnceLock<HashTable<Slot>>,
    pub(super) next: i64,
    pub(super) next_stale: bool,
}

impl Map {
    /// A map of entries with distinct keys.
    pub(super) fn from_entries(entries: Vec<Entry>) -> Map {
        let next = entries.iter().filter_map(|e| e.key.as_int()).max().map_or(0, |n| (n + 1).max(0));
        Map { live: entries.len(), entries, index: OnceLock::new(), next, next_stale: false }
    }

    pub(super) fn from_list(list: Vec<Value>) -> Map {
        let mut entries = Vec::with_capacity(list.len() + 1);
        let keys = (0..).map(Key::Int);
        entries.extend(list.into_iter().zip(keys).map(|(value, key)| Entry { key, value }));
        Map {
            live: entries.len(),
            next: entries.len() as i64,
            entries,
            index: OnceLock::new(),
            next_stale: false,
        }
    }

    /// The table to search with; none while a linear search is quicker.
    #[inline]
    pub(super) fn index(&self) -> Option<&HashTable<Slot>> {
        match self.index.get() {
            None if self.entries.len() > LINEAR_MAX => Some(self.index.get_or_init(|| self.build_index())),
            table => table,
        }
    }

    #[cold]
    pub(super) fn build_index(&self) -> HashTable<Slot> {
        let mut table = HashTable::with_capacity(self.entries.len() + 1);
        for (at, entry) in self.entries.iter().enumerate() {
            if !matches!(entry.value, Value::Undef) {
                let hash = entry.key.hash();
                table.insert_unique(spread(hash), Slot { hash, at: at as u32 }, |s: &Slot| spread(s.hash));
            }
        }
        table
    }

    #[inline]
    pub(super) fn find(&self, key: &Key) -> Option<usize> {
        if let Key::Val(Value::Str(s)) = key {
            return self.find_str(s);
        }
        let Some(table) = self.index() else {
            return self.entries.iter().position(|e| !matches!(e.value, Value::Undef) && e.key.same(key));
        };
        let hash = key.hash();
        table
            .find(spread(hash), |s| s.hash == hash && self.entries[s.at as usize].key.same(key))
            .map(|s| s.at as usize)
    }

    /// The entry `spot` names, if it is the one of `key`.
    #[inline(always)]
    pub(super) fn at_spot(&self, key: &Str, spot: &AtomicU32) -> Option<usize> {
        let at = spot.load(Relaxed) as usize;
        match self.entries.get(at) {
            Some(Entry { key: Key::Val(Value::Str(s)), value, .. })
                if s == key && !matches!(value, Value::Undef) =>
            {
                Some(at)
            }
            _ => None,
        }
    }

    /// Finds `key` and leaves its place in `spot`.
    #[inline(never)]
    pub(super) fn find_spot(&self, key: &Str, spot: &AtomicU32) -> Option<usize> {
        let at = self.find_str(key)?;
        spot.store(u32::try_from(at).unwrap_or(u32::MAX), Relaxed);
        Some(at)
    }

    #[inline]
    pub(super) fn find_str(&self, key: &Str) -> Option<usize> {
        if self.index().is_some() {
            return self.find_bytes(key.as_bytes());
        }
        self.entries.iter().position(|e| {
            matches!(&e.key, Key::Val(Value::Str(s)) if s == key) && !matches!(e.value, Value::Undef)
        })
    }

    #[inline]
    pub(super) fn find_bytes(&self, key: &[u8]) -> Option<usize> {
        let same = |e: &Entry| matches!(&e.key, Key::Val(Value::Str(s)) if s.as_bytes() == key);
        let Some(table) = self.index() else {
            return self.entries.iter().position(|e| same(e) && !matches!(e.value, Value::Undef));
        };
        let hash = hash_str(key);
        table
            .find(spread(hash), |s| s.hash == hash && same(&self.entries[s.at as usize]))
            .map(|s| s.at as usize)
    }

    pub(super) fn insert(&mut self, key: Key, value: Value) -> Option<Value> {
        if self.index().is_none() {
            if let Some(i) = self.find(&key) {
                return Some(std::mem::replace(&mut self.entries[i].value, value));
            }
        } else if let Some(table) = self.index.get_mut() {
            let hash = key.hash();
            let entries = &mut self.entries;
            let found = table.entry(
                spread(hash),
                |s| s.hash == hash && entries[s.at as usize].key.same(&key),
                |s| spread(s.hash),
            );
            match found {
                hash_table::Entry::Occupied(slot) => {
                    let at = slot.get().at as usize;
                    return Some(std::mem::replace(&mut self.entries[at].value, value));
                }
                hash_table::Entry::Vacant(place) => {
                    place.insert(Slot { hash, at: entries.len() as u32 });
                }
            }
        }
        if let Key::Int(n) = key
            && !self.next_stale
            && n >= self.next
        {
            self.next = n + 1;
        }
        self.entries.push(Entry { key, value });
        self.live += 1;
        if self.entries.len() > LINEAR_MAX && self.index.get().is_none() {
            self.compact();
        }
        None
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Value> {
        let i = self.find(key)?;
        if let Some(table) = self.index.get_mut() {
            let hash = self.entries[i].key.hash();
            if let Ok(slot) = table.find_entry(spread(hash), |s| s.at as usize == i) {
                slot.remove();
            }
        }
        if key.as_int().is_some_and(|n| n + 1 >= self.next) {
            self.next_stale = true;
        }
        self.live -= 1;
        let last = i + 1 == self.entries.len();
        let old = if last {
            self.entries.pop().map(|e| e.value)
        } else {
            self.entries[i].key = Key::Int(0);
            Some(std::mem::replace(&mut self.entries[i].value, Value::Undef))
        };
        while self.entries.last().is_some_and(|e| matches!(e.value, Value::Undef)) {
            self.entries.pop();
        }
        if self.entries.len() > 32 && self.live * 2 < self.entries.len() {
            self.compact();
        }
        old
    }

    /// Drops the holes that removals left. Amortised O(1) per removal.
    pub(super) fn compact(&mut self) {
        if self.live == self.entries.len() {
            return;
        }
        self.entries.retain(|e| !matches!(e.value, Value::Undef));
        // The next search makes a new one.
        self.index = OnceLock::new();
    }

    pub(super) fn next_index(&mut self) -> i64 {
        if self.next_stale {
            let max = self
                .entries
                .iter()
                .filter(|e| !matches!(e.value, Value::Undef))
                .filter_map(|e| e.key.as_int())
                .max();
            self.next = max.map_or(0, |n| n + 1).max(0);
            self.next_stale = false;
        }
        self.next
    }
}

/// The table takes the place from the lower bits, where neighbours stay neighbours, and a check from the upper ones.
#[inline]
fn spread(hash: u32) -> u64 {
    u64::from(hash) | (u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15) & 0xffff_ffff_0000_0000)
}
