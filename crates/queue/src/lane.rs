//! A lane: the ACTIVE entries that agree on all queue fields and on priority, in 56 bytes, because a queue may have as
//! many lanes as entries.

use crate::entry::{Entry, NONE};
use crate::few::Few;
use crate::fields::LaneKey;
use crate::heap::Heap;
use crate::intern::Sym;
use crate::slab::Slab;
use crate::time::Time;

pub(crate) struct Lane {
    /// Place in the blockers' lists; kept until the lane is served, so that waiting is rewarded.
    pub(crate) wait: u64,
    pub(crate) key: LaneKey,
    pub(crate) line: Line,
    /// What stopped it.
    pub(crate) waits: Few,
    /// Counters whose room brought this lane back to the ready list.
    pub(crate) woken_by: Few,
    /// In `Scheduler::suspend_lists`: the last suspension that the lane was compared with, then those that concern it.
    pub(crate) suspends: Sym,
    /// Neighbours in the ready list.
    before: u32,
    behind: u32,
    pub(crate) priority: u8,
    pub(crate) is_ready: bool,
}

impl Lane {
    pub(crate) fn new(key: LaneKey, priority: u8, wait: u64) -> Lane {
        Lane {
            wait,
            key,
            line: Line::default(),
            waits: Few::default(),
            woken_by: Few::default(),
            suspends: Sym::EMPTY,
            before: NONE,
            behind: NONE,
            priority,
            is_ready: false,
        }
    }
}

/// Lanes to be looked at, in turn.
pub(crate) struct Ready {
    first: u32,
    last: u32,
    len: usize,
}

impl Ready {
    pub(crate) fn new() -> Ready {
        Ready { first: NONE, last: NONE, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts a lane that is not ready behind all others.
    pub(crate) fn push(&mut self, lane: u32, lanes: &mut Slab<Lane>) {
        let record = &mut lanes[lane];
        record.is_ready = true;
        (record.before, record.behind) = (self.last, NONE);
        match lanes.get_mut(self.last) {
            Some(last) => last.behind = lane,
            None => self.first = lane,
        }
        self.last = lane;
        self.len += 1;
    }

    pub(crate) fn pop(&mut self, lanes: &mut Slab<Lane>) -> Option<u32> {
        let first = Some(self.first).filter(|&first| first != NONE)?;
        self.remove(first, lanes);
        Some(first)
    }

    /// Takes out a lane, if it is ready.
    pub(crate) fn remove(&mut self, lane: u32, lanes: &mut Slab<Lane>) {
        let record = &mut lanes[lane];
        if !std::mem::replace(&mut record.is_ready, false) {
            return;
        }
        let (before, behind) = (record.before, record.behind);
        match lanes.get_mut(before) {
            Some(neighbour) => neighbour.behind = behind,
            None => self.first = behind,
        }
        match lanes.get_mut(behind) {
            Some(neighbour) => neighbour.before = before,
            None => self.last = before,
        }
        self.len -= 1;
    }

    /// The lanes in turn.
    pub(crate) fn iter<'l>(&self, lanes: &'l Slab<Lane>) -> impl Iterator<Item = u32> + 'l {
        let mut next = self.first;
        std::iter::from_fn(move || {
            let lane = next;
            next = lanes.get(lane)?.behind;
            Some(lane)
        })
    }
}

/// The entries of a lane, first due first. One alone is its key; more are a heap in [`Heaps`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line(u32);

const HEAP: u32 = 1 << 31;

impl Default for Line {
    fn default() -> Line {
        Line(NONE)
    }
}

/// The entries of lanes with several.
pub(crate) struct Heaps {
    heaps: Slab<Heap>,
}

impl Heaps {
    pub(crate) fn new() -> Heaps {
        Heaps { heaps: Slab::new() }
    }

    /// Adds an entry, which is due at its `retry_at`.
    pub(crate) fn push(&mut self, line: &mut Line, entry: u32, entries: &mut Slab<Entry>) {
        if *line == Line::default() {
            *line = Line(entry);
            entries[entry].position = 0;
            return;
        }
        if line.0 & HEAP == 0 {
            let mut heap = Heap::default();
            heap.push(entries[line.0].retry_at, line.0, entries);
            match self.heaps.insert(heap) {
                Ok(key) => *line = Line(HEAP | key),
                Err(_) => {
                    unreachable!("one at most for each lane, and of lanes there are fewer than entries")
                }
            }
        }
        let due = entries[entry].retry_at;
        self.heaps[line.0 & !HEAP].push(due, entry, entries);
    }

    pub(crate) fn pop(&mut self, line: &mut Line, entries: &mut Slab<Entry>) -> Option<u32> {
        let first = self.first(*line)?;
        self.remove(line, first, entries);
        Some(first)
    }

    /// Takes out an entry; false when it is not there.
    pub(crate) fn remove(&mut self, line: &mut Line, entry: u32, entries: &mut Slab<Entry>) -> bool {
        if line.0 == entry {
            *line = Line::default();
            return true;
        }
        if *line == Line::default() || line.0 & HEAP == 0 {
            return false;
        }
        let key = line.0 & !HEAP;
        let heap = &mut self.heaps[key];
        let removed = heap.remove(entry, entries);
        if heap.len() == 1
            && let Some((_, last)) = heap.first()
        {
            *line = Line(last);
            self.heaps.remove(key);
        }
        removed
    }

    pub(crate) fn len(&self, line: Line) -> usize {
        match self.heap(line) {
            Some(heap) => heap.len(),
            None => usize::from(line != Line::default()),
        }
    }

    /// How many go before the one at this place. Costs time in proportion to the lane.
    pub(crate) fn ahead_of(&self, line: Line, position: u32) -> usize {
        self.heap(line).map_or(0, |heap| heap.ahead_of(position))
    }

    pub(crate) fn iter(&self, line: Line) -> impl Iterator<Item = u32> + '_ {
        let heap = self.heap(line);
        let one = (heap.is_none() && line != Line::default()).then_some(line.0);
        one.into_iter().chain(heap.into_iter().flat_map(|heap| heap.iter().map(|(_, entry)| entry)))
    }

    /// The due times that heaps remember are those of their entries.
    pub(crate) fn verify(&self, line: Line, entries: &Slab<Entry>) -> bool {
        let mut items = self.heap(line).into_iter().flat_map(Heap::iter);
        items.all(|(due, entry): (Time, u32)| entries[entry].retry_at == due)
    }

    fn first(&self, line: Line) -> Option<u32> {
        match self.heap(line) {
            Some(heap) => heap.first().map(|(_, entry)| entry),
            None => (line != Line::default()).then_some(line.0),
        }
    }

    fn heap(&self, line: Line) -> Option<&Heap> {
        if line == Line::default() || line.0 & HEAP == 0 { None } else { self.heaps.get(line.0 & !HEAP) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_stays_small() {
        assert!(size_of::<Option<Lane>>() <= 56);
    }

    #[test]
    fn lanes_take_turns_and_leave_the_line_anywhere() {
        let mut lanes = Slab::new();
        let mut ready = Ready::new();
        let key = LaneKey::default();
        let keys: Vec<u32> = (0..5).map(|n| lanes.insert(Lane::new(key, 0, n)).ok().unwrap()).collect();
        keys.iter().for_each(|&lane| ready.push(lane, &mut lanes));
        for (take, left) in [(2, vec![0, 1, 3, 4]), (0, vec![1, 3, 4]), (4, vec![1, 3]), (4, vec![1, 3])] {
            ready.remove(take, &mut lanes);
            assert_eq!(ready.iter(&lanes).collect::<Vec<_>>(), left);
            assert_eq!(ready.len(), left.len());
        }
        ready.push(0, &mut lanes);
        assert_eq!(
            [ready.pop(&mut lanes), ready.pop(&mut lanes), ready.pop(&mut lanes)],
            [1, 3, 0].map(Some)
        );
        assert!(ready.pop(&mut lanes).is_none() && ready.is_empty());
    }
}
