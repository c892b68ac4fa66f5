//! The openspf test suite for RFC 7208, fetched by `scripts/python-tests.sh` (it is part of the sources of pyspf). The
//! zones of the suite answer through the trait, everything else is ours.

use std::collections::HashMap;
use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use mail::dns::{Dns, DnsError, Lookup};
use mail::spf::{SpfQuery, check};
use serde::Deserialize;

#[derive(Deserialize)]
struct Scenario {
    description: String,
    tests: HashMap<String, Case>,
    zonedata: HashMap<String, Vec<Record>>,
}

#[derive(Deserialize)]
struct Case {
    helo: Option<String>,
    host: String,
    mailfrom: Option<String>,
    result: OneOrMore,
    explanation: Option<String>,
}

#[derive(Deserialize, Clone)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn list(&self) -> Vec<String> {
        match self {
            OneOrMore::One(one) => vec![one.clone()],
            OneOrMore::More(list) => list.clone(),
        }
    }
}

#[derive(Deserialize, Clone)]
#[serde(untagged)]
enum Record {
    Word(String),
    Pair(HashMap<String, Data>),
}

#[derive(Deserialize, Clone)]
#[serde(untagged)]
enum Data {
    Text(String),
    Texts(Vec<String>),
    Mx(#[expect(dead_code, reason = "the order is that of the file")] u16, String),
}

/// The zone data of a scenario, with the meaning that its reference implementation gives it.
struct Zone(HashMap<String, Vec<Record>>);

impl Zone {
    fn lookup(&self, name: &str, kind: &str, aliases: u32) -> Result<Vec<Data>, DnsError> {
        let name = name.to_ascii_lowercase();
        let Some(records) = self.0.get(&name) else { return Err(DnsError::NoDomain) };
        // Policies are written as type SPF and stand for TXT too, unless TXT is named.
        let has_txt = records.iter().any(|r| matches!(r, Record::Pair(p) if p.contains_key("TXT")));
        let mut found = Vec::new();
        for record in records {
            match record {
                Record::Word(word) if word == "TIMEOUT" && found.is_empty() => {
                    return Err(DnsError::Temporary("timeout".into()));
                }
                Record::Word(_) => {}
                Record::Pair(pair) => {
                    for (key, data) in pair {
                        let wanted = key == kind || (kind == "TXT" && key == "SPF" && !has_txt);
                        match data {
                            Data::Text(text) if wanted && text == "NONE" => {}
                            Data::Text(text) if wanted && text == "TIMEOUT" => {
                                return Err(DnsError::Temporary("timeout".into()));
                            }
                            _ if wanted => found.push(data.clone()),
                            Data::Text(target) if key == "CNAME" => {
                                if aliases == 0 {
                                    return Err(DnsError::Temporary("alias loop".into()));
                                }
                                return self.lookup(target.trim_end_matches('.'), kind, aliases - 1);
                            }
                            _ => {}
                        }
                    }
                }
            }
        }
        if found.is_empty() { Err(DnsError::NoRecord) } else { Ok(found) }
    }

    fn texts(&self, name: &str, kind: &str) -> Result<Vec<String>, DnsError> {
        let text = |data: Data| match data {
            Data::Text(text) => text,
            Data::Texts(list) => list.concat(),
            Data::Mx(_, host) => host,
        };
        Ok(self.lookup(name, kind, 8)?.into_iter().map(text).collect())
    }
}

impl Dns for Zone {
    fn txt<'a>(&'a self, name: &'a str) -> Lookup<'a, Vec<u8>> {
        // Texts of the suite are byte strings written as Latin-1.
        let bytes = |text: String| text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect();
        let found = self.texts(name, "TXT").map(|list| list.into_iter().map(bytes).collect());
        Box::pin(async { found })
    }
    fn ipv4<'a>(&'a self, name: &'a str) -> Lookup<'a, Ipv4Addr> {
        let found = self.texts(name, "A").map(|list| list.iter().map(|text| text.parse().unwrap()).collect());
        Box::pin(async { found })
    }
    fn ipv6<'a>(&'a self, name: &'a str) -> Lookup<'a, Ipv6Addr> {
        let found =
            self.texts(name, "AAAA").map(|list| list.iter().map(|text| text.parse().unwrap()).collect());
        Box::pin(async { found })
    }
    fn mx<'a>(&'a self, name: &'a str) -> Lookup<'a, String> {
        let found = self.texts(name, "MX");
        Box::pin(async { found })
    }
    fn ptr<'a>(&'a self, name: &'a str) -> Lookup<'a, String> {
        let found = self.texts(name, "PTR");
        Box::pin(async { found })
    }
}

fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the zones answer at once"),
    }
}

#[test]
fn rfc_7208_suite() {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target"), PathBuf::from);
    let path = target.join("python-tests/rfc7208-tests.yml");
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; run scripts/python-tests.sh first", path.display()));
    let (mut passed, mut failures) = (0, Vec::new());
    for document in text.split("\n---\n").filter(|text| text.contains("zonedata:")) {
        let scenario: Scenario = serde_saphyr::from_str(document).unwrap();
        let zone = Zone(
            scenario
                .zonedata
                .into_iter()
                .map(|(name, records)| (name.to_ascii_lowercase(), records))
                .collect(),
        );
        for (name, case) in scenario.tests {
            let query = SpfQuery {
                ip: case.host.parse().unwrap(),
                helo: case.helo.unwrap_or_default(),
                sender: case.mailfrom.unwrap_or_default(),
                hostname: String::new(),
                now_s: 0,
            };
            let outcome = ready(check(&zone, &query));
            let wanted = case.result.list();
            let result_fits = wanted.iter().any(|result| result == outcome.result.name());
            // DEFAULT means that the domain gives no explanation.
            let explained = match case.explanation.as_deref() {
                Some("DEFAULT") => outcome.reason.is_none(),
                Some(text) => outcome.reason.as_deref() == Some(text),
                None => true,
            };
            if result_fits && explained {
                passed += 1;
            } else {
                failures.push(format!(
                    "{} / {name}: {} {:?}, expected {wanted:?} {:?}",
                    scenario.description,
                    outcome.result.name(),
                    outcome.reason,
                    case.explanation
                ));
            }
        }
    }
    let total = passed + failures.len();
    println!("openspf suite for RFC 7208: {passed} of {total}");
    assert!(failures.is_empty(), "{passed} of {total} pass:\n{}", failures.join("\n"));
    assert!(total > 200, "only {total} cases found");
}
