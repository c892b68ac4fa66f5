//! Lanes and pickup: which ACTIVE entry may be attempted next.
//!
//! Entries that agree on all queue fields and on priority share a lane. A lane is either ready (in `ready`, in
//! turn order) or waiting in the lists of the blockers that stopped it, one per source address at most: a
//! counter at its limit or a suspension. A blocked lane costs nothing until a blocker lets go.
//!
//! A counter that lets go wakes as many lanes as it has room for and remembers that they are on their way
//! (`Bucket::woken`); when such a lane has been looked at, whatever room is left goes to the next one. So the
//! work per pickup does not grow with the number of entries or of blocked lanes, and no waiting lane is
//! forgotten: a counter with room and waiters always has a woken lane in the ready list.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::bucket::{Availability, Bucket};
use crate::entry::Store;
use crate::few::Few;
use crate::fields::{Field, Fields};
use crate::heap::Heap;
use crate::intern::Sym;
use crate::policy::{Applied, BucketKey, CompiledPolicy};
use crate::rng::Rng;
use crate::slab::Slab;
use crate::suspend::SuspendSlot;
use crate::time::Time;

/// What a lane waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Blocker {
    Bucket(u32),
    Suspend(u64),
}

pub(crate) struct Lane {
    pub(crate) fields: Fields,
    pub(crate) priority: u8,
    pub(crate) heap: Heap,
    /// Turn in the ready list, `None` while waiting.
    pub(crate) ready: Option<NonZeroU64>,
    /// Place in the blockers' lists; kept until the lane is served, so that waiting is rewarded.
    pub(crate) wait: u64,
    pub(crate) waits: Few<Blocker>,
    /// Counters whose room brought this lane back to the ready list.
    pub(crate) woken_by: Few<u32>,
    /// Suspensions up to this number have been compared with the lane; those that concern it are in `suspends`.
    pub(crate) suspends_seen: u64,
    pub(crate) suspends: Few<u64>,
}

/// A counter an attempt is counted in.
#[derive(Clone, Copy)]
pub(crate) struct Held {
    pub(crate) bucket: u32,
    /// Its limits were asked.
    pub(crate) evaluated: bool,
}

/// A running attempt as the scheduler sees it. Holds shared values; `Scheduler::finish` gives them back.
pub(crate) struct Attempt {
    pub(crate) fields: Fields,
    pub(crate) local_ip: Sym,
    pub(crate) held: Vec<Held>,
    pub(crate) started: Time,
}

/// A successful pickup.
pub(crate) struct Picked {
    pub(crate) entry: u32,
    pub(crate) local_index: usize,
    pub(crate) local_ip: IpAddr,
    pub(crate) attempt: Attempt,
    pub(crate) applied: Vec<Arc<Applied>>,
}

/// Counters of pickup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PickupCounters {
    /// Entries taken.
    pub count: u64,
    /// Lanes found blocked.
    pub skips: u64,
    /// Searches without result.
    pub misses: u64,
    /// Comparisons of a lane with a suspension.
    pub evals: u64,
    /// Entries put back by failover or refusal.
    pub putback: u64,
}

pub(crate) struct Scheduler {
    pub(crate) lanes: Slab<Lane>,
    lane_index: HashTable<u32>,
    pub(crate) ready: [BTreeMap<NonZeroU64, u32>; 2],
    turn: NonZeroU64,
    pub(crate) buckets: Slab<Bucket>,
    bucket_index: HashTable<u32>,
    pub(crate) timers: BTreeSet<(Time, Blocker)>,
    pub(crate) policies: Vec<CompiledPolicy>,
    /// When the first dynamic condition ends; worked out with each change of them.
    pub(crate) dynamic_expiry: Option<Time>,
    pub(crate) suspends: BTreeMap<u64, SuspendSlot>,
    pub(crate) suspend_ids: HashMap<String, u64>,
    pub(crate) suspend_last: u64,
    pub(crate) running: u32,
    pub(crate) running_max: u32,
    /// ACTIVE entries by priority.
    pub(crate) sizes: [u64; 2],
    pub(crate) counters: PickupCounters,
    hasher: DefaultHashBuilder,
    /// Order in which the addresses of a lane are tried; kept for its memory.
    order: Vec<usize>,
}

enum Verdict {
    Go { local_index: usize, local_ip: Sym, held: Vec<Held> },
    Blocked(Vec<Blocker>),
}

impl Scheduler {
    pub(crate) fn new(running_max: u32) -> Self {
        Scheduler {
            lanes: Slab::new(),
            lane_index: HashTable::new(),
            ready: Default::default(),
            turn: NonZeroU64::MIN,
            buckets: Slab::new(),
            bucket_index: HashTable::new(),
            timers: BTreeSet::new(),
            policies: Vec::new(),
            dynamic_expiry: None,
            suspends: BTreeMap::new(),
            suspend_ids: HashMap::new(),
            suspend_last: 0,
            running: 0,
            running_max,
            sizes: [0; 2],
            counters: PickupCounters::default(),
            hasher: DefaultHashBuilder::default(),
            order: Vec::new(),
        }
    }

    /// Puts an entry into the lane of `fields`, whose shared values the lane takes over (or gives back).
    /// False when there is no room for another lane.
    pub(crate) fn enqueue(
        &mut self,
        store: &mut Store,
        entry: u32,
        fields: Fields,
        due: Time,
    ) -> Result<(), Fields> {
        let priority = store.entries[entry].priority.min(1);
        let hash = self.hasher.hash_one((fields, priority));
        let lanes = &self.lanes;
        let known =
            self.lane_index.find(hash, |&l| lanes[l].fields == fields && lanes[l].priority == priority);
        let lane = match known {
            Some(&lane) => {
                fields.release(store);
                lane
            }
            None => {
                let turn = self.next_turn();
                let lane = Lane {
                    fields,
                    priority,
                    heap: Heap::default(),
                    ready: Some(turn),
                    wait: turn.get(),
                    waits: Few::default(),
                    woken_by: Few::default(),
                    suspends_seen: 0,
                    suspends: Few::default(),
                };
                let lane = self.lanes.insert(lane).map_err(|lane| lane.fields)?;
                let (lanes, hasher) = (&self.lanes, &self.hasher);
                self.lane_index
                    .insert_unique(hash, lane, |&l| hasher.hash_one((lanes[l].fields, lanes[l].priority)));
                self.ready[usize::from(priority)].insert(turn, lane);
                lane
            }
        };
        store.entries[entry].lane = lane;
        self.lanes[lane].heap.push(due, entry, &mut store.entries);
        self.sizes[usize::from(priority)] += 1;
        Ok(())
    }

    /// Takes an ACTIVE entry out of its lane.
    pub(crate) fn dequeue(&mut self, store: &mut Store, entry: u32, now: Time) {
        let lane = store.entries[entry].lane;
        let record = &mut self.lanes[lane];
        if record.heap.remove(entry, &mut store.entries) {
            self.sizes[usize::from(record.priority)] -= 1;
        }
        if record.heap.is_empty() {
            self.drop_lane(store, lane, now);
        }
    }

    /// Finds the next entry: high priority first, lanes in turn, first due first.
    pub(crate) fn pick(&mut self, store: &mut Store, now: Time, rng: &mut Rng) -> Option<Picked> {
        if self.running >= self.running_max {
            return None;
        }
        // Looking at a lane may let another one go, so high priority is asked for again each time.
        while let Some((_, lane)) = self.ready[1].pop_first().or_else(|| self.ready[0].pop_first()) {
            self.lanes[lane].ready = None;
            let verdict = self.evaluate(store, lane, now, rng);
            let priority = usize::from(self.lanes[lane].priority);
            let woken_by = self.lanes[lane].woken_by.take();
            for &bucket in &woken_by {
                self.buckets[bucket].woken[priority] -= 1;
            }
            let picked = match verdict {
                Verdict::Go { local_index, local_ip, held } => {
                    Some(self.take(store, lane, local_index, local_ip, held, now))
                }
                Verdict::Blocked(blockers) => {
                    self.counters.skips += 1;
                    self.wait_for(lane, &blockers);
                    self.kick_all(store, blockers, now);
                    None
                }
            };
            for bucket in woken_by {
                self.kick(store, bucket, now);
            }
            if let Some(picked) = picked {
                self.counters.count += 1;
                return Some(picked);
            }
        }
        self.counters.misses += 1;
        None
    }

    pub(crate) fn has_ready(&self) -> bool {
        self.ready.iter().any(|ready| !ready.is_empty())
    }

    /// Whether a pick now could succeed as far as the total allows.
    pub(crate) fn has_room(&self) -> bool {
        self.running < self.running_max
    }

    /// Ends an attempt: its counters are released, waiting lanes woken.
    pub(crate) fn finish(&mut self, store: &mut Store, attempt: Attempt, now: Time) {
        self.running -= 1;
        for held in &attempt.held {
            self.buckets[held.bucket].running -= 1;
        }
        for held in attempt.held.iter().filter(|_| !broken!(NobodyWoken)) {
            self.kick(store, held.bucket, now);
        }
        attempt.fields.release(store);
        store.ips.release(attempt.local_ip);
    }

    pub(crate) fn next_turn(&mut self) -> NonZeroU64 {
        self.turn = self.turn.saturating_add(1);
        self.turn
    }

    fn take(
        &mut self,
        store: &mut Store,
        lane: u32,
        local_index: usize,
        local_ip: Sym,
        held: Vec<Held>,
        now: Time,
    ) -> Picked {
        let turn = self.next_turn();
        let record = &mut self.lanes[lane];
        let fields = record.fields;
        // A ready lane is never empty: it is dropped with its last entry.
        let (_, entry) = record.heap.pop(&mut store.entries).expect("lanes in the ready list hold entries");
        let priority = usize::from(record.priority);
        self.sizes[priority] -= 1;
        fields.acquire_again(store);
        self.running += 1;
        let mut applied = Vec::with_capacity(held.len());
        for held in &held {
            let bucket = &mut self.buckets[held.bucket];
            bucket.start(now, held.evaluated);
            if held.evaluated {
                applied.push(bucket.applied.clone());
            }
        }
        if record.heap.is_empty() {
            self.drop_lane(store, lane, now);
        } else {
            // Served: the next wait starts anew, behind those that wait already.
            let left = self.leave_waits(lane);
            let record = &mut self.lanes[lane];
            record.wait = turn.get();
            record.ready = Some(turn);
            self.ready[priority].insert(turn, lane);
            self.kick_all(store, left, now);
        }
        for held in &held {
            self.kick(store, held.bucket, now);
        }
        let ip = store.ip_of(local_ip).unwrap_or(IpAddr::from([0u8; 4]));
        let attempt = Attempt { fields, local_ip, held, started: now };
        Picked { entry, local_index, local_ip: ip, attempt, applied }
    }

    /// Tries the source addresses of a lane. The address symbol of `Verdict::Go` is counted.
    fn evaluate(&mut self, store: &mut Store, lane: u32, now: Time, rng: &mut Rng) -> Verdict {
        self.compare_suspends(store, lane);
        let fields = self.lanes[lane].fields;
        let list = fields.get(Field::LocalIp);
        let count = store.ips.get(list).len();
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        order.extend(0..count);
        let mut blockers: Vec<Blocker> = Vec::new();
        let mut verdict = None;
        for step in 0..count {
            if !fields.ordered {
                let other = step + rng.below((count - step) as u64) as usize;
                order.swap(step, other);
            }
            let ip = store.ips.get(list)[order[step]];
            if order[..step].iter().any(|&earlier| store.ips.get(list)[earlier] == ip) {
                continue;
            }
            if let Some(number) = self.suspended(lane, ip) {
                blockers.push(Blocker::Suspend(number));
                continue;
            }
            let local_ip = store.ips.intern(&[ip]);
            match self.try_address(store, &fields, local_ip, now) {
                Ok(held) => {
                    verdict = Some(Verdict::Go { local_index: order[step], local_ip, held });
                    break;
                }
                Err(bucket) => {
                    store.ips.release(local_ip);
                    blockers.push(Blocker::Bucket(bucket));
                }
            }
        }
        self.order = order;
        verdict.unwrap_or_else(|| {
            blockers.sort_unstable();
            blockers.dedup();
            Verdict::Blocked(blockers)
        })
    }

    /// The counters of an attempt from `local_ip`, or the first one that has no room.
    pub(crate) fn try_address(
        &mut self,
        store: &mut Store,
        fields: &Fields,
        local_ip: Sym,
        now: Time,
    ) -> Result<Vec<Held>, u32> {
        let mut held: Vec<Held> = Vec::with_capacity(self.policies.len());
        let mut evaluated = true;
        for policy in 0..self.policies.len() {
            let Some(bucket) = self.bucket_of(store, policy, fields, local_ip) else { continue };
            let record = &self.buckets[bucket];
            let blocked = evaluated && !matches!(record.availability(now), Availability::Free(_));
            let stops = evaluated && record.applied.stops();
            if blocked {
                for Held { bucket, .. } in held {
                    self.kick(store, bucket, now);
                }
                return Err(bucket);
            }
            held.push(Held { bucket, evaluated });
            evaluated &= !stops;
        }
        Ok(held)
    }

    /// The counter for an attempt, made if need be. `None` only when the slab is full: then not limited.
    pub(crate) fn bucket_of(
        &mut self,
        store: &mut Store,
        policy: usize,
        fields: &Fields,
        local_ip: Sym,
    ) -> Option<u32> {
        let key = self.policies[policy].key(&fields.values, local_ip, store);
        let number = policy as u32;
        let hash = self.hasher.hash_one((number, key));
        let buckets = &self.buckets;
        let found = self.bucket_index.find(hash, |&b| buckets[b].policy == number && buckets[b].key == key);
        if let Some(&bucket) = found {
            return Some(bucket);
        }
        let applied = Arc::new(self.policies[policy].applied(&key, store));
        let bucket = self.buckets.insert(Bucket::new(number, key, applied)).ok()?;
        key.acquire(store);
        self.index_bucket(bucket);
        Some(bucket)
    }

    pub(crate) fn find_bucket(&self, policy: usize, key: &BucketKey) -> Option<u32> {
        let number = policy as u32;
        let hash = self.hasher.hash_one((number, *key));
        self.bucket_index
            .find(hash, |&b| self.buckets[b].policy == number && self.buckets[b].key == *key)
            .copied()
    }

    pub(crate) fn index_bucket(&mut self, bucket: u32) {
        let (buckets, hasher) = (&self.buckets, &self.hasher);
        let hash = hasher.hash_one((buckets[bucket].policy, buckets[bucket].key));
        self.bucket_index
            .insert_unique(hash, bucket, |&b| hasher.hash_one((buckets[b].policy, buckets[b].key)));
    }

    pub(crate) fn clear_bucket_index(&mut self) {
        self.bucket_index.clear();
    }

    pub(crate) fn drop_bucket(&mut self, store: &mut Store, bucket: u32) {
        let record = &self.buckets[bucket];
        let hash = self.hasher.hash_one((record.policy, record.key));
        if let Ok(found) = self.bucket_index.find_entry(hash, |&b| b == bucket) {
            found.remove();
        }
        if let Some(at) = record.timer {
            self.timers.remove(&(at, Blocker::Bucket(bucket)));
        }
        if let Some(record) = self.buckets.remove(bucket) {
            record.key.release(store);
        }
    }

    fn drop_lane(&mut self, store: &mut Store, lane: u32, now: Time) {
        let left = self.leave_waits(lane);
        let record = &self.lanes[lane];
        let hash = self.hasher.hash_one((record.fields, record.priority));
        if let Ok(found) = self.lane_index.find_entry(hash, |&l| l == lane) {
            found.remove();
        }
        let Some(mut record) = self.lanes.remove(lane) else { return };
        if let Some(turn) = record.ready {
            self.ready[usize::from(record.priority)].remove(&turn);
        }
        let woken_by = record.woken_by.take();
        for &bucket in &woken_by {
            self.buckets[bucket].woken[usize::from(record.priority)] -= 1;
        }
        for bucket in woken_by {
            self.kick(store, bucket, now);
        }
        self.kick_all(store, left, now);
        record.fields.release(store);
    }

    /// Checks what must always hold between lanes, counters and lists; for tests.
    pub(crate) fn verify(&self, store: &Store) -> Result<(), String> {
        let mut sizes = [0u64; 2];
        for (index, lane) in self.lanes.iter() {
            if lane.heap.is_empty() {
                return Err(format!("lane {index} is empty"));
            }
            sizes[usize::from(lane.priority)] += lane.heap.len() as u64;
            if lane.ready.is_none() && lane.waits.is_empty() {
                return Err(format!("lane {index} is neither ready nor waiting"));
            }
            for (_, entry) in lane.heap.iter() {
                if store.entries[entry].lane != index {
                    return Err(format!("entry {entry} does not know its lane {index}"));
                }
            }
        }
        if sizes != self.sizes {
            return Err(format!("active sizes {:?}, counted {sizes:?}", self.sizes));
        }
        for (index, bucket) in self.buckets.iter() {
            let limit = bucket.applied.limits.as_ref().and_then(|l| l.concurrency);
            let mut woken = [0; 2];
            for (_, lane) in self.lanes.iter().filter(|(_, lane)| lane.woken_by.contains(&index)) {
                woken[usize::from(lane.priority)] += 1;
            }
            if woken != bucket.woken {
                return Err(format!("bucket {index} counts {:?} woken, found {woken:?}", bucket.woken));
            }
            let full = limit.is_some_and(|limit| bucket.running >= limit);
            if bucket.has_waiters() && !full && bucket.timer.is_none() && bucket.woken == [0; 2] {
                return Err(format!("bucket {index} has forgotten its waiters"));
            }
        }
        Ok(())
    }
}
