//! Names, addresses, URLs, the system log and other small things (library sections 7 and 10).

use crate::environment;
use hsl::{Args, Array, Error, FunctionDef, Key, NativeCx, Value};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

/// The functions of the group.
pub(crate) fn functions() -> Vec<FunctionDef> {
    vec![
        FunctionDef::pure(
            "gethostname() -> string",
            "Configured name of the host, else the system's.",
            |cx, _| {
                if let Some(name) = &environment::of(cx).hostname {
                    return Ok(name.as_str().into());
                }
                let name = environment::system_hostname();
                name.map(Value::from).map_err(|e| Error::exception(format!("gethostname(): {e}")))
            },
        ),
        FunctionDef::pure(
            "inet_includes(ip: string, network: string) -> boolean or none",
            "Whether a network contains an address.",
            |_, a| Ok(includes(a.bytes(0), a.bytes(1)).into()),
        ),
        FunctionDef::pure("inet_ntop(ip: string) -> string or none", "Text of 4 or 16 bytes.", |_, a| {
            Ok(match a.bytes(0).len() {
                4 => <[u8; 4]>::try_from(a.bytes(0)).ok().map(|b| Ipv4Addr::from(b).to_string()),
                16 => <[u8; 16]>::try_from(a.bytes(0)).ok().map(|b| Ipv6Addr::from(b).to_string()),
                _ => None,
            }
            .into())
        }),
        FunctionDef::pure("inet_pton(ip: string) -> string or none", "Bytes of an address.", |_, a| {
            Ok(address(a.bytes(0))
                .map(|ip| match ip {
                    IpAddr::V4(v4) => v4.octets().to_vec(),
                    IpAddr::V6(v6) => v6.octets().to_vec(),
                })
                .into())
        }),
        FunctionDef::pure(
            "inet_reverse(ip: string, zone?: string) -> string or none",
            "Name for reverse lookups.",
            |_, a| {
                let Some(ip) = address(a.bytes(0)) else { return Ok(Value::None) };
                let (mut labels, default): (Vec<String>, &[u8]) = match ip {
                    IpAddr::V4(v4) => {
                        (v4.octets().iter().map(ToString::to_string).collect(), b"in-addr.arpa")
                    }
                    IpAddr::V6(v6) => {
                        let nibbles = v6
                            .octets()
                            .iter()
                            .flat_map(|o| [o >> 4, o & 15])
                            .map(|n| format!("{n:x}"))
                            .collect();
                        (nibbles, b"ip6.arpa")
                    }
                };
                labels.reverse();
                let mut out = labels.join(".").into_bytes();
                let zone = if a.given(1).is_some() { a.bytes(1) } else { default };
                if !zone.is_empty() {
                    out.push(b'.');
                    out.extend_from_slice(zone);
                }
                Ok(out.into())
            },
        ),
        FunctionDef::pure(
            "url_parse(url: string, options?: array) -> array or none",
            "Components of a URL (RFC 3986).",
            |_, a| Ok(url(a.bytes(0)).into()),
        ),
        FunctionDef::pure(
            "uuid() -> string",
            "A UUID of the configured version: 1 from the time, 4 at random.",
            |cx, _| Ok(uuid(environment::of(cx).uuid_version).into()),
        ),
        FunctionDef::pure(
            "uuidv5(uuidnamespace: string, value: string) -> string",
            "The UUID of a text in a namespace (RFC 9562 section 5.5).",
            |_, a| {
                let namespace = a.string(0);
                let namespace = uuid::Uuid::try_parse_ascii(namespace.as_bytes())
                    .map_err(|e| Error::exception(format!("uuidv5(): '{}': {e}", namespace.to_text())))?;
                Ok(uuid::Uuid::new_v5(&namespace, a.bytes(1)).to_string().into())
            },
        ),
        FunctionDef::pure(
            "syslog(priority: string or number, message: string) -> none",
            "Writes to the system log. The priority is a name or number; a number may add a facility.",
            syslog,
        ),
    ]
}

fn uuid(version: u8) -> String {
    if version == 1 {
        // A node of random bits with the multicast bit set (RFC 9562 section 6.10), the same while the process lives.
        static NODE: LazyLock<[u8; 6]> = LazyLock::new(|| {
            let mut node: [u8; 6] = rand::random();
            node[0] |= 1;
            node
        });
        return uuid::Uuid::now_v1(&NODE).to_string();
    }
    uuid::Uuid::new_v4().to_string()
}

/// Names of RFC 5424 section 6.2.1 as syslog(3) has them, in the order of their numbers.
const PRIORITIES: [&str; 8] = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];
/// Facility `mail` in front of a severity.
const MAIL: usize = 2 << 3;

fn syslog(_: &mut NativeCx<'_>, args: Args<'_>) -> Result<Value, Error> {
    let priority = match args.get(0) {
        Value::Number(n) if (0.0..192.0).contains(n) => *n as usize,
        Value::Number(n) => return Err(Error::exception(format!("syslog(): unknown priority {n}"))),
        name => {
            let name = name.to_string_lossy();
            PRIORITIES.iter().position(|p| *p == name).ok_or_else(|| {
                let expected = PRIORITIES.join(", ");
                Error::exception(format!("syslog(): unknown priority '{name}', expected {expected}"))
            })?
        }
    };
    let priority = if priority < 8 { priority | MAIL } else { priority };
    let mut line = format!("<{priority}>{}[{}]: ", program_name(), std::process::id()).into_bytes();
    for c in args.bytes(1) {
        match c {
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            0 => line.extend_from_slice(b"\\0"),
            c => line.push(*c),
        }
    }
    // A host without a log daemon has no one to tell, as with syslog(3).
    if let Ok(socket) = std::os::unix::net::UnixDatagram::unbound() {
        let _ = socket.set_nonblocking(true);
        let _ = socket.send_to(&line, "/dev/log");
    }
    Ok(Value::None)
}

fn program_name() -> String {
    let path = std::env::args_os().next().map(std::path::PathBuf::from);
    path.and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned())).unwrap_or_else(|| "hsl".to_owned())
}

fn address(text: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The address as a number with its width in bits.
fn bits(ip: IpAddr) -> (u128, u32) {
    match ip {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    }
}

/// Whether a network contains an address, as `inet_includes` has it; `None` when one of them is malformed.
pub fn network_includes(ip: &str, network: &str) -> Option<bool> {
    includes(ip.as_bytes(), network.as_bytes())
}

fn includes(ip: &[u8], network: &[u8]) -> Option<bool> {
    let (ip, width) = bits(address(ip)?);
    let network = std::str::from_utf8(network).ok()?;
    let (low, high, network_width) = if let Some((base, prefix)) = network.split_once('/') {
        let (base, width) = bits(address(base.as_bytes())?);
        if prefix.is_empty() || !prefix.bytes().all(|c| c.is_ascii_digit()) {
            return None;
        }
        let prefix: u32 = prefix.parse().ok().filter(|p| *p <= width)?;
        let host = (width - prefix).min(128);
        let mask = if host == 128 { u128::MAX } else { (1u128 << host) - 1 };
        (base & !mask, base | mask, width)
    } else if let Some((first, last)) = network.split_once('-') {
        let ((low, a), (high, b)) = (bits(address(first.as_bytes())?), bits(address(last.as_bytes())?));
        if a != b || low > high {
            return None;
        }
        (low, high, a)
    } else {
        let (one, width) = bits(address(network.as_bytes())?);
        (one, one, width)
    };
    Some(width == network_width && (low..=high).contains(&ip))
}

fn url(text: &[u8]) -> Option<Array> {
    let text = std::str::from_utf8(text).ok()?;
    if text.bytes().any(|c| c <= b' ' || c == 0x7f) {
        return None;
    }
    let (schema, rest) = text.split_once("://")?;
    let mut letters = schema.chars();
    if !letters.next()?.is_ascii_alphabetic()
        || !letters.all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    {
        return None;
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let (userinfo, hostport) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    let (host, port) = if let Some(v6) = hostport.strip_prefix('[') {
        let (host, tail) = v6.split_once(']')?;
        (host, if tail.is_empty() { None } else { Some(tail.strip_prefix(':')?) })
    } else {
        hostport.split_once(':').map_or((hostport, None), |(h, p)| (h, Some(p)))
    };
    if host.is_empty() {
        return None;
    }
    let mut out = Array::new();
    let mut put = |key: &str, value: Value| {
        out.insert(Key::from(key), value);
    };
    put("schema", schema.to_ascii_lowercase().into());
    if let Some(user) = userinfo {
        let (name, password) = user.split_once(':').map_or((user, None), |(n, p)| (n, Some(p)));
        put("username", name.into());
        if let Some(password) = password {
            put("password", password.into());
        }
    }
    put("hostname", host.to_ascii_lowercase().into());
    if let Some(port) = port.filter(|p| !p.is_empty()) {
        if !port.bytes().all(|c| c.is_ascii_digit()) {
            return None;
        }
        put("port", port.parse::<u16>().ok()?.into());
    }
    let (rest, fragment) = rest.split_once('#').map_or((rest, None), |(r, f)| (r, Some(f)));
    let (path, query) = rest.split_once('?').map_or((rest, None), |(p, q)| (p, Some(q)));
    if !path.is_empty() {
        put("path", path.into());
    }
    if let Some(query) = query {
        put("query", query.into());
    }
    if let Some(fragment) = fragment {
        put("fragment", fragment.into());
    }
    Some(out)
}
