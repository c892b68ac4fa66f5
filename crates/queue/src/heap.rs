//! Entries ordered by due time, first in first out among equals: a binary heap that tells each entry where it
//! stands, so that one can be taken out of the middle. 16 bytes per entry.

use crate::entry::Entry;
use crate::slab::Slab;
use crate::time::Time;

#[derive(Clone, Copy)]
struct Item {
    due: Time,
    /// Order of arrival among equal due times. It may wrap after 2^32 arrivals; the worst effect is one
    /// inversion between entries due in the same microsecond.
    arrival: u32,
    entry: u32,
}

#[derive(Default)]
pub(crate) struct Heap {
    items: Vec<Item>,
    arrivals: u32,
}

impl Heap {
    pub(crate) fn push(&mut self, due: Time, entry: u32, entries: &mut Slab<Entry>) {
        if self.items.is_empty() {
            self.arrivals = 0;
        }
        if self.items.len() == self.items.capacity() {
            // Most lanes hold one entry or a few, and the deferred are millions: a quarter of spare room, not a whole.
            self.items.reserve_exact(1 + self.items.len() / 4);
        }
        let arrival = self.arrivals;
        self.arrivals = self.arrivals.wrapping_add(1);
        self.items.push(Item { due, arrival, entry });
        self.up(self.items.len() - 1, entries);
    }

    pub(crate) fn first(&self) -> Option<(Time, u32)> {
        self.items.first().map(|item| (item.due, item.entry))
    }

    pub(crate) fn pop(&mut self, entries: &mut Slab<Entry>) -> Option<(Time, u32)> {
        let first = self.first()?;
        self.remove_at(0, entries);
        Some(first)
    }

    /// Takes out an entry by the position noted in it.
    pub(crate) fn remove(&mut self, entry: u32, entries: &mut Slab<Entry>) -> bool {
        let position = entries[entry].position as usize;
        if self.items.get(position).is_none_or(|item| item.entry != entry) {
            return false;
        }
        self.remove_at(position, entries);
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// How many go before the one at this place. Costs time in proportion to the heap.
    pub(crate) fn ahead_of(&self, position: u32) -> usize {
        let position = position as usize;
        if position >= self.items.len() {
            return 0;
        }
        (0..self.items.len()).filter(|&other| self.before(other, position)).count()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Time, u32)> + '_ {
        self.items.iter().map(|item| (item.due, item.entry))
    }

    fn remove_at(&mut self, position: usize, entries: &mut Slab<Entry>) {
        self.items.swap_remove(position);
        if position < self.items.len() {
            self.down(position, entries);
            self.up(position, entries);
        }
        if self.items.capacity() > 64 && self.items.len() < self.items.capacity() / 4 {
            self.items.shrink_to(self.items.len() * 2);
        }
    }

    fn before(&self, a: usize, b: usize) -> bool {
        let (a, b) = (&self.items[a], &self.items[b]);
        if broken!(LastInFirstOut) {
            return (a.due, a.arrival) > (b.due, b.arrival);
        }
        (a.due, a.arrival) < (b.due, b.arrival)
    }

    fn up(&mut self, mut position: usize, entries: &mut Slab<Entry>) {
        while position > 0 {
            let parent = (position - 1) / 2;
            if !self.before(position, parent) {
                break;
            }
            self.items.swap(position, parent);
            self.note(position, entries);
            position = parent;
        }
        self.note(position, entries);
    }

    fn down(&mut self, mut position: usize, entries: &mut Slab<Entry>) {
        loop {
            let mut least = position;
            for child in [2 * position + 1, 2 * position + 2] {
                if child < self.items.len() && self.before(child, least) {
                    least = child;
                }
            }
            if least == position {
                break;
            }
            self.items.swap(position, least);
            self.note(position, entries);
            position = least;
        }
        self.note(position, entries);
    }

    fn note(&self, position: usize, entries: &mut Slab<Entry>) {
        entries[self.items[position].entry].position = position as u32;
    }
}
