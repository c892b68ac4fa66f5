//! The hooks of a connection over sockets, each test named after what `smtp-hooks` says.

use blackbox::app::App;
use blackbox::talk::Talk;
use blackbox::wait_until;
use serde_json::{Value, json};

const FUNCTIONS: [(&str, &str, &str); 6] = [
    // phase, implicit end, script error
    ("connect", "220 mx.test.example ESMTP", "421 4.3.2 Temporary server error"),
    ("helo", "250-mx.test.example", "450 4.3.2 Temporary server error"),
    ("auth", "535 5.7.8 Authentication failed", "454 4.7.0 Temporary server error"),
    ("mailfrom", "250 2.1.0 Ok", "450 4.3.2 Temporary server error"),
    ("rcptto", "250 2.1.5 Ok", "450 4.3.2 Temporary server error"),
    ("eod", "421 4.3.2 Message deferred, try again later", "421 4.3.2 Temporary server error"),
];

/// A whole session; gives the reply of the phase.
fn reply_of(talk: &mut Talk, phase: &str) -> String {
    let mut steps = vec![
        ("connect", None),
        ("helo", Some("EHLO client.example")),
        ("auth", Some("AUTH PLAIN AGpvZQBwYXNz")),
        ("mailfrom", Some("MAIL FROM:<a@b.example>")),
        ("rcptto", Some("RCPT TO:<c@d.example>")),
        ("data", Some("DATA")),
        ("eod", Some("Subject: x\r\n\r\nbody\r\n.")),
    ]
    .into_iter();
    loop {
        let (step, line) = steps.next().expect("a known phase");
        if step == "auth" && phase != "auth" {
            continue;
        }
        if let Some(line) = line {
            talk.send(format!("{line}\r\n").as_bytes());
        }
        let reply = talk.reply().expect("a reply");
        if step == phase {
            return reply;
        }
    }
}

fn app_of(phase: &str, script: &str) -> App {
    let app = App::new().phase("auth", "tlsonly: false");
    let app = if phase == "auth" { app } else { app.hook("auth", "Reject();") };
    app.hook(phase, script)
}

#[test]
fn s7_an_empty_script_gives_the_implicit_end_and_s6_a_throwing_one_the_script_error() {
    for (phase, implicit, on_error) in FUNCTIONS {
        let (server, sink) = app_of(phase, "").start();
        let mut talk = Talk::connect(server.port);
        let reply = reply_of(&mut talk, phase);
        assert!(reply.starts_with(implicit), "{phase}: {reply}");
        // The same server again, now with a script that throws.
        server.write_app(&app_of(phase, "throw Exception(\"oh no\");").text(sink.port), &[]);
        server.ctl(&["config", "reload"]);
        let mut talk = Talk::connect(server.port);
        let reply = reply_of(&mut talk, phase);
        assert!(reply.ends_with(on_error), "{phase}: {reply}");
        if phase == "connect" {
            talk.expect_closed();
        } else {
            talk.command("NOOP", "250 2.0.0");
        }
        server.logged(&["script error in", phase, "oh no"]);
        assert_eq!(server.counter(&format!("servers.0.scripts.{phase}.errors")), 1, "{phase}");
        // S2: nothing of the message is left.
        assert!(server.queue().is_empty() && server.hqf_files().is_empty(), "{phase}");
        assert_eq!(sink.taken().len(), 0);
    }
}

#[test]
fn s3_defaults_options_and_several_lines_of_replies() {
    let (server, sink) = app_of("mailfrom", "Reject();").start();
    let with = |script: &str, expected: &[&str], closes: bool| {
        server.write_app(&app_of("mailfrom", script).text(sink.port), &[]);
        server.ctl(&["config", "reload"]);
        let mut talk = Talk::connect(server.port);
        let reply = reply_of(&mut talk, "mailfrom");
        assert_eq!(reply.lines().collect::<Vec<_>>(), expected, "{script}");
        if closes {
            talk.expect_closed();
        } else {
            talk.command("NOOP", "250 ");
        }
    };
    with("Reject();", &["554 5.7.1 Sender rejected"], false);
    with("Defer(\"later\\nalligator\");", &["450-4.3.2 later", "450 4.3.2 alligator"], false);
    with(
        "Reject([\"a\", \"b\\r\\nc\"], [\"reply_codes\" => [\"code\" => 553]]);",
        &["553-5.7.1 a", "553-5.7.1 b", "553 5.7.1 c"],
        false,
    );
    with(
        "Reject(\"x\", [\"reply_codes\" => [\"enhanced\" => [\"4\", \"1\", \"8\"]], \"disconnect\" => true]);",
        &["554 5.1.8 x"],
        true,
    );
    with("Reject(\"x\", [\"reply_codes\" => [\"enhanced\" => []]]);", &["554 x"], false);
    with("Defer(\"\", [\"reply_codes\" => [\"code\" => 421]]);", &["421 4.3.2 Try again later"], false);
    with("Accept([\"reason\" => \"fine\"]);", &["250 2.1.0 fine"], false);
    with("Reject(\"a\\rb\");", &["554 5.7.1 a?b"], false);
    // A code of another class is a script error.
    with(
        "Reject(\"x\", [\"reply_codes\" => [\"code\" => 450]]);",
        &["450 4.3.2 Temporary server error"],
        false,
    );
    with("Accept([\"reply_codes\" => [\"code\" => 550]]);", &["450 4.3.2 Temporary server error"], false);
    with("Reject([\"a\", 3]);", &["450 4.3.2 Temporary server error"], false);
}

#[test]
fn s4_variables_of_every_hook() {
    let echo = |name: &str| {
        format!(
            "echo \"{name} \" + json_encode([\"a\" => $arguments, \"c\" => $connection, \"t\" => $transaction, \"x\" => $context]); $context = \"{name}\"; "
        )
    };
    let (server, _sink) = App::new()
        .server("extensions: {dsn: true}")
        .hook("connect", &format!("{}Accept([\"priority\" => 3, \"remoteptr\" => \"ptr.example\"]);", echo("connect")))
        .hook("helo", &format!("{}Accept([\"host\" => \"other.example\"]);", echo("helo")))
        .phase("auth", "tlsonly: false")
        .hook("auth", &format!("{}Accept([\"username\" => \"joe@b\"]);", echo("auth")))
        .hook("mailfrom", &format!("{}Accept([\"sender\" => [\"localpart\" => \"New\", \"domain\" => \"B.example\"]]);", echo("mailfrom")))
        .hook("rcptto", &format!("{}Accept([\"recipient\" => \"z@d.example\"]);", echo("rcptto")))
        .hook(
            "eod",
            "echo \"eod \" + json_encode([\"c\" => $connection, \"t\" => $transaction, \"x\" => $context]); Accept();",
        )
        .hook("disconnect", &echo("disconnect"))
        .start();
    let mut talk = Talk::greeted(server.port);
    talk.command("AUTH PLAIN AGpvZQBwYXNz", "235 ");
    talk.command("MAIL FROM:<Joe@B.example> RET=HDRS ENVID=x+20y", "250 ");
    talk.command("RCPT TO:<C@D.example> NOTIFY=NEVER", "250 ");
    talk.command("DATA", "354 ");
    let accepted = talk.command("Subject: x\r\n\r\nx\r\n.", "250 2.0.0 Ok: queued as ");
    let id = accepted.rsplit(' ').next().unwrap().to_owned();
    talk.command("QUIT", "221 ");
    talk.expect_closed();

    let of = |name: &str, key: &str| server.echoed(name)[key].clone();
    let connect = of("connect", "a");
    assert_eq!((&connect["remoteip"], &connect["localip"]), (&json!("127.0.0.1"), &json!("127.0.0.1")));
    assert_eq!(connect["localport"], json!(server.port));
    assert_eq!(connect["serverid"], "in");
    assert!(connect["remoteport"].as_f64().unwrap() > 0.0 && connect.get("remoteptr").is_none());
    // In the connect hook the connection has an id and a priority only.
    let keys: Vec<String> = of("connect", "c").as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["id", "priority"]);
    assert_eq!(of("connect", "x"), Value::Null);

    let helo = of("helo", "a");
    assert_eq!((&helo["verb"], &helo["host"]), (&json!("EHLO"), &json!("client.example")));
    assert_eq!(helo["extensions"][0], "PIPELINING");
    let connection = of("helo", "c");
    assert_eq!((&connection["priority"], &connection["remoteptr"]), (&json!(3), &json!("ptr.example")));
    assert!(connection.get("helo").is_none());
    assert_eq!(of("helo", "x"), "connect");

    let auth = of("auth", "a");
    assert_eq!(auth, json!({"mechanism": "PLAIN", "username": "joe", "password": "pass"}));
    assert_eq!(of("auth", "c")["helo"], json!({"verb": "EHLO", "host": "other.example"}));
    assert!(of("auth", "c").get("auth").is_none());

    let mail = of("mailfrom", "a");
    assert_eq!(mail["sender"], "joe@b.example");
    assert_eq!(mail["address"], json!({"localpart": "Joe", "domain": "b.example"}));
    assert_eq!(mail["params"], json!({"RET": "HDRS", "ENVID": "x+20y"}));
    assert_eq!(of("mailfrom", "c")["auth"], json!({"mechanism": "PLAIN", "username": "joe@b"}));
    assert_eq!(of("mailfrom", "t").as_object().unwrap().len(), 1);

    let rcpt = of("rcptto", "a");
    assert_eq!((&rcpt["recipient"], &rcpt["transportid"]), (&json!("c@d.example"), &json!("out")));
    let transaction = of("rcptto", "t");
    assert_eq!(transaction["sender"], "new@b.example");
    assert_eq!(transaction["recipients"], json!([]));

    let eod = of("eod", "t");
    assert_eq!(eod["id"], json!(id), "S8: the id of the reply");
    assert!(eod["ts"].as_f64().unwrap() > 1.6e9);
    assert_eq!(
        eod["recipients"],
        json!([{"recipient": "z@d.example", "address": {"localpart": "z", "domain": "d.example"},
            "params": {"NOTIFY": "NEVER"}, "transportid": "out"}])
    );
    let goodbye = of("disconnect", "a");
    assert_eq!(goodbye["close"], "local");
    assert_eq!(
        goodbye["reply"],
        json!({"code": 221, "enhanced": [2, 0, 0], "reason": ["Bye"], "state": "QUIT"})
    );
    assert_eq!(of("disconnect", "t"), json!([]));
    assert_eq!(of("disconnect", "x"), "rcptto");
}

#[test]
fn s8_ids_differ_and_are_the_same_in_reply_header_and_queue() {
    let (server, sink) = App::new().start();
    let mut talk = Talk::greeted(server.port);
    let mut ids = Vec::new();
    for _ in 0..3 {
        let reply = talk.message("a@b.example", "c@d.example", "Subject: x\r\n");
        ids.push(reply.strip_prefix("250 2.0.0 Ok: queued as ").expect("an id").to_owned());
        talk.command("MAIL FROM:<a@b.example>", "250 ");
        talk.command("RSET", "250 ");
    }
    wait_until("all are delivered", || sink.taken().len() == 3);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    for id in ids {
        let found = sink
            .taken()
            .iter()
            .any(|taken| String::from_utf8_lossy(&taken.content).contains(&format!("\tid {id};\r\n")));
        assert!(found, "{id} is in no Received header");
    }
}

#[test]
fn s17_the_disconnect_hook_runs_once_after_all_others_and_says_why() {
    let script = "echo \"bye \" + json_encode([\"a\" => $arguments, \"x\" => $context]);";
    let (server, _sink) = App::new()
        .hook("helo", "$context = \"helo\";")
        .hook("eod", "sleep(0.5); $context = \"eod\"; Accept();")
        .hook("disconnect", script)
        .start();
    // The client goes while the eod hook runs.
    let mut talk = Talk::greeted(server.port);
    talk.send(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nx\r\n.\r\n");
    for start in ["250 ", "250 ", "354 "] {
        talk.expect(start);
    }
    drop(talk);
    let bye = server.echoed("bye");
    assert_eq!((&bye["a"]["close"], &bye["x"]), (&json!("remote"), &json!("eod")));
    // A refused session ends with the reply that ended it.
    let mut talk = Talk::connect(server.port);
    talk.expect("220 ");
    talk.command("GET / HTTP/1.1", "421 4.7.0");
    talk.expect_closed();
    server.logged(&["bye ", "\"code\":421"]);
    wait_until("both hooks ran", || server.counter("servers.0.scripts.disconnect.finished") == 2);
    assert_eq!(server.log().matches(" bye ").count(), 2);
}

#[test]
fn s5_1_connect_accepts_with_banner_and_refuses_closing() {
    let (server, sink) = App::new()
        .hook("connect", "Accept([\"reason\" => \"hello\\nthere\", \"remoteip\" => \"192.0.2.7\"]);")
        .start();
    let mut talk = Talk::connect(server.port);
    assert_eq!(talk.expect("220 "), "220-hello\r\n220 there");
    talk.command("HELO c", "250 ");
    talk.message("a@b.example", "c@d.example", "x");
    wait_until("it is delivered", || sink.taken().len() == 1);
    let content = String::from_utf8_lossy(&sink.taken()[0].content).into_owned();
    assert!(
        content.starts_with(
            "Received: from c (unknown [192.0.2.7])\r\n\tby mx.test.example (Halon) with SMTP\r\n"
        ),
        "{content}"
    );
    for (script, expected) in [
        ("Reject();", "521 5.7.1 Connection rejected"),
        (
            "Reject(\"no\", [\"reply_codes\" => [\"code\" => 554, \"enhanced\" => [5, 7, 25]]]);",
            "554 5.7.25 no",
        ),
        ("Defer();", "421 4.3.2 Service not available, try again later"),
    ] {
        server.write_app(&App::new().hook("connect", script).text(sink.port), &[]);
        server.ctl(&["config", "reload"]);
        let mut talk = Talk::connect(server.port);
        assert_eq!(talk.expect(expected), expected);
        talk.expect_closed();
    }
}

const TRANSLATIONS: &str = r#"
$cmd = str_upper($arguments["command"]);
if ($cmd[0:11] == "BREV FRÅN:") Pass(["command" => "MAIL FROM:" + $arguments["command"][11:]]);
if ($cmd[0:10] == "BREV TILL:") Pass(["command" => "RCPT TO:" + $arguments["command"][10:]]);
if ($cmd == "INNEHÅLL") Pass(["command" => "DATA"]);
if ($cmd == "HEJDÅ") Reply("Ha det bra", ["reply_codes" => ["code" => 221, "enhanced" => [2, 0, 0]], "disconnect" => true]);
"#;

#[test]
fn s5_2_proxy_script_makes_a_language_of_its_own() {
    let (server, sink) = App::new()
        .hook("helo", "if ($arguments[\"verb\"] == \"EHLO\") Accept([\"extensions\" => [...$arguments[\"extensions\"], \"LANG SE\"]]);")
        .phase("proxy", "commands: [BREV, INNEHÅLL, HEJDÅ]")
        .hook("proxy", TRANSLATIONS)
        .start();
    let mut talk = Talk::connect(server.port);
    talk.expect("220 ");
    assert!(talk.command("EHLO klient", "250 ").ends_with("250 LANG SE"));
    talk.command("BREV FRÅN:<a@b.example>", "250 2.1.0");
    talk.command("brev till:<c@d.example>", "250 2.1.5");
    talk.command("INNEHÅLL", "354 ");
    talk.command("hej\r\n.", "250 2.0.0");
    talk.command("BREV", "500 5.5.2");
    assert_eq!(talk.command("HEJDÅ", "221 "), "221 2.0.0 Ha det bra");
    talk.expect_closed();
    wait_until("it is delivered", || sink.taken().len() == 1);
    assert!(sink.taken()[0].content.ends_with(b"hej\r\n"));
}

const XCLIENT: &str = r#"
$change = [];
foreach (explode(" ", $arguments["command"])[1:] as $pair) {
    $parts = explode("=", $pair);
    $value = xtext_decode($parts[1]);
    if ($parts[0] == "ADDR") $change["remoteip"] = $value;
    if ($parts[0] == "PORT") $change["remoteport"] = toNumber($value);
    if ($parts[0] == "NAME") $change["remoteptr"] = $value;
    if ($parts[0] == "HELO") $change["helo"] = $value;
    if ($parts[0] == "LOGIN") $change["username"] = $value;
}
Reply(["mx ESMTP"], ["reply_codes" => ["code" => 220, "enhanced" => []], "connection" => $change]);
"#;

#[test]
fn s12_xclient_through_the_proxy_script() {
    let (server, sink) = App::new()
        .phase("proxy", "commands: [XCLIENT]")
        .hook("proxy", &XCLIENT.replace("toNumber(", "number("))
        .phase("mailfrom", "authonly: true")
        .hook("mailfrom", "echo \"mail \" + json_encode([\"c\" => $connection]);")
        .start();
    let mut talk = Talk::greeted(server.port);
    talk.command("MAIL FROM:<a@b.example>", "530 5.7.0");
    talk.command(
        "XCLIENT ADDR=192.0.2.5 PORT=4711 NAME=their.example LOGIN=joe HELO=first.example",
        "220 mx ESMTP",
    );
    talk.command("EHLO second.example", "250 ");
    talk.message("a@b.example", "c@d.example", "x");
    let connection = server.echoed("mail")["c"].clone();
    assert_eq!(connection["remoteip"], "192.0.2.5");
    assert_eq!(connection["remoteport"], 4711);
    assert_eq!(connection["remoteptr"], "their.example");
    assert_eq!(connection["helo"]["host"], "second.example");
    assert_eq!(connection["auth"]["username"], "joe");
    wait_until("it is delivered", || sink.taken().len() == 1);
    let content = String::from_utf8_lossy(&sink.taken()[0].content).into_owned();
    assert!(
        content.starts_with("Received: from second.example (their.example [192.0.2.5])\r\n"),
        "{content}"
    );
    assert!(content.contains("with ESMTPA\r\n"));
    talk.command("XCLIENT ADDR=nonsense", "421 4.3.2 Temporary server error");
    talk.expect_closed();
}

#[test]
fn s5_2_proxy_errors_and_next_lines() {
    let (server, _sink) = App::new()
        .phase("auth", "tlsonly: false")
        .hook("auth", "if ($arguments[\"username\"] == \"joe\" and $arguments[\"password\"] == \"pass\") Accept(); Reject();")
        .hook(
            "proxy",
            "if ($arguments[\"command\"] == \"XSECRET\") Reply(\"say it\", [\"next\" => true]);\n\
             if ($arguments[\"command\"] == \"open sesame\") Reply(\"come in\");\n\
             if ($arguments[\"command\"] == \"XBAD\") throw Exception(\"oh\");\n\
             if ($arguments[\"command\"] == \"XLINES\") Pass([\"command\" => \"NOOP\\r\\nQUIT\"]);\n\
             if ($arguments[\"command\"] == \"XAUTH\") Pass([\"command\" => \"AUTH LOGIN\", \"next\" => true]);\n\
             if ($arguments[\"command\"] == \"joe\") Pass([\"command\" => \"am9l\"]);",
        )
        .start();
    let mut talk = Talk::greeted(server.port);
    talk.command("XSECRET", "250 2.0.0 say it");
    talk.command("open sesame", "250 2.0.0 come in");
    talk.command("XOTHER", "500 5.5.2");
    talk.command("XAUTH", "334 ");
    talk.command("joe", "334 UGFzc3dvcmQ6");
    talk.command("cGFzcw==", "235 2.7.0");
    let mut other = Talk::greeted(server.port);
    other.command("XLINES", "421 4.3.2");
    other.expect_closed();
    talk.command("XBAD", "421 4.3.2 Temporary server error");
    talk.expect_closed();
}

/// CRAM-MD5 (RFC 2195) in a script.
const CRAM_MD5: &str = r#"
if ($arguments["mechanism"] == "CRAM-MD5") {
    if ($arguments["state"] == 0) {
        $context = "<1896.697170952@mx.test.example>";
        Reply($context);
    }
    $parts = explode(" ", $arguments["response"]);
    if ($parts[0] == "tim" and $parts[1] == hmac_md5("tanstaaftanstaaf", $context)) Accept(["username" => $parts[0]]);
    Reject();
}
if ($arguments["mechanism"] == "XOAUTH2" or $arguments["mechanism"] == "OAUTHBEARER") {
    if ($arguments["state"] == 0 and isset($arguments["response"]) and pcre_match("auth=Bearer good", $arguments["response"])) {
        $user = pcre_match("(?:user|a)=([^\\x01,]+)", $arguments["response"]);
        Accept(["username" => $user[1]]);
    }
    // The client answers the description of the error with an empty line, or 0x01.
    if ($arguments["state"] == 0) Reply(json_encode(["status" => "401", "schemes" => "bearer"]));
    Reject("bad token");
}
Accept();
"#;

#[test]
fn s5_4_cram_md5_and_oauth_scripts() {
    let (server, _sink) = App::new()
        .phase("auth", "tlsonly: false, mechanisms: [PLAIN, CRAM-MD5, XOAUTH2, OAUTHBEARER]")
        .hook("auth", CRAM_MD5)
        .hook("mailfrom", "echo \"mail \" + json_encode([\"c\" => $connection]); Accept([\"reason\" => $connection[\"auth\"][\"mechanism\"] + \" \" + $connection[\"auth\"][\"username\"]]);")
        .start();
    let mut talk = Talk::connect(server.port);
    talk.expect("220 ");
    assert!(talk.command("EHLO c", "250 ").contains("250-AUTH PLAIN CRAM-MD5 XOAUTH2 OAUTHBEARER\r\n"));
    let b64 = |text: &str| openssl::base64::encode_block(text.as_bytes());
    let challenge = talk.command("AUTH CRAM-MD5", "334 ");
    assert_eq!(challenge, format!("334 {}", b64("<1896.697170952@mx.test.example>")));
    let key = openssl::pkey::PKey::hmac(b"tanstaaftanstaaf").unwrap();
    let mut signer = openssl::sign::Signer::new(openssl::hash::MessageDigest::md5(), &key).unwrap();
    let digest = signer.sign_oneshot_to_vec(b"<1896.697170952@mx.test.example>").unwrap();
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut wrong = Talk::greeted(server.port);
    wrong.command("AUTH CRAM-MD5", "334 ");
    wrong.command(&b64("tim 00"), "535 5.7.8");
    wrong.command("AUTH CRAM-MD5", "334 ");
    wrong.command("*", "501 5.7.0");
    talk.command(&b64(&format!("tim {digest}")), "235 2.7.0");
    talk.command("MAIL FROM:<a@b.example>", "250 2.1.0 CRAM-MD5 tim");

    let mut talk = Talk::greeted(server.port);
    talk.command(&format!("AUTH XOAUTH2 {}", b64("user=joe@b\u{1}auth=Bearer bad\u{1}\u{1}")), "334 ");
    talk.command("", "535 5.7.8 bad token");
    talk.command(&format!("AUTH XOAUTH2 {}", b64("user=joe@b\u{1}auth=Bearer good\u{1}\u{1}")), "235 2.7.0");
    talk.command("MAIL FROM:<a@b.example>", "250 2.1.0 XOAUTH2 joe@b");
    let mut talk = Talk::greeted(server.port);
    talk.command(
        &format!("AUTH OAUTHBEARER {}", b64("n,a=joe@b,\u{1}auth=Bearer good\u{1}\u{1}")),
        "235 2.7.0",
    );
}

#[test]
fn s4_queue_calls_give_exactly_their_entries_each_with_its_edits() {
    let (server, sink) = App::new()
        .hook(
            "eod",
            "$mail = $arguments[\"mail\"];\n\
             History(\"DELIVER\", \"c@d.example\", [\"reason\" => \"why not\"]);\n\
             for ($i = 1; $i <= 3; $i += 1) {\n\
               $mail->addHeader(\"X-Number\", string($i));\n\
               $result = $mail->queue($transaction[\"sender\"], \"r\" + string($i) + \"@d.example\", \"out\");\n\
               if ($result[\"queue\"] != $i or $result[\"transaction\"] != $transaction[\"id\"]) Reject(\"numbers\");\n\
             }\n\
             if ($transaction[\"sender\"] == \"no@b.example\") Reject();\n\
             if ($transaction[\"sender\"] == \"wrong@b.example\") $mail->queue(\"\", \"x@d.example\", \"nowhere\");\n\
             Accept();",
        )
        .start();
    let mut talk = Talk::greeted(server.port);
    assert!(talk.message("a@b.example", "c@d.example", "Subject: x\r\n\r\nx").starts_with("250 2.0.0"));
    assert!(
        talk.message("no@b.example", "c@d.example", "Subject: x\r\n\r\nx")
            .starts_with("550 5.7.1 Message rejected")
    );
    assert!(
        talk.message("wrong@b.example", "c@d.example", "Subject: x\r\n\r\nx")
            .starts_with("421 4.3.2 Temporary")
    );
    server.logged(&["Unknown transport 'nowhere'"]);
    server.logged(&["history action=DELIVER recipient=<c@d.example> reason=\"why not\""]);
    wait_until("three are delivered", || sink.taken().len() == 3);
    let mut seen: Vec<(String, usize)> = sink
        .taken()
        .iter()
        .map(|taken| (taken.to.clone(), String::from_utf8_lossy(&taken.content).matches("X-Number").count()))
        .collect();
    seen.sort();
    let expected = [("r1@d.example", 1), ("r2@d.example", 2), ("r3@d.example", 3)];
    assert_eq!(seen, expected.map(|(to, count)| (to.to_owned(), count)));
}

#[test]
fn s5_hooks_of_a_connection_never_overlap_and_s18_a_reload_disturbs_nobody() {
    let (server, sink) = App::new()
        .server("concurrency: {total: 2000}")
        .hook(
            "rcptto",
            "sleep(0.05); $context = ($context ?? 0) + 1; Accept([\"reason\" => \"n\" + string($context)]);",
        )
        .hook("disconnect", "echo \"old \" + json_encode([\"x\" => $context]);")
        .start();
    let mut idle: Vec<Talk> = (0..1000).map(|_| Talk::greeted(server.port)).collect();
    let mut talk = Talk::greeted(server.port);
    talk.send(format!("MAIL FROM:<a@b.example>\r\n{}", "RCPT TO:<c@d.example>\r\n".repeat(5)).as_bytes());
    talk.expect("250 2.1.0");
    server.write_app(
        &App::new().server("concurrency: {total: 2000}").hook("rcptto", "Reject(\"new\");").text(sink.port),
        &[],
    );
    server.ctl(&["config", "reload"]);
    for n in 1..=5 {
        talk.expect(&format!("250 2.1.5 n{n}"));
    }
    let mut fresh = Talk::greeted(server.port);
    fresh.command("MAIL FROM:<a@b.example>", "250 ");
    fresh.command("RCPT TO:<c@d.example>", "554 5.7.1 new");
    for talk in &mut idle {
        talk.send(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nQUIT\r\n");
    }
    for mut talk in idle {
        talk.expect("250 2.1.0");
        talk.expect("250 2.1.5 n1");
        talk.expect("221 ");
    }
    talk.command("QUIT", "221 ");
    server.logged(&["old ", "\"x\":5"]);
}

#[test]
fn s5_1_fcrdns_results_are_arguments_of_the_connect_hook() {
    use std::net::UdpSocket;
    // A name server that answers every reverse question with one name, and that name with loopback or another address.
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
    let dns = socket.local_addr().expect("a bound socket has an address").port();
    let forged = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let lies = forged.clone();
    std::thread::spawn(move || {
        let mut buffer = [0u8; 512];
        while let Ok((count, client)) = socket.recv_from(&mut buffer) {
            let question = &buffer[..count];
            let Some(end) = question[12..].iter().position(|&b| b == 0).map(|at| 12 + at + 5) else {
                continue;
            };
            let kind = question[end - 3];
            let mut answer = question[..end].to_vec();
            answer[2] = 0x84;
            answer[3] = 0;
            answer[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
            let data: Vec<u8> = match kind {
                12 => b"\x04host\x04test\x07example\0".to_vec(),
                1 if lies.load(std::sync::atomic::Ordering::SeqCst) => vec![192, 0, 2, 1],
                1 => vec![127, 0, 0, 1],
                _ => Vec::new(),
            };
            if !data.is_empty() {
                answer[7] = 1;
                answer.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 1, 0, data.len() as u8]);
                answer.extend(data);
            }
            // A client that is gone asks again.
            let _ = socket.send_to(&answer, client);
        }
    });
    let script = "echo \"connect \" + json_encode($arguments); Accept();";
    let app = App::new()
        .top(&format!("resolver: {{servers: [{{address: 127.0.0.1, port: {dns}}}]}}"))
        .hook("connect", script);
    let sink = blackbox::sink::Sink::start();
    let text = app.text(sink.port).replace("remoteptr: false", "remoteptr: true");
    let servers = "[{id: in, listeners: [{port: @port, address: 127.0.0.1}]}]";
    let server = blackbox::Server::start_servers(servers, "", &text, &[]);
    Talk::greeted(server.port);
    let seen = server.echoed("connect");
    assert_eq!(seen["remoteptr"], "host.test.example");
    assert_eq!(seen["remoteptrresult"]["reverse"]["result"], json!(["host.test.example"]));
    assert_eq!(seen["remoteptrresult"]["forward"]["result"], json!(["127.0.0.1"]));
    // A name that does not lead back is not the client's.
    forged.store(true, std::sync::atomic::Ordering::SeqCst);
    let mut talk = Talk::greeted(server.port);
    let line = server.logged(&[" connect {", "192.0.2.1"]);
    assert!(!line.contains("\"remoteptr\":"), "{line}");
    talk.message("a@b.example", "c@d.example", "x");
    wait_until("it is delivered", || sink.count() == 1);
    assert!(sink.taken()[0].content.starts_with(b"Received: from client.example (unknown [127.0.0.1])\r\n"));
    // No answer at all is not fatal.
    server.write_app(
        &text
            .replace(&format!("port: {dns}"), "port: 1")
            .replace("resolver: {", "resolver: {timeout: 0.2, retries: 0, "),
        &[],
    );
    server.ctl(&["config", "reload"]);
    Talk::greeted(server.port);
    server.logged(&[" connect {", "\"reverse\":{\"error\":"]);
}
