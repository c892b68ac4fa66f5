//! Policies as text (RFC 7208 4.6.1, 12). One syntax error anywhere makes the whole policy unusable.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::macros::MacroString;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Qualifier {
    Pass,
    Fail,
    SoftFail,
    Neutral,
}

/// Prefix lengths for both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefixes {
    v4: u8,
    v6: u8,
}

impl Prefixes {
    pub(super) fn of(self, ip: IpAddr) -> u8 {
        if ip.is_ipv4() { self.v4 } else { self.v6 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mechanism {
    All,
    Include(MacroString),
    A(Option<MacroString>, Prefixes),
    Mx(Option<MacroString>, Prefixes),
    Ptr(Option<MacroString>),
    Ip4(Ipv4Addr, u8),
    Ip6(Ipv6Addr, u8),
    Exists(MacroString),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Directive {
    pub(super) qualifier: Qualifier,
    pub(super) mechanism: Mechanism,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) directives: Vec<Directive>,
    pub(super) redirect: Option<MacroString>,
    pub(super) explanation: Option<MacroString>,
}

impl Record {
    pub(super) fn parse(record: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(record).ok().filter(|text| text.is_ascii());
        let text = text.ok_or("policy is not ASCII")?;
        let mut parsed = Self::default();
        // The version was looked at when the record was chosen.
        for term in text.get(6..).unwrap_or_default().split(' ').filter(|term| !term.is_empty()) {
            match modifier(term) {
                Some(("redirect", value)) => {
                    if parsed.redirect.replace(MacroString::parse_domain(value)?).is_some() {
                        return Err("redirect occurs twice".to_owned());
                    }
                }
                Some(("exp", value)) => {
                    if parsed.explanation.replace(MacroString::parse_domain(value)?).is_some() {
                        return Err("exp occurs twice".to_owned());
                    }
                }
                Some((_, value)) => {
                    MacroString::parse_value(value)?;
                }
                None => parsed.directives.push(directive(term)?),
            }
        }
        Ok(parsed)
    }
}

/// Name (lower case where known) and value, if the term is a modifier.
fn modifier(term: &str) -> Option<(&str, &str)> {
    let (name, value) = term.split_once('=')?;
    let mut letters = name.chars();
    let legal = letters.next()?.is_ascii_alphabetic()
        && letters.all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if !legal {
        return None;
    }
    let known = ["redirect", "exp"].into_iter().find(|known| known.eq_ignore_ascii_case(name));
    Some((known.unwrap_or(name), value))
}

fn directive(term: &str) -> Result<Directive, String> {
    let (qualifier, rest) = match term.as_bytes()[0] {
        b'+' => (Qualifier::Pass, &term[1..]),
        b'-' => (Qualifier::Fail, &term[1..]),
        b'~' => (Qualifier::SoftFail, &term[1..]),
        b'?' => (Qualifier::Neutral, &term[1..]),
        _ => (Qualifier::Pass, term),
    };
    let end = rest.find([':', '/']).unwrap_or(rest.len());
    let (name, tail) = rest.split_at(end);
    let wrong = || format!("'{term}' is no mechanism");
    let argument = tail.strip_prefix(':');
    let mechanism = match name.to_ascii_lowercase().as_str() {
        "all" if tail.is_empty() => Mechanism::All,
        "include" => Mechanism::Include(MacroString::parse_domain(argument.ok_or_else(wrong)?)?),
        "exists" => Mechanism::Exists(MacroString::parse_domain(argument.ok_or_else(wrong)?)?),
        "ptr" if tail.is_empty() => Mechanism::Ptr(None),
        "ptr" => Mechanism::Ptr(Some(MacroString::parse_domain(argument.ok_or_else(wrong)?)?)),
        "a" => {
            let (target, prefixes) = target(tail).ok_or_else(wrong)?;
            Mechanism::A(target.map(MacroString::parse_domain).transpose()?, prefixes)
        }
        "mx" => {
            let (target, prefixes) = target(tail).ok_or_else(wrong)?;
            Mechanism::Mx(target.map(MacroString::parse_domain).transpose()?, prefixes)
        }
        "ip4" => {
            let (address, prefix) = network(argument.ok_or_else(wrong)?, 32).ok_or_else(wrong)?;
            Mechanism::Ip4(address.parse().map_err(|_| wrong())?, prefix)
        }
        "ip6" => {
            let (address, prefix) = network(argument.ok_or_else(wrong)?, 128).ok_or_else(wrong)?;
            Mechanism::Ip6(address.parse().map_err(|_| wrong())?, prefix)
        }
        _ => return Err(wrong()),
    };
    Ok(Directive { qualifier, mechanism })
}

fn network(text: &str, max: u8) -> Option<(&str, u8)> {
    match text.split_once('/') {
        Some((address, prefix)) => Some((address, length(prefix, max)?)),
        None => Some((text, max)),
    }
}

/// `[":" domain-spec] [dual-cidr-length]`; a domain may itself hold slashes.
fn target(tail: &str) -> Option<(Option<&str>, Prefixes)> {
    let mut rest = tail;
    let mut prefixes = Prefixes { v4: 32, v6: 128 };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if let Some((before, prefix)) = rest.rsplit_once("//")
        && digits(prefix)
    {
        prefixes.v6 = length(prefix, 128)?;
        rest = before;
    }
    if let Some((before, prefix)) = rest.rsplit_once('/')
        && digits(prefix)
    {
        prefixes.v4 = length(prefix, 32)?;
        rest = before;
    }
    match rest.strip_prefix(':') {
        Some(domain) => Some((Some(domain), prefixes)),
        None if rest.is_empty() => Some((None, prefixes)),
        None => None,
    }
}

/// A prefix length without leading zeros.
fn length(text: &str, max: u8) -> Option<u8> {
    let legal = text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    text.parse().ok().filter(|length| legal && *length <= max)
}
