//! Next hops, name servers and scripts that fail: nothing is lost, nobody is told twice, and reports can be read
//! by others.

use blackbox::client::send;
use blackbox::peer::{Handshake, Peer, TlsPeer, smtp_sink};
use blackbox::report::read_report;
use blackbox::sink::Sink;
use blackbox::zone::Zone;
use blackbox::{Server, wait_until};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

const APP: &str = r#"
version: "6.9"
servers: [{id: in, transport: out, phases: {connect: {remoteptr: false}}}]
transportgroups:
  - id: g
    session: {tls: {mode: disabled}}
    connection: {server: 127.0.0.1}
    transports:
      - id: out
        connection: {port: %PEER}
        session: {%SESSION}
        retry: {%RETRY}
        dsn: {transport: dsn}
      - {id: dsn, connection: {port: %SINK}}
      - {id: mx, connection: {server: lookup-mx, port: %PEER}, retry: {%RETRY}, dsn: {transport: dsn}}
"#;

/// The session of the next hop: impatient.
const SESSION: &str = "pipelining: true, timeout: {BANNER: 1, EHLO: 1, MAIL: 1, RCPT: 1, DATA: 1, EOD: 1}";

const MESSAGE: &[u8] =
    b"From: a@sender.example\r\nMessage-ID: <original@sender.example>\r\nSubject: hello\r\n\r\nbody text\r\n";

/// A server, its next hop and the sink of its reports.
struct Rig {
    server: Server,
    peer: Peer,
    reports: Sink,
}

/// `retry` is the value of the transport's `retry`; `more` is added to the running configuration.
fn rig(replies: &[&str], retry: &str, more: &str) -> Rig {
    let (peer, reports) = (Peer::start(replies), Sink::start());
    let server = Server::start(&configuration(peer.port, reports.port, retry, more), &[]);
    Rig { server, peer, reports }
}

fn configuration(peer: u16, reports: u16, retry: &str, more: &str) -> String {
    let app = APP.replace("%PEER", &peer.to_string()).replace("%SINK", &reports.to_string());
    app.replace("%RETRY", retry).replace("%SESSION", SESSION) + more
}

impl Rig {
    fn send(&self, from: &str, to: &str) {
        send(self.server.port, from, to, MESSAGE);
    }

    fn wait_for_empty_queue(&self) {
        wait_until("the queue is empty", || self.server.queue().is_empty());
    }

    /// Waits for the one report and has it read by Python.
    fn report(&self) -> serde_json::Value {
        wait_until("a report arrives", || self.reports.count() == 1);
        self.wait_for_empty_queue();
        let taken = &self.reports.taken()[0];
        assert_eq!((taken.from.as_str(), taken.to.as_str()), ("", "a@sender.example"));
        read_report(&taken.content)
    }

    fn delivery_counters(&self) -> (u64, u64, u64) {
        let of = |name: &str| self.server.counter(&format!("queue.delivery.{name}"));
        (of("delivered"), of("delayed"), of("failed"))
    }
}

#[test]
fn temporary_reply_to_any_command_is_retried_and_the_message_delivered_once() {
    let replies = ["CONNECT=450,220", "MAIL=451,250", "RCPT=452,250", "DATA=451,354", "EOD=450,250"];
    let rig = rig(&replies, "count: 10, intervals: [{interval: 1}]", "");
    let started = Instant::now();
    rig.send("a@sender.example", "b@test.example");
    rig.wait_for_empty_queue();
    assert!(
        started.elapsed() >= Duration::from_secs(5),
        "five waits of a second, not {:?}",
        started.elapsed()
    );
    assert_eq!(rig.peer.count(), 1);
    assert_eq!(rig.delivery_counters(), (1, 5, 0));
    assert_eq!(rig.reports.count(), 0);
    for command in ["RCPT TO", "DATA", "end of data"] {
        let log = rig.server.log().to_lowercase();
        assert!(log.contains(&format!("(in reply to {}", command.to_lowercase())), "{command}: {log}");
    }
}

#[test]
fn permanent_reply_makes_a_report_that_others_can_read() {
    let rig = rig(&["RCPT=550"], "count: 10, intervals: [{interval: 1}]", "");
    rig.send("a@sender.example", "b@test.example");
    let report = rig.report();
    let header = &report["header"];
    assert_eq!(header["to"], "<a@sender.example>".trim_matches(['<', '>']), "{header}");
    assert_eq!(header["subject"], "Undeliverable: hello");
    assert_eq!(header["in-reply-to"], "<original@sender.example>");
    assert_eq!(header["auto-submitted"], "auto-replied");
    assert!(header["from"].as_str().unwrap().contains("postmaster@mx.test.example"), "{header}");
    let (message, recipient) = (&report["status"][0], &report["status"][1]);
    assert_eq!(message["reporting-mta"], "dns; mx.test.example");
    assert!(message["arrival-date"].is_string(), "{message}");
    assert_eq!(recipient["final-recipient"], "rfc822; b@test.example");
    assert_eq!(recipient["action"], "failed");
    assert_eq!(recipient["status"], "5.0.0");
    assert_eq!(recipient["remote-mta"], "dns; 127.0.0.1");
    assert_eq!(recipient["diagnostic-code"], "smtp; 550 scripted reply to RCPT");
    let text = report["text"].as_str().unwrap();
    assert!(
        text.contains("b@test.example") && text.contains("550 scripted reply") && text.contains("RCPT TO"),
        "{text}"
    );
    let original = report["original"].as_str().unwrap();
    assert!(
        original.contains("Message-ID: <original@sender.example>") && !original.contains("body text"),
        "{original}"
    );
    assert_eq!(rig.delivery_counters(), (1, 0, 1), "the report is a delivery of its own");
    assert_eq!(rig.peer.count(), 0);
    wait_until("the spool is empty", || rig.server.hqf_files().is_empty());
}

#[test]
fn null_sender_never_causes_a_report() {
    let rig = rig(&["RCPT=550"], "count: 10, intervals: [{interval: 1, notify: true}]", "");
    rig.send("", "b@test.example");
    wait_until("the attempt failed", || rig.delivery_counters() == (0, 0, 1));
    rig.wait_for_empty_queue();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(rig.reports.count(), 0);
    wait_until("the spool is empty", || rig.server.hqf_files().is_empty());
}

#[test]
fn exhausted_retries_are_reported_with_the_last_reply() {
    let rig = rig(&["RCPT=451,452"], "count: 1, intervals: [{interval: 1}]", "");
    rig.send("a@sender.example", "b@test.example");
    let report = rig.report();
    let recipient = &report["status"][1];
    assert_eq!(recipient["action"], "failed");
    assert_eq!(recipient["diagnostic-code"], "smtp; 452 scripted reply to RCPT");
    assert_eq!(rig.delivery_counters(), (1, 2, 0), "count 1: two attempts (Q13)");
}

#[test]
fn delay_is_noticed_once_and_the_message_delivered_later() {
    let rig = rig(&["RCPT=451,451,451,250"], "count: 10, intervals: [{interval: 1, notify: true}]", "");
    rig.send("a@sender.example", "b@test.example");
    let report = rig.report();
    assert_eq!(report["header"]["subject"], "Delayed: hello");
    let recipient = &report["status"][1];
    assert_eq!(recipient["action"], "delayed");
    assert_eq!(recipient["status"], "4.0.0");
    assert!(recipient["will-retry-until"].is_string(), "{recipient}");
    assert_eq!(rig.peer.count(), 1);
    assert_eq!(rig.delivery_counters(), (2, 3, 0));
    assert_eq!(rig.reports.count(), 1, "one notice for three failures of the same step");
}

#[test]
fn peer_that_closes_at_any_point_loses_nothing() {
    let replies =
        ["CONNECT=close,220", "MAIL=close,250", "RCPT=close,250", "DATA=close,354", "EOD=close,250"];
    let rig = rig(&replies, "count: 10, intervals: [{interval: 1}]", "");
    // Larger than what the sockets take, so that the content is on its way when the peer goes.
    let mut content = b"Subject: large\r\n\r\n".to_vec();
    content.extend(b"0123456789abcdef0123456789abcdef0123456789abcdef\r\n".repeat(160_000));
    send(rig.server.port, "a@sender.example", "b@test.example", &content);
    rig.wait_for_empty_queue();
    assert_eq!(rig.peer.count(), 1);
    assert!(rig.peer.taken()[0].len() > content.len());
    assert_eq!(rig.delivery_counters(), (1, 5, 0));
    // The content was out and no reply came: it may be there twice, it must not be lost.
    assert!(rig.server.log().contains("in state EOD"), "{}", rig.server.log());
    assert_eq!(rig.reports.count(), 0);
}

#[test]
fn peer_that_stalls_costs_the_time_of_its_state_and_a_retry() {
    let replies =
        ["CONNECT=stall,220", "MAIL=stall,250", "RCPT=stall,250", "DATA=stall,354", "EOD=stall,250"];
    let (peer, reports) = (Peer::start(&replies), Sink::start());
    let app = configuration(peer.port, reports.port, "count: 10, intervals: [{interval: 0}]", "");
    // One command at a time, so that each state has its own wait.
    let server = Server::start(&app.replace("pipelining: true", "pipelining: false"), &[]);
    let rig = Rig { server, peer, reports };
    let started = Instant::now();
    rig.send("a@sender.example", "b@test.example");
    rig.wait_for_empty_queue();
    assert!(started.elapsed() >= Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert_eq!((rig.peer.count(), rig.delivery_counters()), (1, (1, 5, 0)));
    for state in ["BANNER", "MAIL", "RCPT", "DATA", "EOD"] {
        assert!(
            rig.server.log().contains(&format!("timed out in state {state}")),
            "{state}: {}",
            rig.server.log()
        );
    }
}

#[test]
fn second_mx_takes_over_without_a_retry() {
    let zone = Zone::start("@ IN MX 10 mx1\n@ IN MX 20 mx2\nmx1 IN A 127.0.0.2\nmx2 IN A 127.0.0.1\n");
    let resolver = format!("resolver: {{servers: [{{address: 127.0.0.1, port: {}}}]}}\n", zone.port);
    let (peer, reports) = (Peer::start(&[]), Sink::start());
    let app = configuration(peer.port, reports.port, "count: 3, intervals: [{interval: 60}]", &resolver);
    let server = Server::start(&app.replace("transport: out", "transport: mx"), &[]);
    let rig = Rig { server, peer, reports };
    for _ in 0..5 {
        rig.send("a@sender.example", "b@test.example");
    }
    rig.wait_for_empty_queue();
    assert_eq!(rig.peer.count(), 5);
    assert_eq!(rig.server.counter("queue.delivery.delayed"), 0);
    assert_eq!(rig.server.log().matches("trying the next address").count(), 5);
}

#[test]
fn dead_domains_are_reported_at_once_with_their_status() {
    let zone = Zone::start("null IN MX 0 .\nnodata IN TXT \"nothing here\"\n");
    let resolver = format!("resolver: {{servers: [{{address: 127.0.0.1, port: {}}}]}}\n", zone.port);
    for (domain, status) in
        [("missing.test.example", "5.1.2"), ("nodata.test.example", "5.1.2"), ("null.test.example", "5.1.10")]
    {
        let (peer, reports) = (Peer::start(&[]), Sink::start());
        let app = configuration(peer.port, reports.port, "count: 3, intervals: [{interval: 60}]", &resolver);
        let server = Server::start(&app.replace("transport: out", "transport: mx"), &[]);
        let rig = Rig { server, peer, reports };
        rig.send("a@sender.example", &format!("b@{domain}"));
        let report = rig.report();
        let recipient = &report["status"][1];
        assert_eq!(recipient["status"], status, "{domain}: {recipient}");
        assert_eq!(recipient["action"], "failed");
        assert!(recipient.get("remote-mta").is_none(), "nothing was connected: {recipient}");
    }
}

#[test]
fn silent_name_server_defers() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let resolver =
        format!("resolver: {{servers: [{{address: 127.0.0.1, port: {port}}}], timeout: 1, retries: 0}}\n");
    let (peer, reports) = (Peer::start(&[]), Sink::start());
    let app = configuration(peer.port, reports.port, "count: 3, intervals: [{interval: 60}]", &resolver);
    let server = Server::start(&app.replace("transport: out", "transport: mx"), &[]);
    send(server.port, "a@sender.example", "b@test.example", MESSAGE);
    wait_until("it is deferred", || server.counter("queue.queue.defer.size") == 1);
    let entry = &server.queue()[0];
    assert_eq!(entry["retrycount"], "1", "{entry}");
    assert!(entry["retrydelay"].as_f64().unwrap() > 30.0, "{entry}");
    assert_eq!(reports.count(), 0);
}

/// The configuration with a TLS mode for the next hop.
fn with_tls(mode: &str, port: u16, reports: u16) -> Server {
    let app = configuration(port, reports, "count: 30, intervals: [{interval: 60}]", "");
    let app = app.replace(SESSION, &format!("tls: {{mode: {mode}}}"));
    assert!(app.contains(mode));
    let server = Server::start(&app, &[]);
    send(server.port, "a@sender.example", "b@test.example", MESSAGE);
    server
}

#[test]
fn optional_and_required_tls_deliver_to_a_self_signed_peer() {
    for mode in ["optional", "require"] {
        let (peer, reports) = (TlsPeer::start(Handshake::SelfSigned), Sink::start());
        let server = with_tls(mode, peer.port, reports.port);
        wait_until("it is delivered", || server.counter("queue.delivery.delivered") == 1);
        let log = peer.log();
        assert!(
            log.contains("tls MAIL FROM:<a@sender.example>") && log.contains("tls MESSAGE"),
            "{mode}: {log}"
        );
        assert!(!log.contains("plain MAIL"), "{mode}: {log}");
    }
}

#[test]
fn tls_that_cannot_be_had_or_trusted_is_temporary_and_sends_nothing() {
    for (mode, handshake) in [("require_verify", Handshake::SelfSigned), ("require", Handshake::Broken)] {
        let (peer, reports) = (TlsPeer::start(handshake), Sink::start());
        let server = with_tls(mode, peer.port, reports.port);
        wait_until("it is deferred", || server.counter("queue.queue.defer.size") == 1);
        let log = peer.log();
        assert!(log.contains("plain STARTTLS") && !log.contains("MAIL"), "{mode}: {log}");
        assert_eq!((server.counter("queue.delivery.delayed"), reports.count()), (1, 0), "{mode}");
    }
    // A peer that does not announce STARTTLS at all.
    let (port, _sink) = smtp_sink();
    let reports = Sink::start();
    let server = with_tls("require", port, reports.port);
    wait_until("it is deferred", || server.counter("queue.queue.defer.size") == 1);
    let entry = &server.queue()[0];
    assert!(entry["retryreason"].as_str().unwrap().to_lowercase().contains("starttls"), "{entry}");
}

#[test]
fn optional_tls_with_a_broken_handshake_is_delivered_in_the_clear() {
    let (peer, reports) = (TlsPeer::start(Handshake::Broken), Sink::start());
    let server = with_tls("optional", peer.port, reports.port);
    wait_until("it is delivered", || server.counter("queue.delivery.delivered") == 1);
    assert_eq!(server.counter("queue.delivery.delayed"), 0, "in the same attempt");
    assert!(peer.log().contains("plain MESSAGE"), "{}", peer.log());
}

#[test]
fn predelivery_decides_each_attempt() {
    let other = Sink::start();
    let script = r#"
scripting:
  hooks:
    predelivery: |
        $who = $message["recipientaddress"]["localpart"];
        if ($who == "try")
          Try(["port" => %OTHER, "helo" => "tried.test.example", "sender" => "s@changed.example", "recipient" => "r@changed.example"]);
        if ($who == "queue" and $arguments["retry"] == 0) {
          SetMetaData(["seen" => "yes"]);
          Queue(["delay" => 1, "reason" => "not yet", "jobid" => "later"]);
        }
        if ($who == "same" and GetMetaData() == []) {
          SetMetaData(["seen" => "yes"]);
          Queue(["delay" => 1, "increment_retry" => false]);
        }
        if ($who == "hold")
          Queue(["hold" => true, "reason" => "kept"]);
        if ($who == "bounce")
          Bounce(["status" => [5, 7, 9], "diagnosticcode" => "not today", "dsn" => ["subject_prepend" => "No: ", "headers" => ["X-Report: one"]]]);
        if ($who == "delete")
          Delete(["reason" => "unwanted"]);
"#;
    let script = script.replace("%OTHER", &other.port.to_string());
    let rig = rig(&[], "count: 3, intervals: [{interval: 60}]", &script);
    rig.send("a@sender.example", "try@test.example");
    wait_until("it arrives elsewhere", || other.count() == 1);
    let taken = &other.taken()[0];
    assert_eq!(
        (taken.helo.as_str(), taken.from.as_str(), taken.to.as_str()),
        ("tried.test.example", "s@changed.example", "r@changed.example")
    );
    rig.wait_for_empty_queue();

    rig.send("a@sender.example", "queue@test.example");
    wait_until("it waits", || rig.server.counter("queue.queue.defer.size") == 1);
    let entry = &rig.server.queue()[0];
    assert_eq!(
        (&entry["retrycount"], &entry["retryreason"], &entry["jobid"]),
        (&"1".into(), &"not yet".into(), &"later".into())
    );
    assert_eq!(entry["metadata"]["seen"], "yes", "{entry}");
    wait_until("it is delivered", || rig.peer.count() == 1);
    rig.wait_for_empty_queue();

    rig.send("a@sender.example", "same@test.example");
    wait_until("it waits", || rig.server.counter("queue.queue.defer.size") == 1);
    assert_eq!(rig.server.queue()[0]["retrycount"], "0");
    wait_until("it is delivered", || rig.peer.count() == 2);
    rig.wait_for_empty_queue();

    rig.send("a@sender.example", "hold@test.example");
    wait_until("it is held", || rig.server.counter("queue.freeze.hold.size") == 1);
    rig.server.ctl(&["queue", "update", "--recipient", "hold@test.example", "--active"]);
    wait_until("it is held again", || rig.server.counter("queue.freeze.hold.size") == 1);
    rig.server.ctl(&["queue", "update", "--recipient", "hold@test.example", "--delete"]);
    rig.wait_for_empty_queue();

    rig.send("a@sender.example", "delete@test.example");
    rig.wait_for_empty_queue();
    assert_eq!(rig.reports.count(), 0);

    rig.send("a@sender.example", "bounce@test.example");
    let report = rig.report();
    assert_eq!(
        (&report["header"]["subject"], &report["header"]["x-report"]),
        (&"No: hello".into(), &"one".into())
    );
    let recipient = &report["status"][1];
    assert_eq!(
        (&recipient["status"], &recipient["diagnostic-code"]),
        (&"5.7.9".into(), &"x-error; not today".into())
    );
    assert_eq!(rig.peer.count(), 2);
}

#[test]
fn postdelivery_overrides_what_would_happen() {
    let script = r#"
scripting:
  hooks:
    postdelivery: |
        $who = $message["recipientaddress"]["localpart"];
        echo $who . " " . ($arguments["action"] ?? "none") . " " . string($arguments["attempt"]["result"]["code"]) . " " . $arguments["attempt"]["result"]["state"];
        if (!isset($arguments["action"])) Bounce();
        if ($who == "queue" and $arguments["retry"] == 0)
          Queue(["delay" => 1, "reason" => "once more"]);
        if ($who == "delete")
          Delete();
        if ($who == "default")
          Default();
        if ($who == "error")
          $undefined->call();
"#;
    let (peer, reports) = (Peer::start(&["RCPT=550,550,550,550,550,250"]), Sink::start());
    let app = configuration(peer.port, reports.port, "count: 3, intervals: [{interval: 60}]", script);
    let mut server = Server::prepare(&app, &[]);
    server.add_startup("logging: {level: debug}\n");
    server.launch();
    let rig = Rig { server, peer, reports };
    rig.send("a@sender.example", "delete@test.example");
    wait_until("it failed", || rig.delivery_counters().2 == 1);
    rig.wait_for_empty_queue();
    assert_eq!(rig.reports.count(), 0, "deleted instead of bounced");
    rig.send("a@sender.example", "queue@test.example");
    wait_until("it waits", || rig.server.counter("queue.queue.defer.size") == 1);
    assert_eq!(rig.server.queue()[0]["retryreason"], "once more");
    wait_until("then it bounces", || rig.reports.count() == 1);
    rig.send("a@sender.example", "default@test.example");
    wait_until("the default is a bounce", || rig.reports.count() == 2);
    rig.send("a@sender.example", "error@test.example");
    wait_until("an error takes the default", || rig.reports.count() == 3);
    rig.wait_for_empty_queue();
    rig.send("a@sender.example", "success@test.example");
    wait_until("it is delivered", || rig.peer.count() == 1);
    rig.wait_for_empty_queue();
    assert_eq!(rig.reports.count(), 3, "Bounce() after success changes nothing");
    let log = rig.server.log();
    for line in ["delete BOUNCE 550 RCPT", "success none 250 EOD"] {
        assert!(log.contains(line), "{line}: {log}");
    }
}

#[test]
fn script_error_before_delivery_waits_300_seconds_and_counts_no_retry() {
    let script = "scripting: {hooks: {predelivery: '$undefined->call();'}}\n";
    let rig = rig(&[], "count: 3, intervals: [{interval: 1}]", script);
    rig.send("a@sender.example", "b@test.example");
    wait_until("it waits", || rig.server.counter("queue.queue.defer.size") == 1);
    let entry = &rig.server.queue()[0];
    assert_eq!(entry["retrycount"], "0", "{entry}");
    let delay = entry["retrydelay"].as_f64().unwrap();
    assert!((290.0..=300.0).contains(&delay), "{delay}");
    assert_eq!((rig.peer.count(), rig.reports.count()), (0, 0));
    assert_eq!(rig.server.counter("queue.scripts.predelivery.errors"), 1);
}
