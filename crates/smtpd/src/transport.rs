//! Transports as delivery uses them: group and transport merged key by key, defaults filled in.

use config::app::{self, App, DsnDkim, DsnOriginal, Family, Protocol, SessionTls, TlsMode, TlsSni};
use ipnet::IpNet;
use net::tls::{Mode, Rules, Sni};
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
    /// The proxy that has this address; without it the address is ours.
    pub proxy: Option<Proxy>,
}

/// A proxy that connections go through; it is told where to with a PROXY header.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proxy {
    /// Address or host name.
    pub server: String,
    /// TCP port.
    pub port: u16,
    /// Of the header: 1 or 2.
    pub version: u8,
}

impl From<&app::ProxyProtocol> for Proxy {
    fn from(proxy: &app::ProxyProtocol) -> Proxy {
        Proxy { server: proxy.server.clone(), port: proxy.port, version: proxy.version }
    }
}

/// How reports of failure are made.
#[derive(Clone, Debug)]
pub struct DsnSettings {
    /// Transport of the report.
    pub transport: String,
    /// Name in the header From.
    pub from_name: String,
    /// Address in the header From.
    pub from_address: String,
    /// What part 3 holds.
    pub original: DsnOriginal,
    /// Signature.
    pub dkim: Option<DsnDkim>,
}

/// What a connection is opened with beside its addresses and names. Pooled connections are shared only where all of it is
/// equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionSettings {
    /// Encryption.
    pub tls: Rules,
    /// Account to log in with.
    pub auth: Option<Account>,
    /// Attributes for XCLIENT.
    pub xclient: Vec<(String, String)>,
    /// Use PIPELINING.
    pub pipelining: bool,
    /// Use BDAT.
    pub chunking: bool,
    /// Bind addresses that are not of this host.
    pub nonlocal: bool,
    /// Connections go through it, unless the source address has one of its own.
    pub proxy: Option<Proxy>,
}

/// An account at the next hop.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Account {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Whether and how connections are kept after a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pooling {
    /// They are.
    pub enabled: bool,
    /// How long they may be idle.
    pub timeout: Duration,
    /// They may be closed to make room for others.
    pub evictable: bool,
    /// Transactions of one connection, 0 = no limit.
    pub transactions: u32,
}

impl Default for Pooling {
    fn default() -> Pooling {
        Pooling { enabled: false, timeout: Duration::from_secs(60), evictable: true, transactions: 100 }
    }
}

/// Which candidates may be used: names are exact or `*.` and a domain, addresses may be networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only MX hosts of these names.
    pub mx_include: Vec<String>,
    /// No MX hosts of these names.
    pub mx_exclude: Vec<String>,
    /// Only these addresses.
    pub ip_include: Vec<String>,
    /// None of these addresses.
    pub ip_exclude: Vec<String>,
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
    /// What connections are opened with.
    pub session: Arc<SessionSettings>,
    /// Whether they are kept.
    pub pooling: Pooling,
    /// Which next hops may be used.
    pub filter: Filter,
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

    /// Patience in a state of the client. `AUTH` stands for all states of a login that have none of their own.
    pub fn timeout(&self, state: State) -> Duration {
        let named = self.timeouts.get(state.name()).copied();
        let login =
            || state.name().starts_with("AUTH-").then(|| self.timeouts.get("AUTH").copied()).flatten();
        named.or_else(login).unwrap_or_else(|| Duration::from_secs(u64::from(state.timeout_s())))
    }

    /// Patience for a block of content to be written (RFC 5321 4.5.3.2.5); that of DATA where it was changed.
    pub fn block_timeout(&self) -> Duration {
        self.timeouts.get(State::Data.name()).copied().unwrap_or(Duration::from_secs(180))
    }

    /// What connections are opened with, to be changed.
    pub fn session_mut(&mut self) -> &mut SessionSettings {
        Arc::make_mut(&mut self.session)
    }
}

/// Addresses and networks of a configuration; what is neither was refused when it was checked.
pub fn networks(texts: &[String]) -> Vec<IpNet> {
    let network = |text: &String| text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok();
    texts.iter().filter_map(network).collect()
}

/// True for a name that is in a list of names and `*.` with a domain.
pub fn names_match(patterns: &[String], name: &str) -> bool {
    let name = name.trim_end_matches('.');
    patterns.iter().any(|pattern| match pattern.strip_prefix('*') {
        Some(domain) if domain.starts_with('.') => {
            name.len() > domain.len()
                && name.is_char_boundary(name.len() - domain.len())
                && name[name.len() - domain.len()..].eq_ignore_ascii_case(domain)
        }
        _ => name.eq_ignore_ascii_case(pattern),
    })
}

/// All source addresses of a configuration by id.
pub fn sources(app: &App) -> HashMap<String, Source> {
    app.addresses.iter().map(|address| (address.id.clone(), source(address))).collect()
}

fn source(address: &app::Address) -> Source {
    Source {
        id: address.id.clone(),
        ip: address.address,
        helo: address.helo.clone(),
        proxy: address.proxyprotocol.as_ref().map(Proxy::from),
    }
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
        .map(source)
        .collect();
    let has = |six: bool| sources.is_empty() || sources.iter().any(|source| source.ip.is_ipv6() == six);
    let mut timeouts: HashMap<String, Duration> = HashMap::new();
    for session in [&group.session, &own.session] {
        timeouts.extend(session.timeout.iter().map(|(state, patience)| (state.clone(), patience.to_std())));
    }
    let dsn = pick!(dsn.transport).map(|transport| DsnSettings {
        transport,
        from_name: pick!(dsn.from.name).unwrap_or_else(|| "Mail Delivery Subsystem".to_owned()),
        from_address: format!(
            "{}@{}",
            pick!(dsn.from.localpart).as_deref().unwrap_or("postmaster"),
            pick!(dsn.from.domain).as_deref().unwrap_or(hostname)
        ),
        dkim: pick!(dsn.dkim),
        original: pick!(dsn.original).unwrap_or(DsnOriginal::Headers),
    });
    Transport {
        id: own.id.clone(),
        server: pick!(connection.server).unwrap_or_else(|| "lookup-mx".to_owned()),
        port: pick!(connection.port).unwrap_or(25),
        helo: pick!(session.helo),
        protocol: pick!(session.protocol).unwrap_or(Protocol::Smtp),
        session: Arc::new(SessionSettings {
            tls: tls_rules(&group.session.tls, &own.session.tls),
            auth: pick!(session.auth.username).map(|username| Account {
                username,
                password: pick!(session.auth.password).unwrap_or_default(),
            }),
            xclient: pick!(session.xclient).unwrap_or_default().into_iter().collect(),
            pipelining: pick!(session.pipelining).unwrap_or(true),
            chunking: pick!(session.chunking).unwrap_or(false),
            nonlocal: pick!(connection.sourceip.nonlocal).unwrap_or(false),
            proxy: pick!(connection.proxyprotocol).as_ref().map(Proxy::from),
        }),
        pooling: Pooling::default(),
        filter: Filter {
            mx_include: pick!(connection.mx.include).unwrap_or_default(),
            mx_exclude: pick!(connection.mx.exclude).unwrap_or_default(),
            ..Filter::default()
        },
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

/// The rules of a group's `tls` with those of a transport on top.
fn tls_rules(group: &SessionTls, own: &SessionTls) -> Rules {
    let mut rules = Rules::default();
    for settings in [group, own] {
        apply_tls(&mut rules, settings);
    }
    rules
}

/// Changes rules where the settings say something.
pub fn apply_tls(rules: &mut Rules, settings: &SessionTls) {
    fn put<T: Clone>(rule: &mut T, setting: &Option<T>) {
        if let Some(setting) = setting {
            rule.clone_from(setting);
        }
    }
    put(&mut rules.mode, &settings.mode.map(mode));
    put(&mut rules.implicit, &settings.implicit);
    let sni = settings.sni.as_ref().map(|sni| match sni {
        TlsSni::Host(false) => Sni::None,
        TlsSni::Host(true) => Sni::Host,
        TlsSni::Name(name) => Sni::Name(name.clone()),
    });
    put(&mut rules.sni, &sni);
    put(&mut rules.protocols, &settings.protocols.clone().map(Some));
    put(&mut rules.ciphers, &settings.ciphers.clone().map(Some));
    put(&mut rules.verify_host, &settings.verify.host);
    put(&mut rules.verify_names, &settings.verify.names);
    put(&mut rules.default_ca, &settings.verify.defaultca);
    put(&mut rules.client_cert, &settings.clientcert.clone().map(Some));
}

/// The mode of a setting.
pub fn mode(mode: TlsMode) -> Mode {
    match mode {
        TlsMode::Disabled => Mode::Disabled,
        TlsMode::Optional => Mode::Optional,
        TlsMode::OptionalVerify => Mode::OptionalVerify,
        TlsMode::Require => Mode::Require,
        TlsMode::RequireVerify => Mode::RequireVerify,
        TlsMode::Dane => Mode::Dane,
        TlsMode::DaneRequire => Mode::DaneRequire,
        TlsMode::DaneFallbackRequire => Mode::DaneFallbackRequire,
        TlsMode::DaneFallbackRequireVerify => Mode::DaneFallbackRequireVerify,
    }
}
