//! Commands on the resolver: the next hop of a domain, as a delivery with that seed and retry would choose it, and
//! forgetting what it knows.

use crate::daemon::Daemon;
use crate::delivery::peer::Dane;
use crate::queueing::predelivery::{address_judge, host_judge};
use crate::transport::Filter;
use control::server::{Answer, parse, payload};
use control::smtpd as wire;
use control::smtpd::resolver_query_response as response;
use net::nexthop::{self, Choice};
use net::{Candidate, Resolver, Target};

/// The port that TLSA records are asked for.
const SMTP_PORT: u16 = 25;

pub(super) async fn query(daemon: &Daemon, body: &[u8]) -> Answer {
    let request: wire::ResolverQueryRequest = parse(body)?;
    let generation = daemon.generations.current();
    let resolver = &generation.resolver;
    // Neither family asked for is no question; it stands for both.
    let both = !request.ipv4 && !request.ipv6;
    let filter = Filter::default();
    let choice = Choice {
        ipv4: request.ipv4 || both,
        ipv6: request.ipv6 || both,
        prefer_ipv6: true,
        own_names: vec![generation.hostname.clone()],
        admits_host: host_judge(&filter, &generation.excluded),
        admits_address: address_judge(&filter, &generation.excluded),
    };
    let domain = match mail::address::domain_to_ascii(&request.domain) {
        Ok(domain) => domain,
        Err(_) => request.domain.clone(),
    };
    let target = Target::parse("lookup-mx", &domain);
    let found = match nexthop::candidates(resolver, &target, &choice, &request.seed).await {
        Ok(found) => found,
        Err(error) => {
            return Ok(payload(&wire::ResolverQueryResponse {
                error: error.to_string(),
                ..wire::ResolverQueryResponse::default()
            }));
        }
    };
    let mut all = Vec::with_capacity(found.len());
    for candidate in &found {
        all.push(describe(resolver, candidate).await);
    }
    // Never empty, as candidates() promises; the place is that of an attempt with this retry count.
    let at = usize::try_from(request.retry).unwrap_or(usize::MAX) % all.len().max(1);
    Ok(payload(&wire::ResolverQueryResponse {
        next: all.get(at).cloned(),
        all,
        ttl: f64::from(resolver.mx_ttl_s(&domain).await),
        error: String::new(),
    }))
}

async fn describe(resolver: &Resolver, candidate: &Candidate) -> response::Target {
    let dane = match candidate.is_secure {
        true => Dane::find(resolver, &candidate.hostname, SMTP_PORT).await,
        false => Dane::None,
    };
    let records = match &dane {
        Dane::Records { all, .. } => &all[..],
        Dane::None | Dane::Failed { .. } => &[],
    };
    let tlsa = |record: &net::tls::Tlsa| response::Tlsa {
        usage: record.usage.into(),
        selector: record.selector.into(),
        mtype: record.matching.into(),
        data: record.data.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    response::Target {
        address: candidate.address.to_string(),
        hostname: candidate.hostname.clone(),
        dnssec: candidate.is_secure,
        preference: candidate.preference.into(),
        tlsa: records.iter().map(tlsa).collect(),
        tlsadnssec: !records.is_empty(),
    }
}

/// `resolver clear`.
pub(super) fn clear(daemon: &Daemon, body: &[u8]) -> Answer {
    let request: wire::ResolverCacheClearRequest = parse(body)?;
    let domain = request.domain.as_ref().map(|domain| domain.value.as_str());
    let affected = daemon.generations.current().resolver.clear(domain);
    Ok(payload(&wire::ResolverCacheClearResponse { affected }))
}
