//! `smtpd-policy.yaml`, `smtpd-suspend.yaml` and `smtpd-delivery.yaml`: limits, suspensions and delivery settings of the
//! active queue. They select by the same eight fields.

use crate::app::{RetryInterval, SessionTls};
use crate::value::{Duration, Rate, Strings};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// The policy file of `smtpd`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Schema revision.
    #[serde(default)]
    pub version: String,
    /// How rates are counted.
    #[serde(default)]
    pub rate: RateSettings,
    /// Named lists of match values.
    #[serde(default)]
    pub lists: Vec<List>,
    /// Counters, all of which an entry has to pass.
    #[serde(default)]
    pub policies: Vec<Counter>,
}

/// `rate`
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateSettings {
    /// Where a limit names none.
    pub algorithm: RateAlgorithm,
}

/// `rate.algorithm`
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum RateAlgorithm {
    /// Evenly, with one second's worth in advance.
    #[default]
    TokenBucket,
    /// All at once, then none until the window ends.
    FixedWindow,
}

/// `lists[]`: values under a name, referred to as `@id`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// The name.
    pub id: String,
    /// The values.
    #[serde(default)]
    pub items: Vec<String>,
    /// A file with one value per line; `#` begins a comment.
    pub path: Option<PathBuf>,
}

/// `policies[]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Counter {
    /// What makes a counter's key; empty = one counter for all.
    pub fields: Vec<CounterField>,
    /// First match wins.
    pub conditions: Vec<Condition>,
    /// Where no condition matches.
    pub default: Option<Then>,
}

/// `policies[].fields[]`: a field, with the groups that its values are counted in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterField {
    /// The field.
    pub field: Field,
    /// Names with their members, in the order of the file.
    pub groups: Vec<(String, Strings)>,
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

impl Field {
    const NAMES: [(&'static str, Field); 8] = [
        ("tenantid", Field::TenantId),
        ("jobid", Field::JobId),
        ("transportid", Field::TransportId),
        ("localip", Field::LocalIp),
        ("grouping", Field::Grouping),
        ("remoteip", Field::RemoteIp),
        ("remotemx", Field::RemoteMx),
        ("recipientdomain", Field::RecipientDomain),
    ];

    /// The name in files.
    pub fn name(self) -> &'static str {
        Field::NAMES.iter().find(|(_, field)| *field == self).map_or("", |(name, _)| name)
    }

    fn parse<E: serde::de::Error>(name: &str) -> Result<Field, E> {
        let found = Field::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, field)| *field).ok_or_else(|| {
            let known = Field::NAMES.iter().map(|(name, _)| *name);
            E::custom(format!("'{name}' is no queue field{}", crate::validate::suggestion(name, known)))
        })
    }
}

/// A map whose order counts.
struct Groups(Vec<(String, Strings)>);

impl<'de> Deserialize<'de> for Groups {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Groups, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Groups;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of group names to match values")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Groups, A::Error> {
                let mut groups = Vec::new();
                while let Some(group) = map.next_entry()? {
                    groups.push(group);
                }
                Ok(Groups(groups))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

impl<'de> Deserialize<'de> for CounterField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<CounterField, D::Error> {
        struct NameOrGroups;
        impl<'de> Visitor<'de> for NameOrGroups {
            type Value = CounterField;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field or a map of a field to its groups")
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<CounterField, E> {
                Ok(CounterField { field: Field::parse(name)?, groups: Vec::new() })
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<CounterField, A::Error> {
                let Some((name, Groups(groups))) = map.next_entry::<String, Groups>()? else {
                    return Err(A::Error::custom("an empty map found, expected a field with its groups"));
                };
                if map.next_key::<String>()?.is_some() {
                    return Err(A::Error::custom("one field to a map: begin another item for the next one"));
                }
                Ok(CounterField { field: Field::parse(&name)?, groups })
            }
        }
        deserializer.deserialize_any(NameOrGroups)
    }
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
    /// How that is counted.
    pub ratealgorithm: Option<RateAlgorithm>,
    /// Between two new connections.
    pub connectinterval: Option<Duration>,
    /// At most 24 characters.
    pub tag: Option<String>,
    /// Later counters are not looked at.
    pub stop: bool,
    /// For scripts.
    pub properties: BTreeMap<String, Scalar>,
    /// Shared by the nodes of a cluster; true when absent.
    pub cluster: Option<bool>,
}

/// A string, number or boolean, as text.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Scalar(pub String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scalar, D::Error> {
        struct AnyScalar;
        impl Visitor<'_> for AnyScalar {
            type Value = Scalar;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a number or a boolean")
            }
            fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar(text.to_owned()))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }
        }
        deserializer.deserialize_any(AnyScalar)
    }
}

/// The suspend file of `smtpd`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suspend {
    /// Schema revision.
    #[serde(default)]
    pub version: String,
    /// Named lists of match values.
    #[serde(default)]
    pub lists: Vec<List>,
    /// What is not picked up.
    #[serde(default)]
    pub suspends: Vec<SuspendItem>,
}

/// `suspends[]`: all fields given must match; none given suspends everything.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SuspendItem {
    /// Derived from the rest when absent, so that it is the same after a reload.
    pub id: Option<String>,
    /// Tenants.
    pub tenantid: Option<Strings>,
    /// Jobs.
    pub jobid: Option<Strings>,
    /// Transports.
    pub transportid: Option<Strings>,
    /// Source addresses and networks.
    pub localip: Option<Strings>,
    /// Groupings.
    pub grouping: Option<Strings>,
    /// Next hops.
    pub remoteip: Option<Strings>,
    /// Their names.
    pub remotemx: Option<Strings>,
    /// Recipient domains.
    pub recipientdomain: Option<Strings>,
    /// At most 24 characters.
    pub tag: Option<String>,
    /// Shown in lists.
    pub properties: BTreeMap<String, Scalar>,
}

impl SuspendItem {
    /// The fields given.
    pub fn fields(&self) -> Vec<(Field, &Strings)> {
        let all = [
            (Field::TenantId, &self.tenantid),
            (Field::JobId, &self.jobid),
            (Field::TransportId, &self.transportid),
            (Field::LocalIp, &self.localip),
            (Field::Grouping, &self.grouping),
            (Field::RemoteIp, &self.remoteip),
            (Field::RemoteMx, &self.remotemx),
            (Field::RecipientDomain, &self.recipientdomain),
        ];
        all.into_iter().filter_map(|(field, values)| Some((field, values.as_ref()?))).collect()
    }
}

/// The delivery file of `smtpd`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliveryFile {
    /// Schema revision.
    #[serde(default)]
    pub version: String,
    /// Named lists of match values.
    #[serde(default)]
    pub lists: Vec<List>,
    /// The settings.
    #[serde(default)]
    pub delivery: Delivery,
}

/// `delivery`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Delivery {
    /// First match wins, for each key on its own.
    pub conditions: Vec<DeliveryCondition>,
    /// For keys that no matching condition has.
    pub default: DeliverySettings,
}

/// `delivery.conditions[]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliveryCondition {
    /// All must match.
    #[serde(rename = "if", default)]
    pub when: BTreeMap<Field, Strings>,
    /// The settings.
    #[serde(default)]
    pub then: DeliverySettings,
}

/// What a delivery setting changes; absent keys change nothing.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeliverySettings {
    /// STARTTLS; `disabled` where it is given without `mode`.
    pub tls: Option<SessionTls>,
    /// Connections kept open between messages.
    pub pooling: DeliveryPooling,
    /// Patience.
    pub timeout: DeliveryTimeout,
    /// When to try again.
    pub retry: DeliveryRetry,
}

/// `pooling` of delivery settings.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeliveryPooling {
    /// Keep connections; false when absent.
    pub enabled: Option<bool>,
    /// How long they may be idle, 60 s when absent.
    pub timeout: Option<Duration>,
    /// They may be closed to make room for others; true when absent.
    pub evictable: Option<bool>,
    /// Transactions of one connection, 0 = no limit; 100 when absent.
    pub transactions: Option<u32>,
}

/// `timeout` of delivery settings.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeliveryTimeout {
    /// For the connection.
    pub connect: Option<Duration>,
    /// Seconds per client state.
    pub smtp: BTreeMap<String, Duration>,
}

/// `retry` of delivery settings.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeliveryRetry {
    /// Attempts before the bounce.
    pub count: Option<u32>,
    /// Waits; the last repeats.
    pub intervals: Option<Vec<RetryInterval>>,
}
