//! The queue's share of the process counters.

use ::control::smtpd::process_stats_response as pb;
use queue::Counters;

/// Writes the counters the queue keeps into the reply; others (loader, scripts, connections) stay as they are.
pub fn put(counters: &Counters, reply: &mut pb::Queue) {
    use pb::queue::{Delivery, Freeze, Policy, Quota, Release, freeze, policy, queue as inner};
    let loader = reply.loader.get_or_insert_default();
    loader.active = counters.messages;
    let priorities = counters.active_priorities.map(|size| inner::active::Priority { size }).to_vec();
    reply.queue = Some(pb::queue::Queue {
        defer: Some(inner::Defer { size: counters.defer }),
        active: Some(inner::Active { size: counters.active, priorities }),
    });
    reply.freeze = Some(Freeze {
        hold: Some(freeze::Hold { size: counters.hold }),
        update: Some(freeze::Update { size: counters.update, pending: counters.update_pending }),
    });
    reply.policy = Some(Policy {
        concurrency: Some(policy::Concurrency {
            counters: counters.concurrency.counters,
            suspends: counters.concurrency.suspends,
        }),
        rate: Some(policy::Rate { buckets: counters.rate.counters, suspends: counters.rate.suspends }),
        dynamic: Some(policy::Dynamic {
            suspends: counters.dynamic_suspends,
            conditions: counters.dynamic_conditions,
        }),
        connectinterval: Some(policy::Connectinterval {
            buckets: counters.connect_interval.counters,
            suspends: counters.connect_interval.suspends,
        }),
    });
    let pickup = reply.pickup.get_or_insert_default();
    pickup.count = counters.pickup.count;
    pickup.skips = counters.pickup.skips;
    pickup.misses = counters.pickup.misses;
    pickup.evals = counters.pickup.evals;
    pickup.putback = counters.pickup.putback;
    reply.quota = Some(Quota { size: counters.quotas });
    reply.delivery = Some(Delivery {
        delivered: counters.delivery.delivered,
        delayed: counters.delivery.delayed,
        failed: counters.delivery.failed,
    });
    reply.release = Some(Release { pending: counters.release_pending });
}
