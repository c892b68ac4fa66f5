//! Statements of `smtp-hooks` on HTTP, PROXY headers, TLS, trace field, line ends and logs (sections 7, 10 to 16), over sockets, each test
//! named after its section.

use blackbox::app::App;
use blackbox::certificates::{self, Certificate, yaml};
use blackbox::sink::Sink;
use blackbox::talk::{Talk, TlsClient};
use blackbox::{Server, system_program, wait_until};
use openssl::ssl::{SslConnector, SslMethod, SslSession, SslStream, SslVerifyMode, SslVersion};
use serde_json::{Value, json};
use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const LISTENERS: &str = "[{id: in, listeners: [{port: @port, address: 127.0.0.1}]}]";

fn pki(mx: &Certificate) -> String {
    format!(
        "pki: {{private: [{{id: mx, certificate: {{data: {}}}, privatekey: {{data: {}}}}}]}}",
        yaml(&mx.pem()),
        yaml(&mx.key_pem())
    )
}

fn with_tls(keys: &str) -> App {
    let mx = certificates::self_signed("mx.test.example");
    App::new().server(&format!("tls: {{certs: [{{cert: mx}}]{keys}}}")).top(&pki(&mx))
}

/// The content of the only message that the sink took since `before`.
fn content_of(sink: &Sink, before: usize) -> Vec<u8> {
    wait_until("it is delivered", || sink.count() == before + 1);
    sink.taken()[before].content.clone()
}

#[test]
fn s7_1_submission_over_http_at_its_limits() {
    let servers = "[{id: in, type: http, listeners: [{port: @port, address: 127.0.0.1}]}]";
    let app = App::new().server("type: http, http: {path: /submit}");
    let (server, sink) = app.start_on(servers, "");
    let envelope = r#"{"sender": {"localpart": "a", "domain": "b.example"}, "recipients": [{"localpart": "c", "domain": "d.example"}]}"#;
    let part = |name: &str, content: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{content}\r\n")
    };
    let body = part("options", envelope) + &part("rfc822", "Subject: x\n\nfirst\n.\nlast\n") + "--b--\r\n";
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: mx\r\nContent-Type: multipart/form-data; boundary=b\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
    };
    let ask = |server: &Server, path: &str| {
        let mut talk = Talk::connect(server.port);
        talk.send(head(path).as_bytes());
        // Chunks that cut the parts anywhere.
        for piece in body.as_bytes().chunks(7) {
            talk.send(format!("{:x}\r\n", piece.len()).as_bytes());
            talk.send(piece);
            talk.send(b"\r\n");
        }
        talk.send(b"0\r\n\r\n");
        let text = talk.rest(Duration::from_millis(700));
        let content = text.split_once("\r\n\r\n").map_or("", |(_, content)| content).to_owned();
        let status: u16 = text["HTTP/1.1 ".len()..][..3].parse().expect("a status");
        (status, serde_json::from_str::<Value>(&content).unwrap_or_default())
    };
    assert_eq!(ask(&server, "/v1/submission").0, 404);
    let (status, answer) = ask(&server, "/submit");
    assert_eq!((status, &answer["result"]["code"]), (200, &json!(250)), "{answer}");
    let content = String::from_utf8_lossy(&content_of(&sink, 0)).into_owned();
    assert!(content.ends_with("Subject: x\r\n\r\nfirst\r\n.\r\nlast\r\n"), "{content:?}");
    // S15 of low space: HTTP gets 503, SMTP 452, and both go on.
    let (server, _sink) = app.start_on(servers, "spool: {minfree: {bytes: 1000TiB}}");
    assert_eq!(ask(&server, "/submit").0, 503);
    let (server, _sink) = App::new().start_on(LISTENERS, "spool: {minfree: {bytes: 1000TiB}}");
    let mut talk = Talk::greeted(server.port);
    for _ in 0..2 {
        assert_eq!(talk.command("MAIL FROM:<a@b.example>", "452 "), "452 4.3.1 Insufficient system storage");
    }
}

#[test]
fn s10_the_time_for_a_proxy_header_and_s12_its_errors() {
    let servers = "[{id: in, listeners: [{port: @port, address: 127.0.0.1, proxyprotocol: true}]}]";
    let (server, _sink) = App::new()
        .hook("connect", "echo \"connect\"; Accept();")
        .hook("disconnect", "echo \"disconnect\";")
        .start_on(servers, "");
    let start = Instant::now();
    let mut silent = Talk::connect(server.port);
    let mut slow = Talk::connect(server.port);
    slow.send(b"PROXY TCP4 192.0.2.1");
    let v2 = |bytes: &[u8]| [b"\r\n\r\n\0\r\nQUIT\n", bytes].concat();
    let checked = |crc: [u8; 4]| {
        let mut header = v2(b"\x21\x11\0\x13");
        header.extend([192, 0, 2, 1, 192, 0, 2, 9, 0x9c, 0x40, 0, 25, 3, 0, 4]);
        header.extend(crc);
        header
    };
    for bad in [
        b"EHLO c\r\n".to_vec(),
        format!("PROXY TCP4 {} 192.0.2.9 1 2\r\n", "1".repeat(90)).into_bytes(),
        b"PROXY TCP4 192.0.2.1 192.0.2.9 1 99999\r\n".to_vec(),
        b"PROXY TCP6 192.0.2.1 192.0.2.9 1 2\r\n".to_vec(),
        v2(b"\x31\x11\0\x0c"),
        v2(b"\x21\x11\0\x02ab"),
        checked([1, 2, 3, 4]),
    ] {
        let mut talk = Talk::connect(server.port);
        talk.send(&bad);
        talk.expect_closed();
        assert!(talk.seen.is_empty(), "{:?} was answered", String::from_utf8_lossy(&bad));
    }
    server.logged(&["connection from proxy 127.0.0.1:", "closed"]);
    // Both are cut off at the same time, without a word and without a hook.
    silent.expect_closed();
    slow.expect_closed();
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(9) && took < Duration::from_secs(20), "{took:?}");
    let log = server.log();
    assert!(!log.contains("] connect\n") && !log.contains("] disconnect\n"), "{log}");
}

/// Shakes hands with TLS 1.2 and a cipher list, taking up a session.
fn tls12(port: u16, ciphers: &str, session: Option<&SslSession>) -> SslStream<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    let mut builder = SslConnector::builder(SslMethod::tls_client()).expect("a context");
    builder.set_verify(SslVerifyMode::NONE);
    builder.set_max_proto_version(Some(SslVersion::TLS1_2)).expect("a version");
    builder.set_cipher_list(ciphers).expect("ciphers");
    let mut configuration = builder.build().configure().expect("a configuration");
    configuration.set_verify_hostname(false);
    if let Some(session) = session {
        #[allow(unsafe_code, reason = "the binding cannot know that the context fits")]
        // SAFETY: both contexts are made by this function with the same method and options.
        unsafe {
            configuration.set_session(session).expect("a session");
        }
    }
    configuration.connect("mx.test.example", stream).expect("a handshake")
}

#[test]
fn s11_the_order_of_the_server_counts_and_tickets_are_on() {
    let gcm = "ECDHE-ECDSA-AES256-GCM-SHA384";
    let chacha = "ECDHE-ECDSA-CHACHA20-POLY1305";
    let app = with_tls(&format!(", implicit: true, ciphers: '{gcm}:{chacha}'"));
    let (server, _sink) = app.start();
    let all = format!("{chacha}:{gcm}");
    let mut first = tls12(server.port, &all, None);
    assert_eq!(first.ssl().current_cipher().expect("a cipher").name(), gcm);
    let session = first.ssl().session().expect("a session").to_owned();
    assert!(!first.ssl().session_reused());
    // A session whose connection just breaks off is not taken up by the library.
    first.shutdown().expect("a farewell");
    drop(first);
    let second = tls12(server.port, &all, Some(&session));
    assert!(second.ssl().session_reused(), "the ticket was not taken");
    // Another process with the same configuration has other keys.
    let (other, _sink) = app.start();
    assert!(!tls12(other.port, &all, Some(&session)).ssl().session_reused());
}

#[test]
fn s11_clients_do_not_renegotiate() {
    let (server, _sink) = with_tls(", implicit: true").start();
    let mut client = Command::new(system_program("openssl"))
        .args(["s_client", "-tls1_2", "-connect", &format!("127.0.0.1:{}", server.port)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl starts");
    let mut input = client.stdin.take().expect("a pipe");
    // A line that begins with R makes the client ask for it.
    std::thread::sleep(Duration::from_millis(500));
    input.write_all(b"R\n").expect("openssl reads");
    std::thread::sleep(Duration::from_millis(500));
    drop(input);
    let output = client.wait_with_output().expect("openssl ends");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("220 mx.test.example ESMTP"), "{said}");
    assert!(said.contains("RENEGOTIATING") && said.contains("no renegotiation"), "{said}");
}

#[test]
fn s12_the_header_comes_before_starttls_too() {
    let servers = "[{id: in, listeners: [{port: @port, address: 127.0.0.1, proxyprotocol: true}]}]";
    let (server, _sink) = with_tls("")
        .hook(
            "mailfrom",
            "Accept([\"reason\" => $connection[\"remoteip\"] + \" \" + $connection[\"tls\"][\"protocol\"]]);",
        )
        .start_on(servers, "");
    let mut talk = Talk::connect(server.port);
    talk.send(b"PROXY TCP6 2001:db8::7 2001:db8::9 40000 25\r\n");
    talk.expect("220 ");
    talk.command("EHLO c", "250 ");
    talk.starttls(&TlsClient::default()).expect("TLS");
    talk.command("EHLO c", "250 ");
    talk.command("MAIL FROM:<a@b.example>", "250 2.1.0 2001:db8::7 TLSv1.3");
}

#[test]
fn s13_the_received_field_as_configured_and_over_tls() {
    let eod = "echo \"first \" + json_encode([\"n\" => $arguments[\"mail\"]->getHeaderNames()[0] ?? \"nothing\"]);\n\
        $arguments[\"mail\"]->queue(\"\", \"c@d.example\", \"out\"); Accept();";
    let app = |keys: &str| {
        with_tls("")
            .server(keys)
            .phase("auth", "tlsonly: false")
            .hook("auth", "Accept();")
            .hook(
                "connect",
                "Accept([\"remoteip\" => \"2001:DB8::1\", \"remoteptr\" => \"client.example\"]);",
            )
            .hook("eod", eod)
    };
    let (server, sink) = app("hostname: other.example").start();
    let send = |auth: bool, parameters: &str| {
        let mut talk = Talk::connect(server.port);
        talk.expect("220 ");
        talk.command("EHLO c", "250 ");
        talk.starttls(&TlsClient::default()).expect("TLS");
        talk.command("EHLO c", "250 ");
        if auth {
            talk.command("AUTH PLAIN AGpvZQBwYXNz", "235 ");
        }
        talk.command(&format!("MAIL FROM:<a@b.example>{parameters}"), "250 ");
        talk.command("RCPT TO:<c@d.example>", "250 ");
        talk.command("DATA", "354 ");
        talk.command("Subject: x\r\n\r\nx\r\n.", "250 ");
    };
    for (number, (auth, parameters, protocol)) in [
        (false, "", "ESMTPS"),
        (true, "", "ESMTPSA"),
        (false, " SMTPUTF8", "UTF8SMTPS"),
        (true, " SMTPUTF8", "UTF8SMTPSA"),
    ]
    .into_iter()
    .enumerate()
    {
        send(auth, parameters);
        let text = String::from_utf8_lossy(&content_of(&sink, number)).into_owned();
        let start = format!(
            "Received: from c (client.example [2001:db8::1])\r\n\tby other.example (Halon) with {protocol}\r\n\tid "
        );
        assert!(text.starts_with(&start), "{text}");
        assert!(!text.contains(" for <"), "{text}");
    }
    assert_eq!(server.echoed("first")["n"], "received");
    server.write_app(&app("received: {product: ''}").text(sink.port), &[]);
    server.ctl(&["config", "reload"]);
    send(false, "");
    let text = String::from_utf8_lossy(&content_of(&sink, 4)).into_owned();
    assert!(text.contains("\r\n\tby mx.test.example with ESMTPS\r\n"), "{text}");
    server.write_app(&app("received: {enabled: false}").text(sink.port), &[]);
    server.ctl(&["config", "reload"]);
    send(false, "");
    assert_eq!(content_of(&sink, 5), b"Subject: x\r\n\r\nx\r\n");
}

#[test]
fn s14_dots_and_line_ends_in_every_policy() {
    for (policy, stored) in [
        ("normalize", "a\r\n.b\r\n.c\r\n..d\r\n.e\r\n\r\nrun\r\nend"),
        // What is stored as it came is sent on with CRLF, each CR for itself.
        ("accept", "a\r\n.b\r\n.c\r\n..d\r\n.e\r\n\r\nrun\r\n\r\nend"),
        ("reject", ""),
    ] {
        let (server, sink) = App::new().phase("data", &format!("barelinefeed: {policy}")).start();
        let mut talk = Talk::greeted(server.port);
        // Dots are taken off behind CRLF only: not behind a bare LF or CR.
        let content = "Subject: x\r\n\r\na\r\n..b\n.c\r\n...d\r.e\r\n\r\nrun\r\r\nend";
        let reply = talk.message("a@b.example", "c@d.example", content);
        if policy == "reject" {
            assert_eq!(reply, "550 5.6.0 Bare LF or CR not allowed");
            // A content that is clean but for its dots is taken, and the session goes on.
            assert!(talk.message("a@b.example", "c@d.example", "\r\n..b\r\n...c").starts_with("250 "));
            assert!(content_of(&sink, 0).ends_with(b"\r\n\r\n.b\r\n..c\r\n"));
            talk.command("BAD\rLINE", "500 5.5.2");
            // A line of its own that ends bare: refused, and nothing more was waiting.
            talk.send(b"NOOP\n");
            talk.expect("500 5.5.2");
            continue;
        }
        assert!(reply.starts_with("250 2.0.0"), "{policy}: {reply}");
        let text = String::from_utf8_lossy(&content_of(&sink, 0)).into_owned();
        assert!(text.ends_with(&format!("Subject: x\r\n\r\n{stored}\r\n")), "{policy}: {text:?}");
        talk.send(b"NOOP\n");
        talk.expect("250 ");
        talk.command("BAD\rLINE", "500 5.5.2");
    }
}

#[test]
fn s14_a_chunk_without_a_last_line_end_gets_one_on_the_way_out_only() {
    let (server, sink) = App::new()
        .hook(
            "eod",
            "echo \"eod \" + json_encode([\"s\" => $arguments[\"mail\"]->toString()]);\n\
             $arguments[\"mail\"]->queue(\"\", \"c@d.example\", \"out\"); Accept();",
        )
        .start();
    let mut talk = Talk::greeted(server.port);
    talk.command("MAIL FROM:<a@b.example>", "250 ");
    talk.command("RCPT TO:<c@d.example>", "250 ");
    talk.send(b"BDAT 13 LAST\r\nSubject: x\r\n\r");
    talk.expect("250 ");
    talk.command("MAIL FROM:<a@b.example>", "250 ");
    talk.command("RCPT TO:<c@d.example>", "250 ");
    talk.send(b"BDAT 15 LAST\r\nSubject: y\r\n\r\n.");
    talk.expect("250 ");
    wait_until("both are delivered", || sink.count() == 2);
    server.logged(&["eod {", "Subject: y\\r\\n\\r\\n.\"}"]);
    let ends: Vec<bool> =
        sink.taken().iter().map(|taken| taken.content.ends_with(b"Subject: y\r\n\r\n.\r\n")).collect();
    assert_eq!(ends.iter().filter(|end| **end).count(), 1);
    assert!(sink.taken().iter().all(|taken| taken.content.ends_with(b"\r\n")));
}

#[test]
fn s15_a_limit_with_tls_from_the_first_byte_closes_without_a_word() {
    let (server, _sink) =
        with_tls(", implicit: true").server("concurrency: {perip: 1}").hook("connect", "Accept();").start();
    let mut held = Talk::connect_tls(server.port, &TlsClient::default()).expect("TLS");
    held.expect("220 ");
    let mut refused = Talk::connect(server.port);
    assert_eq!(refused.rest(Duration::from_secs(2)), "");
    assert!(Talk::connect_tls(server.port, &TlsClient::default()).is_err());
    assert_eq!(server.counter("servers.0.scripts.connect.finished"), 1);
    assert_eq!(server.counter("servers.0.connections.concurrent"), 1);
    assert_eq!(server.counter("servers.0.connections.maxconcurrent"), 1000);
}

#[test]
fn s15_without_descriptors_accepting_pauses() {
    let (mut server, _sink) = App::new().start();
    let mut first = Talk::greeted(server.port);
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("its descriptors").count();
    let set = |limit: usize| {
        let status = Command::new(system_program("prlimit"))
            .args(["--pid", &server.pid().to_string(), &format!("--nofile={limit}:")])
            .status()
            .expect("prlimit runs");
        assert!(status.success());
    };
    set(open + 3);
    let waiting: Vec<Talk> = (0..10).map(|_| Talk::connect(server.port)).collect();
    server.logged(&["accept pauses"]);
    first.command("NOOP", "250 ");
    // Those that waited in the system are served once there is room.
    set(1000);
    for mut talk in waiting {
        talk.expect("220 ");
    }
    assert!(server.is_running());
    assert!(server.log().matches("accept pauses").count() < 100, "it does not spin");
}

#[test]
fn s16_every_line_about_a_connection_carries_an_id() {
    let (server, _sink) = App::new()
        .server("logging: {verbose: true}")
        .hook("mailfrom", "echo \"from a script\"; Accept();")
        .hook("rcptto", "throw Exception(\"oh\");")
        .start();
    let mut talk = Talk::greeted(server.port);
    talk.command("MAIL FROM:<a@b.example>", "250 ");
    talk.command("RCPT TO:<c@d.example>", "450 ");
    talk.command("QUIT", "221 ");
    talk.expect_closed();
    wait_until("it is over", || server.counter("servers.0.connections.concurrent") == 0);
    let log = server.log();
    for words in ["from a script", "script error in rcptto", "< QUIT", "> 221 2.0.0 Bye", "connect from"] {
        let line =
            log.lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("no {words} in\n{log}"));
        let id = line.strip_prefix("smtpd: [").and_then(|rest| rest.get(..36));
        assert!(id.is_some_and(|id| uuid::Uuid::parse_str(id).is_ok()), "{line}");
    }
    let stats = server.ctl(&["process-stats"]);
    for phase in ["connect", "proxy", "helo", "auth", "mailfrom", "rcptto", "eod", "disconnect"] {
        for counter in ["pending", "running", "finished", "errors", "suspended"] {
            let name = format!("servers.0.scripts.{phase}.{counter}: ");
            assert!(stats.contains(&name), "no {name} in\n{stats}");
        }
    }
    assert_eq!(server.counter("servers.0.scripts.rcptto.errors"), 1);
    assert_eq!(server.counter("threads.scripts.0.maxscripts"), 1000);
}
