//! Every state of a delivery × everything that can go wrong in it: each cell ends as documented, all of them at once.

use blackbox::certificates::self_signed;
use blackbox::client::Sender;
use blackbox::scripted::{Answer, Command, Script, Scripted, say};
use blackbox::{Server, wait_until};
use std::collections::HashMap;

const APP: &str = r#"
version: "6.9"
servers: [{id: in, transport: out, phases: {connect: {remoteptr: false}}}]
queues: {failover: 0}
transportgroups:
  - id: g
    connection: {server: 127.0.0.1}
    retry: {intervals: [{interval: 1h}]}
    session: {timeout: {%TIMEOUTS}}
    transports: [{id: out}]
scripting:
  hooks:
    predelivery: |
      $words = explode("-", $message["recipientaddress"]["localpart"]);
      $kinds = [
        "plain" => ["tls" => "disabled", "pipelining" => false],
        "piped" => ["tls" => "disabled"],
        "lmtp" => ["tls" => "disabled", "protocol" => "lmtp"],
        "xclient" => ["tls" => "disabled", "xclient" => ["ADDR" => "192.0.2.1"]],
        "auth" => ["tls" => "disabled", "saslusername" => "u", "saslpassword" => "p"],
        "chunks" => ["tls" => "disabled", "chunking" => true],
        "optional" => ["tls" => "optional"],
        "required" => ["tls" => "require"],
      ];
      Try($kinds[$words[1]] + ["port" => number($words[0])]);
    postdelivery: |
      $attempt = $arguments["attempt"];
      $ending = isset($attempt["result"])
        ? $attempt["result"]["state"] . " " . $attempt["result"]["code"]
        : "error " . $attempt["error"]["type"] . " " . ($attempt["error"]["temporary"] ? "temporary" : "permanent");
      echo "CELL " . $message["recipientaddress"]["localpart"] . ": " . ($arguments["action"] ?? "DELIVERED") . " " . $ending;
"#;

const STATES: &[&str] = &[
    "BANNER", "EHLO", "HELO", "LHLO", "STARTTLS", "XCLIENT", "AUTH", "MAIL", "RCPT", "DATA", "BDAT", "EOD",
    "QUIT",
];

/// Names of the faults, and what the peer does.
fn faults() -> Vec<(&'static str, Answer)> {
    vec![
        ("4xx", say("451 4.3.0 scripted")),
        ("5xx", say("550 5.3.0 scripted")),
        ("421", say("421 4.3.2 scripted")),
        ("garbage", say("SSH-2.0-scripted")),
        ("1xx", say("150 scripted")),
        ("many", say("250-scripted\n450 scripted")),
        ("close", Answer::Close),
        ("reset", Answer::Reset),
        ("stall", Answer::Stall),
        ("drip", Answer::Drip),
    ]
}

struct Cell {
    name: String,
    peer: Scripted,
    local: String,
    expected: String,
    large: bool,
}

/// What the manual says of a fault in a state whose replies are the result of the attempt.
fn usual(fault: &str, state: &str) -> String {
    match fault {
        "4xx" => format!("QUEUE {state} 451"),
        "5xx" => format!("DELETE {state} 550"),
        "421" => format!("QUEUE {state} 421"),
        "garbage" | "1xx" | "many" => "QUEUE error protocol temporary".to_owned(),
        _ => "QUEUE error network temporary".to_owned(),
    }
}

/// One row: the kind of session, where the peer fails, and what is announced.
struct Row {
    kind: &'static str,
    at: &'static str,
    /// Which command of that state, from 1.
    nth: usize,
    extensions: &'static [&'static str],
    /// The state as the result names it.
    state: &'static str,
    ehlo: bool,
    large: bool,
}

impl Row {
    fn new(
        kind: &'static str,
        at: &'static str,
        state: &'static str,
        extensions: &'static [&'static str],
    ) -> Row {
        Row { kind, at, nth: 1, extensions, state, ehlo: true, large: false }
    }
}

fn rows() -> Vec<Row> {
    let none: &[&str] = &[];
    let piped: &[&str] = &["PIPELINING"];
    let tls: &[&str] = &["PIPELINING", "STARTTLS"];
    let mut rows = vec![
        Row::new("plain", "CONNECT", "BANNER", none),
        Row::new("plain", "EHLO", "EHLO", none),
        Row { ehlo: false, ..Row::new("plain", "HELO", "HELO", none) },
        Row::new("lmtp", "LHLO", "LHLO", none),
        Row::new("lmtp", "EOD", "EOD", none),
        Row::new("xclient", "XCLIENT", "XCLIENT", &["XCLIENT ADDR"]),
        Row { nth: 2, ..Row::new("xclient", "EHLO", "EHLO", &["XCLIENT ADDR"]) },
        Row::new("auth", "AUTH", "AUTH-PLAIN", &["AUTH PLAIN"]),
        Row::new("auth", "AUTH", "AUTH-CRAM-MD5", &["AUTH CRAM-MD5"]),
        Row::new("auth", "LOGIN", "AUTH", &["AUTH CRAM-MD5"]),
        Row::new("auth", "AUTH", "AUTH-LOGIN", &["AUTH LOGIN"]),
        Row::new("auth", "LOGIN", "AUTH-LOGIN-USER", &["AUTH LOGIN"]),
        Row { nth: 2, ..Row::new("auth", "LOGIN", "AUTH", &["AUTH LOGIN"]) },
        Row { large: true, ..Row::new("chunks", "CHUNK", "BDAT", &["PIPELINING", "CHUNKING"]) },
        Row::new("chunks", "EOD", "EOD", &["PIPELINING", "CHUNKING"]),
        Row::new("optional", "STARTTLS", "STARTTLS", tls),
        Row::new("required", "STARTTLS", "STARTTLS", tls),
        Row::new("optional", "HANDSHAKE", "STARTTLS", tls),
        Row::new("required", "HANDSHAKE", "STARTTLS", tls),
        Row { nth: 2, ..Row::new("required", "EHLO", "EHLO", tls) },
        Row::new("required", "MAIL", "MAIL", tls),
        Row::new("required", "EOD", "EOD", tls),
    ];
    for (kind, extensions) in [("plain", none), ("piped", piped)] {
        for state in ["MAIL", "RCPT", "DATA", "EOD", "QUIT"] {
            rows.push(Row::new(kind, state, state, extensions));
        }
        rows.push(Row::new(kind, "CONTENT", "EOD", extensions));
        rows.push(Row { large: true, ..Row::new(kind, "CONTENT", "EOD", extensions) });
    }
    rows
}

fn expected(row: &Row, fault: &str) -> Option<String> {
    let delivered = Some("DELIVERED EOD 250".to_owned());
    match (row.kind, row.at, fault) {
        // The server refuses EHLO and is asked in the older way; behind TLS there is none.
        ("plain" | "xclient", "EHLO", "5xx") => delivered,
        // The result stands already.
        (_, "QUIT", _) => delivered,
        // Refused in order, TLS is done without; broken, it is done without over another connection.
        ("optional", "STARTTLS" | "HANDSHAKE", _) => delivered,
        ("required", "STARTTLS", "4xx" | "5xx") => Some("QUEUE error tls temporary".to_owned()),
        ("required", "HANDSHAKE", _) => Some("QUEUE error tls temporary".to_owned()),
        // Content is not answered; what can happen is that the peer goes or stops reading.
        (_, "CONTENT", "close" | "reset" | "stall") => Some("QUEUE error network temporary".to_owned()),
        (_, "CONTENT", _) => None,
        _ => Some(usual(fault, row.state)),
    }
}

fn peer(row: &Row, answer: Answer) -> Scripted {
    let script = Script {
        extensions: row.extensions.to_vec(),
        certificate: Some((self_signed("localhost"), Vec::new())),
        ..Script::default()
    };
    let (at, nth, ehlo) = (row.at, row.nth, row.ehlo);
    let seen = std::sync::Mutex::new(HashMap::<usize, usize>::new());
    Scripted::start(script, move |command: &Command<'_>| {
        if command.state == "EHLO" && !ehlo {
            return say("500 what?");
        }
        if command.state != at {
            return Answer::Usual;
        }
        let mut seen = seen.lock().unwrap();
        let count = seen.entry(command.connection).or_insert(0);
        *count += 1;
        if *count == nth { answer.clone() } else { Answer::Usual }
    })
}

#[test]
fn every_fault_in_every_state_ends_as_documented() {
    let mut cells = Vec::new();
    for row in rows() {
        for (fault, answer) in faults() {
            let Some(expected) = expected(&row, fault) else { continue };
            let peer = peer(&row, answer);
            let size = if row.large { "large" } else { "small" };
            cells.push(Cell {
                name: format!("{} {} #{} {size} {fault}", row.kind, row.state, row.nth),
                local: format!("{}-{}", peer.port, row.kind),
                peer,
                expected,
                large: row.large,
            });
        }
    }
    let timeouts: Vec<String> = STATES.iter().map(|state| format!("{state}: 2")).collect();
    let app = APP.replace("%TIMEOUTS", &timeouts.join(", "));
    let mut server = Server::prepare(&app, &[]);
    server.add_startup("logging: {level: debug}\n");
    server.launch();
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    let before = descriptors();
    let small = b"Subject: small\r\n\r\nbody\r\n".to_vec();
    let mut large = b"Subject: large\r\n\r\n".to_vec();
    // More than the sockets take, and more than one chunk.
    large.extend(b"0123456789abcdef0123456789abcdef0123456789abcdef\r\n".repeat(160_000));
    let mut sender = Sender::connect(server.port).unwrap();
    for cell in &cells {
        let content = if cell.large { &large } else { &small };
        let to = format!("{}@test.example", cell.local);
        assert!(sender.send("a@sender.example", &to, content).unwrap().is_delivered(), "{}", cell.name);
    }
    drop(sender);
    println!("{} cells", cells.len());
    wait_until("all attempts have ended", || server.log().matches("CELL ").count() >= cells.len());
    wait_until("all results are settled", || {
        server.queue().len() as u64 == server.counter("queue.queue.defer.size")
            && server.counter("queue.connections.concurrent") == 0
    });
    let log = server.log();
    let mut wrong = Vec::new();
    for cell in &cells {
        let marker = format!("CELL {}: ", cell.local);
        let found: Vec<&str> =
            log.split(&marker).skip(1).map(|rest| rest.lines().next().unwrap_or_default()).collect();
        if found != [cell.expected.as_str()] {
            wrong.push(format!("{}: expected {}, found {found:?}", cell.name, cell.expected));
        }
        let taken = usize::from(cell.expected.starts_with("DELIVERED"));
        if cell.peer.count() != taken {
            wrong.push(format!("{}: taken {} times", cell.name, cell.peer.count()));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cells:\n{}", wrong.len(), cells.len(), wrong.join("\n"));
    let waiting = cells.iter().filter(|cell| cell.expected.starts_with("QUEUE")).count();
    let gone = cells.iter().filter(|cell| cell.expected.starts_with("DELETE")).count();
    assert_eq!(server.queue().len(), waiting, "nothing is lost");
    assert_eq!(
        (
            server.counter("queue.delivery.delivered"),
            server.counter("queue.delivery.delayed"),
            server.counter("queue.delivery.failed"),
        ),
        ((cells.len() - waiting - gone) as u64, waiting as u64, gone as u64)
    );
    wait_until("no connection is left", || descriptors() <= before + 10);
    assert!(!log.contains("internal error") && !log.contains("panicked"), "{log}");
    drop(server);
}
