//! The classes `LDAP` and `LDAPResult` (library section C14), on the crate ldap3.

use crate::crypto::x509;
use crate::environment::{self, Environment};
use crate::support::options;
use hsl::{
    Args, Array, Error, FunctionDef, NativeClass, NativeObject, Object, OptionDef, Outcome, Value, option,
};
use ldap3::{Ldap, LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchEntry, SearchOptions};
use native_tls::TlsConnector;
use openssl::x509::X509;
use parking_lot::Mutex as Lock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::sync::Mutex;

/// Entries of one result; a search that gives more fails.
const ENTRIES_MAX: usize = 1 << 20;

const SERVER_DOWN: i32 = -1;
const LOCAL_ERROR: i32 = -2;
const ENCODING_ERROR: i32 = -3;
const DECODING_ERROR: i32 = -4;
const TIMEOUT: i32 = -5;
const FILTER_ERROR: i32 = -7;
const PARAM_ERROR: i32 = -9;
const CONNECT_ERROR: i32 = -11;
const NOT_SUPPORTED: i32 = -12;

const SEARCH_OPTIONS: &[OptionDef] = &[
    option("scope", "string", "sub", "`sub`, `one` or `base`."),
    option("filter", "string", "(objectclass=*)", "Filter (RFC 4515)."),
    option("attributes", "array", "all", "Names of the attributes to give."),
];

#[derive(Clone)]
struct Settings {
    network_timeout: Option<Duration>,
    timeout: Option<Duration>,
    timelimit_s: i32,
    verify_peer: bool,
    default_ca: bool,
    starttls: bool,
    diagnostic: String,
}

struct LdapObject {
    urls: Vec<String>,
    settings: Lock<Settings>,
    /// The connection, made at the first use.
    connection: Mutex<Option<Ldap>>,
    errno: AtomicI32,
}

impl NativeObject for LdapObject {}

struct LdapResult(Lock<std::vec::IntoIter<Value>>);

impl NativeObject for LdapResult {
    fn iterable(&self) -> bool {
        true
    }

    fn next(&self) -> Result<Option<(Value, Value)>, Error> {
        let mut entries = self.0.lock();
        Ok(entries.next().map(|entry| (Value::None, entry)))
    }
}

static RESULT: LazyLock<Arc<NativeClass>> = LazyLock::new(|| {
    let class = NativeClass::new("LDAPResult").doc("The entries that a search found.").method(
        "next() -> array or boolean or none",
        "The next entry: `dn`, and attributes to lists of values; false at the end.",
        |_, o, _| {
            let result = o.data::<LdapResult>().ok_or_else(|| Error::exception("Not an LDAPResult"))?;
            let entry = result.0.lock().next();
            Ok(entry.unwrap_or(Value::Bool(false)).into())
        },
    );
    Arc::new(class)
});

fn this(object: &Arc<Object>) -> Result<&LdapObject, Error> {
    object.data().ok_or_else(|| Error::exception("Not an LDAP"))
}

fn seconds(value: &Value) -> Option<Duration> {
    let n = value.to_number();
    (n > 0.0).then(|| Duration::try_from_secs_f64(n).ok()).flatten()
}

/// The LDAP code of a failure, and the words of the server.
fn code(error: &LdapError) -> (i32, String) {
    let number = match error {
        LdapError::LdapResult { result } => return (result.rc as i32, result.text.clone()),
        LdapError::FilterParsing => FILTER_ERROR,
        LdapError::Timeout { .. } => TIMEOUT,
        LdapError::Io { source } if source.kind() == std::io::ErrorKind::TimedOut => TIMEOUT,
        LdapError::Io { .. }
        | LdapError::EndOfStream
        | LdapError::OpSend { .. }
        | LdapError::ResultRecv { .. } => SERVER_DOWN,
        LdapError::NativeTLS { .. } => CONNECT_ERROR,
        LdapError::UrlParsing { .. } | LdapError::UnknownScheme(_) | LdapError::EmptyUnixPath => PARAM_ERROR,
        LdapError::DecodingUTF8 => DECODING_ERROR,
        LdapError::AddNoValues => ENCODING_ERROR,
        _ => LOCAL_ERROR,
    };
    (number, error.to_string())
}

impl LdapObject {
    /// Runs an operation on the connection, which is made when there is none. `None` on errors, by contract.
    async fn run<T>(
        &self,
        environment: &Environment,
        operation: impl AsyncFnOnce(&mut Ldap) -> ldap3::result::Result<T>,
    ) -> Option<T> {
        let mut connection = self.connection.lock().await;
        let settings = self.settings.lock().clone();
        let result = async {
            if connection.as_mut().is_none_or(Ldap::is_closed) {
                *connection = Some(self.connect(&settings, environment).await?);
            }
            match connection.as_mut() {
                Some(ldap) => {
                    if let Some(timeout) = settings.timeout {
                        ldap.with_timeout(timeout);
                    }
                    operation(ldap).await
                }
                None => Err(LdapError::EndOfStream),
            }
        }
        .await;
        match result {
            Ok(value) => {
                self.errno.store(0, Ordering::Relaxed);
                Some(value)
            }
            Err(error) => {
                let (number, text) = code(&error);
                self.errno.store(number, Ordering::Relaxed);
                self.settings.lock().diagnostic = text;
                None
            }
        }
    }

    async fn connect(&self, settings: &Settings, environment: &Environment) -> ldap3::result::Result<Ldap> {
        let mut error = LdapError::EmptyUnixPath;
        for url in &self.urls {
            match connect_one(url, settings, environment).await {
                Ok(ldap) => return Ok(ldap),
                Err(e) => error = e,
            }
        }
        Err(error)
    }
}

async fn connect_one(
    url: &str,
    settings: &Settings,
    environment: &Environment,
) -> ldap3::result::Result<Ldap> {
    let mut tls = TlsConnector::builder();
    tls.disable_built_in_roots(!settings.default_ca);
    for authority in &environment.authorities {
        if let Ok(certificate) = authority
            .to_der()
            .map_err(drop)
            .and_then(|der| native_tls::Certificate::from_der(&der).map_err(drop))
        {
            tls.add_root_certificate(certificate);
        }
    }
    if !settings.verify_peer {
        tls.danger_accept_invalid_certs(true).danger_accept_invalid_hostnames(true);
    }
    let tls = tls.build().map_err(|source| LdapError::NativeTLS { source })?;
    let mut options = LdapConnSettings::new().set_connector(tls).set_starttls(settings.starttls);
    if let Some(timeout) = settings.network_timeout {
        options = options.set_conn_timeout(timeout);
    }
    let (connection, ldap) = LdapConnAsync::with_settings(options, url).await?;
    // Its failures show at the operations.
    tokio::spawn(async move { drop(connection.drive().await) });
    Ok(ldap)
}

/// A text argument; empty when it is left out.
fn text(args: &Args<'_>, i: usize) -> String {
    args.given(i).map(Value::to_string_lossy).unwrap_or_default()
}

/// The object itself after a success, for chaining.
fn chained(object: &Arc<Object>, done: Option<()>) -> Value {
    done.map(|()| Value::Object(Arc::clone(object))).unwrap_or_default()
}

static CLASS: LazyLock<Arc<NativeClass>> = LazyLock::new(|| {
    let class = NativeClass::new("LDAP")
        .doc("A client of LDAP servers. Methods give none on errors, and errno() tells which.")
        .constructor(FunctionDef::pure(
            "LDAP(uri: string) -> LDAP",
            "Servers by URLs of scheme ldap, ldaps or ldapi, separated by spaces; the first that answers is used.",
            |_, a| {
                let urls: Vec<String> =
                    a.string(0).to_text().split_whitespace().map(str::to_owned).collect();
                let known = |url: &String| ["ldap://", "ldaps://", "ldapi://"].iter().any(|s| url.starts_with(s));
                if urls.is_empty() || !urls.iter().all(known) {
                    return Err(Error::exception("LDAP expects URLs that begin with ldap://, ldaps:// or ldapi://"));
                }
                let settings = Settings {
                    network_timeout: None,
                    timeout: None,
                    timelimit_s: 0,
                    verify_peer: true,
                    default_ca: false,
                    starttls: false,
                    diagnostic: String::new(),
                };
                Ok(Object::native(
                    &CLASS,
                    LdapObject {
                        urls,
                        settings: Lock::new(settings),
                        connection: Mutex::new(None),
                        errno: AtomicI32::new(0),
                    },
                ))
            },
        ))
        .method(
            "setoption(name: string, value: any) -> this or none",
            "Sets protocol_version, referrals, network_timeout, timeout, timelimit, tls_verify_peer or tls_default_ca.",
            |_, o, a| {
                let ldap = this(o)?;
                let value = a.get(1);
                let mut settings = ldap.settings.lock();
                match a.bytes(0) {
                    // Version 3 is all there is, and referrals are never followed.
                    b"protocol_version" if value.to_number() == 3.0 => {}
                    b"referrals" if !value.truthy() => {}
                    b"protocol_version" | b"referrals" => {
                        ldap.errno.store(NOT_SUPPORTED, Ordering::Relaxed);
                        return Ok(Value::None.into());
                    }
                    b"network_timeout" => settings.network_timeout = seconds(value),
                    b"timeout" => settings.timeout = seconds(value),
                    b"timelimit" => settings.timelimit_s = value.to_number().clamp(0.0, 2e9) as i32,
                    b"tls_verify_peer" => settings.verify_peer = value.truthy(),
                    b"tls_default_ca" => settings.default_ca = value.truthy(),
                    _ => {
                        ldap.errno.store(PARAM_ERROR, Ordering::Relaxed);
                        return Ok(Value::None.into());
                    }
                }
                Ok(Value::Object(Arc::clone(o)).into())
            },
        )
        .method("getoption(name: string) -> any", "The text of the last error, as diagnostic_message.", |_, o, a| {
            let ldap = this(o)?;
            if a.bytes(0) == b"diagnostic_message" {
                return Ok(Value::from(ldap.settings.lock().diagnostic.clone()).into());
            }
            ldap.errno.store(PARAM_ERROR, Ordering::Relaxed);
            Ok(Value::None.into())
        })
        .method("starttls() -> this or none", "Connects and begins TLS.", |cx, o, _| {
            let (object, environment) = (Arc::clone(o), environment::of(cx));
            this(o)?.settings.lock().starttls = true;
            Ok(Outcome::Pending(Box::pin(async move {
                let ldap = this(&object)?;
                // A connection without TLS is given up.
                *ldap.connection.lock().await = None;
                Ok(chained(&object, ldap.run(&environment, async |_| Ok(())).await))
            })))
        })
        .method(
            "bind(dn?: string, cred?: string) -> this or none",
            "Authenticates; without arguments as nobody.",
            |cx, o, a| {
                let (object, environment) = (Arc::clone(o), environment::of(cx));
                let (dn, cred) = (text(&a, 0), text(&a, 1));
                Ok(Outcome::Pending(Box::pin(async move {
                    let bind = async |ldap: &mut Ldap| {
                        ldap.simple_bind(&dn, &cred).await?.success().map(drop)
                    };
                    let done = this(&object)?.run(&environment, bind).await;
                    Ok(chained(&object, done))
                })))
            },
        )
        .method("unbind() -> this or none", "Ends the connection.", |_, o, _| {
            let object = Arc::clone(o);
            Ok(Outcome::Pending(Box::pin(async move {
                let ldap = this(&object)?;
                let connection = ldap.connection.lock().await.take();
                if let Some(mut connection) = connection {
                    // It is closed either way.
                    let _ = connection.unbind().await;
                }
                Ok(Value::Object(Arc::clone(&object)))
            })))
        })
        .method(
            "search(basedn: string, options?: array) -> LDAPResult or none",
            "Searches below an entry.",
            |cx, o, a| {
                let (object, environment) = (Arc::clone(o), environment::of(cx));
                let given = options(&a, 1);
                let scope = match given.get_str("scope").map(Value::to_str).as_ref().map(|s| s.as_bytes()) {
                    None | Some(b"sub") => Scope::Subtree,
                    Some(b"one") => Scope::OneLevel,
                    Some(b"base") => Scope::Base,
                    Some(other) => {
                        let other = String::from_utf8_lossy(other);
                        return Err(Error::exception(format!(
                            "search() option 'scope' expects sub, one or base, '{other}' given"
                        )));
                    }
                };
                let base = a.string(0).to_text().into_owned();
                let filter = given.get_str("filter").map_or("(objectclass=*)".to_owned(), Value::to_string_lossy);
                let attributes: Vec<String> = match given.get_str("attributes").and_then(Value::as_array) {
                    Some(list) => list.values().map(Value::to_string_lossy).collect(),
                    None => vec!["*".to_owned()],
                };
                Ok(Outcome::Pending(Box::pin(async move {
                    let object = this(&object)?;
                    let limit = object.settings.lock().timelimit_s;
                    let search = async |ldap: &mut Ldap| {
                        ldap.with_search_options(SearchOptions::new().timelimit(limit));
                        let mut stream = ldap.streaming_search(&base, scope, &filter, attributes).await?;
                        let mut entries = Vec::new();
                        while let Some(entry) = stream.next().await? {
                            if entry.is_ref() || entry.is_intermediate() {
                                continue;
                            }
                            entries.push(entry_value(SearchEntry::construct(entry)));
                            if entries.len() > ENTRIES_MAX {
                                return Err(LdapError::EndOfStream);
                            }
                        }
                        stream.finish().await.success()?;
                        Ok(entries)
                    };
                    let found = object.run(&environment, search).await;
                    Ok(found.map_or(Value::None, |entries| {
                        Object::native(&RESULT, LdapResult(Lock::new(entries.into_iter())))
                    }))
                })))
            },
        )
        .with_options(SEARCH_OPTIONS)
        .method("errno() -> number", "Code of the last error (RFC 4511); negative ones are of the client.", |_, o, _| {
            Ok(Value::from(this(o)?.errno.load(Ordering::Relaxed)).into())
        })
        .method("getpeerx509() -> X509 or none", "The certificate of the server.", |cx, o, _| {
            let (object, environment) = (Arc::clone(o), environment::of(cx));
            Ok(Outcome::Pending(Box::pin(async move {
                let peer = async |ldap: &mut Ldap| ldap.get_peer_certificate().await;
                let der = this(&object)?.run(&environment, peer).await.flatten();
                Ok(der.and_then(|der| X509::from_der(&der).ok()).map(x509::object).unwrap_or_default())
            })))
        });
    Arc::new(statics(class))
});

fn entry_value(entry: SearchEntry) -> Value {
    let mut out = Array::new();
    out.insert_str("dn", entry.dn);
    let texts = entry
        .attrs
        .into_iter()
        .map(|(name, values)| (name, values.into_iter().map(Value::from).collect::<Vec<Value>>()));
    let binary = entry
        .bin_attrs
        .into_iter()
        .map(|(name, values)| (name, values.into_iter().map(Value::from).collect::<Vec<Value>>()));
    let mut attributes: Vec<(String, Vec<Value>)> = texts.chain(binary).collect();
    // The crate keeps them in a hash table.
    attributes.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, values) in attributes {
        out.insert_str(&name, values);
    }
    out.into()
}

fn statics(class: NativeClass) -> NativeClass {
    class
        .function(FunctionDef::pure("err2string(errno: number) -> string", "The name of a code.", |_, a| {
            let number = a.integer(0)?;
            let name = ERRORS.iter().find(|(n, _)| *n == number).map(|(_, name)| *name);
            Ok(name.map_or_else(|| format!("Unknown error {number}").into(), Value::from))
        }))
        .function(FunctionDef::pure(
            "filter_escape(value: string) -> string",
            "A value for a filter (RFC 4515 section 3).",
            |_, a| {
                let mut out = Vec::new();
                for c in a.bytes(0) {
                    if matches!(c, b'*' | b'(' | b')' | b'\\' | 0) {
                        out.extend_from_slice(format!("\\{c:02x}").as_bytes());
                    } else {
                        out.push(*c);
                    }
                }
                Ok(out.into())
            },
        ))
        .function(FunctionDef::pure(
            "str2dn(str: string) -> array or none",
            "The attribute and value pairs of a name (RFC 4514).",
            |_, a| Ok(parse_dn(a.bytes(0)).into()),
        ))
        .function(FunctionDef::pure(
            "dn2str(dn: array) -> string or none",
            "The name of such pairs.",
            |_, a| Ok(write_dn(&a.array(0)).into()),
        ))
}

/// Pairs of a distinguished name. Names of several attributes at one level (`+`) give a pair for each.
fn parse_dn(text: &[u8]) -> Option<Array> {
    let mut out = Array::new();
    let mut rest = text.trim_ascii();
    if rest.is_empty() {
        return Some(out);
    }
    loop {
        let equals = memchr::memchr(b'=', rest)?;
        let name = rest[..equals].trim_ascii();
        if name.is_empty() || !name.iter().all(|c| c.is_ascii_alphanumeric() || b"-.".contains(c)) {
            return None;
        }
        rest = rest[equals + 1..].trim_ascii_start();
        let mut value: Vec<u8> = Vec::new();
        // Spaces at the end count only where they are escaped.
        let mut solid = 0;
        let mut next = None;
        while let Some((c, tail)) = rest.split_first() {
            rest = tail;
            match c {
                b'\\' => {
                    let hex = |c: u8| (c as char).to_digit(16).map(|d| d as u8);
                    match *rest {
                        [a, b, ..] if hex(a).is_some() && hex(b).is_some() => {
                            value.push(hex(a)? << 4 | hex(b)?);
                            rest = &rest[2..];
                        }
                        [c, ..] => {
                            value.push(c);
                            rest = &rest[1..];
                        }
                        [] => return None,
                    }
                    solid = value.len();
                }
                b',' | b';' | b'+' => {
                    next = Some(());
                    break;
                }
                b' ' => value.push(b' '),
                b'"' | b'<' | b'>' | 0 => return None,
                c => {
                    value.push(*c);
                    solid = value.len();
                }
            }
        }
        value.truncate(solid);
        out.push(Value::from(vec![Value::bytes(name), Value::from(value)]));
        if next.is_none() {
            return Some(out);
        }
        rest = rest.trim_ascii_start();
    }
}

fn write_dn(pairs: &Array) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for pair in pairs.values() {
        let pair = pair.as_array().filter(|p| p.len() == 2)?;
        let mut parts = pair.values().map(Value::to_str);
        let (name, value) = (parts.next()?, parts.next()?);
        if !out.is_empty() {
            out.push(b',');
        }
        out.extend_from_slice(name.as_bytes());
        out.push(b'=');
        let bytes = value.as_bytes();
        for (i, c) in bytes.iter().enumerate() {
            let edge = (*c == b' ' && (i == 0 || i + 1 == bytes.len())) || (*c == b'#' && i == 0);
            if *c == 0 {
                out.extend_from_slice(b"\\00");
            } else {
                if edge || b"\"+,;<>\\".contains(c) {
                    out.push(b'\\');
                }
                out.push(*c);
            }
        }
    }
    Some(out)
}

/// Codes of RFC 4511 section 4.1.9, and those of the client as the C interface numbers them.
const ERRORS: &[(i64, &str)] = &[
    (0, "Success"),
    (1, "Operations error"),
    (2, "Protocol error"),
    (3, "Time limit exceeded"),
    (4, "Size limit exceeded"),
    (5, "Compare false"),
    (6, "Compare true"),
    (7, "Authentication method not supported"),
    (8, "Stronger authentication required"),
    (10, "Referral"),
    (11, "Administrative limit exceeded"),
    (12, "Critical extension unavailable"),
    (13, "Confidentiality required"),
    (14, "SASL bind in progress"),
    (16, "No such attribute"),
    (17, "Undefined attribute type"),
    (18, "Inappropriate matching"),
    (19, "Constraint violation"),
    (20, "Attribute or value exists"),
    (21, "Invalid attribute syntax"),
    (32, "No such object"),
    (33, "Alias problem"),
    (34, "Invalid DN syntax"),
    (36, "Alias dereferencing problem"),
    (48, "Inappropriate authentication"),
    (49, "Invalid credentials"),
    (50, "Insufficient access rights"),
    (51, "Busy"),
    (52, "Unavailable"),
    (53, "Unwilling to perform"),
    (54, "Loop detected"),
    (64, "Naming violation"),
    (65, "Object class violation"),
    (66, "Not allowed on non-leaf"),
    (67, "Not allowed on RDN"),
    (68, "Entry already exists"),
    (69, "Object class modifications prohibited"),
    (71, "Affects multiple servers"),
    (80, "Other error"),
    (SERVER_DOWN as i64, "Server is not reachable"),
    (LOCAL_ERROR as i64, "Local error"),
    (ENCODING_ERROR as i64, "Encoding error"),
    (DECODING_ERROR as i64, "Decoding error"),
    (TIMEOUT as i64, "Timed out"),
    (FILTER_ERROR as i64, "Bad search filter"),
    (PARAM_ERROR as i64, "Bad parameter"),
    (CONNECT_ERROR as i64, "Connect error"),
    (NOT_SUPPORTED as i64, "Not supported"),
];

/// The classes.
pub(super) fn classes() -> Vec<Arc<NativeClass>> {
    vec![Arc::clone(&CLASS), Arc::clone(&RESULT)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinguished_names() {
        for (text, pairs, back) in [
            ("cn=a,dc=b", 2, "cn=a,dc=b"),
            ("CN=Steve\\, Jr , O=\\20x\\ ;C=GB", 3, "CN=Steve\\, Jr,O=\\ x\\ ,C=GB"),
            ("cn=\\#a+sn=b\\\"", 2, "cn=\\#a,sn=b\\\""),
            ("", 0, ""),
        ] {
            let parsed = parse_dn(text.as_bytes()).unwrap();
            assert_eq!(parsed.len(), pairs, "{text}");
            assert_eq!(String::from_utf8(write_dn(&parsed).unwrap()).unwrap(), back, "{text}");
        }
        for bad in ["cn", "=x", "cn=a,", "cn=a\\", "c n=a", "cn=<"] {
            assert!(parse_dn(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
