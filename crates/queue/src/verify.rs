//! Self-check for tests and simulations: everything that must hold between the parts, recounted.

use std::collections::HashMap;

use crate::counters::Quota;
use crate::queue::Queue;
use crate::state::State;

impl Queue {
    /// Recounts everything; the first contradiction is described. Costs time in proportion to the queue.
    pub fn verify(&self) -> Result<(), String> {
        let mut places: HashMap<u32, State> = HashMap::new();
        let mut place = |index: u32, state: State| match places.insert(index, state) {
            Some(other) => Err(format!("entry {index} is in {} and {}", other.name(), state.name())),
            None => Ok(()),
        };
        for heap in &self.deferred {
            for (due, index) in heap.iter() {
                place(index, State::Defer)?;
                if self.store.entries[index].retry_at != due {
                    return Err(format!("deferred entry {index} is due at another time than it says"));
                }
            }
        }
        for (_, lane) in self.sched.lanes.iter() {
            for index in self.sched.heaps.iter(lane.line) {
                place(index, State::Active)?;
            }
        }
        for (&index, working) in &self.working {
            place(index, working.phase.state())?;
        }
        let mut sizes = [0u64; 6];
        let mut quotas: HashMap<_, Quota> = HashMap::new();
        for (index, entry) in self.store.entries.iter() {
            sizes[entry.state as usize] += 1;
            let listed = places.get(&index).copied();
            let expected = (!matches!(entry.state, State::Hold | State::Update)).then_some(entry.state);
            if listed != expected {
                return Err(format!("entry {index} says {:?}, found in {listed:?}", entry.state));
            }
            for &name in self.store.quotas(entry) {
                let quota = quotas.entry(name).or_default();
                quota.count += 1;
                quota.bytes += self.store.size(entry);
            }
        }
        if sizes != self.sizes {
            return Err(format!("sizes {:?}, counted {sizes:?}", self.sizes));
        }
        if quotas != self.quotas {
            return Err("quotas differ from a recount".to_owned());
        }
        if places.len() as u64 + sizes[State::Hold as usize] + sizes[State::Update as usize]
            != self.store.entries.len() as u64
        {
            return Err("a list names an entry that is gone".to_owned());
        }
        self.verify_attempts()?;
        self.verify_messages()?;
        self.sched.verify(&self.store)
    }

    fn verify_attempts(&self) -> Result<(), String> {
        let attempts: Vec<_> = self.working.values().filter_map(|working| working.attempt.as_ref()).collect();
        if attempts.len() != self.sched.running as usize {
            return Err(format!("{} attempts, counted {}", self.sched.running, attempts.len()));
        }
        let mut running: HashMap<u32, u32> = HashMap::new();
        for held in attempts.iter().flat_map(|attempt| &attempt.held) {
            *running.entry(held.bucket).or_default() += 1;
        }
        for (index, bucket) in self.sched.buckets.iter() {
            let counted = running.remove(&index).unwrap_or(0);
            if counted != bucket.running {
                return Err(format!("bucket {index} says {} running, counted {counted}", bucket.running));
            }
        }
        if running.is_empty() { Ok(()) } else { Err("an attempt holds a bucket that is gone".to_owned()) }
    }

    fn verify_messages(&self) -> Result<(), String> {
        let mut chained = 0;
        for (owner, message) in self.store.messages.iter() {
            let count = self.chain(owner).count();
            if count != message.entries.get() as usize || count == 0 {
                return Err(format!("message {} says {} entries, has {count}", message.id, message.entries));
            }
            if self.find_message(message.id) != Some(owner) {
                return Err(format!("message {} is not found by its id", message.id));
            }
            chained += count;
        }
        match chained == self.store.entries.len() {
            true => Ok(()),
            false => Err("entries without message".to_owned()),
        }
    }

    /// Distinct values held, for tests of leaks: texts and address lists.
    #[doc(hidden)]
    pub fn shared_values(&self) -> (usize, usize) {
        let parts = self.store.extras.len() + self.sched.lists.len() + self.sched.suspend_lists.len();
        (self.store.texts.len() + parts, self.store.ips.len() + self.store.hops.len())
    }
}
