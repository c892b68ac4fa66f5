//! The rules of the queue as a second, slow and plain implementation: field values are small numbers, counters are
//! looked up in a map, and every question is answered by trying.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use queue::*;

/// The simulator's own dice, independent of the queue's.
#[derive(Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    pub(crate) fn chance(&mut self, one_in: u64) -> bool {
        self.roll(one_in) == 0
    }
}

/// Values that each field takes: tenant, job, transport, localip, grouping, remoteip, remotemx, recipientdomain.
pub(crate) const VALUES: [u64; 8] = [2, 3, 2, 3, 3, 6, 6, 6];
pub(crate) const LOCAL_IP: usize = 3;
/// From here on a value is that of a rollup.
const ROLLED: u8 = 100;

pub(crate) fn field(number: usize) -> Field {
    Field::ALL[number]
}

pub(crate) fn text(number: usize, value: u8) -> String {
    let half = if value.is_multiple_of(2) { "even" } else { "odd" };
    match field(number) {
        Field::TenantId => format!("tenant{value}"),
        Field::JobId => format!("job{value}"),
        Field::TransportId => format!("out{value}"),
        Field::LocalIp => format!("192.0.2.{}", value + 1),
        Field::Grouping => format!("&group{value}"),
        Field::RemoteIp => format!("198.51.100.{}", value + 1),
        Field::RemoteMx => format!("mx{value}.{half}.example"),
        Field::RecipientDomain => format!("domain{value}.{half}.example"),
    }
}

/// What a selector asks of one field.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) field: usize,
    /// Values, as bits.
    pub(crate) mask: u64,
    /// Rollups, as bits.
    pub(crate) rolled: u8,
    /// Members count for their whole group: only plain values do that.
    plain: bool,
    patterns: Vec<String>,
}

impl Wanted {
    pub(crate) fn random(dice: &mut Dice, number: usize, rollups: &[(usize, u64)], plain: bool) -> Wanted {
        let own: Vec<u8> = (0..rollups.len()).filter(|&r| rollups[r].0 == number).map(|r| r as u8).collect();
        if !own.is_empty() && dice.chance(2) {
            let group = own[dice.roll(own.len() as u64) as usize];
            let patterns = vec![format!("#g{group}")];
            let is_address = matches!(field(number), Field::LocalIp | Field::RemoteIp);
            // Groups of addresses have no written form in a condition.
            if !is_address {
                return Wanted { field: number, mask: 0, rolled: 1 << group, plain: true, patterns };
            }
        }
        let value = dice.roll(VALUES[number]) as u8;
        let exact = |mask: u64| (0..8u8).filter(|v| mask & 1 << v != 0).map(|v| text(number, v)).collect();
        let (mask, patterns): (u64, Vec<String>) = match (field(number), dice.roll(3)) {
            (Field::RemoteMx | Field::RecipientDomain, 0) if !plain => {
                (0b010101, vec!["*.even.example".into()])
            }
            (Field::LocalIp, 0) if !plain => (0b110, vec!["192.0.2.2/31".into()]),
            (Field::RemoteIp, 0) if !plain => (0b000111, vec!["198.51.100.0/30".into()]),
            (Field::JobId, 0) if !plain => (0b011, vec!["/^JOB[01]$/".into()]),
            (_, 1) => {
                let mask = 1 << value | 1 << dice.roll(VALUES[number]);
                (mask, exact(mask))
            }
            _ => (1 << value, exact(1 << value)),
        };
        let plain = !patterns[0].starts_with(['*', '/']) && !patterns[0].contains('/');
        Wanted { field: number, mask, rolled: 0, plain, patterns }
    }

    pub(crate) fn matches(&self, value: u8) -> bool {
        match value {
            rolled if rolled >= ROLLED => self.rolled & 1 << (rolled - ROLLED) != 0,
            value => self.mask & 1 << value != 0,
        }
    }

    /// As the condition of a dynamic condition: a member stands for its group.
    fn matches_group(&self, value: u8, rollups: &[(usize, u64)]) -> bool {
        self.matches(value)
            || value >= ROLLED && self.plain && rollups[usize::from(value - ROLLED)].1 & self.mask != 0
    }
}

pub(crate) fn selector(wanted: &[Wanted]) -> Selector {
    let one = |w: &Wanted| {
        let parse = |text: &String| Pattern::parse(field(w.field), text, &|_| None).unwrap();
        (field(w.field), w.patterns.iter().map(parse).collect())
    };
    Selector { fields: wanted.iter().map(one).collect() }
}

/// A counter family.
#[derive(Clone, Debug)]
pub(crate) struct Family {
    /// Survives reloads as long as fields and rollups are the same.
    pub(crate) uid: u64,
    /// As bits.
    pub(crate) fields: u8,
    pub(crate) rollups: Vec<(usize, u64)>,
    pub(crate) conditions: Vec<(Vec<Wanted>, Limits)>,
    pub(crate) default: Option<Limits>,
    /// Newest last: id, what for, limits, end.
    pub(crate) dynamics: Vec<(String, Vec<Wanted>, Limits, Option<Time>)>,
}

pub(crate) type Values = [u8; 8];

impl Family {
    pub(crate) fn random(dice: &mut Dice) -> Family {
        let mut fields = 0u8;
        for _ in 0..dice.roll(4) {
            fields |= 1 << dice.roll(8);
        }
        let of: Vec<usize> = (0..8).filter(|f| fields & 1 << f != 0).collect();
        let mut rollups = Vec::new();
        for &number in &of {
            if dice.chance(4) {
                for _ in 0..1 + dice.roll(2) {
                    rollups.push((number, 1 + dice.roll((1 << VALUES[number]) - 1)));
                }
            }
        }
        let mut conditions = Vec::new();
        for _ in 0..dice.roll(3) {
            let mut when: Vec<Wanted> = Vec::new();
            for &number in &of {
                if dice.chance(2) {
                    when.push(Wanted::random(dice, number, &rollups, false));
                }
            }
            conditions.push((when, limits(dice)));
        }
        let default = (!dice.chance(3)).then(|| limits(dice));
        Family { uid: 0, fields, rollups, conditions, default, dynamics: Vec::new() }
    }

    pub(crate) fn policy(&self) -> Policy {
        let rollup = |(i, (number, mask)): (usize, &(usize, u64))| Rollup {
            field: field(*number),
            name: format!("g{i}"),
            patterns: (0..8u8)
                .filter(|v| mask & 1 << v != 0)
                .map(|v| Pattern::parse(field(*number), &text(*number, v), &|_| None).unwrap())
                .collect(),
        };
        Policy {
            fields: (0..8).filter(|f| self.fields & 1 << f != 0).map(field).collect(),
            rollups: self.rollups.iter().enumerate().map(rollup).collect(),
            conditions: self
                .conditions
                .iter()
                .map(|(when, then)| PolicyCondition { when: selector(when), then: then.clone() })
                .collect(),
            default: self.default.clone(),
        }
    }

    fn key(&self, values: &Values, ip: u8) -> Values {
        let mut key = [u8::MAX; 8];
        for number in (0..8).filter(|f| self.fields & 1 << f != 0) {
            let value = if number == LOCAL_IP { ip } else { values[number] };
            let group = self.rollups.iter().position(|(of, mask)| *of == number && mask & 1 << value != 0);
            key[number] = group.map_or(value, |group| ROLLED + group as u8);
        }
        key
    }

    /// The limits of a counter.
    pub(crate) fn limits(&self, key: &Values) -> Option<&Limits> {
        let dynamic = self.dynamics.iter().rev();
        let mut dynamic = dynamic.filter(|(_, when, ..)| {
            when.iter().all(|wanted| wanted.matches_group(key[wanted.field], &self.rollups))
        });
        if let Some((_, _, limits, _)) = dynamic.next() {
            return Some(limits);
        }
        let mut conditions = self.conditions.iter();
        let found = conditions.find(|(when, _)| when.iter().all(|wanted| wanted.matches(key[wanted.field])));
        found.map(|(_, limits)| limits).or(self.default.as_ref())
    }
}

pub(crate) fn limits(dice: &mut Dice) -> Limits {
    let mut limits = Limits { stop: dice.chance(8), ..Limits::default() };
    if dice.chance(2) {
        limits.concurrency = Some(dice.roll(4) as u32);
    }
    if dice.chance(4) {
        limits.rate = Some(Rate {
            count: 1 + dice.roll(6) as u32,
            interval: Duration::from_secs(1 + dice.roll(20)),
            algorithm: if dice.chance(2) { RateAlgorithm::TokenBucket } else { RateAlgorithm::FixedWindow },
        });
    }
    if dice.chance(6) {
        limits.connect_interval = Some(Duration::from_secs(1 + dice.roll(5)));
    }
    limits
}

/// One counter.
#[derive(Clone, Default, Debug)]
struct Counter {
    running: u32,
    limits: Option<Limits>,
    /// Tokens times the interval in microseconds, at a moment.
    tokens: Option<(u128, Time)>,
    window: Option<(Time, u32)>,
    connect_at: Option<Time>,
    /// Starts since the limits last changed.
    starts: VecDeque<Time>,
}

fn micros(rate: &Rate) -> u128 {
    rate.interval.as_micros()
}

fn capacity(rate: &Rate) -> u128 {
    (u128::from(rate.count) * 1_000_000).div_ceil(micros(rate)).max(1) * micros(rate)
}

impl Counter {
    fn level(&self, rate: &Rate, now: Time) -> u128 {
        let Some((level, at)) = self.tokens else { return capacity(rate) };
        (level + now.since(at).as_micros() * u128::from(rate.count)).min(capacity(rate))
    }

    fn used(&self, rate: &Rate, now: Time) -> u32 {
        self.window.filter(|(start, _)| now.since(*start) < rate.interval).map_or(0, |(_, used)| used)
    }

    fn has_room(&self, now: Time) -> bool {
        let Some(limits) = &self.limits else { return true };
        if limits.concurrency.is_some_and(|most| self.running >= most) {
            return false;
        }
        if limits.connect_interval.is_some() && self.connect_at.is_some_and(|at| at > now) {
            return false;
        }
        limits.rate.is_none_or(|rate| match rate.algorithm {
            RateAlgorithm::TokenBucket => self.level(&rate, now) >= micros(&rate),
            RateAlgorithm::FixedWindow => self.used(&rate, now) < rate.count,
        })
    }

    fn start(&mut self, now: Time, asked: bool) {
        self.running += 1;
        let Some(limits) = self.limits.clone().filter(|_| asked) else { return };
        if let Some(interval) = limits.connect_interval {
            self.connect_at = Some(now.after(interval));
        }
        let Some(rate) = limits.rate else { return };
        match rate.algorithm {
            RateAlgorithm::TokenBucket => {
                self.tokens = Some((self.level(&rate, now).saturating_sub(micros(&rate)), now));
                // Whatever the bucket says: over any time no more than its capacity and what came in.
                self.starts.push_back(now);
                if self.starts.len() > 40 {
                    self.starts.pop_front();
                }
                let most = capacity(&rate) / micros(&rate);
                for (i, first) in self.starts.iter().enumerate() {
                    let since = now.since(*first).as_micros() * u128::from(rate.count) / micros(&rate);
                    let count = (self.starts.len() - i) as u128;
                    assert!(count <= most + since + 1, "Q9: {count} starts since {first:?} at {rate:?}");
                }
            }
            RateAlgorithm::FixedWindow => {
                let used = self.used(&rate, now);
                let start = self.window.filter(|_| used > 0).map_or(now, |(start, _)| start);
                self.window = Some((start, used + 1));
            }
        }
    }

    fn set_limits(&mut self, limits: Option<Limits>, now: Time) {
        if self.limits == limits {
            return;
        }
        let before = self.limits.as_ref().and_then(|limits| limits.rate);
        let after = limits.as_ref().and_then(|limits| limits.rate);
        match (before, after) {
            (Some(old), Some(new)) if old.algorithm == new.algorithm => {
                if self.tokens.is_some() {
                    let level = self.level(&old, now);
                    let kept = (level * micros(&new) / micros(&old)).min(capacity(&new));
                    self.tokens = (level < capacity(&old)).then_some((kept, now));
                }
                if self.used(&old, now) == 0 {
                    self.window = None;
                }
            }
            _ => (self.tokens, self.window) = (None, None),
        }
        self.starts.clear();
        self.limits = limits;
    }

    fn refill(&mut self) {
        if self.limits.as_ref().is_some_and(|limits| limits.rate.is_some()) {
            (self.tokens, self.window) = (None, None);
            self.starts.clear();
        }
    }
}

/// The counters an attempt is counted in, with whether their limits were asked.
pub(crate) type Held = Vec<((u64, Values), bool)>;

/// Policies, suspensions and counters.
pub(crate) struct World {
    pub(crate) families: Vec<Family>,
    counters: HashMap<(u64, Values), Counter>,
    uid: u64,
    /// Id, what for, end; static ones have ids that begin with `file`.
    pub(crate) suspensions: Vec<(String, Vec<Wanted>, Option<Time>)>,
}

impl World {
    pub(crate) fn new() -> World {
        World { families: Vec::new(), counters: HashMap::new(), uid: 0, suspensions: Vec::new() }
    }

    /// Replaces the policies; `running` are the attempts under way.
    pub(crate) fn reload<'r>(
        &mut self,
        mut families: Vec<Family>,
        now: Time,
        running: impl Iterator<Item = (&'r Values, u8, &'r mut Held)>,
    ) {
        let old = std::mem::take(&mut self.families);
        let mut taken = vec![false; old.len()];
        for family in &mut families {
            let same = |o: &Family| o.fields == family.fields && o.rollups == family.rollups;
            match (0..old.len()).find(|&i| !taken[i] && same(&old[i])) {
                Some(i) => {
                    taken[i] = true;
                    family.uid = old[i].uid;
                    family.dynamics.extend(old[i].dynamics.iter().cloned());
                }
                None => {
                    self.uid += 1;
                    family.uid = self.uid;
                }
            }
        }
        for (family, taken) in old.into_iter().zip(taken) {
            if let Some(heir) = families.iter_mut().find(|f| !taken && f.fields == family.fields) {
                heir.dynamics.extend(family.dynamics);
            }
        }
        self.families = families;
        let known: Vec<u64> = self.families.iter().map(|family| family.uid).collect();
        self.counters.retain(|(uid, _), _| known.contains(uid));
        self.counters.values_mut().for_each(|counter| counter.running = 0);
        self.refresh(now);
        for (values, ip, held) in running {
            held.clear();
            let mut asked = true;
            for number in 0..self.families.len() {
                let id = self.touch(number, values, ip);
                if let Some(counter) = self.counters.get_mut(&id) {
                    counter.running += 1;
                    held.push((id, asked));
                    asked &= !counter.limits.as_ref().is_some_and(|limits| limits.stop);
                }
            }
        }
    }

    /// Works out the limits of all counters again.
    pub(crate) fn refresh(&mut self, now: Time) {
        for family in &mut self.families {
            family.dynamics.retain(|(.., end)| end.is_none_or(|end| end > now));
        }
        for ((uid, key), counter) in &mut self.counters {
            let family = self.families.iter().find(|family| family.uid == *uid);
            counter.set_limits(family.and_then(|family| family.limits(key)).cloned(), now);
        }
        self.suspensions.retain(|(.., end)| end.is_none_or(|end| end > now));
    }

    fn touch(&mut self, number: usize, values: &Values, ip: u8) -> (u64, Values) {
        let family = &self.families[number];
        let key = family.key(values, ip);
        let id = (family.uid, key);
        let new = || Counter { limits: family.limits(&key).cloned(), ..Counter::default() };
        self.counters.entry(id).or_insert_with(new);
        id
    }

    pub(crate) fn is_suspended(&self, values: &Values, ip: u8) -> bool {
        self.suspensions.iter().any(|(_, when, _)| {
            when.iter().all(|w| w.matches(if w.field == LOCAL_IP { ip } else { values[w.field] }))
        })
    }

    /// Whether an attempt may start.
    pub(crate) fn is_free(&mut self, values: &Values, ip: u8, now: Time) -> Result<(), String> {
        if self.is_suspended(values, ip) {
            return Err("suspended".to_owned());
        }
        for number in 0..self.families.len() {
            let id = self.touch(number, values, ip);
            let counter = &self.counters[&id];
            if !counter.has_room(now) {
                return Err(format!("no room in {id:?}: {counter:?}"));
            }
            if counter.limits.as_ref().is_some_and(|limits| limits.stop) {
                break;
            }
        }
        Ok(())
    }

    /// What is known about an attempt, for reports.
    pub(crate) fn explain(&mut self, values: &Values, ip: u8) -> String {
        let numbers = 0..self.families.len();
        let counters: Vec<String> = numbers
            .map(|number| {
                let id = self.touch(number, values, ip);
                format!("{:?} with {:?}", self.counters[&id], self.families[number])
            })
            .collect();
        format!("{values:?}: {}", counters.join("; "))
    }

    pub(crate) fn start(&mut self, values: &Values, ip: u8, now: Time) -> Held {
        let mut held = Vec::new();
        let mut asked = true;
        for number in 0..self.families.len() {
            let id = self.touch(number, values, ip);
            if let Some(counter) = self.counters.get_mut(&id) {
                let stops = counter.limits.as_ref().is_some_and(|limits| limits.stop);
                counter.start(now, asked);
                held.push((id, asked));
                asked &= !stops;
            }
        }
        held
    }

    pub(crate) fn finish(&mut self, held: &Held) {
        for (id, _) in held {
            if let Some(counter) = self.counters.get_mut(id) {
                counter.running -= 1;
            }
        }
    }

    pub(crate) fn reused(&mut self, held: &Held, started: Time) {
        for (id, _) in held {
            let Some(counter) = self.counters.get_mut(id) else { continue };
            let interval = counter.limits.as_ref().and_then(|limits| limits.connect_interval);
            if interval.is_some_and(|interval| counter.connect_at == Some(started.after(interval))) {
                counter.connect_at = None;
            }
        }
    }

    pub(crate) fn refill(&mut self) {
        self.counters.values_mut().for_each(Counter::refill);
    }

    /// A restart: counters and what was added at run time are forgotten.
    pub(crate) fn restart(&mut self) {
        self.counters.clear();
        self.families.iter_mut().for_each(|family| family.dynamics.clear());
        self.suspensions.retain(|(id, ..)| id.starts_with("file"));
    }
}
