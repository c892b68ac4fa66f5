//! Connections at once, per server and per client address. The counts outlive reloads.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Counts the connections of one server.
#[derive(Debug, Default)]
pub struct Gate {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    total: u32,
    by_client: HashMap<IpAddr, u32>,
}

/// The place of one connection; given back when dropped.
#[derive(Debug)]
pub struct Place {
    gate: Arc<Gate>,
    client: IpAddr,
}

impl Gate {
    /// Takes a place, or gives none when a limit is reached (0 = no limit for `per_client_max`).
    pub fn enter(self: &Arc<Gate>, client: IpAddr, total_max: u32, per_client_max: u32) -> Option<Place> {
        let client = network(client);
        let mut counts = self.counts.lock();
        let of_client = counts.by_client.get(&client).copied().unwrap_or(0);
        if counts.total >= total_max || (per_client_max > 0 && of_client >= per_client_max) {
            return None;
        }
        counts.total += 1;
        counts.by_client.insert(client, of_client + 1);
        Some(Place { gate: self.clone(), client })
    }

    /// Connections now.
    pub fn total(&self) -> u32 {
        self.counts.lock().total
    }
}

impl Gate {
    /// Connections now from the clients that `wanted` accepts. A client is an IPv4 address, or the /64 of an IPv6
    /// address.
    pub fn count(&self, wanted: impl Fn(IpAddr) -> bool) -> u32 {
        self.counts.lock().by_client.iter().filter(|(client, _)| wanted(**client)).map(|(_, n)| *n).sum()
    }

    /// What an address counts as.
    pub fn client(address: IpAddr) -> IpAddr {
        network(address)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.gate.counts.lock();
        counts.total = counts.total.saturating_sub(1);
        if let Some(of_client) = counts.by_client.get_mut(&self.client) {
            *of_client -= 1;
            if *of_client == 0 {
                counts.by_client.remove(&self.client);
            }
        }
    }
}

/// What counts as one client: an IPv4 address, or the /64 of an IPv6 address.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_totals_and_clients() {
        let gate = Arc::new(Gate::default());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = gate.enter(ip("192.0.2.1"), 3, 1);
        assert!(first.is_some());
        assert!(gate.enter(ip("192.0.2.1"), 3, 1).is_none());
        let _second = gate.enter(ip("2001:db8::1"), 3, 1).unwrap();
        assert!(gate.enter(ip("2001:db8::2"), 3, 1).is_none(), "same /64");
        let _third = gate.enter(ip("2001:db8:0:1::1"), 3, 1).unwrap();
        assert!(gate.enter(ip("192.0.2.9"), 3, 0).is_none(), "total");
        drop(first);
        assert_eq!(gate.total(), 2);
        assert!(gate.enter(ip("192.0.2.1"), 3, 1).is_some());
    }
}
