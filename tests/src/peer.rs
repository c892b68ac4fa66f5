//! Difficult next hops: `smtp-capture` with scripted answers, and a TLS server on Python's standard library.

use crate::{Process, free_port, program, system_program, wait_for_port};
use std::process::{Command, Stdio};

/// An `smtp-capture` process. With scripted answers it behaves as a peer in trouble does.
pub struct Peer {
    /// Where it listens.
    pub port: u16,
    dir: tempfile::TempDir,
    _process: Process,
}

impl Peer {
    /// Starts on a free port. `replies` are values of `--reply`, such as `RCPT=451,250`.
    pub fn start(replies: &[&str]) -> Peer {
        let (dir, port) = (tempfile::tempdir().expect("a temporary folder"), free_port());
        let mut command = Command::new(program("smtp-capture"));
        command.args(["--quiet", "--listen", &format!("127.0.0.1:{port}"), "--dir"]).arg(dir.path());
        for reply in replies {
            command.args(["--reply", reply]);
        }
        let child = command.stdout(Stdio::null()).spawn().expect("smtp-capture starts");
        let process = Process(child);
        // Asking by a connection would use up a scripted answer, so the kernel's table is asked instead.
        crate::wait_until("smtp-capture listens", || is_listening(port));
        Peer { port, dir, _process: process }
    }

    /// The messages it took, each below its envelope as `X-Envelope-From` and `X-Envelope-To`.
    pub fn taken(&self) -> Vec<String> {
        let mut paths: Vec<_> = std::fs::read_dir(self.dir.path()).into_iter().flatten().flatten().collect();
        paths.sort_by_key(std::fs::DirEntry::path);
        let whole = |entry: &std::fs::DirEntry| entry.path().extension().is_some_and(|end| end == "eml");
        let read = |entry: std::fs::DirEntry| std::fs::read(entry.path()).expect("a whole file");
        paths
            .into_iter()
            .filter(whole)
            .map(|entry| String::from_utf8_lossy(&read(entry)).into_owned())
            .collect()
    }

    /// How many it took.
    pub fn count(&self) -> usize {
        self.taken().len()
    }
}

/// Starts Postfix's `smtp-sink`, which takes everything and forgets it; gives its port. No TLS.
pub fn smtp_sink() -> (u16, Process) {
    let port = free_port();
    let mut command = Command::new(system_program("smtp-sink"));
    if is_root() {
        // It refuses to run as root.
        command.args(["-u", "nobody"]);
    }
    let child = command.args(["-c", &format!("127.0.0.1:{port}"), "200"]).stdout(Stdio::null()).spawn();
    let process = Process(child.expect("smtp-sink starts"));
    wait_for_port(port);
    (port, process)
}

/// True when the tests run as root.
pub fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// True when a socket listens on the port of 127.0.0.1.
pub fn is_listening(port: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    // Address and port in hexadecimal; state 0A is LISTEN.
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1) == Some(&format!("0100007F:{port:04X}").as_str()) && fields.get(3) == Some(&"0A")
    })
}

/// What a [`TlsPeer`] does at STARTTLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// Succeeds, with a self-signed certificate.
    SelfSigned,
    /// Is broken off after the 220.
    Broken,
}

/// An SMTP server with STARTTLS, on Python's `ssl` (OpenSSL), with a certificate that nobody has signed. It
/// logs every command together with whether it came encrypted.
pub struct TlsPeer {
    /// Where it listens.
    pub port: u16,
    dir: tempfile::TempDir,
    _process: Process,
}

impl TlsPeer {
    /// Starts on a free port.
    pub fn start(handshake: Handshake) -> TlsPeer {
        let (dir, port) = (tempfile::tempdir().expect("a temporary folder"), free_port());
        let status = Command::new(system_program("openssl"))
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
            .args(["-keyout", "key.pem", "-out", "cert.pem"])
            .current_dir(dir.path())
            .stderr(Stdio::null())
            .status()
            .expect("openssl starts");
        assert!(status.success());
        let child = Command::new(system_program("python3"))
            .args([
                "-c",
                TLS_SERVER,
                &port.to_string(),
                if handshake == Handshake::Broken { "broken" } else { "" },
            ])
            .current_dir(dir.path())
            .spawn()
            .expect("python3 starts");
        let process = Process(child);
        wait_for_port(port);
        TlsPeer { port, dir, _process: process }
    }

    /// The commands so far, each after `tls ` or `plain `.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

const TLS_SERVER: &str = r#"
import socket, ssl, sys, threading
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("cert.pem", "key.pem")
log = open("log", "a", buffering=1)
def serve(sock):
    state = "plain"
    file = sock.makefile("rb")
    say = lambda text: sock.sendall(text.encode() + b"\r\n")
    say("220 tls.test.example ESMTP")
    while True:
        line = file.readline()
        if not line:
            return
        verb = line.strip().decode("latin-1")
        log.write(state + " " + verb + "\n")
        word = verb.split(" ")[0].upper()
        if word == "EHLO":
            say("250-tls.test.example" if state == "plain" else "250 tls.test.example")
            if state == "plain":
                say("250 STARTTLS")
        elif word == "STARTTLS":
            say("220 go ahead")
            if sys.argv[2] == "broken":
                sock.recv(1)
                return
            sock = context.wrap_socket(sock, server_side=True)
            file = sock.makefile("rb")
            state = "tls"
        elif word == "DATA":
            say("354 go ahead")
            while file.readline() not in (b".\r\n", b""):
                pass
            log.write(state + " MESSAGE\n")
            say("250 taken")
        elif word == "QUIT":
            say("221 bye")
            return
        else:
            say("250 ok")
def session(sock):
    try:
        serve(sock)
    except OSError:
        pass
    finally:
        sock.close()
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    threading.Thread(target=session, args=(listener.accept()[0],), daemon=True).start()
"#;
