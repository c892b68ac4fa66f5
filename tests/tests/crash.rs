//! Kill -9 at any moment: what was answered 250 is delivered (Q1, Q2), and only what was on its way at a kill may
//! be delivered twice (Q3).

use blackbox::client::Sender;
use blackbox::sink::Sink;
use blackbox::{Random, Server, lasting_port, wait_until};
use std::collections::HashMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const APP: &str = r#"
version: "6.9"
servers: [{id: in, transport: out, phases: {connect: {remoteptr: false}}}]
queues: {concurrency: {total: 20}}
transportgroups:
  - id: g
    transports:
      - id: out
        connection: {server: 127.0.0.1, port: @SINK}
        session: {tls: {mode: disabled}}
        retry: {count: 1000000, intervals: [{interval: 1}]}
"#;

/// A 250 of the sink this close to a kill may not have been recorded, on a disk that syncs at once.
const UNRECORDED: Duration = Duration::from_millis(400);

/// The sender of all messages.
const REPORTS_TO: &str = "a@sender.example";

/// Every so many messages one is larger than what goes through the journal.
const LARGE_EVERY: u64 = 60;

/// One message becomes three entries, of which one bounces.
const SPLIT: &str = r#"
version: "6.9"
servers: [{id: in, transport: out, phases: {connect: {remoteptr: false}, eod: {hook: main}}}]
queues: {concurrency: {total: 20}}
transportgroups:
  - id: g
    connection: {server: 127.0.0.1, port: @SINK}
    session: {tls: {mode: disabled}}
    retry: {count: 1000000, intervals: [{interval: 1}]}
    transports: [{id: out, dsn: {transport: reports}}, {id: reports}]
scripting:
  hooks:
    eod:
      - id: main
        data: |
          foreach (["one", "reject", "two"] as $who)
            $arguments["mail"]->queue($transaction["senderaddress"], $who . "@test.example", "out");
          Accept();
"#;

/// What was answered 250, and when.
type Accepted = Arc<Mutex<HashMap<(u64, u64), Instant>>>;

struct Plan {
    name: &'static str,
    app: &'static str,
    /// Who gets each message or a report about it.
    arrive_at: &'static [&'static str],
    rounds: u64,
    startup: &'static str,
    sink_comes_and_goes: bool,
}

#[test]
fn kill_9_loses_nothing_that_was_accepted() {
    run(&Plan {
        name: "crash",
        app: APP,
        arrive_at: &["b@test.example"],
        rounds: 60,
        startup: "",
        sink_comes_and_goes: false,
    });
}

#[test]
fn kill_9_with_a_next_hop_that_comes_and_goes_loses_nothing() {
    run(&Plan {
        name: "crash, sink half down",
        app: APP,
        arrive_at: &["b@test.example"],
        rounds: 50,
        startup: "",
        sink_comes_and_goes: true,
    });
}

#[test]
fn kill_9_without_journal_loses_nothing() {
    let startup = "spool: {journal: {enabled: false}}\n";
    run(&Plan {
        name: "crash, no journal",
        app: APP,
        arrive_at: &["b@test.example"],
        rounds: 25,
        startup,
        sink_comes_and_goes: false,
    });
}

#[test]
fn kill_9_loses_no_recipient_and_no_report() {
    let arrive_at = &["one@test.example", "two@test.example", REPORTS_TO];
    run(&Plan {
        name: "crash, bounces",
        app: SPLIT,
        arrive_at,
        rounds: 40,
        startup: "",
        sink_comes_and_goes: false,
    });
}

fn run(plan: &Plan) {
    let mut random = Random::seeded(plan.name);
    let sink = Sink::start();
    let mut server = Server::prepare(plan.app, &[("SINK", sink.port.to_string())]);
    server.port = lasting_port();
    server.add_startup(plan.startup);
    server.launch();
    let stop = Arc::new(AtomicBool::new(false));
    let accepted: Accepted = Arc::default();
    let clients: Vec<_> = (0..4).map(|thread| client(thread, server.port, &stop, &accepted)).collect();
    let disk = probe(server.path("probe"), &stop);
    let switch = plan.sink_comes_and_goes.then(|| switch(&sink, &stop));

    let (mut open, mut recent, mut early) = (0, 0, 0);
    let mut kills = Vec::new();
    for _ in 0..plan.rounds {
        std::thread::sleep(Duration::from_millis(random.below(450)));
        let before = Instant::now();
        kills.push(before);
        open += sink.open();
        server.kill();
        recent += before.checked_sub(UNRECORDED).map_or(0, |since| sink.count_since(since) as u64);
        // What the killed process had left in the sockets ends by itself.
        wait_until("the sink sees the end", || sink.open() == 0);
        std::fs::rename(server.path("log"), server.path("log.before")).expect("there is a log");
        if random.below(4) == 0 {
            // The recovery is killed as well.
            early += 1;
            server.spawn();
            std::thread::sleep(Duration::from_millis(random.below(120)));
            let before = Instant::now();
            kills.push(before);
            open += sink.open();
            server.kill();
            recent += before.checked_sub(UNRECORDED).map_or(0, |since| sink.count_since(since) as u64);
        }
        server.launch();
    }
    stop.store(true, Ordering::SeqCst);
    for thread in clients.into_iter().chain(switch) {
        thread.join().expect("no client panics");
    }
    // A record waits for the sync that runs and then for its own.
    let slowest_sync = disk.join().expect("the probe does not panic");
    let unrecorded = UNRECORDED + 2 * slowest_sync;
    sink.set_down(false);
    let end = Instant::now() + Duration::from_secs(60);
    while !server.queue().is_empty() {
        if Instant::now() >= end {
            let log = server.log();
            let odd =
                log.lines().filter(|line| !line.contains("delivered to") && !line.contains("bounced to"));
            let odd: Vec<&str> =
                odd.filter(|line| !line.contains("attempt 0") && !line.contains("accepted")).collect();
            panic!("left: {:#?}\n{}", server.queue(), odd.join("\n"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }

    let accepted = std::mem::take(&mut *accepted.lock().expect("no client panics"));
    let mut arrivals: HashMap<((u64, u64), String), Vec<Instant>> = HashMap::new();
    sink.look(|taken| {
        for message in taken {
            let token = token(&message.content);
            let is_whole = message.from.is_empty() || message.content.ends_with(&content(token));
            assert!(is_whole, "{token:?} arrived altered");
            arrivals.entry((token, message.to.clone())).or_default().push(message.at);
        }
    });
    let promised =
        accepted.keys().flat_map(|token| plan.arrive_at.iter().map(|to| (*token, (*to).to_owned())));
    let lost: Vec<_> = promised.filter(|recipient| !arrivals.contains_key(recipient)).collect();
    // Each arrival that was followed by another has to lie at a kill. A report is made again when the kill fell
    // between its commit and the end of the entry that bounced; it may have arrived long after that.
    let at_a_kill =
        |at: &Instant| kills.iter().any(|kill| *at + unrecorded >= *kill && *at <= *kill + unrecorded);
    let (mut duplicates, mut strange) = (0, Vec::new());
    for (recipient, times) in &arrivals {
        for at in &times[..times.len() - 1] {
            duplicates += 1;
            let is_report = recipient.1 == REPORTS_TO;
            let promised = accepted.get(&recipient.0);
            let killed_since = || promised.is_none_or(|promised| kills.iter().any(|kill| kill > promised));
            let explained = at_a_kill(at) || is_report && killed_since();
            if !explained {
                let next = kills
                    .iter()
                    .map(|kill| kill.saturating_duration_since(*at))
                    .filter(|d| !d.is_zero())
                    .min();
                let again = times[1].duration_since(times[0]);
                strange.push(format!("{recipient:?}: {next:?} before a kill, again after {again:?}"));
            }
        }
    }
    let bound = open + recent;
    println!(
        "{}: {} kills ({early} during recovery), {} accepted, {} recipients and reports delivered, {} lost, {duplicates} duplicates, \
         in flight at the kills at most {bound} ({open} connections, {recent} replies just before), \
         slowest sync of the disk {slowest_sync:?}",
        plan.name,
        plan.rounds + early,
        accepted.len(),
        arrivals.len(),
        lost.len(),
    );
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert!(strange.is_empty(), "sent again though their end should have been recorded: {strange:#?}");
    assert!(duplicates <= bound, "{duplicates} duplicates, at most {bound} were in flight");
    assert!(accepted.len() as u64 > plan.rounds * 5, "too few messages to mean anything");

    // What is over stays over.
    wait_until("the spool is empty", || server.hqf_files().is_empty());
    let count = sink.count();
    assert_eq!(server.stop(), Some(0));
    server.launch();
    std::thread::sleep(Duration::from_millis(500));
    assert!(server.queue().is_empty() && sink.count() == count, "sent again after the end");
    assert_eq!(std::fs::read_dir(server.path("spool/incoming")).expect("a spool").count(), 0);
}

/// Sends as fast as it can over connections that break, and notes what was accepted.
fn client(thread: u64, port: u16, stop: &Arc<AtomicBool>, accepted: &Accepted) -> JoinHandle<()> {
    let (stop, accepted) = (stop.clone(), accepted.clone());
    std::thread::spawn(move || {
        let (mut sender, mut number) = (None, 0);
        while !stop.load(Ordering::SeqCst) {
            let Some(session) = &mut sender else {
                match Sender::connect(port) {
                    Ok(session) => sender = Some(session),
                    Err(_) => std::thread::sleep(Duration::from_millis(10)),
                }
                continue;
            };
            number += 1;
            let token = (thread, number);
            match session.send(REPORTS_TO, "b@test.example", &content(token)) {
                Ok(outcome) if outcome.is_delivered() => {
                    accepted.lock().expect("no client panics").insert(token, Instant::now());
                }
                // Killed, or refused while starting: nothing was promised.
                _ => sender = None,
            }
        }
    })
}

/// Syncs a file of its own again and again; gives the longest that took.
fn probe(path: std::path::PathBuf, stop: &Arc<AtomicBool>) -> JoinHandle<Duration> {
    let stop = stop.clone();
    std::thread::spawn(move || {
        let mut file = std::fs::File::create(path).expect("the folder is writable");
        let mut slowest = Duration::ZERO;
        while !stop.load(Ordering::SeqCst) {
            let started = Instant::now();
            file.write_all(&[b'x'; 4096]).and_then(|()| file.sync_data()).expect("the folder is writable");
            slowest = slowest.max(started.elapsed());
            std::thread::sleep(Duration::from_millis(20));
        }
        slowest
    })
}

/// Turns the sink off and on.
fn switch(sink: &Sink, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
    let (sink, stop) = (sink.clone(), stop.clone());
    std::thread::spawn(move || {
        let mut down = false;
        while !stop.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(700));
            down = !down;
            sink.set_down(down);
        }
    })
}

/// The message of a token, the same at every call.
fn content(token: (u64, u64)) -> Vec<u8> {
    let (thread, number) = token;
    let bytes = match (thread * 17 + number) % LARGE_EVERY {
        0 => 1_300_000,
        other => other as usize * 100,
    };
    let mut text = format!("Subject: token {thread} {number}\r\n\r\n").into_bytes();
    while text.len() < bytes {
        text.extend_from_slice(
            format!("{number} line at {} of a message that is long enough to matter\r\n", text.len())
                .as_bytes(),
        );
    }
    text
}

fn token(content: &[u8]) -> (u64, u64) {
    let head = String::from_utf8_lossy(&content[..content.len().min(1000)]).into_owned();
    let line = head
        .lines()
        .find_map(|line| line.strip_prefix("Subject: ")?.split_once("token "))
        .expect("our subject");
    let (thread, number) = line.1.split_once(' ').expect("two numbers");
    (thread.parse().expect("a number"), number.parse().expect("a number"))
}
