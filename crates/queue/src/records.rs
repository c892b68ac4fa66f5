//! The records of messages and entries: made, changed, removed, with what they share.

use std::hash::BuildHasher as _;
use std::num::NonZeroU32;

use uuid::Uuid;

use crate::entry::{Entry, EntryKey, Message, NONE, NewEntry, NewMessage, SUBJECT_BYTES_MAX};
use crate::error::QueueError;
use crate::intern::Sym;
use crate::queue::Queue;
use crate::time::Time;
use crate::work::Requeue;

impl Queue {
    // ---- inner workings, shared with the other modules of the crate ----

    pub(crate) fn find_message(&self, id: Uuid) -> Option<u32> {
        let messages = &self.store.messages;
        self.by_id.find(self.hasher.hash_one(id), |&m| messages[m].id == id).copied()
    }

    /// Indexes of the entries of a message.
    pub(crate) fn chain(&self, owner: u32) -> impl Iterator<Item = u32> + '_ {
        let mut next = self.store.messages.get(owner).map_or(NONE, |message| message.first);
        std::iter::from_fn(move || {
            let index = next;
            next = self.store.entries.get(index)?.next;
            Some(index)
        })
    }

    pub(crate) fn check_new(&self, message: &NewMessage, entries: &[NewEntry]) -> Result<(), QueueError> {
        if entries.is_empty() {
            return Err(QueueError::NoRecipients);
        }
        if self.find_message(message.id).is_some() {
            return Err(QueueError::Duplicate(message.id));
        }
        if self.store.entries.len() + entries.len() >= ENTRIES_MAX {
            return Err(QueueError::Full);
        }
        let mut ids: Vec<u64> = entries.iter().map(|entry| entry.queue_id).collect();
        ids.sort_unstable();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(QueueError::DuplicateQueueId { message: message.id, queue_id: pair[0] });
        }
        entries.iter().try_for_each(check_entry)
    }

    pub(crate) fn message_record(&mut self, message: NewMessage, entries: NonZeroU32) -> Message {
        let subject = message.subject.as_str();
        let end = (0..=SUBJECT_BYTES_MAX.min(subject.len())).rev().find(|&i| subject.is_char_boundary(i));
        let store = &mut self.store;
        Message {
            id: message.id,
            received: message.received,
            size: message.size,
            subject: store.arena.insert(&[&subject.as_bytes()[..end.unwrap_or(0)]]),
            server_id: store.texts.intern(&message.server_id),
            sender_ip: store.ip(message.sender_ip),
            sender_helo: store.texts.intern(&message.sender_helo),
            sasl_username: store.texts.intern(&message.sasl_username),
            stage_id: store.texts.intern(&message.stage_id),
            first: NONE,
            entries,
        }
    }

    pub(crate) fn release_message(&mut self, message: &Message) {
        for text in [message.server_id, message.sender_helo, message.sasl_username, message.stage_id] {
            self.store.texts.release(text);
        }
        self.store.ips.release(message.sender_ip);
        self.store.arena.remove(message.subject);
    }

    /// The entry is new, checked, and there is room for it.
    pub(crate) fn insert_entry(&mut self, now: Time, owner: u32, new: NewEntry) -> EntryKey {
        let next = self.store.messages[owner].first;
        let entry = self.store.entry_record(&new, owner, next);
        let Ok(index) = self.store.entries.insert(entry) else {
            unreachable!("the callers have compared the number of entries with ENTRIES_MAX");
        };
        self.store.messages[owner].first = index;
        self.charge(index, true);
        if new.delivered {
            self.store.entries[index].retry_at = now;
        }
        self.park(index, new.update && !new.delivered, new.hold && !new.delivered);
        self.store.key(index)
    }

    /// Adds or takes back an entry's quota charges.
    pub(crate) fn charge(&mut self, index: u32, add: bool) {
        let entry = &self.store.entries[index];
        let size = self.store.size(entry);
        for &name in self.store.quotas(entry) {
            let quota = self.quotas.entry(name).or_default();
            if add {
                quota.count += 1;
                quota.bytes += size;
            } else {
                quota.count -= 1;
                quota.bytes -= size;
                if quota.count == 0 {
                    self.quotas.remove(&name);
                }
            }
        }
    }

    pub(crate) fn apply_requeue(&mut self, index: u32, options: Requeue) {
        let entry = &mut self.store.entries[index];
        entry.retry_count = match (options.reset_retry, options.increment_retry) {
            (true, _) => 0,
            (false, true) => entry.retry_count.saturating_add(1),
            (false, false) => entry.retry_count,
        };
        if let Some(priority) = options.priority {
            entry.priority = priority.min(1);
        }
        if let Some(step) = options.notified_step {
            self.store.extra_mut(index).notified |= 1 << step.min(63);
        }
        for (value, field) in [
            (options.reason, (|entry| &mut entry.retry_reason) as fn(&mut Entry) -> &mut Sym),
            (options.transport_id, |entry| &mut entry.transport_id),
            (options.job_id, |entry| &mut entry.job_id),
            (options.tenant_id, |entry| &mut entry.tenant_id),
        ] {
            if let Some(value) = value {
                self.store.replace_text(index, &value, field);
            }
        }
        if let Some(metadata) = options.metadata {
            self.store.set_metadata(index, &metadata);
        }
        if let Some(names) = options.quotas {
            self.charge(index, false);
            let new: Box<[Sym]> = names.iter().map(|name| self.store.texts.intern(name)).collect();
            let old = std::mem::replace(&mut self.store.extra_mut(index).quotas, new);
            old.iter().for_each(|&name| self.store.texts.release(name));
            self.charge(index, true);
        }
    }

    /// Removes an entry that is in no list; true when it was the last of its message.
    pub(crate) fn remove_entry(&mut self, index: u32) -> bool {
        self.charge(index, false);
        self.store.clear_resolved(index);
        let Some(entry) = self.store.entries.remove(index) else { return false };
        self.store.release_entry(&entry);
        self.unchain(index, &entry)
    }

    pub(crate) fn unchain(&mut self, index: u32, entry: &Entry) -> bool {
        let owner = entry.message;
        let message = &mut self.store.messages[owner];
        let left = NonZeroU32::new(message.entries.get() - 1);
        if let Some(left) = left {
            message.entries = left;
        }
        if message.first == index {
            message.first = entry.next;
        } else {
            let mut at = message.first;
            while let Some(record) = self.store.entries.get_mut(at) {
                if record.next == index {
                    record.next = entry.next;
                    break;
                }
                at = record.next;
            }
        }
        if left.is_some() {
            return false;
        }
        let hash = self.hasher.hash_one(self.store.messages[owner].id);
        if let Ok(found) = self.by_id.find_entry(hash, |&m| m == owner) {
            found.remove();
        }
        if let Some(message) = self.store.messages.remove(owner) {
            self.release_message(&message);
        }
        true
    }
}

/// Entries the index can number (the slab's limit).
pub(crate) const ENTRIES_MAX: usize = 1 << 28;

pub(crate) fn check_entry(entry: &NewEntry) -> Result<(), QueueError> {
    for address in [&entry.sender, &entry.recipient] {
        if address.localpart.len() > usize::from(u16::MAX) {
            return Err(QueueError::AddressTooLong(address.localpart.len()));
        }
    }
    match entry.metadata.iter().find(|(_, value)| u32::try_from(value.len()).is_err()) {
        Some((key, _)) => Err(QueueError::MetadataTooLong(key.clone())),
        None => Ok(()),
    }
}
