use std::collections::HashMap;

use super::*;
use crate::dns::Lookup;

/// TXT and A records by name; everything else does not exist.
#[derive(Default)]
struct Zone {
    txt: HashMap<&'static str, &'static str>,
    a: HashMap<&'static str, Ipv4Addr>,
}

impl Dns for Zone {
    fn txt<'a>(&'a self, name: &'a str) -> Lookup<'a, Vec<u8>> {
        let found = self.txt.get(name).map(|text| vec![text.as_bytes().to_vec()]);
        Box::pin(async move { found.ok_or(DnsError::NoDomain) })
    }
    fn ipv4<'a>(&'a self, name: &'a str) -> Lookup<'a, Ipv4Addr> {
        let found = self.a.get(name).map(|address| vec![*address]);
        Box::pin(async move { found.ok_or(DnsError::NoDomain) })
    }
    fn ipv6<'a>(&'a self, _: &'a str) -> Lookup<'a, Ipv6Addr> {
        Box::pin(async { Err(DnsError::NoRecord) })
    }
    fn mx<'a>(&'a self, _: &'a str) -> Lookup<'a, String> {
        Box::pin(async { Err(DnsError::Temporary("timeout".into())) })
    }
    fn ptr<'a>(&'a self, _: &'a str) -> Lookup<'a, String> {
        Box::pin(async { Err(DnsError::NoDomain) })
    }
}

/// Runs a future that never waits.
pub(crate) fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("waits"),
    }
}

fn result(zone: &Zone, ip: &str, sender: &str) -> (SpfResult, Option<String>) {
    let query = SpfQuery {
        ip: ip.parse().unwrap(),
        helo: "mail.a.example".into(),
        sender: sender.into(),
        hostname: "here".into(),
        now_s: 7,
    };
    let outcome = ready(check(zone, &query));
    (outcome.result, outcome.reason)
}

#[test]
fn senders() {
    let mut zone = Zone::default();
    zone.txt.insert("a.example", "v=spf1 a:%{l}.b.example ip4:10.0.0.0/8 -all exp=e.%{d}");
    zone.txt.insert("e.a.example", "%{s} from %{c} at %{t} on %{r}");
    zone.txt.insert("mail.a.example", "v=spf1 mx -all");
    zone.txt.insert("loop.example", "v=spf1 include:loop.example");
    zone.a.insert("user.b.example", Ipv4Addr::new(192, 0, 2, 1));
    assert_eq!(result(&zone, "192.0.2.1", "user@a.example").0, SpfResult::Pass);
    assert_eq!(result(&zone, "::ffff:10.1.1.1", "other@a.example").0, SpfResult::Pass);
    let (fail, text) = result(&zone, "192.0.2.2", "a.example");
    assert_eq!(
        (fail, text.as_deref()),
        (SpfResult::Fail, Some("postmaster@a.example from 192.0.2.2 at 7 on here"))
    );
    assert_eq!(result(&zone, "192.0.2.1", "").0, SpfResult::TempError);
    assert_eq!(result(&zone, "192.0.2.1", "x@loop.example").0, SpfResult::PermError);
    assert_eq!(result(&zone, "192.0.2.1", "x@none.example").0, SpfResult::None);
}
