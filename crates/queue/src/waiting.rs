//! How blocked lanes wait and come back: room handed out by counters, ends of suspensions, timers.

use std::net::IpAddr;

use crate::bucket::Availability;
use crate::entry::Store;
use crate::few::Taken;
use crate::fields::Fields;
use crate::sched::{Blocker, Scheduler};
use crate::suspend::SuspendSlot;
use crate::time::Time;

impl Scheduler {
    /// Lets time pass: wakes lanes whose counters have room again, ends suspensions, forgets idle counters.
    pub(crate) fn advance(&mut self, store: &mut Store, now: Time) {
        while let Some(&(at, blocker)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            match blocker {
                Blocker::Bucket(bucket) => {
                    self.buckets[bucket].timer = None;
                    self.kick(store, bucket, now);
                }
                Blocker::Suspend(slot) => self.remove_suspend(slot),
            }
        }
    }

    /// Hands the room of a counter to waiting lanes, sets its timer, forgets it when nothing is left to remember.
    pub(crate) fn kick(&mut self, store: &mut Store, bucket: u32, now: Time) {
        let Some(record) = self.buckets.get_mut(bucket) else { return };
        let timer = if record.has_waiters() {
            let availability = record.availability(now);
            if let Availability::Free(free) = availability {
                self.wake(bucket, free);
            }
            match availability {
                Availability::Until(at, _) => Some(at),
                // Full: the end of an attempt kicks again. Free: the woken lanes do.
                Availability::Free(_) | Availability::Full => None,
            }
        } else {
            record.forgettable_at(now)
        };
        let record = &mut self.buckets[bucket];
        if timer == record.timer && timer.is_none_or(|at| at > now) {
            return;
        }
        if let Some(at) = record.timer.take() {
            self.timers.remove(&(at, Blocker::Bucket(bucket)));
        }
        match timer {
            Some(at) if at > now => {
                record.timer = Some(at);
                self.timers.insert((at, Blocker::Bucket(bucket)));
            }
            Some(_) if !record.has_waiters() => self.drop_bucket(store, bucket),
            _ => {}
        }
    }

    /// Makes up to `free` lanes ready, counting those already on their way. Lanes of low priority on their way do not
    /// count against those of high priority: these overtake them.
    pub(crate) fn wake(&mut self, bucket: u32, free: u32) {
        loop {
            let record = &mut self.buckets[bucket];
            let (high, low) = (record.woken[1], record.woken[0]);
            let next = match (record.waiters[1].is_empty(), high < free, high.saturating_add(low) < free) {
                (false, true, _) => record.waiters[1].pop_first(),
                (true, _, true) => record.waiters[0].pop_first(),
                _ => None,
            };
            let Some((_, lane)) = next else { break };
            let record = &mut self.lanes[lane];
            self.lists.remove(&mut record.waits, Blocker::Bucket(bucket));
            if record.is_ready {
                // On its way already, thanks to another source address.
                continue;
            }
            self.lists.push(&mut record.woken_by, Blocker::Bucket(bucket));
            self.buckets[bucket].woken[usize::from(record.priority)] += 1;
            self.make_ready(lane);
        }
    }

    pub(crate) fn make_ready(&mut self, lane: u32) {
        let record = &self.lanes[lane];
        if !record.is_ready {
            self.ready[usize::from(record.priority)].push(lane, &mut self.lanes);
        }
    }

    pub(crate) fn wait_for(&mut self, lane: u32, blockers: &[Blocker]) {
        let record = &mut self.lanes[lane];
        let priority = usize::from(record.priority);
        for &blocker in blockers {
            if self.lists.contains(record.waits, blocker) {
                continue;
            }
            let waiters = match blocker {
                Blocker::Bucket(bucket) => &mut self.buckets[bucket].waiters,
                Blocker::Suspend(slot) => match self.suspends.get_mut(slot) {
                    Some(slot) => &mut slot.waiters,
                    None => continue,
                },
            };
            waiters[priority].insert(record.wait, lane);
            self.lists.push(&mut record.waits, blocker);
        }
    }

    /// Takes a lane out of all waiting lists and says which; the counters among them may be idle now.
    pub(crate) fn leave_waits(&mut self, lane: u32) -> Taken {
        let record = &mut self.lanes[lane];
        let priority = usize::from(record.priority);
        let wait = record.wait;
        let waits = self.lists.take(&mut record.waits);
        for &blocker in waits.as_slice() {
            let waiters = match blocker {
                Blocker::Bucket(bucket) => self.buckets.get_mut(bucket).map(|b| &mut b.waiters),
                Blocker::Suspend(slot) => self.suspends.get_mut(slot).map(|s| &mut s.waiters),
            };
            if let Some(waiters) = waiters {
                waiters[priority].remove(&wait);
            }
        }
        waits
    }

    pub(crate) fn kick_all(&mut self, store: &mut Store, blockers: &[Blocker], now: Time) {
        for &blocker in blockers {
            if let Blocker::Bucket(bucket) = blocker {
                self.kick(store, bucket, now);
            }
        }
    }

    /// Forgets all waiting and wakes every lane: after changes that touch everything.
    pub(crate) fn wake_all(&mut self) {
        for lane in self.lanes.keys() {
            self.lists.take(&mut self.lanes[lane].woken_by);
            self.leave_waits(lane);
            self.make_ready(lane);
        }
        for bucket in self.buckets.keys() {
            self.buckets[bucket].woken = [0; 2];
        }
    }

    /// Compares a lane with the suspensions that came since the last look, and forgets those that are gone.
    pub(crate) fn compare_suspends(&mut self, store: &Store, lane: u32, fields: &Fields) {
        let known = self.suspend_lists.get(self.lanes[lane].suspends);
        let (seen, numbers) = match known.split_first() {
            Some((&seen, numbers)) => (seen, numbers),
            None => (0, &[][..]),
        };
        let is_new = seen < self.suspend_last && !(broken!(LateSuspensionsIgnored) && seen > 0);
        if !is_new && numbers.iter().all(|number| self.suspend_order.contains_key(number)) {
            return;
        }
        let mut list = vec![if is_new { self.suspend_last } else { seen }];
        list.extend(numbers.iter().filter(|&number| self.suspend_order.contains_key(number)));
        if is_new {
            for (&number, &slot) in self.suspend_order.range(seen + 1..) {
                self.counters.evals += 1;
                if self.suspends[slot].selector.matches_but_local_ip(&fields.values, store) {
                    list.push(number);
                }
            }
        }
        let new = self.suspend_lists.intern(&list);
        let old = std::mem::replace(&mut self.lanes[lane].suspends, new);
        self.suspend_lists.release(old);
    }

    /// The suspension that keeps a lane from being sent from this address.
    pub(crate) fn suspended(&self, lane: u32, ip: IpAddr) -> Option<u32> {
        let known = self.suspend_lists.get(self.lanes[lane].suspends);
        let slots = known.iter().skip(1).filter_map(|number| self.suspend_order.get(number));
        let mut slots = slots.copied();
        slots.find(|&slot| match self.suspends[slot].selector.local_ip() {
            Some(matcher) => matcher.matches_ip(ip),
            None => true,
        })
    }

    /// The suspensions in the order in which they came.
    pub(crate) fn suspend_slots(&self) -> impl Iterator<Item = &SuspendSlot> {
        self.suspend_order.values().map(|&slot| &self.suspends[slot])
    }

    /// Ends a suspension: its lanes are looked at again.
    pub(crate) fn remove_suspend(&mut self, slot: u32) {
        let Some(record) = self.suspends.remove(slot) else { return };
        self.suspend_order.remove(&record.number);
        self.suspend_ids.remove(&record.definition.id);
        if let Some(at) = record.expires {
            self.timers.remove(&(at, Blocker::Suspend(slot)));
        }
        for (_, lane) in record.waiters.into_iter().rev().flatten() {
            self.lists.remove(&mut self.lanes[lane].waits, Blocker::Suspend(slot));
            self.make_ready(lane);
        }
    }
}
