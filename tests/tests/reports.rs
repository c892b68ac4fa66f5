//! Reports of delivery: every option that tailors them, what senders ask for with RFC 3461, and that parsers of others
//! read them to the right recipient, action and status.

use blackbox::certificates::yaml;
use blackbox::client::send;
use blackbox::scripted::{Answer, Script, Scripted, say};
use blackbox::sink::Sink;
use blackbox::talk::Talk;
use blackbox::{Server, wait_until};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

const APP: &str = r#"
version: "6.9"
servers:
  - id: in
    transport: out
    extensions: {dsn: true}
    phases: {connect: {remoteptr: false}}
transportgroups:
  - id: g
    session: {tls: {mode: disabled}}
    connection: {server: 127.0.0.1}
    retry: {count: 5, intervals: [{interval: 1h, notify: true}]}
    dsn: {%DSN}
    transports:
      - {id: out, connection: {port: %PEER}}
      - {id: dsn, connection: {port: %SINK}}
      - {id: other, connection: {port: %OTHER}}
pki: {private: [{id: signer, privatekey: {data: %KEY}}]}
scripting:
  hooks:
    predelivery: |
      %PRE
    postdelivery: |
      %POST
"#;

struct Rig {
    server: Server,
    peer: Scripted,
    reports: Sink,
    other: Sink,
    record: String,
}

/// A next hop that refuses what begins with `bad`, puts off what begins with `later`, and takes the rest.
fn next_hop(extensions: &[&'static str]) -> Scripted {
    Scripted::start(Script { extensions: extensions.to_vec(), ..Script::default() }, |command| match command
        .state
    {
        "RCPT" if command.line.contains("<bad") => say("550-5.1.1 <unknown> no such user\n550 5.1.1 here"),
        "RCPT" if command.line.contains("<later") => say("451 4.7.1 try again"),
        _ => Answer::Usual,
    })
}

fn rig(dsn: &str, pre: &str, post: &str, extensions: &[&'static str]) -> Rig {
    let (peer, reports, other) = (next_hop(extensions), Sink::start(), Sink::start());
    let rsa = openssl::pkey::PKey::from_rsa(openssl::rsa::Rsa::generate(2048).unwrap()).unwrap();
    let pem = String::from_utf8(rsa.private_key_to_pem_pkcs8().unwrap()).unwrap();
    let public = openssl::base64::encode_block(&rsa.public_key_to_der().unwrap());
    let app = APP
        .replace("%DSN", dsn)
        .replace("%PEER", &peer.port.to_string())
        .replace("%SINK", &reports.port.to_string())
        .replace("%OTHER", &other.port.to_string())
        .replace("%KEY", &yaml(&pem))
        .replace("%PRE", &pre.replace('\n', "\n      "))
        .replace("%POST", &post.replace('\n', "\n      "));
    let mut server = Server::prepare(&app, &[]);
    server.add_startup("logging: {level: debug}\n");
    server.launch();
    Rig { server, peer, reports, other, record: format!("v=DKIM1; k=rsa; p={public}") }
}

fn python() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    while path.file_name().is_none_or(|name| name != "target") {
        assert!(path.pop(), "tests run below target");
    }
    path.join("python-tests/venv/bin/python")
}

impl Rig {
    fn read(&self, content: &[u8]) -> serde_json::Value {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("python/read_report.py");
        let mut child = Command::new(python())
            .arg(script)
            .arg(&self.record)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run scripts/python-tests.sh first");
        child.stdin.take().unwrap().write_all(content).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(content);
        assert!(output.status.success(), "{text}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["defects"], serde_json::json!([]), "{text}");
        assert_eq!(report["type"], "multipart/report", "{text}");
        report
    }

    /// Sends a message and gives the report that it causes.
    fn report(&self, sink: &Sink, to: &str) -> (serde_json::Value, blackbox::sink::Taken) {
        let before = sink.count();
        send(self.server.port, "a@sender.example", to, MESSAGE);
        self.next(sink, before)
    }

    fn next(&self, sink: &Sink, before: usize) -> (serde_json::Value, blackbox::sink::Taken) {
        wait_until("a report arrives", || sink.count() > before);
        let taken = sink.taken()[before].clone();
        (self.read(&taken.content), taken)
    }
}

const MESSAGE: &[u8] =
    b"From: a@sender.example\r\nTo: b@test.example\r\nMessage-ID: <original@sender.example>\r\nSubject: gr\xc3\xbc\xc3\x9fe\r\n\r\nthe body\r\n";

#[test]
fn every_option_of_bounce_tailors_the_report() {
    let pre = r#"if ($message["recipientaddress"]["domain"] != "test.example") Try();
$options = [
  "plain" => [],
  "from" => ["from" => "bounces@b.example", "from_name" => "Bounces, Inc. \"B\""],
  "name" => ["from_name" => "Zur\u00fcck"],
  "address" => ["from" => ["localpart" => "x", "domain" => "y.example"]],
  "text" => ["readable_mimepart" => MIME()->setType("text/plain; charset=utf-8")->setBody("Leider unzustellbar.\r\n")],
  "both" => ["readable_mimepart" => MIME()->setType("multipart/alternative")
    ->appendPart(MIME()->setType("text/plain")->setBody("plain text\r\n"))->appendPart(MIME()->setType("text/html")->setBody("<p>text</p>\r\n"))],
  "nohead" => ["original_headers" => false],
  "full" => ["original_message" => true],
  "subject" => ["subject" => "Whole subject"],
  "prefix" => ["subject_prepend" => "Zurueck: "],
  "headers" => ["headers" => ["X-One: 1", "X-Two: two words"]],
  "mta" => ["reporting_mta" => "reporter.example"],
  "sender" => ["sender" => "owner@b.example", "recipient" => "decoded@s.example"],
  "transport" => ["transportid" => "other"],
  "dkim" => ["dkim" => ["selector" => "s", "domain" => "b.example", "key" => "signer", "canonicalization_body" => "simple"]],
  "hold" => ["hold" => true, "jobid" => "J", "tenantid" => "T", "priority" => 1, "metadata" => ["a" => "b"]],
  "delay" => ["delay" => 1000],
];
Bounce(["status" => [5, 7, 9], "diagnosticcode" => "not today", "dsn" => $options[$message["recipientaddress"]["localpart"]]]);"#
        .replace("Zur\\u00fcck", "Zur\u{fc}ck");
    let rig = rig("transport: dsn", &pre, "Default();", &[]);
    let report = |who: &str| rig.report(&rig.reports, &format!("{who}@test.example"));
    let headers = serde_json::json!(["text/plain", "message/delivery-status", "text/rfc822-headers"]);

    let (plain, taken) = report("plain");
    assert_eq!((taken.from.as_str(), taken.to.as_str()), ("", "a@sender.example"));
    let header = &plain["header"];
    assert_eq!(header["from"], "Mail Delivery Subsystem <postmaster@mx.test.example>");
    assert_eq!(
        (&header["to"], &header["subject"]),
        (&"a@sender.example".into(), &"Undeliverable: gr\u{fc}\u{df}e".into())
    );
    assert_eq!(
        (&header["in-reply-to"], &header["references"]),
        (&"<original@sender.example>".into(), &"<original@sender.example>".into())
    );
    assert_eq!(header["auto-submitted"], "auto-replied");
    assert!(
        header["date"].is_string() && header["message-id"].is_string() && header["mime-version"] == "1.0"
    );
    assert_eq!((&plain["report"], &plain["parts"]), (&"delivery-status".into(), &headers));
    assert!(!plain["original"].as_str().unwrap().contains("the body"));
    let (of_message, of_recipient) = (&plain["status"][0], &plain["status"][1]);
    assert_eq!(of_message["reporting-mta"], "dns; mx.test.example");
    assert_eq!(of_message["received-from-mta"], "dns; client.test.example (127.0.0.1)");
    assert!(of_message["arrival-date"].is_string());
    assert_eq!(of_recipient["final-recipient"], "rfc822; plain@test.example");
    assert_eq!((&of_recipient["action"], &of_recipient["status"]), (&"failed".into(), &"5.7.9".into()));
    assert_eq!(of_recipient["diagnostic-code"], "x-error; not today");
    assert_eq!(
        (&plain["permanent"], &plain["temporary"]),
        (&serde_json::json!(["plain@test.example"]), &serde_json::json!([]))
    );
    assert_eq!(plain["signed"], false);

    assert_eq!(report("from").0["header"]["from"], "\"Bounces, Inc. \\\"B\\\"\" <bounces@b.example>");
    assert_eq!(report("name").0["header"]["from"], "Zur\u{fc}ck <postmaster@mx.test.example>");
    assert_eq!(report("address").0["header"]["from"], "Mail Delivery Subsystem <x@y.example>");
    let text = report("text").0;
    assert_eq!((text["text"].as_str().unwrap().trim(), &text["parts"]), ("Leider unzustellbar.", &headers));
    let both = report("both").0;
    assert_eq!(
        (both["text"].as_str().unwrap().trim(), &both["parts"][0]),
        ("plain text", &"multipart/alternative".into())
    );
    assert_eq!(report("nohead").0["parts"], serde_json::json!(["text/plain", "message/delivery-status"]));
    let full = report("full").0;
    assert_eq!(full["parts"][2], "message/rfc822");
    assert!(full["original"].as_str().unwrap().contains("the body"));
    assert_eq!(report("subject").0["header"]["subject"], "Whole subject");
    assert_eq!(report("prefix").0["header"]["subject"], "Zurueck: gr\u{fc}\u{df}e");
    let with = report("headers").0;
    assert_eq!((&with["header"]["x-one"], &with["header"]["x-two"]), (&"1".into(), &"two words".into()));
    assert_eq!(report("mta").0["status"][0]["reporting-mta"], "dns; reporter.example");
    let (sender, taken) = report("sender");
    assert_eq!((taken.from.as_str(), taken.to.as_str()), ("owner@b.example", "decoded@s.example"));
    assert_eq!(sender["header"]["to"], "decoded@s.example");
    let dkim = report("dkim").0;
    assert_eq!((&dkim["signed"], &dkim["verified"]), (&true.into(), &true.into()));
    let before = rig.reports.count();
    rig.report(&rig.other, "transport@test.example");
    for who in ["hold", "delay"] {
        send(rig.server.port, "a@sender.example", &format!("{who}@test.example"), MESSAGE);
    }
    wait_until("both wait", || {
        rig.server.counter("queue.freeze.hold.size") == 1 && rig.server.counter("queue.queue.defer.size") == 1
    });
    assert_eq!(rig.reports.count(), before);
    let queue = rig.server.queue();
    let held = queue.iter().find(|entry| entry["jobid"] == "J").unwrap();
    assert_eq!((&held["tenantid"], &held["priority"].to_string().trim_matches('"')), (&"T".into(), &"1"));
    assert_eq!(held["metadata"]["a"], "b");
    assert_eq!(held["metadata"]["_original_queue_id"], "1");
    assert_eq!(rig.peer.connections(), 0, "nothing was attempted");
}

#[test]
fn the_configuration_tailors_reports_and_scripts_go_before_it() {
    let dsn = "transport: dsn, from: {localpart: bounce, domain: c.example, name: Mail System}, original: full, \
               dkim: {domain: c.example, selector: s, key: signer}";
    let post = r#"$who = $message["recipientaddress"]["localpart"];
echo "DSN " . $who . " " . json_encode($arguments["dsn"] ?? "none");
if ($who == "bad+own") Bounce(["dsn" => ["from_name" => "Own", "original_message" => false]]);
if ($who == "later+told") Queue(["dsn_delayed" => true, "dsn" => ["subject_prepend" => "Still waiting: "]]);
if ($who == "later+quiet") Queue(["dsn_delayed" => false]);
Default();"#;
    let rig = rig(dsn, "Try();", post, &["PIPELINING"]);
    let failed = rig.report(&rig.reports, "bad@test.example").0;
    assert_eq!(failed["header"]["from"], "Mail System <bounce@c.example>");
    assert_eq!(failed["parts"][2], "message/rfc822");
    assert_eq!((&failed["signed"], &failed["verified"]), (&true.into(), &true.into()));
    let recipient = &failed["status"][1];
    assert_eq!(recipient["diagnostic-code"], "smtp; 550 5.1.1 <unknown> no such user here");
    assert_eq!((&recipient["status"], &recipient["remote-mta"]), (&"5.1.1".into(), &"dns; 127.0.0.1".into()));
    assert!(recipient["last-attempt-date"].is_string());
    assert!(failed["text"].as_str().unwrap().contains("in reply to RCPT TO"), "{}", failed["text"]);
    assert_eq!(failed["permanent"], serde_json::json!(["bad@test.example"]));
    let own = rig.report(&rig.reports, "bad+own@test.example").0;
    assert_eq!(
        (&own["header"]["from"], &own["parts"][2]),
        (&"Own <bounce@c.example>".into(), &"text/rfc822-headers".into())
    );

    let (delayed, taken) = rig.report(&rig.reports, "later@test.example");
    let recipient = &delayed["status"][1];
    assert_eq!((&recipient["action"], &recipient["status"]), (&"delayed".into(), &"4.7.1".into()));
    assert!(recipient["will-retry-until"].is_string());
    assert_eq!(delayed["header"]["subject"], "Delayed: gr\u{fc}\u{df}e");
    assert_eq!(delayed["parts"][2], "text/rfc822-headers", "only failures return the message");
    assert_eq!(
        (&delayed["temporary"], &delayed["permanent"]),
        (&serde_json::json!(["later@test.example"]), &serde_json::json!([]))
    );
    assert_eq!(
        rig.report(&rig.reports, "later+told@test.example").0["header"]["subject"],
        "Still waiting: gr\u{fc}\u{df}e"
    );
    let before = rig.reports.count();
    send(rig.server.port, "a@sender.example", "later+quiet@test.example", MESSAGE);
    send(rig.server.port, "", "later+null@test.example", MESSAGE);
    send(rig.server.port, "", "bad+null@test.example", MESSAGE);
    wait_until("all have ended", || rig.server.log().matches("DSN ").count() >= 7);
    wait_until("all are settled", || rig.server.counter("queue.queue.defer.size") == 4);
    assert_eq!(rig.reports.count(), before, "nobody to be told, or not wanted");

    // What scripts were told beforehand is what came.
    let log = rig.server.log();
    let told = |who: &str| -> serde_json::Value {
        let line = log.split(&format!("DSN {who} ")).nth(1).unwrap().lines().next().unwrap();
        serde_json::from_str(line).unwrap()
    };
    let of_delayed = told("later");
    let id = String::from_utf8_lossy(&taken.content).into_owned();
    assert!(id.contains(of_delayed["id"]["transaction"].as_str().unwrap()), "{of_delayed}");
    assert_eq!(of_delayed["id"]["queue"], 1);
    assert_eq!(
        (&of_delayed["action"], &of_delayed["status"]),
        (&"delayed".into(), &serde_json::json!([4, 7, 1]))
    );
    let of_failed = told("bad");
    assert_eq!((&of_failed["action"], &of_failed["diagnostictype"]), (&"failed".into(), &"smtp".into()));
    assert_eq!(of_failed["diagnosticcode"], "550 5.1.1 <unknown> no such user here");
    assert!(told("bad+null").get("id").is_none(), "no report follows");

    let mistake =
        std::fs::read_to_string(rig.server.path("app.yaml")).unwrap().replace("key: signer", "key: singer");
    let (status, said) = Server::prepare(&mistake, &[]).launch_failing();
    assert!(status == Some(1) && said.contains("singer") && said.contains("signer"), "{said}");
}

/// A session that gives parameters of RFC 3461.
fn send_with(port: u16, mail: &str, rcpt: &str) {
    let mut talk = Talk::greeted(port);
    for (line, start) in [(mail, "250"), (rcpt, "250"), ("DATA", "354")] {
        talk.command(line, start);
    }
    talk.send(MESSAGE);
    talk.command(".", "250");
    talk.command("QUIT", "221");
}

#[test]
fn senders_get_what_they_ask_for() {
    let pre = r#"$local = $message["recipientaddress"]["localpart"];
if (str_find($local, "box") >= 0) Try(["protocol" => "lmtp"]);
if (str_find($local, "final") >= 0) Try(["dsn" => ["success" => "delivered"]]);
if (str_find($local, "asked") >= 0) Try(["dsn" => ["notify" => ["SUCCESS"], "envid" => "mine"]]);
Try();"#;
    let dull = rig("transport: dsn", pre, "Default();", &["PIPELINING"]);
    let send = |rig: &Rig, mail: &str, rcpt: &str| {
        send_with(
            rig.server.port,
            &format!("MAIL FROM:<a@sender.example>{mail}"),
            &format!(
                "RCPT TO:<{}@test.example>{}",
                rcpt.split(' ').next().unwrap(),
                rcpt.split_once(' ').map(|(_, p)| format!(" {p}")).unwrap_or_default()
            ),
        );
    };
    let cases = [
        ("ok NOTIFY=SUCCESS ORCPT=rfc822;first+2Blast@o.example", " ENVID=en+2Bvid", "relayed", "2.0.0"),
        ("box NOTIFY=SUCCESS,FAILURE", "", "delivered", "2.0.0"),
        ("final NOTIFY=SUCCESS", "", "delivered", "2.0.0"),
        ("asked", "", "relayed", "2.0.0"),
        ("bad NOTIFY=FAILURE", " RET=FULL", "failed", "5.1.1"),
        ("later NOTIFY=DELAY", " RET=FULL", "delayed", "4.7.1"),
        ("bad2", " RET=HDRS", "failed", "5.1.1"),
    ];
    for (rcpt, mail, action, status) in cases {
        let before = dull.reports.count();
        send(&dull, mail, rcpt);
        let report = dull.next(&dull.reports, before).0;
        let recipient = &report["status"][1];
        assert_eq!((&recipient["action"], &recipient["status"]), (&action.into(), &status.into()), "{rcpt}");
        let part =
            if mail == " RET=FULL" && action == "failed" { "message/rfc822" } else { "text/rfc822-headers" };
        assert_eq!(report["parts"][2], part, "{rcpt}");
        if rcpt.starts_with("ok") {
            assert_eq!(report["status"][0]["original-envelope-id"], "en+vid");
            assert_eq!(recipient["original-recipient"], "rfc822;first+last@o.example");
            assert_eq!(report["header"]["subject"], "Relayed: gr\u{fc}\u{df}e");
        }
        if rcpt == "asked" {
            assert_eq!(report["status"][0]["original-envelope-id"], "mine");
        }
        assert!(report["permanent"].as_array().unwrap().is_empty() == (action != "failed"), "{rcpt}");
    }
    let before = dull.reports.count();
    for rcpt in [
        "bad3 NOTIFY=NEVER",
        "bad4 NOTIFY=SUCCESS",
        "later2 NOTIFY=NEVER",
        "later3 NOTIFY=FAILURE",
        "ok2 NOTIFY=FAILURE",
        "ok3",
    ] {
        send(&dull, "", rcpt);
    }
    wait_until("all have ended", || {
        dull.server.counter("queue.delivery.failed") == 4
            && dull.server.counter("queue.delivery.delayed") == 3
    });
    wait_until("all are settled", || dull.server.queue().len() == 3);
    assert_eq!(dull.reports.count(), before, "none of these wants one");

    // A next hop that reports itself is told the wishes, and we say nothing about success.
    let able = rig("transport: dsn", "Try();", "Default();", &["PIPELINING", "DSN"]);
    send(&able, " RET=HDRS ENVID=e1", "ok NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x@o.example");
    wait_until("it arrives", || able.peer.count() == 1);
    let taken = &able.peer.taken()[0];
    assert!(taken.mail.contains(" RET=HDRS ENVID=e1"), "{}", taken.mail);
    assert!(taken.rcpt.contains(" NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x@o.example"), "{}", taken.rcpt);
    wait_until("it is gone", || able.server.queue().is_empty());
    assert_eq!(able.reports.count(), 0);
}
