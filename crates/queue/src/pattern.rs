//! Match values of policies, suspensions and conditions: exact texts, `*.domain`, networks, regular expressions.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashSet;
use ipnet::IpNet;

use crate::error::QueueError;
use crate::fields::Field;

/// A compiled expression (PCRE2, unanchored). A subject on which the library gives up (match limit) does not match.
#[derive(Clone)]
pub struct Regex {
    inner: Arc<pcre2::bytes::Regex>,
    source: Arc<str>,
}

impl Regex {
    /// Compiles `pattern`.
    pub fn new(pattern: &str, caseless: bool) -> Result<Regex, QueueError> {
        let inner = pcre2::bytes::RegexBuilder::new()
            .caseless(caseless)
            .jit_if_available(true)
            .build(pattern)
            .map_err(|e| QueueError::Regex { pattern: pattern.to_owned(), reason: e.to_string() })?;
        Ok(Regex { inner: Arc::new(inner), source: Arc::from(pattern) })
    }

    /// Whether it matches anywhere in `text`.
    pub fn is_match(&self, text: &str) -> bool {
        matches!(self.inner.is_match(text.as_bytes()), Ok(true))
    }

    /// The expression as written.
    pub fn as_str(&self) -> &str {
        &self.source
    }
}

impl std::fmt::Debug for Regex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "/{}/", self.source)
    }
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

/// One match value.
#[derive(Debug, Clone, PartialEq)]
pub enum Pattern {
    /// The whole value; domains in lower case.
    Exact(String),
    /// `*.domain`: any depth below the domain named here, not the domain itself.
    Below(String),
    /// Address or network.
    Net(IpNet),
    /// Expression.
    Regex(Regex),
    /// Any member of a list.
    List(Arc<Vec<Pattern>>),
}

/// Finds a named list.
pub type Lists<'a> = &'a dyn Fn(&str) -> Option<Arc<Vec<Pattern>>>;

impl Pattern {
    /// Reads the written form for `field`: `/regex/` with flags, `@list`, `*.domain`, network or plain text. A
    /// list that `lists` does not know matches nothing.
    pub fn parse(field: Field, text: &str, lists: Lists<'_>) -> Result<Pattern, QueueError> {
        if let Some(name) = text.strip_prefix('@') {
            return Ok(Pattern::List(lists(name).unwrap_or_default()));
        }
        if field.is_address() {
            return parse_net(text).map(Pattern::Net);
        }
        if let Some(rest) = text.strip_prefix('/')
            && let Some((expression, flags)) = rest.rsplit_once('/')
            && flags.bytes().all(|b| b.is_ascii_alphabetic())
        {
            let inline =
                if flags.is_empty() { expression.to_owned() } else { format!("(?{flags}){expression}") };
            return Regex::new(&inline, true).map(Pattern::Regex);
        }
        if field.is_domain() || field == Field::Grouping {
            if let Some(domain) = text.strip_prefix("*.") {
                return Ok(Pattern::Below(domain.to_ascii_lowercase()));
            }
            if field.is_domain() {
                return Ok(Pattern::Exact(text.to_ascii_lowercase()));
            }
        }
        Ok(Pattern::Exact(text.to_owned()))
    }
}

impl Pattern {
    /// Whether a value written as text matches; addresses are read as such for networks.
    pub fn matches(&self, value: &str) -> bool {
        let matcher = Matcher::new(std::slice::from_ref(self));
        matcher.matches_text(value) || value.parse().is_ok_and(|ip| matcher.matches_ip(ip))
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Pattern::Exact(text) => f.write_str(text),
            Pattern::Below(domain) => write!(f, "*.{domain}"),
            Pattern::Net(net) if net.prefix_len() == net.max_prefix_len() => write!(f, "{}", net.addr()),
            Pattern::Net(net) => write!(f, "{net}"),
            Pattern::Regex(regex) => write!(f, "{regex:?}"),
            Pattern::List(list) => {
                for (i, pattern) in list.iter().enumerate() {
                    write!(f, "{}{pattern}", if i == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
        }
    }
}

/// An address or network; an address alone is a network of one.
pub fn parse_net(text: &str) -> Result<IpNet, QueueError> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(ip));
    }
    text.parse::<IpNet>().map_err(|_| QueueError::Network(text.to_owned()))
}

/// Several match values, any of which may apply; texts are looked up by hash, expressions tried last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Matcher {
    exact: HashSet<Box<str>>,
    below: HashSet<Box<str>>,
    nets: Vec<IpNet>,
    regexes: Vec<Regex>,
}

impl Matcher {
    pub(crate) fn new(patterns: &[Pattern]) -> Matcher {
        let mut matcher = Matcher::default();
        matcher.add(patterns, 0);
        matcher
    }

    fn add(&mut self, patterns: &[Pattern], depth: u8) {
        for pattern in patterns {
            match pattern {
                Pattern::Exact(text) => {
                    self.exact.insert(text.as_str().into());
                }
                Pattern::Below(domain) => {
                    self.below.insert(domain.as_str().into());
                }
                Pattern::Net(net) => self.nets.push(*net),
                Pattern::Regex(regex) => self.regexes.push(regex.clone()),
                // Lists are values without cycles; deeper than eight is no list anybody writes.
                Pattern::List(list) if depth < 8 => self.add(list, depth + 1),
                Pattern::List(_) => {}
            }
        }
    }

    pub(crate) fn matches_text(&self, text: &str) -> bool {
        if self.exact.contains(text) {
            return true;
        }
        if !self.below.is_empty() {
            let mut rest = text;
            while let Some((_, parent)) = rest.split_once('.') {
                if self.below.contains(parent) {
                    return true;
                }
                rest = parent;
            }
        }
        self.regexes.iter().any(|regex| regex.is_match(text))
    }

    /// The plain texts among the values.
    pub(crate) fn exact_texts(&self) -> impl Iterator<Item = &str> {
        self.exact.iter().map(|text| &**text)
    }

    /// The networks among the values.
    pub(crate) fn networks(&self) -> impl Iterator<Item = &IpNet> {
        self.nets.iter()
    }

    pub(crate) fn matches_ip(&self, ip: IpAddr) -> bool {
        self.nets.iter().any(|net| net.contains(&ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_forms() {
        let list: Arc<Vec<Pattern>> = Arc::new(vec![Pattern::Exact("listed.example".into())]);
        let lists = |name: &str| (name == "known").then(|| list.clone());
        for (field, pattern, value, expected) in [
            (Field::RemoteMx, "MX.Example.com", "mx.example.com", true),
            (Field::RemoteMx, "*.example.com", "mx.example.com", true),
            (Field::RemoteMx, "*.example.com", "a.b.example.com", true),
            (Field::RemoteMx, "*.example.com", "example.com", false),
            (Field::RemoteMx, "*.example.com", "notexample.com", false),
            (Field::RemoteMx, "/^MX\\d+\\./", "mx12.example", true),
            (Field::RemoteMx, "@known", "listed.example", true),
            (Field::RemoteMx, "@unknown", "listed.example", false),
            (Field::JobId, "Job", "job", false),
            (Field::JobId, "/^campaign/", "Campaign-1", true),
            (Field::JobId, "a/b", "a/b", true),
            (Field::Grouping, "&google", "&google", true),
        ] {
            let pattern = Pattern::parse(field, pattern, &lists).unwrap();
            assert_eq!(
                Matcher::new(std::slice::from_ref(&pattern)).matches_text(value),
                expected,
                "{pattern:?} {value}"
            );
        }
        let net = Pattern::parse(Field::LocalIp, "192.0.2.0/28", &lists).unwrap();
        let matcher = Matcher::new(&[net]);
        assert!(matcher.matches_ip("192.0.2.15".parse().unwrap()));
        assert!(!matcher.matches_ip("192.0.2.16".parse().unwrap()));
        assert!(Pattern::parse(Field::LocalIp, "example", &lists).is_err());
        assert!(Pattern::parse(Field::JobId, "/(/", &lists).is_err());
    }
}
