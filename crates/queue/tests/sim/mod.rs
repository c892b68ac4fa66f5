//! A seeded simulation of everything at once: random policies, suspensions, reloads, operators, crashes of the spool, on
//! a virtual clock. After each step what happened is compared with `world`, a second implementation of the rules.
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

pub(crate) mod world;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use queue::*;
use uuid::Uuid;
use world::{Dice, Family, Held, LOCAL_IP, VALUES, Values, Wanted, World, limits, selector, text};

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

    fn operate(&mut self) {
        let task = match self.dice.roll(8) {
            0 => Some(Task::Hold),
            1..=3 => Some(Task::Active),
            4 => Some(Task::Freeze),
            5 => Some(Task::Release),
            6 => None,
            _ => Some(Task::Defer { at: TimeValue::Relative(5.0), jitter: secs(5) }),
        };
        let all = self.dice.chance(2);
        let condition = Condition {
            states: StateTest { states: if all { States::ALL } else { States::NONE }, freezing: None },
            job_ids: vec![Item::include(TextTest::Exact(text(1, self.dice.roll(3) as u8)))],
            ..Condition::default()
        };
        let changes = Changes {
            priority: self.dice.chance(3).then_some(1),
            transport_id: self.dice.chance(4).then(|| text(2, 0)),
            metadata: vec![("changed".into(), "yes".into())],
            ..Changes::default()
        };
        let freeze = self.dice.chance(2);
        let limit = self.dice.roll(4);
        let before: Vec<(Id, NewEntry)> =
            self.working().into_iter().filter_map(|id| self.snapshot(id)).collect();
        let (states, wanted_job) = (condition.states.states, condition.job_ids.clone());
        let request = UpdateRequest {
            condition,
            task,
            changes: changes.clone(),
            freeze,
            limit,
            ..UpdateRequest::default()
        };
        let mut run = UpdateRun::new(&self.queue, self.now, request).unwrap();
        while !run.step(&mut self.queue, self.now, 1 + self.dice.roll(20) as usize) {}
        let report = run.finish();
        for (id, entry) in before {
            let now = self.snapshot(id).expect("Q16: working entries stay").1;
            assert_eq!(entry, now, "Q16: a working entry was modified");
            let matches = wanted_job.iter().any(|item| item.test.matches(&entry.job_id));
            if freeze && states == States::ALL && matches && limit == 0 {
                self.freezing.insert(id);
            }
        }
        // With a limit only some of the working ones were reached: the engine knows which.
        for id in self.working() {
            if let Some(key) = self.queue.find(id.0, id.1)
                && self.queue.work_info(key).is_some_and(|info| info.freezing)
            {
                self.freezing.insert(id);
            }
        }
        for key in report.changed {
            self.persist(key);
            self.note_change(key, task, &changes);
        }
        for ticket in report.released {
            let id = self.id(ticket.key());
            self.active.remove(&id);
            match self.dice.chance(6) {
                // The script of post-delivery may keep it.
                true => self.requeue(id, ticket),
                false => self.done(id, ticket),
            }
        }
        if self.crashes(30) {
            self.crash();
        }
    }

    /// What an update of an entry means for its lane.
    fn note_change(&mut self, key: EntryKey, task: Option<Task>, changes: &Changes) {
        let view = self.queue.entry(key).unwrap();
        let id = (view.message_id(), view.queue_id());
        let (state, priority, due) = (view.state(), view.priority(), view.retry_at().min(self.now));
        match (state, self.active.remove(&id)) {
            (State::Active, Some(active)) => {
                assert!(matches!(task, None | Some(Task::Active)) && changes.transport_id.is_none());
                let arrival = self.arrival();
                self.active.insert(id, Active { priority, due, arrival, ..active });
            }
            (State::Active, None) => panic!("{id:?} became ACTIVE without being resolved"),
            _ => {}
        }
    }

    fn working(&self) -> Vec<Id> {
        self.predelivery.iter().map(|(id, _)| *id).chain(self.running.iter().map(|r| r.id)).collect()
    }

    fn snapshot(&self, id: Id) -> Option<(Id, NewEntry)> {
        let key = self.queue.find(id.0, id.1)?;
        Some((id, self.queue.entry(key)?.to_new()))
    }

    fn duplicate(&mut self) {
        if self.disk.len() >= ENTRIES_MAX {
            return;
        }
        let job = TextTest::Exact(text(1, self.dice.roll(3) as u8));
        let request = UpdateRequest {
            condition: Condition { job_ids: vec![Item::include(job)], ..Condition::default() },
            task: self.dice.chance(2).then_some(Task::Active),
            duplicate: true,
            limit: 1 + self.dice.roll(2),
            ..UpdateRequest::default()
        };
        let task = request.task;
        for copy in self.queue.update(self.now, request).unwrap().created {
            let key = copy.ticket.key();
            let id = self.id(key);
            // Numbers of entries that ended are given again: to the model it is another one.
            self.ended.remove(&id);
            self.persist(key);
            if self.crashes(40) {
                return self.crash();
            }
            assert_eq!(self.queue.finish_duplicate(self.now, copy, task), Ok(None));
            self.persist(key);
        }
    }

    fn suspend(&mut self) {
        let id = format!("s{}", self.dice.roll(3));
        if let Some(at) = self.world.suspensions.iter().position(|(known, ..)| *known == id) {
            if self.dice.chance(3) {
                let ttl = secs(1 + self.dice.roll(30));
                let change = DynamicChange { ttl: Some(Some(ttl)), ..DynamicChange::default() };
                assert_eq!(self.queue.change_suspension(self.now, &id, change), Ok(true));
                self.world.suspensions[at].2 = Some(self.now.after(ttl));
            } else {
                assert!(self.queue.delete_suspension(&id));
                self.world.suspensions.remove(at);
            }
            return;
        }
        let when = self.wanted();
        let ttl = self.dice.chance(2).then(|| secs(1 + self.dice.roll(30)));
        let suspension = Suspension { id: id.clone(), when: selector(&when), ttl, ..Suspension::default() };
        self.queue.add_suspension(self.now, suspension).unwrap();
        self.world.suspensions.push((id, when, ttl.map(|ttl| self.now.after(ttl))));
    }

    fn wanted(&mut self) -> Vec<Wanted> {
        let first = self.dice.roll(8) as usize;
        let second = self.dice.roll(8) as usize;
        let mut when = vec![Wanted::random(&mut self.dice, first, &[], false)];
        if second != first && self.dice.chance(2) {
            when.push(Wanted::random(&mut self.dice, second, &[], false));
        }
        when
    }

    fn reload_suspensions(&mut self) {
        self.world.suspensions.retain(|(id, ..)| !id.starts_with("file"));
        let mut list = Vec::new();
        for number in 0..self.dice.roll(2) {
            let when = self.wanted();
            // As the daemon makes them: equal items have equal ids.
            let id = format!("file{number}{when:?}");
            list.push(Suspension { id: id.clone(), when: selector(&when), ..Suspension::default() });
            self.world.suspensions.push((id, when, None));
        }
        self.queue.set_suspensions(self.now, list).unwrap();
    }

    fn reload(&mut self) {
        self.figures.reloads += 1;
        let mut families: Vec<Family> = match self.dice.chance(2) {
            true => {
                self.world.families.iter().map(|f| Family { dynamics: Vec::new(), ..f.clone() }).collect()
            }
            false => Vec::new(),
        };
        if families.is_empty() {
            families = (0..1 + self.dice.roll(3)).map(|_| Family::random(&mut self.dice)).collect();
        } else if self.dice.chance(2) {
            let at = self.dice.roll(families.len() as u64) as usize;
            families[at].default = Some(limits(&mut self.dice));
        } else {
            families.reverse();
        }
        if self.wild_clock {
            let untimed = |limits: &mut Limits| (limits.rate, limits.connect_interval) = (None, None);
            for family in &mut families {
                family.default.iter_mut().for_each(untimed);
                family.conditions.iter_mut().for_each(|(_, limits)| untimed(limits));
            }
        }
        let set = PolicySet { policies: families.iter().map(Family::policy).collect(), cluster_hosts: 1 };
        let before = self.queue.len();
        self.queue.set_policies(self.now, set).unwrap();
        assert_eq!(self.queue.len(), before, "Q23");
        let running = self.running.iter_mut().map(|r| (&r.values, r.ip, &mut r.held));
        self.world.reload(families, self.now, running);
    }

    fn change_conditions(&mut self) {
        let id = format!("c{}", self.dice.roll(4));
        let mut new = limits(&mut self.dice);
        if self.wild_clock {
            (new.rate, new.connect_interval) = (None, None);
        }
        for family in 0..self.world.families.len() {
            let dynamics = &mut self.world.families[family].dynamics;
            let Some(at) = dynamics.iter().position(|(known, ..)| *known == id) else { continue };
            if self.dice.chance(2) {
                assert!(self.queue.delete_condition(self.now, &id));
                dynamics.remove(at);
            } else {
                let change = DynamicChange { then: Some(new.clone()), ..DynamicChange::default() };
                assert_eq!(self.queue.change_condition(self.now, &id, change), Ok(true));
                dynamics[at].2 = new;
            }
            return;
        }
        let families = self.world.families.len() as u64;
        let at = self.dice.roll(families) as usize;
        let fields = self.world.families[at].fields;
        // It goes to the first policy with these fields.
        let at = self.world.families.iter().position(|f| f.fields == fields).unwrap();
        let rollups = self.world.families[at].rollups.clone();
        let mut when = Vec::new();
        for number in (0..8).filter(|f| fields & 1 << f != 0) {
            if self.dice.chance(2) {
                when.push(Wanted::random(&mut self.dice, number, &rollups, true));
            }
        }
        let ttl = (!self.wild_clock && self.dice.chance(2)).then(|| secs(1 + self.dice.roll(60)));
        let condition = DynamicCondition {
            fields: (0..8).filter(|f| fields & 1 << f != 0).map(world::field).collect(),
            when: selector(&when),
            then: new.clone(),
            ttl,
            id: id.clone(),
        };
        self.queue.add_condition(self.now, condition).unwrap();
        let end = ttl.map(|ttl| self.now.after(ttl));
        self.world.families[at].dynamics.push((id, when, new, end));
    }

    fn refill(&mut self) {
        self.queue.refill(self.now, None, None);
        self.world.refresh(self.now);
        self.world.refill();
    }

    fn reuse(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let at = self.dice.roll(self.running.len() as u64) as usize;
        let running = &self.running[at];
        self.queue.connection_reused(&running.ticket, self.now).unwrap();
        self.world.reused(&running.held, running.started);
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

    /// Takes messages out of memory and brings them back from their files.
    fn unload(&mut self) {
        let condition = Condition {
            transport_ids: vec![Item::include(TextTest::Exact(text(2, self.dice.roll(2) as u8)))],
            ..Condition::default()
        };
        let mut run =
            UnloadRun::new(&self.queue, self.now, condition, self.dice.chance(2), self.dice.chance(4));
        while !run.step(&mut self.queue, self.now, 1 + self.dice.roll(10) as usize) {}
        for unloaded in run.finish().unloaded {
            for entry in unloaded.entries {
                let id = (unloaded.message.id, entry.queue_id);
                self.active.remove(&id);
                let stored = &self.disk[&id].entry;
                assert_eq!(
                    (stored.retry_count, &stored.metadata),
                    (entry.retry_count, &entry.metadata),
                    "Q8"
                );
            }
        }
        for id in self.working() {
            if let Some(key) = self.queue.find(id.0, id.1)
                && self.queue.work_info(key).is_some_and(|info| info.freezing)
            {
                self.freezing.insert(id);
            }
        }
        self.load();
    }

    /// The states of a distribution add up to what is there.
    fn add_up(&mut self) {
        let request = GroupRequest {
            groups: vec![GroupField::JobId],
            counts: State::ALL.map(|state| Count { test: CountTest::State(state), returns: None }).to_vec(),
            ..GroupRequest::default()
        };
        let (_, rows) = self.queue.group_by(self.now, request);
        let total: u64 = rows.iter().map(|row| row.total).sum();
        let states: u64 = rows.iter().flat_map(|row| &row.counts).sum();
        assert_eq!((total, states), (self.queue.len() as u64, self.queue.len() as u64), "Q18");
        for number in 0..3 {
            let name = format!("quota{number}");
            let of = self.disk.values().filter(|stored| stored.entry.quotas.contains(&name));
            let (count, bytes) = of.fold((0, 0), |(n, b), stored| (n + 1, b + stored.entry.size));
            assert_eq!(self.queue.quota(&name), Quota { count, bytes }, "Q18");
        }
    }

    /// The queue holds what the disk holds.
    fn compare(&self) {
        assert_eq!(self.queue.len(), self.disk.len(), "Q5");
        for id in self.disk.keys() {
            assert!(self.queue.find(id.0, id.1).is_some(), "Q5: {id:?} is on disk only");
        }
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

    fn started(&mut self, pick: Pick) {
        let id = self.id(pick.ticket.key());
        let now = self.now;
        self.figures.attempts += 1;
        assert!(!self.working().contains(&id), "Q4: {id:?} is worked on twice");
        assert!(!self.disk[&id].entry.delivered, "Q3: {id:?} was delivered and is sent again");
        let active = self.active.remove(&id).expect("only ACTIVE entries are picked");
        let ip = POOLS[active.pool][pick.local_index];
        assert_eq!(pick.local_ip.to_string(), text(LOCAL_IP, ip));
        assert!(!self.world.is_suspended(&active.values, ip), "Q10: {id:?} is suspended");
        if let Err(why) = self.world.is_free(&active.values, ip, now) {
            panic!("Q9: {id:?} from {ip}: {why}");
        }
        if active.ordered {
            let earlier = POOLS[active.pool][..pick.local_index].iter();
            let free = earlier.filter(|&&ip| self.world.is_free(&active.values, ip, now).is_ok()).count();
            assert_eq!(free, 0, "an address before the one chosen was free");
        }
        for (other, waiting) in &self.active {
            let same_lane = waiting.values == active.values
                && waiting.pool == active.pool
                && waiting.ordered == active.ordered
                && waiting.priority == active.priority;
            assert!(
                !same_lane || (waiting.due, waiting.arrival) > (active.due, active.arrival),
                "Q11: {other:?} stood before {id:?}"
            );
        }
        if active.priority == 0 && self.dice.chance(4) {
            let high: Vec<(Id, Values, usize)> = self
                .active
                .iter()
                .filter(|(_, waiting)| waiting.priority == 1)
                .map(|(id, waiting)| (*id, waiting.values, waiting.pool))
                .collect();
            for (other, values, pool) in high {
                let free = POOLS[pool].iter().any(|&ip| self.world.is_free(&values, ip, now).is_ok());
                let known = if free { self.world.explain(&values, POOLS[pool][0]) } else { String::new() };
                let of = &active.values;
                assert!(
                    !free,
                    "{other:?} with high priority could have gone before {id:?} {of:?}; known are {known}"
                );
            }
        }
        let held = self.world.start(&active.values, ip, now);
        self.running.push(Running { id, ticket: pick.ticket, values: active.values, ip, held, started: now });
    }

    /// Whatever is still ACTIVE must be blocked by something.
    fn nothing_left_behind(&mut self) {
        if self.running.len() >= ATTEMPTS as usize {
            return;
        }
        self.figures.left_behind_checks += 1;
        let waiting: Vec<(Id, Values, usize)> =
            self.active.iter().map(|(id, active)| (*id, active.values, active.pool)).collect();
        for (id, values, pool) in waiting {
            for &ip in POOLS[pool] {
                if self.world.is_free(&values, ip, self.now).is_err() {
                    continue;
                }
                let key = self.queue.find(id.0, id.1).unwrap();
                let says = self.queue.explain(self.now, key);
                let known = self.world.explain(&values, ip);
                panic!(
                    "I5: {id:?} could go from {ip} and is left behind; known are {known}; the queue says {says:?}"
                );
            }
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
