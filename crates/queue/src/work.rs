//! What the queue hands out and what comes back.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::entry::EntryKey;
use crate::policy::Applied;
use crate::sched::Attempt;
use crate::state::Phase;
use crate::time::Time;

/// Limits and seed of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Entries in pre-delivery at once.
    pub predelivery_max: u32,
    /// Attempts at once (`queues.concurrency.total`).
    pub attempts_max: u32,
    /// Seed of the queue's dice (source address choice, jitter, probability conditions).
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { predelivery_max: 256, attempts_max: 10_000, seed: 0 }
    }
}

/// The right to work on one entry. It must come back through [`Queue::settle`](crate::Queue::settle), [`Queue::resolved`](crate::Queue::resolved) or
/// [`Queue::failover`](crate::Queue::failover); a lost one (a task that died) is replaced with [`Queue::reclaim`](crate::Queue::reclaim).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the entry stays in its working state until the ticket comes back"]
pub struct Ticket {
    pub(crate) key: EntryKey,
    pub(crate) serial: u64,
}

impl Ticket {
    /// The entry.
    pub fn key(&self) -> EntryKey {
        self.key
    }
}

/// An entry to be attempted.
#[derive(Debug)]
pub struct Pick {
    /// The right to do it.
    pub ticket: Ticket,
    /// Source address chosen.
    pub local_ip: IpAddr,
    /// Its place in [`Resolved::local_ips`](crate::Resolved::local_ips).
    pub local_index: usize,
    /// Conditions that apply, in evaluation order: their tags and properties go to post-delivery.
    pub applied: Vec<Arc<Applied>>,
}

/// Something to be done.
#[derive(Debug)]
pub enum Work {
    /// Run the pre-delivery hook and DNS.
    Predelivery(Ticket),
    /// Run the post-delivery hook of an entry whose positive reply was recorded before a restart.
    Postdelivery(Ticket),
    /// Attempt delivery.
    Deliver(Pick),
}

/// How an attempt ended, for the counters (before any override by scripts).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptClass {
    /// Final positive reply.
    Delivered,
    /// Temporary failure.
    Delayed,
    /// Permanent failure.
    Failed,
}

/// Changes on the way back into the queue: the options of the script function `Queue()`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requeue {
    /// Until the next attempt; capped at 30 days.
    pub delay: Duration,
    /// Park instead.
    pub hold: bool,
    /// Count the attempt.
    pub increment_retry: bool,
    /// Start counting at 0 again; wins over the increment.
    pub reset_retry: bool,
    /// Reason shown in lists.
    pub reason: Option<String>,
    /// New transport.
    pub transport_id: Option<String>,
    /// New job.
    pub job_id: Option<String>,
    /// New tenant.
    pub tenant_id: Option<String>,
    /// New priority.
    pub priority: Option<u8>,
    /// New metadata, all of it.
    pub metadata: Option<Vec<(String, String)>>,
    /// New quota names, all of them.
    pub quotas: Option<Vec<String>>,
    /// Step of the schedule whose delay notification went out.
    pub notified_step: Option<usize>,
}

impl Default for Requeue {
    fn default() -> Self {
        Requeue {
            delay: Duration::ZERO,
            hold: false,
            increment_retry: true,
            reset_retry: false,
            reason: None,
            transport_id: None,
            job_id: None,
            tenant_id: None,
            priority: None,
            metadata: None,
            quotas: None,
            notified_step: None,
        }
    }
}

/// How work ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Delivered, bounced or deleted: the entry goes.
    Done,
    /// Back into the queue.
    Requeue(Requeue),
    /// Through pre-delivery again at once, nothing changed (refused at pickup by a plugin).
    Relinquish,
}

/// Where the entry went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Gone; `message_gone`: it was the last of its message.
    Gone {
        /// No entry of the message is left.
        message_gone: bool,
    },
    /// Waiting until this moment.
    Deferred(Time),
    /// Parked.
    Held,
    /// Parked by a freeze, in UPDATE.
    Frozen,
    /// In its lane.
    Active,
}

pub(crate) struct Working {
    pub(crate) serial: u64,
    pub(crate) phase: Phase,
    pub(crate) since: Time,
    pub(crate) freezing: bool,
    pub(crate) attempt: Option<Attempt>,
    pub(crate) applied: Vec<Arc<Applied>>,
}
