//! DMARC (RFC 7489, with the policy for names that do not exist of RFC 9091): what the domain of From wants done with
//! mail that is not authenticated in its name.

use crate::{
    dkim::TagList,
    dns::{Dns, DnsError},
    spf::SpfResult,
};

/// What the domain owner asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Nothing.
    None,
    /// Suspicion.
    Quarantine,
    /// Refusal.
    Reject,
}

impl Policy {
    fn parse(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "none" => Self::None,
            "quarantine" => Self::Quarantine,
            "reject" => Self::Reject,
            _ => return None,
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Quarantine => "quarantine",
            Self::Reject => "reject",
        }
    }
}

/// The result for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of RFC 7489 11.2")]
pub enum DmarcResult {
    None,
    Pass,
    Fail,
    TempError,
    PermError,
}

impl DmarcResult {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::TempError => "temperror",
            Self::PermError => "permerror",
        }
    }
}

/// What is known about a message.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The domain of From.
    pub from_domain: String,
    /// The domain that SPF checked, if it passed.
    pub spf_domain: Option<String>,
    /// SPF could not be checked now.
    pub spf_temporary: bool,
    /// Domains of signatures that hold.
    pub dkim_domains: Vec<String>,
    /// A signature could not be checked now.
    pub dkim_temporary: bool,
}

impl Evidence {
    /// Notes the result of SPF.
    pub fn spf(&mut self, result: SpfResult, domain: &str) {
        self.spf_domain = (result == SpfResult::Pass).then(|| domain.to_owned());
        self.spf_temporary = result == SpfResult::TempError;
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DmarcOutcome {
    /// The result.
    pub result: DmarcResult,
    /// What the owner asks for mail of this domain; absent without a policy.
    pub policy: Option<Policy>,
    /// Where the policy was found.
    pub policy_domain: Option<String>,
    /// The tags of the policy.
    pub tags: Vec<(String, String)>,
    /// SPF passed for a domain that is aligned.
    pub spf_aligned: bool,
    /// A signature of a domain that is aligned holds.
    pub dkim_aligned: bool,
    /// What was wrong.
    pub error: Option<String>,
}

impl DmarcOutcome {
    fn ended(result: DmarcResult, error: Option<String>) -> Self {
        Self {
            result,
            policy: None,
            policy_domain: None,
            tags: Vec::new(),
            spf_aligned: false,
            dkim_aligned: false,
            error,
        }
    }

    /// What is to be done with the message.
    pub fn disposition(&self) -> Policy {
        match self.result {
            DmarcResult::Fail => self.policy.unwrap_or(Policy::None),
            _ => Policy::None,
        }
    }
}

/// Evaluates a message (RFC 7489 6.6.2). `organizational` gives the part of a domain below its public suffix.
pub async fn evaluate(
    dns: &dyn Dns,
    evidence: &Evidence,
    organizational: &(dyn Fn(&str) -> Option<String> + Send + Sync),
) -> DmarcOutcome {
    let domain = evidence.from_domain.trim_end_matches('.').to_lowercase();
    let domain = idna::domain_to_ascii(&domain).unwrap_or(domain);
    if domain.is_empty() {
        return DmarcOutcome::ended(DmarcResult::PermError, Some("From has no domain".to_owned()));
    }
    let organization = organizational(&domain).unwrap_or_else(|| domain.clone());
    let mut found = match record(dns, &domain).await {
        Ok(found) => found.map(|tags| (tags, domain.clone())),
        Err(text) => return DmarcOutcome::ended(DmarcResult::TempError, Some(text)),
    };
    if found.is_none() && organization != domain {
        found = match record(dns, &organization).await {
            Ok(found) => found.map(|tags| (tags, organization.clone())),
            Err(text) => return DmarcOutcome::ended(DmarcResult::TempError, Some(text)),
        };
    }
    let Some((tags, policy_domain)) = found else { return DmarcOutcome::ended(DmarcResult::None, None) };
    let word = |name: &str| tags.word(name);
    // Without a usable policy but with an address for reports, it is none (RFC 7489 6.6.3).
    let requested = match word("p").as_deref().map(Policy::parse) {
        Some(Some(policy)) => policy,
        _ if word("rua").is_some() => Policy::None,
        _ => {
            return DmarcOutcome::ended(
                DmarcResult::PermError,
                Some(format!("policy of {policy_domain} has no p=")),
            );
        }
    };
    let mut policy = requested;
    if policy_domain != domain {
        policy = word("sp").and_then(|word| Policy::parse(&word)).unwrap_or(policy);
        if let Some(absent) = word("np").and_then(|word| Policy::parse(&word))
            && !exists(dns, &domain).await
        {
            policy = absent;
        }
    }
    let aligned = |other: &str, strict: bool| {
        let other = other.trim_end_matches('.').to_lowercase();
        let other = idna::domain_to_ascii(&other).unwrap_or(other);
        other == domain || (!strict && organizational(&other).unwrap_or(other) == organization)
    };
    let strict = |name: &str| word(name).is_some_and(|word| word.eq_ignore_ascii_case("s"));
    let spf_aligned = evidence.spf_domain.as_ref().is_some_and(|other| aligned(other, strict("aspf")));
    let dkim_aligned = evidence.dkim_domains.iter().any(|other| aligned(other, strict("adkim")));
    let result = if spf_aligned || dkim_aligned {
        DmarcResult::Pass
    } else if evidence.spf_temporary || evidence.dkim_temporary {
        DmarcResult::TempError
    } else {
        DmarcResult::Fail
    };
    DmarcOutcome {
        result,
        policy: Some(policy),
        policy_domain: Some(policy_domain),
        tags: tags.tags().iter().map(|tag| (tag.name.clone(), crate::words::text(&tag.value))).collect(),
        spf_aligned,
        dkim_aligned,
        error: None,
    }
}

/// The one policy record of a domain; several count as none (RFC 7489 6.6.3).
async fn record(dns: &dyn Dns, domain: &str) -> Result<Option<TagList>, String> {
    let name = format!("_dmarc.{domain}");
    let records = match dns.txt(&name).await {
        Ok(records) => records,
        Err(DnsError::Temporary(text)) => return Err(format!("TXT {name}: {text}")),
        Err(DnsError::NoDomain | DnsError::NoRecord) => return Ok(None),
    };
    let mut policies = records
        .iter()
        .filter_map(|record| TagList::parse(record))
        .filter(|tags| tags.get("v") == Some(b"DMARC1"));
    let first = policies.next();
    Ok(if policies.next().is_some() { None } else { first })
}

/// Whether a domain has anything to do with mail or hosts (RFC 9091 2.7). Doubt counts for it.
async fn exists(dns: &dyn Dns, domain: &str) -> bool {
    let absent = |error: &DnsError| !matches!(error, DnsError::Temporary(_));
    let four = dns.ipv4(domain).await.err();
    let six = dns.ipv6(domain).await.err();
    let mx = dns.mx(domain).await.err();
    ![four, six, mx].iter().all(|error| error.as_ref().is_some_and(absent))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::future::Future;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::dns::Lookup;

    struct Zone(HashMap<&'static str, &'static str>);

    impl Dns for Zone {
        fn txt<'a>(&'a self, name: &'a str) -> Lookup<'a, Vec<u8>> {
            let found =
                self.0.get(name).map(|text| text.split('|').map(|text| text.as_bytes().to_vec()).collect());
            Box::pin(async move {
                if name.contains("broken") {
                    Err(DnsError::Temporary("t".into()))
                } else {
                    found.ok_or(DnsError::NoDomain)
                }
            })
        }
        fn ipv4<'a>(&'a self, name: &'a str) -> Lookup<'a, Ipv4Addr> {
            let found = self.0.get(name).map(|_| vec![Ipv4Addr::LOCALHOST]);
            Box::pin(async move { found.ok_or(DnsError::NoDomain) })
        }
        fn ipv6<'a>(&'a self, _: &'a str) -> Lookup<'a, Ipv6Addr> {
            Box::pin(async { Err(DnsError::NoRecord) })
        }
        fn mx<'a>(&'a self, _: &'a str) -> Lookup<'a, String> {
            Box::pin(async { Err(DnsError::NoRecord) })
        }
        fn ptr<'a>(&'a self, _: &'a str) -> Lookup<'a, String> {
            Box::pin(async { Err(DnsError::NoRecord) })
        }
    }

    fn ready<T>(future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(value) => value,
            std::task::Poll::Pending => panic!("waits"),
        }
    }

    fn run(from: &str, spf: Option<&str>, dkim: &[&str]) -> (DmarcResult, Policy) {
        let zone = Zone(HashMap::from([
            ("_dmarc.a.example", "v=DMARC1; p=reject; sp=quarantine; np=reject"),
            ("host.a.example", ""),
            ("_dmarc.strict.example", "v=DMARC1; p=quarantine; aspf=s; adkim=s"),
            ("_dmarc.two.example", "v=DMARC1; p=reject|v=DMARC1; p=none"),
            ("_dmarc.other.example", "v=spf1|v=DMARC1; p=quarantine"),
            ("_dmarc.reports.example", "v=DMARC1; rua=mailto:x@y"),
            ("_dmarc.empty.example", "v=DMARC1; rf=x"),
        ]));
        let evidence = Evidence {
            from_domain: from.into(),
            spf_domain: spf.map(str::to_owned),
            dkim_domains: dkim.iter().map(|domain| (*domain).to_owned()).collect(),
            ..Evidence::default()
        };
        let organizational = |domain: &str| {
            let labels: Vec<&str> = domain.split('.').collect();
            Some(labels[labels.len().saturating_sub(2)..].join("."))
        };
        let outcome = ready(evaluate(&zone, &evidence, &organizational));
        (outcome.result, outcome.disposition())
    }

    #[test]
    fn alignment_and_policies() {
        use DmarcResult::{Fail, None as No, Pass, PermError, TempError};
        use Policy::{None as Nothing, Quarantine, Reject};
        type Case<'a> = (&'a str, Option<&'a str>, &'a [&'a str], DmarcResult, Policy);
        let cases: &[Case<'_>] = &[
            ("a.example", None, &[], Fail, Reject),
            ("a.example", Some("bounce.a.example"), &[], Pass, Nothing),
            ("A.example.", None, &["b.example", "X.A.example"], Pass, Nothing),
            ("a.example", Some("b.example"), &["a.example.b.example"], Fail, Reject),
            ("host.a.example", None, &[], Fail, Quarantine),
            ("nohost.a.example", None, &[], Fail, Reject),
            ("strict.example", Some("x.strict.example"), &["x.strict.example"], Fail, Quarantine),
            ("strict.example", Some("strict.example"), &[], Pass, Nothing),
            ("two.example", None, &[], No, Nothing),
            ("other.example", None, &[], Fail, Quarantine),
            ("none.example", None, &[], No, Nothing),
            ("reports.example", None, &[], Fail, Nothing),
            ("empty.example", None, &[], PermError, Nothing),
            ("broken.example", None, &[], TempError, Nothing),
            ("", None, &[], PermError, Nothing),
        ];
        for (from, spf, dkim, result, disposition) in cases {
            assert_eq!(run(from, *spf, dkim), (*result, *disposition), "{from} {spf:?} {dkim:?}");
        }
    }
}
