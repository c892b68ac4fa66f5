//! Commands on the resolver: what it would answer for a message, and forgetting what it knows.

use crate::daemon::Daemon;
use control::server::{Answer, parse, payload};
use control::smtpd as wire;
use net::nexthop::{self, Choice};
use net::{Candidate, RecordType, Resolver, Target};

/// `resolver query`: the addresses of a domain in the order in which the message with this seed tries them, by the rules
/// that the queue follows, with the address families of a transport that says nothing about them.
pub(super) async fn query(daemon: &Daemon, body: &[u8]) -> Answer {
    let request: wire::ResolverQueryRequest = parse(body)?;
    let generation = daemon.generations.current();
    let domain = mail::address::domain_to_ascii(&request.domain).unwrap_or_else(|_| request.domain.clone());
    let choice = Choice {
        ipv4: request.ipv4,
        ipv6: request.ipv6,
        prefer_ipv6: true,
        own_names: vec![generation.hostname.clone()],
        ..Choice::default()
    };
    let target = Target::parse("lookup-mx", &domain);
    let found = nexthop::candidates(&generation.resolver, &target, &choice, &request.seed).await;
    let candidates = match found {
        Ok(candidates) => candidates,
        Err(error) => {
            return Ok(payload(&wire::ResolverQueryResponse {
                error: error.to_string(),
                ..wire::ResolverQueryResponse::default()
            }));
        }
    };
    // Never empty, so there is a remainder.
    let next = usize::try_from(request.retry % candidates.len() as u64).unwrap_or(0);
    let (_, is_mx_signed) = generation.resolver.query_secure(&domain, RecordType::MX).await;
    let mut all = Vec::with_capacity(candidates.len());
    for candidate in &candidates {
        let dnssec = is_mx_signed && is_signed(&generation.resolver, candidate).await;
        all.push(wire::resolver_query_response::Target {
            address: candidate.address.to_string(),
            hostname: candidate.hostname.clone(),
            dnssec,
            preference: u64::from(candidate.preference),
            ..wire::resolver_query_response::Target::default()
        });
    }
    let next = all.get(next).cloned();
    Ok(payload(&wire::ResolverQueryResponse { next, all, ..wire::ResolverQueryResponse::default() }))
}

/// Whether the address of a host is signed; it was looked up a moment ago, so the cache may know.
async fn is_signed(resolver: &Resolver, candidate: &Candidate) -> bool {
    let kind = if candidate.address.is_ipv4() { RecordType::A } else { RecordType::AAAA };
    resolver.query_secure(&candidate.hostname, kind).await.1
}

/// `resolver clear`.
pub(super) fn clear(daemon: &Daemon, body: &[u8]) -> Answer {
    let request: wire::ResolverCacheClearRequest = parse(body)?;
    let domain = request.domain.as_ref().map(|domain| domain.value.as_str());
    let affected = daemon.generations.current().resolver.clear(domain);
    Ok(payload(&wire::ResolverCacheClearResponse { affected }))
}
