//! A stub resolver: several name servers with failover, UDP with TCP fallback, EDNS, a bounded cache with
//! negative answers, merged identical queries and a limit on queries under way.

mod cache;
mod wire;

use crate::tls::Tlsa;
use cache::{Cache, Key};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};
use ipnet::IpNet;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{OnceCell, Semaphore};

/// What a resolver does; from `resolver` of the running configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name servers in order of use.
    pub servers: Vec<SocketAddr>,
    /// Patience per try.
    pub timeout: Duration,
    /// Tries after the first, over all servers.
    pub retries: u32,
    /// Queries under way at once.
    pub concurrency: usize,
    /// Entries kept, 0 = none.
    pub cache_size: usize,
    /// Least time to live.
    pub ttl_min: Duration,
    /// Longest time to live.
    pub ttl_max: Duration,
    /// Longest time to live of negative answers.
    pub ttl_negative: Duration,
    /// Whose word on DNSSEC is taken.
    pub dnssec: Dnssec,
}

/// Whose AD bit says that an answer is signed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Dnssec {
    /// Every server's: for whoever chose the server.
    #[default]
    Any,
    /// Servers on loopback, where nobody sits in between, and in these networks.
    Trusted(Vec<IpNet>),
    /// Nobody's.
    Off,
}

impl Dnssec {
    fn trusts(&self, server: SocketAddr) -> bool {
        match self {
            Dnssec::Any => true,
            Dnssec::Trusted(networks) => {
                server.ip().is_loopback() || networks.iter().any(|network| network.contains(&server.ip()))
            }
            Dnssec::Off => false,
        }
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            servers: Vec::new(),
            timeout: Duration::from_secs(5),
            retries: 2,
            concurrency: 100,
            cache_size: 0,
            ttl_min: Duration::ZERO,
            ttl_max: Duration::from_secs(86_400),
            ttl_negative: Duration::from_secs(60),
            dnssec: Dnssec::Any,
        }
    }
}

/// The name servers of `/etc/resolv.conf` (at most three, as there), or the loopback address.
pub fn system_servers() -> Vec<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers: Vec<SocketAddr> = text
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok())
        .map(|address| SocketAddr::new(address, 53))
        .take(3)
        .collect();
    if servers.is_empty() { vec![SocketAddr::from(([127, 0, 0, 1], 53))] } else { servers }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DnsError {
    /// The name does not exist.
    #[error("no such domain")]
    NxDomain,
    /// The name exists, but not with that type.
    #[error("no such record")]
    NoData,
    /// Failure of the servers or of the way to them: worth another try later.
    #[error("{0}")]
    Temporary(String),
    /// The last server asked answered with an error code: worth another try later.
    #[error("{server}: {code}")]
    Refused {
        /// The server.
        server: String,
        /// Its code.
        code: ResponseCode,
    },
    /// The name cannot be asked for.
    #[error("'{0}' is no domain name")]
    BadName(String),
}

/// The records of one name and type.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Records of the type asked for, aliases followed.
    pub records: Vec<RData>,
    /// The server vouches for DNSSEC (AD bit).
    pub authentic: bool,
    /// Seconds left when it was received, clamped.
    pub ttl_s: u32,
}

/// One MX record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mx {
    /// Lower is tried first.
    pub preference: u16,
    /// Lower case, without final dot; `.` for a null MX.
    pub exchange: String,
}

/// Counters, as `process-stats` shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documented counters")]
pub struct Stats {
    pub pending: u64,
    pub running: u64,
    pub maxrunning: u64,
    pub dedup: u64,
    pub cache_size: u64,
    pub cache_maxsize: u64,
    pub cache_hits: u64,
    pub cache_misses: u64,
    pub cache_expires: u64,
    pub cache_evicts: u64,
    pub cache_skips: u64,
}

type Outcome = Result<Arc<Answer>, DnsError>;

/// An answer, or that there is none, and whether the server vouches for that (AD bit).
#[derive(Clone, Debug, PartialEq)]
struct Found {
    outcome: Outcome,
    authentic: bool,
}

impl From<Outcome> for Found {
    fn from(outcome: Outcome) -> Found {
        let authentic = outcome.as_ref().is_ok_and(|answer| answer.authentic);
        Found { outcome, authentic }
    }
}

/// A resolver, cheap to clone.
#[derive(Clone)]
pub struct Resolver {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    slots: Semaphore,
    cache: Mutex<Cache>,
    flights: Mutex<HashMap<Key, Arc<OnceCell<Found>>>>,
    pending: AtomicU64,
    running: AtomicU64,
    dedup: AtomicU64,
}

impl Resolver {
    /// A resolver with an empty cache. Without servers it asks those of the system.
    pub fn new(mut settings: Settings) -> Resolver {
        if settings.servers.is_empty() {
            settings.servers = system_servers();
        }
        let cache = Mutex::new(Cache::new(settings.cache_size));
        Resolver {
            inner: Arc::new(Inner {
                slots: Semaphore::new(settings.concurrency.max(1)),
                cache,
                flights: Mutex::new(HashMap::new()),
                pending: AtomicU64::new(0),
                running: AtomicU64::new(0),
                dedup: AtomicU64::new(0),
                settings,
            }),
        }
    }

    /// Records of one type. Identical questions asked at once share one query.
    pub async fn query(&self, name: &str, kind: RecordType) -> Outcome {
        self.find(name, kind).await.outcome
    }

    /// As [`query`](Resolver::query), and whether the server vouches for the outcome with DNSSEC: also that there is
    /// no such name or record can be signed.
    pub async fn query_secure(&self, name: &str, kind: RecordType) -> (Outcome, bool) {
        let found = self.find(name, kind).await;
        (found.outcome, found.authentic)
    }

    async fn find(&self, name: &str, kind: RecordType) -> Found {
        let key = match Key::new(name, kind) {
            Ok(key) => key,
            Err(error) => return Found::from(Err(error)),
        };
        if let Some(found) = self.inner.cache.lock().get(&key, Instant::now()) {
            return found;
        }
        let (flight, joined) = {
            let mut flights = self.inner.flights.lock();
            match flights.get(&key) {
                Some(flight) => (flight.clone(), true),
                None => {
                    let flight = Arc::new(OnceCell::new());
                    flights.insert(key.clone(), flight.clone());
                    (flight, false)
                }
            }
        };
        if joined {
            self.inner.dedup.fetch_add(1, Ordering::Relaxed);
        }
        let boarded = Boarded { inner: &self.inner, key: &key, flight };
        // A caller that is dropped half-way leaves the cell empty, and the next one takes over.
        boarded.flight.get_or_init(|| self.ask(&key)).await.clone()
    }

    async fn ask(&self, key: &Key) -> Found {
        let inner = &*self.inner;
        let waiting = Gauge::new(&inner.pending);
        let Ok(_slot) = inner.slots.acquire().await else {
            return Found::from(Err(DnsError::Temporary("the resolver is shut down".to_owned())));
        };
        drop(waiting);
        let _running = Gauge::new(&inner.running);
        let reply = wire::ask_servers(key, &inner.settings).await;
        let settings = &inner.settings;
        let (found, ttl) = match reply {
            Ok(wire::Reply::Records { records, authentic, ttl_s }) => {
                let ttl = Duration::from_secs(u64::from(ttl_s))
                    .clamp(settings.ttl_min, settings.ttl_max.max(settings.ttl_min));
                let ttl_s = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
                (Found::from(Ok(Arc::new(Answer { records, authentic, ttl_s }))), Some(ttl))
            }
            Ok(wire::Reply::Negative { error, authentic, ttl_s }) => {
                let ttl = Duration::from_secs(u64::from(ttl_s)).min(settings.ttl_negative);
                (Found { outcome: Err(error), authentic }, Some(ttl))
            }
            Err(error) => (Found::from(Err(error)), None),
        };
        let mut cache = inner.cache.lock();
        match ttl {
            Some(ttl) => cache.insert(key.clone(), found.clone(), Instant::now() + ttl),
            None => cache.skips += 1,
        }
        found
    }

    /// MX records by preference.
    pub async fn mx(&self, domain: &str) -> Result<Vec<Mx>, DnsError> {
        self.mx_secure(domain).await.0
    }

    /// MX records by preference, and whether the answer, or that there is none, is signed.
    pub async fn mx_secure(&self, domain: &str) -> (Result<Vec<Mx>, DnsError>, bool) {
        let (outcome, is_secure) = self.query_secure(domain, RecordType::MX).await;
        let answer = match outcome {
            Ok(answer) => answer,
            Err(error) => return (Err(error), is_secure),
        };
        let mut records: Vec<Mx> = answer
            .records
            .iter()
            .filter_map(|data| match data {
                RData::MX(mx) => {
                    Some(Mx { preference: mx.preference, exchange: wire::plain_name(&mx.exchange) })
                }
                _ => None,
            })
            .collect();
        records.sort_by(|a, b| (a.preference, &a.exchange).cmp(&(b.preference, &b.exchange)));
        (if records.is_empty() { Err(DnsError::NoData) } else { Ok(records) }, is_secure)
    }

    /// For how many seconds the MX records of a domain are known; 0 where there are none.
    pub async fn mx_ttl_s(&self, domain: &str) -> u32 {
        self.query(domain, RecordType::MX).await.map_or(0, |answer| answer.ttl_s)
    }

    /// Addresses of the wanted families. It is an error only when no family has an answer; a temporary
    /// failure of one family wins over a missing record of the other.
    pub async fn addresses(&self, host: &str, ipv4: bool, ipv6: bool) -> Result<Vec<IpAddr>, DnsError> {
        self.addresses_secure(host, ipv4, ipv6).await.0
    }

    /// Addresses as [`addresses`](Resolver::addresses), and whether all answers that gave some are signed.
    pub async fn addresses_secure(
        &self,
        host: &str,
        ipv4: bool,
        ipv6: bool,
    ) -> (Result<Vec<IpAddr>, DnsError>, bool) {
        let want = |wanted: bool, kind: RecordType| async move {
            if wanted { self.query_secure(host, kind).await } else { (Err(DnsError::NoData), true) }
        };
        let (four, six) = tokio::join!(want(ipv4, RecordType::A), want(ipv6, RecordType::AAAA));
        let is_secure = [&four, &six].iter().all(|(outcome, secure)| outcome.is_err() || *secure);
        let mut addresses = Vec::new();
        let mut error = DnsError::NoData;
        for outcome in [four.0, six.0] {
            match outcome {
                Ok(answer) => addresses.extend(answer.records.iter().filter_map(|data| match data {
                    RData::A(a) => Some(IpAddr::V4(a.0)),
                    RData::AAAA(a) => Some(IpAddr::V6(a.0)),
                    _ => None,
                })),
                Err(DnsError::NoData) => {}
                Err(DnsError::NxDomain)
                    if matches!(error, DnsError::Temporary(_) | DnsError::Refused { .. }) => {}
                Err(other) => error = other,
            }
        }
        let found = if addresses.is_empty() { Err(error) } else { Ok(addresses) };
        (found, is_secure)
    }

    /// The TLSA records of a TCP service, and whether the answer, or that there is none, is signed.
    pub async fn tlsa(&self, host: &str, port: u16) -> (Result<Vec<Tlsa>, DnsError>, bool) {
        let name = format!("_{port}._tcp.{}", host.trim_end_matches('.'));
        let (outcome, is_secure) = self.query_secure(&name, RecordType::TLSA).await;
        let records = outcome.map(|answer| {
            answer
                .records
                .iter()
                .filter_map(|data| match data {
                    RData::TLSA(tlsa) => Some(Tlsa {
                        usage: tlsa.cert_usage.into(),
                        selector: tlsa.selector.into(),
                        matching: tlsa.matching.into(),
                        data: tlsa.cert_data.clone(),
                    }),
                    _ => None,
                })
                .collect()
        });
        (records, is_secure)
    }

    /// Names of an address (PTR), lower case, without final dot.
    pub async fn reverse(&self, address: IpAddr) -> Result<Vec<String>, DnsError> {
        let answer = self.query(&wire::reverse_name(address), RecordType::PTR).await?;
        let names: Vec<String> = answer
            .records
            .iter()
            .filter_map(|data| match data {
                RData::PTR(name) => Some(wire::plain_name(&name.0)),
                _ => None,
            })
            .collect();
        if names.is_empty() { Err(DnsError::NoData) } else { Ok(names) }
    }

    /// Forgets everything, or what is known of one domain; gives the number of entries.
    pub fn clear(&self, domain: Option<&str>) -> u64 {
        self.inner.cache.lock().clear(domain)
    }

    /// The counters.
    pub fn stats(&self) -> Stats {
        let inner = &*self.inner;
        let cache = inner.cache.lock();
        Stats {
            pending: inner.pending.load(Ordering::Relaxed),
            running: inner.running.load(Ordering::Relaxed),
            maxrunning: inner.settings.concurrency as u64,
            dedup: inner.dedup.load(Ordering::Relaxed),
            cache_size: cache.len() as u64,
            cache_maxsize: inner.settings.cache_size as u64,
            cache_hits: cache.hits,
            cache_misses: cache.misses,
            cache_expires: cache.expires,
            cache_evicts: cache.evicts,
            cache_skips: cache.skips,
        }
    }
}

/// One caller waiting for a flight; the last one out, or the first with the answer, clears the board.
struct Boarded<'a> {
    inner: &'a Inner,
    key: &'a Key,
    flight: Arc<OnceCell<Found>>,
}

impl Drop for Boarded<'_> {
    fn drop(&mut self) {
        let mut flights = self.inner.flights.lock();
        let is_ours = flights.get(self.key).is_some_and(|current| Arc::ptr_eq(current, &self.flight));
        // Two references: the board's and this caller's. New callers board under the same lock.
        if is_ours && (self.flight.initialized() || Arc::strong_count(&self.flight) <= 2) {
            flights.remove(self.key);
        }
    }
}

/// Counts one while it lives, also when its future is dropped.
struct Gauge<'a>(&'a AtomicU64);

impl Gauge<'_> {
    fn new(counter: &AtomicU64) -> Gauge<'_> {
        counter.fetch_add(1, Ordering::Relaxed);
        Gauge(counter)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
