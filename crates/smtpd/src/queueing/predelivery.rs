//! From due to ACTIVE: the pre-delivery hook, the transport and the next hop.

use crate::delivery::result::{Attempt, AttemptError, Ending, ErrorKind};
use crate::generation::Generation;
use crate::hooks::ContextValue;
use crate::hooks::delivery::{self, PreDecision, TryOptions};
use crate::queueing::engine::{Engine, Plan};
use crate::queueing::job::Job;
use crate::transport::{Filter, Transport, names_match, networks};
use crate::{info, warning};
use ipnet::IpNet;
use net::nexthop::{self, Choice, Judge};
use net::{Candidate, Target};
use queue::{Outcome, QueueError, Resolved, Settled, Ticket};
use std::net::IpAddr;
use std::sync::Arc;

impl Engine {
    /// The common case without a task of its own: no hook, and a transport with a fixed address. Gives the
    /// ticket back when more is needed.
    pub(super) fn quick_predelivery(&self, ticket: Ticket) -> Option<Ticket> {
        let mut queue = self.queue.lock();
        let generation = self.generations.of_message(queue.entry(ticket.key())?.stage_id());
        if generation.predelivery.is_some() {
            return Some(ticket);
        }
        let resolved = {
            let entry = queue.entry(ticket.key())?;
            let transport = generation.transports.get(entry.transport_id());
            let Some(transport) = transport.filter(|transport| transport.sources.is_empty()) else {
                return Some(ticket);
            };
            let Ok(address) = transport.server.parse::<IpAddr>() else { return Some(ticket) };
            if !generation.excluded.is_empty() {
                return Some(ticket);
            }
            let hostname = transport.server.clone();
            let candidate = Candidate { address, hostname, preference: 0, is_secure: false };
            let domain = entry.recipient_domain().to_owned();
            resolved(&generation, transport, &candidate, &domain, None)
        };
        if let Err(failure) = queue.resolved(self.now(), ticket, &resolved) {
            crate::error!("", "queue: {failure}");
        }
        None
    }

    /// Runs the hook, finds the next hop and puts the entry into its lane.
    pub(super) async fn predelivery(self: Arc<Self>, ticket: Ticket) {
        let Some(job) = self.job(ticket.key()) else { return };
        let generation = self.generations.of_message(&job.stage_id);
        let mut context = ContextValue::default();
        let (job, decision) = match &generation.predelivery {
            None => (job, PreDecision::Try(None)),
            Some(script) => {
                let decision = delivery::predelivery(script, &self, &job, &mut context).await;
                // The script may have changed the metadata.
                (self.job(ticket.key()).unwrap_or(job), decision)
            }
        };
        match decision {
            PreDecision::Try(options) => {
                self.resolve(ticket, job, &generation, options.map(Arc::from), context).await
            }
            PreDecision::Queue(options) => self.requeue(ticket, &job, &generation, *options, None).await,
            PreDecision::Bounce(bounce) => {
                self.bounce(ticket, &job, &generation, None, *bounce, context).await
            }
            PreDecision::Delete(reason) => self.delete(ticket, &job, &generation, reason, context).await,
        }
    }

    async fn resolve(
        self: Arc<Self>,
        ticket: Ticket,
        job: Job,
        generation: &Arc<Generation>,
        options: Option<Arc<TryOptions>>,
        context: ContextValue,
    ) {
        let found = match generation.transports.get(&job.transport_id) {
            None => {
                Err(AttemptError::new(ErrorKind::Config, format!("unknown transport '{}'", job.transport_id)))
            }
            Some(transport) => {
                let overridden = options
                    .as_ref()
                    .map(|options| delivery::override_transport(options, transport, generation))
                    .transpose();
                match overridden {
                    Err(error) => Err(error),
                    Ok(overridden) => {
                        let transport = overridden.as_ref().unwrap_or(transport).clone();
                        candidates(generation, &transport, &job, options.as_deref())
                            .await
                            .map(|candidates| (transport, overridden, candidates))
                    }
                }
            }
        };
        let (transport, overridden, candidates) = match found {
            Ok(found) => found,
            Err(error) => {
                info!(job, "no next hop for {}: {}", job.recipient, error.message);
                let attempt = Attempt { ending: Ending::Error(error), connection: None, duration_s: 0.0 };
                return self
                    .after_failure(ticket, &job, generation, attempt, options.as_deref(), context)
                    .await;
            }
        };
        let index = job.retry as usize % candidates.len();
        let domain = match options.as_ref().and_then(|options| options.recipient.as_ref()) {
            Some(recipient) => recipient.domain.clone(),
            None => job.recipient.domain.clone(),
        };
        let resolved = resolved(generation, &transport, &candidates[index], &domain, options.as_deref());
        let is_secure = candidates[index].is_secure;
        let plan = Plan { transport: overridden, options, context, is_secure, failovers: 0 };
        let is_plain =
            plan.options.is_none() && plan.context.is_none() && !transport.session.tls.mode.uses_dane();
        if !is_plain {
            self.plans.lock().insert(job.key, plan);
        }
        let moved = self.queue.lock().resolved(self.now(), ticket, &resolved);
        self.note_move(&job, moved).await;
    }

    /// Puts an entry whose connection failed back with its next candidate; gives the ticket back when there is
    /// none left.
    pub(super) async fn fail_over(
        &self,
        ticket: Ticket,
        job: &Job,
        generation: &Generation,
    ) -> Option<Ticket> {
        let (overridden, options, failovers) = match self.plans.lock().get(&job.key) {
            Some(plan) => (plan.transport.clone(), plan.options.clone(), plan.failovers),
            None => (None, None, 0),
        };
        let transport = overridden.or_else(|| generation.transports.get(&job.transport_id).cloned());
        let Some(transport) = transport.filter(|_| failovers < generation.failover) else {
            return Some(ticket);
        };
        let options = options.as_deref();
        // While DNS says the same, they come in the same order.
        let Ok(candidates) = candidates(generation, &transport, job, options).await else {
            return Some(ticket);
        };
        let tried = failovers as usize + 1;
        if tried >= candidates.len() {
            return Some(ticket);
        }
        let next = &candidates[(job.retry as usize + tried) % candidates.len()];
        let domain = options.and_then(|o| o.recipient.as_ref()).map_or(&job.recipient.domain, |r| &r.domain);
        let resolved = resolved(generation, &transport, next, domain, options);
        {
            let mut plans = self.plans.lock();
            let plan = plans.entry(job.key).or_default();
            plan.failovers += 1;
            plan.is_secure = next.is_secure;
        }
        if let Err(failure) = self.queue.lock().failover(self.now(), ticket, &resolved) {
            warning!(job, "queue: {failure}");
        }
        self.wake();
        None
    }

    /// After a move within the queue: a frozen entry is to stay so over a restart.
    pub(super) async fn note_move(&self, job: &Job, moved: Result<Settled, QueueError>) {
        self.wake();
        match moved {
            Ok(Settled::Frozen) => self.persist_frozen(job).await,
            Ok(_) => {}
            Err(failure) => warning!(job, "queue: {failure}"),
        }
    }

    /// Gives an entry back unchanged (a pick that could not begin).
    pub(super) fn relinquish(&self, ticket: Ticket) {
        self.settle(ticket, Outcome::Relinquish);
    }
}

async fn candidates(
    generation: &Generation,
    transport: &Transport,
    job: &Job,
    options: Option<&TryOptions>,
) -> Result<Vec<Candidate>, AttemptError> {
    let choice = Choice {
        ipv4: transport.ipv4,
        ipv6: transport.ipv6,
        prefer_ipv6: transport.prefer_ipv6,
        own_names: vec![generation.hostname.clone()],
        admits_host: host_judge(&transport.filter, &generation.excluded),
        admits_address: address_judge(&transport.filter, &generation.excluded),
    };
    let recipient = options.and_then(|options| options.recipient.as_ref()).unwrap_or(&job.recipient);
    let domain = match mail::address::domain_to_ascii(&recipient.domain) {
        Ok(domain) => domain,
        Err(_) => recipient.domain.clone(),
    };
    let hosts = match options.map(|options| &options.hosts[..]) {
        Some(hosts) if !hosts.is_empty() => hosts,
        _ => std::slice::from_ref(&transport.server),
    };
    let mut all = Vec::new();
    let mut error = None;
    for host in hosts {
        let target = Target::parse(host, &domain);
        match nexthop::candidates(&generation.resolver, &target, &choice, &job.seed()).await {
            Ok(found) => all.extend(found),
            Err(failure) => error = Some(failure),
        }
    }
    match error {
        Some(error) if all.is_empty() => Err(error.into()),
        _ => Ok(all),
    }
}

pub(crate) fn host_judge(filter: &Filter, excluded: &[String]) -> Option<Judge<str>> {
    let exclude: Vec<String> = filter.mx_exclude.iter().chain(excluded).cloned().collect();
    if filter.mx_include.is_empty() && exclude.is_empty() {
        return None;
    }
    let include = filter.mx_include.clone();
    let admits =
        move |host: &str| (include.is_empty() || names_match(&include, host)) && !names_match(&exclude, host);
    Some(Judge(Arc::new(admits)))
}

pub(crate) fn address_judge(filter: &Filter, excluded: &[String]) -> Option<Judge<IpAddr>> {
    let exclude: Vec<IpNet> = [networks(&filter.ip_exclude), networks(excluded)].concat();
    if filter.ip_include.is_empty() && exclude.is_empty() {
        return None;
    }
    let include = networks(&filter.ip_include);
    let has = |list: &[IpNet], address: &IpAddr| list.iter().any(|network| network.contains(address));
    let admits =
        move |address: &IpAddr| (include.is_empty() || has(&include, address)) && !has(&exclude, address);
    Some(Judge(Arc::new(admits)))
}

fn resolved(
    generation: &Generation,
    transport: &Transport,
    candidate: &Candidate,
    recipient_domain: &str,
    options: Option<&TryOptions>,
) -> Resolved {
    let six = candidate.address.is_ipv6();
    let local_ips =
        transport.sources.iter().map(|source| source.ip).filter(|ip| ip.is_ipv6() == six).collect();
    Resolved {
        local_ips,
        local_ips_ordered: !transport.sources_random,
        remote_ip: Some(candidate.address),
        remote_mx: candidate.hostname.clone(),
        grouping: generation.grouping.value(&candidate.hostname, recipient_domain, candidate.address),
        transport_id: None,
        job_id: options.and_then(|options| options.job_id.clone()),
        tenant_id: options.and_then(|options| options.tenant_id.clone()),
        recipient_domain: options.and_then(|options| options.recipient.as_ref()).map(|r| r.domain.clone()),
    }
}
