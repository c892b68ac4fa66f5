//! `halonctl` against a running server: what it shows is so, what it changes stays changed.

use blackbox::client::{Sender, send};
use blackbox::peer::Peer;
use blackbox::sink::Sink;
use blackbox::{Server, free_port, program, wait_until};
use std::process::Command;
use std::time::{Duration, Instant};

/// Each recipient is queued on its own with its local part as job; the message is changed before.
const APP: &str = r#"
version: "6.9"
servers: [{id: in, transport: out, phases: {connect: {remoteptr: false}, eod: {hook: main}}}]
transportgroups:
  - id: g
    connection: {server: 127.0.0.1}
    session: {tls: {mode: disabled}}
    retry: {intervals: [{interval: 1}]}
    dsn: {transport: dsn}
    transports:
      - {id: out, connection: {port: %SINK}}
      - {id: other, connection: {port: %SINK}}
      - {id: dsn, connection: {port: %REPORTS}}
scripting:
  hooks:
    eod:
      - id: main
        data: |
          $mail = $arguments["mail"];
          $mail->addHeader("X-Added", "yes");
          foreach ($transaction["recipients"] as $r)
            $mail->queue($transaction["senderaddress"], $r["address"], "out",
              ["jobid" => $r["address"]["localpart"], "metadata" => ["for" => $r["address"]["localpart"], "kind" => "test"]]);
          Accept();
"#;

struct Rig {
    server: Server,
    sink: Sink,
    reports: Sink,
}

fn rig() -> Rig {
    let (sink, reports) = (Sink::start(), Sink::start());
    let app = APP.replace("%SINK", &sink.port.to_string()).replace("%REPORTS", &reports.port.to_string());
    Rig { server: Server::start(&app, &[]), sink, reports }
}

/// A rig whose transport `out` is suspended, and the suspension's id.
fn suspended() -> (Rig, String) {
    let rig = rig();
    let id = rig.server.ctl(&["queue", "suspend", "add", "--transportid", "out", "--tag", "test"]);
    (rig, id.trim().to_owned())
}

impl Rig {
    fn send(&self, from: &str, to: &str, body: &str) {
        send(self.server.port, from, to, format!("Subject: {to}\r\n\r\n{body}\r\n").as_bytes());
    }

    /// The cells of a table.
    fn table(&self, arguments: &[&str]) -> Vec<Vec<String>> {
        let text = self.server.ctl(arguments);
        let cells =
            |line: &str| line.trim_matches('│').split('│').map(|cell| cell.trim().to_owned()).collect();
        text.lines().map(cells).collect()
    }

    /// `queue list` with these options, one field, without header.
    fn list(&self, field: &str, options: &[&str]) -> Vec<String> {
        let arguments = [&["queue", "list", "--no-header", "-F", field], options].concat();
        self.table(&arguments).into_iter().map(|mut row| row.remove(0)).collect()
    }

    fn wait_for_state(&self, state: &str, count: usize) {
        wait_until(&format!("{count} are {state}"), || self.list("id", &["--state", state]).len() == count);
    }

    /// The entry of a job as JSON.
    fn entry(&self, job: &str) -> Option<serde_json::Value> {
        self.server.queue().into_iter().find(|entry| entry["jobid"] == job)
    }

    fn update(&self, job: &str, options: &[&str]) {
        let output = self.server.ctl(&[&["queue", "update", "--jobid", job], options].concat());
        assert_eq!(output, "1 messages affected\n", "{job} {options:?}");
    }
}

#[test]
fn list_shows_selects_sorts_and_limits() {
    let (rig, _) = suspended();
    rig.send("x@red.example", "one@north.example", "small");
    rig.send("y@red.example", "two@south.example", &"middle\r\n".repeat(500));
    rig.send("z@blue.example", "three@south.example", &"large\r\n".repeat(5000));
    rig.wait_for_state("ACTIVE", 3);
    let table = rig.table(&["queue", "list"]);
    let header = ["id", "state", "ts", "transportid", "sender", "recipient", "retrycount", "retrydelay"];
    assert_eq!((table.len(), &table[0][..]), (4, &header.map(str::to_owned)[..]));
    let one = table.iter().find(|row| row[5] == "one@north.example").unwrap();
    assert!(
        one[0].ends_with(":1") && one[1] == "ACTIVE" && one[3] == "out" && one[4] == "x@red.example",
        "{one:?}"
    );
    let id = one[0].clone();
    for (options, expected) in [
        (vec!["--recipientdomain", "south.example"], vec!["three", "two"]),
        (vec!["--senderdomain", "red.example"], vec!["one", "two"]),
        (vec!["--senderdomain", "red.example", "--recipientdomain", "south.example"], vec!["two"]),
        (vec!["--jobid", "one", "--jobid", "three"], vec!["one", "three"]),
        (vec!["--jobid", "/^t/"], vec!["three", "two"]),
        (vec!["--jobid", "!one"], vec!["three", "two"]),
        (vec!["--sender", "z@blue.example"], vec!["three"]),
        (vec!["--recipient", "two@south.example"], vec!["two"]),
        (vec!["--id", &id], vec!["one"]),
        (vec!["--id", id.strip_suffix(":1").unwrap()], vec!["one"]),
        (vec!["--metadata", "for=two"], vec!["two"]),
        (vec!["--size", ">1KiB"], vec!["three", "two"]),
        (vec!["--size", "1KiB..10KiB"], vec!["two"]),
        (vec!["--retrycount", "0"], vec!["one", "three", "two"]),
        (vec!["--age", ">3600"], vec![]),
        (vec!["--state", "HOLD"], vec![]),
        (vec!["--remoteip", "127.0.0.0/8"], vec!["one", "three", "two"]),
        (vec!["--remoteip", "192.0.2.1"], vec![]),
        (vec!["--subject", "north"], vec!["one"]),
        (vec!["--transportid", "nowhere"], vec![]),
    ] {
        let mut found = rig.list("jobid", &options);
        found.sort();
        assert_eq!(found, expected, "{options:?}");
    }
    assert_eq!(rig.list("jobid", &["--sort", "size:desc"]), ["three", "two", "one"]);
    assert_eq!(rig.list("jobid", &["--sort", "size", "--limit", "2"]), ["one", "two"]);
    assert_eq!(rig.list("jobid", &["--sort", "size", "--limit", "1", "--offset", "1"]), ["two"]);
    assert_eq!(rig.list("jobid", &["--sort", "recipient.domain", "--sort", "ts"]), ["one", "two", "three"]);
    let fields = rig.table(&[
        "queue",
        "list",
        "-F",
        "recipient",
        "-F",
        "metadata.for",
        "-F",
        "remotemx",
        "--jobid",
        "one",
    ]);
    assert_eq!(
        fields,
        [["recipient", "metadata.for", "remotemx"], ["one@north.example", "one", "127.0.0.1"]]
    );
    let json: serde_json::Value =
        serde_json::from_str(&rig.server.ctl(&["--json", "queue", "list", "--limit", "2", "--sort", "size"]))
            .unwrap();
    assert_eq!(
        (json["items"].as_array().map(Vec::len), &json["paging"]["total"]),
        (Some(2), &"3".into()),
        "{json}"
    );
    assert_eq!(json["items"][0]["recipient"]["localpart"], "one");
    let request = rig.server.ctl(&["--json-request", "--dry-run", "queue", "list", "--jobid", "one"]);
    let request: serde_json::Value = serde_json::from_str(&request).unwrap();
    assert_eq!(request["conditions"]["jobids"][0]["value"], "one", "{request}");
}

#[test]
fn groupby_counts_and_adds_up_what_list_shows() {
    let (rig, _) = suspended();
    for number in 0..6 {
        let domain = if number < 4 { "north.example" } else { "south.example" };
        rig.send("a@b.example", &format!("u{number}@{domain}"), &"x".repeat(number * 100));
    }
    rig.wait_for_state("ACTIVE", 6);
    rig.update("u0", &["--hold"]);
    rig.update("u5", &["--defer", "1000"]);
    let table =
        rig.table(&["queue", "groupby", "-G", "recipientdomain", "--view", "state", "--sort", "total:desc"]);
    let expected = [
        ["recipientdomain", "total", "ACTIVE", "DEFER", "HOLD", "UNKNOWN", "SENDING"],
        ["north.example", "4", "3", "0", "1", "0", "0"],
        ["south.example", "2", "1", "1", "0", "0", "0"],
    ];
    assert_eq!(table, expected);
    let bytes = rig.table(&["queue", "groupby", "-G", "recipientdomain", "--bytes", "--sort", "total:desc"]);
    for row in &bytes[1..] {
        let sizes = rig.list("size", &["--recipientdomain", &row[0], "--all-states"]);
        let sum: u64 = sizes.iter().map(|size| size.parse::<u64>().unwrap()).sum();
        assert_eq!(row[1], sum.to_string(), "{row:?} {sizes:?}");
    }
    let by_default = rig.table(&["queue", "groupby"]);
    assert_eq!(by_default[0], ["transportid", "recipientdomain", "total"]);
    let unique = rig.table(&[
        "queue",
        "groupby",
        "-G",
        "transportid",
        "--count",
        "state=ACTIVE:unique=recipientdomain",
    ]);
    assert_eq!(unique[1], ["out", "6", "2"]);
}

#[test]
fn updates_survive_a_kill_right_after_the_reply() {
    let (mut rig, _) = suspended();
    rig.sink.set_down(true);
    for job in ["held", "deferred", "deleted", "bounced", "changed", "untouched"] {
        rig.send("a@b.example", &format!("{job}@d.example"), "x");
    }
    rig.wait_for_state("ACTIVE", 6);
    rig.update(
        "changed",
        &[
            "--updatetransportid",
            "other",
            "--updatemetadata",
            "kind=new",
            "--updatemetadata",
            "more=1",
            "--updatepriority",
            "1",
        ],
    );
    rig.update("changed", &["--hold"]);
    rig.update("held", &["--hold"]);
    rig.update("bounced", &["--bounce", "--dsn-status", "5.7.9", "--dsn-diagnosticcode", "told so"]);
    rig.update("deleted", &["--delete"]);
    rig.update("deferred", &["--defer", "5000"]);
    rig.server.kill();
    rig.server.launch();
    wait_until("the spool is read", || rig.entry("held").is_some() && rig.entry("changed").is_some());
    wait_until("the spool is read", || rig.entry("deferred").is_some() && rig.entry("untouched").is_some());
    assert_eq!(rig.list("jobid", &["--state", "HOLD", "--sort", "recipient.localpart"]), ["changed", "held"]);
    let deferred = rig.entry("deferred").unwrap();
    let delay = deferred["retrydelay"].as_f64().unwrap();
    assert!(deferred["queue"]["queue"] == "DEFER" && delay > 4900.0 && delay <= 5000.0, "{deferred}");
    let changed = rig.entry("changed").unwrap();
    assert_eq!((&changed["transportid"], &changed["priority"]), (&"other".into(), &"1".into()), "{changed}");
    assert_eq!(changed["metadata"], serde_json::json!({"for": "changed", "kind": "new", "more": "1"}));
    assert!(rig.entry("deleted").is_none() && rig.entry("bounced").is_none());
    wait_until("the report arrives", || rig.reports.count() == 1);
    let report = String::from_utf8_lossy(&rig.reports.taken()[0].content).into_owned();
    assert!(
        report.contains("Status: 5.7.9")
            && report.contains("told so")
            && report.contains("bounced@d.example"),
        "{report}"
    );
    rig.sink.set_down(false);
    wait_until("the untouched one is delivered", || rig.sink.count() == 1);
    rig.update("changed", &["--active"]);
    rig.update("held", &["--active"]);
    rig.update("deferred", &["--active"]);
    wait_until("the others are delivered", || rig.sink.count() == 4 && rig.server.queue().is_empty());
    assert_eq!(rig.reports.count(), 1);
}

#[test]
fn working_entries_are_reported_and_left_alone() {
    let peer = Peer::start(&["EOD=stall"]);
    let reports = Sink::start();
    let app = APP.replace("%SINK", &peer.port.to_string()).replace("%REPORTS", &reports.port.to_string());
    let rig = Rig { server: Server::start(&app, &[]), sink: Sink::start(), reports };
    rig.send("a@b.example", "c@d.example", "x");
    rig.wait_for_state("SENDING", 1);
    let output = rig.server.ctl(&["queue", "update", "--all-states", "--delete"]);
    assert_eq!(output, "0 messages affected\n1 messages unaffected\n");
    let output = rig.server.ctl(&["queue", "update", "--jobid", "c", "--delete"]);
    assert_eq!(output, "0 messages affected\n");
    assert_eq!(rig.list("state", &["--all-states"]), ["SENDING"]);
}

#[test]
fn frozen_entries_leave_their_work_for_update_and_nowhere_else() {
    let peer = Peer::start(&["EOD=stall,250"]);
    let reports = Sink::start();
    let app = APP.replace("%SINK", &peer.port.to_string()).replace("%REPORTS", &reports.port.to_string());
    let app = app.replace("{id: out, ", "{id: out, session: {timeout: {EOD: 2}}, ");
    let rig = Rig { server: Server::start(&app, &[]), sink: Sink::start(), reports };
    rig.send("a@b.example", "c@d.example", "x");
    rig.wait_for_state("SENDING", 1);
    let output =
        rig.server.ctl(&["queue", "update", "--all-states", "--freeze", "--updatemetadata", "kind=frozen"]);
    assert_eq!(output, "0 messages affected\n1 messages freezing\n");
    assert_eq!(rig.server.counter("queue.freeze.update.pending"), 1);
    wait_until("its work ends", || rig.server.counter("queue.freeze.update.pending") == 0);
    assert_eq!(rig.list("state", &["--all-states"]), ["UPDATE"], "Q17");
    // It stays there although its retry is due, until an update sends it on.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!((rig.server.counter("queue.freeze.update.size"), peer.count()), (1, 0));
    let entry = rig.entry("c").unwrap();
    assert_eq!((&entry["retrycount"], &entry["metadata"]["kind"]), (&"1".into(), &"test".into()), "{entry}");
    let output = rig.server.ctl(&["queue", "update", "--state", "UPDATE", "--active"]);
    assert_eq!(output, "1 messages affected\n");
    wait_until("it is delivered", || peer.count() == 1 && rig.server.queue().is_empty());
}

#[test]
fn export_gives_the_original_and_the_modified_message() {
    let (rig, _) = suspended();
    rig.send("a@b.example", "c@d.example", "body");
    rig.wait_for_state("ACTIVE", 1);
    let id = rig.list("transaction", &[]).remove(0);
    let original = rig.server.ctl(&["queue", "export", &id]);
    let modified = rig.server.ctl(&["queue", "export", &format!("{id}:1")]);
    assert!(
        original.starts_with("Received: ") && original.ends_with("Subject: c@d.example\r\n\r\nbody\r\n"),
        "{original}"
    );
    assert!(!original.contains("X-Added"), "{original}");
    assert!(modified.contains("X-Added: yes\r\n"), "{modified}");
    assert_eq!(modified.replace("X-Added: yes\r\n", ""), original);
    rig.server.ctl(&["queue", "export", &id, "-o", rig.server.path("exported").to_str().unwrap()]);
    assert_eq!(std::fs::read(rig.server.path("exported")).unwrap(), original.as_bytes());
    let output = rig.server.halonctl(&["queue", "export", "00000000-0000-0000-0000-000000000001"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn unloaded_message_lives_on_in_another_server() {
    let (first, _) = suspended();
    let second = rig();
    first.send("a@b.example", "moved@d.example", "body");
    first.wait_for_state("ACTIVE", 1);
    first.update("moved", &["--updatemetadata", "more=1", "--updateretrycount", "3"]);
    let before = first.entry("moved").unwrap();
    let id = before["id"]["transaction"].as_str().unwrap().to_owned();
    let modified = first.server.ctl(&["queue", "export", &format!("{id}:1")]);
    let output = first.server.ctl(&["queue", "unload", "--jobid", "moved"]);
    let path = output.trim().strip_suffix(" unloaded").expect("a path").to_owned();
    assert!(first.server.queue().is_empty() && path.ends_with(&format!("{id}.hqf")), "{output}");
    assert!(std::path::Path::new(&path).exists(), "the file stays until it is moved");
    let moved = second.server.path("moved.hqf");
    std::fs::rename(&path, &moved).unwrap();
    let moved = moved.to_str().unwrap();
    let suspension = second.server.ctl(&["queue", "suspend", "add", "--transportid", "out"]);
    assert_eq!(second.server.ctl(&["queue", "load", "--hqf", moved]), "Message loaded\n");
    second.wait_for_state("ACTIVE", 1);
    let after = second.entry("moved").unwrap();
    for key in [
        "id",
        "sender",
        "recipient",
        "metadata",
        "retrycount",
        "jobid",
        "transportid",
        "size",
        "subject",
        "ts",
    ] {
        assert_eq!(before[key], after[key], "{key}");
    }
    let again = second.server.halonctl(&["queue", "load", "--hqf", moved]);
    assert_eq!(again.status.code(), Some(1), "the id is there already");
    assert_eq!(
        second.server.ctl(&["queue", "load", "--hqf", moved, "--reset-id", "--reset-retrycount"]),
        "Message loaded\n"
    );
    second.wait_for_state("ACTIVE", 2);
    second.server.ctl(&["queue", "suspend", "delete", suspension.trim()]);
    wait_until("both are delivered", || second.sink.count() == 2 && second.server.queue().is_empty());
    for taken in second.sink.taken() {
        assert_eq!(String::from_utf8_lossy(&taken.content), modified);
        assert_eq!((taken.from.as_str(), taken.to.as_str()), ("a@b.example", "moved@d.example"));
    }
    assert_eq!(first.sink.count(), 0);
}

#[test]
fn suspension_stops_delivery_and_its_end_resumes_it() {
    let (rig, id) = suspended();
    for _ in 0..5 {
        rig.send("a@b.example", "c@d.example", "x");
    }
    rig.wait_for_state("ACTIVE", 5);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(rig.sink.count(), 0);
    let table = rig.table(&["queue", "suspend", "list", "--source", "dynamic"]);
    let row: Vec<(&str, &str)> =
        table[0].iter().zip(&table[1]).map(|(a, b)| (a.as_str(), b.as_str())).collect();
    for cell in
        [("id", id.as_str()), ("source", "dynamic"), ("transportid", "out"), ("tag", "test"), ("ttl", "")]
    {
        assert!(row.contains(&cell), "{cell:?} {row:?}");
    }
    rig.server.ctl(&["queue", "suspend", "delete", &id]);
    let started = Instant::now();
    wait_until("delivery resumes", || rig.sink.count() == 5);
    assert!(started.elapsed() < Duration::from_secs(2), "Q10: {:?}", started.elapsed());
    assert_eq!(rig.server.halonctl(&["queue", "suspend", "delete", &id]).status.code(), Some(1));
    // One that ends by itself, and one that does not concern us.
    rig.server.ctl(&["queue", "suspend", "add", "--recipientdomain", "elsewhere.example"]);
    rig.server.ctl(&["queue", "suspend", "add", "--recipientdomain", "d.example", "--ttl", "1"]);
    let started = Instant::now();
    rig.send("a@b.example", "c@d.example", "x");
    wait_until("it is delivered", || rig.sink.count() == 6);
    let passed = started.elapsed();
    assert!(passed > Duration::from_millis(800) && passed < Duration::from_secs(3), "{passed:?}");
}

#[test]
fn concurrency_of_policies_is_never_exceeded_at_the_next_hop() {
    const MESSAGES: usize = 60;
    let (rig, suspension) = suspended();
    rig.server.write(
        "policy.yaml",
        "version: \"6.9\"\npolicies: [{fields: [transportid], default: {concurrency: 3}}]\n",
    );
    rig.server.ctl(&["queue", "policy", "reload"]);
    rig.sink.set_delay(Duration::from_millis(20));
    let fill = || {
        let mut sender = Sender::connect(rig.server.port).unwrap();
        for _ in 0..MESSAGES {
            assert!(
                sender.send("a@b.example", "c@d.example", b"Subject: x\r\n\r\nx\r\n").unwrap().is_delivered()
            );
        }
    };
    fill();
    rig.server.ctl(&["queue", "suspend", "delete", &suspension]);
    wait_until("all arrive", || rig.sink.count() == MESSAGES);
    let with_file = rig.sink.take_most_busy();
    let id = rig.server.ctl(&[
        "queue",
        "policy",
        "add",
        "--fields",
        "transportid",
        "--transportid",
        "out",
        "--concurrency",
        "1",
        "--tag",
        "slow",
    ]);
    assert!(rig.server.ctl(&["queue", "policy", "list"]).contains(id.trim()));
    fill();
    wait_until("all arrive", || rig.sink.count() == 2 * MESSAGES);
    let with_dynamic = rig.sink.take_most_busy();
    rig.server.ctl(&["queue", "policy", "delete", id.trim()]);
    println!("concurrency 3: at most {with_file} at once; dynamic 1: at most {with_dynamic}");
    assert_eq!((with_file, with_dynamic), (3, 1), "the limit is kept and used");
}

#[test]
fn reload_concerns_new_connections_only() {
    let rig = rig();
    let mut old = Sender::connect(rig.server.port).unwrap();
    let message = b"Subject: x\r\n\r\nx\r\n";
    assert!(old.send("a@b.example", "c@d.example", message).unwrap().is_delivered());
    let app = std::fs::read_to_string(rig.server.path("app.yaml")).unwrap();
    let app = app
        .replace("phases: {", "phases: {mailfrom: {hook: no}, ")
        .replace("    eod:\n", "    mailfrom: [{id: no, data: 'Reject(\"closed today\");'}]\n    eod:\n");
    rig.server.write_app(&app, &[]);
    rig.server.ctl(&["config", "reload"]);
    assert!(old.send("a@b.example", "c@d.example", message).unwrap().is_delivered());
    let refused =
        Sender::connect(rig.server.port).unwrap().send("a@b.example", "c@d.example", message).unwrap();
    assert!(refused.result.as_ref().unwrap().to_string().contains("closed today"), "{refused:?}");
    wait_until("both arrive", || rig.sink.count() == 2);
}

#[test]
fn process_stats_have_their_documented_names() {
    let rig = rig();
    rig.send("a@b.example", "c@d.example", "x");
    wait_until("it is delivered", || rig.sink.count() == 1 && rig.server.queue().is_empty());
    let text = rig.server.ctl(&["process-stats"]);
    for name in [
        "process.pid",
        "process.runtime",
        "process.version.major",
        "resolver.cache.size",
        "resolver.running",
        "servers.0.serverid",
        "servers.0.connections.concurrent",
        "servers.0.connections.maxconcurrent",
        "servers.0.scripts.eod.finished",
        "servers.0.scripts.eod.errors",
        "queue.loader.active",
        "queue.scripts.predelivery.finished",
        "queue.scripts.postdelivery.finished",
        "queue.queue.defer.size",
        "queue.queue.active.size",
        "queue.queue.active.priorities.0.size",
        "queue.queue.active.priorities.1.size",
        "queue.freeze.hold.size",
        "queue.freeze.update.size",
        "queue.policy.concurrency.counters",
        "queue.policy.rate.buckets",
        "queue.policy.dynamic.suspends",
        "queue.pickup.count",
        "queue.pickup.skips",
        "queue.connections.concurrent",
        "queue.delivery.delivered",
        "queue.delivery.delayed",
        "queue.delivery.failed",
        "queue.release.pending",
        "monitor.ready",
        "spool.minfree",
    ] {
        assert!(
            text.lines().any(|line| line.starts_with(&format!("{name}: "))),
            "{name} is missing in\n{text}"
        );
    }
    assert_eq!(rig.server.counter("process.pid"), u64::from(rig.server.pid()));
    assert_eq!(rig.server.counter("queue.delivery.delivered"), 1);
    assert_eq!(rig.server.counter("servers.0.scripts.eod.finished"), 1);
    let json: serde_json::Value =
        serde_json::from_str(&rig.server.ctl(&["--json", "process-stats"])).unwrap();
    let pid = json["process"]["pid"]
        .as_str()
        .map(str::to_owned)
        .unwrap_or_else(|| json["process"]["pid"].to_string());
    assert_eq!(pid, rig.server.pid().to_string(), "{json}");
    let metrics = rig.server.ctl(&["process-stats", "--openmetrics"]);
    assert!(metrics.contains("halon_queue_delivery_delivered") && metrics.ends_with("# EOF\n"), "{metrics}");
}

#[test]
fn exit_codes_tell_usage_connection_and_refusal_apart() {
    let rig = rig();
    let code = |arguments: &[&str]| rig.server.halonctl(arguments).status.code();
    assert_eq!(code(&["version"]), Some(0));
    assert_eq!(code(&["--help"]), Some(0));
    assert_eq!(code(&["queue", "list"]), Some(0));
    for usage in [
        &["queue", "update", "--delete"][..],
        &["queue", "update", "--jobid", "x"],
        &["queue", "update", "--jobid", "x", "--delete", "--bounce"],
        &["queue", "list", "-F", "nonsense"],
        &["queue", "list", "--size", "large"],
        &["queue", "load"],
        &["queue", "load", "--reset-id"],
        &["queue", "load", "--hqf", "/a", "--rfc822", "/b"],
        &["nonsense"],
    ] {
        assert_eq!(code(usage), Some(2), "{usage:?}");
    }
    for refused in [
        &["queue", "suspend", "delete", "00000000-0000-0000-0000-000000000001"][..],
        &["queue", "load", "--hqf", "/nonexistent"],
    ] {
        assert_eq!(code(refused), Some(1), "{refused:?}");
    }
    for socket in ["/nonexistent/ctl".to_owned(), format!("127.0.0.1:{}", free_port())] {
        let output =
            Command::new(program("halonctl")).args(["--socket", &socket, "version"]).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{error}");
        assert!(error.contains(&socket) && error.contains("is smtpd running?"), "{error}");
    }
}
