//! Numbers for `process-stats` and quotas.

use crate::bucket::{Availability, Cause};
use crate::queue::Queue;
use crate::sched::PickupCounters;
use crate::state::State;
use crate::time::Time;

/// What is charged to a quota name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// Entries.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Attempt results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeliveryCounters {
    /// Successes.
    pub delivered: u64,
    /// Temporary failures.
    pub delayed: u64,
    /// Permanent failures.
    pub failed: u64,
}

/// Counters of one kind of limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LimitCounters {
    /// Counters with such a limit in memory.
    pub counters: u64,
    /// Those that let nothing start now.
    pub suspends: u64,
}

/// The queue's share of the process counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// `queue.loader.active`: messages in memory.
    pub messages: u64,
    /// Entries in memory.
    pub entries: u64,
    /// `queue.queue.defer.size`
    pub defer: u64,
    /// `queue.queue.active.size`
    pub active: u64,
    /// `queue.queue.active.priorities.N.size`
    pub active_priorities: [u64; 2],
    /// `queue.freeze.hold.size`
    pub hold: u64,
    /// `queue.freeze.update.size`
    pub update: u64,
    /// `queue.freeze.update.pending`
    pub update_pending: u64,
    /// Entries in hooks and DNS.
    pub unknown: u64,
    /// Entries being attempted.
    pub sending: u64,
    /// `queue.release.pending`: entries in or waiting for post-delivery.
    pub release_pending: u64,
    /// `queue.policy.concurrency.*`
    pub concurrency: LimitCounters,
    /// `queue.policy.rate.*`
    pub rate: LimitCounters,
    /// `queue.policy.connectinterval.*`
    pub connect_interval: LimitCounters,
    /// `queue.policy.dynamic.suspends`
    pub dynamic_suspends: u64,
    /// `queue.policy.dynamic.conditions`
    pub dynamic_conditions: u64,
    /// `queue.pickup.*`
    pub pickup: PickupCounters,
    /// `queue.quota.size`
    pub quotas: u64,
    /// `queue.delivery.*`
    pub delivery: DeliveryCounters,
    /// Lanes with entries.
    pub lanes: u64,
}

impl Counters {
    pub(crate) fn collect(queue: &Queue, now: Time) -> Counters {
        let mut counters = Counters {
            messages: queue.store.messages.len() as u64,
            entries: queue.store.entries.len() as u64,
            defer: queue.size(State::Defer),
            active: queue.size(State::Active),
            active_priorities: queue.sched.sizes,
            hold: queue.size(State::Hold),
            update: queue.size(State::Update),
            update_pending: queue.working.values().filter(|working| working.freezing).count() as u64,
            unknown: queue.size(State::Unknown),
            sending: queue.size(State::Sending),
            release_pending: queue
                .working
                .values()
                .filter(|working| working.phase == crate::state::Phase::Postdelivery)
                .count() as u64,
            dynamic_suspends: queue.sched.suspend_slots().filter(|slot| slot.dynamic).count() as u64,
            dynamic_conditions: queue.sched.policies.iter().map(|p| p.dynamics().count() as u64).sum(),
            pickup: queue.sched.counters,
            quotas: queue.quotas.len() as u64,
            delivery: queue.delivery,
            lanes: queue.sched.lanes.len() as u64,
            ..Counters::default()
        };
        for (_, bucket) in queue.sched.buckets.iter() {
            let Some(limits) = &bucket.applied.limits else { continue };
            let availability = bucket.availability(now);
            let mut count = |present: bool, into: fn(&mut Counters) -> &mut LimitCounters, blocked: bool| {
                if present {
                    let counter = into(&mut counters);
                    counter.counters += 1;
                    counter.suspends += u64::from(blocked);
                }
            };
            let until = |wanted| matches!(availability, Availability::Until(_, cause) if cause == wanted);
            count(limits.concurrency.is_some(), |c| &mut c.concurrency, availability == Availability::Full);
            count(limits.rate.is_some(), |c| &mut c.rate, until(Cause::Rate));
            let present = limits.connect_interval.is_some();
            count(present, |c| &mut c.connect_interval, until(Cause::ConnectInterval));
        }
        counters
    }
}
