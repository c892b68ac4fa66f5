//! Resident bytes per queued entry: `cargo run --release --example memory -- 1000000`.
//!
//! Each message has one recipient (the worst case), its own sender and recipient local parts, a subject, three keys of
//! metadata, one of 100,000 recipient domains, 50 transports, 1,000 jobs and 1,000 client addresses. With `active` they
//! are brought to ACTIVE: ten to a lane at a million, or with `active 1` each in a lane of its own.

use std::net::IpAddr;

use queue::{Address, NewEntry, NewMessage, Queue, Resolved, Settings, Time, Work};
use uuid::Uuid;

/// Resident set in bytes, from /proc (Linux).
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has /proc/self/status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS is always there");
    let kib = line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
    kib.expect("VmRSS is a number of kB") * 1024
}

fn main() {
    let count: u64 = std::env::args().nth(1).and_then(|arg| arg.parse().ok()).unwrap_or(100_000);
    let active: bool = std::env::args().nth(2).is_some_and(|arg| arg == "active");
    let lane_of_ten: bool = std::env::args().nth(3).is_none_or(|arg| arg != "1");
    let domains = if lane_of_ten { (count / 10).clamp(1, 100_000) } else { count };
    let mut queue = Queue::new(Settings { predelivery_max: 1000, attempts_max: 0, seed: 1 });
    let now = Time::from_secs(1_700_000_000);
    let before = resident();
    let started = std::time::Instant::now();
    for i in 0..count {
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
            job_id: format!("job{}", i % 1000),
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
    println!(
        "{count} entries ({}): {} bytes each resident, {:.1} s",
        if active { "active" } else { "deferred" },
        used / count.max(1),
        started.elapsed().as_secs_f64()
    );
}
