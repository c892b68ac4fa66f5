//! `queue update`.

use clap::Args;
use control::smtpd::queue_update_request::action::{Dsn, DsnStatus};
use control::smtpd::queue_update_request::r#move::Destination;
use control::smtpd::queue_update_request::{Action, MailAddress, Move, Paging, Task};
use control::smtpd::{
    ActionType, Freeze, Queue, QueueUpdateRequest, QueueUpdateResponse, StringValue, TimeValue, UInt64Value,
    time_value,
};

use super::conditions::{ConditionArgs, put_queued_states};
use super::values::{key_value, number, seconds};
use super::{CliError, Context};

/// Options of `queue update`.
#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    #[command(flatten)]
    conditions: ConditionArgs,
    #[command(flatten)]
    task: TaskArgs,
    /// DSN diagnosticcode when deleting
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// DSN status when bouncing (5.4.7)
    #[arg(long, value_name = "C.S.D")]
    dsn_status: Option<String>,
    /// DSN diagnosticcode when bouncing
    #[arg(long, value_name = "TEXT")]
    dsn_diagnosticcode: Option<String>,
    /// Spread evenly over so many seconds more
    #[arg(long, value_name = "SEC")]
    retrytsjitter: Option<u64>,
    /// Change the transport ID
    #[arg(long, value_name = "STRING")]
    updatetransportid: Option<String>,
    /// Modify or add metadata (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    updatemetadata: Vec<String>,
    /// Change the priority: 0 normal, 1 high
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(0..=1))]
    updatepriority: Option<u64>,
    /// Change the retry count
    #[arg(long, value_name = "NUMBER")]
    updateretrycount: Option<u64>,
    /// Change the sender; empty for the null sender
    #[arg(long, value_name = "ADDRESS")]
    updatesender: Option<String>,
    /// Change the recipient
    #[arg(long, value_name = "ADDRESS")]
    updaterecipient: Option<String>,
    /// Change the job ID
    #[arg(long, value_name = "STRING")]
    updatejobid: Option<String>,
    /// Put matching working messages into UPDATE when their work ends
    #[arg(long)]
    freeze: bool,
    /// Act on copies of the messages
    #[arg(long)]
    duplicate: bool,
    /// Stop after so many, oldest first
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
#[command(next_help_heading = "Task (at most one)")]
struct TaskArgs {
    /// Remove messages, without sending bounces
    #[arg(long)]
    delete: bool,
    /// Remove messages, and generate bounces to the sender
    #[arg(long)]
    bounce: bool,
    /// Move messages to the active queue for imminent delivery
    #[arg(long)]
    active: bool,
    /// Move messages to the defer queue for so many seconds
    #[arg(long, value_name = "SEC")]
    defer: Option<String>,
    /// Put messages on hold
    #[arg(long)]
    hold: bool,
}

pub(crate) async fn run(context: &mut Context, args: &UpdateArgs) -> Result<(), CliError> {
    let request = args.request()?;
    let Some(reply) = context.request::<_, QueueUpdateResponse>(b'G', &request).await? else {
        return Ok(());
    };
    context.print(&format!("{} messages affected\n", reply.affected));
    if reply.working > 0 {
        let fate = if args.freeze { "freezing" } else { "unaffected" };
        context.print(&format!("{} messages {fate}\n", reply.working));
    }
    Ok(())
}

impl UpdateArgs {
    fn request(&self) -> Result<QueueUpdateRequest, CliError> {
        if self.conditions.is_empty()? {
            return Err(CliError::usage(
                "this would update every message: give a condition, or --all-states to mean just that",
            ));
        }
        let mut conditions = self.conditions.condition()?;
        if !self.conditions.names_states() {
            put_queued_states(&mut conditions);
        }
        let text = |value: &Option<String>| value.clone().map(|value| StringValue { value });
        let number = |value: Option<u64>| value.map(|value| UInt64Value { value });
        let request = QueueUpdateRequest {
            conditions: Some(conditions),
            task: self.task()?,
            transportid: text(&self.updatetransportid),
            metadata: self.updatemetadata.iter().map(|text| key_value(text)).collect::<Result<_, _>>()?,
            freeze: self.freeze,
            duplicate: self.duplicate,
            sender: self.updatesender.as_deref().map(address),
            recipient: self.updaterecipient.as_deref().map(address),
            retrycount: number(self.updateretrycount),
            priority: number(self.updatepriority),
            paging: self.limit.map(|limit| Paging { limit }),
            jobid: text(&self.updatejobid),
        };
        let changes = QueueUpdateRequest {
            conditions: None,
            freeze: false,
            duplicate: false,
            paging: None,
            ..request.clone()
        };
        if changes == QueueUpdateRequest::default() {
            return Err(CliError::usage(
                "nothing to do: give a task (--delete, --bounce, --active, --defer, --hold) or an --update… option",
            ));
        }
        Ok(request)
    }

    /// Options of one task do not go with another. (The argument parser lets such a requirement pass when the
    /// required option is excluded by a given one.)
    fn check_task_options(&self) -> Result<(), CliError> {
        let task = &self.task;
        for (given, option, wanted, name) in [
            (self.reason.is_some(), "--reason", task.delete, "--delete"),
            (self.dsn_status.is_some(), "--dsn-status", task.bounce, "--bounce"),
            (self.dsn_diagnosticcode.is_some(), "--dsn-diagnosticcode", task.bounce, "--bounce"),
            (self.retrytsjitter.is_some(), "--retrytsjitter", task.defer.is_some(), "--defer"),
        ] {
            if given && !wanted {
                return Err(CliError::usage(format!("{option} goes with {name} only")));
            }
        }
        Ok(())
    }

    fn task(&self) -> Result<Option<Task>, CliError> {
        self.check_task_options()?;
        let task = &self.task;
        let to = |destination, retryts: Option<f64>| {
            let time = |seconds| TimeValue { time: Some(time_value::Time::Relative(seconds)) };
            Some(Task::Move(Move {
                destination: Some(destination),
                retryts: retryts.map(time),
                retrytsjitter: self.retrytsjitter.map(|value| UInt64Value { value }),
            }))
        };
        if task.delete || task.bounce {
            let kind = if task.delete { ActionType::Delete } else { ActionType::Bounce };
            return self.action(kind).map(Some);
        }
        if let Some(delay) = &task.defer {
            let delay = seconds(delay)?;
            if delay < 0.0 {
                return Err(CliError::usage("--defer takes seconds from now, not before"));
            }
            return Ok(to(Destination::Queue(Queue::Defer as i32), Some(delay)));
        }
        Ok(match (task.active, task.hold) {
            (true, _) => to(Destination::Queue(Queue::Active as i32), None),
            (_, true) => to(Destination::Freeze(Freeze::Hold as i32), None),
            _ => None,
        })
    }

    fn action(&self, kind: ActionType) -> Result<Task, CliError> {
        let text = self.reason.as_ref().or(self.dsn_diagnosticcode.as_ref());
        if text.is_none() && self.dsn_status.is_none() {
            return Ok(Task::Actiontype(kind as i32));
        }
        let status = self.dsn_status.as_deref().map(status).transpose()?;
        let dsn = Dsn { status, diagnosticcode: text.cloned().unwrap_or_default() };
        Ok(Task::Action(Action { r#type: kind as i32, dsn: Some(dsn) }))
    }
}

/// `class.subject.detail` (RFC 3463).
fn status(text: &str) -> Result<DsnStatus, CliError> {
    let wrong = || CliError::usage(format!("\"{text}\" is not a status like 5.4.7"));
    let parts: Vec<u64> = text.split('.').map(number).collect::<Result<_, _>>().map_err(|_| wrong())?;
    match parts[..] {
        [class @ (2 | 4 | 5), subject @ 0..=999, detail @ 0..=999] => {
            Ok(DsnStatus { class, subject, detail })
        }
        _ => Err(wrong()),
    }
}

fn address(text: &str) -> MailAddress {
    let (localpart, domain) = text.rsplit_once('@').unwrap_or((text, ""));
    let value = |value: &str| Some(StringValue { value: value.to_owned() });
    MailAddress { localpart: value(localpart), domain: value(domain) }
}
