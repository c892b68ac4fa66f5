//! Policies and suspensions at run time: reload, dynamic additions, lists, refills.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::bucket::{Availability, Bucket, Cause};
use crate::entry::Store;
use crate::error::QueueError;
use crate::fields::{Field, FieldSet, Fields, LaneKey};
use crate::intern::Sym;
use crate::policy::{Applied, BucketKey, CompiledPolicy, DynamicCondition, Limits, PolicySet, check_fields};
use crate::queue::Queue;
use crate::sched::Blocker;
use crate::state::State;
use crate::suspend::{SuspendSlot, Suspension, SuspensionSource, SuspensionView, view_of};
use crate::time::Time;

/// A policy as it applies to given field values.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyMatch {
    /// Condition and limits in force.
    pub applied: Arc<Applied>,
    /// Attempts running.
    pub running: u32,
    /// Starts left now, if there is a rate.
    pub tokens: Option<f64>,
}

/// Changes to a dynamic entry: `None` leaves as is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DynamicChange {
    /// New life time; `Some(None)`: no end.
    pub ttl: Option<Option<Duration>>,
    /// New limits (conditions only).
    pub then: Option<Limits>,
    /// New tag (suspensions only).
    pub tag: Option<Option<String>>,
}

impl Queue {
    /// Replaces the policy file. All or nothing; counters whose fields are unchanged keep their state, dynamic
    /// conditions stay with the counter of their fields (and go when there is none any more).
    pub fn set_policies(&mut self, now: Time, set: PolicySet) -> Result<(), QueueError> {
        let hosts = set.cluster_hosts.max(1);
        let mut compiled: Vec<CompiledPolicy> = Vec::with_capacity(set.policies.len());
        for definition in set.policies {
            match CompiledPolicy::new(definition, hosts, &mut self.store) {
                Ok(policy) => compiled.push(policy),
                Err(error) => {
                    compiled.iter().for_each(|policy| policy.release(&mut self.store));
                    return Err(error);
                }
            }
        }
        let mut old = std::mem::replace(&mut self.sched.policies, compiled);
        // Where the counters of each old policy go on: each new policy takes over at most one.
        let mut successor: Vec<Option<u32>> = vec![None; old.len()];
        for (number, policy) in self.sched.policies.iter_mut().enumerate() {
            let found = old.iter().zip(&successor).position(|(o, s)| s.is_none() && o.counts_like(policy));
            if let Some(found) = found {
                successor[found] = Some(number as u32);
            }
        }
        for (index, policy) in old.iter_mut().enumerate() {
            let fields = policy.definition.fields;
            let heir = match successor[index] {
                Some(number) => self.sched.policies.get_mut(number as usize),
                None => self.sched.policies.iter_mut().find(|p| p.definition.fields == fields),
            };
            if let Some(heir) = heir {
                heir.take_dynamics(policy);
            }
        }
        self.rehouse_buckets(now, &successor);
        self.note_dynamic_expiry();
        old.iter().for_each(|policy| policy.release(&mut self.store));
        Ok(())
    }

    /// Gives every counter its new policy and limits, counts running attempts anew and wakes all lanes.
    fn rehouse_buckets(&mut self, now: Time, successor: &[Option<u32>]) {
        self.sched.wake_all();
        self.sched.clear_bucket_index();
        for bucket in self.sched.buckets.keys() {
            self.sched.buckets[bucket].running = 0;
            let old = self.sched.buckets[bucket].policy as usize;
            match successor.get(old).copied().flatten() {
                Some(policy) => {
                    self.sched.buckets[bucket].policy = policy;
                    // The rolled-up names are symbols; equal rollups intern to equal symbols, so keys stay.
                    let key = self.sched.buckets[bucket].key;
                    let applied = self.sched.policies[policy as usize].applied(&key, &self.store);
                    self.sched.buckets[bucket].set_applied(applied, now);
                    self.sched.index_bucket(bucket);
                }
                None => self.sched.drop_bucket(&mut self.store, bucket),
            }
        }
        let mut running: Vec<u32> = self.working.keys().copied().collect();
        running.sort_unstable();
        for index in running {
            let Some(working) = self.working.get_mut(&index) else { continue };
            let Some(attempt) = working.attempt.as_mut() else { continue };
            let mut held = Vec::new();
            let mut evaluated = true;
            let fields = attempt.lane.fields(&self.store);
            for policy in 0..self.sched.policies.len() {
                let found = self.sched.bucket_of(&mut self.store, policy, &fields, attempt.local_ip);
                if let Some(bucket) = found {
                    let record = &mut self.sched.buckets[bucket];
                    if broken!(ReloadForgetsRunning) {
                        continue;
                    }
                    record.running += 1;
                    held.push(crate::sched::Held { bucket, evaluated });
                    evaluated &= !record.applied.stops();
                }
            }
            attempt.held = held;
        }
        for bucket in self.sched.buckets.keys() {
            self.sched.kick(&mut self.store, bucket, now);
        }
    }

    /// Adds a condition at run time; the newest one that matches wins over older ones and the file.
    pub fn add_condition(&mut self, now: Time, condition: DynamicCondition) -> Result<(), QueueError> {
        condition.then.check()?;
        check_fields(&condition.when, condition.fields)?;
        if self.conditions(now).any(|(known, _)| known.id == condition.id) {
            return Err(QueueError::AlreadyExists(condition.id));
        }
        let policies = &mut self.sched.policies;
        let policy = policies
            .iter()
            .position(|policy| policy.definition.fields == condition.fields)
            .ok_or_else(|| QueueError::UnknownCounter(condition.fields.to_string()))?;
        let expires = condition.ttl.map(|ttl| now.after(ttl));
        policies[policy].add_dynamic(condition, expires);
        let may_stop = policies[policy].may_stop();
        let selected =
            self.buckets_where(policy, |policy, bucket, store| policy.newest_selects(&bucket.key, store));
        self.reapply(now, policy, selected, may_stop);
        Ok(())
    }

    /// Changes a dynamic condition; false when there is none with this id.
    pub fn change_condition(
        &mut self,
        now: Time,
        id: &str,
        change: DynamicChange,
    ) -> Result<bool, QueueError> {
        if let Some(then) = &change.then {
            then.check()?;
        }
        let expires = change.ttl.map(|ttl| ttl.map(|ttl| now.after(ttl)));
        for policy in 0..self.sched.policies.len() {
            let may_stop = self.sched.policies[policy].may_stop();
            if self.sched.policies[policy].change_dynamic(id, change.then.clone(), expires) {
                let may_stop = may_stop || self.sched.policies[policy].may_stop();
                let ruled = self.buckets_ruled_by(policy, &[id.to_owned()]);
                self.reapply(now, policy, ruled, may_stop);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes a dynamic condition; false when there is none with this id.
    pub fn delete_condition(&mut self, now: Time, id: &str) -> bool {
        let policies = &mut self.sched.policies;
        let mut may_stop = false;
        let removed = policies.iter_mut().position(|policy| {
            may_stop = policy.may_stop();
            policy.remove_dynamic(id)
        });
        let Some(policy) = removed else { return false };
        let ruled = self.buckets_ruled_by(policy, &[id.to_owned()]);
        self.reapply(now, policy, ruled, may_stop);
        true
    }

    /// Dynamic conditions with their remaining life.
    pub fn conditions(
        &self,
        now: Time,
    ) -> impl Iterator<Item = (&DynamicCondition, Option<Duration>)> + use<'_> {
        self.sched
            .policies
            .iter()
            .flat_map(|policy| policy.dynamics())
            .filter(move |(_, expires)| expires.is_none_or(|at| at > now))
            .map(move |(condition, expires)| (condition, expires.map(|at| at.since(now))))
    }

    pub(crate) fn expire_dynamic_conditions(&mut self, now: Time) {
        if self.sched.dynamic_expiry.is_none_or(|at| at > now) {
            return;
        }
        for policy in 0..self.sched.policies.len() {
            let may_stop = self.sched.policies[policy].may_stop();
            let ended = self.sched.policies[policy].expire_dynamics(now);
            if !ended.is_empty() {
                let ruled = self.buckets_ruled_by(policy, &ended);
                self.reapply(now, policy, ruled, may_stop);
            }
        }
        self.note_dynamic_expiry();
    }

    fn note_dynamic_expiry(&mut self) {
        self.sched.dynamic_expiry =
            self.sched.policies.iter().filter_map(|policy| policy.next_expiry()).min();
    }

    /// Counters of a policy that pass a test.
    fn buckets_where(
        &self,
        policy: usize,
        test: impl Fn(&CompiledPolicy, &Bucket, &Store) -> bool,
    ) -> Vec<u32> {
        let compiled = &self.sched.policies[policy];
        let buckets = self.sched.buckets.iter();
        buckets
            .filter(|(_, bucket)| bucket.policy as usize == policy && test(compiled, bucket, &self.store))
            .map(|(index, _)| index)
            .collect()
    }

    /// Counters whose limits come from one of these dynamic conditions.
    fn buckets_ruled_by(&self, policy: usize, ids: &[String]) -> Vec<u32> {
        self.buckets_where(policy, |_, bucket, _| {
            bucket.applied.dynamic.as_ref().is_some_and(|dynamic| ids.contains(dynamic))
        })
    }

    /// Works out the limits of these counters of a policy again. `may_stop`: the evaluation may end elsewhere now, also
    /// for lanes that have no counter of this policy (idle counters are forgotten).
    fn reapply(&mut self, now: Time, policy: usize, buckets: Vec<u32>, may_stop: bool) {
        self.note_dynamic_expiry();
        for bucket in buckets {
            let key = self.sched.buckets[bucket].key;
            let applied = self.sched.policies[policy].applied(&key, &self.store);
            let record = &mut self.sched.buckets[bucket];
            if record.applied != applied {
                record.set_applied(applied, now);
                self.sched.kick(&mut self.store, bucket, now);
            }
        }
        if may_stop {
            // Lanes may wait for counters that are no longer asked.
            self.sched.wake_all();
            for bucket in self.sched.buckets.keys() {
                self.sched.kick(&mut self.store, bucket, now);
            }
        }
    }

    /// Replaces the suspend file; dynamic suspensions stay, unchanged static ones are not looked at again.
    pub fn set_suspensions(&mut self, now: Time, list: Vec<Suspension>) -> Result<(), QueueError> {
        list.iter().try_for_each(Suspension::check)?;
        let slots = self.sched.suspends.iter();
        let gone: Vec<u32> = slots
            .filter(|(_, slot)| !slot.dynamic && !list.contains(&slot.definition))
            .map(|(slot, _)| slot)
            .collect();
        gone.into_iter().for_each(|slot| self.sched.remove_suspend(slot));
        for suspension in list {
            if !self.sched.suspend_ids.contains_key(&suspension.id) {
                self.put_suspension(now, suspension, false)?;
            }
        }
        Ok(())
    }

    /// Adds a suspension at run time.
    pub fn add_suspension(&mut self, now: Time, suspension: Suspension) -> Result<(), QueueError> {
        suspension.check()?;
        if self.sched.suspend_ids.contains_key(&suspension.id) {
            return Err(QueueError::AlreadyExists(suspension.id));
        }
        self.put_suspension(now, suspension, true)
    }

    fn put_suspension(&mut self, now: Time, suspension: Suspension, dynamic: bool) -> Result<(), QueueError> {
        let number = self.sched.suspend_last + 1;
        let record = SuspendSlot::new(number, suspension, dynamic, now);
        let (expires, id) = (record.expires, record.definition.id.clone());
        let slot = self.sched.suspends.insert(record).map_err(|_| QueueError::Full)?;
        self.sched.suspend_last = number;
        if let Some(at) = expires {
            self.sched.timers.insert((at, Blocker::Suspend(slot)));
        }
        self.sched.suspend_ids.insert(id, slot);
        self.sched.suspend_order.insert(number, slot);
        Ok(())
    }

    /// Changes life time or tag of a dynamic suspension; false when there is none with this id.
    pub fn change_suspension(
        &mut self,
        now: Time,
        id: &str,
        change: DynamicChange,
    ) -> Result<bool, QueueError> {
        if let Some(Some(tag)) = &change.tag {
            crate::error::check_tag(Some(tag))?;
        }
        let Some(&key) = self.sched.suspend_ids.get(id) else { return Ok(false) };
        let Some(slot) = self.sched.suspends.get_mut(key).filter(|slot| slot.dynamic) else {
            return Ok(false);
        };
        if let Some(tag) = change.tag {
            slot.definition.tag = tag;
        }
        if let Some(ttl) = change.ttl {
            if let Some(at) = slot.expires.take() {
                self.sched.timers.remove(&(at, Blocker::Suspend(key)));
            }
            slot.definition.ttl = ttl;
            slot.expires = ttl.map(|ttl| now.after(ttl));
            if let Some(at) = slot.expires {
                self.sched.timers.insert((at, Blocker::Suspend(key)));
            }
        }
        Ok(true)
    }

    /// Removes a dynamic suspension; false when there is none with this id.
    pub fn delete_suspension(&mut self, id: &str) -> bool {
        let slot = self.sched.suspend_ids.get(id).copied();
        let dynamic = slot.filter(|&slot| self.sched.suspends.get(slot).is_some_and(|slot| slot.dynamic));
        if let Some(slot) = dynamic {
            self.sched.remove_suspend(slot);
        }
        dynamic.is_some()
    }

    /// The definition of the dynamic suspension that selects exactly this, for "same match: update".
    pub fn find_suspension(&self, when: &crate::policy::Selector) -> Option<&Suspension> {
        let mut slots = self.sched.suspend_slots();
        slots.find(|slot| slot.dynamic && slot.definition.when == *when).map(|slot| &slot.definition)
    }

    /// Suspensions in force: of the file, added ones, and counters that let nothing start now.
    pub fn suspensions(&self, now: Time) -> Vec<SuspensionView> {
        let listed = self.sched.suspend_slots().map(|slot| view_of(slot, now));
        let counters = self.sched.buckets.iter().filter_map(|(_, bucket)| {
            let (cause, ttl) = match bucket.availability(now) {
                Availability::Free(_) => return None,
                Availability::Full => (Cause::Concurrency, None),
                Availability::Until(at, cause) => (cause, Some(at.since(now))),
            };
            Some(SuspensionView {
                source: SuspensionSource::Counter(cause),
                id: String::new(),
                fields: bucket_fields(&self.store, &bucket.key),
                ttl,
                tag: bucket.applied.limits.as_ref().and_then(|limits| limits.tag.clone()),
                properties: Default::default(),
            })
        });
        listed.chain(counters).collect()
    }

    /// Which policies apply to these values, in evaluation order. Absent fields are empty.
    pub fn match_policies(&mut self, now: Time, values: &[(Field, String)]) -> Vec<PolicyMatch> {
        let fields = self.temporary_fields(values);
        let local_ip = fields.get(Field::LocalIp);
        let mut matches = Vec::new();
        for number in 0..self.sched.policies.len() {
            let policy = &self.sched.policies[number];
            let key = policy.key(&fields.values, local_ip, &self.store);
            let matched = match self.sched.find_bucket(number, &key) {
                Some(bucket) => {
                    let record = &self.sched.buckets[bucket];
                    PolicyMatch {
                        applied: record.applied.clone(),
                        running: record.running,
                        tokens: record.tokens(now),
                    }
                }
                None => {
                    let applied = policy.applied(&key, &self.store);
                    let tokens = Bucket::new(number as u32, key, applied.clone()).tokens(now);
                    PolicyMatch { applied, running: 0, tokens }
                }
            };
            if matched.applied.limits.is_none() {
                continue;
            }
            let stops = matched.applied.stops();
            matches.push(matched);
            if stops {
                break;
            }
        }
        fields.release(&mut self.store);
        matches
    }

    fn temporary_fields(&mut self, values: &[(Field, String)]) -> Fields {
        let mut fields = Fields { values: [Sym::EMPTY; 8], ordered: false };
        for (field, text) in values {
            let slot = &mut fields.values[*field as usize];
            if *slot != Sym::EMPTY {
                continue;
            }
            *slot = if field.is_address() {
                self.store.ip(text.parse::<IpAddr>().ok())
            } else if field.is_domain() {
                self.store.domain(text)
            } else {
                self.store.texts.intern(text)
            };
        }
        fields
    }

    /// Refills the rate counters with exactly these fields and values (`None`: all); `tokens` starts each, or
    /// full. Tells how many counters there were.
    pub fn refill(&mut self, now: Time, exact: Option<&[(Field, String)]>, tokens: Option<f64>) -> u64 {
        let mut affected = 0;
        for bucket in self.sched.buckets.keys() {
            let record = &self.sched.buckets[bucket];
            if record.rate().is_none() {
                continue;
            }
            if let Some(wanted) = exact {
                let fields: FieldSet = wanted.iter().map(|(field, _)| *field).collect();
                if record.applied.fields != fields {
                    continue;
                }
                let key = record.key;
                if wanted.iter().any(|(field, text)| key_text(&self.store, &key, *field) != *text) {
                    continue;
                }
            }
            self.sched.buckets[bucket].refill(tokens, now);
            self.sched.kick(&mut self.store, bucket, now);
            affected += 1;
        }
        affected
    }

    /// The groups that policies roll values up to: counter fields, field, name with `#`.
    pub fn rollups(&self) -> Vec<(FieldSet, Field, String)> {
        let policies = self.sched.policies.iter();
        policies
            .flat_map(|policy| {
                let fields = policy.definition.fields;
                policy.definition.rollups.iter().map(move |r| (fields, r.field, format!("#{}", r.name)))
            })
            .collect()
    }

    /// The members of a group as written, by the fields of its policy, the field and the name with `#`.
    pub fn rollup_members(&self, fields: FieldSet, field: Field, name: &str) -> Option<Vec<String>> {
        let wanted = name.strip_prefix('#')?;
        let mut policies = self.sched.policies.iter().filter(|policy| policy.definition.fields == fields);
        policies.find_map(|policy| {
            let mut rollups = policy.definition.rollups.iter();
            let rollup = rollups.find(|rollup| rollup.field == field && rollup.name == wanted)?;
            Some(rollup.patterns.iter().map(ToString::to_string).collect())
        })
    }

    /// The name a policy with exactly these fields rolls a value up to.
    pub(crate) fn rolled_up(
        &self,
        fields: FieldSet,
        field: Field,
        text: &str,
        ip: Option<IpAddr>,
    ) -> Option<String> {
        let mut policies = self.sched.policies.iter();
        let policy = policies.find(|policy| policy.definition.fields == fields)?;
        policy.rollup_of(field, text, ip).map(|name| format!("#{name}"))
    }

    /// Tags of the conditions that apply to an entry, and of suspensions that hold its lane.
    pub(crate) fn tags_of(&self, index: u32) -> Vec<String> {
        let entry = &self.store.entries[index];
        let mut tags: Vec<String> = Vec::new();
        match entry.state {
            State::Sending => {
                let applied = self.working.get(&index).map(|working| working.applied.as_slice());
                for applied in applied.unwrap_or_default() {
                    tags.extend(applied.limits.as_ref().and_then(|limits| limits.tag.clone()));
                }
            }
            State::Active => {
                let lane = self.sched.lanes.get(entry.lane);
                let fields = lane.map_or(LaneKey::of(entry), |lane| lane.key).fields(&self.store);
                for &ip in self.store.ips.get(fields.get(Field::LocalIp)) {
                    let local_ip = self.store.ips.find(&[ip]).unwrap_or(Sym::EMPTY);
                    for policy in &self.sched.policies {
                        let key = policy.key_of(&fields.values, local_ip, &self.store, Some(ip));
                        let applied = policy.applied_to(&key, &self.store, Some(ip));
                        let stops = applied.stops();
                        tags.extend(applied.limits.as_ref().and_then(|limits| limits.tag.clone()));
                        if stops {
                            break;
                        }
                    }
                }
                for slot in self.sched.suspend_slots().filter(|slot| slot.definition.tag.is_some()) {
                    if slot.selector.matches_but_local_ip(&fields.values, &self.store) {
                        tags.extend(slot.definition.tag.clone());
                    }
                }
            }
            _ => {}
        }
        tags.sort_unstable();
        tags.dedup();
        tags
    }
}

/// The values of a counter's key.
pub(crate) fn bucket_fields(store: &Store, key: &BucketKey) -> Vec<(Field, String)> {
    let fields = Field::ALL.into_iter().filter(|&f| key.values[f as usize] != BucketKey::ABSENT);
    fields.map(|field| (field, key_text(store, key, field))).collect()
}

fn key_text(store: &Store, key: &BucketKey, field: Field) -> String {
    let value = key.values[field as usize];
    if field.is_address() && !key.is_rolled(field) {
        store.ip_of(value).map(|ip| ip.to_string()).unwrap_or_default()
    } else {
        store.texts.get(value).to_owned()
    }
}
