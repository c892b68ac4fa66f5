//! What must hold: compared with the model and with the second implementation of the rules.

use queue::*;

use super::world::{LOCAL_IP, Values, text};
use super::*;

impl Simulation {
    /// The states of a distribution add up to what is there.
    pub(super) fn add_up(&mut self) {
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
    pub(super) fn compare(&self) {
        assert_eq!(self.queue.len(), self.disk.len(), "Q5");
        for id in self.disk.keys() {
            assert!(self.queue.find(id.0, id.1).is_some(), "Q5: {id:?} is on disk only");
        }
    }

    pub(super) fn started(&mut self, pick: Pick) {
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
    pub(super) fn nothing_left_behind(&mut self) {
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
}
