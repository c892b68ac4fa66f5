//! Clients that try to break in, to exhaust or to confuse the SMTP server, by section of `smtp-hooks` and invariant.

use blackbox::Server;
use blackbox::app::App;
use blackbox::client::talk;
use blackbox::talk::{Talk, TlsClient};
use blackbox::{certificates, wait_until};
use serde_json::json;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

const SILENCE: Duration = Duration::from_millis(500);

const CONNECT: &str = "echo \"connect \" + json_encode([\"a\" => $arguments]); Accept();";

/// The line ends that software somewhere takes for the end of data; all that SMTP-Smuggling-Tools and smtpsmug try are among
/// them.
const ENDS: [&str; 18] = [
    "\n.\n",
    "\n.\r\n",
    "\r.\r",
    "\r.\r\n",
    "\r\n.\n",
    "\r\n.\r",
    "\r\n\0.\r\n",
    "\r\n.\0\r\n",
    "\n\n.\r\n",
    "\r\n.\r\r\n",
    "\r\r\n.\n",
    "\n.\r",
    "\r.\n",
    "\r\n \r\n .\r\n",
    "\r\r\n.\r\r\n",
    "\r\n\0.\r",
    "\r\n\0.\n",
    "\n\r\n.\r\r\n",
];

#[test]
fn s10_smuggling_sequences_never_become_commands_in_any_policy() {
    for policy in ["normalize", "reject", "accept"] {
        let (server, sink) = App::new().phase("data", &format!("barelinefeed: {policy}")).start();
        let mut accepted = 0;
        // As it is, and between two line ends in a packet of its own, as those tools send it.
        let bare_and_between = ENDS.map(|end| [end.to_owned(), format!("\r\n{end}\r\n")]);
        for end in bare_and_between.iter().flatten() {
            let mut talk = Talk::greeted(server.port);
            talk.command("mail from:<outer@b.example>", "250 ");
            talk.command("rcpt to:<c@d.example>", "250 ");
            talk.command("data", "354 ");
            let hidden = "mail FROM:<inner@b.example>\r\nrcpt TO:<victim@d.example>\r\ndata\r\nSubject: hidden\r\n\r\nhidden";
            talk.send(format!("Subject: outer\r\n\r\nouter{end}").as_bytes());
            std::thread::sleep(Duration::from_millis(5));
            talk.send(format!("{hidden}\r\n.\r\n").as_bytes());
            let reply = talk.reply().expect("one reply");
            // Some have no bare CR or LF in them, so they are plain content.
            let bare = end.replace("\r\n", "").contains(['\r', '\n']);
            let expected = if policy == "reject" && bare { "550 5.6.0" } else { "250 2.0.0" };
            assert!(reply.starts_with(expected), "{policy} {end:?}: {reply}");
            accepted += usize::from(reply.starts_with("250"));
            // Exactly one reply: the next one answers QUIT.
            assert_eq!(talk.command("QUIT", "221 "), "221 2.0.0 Bye", "{policy} {end:?}");
        }
        wait_until("all are delivered", || sink.count() == accepted);
        for taken in sink.taken() {
            assert_eq!((taken.from.as_str(), taken.to.as_str()), ("outer@b.example", "c@d.example"));
            let text = String::from_utf8_lossy(&taken.content).into_owned();
            assert!(text.contains("hidden"), "what was hidden is content");
            assert!(
                !text.replace("\r\n", "").contains(['\r', '\n']),
                "sent on with a bare line end: {text:?}"
            );
        }
    }
}

#[test]
fn s9_a_session_cut_at_every_octet_gives_the_same_replies() {
    let (server, _sink) = App::new()
        .phase("proxy", "commands: [XPING]")
        .hook("proxy", "Reply(\"pong\");")
        .phase("auth", "tlsonly: false")
        .hook("auth", "Reject(\"no\");")
        .hook("eod", "Accept([\"reason\" => \"taken\"]);")
        .start();
    let session = b"EHLO c\r\nXPING\r\nAUTH LOGIN\r\nam9l\r\ncA==\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<>\r\n\
        BDAT 4\r\nab\r\nBDAT 3 LAST\r\n.\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n..x\r\n.\r\nNOOP\r\nQUIT\r\n";
    let whole = talk(server.port, session, SILENCE);
    assert!(whole.ends_with("221 2.0.0 Bye\r\n"), "{whole}");
    for cut in 1..session.len() {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).expect("the server listens");
        stream.set_nodelay(true).expect("an option");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("an option");
        stream.write_all(&session[..cut]).expect("the server reads");
        std::thread::sleep(Duration::from_millis(2));
        stream.write_all(&session[cut..]).expect("the server reads");
        let mut read = String::new();
        std::io::Read::read_to_string(&mut stream, &mut read).expect("replies");
        assert_eq!(read, whole, "cut at {cut}");
    }
}

#[test]
fn s12_proxy_headers_of_both_versions_with_their_values() {
    let servers = "[{id: in, proxyprotocol: [127.0.0.0/8], listeners: [{port: @port, address: 127.0.0.1}]}]";
    let (server, _sink) =
        App::new().server("concurrency: {perip: 1}").hook("connect", CONNECT).start_on(servers, "");
    let mut talk = Talk::connect(server.port);
    talk.send(b"PROXY TCP4 192.0.2.1 192.0.2.9 40000 25\r\nEHLO c\r\n");
    talk.expect("220 ");
    talk.expect("250 ");
    let seen = server.echoed("connect")["a"].clone();
    assert_eq!(seen["remoteip"], "192.0.2.1");
    assert_eq!(
        (&seen["remoteport"], &seen["localip"], &seen["localport"]),
        (&json!(40000), &json!("192.0.2.9"), &json!(25))
    );
    assert_eq!(seen["proxyip"], "127.0.0.1");
    assert!(seen.get("proxytlv").is_none());
    // The limit counts the address of the header.
    let mut second = Talk::connect(server.port);
    second.send(b"PROXY TCP4 192.0.2.1 192.0.2.9 40001 25\r\n");
    second.expect("421 4.7.0 Too many connections");
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x2b".to_vec();
    v2.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    v2.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    v2.extend([0x9c, 0x40, 0, 25, 5, 0, 4, 0xca, 0xfe, 0xba, 0xbe]);
    let mut talk = Talk::connect(server.port);
    talk.send(&v2);
    talk.expect("220 ");
    let line = server.logged(&["connect {", "2001:db8::1"]);
    assert!(line.contains("\"proxytlv\":\"050004cafebabe\""), "{line}");
    for header in ["PROXY UNKNOWN\r\n", "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"] {
        let mut talk = Talk::connect(server.port);
        talk.send(header.as_bytes());
        talk.expect("220 ");
        drop(talk);
        wait_until("it is gone", || server.counter("servers.0.connections.concurrent") == 2);
    }
    let log = server.log();
    let own: Vec<&str> = log.lines().filter(|line| line.contains("\"remoteip\":\"127.0.0.1\"")).collect();
    assert_eq!(own.len(), 2);
    assert!(own.iter().all(|line| !line.contains("proxyip")), "{own:?}");
    for bad in ["EHLO c\r\n", "PROXY TCP4 192.0.2.1 x 1 2\r\n", "PROXY UDP4 1 2 3 4\r\n"] {
        let mut talk = Talk::connect(server.port);
        talk.send(bad.as_bytes());
        talk.expect_closed();
        assert!(talk.seen.is_empty(), "{bad:?} was answered: {}", talk.seen);
    }
}

#[test]
fn s12_strangers_are_direct_clients_and_the_header_comes_before_tls() {
    let servers = "[{id: in, listeners: [{port: @port, address: 127.0.0.1, proxyprotocol: [192.0.2.0/24]}]}]";
    let (server, _sink) = App::new().start_on(servers, "");
    let mut talk = Talk::connect(server.port);
    talk.expect("220 ");
    talk.command("PROXY TCP4 192.0.2.1 192.0.2.9 40000 25", "500 5.5.2");
    let mx = certificates::self_signed("mx.test.example");
    let app = App::new()
        .server("tls: {certs: [{cert: mx}], implicit: true}")
        .top(&format!(
            "pki: {{private: [{{id: mx, certificate: {{data: {}}}, privatekey: {{data: {}}}}}]}}",
            certificates::yaml(&mx.pem()),
            certificates::yaml(&mx.key_pem())
        ))
        .hook("connect", CONNECT);
    let servers = "[{id: in, listeners: [{port: @port, address: 127.0.0.1, proxyprotocol: true}]}]";
    let (server, _sink) = app.start_on(servers, "");
    let mut talk = Talk::connect(server.port);
    talk.send(b"PROXY TCP4 192.0.2.1 192.0.2.9 40000 465\r\n");
    talk.handshake(&TlsClient::default()).expect("TLS behind the header");
    talk.expect("220 ");
    assert_eq!(server.echoed("connect")["a"]["remoteip"], "192.0.2.1");
}

#[test]
fn s15_unix_listeners_know_the_user() {
    let servers = "[{id: in, listeners: [{path: '@dir/smtp.sock', chmod: '0600'}]}]";
    let (mut server, sink) = App::new().hook("connect", CONNECT).start_on(servers, "");
    let path = server.path("smtp.sock");
    let mut talk = Talk::connect_path(&path);
    talk.expect("220 ");
    talk.command("EHLO c", "250 ");
    talk.message("a@b.example", "c@d.example", "x");
    let seen = server.echoed("connect")["a"].clone();
    assert_eq!(seen["remoteip"], "127.0.0.1");
    assert!(seen["remoteuid"].is_number());
    wait_until("it is delivered", || sink.count() == 1);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).expect("the socket").permissions());
    assert_eq!(mode & 0o777, 0o600);
    // After a kill the stale socket is in nobody's way.
    server.kill();
    assert!(path.exists());
    server.launch();
    Talk::connect_path(&path).expect("220 ");
}

#[test]
fn s14_clients_beyond_a_limit_cause_no_hook() {
    let (server, _sink) = App::new()
        .server("concurrency: {total: 3, perip: 2}")
        .hook("connect", "Accept();")
        .hook("disconnect", "Pass();")
        .start();
    let held: Vec<Talk> = (0..2).map(|_| Talk::greeted(server.port)).collect();
    for _ in 0..20 {
        let mut refused = Talk::connect(server.port);
        assert_eq!(refused.expect("421 "), "421 4.7.0 Too many connections");
        refused.expect_closed();
    }
    assert_eq!(server.counter("servers.0.scripts.connect.finished"), 2);
    drop(held);
    wait_until("the places are back", || server.counter("servers.0.connections.concurrent") == 0);
    Talk::greeted(server.port);
    wait_until("hooks ran for the others only", || {
        server.counter("servers.0.scripts.disconnect.finished") >= 2
    });
    assert!(server.counter("servers.0.scripts.disconnect.finished") <= 3);
}

#[test]
fn s10_drippers_are_as_good_as_silent() {
    let (server, _sink) = App::new()
        .server("timeout: {idle: 2}")
        .hook("helo", "if ($arguments[\"host\"] == \"slow.example\") sleep(3);")
        .start();
    // A command that never ends, one octet at a time.
    let dripped = |mut talk: Talk| {
        let start = Instant::now();
        let mut line = "x".bytes().cycle();
        while start.elapsed() < Duration::from_secs(6) {
            talk.send(&[line.next().expect("endless")]);
            std::thread::sleep(Duration::from_millis(300));
            if talk.rest(Duration::from_millis(1)).contains("421 4.4.2 Timeout") {
                return start.elapsed();
            }
        }
        panic!("never cut off; so far:\n{}", talk.seen);
    };
    let in_command = std::thread::spawn({
        let talk = Talk::greeted(server.port);
        move || dripped(talk)
    });
    let mut talk = Talk::greeted(server.port);
    talk.command("MAIL FROM:<a@b.example>", "250 ");
    talk.command("RCPT TO:<c@d.example>", "250 ");
    talk.command("DATA", "354 ");
    let elapsed = dripped(talk);
    assert!(elapsed < Duration::from_secs(4), "{elapsed:?}");
    let elapsed = in_command.join().expect("the other thread");
    assert!(elapsed < Duration::from_secs(4), "{elapsed:?}");
    // Time that a script takes is not the client's.
    let mut talk = Talk::connect(server.port);
    talk.expect("220 ");
    talk.command("EHLO slow.example", "250 ");
    std::thread::sleep(Duration::from_millis(500));
    talk.command("NOOP", "250 ");
    // A client that sends steadily is not cut off, however long it takes.
    let mut talk = Talk::greeted(server.port);
    talk.command("MAIL FROM:<a@b.example>", "250 ");
    talk.command("RCPT TO:<c@d.example>", "250 ");
    talk.command("DATA", "354 ");
    for _ in 0..8 {
        talk.send("y".repeat(600).as_bytes());
        std::thread::sleep(Duration::from_millis(500));
    }
    talk.command("\r\n.", "250 ");
}

#[test]
fn s15_early_talkers_and_a_pause_before_the_banner() {
    let (server, sink) = App::new().phase("connect", "delay: 0.3, earlytalker: reject").start();
    let start = Instant::now();
    let mut talk = Talk::connect(server.port);
    talk.expect("220 ");
    assert!(start.elapsed() >= Duration::from_millis(300));
    let mut early = Talk::connect(server.port);
    early.send(b"EHLO c\r\n");
    early.expect("554 5.5.1");
    early.expect_closed();
    // The same in TLS: only what was decrypted counts, not the handshake.
    let mx = certificates::self_signed("mx.test.example");
    let app = App::new()
        .phase("connect", "delay: 0.3, earlytalker: reject")
        .server("tls: {certs: [{cert: mx}], implicit: true}")
        .top(&format!(
            "pki: {{private: [{{id: mx, certificate: {{data: {}}}, privatekey: {{data: {}}}}}]}}",
            certificates::yaml(&mx.pem()),
            certificates::yaml(&mx.key_pem())
        ));
    server.write_app(&app.text(sink.port), &[]);
    server.ctl(&["config", "reload"]);
    let mut talk = Talk::connect_tls(server.port, &TlsClient::default()).expect("TLS");
    talk.expect("220 ");
    let mut early = Talk::connect_tls(server.port, &TlsClient::default()).expect("TLS");
    early.send(b"EHLO c\r\n");
    early.expect("554 5.5.1");
    early.expect_closed();
}

#[test]
fn tarpits_in_scripts_hold_no_thread() {
    let (server, _sink) =
        App::new().hook("helo", "if ($arguments[\"host\"] == \"slow.example\") sleep(3);").start();
    let slow: Vec<Talk> = (0..200)
        .map(|_| {
            let mut talk = Talk::connect(server.port);
            talk.expect("220 ");
            talk.send(b"EHLO slow.example\r\n");
            talk
        })
        .collect();
    let start = Instant::now();
    for _ in 0..20 {
        Talk::greeted(server.port);
    }
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    for mut talk in slow {
        talk.expect("250 ");
    }
}

#[test]
fn s16_credentials_and_keys_are_in_no_log() {
    let (server, _sink) = App::new()
        .server("logging: {verbose: true}")
        .phase("auth", "tlsonly: false")
        .hook("auth", "if ($arguments[\"username\"] == \"joe\") Accept(); throw Exception(\"who is that\");")
        .start();
    let b64 = |text: &str| openssl::base64::encode_block(text.as_bytes());
    let mut talk = Talk::greeted(server.port);
    talk.command(&format!("AUTH PLAIN {}", b64("\0tim\0sesame")), "454 ");
    talk.command("AUTH LOGIN", "334 ");
    talk.command(&b64("tim"), "334 ");
    talk.command(&b64("sesame"), "454 ");
    talk.command(&format!("AUTH LOGIN {}", b64("joe")), "334 ");
    talk.command(&b64("sesame"), "235 ");
    talk.command("NOOP", "250 ");
    server.logged(&["> 235 2.7.0"]);
    server.logged(&["< NOOP"]);
    let log = server.log();
    for secret in ["sesame".to_owned(), b64("sesame"), b64("\0tim\0sesame")] {
        assert!(!log.contains(&secret), "{secret} is in the log:\n{log}");
    }
}

#[test]
fn s1_s3_kills_around_the_reply_leave_nothing_half_present() {
    // What is said 250 survives, also where it came in chunks; what is not leaves nothing behind.
    let (mut server, sink) = App::new().start();
    sink.set_down(true);
    let mut promised = 0;
    for round in 0..6u64 {
        let mut talk = Talk::greeted(server.port);
        talk.command("MAIL FROM:<a@b.example>", "250 ");
        talk.command("RCPT TO:<c@d.example>", "250 ");
        talk.send(format!("BDAT 14\r\nSubject: {round}\r\n\r\n").as_bytes());
        talk.expect("250 2.0.0 14 octets received");
        if round % 2 == 0 {
            talk.command("BDAT 0 LAST", "250 2.0.0 Ok: queued as ");
            promised += 1;
        }
        server.kill();
        server.launch();
        // What the journal still holds becomes files in a while; nothing else may be there.
        wait_until("nothing is under construction", || {
            std::fs::read_dir(server.path("spool/incoming")).expect("a spool").count() == 0
        });
        wait_until("the queue is loaded", || server.queue().len() >= promised);
        assert_eq!(server.queue().len(), promised, "in round {round}");
    }
}

#[test]
fn bad_listeners_name_their_place() {
    for (servers, expected) in [
        ("[{id: in, listeners: [{address: 127.0.0.1}]}]", "needs 'port' or 'path'"),
        ("[{id: in, listeners: [{port: 1, path: /x}]}]", "excludes 'port'"),
        ("[{id: in, listeners: [{port: 1, chmod: '0600'}]}]", "are for listeners with 'path'"),
        ("[{id: in, listeners: [{port: 1, proxyprotocol: [nonsense]}]}]", "proxyprotocol"),
        (
            "[{id: in, type: http, listeners: [{port: 1}, {port: 2}]}]",
            "2 found, expected exactly one listener",
        ),
    ] {
        let server = Server::prepare_servers(servers, "", &App::new().text(1), &[]);
        let (status, said) = server.launch_failing();
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains(expected), "{expected:?} is not in {said}");
    }
}
