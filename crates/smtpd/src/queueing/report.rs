//! Delivery status notifications: composed, committed as messages of their own, put into the queue.

use crate::clock;
use crate::delivery::result::{Attempt, Ending};
use crate::generation::Generation;
use crate::hooks::delivery::BounceOptions;
use crate::queueing::commit::{CommitError, QueuedRecipient, build_record};
use crate::queueing::engine::Engine;
use crate::queueing::job::Job;
use crate::transport::DsnSettings;
use config::app::DsnOriginal;
use hsl_std::mail::ReportSigner;
use mail::date::Zoned;
use mail::dsn::{self, Action, Original, Reply, Report};
use mail::{Address, MailMessage};
use queue::QueueError;
use spool::{Meta, SpoolError};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Text and status where neither a reply nor an error explains the end.
pub(super) const DEFAULT_TEXT: &str = "Message could not be delivered in the allotted time frame";
const DEFAULT_STATUS: (u16, u16, u16) = (5, 4, 7);

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReportError {
    /// It cannot be written as asked for.
    #[error("{0}")]
    Compose(String),
    /// It cannot be stored.
    #[error(transparent)]
    Store(#[from] CommitError),
}

impl From<SpoolError> for ReportError {
    fn from(error: SpoolError) -> ReportError {
        ReportError::Store(error.into())
    }
}

impl Engine {
    /// Makes a report durable; gives its id, or none where the rules want no report (null sender, NOTIFY, no
    /// report transport).
    pub(super) async fn report(
        self: &Arc<Self>,
        job: &Job,
        generation: &Generation,
        action: Action,
        attempt: Option<&Attempt>,
        bounce: &BounceOptions,
        retry_until: Option<Duration>,
    ) -> Result<Option<Uuid>, ReportError> {
        let settings =
            generation.transports.get(&job.transport_id).and_then(|transport| transport.dsn.as_ref());
        let transport =
            bounce.transport.clone().or_else(|| settings.map(|settings| settings.transport.clone()));
        let Some(transport) = transport else { return Ok(None) };
        let never = job.notify_has("NEVER", false);
        let wanted = match action {
            Action::Failed => job.notify_has("FAILURE", true),
            // Whether it is due was decided by the caller: the schedule, or a script.
            Action::Delayed => true,
            Action::Relayed | Action::Delivered => job.notify_has("SUCCESS", false),
        };
        let target = match &bounce.recipient {
            Some(recipient) => recipient.clone(),
            // No report about a report, ever (RFC 5321 6.1).
            None if job.sender.is_null() || never || !wanted => return Ok(None),
            None => job.sender.clone(),
        };
        let id = dsn::report_id(job.id, job.queue_id, action, job.retry);
        let text = self
            .compose(job, generation, action, attempt, bounce, retry_until, &target, id)
            .map_err(ReportError::Compose)?;
        let mut staging = self.spool.stage(id);
        staging.write(&text)?;
        let message = MailMessage::new(staging.content());
        let sender = bounce.sender.clone().unwrap_or_default();
        let recipient = QueuedRecipient::new(sender, target, transport, &message);
        let mut recipient = recipient.map_err(|error| ReportError::Compose(error.to_string()))?;
        recipient.job_id = bounce.job_id.clone().unwrap_or_default();
        recipient.tenant_id = bounce.tenant_id.clone().unwrap_or_default();
        recipient.priority = bounce.priority.unwrap_or(0).into();
        recipient.delay_s = bounce.delay_s;
        recipient.hold = bounce.hold;
        recipient.metadata = bounce.metadata.clone();
        recipient.metadata.push(("_original_message_id".to_owned(), job.id.to_string().into_bytes()));
        recipient.metadata.push(("_original_queue_id".to_owned(), job.queue_id.to_string().into_bytes()));
        let meta = Meta {
            received_s: clock::now_s(),
            server_id: job.server_id.clone(),
            subject: message.subject().ok().flatten().unwrap_or_default(),
            ..Meta::default()
        };
        let record = build_record(meta, vec![recipient]);
        match self.store(staging, record).await {
            Ok(()) => Ok(Some(id)),
            // A crash between report and DONE: the deterministic id shows that the report is there already.
            Err(CommitError::Spool(SpoolError::Duplicate(_))) => Ok(Some(id)),
            // The same report has just been delivered and is about to leave the queue.
            Err(CommitError::Queue(QueueError::Duplicate(_))) => Ok(Some(id)),
            Err(error) => Err(error.into()),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the facts of one report")]
    fn compose(
        &self,
        job: &Job,
        generation: &Generation,
        action: Action,
        attempt: Option<&Attempt>,
        bounce: &BounceOptions,
        retry_until: Option<Duration>,
        target: &Address,
        id: Uuid,
    ) -> Result<Vec<u8>, String> {
        let text = |error: mail::MailError| error.to_string();
        let stored = self.open(job).map_err(|error| error.to_string())?;
        let original = MailMessage::with_edits(stored.content, stored.edits).map_err(text)?;
        let settings =
            generation.transports.get(&job.transport_id).and_then(|transport| transport.dsn.as_ref());
        let now = Zoned::local(self.now().as_secs()).map_err(text)?;
        let arrival = Zoned::local(job.received.as_secs()).map_err(text)?;
        let until = match retry_until.filter(|_| action == Action::Delayed) {
            None => None,
            Some(_) => give_up_at(job, generation).map(Zoned::local).transpose().map_err(text)?,
        };
        let (status, reply_code, reply_enhanced, lines, command, kind) = explain(attempt, bounce);
        let sender_ip = job.sender_ip.map(|ip| ip.to_string());
        let part3 = part3(job, action, settings, bounce);
        let from = mailbox(settings, generation, bounce);
        let report = Report {
            action,
            hostname: &generation.hostname,
            reporting_mta: bounce.reporting_mta.as_deref(),
            id,
            date: &now,
            from: Some(&from),
            to: target,
            subject: bounce.subject.as_deref(),
            subject_prepend: bounce.subject_prepend.as_deref(),
            headers: &bounce.headers,
            readable_mimepart: bounce.readable.as_deref(),
            original: &original,
            part3,
            envid: job.dsn.as_ref().map(|dsn| dsn.envid.as_str()).filter(|envid| !envid.is_empty()),
            received_from: sender_ip.as_deref().map(|ip| (job.sender_helo.as_str(), ip)),
            arrival: Some(&arrival),
            orcpt: job.dsn.as_ref().map(|dsn| dsn.orcpt.as_str()).filter(|orcpt| !orcpt.is_empty()),
            recipient: &job.recipient,
            status: Some(status),
            remote_mta: attempt.and_then(|a| a.connection.as_ref()).map(|info| info.remote_mx.as_str()),
            reply: Reply {
                code: reply_code,
                enhanced: reply_enhanced,
                lines: &lines,
                command,
                diagnostic_type: kind,
            },
            last_attempt: attempt.map(|_| &now),
            will_retry_until: until.as_ref(),
        };
        let mut composed = report.compose().map_err(text)?;
        let of_settings = || {
            let dkim = settings?.dkim.as_ref()?;
            Some(ReportSigner::new(&dkim.selector, &dkim.domain, &dkim.key))
        };
        if let Some(signer) = bounce.dkim.clone().or_else(of_settings) {
            let field = signer.field(&composed, &generation.keys).map_err(|text| format!("dkim: {text}"))?;
            composed.splice(0..0, field.into_bytes());
        }
        Ok(composed)
    }
}

/// How much of the original goes along: what the script says, then what the sender asked for, then the configuration.
fn part3(job: &Job, action: Action, settings: Option<&DsnSettings>, bounce: &BounceOptions) -> Original {
    let ret = job.dsn.as_ref().map(|dsn| dsn.ret.to_ascii_uppercase()).unwrap_or_default();
    let configured = settings.map_or(DsnOriginal::Headers, |settings| settings.original);
    // Only failures return the message (RFC 3461 4.3).
    let full = match (ret.as_str(), configured) {
        ("FULL", _) => action == Action::Failed,
        ("HDRS", _) => false,
        (_, DsnOriginal::Full) => action == Action::Failed,
        _ => false,
    };
    let headers = configured != DsnOriginal::None || !ret.is_empty();
    if bounce.original_message.unwrap_or(full && bounce.original_headers != Some(false)) {
        Original::Full
    } else if bounce.original_headers.unwrap_or(headers) {
        Original::Headers
    } else {
        Original::None
    }
}

/// The header From.
fn mailbox(settings: Option<&DsnSettings>, generation: &Generation, bounce: &BounceOptions) -> String {
    let name = bounce.from_name.as_deref().or(settings.map(|settings| settings.from_name.as_str()));
    let name = name.unwrap_or("Mail Delivery Subsystem");
    let address = match (&bounce.from, settings) {
        (Some(address), _) => address.to_string(),
        (None, Some(settings)) => settings.from_address.clone(),
        (None, None) => format!("postmaster@{}", generation.hostname),
    };
    let is_special =
        |c: char| c.is_ascii() && !c.is_ascii_alphanumeric() && !" !#$%&'*+-/=?^_`{|}~".contains(c);
    if name.is_empty() {
        format!("<{address}>")
    } else if name.contains(is_special) {
        // RFC 5322 3.2.4
        let quoted: String = name
            .chars()
            .flat_map(|c| matches!(c, '"' | '\\').then_some('\\').into_iter().chain([c]))
            .collect();
        format!("\"{quoted}\" <{address}>")
    } else {
        format!("{name} <{address}>")
    }
}

/// When the schedule ends, seconds since the epoch; none where it has no end in sight.
fn give_up_at(job: &Job, generation: &Generation) -> Option<i64> {
    let schedule = &generation.transports.get(&job.transport_id)?.retry;
    let last = schedule.intervals.last()?.interval;
    let by_count: Duration = (0..schedule.count)
        .map(|step| schedule.intervals.get(step as usize).map_or(last, |interval| interval.interval))
        .fold(Duration::ZERO, Duration::saturating_add);
    let total = schedule.age_max.map_or(by_count, |age| age.min(by_count));
    Some(job.received.after(total).as_secs())
}

type Explanation = ((u8, u16, u16), u16, Option<(u8, u16, u16)>, Vec<String>, &'static str, &'static str);

/// Status, reply and its command, for the machine-readable and the readable part.
fn explain(attempt: Option<&Attempt>, bounce: &BounceOptions) -> Explanation {
    let small = |(a, b, c): (u16, u16, u16)| (u8::try_from(a).unwrap_or(5), b, c);
    if let Some(text) = &bounce.diagnostic {
        return (small(bounce.status.unwrap_or(DEFAULT_STATUS)), 0, None, vec![text.clone()], "", "x-error");
    }
    match attempt.map(|attempt| &attempt.ending) {
        Some(ending @ Ending::Reply(state, reply)) => (
            small(bounce.status.unwrap_or_else(|| ending.status())),
            reply.code,
            reply.enhanced.map(|code| small((code.0, code.1, code.2))),
            reply.text_lines(),
            state.command_text(),
            "smtp",
        ),
        Some(Ending::Error(error)) => (
            small(bounce.status.unwrap_or(error.status)),
            0,
            None,
            vec![error.message.clone()],
            "",
            "x-error",
        ),
        None => (
            small(bounce.status.unwrap_or(DEFAULT_STATUS)),
            0,
            None,
            vec![DEFAULT_TEXT.to_owned()],
            "",
            "x-error",
        ),
    }
}
