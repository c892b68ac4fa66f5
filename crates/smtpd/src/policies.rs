//! `smtpd-policy.yaml` as the queue understands it.

use config::policy::{Field as ConfigField, Policy as PolicyFile, Then};
use queue::{Field, FieldSet, Limits, Pattern, Policy, PolicyCondition, PolicySet, Selector};
use std::path::Path;

/// Reads a policy file; one that does not exist is an empty one.
pub fn load(path: &Path) -> Result<PolicySet, Vec<String>> {
    if !path.exists() {
        return Ok(PolicySet::default());
    }
    let name = path.display().to_string();
    let file: PolicyFile = config::load(path).map_err(|error| vec![error.to_string()])?;
    config::validate::policy(&name, &file)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    convert(&file).map_err(|error| vec![format!("{name}: {error}")])
}

fn convert(file: &PolicyFile) -> Result<PolicySet, String> {
    let mut policies = Vec::with_capacity(file.policies.len());
    for (index, counter) in file.policies.iter().enumerate() {
        let mut conditions = Vec::with_capacity(counter.conditions.len());
        for (at, condition) in counter.conditions.iter().enumerate() {
            let mut selector = Selector::default();
            for (name, values) in &condition.when {
                let field = field(*name);
                let patterns = values.0.iter().map(|text| Pattern::parse(field, text, &|_| None));
                let patterns: Result<Vec<Pattern>, _> = patterns.collect();
                let patterns = patterns.map_err(|error| {
                    format!("/policies/{index}/conditions/{at}/if/{}: {error}", field.name())
                })?;
                selector.fields.push((field, patterns));
            }
            let then = limits(&condition.then)
                .map_err(|error| format!("/policies/{index}/conditions/{at}/then: {error}"))?;
            conditions.push(PolicyCondition { when: selector, then });
        }
        let default = counter.default.as_ref().map(limits).transpose();
        policies.push(Policy {
            fields: counter.fields.iter().copied().map(field).collect::<FieldSet>(),
            conditions,
            default: default.map_err(|error| format!("/policies/{index}/default: {error}"))?,
            ..Policy::default()
        });
    }
    Ok(PolicySet { policies, cluster_hosts: 1 })
}

fn field(name: ConfigField) -> Field {
    match name {
        ConfigField::TenantId => Field::TenantId,
        ConfigField::JobId => Field::JobId,
        ConfigField::TransportId => Field::TransportId,
        ConfigField::LocalIp => Field::LocalIp,
        ConfigField::Grouping => Field::Grouping,
        ConfigField::RemoteIp => Field::RemoteIp,
        ConfigField::RemoteMx => Field::RemoteMx,
        ConfigField::RecipientDomain => Field::RecipientDomain,
    }
}

fn limits(then: &Then) -> Result<Limits, String> {
    let small = |n: u64, key: &str| u32::try_from(n).map_err(|_| format!("{key}: {n} is too large"));
    let rate = match then.rate {
        None => None,
        Some(rate) => Some(queue::Rate {
            count: small(rate.count, "rate")?,
            interval: std::time::Duration::try_from_secs_f64(rate.interval_s)
                .map_err(|error| format!("rate: {error}"))?,
            algorithm: queue::RateAlgorithm::default(),
        }),
    };
    let limits = Limits {
        concurrency: then.concurrency.map(|n| small(n, "concurrency")).transpose()?,
        rate,
        connect_interval: then.connectinterval.map(config::Duration::to_std),
        tag: then.tag.clone(),
        stop: then.stop,
        ..Limits::default()
    };
    limits.check().map_err(|error| error.to_string())?;
    Ok(limits)
}
