//! The queue with many messages: `queue-scale MESSAGES [FOLDER]` fills a spool, starts `smtpd` on it and measures start,
//! memory, list, groupby, update, deletion and bounce through the control socket while mail flows through the server.
//!
//! Each message has one recipient in one of 100,000 domains, one of 50 transports, one of 1,000 jobs and three keys of
//! metadata. At a million the ten messages of a domain have ten jobs, so that each has a lane of its own.

use blackbox::client::Sender;
use blackbox::sink::Sink;
use blackbox::{Server, wait_until_for};
use control::{Client, Endpoint, smtpd as wire};
use spool::disk::RealDisk;
use spool::record::{Mailbox, Pair};
use spool::{Entry, MessageRecord, Meta, Spool, SpoolOptions};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use uuid::Uuid;

const DOMAINS: u64 = 100_000;
const TRANSPORTS: u64 = 50;
const JOBS: u64 = 1_000;
const PATIENCE: Duration = Duration::from_secs(1800);
/// Each measurement is made so often; the median counts.
const TIMES: usize = 7;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let messages: u64 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(10_000);
    if let Some(folder) = arguments.next() {
        // Where the spool is made; it should be on a real disk.
        tempfile::env::override_temp_dir(Path::new(&folder)).expect("no temporary folder was made before");
    }
    let sink = Sink::start();
    let empty = start(&sink);
    let base = resident(empty.pid());
    drop(empty);
    let mut server = prepare(&sink);
    let filled = fill(&server.path("spool"), messages);
    println!("{messages} messages: spool written in {:.1} s", filled.as_secs_f64());
    let started = Instant::now();
    server.launch();
    let ready = started.elapsed();
    wait_until_for("all are loaded", PATIENCE, || server.counter("queue.loader.active") == messages);
    println!(
        "start: ready after {:.2} s, all loaded after {:.2} s",
        ready.as_secs_f64(),
        started.elapsed().as_secs_f64()
    );
    memory(&server, base, messages, "DEFER");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure(&server, &sink, messages, base));
}

/// A limit of none keeps everything but the flowing mail in its lanes.
const POLICY: &str = "version: \"6.9\"\npolicies:\n  - fields: [transportid]\n    conditions: \
                      [{if: {transportid: live}, then: {concurrency: 20}}]\n    default: {concurrency: 0}\n";

fn prepare(sink: &Sink) -> Server {
    let transports: Vec<String> = (0..TRANSPORTS).map(|number| format!("{{id: t{number}}}, ")).collect();
    let app = format!(
        "version: \"6.9\"\nservers: [{{id: in, transport: live, phases: {{connect: {{remoteptr: false}}}}}}]\n\
         transportgroups:\n  - id: g\n    connection: {{server: 127.0.0.1, port: {}}}\n    \
         session: {{tls: {{mode: disabled}}}}\n    dsn: {{transport: reports}}\n    \
         transports: [{}{{id: live}}, {{id: reports}}]\n",
        sink.port,
        transports.concat()
    );
    let server = Server::prepare(&app, &[]);
    server.write("policy.yaml", POLICY);
    server
}

fn start(sink: &Sink) -> Server {
    let mut server = prepare(sink);
    server.launch();
    server
}

/// Spread over the folders, as ids of the daemon are.
fn id_of(number: u64) -> Uuid {
    Uuid::from_u128(u128::from(number.wrapping_mul(0x9E37_79B9_7F4A_7C15)) << 64 | u128::from(number))
}

fn fill(path: &Path, messages: u64) -> Duration {
    let started = Instant::now();
    let options =
        SpoolOptions { fsync: false, journal_enabled: false, threads_sync: 2, ..SpoolOptions::new(path) };
    let spool = Spool::open(options, Arc::new(RealDisk), |_| {}).expect("an empty spool");
    let now_s = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("it is after 1970")
        .as_secs_f64();
    let content =
        b"From: news@sender.example\r\nSubject: Your order has been shipped\r\n\r\nIt is on its way.\r\n";
    let mut under_way = std::collections::VecDeque::new();
    for i in 0..messages {
        let pair = |key: &str, value: String| Pair::new(key, value.into_bytes());
        let entry = Entry {
            queue_id: 1,
            sender: Some(Mailbox {
                localpart: format!("bounce+{i:08}"),
                domain: format!("news{}.example", i % 20),
            }),
            recipient: Some(Mailbox {
                localpart: format!("first.last{i}"),
                domain: format!("domain{}.example", i % DOMAINS),
            }),
            transport_id: format!("t{}", i % TRANSPORTS),
            job_id: format!("job{}", (i + i / DOMAINS) % JOBS),
            metadata: vec![
                pair("campaign", format!("spring-{}", i % 300)),
                pair("customer", format!("{:06}", i % 70_000)),
                pair("pool", format!("p{}", i % 8)),
            ],
            size_bytes: content.len() as u64,
            next_attempt_s: now_s + 36_000.0 + i as f64 / 100.0,
            ..Entry::default()
        };
        let meta = Meta {
            received_s: now_s - (i % 86_400) as f64,
            server_id: "in".to_owned(),
            remote_ip: format!("10.0.{}.{}", i % 4, i % 250),
            helo: format!("client{}.sender.example", i % 1000),
            subject: format!("Your order number {i} has been shipped"),
            ..Meta::default()
        };
        let mut staging = spool.stage(id_of(i + 1));
        staging.write(content).expect("the disk has room");
        under_way.push_back(
            spool.commit(staging, MessageRecord { meta, entries: vec![entry], ..MessageRecord::default() }),
        );
        if under_way.len() > 500
            && let Some(oldest) = under_way.pop_front()
        {
            oldest.wait().expect("the disk has room");
        }
    }
    under_way.into_iter().for_each(|one| drop(one.wait().expect("the disk has room")));
    started.elapsed()
}

/// Resident octets of a process.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn memory(server: &Server, base: u64, messages: u64, state: &str) {
    let now = resident(server.pid());
    let each = now.saturating_sub(base) / messages;
    println!("memory, {state}: {:.0} MiB, {each} bytes per message", now as f64 / 1048576.0);
}

/// Sends mail through the server until it is told to stop.
fn traffic(port: u16, stop: Arc<AtomicBool>, sent: Arc<AtomicU64>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut sender = Sender::connect(port).expect("the server listens");
        while !stop.load(Ordering::Relaxed) {
            let outcome = sender.send("a@live.example", "b@live.example", b"Subject: x\r\n\r\nx\r\n");
            assert!(outcome.expect("the server answers").is_delivered());
            sent.fetch_add(1, Ordering::Relaxed);
            // Some hundred a second: what is measured is the queue, not the reception.
            std::thread::sleep(Duration::from_millis(2));
        }
    })
}

async fn measure(server: &Server, sink: &Sink, messages: u64, base: u64) {
    let endpoint = Endpoint::parse(&server.path("ctl").display().to_string()).expect("a path");
    let mut client = Client::connect(&endpoint, Some(PATIENCE)).await.expect("the server listens");
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let sender = traffic(server.port, stop.clone(), sent.clone());
    let begun = Instant::now();

    let domain = wire::StringRegexValue { value: "domain77.example".to_owned(), ..Default::default() };
    let address = wire::condition::MailAddress { domain: Some(domain), ..Default::default() };
    let list = wire::QueueListRequest {
        conditions: Some(wire::Condition { recipients: vec![address], ..Default::default() }),
        paging: Some(wire::queue_list_request::Paging { offset: 0, limit: 1000 }),
        ..Default::default()
    };
    let mut found = 0;
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let at = Instant::now();
        let reply: wire::QueueListResponse = client.request(b'F', &list).await.expect("an answer");
        times.push(at.elapsed());
        found = reply.items.len();
    }
    show(&format!("list by recipient domain ({found} found)"), times);

    use wire::queue_group_by_request::{Counts, GroupBy, counts::Type, group_by::GroupUnique};
    let states = [Type::Queue(0), Type::Queue(1), Type::Freeze(0), Type::Working(0), Type::Working(1)];
    for (what, groups) in [
        ("transport", vec![GroupUnique::Transportid(true)]),
        ("transport and domain", vec![GroupUnique::Transportid(true), GroupUnique::Recipientdomain(true)]),
    ] {
        let request = wire::QueueGroupByRequest {
            groupbys: groups.into_iter().map(|one| GroupBy { group_unique: Some(one) }).collect(),
            counts: states.iter().map(|one| Counts { r#type: Some(*one), ..Default::default() }).collect(),
            paging: Some(wire::queue_group_by_request::Paging { offset: 0, limit: 50 }),
            ..Default::default()
        };
        let mut times = Vec::new();
        let mut rows = 0;
        for _ in 0..TIMES {
            let at = Instant::now();
            let reply: wire::QueueGroupByResponse = client.request(b'D', &request).await.expect("an answer");
            times.push(at.elapsed());
            rows = reply.paging.map_or(0, |paging| paging.total);
        }
        show(&format!("groupby {what}, counts per state ({rows} rows)"), times);
    }

    // A tenth of the jobs at a million; more of them where there are fewer messages.
    let jobs = match messages {
        0..=100_000 => "^job".to_owned(),
        _ => "^job[0-9]{1,2}$".to_owned(),
    };
    let job = wire::condition::CompareStringRegexValue { value: jobs, r#type: 1, ..Default::default() };
    let mut times = Vec::new();
    let mut affected = 0;
    for turn in 0..3 {
        let mut metadata = std::collections::BTreeMap::new();
        metadata.insert("pool".to_owned(), format!("q{turn}"));
        let update = wire::QueueUpdateRequest {
            conditions: Some(wire::Condition { jobids: vec![job.clone()], ..Default::default() }),
            metadata,
            ..Default::default()
        };
        let at = Instant::now();
        let reply: wire::QueueUpdateResponse = client.request(b'G', &update).await.expect("an answer");
        times.push(at.elapsed());
        affected = reply.affected;
        // The files get it in the meantime; the next one is to be alone again.
        tokio::time::sleep(Duration::from_secs(if messages > 100_000 { 20 } else { 5 })).await;
    }
    show(&format!("update of {affected}, metadata changed, durable"), times);
    let mut left = messages;
    for (action, jobs) in [("delete", "^job2[0-9]{2}$"), ("bounce", "^job3[0-9]{2}$")] {
        let job = wire::condition::CompareStringRegexValue {
            value: jobs.to_owned(),
            r#type: 1,
            ..Default::default()
        };
        let conditions = Some(wire::Condition { jobids: vec![job], ..Default::default() });
        let affected = end_all(&mut client, action, conditions).await;
        left -= affected;
    }
    // The reports, which nothing lets go.
    let transport =
        wire::condition::CompareStringRegexValue { value: "reports".to_owned(), ..Default::default() };
    let conditions = wire::Condition { transportids: vec![transport], ..Default::default() };
    end_all(&mut client, "delete", Some(conditions)).await;
    let passed = begun.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    sender.join().expect("the sender ends");
    let (sent, arrived) = (sent.load(Ordering::Relaxed), sink.count());
    println!(
        "meanwhile: {:.0} messages per second accepted, {arrived} of {sent} delivered",
        sent as f64 / passed
    );
    memory(server, base, left, "DEFER, after the updates");

    let at = Instant::now();
    server.ctl(&["queue", "update", "--state", "DEFER", "--active"]);
    let answered = at.elapsed();
    wait_until_for("all are ACTIVE", PATIENCE, || server.counter("queue.queue.active.size") == left);
    println!(
        "all made ACTIVE: answered after {:.2} s, in their lanes after {:.2} s",
        answered.as_secs_f64(),
        at.elapsed().as_secs_f64()
    );
    memory(server, base, left, "ACTIVE, each in a lane of its own");
}

/// Deletes or bounces what a condition selects; how many that were.
async fn end_all(client: &mut Client, action: &str, conditions: Option<wire::Condition>) -> u64 {
    let kind = if action == "bounce" { wire::ActionType::Bounce } else { wire::ActionType::Delete };
    let task = wire::queue_update_request::Task::Actiontype(kind as i32);
    let request = wire::QueueUpdateRequest { conditions, task: Some(task), ..Default::default() };
    let at = Instant::now();
    let reply: wire::QueueUpdateResponse = client.request(b'G', &request).await.expect("an answer");
    println!(
        "{action} of {}: {:.2} s until all are gone and durable",
        reply.affected,
        at.elapsed().as_secs_f64()
    );
    reply.affected
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let ms = |at: usize| times[at].as_secs_f64() * 1000.0;
    println!("{what}: median {:.1} ms ({:.1} to {:.1})", ms(times.len() / 2), ms(0), ms(times.len() - 1));
}
