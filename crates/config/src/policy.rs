//! `smtpd-policy.yaml`: limits of the active queue.

use crate::value::{Duration, Rate, Strings};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The policy file of `smtpd`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Schema revision.
    #[serde(default)]
    pub version: String,
    /// Counters, all of which an entry has to pass.
    #[serde(default)]
    pub policies: Vec<Counter>,
}

/// `policies[]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Counter {
    /// What makes a counter's key; empty = one counter for all.
    pub fields: Vec<Field>,
    /// First match wins.
    pub conditions: Vec<Condition>,
    /// Where no condition matches.
    pub default: Option<Then>,
}

/// A field of the active queue.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the fields")]
pub enum Field {
    TenantId,
    JobId,
    TransportId,
    LocalIp,
    Grouping,
    RemoteIp,
    RemoteMx,
    RecipientDomain,
}

/// `policies[].conditions[]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// All must match; only fields of the counter.
    #[serde(rename = "if")]
    pub when: BTreeMap<Field, Strings>,
    /// The limits.
    pub then: Then,
}

/// Limits of a counter.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Then {
    /// Attempts at once.
    pub concurrency: Option<u64>,
    /// Attempts per interval.
    pub rate: Option<Rate>,
    /// Between two new connections.
    pub connectinterval: Option<Duration>,
    /// At most 24 characters.
    pub tag: Option<String>,
    /// Later counters are not looked at.
    pub stop: bool,
}
