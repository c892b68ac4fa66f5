//! The queue seen from outside: policies at real next hops, freezing, explanations, files, and what survives a kill.

use blackbox::client::{Sender, send, talk};
use blackbox::limits::{self, app, five_limits};
use blackbox::peer::Peer;
use blackbox::sink::Sink;
use blackbox::{Server, wait_until};
use smtp::Reply;
use std::time::{Duration, Instant};

fn plain(server: &Server, to: &str) {
    send(server.port, "a@sender.example", to, b"Subject: x\r\n\r\nx\r\n");
}

fn states(server: &Server) -> Vec<String> {
    let text = server.ctl(&["queue", "list", "--no-header", "-F", "state", "--all-states"]);
    text.lines().map(|line| line.trim_matches('│').trim().to_owned()).collect()
}

fn wait_for(server: &Server, state: &str, count: usize) {
    wait_until(&format!("{count} are {state}"), || {
        states(server).iter().filter(|s| *s == state).count() == count
    });
}

/// The example of the manual, number for number: 130 messages, of which 30 are being sent.
#[test]
fn a_freeze_captures_what_is_being_sent() {
    let sink = Sink::start();
    sink.hold();
    let app = app(&[sink.port], "").replace("{interval: 1}", "{interval: 600}");
    let server = Server::start(&app, &[]);
    server.write("policy.yaml", "version: \"6.9\"\npolicies: [{default: {concurrency: 30}}]\n");
    server.ctl(&["queue", "policy", "reload"]);
    let mut sender = Sender::connect(server.port).unwrap();
    for number in 0..130 {
        let to = format!("u{number}@t0.example");
        assert!(sender.send("a@example.com", &to, b"Subject: x\r\n\r\nx\r\n").unwrap().is_delivered());
    }
    wait_until("30 wait for their reply", || sink.held() == 30);
    wait_for(&server, "SENDING", 30);
    wait_for(&server, "ACTIVE", 100);
    let delete = ["queue", "update", "--delete", "--senderdomain", "example.com", "--all-states"];
    assert_eq!(server.ctl(&delete), "100 messages affected\n30 messages unaffected\n");
    let busy = Reply::new(451, None, "Try later");
    sink.reply(4, &busy);
    wait_for(&server, "DEFER", 4);
    let freeze = [&delete[..], &["--freeze"]].concat();
    assert_eq!(server.ctl(&freeze), "4 messages affected\n26 messages freezing\n");
    let counters = || {
        let text = server.ctl(&["process-stats"]);
        let lines = text.lines().filter(|line| line.contains("queue.freeze.update"));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    assert_eq!(counters(), "queue.freeze.update.size: 0\nqueue.freeze.update.pending: 26\n");
    sink.reply(6, &busy);
    wait_until("20 are left", || server.counter("queue.freeze.update.pending") == 20);
    assert_eq!(counters(), "queue.freeze.update.size: 6\nqueue.freeze.update.pending: 20\n");
    sink.reply(16, &busy);
    sink.reply(4, &Reply::new(250, None, "Ok"));
    wait_until("none is left", || server.counter("queue.freeze.update.pending") == 0);
    assert_eq!(counters(), "queue.freeze.update.size: 22\nqueue.freeze.update.pending: 0\n");
    assert_eq!(states(&server), vec!["UPDATE"; 22], "Q17: nothing of the set is elsewhere");
    let last = ["queue", "update", "--delete", "--senderdomain", "example.com", "--state", "UPDATE"];
    assert_eq!(server.ctl(&last), "22 messages affected\n");
    assert_eq!((server.queue().len(), sink.count()), (0, 4));
}

#[test]
fn explain_tells_what_a_message_waits_for() {
    let peer = Peer::start(&["EOD=stall"]);
    let server = Server::start(&app(&[peer.port, peer.port], ""), &[]);
    server.write(
        "policy.yaml",
        "version: \"6.9\"\npolicies:\n  - fields: [transportid]\n    conditions: \
         [{if: {transportid: t0}, then: {concurrency: 1, tag: slow}}]\n  - {fields: [jobid], default: {rate: 1/3600}}\n",
    );
    server.ctl(&["queue", "policy", "reload"]);
    plain(&server, "first@t0.example");
    wait_for(&server, "SENDING", 1);
    for _ in 0..2 {
        plain(&server, "second@t0.example");
    }
    wait_for(&server, "ACTIVE", 2);
    let id_of = |job: &str, nth: usize| {
        let text = server.ctl(&["queue", "list", "--no-header", "-F", "id", "--all-states", "--jobid", job]);
        text.lines().nth(nth).unwrap().trim_matches('│').trim().to_owned()
    };
    let json = |id: &str| -> serde_json::Value {
        let reply =
            serde_json::from_str::<serde_json::Value>(&server.ctl(&["queue", "explain", id, "--json"]));
        reply.unwrap()["items"][0].clone()
    };
    let sending = json(&id_of("first", 0));
    assert_eq!(
        (&sending["state"], &sending["working"]),
        (&"SENDING".into(), &"delivery".into()),
        "{sending}"
    );
    let second = json(&id_of("second", 1));
    assert_eq!(
        (&second["state"], &second["ahead"], &second["of"]),
        (&"ACTIVE".into(), &"1".into(), &"2".into())
    );
    let bucket = &second["lane"]["addresses"][0]["buckets"][0];
    assert_eq!((&bucket["blocked"], &bucket["running"]), (&"concurrency".into(), &"1".into()), "{second}");
    assert_eq!((&bucket["concurrency"]["value"], &bucket["tag"]), (&"1".into(), &"slow".into()), "{second}");
    let text = server.ctl(&["queue", "explain", &id_of("second", 1)]);
    for expected in ["state: ACTIVE", "position: 2 of 2", "concurrency limit in policy 0", "transportid=t0"] {
        assert!(text.contains(expected), "{expected} is missing in\n{text}");
    }
    // A rate says when it frees, a suspension what it is called.
    plain(&server, "third@t1.example");
    wait_for(&server, "SENDING", 2);
    plain(&server, "third@t1.example");
    wait_for(&server, "ACTIVE", 3);
    let third = json(&id_of("third", 1));
    let bucket = &third["lane"]["addresses"][0]["buckets"][1];
    let frees = bucket["frees"]["value"].as_f64().unwrap();
    assert!(bucket["blocked"] == "rate" && frees > 3500.0 && frees <= 3600.0, "{third}");
    assert!((third["next"]["value"].as_f64().unwrap() - frees).abs() < 1.0, "{third}");
    let suspension = server.ctl(&["queue", "suspend", "add", "--jobid", "third", "--tag", "why"]);
    let third = json(&id_of("third", 1));
    assert_eq!(third["lane"]["addresses"][0]["suspensions"][0]["id"], suspension.trim(), "{third}");
    assert!(third["summary"].as_str().unwrap().contains("suspended by"), "{third}");
    server.ctl(&["queue", "update", "--jobid", "third", "--hold"]);
    assert_eq!(json(&id_of("third", 1))["state"], "HOLD");
    let output = server.halonctl(&["queue", "explain", "00000000-0000-0000-0000-000000000001"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn files_of_the_active_queue_are_reloaded_one_by_one() {
    let sink = Sink::start();
    let server = Server::start(&app(&[sink.port], "lists: [{id: ours, items: [\"*.ours.example\"]}]\n"), &[]);
    let dir = server.dir.path().display().to_string();
    let startup = std::fs::read_to_string(server.path("smtpd.yaml")).unwrap();
    let startup = startup.replace(
        "  hostname:",
        &format!("  suspendconf: {dir}/suspend.yaml\n  deliveryconf: {dir}/delivery.yaml\n  hostname:"),
    );
    let mut server = server;
    server.write("smtpd.yaml", &startup);
    server.write("suspend.yaml", "version: \"6.9\"\nsuspends: [{recipientdomain: \"@ours\", tag: file}]\n");
    server.stop();
    server.launch();
    plain(&server, "u@a.ours.example");
    plain(&server, "u@t0.example");
    wait_until("the other one is delivered", || sink.count() == 1);
    wait_for(&server, "ACTIVE", 1);
    let listed = server.ctl(&["queue", "suspend", "list", "--source", "static"]);
    assert!(listed.contains("file") && listed.contains("static"), "{listed}");
    // What is wrong is refused as a whole, and says where.
    server.write("suspend.yaml", "version: \"6.9\"\nsuspends: [{localip: nonsense}]\n");
    let output = server.halonctl(&["queue", "suspend", "reload"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && error.contains("/suspends/0/localip"), "{error}");
    assert_eq!(sink.count(), 1);
    server.write("suspend.yaml", "version: \"6.9\"\n");
    let lifted = Instant::now();
    server.ctl(&["queue", "suspend", "reload"]);
    wait_until("it is delivered", || sink.count() == 2);
    assert!(lifted.elapsed() < Duration::from_secs(1), "Q10: {:?}", lifted.elapsed());
    // A next hop that is silent for longer than the settings allow.
    let peer = Peer::start(&["EOD=stall"]);
    server.write_app(&app(&[sink.port, peer.port], ""), &[]);
    server.ctl(&["config", "reload"]);
    server.write(
        "delivery.yaml",
        "version: \"6.9\"\ndelivery:\n  conditions:\n    - if: {transportid: t1}\n      \
         then: {timeout: {smtp: {EOD: 1}}, retry: {count: 1, intervals: [{interval: 1000}]}}\n",
    );
    server.ctl(&["queue", "delivery", "reload"]);
    plain(&server, "u@t1.example");
    wait_for(&server, "DEFER", 1);
    let delay = server.queue()[0]["retrydelay"].as_f64().unwrap();
    assert!(delay > 900.0 && delay <= 1000.0, "{delay}");
}

#[test]
fn reloaded_policies_keep_their_counters() {
    let sink = Sink::start();
    let server = Server::start(&app(&[sink.port], ""), &[]);
    let policy = |count: u32, name: &str| {
        format!(
            "version: \"6.9\"\nrate: {{algorithm: fixedwindow}}\npolicies:\n  - fields: [{{jobid: {{all: /./}}}}]\n    \
             conditions: [{{if: {{jobid: '#all'}}, then: {{rate: {count}/3600, tag: {name}}}}}]\n"
        )
    };
    server.write("policy.yaml", &policy(3, "one"));
    server.ctl(&["queue", "policy", "reload"]);
    for number in 0..5 {
        plain(&server, &format!("u{number}@t0.example"));
    }
    wait_until("three are delivered", || sink.count() == 3);
    wait_for(&server, "ACTIVE", 2);
    // Two more to the window that is open, not four: what was counted stays counted.
    server.write("policy.yaml", &policy(4, "two"));
    server.ctl(&["queue", "policy", "reload"]);
    wait_until("one more is delivered", || sink.count() == 4);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!((sink.count(), states(&server)), (4, vec!["ACTIVE".to_owned()]));
    assert!(server.ctl(&["queue", "policy", "grouping", "list"]).contains("#all"));
    let members = server.ctl(&["queue", "policy", "grouping", "show", "--jobid", "#all", "-F", "jobid"]);
    assert_eq!(members, "/./\n");
    let matched = server.ctl(&["queue", "policy", "match", "--jobid", "anything"]);
    assert!(matched.contains("two") && matched.contains("4/3600"), "{matched}");
    assert_eq!(server.ctl(&["queue", "policy", "rate", "clear"]), "1 buckets cleared\n");
    wait_until("the last one is delivered", || sink.count() == 5);
    // A dynamic condition goes before the file's and ends by itself.
    server.ctl(&[
        "queue",
        "policy",
        "add",
        "-F",
        "jobid",
        "--jobid",
        "#all",
        "--concurrency",
        "1",
        "--rate",
        "100/1",
        "--ttl",
        "1",
        "--id",
        "mine",
    ]);
    assert!(server.ctl(&["queue", "policy", "list"]).contains("mine"));
    wait_until("it ends", || !server.ctl(&["queue", "policy", "list"]).contains("mine"));
}

/// Lists of the running configuration are looked at again with it, in the files as they were read last.
#[test]
fn a_reload_of_the_configuration_works_out_lists_again() {
    let sinks: Vec<Sink> = (0..3).map(|_| Sink::start()).collect();
    let ports: Vec<u16> = sinks.iter().map(|sink| sink.port).collect();
    let lists = |limited: &str, parked: &str, nets: &str| {
        app(
            &ports,
            &format!(
                "lists:\n  - {{id: limited, items: [{limited}]}}\n  - {{id: parked, items: [{parked}]}}\n  \
                 - {{id: nets, items: [{nets}]}}\n"
            ),
        )
    };
    let mut server = Server::prepare(&lists("t0.example", "", "192.0.2.0/24"), &[]);
    server.add_startup(&format!("  suspendconf: {}\n", server.path("suspend.yaml").display()));
    let policy = |count: u32| {
        format!(
            "version: \"6.9\"\nrate: {{algorithm: fixedwindow}}\npolicies:\n  - fields: [recipientdomain]\n    \
             conditions: [{{if: {{recipientdomain: '@limited'}}, then: {{rate: {count}/3600}}}}]\n"
        )
    };
    server.write("policy.yaml", &policy(3));
    server.write(
        "suspend.yaml",
        "version: \"6.9\"\nsuspends: [{recipientdomain: '@parked'}, {localip: '@nets'}]\n",
    );
    server.launch();
    let counts = || -> Vec<usize> { sinks.iter().map(Sink::count).collect() };
    for number in 0..5 {
        plain(&server, &format!("u{number}@t0.example"));
    }
    wait_until("three are delivered", || counts() == [3, 0, 0]);
    wait_for(&server, "ACTIVE", 2);
    // The policy file is for a reload of its own.
    server.write("policy.yaml", &policy(100));
    server.write_app(&lists("t0.example, t1.example", "t2.example", "192.0.2.0/24"), &[]);
    server.ctl(&["config", "reload"]);
    plain(&server, "u@t2.example");
    for number in 0..5 {
        plain(&server, &format!("u{number}@t1.example"));
    }
    wait_until("three more are delivered", || counts() == [3, 3, 0]);
    wait_for(&server, "ACTIVE", 5);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(counts(), [3, 3, 0], "what was counted stays counted, and the new lists apply");
    // What does not fit is refused as a whole.
    server.write_app(&lists("", "", "nonsense"), &[]);
    let output = server.halonctl(&["config", "reload"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && error.contains("list 'nets'"), "{error}");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(counts(), [3, 3, 0]);
    server.write_app(&lists("t0.example, t1.example", "", "192.0.2.0/24"), &[]);
    let lifted = Instant::now();
    server.ctl(&["config", "reload"]);
    wait_until("it is not suspended any more", || counts() == [3, 3, 1]);
    assert!(lifted.elapsed() < Duration::from_secs(2), "{:?}", lifted.elapsed());
    server.ctl(&["queue", "policy", "reload"]);
    wait_until("the others are delivered", || counts() == [5, 5, 1] && server.queue().is_empty());
}

#[test]
fn copies_and_plain_messages_are_queued_like_others() {
    let sink = Sink::start();
    let mut server = Server::start(&app(&[sink.port, sink.port], ""), &[]);
    server.ctl(&["queue", "suspend", "add", "--transportid", "t0"]);
    plain(&server, "u@t0.example");
    wait_for(&server, "ACTIVE", 1);
    let duplicate = ["queue", "update", "--jobid", "u", "--duplicate", "--updatetransportid", "t1", "--hold"];
    assert_eq!(
        server.ctl(&[&duplicate[..], &["--updaterecipient", "copy@t1.example"]].concat()),
        "1 messages affected\n"
    );
    wait_for(&server, "HOLD", 1);
    let ids = |server: &Server| {
        let mut ids: Vec<(String, String, String)> = server
            .queue()
            .iter()
            .map(|item| {
                let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
                (
                    text(&item["id"]["queue"]),
                    text(&item["transportid"]),
                    text(&item["recipient"]["localpart"]),
                )
            })
            .collect();
        ids.sort();
        ids
    };
    let expected =
        [("1", "t0", "u"), ("2", "t1", "copy")].map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned()));
    assert_eq!(ids(&server), expected);
    server.kill();
    server.launch();
    wait_until("the spool is read", || server.queue().len() == 2 || sink.count() > 0);
    wait_until("the original is delivered", || sink.count() == 1);
    assert_eq!(ids(&server), expected[1..], "the copy survives the kill as it was");
    server.ctl(&["queue", "update", "--state", "HOLD", "--active"]);
    wait_until("the copy is delivered", || sink.count() == 2 && server.queue().is_empty());
    assert_eq!(sink.taken()[1].to, "copy@t1.example");
    server.write(
        "message.eml",
        "Return-Path: <back@sender.example>\nTo: One <one@t0.example>, two@t0.example\nCc: one@t0.example\n\
         Bcc: secret@t0.example\nSubject: loaded\n\nbody\n",
    );
    let path = server.path("message.eml").display().to_string();
    assert_eq!(server.ctl(&["queue", "load", "--rfc822", &path]), "Message loaded\n");
    wait_until("it is delivered to each", || sink.count() == 5);
    let taken = sink.taken();
    let mut to: Vec<&str> = taken[2..].iter().map(|taken| taken.to.as_str()).collect();
    to.sort_unstable();
    assert_eq!(to, ["one@t0.example", "secret@t0.example", "two@t0.example"]);
    for one in &taken[2..] {
        let content = String::from_utf8_lossy(&one.content);
        assert!(
            one.from == "back@sender.example" && content.contains("Subject: loaded\r\n\r\nbody\r\n"),
            "{content}"
        );
        assert!(!content.contains("secret"), "{content}");
    }
    server.write("message.eml", "Subject: nobody\n\nbody\n");
    assert_eq!(server.halonctl(&["queue", "load", "--rfc822", &path]).status.code(), Some(1));
}

#[test]
fn more_messages_than_may_be_in_memory_wait_on_disk() {
    let sink = Sink::start();
    let mut server = Server::start(&app(&[sink.port], "queues: {maxmessages: 10}\n"), &[]);
    server.ctl(&["queue", "suspend", "add", "--transportid", "t0"]);
    let mut sender = Sender::connect(server.port).unwrap();
    for number in 0..35 {
        let to = format!("u{number}@t0.example");
        assert!(sender.send("a@b.example", &to, b"Subject: x\r\n\r\nx\r\n").unwrap().is_delivered());
    }
    assert_eq!((server.counter("queue.loader.active"), server.counter("queue.loader.pending")), (10, 25));
    assert_eq!(server.counter("queue.loader.maxactive"), 10);
    server.kill();
    // The suspension is gone with the process, so everything goes out as room appears.
    sink.set_down(true);
    server.launch();
    wait_until("the spool is read", || {
        server.counter("queue.loader.active") == 10 && server.counter("queue.loader.pending") == 25
    });
    sink.set_down(false);
    wait_until("all are delivered", || sink.count() == 35 && server.queue().is_empty());
    assert_eq!(server.counter("queue.loader.pending"), 0);
    let mut to: Vec<String> = sink.taken().into_iter().map(|taken| taken.to).collect();
    to.sort();
    to.dedup();
    assert_eq!(to.len(), 35, "each once");
}

/// Changes of many messages that are files: durable with the answer, though the files get them later.
#[test]
fn a_large_update_survives_a_kill_right_after_the_answer() {
    const MESSAGES: usize = 400;
    let sink = Sink::start();
    let mut server = Server::start(&app(&[sink.port], ""), &[]);
    server.ctl(&["queue", "suspend", "add", "--transportid", "t0"]);
    let mut sender = Sender::connect(server.port).unwrap();
    for number in 0..MESSAGES {
        let to = format!("u{number}@t0.example");
        assert!(sender.send("a@b.example", &to, b"Subject: x\r\n\r\nx\r\n").unwrap().is_delivered());
    }
    wait_until("all are files", || server.hqf_files().len() == MESSAGES);
    let update = ["queue", "update", "--transportid", "t0", "--hold", "--updatemetadata", "new=1"];
    assert_eq!(server.ctl(&update), format!("{MESSAGES} messages affected\n"));
    server.kill();
    server.launch();
    wait_until("the spool is read", || server.queue().len() == MESSAGES);
    for entry in server.queue() {
        assert_eq!(
            (&entry["freeze"]["freeze"], &entry["metadata"]["new"]),
            (&"HOLD".into(), &"1".into()),
            "{entry}"
        );
    }
    // And once more when the files have them.
    std::thread::sleep(Duration::from_millis(800));
    server.ctl(&["queue", "update", "--state", "HOLD", "--defer", "1000"]);
    std::thread::sleep(Duration::from_millis(800));
    server.kill();
    server.launch();
    wait_until("the spool is read", || server.queue().len() == MESSAGES);
    assert_eq!(states(&server), vec!["DEFER"; MESSAGES]);
}

/// Whole messages and single recipients of others, ended by one command: gone with the answer, whatever happens then.
#[test]
fn many_are_deleted_and_bounced_at_once() {
    const MESSAGES: usize = 300;
    let (sink, reports) = (Sink::start(), Sink::start());
    let app =
        app(&[sink.port, reports.port], "").replace("    retry:", "    dsn: {transport: t1}\n    retry:");
    let mut server = Server::start(&app, &[]);
    server.ctl(&["queue", "suspend", "add", "--transportid", "t0"]);
    let fill = |server: &Server, domain: &str| {
        let mut sender = Sender::connect(server.port).unwrap();
        for number in 0..MESSAGES {
            let (from, to) = (format!("s{number}@{domain}"), format!("u{number}@t0.example"));
            assert!(sender.send(&from, &to, b"Subject: x\r\n\r\nx\r\n").unwrap().is_delivered());
        }
        // And one with three recipients, of which one is to stay.
        let dialogue = format!(
            "EHLO c\r\nMAIL FROM:<s@{domain}>\r\nRCPT TO:<stays@t0.example>\r\nRCPT TO:<goes1@t0.example>\r\n\
             RCPT TO:<goes2@t0.example>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\nQUIT\r\n"
        );
        assert!(talk(server.port, dialogue.as_bytes(), Duration::from_secs(10)).contains("\r\n221"));
    };
    let update = |server: &Server, domain: &str, action: &str| {
        let output =
            server.ctl(&["queue", "update", "--senderdomain", domain, "--jobid", "/^(u|goes)/", action]);
        assert_eq!(output, format!("{} messages affected\n", MESSAGES + 2));
    };
    let survivor = |server: &Server| {
        let queue = server.queue();
        let jobs: Vec<&str> = queue.iter().map(|entry| entry["jobid"].as_str().unwrap()).collect();
        assert_eq!((jobs, server.hqf_files().len()), (vec!["stays"], 1));
    };
    fill(&server, "delete.example");
    wait_until("all are files", || server.hqf_files().len() == MESSAGES + 1);
    update(&server, "delete.example", "--delete");
    survivor(&server);
    server.kill();
    server.launch();
    wait_until("the spool is read", || !server.queue().is_empty() || sink.count() > 0);
    wait_until("what stays is delivered", || sink.count() == 1 && server.queue().is_empty());
    assert_eq!(sink.taken()[0].to, "stays@t0.example");

    server.ctl(&["queue", "suspend", "add", "--transportid", "t0"]);
    fill(&server, "bounce.example");
    wait_until("all are files", || server.hqf_files().len() == MESSAGES + 1);
    update(&server, "bounce.example", "--bounce");
    server.kill();
    server.launch();
    // A report that was delivered just before the kill may come again, none may be missing.
    let told = || {
        let mut to: Vec<String> = reports.taken().into_iter().map(|taken| taken.to).collect();
        to.sort();
        to.dedup();
        to.len()
    };
    wait_until("every sender is told", || told() == MESSAGES + 1);
    wait_until("what stays is delivered", || sink.count() == 2 && server.queue().is_empty());
}

/// Five next hops with limits of three kinds: what they see themselves is compared with the limits. `queue-limits` of
/// this crate does it with 20,000 messages and asks for 98 %.
#[test]
fn limits_are_kept_and_used_at_the_next_hops() {
    let limits = five_limits();
    let sinks: Vec<Sink> = limits.iter().map(|_| Sink::start()).collect();
    let ports: Vec<u16> = sinks.iter().map(|sink| sink.port).collect();
    let server = Server::start(&app(&ports, ""), &[]);
    for seen in limits::run(&server, &sinks, &limits, 40) {
        println!("{seen:?}");
        assert!(seen.exceeded.is_empty(), "{seen:?}");
        // Few messages, and a machine that others use: only that the lanes do not stand still. How much of a limit is
        // used is measured by the program queue-limits.
        assert!(seen.used > 0.2, "{seen:?}");
    }
}
