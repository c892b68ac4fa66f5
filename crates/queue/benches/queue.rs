//! Pickup with and without blocked lanes; scans over a large queue. In processor time, which other work on the machine
//! disturbs less.

use std::hint::black_box;
use std::net::IpAddr;
use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, criterion_group, criterion_main};
use queue::*;
use uuid::Uuid;

/// Processor time of this thread, as the scheduler of Linux counts it: behind by a tick at most, which is little beside
/// the time that one measurement takes.
struct ProcessorTime;

static WALL_TIME: WallTime = WallTime;

impl Measurement for ProcessorTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux has it");
        let nanoseconds = text.split_whitespace().next().and_then(|number| number.parse().ok());
        Duration::from_nanos(nanoseconds.expect("it begins with a number"))
    }

    fn end(&self, begun: Duration) -> Duration {
        self.start().saturating_sub(begun)
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WALL_TIME.formatter()
    }
}

const NOW: Time = Time(1_700_000_000_000_000);

fn filled(count: u64, retry_at: Time) -> Queue {
    let mut queue = Queue::new(Settings { predelivery_max: 100_000, attempts_max: 1_000_000, seed: 1 });
    for i in 0..count {
        insert(&mut queue, i, &format!("domain{}.example", i % 10_000), retry_at);
    }
    queue
}

fn insert(queue: &mut Queue, i: u64, domain: &str, retry_at: Time) {
    let id = Uuid::from_u128(u128::from(i) + 1);
    let message = NewMessage { id, received: NOW, size: 1000, ..NewMessage::default() };
    let entry = NewEntry {
        queue_id: 1,
        sender: Address::parse(&format!("sender{}@one.example", i % 1000)),
        recipient: Address { localpart: format!("user{i}"), domain: domain.to_owned() },
        transport_id: format!("t{}", i % 10),
        size: 1000,
        retry_at,
        ..NewEntry::default()
    };
    queue.insert(NOW, message, vec![entry]).expect("ids are different");
}

/// `blocked` lanes stopped by a limit of 0, 10 free ones with `depth` entries each.
fn lanes(blocked: u64, depth: u64) -> Queue {
    let mut queue = Queue::new(Settings { predelivery_max: 1_000_000, attempts_max: 0, seed: 1 });
    let stopped = PolicyCondition {
        when: Selector {
            fields: vec![(Field::RemoteMx, vec![Pattern::Below("blocked.example".to_owned())])],
        },
        then: Limits { concurrency: Some(0), ..Limits::default() },
    };
    let policy = Policy {
        fields: FieldSet::NONE.with(Field::RemoteMx),
        conditions: vec![stopped],
        default: Some(Limits { concurrency: Some(1_000_000), ..Limits::default() }),
        ..Policy::default()
    };
    queue.set_policies(NOW, PolicySet { policies: vec![policy], cluster_hosts: 1 }).expect("a valid policy");
    for i in 0..blocked {
        insert(&mut queue, i, &format!("h{i}.blocked.example"), NOW);
    }
    for i in 0..10 * depth {
        insert(&mut queue, blocked + i, &format!("h{}.free.example", i % 10), NOW);
    }
    let mut work = Vec::new();
    queue.poll(NOW, usize::MAX, &mut work);
    for piece in work {
        resolve(&mut queue, piece);
    }
    queue.set_limits(1_000_000, 1_000_000);
    queue
}

fn resolve(queue: &mut Queue, piece: Work) {
    let ticket = match piece {
        Work::Predelivery(ticket) | Work::Postdelivery(ticket) => ticket,
        Work::Deliver(pick) => pick.ticket,
    };
    let domain = queue.entry(ticket.key()).map(|view| view.recipient_domain().to_owned());
    let resolved = Resolved {
        local_ips: vec![IpAddr::from([192, 0, 2, 1])],
        remote_ip: Some(IpAddr::from([198, 51, 100, 1])),
        remote_mx: domain.unwrap_or_default(),
        ..Resolved::default()
    };
    queue.resolved(NOW, ticket, &resolved).expect("the ticket is fresh");
}

/// One pickup and its way back into the lane.
fn pickup(c: &mut Criterion<ProcessorTime>) {
    for blocked in [0u64, 10_000, 100_000] {
        let mut queue = lanes(blocked, 100);
        let mut work = Vec::new();
        // The first look at each blocked lane is part of its becoming ACTIVE, not of later pickups.
        queue.poll(NOW, 1, &mut work);
        work.drain(..).for_each(|piece| resolve(&mut queue, piece));
        c.bench_function(&format!("pickup, 10 free lanes, {blocked} blocked"), |b| {
            b.iter(|| {
                queue.poll(NOW, 1, &mut work);
                assert_eq!(work.len(), 1);
                work.drain(..).for_each(|piece| resolve(&mut queue, piece));
            });
        });
    }
}

fn scans(c: &mut Criterion<ProcessorTime>) {
    let queue = filled(1_000_000, Time(NOW.0 + 60_000_000));
    let mut group = c.benchmark_group("1,000,000 entries");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    group.bench_function("list, 1,000 of all", |b| {
        b.iter(|| black_box(queue.list(NOW, Condition::default(), vec![], 0, 1000)));
    });
    let regex = Regex::new("^domain99", false).expect("a valid expression");
    let domain = AddressTest { localpart: None, domain: Some(TextTest::Regex(regex)) };
    let condition = Condition { recipients: vec![Item::include(domain)], ..Condition::default() };
    group.bench_function("list by domain expression, newest first", |b| {
        let sorting = Sorting { field: SortField::Received, descending: true };
        b.iter(|| black_box(queue.list(NOW, condition.clone(), vec![sorting], 0, 1000)));
    });
    let request = GroupRequest {
        groups: vec![GroupField::TransportId, GroupField::RecipientDomain],
        counts: State::ALL.map(|state| Count { test: CountTest::State(state), returns: None }).to_vec(),
        limit: 50,
        ..GroupRequest::default()
    };
    group.bench_function("group by transport and domain, per state", |b| {
        b.iter(|| black_box(queue.group_by(NOW, request.clone())));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(ProcessorTime);
    targets = pickup, scans
}
criterion_main!(benches);
