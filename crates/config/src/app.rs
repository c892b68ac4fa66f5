//! `smtpd-app.yaml`: the running configuration, replaced as a whole by a reload.

use crate::startup::Pem;
use crate::value::{Duration, Size};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The running file of `smtpd`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct App {
    /// Schema revision.
    pub version: String,
    /// Behaviour of the virtual servers.
    pub servers: Vec<Server>,
    /// Where mail goes, and how.
    pub transportgroups: Vec<TransportGroup>,
    /// Source addresses.
    #[serde(default)]
    pub addresses: Vec<Address>,
    /// Hook texts and files.
    #[serde(default)]
    pub scripting: Scripting,
    /// The queue.
    #[serde(default)]
    pub queues: Queues,
    /// DNS.
    #[serde(default)]
    pub resolver: Resolver,
    /// Metrics of scripts.
    #[serde(default)]
    pub metrics: Vec<Metric>,
    /// Keys and certificates.
    #[serde(default)]
    pub pki: Pki,
    /// Named lists for the files of the active queue.
    #[serde(default)]
    pub lists: Vec<crate::policy::List>,
}

/// `pki` of the running file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pki {
    /// Private keys with their certificates.
    pub private: Vec<PrivateKey>,
}

/// `pki.private[]` of the running file. What it leaves out comes from the entry of that id in the startup file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivateKey {
    /// Unique.
    pub id: String,
    /// The key.
    pub privatekey: Option<Pem>,
    /// Its certificate.
    pub certificate: Option<Pem>,
    /// Certificates between it and a root.
    #[serde(default)]
    pub chain: Vec<Pem>,
}

/// `servers[]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Joined to the startup file's server of that id.
    pub id: String,
    /// As in the startup file.
    #[serde(default, rename = "type")]
    pub kind: crate::startup::ServerKind,
    /// Default transport of recipients.
    pub transport: Option<String>,
    /// Banner, EHLO reply, Received.
    pub hostname: Option<String>,
    /// Patience.
    #[serde(default)]
    pub timeout: ServerTimeout,
    /// Connections at once.
    #[serde(default)]
    pub concurrency: Concurrency,
    /// Protocol errors in a row before 421, 0 = no limit.
    #[serde(default = "default_errors")]
    pub maxerrors: u32,
    /// The trace header.
    #[serde(default)]
    pub received: Received,
    /// What EHLO announces.
    #[serde(default)]
    pub extensions: Extensions,
    /// Hooks and limits per phase.
    #[serde(default)]
    pub phases: Phases,
    /// What is logged.
    #[serde(default)]
    pub logging: ServerLogging,
    /// Encryption.
    #[serde(default)]
    pub tls: ServerTls,
    /// Keys that HTTP clients must show one of; anybody may submit when empty.
    #[serde(default)]
    pub apikeys: Vec<String>,
    /// Submission over HTTP.
    #[serde(default)]
    pub http: Http,
}

/// `servers[].logging`
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerLogging {
    /// Log the SMTP dialogue.
    pub verbose: bool,
}

/// `servers[].http`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Octets of a request body; that of a message and 1 MiB when absent.
    pub maxsize: Option<Size>,
    /// The endpoint.
    pub path: String,
}

impl Default for Http {
    fn default() -> Http {
        Http { maxsize: None, path: "/v1/submission".to_owned() }
    }
}

/// `servers[].tls`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerTls {
    /// Listeners that speak TLS from the first byte.
    pub implicit: Implicit,
    /// Certificates; the first is for clients that ask for no known name.
    pub certs: Vec<ServerCertificate>,
    /// Allowed or, with `!`, forbidden versions.
    pub protocols: Option<String>,
    /// Ciphers in OpenSSL's form.
    pub ciphers: Option<String>,
    /// Certificates of clients.
    pub peercert: PeerCertificate,
    /// MAIL needs TLS.
    pub required: bool,
}

/// `servers[].tls.implicit`
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Implicit {
    /// All listeners, or none.
    All(bool),
    /// Those with these ids.
    Ids(Vec<String>),
}

impl Default for Implicit {
    fn default() -> Implicit {
        Implicit::All(false)
    }
}

impl Implicit {
    /// True for a listener of that id.
    pub fn includes(&self, listener: Option<&str>) -> bool {
        match self {
            Implicit::All(all) => *all,
            Implicit::Ids(ids) => listener.is_some_and(|listener| ids.iter().any(|id| id == listener)),
        }
    }
}

/// `servers[].tls.certs[]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerCertificate {
    /// Id in `pki.private[]`.
    pub cert: String,
    /// Names that clients ask for; `*.` stands for one label.
    #[serde(default)]
    pub hosts: Vec<String>,
}

/// `servers[].tls.peercert`
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PeerCertificate {
    /// Not asked for.
    #[default]
    Never,
    /// Asked for; scripts see it.
    Request,
    /// MAIL needs one.
    Require,
}

fn default_errors() -> u32 {
    20
}

/// `servers[].timeout`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerTimeout {
    /// Silence of the client.
    pub idle: Duration,
    /// The whole connection, 0 = no limit.
    pub session: Duration,
}

impl Default for ServerTimeout {
    fn default() -> ServerTimeout {
        ServerTimeout { idle: Duration(300.0), session: Duration(0.0) }
    }
}

/// `servers[].concurrency`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Concurrency {
    /// All clients.
    pub total: u32,
    /// Clients of one address (IPv6: of one /64), 0 = no limit.
    pub perip: u32,
}

impl Default for Concurrency {
    fn default() -> Concurrency {
        Concurrency { total: 1000, perip: 0 }
    }
}

/// `servers[].received`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Received {
    /// Add the header.
    pub enabled: bool,
    /// Product token; empty omits it.
    pub product: String,
}

impl Default for Received {
    fn default() -> Received {
        Received { enabled: true, product: "Halon".to_owned() }
    }
}

/// `servers[].extensions`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the names are the EHLO keywords")]
pub struct Extensions {
    pub pipelining: bool,
    pub size: bool,
    pub starttls: bool,
    pub auth: bool,
    #[serde(rename = "8bitmime")]
    pub eightbitmime: bool,
    pub smtputf8: bool,
    pub chunking: bool,
    pub enhancedstatuscodes: bool,
    pub dsn: bool,
    pub limits: bool,
}

impl Default for Extensions {
    fn default() -> Extensions {
        Extensions {
            pipelining: true,
            size: true,
            starttls: true,
            auth: true,
            eightbitmime: true,
            smtputf8: true,
            chunking: true,
            enhancedstatuscodes: true,
            dsn: false,
            limits: false,
        }
    }
}

/// `servers[].phases`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the names are the phases")]
pub struct Phases {
    pub connect: ConnectPhase,
    pub proxy: ProxyPhase,
    pub helo: HeloPhase,
    pub auth: AuthPhase,
    pub mailfrom: MailFromPhase,
    pub rcptto: RcptToPhase,
    pub data: DataPhase,
    pub eod: HookPhase,
    pub eodrcpt: HookPhase,
    pub disconnect: HookPhase,
}

/// A phase with nothing but a hook.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HookPhase {
    /// Script id.
    pub hook: Option<String>,
    /// Where it runs: an id of `threads.scripts` of the startup file.
    pub threadid: Option<String>,
}

/// `phases.connect`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectPhase {
    /// Script id.
    pub hook: Option<String>,
    /// Where it runs: an id of `threads.scripts` of the startup file.
    pub threadid: Option<String>,
    /// Look up the client's name and confirm it.
    pub remoteptr: bool,
    /// Bytes before the banner.
    pub earlytalker: EarlyTalker,
    /// Pause before the banner.
    pub delay: Duration,
}

impl Default for ConnectPhase {
    fn default() -> ConnectPhase {
        ConnectPhase {
            hook: None,
            threadid: None,
            remoteptr: true,
            earlytalker: EarlyTalker::Ignore,
            delay: Duration(0.0),
        }
    }
}

/// `phases.connect.earlytalker`
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum EarlyTalker {
    /// Take them as pipelined.
    Ignore,
    /// 554 and close.
    Reject,
}

/// `phases.helo`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeloPhase {
    /// Script id.
    pub hook: Option<String>,
    /// Where it runs: an id of `threads.scripts` of the startup file.
    pub threadid: Option<String>,
    /// MAIL needs a greeting first.
    pub required: bool,
}

impl Default for HeloPhase {
    fn default() -> HeloPhase {
        HeloPhase { hook: None, threadid: None, required: true }
    }
}

/// `phases.proxy`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProxyPhase {
    /// Script id.
    pub hook: Option<String>,
    /// Where it runs: an id of `threads.scripts` of the startup file.
    pub threadid: Option<String>,
    /// First words of the lines that it sees; all lines when empty.
    pub commands: Vec<String>,
}

/// `phases.auth`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthPhase {
    /// Script id.
    pub hook: Option<String>,
    /// Where it runs: an id of `threads.scripts` of the startup file.
    pub threadid: Option<String>,
    /// Announced, in order.
    pub mechanisms: Vec<String>,
    /// Refused attempts until the connection is closed, 0 = no limit.
    pub maxfailures: u32,
    /// Neither announced nor accepted without TLS.
    pub tlsonly: bool,
}

impl Default for AuthPhase {
    fn default() -> AuthPhase {
        let mechanisms = vec!["PLAIN".to_owned(), "LOGIN".to_owned()];
        AuthPhase { hook: None, threadid: None, mechanisms, maxfailures: 3, tlsonly: true }
    }
}

/// `phases.mailfrom`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MailFromPhase {
    /// Script id.
    pub hook: Option<String>,
    /// Where it runs: an id of `threads.scripts` of the startup file.
    pub threadid: Option<String>,
    /// Messages per connection, 0 = no limit.
    pub maxmessages: u64,
    /// MAIL needs AUTH.
    pub authonly: bool,
}

/// `phases.rcptto`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RcptToPhase {
    /// Script id, or scripts by recipient domain.
    pub hook: Option<RcptToHook>,
    /// Where they run: an id of `threads.scripts` of the startup file.
    pub threadid: Option<String>,
    /// Recipients per message.
    pub maxrecipients: u32,
}

impl Default for RcptToPhase {
    fn default() -> RcptToPhase {
        RcptToPhase { hook: None, threadid: None, maxrecipients: 1000 }
    }
}

/// `phases.rcptto.hook`
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum RcptToHook {
    /// One script for all.
    One(String),
    /// By the domain of the recipient.
    ByDomain {
        /// The default script.
        id: String,
        /// Domain or `*.domain` to script id.
        recipientdomains: BTreeMap<String, String>,
    },
}

/// `phases.data`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataPhase {
    /// Octets of a message.
    pub maxsize: Size,
    /// Received fields.
    pub maxhops: u32,
    /// Octets of a line, 0 = no limit.
    pub maxlinelength: u64,
    /// CR and LF that stand alone.
    pub barelinefeed: BareLineFeed,
    /// Whether MIME is parsed before the hook. Taken for what other configurations say: parts are found when a script
    /// first asks for them, whatever it is.
    pub multipart: bool,
}

impl Default for DataPhase {
    fn default() -> DataPhase {
        DataPhase {
            maxsize: Size(50 << 20),
            maxhops: 100,
            maxlinelength: 0,
            barelinefeed: BareLineFeed::Normalize,
            multipart: true,
        }
    }
}

/// `phases.data.barelinefeed`
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum BareLineFeed {
    /// Stored as CRLF.
    Normalize,
    /// Refused after the end of data.
    Reject,
    /// Stored as received.
    Accept,
}

/// `transportgroups[]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransportGroup {
    /// Unique among groups.
    pub id: String,
    /// Inherited by its transports.
    #[serde(default)]
    pub connection: Connection,
    /// Inherited by its transports.
    #[serde(default)]
    pub session: Session,
    /// Inherited by its transports.
    #[serde(default)]
    pub retry: Retry,
    /// Inherited by its transports.
    #[serde(default)]
    pub dsn: Dsn,
    /// The transports.
    pub transports: Vec<Transport>,
}

/// `transportgroups[].transports[]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transport {
    /// Unique among all transports.
    pub id: String,
    /// Wins over the group's, key by key.
    #[serde(default)]
    pub connection: Connection,
    /// Wins over the group's, key by key.
    #[serde(default)]
    pub session: Session,
    /// Wins over the group's, key by key.
    #[serde(default)]
    pub retry: Retry,
    /// Wins over the group's, key by key.
    #[serde(default)]
    pub dsn: Dsn,
}

/// `connection`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Connection {
    /// Host name or address; absent or `lookup-mx` = the recipient domain's MX.
    pub server: Option<String>,
    /// 25 when absent.
    pub port: Option<u16>,
    /// Which MX hosts are used.
    pub mx: MxFilter,
    /// Source addresses.
    pub sourceip: SourceIp,
    /// Seconds to connect, 30 when absent.
    pub timeout: Option<Duration>,
    /// Connections go through this proxy.
    #[serde(alias = "proxy")]
    pub proxyprotocol: Option<ProxyProtocol>,
}

/// `connection.proxyprotocol` and `addresses[].proxyprotocol`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyProtocol {
    /// Address or host name.
    #[serde(alias = "address")]
    pub server: String,
    /// TCP port.
    pub port: u16,
    /// Of the header: 1 or 2.
    #[serde(default = "default_proxy_version")]
    pub version: u8,
}

fn default_proxy_version() -> u8 {
    2
}

/// `connection.mx`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MxFilter {
    /// Only hosts of these names; `*.` stands for anything in front.
    pub include: Option<Vec<String>>,
    /// No hosts of these names.
    pub exclude: Option<Vec<String>>,
}

/// `connection.sourceip`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SourceIp {
    /// Ids of `addresses[]`.
    pub addresses: Option<Vec<String>>,
    /// Random order (true when absent) or the listed one.
    pub random: Option<bool>,
    /// Bind addresses that are not of this host.
    pub nonlocal: Option<bool>,
    /// Use IPv4 (true when absent).
    pub ipv4: Option<bool>,
    /// Use IPv6 (true when absent).
    pub ipv6: Option<bool>,
    /// Tried first where both are usable; `ipv6` when absent.
    pub prefer: Option<Family>,
}

/// An address family.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// 32 bits.
    Ipv4,
    /// 128 bits.
    Ipv6,
}

/// `session`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Session {
    /// EHLO name.
    pub helo: Option<String>,
    /// SMTP when absent.
    pub protocol: Option<Protocol>,
    /// Use PIPELINING (true when absent).
    pub pipelining: Option<bool>,
    /// Use BDAT where it is announced.
    pub chunking: Option<bool>,
    /// Account to log in with.
    pub auth: SessionAuth,
    /// Attributes for XCLIENT.
    pub xclient: Option<BTreeMap<String, String>>,
    /// STARTTLS.
    pub tls: SessionTls,
    /// Seconds per client state.
    pub timeout: BTreeMap<String, Duration>,
}

/// `session.auth`
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionAuth {
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<String>,
}

impl fmt::Debug for SessionAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionAuth").field("username", &self.username).finish_non_exhaustive()
    }
}

/// `session.protocol`
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 5321.
    Smtp,
    /// RFC 2033.
    Lmtp,
}

/// `session.tls`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionTls {
    /// `optional` when absent.
    pub mode: Option<TlsMode>,
    /// From the first byte.
    pub implicit: Option<bool>,
    /// Name that the peer is told: a text, or that of the host with `true`.
    pub sni: Option<TlsSni>,
    /// Allowed or, with `!`, forbidden versions.
    pub protocols: Option<String>,
    /// Ciphers in OpenSSL's form.
    pub ciphers: Option<String>,
    /// What the certificate has to be.
    pub verify: TlsVerify,
    /// Id in `pki.private[]`.
    pub clientcert: Option<String>,
}

/// `session.tls.sni`
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(untagged)]
pub enum TlsSni {
    /// That of the host, or none.
    Host(bool),
    /// This one.
    Name(String),
}

/// `session.tls.verify`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsVerify {
    /// The certificate must carry the name of the host.
    pub host: Option<bool>,
    /// The certificate must carry one of these names.
    pub names: Option<Vec<String>>,
    /// Trust the roots of the system.
    pub defaultca: Option<bool>,
}

/// `session.tls.mode`
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum TlsMode {
    /// Never.
    Disabled,
    /// When offered, without verification.
    Optional,
    /// Always, without verification.
    Require,
    /// Always, with a verified chain.
    RequireVerify,
    /// When offered, and then with a verified chain.
    OptionalVerify,
    /// DANE where there are TLSA records, else when offered.
    Dane,
    /// DANE always.
    DaneRequire,
    /// DANE where there are TLSA records, else always.
    DaneFallbackRequire,
    /// DANE where there are TLSA records, else always with a verified chain.
    DaneFallbackRequireVerify,
}

/// `retry`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Attempts before the bounce, 30 when absent.
    pub count: Option<u32>,
    /// Waits; the last repeats.
    pub intervals: Option<Vec<RetryInterval>>,
    /// Age after which a failure is final.
    pub maxage: Option<Duration>,
    /// Added to each wait, uniform from 0.
    pub jitter: Option<Duration>,
}

/// `retry.intervals[]`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryInterval {
    /// Wait before the next attempt.
    pub interval: Duration,
    /// Tell the sender.
    #[serde(default)]
    pub notify: bool,
}

/// `dsn`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dsn {
    /// Transport of bounces; absent = none are made.
    pub transport: Option<String>,
    /// Header From.
    pub from: DsnFrom,
    /// What part 3 holds; `headers` when absent.
    pub original: Option<DsnOriginal>,
    /// Signature of the reports.
    pub dkim: Option<DsnDkim>,
}

/// `dsn.dkim`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DsnDkim {
    /// `d=`.
    pub domain: String,
    /// `s=`.
    pub selector: String,
    /// Id in `pki.private[]`.
    pub key: String,
}

/// `dsn.from`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DsnFrom {
    /// `postmaster` when absent.
    pub localpart: Option<String>,
    /// The host name when absent.
    pub domain: Option<String>,
    /// `Mail Delivery Subsystem` when absent.
    pub name: Option<String>,
}

/// `dsn.original`
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum DsnOriginal {
    /// No part 3.
    None,
    /// The header.
    Headers,
    /// The message.
    Full,
}

/// `addresses[]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// Unique.
    pub id: String,
    /// Bound before connecting.
    pub address: IpAddr,
    /// EHLO name from this address.
    pub helo: Option<String>,
    /// The proxy that has this address.
    pub proxyprotocol: Option<ProxyProtocol>,
}

/// `queues`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Queues {
    /// Outbound connections.
    pub concurrency: QueueConcurrency,
    /// Connections kept open between messages.
    pub pooling: QueuePooling,
    /// Further candidates tried after a failed connect.
    pub failover: u32,
    /// Names for sets of destinations.
    pub grouping: Grouping,
    /// Messages in memory, 0 = no limit; more wait on disk.
    pub maxmessages: u64,
}

impl Default for Queues {
    fn default() -> Queues {
        Queues {
            concurrency: QueueConcurrency::default(),
            pooling: QueuePooling::default(),
            failover: 1,
            grouping: Grouping::default(),
            maxmessages: 0,
        }
    }
}

/// `queues.concurrency`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueConcurrency {
    /// All of them.
    pub total: u32,
}

impl Default for QueueConcurrency {
    fn default() -> QueueConcurrency {
        QueueConcurrency { total: 10_000 }
    }
}

/// `queues.pooling`
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueuePooling {
    /// Idle connections kept, 0 = none.
    pub size: usize,
    /// What entries must have in common to share a connection; the address and the name of the next hop when absent.
    pub policy: Option<PoolingPolicy>,
}

/// `queues.pooling.policy`
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PoolingPolicy {
    /// The name of the next hop.
    RemoteMx,
    /// The grouping.
    Grouping,
}

/// `queues.grouping`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grouping {
    /// The field whose value unmatched entries carry.
    pub default: Option<GroupingDefault>,
    /// First match wins.
    pub groupings: Vec<NamedGrouping>,
}

/// `queues.grouping.default`
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum GroupingDefault {
    /// Name of the MX.
    RemoteMx,
    /// Domain of the recipient.
    RecipientDomain,
}

/// `queues.grouping.groupings[]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedGrouping {
    /// Referred to as `&id`.
    pub id: String,
    /// Names or `*.domain`.
    #[serde(default)]
    pub remotemx: Vec<String>,
    /// Domains or `*.domain`.
    #[serde(default)]
    pub recipientdomain: Vec<String>,
    /// Addresses or networks.
    #[serde(default)]
    pub remoteip: Vec<String>,
}

/// `resolver`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resolver {
    /// `/etc/resolv.conf` when empty.
    pub servers: Vec<ResolverServer>,
    /// Queries at once.
    pub concurrency: u32,
    /// Per try.
    pub timeout: Duration,
    /// Further tries.
    pub retries: u32,
    /// Answers kept.
    pub cache: ResolverCache,
    /// Whose word on DNSSEC is taken.
    pub dnssec: Dnssec,
    /// Name servers beside those on loopback whose AD bit is trusted: addresses and networks.
    pub dnssec_trust: Vec<String>,
    /// Names (`*.`), addresses and networks that are never used as next hop.
    pub exclude: Vec<String>,
}

/// `resolver.dnssec`
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(from = "DnssecText")]
pub enum Dnssec {
    /// The AD bit of trusted servers.
    #[default]
    Ad,
    /// Validation of our own.
    Validate,
    /// Every answer counts as unsigned.
    Off,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum DnssecText {
    Flag(bool),
    Word(DnssecWord),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum DnssecWord {
    Ad,
    Validate,
    Off,
}

impl From<DnssecText> for Dnssec {
    fn from(text: DnssecText) -> Dnssec {
        match text {
            DnssecText::Flag(true) | DnssecText::Word(DnssecWord::Ad) => Dnssec::Ad,
            DnssecText::Flag(false) | DnssecText::Word(DnssecWord::Off) => Dnssec::Off,
            DnssecText::Word(DnssecWord::Validate) => Dnssec::Validate,
        }
    }
}

impl Default for Resolver {
    fn default() -> Resolver {
        Resolver {
            servers: Vec::new(),
            concurrency: 100,
            timeout: Duration(5.0),
            retries: 2,
            cache: ResolverCache::default(),
            dnssec: Dnssec::default(),
            dnssec_trust: Vec::new(),
            exclude: Vec::new(),
        }
    }
}

/// `metrics[]`
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// Name.
    pub id: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: MetricKind,
    /// Text for the reader.
    #[serde(default)]
    pub help: String,
    /// Names of its labels.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Upper bounds of a histogram.
    #[serde(default)]
    pub buckets: Vec<f64>,
}

/// `metrics[].type`
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum MetricKind {
    /// Goes up and down.
    Gauge,
    /// Only goes up.
    Counter,
    /// Counts values by size.
    Histogram,
}

/// `resolver.servers[]`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
pub enum ResolverServer {
    /// Port 53.
    Address(IpAddr),
    /// Another port.
    WithPort {
        /// Name server.
        address: IpAddr,
        /// UDP and TCP port.
        port: u16,
    },
}

impl ResolverServer {
    /// Address and port.
    pub fn socket_address(&self) -> SocketAddr {
        match *self {
            ResolverServer::Address(address) => SocketAddr::new(address, 53),
            ResolverServer::WithPort { address, port } => SocketAddr::new(address, port),
        }
    }
}

/// `resolver.cache`
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResolverCache {
    /// Entries, 0 = off.
    pub size: usize,
    /// Clamps of the time to live.
    pub ttl: ResolverTtl,
}

/// `resolver.cache.ttl`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResolverTtl {
    /// At least.
    pub min: Duration,
    /// At most.
    pub max: Duration,
    /// At most for negative answers.
    pub negative: Duration,
}

impl Default for ResolverTtl {
    fn default() -> ResolverTtl {
        ResolverTtl { min: Duration(0.0), max: Duration(86_400.0), negative: Duration(60.0) }
    }
}

/// `scripting`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scripting {
    /// Scripts of the phases and of the queue.
    pub hooks: Hooks,
    /// Files for include, import and data.
    pub files: Vec<ScriptFile>,
    /// Bounds of one execution.
    pub limits: ScriptLimits,
}

/// `scripting.hooks`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the names are the hooks")]
pub struct Hooks {
    pub connect: Vec<Script>,
    pub proxy: Vec<Script>,
    pub helo: Vec<Script>,
    pub auth: Vec<Script>,
    pub mailfrom: Vec<Script>,
    pub rcptto: Vec<Script>,
    pub eod: Vec<Script>,
    pub eodrcpt: Vec<Script>,
    pub disconnect: Vec<Script>,
    pub predelivery: Option<String>,
    pub postdelivery: Option<String>,
}

/// `scripting.hooks.<phase>[]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// Referred to by `phases.<phase>.hook`.
    pub id: String,
    /// HSL source.
    pub data: String,
}

/// `scripting.files[]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptFile {
    /// Path with `/`.
    pub id: String,
    /// Text, or base64 when `binary`.
    pub data: String,
    /// `data` is base64.
    #[serde(default)]
    pub binary: bool,
}

/// `scripting.limits`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScriptLimits {
    /// Frames.
    pub depth: u32,
    /// Run time without waiting; absent = no limit.
    pub timeout: Option<Duration>,
    /// Octets.
    pub memory: Size,
}

impl Default for ScriptLimits {
    fn default() -> ScriptLimits {
        ScriptLimits { depth: 1000, timeout: None, memory: Size(256 << 20) }
    }
}
