//! Connections kept open between messages (manual, queue and delivery 8).
//!
//! A connection serves entries whose [`Key`] equals its own: the same next hop by the configured policy, and the same
//! settings of everything that was agreed when it was opened. It leaves the pool when it is taken, when it was idle too
//! long, when the peer closed it, or when it is the one that was idle longest and room is needed.

use crate::delivery::connection::{Connection, Route};
use crate::delivery::peer::Dane;
use crate::transport::{Pooling, Proxy, SessionSettings, Transport};
use config::app::{PoolingPolicy, Protocol};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often idle connections are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// A next hop, as far as connections to it may be shared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// One address of one host.
    Address(IpAddr, String),
    /// Any address of a host.
    Mx(String),
    /// Any host of a grouping.
    Grouping(String),
}

/// What entries must have in common to share a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    place: Place,
    source: Option<(IpAddr, String, Option<Proxy>)>,
    port: u16,
    is_lmtp: bool,
    helo: String,
    settings: Arc<SessionSettings>,
    /// What the certificate was compared with.
    dane: Dane,
}

impl Key {
    /// The key of an entry that goes this way. An unnamed grouping is no place; its members share by address.
    pub fn new(
        policy: Option<PoolingPolicy>,
        grouping: &str,
        route: &Route<'_>,
        transport: &Transport,
    ) -> Key {
        // Whose certificate has to be for one host is not served by a connection to another.
        let of_host = transport.session.tls.verify_host || *route.dane != Dane::None;
        let policy = match policy {
            Some(PoolingPolicy::Grouping) if of_host => Some(PoolingPolicy::RemoteMx),
            policy => policy,
        };
        let place = match policy {
            Some(PoolingPolicy::RemoteMx) if !route.remote_mx.is_empty() => {
                Place::Mx(route.remote_mx.to_ascii_lowercase())
            }
            Some(PoolingPolicy::Grouping) if !grouping.is_empty() => Place::Grouping(grouping.to_owned()),
            _ => Place::Address(route.remote.ip(), route.remote_mx.to_ascii_lowercase()),
        };
        Key {
            place,
            source: route.source.map(|source| (source.ip, source.id.clone(), source.proxy.clone())),
            port: route.remote.port(),
            is_lmtp: transport.protocol == Protocol::Lmtp,
            helo: route.helo.to_owned(),
            settings: transport.session.clone(),
            dane: route.dane.clone(),
        }
    }
}

struct Idle {
    connection: Connection,
    key: Arc<Key>,
    is_evictable: bool,
    until: Instant,
}

#[derive(Default)]
struct Kept {
    idle: HashMap<u64, Idle>,
    /// The one that came last is at the end.
    by_key: HashMap<Arc<Key>, Vec<u64>>,
    /// Numbers ascend, so the first was idle longest.
    evictable: BTreeSet<u64>,
    next: u64,
    is_closed: bool,
}

impl Kept {
    fn remove(&mut self, number: u64) -> Option<Idle> {
        let idle = self.idle.remove(&number)?;
        self.evictable.remove(&number);
        if let Some(list) = self.by_key.get_mut(&idle.key) {
            list.retain(|other| *other != number);
            if list.is_empty() {
                self.by_key.remove(&idle.key);
            }
        }
        Some(idle)
    }
}

/// The counters, as `process-stats` shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documented counters")]
pub struct Stats {
    pub size: u64,
    pub maxsize: u64,
    pub hits: u64,
    pub misses: u64,
    pub expires: u64,
    pub evicts: u64,
    pub skips: u64,
}

/// The pool.
#[derive(Default)]
pub struct Pool {
    kept: Mutex<Kept>,
    size_max: AtomicUsize,
    hits: AtomicU64,
    misses: AtomicU64,
    expires: AtomicU64,
    evicts: AtomicU64,
    skips: AtomicU64,
}

impl Pool {
    /// Changes how many connections are kept; those above go at the next sweep.
    pub fn set_size(&self, size_max: usize) {
        self.size_max.store(size_max, Ordering::Relaxed);
    }

    /// An open connection with that key, if there is one. Those that turn out to be closed are dropped on the way.
    pub fn take(&self, key: &Key) -> Option<Connection> {
        loop {
            let idle = {
                let mut kept = self.kept.lock();
                let number = kept.by_key.get(key).and_then(|list| list.last().copied());
                number.and_then(|number| kept.remove(number))
            };
            let Some(mut idle) = idle else {
                self.misses.fetch_add(1, Ordering::Relaxed);
                return None;
            };
            if idle.until > Instant::now() && idle.connection.is_quiet() {
                self.hits.fetch_add(1, Ordering::Relaxed);
                return Some(idle.connection);
            }
        }
    }

    /// Keeps a connection whose transaction is over, or gives back the one that has to be closed instead.
    pub fn put(&self, key: Key, connection: Connection, pooling: &Pooling) -> Option<Connection> {
        let used_up = pooling.transactions > 0 && connection.info.transactions >= pooling.transactions;
        let size_max = self.size_max.load(Ordering::Relaxed);
        if used_up || size_max == 0 || !connection.is_reusable() {
            return Some(connection);
        }
        let mut kept = self.kept.lock();
        if kept.is_closed {
            return Some(connection);
        }
        let mut evicted = None;
        if kept.idle.len() >= size_max {
            match kept.evictable.first().copied() {
                Some(oldest) => {
                    evicted = kept.remove(oldest).map(|idle| idle.connection);
                    self.evicts.fetch_add(1, Ordering::Relaxed);
                }
                None => {
                    self.skips.fetch_add(1, Ordering::Relaxed);
                    return Some(connection);
                }
            }
        }
        let number = kept.next;
        kept.next += 1;
        let key = Arc::new(key);
        kept.by_key.entry(key.clone()).or_default().push(number);
        if pooling.evictable {
            kept.evictable.insert(number);
        }
        let until = Instant::now() + pooling.timeout;
        kept.idle.insert(number, Idle { connection, key, is_evictable: pooling.evictable, until });
        evicted
    }

    /// Closes what was idle too long, what the peer closed, and what is too much after a reload, until the shutdown; then
    /// all of them.
    pub async fn sweep(self: Arc<Self>, mut shutdown: watch::Receiver<bool>) {
        loop {
            let stop = tokio::time::timeout(SWEEP, shutdown.wait_for(|stop| *stop)).await.is_ok();
            if stop {
                return;
            }
            for connection in self.overdue() {
                tokio::spawn(connection.quit());
            }
        }
    }

    /// Takes nothing more and says QUIT on everything.
    pub async fn close(&self) {
        let all: Vec<Idle> = {
            let mut kept = self.kept.lock();
            kept.is_closed = true;
            kept.by_key.clear();
            kept.evictable.clear();
            kept.idle.drain().map(|(_, idle)| idle).collect()
        };
        let mut closing = tokio::task::JoinSet::new();
        for idle in all {
            closing.spawn(idle.connection.quit());
        }
        closing.join_all().await;
    }

    /// What is to be closed politely; what the peer has closed is just dropped.
    fn overdue(&self) -> Vec<Connection> {
        let now = Instant::now();
        let size_max = self.size_max.load(Ordering::Relaxed);
        let mut kept = self.kept.lock();
        let gone: Vec<u64> = kept
            .idle
            .iter_mut()
            .filter_map(|(n, idle)| (!idle.connection.is_quiet()).then_some(*n))
            .collect();
        for number in gone {
            kept.remove(number);
        }
        let late: Vec<u64> =
            kept.idle.iter().filter(|(_, idle)| idle.until <= now).map(|(n, _)| *n).collect();
        let mut overdue = Vec::new();
        for number in late {
            self.expires.fetch_add(1, Ordering::Relaxed);
            overdue.extend(kept.remove(number).map(|idle| idle.connection));
        }
        while kept.idle.len() > size_max {
            let oldest = kept.evictable.first().copied().or_else(|| kept.idle.keys().min().copied());
            let Some(idle) = oldest.and_then(|number| kept.remove(number)) else { break };
            if idle.is_evictable {
                self.evicts.fetch_add(1, Ordering::Relaxed);
            }
            overdue.push(idle.connection);
        }
        overdue
    }

    /// The counters.
    pub fn stats(&self) -> Stats {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            size: self.kept.lock().idle.len() as u64,
            maxsize: self.size_max.load(Ordering::Relaxed) as u64,
            hits: of(&self.hits),
            misses: of(&self.misses),
            expires: of(&self.expires),
            evicts: of(&self.evicts),
            skips: of(&self.skips),
        }
    }
}
