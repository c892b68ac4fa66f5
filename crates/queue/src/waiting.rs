//! How blocked lanes wait and come back: room handed out by counters, ends of suspensions, timers.

use std::net::IpAddr;

use crate::bucket::Availability;
use crate::entry::Store;
use crate::sched::{Blocker, Scheduler};
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
                Blocker::Suspend(number) => self.remove_suspend(number),
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
            record.waits.retain(|&blocker| blocker != Blocker::Bucket(bucket));
            if record.ready.is_some() {
                // On its way already, thanks to another source address.
                continue;
            }
            record.woken_by.push(bucket);
            self.buckets[bucket].woken[usize::from(record.priority)] += 1;
            self.make_ready(lane);
        }
    }

    pub(crate) fn make_ready(&mut self, lane: u32) {
        if self.lanes[lane].ready.is_some() {
            return;
        }
        let turn = self.next_turn();
        let record = &mut self.lanes[lane];
        record.ready = Some(turn);
        self.ready[usize::from(record.priority)].insert(turn, lane);
    }

    pub(crate) fn wait_for(&mut self, lane: u32, blockers: &[Blocker]) {
        let record = &mut self.lanes[lane];
        let priority = usize::from(record.priority);
        for &blocker in blockers {
            if record.waits.contains(&blocker) {
                continue;
            }
            let waiters = match blocker {
                Blocker::Bucket(bucket) => &mut self.buckets[bucket].waiters,
                Blocker::Suspend(number) => match self.suspends.get_mut(&number) {
                    Some(slot) => &mut slot.waiters,
                    None => continue,
                },
            };
            waiters[priority].insert(record.wait, lane);
            record.waits.push(blocker);
        }
    }

    /// Takes a lane out of all waiting lists and says which; the counters among them may be idle now.
    pub(crate) fn leave_waits(&mut self, lane: u32) -> Vec<Blocker> {
        let record = &mut self.lanes[lane];
        let priority = usize::from(record.priority);
        let wait = record.wait;
        let waits = record.waits.take();
        for &blocker in &waits {
            let waiters = match blocker {
                Blocker::Bucket(bucket) => self.buckets.get_mut(bucket).map(|b| &mut b.waiters),
                Blocker::Suspend(number) => self.suspends.get_mut(&number).map(|s| &mut s.waiters),
            };
            if let Some(waiters) = waiters {
                waiters[priority].remove(&wait);
            }
        }
        waits
    }

    pub(crate) fn kick_all(&mut self, store: &mut Store, blockers: Vec<Blocker>, now: Time) {
        for blocker in blockers {
            if let Blocker::Bucket(bucket) = blocker {
                self.kick(store, bucket, now);
            }
        }
    }

    /// Forgets all waiting and wakes every lane: after changes that touch everything.
    pub(crate) fn wake_all(&mut self) {
        for lane in self.lanes.keys() {
            self.lanes[lane].woken_by.clear();
            self.leave_waits(lane);
            self.make_ready(lane);
        }
        for bucket in self.buckets.keys() {
            self.buckets[bucket].woken = [0; 2];
        }
    }

    /// Compares a lane with the suspensions that came since the last look.
    pub(crate) fn compare_suspends(&mut self, store: &Store, lane: u32) {
        let record = &mut self.lanes[lane];
        let suspends = &self.suspends;
        record.suspends.retain(|number| suspends.contains_key(number));
        if record.suspends_seen >= self.suspend_last
            || broken!(LateSuspensionsIgnored) && record.suspends_seen > 0
        {
            return;
        }
        for (&number, slot) in suspends.range(record.suspends_seen + 1..) {
            self.counters.evals += 1;
            if slot.selector.matches_but_local_ip(&record.fields.values, store) {
                record.suspends.push(number);
            }
        }
        record.suspends_seen = self.suspend_last;
    }

    pub(crate) fn suspended(&self, lane: u32, ip: IpAddr) -> Option<u64> {
        self.lanes[lane].suspends.iter().copied().find(|number| {
            self.suspends.get(number).is_some_and(|slot| match slot.selector.local_ip() {
                Some(matcher) => matcher.matches_ip(ip),
                None => true,
            })
        })
    }

    /// Ends a suspension: its lanes are looked at again.
    pub(crate) fn remove_suspend(&mut self, number: u64) {
        let Some(slot) = self.suspends.remove(&number) else { return };
        self.suspend_ids.remove(&slot.definition.id);
        if let Some(at) = slot.expires {
            self.timers.remove(&(at, Blocker::Suspend(number)));
        }
        for (_, lane) in slot.waiters.into_iter().rev().flatten() {
            self.lanes[lane].waits.retain(|&blocker| blocker != Blocker::Suspend(number));
            self.make_ready(lane);
        }
    }
}
