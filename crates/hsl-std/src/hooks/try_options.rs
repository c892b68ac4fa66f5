//! Options of `Try`: everything about one attempt that a script may change.

use super::delivery_options::DsnOptions;
use super::options::{Reader, expected};
use hsl::{Array, Error, Key, Value};
use mail::Address;
use net::tls::{Mode, Sni};
use std::net::IpAddr;

/// A source address that a script chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceOption {
    /// Which.
    pub which: SourceName,
    /// EHLO name from there.
    pub helo: Option<String>,
}

/// How a script names a source address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceName {
    /// Id of `addresses[]`.
    Id(String),
    /// The address itself.
    Address(IpAddr),
}

/// Keywords and values for MAIL or RCPT.
pub type Parameters = Vec<(String, String)>;

/// What `Try` says about TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// `tls`
    pub mode: Option<Mode>,
    /// `tls_implicit`
    pub implicit: Option<bool>,
    /// `tls_sni`
    pub sni: Option<Sni>,
    /// `tls_protocols`
    pub protocols: Option<String>,
    /// `tls_ciphers`
    pub ciphers: Option<String>,
    /// `tls_verify_host`
    pub verify_host: Option<bool>,
    /// `tls_verify_name`
    pub verify_names: Option<Vec<String>>,
    /// `tls_default_ca`
    pub default_ca: Option<bool>,
    /// `tls_client_cert`
    pub client_cert: Option<String>,
}

/// What `Try` says about keeping the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PoolingOptions {
    /// Keep it.
    pub enabled: Option<bool>,
    /// Idle seconds.
    pub timeout_s: Option<f64>,
    /// It may be closed to make room.
    pub evictable: Option<bool>,
    /// Transactions, 0 = no limit.
    pub transactions: Option<u32>,
}

/// Options of `Try`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TryOptions {
    /// Next hops in order; empty = the transport's.
    pub hosts: Vec<String>,
    /// TCP port.
    pub port: Option<u16>,
    /// Envelope sender.
    pub sender: Option<Address>,
    /// Parameters of MAIL.
    pub mail_parameters: Parameters,
    /// Envelope recipient.
    pub recipient: Option<Address>,
    /// Parameters of RCPT.
    pub rcpt_parameters: Parameters,
    /// EHLO name.
    pub helo: Option<String>,
    /// Source addresses.
    pub sources: Option<Vec<SourceOption>>,
    /// Random order of sources.
    pub source_random: Option<bool>,
    /// Bind addresses that are not of this host.
    pub nonlocal_source: Option<bool>,
    /// Proxy to go through: server, port and version of the header.
    pub proxy: Option<(String, u16, u8)>,
    /// Account to log in with.
    pub sasl: Option<(String, String)>,
    /// TLS.
    pub tls: TlsOptions,
    /// Attributes for XCLIENT.
    pub xclient: Option<Parameters>,
    /// `smtp` or `lmtp`.
    pub protocol: Option<String>,
    /// Only MX hosts of these names.
    pub mx_include: Option<Vec<String>>,
    /// No MX hosts of these names.
    pub mx_exclude: Option<Vec<String>>,
    /// Only these addresses and networks.
    pub ip_include: Option<Vec<String>>,
    /// None of these addresses and networks.
    pub ip_exclude: Option<Vec<String>>,
    /// Use PIPELINING.
    pub pipelining: Option<bool>,
    /// Use BDAT.
    pub chunking: Option<bool>,
    /// Whether the connection is kept.
    pub pooling: PoolingOptions,
    /// Seconds to connect.
    pub connect_timeout_s: Option<f64>,
    /// Seconds per client state.
    pub timeouts_s: Vec<(String, f64)>,
    /// Queue field of this attempt.
    pub job_id: Option<String>,
    /// Queue field of this attempt.
    pub tenant_id: Option<String>,
    /// RFC 3461 parameters of this attempt.
    pub dsn: Option<DsnOptions>,
    /// The report of success is "delivered" instead of "relayed", or the other way round.
    pub success_is_delivered: Option<bool>,
    /// `retry.count`.
    pub retry_count: Option<u32>,
    /// `retry.intervals`, seconds.
    pub retry_intervals_s: Option<Vec<f64>>,
    /// Options that are not known; they have no effect and are logged.
    pub unknown: Vec<String>,
}

const TRY_OPTIONS: [&str; 36] = [
    "proxyprotocol",
    "host",
    "port",
    "sender",
    "recipient",
    "helo",
    "sourceip",
    "sourceip_random",
    "nonlocal_source",
    "saslusername",
    "saslpassword",
    "tls",
    "tls_implicit",
    "tls_sni",
    "tls_protocols",
    "tls_ciphers",
    "tls_verify_host",
    "tls_verify_name",
    "tls_default_ca",
    "tls_client_cert",
    // The certificate is always kept for the result.
    "tls_capture_peer_cert",
    "xclient",
    "protocol",
    "mx_include",
    "mx_exclude",
    "ip_include",
    "ip_exclude",
    "pipelining",
    "chunking",
    "pooling",
    "connect_timeout",
    "timeout",
    "jobid",
    "tenantid",
    "dsn",
    "retry",
];

impl TryOptions {
    /// Reads the option array; none and an empty array give none.
    pub fn read(value: &Value) -> Result<Option<TryOptions>, Error> {
        let reader = Reader::new(value)?;
        let Some(array) = reader.array.filter(|array| !array.is_empty()) else { return Ok(None) };
        let mut read = TryOptions {
            hosts: reader.strings("host")?.unwrap_or_default(),
            port: reader.integer("port", 1.0, 65_535.0)?.map(|port| port as u16),
            sender: reader.address("sender")?,
            mail_parameters: envelope_parameters(&reader, "sender")?,
            recipient: reader.address("recipient")?,
            rcpt_parameters: envelope_parameters(&reader, "recipient")?,
            helo: reader.text("helo")?,
            sources: read_sources(&reader)?,
            source_random: reader.flag("sourceip_random")?,
            nonlocal_source: reader.flag("nonlocal_source")?,
            proxy: read_proxy(&reader)?,
            sasl: read_account(&reader)?,
            tls: TlsOptions::read(&reader)?,
            xclient: reader.nested("xclient")?.map(|pairs| parameters(&pairs, "xclient")).transpose()?,
            protocol: reader.text("protocol")?,
            mx_include: reader.strings("mx_include")?,
            mx_exclude: reader.strings("mx_exclude")?,
            ip_include: networks(&reader, "ip_include")?,
            ip_exclude: networks(&reader, "ip_exclude")?,
            pipelining: reader.flag("pipelining")?,
            chunking: reader.flag("chunking")?,
            connect_timeout_s: reader.number("connect_timeout")?,
            job_id: reader.text("jobid")?,
            tenant_id: reader.text("tenantid")?,
            dsn: reader.nested("dsn")?.map(|dsn| DsnOptions::read(&dsn)).transpose()?,
            ..TryOptions::default()
        };
        if let Some(dsn) = reader.nested("dsn")? {
            read.success_is_delivered = match dsn.text("success")?.as_deref() {
                None => None,
                Some("delivered") => Some(true),
                Some("relayed") => Some(false),
                Some(other) => return Err(wrong("success", other, "relayed or delivered")),
            };
            // With nothing but `success` the parameters of the message stay.
            if read.dsn == Some(DsnOptions::default()) {
                read.dsn = None;
            }
        }
        if let Some(protocol) = &read.protocol
            && !["smtp", "lmtp"].contains(&protocol.as_str())
        {
            return Err(wrong("protocol", protocol, "smtp or lmtp"));
        }
        if let Some(pooling) = reader.nested("pooling")? {
            read.pooling = PoolingOptions {
                enabled: pooling.flag("enabled")?,
                timeout_s: pooling.number("timeout")?.map(|seconds| seconds.max(0.0)),
                evictable: pooling.flag("evictable")?,
                transactions: pooling.integer("transactions", 0.0, 1e9)?.map(|count| count as u32),
            };
        }
        if let Some(timeouts) = reader.nested("timeout")?.and_then(|reader| reader.array) {
            for (state, seconds) in timeouts.iter() {
                read.timeouts_s.push((state.to_value().to_string_lossy(), seconds.to_number().max(0.0)));
            }
        }
        if let Some(retry) = reader.nested("retry")? {
            read.retry_count = retry.integer("count", 0.0, 1e9)?.map(|count| count as u32);
            read.retry_intervals_s = match retry.get("intervals") {
                None => None,
                Some(Value::Array(list)) => {
                    Some(list.values().map(|item| item.to_number().max(0.0)).collect())
                }
                Some(other) => return Err(expected("intervals", "array of numbers", other)),
            };
        }
        read.unknown = unknown(array, &TRY_OPTIONS);
        Ok(Some(read))
    }
}

impl TlsOptions {
    fn read(reader: &Reader<'_>) -> Result<TlsOptions, Error> {
        let mode = match reader.text("tls")? {
            None => None,
            Some(name) => Some(Mode::from_name(&name).ok_or_else(|| {
                let names: Vec<&str> = Mode::ALL.iter().map(|(name, _)| *name).collect();
                wrong("tls", &name, &names.join(", "))
            })?),
        };
        Ok(TlsOptions {
            mode,
            implicit: reader.flag("tls_implicit")?,
            sni: match reader.get("tls_sni") {
                None => None,
                Some(Value::Bool(false)) => Some(Sni::None),
                Some(Value::Bool(true)) => Some(Sni::Host),
                Some(name @ Value::Str(_)) => Some(Sni::Name(name.to_string_lossy())),
                Some(other) => return Err(expected("tls_sni", "string or boolean", other)),
            },
            protocols: reader.text("tls_protocols")?,
            ciphers: reader.text("tls_ciphers")?,
            verify_host: reader.flag("tls_verify_host")?,
            verify_names: reader.strings("tls_verify_name")?,
            default_ca: reader.flag("tls_default_ca")?,
            client_cert: reader.text("tls_client_cert")?,
        })
    }
}

fn wrong(key: &str, found: &str, expected: &str) -> Error {
    Error::exception(format!("Option '{key}' is '{found}', expected {expected}"))
}

fn read_proxy(reader: &Reader<'_>) -> Result<Option<(String, u16, u8)>, Error> {
    let Some(proxy) = reader.nested("proxyprotocol")? else { return Ok(None) };
    let needs = |key: &str| Error::exception(format!("Option 'proxyprotocol' needs '{key}'"));
    let server = proxy.text("server")?.ok_or_else(|| needs("server"))?;
    let port = proxy.integer("port", 1.0, 65_535.0)?.ok_or_else(|| needs("port"))?;
    let version = proxy.integer("version", 1.0, 2.0)?.unwrap_or(2);
    // In range, as checked above.
    Ok(Some((server, port as u16, version as u8)))
}

fn read_account(reader: &Reader<'_>) -> Result<Option<(String, String)>, Error> {
    let password = reader.text("saslpassword")?;
    Ok(reader.text("saslusername")?.map(|username| (username, password.unwrap_or_default())))
}

/// `params` of an address given as array.
fn envelope_parameters(reader: &Reader<'_>, key: &str) -> Result<Parameters, Error> {
    match reader.get(key) {
        Some(Value::Array(address)) => {
            let params = Reader { array: Some(address) }.nested("params")?;
            params.map_or(Ok(Vec::new()), |pairs| parameters(&pairs, "params"))
        }
        _ => Ok(Vec::new()),
    }
}

/// Names and values that stand in a command.
fn parameters(pairs: &Reader<'_>, key: &str) -> Result<Parameters, Error> {
    let mut read = Vec::new();
    for (name, value) in pairs.array.iter().flat_map(|array| array.iter()) {
        let (name, value) = (name.to_value().to_string_lossy(), value.to_string_lossy());
        let is_word = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        // Values of XCLIENT are encoded on the way out.
        if name.is_empty() || !is_word(&name) || (key == "params" && !is_word(&value)) {
            return Err(Error::exception(format!("Option '{key}': '{name}' cannot be sent")));
        }
        read.push((name, value));
    }
    Ok(read)
}

fn networks(reader: &Reader<'_>, key: &str) -> Result<Option<Vec<String>>, Error> {
    let list = reader.strings(key)?;
    for item in list.iter().flatten() {
        let (address, bits) = item.split_once('/').unwrap_or((item, "0"));
        let bits_max = match address.parse::<IpAddr>() {
            Ok(address) if address.is_ipv4() => 32,
            Ok(_) => 128,
            Err(_) => return Err(wrong(key, item, "an address or a network")),
        };
        if !bits.parse::<u8>().is_ok_and(|bits| bits <= bits_max) {
            return Err(wrong(key, item, "an address or a network"));
        }
    }
    Ok(list)
}

fn read_sources(reader: &Reader<'_>) -> Result<Option<Vec<SourceOption>>, Error> {
    let Some(value) = reader.get("sourceip") else { return Ok(None) };
    let Value::Array(list) = value else { return Err(expected("sourceip", "array", value)) };
    let source = |item: &Value| match item {
        Value::Str(_) => Ok(SourceOption { which: SourceName::Id(item.to_string_lossy()), helo: None }),
        Value::Array(source) => {
            let source = Reader { array: Some(source) };
            let which = match (source.text("id")?, source.text("address")?) {
                (Some(id), _) => SourceName::Id(id),
                (None, Some(address)) => match address.parse() {
                    Ok(address) => SourceName::Address(address),
                    Err(_) => return Err(wrong("address", &address, "an address")),
                },
                (None, None) => {
                    return Err(Error::exception("Option 'sourceip' expects items with 'id' or 'address'"));
                }
            };
            Ok(SourceOption { which, helo: source.text("helo")? })
        }
        other => Err(expected("sourceip", "array of strings or arrays", other)),
    };
    list.values().map(source).collect::<Result<Vec<_>, _>>().map(Some)
}

fn unknown(array: &Array, known: &[&str]) -> Vec<String> {
    let names = array.iter().map(|(key, _): (Key, &Value)| key.to_value().to_string_lossy());
    names.filter(|name| !known.contains(&name.as_str())).collect()
}
