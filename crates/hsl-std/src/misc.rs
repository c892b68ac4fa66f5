//! Random numbers, addresses, URLs, time and other small things (library sections 2, 4, 7 and 10).

use hsl::{Array, Error, FunctionDef, Key, Outcome, Value, parse_number};
use rand::Rng as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longest result of `random_bytes`.
const RANDOM_MAX: i64 = 1 << 20;
/// Longest sleep, seconds; longer ones are cut, which nobody lives to see.
const SLEEP_MAX_S: f64 = 1e9;

/// The functions of the group.
pub(crate) fn functions() -> Vec<FunctionDef> {
    vec![
        FunctionDef::pure("random_bytes(bytes: number)", "Bytes of the random generator.", |_, a| {
            let n = a.integer(0)?;
            if !(0..=RANDOM_MAX).contains(&n) {
                return Err(Error::exception(format!("random_bytes(): expected 0 to {RANDOM_MAX} bytes")));
            }
            let mut out = vec![0; n as usize];
            rand::rng().fill_bytes(&mut out);
            Ok(out.into())
        }),
        FunctionDef::pure("random_number(first?: number, last?: number)", "A random number.", |_, a| {
            if a.given(0).is_none() {
                return Ok(rand::random::<f64>().into());
            }
            let (first, last) =
                if a.given(1).is_some() { (a.integer(0)?, a.integer(1)?) } else { (0, a.integer(0)?) };
            Ok(rand::random_range(first.min(last)..=first.max(last)).into())
        }),
        FunctionDef::pure("executiontime()", "Seconds since the execution began.", |cx, _| {
            Ok(cx.elapsed_s().into())
        }),
        FunctionDef::pure("time()", "Unix time.", |_, _| Ok(unix_time().into())),
        FunctionDef::pure("uptime()", "Seconds since the system started.", |_, _| {
            let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
            let first = text.split(' ').next().and_then(|n| parse_number(n.as_bytes()));
            first.map(Value::from).ok_or_else(|| Error::exception("uptime(): not available"))
        }),
        FunctionDef::full("sleep(seconds: number)", "Waits; the seconds slept.", |_, a| {
            let seconds = a.number(0);
            if seconds.is_nan() {
                return Err(Error::exception("sleep(): expected a number of seconds"));
            }
            if seconds <= 0.0 {
                return Ok(Value::from(0).into());
            }
            let duration = Duration::from_secs_f64(seconds.min(SLEEP_MAX_S));
            Ok(Outcome::Pending(Box::pin(async move {
                let began = std::time::Instant::now();
                tokio::time::sleep(duration).await;
                Ok(began.elapsed().as_secs_f64().into())
            })))
        }),
        FunctionDef::pure("strpduration(duration: string)", "Seconds of a text like 1d2h3m4s.", |_, a| {
            Ok(duration(a.bytes(0)).into())
        }),
        FunctionDef::pure("gethostname()", "Name of the host.", |_, _| {
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
            name.map(|n| n.trim().into()).map_err(|e| Error::exception(format!("gethostname(): {e}")))
        }),
        FunctionDef::pure(
            "inet_includes(ip: string, network: string)",
            "Whether a network contains an address.",
            |_, a| Ok(includes(a.bytes(0), a.bytes(1)).into()),
        ),
        FunctionDef::pure("inet_ntop(ip: string)", "Text of 4 or 16 bytes.", |_, a| {
            Ok(match a.bytes(0).len() {
                4 => <[u8; 4]>::try_from(a.bytes(0)).ok().map(|b| Ipv4Addr::from(b).to_string()),
                16 => <[u8; 16]>::try_from(a.bytes(0)).ok().map(|b| Ipv6Addr::from(b).to_string()),
                _ => None,
            }
            .into())
        }),
        FunctionDef::pure("inet_pton(ip: string)", "Bytes of an address.", |_, a| {
            Ok(address(a.bytes(0))
                .map(|ip| match ip {
                    IpAddr::V4(v4) => v4.octets().to_vec(),
                    IpAddr::V6(v6) => v6.octets().to_vec(),
                })
                .into())
        }),
        FunctionDef::pure("inet_reverse(ip: string, zone?: string)", "Name for reverse lookups.", |_, a| {
            let Some(ip) = address(a.bytes(0)) else { return Ok(Value::None) };
            let (mut labels, default): (Vec<String>, &[u8]) = match ip {
                IpAddr::V4(v4) => (v4.octets().iter().map(ToString::to_string).collect(), b"in-addr.arpa"),
                IpAddr::V6(v6) => {
                    let nibbles =
                        v6.octets().iter().flat_map(|o| [o >> 4, o & 15]).map(|n| format!("{n:x}")).collect();
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
        }),
        FunctionDef::pure(
            "url_parse(url: string, options?: array)",
            "Components of a URL (RFC 3986).",
            |_, a| Ok(url(a.bytes(0)).into()),
        ),
        FunctionDef::pure("uuid()", "A random UUID.", |_, _| {
            let mut b = [0u8; 16];
            rand::rng().fill_bytes(&mut b);
            // Version 4, variant 1 (RFC 9562 section 5.4).
            b[6] = (b[6] & 0x0f) | 0x40;
            b[8] = (b[8] & 0x3f) | 0x80;
            let hex: String = b.iter().map(|c| format!("{c:02x}")).collect();
            Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
                .into())
        }),
    ]
}

fn unix_time() -> f64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(d) => d.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

fn duration(text: &[u8]) -> Option<f64> {
    let mut total = 0.0;
    let mut rest = text;
    let mut seen = Vec::new();
    while !rest.is_empty() {
        let len = rest.iter().take_while(|c| c.is_ascii_digit() || **c == b'.').count();
        let number = parse_number(&rest[..len]).filter(|_| len > 0)?;
        let unit = *rest.get(len)?;
        if seen.contains(&unit) {
            return None;
        }
        seen.push(unit);
        total += number
            * match unit {
                b'd' => 86_400.0,
                b'h' => 3_600.0,
                b'm' => 60.0,
                b's' => 1.0,
                _ => return None,
            };
        rest = &rest[len + 1..];
    }
    if seen.is_empty() { None } else { Some(total) }
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
