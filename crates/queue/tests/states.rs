//! Each transition between the states.

mod common;

use common::*;
use queue::*;
use uuid::Uuid;

fn state(queue: &Queue, key: EntryKey) -> State {
    queue.entry(key).unwrap().state()
}

#[test]
fn an_entry_goes_through_predelivery_lane_and_attempt() {
    let mut queue = Queue::new(Settings::default());
    let key = queue.insert(T0, message(1), vec![entry(1, "a@example.com")]).unwrap()[0];
    assert_eq!(state(&queue, key), State::Defer);
    let ticket = predelivery(&mut queue, T0);
    assert_eq!(state(&queue, key), State::Unknown);
    assert_eq!(queue.resolved(T0, ticket, &resolved("mx.example.com")), Ok(Settled::Active));
    assert_eq!(state(&queue, key), State::Active);
    let pick = pick(&mut queue, T0);
    assert_eq!(state(&queue, key), State::Sending);
    assert_eq!(pick.local_ip, ip("192.0.2.1"));
    queue.attempt_done(T0, &pick.ticket, AttemptClass::Delivered).unwrap();
    assert_eq!(state(&queue, key), State::Unknown);
    let settled = queue.settle(T0, pick.ticket, Outcome::Done).unwrap();
    assert_eq!(settled, Settled::Gone { message_gone: true });
    assert!(queue.entry(key).is_none());
    assert_eq!(queue.counters(T0).delivery.delivered, 1);
    assert_eq!(queue.shared_values(), (0, 0), "nothing is left behind");
}

#[test]
fn where_an_entry_starts() {
    let later = T0.after(secs(60));
    for (new, expected) in [
        (entry(1, "a@b"), State::Defer),
        (NewEntry { retry_at: later, ..entry(1, "a@b") }, State::Defer),
        (NewEntry { hold: true, ..entry(1, "a@b") }, State::Hold),
        (NewEntry { update: true, ..entry(1, "a@b") }, State::Update),
    ] {
        let mut queue = Queue::new(Settings::default());
        let key = queue.insert(T0, message(1), vec![new.clone()]).unwrap()[0];
        assert_eq!(state(&queue, key), expected);
        queue.verify().unwrap();
        assert_eq!(queue.entry(key).unwrap().to_new(), new);
    }
}

#[test]
fn a_delivered_entry_is_never_sent_again_after_loading() {
    let mut queue = Queue::new(Settings::default());
    let new = NewEntry { delivered: true, hold: true, ..entry(1, "a@b") };
    queue.insert(T0, message(1), vec![new]).unwrap();
    let Some(Work::Postdelivery(ticket)) = poll(&mut queue, T0, 9).pop() else { panic!() };
    queue.settle(T0, ticket, Outcome::Done).unwrap();
    assert!(queue.is_empty());
}

#[test]
fn outcomes_decide_the_next_state() {
    for (requeue, freeze, expected, retries) in [
        (Requeue { delay: secs(60), ..Requeue::default() }, false, Settled::Deferred(T0.after(secs(60))), 4),
        (Requeue { hold: true, ..Requeue::default() }, false, Settled::Held, 4),
        (Requeue { increment_retry: false, ..Requeue::default() }, false, Settled::Deferred(T0), 3),
        (Requeue { reset_retry: true, ..Requeue::default() }, false, Settled::Deferred(T0), 0),
        (Requeue { hold: true, ..Requeue::default() }, true, Settled::Frozen, 4),
        (Requeue::default(), true, Settled::Frozen, 4),
    ] {
        let mut queue = Queue::new(Settings::default());
        let new = NewEntry { retry_count: 3, ..entry(1, "a@example.com") };
        let key = activate(&mut queue, T0, 1, new, &resolved("mx"));
        let pick = pick(&mut queue, T0);
        if freeze {
            let all = StateTest { states: States::ALL, freezing: None };
            let condition = Condition { states: all, ..Condition::default() };
            let request =
                UpdateRequest { condition, task: Some(Task::Hold), freeze: true, ..Default::default() };
            assert_eq!(queue.update(T0, request).unwrap().working, 1);
            assert_eq!(queue.counters(T0).update_pending, 1);
        }
        queue.attempt_done(T0, &pick.ticket, AttemptClass::Delayed).unwrap();
        assert_eq!(queue.settle(T0, pick.ticket, Outcome::Requeue(requeue)), Ok(expected));
        assert_eq!(queue.entry(key).unwrap().retry_count(), retries);
        assert_eq!(queue.counters(T0).update_pending, 0);
        queue.verify().unwrap();
    }
}

#[test]
fn a_frozen_entry_that_is_delivered_just_vanishes() {
    let mut queue = Queue::new(Settings::default());
    active(&mut queue, T0, 1, "a@b", &resolved("mx"));
    let pick = pick(&mut queue, T0);
    let request = UpdateRequest {
        condition: Condition {
            states: StateTest { states: States::ALL, freezing: None },
            ..Default::default()
        },
        task: Some(Task::Release),
        freeze: true,
        ..Default::default()
    };
    queue.update(T0, request).unwrap();
    queue.settle(T0, pick.ticket, Outcome::Done).unwrap();
    assert_eq!((queue.len(), queue.counters(T0).update_pending), (0, 0));
}

#[test]
fn deferred_entries_come_back_at_their_time_high_priority_first() {
    let mut queue = Queue::new(Settings { predelivery_max: 1, ..Settings::default() });
    let later = T0.after(secs(60));
    let normal = NewEntry { retry_at: T0.after(secs(30)), ..entry(1, "normal@b") };
    let high = NewEntry { retry_at: later, priority: 1, ..entry(2, "high@b") };
    let keys = queue.insert(T0, message(1), vec![normal, high]).unwrap();
    assert!(poll(&mut queue, T0, 9).is_empty());
    assert_eq!(queue.next_wake(T0), Some(T0.after(secs(30))));
    let ticket = predelivery(&mut queue, later);
    assert_eq!(ticket.key(), keys[1]);
    // The one slot is taken: nothing more until it comes back, and no wake-up is promised for it.
    assert!(poll(&mut queue, later, 9).is_empty());
    assert_eq!(queue.next_wake(later), None);
    queue.settle(later, ticket, Outcome::Done).unwrap();
    assert_eq!(predelivery(&mut queue, later).key(), keys[0]);
}

#[test]
fn tickets_are_good_once() {
    let mut queue = Queue::new(Settings::default());
    let key = queue.insert(T0, message(1), vec![entry(1, "a@b")]).unwrap()[0];
    let lost = predelivery(&mut queue, T0);
    let again = queue.reclaim(key).unwrap();
    assert!(matches!(queue.settle(T0, lost, Outcome::Done), Err(QueueError::StaleTicket(_))));
    queue.settle(T0, again, Outcome::Relinquish).unwrap();
    assert!(matches!(queue.reclaim(key), Err(QueueError::StaleTicket(_))));
    assert_eq!(queue.entry(key).unwrap().retry_count(), 0);
}

#[test]
fn failover_puts_back_without_counting() {
    let mut queue = Queue::new(Settings::default());
    let key = active(&mut queue, T0, 1, "a@b", &resolved("mx1"));
    let first = pick(&mut queue, T0);
    queue.failover(T0, first.ticket, &resolved("mx2")).unwrap();
    let view = queue.entry(key).unwrap();
    assert_eq!((view.state(), view.remote_mx(), view.retry_count()), (State::Active, "mx2", 0));
    let second = pick(&mut queue, T0);
    queue.settle(T0, second.ticket, Outcome::Done).unwrap();
    assert_eq!(queue.counters(T0).pickup.putback, 1);
}

#[test]
fn messages_are_refused_that_cannot_be_kept() {
    let mut queue = Queue::new(Settings::default());
    assert_eq!(queue.insert(T0, message(1), vec![]), Err(QueueError::NoRecipients));
    let twice = vec![entry(1, "a@b"), entry(1, "c@d")];
    assert!(matches!(queue.insert(T0, message(1), twice), Err(QueueError::DuplicateQueueId { .. })));
    let long = NewEntry {
        sender: Address { localpart: "x".repeat(70_000), domain: String::new() },
        ..entry(1, "a@b")
    };
    assert_eq!(queue.insert(T0, message(1), vec![long]), Err(QueueError::AddressTooLong(70_000)));
    queue.insert(T0, message(1), vec![entry(1, "a@b")]).unwrap();
    let duplicate = queue.insert(T0, message(1), vec![entry(1, "a@b")]);
    assert_eq!(duplicate, Err(QueueError::Duplicate(Uuid::from_u128(1))));
    queue.verify().unwrap();
}

#[test]
fn quotas_follow_their_entries() {
    let mut queue = Queue::new(Settings::default());
    let new = NewEntry { quotas: vec!["user".into(), "site".into()], ..entry(1, "a@b") };
    let other = NewEntry { quotas: vec!["site".into()], size: 500, ..entry(2, "c@d") };
    queue.insert(T0, message(1), vec![new, other]).unwrap();
    assert_eq!(queue.quota("user"), Quota { count: 1, bytes: 1000 });
    assert_eq!(queue.quota("site"), Quota { count: 2, bytes: 1500 });
    assert_eq!(queue.quota("unknown"), Quota::default());
    let ticket = predelivery(&mut queue, T0);
    let requeue = Requeue { quotas: Some(vec!["other".into()]), delay: secs(9), ..Requeue::default() };
    queue.settle(T0, ticket, Outcome::Requeue(requeue)).unwrap();
    queue.verify().unwrap();
    assert_eq!(queue.quota("other").count, 1);
    let ticket = predelivery(&mut queue, T0);
    queue.settle(T0, ticket, Outcome::Done).unwrap();
    assert_eq!(queue.counters(T0).quotas, 1);
}
