//! Helpers shared by the tests of the queue.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::net::IpAddr;
use std::time::Duration;

use queue::*;
use uuid::Uuid;

pub(crate) const T0: Time = Time(1_700_000_000_000_000);

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn message(id: u128) -> NewMessage {
    NewMessage { id: Uuid::from_u128(id), received: T0, ..NewMessage::default() }
}

pub(crate) fn entry(queue_id: u64, recipient: &str) -> NewEntry {
    NewEntry {
        queue_id,
        sender: Address::parse("from@sender.example"),
        recipient: Address::parse(recipient),
        transport_id: "outbound".into(),
        size: 1000,
        retry_at: T0,
        ..NewEntry::default()
    }
}

pub(crate) fn resolved(mx: &str) -> Resolved {
    Resolved {
        local_ips: vec!["192.0.2.1".parse().unwrap()],
        remote_ip: Some("198.51.100.1".parse().unwrap()),
        remote_mx: mx.into(),
        ..Resolved::default()
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Inserts one entry and brings it to ACTIVE.
pub(crate) fn active(
    queue: &mut Queue,
    now: Time,
    id: u128,
    recipient: &str,
    resolved: &Resolved,
) -> EntryKey {
    let new = NewEntry { retry_at: now, ..entry(1, recipient) };
    activate(queue, now, id, new, resolved)
}

pub(crate) fn activate(
    queue: &mut Queue,
    now: Time,
    id: u128,
    new: NewEntry,
    resolved: &Resolved,
) -> EntryKey {
    let key = queue.insert(now, message(id), vec![new]).unwrap()[0];
    let ticket = predelivery(queue, now);
    assert_eq!(ticket.key(), key);
    queue.resolved(now, ticket, resolved).unwrap();
    key
}

pub(crate) fn poll(queue: &mut Queue, now: Time, budget: usize) -> Vec<Work> {
    let mut work = Vec::new();
    queue.poll(now, budget, &mut work);
    queue.verify().unwrap();
    work
}

pub(crate) fn predelivery(queue: &mut Queue, now: Time) -> Ticket {
    match poll(queue, now, 1).pop() {
        Some(Work::Predelivery(ticket)) => ticket,
        other => panic!("expected a pre-delivery, got {other:?}"),
    }
}

pub(crate) fn picks(queue: &mut Queue, now: Time) -> Vec<Pick> {
    let pick = |work| match work {
        Work::Deliver(pick) => pick,
        other => panic!("expected a delivery, got {other:?}"),
    };
    poll(queue, now, usize::MAX).into_iter().map(pick).collect()
}

pub(crate) fn pick(queue: &mut Queue, now: Time) -> Pick {
    match poll(queue, now, 1).pop() {
        Some(Work::Deliver(pick)) => pick,
        other => panic!("expected a delivery, got {other:?}"),
    }
}

pub(crate) fn policy(fields: &[Field], default: Limits) -> Policy {
    Policy { fields: fields.iter().copied().collect(), default: Some(default), ..Policy::default() }
}

pub(crate) fn set(queue: &mut Queue, now: Time, policies: Vec<Policy>) {
    queue.set_policies(now, PolicySet { policies, cluster_hosts: 1 }).unwrap();
}

pub(crate) fn concurrency(n: u32) -> Limits {
    Limits { concurrency: Some(n), ..Limits::default() }
}

pub(crate) fn rate(count: u32, seconds: u64, algorithm: RateAlgorithm) -> Limits {
    Limits { rate: Some(Rate { count, interval: secs(seconds), algorithm }), ..Limits::default() }
}

pub(crate) fn exact(field: Field, text: &str) -> Selector {
    let pattern = Pattern::parse(field, text, &|_| None).unwrap();
    Selector { fields: vec![(field, vec![pattern])] }
}
