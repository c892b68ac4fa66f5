//! The queue itself: entries in, work out, outcomes back.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;
use uuid::Uuid;

use crate::counters::{Counters, DeliveryCounters, Quota};
use crate::entry::{EntryKey, NONE, NewEntry, NewMessage, Resolved, Store};
use crate::error::QueueError;
use crate::fields::LaneKey;
use crate::heap::Heap;
use crate::intern::Sym;
use crate::records::{ENTRIES_MAX, check_entry};
use crate::retry::DELAY_MAX;
use crate::rng::Rng;
use crate::sched::Scheduler;
use crate::state::{Phase, State, WorkInfo};
use crate::time::Time;
use crate::view::EntryView;
use crate::work::{AttemptClass, Outcome, Pick, Settings, Settled, Ticket, Work, Working};

/// The queue. Single owner, no clock, no files: see the crate documentation.
pub struct Queue {
    pub(crate) store: Store,
    pub(crate) by_id: HashTable<u32>,
    pub(crate) hasher: DefaultHashBuilder,
    pub(crate) sched: Scheduler,
    /// Deferred entries by priority.
    pub(crate) deferred: [Heap; 2],
    pub(crate) working: HashMap<u32, Working>,
    serial: u64,
    predelivering: u32,
    predelivery_max: u32,
    pub(crate) quotas: HashMap<Sym, Quota>,
    /// Entries by state.
    pub(crate) sizes: [u64; 6],
    pub(crate) delivery: DeliveryCounters,
    pub(crate) rng: Rng,
}

impl Queue {
    /// An empty queue.
    pub fn new(settings: Settings) -> Queue {
        Queue {
            store: Store::new(),
            by_id: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            sched: Scheduler::new(settings.attempts_max),
            deferred: Default::default(),
            working: HashMap::new(),
            serial: 0,
            predelivering: 0,
            predelivery_max: settings.predelivery_max,
            quotas: HashMap::new(),
            sizes: [0; 6],
            delivery: DeliveryCounters::default(),
            rng: Rng::new(settings.seed),
        }
    }

    /// Changes the limits; work in progress goes on.
    pub fn set_limits(&mut self, predelivery_max: u32, attempts_max: u32) {
        self.predelivery_max = predelivery_max;
        self.sched.running_max = attempts_max;
    }

    /// Takes in a message: just committed, or loaded with its retry state.
    pub fn insert(
        &mut self,
        now: Time,
        message: NewMessage,
        entries: Vec<NewEntry>,
    ) -> Result<Vec<EntryKey>, QueueError> {
        self.check_new(&message, &entries)?;
        let id = message.id;
        let count = u32::try_from(entries.len()).ok().and_then(NonZeroU32::new).ok_or(QueueError::Full)?;
        let record = self.message_record(message, count);
        let owner = match self.store.messages.insert(record) {
            Ok(owner) => owner,
            Err(record) => {
                self.release_message(&record);
                return Err(QueueError::Full);
            }
        };
        let (messages, hasher) = (&self.store.messages, &self.hasher);
        self.by_id.insert_unique(hasher.hash_one(id), owner, |&m| hasher.hash_one(messages[m].id));
        let mut keys = Vec::with_capacity(entries.len());
        for new in entries {
            keys.push(self.insert_entry(now, owner, new));
        }
        // Inserting puts each entry in front; the chain is to run in the order given, which is the order in
        // which entries usually go, so that taking one out of the chain is quick.
        let mut next = NONE;
        for key in keys.iter().rev() {
            self.store.entries[key.index].next = next;
            next = key.index;
        }
        self.store.messages[owner].first = next;
        Ok(keys)
    }

    /// Adds an entry to a message that is there (a duplicate under a new queue id).
    pub fn insert_into(&mut self, now: Time, message: Uuid, entry: NewEntry) -> Result<EntryKey, QueueError> {
        let owner = self.find_message(message).ok_or(QueueError::NoSuchEntry)?;
        if self.chain(owner).any(|index| self.store.queue_id(&self.store.entries[index]) == entry.queue_id) {
            return Err(QueueError::DuplicateQueueId { message, queue_id: entry.queue_id });
        }
        check_entry(&entry)?;
        if self.store.entries.len() + 1 >= ENTRIES_MAX {
            return Err(QueueError::Full);
        }
        let message = &mut self.store.messages[owner];
        message.entries = message.entries.saturating_add(1);
        Ok(self.insert_entry(now, owner, entry))
    }

    /// Hands out up to `budget` pieces of work that are due: post- and pre-deliveries first, then attempts.
    pub fn poll(&mut self, now: Time, budget: usize, work: &mut Vec<Work>) {
        self.sched.advance(&mut self.store, now);
        self.expire_dynamic_conditions(now);
        let mut left = budget;
        while left > 0 && self.predelivering < self.predelivery_max {
            let Some(entry) = self.pop_due(now) else { break };
            self.sizes[State::Defer as usize] -= 1;
            left -= 1;
            if self.store.entries[entry].delivered && !broken!(DeliveredAgain) {
                work.push(Work::Postdelivery(self.start_work(now, entry, Phase::Postdelivery)));
            } else {
                work.push(Work::Predelivery(self.start_work(now, entry, Phase::Predelivery)));
            }
        }
        while left > 0 && self.sched.has_ready() {
            let Some(picked) = self.sched.pick(&mut self.store, now, &mut self.rng) else { break };
            self.sizes[State::Active as usize] -= 1;
            left -= 1;
            let ticket = self.start_work(now, picked.entry, Phase::Delivery);
            if let Some(working) = self.working.get_mut(&picked.entry) {
                working.attempt = Some(picked.attempt);
                working.applied = picked.applied.clone();
            }
            work.push(Work::Deliver(Pick {
                ticket,
                local_ip: picked.local_ip,
                local_index: picked.local_index,
                applied: picked.applied,
            }));
        }
    }

    /// When [`Queue::poll`] may have something to do without any other call before. `None`: only after one.
    pub fn next_wake(&self, now: Time) -> Option<Time> {
        if self.sched.has_ready() && self.sched.has_room() {
            return Some(now);
        }
        let deferred = self.deferred.iter().filter_map(|heap| heap.first()).map(|(due, _)| due).min();
        let deferred = deferred.filter(|_| self.predelivering < self.predelivery_max);
        let timer = self.sched.timers.first().map(|&(at, _)| at);
        [deferred, timer, self.sched.dynamic_expiry].into_iter().flatten().min().map(|at| at.max(now))
    }

    /// Pre-delivery and DNS are over: the entry goes to its lane (or to UPDATE when frozen).
    pub fn resolved(
        &mut self,
        now: Time,
        ticket: Ticket,
        resolved: &Resolved,
    ) -> Result<Settled, QueueError> {
        self.check_ticket(&ticket)?;
        let entry = ticket.key.index;
        self.store.set_resolved(entry, resolved);
        let due = self.store.entries[entry].retry_at;
        self.activate(now, entry, resolved, due)
    }

    /// The attempt failed before the receiver said anything: back to ACTIVE with the next candidate, no retry
    /// counted.
    pub fn failover(
        &mut self,
        now: Time,
        ticket: Ticket,
        resolved: &Resolved,
    ) -> Result<Settled, QueueError> {
        self.sched.counters.putback += 1;
        self.resolved(now, ticket, resolved)
    }

    /// The attempt has ended: its counters are released; post-delivery comes next.
    pub fn attempt_done(
        &mut self,
        now: Time,
        ticket: &Ticket,
        class: AttemptClass,
    ) -> Result<(), QueueError> {
        self.check_ticket(ticket)?;
        match class {
            AttemptClass::Delivered => {
                self.delivery.delivered += 1;
                self.store.entries[ticket.key.index].delivered = true;
            }
            AttemptClass::Delayed => self.delivery.delayed += 1,
            AttemptClass::Failed => self.delivery.failed += 1,
        }
        self.begin_postdelivery(now, ticket)
    }

    /// Post-delivery begins (after an attempt, or straight from pre-delivery).
    pub fn begin_postdelivery(&mut self, now: Time, ticket: &Ticket) -> Result<(), QueueError> {
        self.check_ticket(ticket)?;
        let entry = ticket.key.index;
        self.end_phase(now, entry);
        self.set_phase(now, entry, Phase::Postdelivery);
        Ok(())
    }

    /// The attempt uses a connection that was open already: its connect intervals are not charged.
    pub fn connection_reused(&mut self, ticket: &Ticket, now: Time) -> Result<(), QueueError> {
        self.check_ticket(ticket)?;
        let attempt = self.working.get(&ticket.key.index).and_then(|working| working.attempt.as_ref());
        let Some(attempt) = attempt else { return Ok(()) };
        let started = attempt.started;
        let held: Vec<u32> = attempt.held.iter().map(|held| held.bucket).collect();
        for bucket in held {
            self.sched.buckets[bucket].connection_reused(started);
            self.sched.kick(&mut self.store, bucket, now);
        }
        Ok(())
    }

    /// Work has ended.
    pub fn settle(&mut self, now: Time, ticket: Ticket, outcome: Outcome) -> Result<Settled, QueueError> {
        self.check_ticket(&ticket)?;
        let entry = ticket.key.index;
        if outcome == Outcome::Done {
            self.stop_work(now, entry);
            return Ok(Settled::Gone { message_gone: self.remove_entry(entry) });
        }
        let freezing = self.stop_work(now, entry);
        let mut hold = false;
        let mut due = now;
        match outcome {
            Outcome::Requeue(options) => {
                hold = options.hold;
                due = now.after(options.delay.min(DELAY_MAX));
                self.apply_requeue(entry, options);
            }
            Outcome::Relinquish => self.sched.counters.putback += 1,
            Outcome::Done => {}
        }
        // `delivered` stays: what a receiver has taken is never sent again, only its post-delivery is.
        self.store.entries[entry].retry_at = due;
        Ok(self.park(entry, freezing, hold))
    }

    /// A new ticket for an entry whose ticket was lost; the old one is void.
    pub fn reclaim(&mut self, key: EntryKey) -> Result<Ticket, QueueError> {
        self.store.live(key).ok_or(QueueError::NoSuchEntry)?;
        let working = self.working.get_mut(&key.index).ok_or(QueueError::StaleTicket(key.index))?;
        self.serial += 1;
        working.serial = self.serial;
        Ok(Ticket { key, serial: self.serial })
    }

    /// Keys of all working entries, for supervision.
    pub fn working_keys(&self) -> Vec<EntryKey> {
        self.working.keys().map(|&index| self.store.key(index)).collect()
    }

    /// Looks at an entry.
    pub fn entry(&self, key: EntryKey) -> Option<EntryView<'_>> {
        let entry = self.store.live(key)?;
        Some(EntryView::new(self, key.index, entry))
    }

    /// What a working entry is up to.
    pub fn work_info(&self, key: EntryKey) -> Option<WorkInfo> {
        self.store.live(key)?;
        let working = self.working.get(&key.index)?;
        Some(WorkInfo { phase: working.phase, since: working.since, freezing: working.freezing })
    }

    /// The entry with this written id.
    pub fn find(&self, message: Uuid, queue_id: u64) -> Option<EntryKey> {
        let owner = self.find_message(message)?;
        let index =
            self.chain(owner).find(|&index| self.store.queue_id(&self.store.entries[index]) == queue_id)?;
        Some(self.store.key(index))
    }

    /// Number of entries of a message; 0 when unknown.
    pub fn entry_count(&self, message: Uuid) -> usize {
        self.find_message(message).map_or(0, |owner| self.store.messages[owner].entries.get() as usize)
    }

    /// All entries of a message, in no particular order; empty when unknown.
    pub fn entries_of(&self, message: Uuid) -> Vec<EntryKey> {
        let Some(owner) = self.find_message(message) else { return Vec::new() };
        self.chain(owner).map(|index| self.store.key(index)).collect()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.store.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of messages.
    pub fn messages(&self) -> usize {
        self.store.messages.len()
    }

    /// Entries in a state.
    pub fn size(&self, state: State) -> u64 {
        self.sizes[state as usize]
    }

    /// Sets an entry's metadata, all of it; the ticket holder is the only one who may while it is working.
    pub fn set_metadata(
        &mut self,
        ticket: &Ticket,
        metadata: Vec<(String, String)>,
    ) -> Result<(), QueueError> {
        self.check_ticket(ticket)?;
        self.store.set_metadata(ticket.key.index, &metadata);
        Ok(())
    }

    /// Sets the metadata of a working entry by key, for the one who holds its ticket further up.
    pub fn replace_metadata(
        &mut self,
        key: EntryKey,
        metadata: Vec<(String, String)>,
    ) -> Result<(), QueueError> {
        self.store.live(key).ok_or(QueueError::NoSuchEntry)?;
        if !self.working.contains_key(&key.index) {
            return Err(QueueError::StaleTicket(key.index));
        }
        self.store.set_metadata(key.index, &metadata);
        Ok(())
    }

    /// Count and bytes under a quota name; zero if unknown.
    pub fn quota(&self, name: &str) -> Quota {
        let symbol = self.store.texts.find(name);
        symbol.and_then(|symbol| self.quotas.get(&symbol)).copied().unwrap_or_default()
    }

    /// The counters of this queue.
    pub fn counters(&self, now: Time) -> Counters {
        Counters::collect(self, now)
    }

    fn pop_due(&mut self, now: Time) -> Option<u32> {
        for heap in self.deferred.iter_mut().rev() {
            if heap.first().is_some_and(|(due, _)| due <= now) {
                return heap.pop(&mut self.store.entries).map(|(_, entry)| entry);
            }
        }
        None
    }

    /// The entry, in no list, becomes working. The caller has taken it out of the size of its state.
    pub(crate) fn start_work(&mut self, now: Time, entry: u32, phase: Phase) -> Ticket {
        self.serial += 1;
        let working = Working {
            serial: self.serial,
            phase,
            since: now,
            freezing: false,
            attempt: None,
            applied: Vec::new(),
        };
        self.working.insert(entry, working);
        self.store.entries[entry].state = phase.state();
        self.sizes[phase.state() as usize] += 1;
        self.predelivering += u32::from(phase == Phase::Predelivery);
        Ticket { key: self.store.key(entry), serial: self.serial }
    }

    fn set_phase(&mut self, now: Time, entry: u32, phase: Phase) {
        let Some(working) = self.working.get_mut(&entry) else { return };
        self.sizes[working.phase.state() as usize] -= 1;
        self.sizes[phase.state() as usize] += 1;
        working.phase = phase;
        working.since = now;
        self.store.entries[entry].state = phase.state();
    }

    /// Gives back what the current phase holds.
    fn end_phase(&mut self, now: Time, entry: u32) {
        let Some(working) = self.working.get_mut(&entry) else { return };
        if working.phase == Phase::Predelivery {
            self.predelivering -= 1;
        }
        if let Some(attempt) = working.attempt.take() {
            self.sched.finish(&mut self.store, attempt, now);
        }
    }

    /// The entry is no longer working and in no list; tells whether it was to be frozen.
    pub(crate) fn stop_work(&mut self, now: Time, entry: u32) -> bool {
        self.end_phase(now, entry);
        let Some(working) = self.working.remove(&entry) else { return false };
        self.sizes[working.phase.state() as usize] -= 1;
        working.freezing
    }

    fn activate(
        &mut self,
        now: Time,
        entry: u32,
        resolved: &Resolved,
        due: Time,
    ) -> Result<Settled, QueueError> {
        if self.stop_work(now, entry) {
            return Ok(self.park(entry, true, false));
        }
        let key = LaneKey::acquire(&mut self.store, entry, resolved);
        // A clock that was set back must not make it wait.
        self.store.entries[entry].retry_at = due.min(now);
        match self.sched.enqueue(&mut self.store, entry, key) {
            Ok(()) => {
                self.store.entries[entry].state = State::Active;
                self.sizes[State::Active as usize] += 1;
                Ok(Settled::Active)
            }
            Err(key) => {
                // As many lanes as the slab can number: the entry waits a minute instead.
                key.release(&mut self.store);
                self.store.entries[entry].retry_at = now.after(Duration::from_secs(60));
                Ok(self.park(entry, false, false))
            }
        }
    }

    /// Puts an entry that is in no list into UPDATE, HOLD or DEFER (at its `retry_at`).
    pub(crate) fn park(&mut self, index: u32, update: bool, hold: bool) -> Settled {
        let state = match (update && !broken!(FreezeForgotten), hold) {
            (true, _) => State::Update,
            (false, true) => State::Hold,
            (false, false) => State::Defer,
        };
        self.store.clear_resolved(index);
        let entry = &mut self.store.entries[index];
        entry.state = state;
        let due = entry.retry_at;
        self.sizes[state as usize] += 1;
        match state {
            State::Update => Settled::Frozen,
            State::Hold => Settled::Held,
            _ => {
                let heap = &mut self.deferred[usize::from(entry.priority.min(1))];
                heap.push(due, index, &mut self.store.entries);
                Settled::Deferred(due)
            }
        }
    }

    /// Takes an entry that is not working out of its list and out of the size of its state.
    pub(crate) fn unpark(&mut self, now: Time, index: u32) {
        let entry = &self.store.entries[index];
        let state = entry.state;
        match state {
            State::Active => self.sched.dequeue(&mut self.store, index, now),
            State::Defer => {
                let heap = &mut self.deferred[usize::from(entry.priority.min(1))];
                heap.remove(index, &mut self.store.entries);
            }
            State::Hold | State::Update => {}
            State::Unknown | State::Sending => return,
        }
        self.sizes[state as usize] -= 1;
    }

    pub(crate) fn check_ticket(&self, ticket: &Ticket) -> Result<(), QueueError> {
        let working = self.working.get(&ticket.key.index);
        match working {
            Some(working) if working.serial == ticket.serial => Ok(()),
            _ => Err(QueueError::StaleTicket(ticket.key.index)),
        }
    }
}
