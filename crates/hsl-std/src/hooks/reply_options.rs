//! Reasons and options of the functions that end the hooks of a connection.

use super::Hook;
use super::options::{Reader, expected};
use hsl::{Error, Value};
use mail::Address;

/// Class, subject and detail of an enhanced status code.
pub type EnhancedCode = (u16, u16, u16);

/// The function that ended a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the functions of the scripts")]
pub enum Verdict {
    Accept,
    Reject,
    Defer,
    /// A challenge of the auth hook, an answer of the proxy hook.
    Reply,
    /// The proxy hook lets the line through.
    Pass,
}

impl Verdict {
    /// The verdict of a function's name.
    pub fn of_function(name: &str) -> Option<Verdict> {
        Some(match name {
            "Accept" => Verdict::Accept,
            "Reject" => Verdict::Reject,
            "Defer" => Verdict::Defer,
            "Reply" => Verdict::Reply,
            "Pass" => Verdict::Pass,
            _ => return None,
        })
    }

    /// True where the first argument is the reason and the second has the options; otherwise the first has them.
    pub fn has_reason(self) -> bool {
        !matches!(self, Verdict::Accept | Verdict::Pass)
    }

    /// The codes that fit.
    fn codes(self, hook: Hook) -> std::ops::RangeInclusive<u16> {
        match self {
            Verdict::Accept => 200..=299,
            Verdict::Reject => 500..=599,
            Verdict::Defer => 400..=499,
            Verdict::Reply if hook == Hook::Auth => 300..=399,
            Verdict::Reply | Verdict::Pass => 200..=599,
        }
    }
}

/// What the proxy hook puts in place of facts about the connection.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "the names are the keys of $connection")]
pub struct ConnectionChange {
    pub remote_ip: Option<String>,
    pub remote_port: Option<u16>,
    pub remote_ptr: Option<String>,
    pub local_ip: Option<String>,
    pub local_port: Option<u16>,
    pub helo: Option<String>,
    pub username: Option<String>,
}

impl ConnectionChange {
    fn read(reader: &Reader<'_>) -> Result<ConnectionChange, Error> {
        Ok(ConnectionChange {
            remote_ip: reader.ip("remoteip")?,
            remote_port: reader.integer("remoteport", 0.0, 65_535.0)?.map(|port| port as u16),
            remote_ptr: reader.name("remoteptr")?,
            local_ip: reader.ip("localip")?,
            local_port: reader.integer("localport", 0.0, 65_535.0)?.map(|port| port as u16),
            helo: reader.name("helo")?,
            username: reader.text("username")?,
        })
    }
}

impl Reader<'_> {
    /// An address, in its usual form.
    fn ip(&self, key: &str) -> Result<Option<String>, Error> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match text.parse::<std::net::IpAddr>() {
            Ok(address) => Ok(Some(address.to_canonical().to_string())),
            Err(_) => Err(Error::exception(format!("Option '{key}' is no address: '{text}'"))),
        }
    }

    /// A host name as far as it may stand in a log line and in a header.
    fn name(&self, key: &str) -> Result<Option<String>, Error> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let valid = text.len() <= 255 && text.bytes().all(|b| b > b' ' && b != 0x7f);
        if valid {
            return Ok(Some(text));
        }
        Err(Error::exception(format!(
            "Option '{key}' expects at most 255 octets without white space and controls"
        )))
    }
}

/// Reason and options of a function that ends a hook of a connection.
#[derive(Clone, Debug, Default)]
pub struct ReplyOptions {
    /// Lines of text; empty = the default.
    pub reason: Vec<Vec<u8>>,
    /// The challenge of the auth hook, as it was given.
    pub challenge: Vec<u8>,
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
    /// `username` of auth.
    pub username: Option<Vec<u8>>,
    /// `command` of proxy: the line that takes the place of the client's.
    pub command: Option<Vec<u8>>,
    /// `next` of proxy: the hook sees the next line too.
    pub next: bool,
    /// `connection` of proxy.
    pub connection: ConnectionChange,
    /// `metadata` of eod, for an HTTP client.
    pub metadata: Value,
}

impl ReplyOptions {
    /// Reads reason and options; a code whose class does not fit the function is an error.
    ///
    /// # Errors
    /// A script error that names the option.
    pub fn read(
        hook: Hook,
        verdict: Verdict,
        reason: &Value,
        options: &Value,
    ) -> Result<ReplyOptions, Error> {
        let reader = Reader::new(options)?;
        let mut read = ReplyOptions {
            disconnect: reader.flag("disconnect")?.unwrap_or(false),
            ..ReplyOptions::default()
        };
        if (hook, verdict) == (Hook::Auth, Verdict::Reply) {
            read.challenge = match reason {
                reason if reason.is_none() => Vec::new(),
                Value::Str(text) => text.as_bytes().to_vec(),
                other => return Err(expected("reply", "string", other)),
            };
        } else {
            read.reason = read_lines(reader.get("reason").unwrap_or(reason))?;
        }
        if let Some(codes) = reader.nested("reply_codes")? {
            read.code = read_code(&codes, verdict.codes(hook))?;
            read.enhanced = read_enhanced(&codes)?;
        }
        if hook == Hook::Proxy {
            read.next = reader.flag("next")?.unwrap_or(false);
            read.command = read_command(&reader)?;
            if let Some(connection) = reader.nested("connection")? {
                read.connection = ConnectionChange::read(&connection)?;
            }
        }
        if hook == Hook::Eod {
            read.metadata = reader.get("metadata").cloned().unwrap_or_default();
        }
        if verdict == Verdict::Accept {
            read.read_accept(hook, &reader)?;
        }
        Ok(read)
    }

    fn read_accept(&mut self, hook: Hook, reader: &Reader<'_>) -> Result<(), Error> {
        match hook {
            Hook::Connect => {
                self.remote_ip = reader.ip("remoteip")?;
                self.remote_ptr = reader.name("remoteptr")?;
                self.priority = reader.number("priority")?;
            }
            Hook::Helo => {
                self.extensions = reader.strings("extensions")?;
                self.host = reader.name("host")?;
            }
            Hook::Auth => {
                self.username = match reader.get("username") {
                    None => None,
                    Some(Value::Str(text)) => Some(text.as_bytes().to_vec()),
                    Some(other) => return Err(expected("username", "string", other)),
                }
            }
            Hook::MailFrom => self.address = reader.address("sender")?,
            Hook::RcptTo => {
                self.address = reader.address("recipient")?;
                self.transport = reader.text("transportid")?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// The longest line that the proxy hook may put in place of another; the limit of command lines without CRLF.
const COMMAND_BYTES_MAX: usize = 16 * 1024 - 2;

fn read_command(reader: &Reader<'_>) -> Result<Option<Vec<u8>>, Error> {
    match reader.get("command") {
        None => Ok(None),
        Some(Value::Str(text)) => {
            let bytes = text.as_bytes();
            if bytes.len() > COMMAND_BYTES_MAX || bytes.iter().any(|b| matches!(b, 0 | b'\r' | b'\n')) {
                return Err(Error::exception(format!(
                    "Option 'command' expects one line of at most {COMMAND_BYTES_MAX} octets without NUL"
                )));
            }
            Ok(Some(bytes.to_vec()))
        }
        Some(other) => Err(expected("command", "string", other)),
    }
}

/// Lines of a reason: a string is split at line ends, as is each string of an array.
pub(super) fn read_lines(reason: &Value) -> Result<Vec<Vec<u8>>, Error> {
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

fn read_code(codes: &Reader<'_>, fitting: std::ops::RangeInclusive<u16>) -> Result<Option<u16>, Error> {
    let Some(number) = codes.get("code") else { return Ok(None) };
    let code = number.to_number();
    if code.fract() != 0.0 || !(f64::from(*fitting.start())..=f64::from(*fitting.end())).contains(&code) {
        return Err(Error::exception(format!(
            "Reply code {} does not fit, expected {} to {}",
            number.to_string_lossy(),
            fitting.start(),
            fitting.end()
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
    // Digits in a string count as a number; any other text would silently be 0.
    let number = |value: &Value| match value {
        Value::Number(number) => *number,
        Value::Str(text) => text.to_text().parse().unwrap_or(f64::NAN),
        _ => f64::NAN,
    };
    let numbers: Vec<f64> = list.values().map(number).collect();
    match numbers[..] {
        [a, b, c] if [a, b, c].iter().all(|n| n.fract() == 0.0 && (0.0..=999.0).contains(n)) => {
            Ok(Some(Some((a as u16, b as u16, c as u16))))
        }
        _ => Err(Error::exception("Option 'enhanced' expects three numbers")),
    }
}

/// A line of `History`: the action, the recipient and the options that were given.
pub(super) fn history_line(action: &str, recipient: &Address, options: &Value) -> Result<String, Error> {
    let reader = Reader::new(options)?;
    let mut line = format!("history action={action} recipient=<{recipient}>");
    if let Some(sender) = reader.address("sender")? {
        line.push_str(&format!(" sender=<{sender}>"));
    }
    if let Some(transport) = reader.text("transportid")? {
        line.push_str(&format!(" transportid={transport}"));
    }
    for (key, value) in reader.metadata("metadata")?.unwrap_or_default() {
        line.push_str(&format!(" {key}={:?}", String::from_utf8_lossy(&value)));
    }
    if let Some(reason) = reader.get("reason") {
        let lines = read_lines(reason)?;
        line.push_str(&format!(" reason={:?}", String::from_utf8_lossy(&lines.join(&b' '))));
    }
    Ok(line.chars().map(|c| if c.is_control() { '?' } else { c }).collect())
}
