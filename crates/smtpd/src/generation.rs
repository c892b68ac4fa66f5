//! A configuration generation: everything a connection or an attempt needs from the running configuration,
//! compiled and checked before it takes effect. Whoever holds one keeps it, so a reload disturbs nobody
//! (invariant I6).

use crate::grouping::Grouping;
use crate::hooks::bridge::Bridge;
use crate::hooks::decision::Phase;
use crate::hooks::pools::Pools;
use crate::hooks::script::{Compiler, Script, ScriptCounters, Watched, script_files};
use crate::lists::Lists;
use crate::server::limits::Gate;
use crate::server::tls::{ServerTls, SharedTls};
use crate::stage::Stage;
use crate::transport::{self, Transport};
use config::app::{self, App, EarlyTalker, RcptToHook};
use config::pki::{self, PemTexts};
use config::startup::ServerKind;
use config::{Startup, validate};
use hsl_std::Environment;
use hsl_std::metrics::{Declaration, Kind, Metrics};
use net::Resolver;
use net::resolver;
use net::tls::{Identity, TlsClient};
use parking_lot::{Mutex, RwLock};
use smtp::content::BareLineFeed;
use smtp::server::{AuthSettings, Extensions, Proxied, Settings, TlsSettings};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The hooks of a server.
#[derive(Default)]
pub struct ServerHooks {
    /// After accept.
    pub connect: Option<Arc<Script>>,
    /// Before commands.
    pub proxy: Option<Arc<Script>>,
    /// On HELO and EHLO.
    pub helo: Option<Arc<Script>>,
    /// On AUTH.
    pub auth: Option<Arc<Script>>,
    /// On MAIL.
    pub mailfrom: Option<Arc<Script>>,
    /// On RCPT.
    pub rcptto: RcptToScripts,
    /// At the end of data.
    pub eod: Option<Arc<Script>>,
    /// At the end of data, for each recipient.
    pub eodrcpt: Option<Arc<Script>>,
    /// After the connection.
    pub disconnect: Option<Arc<Script>>,
}

impl ServerHooks {
    /// The script of a phase; of rcptto the default one.
    pub fn of_phase(&self, phase: &str) -> Option<&Arc<Script>> {
        match phase {
            "connect" => self.connect.as_ref(),
            "proxy" => self.proxy.as_ref(),
            "helo" => self.helo.as_ref(),
            "auth" => self.auth.as_ref(),
            "mailfrom" => self.mailfrom.as_ref(),
            "rcptto" => self.rcptto.default.as_ref(),
            "eod" => self.eod.as_ref().or(self.eodrcpt.as_ref()),
            "disconnect" => self.disconnect.as_ref(),
            _ => None,
        }
    }
}

/// The rcptto scripts of a server: a default and some by domain.
#[derive(Default)]
pub struct RcptToScripts {
    default: Option<Arc<Script>>,
    domains: HashMap<String, Arc<Script>>,
}

impl RcptToScripts {
    /// The script for a recipient's domain: the exact name, then `*.` of each parent, then the default.
    pub fn script(&self, domain: &str) -> Option<&Arc<Script>> {
        if self.domains.is_empty() {
            return self.default.as_ref();
        }
        if let Some(script) = self.domains.get(domain) {
            return Some(script);
        }
        let mut rest = domain;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(script) = self.domains.get(&format!("*.{parent}")) {
                return Some(script);
            }
            rest = parent;
        }
        self.default.as_ref()
    }
}

/// A server of the running configuration.
pub struct VirtualServer {
    /// `servers[].id`.
    pub id: String,
    /// What it speaks.
    pub kind: ServerKind,
    /// Certificates and rules of encryption; none without a certificate.
    pub tls: SharedTls,
    /// Listeners that speak TLS from the first byte.
    pub tls_implicit: app::Implicit,
    /// HTTP clients must show one of these.
    pub api_keys: Vec<String>,
    /// Endpoint of HTTP submission.
    pub http_path: String,
    /// Longest request body, octets.
    pub http_bytes_max: u64,
    /// Banner, EHLO reply, Received.
    pub hostname: String,
    /// Default transport of recipients.
    pub transport: Option<String>,
    /// Limits and extensions of the SMTP machine.
    pub machine: Arc<Settings>,
    /// Patience with a silent client.
    pub idle: Duration,
    /// Longest connection.
    pub session_limit: Option<Duration>,
    /// Clients at once.
    pub concurrency_total: u32,
    /// Clients of one address at once, 0 = no limit.
    pub concurrency_per_client: u32,
    /// Look up the client's name.
    pub remote_ptr: bool,
    /// Clients that talk before the banner.
    pub early_talker: EarlyTalker,
    /// Pause before the banner.
    pub delay: Duration,
    /// Add the Received header.
    pub received: bool,
    /// Its product token.
    pub product: String,
    /// The scripts.
    pub hooks: ServerHooks,
    /// Connections now; shared by all generations.
    pub gate: Arc<Gate>,
}

/// Everything compiled from one running configuration.
pub struct Generation {
    /// Default host name.
    pub hostname: String,
    /// By id.
    pub servers: HashMap<String, Arc<VirtualServer>>,
    /// By id.
    pub transports: HashMap<String, Arc<Transport>>,
    /// Source addresses by id.
    pub sources: HashMap<String, transport::Source>,
    /// DNS.
    pub resolver: Resolver,
    resolver_settings: resolver::Settings,
    /// Names for sets of destinations.
    pub grouping: Grouping,
    /// Named lists for policies, suspensions and delivery settings.
    pub lists: Lists,
    /// Messages in memory, 0 = no limit.
    pub messages_max: u64,
    /// Further candidates tried after a failed connect.
    pub failover: u32,
    /// Connections kept between messages.
    pub pooling: app::QueuePooling,
    /// TLS of deliveries.
    pub tls: TlsClient,
    /// Keys by id, for signatures.
    pub keys: HashMap<String, hsl_std::Credential>,
    /// Names and networks that are never used as next hop.
    pub excluded: Vec<String>,
    /// Outbound connections at once.
    pub outbound_max: u32,
    /// Runs before each attempt.
    pub predelivery: Option<Arc<Script>>,
    /// Runs after each attempt.
    pub postdelivery: Option<Arc<Script>>,
    /// What scripts may count.
    metrics: Vec<Declaration>,
    /// The virtual files.
    files: hsl_std::ScriptFiles,
}

/// The current generation and what outlives it.
pub struct Generations {
    current: RwLock<Arc<Generation>>,
    /// A second configuration for part of the connections.
    pub(crate) stage: RwLock<Option<Arc<Stage>>>,
    shared: Shared,
    path: PathBuf,
}

/// Counters and gates that belong to server ids, not to generations.
pub struct Shared {
    hostname: String,
    rootpath: Option<PathBuf>,
    state: Arc<hsl::Shared>,
    /// What scripts act on; set when the daemon is complete.
    server: Arc<Bridge>,
    metrics: Arc<Metrics>,
    public_suffixes: Option<hsl_std::environment::List>,
    /// Keys of the startup file, read before the rights go.
    keys: HashMap<String, PemTexts>,
    ffi: bool,
    uuid_version: u8,
    httprd: Option<PathBuf>,
    rated: Option<PathBuf>,
    pools: Arc<Pools>,
    gates: Mutex<BTreeMap<String, Arc<Gate>>>,
    counters: Mutex<BTreeMap<(String, &'static str), Arc<ScriptCounters>>>,
}

impl Shared {
    /// For the host and script root of a startup file.
    ///
    /// # Errors
    /// A file that it names cannot be used.
    pub fn new(startup: &Startup) -> Result<Shared, String> {
        let list = startup.environment.publicsuffix.as_deref();
        Ok(Shared {
            server: Arc::default(),
            metrics: Arc::default(),
            public_suffixes: list.map(hsl_std::environment::read_public_suffixes).transpose()?,
            keys: keys(startup)?,
            ffi: startup.scripting.ffi,
            uuid_version: startup.environment.uuid.version,
            httprd: startup.environment.sockets.httprd.path.clone(),
            rated: startup.environment.sockets.rated.path.clone(),
            hostname: startup.environment.hostname.clone().unwrap_or_else(system_hostname),
            rootpath: startup.scripting.rootpath.clone(),
            state: Arc::default(),
            pools: Arc::new(Pools::new(startup)),
            gates: Mutex::default(),
            counters: Mutex::default(),
        })
    }

    /// Where scripts run.
    pub fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Shared memory and caches of scripts.
    pub fn state(&self) -> &Arc<hsl::Shared> {
        &self.state
    }

    /// What scripts act on.
    pub fn server(&self) -> &Arc<Bridge> {
        &self.server
    }

    /// What the library of scripts gets to know.
    fn environment(
        &self,
        app: &App,
        files: hsl_std::ScriptFiles,
        keys: HashMap<String, hsl_std::Credential>,
        resolver: &Resolver,
    ) -> Environment {
        let mut environment = Environment {
            hostname: Some(self.hostname.clone()),
            uuid_version: self.uuid_version,
            public_suffixes: self.public_suffixes.clone(),
            files: Arc::new(files),
            ffi: self.ffi,
            keys,
            addresses: app.addresses.iter().map(|a| (a.id.clone(), vec![a.address])).collect(),
            resolver: resolver.clone(),
            metrics: self.metrics.clone(),
            server: Some(self.server.clone()),
            mail_queue: Some(self.server.clone()),
            log: |line| crate::warning!("", "{line}"),
            ..Environment::default()
        };
        if let Some(path) = &self.httprd {
            environment.httprd.clone_from(path);
        }
        if let Some(path) = &self.rated {
            environment.rated.clone_from(path);
        }
        environment
    }

    fn gate(&self, server: &str) -> Arc<Gate> {
        self.gates.lock().entry(server.to_owned()).or_default().clone()
    }

    /// Counters of a hook; `server` is empty for the queue's hooks.
    pub fn counters(&self, server: &str, hook: &'static str) -> Arc<ScriptCounters> {
        self.counters.lock().entry((server.to_owned(), hook)).or_default().clone()
    }
}

/// The keys of the startup file, read before the rights go.
fn keys(startup: &Startup) -> Result<HashMap<String, PemTexts>, String> {
    let mut keys = HashMap::new();
    for key in &startup.pki.private {
        let texts = key.read().map_err(|text| format!("/pki/private/{}: {text}", key.id))?;
        keys.insert(key.id.clone(), texts);
    }
    // Whoever starts the daemon is told of a mistake, not whoever reloads it later.
    credentials(&keys)?;
    Ok(keys)
}

fn credentials(keys: &HashMap<String, PemTexts>) -> Result<HashMap<String, hsl_std::Credential>, String> {
    let read = |(id, texts): (&String, &PemTexts)| {
        let credential =
            hsl_std::Credential::from_pem(&texts.key, texts.certificate.as_deref(), &texts.chain);
        Ok((id.clone(), credential.map_err(|text| format!("/pki/private/{id}: {text}"))?))
    };
    keys.iter().map(read).collect()
}

/// The system's name, or `localhost` where it has none.
fn system_hostname() -> String {
    match nix::unistd::gethostname() {
        Ok(name) if !name.is_empty() => name.to_string_lossy().into_owned(),
        _ => "localhost".to_owned(),
    }
}

impl Generations {
    /// Loads the first generation.
    pub fn load(startup: &Startup, shared: Shared) -> Result<Generations, Vec<String>> {
        let path = startup.app_path();
        let first = build(&path, &shared, None)?;
        let current = RwLock::new(Arc::new(first));
        let generations = Generations { current, stage: RwLock::default(), shared, path };
        generations.declare_metrics();
        Ok(generations)
    }

    /// The generation for new connections and attempts.
    pub fn current(&self) -> Arc<Generation> {
        self.current.read().clone()
    }

    /// What outlives the generations.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The metrics of the running configuration; those of a stage join them.
    pub(crate) fn declare_metrics(&self) {
        self.shared.metrics.declare(self.current().metrics.clone());
        if let Some(stage) = self.stage() {
            self.shared.metrics.declare_more(stage.generation().metrics.clone());
        }
    }

    /// Compiles the configuration of a stage.
    pub(crate) fn compile_stage(
        &self,
        id: &str,
        text: &str,
        watch: Watched,
    ) -> Result<Generation, Vec<String>> {
        let name = format!("live stage {id}");
        let app: App = config::load::parse(&name, text).map_err(|error| vec![error.to_string()])?;
        compile(&name, &app, &self.shared, Some(&self.current()), Some(Arc::new(watch)))
    }

    /// Compiles a running configuration to see whether it is right.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, text: &str) -> Result<(), Vec<String>> {
        let name = "smtpd-app.yaml";
        let app: App = config::load::parse(name, text).map_err(|error| vec![error.to_string()])?;
        compile(name, &app, &self.shared, Some(&self.current()), None).map(|_| ())
    }

    /// Reads the running file again; the current generation stays in force until [`Generations::install`].
    pub fn prepare(&self) -> Result<Arc<Generation>, Vec<String>> {
        Ok(Arc::new(build(&self.path, &self.shared, Some(&self.current()))?))
    }

    /// Makes a generation the current one.
    pub fn install(&self, next: Arc<Generation>) {
        let previous = std::mem::replace(&mut *self.current.write(), next.clone());
        self.declare_metrics();
        for name in next.files.changed(&previous.files) {
            self.shared.state.cache_clear(Some(format!("file:{name}").as_bytes()));
        }
    }
}

fn build(path: &Path, shared: &Shared, previous: Option<&Generation>) -> Result<Generation, Vec<String>> {
    let app: App = config::load(path).map_err(|error| vec![error.to_string()])?;
    compile(&path.display().to_string(), &app, shared, previous, None)
}

/// Compiles and checks a configuration; nothing of it takes effect.
fn compile(
    name: &str,
    app: &App,
    shared: &Shared,
    previous: Option<&Generation>,
    watch: Option<Arc<Watched>>,
) -> Result<Generation, Vec<String>> {
    let strings =
        |errors: Vec<config::Error>| errors.iter().map(ToString::to_string).collect::<Vec<String>>();
    validate::app(name, app).map_err(strings)?;
    let grouping = Grouping::new(&app.queues.grouping).map_err(|error| vec![format!("{name}: {error}")])?;
    let lists = Lists::read(&app.lists, None).map_err(|error| vec![format!("{name}: {error}")])?;
    let resolver_settings = resolver_settings(&app.resolver);
    let resolver = match previous {
        // The cache survives where nothing about the resolver changed.
        Some(previous) if previous.resolver_settings == resolver_settings => previous.resolver.clone(),
        _ => Resolver::new(resolver_settings.clone()),
    };
    let files =
        script_files(app, shared.rootpath.clone()).map_err(|error| vec![format!("{name}: {error}")])?;
    let files_kept = files.clone();
    let keys = pki::merge(&shared.keys, &app.pki.private).and_then(|texts| credentials(&texts));
    let keys = keys.map_err(|error| vec![format!("{name}: {error}")])?;
    let environment = Arc::new(shared.environment(app, files, keys.clone(), &resolver));
    let compiler = Compiler::new(app, environment, shared.state.clone(), shared.pools.clone());
    let compiler = compiler.watched(watch);
    let mut errors = Vec::new();
    let mut servers = HashMap::new();
    for (index, server) in app.servers.iter().enumerate() {
        let hooks = server_hooks(app, server, shared, &compiler, &mut errors);
        let tls = match ServerTls::build(&server.tls, &server.id, &keys) {
            Ok(tls) => tls.map(Arc::new),
            Err(text) => {
                errors.push(format!("{name}: /servers/{index}/tls/{text}"));
                None
            }
        };
        servers.insert(server.id.clone(), Arc::new(virtual_server(server, hooks, tls, shared)));
    }
    let mut queue_hook = |hook: &'static str, source: &Option<String>| {
        let source = source.as_deref().filter(|source| !source.trim().is_empty())?;
        let compiled = compiler.queue_hook(hook, source, shared.counters("", hook));
        compiled.map_err(|more| errors.extend(more)).ok().map(Arc::new)
    };
    let predelivery = queue_hook("predelivery", &app.scripting.hooks.predelivery);
    let postdelivery = queue_hook("postdelivery", &app.scripting.hooks.postdelivery);
    if !errors.is_empty() {
        return Err(errors);
    }
    let transports = transport::transports(app, &shared.hostname);
    let tls = TlsClient::new(identities(&keys));
    let mut ids: Vec<&String> = transports.keys().collect();
    ids.sort();
    for id in ids {
        if let Some(key) = transports[id].dsn.as_ref().and_then(|dsn| dsn.dkim.as_ref()).map(|dkim| &dkim.key)
            && !keys.contains_key(key)
        {
            let near = validate::suggestion(key, keys.keys().map(String::as_str));
            errors.push(format!(
                "{name}: transport \"{id}\": dsn.dkim.key: no key \"{key}\" in pki.private{near}"
            ));
        }
        if let Err(text) = tls.check(&transports[id].session.tls) {
            errors.push(format!("{name}: transport \"{id}\": session.tls.{text}"));
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(Generation {
        hostname: shared.hostname.clone(),
        servers,
        transports,
        sources: transport::sources(app),
        resolver,
        resolver_settings,
        grouping,
        lists,
        messages_max: app.queues.maxmessages,
        failover: app.queues.failover,
        pooling: app.queues.pooling,
        tls,
        keys,
        excluded: app.resolver.exclude.clone(),
        outbound_max: app.queues.concurrency.total,
        predelivery,
        postdelivery,
        metrics: app.metrics.iter().map(declaration).collect(),
        files: files_kept,
    })
}

/// The keys that have a certificate, for servers that ask for one.
fn identities(keys: &HashMap<String, hsl_std::Credential>) -> HashMap<String, Identity> {
    let identity = |(id, key): (&String, &hsl_std::Credential)| {
        let certificate = key.certificate.clone()?;
        Some((id.clone(), Identity { certificate, key: key.key.key.clone(), chain: key.chain.clone() }))
    };
    keys.iter().filter_map(identity).collect()
}

fn declaration(metric: &app::Metric) -> Declaration {
    Declaration {
        id: metric.id.clone(),
        kind: match metric.kind {
            app::MetricKind::Gauge => Kind::Gauge,
            app::MetricKind::Counter => Kind::Counter,
            app::MetricKind::Histogram => Kind::Histogram,
        },
        help: metric.help.clone(),
        labels: metric.labels.clone(),
        buckets: metric.buckets.clone(),
    }
}

fn server_hooks(
    app: &App,
    server: &app::Server,
    shared: &Shared,
    compiler: &Compiler,
    errors: &mut Vec<String>,
) -> ServerHooks {
    let mut compile = |phase: Phase, threadid: &Option<String>, id: &str| -> Option<Arc<Script>> {
        let script = validate::scripts(app, phase.name()).iter().find(|script| script.id == id)?;
        let counters = shared.counters(&server.id, phase.name());
        match compiler.phase_hook(phase, &server.id, threadid.as_deref(), id, &script.data, counters) {
            Ok(script) => Some(Arc::new(script)),
            Err(more) => {
                errors.extend(more);
                None
            }
        }
    };
    let phases = &server.phases;
    let mut single = |phase: Phase, threadid, id: &Option<String>| compile(phase, threadid, id.as_deref()?);
    let connect = single(Phase::Connect, &phases.connect.threadid, &phases.connect.hook);
    let proxy = single(Phase::Proxy, &phases.proxy.threadid, &phases.proxy.hook);
    let helo = single(Phase::Helo, &phases.helo.threadid, &phases.helo.hook);
    let auth = single(Phase::Auth, &phases.auth.threadid, &phases.auth.hook);
    let mailfrom = single(Phase::MailFrom, &phases.mailfrom.threadid, &phases.mailfrom.hook);
    let eod = single(Phase::Eod, &phases.eod.threadid, &phases.eod.hook);
    let eodrcpt = single(Phase::EodRcpt, &phases.eodrcpt.threadid, &phases.eodrcpt.hook);
    let disconnect = single(Phase::Disconnect, &phases.disconnect.threadid, &phases.disconnect.hook);
    let threadid = &phases.rcptto.threadid;
    let rcptto = match &phases.rcptto.hook {
        None => RcptToScripts::default(),
        Some(RcptToHook::One(id)) => {
            RcptToScripts { default: compile(Phase::RcptTo, threadid, id), domains: HashMap::new() }
        }
        Some(RcptToHook::ByDomain { id, recipientdomains }) => RcptToScripts {
            default: compile(Phase::RcptTo, threadid, id),
            domains: recipientdomains
                .iter()
                .filter_map(|(domain, id)| {
                    Some((domain.to_lowercase(), compile(Phase::RcptTo, threadid, id)?))
                })
                .collect(),
        },
    };
    ServerHooks { connect, proxy, helo, auth, mailfrom, rcptto, eod, eodrcpt, disconnect }
}

fn virtual_server(
    server: &app::Server,
    hooks: ServerHooks,
    tls: SharedTls,
    shared: &Shared,
) -> VirtualServer {
    let hostname = server.hostname.clone().unwrap_or_else(|| shared.hostname.clone());
    let phases = &server.phases;
    let size_max = phases.data.maxsize.0;
    let extensions = [
        (server.extensions.pipelining, "PIPELINING".to_owned()),
        (server.extensions.size, if size_max > 0 { format!("SIZE {size_max}") } else { "SIZE".to_owned() }),
        (server.extensions.starttls && tls.is_some(), "STARTTLS".to_owned()),
        (
            server.extensions.auth && hooks.auth.is_some() && !phases.auth.mechanisms.is_empty(),
            format!("AUTH {}", phases.auth.mechanisms.join(" ")),
        ),
        (server.extensions.eightbitmime, "8BITMIME".to_owned()),
        (server.extensions.smtputf8, "SMTPUTF8".to_owned()),
        (server.extensions.chunking, "CHUNKING".to_owned()),
        (server.extensions.enhancedstatuscodes, "ENHANCEDSTATUSCODES".to_owned()),
        (server.extensions.dsn, "DSN".to_owned()),
        (server.extensions.limits, limits_item(phases)),
    ];
    let machine = Settings {
        size_max,
        hops_max: phases.data.maxhops,
        data_line_bytes_max: phases.data.maxlinelength,
        bare_line_feed: match phases.data.barelinefeed {
            app::BareLineFeed::Normalize => BareLineFeed::Normalize,
            app::BareLineFeed::Reject => BareLineFeed::Reject,
            app::BareLineFeed::Accept => BareLineFeed::Accept,
        },
        recipients_max: phases.rcptto.maxrecipients as usize,
        messages_max: phases.mailfrom.maxmessages,
        errors_max: server.maxerrors,
        helo_required: phases.helo.required,
        tls: TlsSettings {
            available: tls.is_some(),
            required: server.tls.required,
            peer_certificate_required: server.tls.peercert == app::PeerCertificate::Require,
        },
        auth: hooks
            .auth
            .as_ref()
            .map(|_| AuthSettings { tls_only: phases.auth.tlsonly, failures_max: phases.auth.maxfailures }),
        auth_required: phases.mailfrom.authonly,
        proxied: match &hooks.proxy {
            Some(_) => Proxied::commands(&phases.proxy.commands),
            None => Proxied::None,
        },
        verbose: server.logging.verbose,
        extensions: Extensions::new(extensions.into_iter().filter(|(on, _)| *on).map(|(_, item)| item)),
        ..Settings::new(hostname.clone())
    };
    VirtualServer {
        id: server.id.clone(),
        kind: server.kind,
        tls,
        tls_implicit: server.tls.implicit.clone(),
        api_keys: server.apikeys.clone(),
        http_path: server.http.path.clone(),
        http_bytes_max: server.http.maxsize.map_or(size_max.saturating_add(1 << 20), |size| size.0),
        hostname,
        transport: server.transport.clone(),
        machine: Arc::new(machine),
        idle: server.timeout.idle.to_std(),
        session_limit: Some(server.timeout.session.to_std()).filter(|limit| !limit.is_zero()),
        concurrency_total: server.concurrency.total,
        concurrency_per_client: server.concurrency.perip,
        remote_ptr: phases.connect.remoteptr,
        early_talker: phases.connect.earlytalker,
        delay: phases.connect.delay.to_std(),
        received: server.received.enabled,
        product: server.received.product.clone(),
        hooks,
        gate: shared.gate(&server.id),
    }
}

/// RFC 9422: what clients may know before they run into it.
fn limits_item(phases: &app::Phases) -> String {
    let mut item = format!("LIMITS RCPTMAX={}", phases.rcptto.maxrecipients);
    if phases.mailfrom.maxmessages > 0 {
        item.push_str(&format!(" MAILMAX={}", phases.mailfrom.maxmessages));
    }
    item
}

fn resolver_settings(resolver: &app::Resolver) -> resolver::Settings {
    resolver::Settings {
        servers: resolver.servers.iter().map(app::ResolverServer::socket_address).collect(),
        timeout: resolver.timeout.to_std(),
        retries: resolver.retries,
        concurrency: resolver.concurrency as usize,
        cache_size: resolver.cache.size,
        ttl_min: resolver.cache.ttl.min.to_std(),
        ttl_max: resolver.cache.ttl.max.to_std(),
        ttl_negative: resolver.cache.ttl.negative.to_std(),
        dnssec: match resolver.dnssec {
            app::Dnssec::Off => resolver::Dnssec::Off,
            // 'validate' was refused before.
            app::Dnssec::Ad | app::Dnssec::Validate => {
                resolver::Dnssec::Trusted(transport::networks(&resolver.dnssec_trust))
            }
        },
    }
}
