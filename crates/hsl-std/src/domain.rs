//! Domain names and `dns_query` (library section 5).

use crate::environment::{self, Environment};
use crate::support::{flag, options};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{CAA, TLSA};
use hickory_proto::rr::{Name, RData, RecordType};
use hsl::{Args, Array, Error, FunctionDef, NativeCx, OptionDef, Outcome, Value, option};
use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use net::resolver::{Answer, Settings};
use net::{DnsError, Resolver};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Longest name, octets (RFC 1035 section 2.3.4).
const NAME_MAX: usize = 255;
/// Longest label, octets.
const LABEL_MAX: usize = 63;
/// Longest patience that still means something, seconds.
const TIMEOUT_MAX_S: f64 = 3600.0;

const QUERY_OPTIONS: &[OptionDef] = &[
    option(
        "type",
        "string",
        "a",
        "`a`, `aaaa`, `mx`, `txt`, `cname`, `ns`, `ptr`, `soa`, `srv`, `tlsa` or `caa`.",
    ),
    option("timeout", "number", "5", "Seconds for the whole query."),
    option("servers", "array", "those of the system", "Addresses of name servers; without the cache."),
    option("port", "number", "53", "Port of the servers."),
    option("extended_result", "boolean", "false", "Items are arrays with `ttl` and the fields of the type."),
];

/// Types of `dns_query`, and of the functions of older scripts.
const TYPES: &[(&str, RecordType)] = &[
    ("a", RecordType::A),
    ("aaaa", RecordType::AAAA),
    ("mx", RecordType::MX),
    ("txt", RecordType::TXT),
    ("cname", RecordType::CNAME),
    ("ns", RecordType::NS),
    ("ptr", RecordType::PTR),
    ("soa", RecordType::SOA),
    ("srv", RecordType::SRV),
    ("tlsa", RecordType::TLSA),
    ("caa", RecordType::CAA),
];

/// The functions of the group.
pub(crate) fn functions() -> Vec<FunctionDef> {
    vec![
        FunctionDef::full(
            "dns_query(host: string, options?: array) -> array",
            "Asks the DNS: `result`, a list, or `error`, a code; and `dnssec`, whether the resolver vouches for it.",
            |cx, a| {
                let question = Question::read(cx, &a, None)?;
                Ok(Outcome::Pending(Box::pin(async move {
                    let (answer, secure) = question.ask().await;
                    Ok(question.array(answer, secure).into())
                })))
            },
        )
        .with_options(QUERY_OPTIONS),
        FunctionDef::pure(
            "domain_includes(subdomain: string, domain: string, options?: array) -> boolean",
            "Whether a name is the domain or below it; with a dot in front of the domain only below it.",
            |_, a| Ok(includes(a.bytes(0), a.bytes(1)).into()),
        ),
        FunctionDef::pure(
            "domain_publicsuffix(domain: string) -> string or none",
            "The part of a name under which registries sell names, by the public suffix list.",
            |cx, a| Ok(public_suffix(&a.string(0).to_text(), &environment::of(cx)).into()),
        ),
        FunctionDef::pure("idna_encode(domain: string) -> string or none", "The ASCII form of a name (UTS #46).", |_, a| {
            Ok(std::str::from_utf8(a.bytes(0)).ok().and_then(idna_encode).into())
        }),
        FunctionDef::pure(
            "idna_decode(domain: string) -> string or none",
            "The Unicode form of a name (UTS #46).",
            |_, a| Ok(std::str::from_utf8(a.bytes(0)).ok().and_then(idna_decode).into()),
        ),
    ]
}

/// Functions of older scripts: name and type.
pub(crate) const OLD: &[(&str, &str)] = &[
    ("dns(host: string, options?: array) -> array", "a"),
    ("dns4(host: string, options?: array) -> array", "a"),
    ("dns6(host: string, options?: array) -> array", "aaaa"),
    ("dnsmx(host: string, options?: array) -> array", "mx"),
    ("dnstxt(host: string, options?: array) -> array", "txt"),
    ("dnsptr(host: string, options?: array) -> array", "ptr"),
    ("dnscname(host: string, options?: array) -> array", "cname"),
    ("dnsns(host: string, options?: array) -> array", "ns"),
];

/// A function of older scripts: a list, empty on errors, unless `extended_result` is given.
pub(crate) fn old(signature: &'static str, kind: &'static str) -> FunctionDef {
    FunctionDef::full(signature, "Older name.", move |cx, a| {
        let question = Question::read(cx, &a, Some(kind))?;
        Ok(Outcome::Pending(Box::pin(async move {
            let (answer, secure) = question.ask().await;
            if question.extended {
                return Ok(question.array(answer, secure).into());
            }
            Ok(answer.map(|answer| items(&answer, false)).unwrap_or_default().into())
        })))
    })
}

struct Question {
    host: String,
    kind: RecordType,
    timeout: Duration,
    resolver: Resolver,
    extended: bool,
}

impl Question {
    fn read(cx: &NativeCx<'_>, args: &Args<'_>, kind: Option<&str>) -> Result<Question, Error> {
        let o = options(args, 1);
        let name = match (kind, o.get_str("type")) {
            (Some(kind), _) => kind.to_owned(),
            (None, Some(value)) => value.to_string_lossy().to_ascii_lowercase(),
            (None, None) => "a".to_owned(),
        };
        let kind = TYPES.iter().find(|(n, _)| *n == name).map(|(_, kind)| *kind).ok_or_else(|| {
            let known: Vec<&str> = TYPES.iter().map(|(n, _)| *n).collect();
            Error::exception(format!(
                "dns_query() type '{name}' is unknown, expected one of {}",
                known.join(", ")
            ))
        })?;
        let timeout = o.get_str("timeout").map_or(5.0, Value::to_number);
        let timeout = Duration::from_secs_f64(if timeout > 0.0 { timeout.min(TIMEOUT_MAX_S) } else { 5.0 });
        let port = o.get_str("port").map_or(53.0, Value::to_number);
        if !(1.0..=65535.0).contains(&port) {
            return Err(Error::exception(format!(
                "dns_query() option 'port' expects 1 to 65535, {port} given"
            )));
        }
        let mut servers = Vec::new();
        for server in o.get_str("servers").and_then(Value::as_array).iter().flat_map(|l| l.values()) {
            let text = server.to_string_lossy();
            let address: IpAddr = text.parse().map_err(|_| {
                Error::exception(format!("dns_query() option 'servers' expects addresses, '{text}' given"))
            })?;
            servers.push(SocketAddr::new(address, port as u16));
        }
        if servers.is_empty() && o.get_str("port").is_some() {
            servers = net::resolver::system_servers();
            servers.iter_mut().for_each(|server| server.set_port(port as u16));
        }
        let resolver = if servers.is_empty() {
            environment::of(cx).resolver.clone()
        } else {
            // A try with each server must fit.
            let part = timeout / u32::try_from(servers.len()).unwrap_or(1).max(1);
            Resolver::new(Settings { servers, timeout: part, retries: 0, ..Default::default() })
        };
        Ok(Question {
            host: args.string(0).to_text().into_owned(),
            kind,
            timeout,
            resolver,
            extended: flag(&o, "extended_result", false),
        })
    }

    /// The answer or a code, and whether the resolver vouches for it.
    async fn ask(&self) -> (Result<std::sync::Arc<Answer>, &'static str>, bool) {
        let host = if self.host.is_ascii() { Some(self.host.clone()) } else { idna_encode(&self.host) };
        let Some(host) = host.filter(|name| is_name(name)) else { return (Err("FORMERR"), false) };
        let query = self.resolver.query_secure(&host, self.kind);
        let Ok((outcome, secure)) = tokio::time::timeout(self.timeout, query).await else {
            return (Err("TRY_AGAIN"), false);
        };
        let answer = match outcome {
            Ok(answer) => Ok(answer),
            Err(error) => Err(match error {
                DnsError::NxDomain => "NXDOMAIN",
                DnsError::NoData => "NODATA",
                DnsError::BadName(_) => "FORMERR",
                DnsError::Refused { code, .. } => match code {
                    ResponseCode::ServFail => "SERVFAIL",
                    ResponseCode::Refused => "REFUSED",
                    ResponseCode::FormErr => "FORMERR",
                    ResponseCode::NotImp => "NOTIMP",
                    _ => "SERVFAIL",
                },
                _ => "TRY_AGAIN",
            }),
        };
        (answer, secure)
    }

    fn array(&self, answer: Result<std::sync::Arc<Answer>, &'static str>, secure: bool) -> Array {
        let mut out = Array::new();
        match &answer {
            Ok(answer) => out.insert_str("result", items(answer, self.extended)),
            Err(error) => out.insert_str("error", *error),
        }
        out.insert_str("dnssec", secure);
        out
    }
}

/// Whether a name can be asked for.
fn is_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() < NAME_MAX && name.split('.').all(|label| (1..=LABEL_MAX).contains(&label.len()))
}

fn plain(name: &Name) -> String {
    let text = name.to_ascii().to_ascii_lowercase();
    match text.strip_suffix('.') {
        Some("") | None => text,
        Some(plain) => plain.to_owned(),
    }
}

/// The items of an answer: texts, or arrays with the fields of the type.
fn items(answer: &Answer, extended: bool) -> Array {
    let mut records: Vec<&RData> = answer.records.iter().collect();
    records.sort_by_key(|data| if let RData::MX(mx) = data { mx.preference } else { 0 });
    let mut list = Array::new();
    for data in records {
        let mut fields = Array::new();
        fields.insert_str("ttl", answer.ttl_s);
        let Some(text) = record(data, &mut fields) else { continue };
        list.push(if extended { Value::from(fields) } else { text });
    }
    list
}

/// The text of a record; its fields go to `out`.
fn record(data: &RData, out: &mut Array) -> Option<Value> {
    let mut one = |key: &str, value: Value| {
        out.insert_str(key, value.clone());
        Some(value)
    };
    match data {
        RData::A(a) => one("address", a.0.to_string().into()),
        RData::AAAA(a) => one("address", a.0.to_string().into()),
        RData::NS(name) => one("name", plain(&name.0).into()),
        RData::CNAME(name) => one("name", plain(&name.0).into()),
        RData::PTR(name) => one("name", plain(&name.0).into()),
        RData::TXT(txt) => one("text", txt.txt_data.concat().into()),
        RData::MX(mx) => {
            one("preference", mx.preference.into());
            one("exchange", plain(&mx.exchange).into())
        }
        RData::SRV(srv) => {
            one("priority", srv.priority.into());
            one("weight", srv.weight.into());
            one("port", srv.port.into());
            one("target", plain(&srv.target).into())
        }
        RData::SOA(soa) => {
            one("mname", plain(&soa.mname).into());
            one("rname", plain(&soa.rname).into());
            one("serial", soa.serial.into());
            one("refresh", soa.refresh.into());
            one("retry", soa.retry.into());
            one("expire", soa.expire.into());
            one("minimum", soa.minimum.into());
            Some(soa.to_string().into())
        }
        RData::TLSA(TLSA { cert_usage, selector, matching, cert_data, .. }) => {
            one("usage", u8::from(*cert_usage).into());
            one("selector", u8::from(*selector).into());
            one("mtype", u8::from(*matching).into());
            one("data", crate::crypto::hex(cert_data).into());
            Some(data.to_string().into())
        }
        RData::CAA(CAA { issuer_critical, tag, value, .. }) => {
            one("critical", (*issuer_critical).into());
            one("tag", tag.as_str().into());
            one("value", value.as_slice().into());
            Some(data.to_string().into())
        }
        _ => None,
    }
}

fn includes(subdomain: &[u8], domain: &[u8]) -> bool {
    let strip = |name: &[u8]| name.strip_suffix(b".").unwrap_or(name).to_ascii_lowercase();
    let (below, demanded) = match domain.strip_prefix(b".") {
        Some(rest) => (strip(rest), true),
        None => (strip(domain), false),
    };
    let name = strip(subdomain);
    if below.is_empty() || name.is_empty() {
        return false;
    }
    if name == below {
        return !demanded;
    }
    name.strip_suffix(&below[..]).is_some_and(|rest| rest.len() > 1 && rest.ends_with(b"."))
}

fn public_suffix(domain: &str, environment: &Environment) -> Option<String> {
    use publicsuffix::Psl as _;
    let given = domain.trim_end_matches('.').to_lowercase();
    let ascii = idna_encode(&given)?;
    let length = match &environment.public_suffixes {
        Some(list) => {
            let suffix = list.suffix(ascii.as_bytes()).filter(publicsuffix::Suffix::is_known)?;
            suffix.as_bytes().split(|c| *c == b'.').count()
        }
        None => {
            let suffix = psl::suffix(ascii.as_bytes()).filter(|s| s.is_known())?;
            suffix.as_bytes().split(|c| *c == b'.').count()
        }
    };
    // The answer is given in the form of the question.
    let labels: Vec<&str> = given.split('.').collect();
    Some(labels[labels.len().checked_sub(length)?..].join("."))
}

/// The label below the public suffix and that suffix; an unknown one is taken to be one label.
pub(crate) fn organizational_domain(domain: &str, environment: &Environment) -> Option<String> {
    let labels: Vec<&str> = domain.split('.').collect();
    let suffix = public_suffix(domain, environment).map_or(1, |suffix| suffix.split('.').count());
    Some(labels[labels.len().checked_sub(suffix + 1)?..].join("."))
}

/// The ASCII form of a name.
pub(crate) fn idna_encode(domain: &str) -> Option<String> {
    if domain.is_empty() {
        return Some(String::new());
    }
    let length = DnsLength::VerifyAllowRootDot;
    let ascii =
        Uts46::new().to_ascii(domain.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow, length).ok()?;
    // Names of ASCII letters alone are passed by the crate without a look at their labels.
    is_name(&ascii).then(|| ascii.into_owned())
}

fn idna_decode(domain: &str) -> Option<String> {
    let (text, result) = Uts46::new().to_unicode(domain.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow);
    result.ok()?;
    (domain.is_empty() || domain.split('.').all(|label| label.len() <= LABEL_MAX)).then(|| text.into_owned())
}
