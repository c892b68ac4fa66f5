//! Statements of `smtp-hooks` on commands, extensions, limits and the trace field (sections 8, 9, 10, 13), over sockets, each
//! test named after its section.

use blackbox::app::App;
use blackbox::talk::Talk;
use blackbox::wait_until;

#[test]
fn s8_replies_to_every_command() {
    let (server, _sink) = App::new().start();
    let mut talk = Talk::greeted(server.port);
    for (line, expected) in [
        ("NOOP x", "250 2.0.0 Ok"),
        ("RSET", "250 2.0.0 Ok"),
        ("RSET x", "501 5.5.4"),
        ("VRFY joe", "252 2.1.5 Cannot VRFY user, but will accept message and attempt delivery"),
        ("VRFY", "501 5.5.4"),
        ("EXPN list", "502 5.5.1 Command not implemented"),
        ("HELP", "214 2.0.0 See RFC 5321"),
        ("STARTTLS", "502 5.5.1"),
        ("AUTH PLAIN", "502 5.5.1"),
        ("RCPT TO:<c@d.example>", "503 5.5.1"),
        ("DATA", "503 5.5.1"),
        ("BDAT x", "501 5.5.4"),
        ("BDAT 0", "503 5.5.1"),
        ("NONSENSE", "500 5.5.2 Command not recognized"),
        ("mail from:<a@b.example> foo=1", "555 5.5.4"),
        ("MAIL FROM:<a@b.example> SIZE=x", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> SIZE=99999999999", "552 5.3.4"),
        ("mail from: <a@b.example> size=10 body=8bitmime", "250 2.1.0 Ok"),
        ("MAIL FROM:<a@b.example>", "503 5.5.1"),
        ("RCPT TO:<c@d.example> NOTIFY=NEVER", "555 5.5.4"),
        ("RCPT TO:<c@d.example>", "250 2.1.5 Ok"),
        ("BDAT 3\r\nx\r\n", "250 2.0.0 3 octets received"),
    ] {
        let line = line.strip_suffix("\r\n").unwrap_or(line);
        if line.starts_with("BDAT 3") {
            talk.send(b"BDAT 3\r\nx\r\n");
            talk.expect(expected);
        } else {
            talk.command(line, expected);
        }
    }
    talk.command("DATA", "503 5.5.1");
    talk.command("BDAT 0 LAST", "250 2.0.0 Ok: queued as ");
    talk.command("QUIT", "221 2.0.0 Bye");
    talk.expect_closed();
    for foreign in ["GET / HTTP/1.1", "CONNECT a:25", "NOOP \0"] {
        let mut talk = Talk::greeted(server.port);
        talk.command(foreign, "421 4.7.0");
        talk.expect_closed();
    }
}

#[test]
fn s10_and_s15_limits_of_a_session() {
    let (server, sink) = App::new()
        .server("maxerrors: 3")
        .phase("data", "maxsize: 2000, maxhops: 2, maxlinelength: 100, multipart: false")
        .phase("mailfrom", "maxmessages: 4")
        .phase("rcptto", "maxrecipients: 2")
        .start();
    let mut talk = Talk::greeted(server.port);
    assert!(talk.seen.contains("250-SIZE 2000\r\n"), "{}", talk.seen);
    talk.command("MAIL FROM:<a@b.example> SIZE=2001", "552 5.3.4");
    let large = format!("Subject: x\r\n\r\n{}", "0123456789\r\n".repeat(200));
    assert!(talk.message("a@b.example", "c@d.example", &large).starts_with("552 5.3.4"));
    let looping = "Received: a\r\nReceived: b\r\nReceived: c\r\n\r\nx";
    assert!(talk.message("a@b.example", "c@d.example", looping).starts_with("554 5.4.6"));
    let long = format!("\r\n{}", "x".repeat(120));
    assert!(talk.message("a@b.example", "c@d.example", &long).starts_with("550 5.6.0"));
    talk.command("MAIL FROM:<a@b.example>", "250 ");
    talk.command("RCPT TO:<c@d.example>", "250 ");
    talk.command("RCPT TO:<d@d.example>", "250 ");
    talk.command("RCPT TO:<e@d.example>", "452 4.5.3");
    talk.command("DATA", "354 ");
    talk.command("Received: a\r\nReceived: b\r\n\r\nx\r\n.", "250 2.0.0");
    talk.command("MAIL FROM:<a@b.example>", "421 4.7.0");
    talk.expect_closed();
    wait_until("both have it", || sink.count() == 2);
    let mut talk = Talk::greeted(server.port);
    talk.command("XA", "500 ");
    talk.command("XB", "500 ");
    talk.command("NOOP", "250 ");
    talk.command(&format!("NOOP {}", "x".repeat(17_000)), "500 5.5.2");
    talk.command("XD", "500 ");
    talk.send(b"XE\r\n");
    talk.expect("500 ");
    talk.expect("421 4.7.0 Too many errors");
    talk.expect_closed();
}

#[test]
fn s13_the_received_header_of_every_protocol() {
    let (server, sink) = App::new().phase("auth", "tlsonly: false").hook("auth", "Accept();").start();
    let mut count = 0;
    for (greeting, auth, parameters, protocol) in [
        ("HELO c(x)", false, "", "SMTP"),
        ("EHLO c", false, "", "ESMTP"),
        ("EHLO c", true, "", "ESMTPA"),
        ("EHLO c", false, " SMTPUTF8", "UTF8SMTP"),
        ("EHLO c", true, " SMTPUTF8", "UTF8SMTPA"),
    ] {
        let mut talk = Talk::connect(server.port);
        talk.expect("220 ");
        talk.command(greeting, "250 ");
        if auth {
            talk.command("AUTH PLAIN AGpvZQBwYXNz", "235 ");
        }
        talk.command(&format!("MAIL FROM:<a@b.example>{parameters}"), "250 ");
        talk.command("RCPT TO:<c@d.example>", "250 ");
        talk.command("DATA", "354 ");
        let reply = talk.command("Subject: x\r\n\r\nx\r\n.", "250 ");
        let id = reply.rsplit(' ').next().expect("an id");
        count += 1;
        wait_until("it is delivered", || sink.count() == count);
        let text = String::from_utf8_lossy(&sink.taken()[count - 1].content).into_owned();
        let host = if greeting.contains('(') { "c?x?" } else { "c" };
        let start = format!(
            "Received: from {host} (unknown [127.0.0.1])\r\n\tby mx.test.example (Halon) with {protocol}\r\n\tid {id};\r\n\t"
        );
        assert!(text.starts_with(&start), "{text}");
        let date = text[start.len()..].split("\r\n").next().expect("a line");
        assert!(date.ends_with(')') && date.contains(", ") && date.contains(" ("), "{date}");
        assert!(text[start.len() + date.len()..].starts_with("\r\nSubject: x\r\n"), "{text}");
    }
}

#[test]
fn s9_every_item_has_a_switch_and_gates_what_it_names() {
    let app = |keys: &str| {
        App::new()
            .server(keys)
            .phase("auth", "tlsonly: false")
            .hook("auth", "Accept();")
            .hook("rcptto", "Accept();")
    };
    let (server, sink) = app("extensions: {dsn: true}").start();
    let mut talk = Talk::greeted(server.port);
    assert_eq!(
        talk.seen.replace("\r\n", " "),
        "220 mx.test.example ESMTP 250-mx.test.example 250-PIPELINING 250-SIZE 52428800 250-AUTH PLAIN LOGIN \
         250-8BITMIME 250-SMTPUTF8 250-CHUNKING 250-ENHANCEDSTATUSCODES 250 DSN "
    );
    for (bad, reply) in
        [("RET=ALL", "501 5.5.4"), ("ENVID=a+2", "501 5.5.4"), ("RET=FULL ENVID=x AUTH=<>", "250 ")]
    {
        talk.command(&format!("MAIL FROM:<a@b.example> {bad}"), reply);
    }
    for (bad, reply) in [
        ("NOTIFY=NEVER,DELAY", "501 5.5.4"),
        ("ORCPT=x", "501 5.5.4"),
        ("NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;c@d", "250 "),
    ] {
        talk.command(&format!("RCPT TO:<c@d.example> {bad}"), reply);
    }
    for (off, item, line, expected) in [
        ("pipelining", "PIPELINING", "NOOP", "250 "),
        ("size", "SIZE 52428800", "MAIL FROM:<a@b.example> SIZE=1", "555 5.5.4"),
        ("8bitmime", "8BITMIME", "MAIL FROM:<a@b.example> BODY=8BITMIME", "555 5.5.4"),
        ("smtputf8", "SMTPUTF8", "MAIL FROM:<a@b.example> SMTPUTF8", "555 5.5.4"),
        ("smtputf8", "SMTPUTF8", "MAIL FROM:<ö@b.example>", "553 5.6.7"),
        ("chunking", "CHUNKING", "BDAT 0 LAST", "502 5.5.1"),
        ("auth", "AUTH PLAIN LOGIN", "AUTH PLAIN AGpvZQBwYXNz", "502 5.5.1"),
        ("enhancedstatuscodes", "ENHANCEDSTATUSCODES", "NOOP", "250 2.0.0"),
    ] {
        server.write_app(&app(&format!("extensions: {{{off}: false}}")).text(sink.port), &[]);
        server.ctl(&["config", "reload"]);
        let mut other = Talk::greeted(server.port);
        assert!(!other.seen.contains(&format!("{item}\r\n")), "{}", other.seen);
        other.command(line, expected);
        // The limit is in force all the same, and 8-bit content is taken.
        other.command("RSET", "250 ");
        assert!(other.message("a@b.example", "c@d.example", "Subject: ä\r\n\r\nö").starts_with("250 2.0.0"));
        // DSN parameters need the item, which is not announced unless it is switched on.
        other.command("MAIL FROM:<a@b.example> RET=HDRS", "555 5.5.4");
    }
}

#[test]
fn s8_a_stopping_server_finishes_the_running_command_and_says_so() {
    let (mut server, _sink) = App::new().hook("eod", "sleep(1); Accept();").start();
    let mut idle = Talk::greeted(server.port);
    let mut busy = Talk::greeted(server.port);
    busy.command("MAIL FROM:<a@b.example>", "250 ");
    busy.command("RCPT TO:<c@d.example>", "250 ");
    busy.command("DATA", "354 ");
    busy.send(b"x\r\n.\r\n");
    std::thread::sleep(std::time::Duration::from_millis(200));
    let stopping = std::thread::spawn(move || server.stop());
    idle.expect("421 4.3.2 Service shutting down");
    idle.expect_closed();
    busy.expect("250 2.0.0 Ok: queued as ");
    busy.expect("421 4.3.2 Service shutting down");
    busy.expect_closed();
    assert_eq!(stopping.join().expect("it stops"), Some(0));
}

#[test]
fn s10_a_session_that_lasts_too_long_is_ended() {
    let (server, _sink) = App::new().server("timeout: {session: 2}").start();
    let start = std::time::Instant::now();
    let mut talk = Talk::greeted(server.port);
    loop {
        std::thread::sleep(std::time::Duration::from_millis(300));
        talk.send(b"NOOP\r\n");
        let reply = talk.reply().expect("a reply");
        if reply.starts_with("250 ") {
            assert!(start.elapsed().as_secs() < 10, "it goes on");
            continue;
        }
        assert_eq!(reply, "421 4.4.2 Timeout");
        break;
    }
    assert!(start.elapsed().as_secs_f64() >= 1.9, "{:?}", start.elapsed());
}

#[test]
fn s8_starttls_where_the_script_announces_it_without_a_certificate() {
    let (server, _sink) = App::new().hook("helo", "Accept([\"extensions\" => [\"STARTTLS\"]]);").start();
    let mut talk = Talk::greeted(server.port);
    talk.command("STARTTLS", "454 4.7.0");
    talk.command("NOOP", "250 ");
}

#[test]
fn s8_too_many_rejected_commands_in_a_row() {
    // The default, and what counts: a good command in between starts again.
    let (server, _sink) = App::new().start();
    let mut talk = Talk::greeted(server.port);
    for _ in 0..19 {
        talk.command("WHAT", "500 5.5.2");
    }
    talk.command("NOOP", "250 ");
    for _ in 0..19 {
        talk.command("WHAT", "500 5.5.2");
    }
    talk.send(b"WHAT\r\nNOOP\r\n");
    talk.expect("500 5.5.2");
    talk.expect("421 4.7.0 Too many errors");
    talk.expect_closed();
}

#[test]
fn s9_utf8_in_vrfy_and_8_bit_content_of_any_session() {
    let (server, sink) = App::new().start();
    let mut talk = Talk::greeted(server.port);
    talk.command("VRFY jörg SMTPUTF8", "252 2.1.5");
    talk.command("VRFY joe", "252 2.1.5");
    // After HELO, without any extension.
    talk.command("HELO c", "250 ");
    for parameter in ["SIZE=5", "BODY=8BITMIME", "SMTPUTF8", "RET=FULL", "AUTH=<>"] {
        talk.command(&format!("MAIL FROM:<a@b.example> {parameter}"), "555 5.5.4");
    }
    talk.command("BDAT 0 LAST", "502 5.5.1");
    let raw = b"Subject: \xe4\xf6\r\nX-\xc3\xa4: \xff\r\n\r\n\0nul\0 \xe9\r\n";
    talk.command("MAIL FROM:<a@b.example>", "250 2.1.0");
    talk.command("RCPT TO:<c@d.example>", "250 2.1.5");
    talk.command("DATA", "354 ");
    talk.send(raw);
    talk.command(".", "250 2.0.0");
    // S14.5: nothing of it is changed.
    wait_until("it is delivered", || sink.count() == 1);
    assert!(sink.taken()[0].content.ends_with(raw));
}

#[test]
fn s10_lengths_of_addresses() {
    let (server, _sink) = App::new().start();
    let mut talk = Talk::greeted(server.port);
    let label = "a".repeat(63);
    let domain = format!("{label}.{label}.{label}.{}", "b".repeat(63));
    assert_eq!(domain.len(), 255);
    for (localpart, domain, good) in [
        ("x".repeat(64), "b.example".to_owned(), true),
        ("x".repeat(255), "b.example".to_owned(), true),
        ("x".repeat(256), "b.example".to_owned(), false),
        ("x".to_owned(), domain.clone(), true),
        ("x".to_owned(), format!("{domain}b"), false),
    ] {
        let path = format!("<{localpart}@{domain}>");
        talk.command(&format!("MAIL FROM:{path}"), if good { "250 2.1.0" } else { "501 5.1.7" });
        talk.command("RSET", "250 ");
        talk.command("MAIL FROM:<>", "250 ");
        talk.command(&format!("RCPT TO:{path}"), if good { "250 2.1.5" } else { "501 5.1.3" });
        talk.command("RSET", "250 ");
    }
    // A thousand recipients are the default limit.
    talk.command("MAIL FROM:<>", "250 ");
    let lines: String = (0..1001).map(|n| format!("RCPT TO:<r{n}@d.example>\r\n")).collect();
    talk.send(lines.as_bytes());
    for _ in 0..1000 {
        talk.expect("250 2.1.5");
    }
    talk.expect("452 4.5.3");
}
