//! [`Bridge`]: the daemon as the queue and server functions of scripts see it. Their requests take the way of the control
//! commands, so both accept the same.

use crate::clock;
use crate::control::admin;
use crate::daemon::Daemon;
use crate::server::limits::Gate;
use crate::warning;
use control::smtpd as wire;
use hsl_std::server::{Common, Pairs, Policy, Server};
use queue::{DynamicChange, Field, Selector, SuspensionSource};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock, Weak};

/// Reaches the daemon once it is complete; scripts only run then.
#[derive(Default)]
pub struct Bridge(OnceLock<Weak<Daemon>>);

impl Bridge {
    /// Sets the daemon.
    pub fn set(&self, daemon: &Arc<Daemon>) {
        // There is one daemon in a process.
        let _ = self.0.set(Arc::downgrade(daemon));
    }

    pub(super) fn daemon(&self) -> Result<Arc<Daemon>, String> {
        self.0.get().and_then(Weak::upgrade).ok_or_else(|| "the server is not running".to_owned())
    }
}

fn text(value: &str) -> Option<wire::StringValue> {
    Some(wire::StringValue { value: value.to_owned() })
}

/// Puts named values into the fields of a request.
macro_rules! fields {
    ($pairs:expr, $target:expr) => {
        for (name, value) in $pairs {
            let slot = match name.as_str() {
                "transportid" => &mut $target.transportid,
                "localip" => &mut $target.localip,
                "remoteip" => &mut $target.remoteip,
                "remotemx" => &mut $target.remotemx,
                "recipientdomain" => &mut $target.recipientdomain,
                "jobid" => &mut $target.jobid,
                "grouping" => &mut $target.grouping,
                "tenantid" => &mut $target.tenantid,
                other => return Err(format!("unknown field '{other}'")),
            };
            *slot = text(value);
        }
    };
}

/// The values of a selector by field name, for comparison.
fn described(when: &Selector) -> Vec<(&'static str, String)> {
    let joined = |patterns: &Vec<queue::Pattern>| {
        patterns.iter().map(|p| p.to_string().to_ascii_lowercase()).collect::<Vec<_>>().join(", ")
    };
    let mut list: Vec<(&'static str, String)> =
        when.fields.iter().map(|(field, patterns)| (field.name(), joined(patterns))).collect();
    list.sort();
    list
}

fn viewed(fields: &[(Field, String)]) -> Vec<(&'static str, String)> {
    let mut list: Vec<(&'static str, String)> =
        fields.iter().map(|(field, value)| (field.name(), value.to_ascii_lowercase())).collect();
    list.sort();
    list
}

/// Tells the operator what a script asked for in vain; the script itself only gets none.
fn logged<T>(what: &str, result: Result<T, String>) -> Result<T, String> {
    if let Err(error) = &result {
        warning!("", "{what}: {error}");
    }
    result
}

impl Bridge {
    fn try_suspend(&self, fields: &Pairs, common: &Common) -> Result<(String, bool), String> {
        let daemon = self.daemon()?;
        let mut request = wire::SuspendAddRequest {
            ttl: common.ttl.as_secs_f64(),
            id: common.id.clone().unwrap_or_default(),
            tag: common.tag.as_deref().and_then(text),
            properties: common.properties.iter().cloned().collect(),
            ..Default::default()
        };
        fields!(fields, request);
        let lists = daemon.suspend_lists.lock().clone();
        let suspension = admin::suspend_add(&request, &lists, daemon.ids.next().to_string())?;
        let (now, wanted) = (clock::now(), described(&suspension.when));
        let mut queue = daemon.engine.queue.lock();
        let equal = queue
            .suspensions(now)
            .into_iter()
            .find(|known| known.source == SuspensionSource::Dynamic && viewed(&known.fields) == wanted);
        let done = match equal {
            Some(known) if common.ttl.is_zero() => {
                queue.delete_suspension(&known.id);
                (known.id, true)
            }
            None if common.ttl.is_zero() => (suspension.id, false),
            Some(known) if common.update => {
                let change =
                    DynamicChange { ttl: Some(suspension.ttl), then: None, tag: suspension.tag.map(Some) };
                queue.change_suspension(now, &known.id, change).map_err(|error| error.to_string())?;
                (known.id, true)
            }
            _ => {
                let id = suspension.id.clone();
                queue.add_suspension(now, suspension).map_err(|error| error.to_string())?;
                (id, false)
            }
        };
        drop(queue);
        daemon.engine.wake();
        Ok(done)
    }

    fn try_policy(&self, policy: &Policy, common: &Common) -> Result<(String, bool), String> {
        let daemon = self.daemon()?;
        let mut fields = wire::policy_condition_add_request::Fields::default();
        for name in &policy.fields {
            let flag = match name.as_str() {
                "transportid" => &mut fields.transportid,
                "localip" => &mut fields.localip,
                "remoteip" => &mut fields.remoteip,
                "remotemx" => &mut fields.remotemx,
                "recipientdomain" => &mut fields.recipientdomain,
                "jobid" => &mut fields.jobid,
                "grouping" => &mut fields.grouping,
                "tenantid" => &mut fields.tenantid,
                other => return Err(format!("unknown field '{other}'")),
            };
            *flag = true;
        }
        let mut when = wire::policy_condition_add_request::If::default();
        fields!(&policy.condition, when);
        let then = wire::policy_condition_add_request::Then {
            rate: policy
                .rate
                .map(|(count, interval)| wire::policy_condition_add_request::then::Rate { count, interval }),
            concurrency: policy.concurrency.unwrap_or(0),
            tag: common.tag.as_deref().and_then(text),
            stop: policy.stop,
            properties: common.properties.iter().cloned().collect(),
            connectinterval: policy.connect_interval_s.map(|value| wire::DoubleValue { value }),
            ratealgorithm: None,
        };
        let request = wire::PolicyConditionAddRequest {
            fields: Some(fields),
            r#if: Some(when),
            then: Some(then),
            ttl: common.ttl.as_secs_f64(),
            id: common.id.clone().unwrap_or_default(),
        };
        let lists = daemon.policy_lists.lock().clone();
        let condition = admin::condition_add(&request, &lists, daemon.ids.next().to_string())?;
        let (now, wanted) = (clock::now(), described(&condition.when));
        let mut queue = daemon.engine.queue.lock();
        let equal = queue
            .conditions(now)
            .find(|(known, _)| known.fields == condition.fields && described(&known.when) == wanted)
            .map(|(known, _)| known.id.clone());
        let done = match equal {
            Some(id) if common.ttl.is_zero() => {
                queue.delete_condition(now, &id);
                (id, true)
            }
            None if common.ttl.is_zero() => (condition.id, false),
            Some(id) if common.update => {
                let change =
                    DynamicChange { ttl: Some(condition.ttl), then: Some(condition.then), tag: None };
                queue.change_condition(now, &id, change).map_err(|error| error.to_string())?;
                (id, true)
            }
            _ => {
                let id = condition.id.clone();
                queue.add_condition(now, condition).map_err(|error| error.to_string())?;
                (id, false)
            }
        };
        drop(queue);
        daemon.engine.wake();
        Ok(done)
    }
}

impl Server for Bridge {
    fn concurrency(&self, server: &str, address: Option<&str>) -> Option<u64> {
        let generation = self.daemon().ok()?.generations.current();
        let gate = &generation.servers.get(server)?.gate;
        let Some(address) = address else { return Some(u64::from(gate.total())) };
        // A single address counts as the client it belongs to.
        let network = match address.parse::<IpAddr>() {
            Ok(ip) => Gate::client(ip).to_string(),
            Err(_) => address.to_owned(),
        };
        hsl_std::network_includes("0.0.0.0", &network)?;
        let within =
            |client: IpAddr| hsl_std::network_includes(&client.to_string(), &network).unwrap_or(false);
        Some(u64::from(gate.count(within)))
    }

    fn suspend(&self, fields: Pairs, common: Common) -> Result<(String, bool), String> {
        logged("queue_suspend()", self.try_suspend(&fields, &common))
    }

    fn policy(&self, policy: Policy, common: Common) -> Result<(String, bool), String> {
        logged("queue_policy()", self.try_policy(&policy, &common))
    }

    fn policy_delete(&self, id: &str) -> Result<bool, String> {
        let daemon = self.daemon()?;
        let deleted = daemon.engine.queue.lock().delete_condition(clock::now(), id);
        daemon.engine.wake();
        Ok(deleted)
    }

    fn quota(&self, name: &str) -> (u64, u64) {
        let Ok(daemon) = self.daemon() else { return (0, 0) };
        let quota = daemon.engine.queue.lock().quota(name);
        (quota.count, quota.bytes)
    }
}
