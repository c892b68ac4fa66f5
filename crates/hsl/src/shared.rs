//! [`Shared`]: state of the process that executions have in common: the function cache and the shared memory with its
//! barriers (language sections 13 and 14). Waiting never blocks a thread; it yields a future.

use crate::error::Error;
use crate::object::{FunctionKind, ObjectKind};
use crate::registry::BoxFuture;
use crate::string::Str;
use crate::value::Value;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

/// Monotonic seconds since some fixed moment.
pub type Clock = Arc<dyn Fn() -> f64 + Send + Sync>;

/// State shared by the executions of a process. Lock order: none, no two of its locks are held at once.
pub struct Shared {
    clock: Clock,
    cache: Mutex<HashMap<(Str, Str), Bucket>>,
    memory: Mutex<Memory>,
    executions: AtomicU64,
}

#[derive(Default)]
struct Bucket {
    size: usize,
    entries: HashMap<Str, Entry>,
    /// Entry keys by last use.
    uses: BTreeMap<u64, Str>,
    clock: u64,
    flights: HashMap<Str, Arc<Flight>>,
    hits: u64,
    misses: u64,
    evicts: u64,
    waits: u64,
    /// Last lookup.
    used_s: f64,
}

impl Bucket {
    /// Drops what is out of date.
    fn expire(&mut self, now: f64, dropped: &mut Vec<Value>) {
        let old: Vec<Str> =
            self.entries.iter().filter(|(_, e)| e.expires_s <= now).map(|(k, _)| k.clone()).collect();
        for key in old {
            if let Some(entry) = self.entries.remove(&key) {
                self.uses.remove(&entry.used);
                dropped.push(entry.value);
            }
        }
    }
}

/// Most buckets of the cache: scripts may make namespaces from anything, such as addresses of clients.
const BUCKETS_MAX: usize = 10_000;

/// Makes room for a bucket: drops those that hold nothing any more, else the half that was not used for longest.
fn make_room(cache: &mut HashMap<(Str, Str), Bucket>, now: f64, dropped: &mut Vec<Value>) {
    for bucket in cache.values_mut() {
        bucket.expire(now, dropped);
    }
    cache.retain(|_, b| !b.entries.is_empty() || !b.flights.is_empty());
    if cache.len() < BUCKETS_MAX {
        return;
    }
    let mut times: Vec<f64> = cache.values().map(|b| b.used_s).collect();
    let middle = times.len() / 2;
    let (_, limit, _) = times.select_nth_unstable_by(middle, f64::total_cmp);
    let limit = *limit;
    cache.retain(|_, b| {
        let keep = b.used_s > limit || !b.flights.is_empty();
        if !keep {
            dropped.extend(b.entries.drain().map(|(_, e)| e.value));
        }
        keep
    });
}

struct Entry {
    value: Value,
    expires_s: f64,
    used: u64,
}

/// Something that executions wait for.
#[derive(Default)]
struct Flight(Mutex<(bool, Vec<Waker>)>);

impl Flight {
    fn land(&self) {
        let wakers = {
            let mut state = self.0.lock();
            state.0 = true;
            std::mem::take(&mut state.1)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

struct Wait(Arc<Flight>);

impl Future for Wait {
    type Output = Result<Value, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.0.lock();
        if state.0 {
            return Poll::Ready(Ok(Value::None));
        }
        if !state.1.iter().any(|w| w.will_wake(cx.waker())) {
            state.1.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

#[derive(Default)]
struct Memory {
    values: HashMap<Str, Value>,
    locks: HashMap<Str, (u64, Arc<Flight>)>,
}

/// What a cache bucket holds, for `halonctl hsl cache list`.
#[derive(Debug, Clone)]
pub struct BucketInfo {
    /// Namespace.
    pub namespace: String,
    /// Function, with its file for script functions.
    pub function: String,
    /// Entries now.
    pub entries: usize,
    /// Entries at most.
    pub size: usize,
    /// Lookups answered.
    pub hits: u64,
    /// Lookups that had to call.
    pub misses: u64,
    /// Entries that made room for others.
    pub evicts: u64,
    /// Lookups that waited for another one's call.
    pub waits: u64,
}

pub(crate) enum Lookup {
    Hit(Value),
    /// Not there: the caller computes it. The old value may be expired.
    Miss {
        ticket: Option<Ticket>,
        old: Option<Value>,
    },
    /// Another execution computes it.
    Wait(BoxFuture),
}

/// The right to fill one cache entry; others wait until it is stored or dropped.
pub(crate) struct Ticket {
    shared: Arc<Shared>,
    bucket: (Str, Str),
    key: Str,
    flight: Arc<Flight>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let removed =
            self.shared.cache.lock().get_mut(&self.bucket).and_then(|b| b.flights.remove(&self.key));
        drop(removed);
        self.flight.land();
    }
}

impl Default for Shared {
    fn default() -> Shared {
        Shared::new()
    }
}

impl Shared {
    /// Empty state on the monotonic clock of the system.
    pub fn new() -> Shared {
        let start = std::time::Instant::now();
        Shared::with_clock(Arc::new(move || start.elapsed().as_secs_f64()))
    }

    /// Empty state on a given clock.
    pub fn with_clock(clock: Clock) -> Shared {
        Shared {
            clock,
            cache: Mutex::new(HashMap::new()),
            memory: Mutex::new(Memory::default()),
            executions: AtomicU64::new(1),
        }
    }

    /// Seconds on the clock.
    pub fn now(&self) -> f64 {
        (self.clock)()
    }

    pub(crate) fn next_execution(&self) -> u64 {
        self.executions.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn lookup(
        self: &Arc<Self>,
        bucket: &(Str, Str),
        key: &Str,
        size: usize,
        force: bool,
        may_wait: bool,
    ) -> Lookup {
        let now = self.now();
        // Values are dropped outside the lock.
        let mut dropped = Vec::new();
        let mut cache = self.cache.lock();
        if cache.len() >= BUCKETS_MAX && !cache.contains_key(bucket) {
            make_room(&mut cache, now, &mut dropped);
        }
        let b = cache.entry(bucket.clone()).or_insert_with(|| Bucket { size, ..Bucket::default() });
        b.size = b.size.min(size);
        b.used_s = now;
        b.clock += 1;
        let clock = b.clock;
        let mut old = None;
        if let Some(entry) = b.entries.get_mut(key) {
            if !force && entry.expires_s > now {
                b.uses.remove(&entry.used);
                entry.used = clock;
                b.uses.insert(clock, key.clone());
                b.hits += 1;
                return Lookup::Hit(entry.value.clone());
            }
            old = Some(entry.value.clone());
        }
        if let Some(flight) = b.flights.get(key) {
            if may_wait {
                b.waits += 1;
                return Lookup::Wait(Box::pin(Wait(Arc::clone(flight))));
            }
            b.misses += 1;
            return Lookup::Miss { ticket: None, old };
        }
        b.misses += 1;
        let flight = Arc::new(Flight::default());
        b.flights.insert(key.clone(), Arc::clone(&flight));
        let ticket = Ticket { shared: Arc::clone(self), bucket: bucket.clone(), key: key.clone(), flight };
        Lookup::Miss { ticket: Some(ticket), old }
    }

    pub(crate) fn store(&self, bucket: &(Str, Str), key: &Str, value: &Value, ttl_s: f64, lru: bool) {
        if ttl_s.is_nan() || ttl_s <= 0.0 || !shareable(value) {
            return;
        }
        let expires_s = self.now() + ttl_s;
        // Values are dropped outside the lock.
        let mut dropped = Vec::new();
        {
            let mut cache = self.cache.lock();
            let Some(b) = cache.get_mut(bucket) else { return };
            if b.size == 0 {
                return;
            }
            b.clock += 1;
            let clock = b.clock;
            if let Some(entry) = b.entries.remove(key) {
                b.uses.remove(&entry.used);
                dropped.push(entry.value);
            } else if b.entries.len() >= b.size && !lru {
                // What is out of date does not count.
                b.expire(expires_s - ttl_s, &mut dropped);
                if b.entries.len() >= b.size {
                    return;
                }
            }
            while b.entries.len() >= b.size {
                let Some((_, oldest)) = b.uses.pop_first() else { break };
                b.evicts += 1;
                dropped.extend(b.entries.remove(&oldest).map(|e| e.value));
            }
            b.uses.insert(clock, key.clone());
            b.entries.insert(key.clone(), Entry { value: value.clone(), expires_s, used: clock });
        }
    }

    /// The cache buckets.
    pub fn cache_list(&self) -> Vec<BucketInfo> {
        let cache = self.cache.lock();
        cache
            .iter()
            .map(|((namespace, function), b)| BucketInfo {
                namespace: namespace.to_text().into_owned(),
                function: function.to_text().replace('\0', ":"),
                entries: b.entries.len(),
                size: b.size,
                hits: b.hits,
                misses: b.misses,
                evicts: b.evicts,
                waits: b.waits,
            })
            .collect()
    }

    /// Empties the buckets of a namespace, or all; the number of entries removed.
    pub fn cache_clear(&self, namespace: Option<&[u8]>) -> usize {
        let mut dropped = Vec::new();
        {
            let mut cache = self.cache.lock();
            for ((name, _), b) in cache.iter_mut() {
                if namespace.is_none_or(|n| n == name.as_bytes()) {
                    dropped.extend(b.entries.drain());
                    b.uses.clear();
                }
            }
            cache.retain(|(name, _), b| {
                !b.flights.is_empty() || namespace.is_some_and(|n| n != name.as_bytes())
            });
        }
        dropped.len()
    }

    /// Removes the entries of a namespace, of a function (by its name, or with its file in front), and of calls with
    /// these arguments (by position, as far as the cache tells them apart); the number of buckets that lost some.
    pub fn cache_remove(
        &self,
        namespace: Option<&str>,
        function: Option<&str>,
        arguments: &[(usize, Value)],
    ) -> usize {
        let mut dropped = Vec::new();
        let mut buckets = 0;
        {
            let mut cache = self.cache.lock();
            for ((space, name), b) in cache.iter_mut() {
                let shown = name.to_text().replace('\0', ":");
                let named = |wanted: &str| {
                    shown == wanted || shown.strip_suffix(wanted).is_some_and(|head| head.ends_with(':'))
                };
                if namespace.is_some_and(|n| n.as_bytes() != space.as_bytes())
                    || function.is_some_and(|wanted| !named(wanted))
                {
                    continue;
                }
                let gone: Vec<Str> = b
                    .entries
                    .keys()
                    .filter(|key| arguments.iter().all(|(i, v)| has_argument(key.as_bytes(), *i, v)))
                    .cloned()
                    .collect();
                buckets += usize::from(!gone.is_empty() || (arguments.is_empty() && b.entries.is_empty()));
                for key in gone {
                    if let Some(entry) = b.entries.remove(&key) {
                        b.uses.remove(&entry.used);
                        dropped.push(entry.value);
                    }
                }
            }
        }
        // Values are dropped outside the lock.
        drop(dropped);
        buckets
    }

    /// The keys of the shared memory, in order.
    pub fn memory_keys(&self) -> Vec<Str> {
        let mut keys: Vec<Str> = self.memory.lock().values.keys().cloned().collect();
        keys.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        keys
    }

    /// Runs `change` on the value of a shared-memory key while no other execution is inside a barrier of that name.
    ///
    /// # Errors
    /// A future to wait for before trying again.
    pub fn with_memory<R>(
        &self,
        key: &[u8],
        execution: u64,
        change: impl FnOnce(&mut Option<Value>) -> R,
    ) -> Result<R, BoxFuture> {
        let mut memory = self.memory.lock();
        if let Some((owner, flight)) = memory.locks.get(key)
            && *owner != execution
        {
            return Err(Box::pin(Wait(Arc::clone(flight))));
        }
        let mut slot = memory.values.remove(key);
        let result = change(&mut slot);
        if let Some(value) = slot {
            memory.values.insert(Str::from_bytes(key), value);
        }
        Ok(result)
    }

    /// Whether an execution is inside the barrier of a name.
    pub fn is_inside(&self, name: &[u8], execution: u64) -> bool {
        self.memory.lock().locks.get(name).is_some_and(|(owner, _)| *owner == execution)
    }

    /// Enters the barrier of a name.
    ///
    /// # Errors
    /// A future to wait for, or an exception when this execution is inside already.
    pub fn enter(
        self: &Arc<Self>,
        name: &Str,
        execution: u64,
    ) -> Result<BarrierGuard, Result<BoxFuture, Error>> {
        let mut memory = self.memory.lock();
        if let Some((owner, flight)) = memory.locks.get(name) {
            if *owner == execution {
                return Err(Err(Error::exception(format!("Already inside barrier '{}'", name.to_text()))));
            }
            return Err(Ok(Box::pin(Wait(Arc::clone(flight)))));
        }
        let flight = Arc::new(Flight::default());
        memory.locks.insert(name.clone(), (execution, Arc::clone(&flight)));
        Ok(BarrierGuard { shared: Arc::clone(self), name: name.clone(), flight })
    }
}

/// Keeps a barrier closed for others until dropped.
pub struct BarrierGuard {
    shared: Arc<Shared>,
    name: Str,
    flight: Arc<Flight>,
}

impl BarrierGuard {
    /// The shared value of the name.
    pub fn value(&self) -> Option<Value> {
        self.shared.memory.lock().values.get(&self.name).cloned()
    }

    /// Replaces the shared value of the name; `None` removes it.
    ///
    /// # Errors
    /// An exception for values that cannot leave their execution.
    pub fn set(&self, value: Option<Value>) -> Result<(), Error> {
        if value.as_ref().is_some_and(|v| !storable(v)) {
            return Err(Error::exception("Only plain data can be shared between executions"));
        }
        let old = {
            let mut memory = self.shared.memory.lock();
            match value {
                Some(value) => memory.values.insert(self.name.clone(), value),
                None => memory.values.remove(&self.name),
            }
        };
        drop(old);
        Ok(())
    }
}

impl Drop for BarrierGuard {
    fn drop(&mut self) {
        self.shared.memory.lock().locks.remove(&self.name);
        self.flight.land();
    }
}

/// The part of a cache key that is an argument, as the `cache` expression writes it: its type, a colon, its length, a
/// colon, its text.
fn write_argument(out: &mut Vec<u8>, value: &Value) {
    let text = value.to_str();
    out.extend_from_slice(format!("{}:{}:", value.type_name(), text.len()).as_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn has_argument(key: &[u8], index: usize, value: &Value) -> bool {
    let mut wanted = Vec::new();
    write_argument(&mut wanted, value);
    let mut rest = key;
    for _ in 0..index {
        let mut parts = rest.splitn(3, |c| *c == b':');
        let (Some(_), Some(length), Some(tail)) = (parts.next(), parts.next(), parts.next()) else {
            return false;
        };
        let length = std::str::from_utf8(length).ok().and_then(|n| n.parse::<usize>().ok());
        let Some(tail) = length.and_then(|n| tail.get(n..)) else { return false };
        rest = tail;
    }
    rest.starts_with(&wanted)
}

/// Whether a value may be seen by other executions: plain data and objects that lock themselves.
pub fn shareable(value: &Value) -> bool {
    all_parts(value, |part| match part {
        Value::Function(_) => false,
        Value::Object(o) => matches!(&o.0, ObjectKind::Native { data, .. } if data.shareable()),
        Value::Resource(r) => r.shareable(),
        _ => true,
    })
}

/// Whether a value may be kept in the shared memory: what is shareable, and functions of the library. Those of scripts
/// belong to the program that they are of.
pub fn storable(value: &Value) -> bool {
    all_parts(value, |part| match part {
        Value::Function(f) => matches!(f.0, FunctionKind::Native(_) | FunctionKind::NativeClass(_)),
        other => shareable(other),
    })
}

/// Whether a value is data all through, so that its string form tells it from others.
pub(crate) fn plain(value: &Value) -> bool {
    all_parts(value, |part| !matches!(part, Value::Function(_) | Value::Object(_) | Value::Resource(_)))
}

/// Whether `fits` is true for a value and everything in it. Parts that arrays share are looked at once.
fn all_parts(value: &Value, fits: impl Fn(&Value) -> bool) -> bool {
    let mut work = vec![value.clone()];
    let mut seen = std::collections::HashSet::new();
    while let Some(v) = work.pop() {
        match &v {
            Value::Array(a) if !seen.insert(a.address()) => {}
            Value::Array(a) => {
                for (k, v) in a.iter() {
                    work.push(v.clone());
                    if let crate::array::Key::Val(k) = k {
                        work.push(k);
                    }
                }
            }
            other if !fits(other) => return false,
            _ => {}
        }
    }
    true
}
