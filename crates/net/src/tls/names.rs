//! The names in a certificate (RFC 6125): alternative names, and the common name where there are none.

use openssl::nid::Nid;
use openssl::x509::X509Ref;
use std::net::IpAddr;

/// Whether a certificate is for `expected`: an address, a host name, or `*.` and a domain, which stands for one label.
pub fn matches_name(certificate: &X509Ref, expected: &str) -> bool {
    let expected = expected.trim_end_matches('.');
    let alternatives = certificate.subject_alt_names();
    if let Ok(address) = expected.parse::<IpAddr>() {
        let octets = match address {
            IpAddr::V4(four) => four.octets().to_vec(),
            IpAddr::V6(six) => six.octets().to_vec(),
        };
        return alternatives.iter().flatten().any(|name| name.ipaddress() == Some(&octets));
    }
    let dns: Vec<&str> = alternatives.iter().flatten().filter_map(|name| name.dnsname()).collect();
    if !dns.is_empty() {
        return dns.iter().any(|name| is_same(name, expected));
    }
    let common = certificate.subject_name().entries_by_nid(Nid::COMMONNAME).last();
    let common = common.and_then(|entry| entry.data().to_string().ok());
    common.is_some_and(|name| is_same(&name, expected))
}

/// Names are equal, or one of them has `*` in place of the other's first label.
fn is_same(presented: &str, expected: &str) -> bool {
    let presented = presented.trim_end_matches('.');
    if presented.is_empty() || presented.contains('\0') {
        return false;
    }
    presented.eq_ignore_ascii_case(expected) || covers(presented, expected) || covers(expected, presented)
}

fn covers(pattern: &str, name: &str) -> bool {
    let Some(domain) = pattern.strip_prefix("*.") else { return false };
    match name.split_once('.') {
        // A whole top-level domain is nobody's.
        Some((label, rest)) => !label.is_empty() && domain.contains('.') && rest.eq_ignore_ascii_case(domain),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_for_one_whole_label() {
        for (presented, expected, same) in [
            ("mx.example.com", "MX.example.com", true),
            ("*.example.com", "mx.example.com", true),
            ("mx.example.com", "*.example.com", true),
            ("*.example.com", "a.mx.example.com", false),
            ("*.example.com", "example.com", false),
            ("m*.example.com", "mx.example.com", false),
            ("*.com", "example.com", false),
            ("mx.example.com.", "mx.example.com", true),
            ("", "mx.example.com", false),
        ] {
            assert_eq!(is_same(presented, expected), same, "{presented} {expected}");
        }
    }
}
