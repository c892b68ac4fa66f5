//! One delivery attempt, from pickup to its result.

use crate::delivery::connection::{Opener, Route};
use crate::delivery::peer::Dane;
use crate::delivery::pool::Key;
use crate::delivery::result::{Attempt, AttemptError, Class, ConnectionInfo, Ending, ErrorKind};
use crate::generation::Generation;
use crate::hooks::ContextValue;
use crate::hooks::delivery::{self, QueueOptions, TryOptions};
use crate::queueing::engine::{Engine, Gauge, Picked};
use crate::queueing::job::Job;
use crate::queueing::settle::DEFECT_DELAY_S;
use crate::queueing::store::Stored;
use crate::transport::{Source, Transport};
use crate::{error, info};
use queue::{AttemptClass, Ticket};
use smtp::client::Envelope;
use spool::SpoolError;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

impl Engine {
    /// Delivers the picked entry and settles it.
    pub(super) async fn attempt(self: Arc<Self>, pick: Picked) {
        let ticket = pick.ticket;
        let Some(mut job) = self.job(ticket.key()) else { return };
        let generation = self.generations.of_message(&job.stage_id);
        let (overridden, options, is_secure) = match self.plans.lock().get(&job.key) {
            Some(plan) => (plan.transport.clone(), plan.options.clone(), Some(plan.is_secure)),
            None => (None, None, None),
        };
        if let Some(dsn) = options.as_ref().and_then(|options| options.dsn.as_ref()) {
            // For this attempt they are the parameters of the message, also in reports about it.
            job.dsn = Some(queue::Dsn {
                envid: dsn.envid.clone(),
                ret: dsn.ret.clone(),
                notify: dsn.notify.join(","),
                orcpt: dsn.orcpt.clone(),
            });
        }
        let Some(transport) = overridden.or_else(|| generation.transports.get(&job.transport_id).cloned())
        else {
            // A reload took the transport away; pre-delivery reports it.
            return self.relinquish(ticket);
        };
        let transport =
            match self.with_settings(&job, &generation, &transport, options.as_deref(), pick.local_ip) {
                Ok(changed) => changed.unwrap_or(transport),
                Err(error) => {
                    let attempt = Attempt { ending: Ending::Error(error), connection: None, duration_s: 0.0 };
                    return self.finish_attempt(ticket, job, generation, options, attempt).await;
                }
            };
        let source = chosen_source(&transport, pick.local_ip, pick.local_index, job.remote_ip);
        if source.is_none() && !transport.sources.is_empty() {
            // A reload took the chosen source away; the limits of another one have to be asked for.
            return self.relinquish(ticket);
        }
        let uses_dane = transport.session.tls.mode.uses_dane();
        if uses_dane && is_secure.is_none() && job.remote_mx.parse::<IpAddr>().is_err() {
            // A reload brought DANE; whether the way here is signed was not noted.
            return self.relinquish(ticket);
        }
        let started = Instant::now();
        let gauge = Gauge::new(&self.connections);
        let dane = match is_secure {
            Some(true) if uses_dane => Dane::find(&generation.resolver, &job.remote_mx, transport.port).await,
            _ => Dane::None,
        };
        let talk =
            self.converse(&ticket, &job, &generation, &transport, options.as_deref(), source, &dane).await;
        drop(gauge);
        let (ending, connection, may_fail_over) = match talk {
            Ok(talk) => talk,
            Err(failure) => return self.unreadable(ticket, &job, &generation, failure).await,
        };
        let attempt = Attempt { ending, connection, duration_s: started.elapsed().as_secs_f64() };
        let ticket = if may_fail_over && attempt.ending.class() == Class::Temporary {
            match self.fail_over(ticket, &job, &generation).await {
                None => {
                    info!(job, "{} for {}, trying the next address", attempt.ending.text(), job.recipient);
                    return;
                }
                Some(ticket) => ticket,
            }
        } else {
            ticket
        };
        self.finish_attempt(ticket, job, generation, options, attempt).await;
    }

    /// The transport as the delivery settings change it for this attempt; the options of `Try` go before them.
    fn with_settings(
        &self,
        job: &Job,
        generation: &Generation,
        transport: &Arc<Transport>,
        options: Option<&TryOptions>,
        local_ip: IpAddr,
    ) -> Result<Option<Arc<Transport>>, AttemptError> {
        let settings = self.settings.read().clone();
        if settings.is_empty() {
            return Ok(None);
        }
        let mut changed = (**transport).clone();
        settings.apply(&mut changed, &|field| job.field(field, Some(local_ip)));
        match options {
            None => Ok(Some(Arc::new(changed))),
            Some(options) => delivery::override_transport(options, &changed, generation).map(Some),
        }
    }

    /// The message cannot be read back. Damage parks it for an operator; a passing failure of the system only
    /// puts it off.
    async fn unreadable(
        self: Arc<Self>,
        ticket: Ticket,
        job: &Job,
        generation: &Arc<Generation>,
        failure: SpoolError,
    ) {
        let is_damage = matches!(failure, SpoolError::Corrupt { .. } | SpoolError::NotFound(_));
        let what = if is_damage { "held" } else { "put off" };
        error!(job, "{what}, its content cannot be read: {failure}");
        let options = QueueOptions {
            hold: is_damage,
            delay_s: Some(DEFECT_DELAY_S),
            increment_retry: false,
            reason: Some(failure.to_string()),
            ..QueueOptions::default()
        };
        self.requeue(ticket, job, generation, options, None).await;
    }

    async fn finish_attempt(
        self: Arc<Self>,
        ticket: Ticket,
        job: Job,
        generation: Arc<Generation>,
        options: Option<Arc<TryOptions>>,
        attempt: Attempt,
    ) {
        let class = match attempt.ending.class() {
            Class::Delivered => AttemptClass::Delivered,
            Class::Temporary => AttemptClass::Delayed,
            Class::Permanent => AttemptClass::Failed,
        };
        if let Err(failure) = self.queue.lock().attempt_done(self.now(), &ticket, class) {
            error!(job, "queue: {failure}");
        }
        self.wake();
        let context =
            self.plans.lock().remove(&job.key).map_or_else(ContextValue::default, |plan| plan.context);
        let peer = attempt.connection.as_ref().map_or(job.remote_mx.as_str(), |info| &info.remote_mx);
        match class {
            AttemptClass::Delivered => {
                info!(
                    job,
                    "delivered to {} by {peer} in {:.3}s: {}",
                    job.recipient,
                    attempt.duration_s,
                    attempt.ending.text()
                );
                let is_delivered = options.as_deref().and_then(|options| options.success_is_delivered);
                self.after_success(ticket, &job, &generation, attempt, is_delivered, context).await;
            }
            _ => {
                info!(
                    job,
                    "attempt {} for {} by {peer} failed: {}",
                    job.retry,
                    job.recipient,
                    attempt.ending.text()
                );
                self.after_failure(ticket, &job, &generation, attempt, options.as_deref(), context).await;
            }
        }
    }

    /// Connects, or takes a connection that was kept, and carries the transaction. The content is opened once the
    /// peer is ready for it, so that slow peers hold no memory. The flag tells whether the next candidate may be tried.
    #[expect(clippy::too_many_arguments, reason = "the facts of one attempt")]
    async fn converse(
        &self,
        ticket: &Ticket,
        job: &Job,
        generation: &Generation,
        transport: &Arc<Transport>,
        options: Option<&TryOptions>,
        source: Option<&Source>,
        dane: &Dane,
    ) -> Result<(Ending, Option<ConnectionInfo>, bool), SpoolError> {
        let Some(remote_ip) = job.remote_ip else {
            let error = AttemptError::new(ErrorKind::Config, "no next hop was resolved");
            return Ok((Ending::Error(error), None, false));
        };
        let helo = options
            .and_then(|options| options.helo.as_deref())
            .or_else(|| source.and_then(|source| source.helo.as_deref()))
            .or(transport.helo.as_deref())
            .unwrap_or(&generation.hostname);
        let route = Route {
            remote: SocketAddr::new(remote_ip, transport.port),
            remote_mx: &job.remote_mx,
            source,
            helo,
            dane,
        };
        let is_kept = transport.pooling.enabled && generation.pooling.size > 0;
        let key = is_kept.then(|| Key::new(generation.pooling.policy, &job.grouping, &route, transport));
        let opener = Opener { tls: &generation.tls, stalled: &self.stalled, resolver: &generation.resolver };
        let mut may_reuse = true;
        loop {
            let kept = key.as_ref().filter(|_| may_reuse).and_then(|key| self.pool.take(key));
            let mut connection = match kept {
                Some(mut connection) => {
                    connection.serve(transport);
                    if let Err(failure) = self.queue.lock().connection_reused(ticket, self.now()) {
                        error!(job, "queue: {failure}");
                    }
                    connection
                }
                None => match opener.open(&route, transport, self.ids.next().to_string()).await {
                    Ok(connection) => connection,
                    Err(failed) => return Ok((failed.ending, failed.info, failed.may_fail_over)),
                },
            };
            let stored = match self.open(job) {
                Ok(stored) => stored,
                Err(failure) => {
                    connection.quit().await;
                    return Err(failure);
                }
            };
            let envelope = envelope(job, options, &stored);
            let sent = connection.send(envelope, &*stored.content, &stored.edits).await;
            if sent.found_dead {
                info!(job, "kept connection is of no use, opening another: {}", sent.ending.text());
                // Its neighbours are hardly better, and a connection of its own is certain.
                may_reuse = false;
                continue;
            }
            let info = connection.info.clone();
            match key {
                None => connection.quit().await,
                Some(key) => {
                    if let Some(unwanted) = self.pool.put(key, connection, &transport.pooling) {
                        tokio::spawn(unwanted.quit());
                    }
                }
            }
            return Ok((sent.ending, Some(info), false));
        }
    }
}

/// The source that the queue took, also where several have the same address.
fn chosen_source(
    transport: &Transport,
    local_ip: IpAddr,
    local_index: usize,
    remote: Option<IpAddr>,
) -> Option<&Source> {
    let six = remote.is_some_and(|ip| ip.is_ipv6());
    let of_family = transport.sources.iter().filter(|source| source.ip.is_ipv6() == six);
    let picked = of_family.clone().nth(local_index).filter(|source| source.ip == local_ip);
    picked.or_else(|| of_family.clone().find(|source| source.ip == local_ip))
}

fn envelope(job: &Job, options: Option<&TryOptions>, stored: &Stored) -> Envelope {
    let pair =
        |keyword: &str, value: &str| (!value.is_empty()).then(|| (keyword.to_owned(), value.to_owned()));
    let (dsn_mail, dsn_rcpt) = match &job.dsn {
        None => (Vec::new(), Vec::new()),
        Some(dsn) => (
            [pair("RET", &dsn.ret), pair("ENVID", &dsn.envid)].into_iter().flatten().collect(),
            [pair("NOTIFY", &dsn.notify), pair("ORCPT", &dsn.orcpt)].into_iter().flatten().collect(),
        ),
    };
    let sender = options.and_then(|options| options.sender.clone()).unwrap_or_else(|| job.sender.clone());
    let recipient =
        options.and_then(|options| options.recipient.clone()).unwrap_or_else(|| job.recipient.clone());
    Envelope {
        sender,
        recipient,
        bytes: job.size,
        has_8bit: stored.has_8bit,
        needs_smtputf8: stored.has_utf8_header,
        dsn_mail,
        dsn_rcpt,
        mail_parameters: options.map(|options| options.mail_parameters.clone()).unwrap_or_default(),
        rcpt_parameters: options.map(|options| options.rcpt_parameters.clone()).unwrap_or_default(),
    }
}
