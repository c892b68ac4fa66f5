//! The main way: in over SMTP, decided by scripts, out over SMTP.

use blackbox::client::{Sender, send};
use blackbox::sink::Sink;
use blackbox::zone::Zone;
use blackbox::{PATIENCE, Process, Server, free_port, system_program, wait_for_port, wait_until};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const RELAY: &str = r#"
version: "6.9"
servers: [{id: in, transport: out, phases: {connect: {remoteptr: false}}}]
transportgroups: [{id: g, transports: [{id: out, connection: {server: 127.0.0.1, port: @SINK}, session: {tls: {mode: disabled}}}]}]
"#;

fn relay() -> (Server, Sink) {
    let sink = Sink::start();
    let server = Server::start(RELAY, &[("SINK", sink.port.to_string())]);
    (server, sink)
}

/// Without the trace field that was added on top.
fn without_received(content: &[u8]) -> &[u8] {
    let text = String::from_utf8_lossy(&content[..content.len().min(400)]);
    assert!(text.starts_with("Received: from client.test.example (unknown [127.0.0.1])\r\n\tby mx.test.example (Halon) with ESMTP\r\n\tid "), "{text}");
    let mut at = 0;
    loop {
        at += content[at..].iter().position(|&b| b == b'\n').expect("a line end") + 1;
        if content[at] != b'\t' {
            return &content[at..];
        }
    }
}

#[test]
fn relays_ten_thousand_messages_by_mx_and_loses_none() {
    let zone = Zone::start("@ IN MX 10 mx1\n@ IN MX 20 mx2\nmx1 IN A 127.0.0.1\nmx2 IN A 127.0.0.1\n");
    let port = free_port();
    let sink = Command::new(system_program("smtp-sink"))
        .args(blackbox::sink_user())
        .args(["-c", &format!("127.0.0.1:{port}"), "200"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("smtp-sink starts");
    let _sink = Process(sink);
    wait_for_port(port);
    let app = r#"
version: "6.9"
servers: [{id: in, transport: mx, concurrency: {total: 200}, phases: {connect: {remoteptr: false}}}]
transportgroups: [{id: g, transports: [{id: mx, connection: {port: @SINK}, session: {tls: {mode: disabled}}}]}]
resolver: {servers: [{address: 127.0.0.1, port: @DNS}], cache: {size: 1000}}
"#;
    let server = Server::start(app, &[("SINK", port.to_string()), ("DNS", zone.port.to_string())]);
    server.write(
        "policy.yaml",
        "version: \"6.9\"\npolicies: [{fields: [remotemx], default: {concurrency: 50}}]\n",
    );
    server.ctl(&["queue", "policy", "reload"]);
    let status = Command::new(system_program("smtp-source"))
        .args([
            "-s",
            "20",
            "-m",
            "10000",
            "-l",
            "4096",
            "-d",
            "-f",
            "a@sender.example",
            "-t",
            "b@test.example",
        ])
        .arg(format!("127.0.0.1:{}", server.port))
        .status()
        .expect("smtp-source starts");
    assert!(status.success());
    let started = Instant::now();
    while server.counter("queue.delivery.delivered") < 10_000 {
        assert!(started.elapsed() < PATIENCE * 2, "delivered {}", server.counter("queue.delivery.delivered"));
        std::thread::sleep(Duration::from_millis(200));
    }
    wait_until("the queue is empty", || server.queue().is_empty());
    for (name, expected) in [
        ("queue.delivery.delivered", 10_000),
        ("queue.delivery.delayed", 0),
        ("queue.delivery.failed", 0),
        ("queue.queue.active.size", 0),
        ("queue.queue.defer.size", 0),
        ("queue.connections.concurrent", 0),
        ("servers.0.connections.concurrent", 0),
    ] {
        assert_eq!(server.counter(name), expected, "{name}");
    }
    assert!(server.counter("resolver.cache.hits") > 9_000, "the MX was looked up once");
    wait_until("the spool is empty", || server.hqf_files().is_empty());
    println!("10000 accepted, 10000 delivered, 0 lost");
}

#[test]
fn unmodified_message_arrives_byte_for_byte() {
    let (server, sink) = relay();
    let mut content = b"From: a@example.com\r\nSubject: caf\xe9 \x00nul\r\nX-Odd:no space\r\n\tfolded \r\n\r\n.dot\r\n..dots\r\n \r\n".to_vec();
    content.extend((0..=255u8).filter(|b| !b"\r\n".contains(b)));
    content.extend_from_slice(b"\r\n");
    content.extend(vec![b'x'; 5000]);
    content.extend_from_slice(b"\r\n\r\n\r\n");
    send(server.port, "a@example.com", "b@example.net", &content);
    wait_until("it arrives", || sink.count() == 1);
    let taken = &sink.taken()[0];
    assert_eq!(without_received(&taken.content), content);
    assert_eq!((taken.from.as_str(), taken.to.as_str()), ("a@example.com", "b@example.net"));
}

#[test]
fn large_message_is_streamed_and_arrives_whole() {
    let (server, sink) = relay();
    let line = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\r\n";
    let mut content = b"Subject: large\r\n\r\n".to_vec();
    while content.len() < 8 << 20 {
        content.extend_from_slice(line);
    }
    send(server.port, "a@example.com", "b@example.net", &content);
    wait_until("it arrives", || sink.count() == 1);
    assert_eq!(without_received(&sink.taken()[0].content), content);
    wait_until("its file is gone", || server.hqf_files().is_empty());
    assert_eq!(std::fs::read_dir(server.path("spool/incoming")).unwrap().count(), 0);
}

#[test]
fn eod_script_rejects_rewrites_and_queues_to_two_transports() {
    let (first, second) = (Sink::start(), Sink::start());
    let app = r#"
version: "6.9"
servers: [{id: in, phases: {connect: {remoteptr: false}, rcptto: {hook: any}, eod: {hook: main}}}]
transportgroups:
  - id: g
    session: {tls: {mode: disabled}}
    connection: {server: 127.0.0.1}
    transports:
      - {id: one, connection: {port: @ONE}}
      - {id: two, connection: {port: @TWO}, session: {helo: two.test.example}}
scripting:
  hooks:
    rcptto: [{id: any, data: "Accept();"}]
    eod:
      - id: main
        data: |
          $mail = $arguments["mail"];
          if ($mail->getHeader("X-Spam") == "yes")
            Reject(["No spam", "please"], ["reply_codes" => ["code" => 554, "enhanced" => [5, 7, 9]]]);
          $plain = $mail->snapshot();
          $mail->setHeader("Subject", "new subject");
          $mail->addHeader("X-Added", "one");
          foreach ($transaction["recipients"] as $r)
            $mail->queue($transaction["senderaddress"], $r["address"], "one", ["metadata" => ["k" => "v"], "jobid" => "job1"]);
          $mail->restore($plain);
          $mail->addHeader("X-Added", "two");
          $mail->queue("", "archive@example.org", "two");
          Accept(["reason" => "taken as " . $transaction["id"]]);
"#;
    let server = Server::start(app, &[("ONE", first.port.to_string()), ("TWO", second.port.to_string())]);
    let mut sender = Sender::connect(server.port).unwrap();
    let refused = sender.send("a@b.example", "c@d.example", b"X-Spam: yes\r\n\r\nx\r\n").unwrap();
    assert_eq!(refused.result.as_ref().unwrap().to_string(), "554 5.7.9 No spam please");
    let taken = sender.send("a@b.example", "C@D.example", b"Subject: old\r\nTo: c\r\n\r\nbody\r\n").unwrap();
    assert!(
        taken.is_delivered() && taken.result.as_ref().unwrap().to_string().contains("taken as "),
        "{taken:?}"
    );
    wait_until("both arrive", || first.count() == 1 && second.count() == 1);
    let text = |sink: &Sink| String::from_utf8(sink.taken()[0].content.clone()).unwrap();
    let (one, two) = (text(&first), text(&second));
    assert!(one.contains("Subject: new subject\r\n") && one.contains("X-Added: one\r\n"), "{one}");
    assert!(
        two.contains("Subject: old\r\n") && two.contains("X-Added: two\r\n") && !two.contains("one"),
        "{two}"
    );
    let (one, two) = (&first.taken()[0], &second.taken()[0]);
    assert_eq!(
        (one.from.as_str(), one.to.as_str(), one.helo.as_str()),
        ("a@b.example", "C@d.example", "mx.test.example")
    );
    assert_eq!(
        (two.from.as_str(), two.to.as_str(), two.helo.as_str()),
        ("", "archive@example.org", "two.test.example")
    );
}

#[test]
fn every_connection_hook_sees_its_variables_and_decides() {
    let sink = Sink::start();
    let app = r#"
version: "6.9"
servers:
  - id: in
    transport: out
    phases: {connect: {hook: h, remoteptr: false}, helo: {hook: h}, mailfrom: {hook: h}, rcptto: {hook: h}, eod: {hook: h}, disconnect: {hook: h}}
transportgroups: [{id: g, transports: [{id: out, connection: {server: 127.0.0.1, port: @SINK}, session: {tls: {mode: disabled}}}]}]
scripting:
  hooks:
    connect: [{id: h, data: '$context = ["connect"]; Accept(["reason" => "hello " . $arguments["remoteip"]]);'}]
    helo: [{id: h, data: '$context[] = $arguments["verb"] . " " . $arguments["host"]; Accept(["extensions" => ["PIPELINING", "XTEST"]]);'}]
    mailfrom: [{id: h, data: 'if ($arguments["sender"] == "bad@b.example") Reject("no", ["disconnect" => true]); $context[] = $arguments["sender"]; Accept(["sender" => "changed@b.example"]);'}]
    rcptto:
      - id: h
        data: |
          if ($arguments["address"]["localpart"] == "error") $undefined->x();
          if ($arguments["address"]["localpart"] == "later") Defer();
          $context[] = $transaction["sender"] . " > " . $arguments["recipient"];
          Accept(["recipient" => ["localpart" => "R", "domain" => "d.example"]]);
    eod:
      - id: h
        data: |
          $arguments["mail"]->addHeader("X-Context", string($context));
          $arguments["mail"]->addHeader("X-Helo", $connection["helo"]["verb"] . " " . $connection["helo"]["host"]);
          foreach ($transaction["recipients"] as $r)
            $arguments["mail"]->queue($transaction["sender"], $r["recipient"], $r["transportid"]);
          Accept();
    disconnect: [{id: h, data: 'echo "bye " . $arguments["close"] . " " . count($context); Pass();'}]
"#;
    let server = Server::prepare(app, &[("SINK", sink.port.to_string())]);
    server.add_startup("logging: {level: debug}\n");
    let mut server = server;
    server.launch();
    let talk =
        |input: &str| blackbox::client::talk(server.port, input.as_bytes(), Duration::from_millis(700));
    let session = talk(
        "EHLO me\r\nMAIL FROM:<A@b.example>\r\nRCPT TO:<error@d.example>\r\nRCPT TO:<later@d.example>\r\nRCPT TO:<ok@d.example>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\nQUIT\r\n",
    );
    let expected = [
        "220 hello 127.0.0.1",
        "250-mx.test.example",
        "250-PIPELINING",
        "250 XTEST",
        "250 2.1.0 Ok",
        "450 4.3.2 Temporary server error",
        "450 4.3.2 Try again later",
        "250 2.1.5 Ok",
        "354 Start mail input; end with <CRLF>.<CRLF>",
        "250 2.0.0 Ok: queued as ",
        "221 2.0.0 Bye",
    ];
    let lines: Vec<&str> = session.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{session}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}\n{expected}");
    }
    wait_until("it arrives", || sink.count() == 1);
    let taken = &sink.taken()[0];
    let text = String::from_utf8_lossy(&taken.content).replace("\r\n ", " ");
    assert!(
        text.contains("EHLO me")
            && text.contains("a@b.example")
            && text.contains("changed@b.example > ok@d.example"),
        "{text}"
    );
    assert_eq!((taken.from.as_str(), taken.to.as_str()), ("changed@b.example", "r@d.example"));
    assert_eq!(talk("EHLO me\r\nMAIL FROM:<bad@b.example>\r\nNOOP\r\n").lines().last(), Some("554 5.7.1 no"));
    wait_until("the disconnect hook ran", || server.log().contains("bye "));
    assert!(server.log().contains("script error in rcptto h: rcptto/h.hsl:1:"), "{}", server.log());
    assert_eq!(server.counter("servers.0.scripts.rcptto.errors"), 1);
}

#[test]
fn script_that_spins_delays_nobody() {
    let sink = Sink::start();
    let app = RELAY.replace("phases: {", "phases: {mailfrom: {hook: spin}, ")
        + "scripting: {limits: {timeout: 3}, hooks: {mailfrom: [{id: spin, data: 'if ($arguments[\"sender\"] == \"spin@b.example\") forever { $x = 1; } Accept();'}]}}\n";
    let server = Server::start(&app, &[("SINK", sink.port.to_string())]);
    let port = server.port;
    let spinners: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(move || {
                blackbox::client::talk(
                    port,
                    b"EHLO a\r\nMAIL FROM:<spin@b.example>\r\nQUIT\r\n",
                    Duration::from_secs(20),
                )
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    for _ in 0..20 {
        let started = Instant::now();
        send(port, "a@b.example", "c@d.example", b"Subject: x\r\n\r\nx\r\n");
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }
    for spinner in spinners {
        let session = spinner.join().unwrap();
        assert!(session.contains("450 4.3.2 Temporary server error"), "{session}");
    }
}

#[test]
fn shutdown_finishes_what_runs_and_keeps_the_rest() {
    let (mut server, sink) = relay();
    for n in 0..20 {
        send(server.port, "a@b.example", "c@d.example", format!("Subject: {n}\r\n\r\nx\r\n").as_bytes());
    }
    assert_eq!(server.stop(), Some(0));
    let delivered = sink.count();
    let kept = server.hqf_files().len();
    assert_eq!(delivered + kept, 20, "{delivered} delivered, {kept} kept");
    server.launch();
    wait_until("all arrive", || sink.count() == 20);
}

#[test]
fn swaks_hands_in_a_message_with_an_attachment_for_two_recipients() {
    let (server, sink) = relay();
    let attachment = server.path("picture.bin");
    std::fs::write(&attachment, (0..=255u8).cycle().take(70_000).collect::<Vec<u8>>()).unwrap();
    let output = Command::new(system_program("swaks"))
        .args(["--server", &format!("127.0.0.1:{}", server.port), "--helo", "client.test.example"])
        .args(["--from", "a@example.com", "--to", "b@example.net,c@example.org", "--pipeline"])
        .args(["--attach", &format!("@{}", attachment.display())])
        .output()
        .expect("swaks starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("250 2.0.0 Ok: queued as "), "{text}");
    wait_until("both arrive", || sink.count() == 2);
    let taken = sink.taken();
    let mut recipients: Vec<&str> = taken.iter().map(|taken| taken.to.as_str()).collect();
    recipients.sort_unstable();
    assert_eq!(recipients, ["b@example.net", "c@example.org"]);
    assert_eq!(taken[0].content, taken[1].content, "one original for both");
    assert!(taken[0].content.len() > 93_000);
}
