//! A seeded simulation of everything at once. After each step the queue is recounted, and these are checked:
//! no counter above its concurrency, no rate exceeded, suspended entries not picked, priority and FIFO order
//! inside a lane, and no lane that could be picked left behind.

mod common;

use std::collections::{HashMap, VecDeque};

use common::*;
use proptest::prelude::*;
use queue::*;

/// The simulator's own dice, independent of the queue's.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

struct Running {
    ticket: Ticket,
    mx: String,
    local_ip: String,
}

struct Simulation {
    queue: Queue,
    dice: Dice,
    now: Time,
    next_id: u128,
    predelivery: Vec<Ticket>,
    running: Vec<Running>,
    /// Limits in force, as the simulator understands them.
    per_mx: Option<u32>,
    per_ip_and_mx: Option<u32>,
    window: Option<(u32, u64)>,
    /// Start times since the last reload.
    starts: VecDeque<Time>,
    /// Until then a window that began before the last reload may still be full.
    window_carried_until: Time,
    suspended: HashMap<String, String>,
    /// Dynamic conditions on the counter by MX, oldest first: id, MX, concurrency, end.
    dynamic: Vec<(String, String, u32, Time)>,
}

const MXS: u64 = 6;
const TOTAL: u32 = 12;

impl Simulation {
    fn new(seed: u64) -> Simulation {
        let settings = Settings { predelivery_max: 5, attempts_max: TOTAL, seed };
        let mut simulation = Simulation {
            queue: Queue::new(settings),
            dice: Dice(seed),
            now: T0,
            next_id: 1,
            predelivery: Vec::new(),
            running: Vec::new(),
            per_mx: None,
            per_ip_and_mx: None,
            window: None,
            starts: VecDeque::new(),
            window_carried_until: T0,
            suspended: HashMap::new(),
            dynamic: Vec::new(),
        };
        simulation.reload();
        simulation
    }

    fn step(&mut self) {
        match self.dice.roll(15) {
            0..=2 => self.insert(),
            3..=5 => self.resolve(),
            6..=8 => self.finish(),
            9 => self.operate(),
            10 => self.suspend(),
            11 if self.dice.roll(4) == 0 => self.reload(),
            12 => self.now = self.now.after(secs(self.dice.roll(20))),
            // The clock may also be set back a little.
            13 if self.dice.roll(8) == 0 && self.window.is_none() => self.now = Time(self.now.0 - 3_000_000),
            14 => self.change_conditions(),
            _ => {}
        }
        self.poll();
        self.queue.verify().unwrap();
    }

    fn insert(&mut self) {
        let count = 1 + self.dice.roll(3);
        let entries = (1..=count)
            .map(|queue_id| NewEntry {
                priority: (self.dice.roll(4) == 0).into(),
                retry_at: self.now.after(secs(self.dice.roll(10))),
                hold: self.dice.roll(10) == 0,
                quotas: vec![format!("q{}", self.dice.roll(3))],
                job_id: format!("j{}", self.dice.roll(3)),
                ..entry(queue_id, &format!("u@d{}.example", self.dice.roll(MXS)))
            })
            .collect();
        self.queue.insert(self.now, message(self.next_id), entries).unwrap();
        self.next_id += 1;
    }

    fn resolution(&mut self) -> Resolved {
        let mx = format!("mx{}", self.dice.roll(MXS));
        let all = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
        let count = 1 + self.dice.roll(3) as usize;
        Resolved { local_ips: all[..count].iter().map(|text| ip(text)).collect(), ..resolved(&mx) }
    }

    fn resolve(&mut self) {
        let Some(ticket) = self.predelivery.pop() else { return };
        match self.dice.roll(6) {
            0 => self.requeue(ticket),
            1 => drop(self.queue.settle(self.now, ticket, Outcome::Done).unwrap()),
            _ => {
                let resolved = self.resolution();
                self.queue.resolved(self.now, ticket, &resolved).unwrap();
            }
        }
    }

    fn requeue(&mut self, ticket: Ticket) {
        let options = Requeue {
            delay: secs(self.dice.roll(30)),
            hold: self.dice.roll(8) == 0,
            priority: (self.dice.roll(5) == 0).then_some(1),
            ..Requeue::default()
        };
        self.queue.settle(self.now, ticket, Outcome::Requeue(options)).unwrap();
    }

    fn finish(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let index = self.dice.roll(self.running.len() as u64) as usize;
        let Running { ticket, .. } = self.running.swap_remove(index);
        match self.dice.roll(4) {
            0 => {
                let resolved = self.resolution();
                self.queue.failover(self.now, ticket, &resolved).unwrap();
            }
            1 => {
                self.queue.attempt_done(self.now, &ticket, AttemptClass::Delayed).unwrap();
                self.requeue(ticket);
            }
            _ => {
                self.queue.attempt_done(self.now, &ticket, AttemptClass::Delivered).unwrap();
                self.queue.settle(self.now, ticket, Outcome::Done).unwrap();
            }
        }
    }

    fn operate(&mut self) {
        let job = TextTest::Exact(format!("j{}", self.dice.roll(3)));
        let task = match self.dice.roll(6) {
            0 => Task::Hold,
            1 => Task::Active,
            2 => Task::Freeze,
            3 => Task::Release,
            _ => Task::Defer { at: TimeValue::Relative(5.0), jitter: secs(5) },
        };
        let condition = Condition {
            states: StateTest { states: States::ALL, freezing: None },
            job_ids: vec![Item::include(job)],
            ..Condition::default()
        };
        let request = UpdateRequest {
            condition,
            task: Some(task),
            changes: Changes {
                priority: (self.dice.roll(3) == 0).then_some(1),
                transport_id: (self.dice.roll(3) == 0).then(|| "changed".into()),
                ..Changes::default()
            },
            freeze: self.dice.roll(2) == 0,
            duplicate: self.dice.roll(8) == 0,
            limit: self.dice.roll(4),
        };
        let report = self.queue.update(self.now, request).unwrap();
        for ticket in report.released {
            self.queue.settle(self.now, ticket, Outcome::Done).unwrap();
        }
    }

    fn suspend(&mut self) {
        let id = format!("s{}", self.dice.roll(4));
        if self.suspended.remove(&id).is_some() {
            assert!(self.queue.delete_suspension(&id));
            return;
        }
        let mx = format!("mx{}", self.dice.roll(MXS));
        let when = exact(Field::RemoteMx, &mx);
        let suspension = Suspension { id: id.clone(), when, ..Suspension::default() };
        self.queue.add_suspension(self.now, suspension).unwrap();
        self.suspended.insert(id, mx);
    }

    fn change_conditions(&mut self) {
        let id = format!("c{}", self.dice.roll(4));
        let known = self.dynamic.iter().position(|(known, ..)| *known == id);
        let concurrency = self.dice.roll(4) as u32;
        let limits = Limits { concurrency: Some(concurrency), ..Limits::default() };
        match (known, self.dice.roll(2)) {
            (Some(index), 0) => {
                assert!(self.queue.delete_condition(self.now, &id));
                self.dynamic.remove(index);
            }
            (Some(index), _) => {
                let change = DynamicChange { then: Some(limits), ..DynamicChange::default() };
                assert_eq!(self.queue.change_condition(self.now, &id, change), Ok(true));
                self.dynamic[index].2 = concurrency;
            }
            (None, _) => {
                let mx = format!("mx{}", self.dice.roll(MXS));
                let ttl = secs(1 + self.dice.roll(60));
                let condition = DynamicCondition {
                    fields: FieldSet::NONE.with(Field::RemoteMx),
                    when: exact(Field::RemoteMx, &mx),
                    then: limits,
                    ttl: Some(ttl),
                    id: id.clone(),
                };
                self.queue.add_condition(self.now, condition).unwrap();
                self.dynamic.push((id, mx, concurrency, self.now.after(ttl)));
            }
        }
    }

    /// The limit of the counter of an MX: the newest dynamic condition, else the file's.
    fn limit_of(&self, mx: &str) -> Option<u32> {
        let newest = self.dynamic.iter().rev().find(|(_, of, ..)| of == mx);
        newest.map(|(_, _, concurrency, _)| *concurrency).or(self.per_mx)
    }

    fn reload(&mut self) {
        let mut some = |most: u64| (self.dice.roll(3) > 0).then(|| self.dice.roll(most) as u32);
        (self.per_mx, self.per_ip_and_mx) = (some(4), some(3));
        if self.window.is_some() {
            self.window_carried_until = self.now.after(secs(10));
        }
        self.window = (self.dice.roll(3) == 0).then(|| (1 + self.dice.roll(4) as u32, 10));
        self.starts.clear();
        let limits = |concurrency| Limits { concurrency, ..Limits::default() };
        let mut policies = vec![
            policy(&[Field::RemoteMx], limits(self.per_mx)),
            policy(&[Field::LocalIp, Field::RemoteMx], limits(self.per_ip_and_mx)),
        ];
        if self.dice.roll(2) == 0 {
            policies.reverse();
        }
        if let Some((count, seconds)) = self.window {
            policies.push(policy(&[], rate(count, seconds, RateAlgorithm::FixedWindow)));
        }
        set(&mut self.queue, self.now, policies);
    }

    fn concurrent(&self, same: impl Fn(&Running) -> bool) -> u32 {
        self.running.iter().filter(|running| same(running)).count() as u32
    }

    fn poll(&mut self) {
        let mut work = Vec::new();
        let budget = 1 + self.dice.roll(30) as usize;
        self.queue.poll(self.now, budget, &mut work);
        let now = self.now;
        self.dynamic.retain(|(.., end)| *end > now);
        let all_given = work.len() < budget;
        for piece in work {
            match piece {
                Work::Predelivery(ticket) => self.predelivery.push(ticket),
                Work::Postdelivery(ticket) => {
                    self.queue.settle(self.now, ticket, Outcome::Done).unwrap();
                }
                Work::Deliver(pick) => self.started(pick),
            }
        }
        assert!(self.running.len() <= TOTAL as usize && self.predelivery.len() <= 5);
        if all_given {
            self.nothing_left_behind();
        }
    }

    fn started(&mut self, pick: Pick) {
        let view = self.queue.entry(pick.ticket.key()).unwrap();
        assert_eq!(view.state(), State::Sending);
        let mx = view.remote_mx().to_owned();
        assert!(self.suspended.values().all(|suspended| *suspended != mx), "{mx} is suspended");
        let local_ip = pick.local_ip.to_string();
        let at_mx = self.concurrent(|r| r.mx == mx);
        assert!(self.limit_of(&mx).is_none_or(|limit| at_mx < limit), "{at_mx} at {mx}");
        let at_pair = self.concurrent(|r| r.mx == mx && r.local_ip == local_ip);
        assert!(self.per_ip_and_mx.is_none_or(|limit| at_pair < limit), "{at_pair} at {mx} from {local_ip}");
        self.starts.push_back(self.now);
        if let Some((count, seconds)) = self.window {
            // Windows follow each other at least `seconds` apart, so any span of that length meets two at most.
            let recent = self.starts.iter().filter(|&&at| self.now.since(at) < secs(seconds)).count();
            assert!(recent <= 2 * count as usize, "{recent} starts in {seconds} s");
        }
        self.running.push(Running { ticket: pick.ticket, mx, local_ip });
    }

    /// Whatever is still ACTIVE must be blocked by something the simulator knows of.
    fn nothing_left_behind(&self) {
        if self.running.len() >= TOTAL as usize {
            return;
        }
        let window_may_be_full = self.window.is_some_and(|(count, _)| {
            self.starts.len() >= count as usize || self.now < self.window_carried_until
        });
        if window_may_be_full {
            return;
        }
        let active = StateTest { states: States::NONE.with(State::Active), freezing: None };
        let condition = Condition { states: active, ..Condition::default() };
        for key in self.queue.list(self.now, condition, vec![], 0, 0).1 {
            let view = self.queue.entry(key).unwrap();
            let mx = view.remote_mx();
            let suspended = self.suspended.values().any(|suspended| suspended == mx);
            let full = self.limit_of(mx).is_some_and(|limit| self.concurrent(|r| r.mx == mx) >= limit);
            let pairs_full = self.per_ip_and_mx.is_some_and(|limit| {
                view.local_ips().iter().all(|ip| {
                    let ip = ip.to_string();
                    self.concurrent(|r| r.mx == mx && r.local_ip == ip) >= limit
                })
            });
            assert!(suspended || full || pairs_full, "an entry for {mx} starves");
        }
    }

    /// Lifts all limits and lets everything out.
    fn drain(&mut self) {
        for id in std::mem::take(&mut self.suspended).into_keys() {
            self.queue.delete_suspension(&id);
        }
        (self.per_mx, self.per_ip_and_mx, self.window) = (None, None, None);
        set(&mut self.queue, self.now, vec![]);
        // Without their policy they rule nothing. One may outlive the minute below when the clock was put back.
        self.dynamic.clear();
        let all = StateTest { states: States::ALL, freezing: None };
        while !self.queue.is_empty() {
            let condition = Condition { states: all, ..Condition::default() };
            let request = UpdateRequest { condition, task: Some(Task::Active), ..UpdateRequest::default() };
            self.queue.update(self.now, request).unwrap();
            self.now = self.now.after(secs(60));
            self.poll();
            for ticket in std::mem::take(&mut self.predelivery) {
                let resolved = self.resolution();
                self.queue.resolved(self.now, ticket, &resolved).unwrap();
            }
            for Running { ticket, .. } in std::mem::take(&mut self.running) {
                self.queue.settle(self.now, ticket, Outcome::Done).unwrap();
            }
        }
        self.queue.verify().unwrap();
        assert_eq!(self.queue.shared_values(), (0, 0), "shared values leaked");
        let counters = self.queue.counters(self.now);
        assert_eq!((counters.quotas, counters.lanes, counters.entries), (0, 0, 0));
    }
}

/// Seeds to try: a few in every run, many on demand (`SIMULATION_CASES=5000`).
fn cases() -> u32 {
    std::env::var("SIMULATION_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_rules_hold_at_every_step(seed in any::<u64>()) {
        let mut simulation = Simulation::new(seed);
        for _ in 0..400 {
            simulation.step();
        }
        simulation.drain();
    }

    #[test]
    fn a_lane_is_first_in_first_out_by_due_time(dues in proptest::collection::vec(0u64..100, 1..40)) {
        let mut queue = Queue::new(Settings { predelivery_max: 1000, attempts_max: 0, seed: 1 });
        for (id, due) in dues.iter().enumerate() {
            let new = NewEntry { retry_at: Time(T0.0 - *due as i64), ..entry(1, "a@b") };
            queue.insert(T0, message(id as u128 + 1), vec![new]).unwrap();
        }
        let mut work = Vec::new();
        queue.poll(T0, 1000, &mut work);
        // Resolution answers in any order.
        work.reverse();
        for piece in work.drain(..) {
            let Work::Predelivery(ticket) = piece else { panic!() };
            queue.resolved(T0, ticket, &resolved("mx")).unwrap();
        }
        queue.set_limits(1000, 1000);
        queue.poll(T0, 1000, &mut work);
        let order: Vec<Time> = work
            .iter()
            .map(|piece| match piece {
                Work::Deliver(pick) => queue.entry(pick.ticket.key()).unwrap().retry_at(),
                _ => panic!(),
            })
            .collect();
        prop_assert_eq!(order.len(), dues.len());
        prop_assert!(order.is_sorted());
    }
}
