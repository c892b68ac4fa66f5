//! The array that names a server for `send()` and the SMTP lookups (library section 11): its keys, read and checked.

use super::object::hostname;
use crate::environment::Environment;
use crate::network::tls::TlsOptions;
use crate::support::flag;
use crate::tls_options;
use hsl::{Array, Error, OptionDef, Value, option};
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// Keys of a server array.
pub(super) const SERVER: &[OptionDef] = &[
    option(
        "host",
        "string",
        "lookup-mx",
        "Address or host name; the MX of the recipient's domain without it.",
    ),
    option("port", "number", "25", "TCP port."),
    option("helo", "string", "name of the host", "Name in EHLO."),
    option("sourceip", "string or array", "that of the system", "Source address, or one per family."),
    option("sourceipid", "string or array", "", "Ids of configured addresses."),
    option("nonlocal_source", "boolean", "false", "The source need not be an address of this host."),
    option("saslusername", "string", "", "Logs in before MAIL."),
    option("saslpassword", "string", "", "Its password."),
    option(
        "tls",
        "string",
        "disabled",
        "`disabled`, `optional`, `optional_verify`, `require` or `require_verify`.",
    ),
    option("tls_implicit", "boolean", "false", "TLS from the start of the connection."),
    option(
        "tls_sni",
        "string or boolean",
        "false",
        "Name that the server is told; true is that of the host.",
    ),
    tls_options::PROTOCOLS,
    tls_options::CIPHERS,
    option("tls_verify_host", "boolean", "false", "The certificate must carry the name of the host."),
    tls_options::VERIFY_NAME,
    tls_options::DEFAULT_CA,
    tls_options::CLIENT_CERT,
    option("tls_capture_peer_cert", "boolean", "false", "Gives the certificate in the result."),
    option("xclient", "array", "", "Attributes to send with XCLIENT."),
    option("protocol", "string", "smtp", "`smtp` or `lmtp`."),
    option("mx_include", "array", "", "Only MX hosts of these names; `*` stands for one label."),
    option("mx_exclude", "array", "", "No MX hosts of these names."),
    option("timeout", "array", "those of RFC 5321", "SMTP state to seconds."),
    option("connect_timeout", "number", "30", "Seconds to connect."),
];

/// Default patience (RFC 5321 4.5.3.2), seconds.
fn default_timeout_s(state: &str) -> f64 {
    match state {
        "DATA" => 120.0,
        "EOD" => 600.0,
        "QUIT" => 10.0,
        _ => 300.0,
    }
}

/// Longest patience that still means something, seconds.
const TIMEOUT_MAX_S: f64 = 86_400.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TlsMode {
    Disabled,
    Optional { verify: bool },
    Require { verify: bool },
}

/// Where to connect and how, as a script says it.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) host: Option<String>,
    pub(super) port: u16,
    pub(super) helo: String,
    pub(super) sources: Vec<IpAddr>,
    pub(super) nonlocal_source: bool,
    pub(super) login: Option<(String, String)>,
    pub(super) tls: TlsMode,
    pub(super) implicit: bool,
    pub(super) sni: Option<Option<String>>,
    pub(super) options: TlsOptions,
    pub(super) verify_host: bool,
    pub(super) verify_names: Vec<String>,
    pub(super) capture: bool,
    pub(super) xclient: Vec<(String, String)>,
    pub(super) lmtp: bool,
    pub(super) include: Vec<String>,
    pub(super) exclude: Vec<String>,
    pub(super) timeouts: HashMap<String, Duration>,
    pub(super) connect_timeout: Duration,
}

fn seconds(value: &Value, key: &str) -> Result<Duration, Error> {
    let number = value.to_number();
    if number > 0.0 {
        Ok(Duration::from_secs_f64(number.min(TIMEOUT_MAX_S)))
    } else {
        Err(Error::exception(format!("Option '{key}' is {number}, expected seconds above 0")))
    }
}

fn strings(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::Array(list)) => list.values().map(Value::to_string_lossy).collect(),
        Some(value) if !value.is_none() => vec![value.to_string_lossy()],
        _ => Vec::new(),
    }
}

impl Server {
    /// Reads a server array.
    pub(super) fn read(array: &Array, environment: &Environment) -> Result<Server, Error> {
        let text =
            |key: &str| array.get_str(key).filter(|value| !value.is_none()).map(Value::to_string_lossy);
        let wrong = |key: &str, found: &str, expected: &str| {
            Err(Error::exception(format!("Option '{key}' is '{found}', expected {expected}")))
        };
        let port = array.get_str("port").map_or(25.0, Value::to_number);
        if !(1.0..=65535.0).contains(&port) {
            return wrong("port", &port.to_string(), "1 to 65535");
        }
        let tls = match text("tls").as_deref().unwrap_or("disabled") {
            "disabled" => TlsMode::Disabled,
            "optional" => TlsMode::Optional { verify: false },
            "optional_verify" => TlsMode::Optional { verify: true },
            "require" => TlsMode::Require { verify: false },
            "require_verify" => TlsMode::Require { verify: true },
            other if other.starts_with("dane") => {
                return Err(Error::exception(format!("Option 'tls': '{other}' is not available here")));
            }
            other => {
                return wrong("tls", other, "disabled, optional, optional_verify, require or require_verify");
            }
        };
        let mut sources = Vec::new();
        for id in strings(array.get_str("sourceipid")) {
            match environment.addresses.get(&id) {
                Some(list) => sources.extend(list.iter().copied()),
                None => return wrong("sourceipid", &id, "the id of a configured address"),
            }
        }
        for source in strings(array.get_str("sourceip")) {
            match source.parse() {
                Ok(address) => sources.push(address),
                Err(_) => return wrong("sourceip", &source, "an address"),
            }
        }
        let lmtp = match text("protocol").as_deref() {
            None | Some("smtp") => false,
            Some("lmtp") => true,
            Some(other) => return wrong("protocol", other, "smtp or lmtp"),
        };
        let mut timeouts = HashMap::new();
        if let Some(Value::Array(list)) = array.get_str("timeout") {
            for (state, value) in list.iter() {
                let state = state.to_value().to_string_lossy().to_ascii_uppercase();
                timeouts.insert(state, seconds(value, "timeout")?);
            }
        }
        let mut xclient = Vec::new();
        if let Some(Value::Array(list)) = array.get_str("xclient") {
            let pair = |(key, value): (&hsl::Key, &Value)| {
                (key.to_value().to_string_lossy(), value.to_string_lossy())
            };
            xclient.extend(list.iter().map(|(key, value)| pair((&key, value))));
        }
        Ok(Server {
            host: text("host").filter(|host| !host.is_empty()),
            // In range, as checked above.
            port: port as u16,
            helo: text("helo").unwrap_or_else(|| hostname(environment)),
            sources,
            nonlocal_source: flag(array, "nonlocal_source", false),
            login: text("saslusername").map(|user| (user, text("saslpassword").unwrap_or_default())),
            tls,
            implicit: flag(array, "tls_implicit", false),
            sni: match array.get_str("tls_sni") {
                None | Some(Value::None | Value::Bool(false)) => None,
                Some(Value::Bool(true)) => Some(None),
                Some(name) => Some(Some(name.to_string_lossy())),
            },
            options: TlsOptions::read(array, "tls_verify_ca", false, environment)?,
            verify_host: flag(array, "tls_verify_host", false),
            verify_names: strings(array.get_str("tls_verify_name")),
            capture: flag(array, "tls_capture_peer_cert", false),
            xclient,
            lmtp,
            include: strings(array.get_str("mx_include")),
            exclude: strings(array.get_str("mx_exclude")),
            timeouts,
            connect_timeout: match array.get_str("connect_timeout").filter(|value| !value.is_none()) {
                Some(value) => seconds(value, "connect_timeout")?,
                None => Duration::from_secs(30),
            },
        })
    }

    /// The account of `smtp_lookup_auth`.
    pub(super) fn log_in_as(&mut self, user: String, password: String) {
        self.login = Some((user, password));
    }

    pub(super) fn timeout(&self, state: &str) -> Duration {
        let known = self.timeouts.get(state).copied();
        known.unwrap_or_else(|| Duration::from_secs_f64(default_timeout_s(state)))
    }

    pub(super) fn admits(&self, host: &str) -> bool {
        let matches = |patterns: &[String]| patterns.iter().any(|pattern| matches_host(pattern, host));
        (self.include.is_empty() || matches(&self.include)) && !matches(&self.exclude)
    }
}

/// Whether a pattern in which `*` stands for one whole label is the name.
fn matches_host(pattern: &str, host: &str) -> bool {
    let (pattern, host): (Vec<&str>, Vec<&str>) = (pattern.split('.').collect(), host.split('.').collect());
    pattern.len() == host.len()
        && pattern.iter().zip(&host).all(|(p, h)| *p == "*" || p.eq_ignore_ascii_case(h))
}
