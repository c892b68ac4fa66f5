//! What the tests of the library have in common: servers that end with their test, and runs of `hsh`.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server that ends with its test.
pub(crate) struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// Starts a program and waits until its TCP port answers.
    pub(crate) fn start(command: &mut Command, port: u16) -> Server {
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut server = Server(child.unwrap_or_else(|e| panic!("{program}: {e}")));
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let ended = server.0.try_wait().unwrap();
            if ended.is_some() || began.elapsed() > Duration::from_secs(20) {
                let mut text = String::new();
                let _ = server.0.kill();
                server.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
                panic!("{program} does not answer at port {port}: {text}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }
}

/// A port that was free a moment ago.
pub(crate) fn port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

pub(crate) fn run(program: &str, arguments: &[&str], folder: &Path) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a script prints; it may read files of the folder and trusts the folder's authority as the system's.
pub(crate) fn hsh(folder: &Path, script: &str) -> String {
    let path = folder.join("script.hsl");
    fs::write(&path, script).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_hsh"))
        .args(["-c", "/dev/null", "-R"])
        .arg(folder)
        .arg(&path)
        .env("SSL_CERT_FILE", folder.join("ca.pem"))
        .env("no_proxy", "*")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{errors}\n{script}");
    String::from_utf8(output.stdout).unwrap()
}

/// Compares line by line, so that a failure shows the line.
pub(crate) fn expect(folder: &Path, script: &str, expected: &[&str]) {
    let found = hsh(folder, script);
    let found: Vec<&str> = found.lines().collect();
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert_eq!(f, e, "line {} of {found:#?}", i + 1);
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

/// An authority, and a key with a certificate for the names of loopback and one for a client.
pub(crate) fn certificates(folder: &Path) {
    let file = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    file("server.ext", "subjectAltName=DNS:localhost,DNS:*.example.test,IP:127.0.0.1\n");
    file("client.ext", "extendedKeyUsage=clientAuth\n");
    let ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let ca = ["req", "-x509", "-days", "10", "-subj", "/CN=Test CA", "-keyout", "ca.key", "-out", "ca.pem"];
    run("openssl", &[&ca[..], &ec[..]].concat(), folder);
    for name in ["server", "client"] {
        let (key, csr) = (format!("{name}.key"), format!("{name}.csr"));
        let (pem, ext, subject) = (format!("{name}.pem"), format!("{name}.ext"), format!("/CN={name}"));
        let request = ["req", "-subj", &subject, "-keyout", &key, "-out", &csr];
        run("openssl", &[&request[..], &ec[..]].concat(), folder);
        let sign = ["x509", "-req", "-days", "5", "-in", &csr, "-CA", "ca.pem", "-CAkey", "ca.key"];
        run("openssl", &[&sign[..], &["-CAcreateserial", "-extfile", &ext, "-out", &pem]].concat(), folder);
    }
}
