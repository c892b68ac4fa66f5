//! What no single key can tell: references, duplicates, pairs of files.

use crate::app::{self, App, RcptToHook};
use crate::load::Error;
use crate::policy::{DeliveryFile, Field, List, Policy, Suspend};
use crate::startup::{self, ServerKind, Startup};
use std::collections::{BTreeMap, HashSet};

/// The longest tag of a policy or suspension, in characters.
pub const TAG_CHARS_MAX: usize = 24;

struct Check<'a> {
    file: &'a str,
    errors: Vec<Error>,
}

impl Check<'_> {
    fn error(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        self.errors.push(Error::Meaning {
            file: self.file.to_owned(),
            pointer: pointer.into(),
            message: message.into(),
        });
    }

    fn version(&mut self, version: &str) {
        let (major, minor) = version.split_once('.').unwrap_or((version, ""));
        let known = matches!(major, "5" | "6")
            && !minor.is_empty()
            && minor.len() <= 2
            && minor.bytes().all(|b| b.is_ascii_digit());
        if !known {
            self.error("/version", format!("Unknown version \"{version}\", expected \"5.0\" to \"6.99\""));
        }
    }

    fn lists(&mut self, lists: &[List]) {
        self.ids("/lists", lists.iter().map(|list| list.id.as_str()));
    }

    fn tag(&mut self, pointer: String, tag: Option<&str>) {
        if tag.is_some_and(|tag| tag.chars().count() > TAG_CHARS_MAX) {
            self.error(pointer, format!("tag longer than {TAG_CHARS_MAX} characters"));
        }
    }

    /// Ids: 1 to 255 characters, no controls, unique.
    fn ids<'s>(&mut self, pointer: &str, ids: impl IntoIterator<Item = &'s str>) {
        let mut seen = HashSet::new();
        for (index, id) in ids.into_iter().enumerate() {
            let at = format!("{pointer}/{index}/id");
            if id.is_empty() || id.chars().count() > 255 || id.chars().any(char::is_control) {
                self.error(at, format!("id {id:?} must have 1 to 255 characters and no control characters"));
            } else if !seen.insert(id) {
                self.error(at, format!("duplicate \"{id}\""));
            }
        }
    }
}

/// Checks the startup file by itself.
pub fn startup(file: &str, startup: &Startup) -> Result<(), Vec<Error>> {
    let mut check = Check { file, errors: Vec::new() };
    check.version(&startup.version);
    check.ids("/servers", startup.servers.iter().map(|server| server.id.as_str()));
    for (index, server) in startup.servers.iter().enumerate() {
        check_listeners(&mut check, index, server);
        for (at, threads) in [("event", server.threads.event), ("script", server.threads.script)] {
            if threads == Some(0) {
                check.error(format!("/servers/{index}/threads/{at}"), "0 found, expected at least 1");
            }
        }
    }
    check.ids("/threads/scripts", startup.threads.scripts.iter().map(|pool| pool.id.as_str()));
    for (index, pool) in startup.threads.scripts.iter().enumerate() {
        if pool.size.is_some_and(|size| !(1..=512).contains(&size)) {
            check.error(format!("/threads/scripts/{index}/size"), "out of range, expected 1 to 512");
        }
        if pool.maxscripts == Some(0) {
            check.error(format!("/threads/scripts/{index}/maxscripts"), "0 found, expected at least 1");
        }
    }
    check.ids("/pki/private", startup.pki.private.iter().map(|key| key.id.as_str()));
    if !matches!(startup.environment.uuid.version, 1 | 4) {
        let found = startup.environment.uuid.version;
        check.error("/environment/uuid/version", format!("{found} found, expected 1 (time) or 4 (random)"));
    }
    let socket = &startup.environment.controlsocket;
    if socket.path.is_some() && socket.port.is_some() {
        check.error("/environment/controlsocket/port", "excludes 'path': give one of them");
    }
    let privdrop = &startup.environment.privdrop;
    if privdrop.group.is_some() && privdrop.user.is_none() {
        check.error("/environment/privdrop/group", "has no effect without 'user': give both");
    }
    let journal = &startup.spool.journal;
    if journal.segment.0 < 1 << 20 || journal.segment.0 > 1 << 32 {
        check.error("/spool/journal/segment", "out of range, expected 1MiB to 4GiB");
    }
    if journal.segments < 2 {
        check.error("/spool/journal/segments", "out of range, expected at least 2");
    }
    if journal.maxmessage.0 > journal.segment.0 / 4 {
        check.error("/spool/journal/maxmessage", "must not exceed a quarter of 'segment'");
    }
    for (at, threads) in [("load", startup.spool.threads.load), ("sync", startup.spool.threads.sync)] {
        if threads == 0 || threads > 1024 {
            check.error(format!("/spool/threads/{at}"), "out of range, expected 1 to 1024");
        }
    }
    finish(check)
}

fn check_listeners(check: &mut Check<'_>, index: usize, server: &startup::Server) {
    let http = server.kind != ServerKind::Smtp;
    let count = server.listeners.len();
    if count == 0 || (http && count > 1) {
        let expected = if http { "exactly one listener" } else { "at least one listener" };
        check.error(format!("/servers/{index}/listeners"), format!("{count} found, expected {expected}"));
    }
    let mut ids = HashSet::new();
    for (at, listener) in server.listeners.iter().enumerate() {
        let at = format!("/servers/{index}/listeners/{at}");
        match (&listener.path, listener.port) {
            (Some(_), Some(_)) => check.error(format!("{at}/path"), "excludes 'port': give one of them"),
            (None, None) => check.error(at.as_str(), "needs 'port' or 'path'"),
            (Some(_), None) if http => {
                check.error(format!("{at}/path"), "HTTP servers listen on ports only, expected 'port'");
            }
            _ => {}
        }
        let of_path = listener.owner.is_some() || listener.group.is_some() || listener.chmod.is_some();
        if listener.path.is_none() && of_path {
            check.error(at.as_str(), "'owner', 'group' and 'chmod' are for listeners with 'path'");
        }
        if listener.path.is_some() && listener.address.is_some() {
            check.error(format!("{at}/address"), "has no meaning with 'path'");
        }
        if let Some(id) = listener.id.as_deref().filter(|id| !ids.insert(*id)) {
            check.error(format!("{at}/id"), format!("duplicate \"{id}\""));
        }
    }
}

/// Checks the running file by itself. Unknown hooks, transports and addresses are errors.
pub fn app(file: &str, app: &App) -> Result<(), Vec<Error>> {
    let mut check = Check { file, errors: Vec::new() };
    check.version(&app.version);
    check.ids("/servers", app.servers.iter().map(|server| server.id.as_str()));
    check.ids("/transportgroups", app.transportgroups.iter().map(|group| group.id.as_str()));
    check.ids("/pki/private", app.pki.private.iter().map(|key| key.id.as_str()));
    check.ids("/addresses", app.addresses.iter().map(|address| address.id.as_str()));
    check.lists(&app.lists);
    check.ids("/scripting/files", app.scripting.files.iter().map(|file| file.id.as_str()));
    let mut transports = HashSet::new();
    for (group_index, group) in app.transportgroups.iter().enumerate() {
        check.ids(
            &format!("/transportgroups/{group_index}/transports"),
            group.transports.iter().map(|t| t.id.as_str()),
        );
        for (index, transport) in group.transports.iter().enumerate() {
            let own: bool = transports.insert(transport.id.as_str());
            let repeated_here = group.transports[..index].iter().any(|other| other.id == transport.id);
            if !own && !repeated_here {
                let at = format!("/transportgroups/{group_index}/transports/{index}/id");
                check.error(at, format!("duplicate \"{}\": transport ids share one namespace", transport.id));
            }
        }
    }
    let addresses: HashSet<&str> = app.addresses.iter().map(|address| address.id.as_str()).collect();
    for (group_index, group) in app.transportgroups.iter().enumerate() {
        let at = format!("/transportgroups/{group_index}");
        check_transport(
            &mut check,
            &at,
            &group.connection,
            &group.session,
            &group.retry,
            &group.dsn,
            &transports,
            &addresses,
        );
        for (index, t) in group.transports.iter().enumerate() {
            let at = format!("{at}/transports/{index}");
            check_transport(
                &mut check,
                &at,
                &t.connection,
                &t.session,
                &t.retry,
                &t.dsn,
                &transports,
                &addresses,
            );
        }
    }
    for (index, server) in app.servers.iter().enumerate() {
        check_server(&mut check, index, server, app, &transports);
    }
    for (index, address) in app.addresses.iter().enumerate() {
        if let Some(proxy) = &address.proxyprotocol {
            check_proxy(&mut check, &format!("/addresses/{index}/proxyprotocol"), proxy);
        }
    }
    for (index, grouping) in app.queues.grouping.groupings.iter().enumerate() {
        for (at, network) in grouping.remoteip.iter().enumerate() {
            if !is_network(network) {
                let pointer = format!("/queues/grouping/groupings/{index}/remoteip/{at}");
                check.error(pointer, format!("'{network}' found, expected an address or a network"));
            }
        }
    }
    if app.scripting.limits.depth == 0 {
        check.error("/scripting/limits/depth", "0 found, expected at least 1");
    }
    if app.resolver.dnssec == app::Dnssec::Validate {
        check.error(
            "/resolver/dnssec",
            "'validate' is not available, expected 'ad' (the AD bit of a trusted server) or 'off'",
        );
    }
    for (at, network) in app.resolver.dnssec_trust.iter().enumerate() {
        if !is_network(network) {
            let message = format!("'{network}' found, expected an address or a network");
            check.error(format!("/resolver/dnssec_trust/{at}"), message);
        }
    }
    if app.resolver.concurrency == 0 {
        check.error("/resolver/concurrency", "0 found, expected at least 1");
    }
    finish(check)
}

#[expect(clippy::too_many_arguments, reason = "the same four blocks stand in groups and in transports")]
fn check_transport(
    check: &mut Check<'_>,
    at: &str,
    connection: &app::Connection,
    session: &app::Session,
    retry: &app::Retry,
    dsn: &app::Dsn,
    transports: &HashSet<&str>,
    addresses: &HashSet<&str>,
) {
    for (index, id) in connection.sourceip.addresses.iter().flatten().enumerate() {
        if !addresses.contains(id.as_str()) {
            let message = format!("unknown address \"{id}\"{}", suggestion(id, addresses.iter().copied()));
            check.error(format!("{at}/connection/sourceip/addresses/{index}"), message);
        }
    }
    if let Some(transport) = dsn.transport.as_deref().filter(|id| !transports.contains(id)) {
        let message =
            format!("unknown transport \"{transport}\"{}", suggestion(transport, transports.iter().copied()));
        check.error(format!("{at}/dsn/transport"), message);
    }
    if retry.intervals.as_ref().is_some_and(Vec::is_empty) {
        check.error(format!("{at}/retry/intervals"), "must not be empty");
    }
    if let Some(proxy) = &connection.proxyprotocol {
        check_proxy(check, &format!("{at}/connection/proxyprotocol"), proxy);
    }
    let auth = &session.auth;
    if auth.password.is_some() && auth.username.as_deref().is_none_or(str::is_empty) {
        check.error(format!("{at}/session/auth/password"), "has no effect without 'username': give both");
    }
    for name in session.xclient.iter().flat_map(BTreeMap::keys) {
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            check.error(format!("{at}/session/xclient/{name}"), "expected a name of letters, digits and -");
        }
    }
    for state in session.timeout.keys() {
        if !CLIENT_STATES.contains(&state.as_str()) {
            let message = format!("unknown state \"{state}\"{}", suggestion(state, CLIENT_STATES));
            check.error(format!("{at}/session/timeout/{state}"), message);
        }
    }
}

fn check_proxy(check: &mut Check<'_>, at: &str, proxy: &app::ProxyProtocol) {
    if !matches!(proxy.version, 1 | 2) {
        check.error(format!("{at}/version"), format!("{} found, expected 1 or 2", proxy.version));
    }
    if proxy.server.is_empty() {
        check.error(format!("{at}/server"), "expected an address or a host name");
    }
}

fn check_server(
    check: &mut Check<'_>,
    index: usize,
    server: &app::Server,
    app: &App,
    transports: &HashSet<&str>,
) {
    if let Some(transport) = server.transport.as_deref().filter(|id| !transports.contains(id)) {
        let message =
            format!("unknown transport \"{transport}\"{}", suggestion(transport, transports.iter().copied()));
        check.error(format!("/servers/{index}/transport"), message);
    }
    for (phase, id, pointer) in hooks_of(server) {
        let scripts = scripts(app, phase);
        if !scripts.iter().any(|script| script.id == id) {
            let known = scripts.iter().map(|script| script.id.as_str());
            let message = format!("no script \"{id}\" in /scripting/hooks/{phase}{}", suggestion(id, known));
            check.error(format!("/servers/{index}/phases/{pointer}"), message);
        }
    }
    let phases = &server.phases;
    if phases.eod.hook.is_some() && phases.eodrcpt.hook.is_some() {
        check.error(
            format!("/servers/{index}/phases/eodrcpt/hook"),
            "excludes 'eod': a message is decided once, or once per recipient",
        );
    }
    for (at, name) in phases.auth.mechanisms.iter().enumerate() {
        let valid = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        if name.is_empty() || name.len() > 20 || !name.bytes().all(valid) {
            check.error(
                format!("/servers/{index}/phases/auth/mechanisms/{at}"),
                format!("\"{name}\" found, expected 1 to 20 of A-Z, 0-9, - and _"),
            );
        }
    }
    for (at, word) in phases.proxy.commands.iter().enumerate() {
        if word.is_empty() || word.contains([' ', '\t', '\r', '\n']) {
            check.error(
                format!("/servers/{index}/phases/proxy/commands/{at}"),
                format!("{word:?} found, expected one word"),
            );
        }
    }
    let tls = &server.tls;
    if tls.certs.is_empty() {
        let implicit = !matches!(&tls.implicit, app::Implicit::All(false));
        for (needs, key) in [(tls.required, "required"), (implicit, "implicit")] {
            if needs {
                check.error(format!("/servers/{index}/tls/{key}"), "needs a certificate in 'certs'");
            }
        }
        if server.kind == ServerKind::Https {
            check.error(format!("/servers/{index}/tls/certs"), "HTTPS needs a certificate");
        }
    }
    if !server.http.path.starts_with('/') {
        check.error(format!("/servers/{index}/http/path"), "expected a path that starts with '/'");
    }
    if server.phases.rcptto.maxrecipients == 0 {
        check.error(format!("/servers/{index}/phases/rcptto/maxrecipients"), "0 found, expected at least 1");
    }
}

/// All hooks that a server names: phase, script id and the key path below `phases`.
pub fn hooks_of(server: &app::Server) -> Vec<(&'static str, &str, String)> {
    let phases = &server.phases;
    let mut hooks: Vec<(&'static str, &str, String)> = Vec::new();
    let single = [
        ("connect", &phases.connect.hook),
        ("proxy", &phases.proxy.hook),
        ("helo", &phases.helo.hook),
        ("auth", &phases.auth.hook),
        ("mailfrom", &phases.mailfrom.hook),
        ("eod", &phases.eod.hook),
        ("eodrcpt", &phases.eodrcpt.hook),
        ("disconnect", &phases.disconnect.hook),
    ];
    for (phase, hook) in single {
        if let Some(id) = hook {
            hooks.push((phase, id, format!("{phase}/hook")));
        }
    }
    match &phases.rcptto.hook {
        None => {}
        Some(RcptToHook::One(id)) => hooks.push(("rcptto", id, "rcptto/hook".to_owned())),
        Some(RcptToHook::ByDomain { id, recipientdomains }) => {
            hooks.push(("rcptto", id, "rcptto/hook/id".to_owned()));
            for (domain, id) in recipientdomains {
                hooks.push(("rcptto", id, format!("rcptto/hook/recipientdomains/{domain}")));
            }
        }
    }
    hooks
}

/// The scripts of a phase.
pub fn scripts<'a>(app: &'a App, phase: &str) -> &'a [app::Script] {
    let hooks = &app.scripting.hooks;
    match phase {
        "connect" => &hooks.connect,
        "proxy" => &hooks.proxy,
        "helo" => &hooks.helo,
        "auth" => &hooks.auth,
        "mailfrom" => &hooks.mailfrom,
        "rcptto" => &hooks.rcptto,
        "eod" => &hooks.eod,
        "eodrcpt" => &hooks.eodrcpt,
        "disconnect" => &hooks.disconnect,
        _ => &[],
    }
}

/// Checks a policy file.
pub fn policy(file: &str, policy: &Policy) -> Result<(), Vec<Error>> {
    let mut check = Check { file, errors: Vec::new() };
    check.version(&policy.version);
    check.lists(&policy.lists);
    for (index, counter) in policy.policies.iter().enumerate() {
        for (at, item) in counter.fields.iter().enumerate() {
            let pointer = format!("/policies/{index}/fields/{at}");
            if counter.fields[..at].iter().any(|earlier| earlier.field == item.field) {
                check.error(&pointer, format!("'{}' is named twice", item.field.name()));
            }
            for (group, _) in
                item.groups.iter().filter(|(group, _)| group.is_empty() || group.starts_with('#'))
            {
                check.error(&pointer, format!("group name \"{group}\": expected a name without '#'"));
            }
        }
        for (at, condition) in counter.conditions.iter().enumerate() {
            let named = |field: &Field| counter.fields.iter().any(|item| item.field == *field);
            for field in condition.when.keys().filter(|field| !named(field)) {
                let pointer = format!("/policies/{index}/conditions/{at}/if/{}", field.name());
                check.error(pointer, "is not among the 'fields' of this counter");
            }
        }
        let thens = counter.conditions.iter().map(|condition| &condition.then).chain(&counter.default);
        for then in thens {
            check.tag(format!("/policies/{index}"), then.tag.as_deref());
        }
    }
    finish(check)
}

/// Checks a suspend file.
pub fn suspend(file: &str, suspend: &Suspend) -> Result<(), Vec<Error>> {
    let mut check = Check { file, errors: Vec::new() };
    check.version(&suspend.version);
    check.lists(&suspend.lists);
    check.ids("/suspends", suspend.suspends.iter().filter_map(|item| item.id.as_deref()));
    for (index, item) in suspend.suspends.iter().enumerate() {
        check.tag(format!("/suspends/{index}/tag"), item.tag.as_deref());
    }
    finish(check)
}

/// Checks a delivery file.
pub fn delivery(file: &str, delivery: &DeliveryFile) -> Result<(), Vec<Error>> {
    let mut check = Check { file, errors: Vec::new() };
    check.version(&delivery.version);
    check.lists(&delivery.lists);
    let conditions = delivery.delivery.conditions.iter().enumerate();
    let settings = conditions
        .map(|(index, condition)| (format!("/delivery/conditions/{index}/then"), &condition.then))
        .chain([("/delivery/default".to_owned(), &delivery.delivery.default)]);
    for (pointer, settings) in settings {
        for state in settings.timeout.smtp.keys().filter(|state| !CLIENT_STATES.contains(&state.as_str())) {
            let message = format!("unknown state \"{state}\"{}", suggestion(state, CLIENT_STATES));
            check.error(format!("{pointer}/timeout/smtp/{state}"), message);
        }
        if settings.retry.intervals.as_ref().is_some_and(Vec::is_empty) {
            check.error(format!("{pointer}/retry/intervals"), "expected at least one interval");
        }
        if let Some(tls) = &settings.tls {
            use app::TlsMode::{Disabled, Optional, OptionalVerify, Require, RequireVerify};
            if tls.mode.is_some_and(|mode| {
                !matches!(mode, Disabled | Optional | OptionalVerify | Require | RequireVerify)
            }) {
                let message = "DANE is asked for before the next hop is known; expected disabled, optional, \
                               optional_verify, require or require_verify";
                check.error(format!("{pointer}/tls/mode"), message);
            }
            for (key, given) in
                [("implicit", tls.implicit.is_some()), ("clientcert", tls.clientcert.is_some())]
            {
                if given {
                    check.error(format!("{pointer}/tls/{key}"), "is a key of transports only");
                }
            }
        }
    }
    finish(check)
}

/// States of the client with a patience of their own.
const CLIENT_STATES: [&str; 18] = [
    "BANNER",
    "EHLO",
    "HELO",
    "LHLO",
    "STARTTLS",
    "XCLIENT",
    "AUTH",
    "AUTH-CRAM-MD5",
    "AUTH-PLAIN",
    "AUTH-LOGIN",
    "AUTH-LOGIN-USER",
    "MAIL",
    "RCPT",
    "DATA",
    "BDAT",
    "EOD",
    "RSET",
    "QUIT",
];

/// What does not fit between the startup and the running file; none of it stops a reload.
pub fn pair(startup: &Startup, app: &App) -> Vec<String> {
    let listening: BTreeMap<&str, ()> =
        startup.servers.iter().map(|server| (server.id.as_str(), ())).collect();
    let running: HashSet<&str> = app.servers.iter().map(|server| server.id.as_str()).collect();
    let mut warnings = Vec::new();
    for server in &app.servers {
        if !listening.contains_key(server.id.as_str()) {
            warnings.push(format!("server \"{}\" has no listener in the startup configuration", server.id));
        }
    }
    for server in &startup.servers {
        let Some(running) = app.servers.iter().find(|running| running.id == server.id) else { continue };
        if running.kind != server.kind {
            warnings.push(format!(
                "server \"{}\" has another type in the running configuration and refuses connections",
                server.id
            ));
        }
        let known: Vec<&str> =
            server.listeners.iter().filter_map(|listener| listener.id.as_deref()).collect();
        if let app::Implicit::Ids(ids) = &running.tls.implicit {
            for id in ids.iter().filter(|id| !known.contains(&id.as_str())) {
                let near = suggestion(id, known.iter().copied());
                warnings.push(format!(
                    "server \"{}\" has no listener \"{id}\" for tls.implicit{near}",
                    server.id
                ));
            }
        }
    }
    for id in listening.keys().filter(|id| !running.contains(**id)) {
        warnings.push(format!("server \"{id}\" is not in the running configuration and refuses connections"));
    }
    warnings
}

fn finish(check: Check<'_>) -> Result<(), Vec<Error>> {
    if check.errors.is_empty() { Ok(()) } else { Err(check.errors) }
}

fn is_network(text: &str) -> bool {
    let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
    match address.parse::<std::net::IpAddr>() {
        Err(_) => false,
        Ok(_) if prefix.is_empty() => !text.ends_with('/'),
        Ok(address) => {
            prefix.parse::<u8>().is_ok_and(|bits| bits <= if address.is_ipv4() { 32 } else { 128 })
        }
    }
}

/// `, did you mean "x"?` for the nearest of the known names, when one is near.
pub fn suggestion<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let near = known
        .into_iter()
        .map(|name| (distance(found, name), name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min();
    near.map(|(_, name)| format!(", did you mean \"{name}\"?")).unwrap_or_default()
}

/// Levenshtein distance over bytes; names are short.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}
