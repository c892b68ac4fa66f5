//! A seeded simulation of everything at once: random policies, suspensions, reloads, operators, crashes of the spool, on
//! a virtual clock. After each step `checks` compares what happened with `world`, a second implementation of the rules;
//! `operators` has what people do.
//!
//! | checked | how |
//! | --- | --- |
//! | Q3, Q5, I2, I3 | a model of the disk: each entry ends once, what was recorded as delivered is never sent again, a restart brings back exactly what is stored |
//! | Q4 | nobody is handed an entry that somebody works on |
//! | Q9, I4 | no counter above concurrency, rate or connect interval |
//! | Q10 | nothing suspended is picked, and lifting makes it eligible at once |
//! | Q11, I5 | first due first in a lane, high priority first, nothing that could go is left behind, the queue wakes in time |
//! | Q16 | working entries are never modified; what an update reports survives a crash right after |
//! | Q17 | nothing of a frozen set leaves its work for elsewhere than UPDATE |
//! | Q18 | distributions add up, quotas agree with a recount |
//! | Q23 | a reload loses no entry and applies to the next pickup |
#![allow(dead_code, reason = "each test binary uses its own part")]

mod checks;
mod operators;
pub(crate) mod world;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use queue::*;
use uuid::Uuid;
use world::{Dice, Family, Held, LOCAL_IP, VALUES, Values, World, selector, text};

const T0: Time = Time(1_700_000_000_000_000);
const ATTEMPTS: u32 = 12;
const PREDELIVERIES: u32 = 5;
/// Source addresses to choose from.
const POOLS: [&[u8]; 4] = [&[0], &[0, 1], &[0, 1, 2], &[2, 2, 1]];
/// More entries than this make a run slow, not better.
const ENTRIES_MAX: usize = 60;

type Id = (Uuid, u64);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What is on disk.
struct Stored {
    message: NewMessage,
    entry: NewEntry,
}

/// An entry in a lane.
struct Active {
    values: Values,
    pool: usize,
    ordered: bool,
    priority: u8,
    due: Time,
    arrival: u64,
}

struct Running {
    id: Id,
    ticket: Ticket,
    values: Values,
    ip: u8,
    held: Held,
    started: Time,
}

/// Figures of a run.
#[derive(Default, Debug, Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) events: u64,
    pub(crate) attempts: u64,
    pub(crate) crashes: u64,
    pub(crate) reloads: u64,
    pub(crate) frozen: u64,
    pub(crate) left_behind_checks: u64,
}

pub(crate) struct Simulation {
    queue: Queue,
    dice: Dice,
    now: Time,
    next_id: u128,
    arrivals: u64,
    disk: BTreeMap<Id, Stored>,
    /// Everything that ever ended, to see that it does so once.
    ended: HashSet<Id>,
    predelivery: Vec<(Id, Ticket)>,
    running: Vec<Running>,
    active: HashMap<Id, Active>,
    /// Working entries that a freeze was asked for.
    freezing: HashSet<Id>,
    world: World,
    /// The clock is set back now and then, so nothing is timed in this run.
    wild_clock: bool,
    /// Crashes are rare in this run, so that much piles up.
    steady: bool,
    pub(crate) figures: Figures,
}

impl Simulation {
    pub(crate) fn new(seed: u64) -> Simulation {
        let mut dice = Dice(seed);
        dice.roll(1);
        let mut simulation = Simulation {
            queue: new_queue(seed),
            wild_clock: dice.chance(8),
            steady: dice.chance(2),
            dice,
            now: T0,
            next_id: 1,
            arrivals: 0,
            disk: BTreeMap::new(),
            ended: HashSet::new(),
            predelivery: Vec::new(),
            running: Vec::new(),
            active: HashMap::new(),
            freezing: HashSet::new(),
            world: World::new(),
            figures: Figures::default(),
        };
        simulation.reload();
        simulation
    }

    /// Runs so many events, then lets everything out.
    pub(crate) fn run(&mut self, events: u64) {
        for number in 0..events {
            self.step(number);
        }
        self.drain();
    }

    fn step(&mut self, number: u64) {
        self.figures.events += 1;
        match self.dice.roll(64) {
            0..=11 => self.insert(),
            12..=25 => self.resolve(),
            26..=41 => self.finish(),
            42..=44 => self.operate(),
            45 => self.duplicate(),
            46..=48 => self.suspend(),
            49 if self.dice.chance(4) => self.reload(),
            50 if self.dice.chance(8) => self.reload_suspensions(),
            51..=52 => self.change_conditions(),
            53 if self.dice.chance(4) => self.refill(),
            54 => self.reuse(),
            55 if self.crashes(8) => self.crash(),
            56 if self.dice.chance(2) => self.unload(),
            57 if self.wild_clock => self.now = Time(self.now.0 - 3_000_000),
            58 if self.dice.chance(4) => self.add_up(),
            _ => self.wait(),
        }
        self.world.refresh(self.now);
        self.poll();
        if number.is_multiple_of(64) {
            self.queue.verify().unwrap();
            self.compare();
        }
    }

    fn insert(&mut self) {
        if self.disk.len() >= ENTRIES_MAX {
            return;
        }
        let id = Uuid::from_u128(self.next_id);
        self.next_id += 1;
        let message = NewMessage { id, received: self.now, ..NewMessage::default() };
        let count = 1 + self.dice.roll(3);
        let entries: Vec<NewEntry> = (1..=count).map(|number| self.new_entry(number)).collect();
        for entry in &entries {
            self.disk.insert((id, entry.queue_id), Stored { message: message.clone(), entry: entry.clone() });
        }
        self.queue.insert(self.now, message, entries).unwrap();
    }

    fn new_entry(&mut self, queue_id: u64) -> NewEntry {
        let dice = &mut self.dice;
        let value = |dice: &mut Dice, number: usize| text(number, dice.roll(VALUES[number]) as u8);
        NewEntry {
            queue_id,
            recipient: Address { localpart: "user".into(), domain: value(dice, 7) },
            tenant_id: value(dice, 0),
            job_id: value(dice, 1),
            transport_id: value(dice, 2),
            priority: dice.chance(4).into(),
            retry_at: self.now.after(secs(dice.roll(10).saturating_sub(4))),
            hold: dice.chance(12),
            quotas: vec![format!("quota{}", dice.roll(3))],
            metadata: vec![("key".into(), format!("value{}", dice.roll(5)))],
            size: dice.roll(5000),
            ..NewEntry::default()
        }
    }

    /// Puts what the queue says of an entry on the disk, as the daemon does after a change.
    fn persist(&mut self, key: EntryKey) {
        let view = self.queue.entry(key).unwrap();
        let id = (view.message_id(), view.queue_id());
        let entry = view.to_new();
        let message = view.to_new_message();
        self.disk.insert(id, Stored { message, entry });
    }

    fn id(&self, key: EntryKey) -> Id {
        let view = self.queue.entry(key).unwrap();
        (view.message_id(), view.queue_id())
    }

    fn ended(&mut self, id: Id) {
        assert!(self.ended.insert(id), "Q5: {id:?} ended twice");
        self.disk.remove(&id).expect("Q5: what ends is stored until then");
        self.freezing.remove(&id);
    }

    /// The work on an entry is over and it is still there.
    fn settled(&mut self, id: Id, settled: Settled) {
        match settled {
            Settled::Gone { .. } => self.ended(id),
            Settled::Frozen => {
                assert!(self.freezing.remove(&id), "{id:?} was frozen though nobody asked");
                self.figures.frozen += 1;
            }
            _ => assert!(!self.freezing.contains(&id), "Q17: {id:?} went {settled:?} instead of to UPDATE"),
        }
        if let Some(key) = self.queue.find(id.0, id.1) {
            self.persist(key);
        }
    }

    fn resolve(&mut self) {
        if self.predelivery.is_empty() {
            return;
        }
        let at = self.dice.roll(self.predelivery.len() as u64) as usize;
        let (id, ticket) = self.predelivery.swap_remove(at);
        match self.dice.roll(8) {
            0 => self.requeue(id, ticket),
            1 => self.done(id, ticket),
            _ => self.enter_lane(id, ticket, false),
        }
    }

    fn enter_lane(&mut self, id: Id, ticket: Ticket, failover: bool) {
        let pool = self.dice.roll(POOLS.len() as u64) as usize;
        let ordered = self.dice.chance(3);
        let mx = self.dice.roll(VALUES[6]) as u8;
        let grouping = self.dice.roll(VALUES[4]) as u8;
        let resolved = Resolved {
            local_ips: POOLS[pool].iter().map(|&v| text(LOCAL_IP, v).parse().unwrap()).collect(),
            local_ips_ordered: ordered,
            remote_ip: Some(text(5, mx).parse().unwrap()),
            remote_mx: text(6, mx),
            grouping: text(4, grouping),
            job_id: self.dice.chance(6).then(|| text(1, 0)),
            ..Resolved::default()
        };
        let view = self.queue.entry(ticket.key()).unwrap();
        let number = |field: usize, value: &str| {
            (0..8u8).find(|&v| text(field, v) == value).unwrap_or_else(|| panic!("{value}"))
        };
        let mut values = [0; 8];
        values[0] = number(0, view.tenant_id());
        values[1] = if resolved.job_id.is_some() { 0 } else { number(1, view.job_id()) };
        values[2] = number(2, view.transport_id());
        (values[4], values[5], values[6]) = (grouping, mx, mx);
        values[7] = number(7, view.recipient_domain());
        let (priority, due) = (view.priority(), view.retry_at().min(self.now));
        let settled = match failover {
            true => self.queue.failover(self.now, ticket, &resolved),
            false => self.queue.resolved(self.now, ticket, &resolved),
        };
        let settled = settled.unwrap();
        if settled == Settled::Active {
            assert!(!self.freezing.contains(&id), "Q17: {id:?} went to its lane instead of to UPDATE");
            let arrival = self.arrival();
            self.active.insert(id, Active { values, pool, ordered, priority, due, arrival });
        } else {
            self.settled(id, settled);
        }
    }

    fn arrival(&mut self) -> u64 {
        self.arrivals += 1;
        self.arrivals
    }

    fn requeue(&mut self, id: Id, ticket: Ticket) {
        let options = Requeue {
            delay: secs(self.dice.roll(30)),
            hold: self.dice.chance(8),
            priority: self.dice.chance(5).then_some(1),
            increment_retry: !self.dice.chance(3),
            reset_retry: self.dice.chance(10),
            ..Requeue::default()
        };
        let settled = self.queue.settle(self.now, ticket, Outcome::Requeue(options)).unwrap();
        self.settled(id, settled);
    }

    fn done(&mut self, id: Id, ticket: Ticket) {
        let settled = self.queue.settle(self.now, ticket, Outcome::Done).unwrap();
        self.settled(id, settled);
    }

    fn finish(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let at = self.dice.roll(self.running.len() as u64) as usize;
        let Running { id, ticket, held, .. } = self.running.swap_remove(at);
        self.world.finish(&held);
        match self.dice.roll(6) {
            0 => self.enter_lane(id, ticket, true),
            1 => {
                let settled = self.queue.settle(self.now, ticket, Outcome::Relinquish).unwrap();
                self.settled(id, settled);
            }
            2 => {
                self.queue.attempt_done(self.now, &ticket, AttemptClass::Delayed).unwrap();
                self.requeue(id, ticket);
            }
            _ => {
                self.queue.attempt_done(self.now, &ticket, AttemptClass::Delivered).unwrap();
                // The positive reply is on disk before anything else happens.
                if let Some(stored) = self.disk.get_mut(&id) {
                    stored.entry.delivered = true;
                }
                if self.crashes(40) {
                    return self.crash();
                }
                self.done(id, ticket);
            }
        }
    }

    fn working(&self) -> Vec<Id> {
        self.predelivery.iter().map(|(id, _)| *id).chain(self.running.iter().map(|r| r.id)).collect()
    }

    fn snapshot(&self, id: Id) -> Option<(Id, NewEntry)> {
        let key = self.queue.find(id.0, id.1)?;
        Some((id, self.queue.entry(key)?.to_new()))
    }

    fn crashes(&mut self, one_in: u64) -> bool {
        self.dice.chance(one_in * if self.steady { 20 } else { 1 })
    }

    /// The process dies; another one starts from what is on disk.
    fn crash(&mut self) {
        self.figures.crashes += 1;
        self.queue = new_queue(self.dice.roll(u64::MAX >> 33));
        self.predelivery.clear();
        self.running.clear();
        self.active.clear();
        self.freezing.clear();
        self.world.restart();
        let set = PolicySet {
            policies: self.world.families.iter().map(Family::policy).collect(),
            cluster_hosts: 1,
        };
        self.queue.set_policies(self.now, set).unwrap();
        let suspensions = self.world.suspensions.iter();
        let list = suspensions.map(|(id, when, _)| Suspension {
            id: id.clone(),
            when: selector(when),
            ..Suspension::default()
        });
        self.queue.set_suspensions(self.now, list.collect()).unwrap();
        self.load();
    }

    fn load(&mut self) {
        let mut messages: BTreeMap<Uuid, (NewMessage, Vec<NewEntry>)> = BTreeMap::new();
        for ((id, _), stored) in &self.disk {
            let slot = messages.entry(*id).or_insert_with(|| (stored.message.clone(), Vec::new()));
            slot.1.push(stored.entry.clone());
        }
        for (message, entries) in messages.into_values() {
            if self.queue.entry_count(message.id) == 0 {
                self.queue.insert(self.now, message, entries).unwrap();
            }
        }
        self.compare();
    }

    fn wait(&mut self) {
        let wake = self.queue.next_wake(self.now);
        let step = Duration::from_millis(self.dice.roll(6000));
        let to = match wake {
            Some(wake) if self.dice.chance(2) && wake > self.now => wake,
            _ => self.now.after(step),
        };
        // Before the moment that the queue names nothing may become possible.
        if let Some(before) = wake.map_or(Some(to), |wake| (to < wake).then_some(to))
            && self.running.len() < ATTEMPTS as usize
        {
            self.now = before;
            self.world.refresh(self.now);
            let mut work = Vec::new();
            self.queue.poll(self.now, usize::MAX, &mut work);
            assert!(work.is_empty(), "the queue did not say that it has work at {before:?}: {work:?}");
            self.nothing_left_behind();
        }
        self.now = to;
    }

    fn poll(&mut self) {
        let budget = 1 + self.dice.roll(30) as usize;
        let mut work = Vec::new();
        self.queue.poll(self.now, budget, &mut work);
        let all_given = work.len() < budget;
        for piece in work {
            match piece {
                Work::Predelivery(ticket) => {
                    let id = self.id(ticket.key());
                    assert!(!self.disk[&id].entry.delivered, "Q3: {id:?} was delivered and goes out again");
                    assert!(!self.working().contains(&id), "Q4: {id:?} is worked on twice");
                    self.predelivery.push((id, ticket));
                }
                Work::Postdelivery(ticket) => {
                    let id = self.id(ticket.key());
                    assert!(self.disk[&id].entry.delivered, "{id:?} was not delivered");
                    self.done(id, ticket);
                }
                Work::Deliver(pick) => self.started(pick),
            }
        }
        assert!(self.running.len() <= ATTEMPTS as usize && self.predelivery.len() <= PREDELIVERIES as usize);
        if all_given && self.dice.chance(4) {
            self.nothing_left_behind();
        }
    }

    /// Lifts all limits and lets everything out.
    fn drain(&mut self) {
        for (id, ..) in std::mem::take(&mut self.world.suspensions) {
            self.queue.delete_suspension(&id);
        }
        self.queue.set_suspensions(self.now, vec![]).unwrap();
        self.queue.set_policies(self.now, PolicySet { policies: vec![], cluster_hosts: 1 }).unwrap();
        self.world.reload(
            Vec::new(),
            self.now,
            self.running.iter_mut().map(|r| (&r.values, r.ip, &mut r.held)),
        );
        while !self.queue.is_empty() {
            for running in std::mem::take(&mut self.running) {
                self.world.finish(&running.held);
                self.done(running.id, running.ticket);
            }
            for (id, ticket) in std::mem::take(&mut self.predelivery) {
                self.enter_lane(id, ticket, false);
            }
            let all = StateTest { states: States::ALL, freezing: None };
            let condition = Condition { states: all, ..Condition::default() };
            let request = UpdateRequest { condition, task: Some(Task::Active), ..UpdateRequest::default() };
            for key in self.queue.update(self.now, request).unwrap().changed {
                self.note_change(key, Some(Task::Active), &Changes::default());
            }
            self.now = self.now.after(secs(60));
            self.poll();
        }
        self.queue.verify().unwrap();
        assert!(self.disk.is_empty() && self.active.is_empty() && self.freezing.is_empty());
        assert_eq!(self.queue.shared_values(), (0, 0), "shared values leaked");
        let counters = self.queue.counters(self.now);
        assert_eq!((counters.quotas, counters.lanes, counters.entries), (0, 0, 0));
    }
}

fn new_queue(seed: u64) -> Queue {
    Queue::new(Settings { predelivery_max: PREDELIVERIES, attempts_max: ATTEMPTS, seed })
}
