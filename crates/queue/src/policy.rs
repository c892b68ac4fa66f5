//! Policies as configured: which fields are counted together, and which limits apply to a counter.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::entry::Store;
use crate::error::{QueueError, check_tag};
use crate::fields::{Field, FieldSet};
use crate::intern::Sym;
use crate::pattern::{Matcher, Pattern};
use crate::time::Time;

/// How starts are counted over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum RateAlgorithm {
    /// Capacity of one second's worth (at least 1), refilled continuously.
    #[default]
    TokenBucket,
    /// At most `count` starts per window; the first start opens the window.
    FixedWindow,
}

/// At most `count` starts per `interval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Starts.
    pub count: u32,
    /// Length of time they are for.
    pub interval: Duration,
    /// How they are counted.
    pub algorithm: RateAlgorithm,
}

/// What applies to a counter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// Attempts running at once.
    pub concurrency: Option<u32>,
    /// Attempts started over time.
    pub rate: Option<Rate>,
    /// Least time between new connections.
    pub connect_interval: Option<Duration>,
    /// Shown in lists and to post-delivery.
    pub tag: Option<String>,
    /// Shown to post-delivery.
    pub properties: BTreeMap<String, String>,
    /// Later policies are not evaluated.
    pub stop: bool,
    /// Not divided by the number of cluster nodes.
    pub per_node: bool,
}

impl Limits {
    /// Refuses what cannot be kept: zero rates and intervals, long tags.
    pub fn check(&self) -> Result<(), QueueError> {
        check_tag(self.tag.as_deref())?;
        match self.rate {
            Some(rate) if rate.count == 0 || rate.interval.as_micros() == 0 => Err(QueueError::InvalidRate),
            _ => Ok(()),
        }
    }

    /// The share of one of `hosts` cluster nodes: concurrency divided (at least 1), rates stretched.
    fn divided(&self, hosts: u32) -> Limits {
        if self.per_node || hosts <= 1 {
            return self.clone();
        }
        Limits {
            concurrency: self.concurrency.map(|n| if n == 0 { 0 } else { (n / hosts).max(1) }),
            rate: self.rate.map(|rate| Rate { interval: rate.interval.saturating_mul(hosts), ..rate }),
            connect_interval: self.connect_interval.map(|interval| interval.saturating_mul(hosts)),
            ..self.clone()
        }
    }
}

/// Values that all given fields must have; any of the patterns of a field will do.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Selector {
    /// Fields with their patterns.
    pub fields: Vec<(Field, Vec<Pattern>)>,
}

impl Selector {
    /// Whether nothing is asked for: it selects everything.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }
}

/// Limits for the counters a selector picks.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PolicyCondition {
    /// Which counters.
    pub when: Selector,
    /// Their limits.
    pub then: Limits,
}

/// Values of a field counted together under `#name`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollup {
    /// The field.
    pub field: Field,
    /// Name without `#`.
    pub name: String,
    /// Members.
    pub patterns: Vec<Pattern>,
}

/// One counter family.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Policy {
    /// Counter key.
    pub fields: FieldSet,
    /// Groups of values; overlaps: first listed wins.
    pub rollups: Vec<Rollup>,
    /// First matching condition wins.
    pub conditions: Vec<PolicyCondition>,
    /// When none matches; `None`: not limited.
    pub default: Option<Limits>,
}

/// The policy file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PolicySet {
    /// In file order.
    pub policies: Vec<Policy>,
    /// Nodes that share the limits, at least 1.
    pub cluster_hosts: u32,
}

/// A condition added at run time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DynamicCondition {
    /// Counter it belongs to: a policy with exactly these fields must exist.
    pub fields: FieldSet,
    /// Which counters.
    pub when: Selector,
    /// Their limits.
    pub then: Limits,
    /// Life time; `None`: until deleted.
    pub ttl: Option<Duration>,
    /// Id, made by the caller.
    pub id: String,
}

/// The limits in force for one counter, and where they come from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// Fields of the counter.
    pub fields: FieldSet,
    /// Fields whose value was replaced by a `#name`.
    pub grouping: Vec<(Field, String)>,
    /// Id of the dynamic condition, if one applies.
    pub dynamic: Option<String>,
    /// The limits; `None`: nothing matched, not limited.
    pub limits: Option<Limits>,
}

impl Applied {
    pub(crate) fn stops(&self) -> bool {
        self.limits.as_ref().is_some_and(|limits| limits.stop)
    }
}

pub(crate) struct CompiledSelector(Vec<(Field, Matcher)>);

impl CompiledSelector {
    pub(crate) fn new(selector: &Selector) -> Self {
        CompiledSelector(selector.fields.iter().map(|(f, patterns)| (*f, Matcher::new(patterns))).collect())
    }

    /// Whether the asked-for fields of a counter key match; keys hold single local addresses and rolled-up values.
    pub(crate) fn matches_key(&self, key: &BucketKey, store: &Store, local: Option<IpAddr>) -> bool {
        self.0.iter().all(|(field, matcher)| key.matches(*field, matcher, store, local))
    }

    /// Whether all but `localip` match; `values` are those of a lane.
    pub(crate) fn matches_but_local_ip(&self, values: &[Sym; 8], store: &Store) -> bool {
        self.0.iter().filter(|(field, _)| *field != Field::LocalIp).all(|(field, matcher)| {
            let value = values[*field as usize];
            if field.is_address() {
                store.ip_of(value).is_some_and(|ip| matcher.matches_ip(ip))
            } else {
                matcher.matches_text(store.texts.get(value))
            }
        })
    }

    pub(crate) fn local_ip(&self) -> Option<&Matcher> {
        self.0.iter().find(|(field, _)| *field == Field::LocalIp).map(|(_, matcher)| matcher)
    }
}

/// A compiled selector for values written as text.
pub struct Selection(CompiledSelector);

impl std::fmt::Debug for Selection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.0.iter().map(|(field, _)| field.name())).finish()
    }
}

impl Selection {
    /// Compiles a selector.
    pub fn new(selector: &Selector) -> Selection {
        Selection(CompiledSelector::new(selector))
    }

    /// Whether all fields asked for have a matching value.
    pub fn matches(&self, value: &dyn Fn(Field) -> String) -> bool {
        self.0.0.iter().all(|(field, matcher)| {
            let text = value(*field);
            match field.is_address() {
                true => text.parse().is_ok_and(|ip| matcher.matches_ip(ip)),
                false => matcher.matches_text(&text),
            }
        })
    }
}

/// Values of the fields of a counter. Fields outside the counter are [`BucketKey::ABSENT`]; a rolled-up value is
/// the symbol of `#name` with its bit in `rolled` set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BucketKey {
    pub(crate) values: [Sym; 8],
    pub(crate) rolled: u8,
}

impl BucketKey {
    pub(crate) const ABSENT: Sym = Sym(u32::MAX);

    pub(crate) fn is_rolled(&self, field: Field) -> bool {
        self.rolled & (1 << field as u8) != 0
    }

    /// `local` stands for a source address that has no symbol because nothing counts it yet.
    fn matches(&self, field: Field, matcher: &Matcher, store: &Store, local: Option<IpAddr>) -> bool {
        let value = self.values[field as usize];
        if value == BucketKey::ABSENT {
            return false;
        }
        if field.is_address() && !self.is_rolled(field) {
            let local = local.filter(|_| field == Field::LocalIp);
            return local.or_else(|| store.ip_of(value)).is_some_and(|ip| matcher.matches_ip(ip));
        }
        matcher.matches_text(store.texts.get(value))
    }

    /// Counts the shared values for a record that keeps the key.
    pub(crate) fn acquire(&self, store: &mut Store) {
        for field in Field::ALL {
            let value = self.values[field as usize];
            if value == BucketKey::ABSENT {
                continue;
            }
            if field.is_address() && !self.is_rolled(field) {
                store.ips.acquire(value);
            } else {
                store.texts.acquire(value);
            }
        }
    }

    pub(crate) fn release(&self, store: &mut Store) {
        for field in Field::ALL {
            let value = self.values[field as usize];
            if value == BucketKey::ABSENT {
                continue;
            }
            if field.is_address() && !self.is_rolled(field) {
                store.ips.release(value);
            } else {
                store.texts.release(value);
            }
        }
    }
}

struct CompiledRollup {
    field: Field,
    /// Symbol of `#name`, counted once for the policy.
    symbol: Sym,
    matcher: Matcher,
}

struct CompiledDynamic {
    definition: DynamicCondition,
    expires: Option<Time>,
    selector: CompiledSelector,
    applied: Arc<Applied>,
}

pub(crate) struct CompiledPolicy {
    pub(crate) definition: Policy,
    rollups: Vec<CompiledRollup>,
    /// With what applies to the counters they select; shared by all that have no rolled-up value.
    conditions: Vec<(CompiledSelector, Arc<Applied>)>,
    default: Arc<Applied>,
    /// Newest last; asked from the end.
    dynamics: Vec<CompiledDynamic>,
    hosts: u32,
}

impl CompiledPolicy {
    pub(crate) fn new(definition: Policy, hosts: u32, store: &mut Store) -> Result<Self, QueueError> {
        for condition in &definition.conditions {
            condition.then.check()?;
            check_fields(&condition.when, definition.fields)?;
        }
        if let Some(default) = &definition.default {
            default.check()?;
        }
        let rollups = definition
            .rollups
            .iter()
            .map(|rollup| CompiledRollup {
                field: rollup.field,
                symbol: store.texts.intern(&format!("#{}", rollup.name)),
                matcher: Matcher::new(&rollup.patterns),
            })
            .collect();
        let conditions = definition
            .conditions
            .iter()
            .map(|c| (CompiledSelector::new(&c.when), shared(&definition, Some(c.then.divided(hosts)))))
            .collect();
        let default = shared(&definition, definition.default.as_ref().map(|limits| limits.divided(hosts)));
        Ok(CompiledPolicy { definition, rollups, conditions, default, dynamics: Vec::new(), hosts })
    }

    pub(crate) fn release(&self, store: &mut Store) {
        self.rollups.iter().for_each(|rollup| store.texts.release(rollup.symbol));
    }

    /// Whether counters of `other` may go on under this policy.
    pub(crate) fn counts_like(&self, other: &CompiledPolicy) -> bool {
        self.definition.fields == other.definition.fields
            && self.definition.rollups == other.definition.rollups
    }

    pub(crate) fn take_dynamics(&mut self, other: &mut CompiledPolicy) {
        for dynamic in other.dynamics.drain(..) {
            self.add_dynamic(dynamic.definition, dynamic.expires);
        }
    }

    /// The counter key of an attempt. `local_ip` is the single address chosen.
    pub(crate) fn key(&self, values: &[Sym; 8], local_ip: Sym, store: &Store) -> BucketKey {
        self.key_of(values, local_ip, store, None)
    }

    /// The same for a source address that may have no symbol yet.
    pub(crate) fn key_of(
        &self,
        values: &[Sym; 8],
        local_ip: Sym,
        store: &Store,
        local: Option<IpAddr>,
    ) -> BucketKey {
        let mut key = BucketKey { values: [BucketKey::ABSENT; 8], rolled: 0 };
        for field in self.definition.fields.iter() {
            let value = if field == Field::LocalIp { local_ip } else { values[field as usize] };
            key.values[field as usize] = value;
        }
        for rollup in &self.rollups {
            let value = key.values[rollup.field as usize];
            if key.is_rolled(rollup.field) || value == BucketKey::ABSENT {
                continue;
            }
            let member = if rollup.field.is_address() {
                let local = local.filter(|_| rollup.field == Field::LocalIp);
                local.or_else(|| store.ip_of(value)).is_some_and(|ip| rollup.matcher.matches_ip(ip))
            } else {
                rollup.matcher.matches_text(store.texts.get(value))
            };
            if member {
                key.values[rollup.field as usize] = rollup.symbol;
                key.rolled |= 1 << rollup.field as u8;
            }
        }
        key
    }

    /// The rolled-up name of a value, if it belongs to a group of this policy.
    pub(crate) fn rollup_of(&self, field: Field, text: &str, ip: Option<IpAddr>) -> Option<&str> {
        self.definition.rollups.iter().zip(&self.rollups).find_map(|(definition, rollup)| {
            let member = rollup.field == field
                && match ip {
                    Some(ip) => rollup.matcher.matches_ip(ip),
                    None => rollup.matcher.matches_text(text),
                };
            member.then_some(definition.name.as_str())
        })
    }

    /// The limits of a counter: dynamic conditions first, newest first, then the file's in order.
    pub(crate) fn applied(&self, key: &BucketKey, store: &Store) -> Arc<Applied> {
        self.applied_to(key, store, None)
    }

    /// The same for a key of [`CompiledPolicy::key_of`].
    pub(crate) fn applied_to(&self, key: &BucketKey, store: &Store, local: Option<IpAddr>) -> Arc<Applied> {
        let dynamic =
            self.dynamics.iter().rev().find(|d| self.dynamic_matches(&d.selector, key, store, local));
        let shared = match dynamic {
            Some(dynamic) => &dynamic.applied,
            None => {
                let mut conditions = self.conditions.iter();
                let matching = conditions.find(|(selector, _)| selector.matches_key(key, store, local));
                matching.map_or(&self.default, |(_, applied)| applied)
            }
        };
        if key.rolled == 0 {
            return shared.clone();
        }
        let rolled = self.definition.fields.iter().filter(|&field| key.is_rolled(field));
        let grouping = rolled.map(|field| (field, store.texts.get(key.values[field as usize]).to_owned()));
        Arc::new(Applied { grouping: grouping.collect(), ..(**shared).clone() })
    }

    /// A dynamic condition on a member of a group applies to the whole group.
    fn dynamic_matches(
        &self,
        selector: &CompiledSelector,
        key: &BucketKey,
        store: &Store,
        local: Option<IpAddr>,
    ) -> bool {
        selector.0.iter().all(|(field, matcher)| {
            if key.matches(*field, matcher, store, local) {
                return true;
            }
            if !key.is_rolled(*field) {
                return false;
            }
            let symbol = key.values[*field as usize];
            let mut rollups = self.rollups.iter();
            let rollup = rollups.find(|r| r.field == *field && r.symbol == symbol);
            rollup.is_some_and(|rollup| {
                matcher.exact_texts().any(|text| rollup.matcher.matches_text(text))
                    || matcher.networks().any(|net| rollup.matcher.matches_ip(net.addr()))
            })
        })
    }

    pub(crate) fn dynamics(&self) -> impl Iterator<Item = (&DynamicCondition, Option<Time>)> {
        self.dynamics.iter().map(|d| (&d.definition, d.expires))
    }

    pub(crate) fn add_dynamic(&mut self, definition: DynamicCondition, expires: Option<Time>) {
        let selector = CompiledSelector::new(&definition.when);
        let applied = self.of_dynamic(&definition);
        self.dynamics.push(CompiledDynamic { definition, expires, selector, applied });
    }

    fn of_dynamic(&self, condition: &DynamicCondition) -> Arc<Applied> {
        Arc::new(Applied {
            fields: self.definition.fields,
            grouping: Vec::new(),
            dynamic: Some(condition.id.clone()),
            limits: Some(condition.then.divided(self.hosts)),
        })
    }

    /// Changes a dynamic condition by id; false when it is not here.
    pub(crate) fn change_dynamic(
        &mut self,
        id: &str,
        then: Option<Limits>,
        expires: Option<Option<Time>>,
    ) -> bool {
        let Some(at) = self.dynamics.iter().position(|d| d.definition.id == id) else {
            return false;
        };
        if let Some(then) = then {
            self.dynamics[at].definition.then = then;
            self.dynamics[at].applied = self.of_dynamic(&self.dynamics[at].definition);
        }
        if let Some(expires) = expires {
            self.dynamics[at].expires = expires;
        }
        true
    }

    pub(crate) fn remove_dynamic(&mut self, id: &str) -> bool {
        let before = self.dynamics.len();
        self.dynamics.retain(|d| d.definition.id != id);
        self.dynamics.len() != before
    }

    /// Whether the newest dynamic condition is about this counter.
    pub(crate) fn newest_selects(&self, key: &BucketKey, store: &Store) -> bool {
        self.dynamics.last().is_some_and(|newest| self.dynamic_matches(&newest.selector, key, store, None))
    }

    /// Drops dynamic conditions whose time is over; their ids.
    pub(crate) fn expire_dynamics(&mut self, now: Time) -> Vec<String> {
        let over = |d: &CompiledDynamic| d.expires.is_some_and(|expires| expires <= now);
        self.dynamics.extract_if(.., |d| over(d)).map(|d| d.definition.id).collect()
    }

    /// Whether any of its conditions stops the evaluation.
    pub(crate) fn may_stop(&self) -> bool {
        let conditions = self.conditions.iter().map(|(_, applied)| applied).chain([&self.default]);
        conditions.chain(self.dynamics.iter().map(|d| &d.applied)).any(|applied| applied.stops())
    }

    pub(crate) fn next_expiry(&self) -> Option<Time> {
        self.dynamics.iter().filter_map(|d| d.expires).min()
    }
}

fn shared(policy: &Policy, limits: Option<Limits>) -> Arc<Applied> {
    Arc::new(Applied { fields: policy.fields, grouping: Vec::new(), dynamic: None, limits })
}

pub(crate) fn check_fields(selector: &Selector, fields: FieldSet) -> Result<(), QueueError> {
    match selector.fields.iter().find(|(field, _)| !fields.contains(*field)) {
        Some((field, _)) => Err(QueueError::FieldNotInCounter(field.name())),
        None => Ok(()),
    }
}
