//! Updates by operators: delete, bounce, move, change, duplicate, freeze, unload; in slices.

use std::time::Duration;

use crate::condition::{Condition, TimeValue};
use crate::entry::EntryKey;
use crate::error::QueueError;
use crate::queue::Queue;
use crate::retry::DELAY_MAX;
use crate::scan::Scan;
use crate::state::{Phase, State, States};
use crate::time::Time;
use crate::work::Ticket;

/// What is done with the entries, besides changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Task {
    /// Post-delivery with a pending action of the caller's (delete or bounce), then gone.
    Release,
    /// Due now.
    Active,
    /// To DEFER.
    Defer {
        /// Next attempt.
        at: TimeValue,
        /// Plus a uniform part of this.
        jitter: Duration,
    },
    /// To HOLD.
    Hold,
    /// To UPDATE.
    Freeze,
}

/// New parts of an address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AddressChange {
    /// New local part.
    pub localpart: Option<String>,
    /// New domain.
    pub domain: Option<String>,
}

impl AddressChange {
    fn is_empty(&self) -> bool {
        self.localpart.is_none() && self.domain.is_none()
    }
}

/// New values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Transport.
    pub transport_id: Option<String>,
    /// Job.
    pub job_id: Option<String>,
    /// Metadata keys to add or replace.
    pub metadata: Vec<(String, String)>,
    /// Priority.
    pub priority: Option<u8>,
    /// Retry count.
    pub retry_count: Option<u32>,
    /// Sender.
    pub sender: AddressChange,
    /// Recipient.
    pub recipient: AddressChange,
}

impl Changes {
    fn is_empty(&self) -> bool {
        *self == Changes::default()
    }

    /// Whether the next hop or the queue fields may differ afterwards.
    fn reroutes(&self) -> bool {
        self.transport_id.is_some() || self.job_id.is_some() || !self.recipient.is_empty()
    }
}

/// An update.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UpdateRequest {
    /// Which entries. No state given stands for ACTIVE, DEFER and HOLD.
    pub condition: Condition,
    /// What to do.
    pub task: Option<Task>,
    /// What to change.
    pub changes: Changes,
    /// Mark matching working entries: they go to UPDATE when their work ends.
    pub freeze: bool,
    /// Copy under new queue ids and act on the copies.
    pub duplicate: bool,
    /// Stop after so many, oldest first; 0 no limit.
    pub limit: u64,
}

/// What came of it. Everything listed is to be persisted before the answer is given.
#[derive(Debug, Default)]
pub struct UpdateReport {
    /// Entries changed.
    pub affected: u64,
    /// Entries that matched but are being worked on (marked, when asked to freeze).
    pub working: u64,
    /// Entries with new values or another state, still in the queue.
    pub changed: Vec<EntryKey>,
    /// Copies made, changed but not yet in the queue. Once a copy is stored, [`Queue::finish_duplicate`] lets it in.
    pub created: Vec<Duplicate>,
    /// Entries that go: run post-delivery with the pending action, then settle.
    pub released: Vec<Ticket>,
}

/// A copy of an entry that is not in the queue yet.
#[derive(Debug)]
pub struct Duplicate {
    /// The right to let it in.
    pub ticket: Ticket,
    /// Number of the entry it was copied from, within the same message.
    pub original: u64,
    /// Where that one was.
    pub was: State,
}

/// An update in progress. Call [`UpdateRun::step`] until it says true.
pub struct UpdateRun {
    request: UpdateRequest,
    scan: Scan,
    /// Matches with their age, to be acted on after the scan.
    found: Vec<(Time, EntryKey)>,
    scanned: bool,
    next: usize,
    report: UpdateReport,
}

impl UpdateRun {
    /// Prepares an update.
    pub fn new(queue: &Queue, now: Time, mut request: UpdateRequest) -> Result<UpdateRun, QueueError> {
        if request.task.is_none() && request.changes.is_empty() && !request.duplicate {
            return Err(QueueError::NothingToDo);
        }
        let states = &mut request.condition.states;
        if states.states.is_empty() && states.freezing.is_none() {
            states.states = States::QUEUED;
        }
        let scan = Scan::new(queue, now, request.condition.clone(), now.0 as u64);
        Ok(UpdateRun {
            request,
            scan,
            found: Vec::new(),
            scanned: false,
            next: 0,
            report: UpdateReport::default(),
        })
    }

    /// Looks at or changes up to `budget` entries; true when done.
    pub fn step(&mut self, queue: &mut Queue, now: Time, budget: usize) -> bool {
        if !self.scanned {
            let found = &mut self.found;
            self.scanned = self.scan.step(queue, budget, |view| found.push((view.received(), view.key())));
            if self.scanned && self.request.limit > 0 {
                self.found.sort_unstable();
            }
            return false;
        }
        let mut left = budget.max(1);
        while left > 0 {
            let full = self.request.limit > 0 && self.report.affected >= self.request.limit;
            let Some(&(_, key)) = self.found.get(self.next).filter(|_| !full) else { return true };
            self.next += 1;
            left -= 1;
            self.apply(queue, now, key);
        }
        false
    }

    /// What came of it.
    pub fn finish(self) -> UpdateReport {
        self.report
    }

    fn apply(&mut self, queue: &mut Queue, now: Time, key: EntryKey) {
        let Some(entry) = queue.store.live(key) else { return };
        if entry.state.is_working() {
            self.report.working += 1;
            if self.request.freeze
                && let Some(working) = queue.working.get_mut(&key.index)
            {
                working.freezing = true;
            }
            return;
        }
        let wanted = self.request.condition.states.states;
        if !wanted.is_empty() && !wanted.contains(entry.state) {
            // It moved between two slices.
            return;
        }
        if self.request.duplicate {
            if let Some(copy) = queue.duplicate(now, key, &self.request.changes) {
                self.report.affected += 1;
                self.report.created.push(copy);
            }
            return;
        }
        self.report.affected += 1;
        match queue.update_entry(now, key.index, self.request.task, &self.request.changes) {
            Some(ticket) => self.report.released.push(ticket),
            None => self.report.changed.push(key),
        }
    }
}

/// A search for ACTIVE entries that have grown too old while they waited behind limits and suspensions. To be
/// run every minute or so.
#[derive(Debug, Default)]
pub struct AgedRun {
    cursor: u32,
}

impl AgedRun {
    /// Looks at up to `budget` entries; true when all have been seen. Tickets of those whose age has reached the
    /// limit of their transport go to `aged`: run post-delivery (expired), then settle.
    pub fn step(
        &mut self,
        queue: &mut Queue,
        now: Time,
        age_max: impl Fn(&str) -> Option<Duration>,
        budget: usize,
        aged: &mut Vec<Ticket>,
    ) -> bool {
        let end = queue.store.entries.bound() as u32;
        let stop = end.min(self.cursor.saturating_add(u32::try_from(budget.max(1)).unwrap_or(u32::MAX)));
        for index in self.cursor..stop {
            let Some(entry) = queue.store.entries.get(index) else { continue };
            if entry.state != State::Active {
                continue;
            }
            let age = now.since(queue.store.messages[entry.message].received);
            let limit = age_max(queue.store.texts.get(entry.transport_id));
            if limit.is_some_and(|limit| age >= limit) {
                queue.unpark(now, index);
                aged.push(queue.start_work(now, index, Phase::Postdelivery));
            }
        }
        self.cursor = stop;
        stop >= end
    }
}

impl Queue {
    /// An update in one go.
    pub fn update(&mut self, now: Time, request: UpdateRequest) -> Result<UpdateReport, QueueError> {
        let mut run = UpdateRun::new(self, now, request)?;
        while !run.step(self, now, usize::MAX) {}
        Ok(run.finish())
    }

    /// Changes one entry that is not being worked on.
    pub fn update_one(
        &mut self,
        now: Time,
        key: EntryKey,
        task: Option<Task>,
        changes: &Changes,
    ) -> Result<Option<Ticket>, QueueError> {
        let entry = self.store.live(key).ok_or(QueueError::NoSuchEntry)?;
        if entry.state.is_working() {
            return Err(QueueError::Working);
        }
        Ok(self.update_entry(now, key.index, task, changes))
    }

    /// The entry is not working. The answer is its ticket when it is to be released.
    fn update_entry(
        &mut self,
        now: Time,
        index: u32,
        task: Option<Task>,
        changes: &Changes,
    ) -> Option<Ticket> {
        let entry = &self.store.entries[index];
        let state = entry.state;
        let stays_resolved =
            state == State::Active && matches!(task, None | Some(Task::Active)) && !changes.reroutes();
        let lane_key = stays_resolved.then(|| self.sched.lanes[entry.lane].key);
        if let Some(key) = &lane_key {
            key.acquire_again(&mut self.store);
        }
        self.unpark(now, index);
        self.apply_changes(index, changes);
        match task {
            Some(Task::Release) => return Some(self.start_work(now, index, Phase::Postdelivery)),
            Some(Task::Active) => self.store.entries[index].retry_at = now,
            Some(Task::Defer { at, jitter }) => self.defer(now, index, at, jitter),
            Some(Task::Hold | Task::Freeze) | None => {}
        }
        if let Some(key) = lane_key {
            match self.sched.enqueue(&mut self.store, index, key) {
                Ok(()) => {
                    self.sizes[State::Active as usize] += 1;
                    return None;
                }
                Err(key) => key.release(&mut self.store),
            }
        }
        let (update, hold) = match task {
            Some(Task::Hold) => (false, true),
            Some(Task::Freeze) => (true, false),
            Some(_) => (false, false),
            None => (state == State::Update, state == State::Hold),
        };
        self.park(index, update, hold);
        None
    }

    fn apply_changes(&mut self, index: u32, changes: &Changes) {
        if let Some(transport_id) = &changes.transport_id {
            self.store.replace_text(index, transport_id, |entry| &mut entry.transport_id);
        }
        if let Some(job_id) = &changes.job_id {
            self.store.replace_text(index, job_id, |entry| &mut entry.job_id);
        }
        let entry = &mut self.store.entries[index];
        if let Some(priority) = changes.priority {
            entry.priority = priority.min(1);
        }
        if let Some(retry_count) = changes.retry_count {
            entry.retry_count = retry_count;
        }
        if !changes.metadata.is_empty() {
            let store = &self.store;
            let known = store.metadata(&store.entries[index]);
            let known = known.map(|(key, value)| (store.texts.get(key).to_owned(), value.to_owned()));
            // Of equal keys the later one counts.
            let all: Vec<(String, String)> = known.chain(changes.metadata.iter().cloned()).collect();
            self.store.set_metadata(index, &all);
        }
        self.change_addresses(index, changes);
    }

    fn change_addresses(&mut self, index: u32, changes: &Changes) {
        for (change, is_sender) in [(&changes.sender, true), (&changes.recipient, false)] {
            if let Some(domain) = &change.domain {
                let domain = domain.to_ascii_lowercase();
                self.store.replace_text(index, &domain, |entry| match is_sender {
                    true => &mut entry.sender_domain,
                    false => &mut entry.recipient_domain,
                });
            }
        }
        let changed = |change: &AddressChange| {
            // A local part too long for the record cannot come from a client: lines are shorter.
            change.localpart.clone().filter(|part| part.len() <= usize::from(u16::MAX))
        };
        let (sender, recipient) = (changed(&changes.sender), changed(&changes.recipient));
        if sender.is_some() || recipient.is_some() {
            self.store.set_localparts(index, sender.as_deref(), recipient.as_deref());
        }
    }

    /// Copies an entry under the next free queue id of its message and changes the copy. It is nowhere in the queue:
    /// nobody may send it before it is stored.
    fn duplicate(&mut self, now: Time, key: EntryKey, changes: &Changes) -> Option<Duplicate> {
        let view = self.entry(key)?;
        let message = view.message_id();
        let mut copy = view.to_new();
        let (original, was) = (copy.queue_id, view.state());
        let owner = view.entry.message;
        let last = self.chain(owner).map(|index| self.store.queue_id(&self.store.entries[index])).max()?;
        copy.queue_id = last.checked_add(1)?;
        let copy = self.insert_into(now, message, copy).ok()?.index;
        self.unpark(now, copy);
        self.apply_changes(copy, changes);
        let ticket = self.start_work(now, copy, Phase::Postdelivery);
        Some(Duplicate { ticket, original, was })
    }

    /// Lets a copy into the queue as an update's task wants it; without one it goes where its original stands
    /// (HOLD, UPDATE or DEFER). [`Task::Release`] gives the ticket back: run post-delivery, then settle.
    pub fn finish_duplicate(
        &mut self,
        now: Time,
        copy: Duplicate,
        task: Option<Task>,
    ) -> Result<Option<Ticket>, QueueError> {
        let Duplicate { ticket, was, .. } = copy;
        self.check_ticket(&ticket)?;
        if task == Some(Task::Release) {
            return Ok(Some(ticket));
        }
        let index = ticket.key.index;
        let freezing = self.stop_work(now, index);
        match task {
            Some(Task::Active) => self.store.entries[index].retry_at = now,
            Some(Task::Defer { at, jitter }) => self.defer(now, index, at, jitter),
            Some(Task::Release | Task::Hold | Task::Freeze) | None => {}
        }
        let (update, hold) = match task {
            Some(Task::Hold) => (false, true),
            Some(Task::Freeze) => (true, false),
            Some(_) => (false, false),
            None => (was == State::Update, was == State::Hold),
        };
        self.park(index, update || freezing, hold);
        Ok(None)
    }

    fn defer(&mut self, now: Time, index: u32, at: TimeValue, jitter: Duration) {
        let wanted = at.at(now).max(now).since(now).saturating_add(self.rng.duration(jitter));
        self.store.entries[index].retry_at = now.after(wanted.min(DELAY_MAX));
    }
}
