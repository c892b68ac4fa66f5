//! Lists, distributions, updates and unloads.

mod common;

use common::*;
use queue::*;
use uuid::Uuid;

/// Ten messages of two entries each: transports t0..t2, ages 0..9 hours, sizes 100..1000.
fn sample() -> Queue {
    let mut queue = Queue::new(Settings::default());
    for i in 0..10u64 {
        let new_message = NewMessage {
            received: Time::from_secs(T0.as_secs() - 3600 * i as i64),
            server_id: if i % 2 == 0 { "in".into() } else { "submission".into() },
            sender_ip: Some(ip(&format!("203.0.113.{i}"))),
            subject: format!("Report {i}"),
            ..message(u128::from(i) + 1)
        };
        let new = |queue_id: u64, recipient: String| NewEntry {
            sender: if i == 9 { Address::default() } else { Address::parse("Sales@One.Example") },
            transport_id: format!("t{}", i % 3),
            job_id: if i < 5 { "first".into() } else { "second".into() },
            metadata: vec![("n".into(), i.to_string()), ("color".into(), "red".into())],
            size: (i + 1) * 100,
            retry_at: T0.after(secs(60 * (i + 1))),
            retry_count: i as u32,
            hold: i == 3,
            priority: u8::from(i == 4),
            retry_reason: if i == 7 { "450 Greylisted".into() } else { String::new() },
            quotas: vec!["q".into()],
            ..entry(queue_id, &recipient)
        };
        let entries = vec![new(1, format!("u{i}@a.example")), new(2, format!("v{i}@b.example"))];
        queue.insert(T0, new_message, entries).unwrap();
    }
    queue
}

fn ids(queue: &Queue, keys: &[EntryKey]) -> Vec<String> {
    let id = |key: &EntryKey| {
        let view = queue.entry(*key).unwrap();
        format!("{}:{}", view.message_id().as_u128(), view.queue_id())
    };
    keys.iter().map(id).collect()
}

fn text(value: &str) -> Item<TextTest> {
    Item::include(TextTest::Exact(value.into()))
}

#[test]
fn each_condition_selects_its_entries() {
    let queue = sample();
    let regex = |text: &str| TextTest::Regex(Regex::new(text, false).unwrap());
    let state = |state| StateTest { states: States::NONE.with(state), freezing: None };
    let address = |localpart: Option<&str>, domain: Option<&str>| AddressTest {
        localpart: localpart.map(text),
        domain: domain.map(|domain| TextTest::Exact(domain.into())),
    };
    let metadata = |texts: Vec<Item<TextTest>>, numbers: Vec<Compare<f64>>| {
        let keys = vec![("n".to_owned(), MetadataValueTest { texts, numbers })];
        vec![Item::include(MetadataTest { keys })]
    };
    let relative = TimeValue::Relative;
    let id = |message, queue_id| Item::include(IdTest { message: Uuid::from_u128(message), queue_id });
    let cases: Vec<(&str, Condition, usize)> = vec![
        ("everything", Condition::default(), 20),
        ("state", Condition { states: state(State::Hold), ..Default::default() }, 2),
        ("hold", Condition { hold: Some(false), ..Default::default() }, 18),
        ("id", Condition { ids: vec![id(3, None), id(4, Some(2)), id(99, None)], ..Default::default() }, 3),
        ("id excluded", Condition { ids: vec![Item::exclude(id(3, None).test)], ..Default::default() }, 18),
        ("server", Condition { server_ids: vec![text("in")], ..Default::default() }, 10),
        (
            "sender ip",
            Condition {
                sender_ips: vec![Item::include(parse_net("203.0.113.4/30").unwrap())],
                ..Default::default()
            },
            8,
        ),
        (
            "transports are alternatives",
            Condition { transport_ids: vec![text("t0"), text("t1")], ..Default::default() },
            14,
        ),
        (
            "transport and job must both hold",
            Condition { transport_ids: vec![text("t0")], job_ids: vec![text("first")], ..Default::default() },
            4,
        ),
        ("job regex", Condition { job_ids: vec![Item::include(regex("^sec"))], ..Default::default() }, 10),
        (
            "transport excluded",
            Condition {
                transport_ids: vec![Item::exclude(TextTest::Exact("t0".into()))],
                ..Default::default()
            },
            12,
        ),
        (
            "sender",
            Condition {
                senders: vec![Item::include(address(Some("Sales"), Some("one.example")))],
                ..Default::default()
            },
            18,
        ),
        (
            "local parts know case",
            Condition { senders: vec![Item::include(address(Some("sales"), None))], ..Default::default() },
            0,
        ),
        (
            "null sender",
            Condition { senders: vec![Item::include(address(Some(""), Some("")))], ..Default::default() },
            2,
        ),
        (
            "recipient domain",
            Condition {
                recipients: vec![Item::include(address(None, Some("a.example")))],
                ..Default::default()
            },
            10,
        ),
        (
            "older than 3 h",
            Condition {
                received: vec![Compare { lt: Some(relative(-3.0 * 3600.0)), ..Default::default() }],
                ..Default::default()
            },
            12,
        ),
        (
            "due within 2 min",
            Condition {
                retry_at: vec![Compare { lte: Some(relative(120.0)), ..Default::default() }],
                ..Default::default()
            },
            4,
        ),
        (
            "retry count range",
            Condition {
                retry_counts: vec![Compare { gte: Some(2), lte: Some(4), ..Default::default() }],
                ..Default::default()
            },
            6,
        ),
        (
            "subject",
            Condition {
                subjects: vec![Item::include(TextTest::PartialCaseless("REPORT 7".into()))],
                ..Default::default()
            },
            2,
        ),
        ("metadata text", Condition { metadata: metadata(vec![text("5")], vec![]), ..Default::default() }, 2),
        (
            "metadata number",
            Condition {
                metadata: metadata(vec![], vec![Compare { gt: Some(6.5), ..Default::default() }]),
                ..Default::default()
            },
            6,
        ),
        ("quota", Condition { quotas: vec![text("q")], ..Default::default() }, 20),
        (
            "size",
            Condition { sizes: vec![Compare { eq: Some(300), ..Default::default() }], ..Default::default() },
            2,
        ),
        (
            "reason",
            Condition {
                retry_reasons: vec![Item::include(TextTest::PartialCaseless("greylist".into()))],
                ..Default::default()
            },
            2,
        ),
        (
            "priority",
            Condition {
                priorities: vec![Compare { eq: Some(1), ..Default::default() }],
                ..Default::default()
            },
            2,
        ),
        (
            "source address, none resolved",
            Condition {
                local_ips: vec![Item::include(parse_net("0.0.0.0/0").unwrap())],
                ..Default::default()
            },
            0,
        ),
    ];
    for (name, condition, expected) in cases {
        let (total, keys) = queue.list(T0, condition, vec![], 0, 0);
        assert_eq!((total, keys.len()), (expected as u64, expected), "{name}");
    }
    let half = Condition { probability: 0.5, ..Condition::default() };
    let (chosen, _) = queue.list(T0, half, vec![], 0, 0);
    assert!((1..20).contains(&chosen), "{chosen} of 20 by chance");
}

#[test]
fn lists_are_sorted_paged_and_sliced() {
    let queue = sample();
    let (total, keys) = queue.list(T0, Condition::default(), vec![], 1, 3);
    assert_eq!((total, ids(&queue, &keys)), (20, vec!["10:2".into(), "9:1".into(), "9:2".into()]));
    let sortings = vec![
        Sorting { field: SortField::RecipientDomain, descending: true },
        Sorting { field: SortField::Size, descending: false },
    ];
    let (_, keys) = queue.list(T0, Condition::default(), sortings.clone(), 0, 2);
    assert_eq!(ids(&queue, &keys), ["1:2", "2:2"]);
    // In slices of any size the answer is the same.
    let (_, whole) = queue.list(T0, Condition::default(), sortings.clone(), 0, 0);
    for budget in [1, 3, 19, 21] {
        let mut query = ListQuery::new(&queue, T0, Condition::default(), sortings.clone(), 0, 0);
        while !query.step(&queue, budget) {}
        assert_eq!(query.finish().1, whole, "budget {budget}");
    }
}

#[test]
fn group_by_counts_rows_bytes_and_different_values() {
    let queue = sample();
    let count = |test, returns| Count { test, returns };
    let request = GroupRequest {
        groups: vec![GroupField::TransportId],
        counts: vec![
            count(CountTest::State(State::Hold), None),
            count(CountTest::State(State::Defer), Some(CountReturn::Bytes)),
            count(
                CountTest::All,
                Some(CountReturn::Unique { field: GroupField::RecipientDomain, whole: false }),
            ),
            count(CountTest::All, Some(CountReturn::Unique { field: GroupField::SenderIp, whole: true })),
        ],
        sortings: vec![GroupSorting { field: GroupSortField::Total, descending: true }],
        ..GroupRequest::default()
    };
    let (total, rows) = queue.group_by(T0, request);
    let row = |name: &str, counts: [u64; 4], total| GroupRow {
        groups: vec![name.into()],
        counts: counts.to_vec(),
        total,
    };
    let expected = vec![
        row("t0", [2, 2 * (100 + 700 + 1000), 2, 10], 8),
        row("t1", [0, 2 * (200 + 500 + 800), 2, 10], 6),
        row("t2", [0, 2 * (300 + 600 + 900), 2, 10], 6),
    ];
    assert_eq!((total, rows), (3, expected));
    let request = GroupRequest {
        groups: vec![GroupField::RecipientDomain, GroupField::Metadata("color".into())],
        rollups: vec![GroupRollup {
            name: "example".into(),
            field: Field::RecipientDomain,
            patterns: vec![Pattern::Below("example".into())],
        }],
        bytes: true,
        ..GroupRequest::default()
    };
    let (_, rows) = queue.group_by(T0, request);
    let groups = vec!["#example".to_owned(), "red".to_owned()];
    assert_eq!(rows, [GroupRow { groups, counts: vec![], total: 11_000 }]);
}

#[test]
fn group_by_source_address_counts_an_entry_once_for_each() {
    let mut queue = Queue::new(Settings::default());
    let pool =
        Resolved { local_ips: vec![ip("192.0.2.1"), ip("192.0.2.2"), ip("192.0.2.2")], ..resolved("mx") };
    active(&mut queue, T0, 1, "a@b", &pool);
    let request = GroupRequest { groups: vec![GroupField::LocalIp], ..GroupRequest::default() };
    let (total, rows) = queue.group_by(T0, request);
    assert_eq!((total, rows.iter().map(|row| row.total).collect::<Vec<_>>()), (2, vec![1, 1]));
}

#[test]
fn states_add_up_at_every_moment() {
    let queue = sample();
    let request = GroupRequest {
        counts: State::ALL.map(|state| Count { test: CountTest::State(state), returns: None }).to_vec(),
        ..GroupRequest::default()
    };
    let (_, rows) = queue.group_by(T0, request);
    assert_eq!(rows[0].counts.iter().sum::<u64>(), 20);
    assert_eq!(rows[0].total, 20);
}

fn update(queue: &mut Queue, request: UpdateRequest) -> UpdateReport {
    let report = queue.update(T0, request).unwrap();
    queue.verify().unwrap();
    report
}

#[test]
fn tasks_move_entries() {
    let jobs = |job: &str| Condition { job_ids: vec![text(job)], ..Condition::default() };
    let mut queue = sample();
    let hold = UpdateRequest { condition: jobs("first"), task: Some(Task::Hold), ..Default::default() };
    let report = update(&mut queue, hold);
    assert_eq!((report.affected, report.changed.len(), queue.size(State::Hold)), (10, 10, 10));
    let at = TimeValue::Relative(100.0);
    let task = Some(Task::Defer { at, jitter: secs(50) });
    update(&mut queue, UpdateRequest { condition: jobs("first"), task, ..Default::default() });
    assert_eq!(queue.size(State::Hold), 0);
    let (_, keys) = queue.list(T0, jobs("first"), vec![], 0, 0);
    let delays: Vec<u64> =
        keys.iter().map(|&key| queue.entry(key).unwrap().retry_at().since(T0).as_secs()).collect();
    assert!(delays.iter().all(|delay| (100..=150).contains(delay)), "{delays:?}");
    assert!(delays.iter().any(|&delay| delay != delays[0]), "spread");
    let task = Some(Task::Active);
    update(&mut queue, UpdateRequest { condition: jobs("first"), task, ..Default::default() });
    assert_eq!(poll(&mut queue, T0, 99).len(), 10);
    let task = Some(Task::Release);
    let report = update(&mut queue, UpdateRequest { condition: jobs("second"), task, ..Default::default() });
    assert_eq!((report.released.len(), report.affected), (10, 10));
    for ticket in report.released {
        queue.settle(T0, ticket, Outcome::Done).unwrap();
    }
    assert_eq!(queue.len(), 10);
}

#[test]
fn working_entries_are_reported_and_frozen_on_request() {
    let mut queue = Queue::new(Settings::default());
    let working = active(&mut queue, T0, 1, "a@b", &resolved("mx"));
    let pick = pick(&mut queue, T0);
    active(&mut queue, T0, 2, "a@b", &resolved("mx"));
    let states = StateTest { states: States::ALL, freezing: None };
    let condition = Condition { states, ..Condition::default() };
    let request =
        UpdateRequest { condition: condition.clone(), task: Some(Task::Hold), ..UpdateRequest::default() };
    let report = update(&mut queue, request.clone());
    assert_eq!((report.affected, report.working), (1, 1));
    let report = update(&mut queue, UpdateRequest { freeze: true, ..request });
    assert_eq!((report.affected, report.working), (1, 1));
    let freezing = Condition {
        states: StateTest { states: States::ALL, freezing: Some(true) },
        ids: vec![Item::include(IdTest { message: Uuid::from_u128(1), queue_id: None })],
        ..Condition::default()
    };
    assert_eq!(queue.list(T0, freezing, vec![], 0, 0).1, [working]);
    let requeue = Requeue { delay: secs(60), reason: Some("later".into()), ..Requeue::default() };
    assert_eq!(queue.settle(T0, pick.ticket, Outcome::Requeue(requeue)), Ok(Settled::Frozen));
    let view = queue.entry(working).unwrap();
    assert_eq!((view.state(), view.retry_count(), view.retry_reason()), (State::Update, 1, "later"));
    let update_state = StateTest { states: States::NONE.with(State::Update), freezing: None };
    let condition = Condition { states: update_state, ..Condition::default() };
    let task = Some(Task::Active);
    assert_eq!(update(&mut queue, UpdateRequest { condition, task, ..Default::default() }).affected, 1);
    assert_eq!(queue.size(State::Update), 0);
}

#[test]
fn changes_are_applied_and_reroute_active_entries() {
    let mut queue = Queue::new(Settings::default());
    let key = active(&mut queue, T0, 1, "user@example.com", &resolved("mx"));
    let change = |changes| UpdateRequest { changes, ..UpdateRequest::default() };
    // Priority and metadata leave it in the active queue.
    let metadata = vec![("k".into(), "v".into())];
    update(&mut queue, change(Changes { priority: Some(1), metadata, ..Default::default() }));
    let view = queue.entry(key).unwrap();
    assert_eq!((view.state(), view.priority(), view.metadata_value("k")), (State::Active, 1, Some("v")));
    assert_eq!(queue.counters(T0).active_priorities, [0, 1]);
    // Another transport sends it through pre-delivery again.
    let localpart = AddressChange { localpart: Some("other".into()), domain: Some("Example.ORG".into()) };
    update(
        &mut queue,
        change(Changes {
            transport_id: Some("t2".into()),
            retry_count: Some(7),
            sender: localpart.clone(),
            recipient: AddressChange { localpart: Some(String::new()), domain: None },
            ..Default::default()
        }),
    );
    let view = queue.entry(key).unwrap();
    assert_eq!((view.state(), view.transport_id(), view.retry_count()), (State::Defer, "t2", 7));
    assert_eq!((view.sender_localpart(), view.sender_domain()), ("other", "example.org"));
    assert_eq!((view.recipient_localpart(), view.recipient_domain()), ("", "example.com"));
    assert_eq!(predelivery(&mut queue, T0).key(), key);
    assert!(matches!(queue.update(T0, UpdateRequest::default()), Err(QueueError::NothingToDo)));
}

#[test]
fn active_entries_made_active_keep_their_next_hop() {
    let mut queue = Queue::new(Settings::default());
    set(&mut queue, T0, vec![policy(&[], concurrency(0))]);
    let key = active(&mut queue, T0, 1, "user@example.com", &resolved("mx"));
    let later = T0.after(secs(30));
    let request = UpdateRequest { task: Some(Task::Active), ..UpdateRequest::default() };
    queue.update(later, request).unwrap();
    let view = queue.entry(key).unwrap();
    assert_eq!((view.state(), view.remote_mx(), view.retry_at()), (State::Active, "mx", later));
}

#[test]
fn duplicates_get_new_queue_ids_and_the_changes() {
    let mut queue = sample();
    let request = UpdateRequest {
        condition: Condition { transport_ids: vec![text("t2")], ..Condition::default() },
        task: Some(Task::Hold),
        changes: Changes { transport_id: Some("copy".into()), ..Changes::default() },
        duplicate: true,
        limit: 2,
        ..UpdateRequest::default()
    };
    let report = update(&mut queue, request);
    assert_eq!((report.affected, report.changed.len(), queue.len()), (2, 0, 22));
    let mut keys = Vec::new();
    for copy in report.created {
        keys.push((copy.ticket.key(), copy.original));
        assert_eq!(
            queue.entry(copy.ticket.key()).unwrap().state(),
            State::Unknown,
            "not before it is stored"
        );
        assert_eq!(queue.finish_duplicate(T0, copy, Some(Task::Hold)), Ok(None));
    }
    queue.verify().unwrap();
    let copy = queue.entry(keys[0].0).unwrap();
    let original = queue.entry(queue.find(copy.message_id(), keys[0].1).unwrap()).unwrap();
    assert_eq!((copy.queue_id(), copy.transport_id(), copy.state()), (3, "copy", State::Hold));
    assert_eq!((original.queue_id(), original.transport_id()), (1, "t2"));
    assert_eq!(copy.received().as_secs(), T0.as_secs() - 8 * 3600, "the oldest first");
}

#[test]
fn unload_takes_whole_messages() {
    let mut queue = sample();
    let some = Condition {
        recipients: vec![Item::include(AddressTest {
            localpart: None,
            domain: Some(TextTest::Exact("a.example".into())),
        })],
        ..Condition::default()
    };
    let report = queue.unload(T0, some.clone(), false, false);
    assert_eq!((report.unloaded.len(), report.partial), (0, 10));
    let later = T0.after(secs(60));
    let Some(Work::Predelivery(ticket)) = poll(&mut queue, later, 1).pop() else { panic!() };
    let report = queue.unload(later, some, true, true);
    assert_eq!((report.unloaded.len(), report.working), (9, 1));
    assert_eq!(queue.messages(), 1);
    assert!(report.unloaded.iter().all(|unloaded| unloaded.entries.len() == 2));
    assert_eq!(queue.settle(later, ticket, Outcome::Requeue(Requeue::default())), Ok(Settled::Frozen));
    let all = StateTest { states: States::ALL, freezing: None };
    let report = queue.unload(later, Condition { states: all, ..Condition::default() }, false, false);
    assert_eq!((report.unloaded.len(), queue.len(), queue.shared_values()), (1, 0, (0, 0)));
    queue.verify().unwrap();
}

#[test]
fn active_entries_that_grow_too_old_are_taken_out() {
    let mut queue = Queue::new(Settings::default());
    set(&mut queue, T0, vec![policy(&[], concurrency(0))]);
    let old = active(&mut queue, T0, 1, "a@b", &resolved("mx"));
    let young = NewEntry { transport_id: "patient".into(), ..entry(1, "a@b") };
    activate(&mut queue, T0, 2, young, &resolved("mx"));
    let age_max = |transport: &str| (transport == "outbound").then(|| secs(60));
    for (after_s, expected) in [(59, 0), (60, 1), (61, 0)] {
        let (mut run, mut aged) = (AgedRun::default(), Vec::new());
        while !run.step(&mut queue, T0.after(secs(after_s)), age_max, 1, &mut aged) {}
        assert_eq!(aged.len(), expected, "after {after_s} s");
        for ticket in aged {
            assert_eq!(ticket.key(), old);
            queue.settle(T0, ticket, Outcome::Done).unwrap();
        }
        queue.verify().unwrap();
    }
}
