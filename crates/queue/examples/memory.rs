//! Resident bytes per queued entry: `cargo run --release -p queue --example memory -- 1000000 [WHERE] [SPREAD]`.
//!
//! Each message has one recipient (the worst case), its own sender and recipient local parts, a subject, three keys of
//! metadata, one of 100,000 recipient domains, 50 transports, 1,000 jobs and 1,000 client addresses.
//!
//! WHERE: `defer`; `active`: brought to ACTIVE and not looked at; `blocked`: and stopped by limits per transport and per
//! next hop; `suspended`: and stopped by a suspension. SPREAD: `shared`: at a million ten to a lane; `lanes`: jobs of
//! their own make a lane for each; `domains`: as many domains as messages, too.

use std::net::IpAddr;

use queue::*;
use uuid::Uuid;

/// Resident set in bytes, from /proc (Linux).
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has /proc/self/status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS is always there");
    let kib = line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
    kib.expect("VmRSS is a number of kB") * 1024
}

/// Nothing may go: half of the transports are full, and the mail of the others waits at its next hop.
fn policies() -> PolicySet {
    let none = || Some(Limits { concurrency: Some(0), ..Limits::default() });
    let some = Pattern::parse(Field::TransportId, "/[0-4]$/", &|_| None).expect("a valid expression");
    let when = Selector { fields: vec![(Field::TransportId, vec![some])] };
    let transports = Policy {
        fields: FieldSet::NONE.with(Field::TransportId),
        conditions: vec![PolicyCondition { when, then: Limits::default() }],
        default: none(),
        ..Policy::default()
    };
    let hops = Policy { fields: FieldSet::NONE.with(Field::RemoteMx), default: none(), ..Policy::default() };
    PolicySet { policies: vec![transports, hops], cluster_hosts: 1 }
}

fn main() {
    let count: u64 = std::env::args().nth(1).and_then(|arg| arg.parse().ok()).unwrap_or(100_000);
    let place = std::env::args().nth(2).unwrap_or("defer".to_owned());
    let spread = std::env::args().nth(3).unwrap_or("shared".to_owned());
    let active = place != "defer";
    let domains = if spread == "domains" { count } else { (count / 10).clamp(1, 100_000) };
    let attempts_max = if place == "active" { 0 } else { 1000 };
    let mut queue = Queue::new(Settings { predelivery_max: 1000, attempts_max, seed: 1 });
    if place == "blocked" {
        queue.set_policies(Time::ZERO, policies()).expect("valid policies");
    }
    let now = Time::from_secs(1_700_000_000);
    if place == "suspended" {
        let all = Suspension { id: "all".into(), ..Suspension::default() };
        queue.add_suspension(now, all).expect("it is the only one");
    }
    let before = resident();
    let started = std::time::Instant::now();
    for i in 0..count {
        // The tenth message of a domain has another job than the first.
        let job = if spread == "shared" { i % 1000 } else { (i + i / domains) % 1000 };
        let id = Uuid::from_u128((u128::from(i) << 64) | u128::from(i.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        let message = NewMessage {
            id,
            received: now,
            server_id: "inbound".into(),
            sender_ip: Some(IpAddr::from([10, 0, (i % 1000 / 250) as u8, (i % 250) as u8])),
            sender_helo: format!("client{}.sender.example", i % 1000),
            sasl_username: String::new(),
            subject: format!("Your order number {i} has been shipped"),
            stage_id: String::new(),
            size: 20_000,
        };
        let entry = NewEntry {
            queue_id: 1,
            sender: Address::parse(&format!("bounce+{i:08}@news.sender{}.example", i % 50)),
            recipient: Address::parse(&format!("firstname.lastname{i}@domain{}.example", i % domains)),
            transport_id: format!("t{}", i % 50),
            job_id: format!("job{job}"),
            metadata: vec![
                ("campaign".into(), format!("spring-{}", i % 300)),
                ("customer".into(), format!("{:06}", i % 70_000)),
                ("pool".into(), format!("p{}", i % 8)),
            ],
            tenant_id: "tenant".into(),
            size: 20_000,
            retry_at: if active { now } else { Time(now.0 + 60_000_000 + i as i64) },
            ..NewEntry::default()
        };
        queue.insert(now, message, vec![entry]).expect("ids are different");
    }
    let mut work = Vec::new();
    while active && queue.counters(now).active < count {
        queue.poll(now, 1000, &mut work);
        for piece in work.drain(..) {
            let Work::Predelivery(ticket) = piece else { continue };
            let domain = queue.entry(ticket.key()).map(|view| view.recipient_domain().to_owned());
            let domain = domain.unwrap_or_default();
            let host = domain.bytes().fold(0u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
            let resolved = Resolved {
                local_ips: vec![IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2])],
                remote_ip: Some(IpAddr::from([198, 51, 100, host])),
                remote_mx: format!("mx.{domain}"),
                ..Resolved::default()
            };
            queue.resolved(now, ticket, &resolved).expect("the ticket is fresh");
        }
    }
    let used = resident().saturating_sub(before);
    let counters = queue.counters(now);
    println!(
        "{count} entries ({place}, {spread}) in {} lanes: {} bytes each resident, {:.1} s",
        counters.lanes,
        used / count.max(1),
        started.elapsed().as_secs_f64()
    );
}
