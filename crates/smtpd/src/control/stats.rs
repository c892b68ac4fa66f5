//! The answer to `process-stats`.

use crate::clock;
use crate::daemon::Daemon;
use crate::delivery::pool;
use crate::hooks::pool::Pool;
use crate::hooks::pools;
use crate::hooks::script::ScriptCounters;
use control::smtpd as wire;
use control::smtpd::process_stats_response as stats;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

pub(super) fn process_stats(daemon: &Daemon) -> wire::ProcessStatsResponse {
    let generation = daemon.generations.current();
    let mut ids: Vec<&String> = generation.servers.keys().collect();
    ids.sort();
    let servers = ids.into_iter().map(|id| {
        let server = &generation.servers[id];
        let script = |phase: &'static str| {
            let counters = daemon.generations.shared().counters(id, phase);
            let script = server.hooks.of_phase(phase);
            Some(server_script(&counters, script.map_or(pools::DEFAULT, |script| script.pool().id())))
        };
        stats::ServerCounters {
            serverid: id.clone(),
            connections: Some(stats::Connections {
                concurrent: server.gate.total().into(),
                maxconcurrent: server.concurrency_total.into(),
            }),
            scripts: Some(stats::Scripts {
                connect: script("connect"),
                proxy: script("proxy"),
                helo: script("helo"),
                auth: script("auth"),
                mailfrom: script("mailfrom"),
                rcptto: script("rcptto"),
                eod: script("eod"),
                disconnect: script("disconnect"),
            }),
        }
    });
    wire::ProcessStatsResponse {
        process: Some(stats::Process {
            pid: std::process::id().into(),
            runtime: daemon.started.elapsed().as_secs_f64(),
            version: Some(version()),
            license: Some(stats::process::License::default()),
        }),
        resolver: Some(resolver(&generation.resolver.stats())),
        servers: servers.collect(),
        threads: Some(stats::Threads {
            scripts: daemon.generations.shared().pools().all().map(threads).collect(),
        }),
        queue: Some(queue(daemon, generation.outbound_max)),
        monitor: Some(stats::Monitor { ready: true, healthy: !daemon.spool.low_space() }),
        spool: Some(stats::Spool { minfree: u64::from(daemon.spool.low_space()) }),
        ..wire::ProcessStatsResponse::default()
    }
}

/// Major, minor and patch of this program.
pub(super) fn version_numbers() -> [u64; 3] {
    let mut numbers = env!("CARGO_PKG_VERSION").split('.').map(|part| part.parse().unwrap_or(0));
    [numbers.next().unwrap_or(0), numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)]
}

fn version() -> stats::process::Version {
    let [major, minor, patch] = version_numbers();
    stats::process::Version { major, minor, patch }
}

fn server_script(counters: &ScriptCounters, pool: &str) -> stats::Script {
    stats::Script {
        pending: counters.pending.load(Relaxed),
        running: counters.running.load(Relaxed),
        finished: counters.finished.load(Relaxed),
        errors: counters.errors.load(Relaxed),
        suspended: counters.suspended.load(Relaxed),
        threadid: pool.to_owned(),
        ..stats::Script::default()
    }
}

fn threads(pool: &Arc<Pool>) -> stats::threads::Scripts {
    let (running, begun) = (&pool.running, &pool.begun);
    stats::threads::Scripts {
        id: pool.id().to_owned(),
        pending: (running.waiting() + begun.waiting()) as u64,
        running: running.taken() as u64,
        maxrunning: running.size() as u64,
        scripts: begun.taken() as u64,
        maxscripts: begun.size() as u64,
        ..stats::threads::Scripts::default()
    }
}

fn queue_script(counters: &ScriptCounters) -> stats::queue::Script {
    stats::queue::Script {
        pending: counters.pending.load(Relaxed),
        running: counters.running.load(Relaxed),
        finished: counters.finished.load(Relaxed),
        errors: counters.errors.load(Relaxed),
        suspended: counters.suspended.load(Relaxed),
        threadid: pools::QUEUES.to_owned(),
        ..stats::queue::Script::default()
    }
}

fn resolver(of: &net::resolver::Stats) -> stats::Resolver {
    stats::Resolver {
        pending: of.pending,
        running: of.running,
        maxrunning: of.maxrunning,
        dedup: of.dedup,
        cache: Some(stats::resolver::Cache {
            size: of.cache_size,
            hits: of.cache_hits,
            misses: of.cache_misses,
            expires: of.cache_expires,
            evicts: of.cache_evicts,
            skips: of.cache_skips,
            maxsize: of.cache_maxsize,
        }),
        ..stats::Resolver::default()
    }
}

fn pooling(of: &pool::Stats) -> stats::queue::Pooling {
    stats::queue::Pooling {
        size: of.size,
        maxsize: of.maxsize,
        hits: of.hits,
        misses: of.misses,
        expires: of.expires,
        evicts: of.evicts,
        skips: of.skips,
    }
}

fn queue(daemon: &Daemon, outbound_max: u32) -> stats::Queue {
    use stats::queue as q;
    let counters = daemon.engine.queue.lock().counters(clock::now());
    let shared = daemon.generations.shared();
    stats::Queue {
        loader: Some(q::Loader {
            count: daemon.loaded.load(Relaxed),
            pending: daemon.engine.backlog.len(),
            active: counters.messages,
            maxactive: daemon.generations.current().messages_max,
        }),
        scripts: Some(q::Scripts {
            predelivery: Some(queue_script(&shared.counters("", "predelivery"))),
            postdelivery: Some(queue_script(&shared.counters("", "postdelivery"))),
        }),
        queue: Some(q::Queue {
            defer: Some(q::queue::Defer { size: counters.defer }),
            active: Some(q::queue::Active {
                size: counters.active,
                priorities: counters
                    .active_priorities
                    .iter()
                    .map(|&size| q::queue::active::Priority { size })
                    .collect(),
            }),
        }),
        freeze: Some(q::Freeze {
            hold: Some(q::freeze::Hold { size: counters.hold }),
            update: Some(q::freeze::Update { size: counters.update, pending: counters.update_pending }),
        }),
        policy: Some(q::Policy {
            concurrency: Some(q::policy::Concurrency {
                counters: counters.concurrency.counters,
                suspends: counters.concurrency.suspends,
            }),
            rate: Some(q::policy::Rate { buckets: counters.rate.counters, suspends: counters.rate.suspends }),
            dynamic: Some(q::policy::Dynamic {
                suspends: counters.dynamic_suspends,
                conditions: counters.dynamic_conditions,
            }),
            connectinterval: Some(q::policy::Connectinterval {
                buckets: counters.connect_interval.counters,
                suspends: counters.connect_interval.suspends,
            }),
        }),
        pickup: Some(q::Pickup {
            skips: counters.pickup.skips,
            misses: counters.pickup.misses,
            count: counters.pickup.count,
            pending: 0,
            evals: counters.pickup.evals,
            putback: counters.pickup.putback,
        }),
        connections: Some(q::Connections {
            concurrent: daemon.engine.connections.load(Relaxed),
            maxconcurrent: outbound_max.into(),
            pooling: Some(pooling(&daemon.engine.pool.stats())),
        }),
        quota: Some(q::Quota { size: counters.quotas }),
        delivery: Some(q::Delivery {
            delivered: counters.delivery.delivered,
            delayed: counters.delivery.delayed,
            failed: counters.delivery.failed,
        }),
        release: Some(q::Release { pending: daemon.engine.releasing.load(Relaxed) }),
    }
}
