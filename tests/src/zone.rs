//! A real name server (NSD) on loopback with one zone.

use crate::{Process, free_port, system_program, wait_until};
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A running name server.
pub struct Zone {
    /// UDP and TCP port.
    pub port: u16,
    _dir: tempfile::TempDir,
    _process: Process,
}

impl Zone {
    /// Serves `records` (zone file lines without SOA and NS) as zone `test.example`.
    pub fn start(records: &str) -> Zone {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let path = dir.path().display();
        let zone = format!(
            "$ORIGIN test.example.\n$TTL 60\n@ IN SOA ns hostmaster 1 3600 600 86400 30\n@ IN NS ns\nns IN A 127.0.0.1\n{records}\n"
        );
        let config = format!(
            "server:\n  ip-address: 127.0.0.1@{port}\n  username: \"\"\n  chroot: \"\"\n  zonesdir: \"{path}\"\n\
             \x20 database: \"\"\n  pidfile: \"{path}/pid\"\n  xfrdfile: \"{path}/xfrd\"\n  xfrdir: \"{path}\"\n\
             \x20 zonelistfile: \"{path}/zonelist\"\n  server-count: 1\nremote-control:\n  control-enable: no\n\
             zone:\n  name: test.example\n  zonefile: zone\n"
        );
        std::fs::write(dir.path().join("zone"), zone).expect("the temporary folder is writable");
        std::fs::write(dir.path().join("nsd.conf"), config).expect("the temporary folder is writable");
        let log = std::fs::File::create(dir.path().join("log")).expect("the temporary folder is writable");
        let child = Command::new(system_program("nsd"))
            .args(["-d", "-c"])
            .arg(dir.path().join("nsd.conf"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("nsd starts");
        let process = Process(child);
        wait_until("nsd answers", || answers(port));
        Zone { port, _dir: dir, _process: process }
    }
}

/// A signed zone `test.example` (NSD) and an unsigned one, `plain.example`, behind a validating resolver (unbound).
pub struct SignedZone {
    /// Port of the resolver.
    pub port: u16,
    _dir: tempfile::TempDir,
    _processes: [Process; 2],
}

impl SignedZone {
    /// Serves `records` in both zones. Signatures of names that contain `bogus` are broken, those of TLSA only.
    ///
    /// # Panics
    /// When a program is missing or fails.
    pub fn start(records: &str) -> SignedZone {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let at = dir.path();
        let root = at.display();
        let (server, port) = (free_port(), free_port());
        let file = |name: &str, text: &str| {
            std::fs::write(at.join(name), text).expect("the temporary folder is writable");
        };
        let run = |program: &str, arguments: &[&str]| {
            let output = Command::new(system_program(program)).args(arguments).current_dir(at).output();
            let output = output.expect("it starts");
            assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        for name in ["test.example", "plain.example"] {
            file(
                name,
                &format!(
                    "$ORIGIN {name}.\n$TTL 60\n@ IN SOA ns hostmaster 1 3600 600 86400 30\n@ IN NS ns\nns IN A 127.0.0.1\n{records}\n"
                ),
            );
        }
        let key = run("ldns-keygen", &["-a", "ECDSAP256SHA256", "-k", "-r", "/dev/urandom", "test.example"]);
        run("ldns-signzone", &["test.example", &key]);
        let signed = std::fs::read_to_string(at.join("test.example.signed")).expect("it was written");
        let broken: String = signed
            .lines()
            .map(|line| match line.contains("bogus") && line.contains("RRSIG\tTLSA") {
                // Digits and letters stay what they are: the signature keeps its length.
                true => {
                    line.chars()
                        .rev()
                        .enumerate()
                        .map(|(n, c)| if n == 9 { 'A' } else { c })
                        .collect::<Vec<_>>()
                        .into_iter()
                        .rev()
                        .collect::<String>()
                        + "\n"
                }
                false => format!("{line}\n"),
            })
            .collect();
        file("test.example.signed", &broken);
        file(
            "nsd.conf",
            &format!(
                "server:\n  ip-address: 127.0.0.1@{server}\n  username: \"\"\n  chroot: \"\"\n  zonesdir: \"{root}\"\n\
                 \x20 database: \"\"\n  pidfile: \"{root}/pid\"\n  xfrdfile: \"{root}/xfrd\"\n  xfrdir: \"{root}\"\n\
                 \x20 zonelistfile: \"{root}/zonelist\"\n  server-count: 1\nremote-control:\n  control-enable: no\n\
                 zone:\n  name: test.example\n  zonefile: test.example.signed\n\
                 zone:\n  name: plain.example\n  zonefile: plain.example\n"
            ),
        );
        let stub = |name: &str| format!("stub-zone:\n  name: {name}\n  stub-addr: 127.0.0.1@{server}\n");
        file(
            "unbound.conf",
            &format!(
                "server:\n  interface: 127.0.0.1@{port}\n  port: {port}\n  do-daemonize: no\n  username: \"\"\n  chroot: \"\"\n\
                 \x20 directory: {root}\n  pidfile: {root}/unbound.pid\n  do-not-query-localhost: no\n  use-syslog: no\n\
                 \x20 trust-anchor-file: {root}/{key}.ds\n  module-config: \"validator iterator\"\n\
                 \x20 local-zone: \"example.\" nodefault\n  num-threads: 1\n\
                 remote-control:\n  control-enable: no\n{}{}",
                stub("test.example"),
                stub("plain.example")
            ),
        );
        let start = |program: &str, arguments: &[&str], config: &str| {
            let log = std::fs::File::create(at.join(format!("{program}.log"))).expect("a log file");
            let mut command = Command::new(system_program(program));
            command.args(arguments).arg(at.join(config)).stdout(Stdio::null()).stderr(log);
            Process(command.spawn().expect("it starts"))
        };
        let nsd = start("nsd", &["-d", "-c"], "nsd.conf");
        wait_until("nsd answers", || answers(server));
        let unbound = start("unbound", &["-d", "-p", "-c"], "unbound.conf");
        wait_until("unbound answers", || answers(port));
        SignedZone { port, _dir: dir, _processes: [nsd, unbound] }
    }
}

/// Asks for the SOA of the zone.
fn answers(port: u16) -> bool {
    let question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04test\x07example\x00\x00\x06\x00\x01";
    let Ok(socket) = UdpSocket::bind("127.0.0.1:0") else { return false };
    let mut buffer = [0; 512];
    socket.set_read_timeout(Some(Duration::from_millis(200))).is_ok()
        && socket.send_to(question, ("127.0.0.1", port)).is_ok()
        && socket.recv(&mut buffer).is_ok_and(|length| length > 12 && buffer[3] & 15 == 0)
}
