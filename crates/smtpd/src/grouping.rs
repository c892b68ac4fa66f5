//! `queues.grouping`: names for sets of destinations.

use config::app::{Grouping as GroupingConfig, GroupingDefault};
use std::net::IpAddr;

/// The grouping rules of a generation.
#[derive(Debug, Default)]
pub struct Grouping {
    default: Option<GroupingDefault>,
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    value: String,
    remote_mx: Vec<String>,
    recipient_domains: Vec<String>,
    networks: Vec<(IpAddr, u8)>,
}

impl Grouping {
    /// Reads the rules; networks were validated with the file.
    pub fn new(config: &GroupingConfig) -> Result<Grouping, String> {
        let lower = |names: &[String]| names.iter().map(|name| name.to_lowercase()).collect::<Vec<_>>();
        let mut groups = Vec::with_capacity(config.groupings.len());
        for group in &config.groupings {
            let networks = group.remoteip.iter().map(|text| network(text)).collect::<Option<Vec<_>>>();
            groups.push(Group {
                value: format!("&{}", group.id),
                remote_mx: lower(&group.remotemx),
                recipient_domains: lower(&group.recipientdomain),
                networks: networks.ok_or_else(|| format!("grouping {}: not a network", group.id))?,
            });
        }
        Ok(Grouping { default: config.default, groups })
    }

    /// The value of the `grouping` field: the first group with a matching item, else what the default names.
    pub fn value(&self, remote_mx: &str, recipient_domain: &str, remote_ip: IpAddr) -> String {
        let found = self.groups.iter().find(|group| {
            group.remote_mx.iter().any(|pattern| matches(pattern, remote_mx))
                || group.recipient_domains.iter().any(|pattern| matches(pattern, recipient_domain))
                || group.networks.iter().any(|network| contains(*network, remote_ip))
        });
        match (found, self.default) {
            (Some(group), _) => group.value.clone(),
            (None, Some(GroupingDefault::RemoteMx)) => remote_mx.to_owned(),
            (None, Some(GroupingDefault::RecipientDomain)) => recipient_domain.to_owned(),
            (None, None) => String::new(),
        }
    }
}

fn network(text: &str) -> Option<(IpAddr, u8)> {
    match text.split_once('/') {
        Some((address, bits)) => Some((address.parse().ok()?, bits.parse().ok()?)),
        None => {
            text.parse::<IpAddr>().ok().map(|address| (address, if address.is_ipv4() { 32 } else { 128 }))
        }
    }
}

fn contains((network, bits): (IpAddr, u8), address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let shift = 32u32.saturating_sub(bits.into());
            let cut = |ip: u32| u64::from(ip) >> shift;
            cut(network.to_bits()) == cut(address.to_bits())
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let shift = 128u32.saturating_sub(bits.into());
            let cut = |ip: u128| ip.checked_shr(shift).unwrap_or(0);
            cut(network.to_bits()) == cut(address.to_bits())
        }
        _ => false,
    }
}

/// `*.example.com` matches any depth below, not `example.com` itself.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => name.len() > suffix.len() && name.to_lowercase().ends_with(suffix),
        None => pattern.eq_ignore_ascii_case(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::app::NamedGrouping;

    #[test]
    fn first_match_wins_and_default_names_a_field() {
        let group = |id: &str, mx: &[&str], ip: &[&str]| NamedGrouping {
            id: id.to_owned(),
            remotemx: mx.iter().map(|&s| s.to_owned()).collect(),
            recipientdomain: Vec::new(),
            remoteip: ip.iter().map(|&s| s.to_owned()).collect(),
        };
        let config = GroupingConfig {
            default: Some(GroupingDefault::RecipientDomain),
            groupings: vec![
                group("g", &["*.google.com", "smtp.goog"], &[]),
                group("n", &[], &["192.0.2.0/28", "::/0"]),
            ],
        };
        let grouping = Grouping::new(&config).unwrap();
        let value = |mx: &str, ip: &str| grouping.value(mx, "example.com", ip.parse().unwrap());
        assert_eq!(value("mx.GOOGLE.com", "192.0.2.1"), "&g");
        assert_eq!(value("google.com", "192.0.2.1"), "&n");
        assert_eq!(value("smtp.goog", "198.51.100.1"), "&g");
        assert_eq!(value("mx.example", "198.51.100.1"), "example.com");
        assert_eq!(value("mx.example", "2001:db8::1"), "&n");
        assert_eq!(Grouping::default().value("a", "b", "192.0.2.1".parse().unwrap()), "");
    }
}
