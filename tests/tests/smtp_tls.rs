//! TLS of the SMTP server, by section 11 of `smtp-hooks`, with real handshakes.

use blackbox::app::App;
use blackbox::certificates::{Certificate, issue, self_signed, yaml};
use blackbox::talk::{Talk, TlsClient};
use blackbox::{Server, wait_until};
use openssl::ssl::SslVersion;
use serde_json::json;

const LISTENERS: &str = "[{id: in, listeners: [{port: @port, address: 127.0.0.1, id: mx}]}]";

fn pki(certificates: &[(&str, &Certificate)]) -> String {
    let items: Vec<String> = certificates
        .iter()
        .map(|(id, one)| {
            format!(
                "{{id: {id}, certificate: {{data: {}}}, privatekey: {{data: {}}}}}",
                yaml(&one.pem()),
                yaml(&one.key_pem())
            )
        })
        .collect();
    format!("pki: {{private: [{}]}}", items.join(", "))
}

fn with_tls(keys: &str, certificate: &Certificate) -> App {
    let more = if keys.is_empty() { String::new() } else { format!(", {keys}") };
    App::new().server(&format!("tls: {{certs: [{{cert: mx}}]{more}}}")).top(&pki(&[("mx", certificate)]))
}

fn shows(talk: &Talk, certificate: &Certificate) -> bool {
    let shown = talk.ssl().peer_certificate().expect("a server has a certificate");
    shown.to_der().expect("DER") == certificate.certificate.to_der().expect("DER")
}

/// Writes what the connection says about the client's certificate.
const PEER: &str = r#"
if (isset($connection["tls"]["peercert"])) {
    $peer = $connection["tls"]["peercert"];
    $name = X509($peer["x509"])->subject()[0][1];
    echo "peer " + json_encode(["error" => $peer["error"], "chain" => length($peer["chain"]), "name" => $name]);
}
"#;

#[test]
fn s11_starttls_is_announced_once_and_clears_what_was_said_but_the_context() {
    let mx = self_signed("mx.test.example");
    let (server, sink) = with_tls("", &mx)
        .hook("helo", "$context = ($context ?? 0) + 1;")
        .hook(
            "mailfrom",
            "echo \"mail \" + json_encode([\"c\" => $connection, \"x\" => $context]); Accept();",
        )
        .start();
    let mut talk = Talk::connect(server.port);
    talk.expect("220 ");
    assert!(talk.command("EHLO first.example", "250 ").contains("250-STARTTLS\r\n"));
    talk.command("STARTTLS now", "501 5.5.4");
    talk.starttls(&TlsClient { sni: Some("Mx.Test.example".to_owned()), ..TlsClient::default() }).unwrap();
    talk.command("MAIL FROM:<a@b.example>", "503 5.5.1");
    assert!(!talk.command("EHLO second.example", "250 ").contains("STARTTLS"));
    talk.command("STARTTLS", "503 5.5.1");
    assert!(talk.message("a@b.example", "c@d.example", "x").starts_with("250 "));
    let seen = server.echoed("mail");
    assert_eq!(seen["x"], 2);
    assert_eq!(seen["c"]["helo"]["host"], "second.example");
    let tls = &seen["c"]["tls"];
    assert_eq!((&tls["protocol"], &tls["sni"]), (&json!("TLSv1.3"), &json!("Mx.Test.example")));
    assert_eq!((&tls["cipher"], &tls["keysize"]), (&json!("TLS_AES_256_GCM_SHA384"), &json!(256)));
    assert!(tls.get("peercert").is_none());
    wait_until("it is delivered", || sink.count() == 1);
    let content = String::from_utf8_lossy(&sink.taken()[0].content).into_owned();
    assert!(content.contains("(Halon) with ESMTPS\r\n"), "{content}");
}

#[test]
fn s12_nothing_is_carried_over_starttls() {
    let mx = self_signed("mx.test.example");
    let (server, _sink) = with_tls("", &mx).hook("mailfrom", "echo \"injected\";").start();
    // In one packet: the session ends without TLS.
    let mut talk = Talk::greeted(server.port);
    talk.send(b"STARTTLS\r\nMAIL FROM:<evil@b.example>\r\n");
    talk.expect("220 2.0.0");
    talk.expect_closed();
    // A little later, before the handshake: TLS does not come about.
    let mut talk = Talk::greeted(server.port);
    talk.command("STARTTLS", "220 2.0.0");
    talk.send(b"MAIL FROM:<evil@b.example>\r\nRCPT TO:<c@d.example>\r\n");
    let rest = talk.rest(std::time::Duration::from_secs(2));
    assert!(!rest.contains("250"), "{rest:?}");
    server.logged(&["TLS handshake"]);
    assert!(!server.log().contains("injected"));
}

#[test]
fn s11_implicit_tls_by_listener_and_by_the_running_file() {
    let mx = self_signed("mx.test.example");
    let by_listener = "[{id: in, listeners: [{port: @port, address: 127.0.0.1, tls: {implicit: true}}]}]";
    for (servers, keys) in [(by_listener, ""), (LISTENERS, "implicit: [mx]"), (LISTENERS, "implicit: true")] {
        let (server, _sink) =
            with_tls(keys, &mx).hook("connect", "Reject(\"go away\");").start_on(servers, "");
        let mut talk =
            Talk::connect_tls(server.port, &TlsClient::default()).expect("TLS from the first byte");
        assert!(shows(&talk, &mx));
        talk.expect("521 5.7.1 go away");
        talk.expect_closed();
        // A client that speaks plain text gets nothing, and the hook does not run for it.
        let mut plain = Talk::connect(server.port);
        plain.send(b"EHLO c\r\n");
        let rest = plain.rest(std::time::Duration::from_secs(2));
        assert!(!rest.contains("go away"), "{rest:?}");
        assert_eq!(server.counter("servers.0.scripts.connect.finished"), 1);
    }
}

#[test]
fn s11_certificates_by_name_and_from_both_files() {
    let (default, other, wild) =
        (self_signed("mx.test.example"), self_signed("other.example"), self_signed("wild.example"));
    let split = Certificate { certificate: other.certificate.clone(), key: other.key.clone() };
    let app = App::new()
        .server(
            "tls: {certs: [{cert: mx}, {cert: other, hosts: [other.example]}, {cert: wild, hosts: ['*.wild.example']}]}",
        )
        .top(&format!(
            "pki: {{private: [{{id: other, certificate: {{data: {}}}}}, {{id: wild, certificate: {{data: {}}}, privatekey: {{data: {}}}}}]}}",
            yaml(&split.pem()),
            yaml(&wild.pem()),
            yaml(&wild.key_pem())
        ));
    // The default is all in the startup file; of the second it has the key, of the third nothing.
    let startup = format!(
        "pki: {{private: [{{id: mx, certificate: {{data: {}}}, privatekey: {{data: {}}}}}, {{id: other, privatekey: {{data: {}}}}}]}}\n",
        yaml(&default.pem()),
        yaml(&default.key_pem()),
        yaml(&other.key_pem())
    );
    let (server, sink) = app.start_on(LISTENERS, &startup);
    for (name, expected) in [
        (None, &default),
        (Some("unknown.example"), &default),
        (Some("other.example"), &other),
        (Some("OTHER.example"), &other),
        (Some("a.wild.example"), &wild),
        (Some("a.b.wild.example"), &default),
        (Some("wild.example"), &default),
    ] {
        let mut talk = Talk::greeted(server.port);
        talk.starttls(&TlsClient { sni: name.map(str::to_owned), ..TlsClient::default() }).unwrap();
        assert!(shows(&talk, expected), "{name:?}");
    }
    // A reload changes the certificate of new handshakes only.
    let mut old = Talk::greeted(server.port);
    old.starttls(&TlsClient::default()).unwrap();
    let fresh = self_signed("mx.test.example");
    server.write_app(&with_tls("", &fresh).text(sink.port), &[]);
    server.ctl(&["config", "reload"]);
    old.command("NOOP", "250 ");
    let mut talk = Talk::greeted(server.port);
    talk.starttls(&TlsClient::default()).unwrap();
    assert!(shows(&talk, &fresh));
}

#[test]
fn s4_2_client_certificates_are_for_the_script_to_judge() {
    let mx = self_signed("mx.test.example");
    let ca = self_signed("ca.example");
    let cases = [
        ("self-signed", Some(self_signed("client.example")), 18),
        ("of an unknown authority", Some(issue("client.example", Some(&ca), (-1, 30))), 21),
        ("expired", Some(issue("client.example", None, (-30, -1))), 10),
        ("none", None, 0),
    ];
    for policy in ["never", "request", "require"] {
        let (server, _sink) = with_tls(&format!("peercert: {policy}"), &mx).hook("helo", PEER).start();
        let mut seen = 0;
        for (what, certificate, error) in &cases {
            let mut talk = Talk::greeted(server.port);
            let client = TlsClient { certificate: certificate.clone(), ..TlsClient::default() };
            talk.starttls(&client).expect("no certificate breaks the handshake");
            talk.command("EHLO tls.example", "250 ");
            let wanted = policy == "require" && certificate.is_none();
            talk.command("MAIL FROM:<a@b.example>", if wanted { "530 5.7.0" } else { "250 " });
            if policy == "never" || certificate.is_none() {
                assert_eq!(server.log().matches(" peer {").count(), seen, "{policy} {what}");
                continue;
            }
            let number = seen;
            seen += 1;
            wait_until("the hook wrote", || server.log().matches(" peer {").count() == seen);
            let log = server.log();
            let line = log.lines().filter(|line| line.contains(" peer {")).nth(number).expect("an echo");
            let peer: serde_json::Value = serde_json::from_str(&line[line.find('{').unwrap()..]).unwrap();
            // OpenSSL reports the last of several: a certificate that is expired and signed by itself has two.
            let expected = if *what == "expired" { [18, 10] } else { [*error, *error] };
            assert!(expected.contains(&peer["error"].as_i64().unwrap()), "{policy} {what}: {peer}");
            assert_eq!((&peer["chain"], &peer["name"]), (&json!(1), &json!("client.example")), "{what}");
        }
    }
}

#[test]
fn s11_versions_ciphers_and_required_tls() {
    let mx = self_signed("mx.test.example");
    let attempt = |server: &Server, version, ciphers: Option<&str>| {
        let mut talk = Talk::greeted(server.port);
        let client =
            TlsClient { version: Some(version), ciphers: ciphers.map(str::to_owned), ..TlsClient::default() };
        talk.starttls(&client).is_ok()
    };
    let (server, _sink) = with_tls("required: true", &mx).start();
    assert!(!attempt(&server, SslVersion::TLS1_1, None), "TLS 1.2 is the oldest");
    assert!(attempt(&server, SslVersion::TLS1_2, None));
    assert!(attempt(&server, SslVersion::TLS1_3, None));
    let mut talk = Talk::greeted(server.port);
    assert_eq!(
        talk.command("MAIL FROM:<a@b.example>", "530 "),
        "530 5.7.0 Must issue a STARTTLS command first"
    );
    talk.starttls(&TlsClient::default()).unwrap();
    talk.command("EHLO c", "250 ");
    talk.command("MAIL FROM:<a@b.example>", "250 ");
    let (server, _sink) = with_tls(
        "protocols: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES128-GCM-SHA256:TLS_AES_128_GCM_SHA256'",
        &mx,
    )
    .start();
    assert!(!attempt(&server, SslVersion::TLS1_3, None));
    assert!(attempt(&server, SslVersion::TLS1_2, Some("ECDHE-ECDSA-AES128-GCM-SHA256")));
    assert!(!attempt(&server, SslVersion::TLS1_2, Some("ECDHE-ECDSA-AES256-GCM-SHA384")));
}

#[test]
fn s5_4_authentication_is_offered_in_tls_only() {
    let mx = self_signed("mx.test.example");
    let (server, sink) = with_tls("", &mx).hook("auth", "Accept();").start();
    let mut talk = Talk::connect(server.port);
    talk.expect("220 ");
    assert!(!talk.command("EHLO c", "250 ").contains("AUTH"));
    talk.command("AUTH PLAIN AGpvZQBwYXNz", "538 5.7.11");
    talk.starttls(&TlsClient::default()).unwrap();
    assert!(talk.command("EHLO c", "250 ").contains("250-AUTH PLAIN LOGIN\r\n"));
    talk.command("AUTH PLAIN AGpvZQBwYXNz", "235 2.7.0");
    talk.message("a@b.example", "c@d.example", "x");
    wait_until("it is delivered", || sink.count() == 1);
    assert!(String::from_utf8_lossy(&sink.taken()[0].content).contains("with ESMTPSA\r\n"));
}

#[test]
fn s11_failed_handshakes_are_told_to_the_disconnect_hook() {
    let mx = self_signed("mx.test.example");
    let script = "echo \"bye \" + json_encode([\"a\" => $arguments]);";
    let (server, _sink) = with_tls("", &mx).hook("disconnect", script).start();
    let mut talk = Talk::greeted(server.port);
    let old = TlsClient { version: Some(SslVersion::TLS1_1), ..TlsClient::default() };
    assert!(talk.starttls(&old).is_err());
    drop(talk);
    let error = server.echoed("bye")["a"]["error"].clone();
    assert_eq!(error["type"], "tls");
    assert!(error["code"].as_f64().unwrap() > 0.0, "{error}");
    assert!(error["reason"].as_str().unwrap().contains("handshake"), "{error}");
}

#[test]
fn bad_tls_settings_name_their_place() {
    let mx = self_signed("mx.test.example");
    let other = self_signed("other.example");
    let mixed = Certificate { certificate: mx.certificate.clone(), key: other.key };
    for (app, expected) in [
        (
            App::new().server("tls: {certs: [{cert: mv}]}").top(&pki(&[("mx", &mx)])),
            "/servers/0/tls/certs/0/cert: no key \"mv\" in pki.private, did you mean \"mx\"?",
        ),
        (
            App::new().server("tls: {certs: [{cert: mx}]}").top(&pki(&[("mx", &mixed)])),
            "/pki/private/mx: certificate: it is of another key",
        ),
        (with_tls("protocols: TLSv2", &mx), "/servers/0/tls/protocols: \"TLSv2\" found"),
        (with_tls("ciphers: NONSENSE", &mx), "/servers/0/tls/ciphers: \"NONSENSE\" is not usable"),
        (App::new().server("tls: {required: true}"), "/servers/0/tls/required"),
        (
            App::new()
                .server("tls: {certs: [{cert: mx}]}")
                .top("pki: {private: [{id: mx, certificate: {data: x}}]}"),
            "no private key, neither here nor in the startup file",
        ),
        (App::new().server("tls: {peercert: maybe}"), "peercert"),
    ] {
        let server = Server::prepare_servers(LISTENERS, "", &app.text(1), &[]);
        let (status, said) = server.launch_failing();
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains(expected), "{expected:?} is not in {said}");
    }
}
