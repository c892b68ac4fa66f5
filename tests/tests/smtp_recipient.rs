//! The older end-of-data hook (`smtp-hooks` 6) and the pools that scripts run in (`smtp-hooks` 2), over sockets.

use blackbox::app::App;
use blackbox::sink::Sink;
use blackbox::talk::Talk;
use blackbox::{Server, wait_until};
use serde_json::json;
use std::time::{Duration, Instant};

const LISTENERS: &str = "[{id: in, listeners: [{port: @port, address: 127.0.0.1}]}]";

fn send(server: &Server, recipients: &[&str]) -> String {
    let mut talk = Talk::greeted(server.port);
    talk.command("MAIL FROM:<Joe@B.example>", "250 ");
    for recipient in recipients {
        talk.command(&format!("RCPT TO:<{recipient}@d.example>"), "250 ");
    }
    talk.command("DATA", "354 ");
    talk.command("Subject: x\r\nX-Old: 1\r\n\r\nx\r\n.", "")
}

fn text_of(sink: &Sink, to: &str) -> String {
    let taken = sink.taken().into_iter().find(|taken| taken.to == to);
    String::from_utf8_lossy(&taken.unwrap_or_else(|| panic!("nothing for {to}")).content).into_owned()
}

#[test]
fn s6_the_end_of_the_script_delivers_what_the_script_has_made_of_the_message() {
    let (server, sink) = App::new()
        .hook(
            "eodrcpt",
            "AddHeader(\"X-Added\", \"yes\");\n\
             SetHeader(\"Subject\", \"y\");\n\
             DelHeader(\"X-Old\");\n\
             SetSender(\"new@b.example\");\n\
             SetRecipient(\"new@d.example\");\n\
             SetMetaData([\"k\" => \"v\"]);\n\
             if ($recipientlocalpart == \"held\") SetDelayedDeliver(3600);\n\
             if ($recipientlocalpart == \"lost\") SetMailTransport(\"nowhere\");",
        )
        .start();
    assert!(send(&server, &["one"]).starts_with("250 2.0.0 Ok: queued as "));
    wait_until("it is delivered", || sink.count() == 1);
    let text = text_of(&sink, "new@d.example");
    assert_eq!(sink.taken()[0].from, "new@b.example");
    assert!(text.contains("X-Added: yes\r\n") && text.contains("Subject: y\r\n"), "{text}");
    assert!(!text.contains("X-Old"), "{text}");
    assert!(send(&server, &["held"]).starts_with("250 2.0.0"));
    let queue = server.queue();
    assert_eq!(queue.len(), 1, "SetDelayedDeliver holds it back");
    assert_eq!(queue[0]["metadata"], json!({"k": "v"}), "{queue:?}");
    assert_eq!(send(&server, &["lost"]), "421 4.3.2 Temporary server error");
    server.logged(&["script error in eodrcpt", "unknown transport 'nowhere'"]);
}

#[test]
fn s6_the_older_hook_runs_per_recipient_and_chooses_one_reply() {
    let script = r#"
SetMetaData([...GetMetaData(), "last" => $recipientlocalpart]);
AddHeader("X-For", $recipient);
if ($recipientlocalpart == "held") Quarantine("q1", ["reject" => false]);
if ($recipientlocalpart == "refused") Reject("refused " + $recipient);
if ($recipientlocalpart == "later") Defer();
if ($recipientlocalpart == "gone") Delete();
if ($recipientlocalpart == "undecided") Done();
if ($recipientlocalpart == "error") throw Exception("oh");
if ($recipientlocalpart == "two") {
    Deliver(["recipient" => "two-a@d.example", "done" => false, "reason" => "both"]);
    Deliver(["recipient" => "two-b@d.example"]);
}
if ($recipientlocalpart == "implicit") return;
if (GetHeader("Subject") != "x" or $actionid < 1 or GetTLS()["started"]) Reject("variables");
Deliver();
"#;
    let (server, sink) = App::new().hook("eodrcpt", script).start();
    let mut talk = Talk::greeted(server.port);
    let mut send = |recipients: &[&str]| {
        talk.command("MAIL FROM:<a@b.example>", "250 ");
        for recipient in recipients {
            talk.command(&format!("RCPT TO:<{recipient}@d.example>"), "250 ");
        }
        talk.command("DATA", "354 ");
        talk.command("Subject: x\r\n\r\nx\r\n.", "")
    };
    assert!(send(&["one", "implicit", "gone"]).starts_with("250 2.0.0 Ok: queued as "));
    wait_until("two are delivered", || sink.taken().len() == 2);
    let of_one = sink.taken().into_iter().find(|taken| taken.to == "one@d.example").expect("the first");
    let text = String::from_utf8_lossy(&of_one.content).into_owned();
    assert_eq!(text.matches("X-For: ").count(), 1, "edits are per recipient");
    // Rejected: the others are carried out all the same.
    assert_eq!(send(&["one", "refused"]), "550 5.7.1 refused refused@d.example");
    wait_until("one more is delivered", || sink.taken().len() == 3);
    // Deferred: nothing is queued.
    assert_eq!(send(&["one", "later"]), "421 4.3.2 Message deferred, try again later");
    assert_eq!(send(&["one", "undecided"]), "421 4.3.2 Message deferred, try again later");
    assert_eq!(send(&["error", "one"]), "421 4.3.2 Temporary server error");
    assert_eq!(send(&["two"]), "250 2.0.0 both");
    wait_until("two more are delivered", || sink.taken().len() == 5);
    assert!(send(&["held"]).starts_with("250 2.0.0"));
    wait_until("one is on hold", || {
        !server.ctl(&["queue", "list", "--state", "HOLD", "--no-header", "-F", "id"]).trim().is_empty()
    });
    assert_eq!(sink.taken().len(), 5);
}

#[test]
fn s6_variables_of_the_older_hook() {
    let (server, _sink) = App::new()
        .phase("auth", "tlsonly: false")
        .hook("auth", "Accept();")
        .server("extensions: {dsn: true}")
        .hook(
            "eodrcpt",
            "if ($actionid == 1) {\n\
             echo \"vars \" + json_encode([\"senderip\" => $senderip, \"senderport\" => $senderport > 0, \"serverip\" => $serverip,\n\
             \"serverport\" => $serverport, \"serverid\" => $serverid, \"senderhelo\" => $senderhelo, \"tlsstarted\" => $tlsstarted,\n\
             \"saslauthed\" => $saslauthed, \"saslusername\" => $saslusername, \"messageid\" => $messageid, \"sender\" => $sender,\n\
             \"senderlocalpart\" => $senderlocalpart, \"senderdomain\" => $senderdomain, \"senderparams\" => $senderparams,\n\
             \"recipientdomains\" => $recipientdomains, \"recipients\" => $recipients, \"recipient\" => $recipient,\n\
             \"recipientlocalpart\" => $recipientlocalpart, \"recipientdomain\" => $recipientdomain,\n\
             \"transportid\" => $transportid, \"actionid\" => $actionid, \"context\" => $context]);\n\
             $context = \"first\";\n\
             } else echo \"second \" + json_encode([\"a\" => $actionid, \"x\" => $context]);\n\
             Deliver();",
        )
        .start();
    let mut talk = Talk::greeted(server.port);
    talk.command("AUTH PLAIN AGpvZQBwYXNz", "235 ");
    talk.command("MAIL FROM:<Joe@B.example> RET=HDRS", "250 ");
    talk.command("RCPT TO:<One@D.example>", "250 ");
    talk.command("RCPT TO:<two@e.example>", "250 ");
    talk.command("DATA", "354 ");
    let reply = talk.command("Subject: x\r\n\r\nx\r\n.", "250 2.0.0 Ok: queued as ");
    let id = reply.rsplit(' ').next().expect("an id");
    assert_eq!(
        server.echoed("vars"),
        json!({"senderip": "127.0.0.1", "senderport": true, "serverip": "127.0.0.1", "serverport": server.port,
            "serverid": "in", "senderhelo": "client.example", "tlsstarted": false, "saslauthed": true,
            "saslusername": "joe", "messageid": id, "sender": "joe@b.example", "senderlocalpart": "Joe",
            "senderdomain": "b.example", "senderparams": {"RET": "HDRS"},
            "recipientdomains": ["d.example", "e.example"], "recipients": ["one@d.example", "two@e.example"],
            "recipient": "one@d.example", "recipientlocalpart": "One", "recipientdomain": "d.example",
            "transportid": "out", "actionid": 1, "context": null})
    );
    assert_eq!(server.echoed("second"), json!({"a": 2, "x": "first"}));
}

#[test]
fn s6_quarantine_refuses_unless_told_otherwise_and_weighs_less_than_defer() {
    let (server, sink) = App::new()
        .hook(
            "eodrcpt",
            "if ($recipientlocalpart == \"bad\") Quarantine(\"q1\", [\"reason\" => \"kept\"]);\n\
             if ($recipientlocalpart == \"later\") Defer(\"later\", [\"reply_codes\" => [\"code\" => 451]]);\n\
             if ($recipientlocalpart == \"bye\") Reject(\"bye\", [\"disconnect\" => true]);\n\
             Deliver([\"metadata\" => [\"a\" => \"b\"], \"jobid\" => \"j\", \"quotas\" => [\"q\"], \"delay\" => 3600]);",
        )
        .start();
    assert_eq!(send(&server, &["bad", "later"]), "451 4.3.2 later");
    assert!(server.queue().is_empty(), "after a defer nothing is queued");
    assert_eq!(send(&server, &["bad", "good"]), "550 5.7.1 kept");
    let queue = server.queue();
    let of =
        |to: &str| queue.iter().find(|one| one["recipient"]["localpart"] == to).cloned().unwrap_or_default();
    assert_eq!(of("bad")["hold"], true, "{queue:?}");
    assert_eq!(of("bad")["metadata"], json!({"quarantineid": "q1"}));
    assert_eq!((&of("good")["jobid"], &of("good")["metadata"]), (&json!("j"), &json!({"a": "b"})));
    assert_eq!(sink.count(), 0);
    let mut talk = Talk::greeted(server.port);
    assert_eq!(talk.message("a@b.example", "bye@d.example", "x"), "550 5.7.1 bye");
    talk.expect_closed();
}

#[test]
fn s6_delivery_in_line_gives_the_answer_of_the_next_hop() {
    let script = "if ($recipientlocalpart == \"mx\") Deliver([\"queue\" => false, \"transportid\" => \"mx\"]);\n\
        if ($recipientlocalpart == \"edit\") AddHeader(\"X-Edit\", $recipient);\n\
        AddHeader(\"X-All\", \"1\");\n\
        if ($recipientlocalpart == \"queued\") Deliver();\n\
        if ($recipientlocalpart == \"later\") Defer();\n\
        Deliver([\"queue\" => false, \"reason\" => \"passed on\"]);";
    let app = App::new().hook("eodrcpt", script);
    let (server, sink) = app.start();
    let with_mx = app
        .text(sink.port)
        .replace("    transports:\n", "    transports:\n      - {id: mx, connection: {server: lookup-mx}}\n");
    server.write_app(&with_mx, &[]);
    server.ctl(&["config", "reload"]);
    assert_eq!(send(&server, &["one", "two"]), "250 2.0.0 passed on");
    // The reply came after the next hop had it, once for both.
    assert_eq!(sink.count(), 1);
    assert!(text_of(&sink, "two@d.example").contains("X-All: 1\r\n"));
    assert!(server.queue().is_empty() && server.hqf_files().is_empty());
    // One refused recipient refuses all, and what was to be queued is not.
    assert_eq!(send(&server, &["one", "reject", "queued"]), "550 5.7.1 No such user");
    assert!(server.queue().is_empty(), "the message was not accepted");
    assert_eq!(sink.count(), 1);
    // A mix of both.
    assert_eq!(send(&server, &["one", "queued"]), "250 2.0.0 passed on");
    wait_until("both have it", || sink.count() == 3);
    // Nothing is sent when the client comes again.
    assert_eq!(send(&server, &["one", "later"]), "421 4.3.2 Message deferred, try again later");
    assert_eq!(sink.count(), 3);
    for (recipients, why) in [
        (&["mx"][..], "needs a fixed server, transport 'mx' has none"),
        (&["one", "edit"], "edit@d.example has another changes to the message than one@d.example"),
    ] {
        assert_eq!(send(&server, recipients), "421 4.3.2 Temporary server error");
        server.logged(&["script error in eodrcpt", why]);
    }
    sink.set_down(true);
    assert_eq!(send(&server, &["one"]), "421 4.3.2 Message deferred, try again later");
    assert!(server.queue().is_empty());
}

const BUSY: &str = "for ($i = 0; $i < 3000000; $i += 1) {} Accept();";

#[test]
fn s2_a_phase_runs_in_the_pool_that_it_names() {
    let app = App::new().hook("eod", "Accept();").phase("eod", "threadid: slow").hook("rcptto", "Accept();");
    let (server, _sink) = app.start_on(
        LISTENERS,
        "threads: {scripts: [{id: slow, size: 1, maxscripts: 3}, {id: _queues, size: 7}]}",
    );
    let stats = server.ctl(&["process-stats"]);
    for line in [
        "servers.0.scripts.eod.threadid: slow",
        "servers.0.scripts.rcptto.threadid: _default",
        "queue.scripts.predelivery.threadid: _queues",
        "threads.scripts.2.id: slow",
        "threads.scripts.2.maxrunning: 1",
        "threads.scripts.2.maxscripts: 3",
        "threads.scripts.1.id: _queues",
        "threads.scripts.1.maxrunning: 7",
    ] {
        assert!(stats.lines().any(|have| have == line), "no {line:?} in\n{stats}");
    }
    let app = App::new().hook("eod", "Accept();").phase("eod", "threadid: slo");
    let failing = Server::prepare_servers(LISTENERS, "threads: {scripts: [{id: slow}]}", &app.text(1), &[]);
    let (status, said) = failing.launch_failing();
    assert_eq!(status, Some(1), "{said}");
    assert!(
        said.contains("phases.eod.threadid: no pool 'slo'") && said.contains("did you mean \"slow\""),
        "{said}"
    );
    let failing = Server::prepare_servers(
        LISTENERS,
        "threads: {scripts: [{id: a, size: 0}]}",
        &App::new().text(1),
        &[],
    );
    let (_, said) = failing.launch_failing();
    assert!(said.contains("/threads/scripts/0/size"), "{said}");
}

#[test]
fn s2_a_full_pool_delays_its_own_phases_only() {
    let (server, _sink) = App::new()
        .hook("eod", BUSY)
        .phase("eod", "threadid: slow")
        .hook("rcptto", "for ($i = 0; $i < 20000; $i += 1) {} Accept();")
        .start_on(LISTENERS, "threads: {scripts: [{id: slow, size: 1}]}");
    let port = server.port;
    let busy: Vec<_> = (0..4)
        .map(|_| std::thread::spawn(move || Talk::greeted(port).message("a@b.example", "c@d.example", "x")))
        .collect();
    wait_until("one runs and others wait", || {
        server.counter("threads.scripts.2.running") == 1 && server.counter("threads.scripts.2.pending") > 0
    });
    // The rcptto hook has another pool, so it does not wait behind them.
    let start = Instant::now();
    let mut talk = Talk::greeted(server.port);
    talk.command("MAIL FROM:<a@b.example>", "250 ");
    talk.command("RCPT TO:<c@d.example>", "250 2.1.5");
    let took = start.elapsed();
    let still = server.counter("threads.scripts.2.running");
    for one in busy {
        assert!(one.join().expect("a session").starts_with("250 "));
    }
    assert!(still == 1, "the other pool was busy all the while ({took:?})");
}

#[test]
fn s2_a_bound_on_scripts_that_are_begun_counts_those_that_wait() {
    let (server, _sink) = App::new()
        .hook("mailfrom", "sleep(1); Accept();")
        .phase("mailfrom", "threadid: few")
        .start_on(LISTENERS, "threads: {scripts: [{id: few, maxscripts: 1}]}");
    let start = Instant::now();
    let mut talks: Vec<Talk> = (0..3).map(|_| Talk::greeted(server.port)).collect();
    for talk in &mut talks {
        talk.send(b"MAIL FROM:<a@b.example>\r\n");
    }
    for talk in &mut talks {
        talk.expect("250 2.1.0");
    }
    assert!(start.elapsed() >= Duration::from_secs(3), "one after the other: {:?}", start.elapsed());
}
