//! Connections that are kept between messages: what is shared, what is not, and that a dead one costs nothing.

use blackbox::certificates::self_signed;
use blackbox::client::{Sender, send};
use blackbox::scripted::{Answer, Command, Script, Scripted, say};
use blackbox::zone::Zone;
use blackbox::{Server, wait_until};
use std::time::Duration;

const APP: &str = r#"
version: "6.9"
servers: [{id: in, transport: out, phases: {connect: {remoteptr: false}}}]
addresses: [{id: one, address: 127.0.0.1}, {id: two, address: 127.0.0.2, helo: two.test.example}]
queues: {pooling: {size: %SIZE}}
transportgroups:
  - id: g
    connection: {server: 127.0.0.1}
    retry: {intervals: [{interval: 1}]}
    session: {tls: {mode: disabled}, timeout: {RSET: 1, MAIL: 1}}
    transports: [{id: out, connection: {port: %PORT}}]
"#;

const PIPELINING: &[&str] = &["PIPELINING", "8BITMIME"];

fn server(port: u16, size: usize, pooling: &str, more: &str) -> Server {
    let app = APP.replace("%PORT", &port.to_string()).replace("%SIZE", &size.to_string());
    let mut server = Server::prepare(&(app + more), &[]);
    server.write(
        "delivery.yaml",
        &format!("version: \"6.9\"\ndelivery: {{default: {{pooling: {{enabled: true, {pooling}}}}}}}\n"),
    );
    let dir = server.dir.path().display();
    let startup = std::fs::read_to_string(server.path("smtpd.yaml")).unwrap();
    let with =
        startup.replace("environment:\n", &format!("environment:\n  deliveryconf: {dir}/delivery.yaml\n"));
    server.write("smtpd.yaml", &with);
    server.launch();
    server
}

fn predelivery(script: &str) -> String {
    let lines: String = script.lines().map(|line| format!("      {line}\n")).collect();
    format!("scripting:\n  hooks:\n    predelivery: |\n{lines}")
}

/// Sends one after the other; each is delivered before the next comes.
fn send_in_turn(server: &Server, recipients: &[&str]) {
    for recipient in recipients {
        let before = server.counter("queue.delivery.delivered");
        let message = format!("Subject: {recipient}\r\n\r\nbody\r\n");
        send(server.port, "a@sender.example", &format!("{recipient}@test.example"), message.as_bytes());
        wait_until("it is delivered", || server.counter("queue.delivery.delivered") == before + 1);
        // It is kept right behind the result.
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn pool(server: &Server) -> (u64, u64, u64, u64, u64, u64) {
    let of = |name: &str| server.counter(&format!("queue.connections.pooling.{name}"));
    (of("size"), of("hits"), of("misses"), of("expires"), of("evicts"), of("skips"))
}

#[test]
fn one_connection_carries_many_messages() {
    let peer = Scripted::good(PIPELINING);
    let server = server(peer.port, 10, "transactions: 0", "");
    send_in_turn(&server, &["r1", "r2", "r3", "r4", "r5"]);
    assert_eq!((peer.count(), peer.connections()), (5, 1));
    assert_eq!(pool(&server), (1, 4, 1, 0, 0, 0));
    assert_eq!(server.counter("queue.connections.pooling.maxsize"), 10);
    assert_eq!(server.counter("queue.connections.concurrent"), 0, "an idle connection is no running attempt");
    let commands = peer.commands();
    let expected = ["EHLO", "MAIL", "RCPT", "DATA", "RSET", "MAIL", "RCPT", "DATA", "RSET"];
    let verbs: Vec<&str> = commands.iter().map(|line| line.split([' ', ':']).nth(2).unwrap()).collect();
    assert_eq!(verbs[..9], expected);
    let taken = peer.taken();
    assert_eq!(taken.iter().map(|t| t.transaction).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert!(taken.iter().zip(1..).all(|(t, n)| t.rcpt == format!("RCPT TO:<r{n}@test.example>")));
}

#[test]
fn without_pipelining_reset_is_waited_for() {
    let peer = Scripted::start(Script::default(), |_| Answer::Usual);
    let server = server(peer.port, 10, "evictable: true", "");
    send_in_turn(&server, &["r1", "r2", "r3"]);
    assert_eq!((peer.count(), peer.connections()), (3, 1));
}

#[test]
fn scripts_see_the_number_of_the_transaction() {
    let peer = Scripted::good(PIPELINING);
    let more = "scripting:\n  hooks:\n    postdelivery: |\n      echo \"transaction \" . $arguments[\"attempt\"][\"connection\"][\"transactions\"] . \" of \" . $arguments[\"attempt\"][\"connection\"][\"id\"];\n";
    let mut server = server(peer.port, 10, "evictable: true", more);
    server.kill();
    server.write(
        "smtpd.yaml",
        &(std::fs::read_to_string(server.path("smtpd.yaml")).unwrap() + "logging: {level: debug}\n"),
    );
    server.launch();
    send_in_turn(&server, &["r1", "r2"]);
    wait_until("the hook ran", || server.log().contains("transaction 2 of "));
    let log = server.log();
    let id = |number: u32| {
        let text = log.split(&format!("transaction {number} of ")).nth(1).unwrap();
        text.split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(id(1), id(2));
    assert_eq!(id(1).len(), 36, "a UUID");
}

/// A peer that fails kept connections: `broken` decides from the second transaction on, on the first connections only.
fn breaking(broken: impl Fn(&Command<'_>) -> Answer + Send + Sync + 'static) -> Scripted {
    let script = Script { extensions: PIPELINING.to_vec(), ..Script::default() };
    Scripted::start(script, move |command| match command.transaction {
        0 => Answer::Usual,
        _ => broken(command),
    })
}

#[test]
fn a_dead_connection_costs_neither_a_retry_nor_a_duplicate() {
    let on = |state: &'static str, answer: Answer| {
        move |command: &Command<'_>| if command.state == state { answer.clone() } else { Answer::Usual }
    };
    // A state of MAIL is the second one: its number was counted already.
    let second = |answer: Answer| {
        move |command: &Command<'_>| {
            if command.state == "MAIL" && command.transaction == 2 { answer.clone() } else { Answer::Usual }
        }
    };
    let cases: Vec<(&str, Scripted)> = vec![
        ("RSET close", breaking(on("RSET", Answer::Close))),
        ("RSET reset", breaking(on("RSET", Answer::Reset))),
        ("RSET stall", breaking(on("RSET", Answer::Stall))),
        ("RSET drip", breaking(on("RSET", Answer::Drip))),
        ("RSET 421", breaking(on("RSET", say("421 4.4.2 idle too long")))),
        ("RSET 502", breaking(on("RSET", say("502 what?")))),
        ("RSET garbage", breaking(on("RSET", say("SSH-2.0-no")))),
        ("MAIL close", breaking(second(Answer::Close))),
        ("MAIL reset", breaking(second(Answer::Reset))),
        ("MAIL stall", breaking(second(Answer::Stall))),
        ("MAIL 421", breaking(second(say("421 4.7.0 too many messages")))),
    ];
    std::thread::scope(|scope| {
        for (name, peer) in &cases {
            scope.spawn(move || {
                let server = server(peer.port, 10, "transactions: 0", "");
                send_in_turn(&server, &["r1", "r2", "r3", "r4"]);
                assert_eq!(server.counter("queue.delivery.delayed"), 0, "{name}: {}", server.log());
                let mut recipients: Vec<String> = peer.taken().into_iter().map(|t| t.rcpt).collect();
                recipients.sort();
                let expected: Vec<String> = (1..=4).map(|n| format!("RCPT TO:<r{n}@test.example>")).collect();
                assert_eq!(recipients, expected, "{name}: once each");
                assert_eq!(peer.connections(), 4, "{name}");
                assert_eq!(server.log().matches("opening another").count(), 3, "{name}");
            });
        }
    });
}

#[test]
fn a_connection_that_the_peer_closed_is_noticed_before_it_is_used() {
    // Closed at once behind the reply, or with a word of farewell.
    for farewell in [false, true] {
        let script = Script { extensions: PIPELINING.to_vec(), ..Script::default() };
        let peer = Scripted::start(script, move |command| match command.state {
            "EOD" if farewell => say("250 2.0.0 taken\n421 4.3.2 going down"),
            _ => Answer::Usual,
        });
        let server = server(peer.port, 10, "transactions: 0", "");
        send_in_turn(&server, &["r1", "r2", "r3"]);
        if farewell {
            assert_eq!((peer.count(), peer.connections()), (3, 3));
            assert_eq!(server.counter("queue.connections.pooling.hits"), 0);
        } else {
            assert_eq!((peer.count(), peer.connections()), (3, 1));
        }
        assert_eq!(server.counter("queue.delivery.delayed"), 0);
    }
}

#[test]
fn what_was_answered_on_a_kept_connection_counts() {
    // The peer was alive for this message: a refusal, and a close after the sender was taken, are its result.
    let script = Script { extensions: PIPELINING.to_vec(), ..Script::default() };
    let peer =
        Scripted::start(script, |command| match (command.connection, command.transaction, command.state) {
            (1, 2, "RCPT") => say("451 4.7.1 greylisted"),
            (1, 3, "RCPT") => Answer::Close,
            (2, 1, "EOD") => Answer::Close,
            _ => Answer::Usual,
        });
    let server = server(peer.port, 10, "transactions: 0", "");
    send_in_turn(&server, &["r1"]);
    for (recipient, delayed) in [("r2", 1), ("r3", 2)] {
        // Retries are a second away, so that they mix with what follows; each is delivered in the end.
        send(
            server.port,
            "a@sender.example",
            &format!("{recipient}@test.example"),
            b"Subject: x\r\n\r\nx\r\n",
        );
        wait_until("it fails", || server.counter("queue.delivery.delayed") >= delayed);
    }
    wait_until("all are delivered", || server.counter("queue.delivery.delivered") == 3);
    assert!(server.counter("queue.delivery.delayed") >= 3, "the close at the end of data is a failure, too");
    let mut recipients: Vec<String> = peer.taken().into_iter().map(|t| t.rcpt).collect();
    recipients.sort();
    assert_eq!(recipients.len(), 3, "{recipients:?}");
    recipients.dedup();
    assert_eq!(recipients.len(), 3);
}

#[test]
fn nothing_is_shared_across_other_settings() {
    let certificate = Some((self_signed("localhost"), Vec::new()));
    let script = Script {
        extensions: vec!["PIPELINING", "STARTTLS", "AUTH PLAIN", "XCLIENT NAME ADDR"],
        certificate,
        ..Script::default()
    };
    let peer = Scripted::start(script, |_| Answer::Usual);
    let more = predelivery(
        r#"$who = explode("+", $message["recipientaddress"]["localpart"])[0];
$options = [
  "plain" => [],
  "helo" => ["helo" => "other.test.example"],
  "tls" => ["tls" => "optional"],
  "required" => ["tls" => "require"],
  "sni" => ["tls" => "require", "tls_sni" => "name.test.example"],
  "ciphers" => ["tls" => "require", "tls_protocols" => "TLSv1.3"],
  "sasl" => ["saslusername" => "u", "saslpassword" => "p"],
  "password" => ["saslusername" => "u", "saslpassword" => "q"],
  "source" => ["sourceip" => ["one"]],
  "source2" => ["sourceip" => ["two"]],
  "sourcehelo" => ["sourceip" => [["id" => "one", "helo" => "per-ip.test.example"]]],
  "xclient" => ["xclient" => ["ADDR" => "192.0.2.1"]],
  "lmtp" => ["protocol" => "lmtp"],
];
Try($options[$who]);"#,
    );
    let server = server(peer.port, 100, "transactions: 0", &more);
    let kinds = [
        "plain",
        "helo",
        "tls",
        "required",
        "sni",
        "ciphers",
        "sasl",
        "password",
        "source",
        "source2",
        "sourcehelo",
        "xclient",
        "lmtp",
    ];
    for round in 0..2 {
        let recipients: Vec<String> = kinds.iter().map(|kind| format!("{kind}+{round}")).collect();
        let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
        send_in_turn(&server, &recipients);
    }
    let taken = peer.taken();
    assert_eq!(taken.len(), 2 * kinds.len());
    assert_eq!(peer.connections(), kinds.len(), "the second round reuses, and each kind has its own");
    for taken in &taken {
        let kind = taken.rcpt.trim_start_matches("RCPT TO:<").split('+').next().unwrap();
        let number = kinds.iter().position(|known| *known == kind).unwrap() + 1;
        assert_eq!(taken.connection, number, "{kind}");
        assert_eq!(taken.encrypted, ["tls", "required", "sni", "ciphers"].contains(&kind), "{kind}");
    }
    assert_eq!(pool(&server), (13, 13, 13, 0, 0, 0));
    let commands = peer.commands();
    let said = |number: usize, text: &str| {
        commands.iter().any(|line| line.starts_with(&format!("{number} ")) && line.contains(text))
    };
    for (number, text) in [
        (1, "EHLO mx.test.example"),
        (2, "EHLO other.test.example"),
        (3, "tls MAIL"),
        (5, "(sni name.test.example)"),
        (7, "AUTH PLAIN AHUAcA=="),
        (8, "AUTH PLAIN AHUAcQ=="),
        (10, "EHLO two.test.example"),
        (11, "EHLO per-ip.test.example"),
        (12, "XCLIENT ADDR=192.0.2.1"),
        (13, "LHLO mx.test.example"),
    ] {
        assert!(said(number, text), "{number} {text}: {commands:#?}");
    }
    assert!(!said(4, "plain MAIL") && !said(4, "(sni s"));
}

#[test]
fn idle_connections_end_politely() {
    let peer = Scripted::good(PIPELINING);
    let server = server(peer.port, 10, "timeout: 1", "");
    send_in_turn(&server, &["r1"]);
    wait_until("it expires", || pool(&server).3 == 1);
    assert_eq!(pool(&server).0, 0);
    wait_until("the peer is told", || peer.commands().last().unwrap().ends_with("plain QUIT"));
    wait_until("it is closed", || peer.open() == 0);
}

#[test]
fn a_connection_is_used_up_after_its_transactions() {
    let peer = Scripted::good(PIPELINING);
    let server = server(peer.port, 10, "transactions: 3", "");
    send_in_turn(&server, &["r1", "r2", "r3", "r4", "r5", "r6", "r7"]);
    assert_eq!((peer.count(), peer.connections()), (7, 3));
    assert_eq!(peer.commands().iter().filter(|line| line.ends_with("QUIT")).count(), 2);
}

#[test]
fn the_one_idle_longest_makes_room_unless_it_is_protected() {
    let peers: Vec<Scripted> = (0..3).map(|_| Scripted::good(PIPELINING)).collect();
    let try_port = |evictable: bool| {
        predelivery(&format!(
            "$ports = [{}, {}, {}];\nTry([\"port\" => $ports[number($message[\"recipientaddress\"][\"localpart\"])], \
             \"pooling\" => [\"evictable\" => {evictable}]]);",
            peers[0].port, peers[1].port, peers[2].port
        ))
    };
    let first = server(peers[0].port, 2, "transactions: 0", &try_port(true));
    send_in_turn(&first, &["0", "1", "2"]);
    assert_eq!(pool(&first), (2, 0, 3, 0, 1, 0));
    wait_until("the first is closed", || (peers[0].open(), peers[1].open(), peers[2].open()) == (0, 1, 1));
    send_in_turn(&first, &["1", "2", "0"]);
    assert_eq!(pool(&first), (2, 2, 4, 0, 2, 0));
    wait_until("the second is closed", || (peers[0].open(), peers[1].open(), peers[2].open()) == (1, 0, 1));
    drop(first);
    let second = server(peers[0].port, 2, "transactions: 0", &try_port(false));
    send_in_turn(&second, &["0", "1", "2"]);
    assert_eq!(pool(&second), (2, 0, 3, 0, 0, 1), "the third is not kept");
}

#[test]
fn shutdown_says_goodbye_and_a_reload_shrinks_the_pool() {
    let peer = Scripted::good(PIPELINING);
    let mut first = server(peer.port, 10, "transactions: 0", "");
    send_in_turn(&first, &["r1"]);
    assert_eq!(first.stop(), Some(0));
    assert!(peer.commands().last().unwrap().ends_with("plain QUIT"));
    let second = server(peer.port, 10, "transactions: 0", "");
    send_in_turn(&second, &["r1"]);
    let app = std::fs::read_to_string(second.path("app.yaml")).unwrap();
    second.write("app.yaml", &app.replace("size: 10", "size: 0"));
    second.ctl(&["config", "reload"]);
    wait_until("it is closed", || peer.open() == 0);
    send_in_turn(&second, &["r2", "r3"]);
    assert_eq!(pool(&second).0, 0);
    assert_eq!(peer.connections(), 4);
}

#[test]
fn the_policy_says_which_next_hops_share() {
    // One host with two addresses, and two hosts of one grouping.
    let zone = Zone::start(
        "one IN MX 10 mx1\nmx1 IN A 127.0.0.1\nmx1 IN A 127.0.0.2\ntwo IN MX 10 mx2\nmx2 IN A 127.0.0.3\n",
    );
    for (policy, connections) in [("", 3), ("policy: remotemx", 2), ("policy: grouping", 1)] {
        let first = Scripted::good(PIPELINING);
        let script = |address| Script {
            extensions: PIPELINING.to_vec(),
            port: first.port,
            address,
            ..Script::default()
        };
        let others =
            ["127.0.0.2", "127.0.0.3"].map(|address| Scripted::start(script(address), |_| Answer::Usual));
        let app = APP
            .replace("%PORT", &first.port.to_string())
            .replace("size: %SIZE", &format!("size: 10, {policy}"))
            .replace(
                "queues: {",
                "queues: {grouping: {groupings: [{id: all, remotemx: [\"*.test.example\"]}]}, ",
            )
            .replace("server: 127.0.0.1", "server: lookup-mx");
        let app = app
            + &format!("resolver: {{servers: [{{address: 127.0.0.1, port: {}}}]}}\n", zone.port)
            + &predelivery("Try([\"pooling\" => [\"enabled\" => true]]);");
        let server = Server::start(&app, &[]);
        let mut sender = Sender::connect(server.port).unwrap();
        for number in 0..24 {
            let domain = if number % 3 == 0 { "two" } else { "one" };
            let to = format!("r{number}@{domain}.test.example");
            assert!(sender.send("a@sender.example", &to, b"Subject: x\r\n\r\nx\r\n").unwrap().is_delivered());
            wait_until("it is delivered", || server.counter("queue.delivery.delivered") == number + 1);
            std::thread::sleep(Duration::from_millis(20));
        }
        let total = first.connections() + others.iter().map(Scripted::connections).sum::<usize>();
        assert_eq!(total, connections, "{policy}");
    }
}

#[test]
fn mistakes_are_told() {
    for (text, expected) in
        [("queues: {pooling: {policy: remoteip}}", "policy"), ("queues: {pooling: {sizes: 1}}", "sizes")]
    {
        let app = format!("version: \"6.9\"\nservers: []\ntransportgroups: []\n{text}\n");
        let (status, said) = Server::prepare(&app, &[]).launch_failing();
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}
