//! Queue and server functions (library section 15). They act on the server around the script through [`Server`];
//! without one they give what the manual says for `hsh`.

use crate::environment;
use crate::support::{flag, options};
use hsl::{Args, Array, Error, FunctionDef, NativeCx, OptionDef, Value, option};
use std::time::Duration;

/// Longest tag, characters.
const TAG_MAX: usize = 24;

/// Names and values.
pub type Pairs = Vec<(String, String)>;

/// What both kinds of rule have besides what they match.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Common {
    /// How long it holds.
    pub ttl: Duration,
    /// Chosen id.
    pub id: Option<String>,
    /// Label.
    pub tag: Option<String>,
    /// Refresh an equal one instead of adding a second.
    pub update: bool,
    /// Strings for later hooks.
    pub properties: Pairs,
}

/// A dynamic policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// Fields of the policy that it belongs to.
    pub fields: Vec<String>,
    /// What it matches.
    pub condition: Pairs,
    /// Connections at once.
    pub concurrency: Option<u64>,
    /// Messages per seconds.
    pub rate: Option<(u64, f64)>,
    /// Seconds between connections.
    pub connect_interval_s: Option<f64>,
    /// Later policies are not looked at.
    pub stop: bool,
    /// Kind: dynamic, backoff, warmup.
    pub kind: Option<String>,
}

/// The running server, as scripts see it.
pub trait Server: Send + Sync {
    /// Connections open now on a virtual server, from all or one address or network. `None` for an unknown server.
    fn concurrency(&self, server: &str, address: Option<&str>) -> Option<u64>;

    /// Suspends delivery; the id, and whether an equal one was refreshed. With a time of zero an equal one is removed.
    ///
    /// # Errors
    /// Why not, for the log.
    fn suspend(&self, fields: Pairs, common: Common) -> Result<(String, bool), String>;

    /// Adds a policy; as [`suspend`](Server::suspend).
    ///
    /// # Errors
    /// Why not, for the log.
    fn policy(&self, policy: Policy, common: Common) -> Result<(String, bool), String>;

    /// Removes a policy; false for an unknown id.
    ///
    /// # Errors
    /// Why not, for the log.
    fn policy_delete(&self, id: &str) -> Result<bool, String>;

    /// Messages and bytes of a quota.
    fn quota(&self, name: &str) -> (u64, u64);
}

const SUSPEND_OPTIONS: &[OptionDef] = &[
    option("tag", "string", "", "Label of at most 24 characters."),
    option("update", "boolean", "true", "Refreshes the time of an equal one."),
    option("id", "string", "a new UUID", "Chosen id."),
    option("properties", "array", "", "Strings that later hooks see."),
    option("cluster", "boolean", "", "Kept for plugins."),
];

const POLICY_OPTIONS: &[OptionDef] = &[
    option("update", "boolean", "true", "Refreshes an equal one."),
    option("id", "string", "a new UUID", "Chosen id."),
    option("type", "string", "dynamic", "`dynamic`, `backoff` or `warmup`."),
];

const POLICY_KEYS: &[OptionDef] = &[
    option("concurrency", "number", "", "Connections at once."),
    option("rate", "array", "", "Messages and seconds."),
    option("connectinterval", "number", "", "Seconds between connections."),
    option("tag", "string", "", "Label of at most 24 characters."),
    option("properties", "array", "", "Strings that later hooks see."),
    option("stop", "boolean", "false", "Later policies are not looked at."),
    option("cluster", "boolean", "", "Kept for plugins."),
];

const SUSPEND_FIELDS: &[OptionDef] = &[
    option("transportid", "string", "", "Transport."),
    option("localip", "string", "", "Source address."),
    option("remoteip", "string", "", "Address of the other server."),
    option("remotemx", "string", "", "Name of the other server."),
    option("recipientdomain", "string", "", "Domain of the recipient."),
    option("jobid", "string", "", "Job."),
    option("grouping", "string", "", "Grouping."),
    option("tenantid", "string", "", "Tenant."),
];

/// The functions of the group.
pub(crate) fn functions() -> Vec<FunctionDef> {
    vec![
        FunctionDef::pure(
            "server_concurrency(serverid: string, address?: string) -> number or none",
            "Connections open now on a virtual server, from all or one address or network.",
            |cx, a| {
                let address = a.given(1).map(Value::to_string_lossy);
                let server = environment::of(cx).server.clone();
                let id = a.string(0);
                Ok(server.and_then(|s| s.concurrency(&id.to_text(), address.as_deref())).into())
            },
        ),
        FunctionDef::pure(
            "queue_suspend(fields: array, ttl: number, options?: array) -> array or none",
            "Suspends delivery of what matches all fields, for some seconds; 0 ends an equal suspension. Gives `id` and \
             `updated`.",
            suspend,
        )
        .with_options_of("fields", SUSPEND_FIELDS)
        .with_options(SUSPEND_OPTIONS),
        FunctionDef::pure(
            "queue_policy(fields: array, condition: array, policy: array, ttl: number, options?: array) -> array or none",
            "Limits delivery of what matches the condition, for some seconds; 0 ends an equal limit. Gives `id` and \
             `updated`.",
            policy,
        )
        .with_options_of("policy", POLICY_KEYS)
        .with_options(POLICY_OPTIONS),
        FunctionDef::pure(
            "queue_policy_delete(id: string) -> boolean or none",
            "Ends a limit of `queue_policy`; false for an unknown id.",
            |cx, a| {
                let server = environment::of(cx).server.clone();
                Ok(server.and_then(|s| s.policy_delete(&a.string(0).to_text()).ok()).into())
            },
        ),
        FunctionDef::pure(
            "queue_quota(name: string) -> array",
            "`count` and `bytes` of the messages in the queue that count for a quota.",
            |cx, a| {
                let server = environment::of(cx).server.clone();
                let (count, bytes) = server.map_or((0, 0), |s| s.quota(&a.string(0).to_text()));
                let mut out = Array::new();
                out.insert_str("count", count);
                out.insert_str("bytes", bytes);
                Ok(out.into())
            },
        ),
    ]
}

fn pairs(array: &Array) -> Option<Pairs> {
    let scalar = |v: &Value| matches!(v, Value::Str(_) | Value::Number(_) | Value::Bool(_));
    array
        .iter()
        .map(|(k, v)| scalar(v).then(|| (k.to_value().to_string_lossy(), v.to_string_lossy())))
        .collect()
}

/// The common part of both functions; `None` when an option is out of range.
fn common(ttl: f64, options: &Array, tagged: &Array) -> Option<Common> {
    let tag = tagged.get_str("tag").map(Value::to_string_lossy).filter(|t| !t.is_empty());
    if tag.as_ref().is_some_and(|t| t.chars().count() > TAG_MAX) {
        return None;
    }
    let properties = match tagged.get_str("properties") {
        Some(Value::Array(list)) => pairs(list)?,
        _ => Vec::new(),
    };
    Some(Common {
        ttl: Duration::try_from_secs_f64(ttl).ok()?,
        id: options.get_str("id").map(Value::to_string_lossy),
        tag,
        update: flag(options, "update", true),
        properties,
    })
}

fn result(done: Option<Result<(String, bool), String>>) -> Value {
    let Some(Ok((id, updated))) = done else { return Value::None };
    let mut out = Array::new();
    out.insert_str("id", id);
    out.insert_str("updated", updated);
    out.into()
}

fn suspend(cx: &mut NativeCx<'_>, a: Args<'_>) -> Result<Value, Error> {
    let o = options(&a, 2);
    let Some(server) = environment::of(cx).server.clone() else { return Ok(Value::None) };
    let fields = pairs(&a.array(0)).filter(|f| !f.is_empty());
    let (Some(fields), Some(common)) = (fields, common(a.number(1), &o, &o)) else { return Ok(Value::None) };
    Ok(result(Some(server.suspend(fields, common))))
}

fn policy(cx: &mut NativeCx<'_>, a: Args<'_>) -> Result<Value, Error> {
    let o = options(&a, 4);
    let Some(server) = environment::of(cx).server.clone() else { return Ok(Value::None) };
    let limits = a.array(2);
    let number = |key: &str| limits.get_str(key).map(Value::to_number);
    let rate = match limits.get_str("rate") {
        None => None,
        Some(Value::Array(pair)) if pair.len() == 2 => {
            let mut values = pair.values().map(Value::to_number);
            match (values.next(), values.next()) {
                (Some(count), Some(seconds)) if count >= 0.0 && seconds > 0.0 => {
                    Some((count as u64, seconds))
                }
                _ => return Ok(Value::None),
            }
        }
        Some(_) => return Ok(Value::None),
    };
    let (Some(condition), Some(common)) = (pairs(&a.array(1)), common(a.number(3), &o, &limits)) else {
        return Ok(Value::None);
    };
    let policy = Policy {
        fields: a.array(0).values().map(Value::to_string_lossy).collect(),
        condition,
        concurrency: number("concurrency").map(|n| n as u64),
        rate,
        connect_interval_s: number("connectinterval"),
        stop: flag(&limits, "stop", false),
        kind: o.get_str("type").map(Value::to_string_lossy),
    };
    Ok(result(Some(server.policy(policy, common))))
}
