//! The answers kept: a map with a bound, the oldest entry leaves first.

use super::{DnsError, Found};
use hickory_proto::rr::RecordType;
use std::collections::{HashMap, VecDeque};
use std::time::Instant;

/// A question: a name in lower case without final dot, and a type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) kind: RecordType,
}

impl Key {
    pub(super) fn new(name: &str, kind: RecordType) -> Result<Key, DnsError> {
        let plain = name.strip_suffix('.').unwrap_or(name);
        let labels_fit = plain.split('.').all(|label| (1..=63).contains(&label.len()));
        if plain.len() > 253 || !labels_fit || plain.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return Err(DnsError::BadName(name.chars().take(255).collect()));
        }
        Ok(Key { name: plain.to_ascii_lowercase(), kind })
    }
}

pub(super) struct Cache {
    size_max: usize,
    entries: HashMap<Key, (Found, Instant)>,
    order: VecDeque<Key>,
    pub(super) hits: u64,
    pub(super) misses: u64,
    pub(super) expires: u64,
    pub(super) evicts: u64,
    pub(super) skips: u64,
}

impl Cache {
    pub(super) fn new(size_max: usize) -> Cache {
        Cache {
            size_max,
            entries: HashMap::new(),
            order: VecDeque::new(),
            hits: 0,
            misses: 0,
            expires: 0,
            evicts: 0,
            skips: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&mut self, key: &Key, now: Instant) -> Option<Found> {
        match self.entries.get(key) {
            Some((found, until)) if *until > now => {
                self.hits += 1;
                return Some(found.clone());
            }
            Some(_) => {
                self.entries.remove(key);
                self.expires += 1;
            }
            None => {}
        }
        self.misses += 1;
        None
    }

    pub(super) fn insert(&mut self, key: Key, found: Found, until: Instant) {
        if self.size_max == 0 {
            return;
        }
        if self.entries.insert(key.clone(), (found, until)).is_none() {
            self.order.push_back(key);
        }
        while self.entries.len() > self.size_max {
            match self.order.pop_front() {
                Some(oldest) if self.entries.remove(&oldest).is_some() => self.evicts += 1,
                Some(_) => {}
                None => break,
            }
        }
        // Names that expired and came back stand in the order twice; keep it from growing.
        if self.order.len() > self.size_max.saturating_mul(2).max(1024) {
            let mut seen = std::collections::HashSet::new();
            let entries = &self.entries;
            self.order.retain(|key| entries.contains_key(key) && seen.insert(key.clone()));
        }
    }

    pub(super) fn clear(&mut self, domain: Option<&str>) -> u64 {
        let before = self.entries.len();
        match domain {
            None => {
                self.entries.clear();
                self.order.clear();
            }
            Some(domain) => {
                let domain = domain.strip_suffix('.').unwrap_or(domain).to_ascii_lowercase();
                self.entries.retain(|key, _| key.name != domain);
            }
        }
        (before - self.entries.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn key(name: &str) -> Key {
        Key::new(name, RecordType::A).unwrap()
    }

    #[test]
    fn keys_are_plain_names() {
        assert_eq!(key("Example.COM."), key("example.com"));
        for bad in ["", ".", "a..b", "a b", &"x".repeat(64), &"a.".repeat(200)] {
            assert!(Key::new(bad, RecordType::A).is_err(), "{bad}");
        }
    }

    #[test]
    fn bounds_expires_and_clears() {
        let now = Instant::now();
        let mut cache = Cache::new(2);
        for name in ["a", "b", "c"] {
            cache.insert(key(name), Err(DnsError::NoData).into(), now + Duration::from_secs(1));
        }
        assert_eq!((cache.len(), cache.evicts), (2, 1));
        assert!(cache.get(&key("a"), now).is_none());
        assert!(cache.get(&key("b"), now).is_some());
        assert!(cache.get(&key("b"), now + Duration::from_secs(1)).is_none());
        assert_eq!((cache.hits, cache.misses, cache.expires), (1, 2, 1));
        assert_eq!(cache.clear(Some("C.")), 1);
        for round in 0..5000 {
            cache.insert(key(&format!("n{round}")), Err(DnsError::NoData).into(), now);
            assert!(cache.get(&key(&format!("n{round}")), now).is_none());
        }
        assert!(cache.order.len() <= 1025, "{}", cache.order.len());
    }
}
