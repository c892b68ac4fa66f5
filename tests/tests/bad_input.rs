//! Clients, files and disks that are not as they should be: the documented answer, and nothing else happens.

use blackbox::client::{Sender, send, talk};
use blackbox::peer::{is_listening, is_root};
use blackbox::sink::Sink;
use blackbox::{Random, Server, wait_until};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

const APP: &str = r#"
version: "6.9"
servers: [{id: in, transport: out, %SERVER phases: {connect: {remoteptr: false}%PHASES}}]
transportgroups:
  - id: g
    transports:
      - id: out
        connection: {server: 127.0.0.1, port: %SINK}
        session: {tls: {mode: disabled}}
        retry: {intervals: [{interval: 1}]}
"#;

const SILENCE: Duration = Duration::from_millis(700);

fn configuration(sink: &Sink, server: &str, phases: &str) -> String {
    APP.replace("%SINK", &sink.port.to_string()).replace("%SERVER", server).replace("%PHASES", phases)
}

/// `server` is put into the item of `servers[]`, `phases` behind its first phase.
fn start(server: &str, phases: &str) -> (Server, Sink) {
    let sink = Sink::start();
    (Server::start(&configuration(&sink, server, phases), &[]), sink)
}

fn is_idle(server: &Server) -> bool {
    server.counter("servers.0.connections.concurrent") == 0
}

fn files_under_construction(server: &Server) -> usize {
    std::fs::read_dir(server.path("spool/incoming")).expect("a spool").count()
}

/// The replies of a session that starts with EHLO and ends with QUIT or is closed, without greeting and EHLO reply.
fn replies(server: &Server, input: &str) -> Vec<String> {
    let output = talk(server.port, format!("EHLO c\r\n{input}").as_bytes(), SILENCE);
    let lines = output.lines().skip_while(|line| line.starts_with("220 ") || line.starts_with("250-"));
    lines.skip(1).map(str::to_owned).collect()
}

fn assert_replies(server: &Server, input: &str, expected: &[&str]) {
    let found = replies(server, input);
    let shown = &input[..input.len().min(200)];
    assert_eq!(found.len(), expected.len(), "{shown:?} gave {found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{shown:?}: {found:?} instead of {expected:?}");
    }
}

const START: &str = "MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n";
const STARTED: [&str; 3] = ["250 2.1.0", "250 2.1.5", "354 "];

#[test]
fn limits_of_lines_sizes_recipients_hops_and_errors_answer_as_documented() {
    let (server, sink) = start(
        "maxerrors: 5,",
        ", rcptto: {maxrecipients: 3}, data: {maxsize: 5000, maxlinelength: 200, maxhops: 5}",
    );
    let with = |more: &[&'static str]| [&STARTED[..], more].concat();
    assert_replies(
        &server,
        &format!("NOOP {}\r\nNOOP\r\nQUIT\r\n", "x".repeat(20_000)),
        &["500 5.5.2", "250 ", "221 "],
    );
    assert_replies(&server, "MAIL FROM:<a@b.example> SIZE=6000\r\nQUIT\r\n", &["552 5.3.4", "221 "]);
    let line = "0123456789\r\n";
    let large = format!("{START}{}.\r\nNOOP\r\nQUIT\r\n", line.repeat(500));
    assert_replies(&server, &large, &with(&["552 5.3.4", "250 ", "221 "]));
    let long_line = format!("{START}{}\r\n.\r\nQUIT\r\n", "y".repeat(300));
    assert_replies(&server, &long_line, &with(&["550 5.6.0", "221 "]));
    let looping = format!("{START}{}\r\nx\r\n.\r\nQUIT\r\n", "Received: from x by y\r\n".repeat(6));
    assert_replies(&server, &looping, &with(&["554 5.4.6", "221 "]));
    assert_replies(
        &server,
        "WHAT\r\nWHAT\r\nWHAT\r\nWHAT\r\nWHAT\r\nNOOP\r\n",
        &["500 5.5.2"; 5].iter().copied().chain(["421 4.7.0 Too many errors"]).collect::<Vec<_>>(),
    );
    assert_replies(&server, "NOOP\0\r\nNOOP\r\n", &["421 4.7.0"]);
    assert_replies(&server, "NOOP a\rb\r\nQUIT\r\n", &["500 5.5.2", "221 "]);
    assert_eq!(sink.count(), 0);
    let recipients = "MAIL FROM:<a@b.example>\r\nRCPT TO:<1@d.example>\r\nRCPT TO:<2@d.example>\r\nRCPT TO:<3@d.example>\r\nRCPT TO:<4@d.example>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n";
    assert_replies(
        &server,
        recipients,
        &["250 ", "250 ", "250 ", "250 ", "452 4.5.3", "354 ", "250 2.0.0", "221 "],
    );
    wait_until("three copies arrive", || sink.count() == 3);
    // In one session: what was refused leaves no trace in what follows.
    let both = format!("{START}{}.\r\n{START}Subject: small\r\n\r\nx\r\n.\r\nQUIT\r\n", line.repeat(500));
    let expected: Vec<&str> = with(&["552 5.3.4"]).into_iter().chain(with(&["250 2.0.0", "221 "])).collect();
    assert_replies(&server, &both, &expected);
    wait_until("the small one arrives", || sink.count() == 4);
    assert!(sink.taken()[3].content.ends_with(b"Subject: small\r\n\r\nx\r\n"));
    let web = talk(server.port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", SILENCE);
    assert_eq!(web.lines().count(), 2, "{web}");
    assert!(web.lines().last().is_some_and(|line| line.starts_with("421 4.7.0")), "{web}");
    assert_eq!(files_under_construction(&server), 0);
}

#[test]
fn smuggled_end_of_data_is_never_executed_with_any_policy() {
    let sequences =
        ["\n.\n", "\r.\r", "\n.\r\n", "\r\n.\n", "\r\n.\r", "\r\n\0.\r\n", "\r\r\n.\r\r\n", "\n\n.\n\n"];
    for policy in ["normalize", "reject", "accept"] {
        let (server, sink) = start("", &format!(", data: {{barelinefeed: {policy}}}"));
        for (number, sequence) in sequences.iter().enumerate() {
            let input = format!(
                "{START}Subject: {number}\r\n\r\nfirst{sequence}MAIL FROM:<evil@b.example>\r\n\
                 RCPT TO:<evil@d.example>\r\nDATA\r\nevil\r\n.\r\nQUIT\r\n"
            );
            // Only the NUL stands between real line ends.
            let clean = sequence.contains('\0');
            let answer = if policy == "reject" && !clean { "550 5.6.0" } else { "250 2.0.0" };
            assert_replies(&server, &input, &["250 2.1.0", "250 2.1.5", "354 ", answer, "221 "]);
        }
        let expected = if policy == "reject" { 1 } else { sequences.len() };
        wait_until("all arrive", || sink.count() == expected && server.queue().is_empty());
        for taken in sink.taken() {
            assert_eq!((taken.from.as_str(), taken.to.as_str()), ("a@b.example", "c@d.example"), "{policy}");
            let text = String::from_utf8_lossy(&taken.content).into_owned();
            assert!(
                text.contains("MAIL FROM:<evil@b.example>") && text.ends_with("evil\r\n"),
                "{policy}: {text}"
            );
        }
        assert_eq!(sink.count(), expected, "{policy}");
    }
}

#[test]
fn bare_line_feeds_between_commands_follow_the_policy() {
    for policy in ["normalize", "accept"] {
        let (server, _sink) = start("", &format!(", data: {{barelinefeed: {policy}}}"));
        assert_replies(&server, "NOOP\nNOOP\nQUIT\n", &["250 ", "250 ", "221 "]);
    }
    let (server, _sink) = start("", ", data: {barelinefeed: reject}");
    assert_replies(&server, "NOOP\nNOOP\r\nQUIT\r\n", &["500 5.5.2"]);
}

#[test]
fn connection_closed_at_any_byte_stores_nothing() {
    let (server, sink) = start("", "");
    let session = format!("EHLO c\r\n{START}Subject: cut\r\n\r\nbody\r\n.\r\n");
    let mut cuts = 0;
    for cut in (0..session.len()).step_by(3) {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
        stream.write_all(&session.as_bytes()[..cut]).unwrap();
        cuts += 1;
        if cut % 2 == 0 {
            // Also after the server has seen it.
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    // One that is large enough to be a file already.
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    stream.write_all(format!("EHLO c\r\n{START}").as_bytes()).unwrap();
    stream.write_all(&b"0123456789abcdef0123456789abcdef\r\n".repeat(120_000)).unwrap();
    wait_until("it is a file", || files_under_construction(&server) == 1);
    drop(stream);
    wait_until("all sessions end", || is_idle(&server));
    assert_eq!(files_under_construction(&server), 0);
    assert!(server.queue().is_empty() && server.hqf_files().is_empty());
    assert_eq!(sink.count(), 0);
    println!("{cuts} sessions cut short, 0 messages stored");
}

#[test]
fn silent_client_is_told_and_closed() {
    let (server, sink) = start("timeout: {idle: 1},", "");
    for input in [String::new(), "EHLO c\r\n".to_owned(), format!("EHLO c\r\n{START}Subject: half")] {
        let started = Instant::now();
        let output = talk(server.port, input.as_bytes(), Duration::from_secs(10));
        assert!(
            output.lines().last().is_some_and(|line| line.starts_with("421 4.4.2")),
            "{input:?}: {output}"
        );
        let passed = started.elapsed();
        assert!(passed >= Duration::from_millis(900) && passed < Duration::from_secs(6), "{passed:?}");
    }
    wait_until("all sessions end", || is_idle(&server));
    assert_eq!((sink.count(), files_under_construction(&server)), (0, 0));
}

#[test]
fn connections_above_a_limit_get_421_and_no_hook() {
    for limit in ["total", "perip"] {
        let sink = Sink::start();
        let app = configuration(&sink, &format!("concurrency: {{{limit}: 2}},"), "")
            .replace("connect: {", "connect: {hook: count, ")
            + "scripting: {hooks: {connect: [{id: count, data: 'Accept();'}]}}\n";
        let server = Server::start(&app, &[]);
        let (first, second) = (Sender::connect(server.port).unwrap(), Sender::connect(server.port).unwrap());
        for _ in 0..5 {
            assert_eq!(talk(server.port, b"", SILENCE), "421 4.7.0 Too many connections\r\n", "{limit}");
        }
        assert_eq!(server.counter("servers.0.scripts.connect.finished"), 2, "{limit}");
        drop(first);
        wait_until("its place is free", || server.counter("servers.0.connections.concurrent") == 1);
        send(server.port, "a@b.example", "c@d.example", b"Subject: x\r\n\r\nx\r\n");
        drop(second);
    }
}

#[test]
fn random_input_never_ends_the_server() {
    const CONNECTIONS: u64 = 300;
    let (mut server, sink) = start("maxerrors: 0, timeout: {idle: 2},", "");
    let mut random = Random::seeded("garbage");
    let inputs: Vec<Vec<u8>> = (0..CONNECTIONS).map(|_| garbage(&mut random)).collect();
    let port = server.port;
    let threads: Vec<_> = inputs
        .chunks(CONNECTIONS as usize / 6)
        .map(|chunk| {
            let chunk = chunk.to_vec();
            std::thread::spawn(move || {
                for input in chunk {
                    talk(port, &input, Duration::from_millis(30));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(server.is_running() && !server.log().contains("panicked"), "{}", server.log());
    wait_until("all sessions end", || is_idle(&server));
    let before = sink.count();
    send(server.port, "a@b.example", "good@d.example", b"Subject: good\r\n\r\nx\r\n");
    wait_until("mail still flows", || {
        sink.look(|all| all[before..].iter().any(|t| t.to == "good@d.example"))
    });
    println!("{CONNECTIONS} connections of random input, the server runs");
}

/// Bytes, or a session with some bytes changed.
fn garbage(random: &mut Random) -> Vec<u8> {
    if random.below(3) == 0 {
        return (0..random.below(3000)).map(|_| random.number() as u8).collect();
    }
    let mut input =
        format!("EHLO c\r\n{START}Subject: x\r\n\r\n..x\r\n.\r\nRSET\r\nVRFY x\r\n{START}x\r\n.\r\nQUIT\r\n")
            .into_bytes();
    for _ in 0..random.below(12) {
        let at = random.below(input.len() as u64) as usize;
        match random.below(4) {
            0 => input[at] = random.number() as u8,
            1 => drop(input.remove(at)),
            2 => input.insert(at, b"\r\n\0.<>:@ \xff"[random.below(10) as usize]),
            _ => {
                let piece = input[at..(at + 20).min(input.len())].to_vec();
                let to = random.below(input.len() as u64) as usize;
                input.splice(to..to, piece);
            }
        }
    }
    input
}

#[test]
fn startup_that_cannot_be_used_says_where_and_leaves_nothing_behind() {
    let sink = Sink::start();
    let good = configuration(&sink, "", "");
    let hook = |script: &str| {
        good.replace("connect: {", "eod: {hook: main}, connect: {")
            + &format!(
                "scripting:\n  hooks:\n    eod:\n      - id: main\n        data: |\n          {script}\n"
            )
    };
    let cases: [(&str, &str, String, &[&str]); 8] = [
        ("broken YAML in the startup file", "spool: [\n", good.clone(), &["smtpd.yaml:"]),
        (
            "unknown key in the startup file",
            "spool: {fsnyc: true}\n",
            good.clone(),
            &["smtpd.yaml:9:9", "/spool", "fsnyc"],
        ),
        ("broken YAML", "", good.replace("version: \"6.9\"", "version: ["), &["app.yaml:"]),
        (
            "unknown key",
            "",
            good.replace("transport: out", "transprot: out"),
            &["app.yaml:3:", "/servers/0", "transprot"],
        ),
        (
            "wrong type",
            "",
            good.replace("interval: 1", "interval: soon"),
            &["app.yaml:10:", "/transportgroups/0/transports/0/retry/intervals/0/interval"],
        ),
        (
            "unknown transport",
            "",
            good.replace("transport: out", "transport: nowhere"),
            &["app.yaml", "/servers/0/transport", "nowhere"],
        ),
        ("script that does not compile", "", hook("$x = ;"), &["eod/main.hsl:1:6"]),
        (
            "hook that does not exist",
            "",
            good.replace("connect: {", "eod: {hook: gone}, connect: {"),
            &["app.yaml", "/servers/0/phases/eod", "gone"],
        ),
    ];
    let count = cases.len();
    for (name, startup, app, expected) in cases {
        let server = Server::prepare(&app, &[]);
        server.add_startup(startup);
        let (status, error) = server.launch_failing();
        assert_eq!(status, Some(1), "{name}: {error}");
        assert!(error.contains("Could not load configuration: "), "{name}: {error}");
        for part in expected {
            assert!(error.contains(part), "{name}: {part:?} is missing in {error}");
        }
        assert!(!is_listening(server.port), "{name}");
    }
    let server = Server::prepare(&good, &[]);
    std::fs::remove_file(server.path("app.yaml")).unwrap();
    let (status, error) = server.launch_failing();
    assert!(status == Some(1) && error.contains("app.yaml: No such file"), "{error}");
    println!("{} configurations refused with their place", count + 1);
}

#[test]
fn port_and_spool_of_another_process_are_refused() {
    let sink = Sink::start();
    let app = configuration(&sink, "", "");
    let first = Server::start(&app, &[]);
    let mut second = Server::prepare(&app, &[]);
    let own = second.port;
    second.port = first.port;
    second.add_startup("");
    let (status, error) = second.launch_failing();
    assert_eq!(status, Some(1), "{error}");
    assert!(error.contains(&format!("127.0.0.1:{}", first.port)) && error.contains("in use"), "{error}");
    second.port = own;
    second.add_startup("");
    let startup = std::fs::read_to_string(second.path("smtpd.yaml")).unwrap();
    let (mine, other) = (second.path("spool"), first.path("spool"));
    second.write("smtpd.yaml", &startup.replace(mine.to_str().unwrap(), other.to_str().unwrap()));
    let (status, error) = second.launch_failing();
    assert_eq!(status, Some(1), "{error}");
    assert!(
        error.contains("locked by another process") && error.contains(other.to_str().unwrap()),
        "{error}"
    );
    assert!(!is_listening(own));
    send(first.port, "a@b.example", "c@d.example", b"Subject: x\r\n\r\nx\r\n");
    wait_until("the first one works", || sink.count() == 1);
}

#[test]
fn broken_reload_keeps_what_runs_and_says_why() {
    let (server, sink) = start("", "");
    let good = configuration(&sink, "", "");
    let broken = [
        (good.replace("transport: out", "transport: nowhere"), "/servers/0/transport"),
        (good.replace("phases:", "phasse:"), "phasse"),
        (format!("{good}scripting: {{hooks: {{predelivery: '$x = ;'}}}}\n"), "predelivery.hsl:1:6"),
    ];
    for (app, place) in broken {
        server.write_app(&app, &[]);
        let output = server.halonctl(&["config", "reload"]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(place), "{place}: {error}");
        let before = sink.count();
        send(server.port, "a@b.example", "c@d.example", b"Subject: x\r\n\r\nx\r\n");
        wait_until("mail flows as before", || sink.count() == before + 1);
    }
    server.write_app(&good, &[]);
    server.ctl(&["config", "reload"]);
    server.write(
        "policy.yaml",
        "version: \"6.9\"\npolicies: [{fields: [remotemx], default: {concurency: 1}}]\n",
    );
    let output = server.halonctl(&["queue", "policy", "reload"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(1) && error.contains("policy.yaml:2:") && error.contains("concurency"),
        "{error}"
    );
}

/// Four messages as files of a stopped server; the sink is down meanwhile.
fn stored(startup: &str) -> (Server, Sink) {
    let sink = Sink::start();
    let mut server = Server::prepare(&configuration(&sink, "", ""), &[]);
    server.add_startup(startup);
    sink.set_down(true);
    server.launch();
    for number in 0..4 {
        send(
            server.port,
            "a@b.example",
            "c@d.example",
            format!("Subject: {number}\r\n\r\nbody {number}\r\n").as_bytes(),
        );
    }
    assert_eq!(server.stop(), Some(0));
    assert_eq!(server.hqf_files().len(), 4);
    sink.set_down(false);
    (server, sink)
}

fn flip(path: &std::path::Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn damaged_queue_files_are_treated_as_configured_and_the_rest_is_delivered() {
    for policy in ["ignore", "rename", "fail"] {
        let (mut server, sink) = stored(&format!("spool: {{corrupt: {policy}}}\n"));
        let files = server.hqf_files();
        // The header of one, the end (COMMIT and what follows) of another, the content of a third.
        flip(&files[0], 33);
        let bytes = std::fs::read(&files[1]).unwrap();
        std::fs::write(&files[1], &bytes[..bytes.len() / 2]).unwrap();
        if policy == "fail" {
            let (status, error) = server.launch_failing();
            assert_eq!(status, Some(1), "{error}");
            let named = files[..2].iter().any(|file| error.contains(file.to_str().unwrap()));
            assert!(named && error.contains("corrupt"), "{error}");
            assert!(!is_listening(server.port));
            assert_eq!(server.hqf_files(), files, "nothing is touched");
            continue;
        }
        flip(&files[2], 80);
        server.launch();
        wait_until("the whole one arrives", || sink.count() == 1);
        wait_until("the one with damaged content is held", || server.counter("queue.freeze.hold.size") == 1);
        assert_eq!(sink.count(), 1);
        let left = |file: &std::path::Path| match policy {
            "ignore" => file.exists(),
            _ => !file.exists() && std::path::PathBuf::from(format!("{}.corrupt", file.display())).exists(),
        };
        assert!(left(&files[0]) && left(&files[1]), "{policy}");
        let log = server.log();
        for file in &files[..2] {
            assert!(log.contains(file.to_str().unwrap()), "{policy}: {log}");
        }
    }
}

#[test]
fn too_little_free_space_refuses_mail_with_452_and_goes_on_delivering() {
    let (mut server, sink) = stored("");
    server.add_startup("spool: {minfree: {bytes: 1000TiB}}\n");
    server.launch();
    wait_until("what was stored is delivered", || sink.count() == 4);
    assert_replies(&server, "MAIL FROM:<a@b.example>\r\nQUIT\r\n", &["452 4.3.1", "221 "]);
    assert_eq!(server.counter("spool.minfree"), 1);
}

#[test]
fn full_disk_loses_nothing_and_service_resumes() {
    let namespaces =
        Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success());
    if !is_root() || !namespaces {
        println!("SKIPPED: a full disk needs root and mount namespaces");
        return;
    }
    let sink = Sink::start();
    let mut server = Server::prepare(&configuration(&sink, "", ""), &[]);
    server.add_startup("spool: {journal: {segment: 4MiB, segments: 2}}\n");
    let spool = server.path("spool");
    server.before_start =
        Some(format!("mkdir -p {0} && mount -t tmpfs -o size=24m tmpfs {0}", spool.display()));
    sink.set_down(true);
    server.launch();
    let mut accepted = Vec::new();
    let mut refused = 0;
    let mut number = 0;
    let end = Instant::now() + Duration::from_secs(40);
    // So many refusals that both ways of storing have met the full disk.
    while refused < 25 && Instant::now() < end {
        number += 1;
        // Every tenth is written to a file while it comes, so that the disk is full in the middle of it.
        let lines = if number % 10 == 0 { 40_000 } else { 8_000 };
        let line = "0123456789abcdef0123456789abcdef\r\n";
        let content = format!("Subject: token {number}\r\n\r\n{}", line.repeat(lines));
        let outcome = Sender::connect(server.port)
            .and_then(|mut s| s.send("a@b.example", "c@d.example", content.as_bytes()));
        let outcome = outcome.expect("the server answers");
        if outcome.is_delivered() {
            accepted.push(number);
        } else {
            let reply = outcome.result.as_ref().expect("a reply").to_string();
            assert!(reply.starts_with("452 4.3.1"), "{reply}");
            refused += 1;
        }
    }
    assert!(refused >= 25 && accepted.len() > 20, "{} accepted, {refused} refused", accepted.len());
    sink.set_down(false);
    wait_until("all accepted ones arrive", || sink.count() >= accepted.len() && server.queue().is_empty());
    sink.look(|all| {
        for number in &accepted {
            let subject = format!("Subject: token {number}\r\n");
            let count =
                all.iter().filter(|taken| String::from_utf8_lossy(&taken.content).contains(&subject)).count();
            assert_eq!(count, 1, "{subject}");
        }
    });
    send(server.port, "a@b.example", "again@d.example", b"Subject: again\r\n\r\nx\r\n");
    wait_until("service resumes", || sink.look(|all| all.iter().any(|taken| taken.to == "again@d.example")));
    println!(
        "disk full: {} accepted, {} delivered once, {refused} refused with 452",
        accepted.len(),
        accepted.len()
    );
}

#[test]
fn early_data_behind_a_refused_client_is_not_read_as_commands() {
    let (server, sink) = start("maxerrors: 1,", "");
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(format!("WHAT\r\nEHLO c\r\n{START}x\r\n.\r\n").as_bytes()).unwrap();
    let mut output = String::new();
    stream.read_to_string(&mut output).unwrap();
    assert!(output.lines().last().is_some_and(|line| line.starts_with("421 4.7.0")), "{output}");
    wait_until("the session ends", || is_idle(&server));
    assert_eq!(sink.count(), 0);
}
