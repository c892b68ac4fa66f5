//! What the client side of delivery says and does, statement by statement, against peers that are watched.

use blackbox::certificates::{Certificate, issue, self_signed, yaml};
use blackbox::client::send;
use blackbox::scripted::{Answer, Script, Scripted, say};
use blackbox::{Server, wait_until};

const APP: &str = r#"
version: "6.9"
servers: [{id: in, transport: out, extensions: {dsn: true}, phases: {connect: {remoteptr: false}}}]
transportgroups:
  - id: g
    connection: {server: 127.0.0.1, port: %PORT}
    retry: {intervals: [{interval: 1h}]}
    session: {tls: {mode: disabled}, auth: {username: group}, %GROUP}
    transports: [{id: out, session: {%OWN}}]
scripting:
  hooks:
    postdelivery: |
      $attempt = $arguments["attempt"];
      echo "ENDING " . json_encode($attempt["result"] ?? $attempt["error"]);
      echo "TLS " . json_encode(["started" => $attempt["connection"]["tls"]["started"], "rpt" => $attempt["connection"]["tls"]["tlsrpt"] ?? "none",
        "peer" => isset($attempt["connection"]["tls"]["peercert"])]);
"#;

fn server(port: u16, group: &str, own: &str) -> Server {
    let app = APP.replace("%PORT", &port.to_string()).replace("%GROUP", group).replace("%OWN", own);
    let app = if own.contains("auth") { app } else { app.replace("auth: {username: group}, ", "") };
    let mut server = Server::prepare(&app, &[]);
    server.add_startup("logging: {level: debug}\n");
    server.launch();
    server
}

fn ending(server: &Server, number: usize) -> serde_json::Value {
    wait_until("an attempt ends", || server.log().matches("ENDING ").count() >= number);
    let log = server.log();
    let line = log.split("ENDING ").nth(number).unwrap().lines().next().unwrap();
    serde_json::from_str(line).unwrap()
}

fn tls(server: &Server, number: usize) -> serde_json::Value {
    wait_until("an attempt ends", || server.log().matches("TLS {").count() >= number);
    let log = server.log();
    let line = log.split("TLS {").nth(number).unwrap().lines().next().unwrap();
    serde_json::from_str(&format!("{{{line}")).unwrap()
}

#[test]
fn chunks_carry_large_content_unchanged() {
    let peer = Scripted::good(&["PIPELINING", "CHUNKING", "8BITMIME", "SIZE"]);
    let server = server(peer.port, "chunking: true", "");
    let mut content = b"Subject: large\r\n\r\n.\r\n..\r\n".to_vec();
    for number in 0..40_000 {
        content.extend_from_slice(
            format!(".line {number} of a message that needs several chunks, \u{e5}\r\n").as_bytes(),
        );
    }
    send(server.port, "a@sender.example", "b@test.example", &content);
    wait_until("it arrives", || peer.count() == 1);
    let taken = &peer.taken()[0];
    assert!(taken.content.ends_with(&content), "byte for byte below our own trace");
    let commands = peer.commands();
    assert_eq!(commands.iter().filter(|line| line.contains(" BDAT ")).count(), 3, "{commands:?}");
    assert!(
        commands.iter().any(|line| line.ends_with("LAST")) && !commands.iter().any(|l| l.ends_with("DATA"))
    );
    assert!(taken.mail.contains(" BODY=8BITMIME"), "{}", taken.mail);
}

#[test]
fn parameters_follow_what_is_announced() {
    let all = Scripted::good(&["PIPELINING", "SIZE 1000000", "8BITMIME", "SMTPUTF8", "DSN"]);
    let none = Scripted::good(&[]);
    let script = format!(
        "scripting:\n  hooks:\n    predelivery: |\n      $words = explode(\"+\", $message[\"recipientaddress\"][\"localpart\"]);\n      \
         if ($words[1] == \"none\") Try([\"port\" => {}]);\n      if ($words[1] == \"params\") Try([\"sender\" => [\"localpart\" => \"s\", \
         \"domain\" => \"x.example\", \"params\" => [\"AUTH\" => \"<>\"]], \"recipient\" => [\"localpart\" => \"r\", \"domain\" => \"y.example\", \
         \"params\" => [\"X-FLAG\" => \"\"]]]);\n",
        none.port
    );
    let app = APP
        .replace("%PORT", &all.port.to_string())
        .replace("auth: {username: group}, %GROUP", "")
        .replace("%OWN", "");
    let app = app[..app.find("scripting:").unwrap()].to_owned() + &script;
    let server = Server::start(&app, &[]);
    let utf8 = "Subject: gr\u{fc}n\r\n\r\nbody\r\n".as_bytes();
    let eight = b"Subject: x\r\n\r\n\xe5\r\n";
    type Case<'a> = (&'a str, &'a [u8], &'a Scripted, &'a [&'a str], &'a [&'a str]);
    let cases: [Case<'_>; 5] = [
        ("b+all@test.example", b"Subject: x\r\n\r\nx\r\n", &all, &[" SIZE="], &["BODY", "SMTPUTF8"]),
        ("c+all@test.example", eight, &all, &[" SIZE=", " BODY=8BITMIME"], &["SMTPUTF8"]),
        ("d+all@test.example", utf8, &all, &[" SIZE=", " BODY=8BITMIME", " SMTPUTF8"], &[]),
        (
            "e+none@test.example",
            utf8,
            &none,
            &["MAIL FROM:<a@sender.example>"],
            &["SIZE", "BODY", "SMTPUTF8"],
        ),
        ("f+params@test.example", b"Subject: x\r\n\r\nx\r\n", &all, &["<s@x.example>", " AUTH=<>"], &[]),
    ];
    for (to, content, peer, has, lacks) in cases {
        let before = peer.count();
        send(server.port, "a@sender.example", to, content);
        wait_until("it arrives", || peer.count() == before + 1);
        let taken = peer.taken().pop().unwrap();
        assert!(has.iter().all(|part| taken.mail.contains(part)), "{to}: {}", taken.mail);
        assert!(!lacks.iter().any(|part| taken.mail.contains(part)), "{to}: {}", taken.mail);
        if to.starts_with('f') {
            assert_eq!(taken.rcpt, "RCPT TO:<r@y.example> X-FLAG");
        }
    }
}

#[test]
fn a_message_above_the_announced_size_is_not_sent() {
    let peer = Scripted::good(&["SIZE 300"]);
    let server = server(peer.port, "", "");
    send(
        server.port,
        "a@sender.example",
        "b@test.example",
        &[b"Subject: x\r\n\r\n", &b"0123456789\r\n".repeat(100)[..]].concat(),
    );
    let error = ending(&server, 1);
    assert_eq!((&error["type"], &error["temporary"]), (&"smtp".into(), &false.into()), "{error}");
    assert!(!peer.commands().iter().any(|line| line.contains("MAIL")));
}

#[test]
fn logs_in_before_mail_and_only_where_it_is_safe() {
    let peer = Scripted::good(&["AUTH PLAIN LOGIN"]);
    let first = server(peer.port, "", "auth: {username: own, password: secret}");
    send(first.port, "a@sender.example", "b@test.example", b"Subject: x\r\n\r\nx\r\n");
    wait_until("it arrives", || peer.count() == 1);
    assert_eq!(peer.commands()[1], "1 plain AUTH PLAIN AG93bgBzZWNyZXQ=", "the transport's own account");
    // With TLS that is optional and not there, a password is not said.
    let second = server(peer.port, "", "auth: {username: own, password: secret}, tls: {mode: optional}");
    send(second.port, "a@sender.example", "b@test.example", b"Subject: x\r\n\r\nx\r\n");
    let error = ending(&second, 1);
    assert_eq!((&error["type"], &error["temporary"]), (&"protocol".into(), &true.into()), "{error}");
    assert!(error["message"].as_str().unwrap().contains("without TLS"), "{error}");
    assert!(!second.log().contains("secret"));
}

fn encrypted(certificate: (Certificate, Vec<Certificate>), offer: bool) -> Scripted {
    let script = Script {
        extensions: if offer { vec!["PIPELINING", "STARTTLS"] } else { vec!["PIPELINING"] },
        certificate: Some(certificate),
        ..Script::default()
    };
    Scripted::start(script, |_| Answer::Usual)
}

/// Modes × peers, as the table of the manual has them. Roots are those of a file that OpenSSL is told of.
#[test]
fn every_mode_against_every_kind_of_peer() {
    let root = issue("root.test.example", None, (-1, 30));
    let other_root = issue("other.test.example", None, (-1, 30));
    let good = || (issue("peer.test.example", Some(&root), (-1, 30)), Vec::new());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("roots.pem"), root.pem()).unwrap();
    let peers: [(&str, Scripted); 6] = [
        ("none", encrypted(good(), false)),
        ("good", encrypted(good(), true)),
        ("self", encrypted((self_signed("peer.test.example"), Vec::new()), true)),
        ("expired", encrypted((issue("peer.test.example", Some(&root), (-9, -1)), Vec::new()), true)),
        ("untrusted", encrypted((issue("peer.test.example", Some(&other_root), (-1, 9)), Vec::new()), true)),
        (
            "refuses",
            Scripted::start(Script { extensions: vec!["STARTTLS"], ..Script::default() }, |command| {
                if command.state == "STARTTLS" { say("454 4.7.0 not now") } else { Answer::Usual }
            }),
        ),
    ];
    let modes = [
        "disabled",
        "optional",
        "optional_verify",
        "require",
        "require_verify",
        "dane",
        "dane_require",
        "dane_fallback_require",
        "dane_fallback_require_verify",
    ];
    let ports: Vec<String> =
        peers.iter().map(|(name, peer)| format!("\"{name}\" => {}", peer.port)).collect();
    let script = format!(
        "scripting:\n  hooks:\n    predelivery: |\n      $words = explode(\"+\", $message[\"recipientaddress\"][\"localpart\"]);\n      \
         $options = [\"port\" => [{}][$words[0]], \"tls\" => $words[1]];\n      \
         if ($words[2] == \"name\") $options[\"tls_verify_name\"] = [\"other.example\", \"*.test.example\"];\n      \
         if ($words[2] == \"wrong\") $options[\"tls_verify_name\"] = [\"other.example\"];\n      \
         Try($options);\n    postdelivery: |\n      $tls = $arguments[\"attempt\"][\"connection\"][\"tls\"];\n      \
         echo \"CELL \" . $message[\"recipientaddress\"][\"localpart\"] . \" \" . ($arguments[\"action\"] ?? \"DELIVERED\") . \" \" . \
         ($tls[\"started\"] ? \"tls\" : \"plain\") . \" \" . ($tls[\"tlsrpt\"] ?? \"none\") . \" \" . ($arguments[\"attempt\"][\"error\"][\"type\"] ?? \"\");\n",
        ports.join(", ")
    );
    let app = APP.replace("%PORT", "1").replace("auth: {username: group}, %GROUP", "").replace("%OWN", "");
    let app = app[..app.find("scripting:").unwrap()].to_owned() + &script;
    let mut server = Server::prepare(&app, &[]);
    server.add_startup("logging: {level: debug}\n");
    server.environment =
        vec![("SSL_CERT_FILE".to_owned(), folder.path().join("roots.pem").display().to_string())];
    server.launch();
    let mut cells = Vec::new();
    for (peer, _) in &peers {
        for mode in modes {
            let has_tls = !matches!(*peer, "none" | "refuses");
            let verdict = match (mode, *peer) {
                ("disabled", _) => "DELIVERED plain none ".to_owned(),
                // Without signed records these are other modes.
                ("dane_require", _) => "QUEUE plain dane-required dane".to_owned(),
                ("optional" | "dane" | "optional_verify", "none") => {
                    "DELIVERED plain starttls-not-supported ".to_owned()
                }
                ("optional" | "dane" | "optional_verify", "refuses") => {
                    "DELIVERED plain validation-failure ".to_owned()
                }
                (_, "none") => "QUEUE plain starttls-not-supported tls".to_owned(),
                (_, "refuses") => "QUEUE plain validation-failure tls".to_owned(),
                ("optional" | "dane" | "require" | "dane_fallback_require", _) => {
                    "DELIVERED tls none ".to_owned()
                }
                (_, "good") => "DELIVERED tls none ".to_owned(),
                (_, "expired") => "QUEUE plain certificate-expired tls".to_owned(),
                (_, _) => "QUEUE plain certificate-not-trusted tls".to_owned(),
            };
            cells.push((format!("{peer}+{mode}+x"), verdict.clone()));
            if has_tls && mode == "require" {
                cells.push((format!("{peer}+{mode}+name"), verdict.clone()));
                cells.push((
                    format!("{peer}+{mode}+wrong"),
                    "QUEUE plain certificate-host-mismatch tls".to_owned(),
                ));
            }
            if *peer == "good" && mode == "optional" {
                // What is only wished for goes in the clear when a name is asked for and wrong.
                cells.push((
                    format!("{peer}+{mode}+wrong"),
                    "DELIVERED plain certificate-host-mismatch ".to_owned(),
                ));
            }
        }
    }
    let mut sender = blackbox::client::Sender::connect(server.port).unwrap();
    for (local, _) in &cells {
        let to = format!("{local}@test.example");
        assert!(sender.send("a@sender.example", &to, b"Subject: x\r\n\r\nx\r\n").unwrap().is_delivered());
    }
    wait_until("all have ended", || server.log().matches("CELL ").count() >= cells.len());
    let log = server.log();
    let mut wrong = Vec::new();
    for (local, expected) in &cells {
        let marker = format!("CELL {local} ");
        let found = log.split(&marker).nth(1).unwrap_or_default().lines().next().unwrap_or_default();
        if found.trim_end() != expected.trim_end() {
            wrong.push(format!("{local}: expected {expected}, found {found}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cells.len(), wrong.join("\n"));
    for (name, peer) in &peers {
        for taken in peer.taken() {
            let needs = taken.rcpt.contains("require") || taken.rcpt.contains("verify");
            let offered = !matches!(*name, "none" | "refuses");
            assert!(taken.encrypted || !needs || !offered, "{name}: {}", taken.rcpt);
            assert!(taken.encrypted || !taken.rcpt.contains("require"), "{name}: {}", taken.rcpt);
        }
    }
}

#[test]
fn tls_from_the_first_byte_with_a_certificate_of_our_own() {
    let own = self_signed("client.test.example");
    let script = Script {
        extensions: vec!["PIPELINING", "STARTTLS"],
        certificate: Some((self_signed("peer.test.example"), Vec::new())),
        implicit: true,
        ..Script::default()
    };
    let peer = Scripted::start(script, |_| Answer::Usual);
    let app = APP
        .replace("%PORT", &peer.port.to_string())
        .replace(
            "tls: {mode: disabled}, auth: {username: group}, %GROUP",
            "tls: {implicit: true, mode: require, clientcert: own, sni: asked.test.example}",
        )
        .replace("%OWN", "");
    let keys = format!(
        "pki: {{private: [{{id: own, privatekey: {{data: {}}}, certificate: {{data: {}}}}}]}}\n",
        yaml(&own.key_pem()),
        yaml(&own.pem())
    );
    let server = Server::start(&(app.clone() + &keys), &[]);
    send(server.port, "a@sender.example", "b@test.example", b"Subject: x\r\n\r\nx\r\n");
    wait_until("it arrives", || peer.count() == 1);
    let commands = peer.commands();
    assert!(peer.taken()[0].encrypted && !commands.iter().any(|line| line.contains("STARTTLS")));
    assert!(commands.iter().any(|line| line.contains("(certificate client.test.example)")), "{commands:?}");
    assert!(commands.iter().any(|line| line.contains("(sni asked.test.example)")), "{commands:?}");
    // Mistakes are found when the file is read.
    for (from, to, expected) in [
        ("clientcert: own", "clientcert: onw", "onw"),
        ("sni: asked.test.example", "protocols: \"TLSv9\"", "TLSv9"),
        ("sni: asked.test.example", "ciphers: NO-SUCH", "NO-SUCH"),
    ] {
        let (status, said) = Server::prepare(&(app.replace(from, to) + &keys), &[]).launch_failing();
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn a_peer_that_stalls_in_tls_is_remembered() {
    let script = Script {
        extensions: vec!["PIPELINING", "STARTTLS"],
        certificate: Some((self_signed("peer.test.example"), Vec::new())),
        ..Script::default()
    };
    let peer =
        Scripted::start(
            script,
            |command| if command.state == "HANDSHAKE" { Answer::Stall } else { Answer::Usual },
        );
    let server = server(peer.port, "timeout: {STARTTLS: 1}", "tls: {mode: optional}");
    for number in 1..=3 {
        send(server.port, "a@sender.example", "b@test.example", b"Subject: x\r\n\r\nx\r\n");
        wait_until("it arrives", || peer.count() == number);
        assert_eq!(tls(&server, number)["rpt"], "validation-failure");
    }
    assert_eq!(
        peer.commands().iter().filter(|line| line.ends_with("STARTTLS")).count(),
        1,
        "only the first time"
    );
    assert_eq!(server.counter("queue.delivery.delayed"), 0);
}

#[test]
fn mx_and_address_filters() {
    let zone =
        blackbox::zone::Zone::start("@ IN MX 10 a\n@ IN MX 20 b\na IN A 127.0.0.1\nb IN A 127.0.0.2\n");
    let first = Scripted::good(&[]);
    let second =
        Scripted::start(Script { address: "127.0.0.2", port: first.port, ..Script::default() }, |_| {
            Answer::Usual
        });
    let script = r#"scripting:
  hooks:
    predelivery: |
      $options = [
        "all" => [],
        "include" => ["mx_include" => ["b.test.example"]],
        "wild" => ["mx_include" => ["*.test.example"], "mx_exclude" => ["A.test.example"]],
        "network" => ["ip_exclude" => ["127.0.0.0/31"]],
        "address" => ["ip_include" => ["127.0.0.2"]],
        "nobody" => ["mx_include" => ["c.test.example"]],
        "nowhere" => ["ip_exclude" => ["127.0.0.0/8"]],
      ];
      Try($options[$message["recipientaddress"]["localpart"]]);
    postdelivery: |
      echo "ENDING " . json_encode($arguments["attempt"]["result"] ?? $arguments["attempt"]["error"]);
"#;
    let app = APP
        .replace("%PORT", &first.port.to_string())
        .replace("server: 127.0.0.1", "server: lookup-mx")
        .replace("auth: {username: group}, %GROUP", "")
        .replace("%OWN", "");
    let app = app[..app.find("scripting:").unwrap()].to_owned()
        + script
        + &format!("resolver: {{servers: [{{address: 127.0.0.1, port: {}}}]}}\n", zone.port);
    let mut server = Server::prepare(&app, &[]);
    server.add_startup("logging: {level: debug}\n");
    server.launch();
    let mut number = 0;
    let mut go = |to: &str| {
        send(server.port, "a@sender.example", &format!("{to}@test.example"), b"Subject: x\r\n\r\nx\r\n");
        number += 1;
        ending(&server, number)
    };
    go("all");
    assert_eq!((first.count(), second.count()), (1, 0));
    for (to, count) in [("include", 1), ("wild", 2), ("network", 3), ("address", 4)] {
        go(to);
        assert_eq!((first.count(), second.count()), (1, count), "{to}");
    }
    for to in ["nobody", "nowhere"] {
        let error = go(to);
        assert_eq!(
            (&error["type"], &error["dns"], &error["temporary"]),
            (&"dns".into(), &"excluded".into(), &true.into()),
            "{error}"
        );
    }
    // The same in the configuration, for everybody and for a transport.
    for (key, value) in
        [("exclude: [a.test.example]", ""), ("exclude: [127.0.0.1/32]", ""), ("", "mx: {exclude: [a.*]}, ")]
    {
        let text = app
            .replace("resolver: {", &format!("resolver: {{{key}{} ", if key.is_empty() { "" } else { "," }));
        let text = text.replace(
            "connection: {server",
            &format!("connection: {{{}server", value.replace("a.*", "a.test.example")),
        );
        server.write("app.yaml", &text);
        server.ctl(&["config", "reload"]);
        let before = second.count();
        send(server.port, "a@sender.example", "all@test.example", b"Subject: x\r\n\r\nx\r\n");
        wait_until("it goes to the other", || second.count() == before + 1);
    }
    assert_eq!(first.count(), 1);
}

#[test]
fn connections_go_out_through_haproxy() {
    let peer = Scripted::good(&["PIPELINING"]);
    let dir = tempfile::tempdir().unwrap();
    let port = blackbox::free_port();
    // It goes where the header says, and tells the peer in the clear where the connection comes from.
    std::fs::write(
        dir.path().join("haproxy.cfg"),
        format!(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
             listen out\n  bind 127.0.0.1:{port} accept-proxy\n  server any 0.0.0.0:0 send-proxy\n"
        ),
    )
    .unwrap();
    let mut command = std::process::Command::new(blackbox::system_program("haproxy"));
    let child = command.arg("-db").arg("-f").arg(dir.path().join("haproxy.cfg")).spawn().unwrap();
    let _haproxy = blackbox::Process(child);
    wait_until("haproxy listens", || blackbox::peer::is_listening(port));
    let app = |connection: &str, more: &str| {
        let app = APP.replace("%PORT", &peer.port.to_string()).replace("auth: {username: group}, %GROUP", "");
        let app = app
            .replace("%OWN", "")
            .replace("server: 127.0.0.1,", &format!("server: 127.0.0.1, {connection}"));
        format!("{app}{more}")
    };
    let first = app(&format!("proxyprotocol: {{server: 127.0.0.1, port: {port}}},"), "");
    let mut server = Server::prepare(&first, &[]);
    server.add_startup("logging: {level: debug}\n");
    server.launch();
    let addresses = format!(
        "addresses:\n  - {{id: far, address: 192.0.2.7, helo: far.test.example, proxyprotocol: {{server: 127.0.0.1, port: {port}, version: 1}}}}\n"
    );
    let cases = [
        (first.clone(), "PROXY TCP4 0.0.0.0 127.0.0.1", "EHLO mx.test.example"),
        (
            app(&format!("proxy: {{address: 127.0.0.1, port: {port}, version: 1}},"), ""),
            "PROXY TCP4 0.0.0.0 127.0.0.1",
            "EHLO mx",
        ),
        // An address that only the proxy has.
        (
            app("sourceip: {addresses: [far]},", &addresses),
            "PROXY TCP4 192.0.2.7 127.0.0.1",
            "EHLO far.test.example",
        ),
    ];
    for (number, (text, from, ehlo)) in cases.iter().enumerate() {
        server.write("app.yaml", text);
        server.ctl(&["config", "reload"]);
        send(server.port, "a@sender.example", "b@test.example", b"Subject: x\r\n\r\nx\r\n");
        wait_until("it arrives", || peer.count() == number + 1);
        let commands = peer.commands();
        let said = |text: &str| {
            commands.iter().any(|line| line.starts_with(&format!("{} plain {text}", number + 1)))
        };
        assert!(said(from) && said(ehlo), "{commands:?}");
    }
    // A proxy that is not there is a matter of the network.
    drop(_haproxy);
    send(server.port, "a@sender.example", "b@test.example", b"Subject: x\r\n\r\nx\r\n");
    let error = ending(&server, 4);
    assert_eq!((&error["type"], &error["temporary"]), (&"network".into(), &true.into()), "{error}");
    assert!(error["message"].as_str().unwrap().contains("proxy 127.0.0.1"), "{error}");
    let (status, said) =
        Server::prepare(&app("proxyprotocol: {server: a, port: 1, version: 3},", ""), &[]).launch_failing();
    assert!(status == Some(1) && said.contains("expected 1 or 2"), "{said}");
}

#[test]
fn the_resolver_names_the_address_that_an_attempt_uses() {
    let zone = blackbox::zone::Zone::start(
        "@ IN MX 10 a\n@ IN MX 10 b\n@ IN MX 20 c\na IN A 127.0.0.1\na IN A 127.0.0.2\nb IN A 127.0.0.3\nc IN A 127.0.0.4\nnull IN MX 0 .\n",
    );
    let first = Scripted::start(Script::default(), |command| match command.state {
        "RCPT" => say("451 4.7.1 not yet"),
        _ => Answer::Usual,
    });
    let _others = ["127.0.0.2", "127.0.0.3", "127.0.0.4"].map(|address| {
        Scripted::start(Script { address, port: first.port, ..Script::default() }, |command| {
            match command.state {
                "RCPT" => say("451 4.7.1 not yet"),
                _ => Answer::Usual,
            }
        })
    });
    let script = r#"scripting:
  hooks:
    postdelivery: |
      $connection = $arguments["attempt"]["connection"];
      echo "HOP " . $message["id"]["transaction"] . " " . $arguments["retry"] . " " . $connection["remoteip"] . " " . $connection["remotemx"];
"#;
    let app = APP
        .replace("%PORT", &first.port.to_string())
        .replace("server: 127.0.0.1", "server: lookup-mx")
        .replace("interval: 1h", "interval: 0")
        .replace("retry: {", "retry: {count: 4, ")
        .replace("auth: {username: group}, %GROUP", "")
        .replace("%OWN", "");
    let app = app[..app.find("scripting:").unwrap()].to_owned()
        + script
        + &format!(
            "resolver: {{servers: [{{address: 127.0.0.1, port: {}}}], cache: {{size: 100}}}}\n",
            zone.port
        );
    let mut server = Server::prepare(&app, &[]);
    server.add_startup("logging: {level: debug}\n");
    server.launch();
    for _ in 0..6 {
        send(server.port, "a@sender.example", "b@test.example", b"Subject: x\r\n\r\nx\r\n");
    }
    wait_until("all attempts were made", || server.log().matches("HOP ").count() == 30);
    let log = server.log();
    let mut seen = std::collections::HashSet::new();
    for line in log.split("HOP ").skip(1).map(|rest| rest.lines().next().unwrap()) {
        let words: Vec<&str> = line.split(' ').collect();
        let [id, retry, address, host] = words[..] else { panic!("{line}") };
        let said = server.ctl(&["resolver", "query", "test.example", "--seed", id, "--retry", retry]);
        assert!(
            said.starts_with(&format!("address: {address}\nhostname: {host}\ndnssec: false\n")),
            "{line}: {said}"
        );
        seen.insert(address.to_owned());
    }
    assert_eq!(seen.len(), 4, "the fifth attempt begins again, and all were tried");
    let all = server.ctl(&["resolver", "query", "test.example", "--all"]);
    assert_eq!(all.matches("address: ").count(), 4);
    assert!(all.trim_end().contains("127.0.0.4"), "{all}");
    for (domain, expected) in [("null.test.example", "null MX"), ("missing.test.example", "no such domain")] {
        let output = server.halonctl(&["resolver", "query", domain]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(expected), "{text}");
    }
    assert!(server.ctl(&["resolver", "clear", "test.example"]).contains("entries cleared"));
    assert!(!server.ctl(&["resolver", "clear"]).starts_with("0 "));
}
