//! Policies, suspensions and pickup order.

mod common;

use std::collections::BTreeMap;

use common::*;
use queue::*;

fn settle(queue: &mut Queue, now: Time, pick: Pick) {
    queue.settle(now, pick.ticket, Outcome::Done).unwrap();
    queue.verify().unwrap();
}

#[test]
fn fifo_by_due_time_inside_a_lane_and_turns_between_lanes() {
    let mut queue = Queue::new(Settings::default());
    for (id, mx, due_s) in [(1, "a", 3), (2, "a", 1), (3, "a", 2), (4, "b", 9)] {
        let new = NewEntry { retry_at: Time(T0.0 - 10_000_000 + due_s * 1_000_000), ..entry(1, "x@y") };
        activate_in(&mut queue, id, new, mx);
    }
    let order: Vec<u128> = picks(&mut queue, T0)
        .iter()
        .map(|pick| queue.entry(pick.ticket.key()).unwrap().message_id().as_u128())
        .collect();
    assert_eq!(order, [2, 4, 3, 1]);
}

/// Inserts, and resolves whatever pre-delivery comes (picks of earlier entries stay out by a full total).
fn activate_in(queue: &mut Queue, id: u128, new: NewEntry, mx: &str) -> EntryKey {
    queue.set_limits(100, 0);
    let key = queue.insert(T0, message(id), vec![new]).unwrap()[0];
    for work in poll(queue, T0, 100) {
        let Work::Predelivery(ticket) = work else { panic!("no attempts are allowed") };
        queue.resolved(T0, ticket, &resolved(mx)).unwrap();
    }
    queue.set_limits(100, 1000);
    key
}

#[test]
fn high_priority_goes_first() {
    let mut queue = Queue::new(Settings::default());
    activate_in(&mut queue, 1, entry(1, "x@y"), "mx");
    let high = activate_in(&mut queue, 2, NewEntry { priority: 1, ..entry(1, "x@y") }, "mx");
    assert_eq!(pick(&mut queue, T0).ticket.key(), high);
}

#[test]
fn concurrency_blocks_its_own_key_only_and_frees_with_the_attempt() {
    let mut queue = Queue::new(Settings::default());
    set(&mut queue, T0, vec![policy(&[Field::RemoteMx], concurrency(2))]);
    for id in 1..=4 {
        activate_in(&mut queue, id, entry(1, "x@y"), "a");
    }
    activate_in(&mut queue, 9, entry(1, "x@y"), "b");
    let mut running = picks(&mut queue, T0);
    assert_eq!(running.len(), 3);
    assert!(picks(&mut queue, T0).is_empty());
    assert_eq!(queue.counters(T0).concurrency, LimitCounters { counters: 2, suspends: 1 });
    let blocked = queue.suspensions(T0);
    assert_eq!(blocked[0].source, SuspensionSource::Counter(Cause::Concurrency));
    assert_eq!(blocked[0].fields, [(Field::RemoteMx, "a".to_owned())]);
    let first = running.remove(0);
    // The attempt is over before post-delivery: its place is free at once.
    queue.attempt_done(T0, &first.ticket, AttemptClass::Delayed).unwrap();
    assert_eq!(picks(&mut queue, T0).len(), 1);
    settle(&mut queue, T0, first);
    assert!(picks(&mut queue, T0).is_empty());
}

#[test]
fn rates_reopen_by_themselves() {
    let mut queue = Queue::new(Settings::default());
    set(&mut queue, T0, vec![policy(&[], rate(2, 10, RateAlgorithm::FixedWindow))]);
    for id in 1..=5 {
        activate_in(&mut queue, id, entry(1, "x@y"), if id % 2 == 0 { "a" } else { "b" });
    }
    for (after_s, expected) in [(0, 2), (9, 0), (10, 2), (15, 0), (20, 1)] {
        let now = T0.after(secs(after_s));
        let started = picks(&mut queue, now);
        assert_eq!(started.len(), expected, "after {after_s} s");
        started.into_iter().for_each(|pick| settle(&mut queue, now, pick));
    }
    assert_eq!(
        queue.next_wake(T0.after(secs(20))),
        Some(T0.after(secs(30))),
        "the counter is forgotten then"
    );
    poll(&mut queue, T0.after(secs(30)), 1);
    assert_eq!(queue.counters(T0.after(secs(30))).rate.counters, 0);
}

#[test]
fn connect_interval_counts_new_connections() {
    let limits = Limits { connect_interval: Some(secs(5)), ..Limits::default() };
    let mut queue = Queue::new(Settings::default());
    set(&mut queue, T0, vec![policy(&[Field::RemoteMx], limits)]);
    for id in 1..=3 {
        activate_in(&mut queue, id, entry(1, "x@y"), "a");
    }
    let first = picks(&mut queue, T0);
    assert_eq!(first.len(), 1);
    assert_eq!(queue.next_wake(T0), Some(T0.after(secs(5))));
    queue.connection_reused(&first[0].ticket, T0).unwrap();
    assert_eq!(picks(&mut queue, T0).len(), 1);
    assert!(picks(&mut queue, T0.after(secs(4))).is_empty());
    assert_eq!(picks(&mut queue, T0.after(secs(5))).len(), 1);
}

#[test]
fn any_source_address_that_passes_will_do() {
    let mut queue = Queue::new(Settings::default());
    set(&mut queue, T0, vec![policy(&[Field::LocalIp], concurrency(1))]);
    let pool = Resolved { local_ips: vec![ip("192.0.2.1"), ip("192.0.2.2")], ..resolved("mx") };
    queue.set_limits(100, 0);
    for id in 1..=3 {
        queue.insert(T0, message(id), vec![entry(1, "x@y")]).unwrap();
    }
    for work in poll(&mut queue, T0, 100) {
        let Work::Predelivery(ticket) = work else { panic!() };
        queue.resolved(T0, ticket, &pool).unwrap();
    }
    queue.set_limits(100, 100);
    let mut running = picks(&mut queue, T0);
    let mut used: Vec<_> = running.iter().map(|pick| pick.local_ip).collect();
    used.sort();
    assert_eq!(used, pool.local_ips);
    assert_eq!(pool.local_ips[running[1].local_index], running[1].local_ip);
    let done = running.remove(1);
    let freed = done.local_ip;
    settle(&mut queue, T0, done);
    assert_eq!(picks(&mut queue, T0)[0].local_ip, freed);
}

#[test]
fn conditions_defaults_stop_and_rollups() {
    let mut queue = Queue::new(Settings::default());
    let tagged = |tag: &str, stop| Limits { tag: Some(tag.into()), stop, ..Limits::default() };
    let families = vec![
        Policy {
            fields: [Field::RemoteMx].into_iter().collect(),
            rollups: vec![Rollup {
                field: Field::RemoteMx,
                name: "hosted".into(),
                patterns: vec![Pattern::Below("hosted.example".into())],
            }],
            conditions: vec![
                PolicyCondition { when: exact(Field::RemoteMx, "#hosted"), then: concurrency(1) },
                PolicyCondition { when: exact(Field::RemoteMx, "stop.example"), then: tagged("stop", true) },
            ],
            default: None,
        },
        policy(&[], tagged("global", false)),
    ];
    set(&mut queue, T0, families);
    let tags = |queue: &mut Queue, mx: &str| -> Vec<Option<String>> {
        let values = [(Field::RemoteMx, mx.to_owned())];
        let matches = queue.match_policies(T0, &values);
        matches.iter().map(|m| m.applied.limits.as_ref().unwrap().tag.clone()).collect()
    };
    assert_eq!(tags(&mut queue, "other.example"), [Some("global".into())]);
    assert_eq!(tags(&mut queue, "stop.example"), [Some("stop".into())]);
    assert_eq!(tags(&mut queue, "mx.hosted.example"), [None, Some("global".into())]);
    // Two hosts of the group share one place.
    activate_in(&mut queue, 1, entry(1, "x@y"), "a.hosted.example");
    activate_in(&mut queue, 2, entry(1, "x@y"), "b.hosted.example");
    let running = picks(&mut queue, T0);
    assert_eq!(running.len(), 1);
    assert_eq!(running[0].applied[0].grouping, [(Field::RemoteMx, "#hosted".to_owned())]);
}

#[test]
fn dynamic_conditions_win_end_and_wake() {
    let mut queue = Queue::new(Settings::default());
    set(&mut queue, T0, vec![policy(&[Field::RemoteMx], concurrency(5))]);
    let dynamic = |id: &str, n, ttl| DynamicCondition {
        fields: [Field::RemoteMx].into_iter().collect(),
        when: exact(Field::RemoteMx, "a"),
        then: concurrency(n),
        ttl,
        id: id.into(),
    };
    queue.add_condition(T0, dynamic("one", 1, Some(secs(60)))).unwrap();
    assert!(matches!(queue.add_condition(T0, dynamic("one", 1, None)), Err(QueueError::AlreadyExists(_))));
    let unknown =
        DynamicCondition { fields: FieldSet::NONE.with(Field::JobId), ..DynamicCondition::default() };
    assert!(matches!(queue.add_condition(T0, unknown), Err(QueueError::UnknownCounter(_))));
    for id in 1..=4 {
        activate_in(&mut queue, id, entry(1, "x@y"), "a");
    }
    let running = picks(&mut queue, T0);
    assert_eq!(running.len(), 1);
    assert_eq!(running[0].applied[0].dynamic.as_deref(), Some("one"));
    let change = DynamicChange { then: Some(concurrency(2)), ..DynamicChange::default() };
    assert_eq!(queue.change_condition(T0, "one", change), Ok(true));
    assert_eq!(picks(&mut queue, T0).len(), 1);
    assert_eq!(queue.next_wake(T0), Some(T0.after(secs(60))));
    assert_eq!(picks(&mut queue, T0.after(secs(60))).len(), 2, "the file's limit of 5 is back");
    assert_eq!(queue.counters(T0.after(secs(60))).dynamic_conditions, 0);
}

#[test]
fn a_reload_keeps_counters_with_the_same_fields_and_recounts_new_ones() {
    let mut queue = Queue::new(Settings::default());
    let by_mx = |n| policy(&[Field::RemoteMx], concurrency(n));
    let windows = policy(&[], rate(3, 60, RateAlgorithm::FixedWindow));
    set(&mut queue, T0, vec![by_mx(2), windows.clone()]);
    for id in 1..=6 {
        activate_in(&mut queue, id, entry(1, "x@y"), "a");
    }
    let running = picks(&mut queue, T0);
    assert_eq!(running.len(), 2);
    // Other order, higher limit: two are still counted, and of the window one start is left.
    set(&mut queue, T0, vec![windows.clone(), by_mx(5)]);
    queue.verify().unwrap();
    assert_eq!(picks(&mut queue, T0).len(), 1);
    // A new counter knows what runs already.
    set(&mut queue, T0, vec![policy(&[Field::TransportId], concurrency(3))]);
    assert!(picks(&mut queue, T0).is_empty());
    set(&mut queue, T0, vec![]);
    assert_eq!(picks(&mut queue, T0).len(), 3);
    let broken = Limits { tag: Some("x".repeat(25)), ..Limits::default() };
    let bad = PolicySet { policies: vec![policy(&[], broken)], cluster_hosts: 1 };
    assert_eq!(queue.set_policies(T0, bad), Err(QueueError::TagTooLong));
}

#[test]
fn cluster_hosts_share_the_limits() {
    let mut queue = Queue::new(Settings::default());
    let own = Limits { per_node: true, ..concurrency(9) };
    let policies = vec![policy(&[], concurrency(9)), policy(&[Field::JobId], own)];
    queue.set_policies(T0, PolicySet { policies, cluster_hosts: 4 }).unwrap();
    let limits: Vec<_> = queue
        .match_policies(T0, &[])
        .iter()
        .map(|m| m.applied.limits.as_ref().and_then(|l| l.concurrency))
        .collect();
    assert_eq!(limits, [Some(2), Some(9)]);
}

#[test]
fn suspended_lanes_wait_until_lifted() {
    let mut queue = Queue::new(Settings::default());
    activate_in(&mut queue, 1, entry(1, "x@y"), "mx.example.com");
    let suspension = |id: &str, when, ttl| Suspension { id: id.into(), when, ttl, ..Suspension::default() };
    let when = exact(Field::RemoteMx, "*.example.com");
    queue.add_suspension(T0, suspension("s", when, Some(secs(60)))).unwrap();
    assert!(picks(&mut queue, T0).is_empty());
    assert_eq!(queue.next_wake(T0), Some(T0.after(secs(60))));
    let listed = queue.suspensions(T0.after(secs(20)));
    assert_eq!(listed[0].ttl, Some(secs(40)));
    assert_eq!(listed[0].fields, [(Field::RemoteMx, "*.example.com".to_owned())]);
    assert!(queue.delete_suspension("s"));
    let first = pick(&mut queue, T0);
    settle(&mut queue, T0, first);
    // By its own time.
    activate_in(&mut queue, 2, entry(1, "x@y"), "mx.example.com");
    queue.add_suspension(T0, suspension("all", Selector::default(), Some(secs(60)))).unwrap();
    assert!(picks(&mut queue, T0.after(secs(59))).is_empty());
    let last = pick(&mut queue, T0.after(secs(60)));
    settle(&mut queue, T0, last);
    // The file: equal items stay, missing ones go.
    let config = vec![suspension("file", exact(Field::JobId, "j"), None)];
    queue.set_suspensions(T0, config.clone()).unwrap();
    assert!(!queue.delete_suspension("file"), "static ones are changed in the file");
    queue.set_suspensions(T0, vec![]).unwrap();
    assert!(queue.suspensions(T0).is_empty());
}

#[test]
fn suspending_a_source_address_leaves_the_others() {
    let mut queue = Queue::new(Settings::default());
    let when = exact(Field::LocalIp, "192.0.2.0/31");
    queue.add_suspension(T0, Suspension { id: "s".into(), when, ..Suspension::default() }).unwrap();
    let pool = Resolved { local_ips: vec![ip("192.0.2.1"), ip("192.0.2.2")], ..resolved("mx") };
    for id in 1..=20 {
        active(&mut queue, T0, id, "x@y", &pool);
        let pick = pick(&mut queue, T0);
        assert_eq!(pick.local_ip, ip("192.0.2.2"));
        settle(&mut queue, T0, pick);
    }
    assert_eq!(queue.counters(T0).lanes, 0);
}

#[test]
fn buckets_are_refilled_by_exact_value() {
    let mut queue = Queue::new(Settings::default());
    set(&mut queue, T0, vec![policy(&[Field::RemoteMx], rate(1, 60, RateAlgorithm::TokenBucket))]);
    for (id, mx) in [(1, "a"), (2, "a"), (3, "b"), (4, "b")] {
        activate_in(&mut queue, id, entry(1, "x@y"), mx);
    }
    assert_eq!(picks(&mut queue, T0).len(), 2);
    let exact = [(Field::RemoteMx, "a".to_owned())];
    assert_eq!(queue.refill(T0, Some(&exact), None), 1);
    assert_eq!(picks(&mut queue, T0).len(), 1);
    assert_eq!(queue.refill(T0, None, None), 2);
    assert_eq!(picks(&mut queue, T0).len(), 1);
    assert_eq!(queue.refill(T0, Some(&[(Field::JobId, String::new())]), None), 0);
}

#[test]
fn source_addresses_are_balanced_by_weight_or_taken_in_order() {
    let pool = vec![ip("192.0.2.1"), ip("192.0.2.2"), ip("192.0.2.2"), ip("192.0.2.2")];
    for (ordered, least, most) in [(false, 600, 900), (true, 0, 0)] {
        let mut queue = Queue::new(Settings { seed: 7, ..Settings::default() });
        let resolved = Resolved { local_ips: pool.clone(), local_ips_ordered: ordered, ..resolved("mx") };
        let mut used: BTreeMap<_, u32> = BTreeMap::new();
        for id in 1..=1000 {
            active(&mut queue, T0, id, "x@y", &resolved);
            let pick = pick(&mut queue, T0);
            *used.entry(pick.local_ip).or_default() += 1;
            settle(&mut queue, T0, pick);
        }
        let second = used.get(&pool[1]).copied().unwrap_or(0);
        assert!((least..=most).contains(&second), "{second}");
    }
}
