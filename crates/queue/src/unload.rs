//! Taking messages out of memory, in slices: their files stay and are somebody else's afterwards.

use hashbrown::HashSet;
use uuid::Uuid;

use crate::condition::Condition;
use crate::entry::{NewEntry, NewMessage};
use crate::queue::Queue;
use crate::scan::Scan;
use crate::state::{State, States};
use crate::time::Time;

/// A message taken out of memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unloaded {
    /// Its facts.
    pub message: NewMessage,
    /// Its entries as they were.
    pub entries: Vec<NewEntry>,
}

/// What came of an unload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnloadReport {
    /// Messages no longer in memory.
    pub unloaded: Vec<Unloaded>,
    /// Messages left because only some entries match.
    pub partial: u64,
    /// Messages left because entries are being worked on.
    pub working: u64,
}

/// An unload in progress. Call [`UnloadRun::step`] until it says true.
pub struct UnloadRun {
    scan: Scan,
    partial: bool,
    freeze: bool,
    seen: HashSet<Uuid>,
    found: Vec<Uuid>,
    scanned: bool,
    next: usize,
    report: UnloadReport,
}

impl UnloadRun {
    /// Takes messages out whose entries all match (any of them with `partial`). With `freeze` the working entries of
    /// the others are marked. No state given stands for ACTIVE, DEFER and HOLD.
    pub fn new(queue: &Queue, now: Time, mut condition: Condition, partial: bool, freeze: bool) -> UnloadRun {
        // Working entries are looked at as well: they decide whether a message can go.
        let asked = &mut condition.states.states;
        if asked.is_empty() {
            *asked = States::QUEUED;
        }
        *asked = asked.with(State::Unknown).with(State::Sending);
        UnloadRun {
            scan: Scan::new(queue, now, condition, now.0 as u64),
            partial,
            freeze,
            seen: HashSet::new(),
            found: Vec::new(),
            scanned: false,
            next: 0,
            report: UnloadReport::default(),
        }
    }

    /// Looks at up to `budget` entries, or takes out about as many; true when done. What was found is looked at again
    /// when its turn comes: it may have changed between two slices.
    pub fn step(&mut self, queue: &mut Queue, now: Time, budget: usize) -> bool {
        if !self.scanned {
            let UnloadRun { scan, seen, found, .. } = self;
            self.scanned = scan.step(queue, budget, |view| {
                let id = view.message_id();
                if seen.insert(id) {
                    found.push(id);
                }
            });
            return false;
        }
        let mut left = budget.max(1);
        while left > 0 {
            let Some(&id) = self.found.get(self.next) else { return true };
            self.next += 1;
            left = left.saturating_sub(queue.entry_count(id).max(1));
            self.message(queue, now, id);
        }
        false
    }

    /// What came of it.
    pub fn finish(self) -> UnloadReport {
        self.report
    }

    fn message(&mut self, queue: &mut Queue, now: Time, id: Uuid) {
        let Some(owner) = queue.find_message(id) else { return };
        let entries: Vec<u32> = queue.chain(owner).collect();
        let matching = self.scan.count_matches(queue, &entries);
        if matching == 0 {
            // It moved between two slices.
            return;
        }
        if matching < entries.len() && !self.partial {
            self.report.partial += 1;
            return;
        }
        if entries.iter().any(|&index| queue.store.entries[index].state.is_working()) {
            self.report.working += 1;
            for index in entries {
                if let Some(working) = queue.working.get_mut(&index).filter(|_| self.freeze) {
                    working.freezing = true;
                }
            }
            return;
        }
        self.report.unloaded.push(queue.unload_message(now, entries));
    }
}

impl Queue {
    /// An unload in one go; see [`UnloadRun`].
    pub fn unload(&mut self, now: Time, condition: Condition, partial: bool, freeze: bool) -> UnloadReport {
        let mut run = UnloadRun::new(self, now, condition, partial, freeze);
        while !run.step(self, now, usize::MAX) {}
        run.finish()
    }

    fn unload_message(&mut self, now: Time, entries: Vec<u32>) -> Unloaded {
        let mut unloaded = Unloaded { message: NewMessage::default(), entries: Vec::new() };
        for index in entries {
            if let Some(view) = self.entry(self.store.key(index)) {
                unloaded.message = view.to_new_message();
                unloaded.entries.push(view.to_new());
            }
            self.unpark(now, index);
            self.remove_entry(index);
        }
        unloaded
    }
}
