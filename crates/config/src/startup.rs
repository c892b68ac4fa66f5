//! `smtpd.yaml`: what a running process cannot change.

use crate::pki::PemTexts;
use crate::value::{Duration, Mode, Network, Size};
use serde::Deserialize;
use std::net::IpAddr;
use std::path::PathBuf;

/// The startup file of `smtpd`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Startup {
    /// Schema revision.
    pub version: String,
    /// Listeners per virtual server.
    pub servers: Vec<Server>,
    /// Script files on disk.
    #[serde(default)]
    pub scripting: Scripting,
    /// Keys that scripts and TLS name by id.
    #[serde(default)]
    pub pki: Pki,
    /// The durable store.
    #[serde(default)]
    pub spool: Spool,
    /// Queue threads.
    #[serde(default)]
    pub queues: Queues,
    /// Where scripts run.
    #[serde(default)]
    pub threads: Threads,
    /// Paths, sockets, privileges.
    #[serde(default)]
    pub environment: Environment,
    /// Where log lines go.
    #[serde(default)]
    pub logging: Logging,
}

/// `servers[]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Joined to the running file's server of that id.
    pub id: String,
    /// What it speaks.
    #[serde(default, rename = "type")]
    pub kind: ServerKind,
    /// At least one; exactly one for HTTP.
    pub listeners: Vec<Listener>,
    /// Who may send PROXY headers on every listener.
    #[serde(default)]
    pub proxyprotocol: Vec<Network>,
    /// Threads of this server.
    #[serde(default)]
    pub threads: ServerThreads,
}

/// The protocol of a server.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ServerKind {
    /// RFC 5321.
    #[default]
    Smtp,
    /// Submission over HTTP.
    Http,
    /// Submission over HTTPS.
    Https,
}

/// `servers[].listeners[]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// TCP port.
    pub port: Option<u16>,
    /// Unix socket instead of the port.
    pub path: Option<PathBuf>,
    /// Owner of the path.
    pub owner: Option<String>,
    /// Group of the path.
    pub group: Option<String>,
    /// Mode of the path.
    pub chmod: Option<Mode>,
    /// All addresses when absent.
    pub address: Option<IpAddr>,
    /// Accept queue of the system.
    pub backlog: Option<u32>,
    /// Name for the running file.
    pub id: Option<String>,
    /// Encryption of this listener.
    #[serde(default)]
    pub tls: ListenerTls,
    /// Who may send PROXY headers; the server's list when absent.
    pub proxyprotocol: Option<ProxyProtocol>,
    /// A socket of its own for each event loop thread.
    #[serde(default)]
    pub reuseport: bool,
}

/// `servers[].listeners[].tls`
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerTls {
    /// TLS from the first byte.
    pub implicit: bool,
}

/// `servers[].listeners[].proxyprotocol`
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum ProxyProtocol {
    /// Everybody, or nobody.
    All(bool),
    /// Those of the networks.
    From(Vec<Network>),
}

/// `servers[].threads`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerThreads {
    /// Event loop threads.
    pub event: Option<u32>,
    /// Scripts running at once.
    pub script: Option<u32>,
}

/// `scripting`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scripting {
    /// Root of `file://`; absent = none.
    pub rootpath: Option<PathBuf>,
    /// Scripts may call functions of C libraries.
    #[serde(default)]
    pub ffi: bool,
}

/// `pki` of the startup file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pki {
    /// Private keys with their certificates.
    pub private: Vec<PrivateKey>,
}

/// `pki.private[]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivateKey {
    /// Unique.
    pub id: String,
    /// The key.
    pub privatekey: Pem,
    /// Its certificate.
    pub certificate: Option<Pem>,
    /// Certificates between it and a root.
    #[serde(default)]
    pub chain: Vec<Pem>,
}

impl PrivateKey {
    /// Reads the texts.
    ///
    /// # Errors
    /// A file cannot be read, as a message.
    pub fn read(&self) -> Result<PemTexts, String> {
        let chain = self.chain.iter().map(Pem::read).collect::<Result<_, _>>()?;
        let certificate = self.certificate.as_ref().map(Pem::read).transpose()?;
        Ok(PemTexts { key: self.privatekey.read()?, certificate, chain })
    }
}

/// PEM text, here or in a file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub enum Pem {
    /// In this file.
    Path(PathBuf),
    /// Here.
    Data(String),
}

impl Pem {
    /// The text.
    ///
    /// # Errors
    /// The file cannot be read, as a message.
    pub fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Pem::Path(path) => std::fs::read(path).map_err(|error| format!("{}: {error}", path.display())),
            Pem::Data(text) => Ok(text.clone().into_bytes()),
        }
    }
}

/// `spool`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Spool {
    /// Sync before the 250.
    pub fsync: bool,
    /// Free space below which mail is refused with 452.
    pub minfree: MinFree,
    /// What to do with unreadable queue files.
    pub corrupt: Corrupt,
    /// The commit journal.
    pub journal: Journal,
    /// Worker threads.
    pub threads: SpoolThreads,
}

impl Default for Spool {
    fn default() -> Spool {
        Spool {
            fsync: true,
            minfree: MinFree::default(),
            corrupt: Corrupt::default(),
            journal: Journal::default(),
            threads: SpoolThreads::default(),
        }
    }
}

/// `spool.minfree`
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MinFree {
    /// 0 = off.
    pub bytes: Size,
    /// 0 = off.
    pub inodes: u64,
}

/// `spool.corrupt`
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Corrupt {
    /// Log and leave.
    #[default]
    Ignore,
    /// Append `.corrupt` to the name.
    Rename,
    /// Refuse to start.
    Fail,
}

/// `spool.journal`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Journal {
    /// Group commit in one log; otherwise a synced file for each message.
    pub enabled: bool,
    /// Octets of one segment.
    pub segment: Size,
    /// Segments in use above which the oldest is emptied.
    pub segments: u32,
    /// Larger messages bypass the journal.
    pub maxmessage: Size,
    /// How long a message may live in the journal before it becomes a file.
    pub hold: Duration,
}

impl Default for Journal {
    fn default() -> Journal {
        Journal {
            enabled: true,
            segment: Size(64 << 20),
            segments: 8,
            maxmessage: Size(1 << 20),
            hold: Duration(2.0),
        }
    }
}

/// `spool.threads`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpoolThreads {
    /// Loaders at start.
    pub load: u32,
    /// File syncs at once.
    pub sync: u32,
}

impl Default for SpoolThreads {
    fn default() -> SpoolThreads {
        SpoolThreads { load: 4, sync: 8 }
    }
}

/// `threads`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Threads {
    /// Pools of scripts; `_default` and `_queues` exist also when they are not named.
    pub scripts: Vec<ScriptPool>,
}

/// `threads.scripts[]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptPool {
    /// Name for `threadid` of phases.
    pub id: String,
    /// Scripts that compute at once; twice the cores when absent.
    pub size: Option<u32>,
    /// Scripts begun and not ended, those that wait for the network among them; 1000 when absent.
    pub maxscripts: Option<u32>,
}

/// `queues` of the startup file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Queues {
    /// Threads of the queue.
    pub threads: QueueThreads,
}

/// `queues.threads`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueThreads {
    /// Delivery scripts running at once.
    pub script: Option<u32>,
    /// Event loop threads.
    pub event: Option<u32>,
}

/// `environment`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Environment {
    /// The running file.
    pub appconf: Option<PathBuf>,
    /// The policy file.
    pub policyconf: Option<PathBuf>,
    /// The suspend file.
    pub suspendconf: Option<PathBuf>,
    /// The delivery file.
    pub deliveryconf: Option<PathBuf>,
    /// The spool folder.
    pub spool: SpoolPath,
    /// Scratch files.
    pub tmpdir: Option<PathBuf>,
    /// Where control clients connect.
    pub controlsocket: ControlSocket,
    /// Sockets of other daemons.
    pub sockets: Sockets,
    /// The public suffix list; absent = the one that is built in.
    pub publicsuffix: Option<PathBuf>,
    /// Message ids.
    pub uuid: UuidVersion,
    /// Identity after start.
    pub privdrop: PrivDrop,
    /// Process umask.
    pub umask: Option<Mode>,
    /// System limits.
    pub rlimit: RLimit,
    /// Written at start.
    pub pidfile: Option<PathBuf>,
    /// Default of every host name.
    pub hostname: Option<String>,
    /// Accepted and not used.
    pub licensekey: Option<String>,
}

/// `environment.spool`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpoolPath {
    /// The queue folder.
    pub path: Option<PathBuf>,
}

/// `environment.controlsocket`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlSocket {
    /// Unix socket.
    pub path: Option<PathBuf>,
    /// TCP instead of the path.
    pub port: Option<u16>,
    /// Address for `port`.
    pub address: Option<IpAddr>,
    /// Owner of the path.
    pub owner: Option<String>,
    /// Group of the path.
    pub group: Option<String>,
    /// Mode of the path.
    pub chmod: Option<Mode>,
}

/// `environment.sockets`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sockets {
    /// Where HTTP requests in the background go.
    pub httprd: SocketPath,
    /// Who counts for the function `rate`.
    pub rated: SocketPath,
}

/// `environment.sockets.httprd` and `environment.sockets.rated`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SocketPath {
    /// Unix socket.
    pub path: Option<PathBuf>,
}

/// `environment.uuid`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UuidVersion {
    /// 1 = time, 4 = random.
    pub version: u8,
}

impl Default for UuidVersion {
    fn default() -> UuidVersion {
        UuidVersion { version: 1 }
    }
}

/// `environment.privdrop`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrivDrop {
    /// Stays what it is when absent.
    pub user: Option<String>,
    /// The user's own group when absent.
    pub group: Option<String>,
}

/// `environment.rlimit`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RLimit {
    /// Open files.
    pub nofile: Option<u64>,
}

/// `logging`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logging {
    /// `syslog`, or `stderr` in the foreground.
    pub target: Option<LogTarget>,
    /// What is logged.
    pub level: LogLevel,
}

/// `logging.target`
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogTarget {
    /// The system log.
    Syslog,
    /// Standard error.
    Stderr,
}

/// `logging.level`, from few to many lines.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What needs an operator.
    Error,
    /// What may need one.
    Warning,
    /// One line and more per message.
    #[default]
    Info,
    /// Output of scripts, too.
    Debug,
}

impl Startup {
    /// `environment.appconf` or its default.
    pub fn app_path(&self) -> PathBuf {
        self.environment.appconf.clone().unwrap_or_else(|| "/etc/halon/smtpd-app.yaml".into())
    }

    /// `environment.policyconf` or its default.
    pub fn policy_path(&self) -> PathBuf {
        self.environment.policyconf.clone().unwrap_or_else(|| "/etc/halon/smtpd-policy.yaml".into())
    }

    /// `environment.suspendconf` or its default.
    pub fn suspend_path(&self) -> PathBuf {
        self.environment.suspendconf.clone().unwrap_or_else(|| "/etc/halon/smtpd-suspend.yaml".into())
    }

    /// `environment.deliveryconf` or its default.
    pub fn delivery_path(&self) -> PathBuf {
        self.environment.deliveryconf.clone().unwrap_or_else(|| "/etc/halon/smtpd-delivery.yaml".into())
    }

    /// `environment.spool.path` or its default.
    pub fn spool_path(&self) -> PathBuf {
        self.environment.spool.path.clone().unwrap_or_else(|| "/var/spool/halon/queue".into())
    }

    /// `environment.controlsocket.path` or its default.
    pub fn control_path(&self) -> PathBuf {
        self.environment.controlsocket.path.clone().unwrap_or_else(|| "/var/run/halon/smtpd.ctl".into())
    }
}
