//! From a destination to the addresses to try: MX and address lookup (RFC 5321 5.1, RFC 7505) and an order
//! that is a pure function of seed, retry and records, so that it can be explained afterwards.

use crate::resolver::{DnsError, Resolver};
use std::net::IpAddr;

/// MX hosts looked at for one domain; a longer list is somebody's mistake or attack.
const MX_MAX: usize = 32;

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The MX of a domain.
    Mx(String),
    /// A host name.
    Host(String),
    /// An address.
    Address(IpAddr),
}

impl Target {
    /// Reads a `server`/`host` value: an address, a host name, `lookup-mx` or `lookup-mx:domain`. The
    /// recipient's domain is used by `lookup-mx`; an address literal as domain stands for itself.
    pub fn parse(server: &str, recipient_domain: &str) -> Target {
        let server = server.trim();
        let domain = match server.strip_prefix("lookup-mx") {
            Some("") => Some(recipient_domain),
            Some(rest) if rest.starts_with(':') => Some(&rest[1..]),
            _ => None,
        };
        match domain {
            Some(domain) => match literal(domain) {
                Some(address) => Target::Address(address),
                None => Target::Mx(domain.to_owned()),
            },
            None => match server.parse().ok().or_else(|| literal(server)) {
                Some(address) => Target::Address(address),
                None => Target::Host(server.to_owned()),
            },
        }
    }
}

fn literal(domain: &str) -> Option<IpAddr> {
    let inner = domain.strip_prefix('[')?.strip_suffix(']')?;
    let inner = if inner.len() > 5 && inner[..5].eq_ignore_ascii_case("ipv6:") { &inner[5..] } else { inner };
    inner.parse().ok()
}

/// One address to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Where to connect.
    pub address: IpAddr,
    /// The MX or host name it was found under; the address itself where there is none.
    pub hostname: String,
    /// Of the MX; 0 for hosts and addresses.
    pub preference: u16,
}

/// Which candidates may be used, and in which order.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Use IPv4.
    pub ipv4: bool,
    /// Use IPv6.
    pub ipv6: bool,
    /// IPv6 first where both are there.
    pub prefer_ipv6: bool,
    /// Our own names: an MX list that names one is cut there (RFC 5321 5.1).
    pub own_names: Vec<String>,
}

/// The documented kinds of `error.dns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documented values")]
pub enum DnsKind {
    NxDomain,
    NoData,
    NullMx,
    IpFamily,
    Loop,
    Other,
}

impl DnsKind {
    /// The value of `error.dns`.
    pub fn name(self) -> &'static str {
        match self {
            DnsKind::NxDomain => "nxdomain",
            DnsKind::NoData => "nodata",
            DnsKind::NullMx => "nullmx",
            DnsKind::IpFamily => "ipfamily",
            DnsKind::Loop | DnsKind::Other => "other",
        }
    }
}

/// Why a destination has no address to try.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct HopError {
    /// What kind of failure.
    pub kind: DnsKind,
    /// For logs and reports.
    pub message: String,
}

impl HopError {
    fn new(kind: DnsKind, message: impl Into<String>) -> HopError {
        HopError { kind, message: message.into() }
    }

    fn dns(error: DnsError, name: &str) -> HopError {
        let kind = match error {
            DnsError::NxDomain => DnsKind::NxDomain,
            DnsError::NoData | DnsError::BadName(_) => DnsKind::NoData,
            DnsError::Temporary(_) | DnsError::Refused { .. } => DnsKind::Other,
        };
        HopError::new(kind, format!("{name}: {error}"))
    }

    /// True when another attempt may succeed.
    pub fn is_temporary(&self) -> bool {
        matches!(self.kind, DnsKind::IpFamily | DnsKind::Other)
    }

    /// The status of a report: 5.1.2, 5.1.10, 5.4.6, 4.4.4 or 4.4.3.
    pub fn status(&self) -> (u16, u16, u16) {
        match self.kind {
            DnsKind::NxDomain | DnsKind::NoData => (5, 1, 2),
            DnsKind::NullMx => (5, 1, 10),
            DnsKind::Loop => (5, 4, 6),
            DnsKind::IpFamily => (4, 4, 4),
            DnsKind::Other => (4, 4, 3),
        }
    }
}

/// All addresses of a destination in the order in which they are tried; never empty.
pub async fn candidates(
    resolver: &Resolver,
    target: &Target,
    choice: &Choice,
    seed: &str,
) -> Result<Vec<Candidate>, HopError> {
    let hosts = match target {
        Target::Address(address) => {
            let usable = if address.is_ipv4() { choice.ipv4 } else { choice.ipv6 };
            if !usable {
                return Err(HopError::new(
                    DnsKind::IpFamily,
                    format!("{address} is of a family that is not used"),
                ));
            }
            return Ok(vec![Candidate { address: *address, hostname: address.to_string(), preference: 0 }]);
        }
        Target::Host(host) => vec![(0, host.clone())],
        Target::Mx(domain) => mx_hosts(resolver, domain, choice).await?,
    };
    let lookups = hosts.iter().map(|(_, host)| resolver.addresses(host, true, true));
    let answers = join_all(lookups).await;
    let mut found = Vec::new();
    let mut error = None;
    for ((preference, host), answer) in hosts.iter().zip(answers) {
        match answer {
            Ok(addresses) => {
                found.extend(addresses.into_iter().map(|address| Candidate {
                    address,
                    hostname: host.clone(),
                    preference: *preference,
                }));
            }
            Err(failure) => {
                let failure = HopError::dns(failure, host);
                // A failure that may pass outweighs one that will not.
                if error.as_ref().is_none_or(|known: &HopError| !known.is_temporary()) {
                    error = Some(failure);
                }
            }
        }
    }
    if found.is_empty() {
        return Err(error.unwrap_or_else(|| HopError::new(DnsKind::NoData, "no address")));
    }
    found.retain(|candidate| if candidate.address.is_ipv4() { choice.ipv4 } else { choice.ipv6 });
    if found.is_empty() {
        return Err(HopError::new(DnsKind::IpFamily, "only addresses of a family that is not used"));
    }
    Ok(order(found, choice.prefer_ipv6, seed))
}

async fn mx_hosts(
    resolver: &Resolver,
    domain: &str,
    choice: &Choice,
) -> Result<Vec<(u16, String)>, HopError> {
    let records = match resolver.mx(domain).await {
        Ok(records) => records,
        // The implicit MX of RFC 5321 5.1.
        Err(DnsError::NoData) => return Ok(vec![(0, domain.to_owned())]),
        Err(error) => return Err(HopError::dns(error, domain)),
    };
    if matches!(&records[..], [only] if only.exchange == ".") {
        return Err(HopError::new(DnsKind::NullMx, format!("{domain} does not accept mail (null MX)")));
    }
    let own = |name: &str| choice.own_names.iter().any(|own| own.eq_ignore_ascii_case(name));
    let limit = records.iter().filter(|mx| own(&mx.exchange)).map(|mx| mx.preference).min();
    let hosts: Vec<(u16, String)> = records
        .into_iter()
        .filter(|mx| limit.is_none_or(|limit| mx.preference < limit))
        .filter(|mx| mx.exchange != "." && mx.exchange.parse::<IpAddr>().is_err())
        .take(MX_MAX)
        .map(|mx| (mx.preference, mx.exchange))
        .collect();
    if !hosts.is_empty() {
        return Ok(hosts);
    }
    match limit {
        Some(_) => Err(HopError::new(DnsKind::Loop, format!("mail for {domain} loops back to this host"))),
        None => Err(HopError::new(DnsKind::NoData, format!("no usable MX of {domain}"))),
    }
}

/// By preference; hosts of equal preference by hash of seed and name, addresses of a host by hash of seed
/// and address with the families interleaved, the preferred one first.
pub fn order(candidates: Vec<Candidate>, prefer_ipv6: bool, seed: &str) -> Vec<Candidate> {
    let mut keyed: Vec<(u16, u64, String, usize, bool, Candidate)> = Vec::with_capacity(candidates.len());
    let mut sorted: Vec<(u64, Candidate)> =
        candidates.into_iter().map(|c| (hash64(seed, &c.address.to_string()), c)).collect();
    sorted.sort_by_key(|(hash, candidate)| (*hash, candidate.address));
    for (_, candidate) in sorted {
        let six = candidate.address.is_ipv6();
        // The place among the addresses of the same host and family.
        let rank = keyed.iter().filter(|k| k.2 == candidate.hostname && k.5.address.is_ipv6() == six).count();
        keyed.push((
            candidate.preference,
            hash64(seed, &candidate.hostname),
            candidate.hostname.clone(),
            rank,
            six != prefer_ipv6,
            candidate,
        ));
    }
    keyed.sort_by(|a, b| (a.0, a.1, &a.2, a.3, a.4).cmp(&(b.0, b.1, &b.2, b.3, b.4)));
    keyed.into_iter().map(|key| key.5).collect()
}

/// First eight bytes of SHA-256 over seed and text.
fn hash64(seed: &str, text: &str) -> u64 {
    let mut hasher = openssl::sha::Sha256::new();
    hasher.update(seed.as_bytes());
    hasher.update(text.as_bytes());
    let digest = hasher.finish();
    u64::from_be_bytes([
        digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], digest[6], digest[7],
    ])
}

/// Waits for all futures; there are few of them, and they make progress together.
async fn join_all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut pending: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut ready = true;
        for (future, output) in &mut pending {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => ready = false,
                }
            }
        }
        if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    pending.into_iter().filter_map(|(_, output)| output).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_targets() {
        for (server, expected) in [
            ("lookup-mx", Target::Mx("b.example".into())),
            ("lookup-mx:c.example", Target::Mx("c.example".into())),
            ("192.0.2.1", Target::Address("192.0.2.1".parse().unwrap())),
            ("2001:db8::1", Target::Address("2001:db8::1".parse().unwrap())),
            ("mx.example", Target::Host("mx.example".into())),
        ] {
            assert_eq!(Target::parse(server, "b.example"), expected);
        }
        assert_eq!(Target::parse("lookup-mx", "[192.0.2.9]"), Target::Address("192.0.2.9".parse().unwrap()));
        assert_eq!(Target::parse("lookup-mx", "[IPv6:::1]"), Target::Address("::1".parse().unwrap()));
    }

    fn candidate(address: &str, hostname: &str, preference: u16) -> Candidate {
        Candidate { address: address.parse().unwrap(), hostname: hostname.into(), preference }
    }

    #[test]
    fn orders_by_preference_host_and_family() {
        let all = vec![
            candidate("192.0.2.1", "a", 10),
            candidate("192.0.2.2", "a", 10),
            candidate("2001:db8::1", "a", 10),
            candidate("192.0.2.9", "z", 5),
            candidate("192.0.2.3", "b", 10),
        ];
        let first = order(all.clone(), true, "seed");
        assert_eq!(first[0].hostname, "z");
        let a: Vec<bool> = first.iter().filter(|c| c.hostname == "a").map(|c| c.address.is_ipv6()).collect();
        assert_eq!(a, [true, false, false]);
        let mut reversed = all.clone();
        reversed.reverse();
        assert_eq!(order(reversed, true, "seed"), first, "the order of records does not matter");
        let firsts: std::collections::HashSet<String> =
            (0..50).map(|n| order(all.clone(), false, &format!("seed{n}"))[1].hostname.clone()).collect();
        assert_eq!(firsts.len(), 2, "seeds spread over hosts of equal preference");
    }
}
