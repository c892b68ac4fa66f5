//! Sender Policy Framework (RFC 7208): may this address send for this domain?

mod macros;
mod record;

use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    pin::Pin,
};

use crate::dns::{Dns, DnsError};
use macros::{Context, MacroString};
use record::{Directive, Mechanism, Qualifier, Record};

/// Terms that ask the DNS (RFC 7208 4.6.4).
const LOOKUPS_MAX: u32 = 10;
/// Lookups without answer (RFC 7208 4.6.4).
const VOID_LOOKUPS_MAX: u32 = 2;
/// Names of one MX or PTR lookup (RFC 7208 4.6.4).
const NAMES_MAX: usize = 10;
/// Longest domain (RFC 7208 4.3).
const DOMAIN_BYTES_MAX: usize = 253;

/// The results of RFC 7208 2.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the RFC")]
pub enum SpfResult {
    None,
    Neutral,
    Pass,
    Fail,
    SoftFail,
    TempError,
    PermError,
}

impl SpfResult {
    /// The documented name.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Neutral => "neutral",
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::SoftFail => "softfail",
            Self::TempError => "temperror",
            Self::PermError => "permerror",
        }
    }
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct SpfQuery {
    /// Address of the client.
    pub ip: IpAddr,
    /// What it said in HELO.
    pub helo: String,
    /// Envelope sender; a bare domain means its postmaster, the empty one the HELO name.
    pub sender: String,
    /// Name of this host, for explanations.
    pub hostname: String,
    /// Now, for explanations.
    pub now_s: u64,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpfOutcome {
    /// The result.
    pub result: SpfResult,
    /// The domain that was checked.
    pub domain: String,
    /// The explanation of a fail that the domain publishes, or what was wrong.
    pub reason: Option<String>,
}

/// Checks a sender.
pub async fn check(dns: &dyn Dns, query: &SpfQuery) -> SpfOutcome {
    let ip = query.ip.to_canonical();
    let helo = query.helo.trim_end_matches('.').to_owned();
    let sender = if query.sender.is_empty() { helo.clone() } else { query.sender.clone() };
    let (localpart, domain) = match sender.rsplit_once('@') {
        Some(("", domain)) => ("postmaster", domain),
        Some((localpart, domain)) => (localpart, domain),
        None => ("postmaster", &*sender),
    };
    let domain = domain.trim_end_matches('.').to_owned();
    let domain = if domain.is_ascii() { domain } else { idna::domain_to_ascii(&domain).unwrap_or(domain) };
    let mut check = Check {
        dns,
        ip,
        helo: &helo,
        localpart,
        sender_domain: domain.clone(),
        hostname: &query.hostname,
        now_s: query.now_s,
        lookups: 0,
        voids: 0,
    };
    let outcome = check.host(domain.clone(), true).await;
    let (result, reason) = match outcome {
        Ok(found) => (found.result, found.explanation),
        Err(Stop::Temp(text)) => (SpfResult::TempError, Some(text)),
        Err(Stop::Perm(text)) => (SpfResult::PermError, Some(text)),
    };
    SpfOutcome { result, domain, reason }
}

/// What ends an evaluation.
enum Stop {
    Temp(String),
    Perm(String),
}

struct Found {
    result: SpfResult,
    explanation: Option<String>,
}

struct Check<'a> {
    dns: &'a dyn Dns,
    ip: IpAddr,
    helo: &'a str,
    localpart: &'a str,
    sender_domain: String,
    hostname: &'a str,
    now_s: u64,
    lookups: u32,
    voids: u32,
}

type Pending<'b, T> = Pin<Box<dyn Future<Output = Result<T, Stop>> + Send + 'b>>;

impl Check<'_> {
    /// `check_host()` (RFC 7208 4). Boxed because policies include each other.
    fn host<'b>(&'b mut self, domain: String, explain: bool) -> Pending<'b, Found> {
        Box::pin(async move {
            let plain = |result| Found { result, explanation: None };
            if !is_domain(&domain) {
                return Ok(plain(SpfResult::None));
            }
            let Some(record) = self.record(&domain).await? else { return Ok(plain(SpfResult::None)) };
            let record = Record::parse(&record).map_err(|error| Stop::Perm(format!("{domain}: {error}")))?;
            for directive in &record.directives {
                if self.matches(directive, &domain).await? {
                    let result = match directive.qualifier {
                        Qualifier::Pass => SpfResult::Pass,
                        Qualifier::Fail => SpfResult::Fail,
                        Qualifier::SoftFail => SpfResult::SoftFail,
                        Qualifier::Neutral => SpfResult::Neutral,
                    };
                    let explanation = match &record.explanation {
                        Some(target) if explain && result == SpfResult::Fail => {
                            self.explain(target, &domain).await
                        }
                        _ => None,
                    };
                    return Ok(Found { result, explanation });
                }
            }
            let Some(target) = &record.redirect else { return Ok(plain(SpfResult::Neutral)) };
            self.count()?;
            let target = self.expand(target, &domain).await?;
            let found = self.host(target.clone(), explain).await?;
            if found.result == SpfResult::None {
                return Err(Stop::Perm(format!("redirect to {target}, which has no policy")));
            }
            Ok(found)
        })
    }

    /// The one policy of a domain (RFC 7208 4.4, 4.5).
    async fn record(&self, domain: &str) -> Result<Option<Vec<u8>>, Stop> {
        let records = match self.dns.txt(domain).await {
            Ok(records) => records,
            Err(DnsError::Temporary(text)) => return Err(Stop::Temp(format!("TXT {domain}: {text}"))),
            Err(DnsError::NoDomain | DnsError::NoRecord) => return Ok(None),
        };
        let version = |record: &Vec<u8>| {
            let head = record.get(..6).is_some_and(|head| head.eq_ignore_ascii_case(b"v=spf1"));
            head && matches!(record.get(6), None | Some(b' '))
        };
        let mut policies = records.into_iter().filter(version);
        let first = policies.next();
        if policies.next().is_some() {
            return Err(Stop::Perm(format!("{domain} has more than one policy")));
        }
        Ok(first)
    }

    async fn matches(&mut self, directive: &Directive, domain: &str) -> Result<bool, Stop> {
        match &directive.mechanism {
            Mechanism::All => Ok(true),
            Mechanism::Ip4(network, prefix) => Ok(in_network(self.ip, IpAddr::V4(*network), *prefix)),
            Mechanism::Ip6(network, prefix) => Ok(in_network(self.ip, IpAddr::V6(*network), *prefix)),
            Mechanism::Include(target) => {
                self.count()?;
                let target = self.expand(target, domain).await?;
                let found = self.host(target.clone(), false).await?;
                match found.result {
                    SpfResult::Pass => Ok(true),
                    SpfResult::None => Err(Stop::Perm(format!("include of {target}, which has no policy"))),
                    _ => Ok(false),
                }
            }
            Mechanism::A(target, prefixes) => {
                self.count()?;
                let target = self.target(target.as_ref(), domain).await?;
                let addresses = self.addresses(&target, self.ip.is_ipv6()).await?;
                Ok(addresses.iter().any(|address| in_network(self.ip, *address, prefixes.of(self.ip))))
            }
            Mechanism::Mx(target, prefixes) => {
                self.count()?;
                let target = self.target(target.as_ref(), domain).await?;
                let hosts =
                    if is_name(&target) { self.dns.mx(&target).await } else { Err(DnsError::NoDomain) };
                let hosts = self.answered(hosts, "MX", &target)?;
                if hosts.len() > NAMES_MAX {
                    return Err(Stop::Perm(format!("{target} has more than {NAMES_MAX} MX records")));
                }
                for host in hosts.iter().filter(|host| !host.is_empty() && *host != ".") {
                    let addresses = self.addresses(host, self.ip.is_ipv6()).await?;
                    if addresses.iter().any(|address| in_network(self.ip, *address, prefixes.of(self.ip))) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Mechanism::Ptr(target) => {
                self.count()?;
                let target = self.target(target.as_ref(), domain).await?;
                let names = self.validated_names().await?;
                Ok(names.iter().any(|name| is_within(name, &target)))
            }
            Mechanism::Exists(target) => {
                self.count()?;
                let target = self.expand(target, domain).await?;
                Ok(!self.addresses(&target, false).await?.is_empty())
            }
        }
    }

    async fn target(&mut self, target: Option<&MacroString>, domain: &str) -> Result<String, Stop> {
        match target {
            Some(target) => self.expand(target, domain).await,
            None => Ok(domain.to_owned()),
        }
    }

    /// A domain-spec as a domain; too long ones lose labels on the left (RFC 7208 7.3).
    async fn expand(&mut self, text: &MacroString, domain: &str) -> Result<String, Stop> {
        let validated =
            if text.needs_validated_name() { self.validated_name(domain).await? } else { String::new() };
        let mut out = text.expand(&self.context(domain, &validated));
        while out.len() > DOMAIN_BYTES_MAX {
            match out.split_once('.') {
                Some((_, rest)) => out = rest.to_owned(),
                None => break,
            }
        }
        Ok(out.trim_end_matches('.').to_owned())
    }

    fn context<'c>(&'c self, domain: &'c str, validated: &'c str) -> Context<'c> {
        Context {
            localpart: self.localpart,
            sender_domain: &self.sender_domain,
            domain,
            ip: self.ip,
            validated,
            helo: self.helo,
            hostname: self.hostname,
            now_s: self.now_s,
        }
    }

    /// The explanation of a fail; whatever is wrong with it, there is none (RFC 7208 6.2).
    async fn explain(&mut self, target: &MacroString, domain: &str) -> Option<String> {
        let target = self.expand(target, domain).await.ok()?;
        let records = self.dns.txt(&target).await.ok()?;
        let [record] = &records[..] else { return None };
        let text = std::str::from_utf8(record).ok().filter(|text| text.is_ascii())?;
        let text = MacroString::parse_explanation(text).ok()?;
        let validated =
            if text.needs_validated_name() { self.validated_name(domain).await.ok()? } else { String::new() };
        Some(text.expand(&self.context(domain, &validated)))
    }

    fn count(&mut self) -> Result<(), Stop> {
        self.lookups += 1;
        if self.lookups > LOOKUPS_MAX {
            return Err(Stop::Perm(format!("more than {LOOKUPS_MAX} terms that need the DNS")));
        }
        Ok(())
    }

    fn answered<T>(
        &mut self,
        answer: Result<Vec<T>, DnsError>,
        kind: &str,
        name: &str,
    ) -> Result<Vec<T>, Stop> {
        match answer {
            Ok(records) => Ok(records),
            Err(DnsError::Temporary(text)) => Err(Stop::Temp(format!("{kind} {name}: {text}"))),
            Err(DnsError::NoDomain | DnsError::NoRecord) => {
                self.voids += 1;
                if self.voids > VOID_LOOKUPS_MAX {
                    return Err(Stop::Perm(format!("more than {VOID_LOOKUPS_MAX} lookups without answer")));
                }
                Ok(Vec::new())
            }
        }
    }

    async fn addresses(&mut self, name: &str, ipv6: bool) -> Result<Vec<IpAddr>, Stop> {
        let answer = self.lookup_addresses(name, ipv6).await;
        self.answered(answer, if ipv6 { "AAAA" } else { "A" }, name)
    }

    async fn lookup_addresses(&self, name: &str, ipv6: bool) -> Result<Vec<IpAddr>, DnsError> {
        if !is_name(name) {
            return Err(DnsError::NoDomain);
        }
        if ipv6 {
            let found = self.dns.ipv6(name).await?;
            return Ok(found.into_iter().map(IpAddr::V6).collect());
        }
        let found = self.dns.ipv4(name).await?;
        Ok(found.into_iter().map(IpAddr::V4).collect())
    }

    /// Names of the client that lead back to it (RFC 7208 5.5). Errors give no names.
    async fn validated_names(&mut self) -> Result<Vec<String>, Stop> {
        let found = self.dns.ptr(&reverse_name(self.ip)).await;
        let names = match self.answered(found, "PTR", "") {
            Ok(names) => names,
            Err(Stop::Temp(_)) => return Ok(Vec::new()),
            Err(stop) => return Err(stop),
        };
        let mut validated = Vec::new();
        for name in names.iter().take(NAMES_MAX) {
            let name = name.trim_end_matches('.');
            let addresses = self.lookup_addresses(name, self.ip.is_ipv6()).await;
            if addresses.is_ok_and(|addresses| addresses.contains(&self.ip)) {
                validated.push(name.to_owned());
            }
        }
        Ok(validated)
    }

    /// The name for `%{p}`: the domain itself, one inside of it, any, or `unknown` (RFC 7208 7.3).
    async fn validated_name(&mut self, domain: &str) -> Result<String, Stop> {
        let names = self.validated_names().await?;
        let same = names.iter().find(|name| name.eq_ignore_ascii_case(domain));
        let best =
            same.or_else(|| names.iter().find(|name| is_within(name, domain))).or_else(|| names.first());
        Ok(best.cloned().unwrap_or_else(|| "unknown".to_owned()))
    }
}

/// Whether a policy can be looked up there: more than one label, none empty or too long (RFC 7208 4.3).
fn is_domain(name: &str) -> bool {
    is_name(name) && name.contains('.') && !name.starts_with('[')
}

/// Whether the DNS can be asked for it.
fn is_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    !name.is_empty()
        && name.len() <= DOMAIN_BYTES_MAX
        && name.split('.').all(|label| (1..=63).contains(&label.len()))
}

fn is_within(name: &str, domain: &str) -> bool {
    let (name, domain) = (name.to_ascii_lowercase(), domain.to_ascii_lowercase());
    name == domain || name.ends_with(&format!(".{domain}"))
}

fn in_network(ip: IpAddr, network: IpAddr, prefix: u8) -> bool {
    match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            u32::from(ip) & mask == u32::from(network) & mask
        }
        (IpAddr::V6(ip), IpAddr::V6(network)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            u128::from(ip) & mask == u128::from(network) & mask
        }
        _ => false,
    }
}

/// The name for a PTR lookup.
pub fn reverse_name(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("{}.in-addr.arpa", reversed_v4(ip)),
        IpAddr::V6(ip) => format!("{}.ip6.arpa", reversed_v6(ip)),
    }
}

fn reversed_v4(ip: Ipv4Addr) -> String {
    let [a, b, c, d] = ip.octets();
    format!("{d}.{c}.{b}.{a}")
}

fn reversed_v6(ip: Ipv6Addr) -> String {
    let nibbles: Vec<String> =
        ip.octets().iter().rev().flat_map(|o| [o & 15, o >> 4]).map(|n| format!("{n:x}")).collect();
    nibbles.join(".")
}

#[cfg(test)]
mod tests;
