//! `smtpd-policy.yaml` and `smtpd-suspend.yaml` as the queue understands them.

use crate::lists::{Lists, field};
use config::policy::{List, Policy as PolicyFile, RateAlgorithm, Suspend, SuspendItem, Then};
use queue::{Limits, Policy, PolicyCondition, PolicySet, Rollup, Suspension};
use serde::de::DeserializeOwned;
use std::fmt::Write as _;
use std::path::Path;
use uuid::Uuid;

/// A file that was read and checked, with its name; none where there is no file.
pub type Read<T> = Option<(String, T)>;

/// The policies of a file, and the lists that it sees.
pub fn policies(file: &Read<PolicyFile>, app: &Lists) -> Result<(PolicySet, Lists), Vec<String>> {
    with_lists(file, app, |file| &file.lists, convert)
}

/// The suspensions of a file, and the lists that it sees.
pub fn suspensions(file: &Read<Suspend>, app: &Lists) -> Result<(Vec<Suspension>, Lists), Vec<String>> {
    with_lists(file, app, |file| &file.lists, convert_suspensions)
}

fn with_lists<F, T: Default>(
    file: &Read<F>,
    app: &Lists,
    own: impl Fn(&F) -> &[List],
    convert: impl Fn(&F, &Lists) -> Result<T, String>,
) -> Result<(T, Lists), Vec<String>> {
    let Some((name, file)) = file else {
        return Ok((T::default(), Lists::read(&[], Some(app)).map_err(|error| vec![error])?));
    };
    let lists = Lists::read(own(file), Some(app));
    let converted = lists.and_then(|lists| Ok((convert(file, &lists)?, lists)));
    converted.map_err(|error| vec![format!("{name}: {error}")])
}

/// Reads and checks a file that may be missing.
pub(crate) fn read<T: DeserializeOwned>(
    path: &Path,
    check: impl Fn(&str, &T) -> Result<(), Vec<config::Error>>,
) -> Result<Read<T>, Vec<String>> {
    if !path.exists() {
        return Ok(None);
    }
    let name = path.display().to_string();
    let file: T = config::load(path).map_err(|error| vec![error.to_string()])?;
    check(&name, &file).map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    Ok(Some((name, file)))
}

fn convert(file: &PolicyFile, lists: &Lists) -> Result<PolicySet, String> {
    let mut policies = Vec::with_capacity(file.policies.len());
    for (index, counter) in file.policies.iter().enumerate() {
        let mut rollups = Vec::new();
        for item in &counter.fields {
            for (name, values) in &item.groups {
                let patterns = lists.patterns(field(item.field), values);
                let patterns =
                    patterns.map_err(|error| format!("/policies/{index}/fields/{name}: {error}"))?;
                rollups.push(Rollup { field: field(item.field), name: name.clone(), patterns });
            }
        }
        let mut conditions = Vec::with_capacity(counter.conditions.len());
        for (at, condition) in counter.conditions.iter().enumerate() {
            let pointer = format!("/policies/{index}/conditions/{at}");
            let fields = condition.when.iter().map(|(name, values)| (*name, values));
            let when = lists.selector(&format!("{pointer}/if"), fields)?;
            let then = limits(&condition.then, file.rate.algorithm);
            conditions
                .push(PolicyCondition { when, then: then.map_err(|e| format!("{pointer}/then: {e}"))? });
        }
        let default = counter.default.as_ref().map(|then| limits(then, file.rate.algorithm)).transpose();
        policies.push(Policy {
            fields: counter.fields.iter().map(|item| field(item.field)).collect(),
            rollups,
            conditions,
            default: default.map_err(|error| format!("/policies/{index}/default: {error}"))?,
        });
    }
    Ok(PolicySet { policies, cluster_hosts: 1 })
}

fn limits(then: &Then, algorithm: RateAlgorithm) -> Result<Limits, String> {
    let small = |n: u64, key: &str| u32::try_from(n).map_err(|_| format!("{key}: {n} is too large"));
    let rate = match then.rate {
        None => None,
        Some(rate) => Some(queue::Rate {
            count: small(rate.count, "rate")?,
            interval: std::time::Duration::try_from_secs_f64(rate.interval_s)
                .map_err(|error| format!("rate: {error}"))?,
            algorithm: match then.ratealgorithm.unwrap_or(algorithm) {
                RateAlgorithm::TokenBucket => queue::RateAlgorithm::TokenBucket,
                RateAlgorithm::FixedWindow => queue::RateAlgorithm::FixedWindow,
            },
        }),
    };
    let limits = Limits {
        concurrency: then.concurrency.map(|n| small(n, "concurrency")).transpose()?,
        rate,
        connect_interval: then.connectinterval.map(config::Duration::to_std),
        tag: then.tag.clone(),
        stop: then.stop,
        properties: then.properties.iter().map(|(key, value)| (key.clone(), value.0.clone())).collect(),
        per_node: then.cluster == Some(false),
    };
    limits.check().map_err(|error| error.to_string())?;
    Ok(limits)
}

/// Names suspensions that have none, so that equal ones have equal ids.
const SUSPENSION_IDS: Uuid = Uuid::from_u128(0x6f5d_3c1e_52a7_4f0b_9a0e_7c5b_1d2e_4a90);

fn convert_suspensions(file: &Suspend, lists: &Lists) -> Result<Vec<Suspension>, String> {
    let mut list: Vec<Suspension> = Vec::with_capacity(file.suspends.len());
    for (index, item) in file.suspends.iter().enumerate() {
        let when = lists.selector(&format!("/suspends/{index}"), item.fields())?;
        let suspension = Suspension {
            id: item.id.clone().unwrap_or_else(|| derived_id(item)),
            when,
            ttl: None,
            tag: item.tag.clone(),
            properties: item.properties.iter().map(|(key, value)| (key.clone(), value.0.clone())).collect(),
        };
        // The same item twice suspends no more than once.
        if list.iter().all(|known| known.id != suspension.id) {
            list.push(suspension);
        }
    }
    Ok(list)
}

fn derived_id(item: &SuspendItem) -> String {
    let mut text = String::new();
    for (field, values) in item.fields() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{}={:?};", field.name(), values.0);
    }
    let _ = write!(text, "tag={:?};properties={:?}", item.tag, item.properties);
    Uuid::new_v5(&SUSPENSION_IDS, text.as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use queue::{Field, Pattern, Queue, Settings, Time};

    fn parsed(text: &str) -> Result<PolicySet, String> {
        let file: PolicyFile = config::load::parse("p", text).map_err(|error| error.to_string())?;
        config::validate::policy("p", &file).map_err(|errors| errors[0].to_string())?;
        convert(&file, &Lists::read(&file.lists, None)?)
    }

    /// Every key of the manual's table.
    const FULL: &str = r##"
version: "6.9"
rate: {algorithm: fixedwindow}
lists: [{id: slowmx, items: ["*.slow.example", mx.old.example]}]
policies:
  - fields: [localip, grouping]
    conditions:
      - if: {grouping: "&google"}
        then: {concurrency: 20, rate: 120/60, properties: {backoff-rate: 10/3600, on: true, count: 4}}
      - if: {grouping: ["&microsoft", /^yahoo/]}
        then: {concurrency: 10, connectinterval: 0.5, tag: big}
    default: {concurrency: 5, rate: 30/60, ratealgorithm: tokenbucket, cluster: false}
  - fields:
      - transportid
      - remotemx: {hosted: ["*.mailhost.example", /^mx\d+\.isp\.example$/], rest: "@slowmx"}
    conditions: [{if: {remotemx: "#hosted"}, then: {concurrency: 8, rate: 25}}]
  - fields: [tenantid]
    conditions: [{if: {tenantid: trial}, then: {rate: 100/3600, stop: true}}]
  - fields: [remotemx]
    conditions: [{if: {remotemx: "@slowmx"}, then: {concurrency: 1}}]
"##;

    #[test]
    fn every_key_has_its_meaning() {
        let set = parsed(FULL).unwrap();
        let mut queue = Queue::new(Settings::default());
        let now = Time::from_secs(1_700_000_000);
        queue.set_policies(now, set).unwrap();
        let mut matched = |values: &[(Field, &str)]| {
            let values: Vec<(Field, String)> = values.iter().map(|(f, v)| (*f, (*v).to_owned())).collect();
            queue.match_policies(now, &values)
        };
        let google = matched(&[(Field::Grouping, "&google"), (Field::LocalIp, "192.0.2.1")]);
        let limits = google[0].applied.limits.clone().unwrap();
        assert_eq!((limits.concurrency, limits.per_node), (Some(20), false));
        assert_eq!(limits.rate.unwrap().algorithm, queue::RateAlgorithm::FixedWindow);
        assert_eq!(limits.properties["backoff-rate"], "10/3600");
        assert_eq!((limits.properties["on"].as_str(), limits.properties["count"].as_str()), ("true", "4"));
        let yahoo = matched(&[(Field::Grouping, "yahoodns.net")]);
        assert_eq!(yahoo[0].applied.limits.as_ref().unwrap().tag.as_deref(), Some("big"));
        let other = matched(&[(Field::Grouping, "other")]);
        let limits = other[0].applied.limits.clone().unwrap();
        assert_eq!(
            (limits.rate.unwrap().algorithm, limits.per_node),
            (queue::RateAlgorithm::TokenBucket, true)
        );
        let hosted = matched(&[(Field::RemoteMx, "a.mailhost.example"), (Field::TransportId, "t")]);
        assert_eq!(hosted[1].applied.grouping, [(Field::RemoteMx, "#hosted".to_owned())]);
        assert_eq!(hosted[1].applied.limits.as_ref().unwrap().rate.unwrap().count, 25);
        let trial = matched(&[(Field::TenantId, "trial"), (Field::RemoteMx, "x.slow.example")]);
        assert!(trial.last().unwrap().applied.limits.as_ref().unwrap().stop, "nothing behind a stop");
        let slow = matched(&[(Field::RemoteMx, "x.slow.example")]);
        assert_eq!(slow.last().unwrap().applied.limits.as_ref().unwrap().concurrency, Some(1));
    }

    #[test]
    fn errors_say_where() {
        for (text, expected) in [
            ("policies: [{fields: [remotemxx]}]", "remotemx"),
            ("policies: [{fields: [{remotemx: {}, jobid: {}}]}]", "one field to a map"),
            ("policies: [{fields: [jobid, jobid]}]", "/policies/0/fields/1"),
            ("policies: [{fields: [jobid], conditions: [{if: {tenantid: x}, then: {}}]}]", "/if/tenantid"),
            ("policies: [{fields: [localip], conditions: [{if: {localip: x}, then: {}}]}]", "/if/localip"),
            ("policies: [{fields: [jobid], default: {rate: 0/1}}]", "rate"),
            ("policies: [{fields: [jobid], default: {tag: 1234567890123456789012345}}]", "24 characters"),
            ("lists: [{id: a, items: [b]}]\npolicies: [{fields: [{localip: {g: '@a'}}]}]", "list 'a'"),
        ] {
            let error = parsed(&format!("version: \"6.9\"\n{text}\n")).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn suspensions_keep_their_ids() {
        let read = |text: &str| {
            let file: Suspend = config::load::parse("s", text).unwrap();
            config::validate::suspend("s", &file).unwrap();
            convert_suspensions(&file, &Lists::read(&file.lists, None).unwrap()).unwrap()
        };
        let text = "version: \"6.9\"\nsuspends:\n  - {remotemx: '*.example.com', tag: maintenance}\n  \
                    - {localip: 192.0.2.0/28, grouping: '&google', properties: {ticket: 4711}}\n  \
                    - {jobid: /^campaign-2026-/, id: mine}\n  - {}\n";
        let list = read(text);
        assert_eq!(list.len(), 4);
        assert_eq!(
            (list[0].tag.as_deref(), list[1].properties["ticket"].as_str()),
            (Some("maintenance"), "4711")
        );
        assert_eq!((list[2].id.as_str(), list[3].when.is_empty()), ("mine", true));
        assert!(matches!(list[0].when.fields[0].1[0], Pattern::Below(_)));
        let moved = read("version: \"6.9\"\nsuspends: [{}, {remotemx: '*.example.com', tag: maintenance}]\n");
        assert_eq!((&moved[0].id, &moved[1].id), (&list[3].id, &list[0].id));
    }
}
