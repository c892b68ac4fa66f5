//! Why an entry is where it is: its place in line, its lane, and what every counter and suspension says about it.

use std::net::IpAddr;
use std::sync::Arc;

use crate::admin::bucket_fields;
use crate::bucket::{Availability, Bucket, Cause};
use crate::entry::EntryKey;
use crate::fields::{Field, Fields};
use crate::intern::Sym;
use crate::policy::Applied;
use crate::queue::Queue;
use crate::state::{State, WorkInfo};
use crate::suspend::{SuspensionView, view_of};
use crate::time::Time;

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// Where it is.
    pub state: State,
    /// What is being done with it, while it is working.
    pub work: Option<WorkInfo>,
    /// When it is or was due.
    pub due: Time,
    /// Entries of its list that go before it: of its lane when ACTIVE, of all that wait when DEFER.
    pub ahead: u64,
    /// Entries of that list.
    pub of: u64,
    /// The earliest moment at which it can be picked up as things stand. `None`: that depends on the end of an attempt,
    /// on an operator, or on nothing but its turn.
    pub next: Option<Time>,
    /// Attempts running and how many may, over everything.
    pub attempts: (u32, u32),
    /// Its lane, while ACTIVE or SENDING.
    pub lane: Option<LaneView>,
}

/// A lane.
#[derive(Debug, Clone, PartialEq)]
pub struct LaneView {
    /// Values of the queue fields; those of source addresses are in `addresses`.
    pub fields: Vec<(Field, String)>,
    /// 0 normal, 1 high.
    pub priority: u8,
    /// It stands in line for pickup; otherwise it waits for what blocks it.
    pub ready: bool,
    /// Lanes that are looked at before it, if it is ready.
    pub lanes_ahead: u64,
    /// Source addresses it may be sent from, or the one it is being sent from.
    pub addresses: Vec<AddressView>,
}

/// What applies to one source address of a lane.
#[derive(Debug, Clone, PartialEq)]
pub struct AddressView {
    /// The address.
    pub ip: IpAddr,
    /// Suspensions in force for it.
    pub suspensions: Vec<SuspensionView>,
    /// Counters it has to pass, in evaluation order.
    pub buckets: Vec<BucketView>,
}

/// A counter.
#[derive(Debug, Clone, PartialEq)]
pub struct BucketView {
    /// Position of the policy in the file, from 0.
    pub policy: usize,
    /// Values that make the counter's key.
    pub fields: Vec<(Field, String)>,
    /// Condition and limits in force.
    pub applied: Arc<Applied>,
    /// Behind a `stop`: counted, but its limits are not asked.
    pub stopped: bool,
    /// Attempts running.
    pub running: u32,
    /// Starts left now, if there is a rate.
    pub tokens: Option<f64>,
    /// Why nothing may start now.
    pub blocked: Option<Cause>,
    /// When it frees by itself; none when an attempt has to end first.
    pub free_at: Option<Time>,
    /// Lanes that wait for it.
    pub waiting: u64,
}

impl AddressView {
    /// Whether an attempt could start from this address now.
    pub fn is_free(&self) -> bool {
        self.suspensions.is_empty() && self.buckets.iter().all(|bucket| bucket.blocked.is_none())
    }

    /// When it could at the earliest, if that is known.
    fn free_at(&self, now: Time) -> Option<Time> {
        let suspended = self.suspensions.iter().map(|suspension| suspension.ttl.map(|ttl| now.after(ttl)));
        let blocked =
            self.buckets.iter().filter(|bucket| bucket.blocked.is_some()).map(|bucket| bucket.free_at);
        suspended.chain(blocked).try_fold(now, |latest, at| at.map(|at| latest.max(at)))
    }
}

impl Queue {
    /// Explains an entry. Costs time in proportion to the list that the entry is in.
    pub fn explain(&self, now: Time, key: EntryKey) -> Option<Explanation> {
        let entry = self.store.live(key)?;
        let (mut ahead, mut of, mut lane, mut next) = (0, 0, None, None);
        match entry.state {
            State::Active => {
                let record = self.sched.lanes.get(entry.lane)?;
                ahead = self.sched.heaps.ahead_of(record.line, entry.position) as u64;
                of = self.sched.heaps.len(record.line) as u64;
                let ready = &self.sched.ready[usize::from(record.priority)];
                let high = if record.priority == 0 { self.sched.ready[1].len() as u64 } else { 0 };
                let before = ready.iter(&self.sched.lanes).take_while(|&lane| lane != entry.lane);
                let lanes_ahead = if record.is_ready { before.count() as u64 + high } else { 0 };
                let view = self.lane_view(now, &record.key.fields(&self.store), record.priority, None);
                next = view.addresses.iter().filter_map(|address| address.free_at(now)).min();
                lane = Some(LaneView { ready: record.is_ready, lanes_ahead, ..view });
            }
            State::Defer => {
                let heap = &self.deferred[usize::from(entry.priority.min(1))];
                ahead = heap.ahead_of(entry.position) as u64;
                of = heap.len() as u64;
                next = Some(entry.retry_at.max(now));
            }
            State::Sending => {
                let attempt = self.working.get(&key.index).and_then(|working| working.attempt.as_ref());
                lane = attempt.map(|attempt| {
                    self.lane_view(
                        now,
                        &attempt.lane.fields(&self.store),
                        entry.priority,
                        Some(attempt.local_ip),
                    )
                });
            }
            State::Hold | State::Update | State::Unknown => {}
        }
        Some(Explanation {
            state: entry.state,
            work: self.work_info(key),
            due: entry.retry_at,
            ahead,
            of,
            next,
            attempts: (self.sched.running, self.sched.running_max),
            lane,
        })
    }

    fn lane_view(&self, now: Time, fields: &Fields, priority: u8, only: Option<Sym>) -> LaneView {
        let texts = Field::ALL.into_iter().filter(|field| *field != Field::LocalIp).map(|field| {
            let value = fields.get(field);
            let text = match field.is_address() {
                true => self.store.ip_of(value).map(|ip| ip.to_string()).unwrap_or_default(),
                false => self.store.texts.get(value).to_owned(),
            };
            (field, text)
        });
        let list = only.unwrap_or(fields.get(Field::LocalIp));
        let mut addresses: Vec<AddressView> = Vec::new();
        for &ip in self.store.ips.get(list) {
            if addresses.iter().all(|known| known.ip != ip) {
                addresses.push(self.address_view(now, fields, ip));
            }
        }
        LaneView { fields: texts.collect(), priority, ready: false, lanes_ahead: 0, addresses }
    }

    fn address_view(&self, now: Time, fields: &Fields, ip: IpAddr) -> AddressView {
        let suspensions = self.sched.suspend_slots().filter(|slot| {
            slot.selector.matches_but_local_ip(&fields.values, &self.store)
                && slot.selector.local_ip().is_none_or(|matcher| matcher.matches_ip(ip))
        });
        let suspensions = suspensions.map(|slot| view_of(slot, now)).collect();
        // An address that nothing counts yet has no symbol, and so no counter.
        let local_ip = self.store.ips.find(&[ip]);
        let mut buckets = Vec::with_capacity(self.sched.policies.len());
        let mut stopped = false;
        for (number, policy) in self.sched.policies.iter().enumerate() {
            let key = policy.key_of(&fields.values, local_ip.unwrap_or(Sym::EMPTY), &self.store, Some(ip));
            let known = self.sched.find_bucket(number, &key).map(|bucket| &self.sched.buckets[bucket]);
            let fresh;
            let bucket = match known {
                Some(bucket) => bucket,
                None => {
                    fresh = Bucket::new(number as u32, key, policy.applied_to(&key, &self.store, Some(ip)));
                    &fresh
                }
            };
            let (blocked, free_at) = match bucket.availability(now) {
                Availability::Free(_) => (None, None),
                Availability::Full => (Some(Cause::Concurrency), None),
                Availability::Until(at, cause) => (Some(cause), Some(at)),
            };
            let mut texts = bucket_fields(&self.store, &bucket.key);
            if local_ip.is_none() {
                let given =
                    texts.iter_mut().filter(|(field, text)| *field == Field::LocalIp && text.is_empty());
                given.for_each(|(_, text)| *text = ip.to_string());
            }
            buckets.push(BucketView {
                policy: number,
                fields: texts,
                applied: bucket.applied.clone(),
                stopped,
                running: bucket.running,
                tokens: bucket.tokens(now),
                blocked: blocked.filter(|_| !stopped),
                free_at: free_at.filter(|_| !stopped),
                waiting: bucket.waiters.iter().map(|waiters| waiters.len() as u64).sum(),
            });
            stopped |= bucket.applied.stops();
        }
        AddressView { ip, suspensions, buckets }
    }
}
