//! The client's name: reverse look-up, confirmed by a forward one (FCrDNS).

use hsl::{Array, Value};
use net::{DnsError, Resolver};
use std::net::IpAddr;
use std::time::Duration;

/// Budget of both look-ups.
const PATIENCE: Duration = Duration::from_secs(5);

/// The result of the client's name look-up, as `remoteptrresult` shows it.
pub struct PtrResult {
    reverse: Result<Vec<String>, DnsError>,
    forward: Option<Result<Vec<IpAddr>, DnsError>>,
}

/// The forward-confirmed name of an address (FCrDNS), and what was found on the way.
pub async fn confirmed_name(resolver: &Resolver, remote_ip: &str) -> (Option<String>, PtrResult) {
    match tokio::time::timeout(PATIENCE, look_up(resolver, remote_ip)).await {
        Ok(found) => found,
        Err(_) => {
            let reverse = Err(DnsError::Temporary("timed out".to_owned()));
            (None, PtrResult { reverse, forward: None })
        }
    }
}

async fn look_up(resolver: &Resolver, remote_ip: &str) -> (Option<String>, PtrResult) {
    let Ok(address) = remote_ip.parse::<IpAddr>() else {
        let reverse = Err(DnsError::BadName(remote_ip.to_owned()));
        return (None, PtrResult { reverse, forward: None });
    };
    let reverse = resolver.reverse(address).await;
    let Some(name) = reverse.as_ref().ok().and_then(|names| names.first()).cloned() else {
        return (None, PtrResult { reverse, forward: None });
    };
    let forward = resolver.addresses(&name, address.is_ipv4(), address.is_ipv6()).await;
    let confirmed = forward.as_ref().is_ok_and(|addresses| addresses.contains(&address));
    (confirmed.then_some(name), PtrResult { reverse, forward: Some(forward) })
}

impl PtrResult {
    /// As scripts see it.
    pub(super) fn to_array(&self) -> Array {
        let mut result = Array::new();
        result.insert_str("reverse", answer(&self.reverse, |name| Value::from(name.as_str())));
        if let Some(forward) = &self.forward {
            result.insert_str("forward", answer(forward, |address| Value::from(address.to_string())));
        }
        result
    }
}

fn answer<T>(answer: &Result<Vec<T>, DnsError>, value: impl Fn(&T) -> Value) -> Array {
    let mut array = Array::new();
    match answer {
        Ok(items) => array.insert_str("result", items.iter().map(value).collect::<Array>()),
        Err(error) => {
            let code = match error {
                DnsError::NxDomain => 3.0,
                DnsError::NoData => 0.0,
                _ => 2.0,
            };
            array.insert_str("error", error.to_string());
            array.insert_str("dnserr", code);
        }
    }
    array
}
