//! Policies and suspensions: protobuf to the queue's types and back.

use std::collections::BTreeMap;
use std::time::Duration;

use ::control::smtpd as pb;
use queue::{
    Cause, DynamicChange, DynamicCondition, Field, FieldSet, Limits, Pattern, PolicyMatch, Rate,
    RateAlgorithm, Selector, Suspension, SuspensionSource, SuspensionView,
};

use super::convert::{INVALID, Refusal, field_set};
use crate::lists::Lists;

/// Flags of a `Fields` message as a set: the schema has one such message per place.
macro_rules! fields_of {
    ($fields:expr) => {{
        let fields = $fields;
        field_set([
            (Field::TransportId, fields.transportid),
            (Field::LocalIp, fields.localip),
            (Field::RemoteIp, fields.remoteip),
            (Field::RemoteMx, fields.remotemx),
            (Field::RecipientDomain, fields.recipientdomain),
            (Field::JobId, fields.jobid),
            (Field::Grouping, fields.grouping),
            (Field::TenantId, fields.tenantid),
        ])
    }};
}

/// A set as a `Fields` message of the given type.
macro_rules! to_fields {
    ($set:expr, $type:path) => {{
        let set: FieldSet = $set;
        $type {
            transportid: set.contains(Field::TransportId),
            localip: set.contains(Field::LocalIp),
            remoteip: set.contains(Field::RemoteIp),
            remotemx: set.contains(Field::RemoteMx),
            recipientdomain: set.contains(Field::RecipientDomain),
            jobid: set.contains(Field::JobId),
            grouping: set.contains(Field::Grouping),
            tenantid: set.contains(Field::TenantId),
        }
    }};
}

/// The values given in a message with one optional text per field.
macro_rules! values_of {
    ($message:expr) => {{
        let message = $message;
        let text = |value: &Option<pb::StringValue>| value.as_ref().map(|value| value.value.clone());
        [
            (Field::TransportId, text(&message.transportid)),
            (Field::LocalIp, text(&message.localip)),
            (Field::RemoteIp, text(&message.remoteip)),
            (Field::RemoteMx, text(&message.remotemx)),
            (Field::RecipientDomain, text(&message.recipientdomain)),
            (Field::JobId, text(&message.jobid)),
            (Field::Grouping, text(&message.grouping)),
            (Field::TenantId, text(&message.tenantid)),
        ]
        .into_iter()
        .filter_map(|(field, value)| Some((field, value?)))
    }};
}

fn selector(values: impl Iterator<Item = (Field, String)>, lists: &Lists) -> Result<Selector, Refusal> {
    let pattern = |(field, text): (Field, String)| Ok((field, vec![lists.pattern(field, &text)?]));
    Ok(Selector { fields: values.map(pattern).collect::<Result<_, Refusal>>()? })
}

/// A length of time in seconds; 0 is none.
fn optional_seconds(seconds: f64) -> Result<Option<Duration>, Refusal> {
    match seconds {
        0.0 => Ok(None),
        _ => Duration::try_from_secs_f64(seconds).map(Some).map_err(|_| INVALID.to_owned()),
    }
}

/// Life time of an update: 0 leaves as is, below 0 no end.
fn changed_ttl(ttl: f64) -> Result<Option<Option<Duration>>, Refusal> {
    match ttl {
        0.0 => Ok(None),
        ttl if ttl < 0.0 => Ok(Some(None)),
        ttl => optional_seconds(ttl).map(Some),
    }
}

/// The parts that limits have in all messages.
struct LimitParts<'a> {
    rate: Option<(u64, f64)>,
    concurrency: u64,
    tag: &'a Option<pb::StringValue>,
    stop: bool,
    connect_interval: Option<f64>,
    algorithm: &'a Option<pb::StringValue>,
    properties: &'a BTreeMap<String, String>,
}

fn limits(parts: LimitParts<'_>) -> Result<Limits, Refusal> {
    let algorithm = match parts.algorithm.as_ref().map(|value| value.value.as_str()) {
        None | Some("" | "tokenbucket") => RateAlgorithm::TokenBucket,
        Some("fixedwindow") => RateAlgorithm::FixedWindow,
        Some(_) => return Err(INVALID.to_owned()),
    };
    let rate = match parts.rate {
        None => None,
        Some((count, interval)) => {
            let count = u32::try_from(count).map_err(|_| INVALID)?;
            let interval = optional_seconds(interval)?.ok_or(INVALID)?;
            Some(Rate { count, interval, algorithm })
        }
    };
    let concurrency = match parts.concurrency {
        0 => None,
        some => Some(u32::try_from(some).unwrap_or(u32::MAX)),
    };
    let connect_interval = parts.connect_interval.map(optional_seconds).transpose()?.flatten();
    let limits = Limits {
        concurrency,
        rate,
        connect_interval,
        tag: parts.tag.as_ref().map(|tag| tag.value.clone()),
        properties: parts.properties.clone(),
        stop: parts.stop,
        per_node: false,
    };
    limits.check().map_err(|e| e.to_string())?;
    Ok(limits)
}

/// A condition to add. `new_id` is used when the request names none.
pub fn condition_add(
    request: &pb::PolicyConditionAddRequest,
    lists: &Lists,
    new_id: String,
) -> Result<DynamicCondition, Refusal> {
    let then = request.then.as_ref().ok_or(INVALID)?;
    let when = request.r#if.clone().unwrap_or_default();
    Ok(DynamicCondition {
        fields: fields_of!(request.fields.unwrap_or_default()),
        when: selector(values_of!(&when), lists)?,
        then: limits(LimitParts {
            rate: then.rate.map(|rate| (rate.count, rate.interval)),
            concurrency: then.concurrency,
            tag: &then.tag,
            stop: then.stop,
            connect_interval: then.connectinterval.map(|interval| interval.value),
            algorithm: &then.ratealgorithm,
            properties: &then.properties,
        })?,
        ttl: optional_seconds(request.ttl)?,
        id: if request.id.is_empty() { new_id } else { request.id.clone() },
    })
}

/// A change of a condition. `known` are its limits so far: properties stay unless new ones are given.
pub fn condition_update(
    request: &pb::PolicyConditionUpdateRequest,
    known: &Limits,
) -> Result<DynamicChange, Refusal> {
    let then = match &request.then {
        None => None,
        Some(then) => Some(limits(LimitParts {
            rate: then.rate.map(|rate| (rate.count, rate.interval)),
            concurrency: then.concurrency,
            tag: &then.tag,
            stop: then.stop,
            connect_interval: then.connectinterval.map(|interval| interval.value),
            algorithm: &then.ratealgorithm,
            properties: if then.properties.is_empty() { &known.properties } else { &then.properties },
        })?),
    };
    Ok(DynamicChange { ttl: changed_ttl(request.ttl)?, then, tag: None })
}

fn value(text: &str) -> Option<pb::StringValue> {
    Some(pb::StringValue { value: text.to_owned() })
}

/// The text of one field in a selector.
fn selected(selector: &Selector, field: Field) -> Option<pb::StringValue> {
    let (_, patterns) = selector.fields.iter().find(|(of, _)| *of == field)?;
    let texts: Vec<String> = patterns.iter().map(ToString::to_string).collect();
    value(&texts.join(", "))
}

fn algorithm_name(algorithm: RateAlgorithm) -> &'static str {
    match algorithm {
        RateAlgorithm::TokenBucket => "tokenbucket",
        RateAlgorithm::FixedWindow => "fixedwindow",
    }
}

/// The list of dynamic conditions.
pub fn condition_list<'a>(
    conditions: impl Iterator<Item = (&'a DynamicCondition, Option<Duration>)>,
) -> pb::PolicyConditionResponse {
    use pb::policy_condition_response::item::{Fields, If, Then, then::Rate as PbRate};
    let item = |(condition, ttl): (&DynamicCondition, Option<Duration>)| {
        let when = &condition.when;
        let then = &condition.then;
        pb::policy_condition_response::Item {
            id: condition.id.clone(),
            fields: Some(to_fields!(condition.fields, Fields)),
            r#if: Some(If {
                transportid: selected(when, Field::TransportId),
                localip: selected(when, Field::LocalIp),
                remoteip: selected(when, Field::RemoteIp),
                remotemx: selected(when, Field::RemoteMx),
                recipientdomain: selected(when, Field::RecipientDomain),
                jobid: selected(when, Field::JobId),
                grouping: selected(when, Field::Grouping),
                tenantid: selected(when, Field::TenantId),
            }),
            then: Some(Then {
                rate: then.rate.map(|rate| PbRate {
                    count: u64::from(rate.count),
                    interval: rate.interval.as_secs_f64(),
                }),
                concurrency: u64::from(then.concurrency.unwrap_or(0)),
                tag: then.tag.as_deref().and_then(value),
                stop: then.stop,
                properties: then.properties.clone(),
                connectinterval: then.connect_interval.map(|i| pb::DoubleValue { value: i.as_secs_f64() }),
                ratealgorithm: then.rate.and_then(|rate| value(algorithm_name(rate.algorithm))),
            }),
            ttl: ttl.map_or(0.0, |ttl| ttl.as_secs_f64()),
        }
    };
    pb::PolicyConditionResponse { items: conditions.map(item).collect() }
}

/// A suspension to add.
pub fn suspend_add(
    request: &pb::SuspendAddRequest,
    lists: &Lists,
    new_id: String,
) -> Result<Suspension, Refusal> {
    Ok(Suspension {
        id: if request.id.is_empty() { new_id } else { request.id.clone() },
        when: selector(values_of!(request), lists)?,
        ttl: optional_seconds(request.ttl)?,
        tag: request.tag.as_ref().map(|tag| tag.value.clone()),
        properties: request.properties.clone(),
    })
}

/// A change of a suspension.
pub fn suspend_update(request: &pb::SuspendUpdateRequest) -> Result<DynamicChange, Refusal> {
    let tag = request.tag.as_ref().map(|tag| Some(tag.value.clone()).filter(|tag| !tag.is_empty()));
    Ok(DynamicChange { ttl: changed_ttl(request.ttl)?, then: None, tag })
}

/// The list of suspensions, filtered as asked.
pub fn suspend_list(request: &pb::SuspendRequest, suspensions: Vec<SuspensionView>) -> pb::SuspendResponse {
    use pb::suspend_request::Filter;
    let limit = request.paging.map_or(0, |paging| paging.limit);
    let limit = if limit == 0 { usize::MAX } else { usize::try_from(limit).unwrap_or(usize::MAX) };
    let wanted = |view: &SuspensionView| match &request.filter {
        None => true,
        Some(Filter::Id(id)) => view.id == *id,
        Some(Filter::Condition(condition)) => suspend_matches(condition, view),
    };
    let items = suspensions.iter().filter(|view| wanted(view)).take(limit).map(suspend_item).collect();
    pb::SuspendResponse { items }
}

/// Values given must be those of the suspension; with `pickup` a field the suspension leaves open matches too.
fn suspend_matches(condition: &pb::suspend_request::Condition, view: &SuspensionView) -> bool {
    let text = |value: &Option<pb::StringValue>| value.as_ref().map(|value| vec![value.value.clone()]);
    let local_ips = (!condition.localips.is_empty()).then(|| condition.localips.clone());
    let asked = [
        (Field::TransportId, text(&condition.transportid)),
        (Field::LocalIp, local_ips),
        (Field::RemoteIp, text(&condition.remoteip)),
        (Field::RemoteMx, text(&condition.remotemx)),
        (Field::RecipientDomain, text(&condition.recipientdomain)),
        (Field::JobId, text(&condition.jobid)),
        (Field::Grouping, text(&condition.grouping)),
        (Field::TenantId, text(&condition.tenantid)),
    ];
    let tag_matches = condition.tag.as_ref().is_none_or(|tag| view.tag.as_deref() == Some(&tag.value));
    tag_matches
        && asked.into_iter().all(|(field, values)| {
            let Some(values) = values else { return true };
            match view.fields.iter().find(|(of, _)| *of == field) {
                None => condition.pickup,
                Some((_, own)) if condition.pickup => {
                    let pattern = Pattern::parse(field, own, &|_| None);
                    pattern.is_ok_and(|pattern| values.iter().any(|value| pattern.matches(value)))
                }
                Some((_, own)) => values.iter().any(|value| value == own),
            }
        })
}

fn suspend_item(view: &SuspensionView) -> pb::suspend_response::Item {
    use pb::suspend_response::Source;
    let source = match view.source {
        SuspensionSource::Static => Source::Static,
        SuspensionSource::Dynamic => Source::Dynamic,
        SuspensionSource::Counter(Cause::Concurrency) => Source::Concurrency,
        SuspensionSource::Counter(Cause::Rate) => Source::Rate,
        SuspensionSource::Counter(Cause::ConnectInterval) => Source::Connectinterval,
    };
    let field =
        |field: Field| view.fields.iter().find(|(of, _)| *of == field).and_then(|(_, text)| value(text));
    pb::suspend_response::Item {
        source: source as i32,
        id: view.id.clone(),
        transportid: field(Field::TransportId),
        localip: field(Field::LocalIp),
        remoteip: field(Field::RemoteIp),
        remotemx: field(Field::RemoteMx),
        recipientdomain: field(Field::RecipientDomain),
        jobid: field(Field::JobId),
        ttl: view.ttl.map_or(0.0, |ttl| ttl.as_secs_f64()),
        tag: view.tag.as_deref().and_then(value),
        grouping: field(Field::Grouping),
        tenantid: field(Field::TenantId),
        properties: view.properties.clone(),
    }
}

/// The counter a refill is for (`None`: all) and how many starts it gives back (`None`: all).
pub fn refill(request: &pb::PolicyRateRefillRequest) -> (Option<Vec<(Field, String)>>, Option<f64>) {
    let exact: Vec<(Field, String)> = values_of!(request).collect();
    let tokens = (request.tokens > 0.0).then_some(request.tokens);
    ((!exact.is_empty()).then_some(exact), tokens)
}

/// The values of a match request; empty ones are unknown.
pub fn match_values(request: &pb::PolicyMatchRequest) -> Vec<(Field, String)> {
    [
        (Field::TransportId, &request.transportid),
        (Field::LocalIp, &request.localip),
        (Field::RemoteIp, &request.remoteip),
        (Field::RemoteMx, &request.remotemx),
        (Field::RecipientDomain, &request.recipientdomain),
        (Field::JobId, &request.jobid),
        (Field::Grouping, &request.grouping),
        (Field::TenantId, &request.tenantid),
    ]
    .into_iter()
    .filter(|(_, text)| !text.is_empty())
    .map(|(field, text)| (field, text.clone()))
    .collect()
}

/// The reply to a match request.
pub fn match_response(matches: &[PolicyMatch]) -> pb::PolicyMatchResponse {
    use pb::policy_match_response::policy_match::{Dynamic, Fields, Grouping, Rate as PbRate};
    let one = |matched: &PolicyMatch| {
        let applied = &matched.applied;
        let limits = applied.limits.clone().unwrap_or_default();
        let group = |field: Field| {
            applied.grouping.iter().find(|(of, _)| *of == field).and_then(|(_, name)| value(name))
        };
        let grouping = Grouping {
            transportid: group(Field::TransportId),
            localip: group(Field::LocalIp),
            remoteip: group(Field::RemoteIp),
            remotemx: group(Field::RemoteMx),
            recipientdomain: group(Field::RecipientDomain),
            jobid: group(Field::JobId),
            grouping: group(Field::Grouping),
            tenantid: group(Field::TenantId),
        };
        let tag = limits.tag.as_deref().and_then(value);
        pb::policy_match_response::PolicyMatch {
            fields: Some(to_fields!(applied.fields, Fields)),
            grouping: (!applied.grouping.is_empty()).then_some(grouping),
            dynamic: applied.dynamic.iter().map(|id| Dynamic { id: id.clone(), tag: tag.clone() }).collect(),
            tags: limits.tag.into_iter().collect(),
            concurrency: limits.concurrency.map(|n| pb::UInt64Value { value: u64::from(n) }),
            rate: limits
                .rate
                .map(|rate| PbRate { count: u64::from(rate.count), interval: rate.interval.as_secs_f64() }),
            properties: limits.properties,
            stop: limits.stop,
            connectinterval: limits.connect_interval.map(|i| pb::DoubleValue { value: i.as_secs_f64() }),
            concurrent: u64::from(matched.running),
            tokens: matched.tokens.unwrap_or(0.0),
        }
    };
    pb::PolicyMatchResponse { policies: matches.iter().map(one).collect() }
}

/// The groups that policies roll values up to.
pub fn groupings(
    request: &pb::PolicyGroupingListRequest,
    rollups: Vec<(FieldSet, Field, String)>,
) -> pb::PolicyGroupingListResponse {
    use pb::policy_grouping_list_response::{Grouping, grouping::Field as One, grouping::Fields};
    let paging = request.paging.unwrap_or_default();
    let limit =
        if paging.limit == 0 { usize::MAX } else { usize::try_from(paging.limit).unwrap_or(usize::MAX) };
    let page = rollups.into_iter().skip(usize::try_from(paging.offset).unwrap_or(usize::MAX)).take(limit);
    let one = |(fields, field, name): (FieldSet, Field, String)| Grouping {
        fields: Some(to_fields!(fields, Fields)),
        field: Some(match field {
            Field::TransportId => One::Transportid(name),
            Field::LocalIp => One::Localip(name),
            Field::RemoteIp => One::Remoteip(name),
            Field::RemoteMx => One::Remotemx(name),
            Field::RecipientDomain => One::Recipientdomain(name),
            Field::JobId => One::Jobid(name),
            Field::Grouping => One::Grouping(name),
            Field::TenantId => One::Tenantid(name),
        }),
    };
    pb::PolicyGroupingListResponse { groupings: page.map(one).collect() }
}

/// The group that a request names: fields of the policy, field, name with `#`.
pub fn grouping_of(request: pb::PolicyGroupingRequest) -> Result<(FieldSet, Field, String), Refusal> {
    use pb::policy_grouping_request::Field as One;
    let (field, name) = match request.field.ok_or(INVALID)? {
        One::Transportid(name) => (Field::TransportId, name),
        One::Localip(name) => (Field::LocalIp, name),
        One::Remoteip(name) => (Field::RemoteIp, name),
        One::Remotemx(name) => (Field::RemoteMx, name),
        One::Recipientdomain(name) => (Field::RecipientDomain, name),
        One::Jobid(name) => (Field::JobId, name),
        One::Grouping(name) => (Field::Grouping, name),
        One::Tenantid(name) => (Field::TenantId, name),
    };
    Ok((fields_of!(request.fields.unwrap_or_default()), field, name))
}

#[cfg(test)]
mod tests {
    use queue::{Policy, PolicySet, Queue, Settings, Time};

    use super::*;

    const NOW: Time = Time(1_700_000_000_000_000);

    fn from_json<M: prost::Message + Default>(name: &str, json: &str) -> M {
        M::decode(&::control::json::from_json(name, json).unwrap()[..]).unwrap()
    }

    #[test]
    fn a_condition_goes_in_and_comes_out() {
        let mut queue = Queue::new(Settings::default());
        let fields = [Field::RemoteMx].into_iter().collect();
        let policies = vec![Policy { fields, ..Policy::default() }];
        queue.set_policies(NOW, PolicySet { policies, cluster_hosts: 1 }).unwrap();
        let request = from_json(
            "PolicyConditionAddRequest",
            r#"{"fields": {"remotemx": true}, "if": {"remotemx": {"value": "*.example.com"}}, "ttl": 60,
                "then": {"rate": {"count": 10, "interval": 600}, "concurrency": 3, "tag": {"value": "t"}}}"#,
        );
        let condition = condition_add(&request, &Lists::default(), "made".into()).unwrap();
        queue.add_condition(NOW, condition).unwrap();
        let listed = condition_list(queue.conditions(NOW));
        let item = &listed.items[0];
        assert_eq!((item.id.as_str(), item.ttl), ("made", 60.0));
        assert_eq!(item.r#if.as_ref().unwrap().remotemx, value("*.example.com"));
        assert_eq!(item.then.as_ref().unwrap().concurrency, 3);
        let values = match_values(&from_json("PolicyMatchRequest", r#"{"remotemx": "a.example.com"}"#));
        let matched = match_response(&queue.match_policies(NOW, &values));
        assert_eq!(matched.policies[0].dynamic[0].id, "made");
        assert_eq!(matched.policies[0].tags, ["t"]);
    }

    #[test]
    fn limits_that_cannot_be_kept_are_refused() {
        for json in [
            r#"{}"#,
            r#"{"then": {"rate": {"count": 0, "interval": 1}}}"#,
            r#"{"then": {"rate": {"count": 1, "interval": -1}}}"#,
            r#"{"then": {"tag": {"value": "1234567890123456789012345"}}}"#,
            r#"{"then": {"ratealgorithm": {"value": "x"}}}"#,
            r#"{"then": {}, "ttl": -5}"#,
            r#"{"then": {}, "if": {"localip": {"value": "x"}}}"#,
        ] {
            let request = from_json("PolicyConditionAddRequest", json);
            assert!(condition_add(&request, &Lists::default(), String::new()).is_err(), "{json}");
        }
    }

    #[test]
    fn suspensions_are_listed_and_filtered() {
        let mut queue = Queue::new(Settings::default());
        for (id, json) in [
            ("one", r#"{"remotemx": {"value": "*.example.com"}, "ttl": 60, "tag": {"value": "t"}}"#),
            ("two", r#"{"jobid": {"value": "j"}}"#),
        ] {
            let request = from_json("SuspendAddRequest", json);
            queue.add_suspension(NOW, suspend_add(&request, &Lists::default(), id.into()).unwrap()).unwrap();
        }
        for (json, expected) in [
            ("{}", vec!["one", "two"]),
            (r#"{"id": "two"}"#, vec!["two"]),
            (r#"{"condition": {"jobid": {"value": "j"}}}"#, vec!["two"]),
            (r#"{"condition": {"remotemx": {"value": "*.example.com"}}}"#, vec!["one"]),
            (r#"{"condition": {"remotemx": {"value": "a.example.com"}}}"#, vec![]),
            (
                r#"{"condition": {"remotemx": {"value": "a.example.com"}, "pickup": true}}"#,
                vec!["one", "two"],
            ),
            (r#"{"condition": {"tag": {"value": "t"}}}"#, vec!["one"]),
            (r#"{"paging": {"limit": 1}}"#, vec!["one"]),
        ] {
            let reply = suspend_list(&from_json("SuspendRequest", json), queue.suspensions(NOW));
            let ids: Vec<&str> = reply.items.iter().map(|item| item.id.as_str()).collect();
            // What "two" says of MX names is nothing, so it concerns pickup whatever the name.
            assert_eq!(ids, expected, "{json}");
        }
    }

    #[test]
    fn life_times_of_updates() {
        for (ttl, expected) in [
            (0.0, Some(None)),
            (-1.0, Some(Some(None))),
            (5.0, Some(Some(Some(Duration::from_secs(5))))),
            (f64::NAN, None),
        ] {
            assert_eq!(changed_ttl(ttl).ok(), expected, "{ttl}");
        }
    }
}
