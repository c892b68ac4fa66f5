//! Clients that others wrote: swaks, Python's smtplib, nodemailer, lettre, Postfix, Exim; plain, STARTTLS and TLS from the
//! first byte, each mechanism of AUTH, SMTPUTF8, BDAT.

use blackbox::app::App;
use blackbox::certificates::{self, yaml};
use blackbox::peer::is_root;
use blackbox::sink::{Sink, Taken};
use blackbox::{Server, system_program, wait_until};
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{Message, SmtpTransport, Transport};
use std::path::Path;
use std::process::Command;

/// Takes joe with the password sesame and the token good; by PLAIN, LOGIN, CRAM-MD5 and XOAUTH2.
const AUTH: &str = r#"
$mechanism = $arguments["mechanism"];
if ($mechanism == "PLAIN" or $mechanism == "LOGIN") {
    if ($arguments["username"] == "joe" and $arguments["password"] == "sesame") Accept();
    Reject();
}
if ($mechanism == "CRAM-MD5") {
    if ($arguments["state"] == 0) {
        $context = "<" + uuid() + "@mx.test.example>";
        Reply($context);
    }
    $parts = explode(" ", $arguments["response"]);
    if ($parts[0] == "joe" and $parts[1] == hmac_md5("sesame", $context)) Accept(["username" => $parts[0]]);
    Reject();
}
if (isset($arguments["response"]) and $arguments["response"] =~ "auth=Bearer good") Accept(["username" => "joe"]);
Reject();
"#;

/// Shows in the header what the client did.
const EOD: &str = r#"
$tls = "none";
if (isset($connection["tls"])) $tls = $connection["tls"]["protocol"];
$auth = "none";
if (isset($connection["auth"])) $auth = $connection["auth"]["mechanism"] + "/" + $connection["auth"]["username"];
$arguments["mail"]->addHeader("X-Session", $tls + " " + $auth);
foreach ($transaction["recipients"] as $recipient) {
    $arguments["mail"]->queue($transaction["sender"], $recipient["address"], $recipient["transportid"]);
}
Accept();
"#;

const MODES: [&str; 3] = ["plain", "starttls", "implicit"];

fn app(mode: &str) -> App {
    let mx = certificates::self_signed("mx.test.example");
    let implicit = mode == "implicit";
    App::new()
        .server(&format!("tls: {{certs: [{{cert: mx}}], implicit: {implicit}}}, extensions: {{dsn: true}}"))
        .top(&format!(
            "pki: {{private: [{{id: mx, certificate: {{data: {}}}, privatekey: {{data: {}}}}}]}}",
            yaml(&mx.pem()),
            yaml(&mx.key_pem())
        ))
        .phase(
            "auth",
            &format!("mechanisms: [PLAIN, LOGIN, CRAM-MD5, XOAUTH2], tlsonly: {}", mode != "plain"),
        )
        .hook("auth", AUTH)
        .hook("eod", EOD)
}

fn start(mode: &str) -> (Server, Sink) {
    app(mode).start()
}

fn tls_of(mode: &str) -> &'static str {
    if mode == "plain" { "none" } else { "TLSv1.3" }
}

fn run(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("the client starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}\n{complained}");
    said
}

fn session_of(taken: &Taken) -> String {
    let text = String::from_utf8_lossy(&taken.content).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("X-Session: ").map(str::to_owned));
    line.unwrap_or_else(|| panic!("no X-Session in {text}"))
}

#[test]
fn swaks_in_every_mode_with_every_mechanism() {
    let swaks = system_program("swaks");
    for mode in MODES {
        let (server, sink) = start(mode);
        let port = server.port.to_string();
        let mut common = vec![
            "--server",
            "127.0.0.1",
            "--port",
            &port,
            "--from",
            "a@from.example",
            "--to",
            "c@to.example",
        ];
        match mode {
            "starttls" => common.push("-tls"),
            "implicit" => common.push("-tlsc"),
            _ => {}
        }
        run(&swaks, &common);
        for mechanism in ["PLAIN", "LOGIN", "CRAM-MD5"] {
            let auth = ["--auth", mechanism, "--auth-user", "joe", "--auth-password", "sesame"];
            run(&swaks, &[&common[..], &auth[..]].concat());
        }
        wait_until("all are delivered", || sink.count() == 4);
        let mut seen: Vec<String> = sink.taken().iter().map(session_of).collect();
        seen.sort();
        let expected =
            ["CRAM-MD5/joe", "LOGIN/joe", "PLAIN/joe", "none"].map(|auth| format!("{} {auth}", tls_of(mode)));
        assert_eq!(seen, expected);
    }
}

#[test]
fn pythons_smtplib_in_every_mode() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/smtp_clients.py");
    for mode in MODES {
        let (server, sink) = start(mode);
        let said = run(&system_program("python3"), &[script, &server.port.to_string(), mode]);
        assert_eq!(said.lines().count(), 7, "{said}");
        wait_until("all are delivered", || sink.count() == 12);
        let taken = sink.taken();
        let of = |from: &str| {
            let one = taken.iter().find(|one| one.from == from);
            one.unwrap_or_else(|| {
                panic!("nothing from {from}: {:?}", taken.iter().map(|one| &one.from).collect::<Vec<_>>())
            })
        };
        for (from, auth) in [
            ("anonymous@from.example", "none"),
            ("with-plain@from.example", "PLAIN/joe"),
            ("with-login@from.example", "LOGIN/joe"),
            ("with-cram-md5@from.example", "CRAM-MD5/joe"),
            ("with-xoauth2@from.example", "XOAUTH2/joe"),
        ] {
            assert_eq!(session_of(of(from)), format!("{} {auth}", tls_of(mode)));
            assert!(of(from).content.ends_with(b"\r\n\r\n.dot\r\nhej\r\n"));
        }
        assert_eq!(of("jürgen@from.example").to, "møte@to.example");
        assert!(of("bdat@from.example").content.ends_with(b"Subject: bdat\r\n\r\n.hej\r\n"));
    }
}

#[test]
fn nodemailer_in_every_mode() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/node/smtp_clients.js");
    let program = blackbox::program("smtpd");
    let folder = program.ancestors().nth(2).expect("a folder of the build").join("node-tests");
    assert!(folder.exists(), "{} is missing: run scripts/node-tests.sh first", folder.display());
    let folder = folder.display().to_string();
    for mode in MODES {
        let (server, sink) = start(mode);
        let said = run(&system_program("node"), &[script, &folder, &server.port.to_string(), mode]);
        assert_eq!(said.lines().count(), 7, "{said}");
        wait_until("all are delivered", || sink.count() == 14);
        let taken = sink.taken();
        let of = |from: &str| {
            let one = taken.iter().find(|one| one.from == from);
            one.unwrap_or_else(|| panic!("nothing from {from}"))
        };
        for (from, auth) in [
            ("anonymous@from.example", "none"),
            ("with-plain@from.example", "PLAIN/joe"),
            ("with-login@from.example", "LOGIN/joe"),
            ("with-cram-md5@from.example", "CRAM-MD5/joe"),
            ("with-xoauth2@from.example", "XOAUTH2/joe"),
            ("pooled-3@from.example", "none"),
        ] {
            assert_eq!(session_of(of(from)), format!("{} {auth}", tls_of(mode)));
        }
        assert!(of("anonymous@from.example").content.ends_with(b"\r\n\r\n.dot\r\nhej\r\n"));
        assert_eq!(of("jürgen@from.example").to, "møte@to.example");
    }
}

#[test]
fn lettre_in_every_mode() {
    let message = || {
        Message::builder()
            .from("a@from.example".parse().expect("an address"))
            .to("c@to.example".parse().expect("an address"))
            .subject("from lettre")
            .body(".dot\r\nhej".to_owned())
            .expect("a message")
    };
    for mode in MODES {
        let (server, sink) = start(mode);
        let parameters = TlsParameters::builder("mx.test.example".to_owned())
            .dangerous_accept_invalid_certs(true)
            .build()
            .expect("parameters");
        let tls = match mode {
            "starttls" => Tls::Required(parameters),
            "implicit" => Tls::Wrapper(parameters),
            _ => Tls::None,
        };
        let builder = || SmtpTransport::builder_dangerous("127.0.0.1").port(server.port).tls(tls.clone());
        builder().build().send(&message()).expect("it is taken");
        for (mechanism, secret) in
            [(Mechanism::Plain, "sesame"), (Mechanism::Login, "sesame"), (Mechanism::Xoauth2, "good")]
        {
            let credentials = Credentials::new("joe".to_owned(), secret.to_owned());
            let client = builder().credentials(credentials).authentication(vec![mechanism]).build();
            client.send(&message()).expect("it is taken");
        }
        let credentials = Credentials::new("joe".to_owned(), "wrong".to_owned());
        let client = builder().credentials(credentials).authentication(vec![Mechanism::Plain]).build();
        assert!(client.send(&message()).expect_err("it is refused").is_permanent());
        wait_until("all are delivered", || sink.count() == 4);
        let mut seen: Vec<String> = sink.taken().iter().map(session_of).collect();
        seen.sort();
        let expected =
            ["LOGIN/joe", "PLAIN/joe", "XOAUTH2/joe", "none"].map(|auth| format!("{} {auth}", tls_of(mode)));
        assert_eq!(seen, expected);
    }
}

/// An instance of Postfix with one way out: our server.
struct Postfix {
    dir: tempfile::TempDir,
}

impl Postfix {
    fn start(port: u16, more: &str) -> Postfix {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().display().to_string();
        let run = |program: &str, arguments: &[&str]| run(&system_program(program), arguments);
        // Postfix works as users of its own, which have to get there.
        run("chmod", &["755", &path]);
        for folder in ["etc", "data", "spool"] {
            std::fs::create_dir(dir.path().join(folder)).expect("a temporary folder");
        }
        run("chown", &["postfix", &format!("{path}/data")]);
        let main = format!(
            "compatibility_level = 3.6\nqueue_directory = {path}/spool\ndata_directory = {path}/data\n\
             command_directory = /usr/sbin\ndaemon_directory = /usr/lib/postfix/sbin\nmail_owner = postfix\n\
             setgid_group = postdrop\nmyhostname = pf.test.example\nmydestination =\nlocal_recipient_maps =\n\
             alias_maps =\nalias_database =\ninet_interfaces = loopback-only\ninet_protocols = ipv4\n\
             relayhost = [127.0.0.1]:{port}\nsmtp_dns_support_level = disabled\nsmtputf8_enable = yes\n\
             maillog_file = /dev/stdout\n{more}"
        );
        std::fs::write(dir.path().join("etc/main.cf"), main).expect("the temporary folder is writable");
        let master =
            std::fs::read_to_string("/usr/share/postfix/master.cf.dist").expect("Postfix is installed");
        // Nothing in a folder of its own root, no listener, none of the ways out that need other programs.
        let kept = master.lines().filter(|line| {
            let word = line.split_whitespace().next().unwrap_or_default();
            let listens = line.contains(" inet ");
            let foreign =
                ["maildrop", "uucp", "ifmail", "bsmtp", "scalemail-backend", "mailman"].contains(&word);
            !line.starts_with([' ', '#']) && !listens && !foreign
        });
        let lines = kept.map(|line| {
            let mut words: Vec<&str> = line.split_whitespace().collect();
            if words.len() > 4 && words[4] == "y" {
                words[4] = "n";
            }
            words.join(" ") + "\n"
        });
        std::fs::write(dir.path().join("etc/master.cf"), lines.collect::<String>())
            .expect("the folder is writable");
        let known = run("postconf", &["-h", "alternate_config_directories"]);
        let list = format!("alternate_config_directories = {} {path}/etc", known.trim());
        run("postconf", &["-e", &list]);
        run("postfix", &["-c", &format!("{path}/etc"), "start"]);
        Postfix { dir }
    }

    fn etc(&self) -> String {
        self.dir.path().join("etc").display().to_string()
    }

    fn send(&self, from: &str, to: &str, content: &str) {
        use std::io::Write;
        let mut child = Command::new(system_program("sendmail"))
            .args(["-C", &self.etc(), "-f", from, to])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("sendmail starts");
        child.stdin.take().expect("a pipe").write_all(content.as_bytes()).expect("sendmail reads");
        assert!(child.wait().expect("sendmail ends").success());
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        // It ends with the test in any case; what fails here shows in nothing else.
        let _ = Command::new(system_program("postfix")).args(["-c", &self.etc(), "stop"]).output();
        let known =
            Command::new(system_program("postconf")).args(["-h", "alternate_config_directories"]).output();
        if let Ok(known) = known {
            let known = String::from_utf8_lossy(&known.stdout).replace(&self.etc(), "");
            let list = format!("alternate_config_directories = {}", known.trim());
            let _ = Command::new(system_program("postconf")).args(["-e", &list]).output();
        }
    }
}

#[test]
fn postfix_as_client_plain_and_in_both_ways_of_tls() {
    if !is_root() {
        eprintln!("not run: Postfix needs root for an instance of its own");
        return;
    }
    for (mode, more) in [
        ("plain", "smtp_tls_security_level = none\n"),
        ("starttls", "smtp_tls_security_level = encrypt\n"),
        ("implicit", "smtp_tls_security_level = encrypt\nsmtp_tls_wrappermode = yes\n"),
    ] {
        let (server, sink) = start(mode);
        let postfix = Postfix::start(server.port, more);
        postfix.send("a@from.example", "c@to.example", "Subject: one\n\n.dot\n");
        postfix.send("a@from.example", "møte@to.example", "Subject: two\n\nhej\n");
        wait_until("both are delivered", || sink.count() == 2);
        for taken in sink.taken() {
            assert_eq!(session_of(&taken), format!("{} none", tls_of(mode)), "{mode}");
        }
        let mut to: Vec<String> = sink.taken().into_iter().map(|one| one.to).collect();
        to.sort();
        assert_eq!(to, ["c@to.example", "møte@to.example"]);
    }
}

/// Runs Exim as a user that exists for it alone: `passwd` and `group` are its own, in a mount namespace.
const EXIM: &str = r#"
dir=$1; exim=$2; shift 2
mount --bind "$dir/passwd" /etc/passwd && mount --bind "$dir/group" /etc/group &&
chown -R Debian-exim:Debian-exim "$dir/spool" &&
LD_LIBRARY_PATH=$(dirname "$exim")/../lib/$(uname -m)-linux-gnu exec "$exim" -C "$dir/exim.conf" -odf -oi "$@"
"#;

/// Sends through Exim, which hands over at once.
fn exim(port: u16, more: &str, content: &str) {
    use std::io::Write;
    let program = blackbox::program("smtpd");
    let target = program.ancestors().nth(2).expect("a folder of the build");
    let exim = target.join("exim/usr/sbin/exim4");
    assert!(exim.exists(), "{} is missing: run scripts/exim.sh first", exim.display());
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().display().to_string();
    run(&system_program("chmod"), &["755", &path]);
    std::fs::create_dir(dir.path().join("spool")).expect("a temporary folder");
    for (file, line) in [
        ("passwd", "Debian-exim:x:6193:6193::/nonexistent:/usr/sbin/nologin\n"),
        ("group", "Debian-exim:x:6193:\n"),
    ] {
        let known = std::fs::read_to_string(format!("/etc/{file}")).expect("a system file");
        std::fs::write(dir.path().join(file), known + line).expect("the folder is writable");
    }
    let configuration = format!(
        "keep_environment = LD_LIBRARY_PATH\nexim_path = {}\nprimary_hostname = exim.test.example\n\
         spool_directory = {path}/spool\nlog_file_path = {path}/spool/%slog\nlocal_interfaces = 127.0.0.1\n\
         begin routers\nout:\n  driver = manualroute\n  transport = out\n  route_list = * 127.0.0.1 byname\n  self = send\n\
         begin transports\nout:\n  driver = smtp\n  port = {port}\n  allow_localhost\n  hosts_try_chunking = *\n  {more}\n\
         begin retry\n* * F,1h,5m\n",
        exim.display()
    );
    std::fs::write(dir.path().join("exim.conf"), configuration).expect("the folder is writable");
    let mut child = Command::new(system_program("unshare"))
        .args(["-m", "sh", "-c", EXIM, "sh", &path])
        .arg(&exim)
        .args(["-f", "a@from.example", "c@to.example"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("unshare starts");
    child.stdin.take().expect("a pipe").write_all(content.as_bytes()).expect("Exim reads");
    assert!(child.wait().expect("Exim ends").success());
    let log = std::fs::read_to_string(dir.path().join("spool/mainlog")).unwrap_or_default();
    assert!(log.contains("Completed"), "{log}");
}

#[test]
fn exim_as_client_sends_chunks() {
    if !is_root() {
        eprintln!("not run: Exim needs root for a user of its own");
        return;
    }
    for (mode, more) in [("plain", "hosts_avoid_tls = *"), ("starttls", "hosts_require_tls = *")] {
        let (server, sink) = app(mode).server("logging: {verbose: true}").start();
        let long: String = (0..20_000).map(|line| format!("{}line {line}\n", ".".repeat(line % 3))).collect();
        for (count, body) in [".\n..\nlast\n", &long].into_iter().enumerate() {
            exim(server.port, more, &format!("Subject: one\n\n{body}"));
            wait_until("it is delivered", || sink.count() == count + 1);
            let taken = &sink.taken()[count];
            assert_eq!(session_of(taken), format!("{} none", tls_of(mode)), "{mode}");
            let content = String::from_utf8_lossy(&taken.content).into_owned();
            let received = content.split_once("\r\n\r\n").expect("a header").1;
            assert!(received == body.replace('\n', "\r\n"), "{mode}: {} octets", received.len());
        }
        server.logged(&["< BDAT ", " LAST"]);
        // The long one came in several chunks.
        server.logged(&["> 250 2.0.0 ", " octets received"]);
        assert!(!server.log().contains("< DATA"), "{mode}: {}", server.log());
    }
}
