//! After an attempt (or instead of one): the post-delivery hook, the default action, and the records that make
//! the result durable before it is acted on.

use crate::clock;
use crate::delivery::result::{
    Attempt, AttemptError, Class, ConnectionInfo, Ending as AttemptEnding, ErrorKind,
};
use crate::generation::Generation;
use crate::hooks::ContextValue;
use crate::hooks::delivery::{self, BounceOptions, PostDecision, QueueOptions, TryOptions};
use crate::queueing::engine::{Engine, Gauge};
use crate::queueing::job::Job;
use crate::queueing::report::ReportError;
use crate::transport::Transport;
use crate::{error, info};
use config::app::Protocol;
use mail::dsn::Action;
use queue::{Outcome, Requeue, RetryPlan, RetrySchedule, Settled, Ticket};
use smtp::client::State;
use smtp::reply::Enhanced;
use spool::record::{self, EntryUpdate};
use spool::{Durability, Frame};
use std::sync::Arc;
use std::time::Duration;

/// Wait after a script error or a defect of ours.
pub(super) const DEFECT_DELAY_S: f64 = 300.0;

/// What happens to an entry unless a script says otherwise (`$arguments["action"]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    /// Gone without a report.
    Delete,
    /// A report goes to the sender.
    Bounce,
    /// Tried again.
    Queue,
}

impl DefaultAction {
    /// The documented value.
    pub fn name(self) -> &'static str {
        match self {
            DefaultAction::Delete => "DELETE",
            DefaultAction::Bounce => "BOUNCE",
            DefaultAction::Queue => "QUEUE",
        }
    }
}

/// Of an entry that is not tried again.
const NO_PLAN: RetryPlan = RetryPlan { expired: false, delay: Duration::ZERO, notify: false, step: 0 };

/// Why an entry is at post-delivery, as scripts and reports see it.
pub struct Verdict<'a> {
    /// None after success.
    pub action: Option<DefaultAction>,
    /// Retry count or age limit reached.
    pub expired: bool,
    /// The attempt, if one was made.
    pub attempt: Option<&'a Attempt>,
    /// Next step of the schedule.
    pub plan: RetryPlan,
    /// What a script or an operator said about the end.
    pub bounce: Option<&'a BounceOptions>,
    /// The report that follows unless a script decides otherwise.
    pub report: Option<Action>,
}

impl Verdict<'_> {
    /// Status of a report about it.
    pub fn status(&self) -> (u16, u16, u16) {
        let said = self.bounce.and_then(|bounce| bounce.status);
        said.or_else(|| self.attempt.map(|attempt| attempt.ending.status())).unwrap_or((5, 4, 7))
    }

    /// Type and text of the diagnostic.
    pub fn diagnostic(&self) -> (&'static str, String) {
        match (
            self.bounce.and_then(|bounce| bounce.diagnostic.clone()),
            self.attempt.map(|attempt| &attempt.ending),
        ) {
            (Some(text), _) => ("x-error", text),
            (None, Some(AttemptEnding::Reply(_, reply))) => ("smtp", reply.to_string()),
            (None, Some(AttemptEnding::Error(error))) => ("x-error", error.message.clone()),
            (None, None) => ("x-error", super::report::DEFAULT_TEXT.to_owned()),
        }
    }
}

impl Engine {
    /// The next hop took the message: record it, run the hook, report success where asked for, forget the entry.
    pub(super) async fn after_success(
        self: &Arc<Self>,
        ticket: Ticket,
        job: &Job,
        generation: &Arc<Generation>,
        attempt: Attempt,
        is_delivered: Option<bool>,
        context: ContextValue,
    ) {
        let _releasing = Gauge::new(&self.releasing);
        let report = self.success_action(job, &attempt, generation, is_delivered);
        if generation.postdelivery.is_none() && report.is_none() {
            // DONE itself says delivered, so one record is enough; it is synced for the same reason.
            return self.forget(ticket, job, record::Outcome::Delivered, None, Durability::Synced).await;
        }
        let delivered = delivered_record(&attempt);
        let update =
            EntryUpdate { queue_id: job.queue_id, delivered: Some(delivered), ..EntryUpdate::default() };
        self.append(job, update, Durability::Synced).await;
        self.release_delivered(ticket, job, generation, &attempt, report, context).await;
    }

    /// Post-delivery of an entry whose positive reply was recorded before a restart.
    pub(super) async fn resume_delivered(self: Arc<Self>, ticket: Ticket) {
        let Some(job) = self.job(ticket.key()) else { return };
        let generation = self.generations.of_message(&job.stage_id);
        let _releasing = Gauge::new(&self.releasing);
        info!(job, "was delivered before the restart");
        let attempt = self.stored_result(&job).await;
        let report = self.success_action(&job, &attempt, &generation, None);
        self.release_delivered(ticket, &job, &generation, &attempt, report, ContextValue::default()).await;
    }

    /// The result of an attempt as it was recorded.
    async fn stored_result(&self, job: &Job) -> Attempt {
        let (spool, id, queue_id) = (self.spool.clone(), job.id, job.queue_id);
        let read = tokio::task::spawn_blocking(move || spool.read(id)).await;
        let entries = read.ok().and_then(Result::ok).map(|recovered| recovered.entries).unwrap_or_default();
        let stored =
            entries.into_iter().find(|entry| entry.queue_id == queue_id).and_then(|entry| entry.delivered);
        let stored = stored.unwrap_or_default();
        let reply = smtp::Reply {
            code: u16::try_from(stored.code).ok().filter(|code| *code >= 200).unwrap_or(250),
            enhanced: match stored.enhanced[..] {
                [a, b, c] => Some(Enhanced(a as u16, b as u16, c as u16)),
                _ => None,
            },
            lines: stored.reason,
        };
        let connection = ConnectionInfo {
            remote_ip: stored.remote_ip.parse().ok(),
            remote_mx: stored.remote_mx,
            announced_dsn: stored.remote_dsn,
            is_lmtp: self
                .generations
                .of_message(&job.stage_id)
                .transports
                .get(&job.transport_id)
                .is_some_and(|transport| transport.protocol == Protocol::Lmtp),
            ..ConnectionInfo::default()
        };
        Attempt {
            ending: AttemptEnding::Reply(State::Eod, reply),
            connection: Some(connection),
            duration_s: 0.0,
        }
    }

    async fn release_delivered(
        self: &Arc<Self>,
        ticket: Ticket,
        job: &Job,
        generation: &Arc<Generation>,
        attempt: &Attempt,
        action: Option<Action>,
        context: ContextValue,
    ) {
        if let Some(script) = &generation.postdelivery {
            let verdict = Verdict {
                action: None,
                expired: false,
                attempt: Some(attempt),
                plan: NO_PLAN,
                bounce: None,
                report: action,
            };
            // After success no function can change what happens; errors are logged and counted.
            delivery::postdelivery(script, self, job, &verdict, context).await;
        }
        let mut report = None;
        if let Some(action) = action {
            let bounce = BounceOptions::default();
            report = self.report(job, generation, action, Some(attempt), &bounce, None).await.unwrap_or_else(
                |failure| {
                    error!(job, "no success report: {failure}");
                    None
                },
            );
        }
        self.forget(ticket, job, record::Outcome::Delivered, report, Durability::Written).await;
    }

    /// The report that RFC 3461 asks for after success, when the next hop does not take that over. LMTP delivers into
    /// mailboxes, so its success is "delivered" unless a script says otherwise.
    fn success_action(
        &self,
        job: &Job,
        attempt: &Attempt,
        generation: &Generation,
        is_delivered: Option<bool>,
    ) -> Option<Action> {
        let announced = attempt.connection.as_ref().is_some_and(|info| info.announced_dsn);
        if announced || job.sender.is_null() || !job.notify_has("SUCCESS", false) {
            return None;
        }
        let transport = generation.transports.get(&job.transport_id);
        transport.filter(|transport| transport.dsn.is_some())?;
        let is_lmtp = || {
            let of_attempt = attempt.connection.as_ref().map(|info| info.is_lmtp);
            of_attempt.or(transport.map(|transport| transport.protocol == Protocol::Lmtp)).unwrap_or(false)
        };
        Some(if is_delivered.unwrap_or_else(is_lmtp) { Action::Delivered } else { Action::Relayed })
    }

    /// The attempt failed, or there was none: the schedule decides the default, the hook may override it.
    pub(super) async fn after_failure(
        self: &Arc<Self>,
        ticket: Ticket,
        job: &Job,
        generation: &Arc<Generation>,
        attempt: Attempt,
        options: Option<&TryOptions>,
        context: ContextValue,
    ) {
        let _releasing = Gauge::new(&self.releasing);
        let transport = generation.transports.get(&job.transport_id);
        let plan = self.plan(job, transport.map(|transport| &transport.retry), options);
        let permanent = attempt.ending.class() == Class::Permanent;
        let action = if permanent || plan.expired {
            if may_bounce(job, transport.map(|transport| &**transport)) {
                DefaultAction::Bounce
            } else {
                DefaultAction::Delete
            }
        } else {
            DefaultAction::Queue
        };
        let verdict = Verdict {
            action: Some(action),
            expired: plan.expired,
            attempt: Some(&attempt),
            plan,
            bounce: None,
            report: match action {
                DefaultAction::Bounce => Some(Action::Failed),
                DefaultAction::Queue if self.notice_is_due(job, transport, &plan) => Some(Action::Delayed),
                _ => None,
            },
        };
        let decision = match &generation.postdelivery {
            None => PostDecision::Default,
            Some(script) => delivery::postdelivery(script, self, job, &verdict, context).await,
        };
        match decision {
            PostDecision::Default => match action {
                DefaultAction::Queue => {
                    let retry = QueueOptions::default();
                    self.requeue(ticket, job, generation, retry, Some(&verdict)).await;
                }
                DefaultAction::Bounce => {
                    self.settle_bounce(ticket, job, generation, Some(&attempt), &BounceOptions::default())
                        .await;
                }
                DefaultAction::Delete => self.settle_delete(ticket, job).await,
            },
            PostDecision::Queue(options) => {
                self.requeue(ticket, job, generation, *options, Some(&verdict)).await
            }
            PostDecision::Bounce(bounce) => {
                self.settle_bounce(ticket, job, generation, Some(&attempt), &bounce).await;
            }
            PostDecision::Delete => self.settle_delete(ticket, job).await,
        }
    }

    /// Whether the schedule alone makes a report of delay now.
    fn notice_is_due(&self, job: &Job, transport: Option<&Arc<Transport>>, plan: &RetryPlan) -> bool {
        transport.is_some_and(|transport| transport.dsn.is_some())
            && !job.sender.is_null()
            && delay_notice_due(job, &QueueOptions::default(), plan, true)
            && job.notified & step_bit(plan.step) == 0
    }

    fn plan(&self, job: &Job, schedule: Option<&RetrySchedule>, options: Option<&TryOptions>) -> RetryPlan {
        let default = RetrySchedule::default();
        let schedule = schedule.unwrap_or(&default);
        let of_settings = self.settings.read().retry(schedule, &|field| job.field(field, None));
        let schedule = of_settings.as_ref().unwrap_or(schedule);
        let overridden = options.and_then(|options| delivery::override_retry(options, schedule));
        let schedule = overridden.as_ref().unwrap_or(schedule);
        schedule.plan(self.now(), job.received, job.retry, rand::random())
    }

    /// Back into the queue, with what the options of `Queue` change.
    pub(super) async fn requeue(
        self: &Arc<Self>,
        ticket: Ticket,
        job: &Job,
        generation: &Arc<Generation>,
        options: QueueOptions,
        verdict: Option<&Verdict<'_>>,
    ) {
        let plan = match verdict {
            Some(verdict) => verdict.plan,
            None => {
                let transport = generation.transports.get(&job.transport_id);
                self.plan(job, transport.map(|transport| &transport.retry), None)
            }
        };
        let delay = options.delay_s.map_or(plan.delay, |seconds| {
            Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(queue::DELAY_MAX)
        });
        let delay = delay.min(queue::DELAY_MAX);
        let retry = match (options.reset_retry, options.increment_retry) {
            (true, _) => 0,
            (false, true) => job.retry.saturating_add(1),
            (false, false) => job.retry,
        };
        let mut notified = job.notified;
        let mut step = None;
        let due = delay_notice_due(job, &options, &plan, verdict.is_some());
        if due && notified & step_bit(plan.step) == 0 {
            let attempt = verdict.and_then(|verdict| verdict.attempt);
            match self.report(job, generation, Action::Delayed, attempt, &options.bounce, Some(delay)).await {
                Ok(Some(_)) => {
                    notified |= step_bit(plan.step);
                    step = Some(plan.step.min(STEPS_NOTED_MAX));
                }
                Ok(None) => {}
                Err(failure) => error!(job, "no delay report: {failure}"),
            }
        }
        let reason = options
            .reason
            .clone()
            .or_else(|| verdict.and_then(|v| v.attempt).map(|attempt| attempt.ending.text()));
        let state = if options.hold { record::EntryState::Hold } else { record::EntryState::Timed };
        let update = EntryUpdate {
            queue_id: job.queue_id,
            retry: Some(retry),
            next_attempt_s: Some(clock::to_s(self.now().after(delay))),
            retry_reason: reason.clone(),
            state: Some(state as i32),
            notified: (notified != job.notified).then_some(notified as u32),
            transport_id: options.transport.clone(),
            job_id: options.job_id.clone(),
            tenant_id: options.tenant_id.clone(),
            priority: options.priority.map(u32::from),
            metadata: pairs(options.metadata.as_deref()),
            quotas: options.quotas.clone().unwrap_or_default(),
            cleared: cleared(&options),
            ..EntryUpdate::default()
        };
        // A lost retry count repeats an attempt; a lost hold or transport would change what happens.
        let durability =
            if options.hold || options.changes_entry() { Durability::Synced } else { Durability::Written };
        self.append(job, update, durability).await;
        if options.hold || delay > self.journal_hold() {
            // Nobody waits for it: until it is a file it is in the journal, which is as durable.
            drop(self.spool.spill(job.id));
        }
        let requeue = Requeue {
            delay,
            hold: options.hold,
            increment_retry: options.increment_retry,
            reset_retry: options.reset_retry,
            reason,
            transport_id: options.transport,
            job_id: options.job_id,
            tenant_id: options.tenant_id,
            priority: options.priority,
            metadata: options.metadata.map(|pairs| {
                pairs
                    .into_iter()
                    .map(|(key, value)| (key, String::from_utf8_lossy(&value).into_owned()))
                    .collect()
            }),
            quotas: options.quotas,
            notified_step: step,
        };
        match self.settle(ticket, Outcome::Requeue(requeue)) {
            Some(Settled::Deferred(_)) => {
                info!(job, "queued again, retry {retry} in {:.0}s", delay.as_secs_f64());
            }
            Some(Settled::Frozen) => self.persist_frozen(job).await,
            _ => {}
        }
    }

    /// A frozen entry is in UPDATE after a restart, too.
    pub(super) async fn persist_frozen(&self, job: &Job) {
        let state = Some(record::EntryState::Update as i32);
        let update = EntryUpdate { queue_id: job.queue_id, state, ..EntryUpdate::default() };
        self.append(job, update, Durability::Synced).await;
    }

    /// An ACTIVE entry has reached the age limit of its transport.
    pub(super) async fn expired(self: Arc<Self>, ticket: Ticket) {
        let Some(job) = self.job(ticket.key()) else { return };
        let generation = self.generations.of_message(&job.stage_id);
        let attempt =
            Attempt { ending: AttemptEnding::Error(expired_in_queue()), connection: None, duration_s: 0.0 };
        self.after_failure(ticket, &job, &generation, attempt, None, ContextValue::default()).await;
    }

    /// `Bounce()` of a pre-delivery hook: post-delivery runs with that action, then the report is made.
    pub(super) async fn bounce(
        self: &Arc<Self>,
        ticket: Ticket,
        job: &Job,
        generation: &Arc<Generation>,
        attempt: Option<&Attempt>,
        bounce: BounceOptions,
        context: ContextValue,
    ) {
        self.decide_without_attempt(ticket, job, generation, DefaultAction::Bounce, attempt, bounce, context)
            .await;
    }

    /// `Delete()` of a pre-delivery hook.
    pub(super) async fn delete(
        self: &Arc<Self>,
        ticket: Ticket,
        job: &Job,
        generation: &Arc<Generation>,
        reason: Option<String>,
        context: ContextValue,
    ) {
        let bounce = BounceOptions { diagnostic: reason, ..BounceOptions::default() };
        self.decide_without_attempt(ticket, job, generation, DefaultAction::Delete, None, bounce, context)
            .await;
    }

    #[expect(clippy::too_many_arguments, reason = "the facts of one decision")]
    async fn decide_without_attempt(
        self: &Arc<Self>,
        ticket: Ticket,
        job: &Job,
        generation: &Arc<Generation>,
        action: DefaultAction,
        attempt: Option<&Attempt>,
        bounce: BounceOptions,
        context: ContextValue,
    ) {
        let _releasing = Gauge::new(&self.releasing);
        if let Err(failure) = self.queue.lock().begin_postdelivery(self.now(), &ticket) {
            error!(job, "queue: {failure}");
        }
        let verdict = Verdict {
            action: Some(action),
            expired: false,
            attempt,
            plan: NO_PLAN,
            bounce: Some(&bounce),
            report: (action == DefaultAction::Bounce).then_some(Action::Failed),
        };
        let decision = match &generation.postdelivery {
            None => PostDecision::Default,
            Some(script) => delivery::postdelivery(script, self, job, &verdict, context).await,
        };
        match (decision, action) {
            (PostDecision::Queue(options), _) => self.requeue(ticket, job, generation, *options, None).await,
            (PostDecision::Bounce(bounce), _) => {
                self.settle_bounce(ticket, job, generation, attempt, &bounce).await;
            }
            (PostDecision::Default, DefaultAction::Bounce) => {
                self.settle_bounce(ticket, job, generation, attempt, &bounce).await;
            }
            (PostDecision::Delete | PostDecision::Default, _) => self.settle_delete(ticket, job).await,
        }
    }

    /// An operator's `--bounce` or `--delete`: the entry was taken out of the queue for it.
    pub async fn operator_action(
        self: Arc<Self>,
        ticket: Ticket,
        action: DefaultAction,
        bounce: BounceOptions,
    ) {
        let Some(job) = self.job(ticket.key()) else { return };
        let generation = self.generations.of_message(&job.stage_id);
        self.decide_without_attempt(ticket, &job, &generation, action, None, bounce, ContextValue::default())
            .await;
    }

    async fn settle_bounce(
        self: &Arc<Self>,
        ticket: Ticket,
        job: &Job,
        generation: &Arc<Generation>,
        attempt: Option<&Attempt>,
        bounce: &BounceOptions,
    ) {
        // The order is the promise of Q5: the report is durable before the entry is gone.
        let mut made = self.report(job, generation, Action::Failed, attempt, bounce, None).await;
        if let Err(ReportError::Compose(text)) = &made {
            error!(job, "report cannot be made as the script wants it, made plain: {text}");
            let plain = BounceOptions::default();
            made = self.report(job, generation, Action::Failed, attempt, &plain, None).await;
        }
        match made {
            Ok(Some(id)) => {
                info!(job, "bounced to {}, report {id}", job.sender);
                self.forget(ticket, job, record::Outcome::Bounced, Some(id), Durability::Synced).await;
            }
            Ok(None) => {
                info!(job, "deleted without a report: {}", why_no_report(job));
                self.forget(ticket, job, record::Outcome::Deleted, None, Durability::Synced).await;
            }
            Err(failure) => {
                error!(job, "report of failure cannot be made, tried again: {failure}");
                let options = QueueOptions {
                    delay_s: Some(DEFECT_DELAY_S),
                    increment_retry: false,
                    ..QueueOptions::default()
                };
                Box::pin(self.requeue(ticket, job, generation, options, None)).await;
            }
        }
    }

    async fn settle_delete(self: &Arc<Self>, ticket: Ticket, job: &Job) {
        info!(job, "deleted");
        self.forget(ticket, job, record::Outcome::Deleted, None, Durability::Synced).await;
    }

    /// Appends a change; a full disk leaves the change in memory only, as the manual says.
    pub(crate) async fn append(&self, job: &Job, update: EntryUpdate, durability: Durability) {
        if let Err(failure) = self.spool.append(job.id, &Frame::Update(Box::new(update)), durability).await {
            error!(job, "change is not on disk: {failure}");
        }
    }
}

/// Steps of the schedule beyond this one share its mark.
const STEPS_NOTED_MAX: usize = 31;

fn step_bit(step: usize) -> u64 {
    1u64 << step.min(STEPS_NOTED_MAX)
}

fn why_no_report(job: &Job) -> &'static str {
    if job.sender.is_null() {
        "the sender is null"
    } else if !job.notify_has("FAILURE", true) {
        "NOTIFY does not ask for it"
    } else {
        "no report transport is configured"
    }
}

/// The default gate of a failure report.
fn may_bounce(job: &Job, transport: Option<&Transport>) -> bool {
    transport.is_some_and(|transport| transport.dsn.is_some())
        && !job.sender.is_null()
        && job.notify_has("FAILURE", true)
}

/// Whether a "delayed" report is to be made now: by the schedule after a failure, or because a script says so,
/// which only NEVER overrules.
fn delay_notice_due(job: &Job, options: &QueueOptions, plan: &RetryPlan, after_attempt: bool) -> bool {
    match options.dsn_delayed {
        Some(wanted) => wanted && !job.notify_has("NEVER", false),
        None => after_attempt && plan.notify && job.notify_has("DELAY", true),
    }
}

fn pairs(metadata: Option<&[(String, Vec<u8>)]>) -> Vec<record::Pair> {
    let pair = |(key, value): &(String, Vec<u8>)| record::Pair::new(key.clone(), value.clone());
    metadata.unwrap_or_default().iter().map(pair).collect()
}

/// Members of an entry that become empty.
fn cleared(options: &QueueOptions) -> Vec<u32> {
    let mut cleared = Vec::new();
    if options.metadata.as_ref().is_some_and(Vec::is_empty) {
        cleared.push(EntryUpdate::METADATA);
    }
    if options.quotas.as_ref().is_some_and(Vec::is_empty) {
        cleared.push(EntryUpdate::QUOTAS);
    }
    cleared
}

fn delivered_record(attempt: &Attempt) -> record::Delivered {
    let mut delivered = record::Delivered { time_s: clock::now_s(), ..record::Delivered::default() };
    if let AttemptEnding::Reply(state, reply) = &attempt.ending {
        delivered.state = state.name().to_owned();
        delivered.code = u32::from(reply.code);
        delivered.enhanced =
            reply.enhanced.map(|code| vec![code.0.into(), code.1.into(), code.2.into()]).unwrap_or_default();
        delivered.reason = reply.lines.clone();
    }
    if let Some(info) = &attempt.connection {
        delivered.remote_ip = info.remote_ip.map(|ip| ip.to_string()).unwrap_or_default();
        delivered.remote_mx = info.remote_mx.clone();
        delivered.remote_dsn = info.announced_dsn;
    }
    delivered
}

/// The error of an entry that fails without an attempt.
#[must_use]
pub fn expired_in_queue() -> AttemptError {
    AttemptError {
        temporary: false,
        status: (5, 4, 7),
        ..AttemptError::new(ErrorKind::Smtp, "Message could not be delivered in the allotted time frame")
    }
}
