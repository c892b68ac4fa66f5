//! The options of terminating functions, read from script arrays with errors that name option, expected and
//! found type.

use super::Hook;
use hsl::{Array, Error, Key, Value};
use mail::Address;

/// Metadata of an entry: key and value.
pub type Metadata = Vec<(String, Vec<u8>)>;

/// Class, subject and detail of an enhanced status code.
pub type EnhancedCode = (u16, u16, u16);

/// Accepted, refused for good or for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the functions of the scripts")]
pub enum Verdict {
    Accept,
    Reject,
    Defer,
}

/// Reads typed options out of one array.
struct Reader<'a> {
    array: Option<&'a Array>,
}

impl<'a> Reader<'a> {
    fn new(value: &'a Value) -> Result<Reader<'a>, Error> {
        match value {
            Value::Array(array) => Ok(Reader { array: Some(array) }),
            value if value.is_none() => Ok(Reader { array: None }),
            other => Err(expected("options", "array", other)),
        }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.array?.get_str(key).filter(|value| !value.is_none())
    }

    fn text(&self, key: &str) -> Result<Option<String>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(value @ Value::Str(_)) => Ok(Some(value.to_string_lossy())),
            Some(other) => Err(expected(key, "string", other)),
        }
    }

    fn number(&self, key: &str) -> Result<Option<f64>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Number(number)) if number.is_finite() => Ok(Some(*number)),
            Some(other) => Err(expected(key, "finite number", other)),
        }
    }

    fn integer(&self, key: &str, min: f64, max: f64) -> Result<Option<u64>, Error> {
        match self.number(key)? {
            Some(number) if !(min..=max).contains(&number) => {
                Err(Error::exception(format!("Option '{key}' is {number}, expected {min} to {max}")))
            }
            number => Ok(number.map(|number| number as u64)),
        }
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(expected(key, "boolean", other)),
        }
    }

    fn strings(&self, key: &str) -> Result<Option<Vec<String>>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(value @ Value::Str(_)) => Ok(Some(vec![value.to_string_lossy()])),
            Some(Value::Array(list)) => list
                .values()
                .map(|item| match item {
                    Value::Str(_) => Ok(item.to_string_lossy()),
                    other => Err(expected(key, "array of strings", other)),
                })
                .collect::<Result<Vec<_>, _>>()
                .map(Some),
            Some(other) => Err(expected(key, "string or array", other)),
        }
    }

    fn address(&self, key: &str) -> Result<Option<Address>, Error> {
        self.get(key).map(|value| read_address(key, value)).transpose()
    }

    fn metadata(&self, key: &str) -> Result<Option<Metadata>, Error> {
        self.get(key).map(|value| read_metadata(key, value)).transpose()
    }

    fn nested(&self, key: &str) -> Result<Option<Reader<'a>>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(array)) => Ok(Some(Reader { array: Some(array) })),
            Some(other) => Err(expected(key, "array", other)),
        }
    }
}

fn expected(key: &str, wanted: &str, found: &Value) -> Error {
    Error::exception(format!("Option '{key}' expects {wanted}, {} given", found.type_name()))
}

/// An address given as string or as array with `localpart` and `domain` (`smtp-hooks` 4.5).
pub fn read_address(key: &str, value: &Value) -> Result<Address, Error> {
    let result = match value {
        Value::Str(text) => Address::parse(&text.to_text()),
        Value::Array(array) => {
            let part = |name: &str| array.get_str(name).map(Value::to_string_lossy).unwrap_or_default();
            Address::new(&part("localpart"), &part("domain"))
        }
        other => return Err(expected(key, "string or array", other)),
    };
    result.map_err(|error| Error::exception(format!("Option '{key}' is no address: {error}")))
}

/// Metadata: an array with string keys and string values.
pub fn read_metadata(key: &str, value: &Value) -> Result<Metadata, Error> {
    let Value::Array(array) = value else { return Err(expected(key, "array", value)) };
    array
        .iter()
        .map(|(name, value)| match value {
            Value::Str(text) => Ok((name.to_value().to_string_lossy(), text.as_bytes().to_vec())),
            other => Err(expected(key, "array of strings", other)),
        })
        .collect()
}

/// Options of `Accept`, `Reject` and `Defer`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplyOptions {
    /// Lines of text; empty = the default.
    pub reason: Vec<Vec<u8>>,
    /// Replaces the default code.
    pub code: Option<u16>,
    /// Replaces the default enhanced code; `Some(None)` suppresses it.
    pub enhanced: Option<Option<EnhancedCode>>,
    /// Close after the reply.
    pub disconnect: bool,
    /// `sender` of mailfrom, `recipient` of rcptto.
    pub address: Option<Address>,
    /// `transportid` of rcptto.
    pub transport: Option<String>,
    /// `extensions` of helo.
    pub extensions: Option<Vec<String>>,
    /// `host` of helo.
    pub host: Option<String>,
    /// `remoteip` of connect.
    pub remote_ip: Option<String>,
    /// `remoteptr` of connect.
    pub remote_ptr: Option<String>,
    /// `priority` of connect.
    pub priority: Option<f64>,
}

impl ReplyOptions {
    /// Reads reason and options; a code whose class does not fit the function is an error.
    pub fn read(
        hook: Hook,
        verdict: Verdict,
        reason: &Value,
        options: &Value,
    ) -> Result<ReplyOptions, Error> {
        let reader = Reader::new(options)?;
        let own_reason = reader.get("reason").unwrap_or(reason);
        let mut read = ReplyOptions {
            reason: read_lines(own_reason)?,
            disconnect: reader.flag("disconnect")?.unwrap_or(false),
            ..ReplyOptions::default()
        };
        if let Some(codes) = reader.nested("reply_codes")? {
            read.code = read_code(&codes, verdict)?;
            read.enhanced = read_enhanced(&codes)?;
        }
        if verdict != Verdict::Accept {
            return Ok(read);
        }
        match hook {
            Hook::Connect => {
                read.remote_ip = reader.text("remoteip")?;
                if let Some(ip) = &read.remote_ip
                    && ip.parse::<std::net::IpAddr>().is_err()
                {
                    return Err(Error::exception(format!("Option 'remoteip' is no address: '{ip}'")));
                }
                read.remote_ptr = reader.text("remoteptr")?;
                read.priority = reader.number("priority")?;
            }
            Hook::Helo => {
                read.extensions = reader.strings("extensions")?;
                read.host = reader.text("host")?;
            }
            Hook::MailFrom => read.address = reader.address("sender")?,
            Hook::RcptTo => {
                read.address = reader.address("recipient")?;
                read.transport = reader.text("transportid")?;
            }
            _ => {}
        }
        Ok(read)
    }
}

fn read_lines(reason: &Value) -> Result<Vec<Vec<u8>>, Error> {
    let split = |text: &[u8]| -> Vec<Vec<u8>> {
        text.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line).to_vec()).collect()
    };
    match reason {
        reason if reason.is_none() => Ok(Vec::new()),
        Value::Str(text) if text.is_empty() => Ok(Vec::new()),
        Value::Str(text) => Ok(split(text.as_bytes())),
        Value::Array(list) => {
            let mut lines = Vec::new();
            for item in list.values() {
                match item {
                    Value::Str(text) => lines.extend(split(text.as_bytes())),
                    other => return Err(expected("reason", "string or array of strings", other)),
                }
            }
            Ok(lines)
        }
        other => Err(expected("reason", "string or array of strings", other)),
    }
}

fn read_code(codes: &Reader<'_>, verdict: Verdict) -> Result<Option<u16>, Error> {
    let Some(number) = codes.get("code") else { return Ok(None) };
    let code = number.to_number();
    let class = match verdict {
        Verdict::Accept => 2.0,
        Verdict::Reject => 5.0,
        Verdict::Defer => 4.0,
    };
    if code.fract() != 0.0 || (code / 100.0).floor() != class {
        return Err(Error::exception(format!(
            "Reply code {} does not fit, expected {class}xx",
            number.to_string_lossy()
        )));
    }
    Ok(Some(code as u16))
}

fn read_enhanced(codes: &Reader<'_>) -> Result<Option<Option<EnhancedCode>>, Error> {
    let Some(value) = codes.get("enhanced") else { return Ok(None) };
    let Value::Array(list) = value else { return Err(expected("enhanced", "array", value)) };
    if list.is_empty() {
        return Ok(Some(None));
    }
    let numbers: Vec<f64> = list.values().map(Value::to_number).collect();
    match numbers[..] {
        [a, b, c] if [a, b, c].iter().all(|n| n.fract() == 0.0 && (0.0..=999.0).contains(n)) => {
            Ok(Some(Some((a as u16, b as u16, c as u16))))
        }
        _ => Err(Error::exception("Option 'enhanced' expects three numbers")),
    }
}

/// RFC 3461 parameters as scripts give them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DsnOptions {
    /// ENVID.
    pub envid: String,
    /// RET.
    pub ret: String,
    /// NOTIFY items in upper case.
    pub notify: Vec<String>,
    /// ORCPT.
    pub orcpt: String,
}

impl DsnOptions {
    fn read(reader: &Reader<'_>) -> Result<DsnOptions, Error> {
        let mut notify = Vec::new();
        for item in reader.strings("notify")?.unwrap_or_default() {
            notify.extend(
                item.split(',').map(|word| word.trim().to_ascii_uppercase()).filter(|word| !word.is_empty()),
            );
        }
        if let Some(bad) =
            notify.iter().find(|word| !["NEVER", "SUCCESS", "FAILURE", "DELAY"].contains(&word.as_str()))
        {
            return Err(Error::exception(format!("Option 'notify' has unknown item '{bad}'")));
        }
        let ret = reader.text("ret")?.unwrap_or_default().to_ascii_uppercase();
        if !["", "FULL", "HDRS"].contains(&ret.as_str()) {
            return Err(Error::exception(format!("Option 'ret' is '{ret}', expected FULL or HDRS")));
        }
        Ok(DsnOptions {
            envid: reader.text("envid")?.unwrap_or_default(),
            ret,
            notify,
            orcpt: reader.text("orcpt")?.unwrap_or_default(),
        })
    }
}

/// Options of `$mail->queue()`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EnqueueOptions {
    /// Stored with the entry.
    pub metadata: Metadata,
    /// HOLD instead of ACTIVE.
    pub hold: bool,
    /// Job id.
    pub job_id: String,
    /// Tenant id.
    pub tenant_id: String,
    /// 0 or 1.
    pub priority: u32,
    /// Quota names.
    pub quotas: Vec<String>,
    /// Seconds until the first attempt.
    pub delay_s: f64,
    /// RFC 3461 parameters.
    pub dsn: Option<DsnOptions>,
}

impl EnqueueOptions {
    /// Reads the option array.
    pub fn read(value: &Value) -> Result<EnqueueOptions, Error> {
        let reader = Reader::new(value)?;
        Ok(EnqueueOptions {
            metadata: reader.metadata("metadata")?.unwrap_or_default(),
            hold: reader.flag("hold")?.unwrap_or(false),
            job_id: reader.text("jobid")?.unwrap_or_default(),
            tenant_id: reader.text("tenantid")?.unwrap_or_default(),
            priority: reader.integer("priority", 0.0, 1.0)?.unwrap_or(0) as u32,
            quotas: reader.strings("quotas")?.unwrap_or_default(),
            delay_s: reader.number("delay")?.unwrap_or(0.0).clamp(0.0, 30.0 * 86_400.0),
            dsn: reader.nested("dsn")?.map(|dsn| DsnOptions::read(&dsn)).transpose()?,
        })
    }
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
    /// Envelope recipient.
    pub recipient: Option<Address>,
    /// EHLO name.
    pub helo: Option<String>,
    /// Ids of `addresses[]`.
    pub source_ids: Option<Vec<String>>,
    /// Random order of sources.
    pub source_random: Option<bool>,
    /// TLS mode.
    pub tls: Option<String>,
    /// `smtp` or `lmtp`.
    pub protocol: Option<String>,
    /// Use PIPELINING.
    pub pipelining: Option<bool>,
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
    /// `retry.count`.
    pub retry_count: Option<u32>,
    /// `retry.intervals`, seconds.
    pub retry_intervals_s: Option<Vec<f64>>,
    /// Options that are not known; they have no effect and are logged.
    pub unknown: Vec<String>,
}

const TRY_OPTIONS: [&str; 16] = [
    "host",
    "port",
    "sender",
    "recipient",
    "helo",
    "sourceip",
    "sourceip_random",
    "tls",
    "protocol",
    "pipelining",
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
            recipient: reader.address("recipient")?,
            helo: reader.text("helo")?,
            source_ids: read_sources(&reader)?,
            source_random: reader.flag("sourceip_random")?,
            tls: reader.text("tls")?,
            protocol: reader.text("protocol")?,
            pipelining: reader.flag("pipelining")?,
            connect_timeout_s: reader.number("connect_timeout")?,
            job_id: reader.text("jobid")?,
            tenant_id: reader.text("tenantid")?,
            dsn: reader.nested("dsn")?.map(|dsn| DsnOptions::read(&dsn)).transpose()?,
            ..TryOptions::default()
        };
        if let Some(mode) = &read.tls
            && !["disabled", "optional", "require", "require_verify"].contains(&mode.as_str())
        {
            let text =
                format!("Option 'tls' is '{mode}', expected disabled, optional, require or require_verify");
            return Err(Error::exception(text));
        }
        if let Some(protocol) = &read.protocol
            && !["smtp", "lmtp"].contains(&protocol.as_str())
        {
            return Err(Error::exception(format!(
                "Option 'protocol' is '{protocol}', expected smtp or lmtp"
            )));
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

fn read_sources(reader: &Reader<'_>) -> Result<Option<Vec<String>>, Error> {
    let Some(value) = reader.get("sourceip") else { return Ok(None) };
    let Value::Array(list) = value else { return Err(expected("sourceip", "array", value)) };
    let id = |item: &Value| match item {
        Value::Str(_) => Ok(item.to_string_lossy()),
        Value::Array(source) => match source.get_str("id") {
            Some(id @ Value::Str(_)) => Ok(id.to_string_lossy()),
            _ => Err(Error::exception("Option 'sourceip' expects items with an 'id' of addresses[]")),
        },
        other => Err(expected("sourceip", "array of strings or arrays", other)),
    };
    list.values().map(id).collect::<Result<Vec<_>, _>>().map(Some)
}

fn unknown(array: &Array, known: &[&str]) -> Vec<String> {
    let names = array.iter().map(|(key, _): (Key, &Value)| key.to_value().to_string_lossy());
    names.filter(|name| !known.contains(&name.as_str())).collect()
}

/// Options of `Queue`.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueOptions {
    /// Seconds; absent = by schedule.
    pub delay_s: Option<f64>,
    /// HOLD.
    pub hold: bool,
    /// For logs and lists.
    pub reason: Option<String>,
    /// Count the attempt.
    pub increment_retry: bool,
    /// Start counting at 0.
    pub reset_retry: bool,
    /// New transport.
    pub transport: Option<String>,
    /// Send a "delayed" report now, or not; absent = by schedule.
    pub dsn_delayed: Option<bool>,
    /// New job.
    pub job_id: Option<String>,
    /// New tenant.
    pub tenant_id: Option<String>,
    /// New priority, 0 or 1.
    pub priority: Option<u8>,
    /// New metadata, all of it.
    pub metadata: Option<Metadata>,
    /// New quota names, all of them.
    pub quotas: Option<Vec<String>>,
    /// Options of the report.
    pub bounce: BounceOptions,
}

impl Default for QueueOptions {
    fn default() -> QueueOptions {
        QueueOptions {
            delay_s: None,
            hold: false,
            reason: None,
            increment_retry: true,
            reset_retry: false,
            transport: None,
            dsn_delayed: None,
            job_id: None,
            tenant_id: None,
            priority: None,
            metadata: None,
            quotas: None,
            bounce: BounceOptions::default(),
        }
    }
}

impl QueueOptions {
    /// Reads the option array.
    pub fn read(value: &Value) -> Result<QueueOptions, Error> {
        let reader = Reader::new(value)?;
        Ok(QueueOptions {
            delay_s: reader.number("delay")?,
            hold: reader.flag("hold")?.unwrap_or(false),
            reason: reader.text("reason")?,
            increment_retry: reader.flag("increment_retry")?.unwrap_or(true),
            reset_retry: reader.flag("reset_retry")?.unwrap_or(false),
            transport: reader.text("transportid")?,
            dsn_delayed: reader.flag("dsn_delayed")?,
            job_id: reader.text("jobid")?,
            tenant_id: reader.text("tenantid")?,
            priority: reader.integer("priority", 0.0, 1.0)?.map(|priority| priority as u8),
            metadata: reader.metadata("metadata")?,
            quotas: reader.strings("quotas")?,
            bounce: BounceOptions::read(value)?,
        })
    }
}

impl QueueOptions {
    /// True when more than the time of the next attempt changes.
    pub fn changes_entry(&self) -> bool {
        self.transport.is_some()
            || self.job_id.is_some()
            || self.tenant_id.is_some()
            || self.priority.is_some()
            || self.metadata.is_some()
            || self.quotas.is_some()
    }
}

/// Options of `Bounce`: what the report says and where it goes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BounceOptions {
    /// Transport of the report.
    pub transport: Option<String>,
    /// Its envelope recipient.
    pub recipient: Option<Address>,
    /// Added to its entry.
    pub metadata: Metadata,
    /// Job id of its entry.
    pub job_id: Option<String>,
    /// Replaces the subject's prefix.
    pub subject_prepend: Option<String>,
    /// Extra header lines.
    pub headers: Vec<String>,
    /// `status`.
    pub status: Option<(u16, u16, u16)>,
    /// `diagnosticcode`.
    pub diagnostic: Option<String>,
}

impl BounceOptions {
    /// Reads the option array: the members of `dsn`, and the shortcuts `status` and `diagnosticcode`.
    pub fn read(value: &Value) -> Result<BounceOptions, Error> {
        let reader = Reader::new(value)?;
        let mut read =
            BounceOptions { diagnostic: reader.text("diagnosticcode")?, ..BounceOptions::default() };
        if let Some(Value::Array(list)) = reader.get("status") {
            let numbers: Vec<f64> = list.values().map(Value::to_number).collect();
            match numbers[..] {
                [a, b, c] if [a, b, c].iter().all(|n| n.fract() == 0.0 && (0.0..=999.0).contains(n)) => {
                    read.status = Some((a as u16, b as u16, c as u16));
                }
                _ => return Err(Error::exception("Option 'status' expects three numbers")),
            }
        }
        if let Some(dsn) = reader.nested("dsn")? {
            read.transport = dsn.text("transportid")?;
            read.recipient = dsn.address("recipient")?;
            read.metadata = dsn.metadata("metadata")?.unwrap_or_default();
            read.job_id = dsn.text("jobid")?;
            read.subject_prepend = dsn.text("subject_prepend")?;
            read.headers = dsn.strings("headers")?.unwrap_or_default();
            if let Some(bad) = read.headers.iter().find(|line| !line.contains(':')) {
                return Err(Error::exception(format!(
                    "Option 'headers' expects lines 'Name: value', found '{bad}'"
                )));
            }
        }
        Ok(read)
    }
}

/// `reason` of a pre-delivery `Delete`.
pub fn read_reason(value: &Value) -> Result<Option<String>, Error> {
    Reader::new(value)?.text("reason")
}
