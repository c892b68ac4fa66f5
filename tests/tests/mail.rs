//! Mail in scripts, with independent peers: dkimpy, a name server, other SMTP servers; and large messages.

use blackbox::sink::Sink;
use blackbox::zone::Zone;
use blackbox::{Process, Server, free_port, program, system_program, wait_until};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

fn python() -> PathBuf {
    let mut path = program("hsh");
    path.pop();
    path.pop();
    let path = path.join("python-tests/venv/bin/python");
    assert!(path.exists(), "{} is missing: run scripts/python-tests.sh first", path.display());
    path
}

fn python_script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name)
}

/// Runs a script with `/` as its root; gives what it printed.
fn hsh(folder: &Path, script: &str) -> String {
    let file = folder.join("script.hsl");
    std::fs::write(&file, script).unwrap();
    let output = Command::new(program("hsh"))
        .args(["-c", "/dev/null", "-R", "/"])
        .arg(&file)
        .output()
        .expect("hsh starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}\n{script}");
    String::from_utf8(output.stdout).unwrap()
}

/// Keys of the tests: an RSA and an Ed25519 key in `folder`; gives the records for selectors `rsa` and `ed`.
fn keys(folder: &Path) -> Vec<(&'static str, String)> {
    let openssl = |arguments: &[&str]| {
        let output =
            Command::new("openssl").args(arguments).current_dir(folder).output().expect("openssl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "rsa.pem"]);
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", "ed25519.pem"]);
    let rsa = openssl(&["pkey", "-in", "rsa.pem", "-pubout", "-outform", "DER"]);
    let public = openssl(&["pkey", "-in", "ed25519.pem", "-pubout", "-outform", "DER"]);
    let private = openssl(&["pkey", "-in", "ed25519.pem", "-outform", "DER"]);
    // The raw keys are the last 32 bytes of the structures (RFC 8410).
    std::fs::write(folder.join("ed25519.seed"), base64(&private[private.len() - 32..])).unwrap();
    let records = vec![
        ("rsa", format!("v=DKIM1; k=rsa; p={}", base64(&rsa))),
        ("ed", format!("v=DKIM1; k=ed25519; p={}", base64(&public[public.len() - 32..]))),
    ];
    let json: serde_json::Map<String, serde_json::Value> = records
        .iter()
        .map(|(selector, record)| (format!("{selector}._domainkey.test.example"), record.clone().into()))
        .collect();
    std::fs::write(folder.join("keys.json"), serde_json::to_string(&json).unwrap()).unwrap();
    records
}

fn base64(bytes: &[u8]) -> String {
    let mut child = Command::new("base64")
        .arg("-w0")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("base64 runs");
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

/// A TXT record in strings of 255 bytes at most.
fn txt(name: &str, text: &str) -> String {
    let strings: Vec<String> = text
        .as_bytes()
        .chunks(200)
        .map(|piece| format!("\"{}\"", String::from_utf8_lossy(piece).replace(';', "\\;")))
        .collect();
    format!("{name} IN TXT {}\n", strings.join(" "))
}

const MESSAGE: &str = "Received: from x by y; Tue, 1 Jul 2003 10:52:37 +0200\r\nFrom: Joe  Doe <joe@test.example>\r\nTo: \
    a@x.example,\r\n\tb@y.example\r\nSubject: A  folded\r\n \t subject \r\nDate: Fri, 11 Jul 2003 21:00:37 \
    -0700\r\nMessage-ID: <1@test.example>\r\n\r\nHello  there \r\n\r\n.dot\r\nMore\ttext.\r\n\r\n\r\n";

#[test]
fn signatures_hold_for_dkimpy_and_those_of_dkimpy_for_us() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let records = keys(folder);
    let zone: String = records.iter().map(|(s, record)| txt(&format!("{s}._domainkey"), record)).collect();
    let zone = Zone::start(&zone);
    std::fs::write(folder.join("message.txt"), MESSAGE).unwrap();
    let path = folder.display();
    // Ours: every canonicalization and key, each with options; and a chain of two sets.
    let prelude = format!(
        r#"
$text = File::read("file://{path}/message.txt");
$rsa = rsa_privatekey(File::read("file://{path}/rsa.pem"));
$ed = ed25519_privatekey(File::read("file://{path}/ed25519.pem"));
$dns = ["servers" => ["127.0.0.1"], "port" => {port}];
"#,
        port = zone.port
    );
    let output = hsh(
        folder,
        &format!(
            r#"{prelude}
foreach ([["rsa", $rsa], ["ed", $ed]] as $key)
    foreach (["simple", "relaxed"] as $head)
        foreach (["simple", "relaxed"] as $body) {{
            $m = MailMessage::String($text);
            $m->signDKIM($key[0], "test.example", $key[1], ["canonicalization_header" => $head,
                "canonicalization_body" => $body, "timestamp" => true, "expiration_relative" => 3600,
                "oversign_headers" => ["from", "subject", "cc"], "identity" => "joe@test.example"]);
            echo $key[0] . "-$head-$body";
            echo base64_encode($m->toString());
        }}
$m = MailMessage::String($text);
$m->setHeader("Subject", "changed");
$m->appendPart(MIME()->setType("text/html")->setBody("<b>more</b>"));
$m->signDKIM("rsa", "test.example", $rsa);
$m->signARC("rsa", "test.example", $rsa, "mx.test.example; spf=pass smtp.mailfrom=joe@test.example", $dns + ["timestamp" => true]);
echo "chain-of-one";
echo base64_encode($m->toString());
$n = MailMessage::String($m->toString());
$n->signARC("rsa", "test.example", $rsa, "mx2.test.example; arc=pass", $dns);
echo "chain-of-two";
echo base64_encode($n->toString());
$o = MailMessage::String($n->toString());
echo "verdict " . json_encode($o->verifyARC($dns));
"#
        ),
    );
    let mut lines = output.lines();
    let mut files = 0;
    while let Some(name) = lines.next() {
        if let Some(verdict) = name.strip_prefix("verdict ") {
            assert_eq!(verdict, r#"{"result":"pass","instance":2}"#);
            break;
        }
        let decoded = Command::new("sh")
            .args(["-c", &format!("base64 -d > {path}/{name}.eml")])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .and_then(|mut child| {
                child.stdin.take().expect("it is piped").write_all(lines.next().unwrap().as_bytes())?;
                child.wait()
            });
        assert!(decoded.unwrap().success());
        files += 1;
    }
    assert_eq!(files, 10, "{output}");
    let check = |command: &str| {
        let output = Command::new(python())
            .arg(python_script("dkim_check.py"))
            .arg(command)
            .arg(folder)
            .output()
            .expect("python runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    let verified = check("verify");
    assert_eq!(verified.lines().count(), 10, "{verified}");
    // Those of dkimpy, with keys from the name server.
    check("sign");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| name.ends_with(".out"))
        .collect();
    names.sort();
    assert_eq!(names.len(), 8);
    for name in names {
        let output = hsh(
            folder,
            &format!(
                r#"{prelude}
$m = MailMessage::File(File("file://{path}/{name}"));
$field = $m->getHeader("DKIM-Signature", ["field" => true]);
echo $m->verifyDKIM($field, $dns)["result"];
$m->modifyContent($m->getSize() - 10, 1, "X");
echo $m->verifyDKIM($field, $dns)["result"];
"#
            ),
        );
        assert_eq!(output, "pass\npermerror\n", "{name}");
    }
    let output = hsh(
        folder,
        &format!(
            r#"{prelude}
$m = MailMessage::File(File("file://{path}/arc.chain"));
echo json_encode($m->verifyARC($dns));
$m->setHeader("Subject", "changed");
echo $m->verifyARC($dns)["result"];
"#
        ),
    );
    assert_eq!(output, "{\"result\":\"pass\",\"instance\":2}\nfail\n");
}

#[test]
fn senders_are_checked_against_a_name_server() {
    let dir = tempfile::tempdir().unwrap();
    let records = keys(dir.path());
    let mut zone = String::from("mail IN A 192.0.2.10\nmail IN AAAA 2001:db8::10\n@ IN MX 10 mail\n");
    zone.push_str(&txt("@", "v=spf1 mx ip4:198.51.100.0/24 -all exp=why.test.example"));
    zone.push_str(&txt("why", "%{i} is none of ours"));
    zone.push_str(&txt("_dmarc", "v=DMARC1; p=reject; sp=quarantine; aspf=s"));
    zone.push_str(&txt("none", "v=spf1 include:nowhere.test.example -all"));
    for (selector, record) in &records {
        zone.push_str(&txt(&format!("{selector}._domainkey"), record));
    }
    let zone = Zone::start(&zone);
    let output = hsh(
        dir.path(),
        &format!(
            r#"
$dns = ["servers" => ["127.0.0.1"], "port" => {port}, "timeout" => 5];
foreach (["192.0.2.10", "2001:db8::10", "198.51.100.77", "203.0.113.1", "nonsense"] as $ip)
    echo json_encode(spf_query($ip, "mail.test.example", "joe@test.example", $dns));
echo spf_query("192.0.2.10", "none.test.example", "", $dns)["result"];
echo spf_query("192.0.2.10", "x", "test.example", $dns)["result"];
echo spf_query("192.0.2.10", "x", "a@test.example", ["servers" => ["127.0.0.1"], "port" => 9, "timeout" => 1])["result"];
$ed = ed25519_privatekey(File::read("file://{path}/ed25519.pem"));
$m = MailMessage::String("From: Joe <joe@test.example>\r\nSubject: s\r\n\r\nbody\r\n");
function show($r) {{ echo $r["result"] . " " . $r["disposition"] . " " . $r["spf"]["result"] . " " . length($r["dkim"]); }}
show($m->verifyDMARC("192.0.2.10", "mail.test.example", "joe@test.example", $dns));
show($m->verifyDMARC("203.0.113.1", "mail.test.example", "joe@test.example", $dns));
show($m->verifyDMARC("nonsense", "", "", $dns));
$m->signDKIM("ed", "test.example", $ed);
$n = MailMessage::String($m->toString());
show($n->verifyDMARC("203.0.113.1", "mail.test.example", "", $dns));
$n->modifyContent($n->getSize() - 4, 1, "X");
show($n->verifyDMARC("203.0.113.1", "mail.test.example", "", $dns));
show(MailMessage::String("From: <a@sub.test.example>\r\n\r\n")->verifyDMARC("203.0.113.1", "x", "", $dns));
show(MailMessage::String("From: <a@test.example>, <b@x.example>\r\n\r\n")->verifyDMARC("203.0.113.1", "x", "", $dns));
"#,
            port = zone.port,
            path = dir.path().display()
        ),
    );
    assert_eq!(
        output.lines().collect::<Vec<_>>(),
        [
            r#"{"result":"pass"}"#,
            r#"{"result":"pass"}"#,
            r#"{"result":"pass"}"#,
            r#"{"result":"fail","reason":"203.0.113.1 is none of ours"}"#,
            r#"{"result":"invalid"}"#,
            "permerror",
            "pass",
            "temperror",
            "pass none pass 0",
            "fail reject fail 0",
            "fail reject invalid 0",
            "pass none none 1",
            "fail reject none 1",
            "fail quarantine none 0",
            "permerror none none 0",
        ]
    );
}

/// An aiosmtpd with STARTTLS and accounts.
fn python_server(folder: &Path) -> (u16, Process) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=mx.test.example"])
        .args(["-addext", "subjectAltName=DNS:mx.test.example", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(folder)
        .output()
        .expect("openssl runs");
    assert!(made.status.success());
    let port = free_port();
    let child = Command::new(python())
        .arg(python_script("smtp_server.py"))
        .arg(port.to_string())
        .arg(folder.join("cert.pem"))
        .arg(folder.join("key.pem"))
        .spawn()
        .expect("python runs");
    let process = Process(child);
    wait_until("aiosmtpd answers", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    (port, process)
}

#[test]
fn other_servers_are_asked_and_used() {
    let dir = tempfile::tempdir().unwrap();
    let (port, _process) = python_server(dir.path());
    let sink = Sink::start();
    let output = hsh(
        dir.path(),
        &format!(
            r#"
$plain = ["host" => "127.0.0.1", "port" => {port}];
$tls = $plain + ["tls" => "require"];
foreach (["ok@x.example", "reject@x.example", "later@x.example"] as $rcpt)
    echo smtp_lookup_rcpt($tls, "", $rcpt) . " " . smtp_lookup_rcpt($plain, "a@b.example", ["localpart" => "ok", "domain" => "x"]);
$r = smtp_lookup_rcpt($tls + ["tls_capture_peer_cert" => true], "", "reject@x.example", ["extended_result" => true]);
echo $r["error_code"] . " " . $r["error_message"] . " " . json_encode($r["on_rcptto"]) . " " . json_encode($r["tls"]["started"]);
echo X509($r["tls"]["peercert"]["x509"])->subject()[0][1];
echo smtp_lookup_rcpt(["host" => "127.0.0.1", "port" => 9], "", "a@b.example");
echo smtp_lookup_rcpt($plain + ["tls" => "require_verify"], "", "a@b.example");
echo smtp_lookup_rcpt($tls + ["tls_verify_name" => ["other.example"]], "", "ok@b.example");
echo smtp_lookup_rcpt($tls + ["tls_verify_name" => ["mx.test.example"]], "", "ok@b.example");
foreach ([$plain, $tls] as $server)
    echo smtp_lookup_auth($server, "user", "secret") . smtp_lookup_auth($server, "user", "wrong") . smtp_lookup_auth($server, "nobody", "");
// Passwords are not said in the clear where TLS was only hoped for.
echo smtp_lookup_auth(["host" => "127.0.0.1", "port" => {sink}, "tls" => "optional"], "user", "secret");
$mail = MIME()->addHeader("Subject", "för dig")->setBody("Hello\n.\n");
$r = $mail->send("a@x.example", ["b@y.example", "c@y.example"], $tls + ["saslusername" => "user", "saslpassword" => "secret"]);
echo json_encode($r["result"]) . json_encode($r["tls"]["started"]) . $r["connection"]["remoteip"];
$r = $mail->send("a@x.example", ["b@y.example", "reject@y.example"], $plain);
echo $r["result"]["state"] . $r["result"]["code"] . json_encode(isset($r["error"]));
$r = $mail->send("", ["b@y.example"], ["host" => "127.0.0.1", "port" => 9, "connect_timeout" => 1]);
echo json_encode($r["error"]["temporary"]) . json_encode($r["tls"]["started"]) . json_encode(isset($r["connection"]));
$r = $mail->send("a@x.example", ["b@y.example"], ["host" => "127.0.0.1", "port" => {sink}, "helo" => "me.example"]);
echo $r["result"]["code"];
try {{ $mail->queue("a@b", "c@d", "t"); }} catch ($e) {{ echo $e->message(); }}
try {{ $mail->send("a@b", ["c@d"], ["tls" => "dane"]); }} catch ($e) {{ echo $e->message(); }}
"#,
            sink = sink.port
        ),
    );
    assert_eq!(
        output.lines().collect::<Vec<_>>(),
        [
            "1 1",
            "0 1",
            "-1 1",
            "550 No such user true true",
            "mx.test.example",
            "-1",
            "-1",
            "-1",
            "1",
            "100",
            "100",
            "-1",
            r#"{"state":"EOD","code":250,"enhanced":[2,0,0],"reason":["Ok: taken"]}true127.0.0.1"#,
            "RCPT550false",
            "truefalsefalse",
            "250",
            "queue() needs a running smtpd",
            "Option 'tls': 'dane' is not available here",
        ]
    );
    let taken = sink.taken();
    let text = String::from_utf8(taken[0].content.clone()).unwrap();
    assert_eq!((taken[0].from.as_str(), taken[0].helo.as_str()), ("a@x.example", "me.example"));
    assert!(text.starts_with("Subject: =?UTF-8?Q?f=C3=B6r?= dig\r\nDate: "), "{text}");
    assert!(text.contains("\r\nMessage-ID: <") && text.ends_with("\r\n\r\nHello\r\n.\r\n"), "{text}");
}

const APP: &str = r#"
version: "6.9"
servers:
  - {id: in, transport: t, phases: {eod: {hook: eod}}}
transportgroups:
  - {id: out, retry: {count: 3, intervals: [{interval: 1s}]}, transports: [{id: t, connection: {server: 127.0.0.1, port: @PORT}}]}
scripting:
  hooks:
    eod:
      - id: eod
        data: |
          $mail = $arguments["mail"];
          $mail->delHeader("X-Secret");
          $id = $mail->snapshot();
          $html = $mail->findByType("text/html")[0];
          $html->setBody(str_replace("world", "first", $html->getBody()));
          $mail->appendPart(MIME()->setType("text/plain")->setFileName("disclaimer.txt")->setBody("for your eyes"));
          $mail->queue("a@x.example", "first@y.example", "t");
          $mail->restore($id);
          $html->remove();
          $mail->setDateLater();
          $mail->queue("a@x.example", "second@y.example", "t", ["jobid" => "j"]);
          $own = MIME()->addHeader("Subject", "own")->setBody("made here");
          $entry = $own->queue("", "third@y.example", "t", ["metadata" => ["k" => "v"]]);
          echo $entry["queue"];
          $copy = MailMessage::String($mail->toString());
          $copy->setHeader("Subject", "copy");
          $copy->queue("a@x.example", "fourth@y.example", "t");
          $sent = $own->send("a@x.example", ["fifth@y.example"], "t");
          if ($sent["result"]["code"] != 250) Reject(json_encode($sent));
          try { $own->queue("", "x@y.example", "nosuch"); } catch ($e) { Accept(["reason" => $e->message()]); }
"#;

#[test]
fn eod_hook_changes_parts_per_recipient_and_makes_messages() {
    let sink = Sink::start();
    let app = APP.replace("@PORT", &sink.port.to_string());
    let server = Server::start(&app, &[]);
    let text = "From: a@x.example\r\nX-Secret: s\r\nDate: Tue, 1 Jul 2003 10:52:37 +0200\r\nSubject: parts\r\nContent-Type: \
        multipart/alternative; boundary=b\r\n\r\n--b\r\n\r\nhello world\r\n--b\r\nContent-Type: \
        text/html\r\nContent-Transfer-Encoding: base64\r\n\r\naGVsbG8gd29ybGQ=\r\n--b--\r\n";
    let file = server.path("message");
    std::fs::write(&file, text).unwrap();
    let swaks = Command::new(system_program("swaks"))
        .args(["--server", "127.0.0.1", "--port", &server.port.to_string(), "--from", "a@x.example"])
        .args(["--to", "b@y.example", "--data"])
        .arg(format!("@{}", file.display()))
        .output()
        .expect("swaks runs");
    let said = String::from_utf8_lossy(&swaks.stdout).into_owned();
    assert!(swaks.status.success(), "{said}\n{}", server.log());
    assert!(said.contains("Unknown transport 'nosuch'"), "{said}\n{}", server.log());
    wait_until("five messages arrive", || sink.count() >= 5);
    let of = |to: &str| {
        let taken = sink.taken();
        let one = taken.iter().find(|one| one.to == to).unwrap_or_else(|| panic!("{to}: {}", server.log()));
        String::from_utf8(one.content.clone()).unwrap()
    };
    let (first, second) = (of("first@y.example"), of("second@y.example"));
    assert!(!first.contains("X-Secret") && !second.contains("X-Secret"));
    assert!(first.contains("--b\r\n\r\nhello world\r\n--b\r\n"), "{first}");
    assert!(first.contains("hello first\r\n--b\r\n") && first.contains("filename=disclaimer.txt"), "{first}");
    assert!(first.contains("for your eyes\r\n--b--\r\n"), "{first}");
    assert!(second.contains("--b\r\n\r\nhello world\r\n--b--\r\n"), "{second}");
    assert!(!second.contains("2003") && !second.contains('\0') && second.contains("\r\nDate: "), "{second}");
    assert!(of("third@y.example").contains("Subject: own\r\n"));
    assert!(of("fourth@y.example").contains("Subject: copy\r\n"));
    assert!(of("fifth@y.example").contains("made here\r\n"));
}

/// Peak memory of the process that runs the script, as it tells itself, KiB.
fn peak_kib(output: &str) -> u64 {
    let line = output.lines().last().unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| panic!("no figure in {output}"))
}

#[test]
fn a_message_of_100_mib_is_changed_and_sent_within_16_mib() {
    let dir = tempfile::tempdir().unwrap();
    let record = keys(dir.path()).remove(0).1;
    let write = |name: &str, lines: usize| {
        let mut file = BufWriter::new(File::create(dir.path().join(name)).unwrap());
        file.write_all(b"From: a@x.example\r\nSubject: large\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\ntext\r\n--b\r\nContent-Type: application/octet-stream; name=big\r\nContent-Transfer-Encoding: base64\r\n\r\n").unwrap();
        for _ in 0..lines {
            file.write_all(
                b"QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5ejAxMjM0\r\n",
            )
            .unwrap();
        }
        file.write_all(b"--b--\r\n").unwrap();
    };
    write("small", 10);
    write("large", (100 << 20) / 78 + 1);
    let run = |name: &str| {
        let sink = Sink::start();
        let output = hsh(
            dir.path(),
            &format!(
                r#"
$m = MailMessage::File(File("file://{path}/{name}"));
echo length($m->getParts());
echo json_encode($m->getErrors());
$m->setHeader("Subject", "changed");
$m->getParts()[0]->setBody("new text");
$m->appendPart(MIME()->setType("text/plain")->setBody("disclaimer"));
$m->signDKIM("rsa", "x.example", rsa_privatekey(File::read("file://{path}/rsa.pem")));
$file = $m->toFile();
$copy = MailMessage::File($file);
echo length($copy->getParts());
echo $copy->verifyDKIM($copy->getHeader("DKIM-Signature", ["field" => true]), ["dns_function" => function ($n) {{ return ["result" => "{record}"]; }}])["result"];
echo $m->send("a@x.example", ["b@x.example"], ["host" => "127.0.0.1", "port" => {port}])["result"]["code"];
foreach (str_split(File::read("file://proc/self/status"), "\n") as $line)
    if ($line =~ #/^VmHWM/) echo $line;
"#,
                path = dir.path().display(),
                port = sink.port
            ),
        );
        assert!(output.starts_with("2\n[]\n3\npass\n250\n"), "{output}");
        let content = sink.look(|taken| {
            let content = &taken[0].content;
            assert!(content.ends_with(b"--b--\r\n"));
            (content.len(), content.windows(16).any(|w| w == b"Subject: changed"))
        });
        assert!(content.1);
        (peak_kib(&output), content.0)
    };
    let (small, _) = run("small");
    let (large, sent) = run("large");
    assert!(sent > 100 << 20, "{sent}");
    println!("peak memory: {small} KiB with a small message, {large} KiB with {sent} octets");
    assert!(large < small + (16 << 10), "{large} KiB against {small} KiB");
}

#[test]
fn parts_are_changed_by_scripts() {
    let dir = tempfile::tempdir().unwrap();
    let output = hsh(
        dir.path(),
        r#"
$text = "Subject: s\r\nContent-Type: multipart/mixed; boundary=o\r\n\r\npre\r\n--o\r\n\r\none\r\n--o\r\nContent-Type: image/png; name=\"b.png\"\r\n\r\ntwo\r\n--o--\r\nepi\r\n";
$m = MailMessage::String($text);
echo $m->getID() . " " . $m->getParts()[1]->getID() . " " . $m->getSize() . " " . $m->getParts()[1]->getSize();
echo json_encode($m->getByID("1.3")) . json_encode($m->getBody());
$part = MIME()->setType("text/plain")->setDisposition("inline")->setFileName("a b.txt")->setBody("built");
$m->prependPart($part)->appendPart(MailMessage::String("Subject: inner\r\n\r\nforwarded\r\n"));
$m->setPreamble("new pre")->setEpilogue("new epi\r\n");
$m->getByID("1.1")->setBody("\x00\x01", ["encoding" => "base64"]);
$m->getByID("1.2")->replacePart(MIME()->setType("text/html")->setBody("<p>"));
$m->prependHeader("X-Top", "t");
$m->appendHeader("X-End", "e");
$m->getByID("1.1")->addHeader("X-Part", "ü", ["encoding" => "Q"]);
$n = MailMessage::String($m->toString());
echo json_encode($n->getHeaderNames()) . $n->getPreamble() . "|" . str_strip($n->getEpilogue());
foreach ($n->getParts() as $p)
    echo $p->getID() . " " . json_encode($p->getType()) . " " . json_encode($p->getBody()) . " " . json_encode($p->getFileName());
echo $n->getByID("1.2")->getHeader("X-Part") . " " . $n->getByID("1.2")->getHeader("Content-Transfer-Encoding");
echo json_encode($n->getErrors());
// Only what changed is different: taking it all back gives the original.
echo $m->reset() > 5;
echo json_encode($m->toString() === $text);
// A single text becomes a multipart around itself; removing gives the original parts back.
$s = MailMessage::String("Content-Type: text/plain\r\n\r\nalone\r\n");
$s->appendPart(MIME()->setBody("second"), ["type" => "multipart/alternative"]);
$t = MailMessage::String($s->toFile()->read());
echo $t->getType() . length($t->getParts()) . str_strip($t->getParts()[0]->getBody());
$t->getParts()[1]->remove();
echo length(MailMessage::String($t->toString())->getParts());
echo json_encode($s->setBody("x", ["encoding" => "rot13"])) . json_encode($t->getParts()[0]->setPreamble("x"));
try { $s->appendPart("text"); } catch ($e) { echo $e->message(); }
try { $s->getHeader("x", ["index" => -1]); } catch ($e) { echo $e->message(); }
try { $s->addHeader("bad name", "x"); } catch ($e) { echo $e->message(); }
try { $s->modifyContent(1000, 1, "x"); } catch ($e) { echo $e->message(); }
// Values cannot end their field.
$s->addHeader("X", "a\r\nBcc: b");
$s->setHeader("Y", "a\r\n\r\nbody", ["encode" => false]);
echo json_encode(MailMessage::String($s->toString())->getHeaderNames());
echo json_encode(MIME()->setType("text/plain\r\nBcc: x")->setBoundary("b\r\n")->toString() =~ #/Bcc: x\r\n/);
"#,
    );
    assert_eq!(
        output.lines().collect::<Vec<_>>(),
        [
            "1 1.2 137 44",
            "nullnull",
            r#"["x-top","subject","content-type","x-end"]new pre|new epi"#,
            r#"1.1 "text/plain" "built" "a b.txt""#,
            r#"1.2 null "\u0000\u0001" null"#,
            r#"1.3 "text/html" "<p>" null"#,
            r#"1.4 null "forwarded\r\n" null"#,
            "ü base64",
            "[]",
            "true",
            "true",
            "multipart/alternative2alone",
            "1",
            "nullnull",
            "Function 'appendPart' expects argument 1 ($part) to be object or resource, string given",
            "Argument 'index' is -1, expected a whole number from 0",
            r#"invalid header name "bad name""#,
            "edit of 1 bytes at offset 1000 passes the end of the message (35 bytes)",
            r#"["y","x","mime-version","content-type"]"#,
            "false",
        ]
    );
}
