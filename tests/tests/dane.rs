//! DANE and the other modes against a signed zone: which peers are trusted, and that nothing goes in the clear or to the
//! wrong one (invariant Q20).

use blackbox::certificates::{Certificate, issue, self_signed};
use blackbox::client::Sender;
use blackbox::scripted::{Answer, Script, Scripted};
use blackbox::zone::SignedZone;
use blackbox::{Server, wait_until};
use openssl::sha::sha256;

const APP: &str = r#"
version: "6.9"
servers: [{id: in, transport: out, phases: {connect: {remoteptr: false}}}]
queues: {pooling: {size: 100}}
transportgroups: [{id: g, retry: {intervals: [{interval: 1h}]}, transports: [{id: out}]}]
resolver: {servers: [{address: 127.0.0.1, port: %DNS}], timeout: 2, retries: 1, cache: {size: 1000}%MORE}
scripting:
  hooks:
    predelivery: |
      $words = explode("+", $message["recipientaddress"]["localpart"]);
      $options = ["port" => [%PORTS][$words[0]], "tls" => $words[1], "pooling" => ["enabled" => true]];
      if (isset($words[2])) $options["host"] = $words[0] . "." . $message["recipientaddress"]["domain"];
      Try($options);
    postdelivery: |
      $tls = $arguments["attempt"]["connection"]["tls"];
      $tlsa = isset($tls["tlsa"]["error"]) ? "error" : (isset($tls["tlsa"]["records"]) ? string(count($tls["tlsa"]["records"])) : "none");
      echo "CELL " . $message["recipient"] . " " . ($arguments["action"] ?? "DELIVERED") . " " . ($tls["started"] ? "tls" : "plain") .
        " " . ($tls["tlsrpt"] ?? "none") . " " . $tlsa . " " . ($arguments["attempt"]["error"]["type"] ?? "-");
"#;

fn peer(certificate: (Certificate, Vec<Certificate>), extensions: &[&'static str]) -> Scripted {
    let script =
        Script { extensions: extensions.to_vec(), certificate: Some(certificate), ..Script::default() };
    Scripted::start(script, |_| Answer::Usual)
}

/// Usage, selector, matching type 1 of a certificate.
fn record(usage: u8, selector: u8, of: &Certificate) -> String {
    let selected = match selector {
        0 => of.certificate.to_der().unwrap(),
        _ => of.certificate.public_key().unwrap().public_key_to_der().unwrap(),
    };
    let hex: String = sha256(&selected).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("TLSA {usage} {selector} 1 {hex}")
}

#[test]
fn every_mode_against_every_kind_of_record() {
    let root = issue("root.test.example", None, (-1, 30));
    let own = self_signed("own.test.example");
    let expired = issue("wrong-name.example", None, (-9, -1));
    let other = self_signed("other.test.example");
    let below = issue("anchor.test.example", Some(&root), (-1, 30));
    let below_plain = issue("another.test.example", Some(&root), (-1, 30));
    let tls: &[&'static str] = &["PIPELINING", "STARTTLS"];
    let alone = |certificate: &Certificate| (certificate.clone(), Vec::new());
    let under = |certificate: &Certificate| (certificate.clone(), vec![root.clone()]);
    // Host, peer, TLSA record.
    let hosts: Vec<(&str, Scripted, Option<String>)> = vec![
        ("own", peer(alone(&own), tls), Some(record(3, 1, &own))),
        ("date", peer(alone(&expired), tls), Some(record(3, 0, &expired))),
        ("wrong", peer(alone(&own), tls), Some(record(3, 1, &other))),
        ("anchor", peer(under(&below), tls), Some(record(2, 0, &root))),
        ("else", peer(under(&below_plain), tls), Some(record(2, 0, &root))),
        ("elsewhere", peer(under(&below), tls), Some(record(2, 0, &root))),
        ("unusable", peer(alone(&own), tls), Some(record(1, 1, &own))),
        ("clear", peer(alone(&own), &["PIPELINING"]), Some(record(3, 1, &own))),
        ("bogus", peer(alone(&own), tls), Some(record(3, 1, &own))),
        ("norecord", peer(alone(&own), tls), None),
        ("noneclear", peer(alone(&own), &["PIPELINING"]), None),
    ];
    let mut records = String::new();
    for (host, peer, tlsa) in &hosts {
        records.push_str(&format!("{host} IN A 127.0.0.1\nto-{host} IN MX 10 {host}\n"));
        if let Some(tlsa) = tlsa {
            records.push_str(&format!("_{}._tcp.{host} IN {tlsa}\n", peer.port));
        }
    }
    let zone = SignedZone::start(&records);
    let ports: Vec<String> =
        hosts.iter().map(|(host, peer, _)| format!("\"{host}\" => {}", peer.port)).collect();
    let app = APP.replace("%DNS", &zone.port.to_string()).replace("%PORTS", &ports.join(", "));
    let mut server = Server::prepare(&app.replace("%MORE", ""), &[]);
    server.add_startup("logging: {level: debug}\n");
    server.launch();
    let mut cells = Vec::new();
    for (host, ..) in &hosts {
        for mode in ["dane", "dane_require", "dane_fallback_require", "dane_fallback_require_verify"] {
            let verdict = match (*host, mode) {
                ("own" | "date" | "anchor", _) => "DELIVERED tls none 1 -",
                ("wrong" | "else" | "elsewhere", _) => "QUEUE plain validation-failure 1 dane",
                ("unusable", "dane_require") => "QUEUE plain tlsa-invalid 1 dane",
                // Encrypted, with nobody knows whom; but where a chain is asked for it is asked for here, too.
                ("unusable", "dane_fallback_require_verify") => "QUEUE plain certificate-not-trusted 1 tls",
                ("unusable", _) => "DELIVERED tls none 1 -",
                ("clear", _) => "QUEUE plain starttls-not-supported 1 tls",
                ("bogus", _) => "QUEUE plain dnssec-invalid error dane",
                (_, "dane_require") => "QUEUE plain dane-required none dane",
                ("norecord", "dane_fallback_require_verify") => {
                    "QUEUE plain certificate-not-trusted none tls"
                }
                ("norecord", _) => "DELIVERED tls none none -",
                ("noneclear", "dane") => "DELIVERED plain starttls-not-supported none -",
                (_, _) => "QUEUE plain starttls-not-supported none tls",
            };
            cells.push((format!("{host}+{mode}@to-{host}.test.example"), verdict));
        }
        // In the zone that nobody signed the same records mean nothing.
        let (dane, required) = match *host {
            "clear" | "noneclear" => (
                "DELIVERED plain starttls-not-supported none -",
                "QUEUE plain starttls-not-supported none tls",
            ),
            _ => ("DELIVERED tls none none -", "DELIVERED tls none none -"),
        };
        cells.push((format!("{host}+dane@to-{host}.plain.example"), dane));
        cells.push((format!("{host}+dane_fallback_require@to-{host}.plain.example"), required));
        cells.push((
            format!("{host}+dane_require@to-{host}.plain.example"),
            "QUEUE plain dane-required none dane",
        ));
    }
    // A host that is named directly has records, too.
    cells.push(("own+dane_require+host@test.example".to_owned(), "DELIVERED tls none 1 -"));
    cells.push(("wrong+dane+host@test.example".to_owned(), "QUEUE plain validation-failure 1 dane"));
    let run = |server: &Server, cells: &[(String, &str)]| {
        let mut sender = Sender::connect(server.port).unwrap();
        for (to, _) in cells {
            assert!(sender.send("a@sender.example", to, b"Subject: x\r\n\r\nx\r\n").unwrap().is_delivered());
        }
        wait_until("all have ended", || server.log().matches("CELL ").count() >= cells.len());
        let log = server.log();
        let mut wrong = Vec::new();
        for (to, expected) in cells {
            let marker = format!("CELL {to} ");
            let found = log.split(&marker).nth(1).unwrap_or_default().lines().next().unwrap_or_default();
            if found != *expected {
                wrong.push(format!("{to}: expected {expected}, found {found}"));
            }
        }
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cells.len(), wrong.join("\n"));
    };
    run(&server, &cells);
    for (host, peer, _) in &hosts {
        for taken in peer.taken() {
            let signed = taken.rcpt.contains(".test.example") && !["norecord", "noneclear"].contains(host);
            assert!(taken.encrypted || !(signed || taken.rcpt.contains("require")), "{host}: {}", taken.rcpt);
            assert!(
                !signed || !["wrong", "else", "elsewhere", "bogus"].contains(host),
                "{host}: {}",
                taken.rcpt
            );
        }
    }
    let names: Vec<String> =
        hosts[0].1.commands().into_iter().filter(|line| line.contains("(sni o")).collect();
    assert!(names.iter().any(|line| line.ends_with("(sni own.test.example)")), "the host's name is told");

    // Nobody's word on DNSSEC is taken: as if the zone were not signed.
    let mut off = Server::prepare(&app.replace("%MORE", ", dnssec: off"), &[]);
    off.add_startup("logging: {level: debug}\n");
    off.launch();
    run(
        &off,
        &[
            ("own+dane_require@to-own.test.example".to_owned(), "QUEUE plain dane-required none dane"),
            ("wrong+dane@to-wrong.test.example".to_owned(), "DELIVERED tls none none -"),
        ],
    );
}

#[test]
fn validation_of_our_own_is_refused_and_not_ignored() {
    for (more, expected) in [
        (", dnssec: validate", "validate"),
        (", dnssec_trust: [x]", "dnssec_trust"),
        (", dnssec: maybe", "dnssec"),
    ] {
        let app = APP.replace("%DNS", "53").replace("%PORTS", "").replace("%MORE", more);
        let (status, said) = Server::prepare(&app, &[]).launch_failing();
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}
