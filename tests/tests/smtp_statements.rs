//! Statements of `smtp-hooks` on replies and single hooks (sections 2 to 5) over sockets, each test named after its section.

use blackbox::app::App;
use blackbox::talk::Talk;
use blackbox::wait_until;
use serde_json::{Value, json};

/// A session up to the hook of a phase; gives the reply to it.
fn reply_of(talk: &mut Talk, phase: &str) -> String {
    let steps: &[&str] = match phase {
        "connect" => &[],
        "helo" => &["EHLO c"],
        "auth" => &["EHLO c", "AUTH PLAIN AGpvZQBwYXNz"],
        "mailfrom" => &["EHLO c", "MAIL FROM:<a@b.example>"],
        "rcptto" => &["EHLO c", "MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>"],
        "proxy" => &["XPROXY"],
        _ => &["EHLO c", "MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA", "x\r\n."],
    };
    let mut reply = talk.reply().expect("a banner");
    for step in steps {
        talk.send(format!("{step}\r\n").as_bytes());
        reply = talk.reply().expect("a reply");
    }
    reply
}

fn app_of(phase: &str, script: &str) -> App {
    let app = App::new().phase("auth", "tlsonly: false");
    let app = if phase == "auth" { app } else { app.hook("auth", "Reject();") };
    let app = if phase == "proxy" { app.phase("proxy", "commands: [XPROXY]") } else { app };
    app.hook(phase, script)
}

#[test]
fn s3_default_replies_of_every_function_of_every_hook() {
    let (server, sink) = App::new().start();
    for (phase, script, expected, closes) in [
        ("connect", "Accept();", "220 mx.test.example ESMTP", false),
        ("connect", "Reject();", "521 5.7.1 Connection rejected", true),
        ("connect", "Defer();", "421 4.3.2 Service not available, try again later", true),
        ("helo", "Reject();", "554 5.7.1 Command rejected", false),
        ("helo", "Defer();", "450 4.3.2 Try again later", false),
        ("auth", "Accept();", "235 2.7.0 Authentication successful", false),
        ("auth", "Reject();", "535 5.7.8 Authentication failed", false),
        ("auth", "Defer();", "454 4.7.0 Temporary authentication failure", false),
        ("mailfrom", "Accept();", "250 2.1.0 Ok", false),
        ("mailfrom", "Reject();", "554 5.7.1 Sender rejected", false),
        ("mailfrom", "Defer();", "450 4.3.2 Try again later", false),
        ("rcptto", "Accept();", "250 2.1.5 Ok", false),
        ("rcptto", "Reject();", "554 5.7.1 Recipient rejected", false),
        ("rcptto", "Defer();", "450 4.3.2 Try again later", false),
        ("eod", "Reject();", "550 5.7.1 Message rejected", false),
        ("eod", "Defer();", "421 4.3.2 Message deferred, try again later", false),
        ("proxy", "Reply();", "250 2.0.0 Ok", false),
        ("proxy", "Pass();", "500 5.5.2 Command not recognized", false),
        ("proxy", "", "500 5.5.2 Command not recognized", false),
        // Options: one of both codes, the class digit, none, several lines, disconnect.
        (
            "helo",
            "Reject(\"x\", [\"reply_codes\" => [\"code\" => 550], \"disconnect\" => true]);",
            "550 5.7.1 x",
            true,
        ),
        (
            "auth",
            "Accept([\"reason\" => \"hi\", \"reply_codes\" => [\"enhanced\" => [2, 7, 1]]]);",
            "235 2.7.1 hi",
            false,
        ),
        ("auth", "Defer([\"a\", \"b\"], [\"disconnect\" => true]);", "454-4.7.0 a\r\n454 4.7.0 b", true),
        ("auth", "Reply(\"who\", [\"reply_codes\" => [\"code\" => 335]]);", "335 d2hv", false),
        ("auth", "Reply(\"who\", [\"disconnect\" => true]);", "334 d2hv", true),
        (
            "auth",
            "Reply(\"who\", [\"reply_codes\" => [\"code\" => 250]]);",
            "454 4.7.0 Temporary server error",
            false,
        ),
        (
            "rcptto",
            "Accept([\"reason\" => \"y\", \"reply_codes\" => [\"code\" => 251, \"enhanced\" => []]]);",
            "251 y",
            false,
        ),
        (
            "rcptto",
            "Defer(\"z\", [\"reply_codes\" => [\"code\" => 452, \"enhanced\" => [5, 2, 2]]]);",
            "452 4.2.2 z",
            false,
        ),
        ("eod", "Accept([\"reason\" => \"Å\", \"reply_codes\" => [\"code\" => 251]]);", "251 2.0.0 Å", false),
        ("eod", "Reject(\"x\\x00y\", [\"disconnect\" => true]);", "550 5.7.1 x?y", true),
        ("eod", "Defer(\"x\", [\"reply_codes\" => [\"code\" => 451]]);", "451 4.3.2 x", false),
        (
            "proxy",
            "Reply(\"no\", [\"reply_codes\" => [\"code\" => 550], \"disconnect\" => true]);",
            "550 5.0.0 no",
            true,
        ),
        (
            "proxy",
            "Reply(\"no\", [\"reply_codes\" => [\"code\" => 199]]);",
            "421 4.3.2 Temporary server error",
            true,
        ),
        ("connect", "Accept([\"reason\" => \"one\\ntwo\"]);", "220-one\r\n220 two", false),
        ("connect", "Reject(\"no\", [\"reply_codes\" => [\"code\" => 554]]);", "554 5.7.1 no", true),
        (
            "mailfrom",
            "Reject(\"x\", [\"reply_codes\" => [\"enhanced\" => [5, \"x\", 1]]]);",
            "450 4.3.2 Temporary server error",
            false,
        ),
        (
            "mailfrom",
            "Reject(\"x\", [\"reply_codes\" => [\"enhanced\" => [5, 1]]]);",
            "450 4.3.2 Temporary server error",
            false,
        ),
        ("helo", "Defer([]);", "450 4.3.2 Try again later", false),
    ] {
        server.write_app(&app_of(phase, script).text(sink.port), &[]);
        server.ctl(&["config", "reload"]);
        let mut talk = Talk::connect(server.port);
        assert_eq!(reply_of(&mut talk, phase), expected, "{phase}: {script}");
        if closes {
            talk.expect_closed();
        }
    }
    assert!(server.queue().is_empty() && sink.count() == 0);
}

#[test]
fn s2_read_only_variables_cannot_be_assigned() {
    for variable in ["arguments", "connection", "transaction"] {
        let app = App::new().hook("mailfrom", &format!("${variable} = [];"));
        let servers = "[{id: in, listeners: [{port: @port, address: 127.0.0.1}]}]";
        let server = blackbox::Server::prepare_servers(servers, "", &app.text(1), &[]);
        let (status, said) = server.launch_failing();
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("mailfrom/it.hsl") && said.contains(variable), "{said}");
    }
}

#[test]
fn s2_a_client_that_goes_away_does_not_stop_its_script() {
    let (server, sink) = App::new()
        .hook("eod", "sleep(1); $arguments[\"mail\"]->queue(\"\", \"c@d.example\", \"out\"); echo \"came to its end\"; Accept();")
        .start();
    let mut talk = Talk::greeted(server.port);
    talk.command("MAIL FROM:<a@b.example>", "250 ");
    talk.command("RCPT TO:<c@d.example>", "250 ");
    talk.command("DATA", "354 ");
    talk.send(b"x\r\n.\r\n");
    std::thread::sleep(std::time::Duration::from_millis(200));
    drop(talk);
    server.logged(&["came to its end"]);
    wait_until("it was committed", || sink.count() == 1);
}

#[test]
fn s5_1_an_address_without_its_name_has_none() {
    let (server, _sink) = App::new()
        .hook(
            "connect",
            "Accept([\"remoteip\" => \"2001:DB8::1\", \"remoteptr\" => \"\", \"reason\" => \"hello\"]);",
        )
        .hook("mailfrom", "echo \"mail \" + json_encode([\"c\" => $connection]);")
        .start();
    let mut talk = Talk::connect(server.port);
    talk.expect("220 hello");
    talk.command("EHLO c", "250 ");
    talk.command("MAIL FROM:<a@b.example>", "250 ");
    let connection = server.echoed("mail")["c"].clone();
    assert_eq!(connection["remoteip"], "2001:db8::1");
    assert!(connection.get("remoteptr").is_none(), "{connection}");
}

#[test]
fn s5_3_what_the_helo_hook_decides_is_in_force() {
    let (server, _sink) = App::new()
        .hook(
            "helo",
            "if ($arguments[\"host\"] == \"bad\") Reject();\n\
             if ($arguments[\"host\"] == \"short\") Accept([\"extensions\" => [\"SIZE 10\"], \"reason\" => \"at your service\", \"host\" => \"other\"]);\n\
             if ($arguments[\"verb\"] == \"HELO\") { if (isset($arguments[\"extensions\"])) Reject(\"extensions\"); Accept([\"extensions\" => [\"DSN\"]]); }",
        )
        .hook("mailfrom", "Accept([\"reason\" => $connection[\"helo\"][\"verb\"] + \" \" + $connection[\"helo\"][\"host\"]]);")
        .start();
    let mut talk = Talk::connect(server.port);
    talk.expect("220 ");
    talk.command("MAIL FROM:<a@b.example>", "503 5.5.1");
    for bad in ["EHLO", "EHLO a b", "HELO \u{1}x", &format!("EHLO {}", "a".repeat(256))] {
        talk.command(bad, "501 5.5.4");
    }
    assert_eq!(talk.command("EHLO short", "250 "), "250-at your service\r\n250 SIZE 10");
    talk.command("STARTTLS", "502 ");
    talk.command("MAIL FROM:<a@b.example> BODY=8BITMIME", "555 5.5.4");
    talk.command("MAIL FROM:<a@b.example>", "250 2.1.0 EHLO other");
    // A refused greeting leaves the session as it was, an accepted one ends the transaction.
    talk.command("EHLO bad", "554 5.7.1");
    talk.command("RCPT TO:<c@d.example>", "250 ");
    assert_eq!(talk.command("HELO plain", "250 "), "250 mx.test.example");
    talk.command("RCPT TO:<c@d.example>", "503 5.5.1");
    talk.command("MAIL FROM:<a@b.example> SIZE=1", "555 5.5.4");
    talk.command("MAIL FROM:<a@b.example>", "250 2.1.0 HELO plain");
}

#[test]
fn s5_4_the_exchange_with_the_auth_hook() {
    let (server, _sink) = App::new()
        .phase("auth", "tlsonly: false, maxfailures: 0")
        .hook("helo", "if ($arguments[\"verb\"] == \"EHLO\") Accept([\"extensions\" => [\"AUTH PLAIN LOGIN X-OWN\"]]);")
        .hook(
            "auth",
            "echo \"auth\" + string($arguments[\"state\"] ?? \"-\") + \" \" + json_encode($arguments);\n\
             if ($arguments[\"mechanism\"] == \"X-OWN\") { if ($arguments[\"state\"] < 2) Reply(\"n\" + string($arguments[\"state\"])); Accept(); }\n\
             if ($arguments[\"password\"] == \"pass\") Accept([\"username\" => $arguments[\"username\"]]);",
        )
        .hook("mailfrom", "Accept([\"reason\" => json_encode($connection[\"auth\"] ?? \"nobody\")]);")
        .start();
    let mut talk = Talk::greeted(server.port);
    talk.command("AUTH NOPE", "504 5.5.4");
    talk.command("AUTH", "501 5.5.4");
    talk.command("AUTH PLAIN !!", "501 5.5.2");
    for _ in 0..5 {
        // Credentials that the script says nothing about are refused.
        talk.command("AUTH PLAIN AGpvZQB4", "535 5.7.8");
    }
    assert_eq!(talk.command("AUTH PLAIN", "334"), "334");
    talk.command("*", "501 5.7.0 Authentication cancelled");
    talk.command("AUTH LOGIN", "334 VXNlcm5hbWU6");
    talk.command("%", "501 5.5.2");
    talk.command("MAIL FROM:<a@b.example>", "250 2.1.0 \"nobody\"");
    talk.command("AUTH PLAIN AGpvZQBwYXNz", "503 5.5.1");
    talk.command("RSET", "250 ");
    talk.command("auth login am9l", "334 UGFzc3dvcmQ6");
    talk.command("cGFzcw==", "235 2.7.0");
    talk.command("AUTH PLAIN AGpvZQBwYXNz", "503 5.5.1");
    let mail = talk.command("MAIL FROM:<a@b.example>", "250 ");
    assert_eq!(mail, "250 2.1.0 {\"mechanism\":\"LOGIN\",\"username\":\"joe\"}");
    let mut talk = Talk::greeted(server.port);
    talk.command("AUTH x-own", "334 bjA=");
    talk.command("", "334 bjE=");
    talk.command("aGk=", "235 ");
    assert_eq!(server.echoed("auth0"), json!({"mechanism": "X-OWN", "state": 0}));
    assert_eq!(server.echoed("auth1"), json!({"mechanism": "X-OWN", "state": 1, "response": ""}));
    assert_eq!(server.echoed("auth2"), json!({"mechanism": "X-OWN", "state": 2, "response": "hi"}));
    // Accepted without a name: there is none.
    assert_eq!(talk.command("MAIL FROM:<a@b.example>", "250 "), "250 2.1.0 {\"mechanism\":\"X-OWN\"}");
}

#[test]
fn s5_6_and_s4_5_addresses_as_scripts_see_them() {
    let (server, _sink) = App::new()
        .hook("mailfrom", "Accept([\"reason\" => json_encode([$arguments[\"sender\"], $arguments[\"address\"]])]);")
        .hook(
            "rcptto",
            "if ($arguments[\"address\"][\"localpart\"] == \"lost\") Accept([\"transportid\" => \"otu\"]);\n\
             if ($arguments[\"address\"][\"localpart\"] == \"broken\") Accept([\"recipient\" => \"a@b c\"]);\n\
             if ($arguments[\"address\"][\"localpart\"] == \"no\") Reject();\n\
             Accept([\"reason\" => json_encode([$arguments[\"recipient\"], $arguments[\"address\"], count($transaction[\"recipients\"])])]);",
        )
        .start();
    let mut talk = Talk::greeted(server.port);
    for (path, sender, localpart, domain) in [
        ("<>", "", "", ""),
        ("<Joe@Example.COM>", "joe@example.com", "Joe", "example.com"),
        ("<\"a b\"@X.example>", "\"a b\"@x.example", "a b", "x.example"),
        ("<@r1,@r2:u@c.example>", "u@c.example", "u", "c.example"),
        ("<u@[192.0.2.1]>", "u@[192.0.2.1]", "u", "[192.0.2.1]"),
        (" <u@c.example>", "u@c.example", "u", "c.example"),
    ] {
        let reply = talk.command(&format!("MAIL FROM:{path}"), "250 ");
        let seen: Value = serde_json::from_str(&reply["250 2.1.0 ".len()..]).expect("JSON");
        assert_eq!(seen, json!([sender, {"localpart": localpart, "domain": domain}]), "{path}");
        talk.command("RSET", "250 ");
    }
    for bad in ["<a@b", "a@b", "<a b@c>", "<a@b@c>", "<a@>"] {
        talk.command(&format!("MAIL FROM:{bad}"), "501 5.1.7");
    }
    talk.command("MAIL FROM:<ö@b.example>", "553 5.6.7");
    talk.command("MAIL FROM:<ö@b.example> SMTPUTF8", "250 ");
    talk.command("DATA", "503 5.5.1");
    talk.command("RCPT TO:<no@d.example>", "554 5.7.1");
    talk.command("DATA", "554 5.5.1 No valid recipients");
    talk.command("RCPT TO:<>", "501 5.1.3");
    talk.command("RCPT TO:<c@d.example> X=1", "555 5.5.4");
    talk.command(
        "RCPT TO:<Postmaster>",
        "250 2.1.5 [\"postmaster\",{\"localpart\":\"Postmaster\",\"domain\":\"\"},0]",
    );
    talk.command(
        "RCPT TO:<c@d.example>",
        "250 2.1.5 [\"c@d.example\",{\"localpart\":\"c\",\"domain\":\"d.example\"},1]",
    );
    // Duplicates stay.
    talk.command(
        "RCPT TO:<c@d.example>",
        "250 2.1.5 [\"c@d.example\",{\"localpart\":\"c\",\"domain\":\"d.example\"},2]",
    );
    talk.command("RCPT TO:<lost@d.example>", "450 4.3.2 Temporary server error");
    server.logged(&["script error in rcptto", "unknown transport 'otu'"]);
    talk.command("RCPT TO:<broken@d.example>", "450 4.3.2 Temporary server error");
}

#[test]
fn s5_7_options_of_queue_and_messages_of_the_scripts_own() {
    let (server, _sink) = App::new()
        .hook(
            "eod",
            "$m = $arguments[\"mail\"];\n\
             if ($transaction[\"sender\"] == \"drop@b.example\") Accept();\n\
             MIME()->addHeader(\"Subject\", \"own\")->setBody(\"x\")->queue(\"own@b.example\", \"own@d.example\", \"out\", [\"hold\" => true]);\n\
             $m->queue($transaction[\"senderaddress\"], [\"localpart\" => \"Q\", \"domain\" => \"D.example\"], \"out\", [\"metadata\" => [\"k\" => \"v\"],\n\
               \"hold\" => true, \"jobid\" => \"j\", \"tenantid\" => \"t\", \"priority\" => 1, \"quotas\" => [\"q\"],\n\
               \"dsn\" => [\"envid\" => \"e\", \"ret\" => \"HDRS\", \"notify\" => \"NEVER\", \"orcpt\" => \"rfc822;o@d\"]]);\n\
             if ($transaction[\"sender\"] == \"no@b.example\") Reject();\n\
             Accept();",
        )
        .start();
    let mut talk = Talk::greeted(server.port);
    // Accepted and dropped: the same reply.
    assert!(talk.message("drop@b.example", "c@d.example", "x").starts_with("250 2.0.0 Ok: queued as "));
    assert!(server.queue().is_empty());
    // What the script made itself outlives its verdict.
    assert_eq!(talk.message("no@b.example", "c@d.example", "x"), "550 5.7.1 Message rejected");
    let queue = server.queue();
    assert_eq!(queue.len(), 1, "{queue:?}");
    assert_eq!(queue[0]["recipient"]["localpart"], "own");
    let reply = talk.message("Yes@b.example", "c@d.example", "x");
    let id = reply.rsplit(' ').next().expect("an id").to_owned();
    let queue = server.queue();
    let entry = queue
        .iter()
        .find(|entry| entry["recipient"]["localpart"] == "Q")
        .unwrap_or_else(|| panic!("{queue:?}"));
    for (key, value) in [
        ("hold", json!(true)),
        ("priority", json!("1")),
        ("quotas", json!(["q"])),
        ("recipient", json!({"localpart": "Q", "domain": "d.example"})),
        ("jobid", json!("j")),
        ("tenantid", json!("t")),
        ("sender", json!({"localpart": "Yes", "domain": "b.example"})),
        ("metadata", json!({"k": "v"})),
    ] {
        assert_eq!(entry[key], value, "{key} in {entry}");
    }
    assert!(entry.to_string().contains(&id), "S8: {id} in {entry}");
}

#[test]
fn s5_8_the_state_names_what_the_last_reply_answered() {
    let script = "echo \"bye \" + json_encode([\"a\" => $arguments, \"c\" => isset($connection[\"helo\"])]);";
    let app = App::new()
        .server("timeout: {idle: 1}")
        .phase("auth", "tlsonly: false")
        .phase("proxy", "commands: [XPROXY]")
        .hook("proxy", "Reply(\"no\", [\"disconnect\" => true]);")
        .hook("auth", "Reject(\"no\", [\"disconnect\" => true]);")
        .hook("helo", "if ($arguments[\"host\"] == \"bad\") Reject(\"no\", [\"disconnect\" => true]);")
        .hook(
            "mailfrom",
            "if ($arguments[\"sender\"] == \"bad@b\") Reject(\"no\", [\"disconnect\" => true]);",
        )
        .hook(
            "rcptto",
            "if ($arguments[\"recipient\"] == \"bad@b\") Defer(\"no\", [\"disconnect\" => true]);",
        )
        .hook("eod", "Defer([\"a\", \"b\"], [\"disconnect\" => true]);")
        .hook("disconnect", script);
    let (server, sink) = app.start();
    let up_to = |lines: &[&str]| {
        let before = server.log().matches(" bye {").count();
        let mut talk = Talk::connect(server.port);
        talk.expect("220 ");
        for line in lines {
            talk.send(format!("{line}\r\n").as_bytes());
            talk.reply().expect("a reply");
        }
        talk.reply()
            .map_or(Vec::new(), |reply| vec![reply])
            .into_iter()
            .for_each(|reply| assert!(reply.starts_with("421 4.4.2"), "{reply}"));
        wait_until("the hook ran", || server.log().matches(" bye {").count() == before + 1);
        let log = server.log();
        let line = log.rsplit(" bye ").next().expect("a line").lines().next().expect("a line");
        let value: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(value["a"]["close"], "local", "{value}");
        (
            value["a"]["reply"]["state"].clone(),
            value["a"]["reply"]["code"].clone(),
            value["a"]["reply"]["reason"].clone(),
        )
    };
    for (lines, state, code, reason) in [
        (&["XPROXY"][..], "PROXY", 250, json!(["no"])),
        (&["HELO bad"], "HELO", 554, json!(["no"])),
        (&["EHLO bad"], "EHLO", 554, json!(["no"])),
        (&["EHLO c", "AUTH PLAIN AGpvZQBwYXNz"], "AUTH", 535, json!(["no"])),
        (&["EHLO c", "MAIL FROM:<bad@b>"], "MAIL", 554, json!(["no"])),
        (&["EHLO c", "MAIL FROM:<a@b>", "RCPT TO:<bad@b>"], "RCPT", 450, json!(["no"])),
        (&["EHLO c", "MAIL FROM:<a@b>", "RCPT TO:<c@b>", "DATA", "x\r\n."], "EOD", 421, json!(["a", "b"])),
        (&["EHLO c", "NOOP"], "TIMEOUT", 421, json!(["Timeout"])),
        (&["QUIT"], "QUIT", 221, json!(["Bye"])),
    ] {
        assert_eq!(up_to(lines), (json!(state), json!(code), reason), "{lines:?}");
    }
    server.write_app(&app.hook("connect", "Reject(\"no\");").text(sink.port), &[]);
    server.ctl(&["config", "reload"]);
    let mut talk = Talk::connect(server.port);
    talk.expect("521 5.7.1 no");
    server.logged(&[" bye {", "\"state\":\"CONNECT\"", "\"code\":521"]);
}
