//! Transports as delivery uses them: group and transport merged key by key, defaults filled in.

use config::app::{self, App, DsnOriginal, Family, Protocol, TlsMode};
use queue::{RetryInterval, RetrySchedule};
use smtp::client::State;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// A source address with the name it greets with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// `addresses[].id`.
    pub id: String,
    /// Bound before connecting.
    pub ip: IpAddr,
    /// EHLO name.
    pub helo: Option<String>,
}

/// How reports of failure are made.
#[derive(Clone, Debug)]
pub struct DsnSettings {
    /// Transport of the report.
    pub transport: String,
    /// Header From, whole.
    pub from: Option<String>,
    /// What part 3 holds.
    pub original: DsnOriginal,
}

/// A transport.
#[derive(Clone, Debug)]
pub struct Transport {
    /// Its id.
    pub id: String,
    /// Host or address; `lookup-mx` for the recipient domain's MX.
    pub server: String,
    /// TCP port.
    pub port: u16,
    /// EHLO name; the source's or the host's when absent.
    pub helo: Option<String>,
    /// SMTP or LMTP.
    pub protocol: Protocol,
    /// Use PIPELINING.
    pub pipelining: bool,
    /// STARTTLS.
    pub tls: TlsMode,
    /// Patience for the connection.
    pub connect_timeout: Duration,
    timeouts: HashMap<String, Duration>,
    /// Source addresses; empty = the system's choice.
    pub sources: Vec<Source>,
    /// Choose sources at random.
    pub sources_random: bool,
    /// Use IPv4.
    pub ipv4: bool,
    /// Use IPv6.
    pub ipv6: bool,
    /// IPv6 first.
    pub prefer_ipv6: bool,
    /// When to try again.
    pub retry: RetrySchedule,
    /// Reports; absent = none are made.
    pub dsn: Option<DsnSettings>,
}

impl Transport {
    /// Replaces the source addresses; only their families can be used then.
    pub fn set_sources(&mut self, sources: Vec<Source>) {
        let has = |six: bool| sources.is_empty() || sources.iter().any(|source| source.ip.is_ipv6() == six);
        (self.ipv4, self.ipv6) = (self.ipv4 && has(false), self.ipv6 && has(true));
        self.sources = sources;
    }

    /// Changes the patience in a state.
    pub fn set_timeout(&mut self, state: &str, patience: Duration) {
        self.timeouts.insert(state.to_owned(), patience);
    }

    /// Patience in a state of the client.
    pub fn timeout(&self, state: State) -> Duration {
        let named = self.timeouts.get(state.name()).copied();
        named.unwrap_or_else(|| Duration::from_secs(u64::from(state.timeout_s())))
    }
}

/// All source addresses of a configuration by id.
pub fn sources(app: &App) -> HashMap<String, Source> {
    let source = |a: &app::Address| Source { id: a.id.clone(), ip: a.address, helo: a.helo.clone() };
    app.addresses.iter().map(|address| (address.id.clone(), source(address))).collect()
}

/// All transports of a configuration by id.
pub fn transports(app: &App, hostname: &str) -> HashMap<String, Arc<Transport>> {
    let mut transports = HashMap::new();
    for group in &app.transportgroups {
        for transport in &group.transports {
            transports.insert(transport.id.clone(), Arc::new(merge(app, group, transport, hostname)));
        }
    }
    transports
}

fn merge(app: &App, group: &app::TransportGroup, own: &app::Transport, hostname: &str) -> Transport {
    macro_rules! pick {
        ($($key:ident).+) => { own.$($key).+.clone().or_else(|| group.$($key).+.clone()) };
    }
    let ids = pick!(connection.sourceip.addresses).unwrap_or_default();
    let sources: Vec<Source> = ids
        .iter()
        .filter_map(|id| app.addresses.iter().find(|address| address.id == *id))
        .map(|address| Source { id: address.id.clone(), ip: address.address, helo: address.helo.clone() })
        .collect();
    let has = |six: bool| sources.is_empty() || sources.iter().any(|source| source.ip.is_ipv6() == six);
    let mut timeouts: HashMap<String, Duration> = HashMap::new();
    for session in [&group.session, &own.session] {
        timeouts.extend(session.timeout.iter().map(|(state, patience)| (state.clone(), patience.to_std())));
    }
    let dsn = pick!(dsn.transport).map(|transport| DsnSettings {
        transport,
        from: dsn_from(&own.dsn.from, &group.dsn.from, hostname),
        original: pick!(dsn.original).unwrap_or(DsnOriginal::Headers),
    });
    Transport {
        id: own.id.clone(),
        server: pick!(connection.server).unwrap_or_else(|| "lookup-mx".to_owned()),
        port: pick!(connection.port).unwrap_or(25),
        helo: pick!(session.helo),
        protocol: pick!(session.protocol).unwrap_or(Protocol::Smtp),
        pipelining: pick!(session.pipelining).unwrap_or(true),
        tls: pick!(session.tls.mode).unwrap_or(TlsMode::Optional),
        connect_timeout: pick!(connection.timeout).map_or(Duration::from_secs(30), config::Duration::to_std),
        timeouts,
        ipv4: pick!(connection.sourceip.ipv4).unwrap_or(true) && has(false),
        ipv6: pick!(connection.sourceip.ipv6).unwrap_or(true) && has(true),
        prefer_ipv6: pick!(connection.sourceip.prefer).unwrap_or(Family::Ipv6) == Family::Ipv6,
        sources_random: pick!(connection.sourceip.random).unwrap_or(true),
        sources,
        retry: RetrySchedule {
            count: pick!(retry.count).unwrap_or(30),
            intervals: match pick!(retry.intervals) {
                None => RetrySchedule::default().intervals,
                Some(intervals) => intervals
                    .iter()
                    .map(|step| RetryInterval { interval: step.interval.to_std(), notify: step.notify })
                    .collect(),
            },
            age_max: pick!(retry.maxage).map(config::Duration::to_std),
            jitter: pick!(retry.jitter).unwrap_or_default().to_std(),
            ..RetrySchedule::default()
        },
        dsn,
    }
}

/// The header From of reports where anything about it was configured.
fn dsn_from(own: &app::DsnFrom, group: &app::DsnFrom, hostname: &str) -> Option<String> {
    let localpart = own.localpart.as_ref().or(group.localpart.as_ref());
    let domain = own.domain.as_ref().or(group.domain.as_ref());
    let name = own.name.as_ref().or(group.name.as_ref());
    if localpart.is_none() && domain.is_none() && name.is_none() {
        return None;
    }
    let localpart = localpart.map_or("postmaster", String::as_str);
    let domain = domain.map_or(hostname, String::as_str);
    let name = name.map_or("Mail Delivery Subsystem", String::as_str);
    Some(format!("{name} <{localpart}@{domain}>"))
}
