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
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::bucket::{Availability, Bucket};
use crate::entry::Store;
use crate::few::{Lists, Taken};
use crate::fields::{Field, Fields, LaneKey};
use crate::intern::{Interner, Sym};
use crate::lane::{Heaps, Lane, Ready};
use crate::policy::{Applied, BucketKey, CompiledPolicy};
use crate::rng::Rng;
use crate::slab::Slab;
use crate::suspend::SuspendSlot;
use crate::time::Time;

/// What a lane waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Blocker {
    Bucket(u32),
    Suspend(u32),
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
    pub(crate) lane: LaneKey,
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
    /// Entries of lanes with several, and the longer lists of lanes.
    pub(crate) heaps: Heaps,
    pub(crate) lists: Lists,
    pub(crate) ready: [Ready; 2],
    turn: u64,
    pub(crate) buckets: Slab<Bucket>,
    bucket_index: HashTable<u32>,
    pub(crate) timers: BTreeSet<(Time, Blocker)>,
    pub(crate) policies: Vec<CompiledPolicy>,
    /// When the first dynamic condition ends; worked out with each change of them.
    pub(crate) dynamic_expiry: Option<Time>,
    pub(crate) suspends: Slab<SuspendSlot>,
    /// By number, in the order in which they came.
    pub(crate) suspend_order: BTreeMap<u64, u32>,
    pub(crate) suspend_ids: HashMap<String, u32>,
    pub(crate) suspend_last: u64,
    /// What lanes know of suspensions; see `Lane::suspends`. Lanes that know the same share it.
    pub(crate) suspend_lists: Interner<[u64]>,
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
            heaps: Heaps::new(),
            lists: Lists::new(),
            ready: [Ready::new(), Ready::new()],
            turn: 0,
            buckets: Slab::new(),
            bucket_index: HashTable::new(),
            timers: BTreeSet::new(),
            policies: Vec::new(),
            dynamic_expiry: None,
            suspends: Slab::new(),
            suspend_order: BTreeMap::new(),
            suspend_ids: HashMap::new(),
            suspend_last: 0,
            suspend_lists: Interner::new(),
            running: 0,
            running_max,
            sizes: [0; 2],
            counters: PickupCounters::default(),
            hasher: DefaultHashBuilder::default(),
            order: Vec::new(),
        }
    }

    /// Puts an entry into the lane of `key`, whose shared values the lane takes over (or gives back). It is in order of
    /// its `retry_at`, which must not change meanwhile. The key comes back when there is no room for another lane.
    pub(crate) fn enqueue(&mut self, store: &mut Store, entry: u32, key: LaneKey) -> Result<(), LaneKey> {
        let priority = store.entries[entry].priority.min(1);
        let hash = self.hasher.hash_one((key, priority));
        let lanes = &self.lanes;
        let known = self.lane_index.find(hash, |&l| lanes[l].key == key && lanes[l].priority == priority);
        let lane = match known {
            Some(&lane) => {
                key.release(store);
                lane
            }
            None => {
                let wait = self.next_turn();
                let lane = self.lanes.insert(Lane::new(key, priority, wait)).map_err(|lane| lane.key)?;
                let (lanes, hasher) = (&self.lanes, &self.hasher);
                self.lane_index
                    .insert_unique(hash, lane, |&l| hasher.hash_one((lanes[l].key, lanes[l].priority)));
                self.ready[usize::from(priority)].push(lane, &mut self.lanes);
                lane
            }
        };
        store.entries[entry].lane = lane;
        self.heaps.push(&mut self.lanes[lane].line, entry, &mut store.entries);
        self.sizes[usize::from(priority)] += 1;
        Ok(())
    }

    /// Takes an ACTIVE entry out of its lane.
    pub(crate) fn dequeue(&mut self, store: &mut Store, entry: u32, now: Time) {
        let lane = store.entries[entry].lane;
        let record = &mut self.lanes[lane];
        if self.heaps.remove(&mut record.line, entry, &mut store.entries) {
            self.sizes[usize::from(record.priority)] -= 1;
        }
        if self.heaps.len(record.line) == 0 {
            self.drop_lane(store, lane, now);
        }
    }

    /// Finds the next entry: high priority first, lanes in turn, first due first.
    pub(crate) fn pick(&mut self, store: &mut Store, now: Time, rng: &mut Rng) -> Option<Picked> {
        if self.running >= self.running_max {
            return None;
        }
        // Looking at a lane may let another one go, so high priority is asked for again each time.
        while let Some(lane) = self.next_ready() {
            let verdict = self.evaluate(store, lane, now, rng);
            let woken_by = self.take_woken_by(lane);
            let picked = match verdict {
                Verdict::Go { local_index, local_ip, held } => {
                    Some(self.take(store, lane, local_index, local_ip, held, now))
                }
                Verdict::Blocked(blockers) => {
                    self.counters.skips += 1;
                    self.wait_for(lane, &blockers);
                    self.kick_all(store, &blockers, now);
                    None
                }
            };
            self.kick_all(store, woken_by.as_slice(), now);
            if let Some(picked) = picked {
                self.counters.count += 1;
                return Some(picked);
            }
        }
        self.counters.misses += 1;
        None
    }

    fn next_ready(&mut self) -> Option<u32> {
        let [low, high] = &mut self.ready;
        high.pop(&mut self.lanes).or_else(|| low.pop(&mut self.lanes))
    }

    /// The lane is not on its way any more: the counters that sent it are told.
    fn take_woken_by(&mut self, lane: u32) -> Taken {
        let record = &mut self.lanes[lane];
        let woken_by = self.lists.take(&mut record.woken_by);
        for &blocker in woken_by.as_slice() {
            if let Blocker::Bucket(bucket) = blocker {
                self.buckets[bucket].woken[usize::from(record.priority)] -= 1;
            }
        }
        woken_by
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
        attempt.lane.release(store);
        store.ips.release(attempt.local_ip);
    }

    fn next_turn(&mut self) -> u64 {
        self.turn += 1;
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
        let key = record.key;
        // A ready lane is never empty: it is dropped with its last entry.
        let entry = self.heaps.pop(&mut record.line, &mut store.entries);
        let entry = entry.expect("lanes in the ready list hold entries");
        let is_empty = self.heaps.len(record.line) == 0;
        let priority = usize::from(record.priority);
        self.sizes[priority] -= 1;
        key.acquire_again(store);
        self.running += 1;
        let mut applied = Vec::with_capacity(held.len());
        for held in &held {
            let bucket = &mut self.buckets[held.bucket];
            bucket.start(now, held.evaluated);
            if held.evaluated {
                applied.push(bucket.applied.clone());
            }
        }
        if is_empty {
            self.drop_lane(store, lane, now);
        } else {
            // Served: the next wait starts anew, behind those that wait already.
            let left = self.leave_waits(lane);
            self.lanes[lane].wait = turn;
            self.ready[priority].push(lane, &mut self.lanes);
            self.kick_all(store, left.as_slice(), now);
        }
        for held in &held {
            self.kick(store, held.bucket, now);
        }
        let ip = store.ip_of(local_ip).unwrap_or(IpAddr::from([0u8; 4]));
        let attempt = Attempt { lane: key, local_ip, held, started: now };
        Picked { entry, local_index, local_ip: ip, attempt, applied }
    }

    /// Tries the source addresses of a lane. The address symbol of `Verdict::Go` is counted.
    fn evaluate(&mut self, store: &mut Store, lane: u32, now: Time, rng: &mut Rng) -> Verdict {
        let fields = self.lanes[lane].key.fields(store);
        self.compare_suspends(store, lane, &fields);
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
            if let Some(slot) = self.suspended(lane, ip) {
                blockers.push(Blocker::Suspend(slot));
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
        let applied = self.policies[policy].applied(&key, store);
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
        let hash = self.hasher.hash_one((record.key, record.priority));
        if let Ok(found) = self.lane_index.find_entry(hash, |&l| l == lane) {
            found.remove();
        }
        self.ready[usize::from(record.priority)].remove(lane, &mut self.lanes);
        let woken_by = self.take_woken_by(lane);
        let Some(record) = self.lanes.remove(lane) else { return };
        self.suspend_lists.release(record.suspends);
        self.kick_all(store, woken_by.as_slice(), now);
        self.kick_all(store, left.as_slice(), now);
        record.key.release(store);
    }

    /// Checks what must always hold between lanes, counters and lists; for tests.
    pub(crate) fn verify(&self, store: &Store) -> Result<(), String> {
        let mut sizes = [0u64; 2];
        for (index, lane) in self.lanes.iter() {
            let len = self.heaps.len(lane.line);
            if len == 0 {
                return Err(format!("lane {index} is empty"));
            }
            sizes[usize::from(lane.priority)] += len as u64;
            if !lane.is_ready && lane.waits.is_empty() {
                return Err(format!("lane {index} is neither ready nor waiting"));
            }
            for entry in self.heaps.iter(lane.line) {
                if store.entries[entry].lane != index {
                    return Err(format!("entry {entry} does not know its lane {index}"));
                }
            }
            if !self.heaps.verify(lane.line, &store.entries) {
                return Err(format!("lane {index} is in order of other times than its entries say"));
            }
        }
        for (priority, ready) in self.ready.iter().enumerate() {
            let listed: Vec<u32> = ready.iter(&self.lanes).collect();
            let marked = self.lanes.iter().filter(|(_, l)| l.is_ready && usize::from(l.priority) == priority);
            if listed.len() != ready.len() || listed.len() != marked.count() {
                return Err(format!(
                    "{} lanes of priority {priority} are in line, not {}",
                    listed.len(),
                    ready.len()
                ));
            }
        }
        if sizes != self.sizes {
            return Err(format!("active sizes {:?}, counted {sizes:?}", self.sizes));
        }
        for (index, bucket) in self.buckets.iter() {
            let limit = bucket.applied.limits.as_ref().and_then(|l| l.concurrency);
            let mut woken = [0; 2];
            let woken_by = Blocker::Bucket(index);
            for (_, lane) in
                self.lanes.iter().filter(|(_, lane)| self.lists.contains(lane.woken_by, woken_by))
            {
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
