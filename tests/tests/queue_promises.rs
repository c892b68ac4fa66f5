//! Promises of the queue that only a whole server keeps: which address an attempt goes to, who is told what, and what the
//! next hop reads.

use blackbox::client::{Sender, send};
use blackbox::limits::app;
use blackbox::report::read_report;
use blackbox::sink::Sink;
use blackbox::zone::Zone;
use blackbox::{Server, wait_until};
use smtp::Reply;
use smtp::reply::Enhanced;
use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

const MESSAGE: &[u8] = b"Subject: hello\r\n\r\nbody\r\n";

fn text(value: &serde_json::Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Q12: `resolver query` names the address that the queue chose, for many messages and every attempt.
#[test]
fn resolver_query_names_the_address_of_each_attempt() {
    let zone = Zone::start(
        "@ IN MX 10 mx1\n@ IN MX 10 mx2\n@ IN MX 20 mx3\nmx1 IN A 127.0.0.1\nmx1 IN A 127.0.0.2\nmx1 IN AAAA ::1\n\
         mx2 IN A 127.0.0.3\nmx3 IN A 127.0.0.4\n",
    );
    let app = format!(
        "version: \"6.9\"\nservers: [{{id: in, transport: mx, phases: {{connect: {{remoteptr: false}}}}}}]\n\
         transportgroups: [{{id: g, transports: [{{id: mx}}]}}]\n\
         resolver: {{servers: [{{address: 127.0.0.1, port: {}}}]}}\n",
        zone.port
    );
    let server = Server::start(&app, &[]);
    server.ctl(&["queue", "suspend", "add", "--transportid", "mx"]);
    for _ in 0..4 {
        send(server.port, "a@sender.example", "b@test.example", MESSAGE);
    }
    let mut seen = HashSet::new();
    for retry in 0..6 {
        if retry > 0 {
            // The fields of what is ACTIVE stay; out of HOLD they are resolved again.
            let count = retry.to_string();
            server.ctl(&["queue", "update", "--transportid", "mx", "--hold", "--updateretrycount", &count]);
            server.ctl(&["queue", "update", "--transportid", "mx", "--active"]);
        }
        wait_until("all are in their lanes", || server.counter("queue.queue.active.size") == 4);
        for entry in server.queue() {
            let (id, retry) = (text(&entry["id"]["transaction"]), retry.to_string());
            let answer = server.ctl(&["resolver", "query", "--seed", &id, "--retry", &retry, "test.example"]);
            let (address, host) = (text(&entry["remoteip"]), text(&entry["remotemx"]));
            let expected = format!("address: {address}\nhostname: {host}\n");
            assert!(answer.starts_with(&expected), "{retry} of {id}: {answer}{expected}");
            seen.insert(address);
        }
    }
    assert_eq!(seen.len(), 5, "over the attempts each address has its turn: {seen:?}");
    let output = server.halonctl(&["resolver", "query", "missing.test.example"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

/// Q14: neither `NOTIFY=NEVER` nor the null sender ever causes a report, whatever happens.
#[test]
fn never_means_no_report_of_any_kind() {
    let (sink, reports) = (Sink::start(), Sink::start());
    sink.hold();
    let app = app(&[sink.port, reports.port], "")
        .replace("{intervals: [{interval: 1}]}", "{count: 1, intervals: [{interval: 1, notify: true}]}")
        .replace("    retry:", "    dsn: {transport: t1}\n    retry:")
        .replace("[\"jobid\" =>", "[\"dsn\" => [\"notify\" => [$notify]], \"jobid\" =>")
        .replace(
            "$domain = $r",
            "$notify = $r[\"address\"][\"localpart\"] == \"told\" ? \"FAILURE\" : \"NEVER\";\n            $domain = $r",
        );
    let server = Server::start(&app, &[]);
    // Each fails twice, which would mean a notice of delay and a report of failure; the last is bounced by an operator.
    for to in ["never@t0.example", "told@t0.example", "bounced@t0.example"] {
        send(server.port, "a@sender.example", to, MESSAGE);
    }
    send(server.port, "", "told@t0.example", MESSAGE);
    // The report for this sender is refused, and a report about it would go to nobody.
    send(server.port, "reject@sender.example", "told@t0.example", MESSAGE);
    wait_until("all wait for their reply", || sink.held() == 5);
    let busy = Reply::new(451, None, "Try later");
    sink.reply(5, &busy);
    wait_until("all are tried again", || sink.held() == 5);
    sink.reply(5, &busy);
    wait_until("all have ended", || server.queue().is_empty());
    wait_until("the report comes", || reports.count() == 1);
    let taken = &reports.taken()[0];
    assert_eq!((taken.from.as_str(), taken.to.as_str()), ("", "a@sender.example"));
    assert_eq!(read_report(&taken.content)["status"][1]["final-recipient"], "rfc822; told@t0.example");
    send(server.port, "a@sender.example", "bounced@t0.example", MESSAGE);
    wait_until("it waits", || sink.held() == 1);
    sink.reply(1, &busy);
    wait_until("it is deferred", || server.counter("queue.queue.defer.size") == 1);
    let output = server.ctl(&["queue", "update", "--jobid", "bounced", "--bounce"]);
    assert_eq!((output.as_str(), server.queue().len()), ("1 messages affected\n", 0));
    assert_eq!(reports.count(), 1);
}

/// Q15: a report says what the script was told.
#[test]
fn a_report_says_what_the_script_was_told() {
    let (sink, reports) = (Sink::start(), Sink::start());
    sink.hold();
    let zone = Zone::start("");
    let app = app(&[sink.port, reports.port], "")
        .replace("    retry:", "    dsn: {transport: t1}\n    retry:")
        .replace(
            "    eod:\n",
            "    postdelivery: 'echo \"told \" . json_encode($arguments[\"dsn\"]);'\n    eod:\n",
        )
        .replace("{id: t0, ", "{id: mx, connection: {server: lookup-mx}}\n      - {id: t0, ")
        .replace("=~ \"^t[0-9]", "=~ \"^(t[0-9]|mx)")
        + &format!("resolver: {{servers: [{{address: 127.0.0.1, port: {}}}]}}\n", zone.port);
    let mut server = Server::prepare(&app, &[]);
    server.add_startup("logging: {level: debug}\n");
    server.launch();
    let told = |nth: usize| -> serde_json::Value {
        wait_until("the script ran", || server.log().matches("told {").count() > nth);
        let log = server.log();
        let line = log.lines().filter(|line| line.contains("told {")).nth(nth).unwrap();
        serde_json::from_str(&line[line.find("told ").unwrap() + 5..]).expect("what the script wrote")
    };
    let refused = Reply::new(554, Some(Enhanced(5, 7, 1)), "Not wanted here");
    let plain = Reply::new(550, None, "No");
    let cases: [(&str, Option<&Reply>, &str); 3] = [
        ("u@t0.example", Some(&refused), "5.7.1"),
        ("u@t0.example", Some(&plain), "5.0.0"),
        ("u@missing.test.example", None, "5.1.2"),
    ];
    let app_of = std::fs::read_to_string(server.path("app.yaml")).unwrap();
    for (nth, (to, reply, status)) in cases.into_iter().enumerate() {
        if reply.is_none() {
            server.write("app.yaml", &app_of.replace(": \"t0\";", ": \"mx\";"));
            server.ctl(&["config", "reload"]);
        }
        send(server.port, "a@sender.example", to, MESSAGE);
        if let Some(reply) = reply {
            wait_until("it waits for its reply", || sink.held() == 1);
            sink.reply(1, reply);
        }
        // The report is a delivery of its own, and its script is told nothing of a report.
        wait_until("the report comes", || reports.count() == nth + 1 && server.queue().is_empty());
        let told = told(nth);
        let report = read_report(&reports.taken()[nth].content);
        let recipient = &report["status"][1];
        let numbers: Vec<String> =
            told["status"].as_array().unwrap().iter().map(|n| n.as_f64().unwrap().to_string()).collect();
        assert_eq!((text(&recipient["status"]), status), (numbers.join("."), status), "{told} {recipient}");
        let diagnostic = format!("{}; {}", text(&told["diagnostictype"]), text(&told["diagnosticcode"]));
        assert_eq!(text(&recipient["diagnostic-code"]), diagnostic, "{told} {recipient}");
        assert_eq!(text(&recipient["final-recipient"]), format!("rfc822; {to}"));
        assert_eq!((&told["action"], &recipient["action"]), (&"failed".into(), &"failed".into()), "{told}");
    }
}

/// A next hop that keeps the octets between DATA and the final dot.
fn raw_next_hop() -> (u16, Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    let taken: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let kept = taken.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().expect("a socket can be cloned"));
            let mut stream = stream;
            let mut say =
                |text: &str| stream.write_all(format!("{text}\r\n").as_bytes()).expect("it listens");
            say("220 raw.test.example ESMTP");
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                match String::from_utf8_lossy(&line[..line.len().min(4)]).to_uppercase().as_str() {
                    "DATA" => {
                        say("354 go on");
                        let mut content = Vec::new();
                        while !content.ends_with(b"\r\n.\r\n") {
                            assert!(reader.read_until(b'\n', &mut content).expect("it sends") > 0);
                        }
                        content.truncate(content.len() - 3);
                        kept.lock().expect("no thread panics with it").push(content);
                        say("250 taken");
                    }
                    "QUIT" => {
                        say("221 bye");
                        break;
                    }
                    _ => say("250 ok"),
                }
                line.clear();
            }
        }
    });
    (port, taken)
}

/// Q19: what goes out is the modified file, dot-stuffed, with no bare CR or LF in it.
#[test]
fn the_next_hop_reads_the_modified_file() {
    let (port, taken) = raw_next_hop();
    let app = app(&[port], "").replace(
        "          foreach",
        "          $arguments[\"mail\"]->addHeader(\"X-Added\", \"yes\");\n          foreach",
    );
    let server = Server::start(&app, &[]);
    server.ctl(&["queue", "suspend", "add", "--id", "all"]);
    let dots = b"Subject: dots\r\n\r\n.\r\n..\r\n.x\r\n\r\n. \r\nlast line.\r\n.\r\n";
    let mut sender = Sender::connect(server.port).unwrap();
    assert!(sender.send("a@sender.example", "u@t0.example", dots).unwrap().is_delivered());
    let long = format!("Subject: long\r\n\r\n{}\r\n.\r\n", "x".repeat(70_000));
    assert!(sender.send("a@sender.example", "u@t0.example", long.as_bytes()).unwrap().is_delivered());
    server.write("lf.eml", "To: u@t0.example\nSubject: lines\n\n.\n..two\nno end");
    let path = server.path("lf.eml").display().to_string();
    server.ctl(&["queue", "load", "--rfc822", &path]);
    wait_until("they wait", || server.counter("queue.queue.active.size") == 3);
    let mut expected: Vec<Vec<u8>> = server
        .queue()
        .iter()
        .map(|entry| {
            let id = format!("{}:{}", text(&entry["id"]["transaction"]), text(&entry["id"]["queue"]));
            server.halonctl(&["queue", "export", &id]).stdout
        })
        .collect();
    server.ctl(&["queue", "suspend", "delete", "all"]);
    wait_until("they arrive", || taken.lock().unwrap().len() == 3 && server.queue().is_empty());
    let mut unstuffed = Vec::new();
    for raw in taken.lock().unwrap().iter() {
        let mut plain = Vec::new();
        for line in raw.split_inclusive(|&octet| octet == b'\n') {
            let body = line.strip_suffix(b"\r\n").expect("lines end with CR LF");
            assert!(!body.contains(&b'\r'), "a bare CR");
            assert!(body != b".", "a dot alone would have ended it");
            plain.extend_from_slice(body.strip_prefix(b".").unwrap_or(body));
            plain.extend_from_slice(b"\r\n");
        }
        unstuffed.push(plain);
    }
    let modified = unstuffed.iter().filter(|plain| plain.windows(14).any(|part| part == b"X-Added: yes\r\n"));
    assert_eq!(modified.count(), 2);
    expected.sort();
    unstuffed.sort();
    assert!(expected == unstuffed, "what arrives is not what is stored");
}
