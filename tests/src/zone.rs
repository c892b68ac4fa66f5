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

/// Asks for the SOA of the zone.
fn answers(port: u16) -> bool {
    let question = b"\x12\x34\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04test\x07example\x00\x00\x06\x00\x01";
    let Ok(socket) = UdpSocket::bind("127.0.0.1:0") else { return false };
    let mut buffer = [0; 512];
    socket.set_read_timeout(Some(Duration::from_millis(200))).is_ok()
        && socket.send_to(question, ("127.0.0.1", port)).is_ok()
        && socket.recv(&mut buffer).is_ok_and(|length| length > 12 && buffer[3] & 15 == 0)
}
