//! Statements of `smtp-hooks` on what scripts see and decide (sections 1 to 6), over sockets, each test named after its section.

use blackbox::app::App;
use blackbox::certificates::{self, yaml};
use blackbox::talk::{Talk, TlsClient};
use blackbox::{Server, wait_until};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const LISTENERS: &str = "[{id: in, listeners: [{port: @port, address: 127.0.0.1}]}]";

fn finished(server: &Server, phase: &str) -> u64 {
    server.counter(&format!("servers.0.scripts.{phase}.finished"))
}

/// The JSON text of a reply.
fn json_of(reply: &str) -> Value {
    let start = reply.find(['{', '[']).unwrap_or_else(|| panic!("no JSON in {reply:?}"));
    serde_json::from_str(&reply[start..]).unwrap_or_else(|error| panic!("{reply}: {error}"))
}

#[test]
fn s1_and_s5_5_hooks_run_for_commands_that_passed_the_checks_of_the_server() {
    let app = || {
        App::new()
            .phase("data", "maxsize: 1000")
            .hook("mailfrom", "Accept();")
            .hook("rcptto", "Accept();")
            .phase("mailfrom", "maxmessages: 1")
    };
    let (server, sink) = app().start();
    let mut talk = Talk::greeted(server.port);
    for (line, expected) in [
        ("MAIL FROM:<a@b", "501 5.1.7"),
        ("MAIL FROM:<a@b.example> NOPE=1", "555 5.5.4"),
        ("MAIL FROM:<a@b.example> BODY=9BIT", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> SIZE=2000", "552 5.3.4"),
        ("MAIL FROM:<ö@b.example>", "553 5.6.7"),
        ("RCPT TO:<c@d.example>", "503 5.5.1"),
    ] {
        talk.command(line, expected);
    }
    assert_eq!(finished(&server, "mailfrom"), 0);
    talk.command("MAIL FROM:<a@b.example>", "250 2.1.0");
    talk.command("MAIL FROM:<a@b.example>", "503 5.5.1");
    assert_eq!(finished(&server, "mailfrom"), 1);
    for (line, expected) in [
        ("RCPT TO:<c@d", "501 5.1.3"),
        ("RCPT TO:<>", "501 5.1.3"),
        ("RCPT TO:<ö@d.example>", "553 5.6.7"),
        ("RCPT TO:<c@d.example> NOTIFY=NEVER", "555 5.5.4"),
    ] {
        talk.command(line, expected);
    }
    assert_eq!(finished(&server, "rcptto"), 0);
    talk.command("RCPT TO:<c@d.example>", "250 2.1.5");
    talk.command("DATA", "354 ");
    talk.command("x\r\n.", "250 2.0.0");
    talk.command("MAIL FROM:<a@b.example>", "421 4.7.0");
    talk.expect_closed();
    assert_eq!((finished(&server, "mailfrom"), finished(&server, "rcptto")), (1, 1));
    server.write_app(&app().phase("mailfrom", "authonly: true").text(sink.port), &[]);
    server.ctl(&["config", "reload"]);
    let mut talk = Talk::greeted(server.port);
    assert_eq!(talk.command("MAIL FROM:<a@b.example>", "530 "), "530 5.7.0 Authentication required");
    assert_eq!(finished(&server, "mailfrom"), 1);
}

#[test]
fn s1_servers_share_a_script_and_the_older_hook_excludes_eod() {
    let (server, _sink) = App::new()
        .hook("helo", "Accept([\"reason\" => $connection[\"serverid\"]]);")
        .top("  - {id: two, transport: out, phases: {connect: {remoteptr: false}, helo: {hook: it}}}")
        .start_on(
            "[{id: in, listeners: [{port: @port, address: 127.0.0.1}]}, {id: two, listeners: [{path: '@dir/two.sock'}]}]",
            "",
        );
    let mut talk = Talk::connect(server.port);
    talk.expect("220 ");
    assert_eq!(talk.command("HELO c", "250 "), "250 in");
    let mut talk = Talk::connect_path(&server.path("two.sock"));
    talk.expect("220 ");
    assert_eq!(talk.command("HELO c", "250 "), "250 two");
    assert_eq!(server.counter("servers.0.scripts.helo.finished"), 1);
    assert_eq!(server.counter("servers.1.scripts.helo.finished"), 1);
    for (app, expected) in [
        (App::new().hook("eod", "Accept();").hook("eodrcpt", "Deliver();"), "/servers/0/phases/eodrcpt/hook"),
        (App::new().phase("helo", "hook: absent"), "absent"),
    ] {
        let failing = Server::prepare_servers(LISTENERS, "", &app.text(1), &[]);
        let (status, said) = failing.launch_failing();
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn s1_scripts_by_recipient_domain_and_the_default_without_a_transport() {
    let sink = blackbox::sink::Sink::start();
    let text = App::new().hook("rcptto", "Reject(\"default\");").text(sink.port);
    let text = text
        .replace("hook: it", "hook: {id: it, recipientdomains: {local.example: users, \"*.wild.example\": wild}}")
        .replace(
            "    rcptto: [",
            "    rcptto: [{id: users, data: 'Accept([\"reason\" => \"user\"]);'}, {id: wild, data: 'Defer(\"wild\");'}, ",
        );
    let server = blackbox::Server::start(&text, &[]);
    let mut talk = Talk::greeted(server.port);
    talk.command("MAIL FROM:<a@b.example>", "250 ");
    talk.command("RCPT TO:<a@LOCAL.example>", "250 2.1.5 user");
    talk.command("RCPT TO:<a@x.y.wild.example>", "450 4.3.2 wild");
    talk.command("RCPT TO:<a@wild.example>", "554 5.7.1 default");
    server.write_app(&App::new().text(sink.port).replace("transport: out, ", ""), &[]);
    server.ctl(&["config", "reload"]);
    let mut talk = Talk::greeted(server.port);
    talk.command("MAIL FROM:<a@b.example>", "250 ");
    talk.command("RCPT TO:<a@local.example>", "550 5.7.1 Relaying denied");
    talk.command("DATA", "554 5.5.1");
}

#[test]
fn s2_who_waits_for_a_place_is_let_in_by_priority() {
    // The first holds the place until a client of another address lets it go.
    let script = "echo \"ran \" + json_encode([\"p\" => $connection[\"priority\"]]);\n\
        while (memory_fetch(\"go\") == none) sleep(0.05);";
    let (server, _sink) = App::new()
        .hook(
            "connect",
            "if ($arguments[\"remoteip\"] == \"192.0.2.98\") memory_store(\"go\", true);\n\
             Accept([\"priority\" => number(explode(\".\", $arguments[\"remoteip\"])[3])]);",
        )
        .hook("helo", script)
        .phase("helo", "threadid: few")
        .start_on(
            "[{id: in, listeners: [{port: @port, address: 127.0.0.1, proxyprotocol: true}]}]",
            "threads: {scripts: [{id: few, maxscripts: 1}]}",
        );
    let greeted = |last: u8| {
        let mut talk = Talk::connect(server.port);
        talk.send(format!("PROXY TCP4 192.0.2.{last} 192.0.2.99 40000 25\r\n").as_bytes());
        talk.expect("220 ");
        talk
    };
    let mut talks = [greeted(1), greeted(2), greeted(9), greeted(5), greeted(9)];
    for (waiting, talk) in talks.iter_mut().enumerate() {
        talk.send(b"EHLO c\r\n");
        // The first takes the only place, the others come one after the other.
        wait_until("it waits", || {
            server.counter("threads.scripts.2.scripts") == 1
                && server.counter("threads.scripts.2.pending") == waiting as u64
        });
    }
    assert_eq!(server.counter("servers.0.scripts.helo.pending"), 4);
    greeted(98);
    for talk in &mut talks {
        talk.expect("250 ");
    }
    wait_until("all have written", || server.log().matches("ran {").count() == 5);
    let log = server.log();
    let order: Vec<&str> =
        log.lines().filter_map(|line| line.split_once("ran {\"p\":").map(|(_, rest)| &rest[..1])).collect();
    assert_eq!(order, ["1", "9", "9", "5", "2"]);
}

#[test]
fn s2_runaway_scripts_end_as_script_errors() {
    let app = App::new().hook(
        "helo",
        "function deep($n) { return deep($n + 1); }\n\
         if ($arguments[\"host\"] == \"time\") for (;;) {}\n\
         if ($arguments[\"host\"] == \"memory\") { $s = \"0123456789abcdef\"; for (;;) $s = $s + $s; }\n\
         if ($arguments[\"host\"] == \"depth\") { try { deep(1); } catch ($e) { Accept([\"reason\" => $e->message()]); } }\n\
         Accept();",
    );
    let sink = blackbox::sink::Sink::start();
    let text = app
        .text(sink.port)
        .replace("scripting:\n", "scripting:\n  limits: {timeout: 1, memory: 2MiB, depth: 50}\n");
    let server = Server::start_servers(LISTENERS, "", &text, &[]);
    let mut talk = Talk::connect(server.port);
    talk.expect("220 ");
    talk.command("HELO memory", "450 4.3.2 Temporary server error");
    let start = Instant::now();
    talk.command("HELO time", "450 4.3.2 Temporary server error");
    assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
    assert_eq!(talk.command("HELO depth", "250 "), "250 Recursion limit reached");
    talk.command("HELO fine", "250 ");
    // Hook, id, file and line are told.
    server.logged(&["script error in helo it: helo/it.hsl:2:", "Time limit reached"]);
    server.logged(&["script error in helo it: helo/it.hsl:3:"]);
    assert_eq!(server.counter("servers.0.scripts.helo.errors"), 2);
}

#[test]
fn s2_nothing_runs_behind_a_function_that_ends_the_script() {
    let (server, _sink) = App::new()
        .hook(
            "helo",
            "function f() { try { Reject(\"inside\"); } catch ($e) { echo \"caught\"; } echo \"behind\"; }\n\
             barrier \"b\" { f(); }\n\
             echo \"after\";\n\
             Accept();",
        )
        .start();
    for _ in 0..2 {
        // A second time: the barrier was left.
        let mut talk = Talk::connect(server.port);
        talk.expect("220 ");
        assert_eq!(talk.command("EHLO c", "554 "), "554 5.7.1 inside");
    }
    for word in ["caught", "behind", "after"] {
        assert!(!server.log().contains(&format!(" {word}")), "{word}: {}", server.log());
    }
}

#[test]
fn s2_the_context_lasts_for_one_connection_and_is_of_any_type() {
    let (server, _sink) = App::new()
        .hook("helo", "$context = $context ?? [\"n\" => 0, \"f\" => function ($x) { return $x * 2; }]; $context[\"n\"] += 1;")
        .hook("mailfrom", "Accept([\"reason\" => string($context[\"f\"]($context[\"n\"]))]);")
        .start();
    for _ in 0..2 {
        let mut talk = Talk::greeted(server.port);
        talk.command("MAIL FROM:<a@b.example>", "250 2.1.0 2");
        talk.command("EHLO again", "250 ");
        talk.command("MAIL FROM:<a@b.example>", "250 2.1.0 4");
    }
}

#[test]
fn s3_lines_of_a_reply_are_cut_and_an_empty_reason_is_the_default() {
    let (server, _sink) = App::new()
        .hook(
            "mailfrom",
            "$what = $arguments[\"address\"][\"localpart\"];\n\
             if ($what == \"long\") Reject(str_repeat(\"0123456789\", 200));\n\
             if ($what == \"wide\") Reject(str_repeat(\"å\", 1000));\n\
             if ($what == \"empty\") Reject(\"\");\n\
             if ($what == \"lines\") Reject([\"a\\nb\", \"c\"]);\n\
             if ($what == \"control\") Reject(\"a\\x1fb\\x01c\\x00d\\re\");",
        )
        .start();
    let mut talk = Talk::greeted(server.port);
    let mut reply = |who: &str| {
        talk.send(format!("MAIL FROM:<{who}@b.example>\r\n").as_bytes());
        talk.reply().expect("a reply")
    };
    for (who, whole) in [("long", "0123456789".repeat(200)), ("wide", "å".repeat(1000))] {
        let text = reply(who);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() > 1 && lines.iter().all(|line| line.len() <= 1000), "{text}");
        let (last, first) = lines.split_last().expect("lines");
        assert!(first.iter().all(|line| line.starts_with("554-5.7.1 ")) && last.starts_with("554 5.7.1 "));
        assert_eq!(lines.iter().map(|line| &line["554 5.7.1 ".len()..]).collect::<String>(), whole);
    }
    assert_eq!(reply("empty"), "554 5.7.1 Sender rejected");
    assert_eq!(reply("lines"), "554-5.7.1 a\r\n554-5.7.1 b\r\n554 5.7.1 c");
    assert_eq!(reply("control"), "554 5.7.1 a?b?c?d?e");
}

#[test]
fn s4_1_and_s5_1_addresses_and_users_in_every_hook() {
    let (server, _sink) = App::new()
        .hook("connect", "Accept();")
        .hook("mailfrom", "Accept([\"reason\" => json_encode($connection)]);")
        .start_on("[{id: in, listeners: [{path: '@dir/smtp.sock'}]}]", "");
    let mut talk = Talk::connect_path(&server.path("smtp.sock"));
    talk.expect("220 ");
    talk.command("HELO c", "250 ");
    let seen = json_of(&talk.command("MAIL FROM:<a@b.example>", "250 "));
    assert_eq!(seen["remoteip"], "127.0.0.1");
    assert!(seen["remoteuid"].is_number(), "{seen}");
    assert_eq!(seen["helo"], json!({"verb": "HELO", "host": "c"}));
    assert_eq!((&seen["priority"], &seen["serverid"]), (&json!(0), &json!("in")));
    for absent in ["tls", "auth", "remoteptr"] {
        assert!(seen.get(absent).is_none(), "{absent} in {seen}");
    }
}

#[test]
fn s4_3_a_fresh_id_is_drawn_where_a_transaction_ends() {
    let mx = certificates::self_signed("mx.test.example");
    let script = "Accept([\"reason\" => $transaction[\"id\"] + \" \" + $connection[\"id\"]]);";
    let app = App::new()
        .server("tls: {certs: [{cert: mx}]}")
        .top(&format!(
            "pki: {{private: [{{id: mx, certificate: {{data: {}}}, privatekey: {{data: {}}}}}]}}",
            yaml(&mx.pem()),
            yaml(&mx.key_pem())
        ))
        .hook("connect", script)
        .hook("mailfrom", script)
        .phase("data", "maxsize: 500");
    for version in ["1", "4"] {
        let sink = blackbox::sink::Sink::start();
        let mut server = Server::prepare_servers(LISTENERS, "", &app.text(sink.port), &[]);
        let startup = std::fs::read_to_string(server.path("smtpd.yaml")).expect("it was written");
        if version == "4" {
            // The time is the default.
            let with = startup.replace("environment:\n", "environment:\n  uuid: {version: 4}\n");
            server.write("smtpd.yaml", &with);
        }
        server.launch();
        let mut talk = Talk::connect(server.port);
        let banner = talk.expect("220 ");
        let mut ids: Vec<String> = banner["220 ".len()..].split(' ').map(str::to_owned).collect();
        let connection = ids.pop().expect("an id");
        assert!(ids[0] != connection && ids[0].as_bytes()[14] == version.as_bytes()[0], "{banner}");
        let mut mail = |talk: &mut Talk, fresh: bool| {
            let reply = talk.command("MAIL FROM:<a@b.example>", "250 ");
            let (id, of) = reply["250 2.1.0 ".len()..].split_once(' ').expect("two ids");
            assert_eq!(of, connection, "the connection keeps its own");
            let known = ids.iter().position(|known| known == id);
            assert_eq!(known.is_none(), fresh, "{id} in {ids:?}");
            if fresh {
                ids.push(id.to_owned());
            } else {
                assert_eq!(known, Some(ids.len() - 1), "the last one");
            }
        };
        let end = |talk: &mut Talk, content: &str, reply: &str| {
            talk.command("RCPT TO:<c@d.example>", "250 ");
            talk.command("DATA", "354 ");
            talk.command(&format!("{content}\r\n."), reply);
        };
        talk.command("EHLO c", "250 ");
        mail(&mut talk, false);
        end(&mut talk, "x", "250 ");
        mail(&mut talk, true);
        end(&mut talk, &"0123456789\r\n".repeat(100), "552 ");
        mail(&mut talk, true);
        talk.command("RSET", "250 ");
        mail(&mut talk, true);
        talk.command("EHLO c", "250 ");
        mail(&mut talk, true);
        talk.command("RCPT TO:<c@d.example>", "250 ");
        talk.send(b"BDAT 1 LAST\r\nx");
        talk.expect("250 ");
        // Nothing was open.
        talk.command("EHLO c", "250 ");
        mail(&mut talk, true);
        talk.starttls(&TlsClient::default()).expect("TLS");
        talk.command("EHLO c", "250 ");
        mail(&mut talk, true);
    }
}

#[test]
fn s4_3_the_proxy_hook_sees_the_transaction_once_it_is_known() {
    let (server, _sink) = App::new()
        .phase("proxy", "commands: [XSEE]")
        .hook("proxy", "Reply(json_encode($transaction));")
        .start();
    let mut talk = Talk::greeted(server.port);
    let seen = json_of(&talk.command("XSEE", "250 "));
    assert_eq!(seen.as_object().expect("an array").keys().collect::<Vec<_>>(), ["id"]);
    talk.command("MAIL FROM:<Joe@B.example> BODY=8bitmime SMTPUTF8 SIZE=5", "250 ");
    let seen = json_of(&talk.command("xsee", "250 "));
    assert_eq!(seen["sender"], "joe@b.example");
    assert_eq!(seen["senderaddress"], json!({"localpart": "Joe", "domain": "b.example"}));
    // Keys in upper case, values as they came; one without a value is empty.
    assert_eq!(seen["senderparams"], json!({"BODY": "8bitmime", "SMTPUTF8": "", "SIZE": "5"}));
    assert_eq!(seen["recipients"], json!([]));
    for number in 0..3 {
        talk.command(&format!("RCPT TO:<c{number}@d.example>"), "250 ");
        let seen = json_of(&talk.command("XSEE", "250 "));
        let list = seen["recipients"].as_array().expect("a list");
        assert_eq!(list.len(), number + 1);
        assert_eq!(list[number]["recipient"], format!("c{number}@d.example"));
        assert_eq!(list[number]["transportid"], "out");
    }
    talk.command("RSET", "250 ");
    assert!(json_of(&talk.command("XSEE", "250 ")).get("recipients").is_none());
}

#[test]
fn s4_5_addresses_that_scripts_give() {
    let (server, _sink) = App::new()
        .hook(
            "rcptto",
            "$given = [\"a\" => \"Postmaster\", \"b\" => \"\\\"x@y\\\"@Z.example\", \"c\" => [\"localpart\" => \"Q R\", \"domain\" => \"D.example\"],\n\
               \"d\" => \"a@b c\", \"e\" => 5];\n\
             Accept([\"recipient\" => $given[$arguments[\"address\"][\"localpart\"]]]);",
        )
        .hook("eod", "echo \"eod \" + json_encode([\"r\" => $transaction[\"recipients\"]]); Accept();")
        .start();
    let mut talk = Talk::greeted(server.port);
    talk.command("MAIL FROM:<a@b.example>", "250 ");
    for good in ["a", "b", "c"] {
        talk.command(&format!("RCPT TO:<{good}@d.example>"), "250 ");
    }
    for bad in ["d", "e"] {
        talk.command(&format!("RCPT TO:<{bad}@d.example>"), "450 4.3.2 Temporary server error");
    }
    talk.command("DATA", "354 ");
    talk.command("x\r\n.", "250 ");
    let seen = server.echoed("eod")["r"].clone();
    for (number, (recipient, localpart, domain)) in [
        ("postmaster", "Postmaster", ""),
        ("\"x@y\"@z.example", "x@y", "z.example"),
        ("\"q r\"@d.example", "Q R", "d.example"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(seen[number]["recipient"], recipient, "{seen}");
        assert_eq!(seen[number]["address"], json!({"localpart": localpart, "domain": domain}));
    }
}

#[test]
fn s5_1_the_look_up_of_the_name_takes_five_seconds_at_most() {
    // A name server that says nothing.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
    let port = silent.local_addr().expect("a bound socket has an address").port();
    let app = App::new()
        .top(&format!("resolver: {{servers: [{{address: 127.0.0.1, port: {port}}}], timeout: 20}}"))
        .hook("connect", "echo \"connect \" + json_encode($arguments[\"remoteptrresult\"]); Accept();");
    let text = app.text(1).replace("remoteptr: false", "remoteptr: true");
    let server = Server::start_servers(LISTENERS, "", &text, &[]);
    let start = Instant::now();
    Talk::connect(server.port).expect("220 ");
    let took = start.elapsed().as_secs_f64();
    assert!((4.5..8.0).contains(&took), "{took}");
    let seen = server.echoed("connect");
    assert!(seen["reverse"]["error"].is_string() && seen.get("forward").is_none(), "{seen}");
}

#[test]
fn s5_2_what_the_proxy_hook_says_of_the_connection_is_checked() {
    let (server, _sink) = App::new()
        .phase("proxy", "commands: [XSET]")
        .hook(
            "proxy",
            "$parts = explode(\" \", $arguments[\"command\"]);\n\
             $value = ($parts[1] == \"remoteport\" or $parts[1] == \"localport\") ? number($parts[2]) : $parts[2] ?? [];\n\
             Reply(\"done\", [\"connection\" => [$parts[1] => $value]]);",
        )
        .hook("mailfrom", "Accept([\"reason\" => json_encode($connection)]);")
        .start();
    for (key, value, seen) in [
        ("remoteip", "::FFFF:192.0.2.1", json!("192.0.2.1")),
        ("remoteip", "2001:DB8:0::1", json!("2001:db8::1")),
        ("remoteport", "1234", json!(1234)),
        ("remoteptr", "a.example", json!("a.example")),
        ("localip", "192.0.2.7", json!("192.0.2.7")),
        ("localport", "26", json!(26)),
    ] {
        let mut talk = Talk::greeted(server.port);
        talk.command(&format!("XSET {key} {value}"), "250 2.0.0 done");
        assert_eq!(json_of(&talk.command("MAIL FROM:<a@b.example>", "250 "))[key], seen, "{key}={value}");
    }
    for bad in ["remoteip x", "remoteport 70000", "localip 300.1.1.1", "localport -1", "helo a\tb"] {
        let mut talk = Talk::greeted(server.port);
        talk.command(&format!("XSET {bad}"), "421 4.3.2 Temporary server error");
        talk.expect_closed();
    }
}

#[test]
fn s5_3_mail_without_a_greeting_where_none_is_required() {
    let (server, sink) = App::new().phase("helo", "required: false").start();
    let mut talk = Talk::connect(server.port);
    talk.expect("220 ");
    assert!(talk.message("a@b.example", "c@d.example", "Subject: x\r\n\r\nx").starts_with("250 2.0.0"));
    wait_until("it is delivered", || sink.count() == 1);
    let content = String::from_utf8_lossy(&sink.taken()[0].content).into_owned();
    assert!(content.starts_with("Received: from unknown (unknown [127.0.0.1])"), "{content}");
}

#[test]
fn s5_4_three_refused_attempts_end_the_connection() {
    let (server, _sink) = App::new()
        .phase("auth", "tlsonly: false")
        .hook("auth", "if ($arguments[\"username\"] == \"later\") Defer(); Reject();")
        .start();
    let attempt = |user: &str| {
        format!("AUTH PLAIN {}", openssl::base64::encode_block(format!("\0{user}\0x").as_bytes()))
    };
    let mut talk = Talk::greeted(server.port);
    for user in ["a", "later", "b", "later"] {
        talk.command(&attempt(user), if user == "later" { "454 4.7.0" } else { "535 5.7.8" });
    }
    talk.send(format!("{}\r\n", attempt("c")).as_bytes());
    talk.expect("535 5.7.8");
    talk.expect("421 4.7.0 Too many authentication failures");
    talk.expect_closed();
}

#[test]
fn s5_7_nothing_is_queued_before_accept_and_nothing_after_another_end() {
    let (mut server, sink) = App::new()
        .hook(
            "eod",
            "$arguments[\"mail\"]->queue(\"\", \"c@d.example\", \"out\", [\"hold\" => true]);\n\
             echo \"queued\";\n\
             if ($transaction[\"sender\"] == \"slow@b.example\") sleep(1.5);\n\
             if ($transaction[\"sender\"] == \"no@b.example\") Reject();\n\
             if ($transaction[\"sender\"] == \"later@b.example\") Defer();\n\
             if ($transaction[\"sender\"] == \"end@b.example\") return;\n\
             if ($transaction[\"sender\"] == \"bad@b.example\") History(\"NOTHING\", \"c@d.example\");\n\
             Accept();",
        )
        .start();
    let mut talk = Talk::greeted(server.port);
    for (who, reply) in
        [("no", "550 5.7.1"), ("later", "421 4.3.2"), ("end", "421 4.3.2"), ("bad", "421 4.3.2")]
    {
        let answer = talk.message(&format!("{who}@b.example"), "c@d.example", "x");
        assert!(answer.starts_with(reply), "{who}: {answer}");
        assert!(server.queue().is_empty(), "{who}");
    }
    server.logged(&["script error in eod", "History() has no action 'NOTHING'"]);
    // S2: nor is it there after a restart.
    server.kill();
    server.launch();
    wait_until("nothing is under construction", || {
        std::fs::read_dir(server.path("spool/incoming")).expect("a spool").count() == 0
    });
    assert!(server.queue().is_empty() && server.hqf_files().is_empty() && sink.count() == 0);
    let mut talk = Talk::greeted(server.port);
    talk.command("MAIL FROM:<slow@b.example>", "250 ");
    talk.command("RCPT TO:<c@d.example>", "250 ");
    talk.command("DATA", "354 ");
    let before = server.log().matches("queued\n").count();
    talk.send(b"x\r\n.\r\n");
    wait_until("the script has queued it", || server.log().matches("queued\n").count() > before);
    assert!(server.queue().is_empty(), "not before Accept()");
    talk.expect("250 2.0.0");
    assert_eq!(server.queue().len(), 1);
}

#[test]
fn s5_7_delivery_in_line_is_mapped_to_the_reply() {
    let sink = blackbox::sink::Sink::start();
    let script = format!(
        "$r = $arguments[\"mail\"]->send($transaction[\"sender\"], [$transaction[\"recipients\"][0][\"address\"]], [\"host\" => \"127.0.0.1\", \"port\" => {}]);\n\
         $code = $r[\"result\"][\"code\"] ?? 0;\n\
         if ($code >= 200 and $code < 300) Accept([\"reason\" => \"passed on\"]);\n\
         if ($code >= 500) Reject($r[\"result\"][\"reason\"], [\"reply_codes\" => [\"code\" => $code]]);\n\
         Defer();",
        sink.port
    );
    let server = Server::start_servers(LISTENERS, "", &App::new().hook("eod", &script).text(sink.port), &[]);
    let mut talk = Talk::greeted(server.port);
    assert_eq!(talk.message("a@b.example", "c@d.example", "x"), "250 2.0.0 passed on");
    assert_eq!(sink.count(), 1);
    assert!(talk.message("a@b.example", "reject@d.example", "x").starts_with("550 5.7.1 "));
    sink.set_down(true);
    assert!(talk.message("a@b.example", "c@d.example", "x").starts_with("421 4.3.2 "));
    assert!(server.queue().is_empty());
}

#[test]
fn s5_8_a_broken_socket_is_told_and_the_hook_holds_no_place() {
    let (server, _sink) = App::new()
        .server("concurrency: {perip: 1}")
        .hook("disconnect", "echo \"bye \" + json_encode($arguments); sleep(2); echo \"slept\"; throw Exception(\"too late\");")
        .start();
    let talk = Talk::greeted(server.port);
    talk.reset();
    let seen = server.echoed("bye");
    assert_eq!(seen["close"], "remote");
    assert_eq!((&seen["error"]["type"], &seen["error"]["code"]), (&json!("socket"), &json!(104)), "{seen}");
    assert!(seen["error"]["reason"].is_string() && seen.get("reply").is_none());
    // The hook sleeps, and another client has the place.
    Talk::greeted(server.port);
    assert!(!server.log().contains("slept"), "the place was not free before");
    // S6: its errors are logged and counted, and nothing else.
    server.logged(&["script error in disconnect it: disconnect/it.hsl:1:", "too late"]);
    wait_until("it was counted", || server.counter("servers.0.scripts.disconnect.errors") >= 1);
}

#[test]
fn s5_8_states_of_the_other_commands() {
    let mx = certificates::self_signed("mx.test.example");
    let (server, _sink) = App::new()
        .server("tls: {certs: [{cert: mx}]}, timeout: {session: 1, idle: 60}, maxerrors: 1")
        .top(&format!(
            "pki: {{private: [{{id: mx, certificate: {{data: {}}}, privatekey: {{data: {}}}}}]}}",
            yaml(&mx.pem()),
            yaml(&mx.key_pem())
        ))
        .hook("eod", "Defer(\"no\", [\"disconnect\" => true]);")
        .hook("disconnect", "echo \"bye \" + json_encode([\"s\" => $arguments[\"reply\"][\"state\"], \"h\" => $connection[\"helo\"][\"host\"]]);")
        .start();
    for (number, (lines, state)) in [
        // What is behind STARTTLS ends the session with the reply to it.
        (&b"STARTTLS\r\nx\r\n"[..], "STARTTLS"),
        (b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 1 LAST\r\nx", "EOD"),
        (b"BDAT 0\r\nBDAT 0\r\n", "BDAT"),
        (b"DATA\r\nDATA\r\n", "DATA"),
        (b"NOOP\r\n", "TIMEOUT"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut talk = Talk::connect(server.port);
        talk.expect("220 ");
        talk.command(&format!("EHLO n{number}"), "250 ");
        talk.send(lines);
        while talk.reply().is_some() {}
        let line = server.logged(&["bye {", &format!("\"h\":\"n{number}\"")]);
        assert!(line.contains(&format!("\"s\":\"{state}\"")), "{line} instead of {state}");
    }
}
