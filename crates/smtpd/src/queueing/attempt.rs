//! One delivery attempt, from pickup to its result.

use crate::delivery::connection::{Connection, Route};
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
        let Some(job) = self.job(ticket.key()) else { return };
        let generation = self.generations.of_message(&job.stage_id);
        let (overridden, options) = match self.plans.lock().get(&job.key) {
            Some(plan) => (plan.transport.clone(), plan.options.clone()),
            None => (None, None),
        };
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
        let source = transport.sources.iter().find(|source| source.ip == pick.local_ip);
        if source.is_none() && !transport.sources.is_empty() {
            // A reload took the chosen source away; the limits of another one have to be asked for.
            return self.relinquish(ticket);
        }
        let started = Instant::now();
        let gauge = Gauge::new(&self.connections);
        let talk = self.converse(&job, &generation, &transport, options.as_deref(), source).await;
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
                self.after_success(ticket, &job, &generation, attempt, context).await;
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

    /// Connects and carries the transaction. The content is opened once the peer is ready for it, so that slow
    /// peers hold no memory. The flag tells whether the next candidate may be tried.
    async fn converse(
        &self,
        job: &Job,
        generation: &Generation,
        transport: &Arc<Transport>,
        options: Option<&TryOptions>,
        source: Option<&Source>,
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
        };
        let id = self.ids.next().to_string();
        let mut connection = match Connection::open(&route, transport, &self.tls, id).await {
            Ok(connection) => connection,
            Err(failed) => return Ok((failed.ending, failed.info, failed.may_fail_over)),
        };
        let stored = match self.open(job) {
            Ok(stored) => stored,
            Err(failure) => {
                connection.quit().await;
                return Err(failure);
            }
        };
        let envelope = envelope(job, options, &stored);
        let ending = connection.send(envelope, &*stored.content, &stored.edits).await;
        let info = connection.info.clone();
        connection.quit().await;
        Ok((ending, Some(info), false))
    }
}

fn envelope(job: &Job, options: Option<&TryOptions>, stored: &Stored) -> Envelope {
    let pair =
        |keyword: &str, value: &str| (!value.is_empty()).then(|| (keyword.to_owned(), value.to_owned()));
    let of_options = options.and_then(|options| options.dsn.as_ref()).map(|dsn| queue::Dsn {
        envid: dsn.envid.clone(),
        ret: dsn.ret.clone(),
        notify: dsn.notify.join(","),
        orcpt: dsn.orcpt.clone(),
    });
    let (dsn_mail, dsn_rcpt) = match of_options.as_ref().or(job.dsn.as_ref()) {
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
        needs_smtputf8: false,
        dsn_mail,
        dsn_rcpt,
        ..Envelope::default()
    }
}
