//! What operators do to the queue, and what the model of the disk and of the lanes has to know of it.

use queue::*;

use super::world::{Family, Wanted, limits, selector, text};
use super::*;

impl Simulation {
    pub(super) fn operate(&mut self) {
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
    pub(super) fn note_change(&mut self, key: EntryKey, task: Option<Task>, changes: &Changes) {
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

    pub(super) fn duplicate(&mut self) {
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

    /// Takes messages out of memory and brings them back from their files.
    pub(super) fn unload(&mut self) {
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

    pub(super) fn suspend(&mut self) {
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

    pub(super) fn wanted(&mut self) -> Vec<Wanted> {
        let first = self.dice.roll(8) as usize;
        let second = self.dice.roll(8) as usize;
        let mut when = vec![Wanted::random(&mut self.dice, first, &[], false)];
        if second != first && self.dice.chance(2) {
            when.push(Wanted::random(&mut self.dice, second, &[], false));
        }
        when
    }

    pub(super) fn reload_suspensions(&mut self) {
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

    pub(super) fn reload(&mut self) {
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

    pub(super) fn change_conditions(&mut self) {
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

    pub(super) fn refill(&mut self) {
        self.queue.refill(self.now, None, None);
        self.world.refresh(self.now);
        self.world.refill();
    }

    pub(super) fn reuse(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let at = self.dice.roll(self.running.len() as u64) as usize;
        let running = &self.running[at];
        self.queue.connection_reused(&running.ticket, self.now).unwrap();
        self.world.reused(&running.held, running.started);
    }
}
