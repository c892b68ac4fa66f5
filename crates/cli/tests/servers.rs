//! The functions and classes of the library that talk to servers, against real ones on loopback: nginx, NSD with a
//! signed zone behind a validating unbound, OpenSSL's `s_server`, slapd. A server that is missing fails the test.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A server that ends with its test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// Starts a program and waits until its TCP port answers.
    fn start(command: &mut Command, port: u16) -> Server {
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
fn port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn run(program: &str, arguments: &[&str], folder: &Path) -> String {
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
fn hsh(folder: &Path, script: &str) -> String {
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
fn expect(folder: &Path, script: &str, expected: &[&str]) {
    let found = hsh(folder, script);
    let found: Vec<&str> = found.lines().collect();
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert_eq!(f, e, "line {} of {found:#?}", i + 1);
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

/// An authority, and a key with a certificate for the names of loopback and one for a client.
fn certificates(folder: &Path) {
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

// ---- HTTP ----

struct Web {
    folder: TempDir,
    plain: u16,
    tls: u16,
    _nginx: Server,
}

impl Web {
    fn start() -> Web {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        certificates(at);
        let (plain, tls) = (port(), port());
        let root = at.display();
        let config = format!(
            r#"
daemon off; master_process off; pid {root}/nginx.pid; error_log {root}/error.log;
events {{ worker_connections 64; }}
http {{
  client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;
  uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
  log_format made '$request_method $request_uri $request_body';
  access_log off;
  server {{
    listen 127.0.0.1:{plain}; listen unix:{root}/web.sock;
    listen 127.0.0.1:{tls} ssl http2;
    ssl_certificate {root}/server.pem; ssl_certificate_key {root}/server.key;
    ssl_protocols TLSv1.2 TLSv1.3; ssl_client_certificate {root}/ca.pem; ssl_verify_client optional;
    location = /hello {{ add_header X-Test yes always; return 200 "hello\n"; }}
    location = /missing {{ return 404 "not here"; }}
    location = /old {{ return 302 /hello; }}
    location = /loop {{ return 302 /loop; }}
    location = /seen {{ return 302 /show; }}
    location = /connection {{ return 200 "$connection $connection_requests"; }}
    location = /protocol {{ return 200 "$server_protocol $ssl_protocol [$ssl_client_s_dn]"; }}
    location = /agent {{ return 200 "[$http_user_agent] [$http_x_one] [$http_accept]"; }}
    location = /authorization {{ return 200 "$http_authorization"; }}
    location /host {{ return 200 "$host $request_uri"; }}
    location = /query {{ return 200 "$args"; }}
    location = /client {{ return 200 "$remote_addr"; }}
    location = /post {{
      proxy_set_header X-Method $request_method; proxy_set_header X-Type $content_type;
      proxy_set_header X-Body $request_body; proxy_set_header X-Length $content_length;
      proxy_pass http://127.0.0.1:{plain}/show;
    }}
    location = /show {{ return 200 "$http_x_method|$http_x_type|$http_x_body"; }}
    location = /big {{ client_max_body_size 10m; client_body_buffer_size 8m;
      proxy_set_header X-Length $request_length; proxy_pass http://127.0.0.1:{plain}/length; }}
    location = /length {{ client_max_body_size 10m; return 200 "$http_x_length"; }}
    location = /log {{ access_log {root}/made.log made; proxy_pass http://127.0.0.1:{plain}/hello; }}
  }}
}}
"#
        );
        fs::write(at.join("nginx.conf"), config).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-e").arg(at.join("error.log")).arg("-p").arg(at).arg("-c").arg(at.join("nginx.conf"));
        let nginx = Server::start(&mut command, plain);
        Web { plain, tls, _nginx: nginx, folder }
    }

    fn expect(&self, script: &str, expected: &[&str]) {
        let head =
            format!("$p = \"http://127.0.0.1:{}\"; $s = \"https://localhost:{}\";", self.plain, self.tls);
        expect(self.folder.path(), &(head + script), expected);
    }
}

#[test]
fn http_requests() {
    let web = Web::start();
    web.expect(
        r#"
echo http("$p/hello");
echo json_encode(http("$p/missing"));
echo json_encode(http("$p/missing", ["extended_result" => true]));
$r = http("$p/hello", ["extended_result" => true, "response_headers" => true]);
echo json_encode(array_filter(function ($h) { return $h["name"] == "x-test"; }, $r["headers"])[:]);
echo http("$p/hello", ["response_headers" => true]) =~ #/^HTTP\/1.1 200 OK\r\n(.*\r\n)*x-test: yes\r\n\r\nhello\n$/;
echo json_encode(http("$p/hello", ["max_file_size" => 3]));
echo http("$p/query?a=\$1&b=\$2", [], ["x y", "&"]);
echo http("$p/agent", ["headers" => ["User-Agent: mine", "X-One: 1", "Accept:"]]);
echo http("$p/authorization", ["username" => "user", "password" => "pass"]);
echo json_encode(http("$p/old"));
echo http("$p/old", ["redirects" => 1]);
echo json_encode(http("$p/loop", ["redirects" => -1, "extended_result" => true])["status"]);
echo json_encode(http("$p/hello", ["method" => "HEAD"]));
echo http("$p/client", ["sourceip" => "127.0.0.7"]);
echo json_encode(http("$p/client", ["sourceip" => "no address"]));
echo http("http://unix.example/host/a", ["unix_socket_path" => "file-is-elsewhere"]) ?? "none";
echo json_encode(http("ftp://127.0.0.1/"));
echo json_encode(http("http://127.0.0.1:1/", ["connect_timeout" => 2]));
"#,
        &[
            "hello",
            "",
            "null",
            "{\"status\":404,\"content\":\"not here\"}",
            "[{\"name\":\"x-test\",\"value\":\"yes\"}]",
            "true",
            "null",
            "a=x%20y&b=%26",
            "[mine] [1] []",
            "Basic dXNlcjpwYXNz",
            "null",
            "hello",
            "",
            "302",
            "\"\"",
            "127.0.0.7",
            "null",
            "none",
            "null",
            "null",
        ],
    );
}

#[test]
fn http_bodies() {
    let web = Web::start();
    web.expect(
        r#"
echo http("$p/post", [], [], "raw");
echo http("$p/post", [], [], ["a" => "1 2", "b" => "&"]);
echo http("$p/post", ["method" => "PUT", "headers" => ["Content-Type: text/x"]], [], "raw");
echo http("$p/post", ["encoder" => "base64"], [], "raw");
$r = http("$p/post", [], [], ["f" => File::String("content"), "g" => ["data" => "x", "type" => "text/y", "filename" => "n\"ame"]]);
echo $r =~ #/^POST\|multipart\/form-data; boundary=/;
$left = 200;
$asked = [];
$r = http("$p/big", [], [], function ($max) closure ($left, $asked) {
    $asked[] = $max;
    return length($asked) > $left ? "" : str_repeat("x", 10000);
});
echo number($r) > 2000000;
echo length($asked);
$n = 0;
echo http("$p/post", ["headers" => ["Content-Length: 6"]], [], function ($max) closure ($n) {
    $n += 1;
    return ["abc", "def", ""][$n - 1];
});
try {
    http("$p/post", [], [], function ($max) { throw Exception("stop"); });
} catch ($e) {
    echo $e->message();
}
// A body that waits between its pieces.
$m = 0;
echo http("$p/post", [], [], function ($max) closure ($m) {
    $m += 1;
    sleep(0.05);
    return $m < 3 ? "w" : "";
});
"#,
        &[
            "POST|application/x-www-form-urlencoded|raw",
            "POST|application/x-www-form-urlencoded|a=1%202&b=%26",
            "PUT|text/x|raw",
            "POST|application/x-www-form-urlencoded|cmF3",
            "true",
            "true",
            "201",
            "POST|application/x-www-form-urlencoded|abcdef",
            "stop",
            "POST|application/x-www-form-urlencoded|ww",
        ],
    );
}

#[test]
fn http_connections_and_tls() {
    let web = Web::start();
    let folder = web.folder.path().display();
    web.expect(
        &format!(
            r#"
$a = str_split(http("$p/connection"), " ");
$b = str_split(http("$p/connection"), " ");
echo $a[0] == $b[0];
echo json_encode([$a[1], $b[1]]);
echo json_encode(http("$s/protocol"));
$ca = ["tls_default_ca" => true];
echo http("$s/protocol", $ca);
echo http("$s/protocol", $ca + ["tls_verify_host" => true]);
echo http("$s/protocol", ["tls_verify_peer" => false, "tls_protocols" => "TLSv1.2"]);
echo http("$s/protocol", ["ssl_verify_peer" => false]);
$wrong = str_replace("localhost", "ip6-localhost", $s);
$by_name = ["tls_verify_host" => true, "proxy" => ""];
echo json_encode(http(str_replace("localhost", "127.0.0.2", $s) . "/protocol", $ca + $by_name));
$me = ["x509" => X509::String(File::read("client.pem"), ["pem" => true])->toResource(), "privatekey" => ec_privatekey(File::read("client.key"))];
echo http("$s/protocol", $ca + ["tls_client_cert" => $me]);
echo http("http://web.example/host/a?b", ["unix_socket_path" => "{folder}/web.sock"]);
echo http("http://web.example/host/c", ["proxy" => $p]);
"#
        ),
        &[
            "true",
            "[\"1\",\"2\"]",
            "null",
            "HTTP/2.0 TLSv1.3 []",
            "HTTP/2.0 TLSv1.3 []",
            "HTTP/2.0 TLSv1.2 []",
            "HTTP/2.0 TLSv1.3 []",
            "null",
            "HTTP/2.0 TLSv1.3 [CN=client]",
            "web.example /host/a?b",
            "web.example /host/c",
        ],
    );
}

/// A proxy for one tunnel; gives what it was asked.
fn tunnel() -> (u16, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(client.try_clone().unwrap());
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            reader.read_line(&mut head).unwrap();
        }
        let target = head.split(' ').nth(1).unwrap();
        let server = TcpStream::connect(target).unwrap();
        (&client).write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
        let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        let _ = std::io::copy(&mut &client, &mut &server);
        head
    });
    (at, thread)
}

#[test]
fn http_through_a_tunnel_and_in_the_background() {
    let web = Web::start();
    let (proxy, asked) = tunnel();
    web.expect(
        &format!(
            "echo http(\"$s/hello\", [\"tls_default_ca\" => true, \"proxy\" => \"http://u:p@127.0.0.1:{proxy}\"]);
echo http(\"$p/log\", [\"background\" => true], [], \"one\");
echo http(\"$p/log\", [\"background\" => true], [], \"two\");
echo http(\"http://127.0.0.1:1/\", [\"background\" => true, \"background_retry_count\" => 1, \"background_hash\" => 3]);
echo json_encode(http(\"$p/log\", [\"background\" => true], [], function ($n) {{ return \"\"; }}));"
        ),
        &["hello", "", "true", "true", "true", "null"],
    );
    let asked = asked.join().unwrap();
    assert!(asked.starts_with(&format!("CONNECT localhost:{} HTTP/1.1\r\n", web.tls)), "{asked}");
    assert!(asked.contains("Proxy-Authorization: Basic dTpw\r\n"), "{asked}");
    let log = fs::read_to_string(web.folder.path().join("made.log")).unwrap();
    assert_eq!(log, "POST /log one\nPOST /log two\n");
}

#[test]
fn http_timeouts() {
    let folder = tempfile::tempdir().unwrap();
    // Connects, and nothing more.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let began = Instant::now();
    expect(folder.path(), &format!("echo json_encode(http(\"{url}\", [\"timeout\" => 0.3]));"), &["null"]);
    assert!(began.elapsed() < Duration::from_secs(8));
}

#[test]
fn http_hands_over_to_a_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("httprd.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let daemon = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut length = [0; 4];
        client.read_exact(&mut length).unwrap();
        let mut request = vec![0; u32::from_le_bytes(length) as usize];
        client.read_exact(&mut request).unwrap();
        let reply = br#"{"queued":true,"id":1}"#;
        client.write_all(&(reply.len() as u32).to_le_bytes()).unwrap();
        client.write_all(reply).unwrap();
        String::from_utf8(request).unwrap()
    });
    let startup = format!(
        "version: '1.0'\nservers: []\nenvironment: {{sockets: {{httprd: {{path: '{}'}}}}}}\n",
        socket.display()
    );
    fs::write(folder.path().join("smtpd.yaml"), startup).unwrap();
    let script = "echo http(\"http://a.example/x\", [\"background\" => true, \"background_hash\" => 7], [], \"body\");";
    fs::write(folder.path().join("a.hsl"), script).unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    fs::write(at("app.yaml"), "{}").unwrap();
    let out = run(
        env!("CARGO_BIN_EXE_hsh"),
        &["-c", &at("smtpd.yaml"), "-A", &at("app.yaml"), &at("a.hsl")],
        folder.path(),
    );
    assert_eq!(out, "true\n");
    let request = daemon.join().unwrap();
    for part in
        ["\"url\":\"http://a.example/x\"", "\"body\":\"Ym9keQ==\"", "\"hash\":7", "\"method\":\"POST\""]
    {
        assert!(request.contains(part), "{part} in {request}");
    }
}

// ---- DNS ----

const ZONE: &str = "\
$ORIGIN example.test.
$TTL 300
@ SOA ns.example.test. hostmaster.example.test. 7 3600 900 604800 60
@ NS ns.example.test.
@ MX 20 backup.example.test.
@ MX 10 mail.example.test.
@ TXT \"first \" \"second\"
@ CAA 0 issue \"ca.example.test\"
ns A 127.0.0.1
mail A 192.0.2.10
mail A 192.0.2.10
mail AAAA 2001:db8::10
backup A 192.0.2.20
www CNAME mail.example.test.
_smtp._tcp SRV 5 6 25 mail.example.test.
_25._tcp.mail TLSA 3 1 1 d2abde240d7cd3ee6b4b28c54df034b97983a1d16e8a410e4561cb106618e971
";

struct Names {
    folder: TempDir,
    /// The authoritative server.
    server: u16,
    /// The validating one in front of it.
    resolver: u16,
    _nsd: Server,
    _unbound: Server,
}

impl Names {
    fn start() -> Names {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let root = at.display();
        let (server, resolver) = (port(), port());
        let file = |name: &str, text: &str| fs::write(at.join(name), text).unwrap();
        file("signed.zone", ZONE);
        let plain = ZONE.replace("example.test", "plain.test");
        file("plain.zone", &plain);
        file("expired.zone", &ZONE.replace("example.test", "expired.test"));
        file(
            "reverse.zone",
            "$ORIGIN 2.0.192.in-addr.arpa.\n@ 300 SOA a. b. 1 1 1 1 60\n@ 300 NS a.\n10 300 PTR mail.plain.test.\n",
        );
        let mut anchors = String::new();
        for (zone, file, period) in [
            ("example.test", "signed.zone", &[][..]),
            ("expired.test", "expired.zone", &["-i", "20200101", "-e", "20200201"][..]),
        ] {
            let key = run("ldns-keygen", &["-a", "ECDSAP256SHA256", "-k", "-r", "/dev/urandom", zone], at);
            run("ldns-signzone", &[period, &[file, key.trim()][..]].concat(), at);
            anchors += &fs::read_to_string(at.join(format!("{}.ds", key.trim()))).unwrap();
        }
        file("anchors", &anchors);
        let zones: String = [
            ("example.test", "signed.zone.signed"),
            ("expired.test", "expired.zone.signed"),
            ("plain.test", "plain.zone"),
            ("2.0.192.in-addr.arpa", "reverse.zone"),
        ]
        .iter()
        .map(|(name, file)| format!("zone:\n  name: {name}\n  zonefile: {root}/{file}\n"))
        .collect();
        file(
            "nsd.conf",
            &format!(
                "server:\n  ip-address: 127.0.0.1@{server}\n  username: \"\"\n  chroot: \"\"\n  zonesdir: {root}\n  \
                 database: \"\"\n  pidfile: {root}/nsd.pid\n  xfrdfile: {root}/xfrd\n  xfrdir: {root}\n  \
                 zonelistfile: {root}/zone.list\nremote-control:\n  control-enable: no\n{zones}"
            ),
        );
        let nsd = Server::start(Command::new("nsd").args(["-d", "-c"]).arg(at.join("nsd.conf")), server);
        let stubs: String = ["example.test", "expired.test", "plain.test", "2.0.192.in-addr.arpa"]
            .iter()
            .map(|zone| format!("stub-zone:\n  name: {zone}\n  stub-addr: 127.0.0.1@{server}\n"))
            .collect();
        file(
            "unbound.conf",
            &format!(
                "server:\n  interface: 127.0.0.1@{resolver}\n  port: {resolver}\n  do-daemonize: no\n  username: \"\"\n  chroot: \"\"\n  \
                 directory: {root}\n  pidfile: {root}/unbound.pid\n  do-not-query-localhost: no\n  use-syslog: no\n  \
                 trust-anchor-file: {root}/anchors\n  module-config: \"validator iterator\"\n  \
                 local-zone: \"test.\" nodefault\n  local-zone: \"2.0.192.in-addr.arpa.\" nodefault\n  num-threads: 1\n\
                 remote-control:\n  control-enable: no\n{stubs}"
            ),
        );
        let mut unbound = Command::new("unbound");
        let unbound = Server::start(unbound.args(["-d", "-p", "-c"]).arg(at.join("unbound.conf")), resolver);
        Names { server, resolver, _nsd: nsd, _unbound: unbound, folder }
    }
}

#[test]
fn dns_queries() {
    let names = Names::start();
    let head = format!(
        "function q($host, $options = []) {{ return json_encode(dns_query($host, $options + [\"servers\" => \
         [\"127.0.0.1\"], \"port\" => {}])); }}\n$nsd = [\"servers\" => [\"127.0.0.1\"], \"port\" => {}];",
        names.resolver, names.server
    );
    let script = r#"
echo q("mail.example.test");
echo q("mail.example.test", ["type" => "aaaa"]);
echo q("example.test", ["type" => "mx"]);
echo q("example.test", ["type" => "mx", "extended_result" => true]);
echo q("example.test", ["type" => "txt"]);
echo q("www.example.test");
echo q("www.example.test", ["type" => "cname"]);
echo q("example.test", ["type" => "ns"]);
echo q("10.2.0.192.in-addr.arpa", ["type" => "ptr"]);
echo q("_smtp._tcp.example.test", ["type" => "srv", "extended_result" => true]);
echo q("example.test", ["type" => "soa", "extended_result" => true]);
echo q("_25._tcp.mail.example.test", ["type" => "tlsa", "extended_result" => true]);
echo q("example.test", ["type" => "caa", "extended_result" => true]);
echo q("mail.plain.test");
echo q("nosuch.plain.test");
echo q("mail.plain.test", ["type" => "mx"]);
echo q("mail.expired.test");
echo json_encode(dns_query("other.example", $nsd)["error"]);
echo json_encode(dns_query("a.example", ["servers" => ["127.0.0.1"], "port" => 1, "timeout" => 1])["error"]);
echo json_encode(dns_query(str_repeat("a", 64) . ".example", $nsd)["error"]);
echo json_encode(dnsmx("plain.test", $nsd));
echo json_encode(dns("nosuch.plain.test", $nsd));
try { dns_query("a.example", ["type" => "hinfo"]); } catch ($e) { echo $e->message(); }
"#;
    expect(
        names.folder.path(),
        &(head + script),
        &[
            "{\"result\":[\"192.0.2.10\"],\"dnssec\":true}",
            "{\"result\":[\"2001:db8::10\"],\"dnssec\":true}",
            "{\"result\":[\"mail.example.test\",\"backup.example.test\"],\"dnssec\":true}",
            "{\"result\":[{\"ttl\":300,\"preference\":10,\"exchange\":\"mail.example.test\"},{\"ttl\":300,\
             \"preference\":20,\"exchange\":\"backup.example.test\"}],\"dnssec\":true}",
            "{\"result\":[\"first second\"],\"dnssec\":true}",
            "{\"result\":[\"192.0.2.10\"],\"dnssec\":true}",
            "{\"result\":[\"mail.example.test\"],\"dnssec\":true}",
            "{\"result\":[\"ns.example.test\"],\"dnssec\":true}",
            "{\"result\":[\"mail.plain.test\"],\"dnssec\":false}",
            "{\"result\":[{\"ttl\":300,\"priority\":5,\"weight\":6,\"port\":25,\"target\":\"mail.example.test\"}],\
             \"dnssec\":true}",
            "{\"result\":[{\"ttl\":300,\"mname\":\"ns.example.test\",\"rname\":\"hostmaster.example.test\",\
             \"serial\":7,\"refresh\":3600,\"retry\":900,\"expire\":604800,\"minimum\":60}],\"dnssec\":true}",
            "{\"result\":[{\"ttl\":300,\"usage\":3,\"selector\":1,\"mtype\":1,\
             \"data\":\"d2abde240d7cd3ee6b4b28c54df034b97983a1d16e8a410e4561cb106618e971\"}],\"dnssec\":true}",
            "{\"result\":[{\"ttl\":300,\"critical\":false,\"tag\":\"issue\",\"value\":\"ca.example.test\"}],\
             \"dnssec\":true}",
            "{\"result\":[\"192.0.2.10\"],\"dnssec\":false}",
            "{\"error\":\"NXDOMAIN\",\"dnssec\":false}",
            "{\"error\":\"NODATA\",\"dnssec\":false}",
            "{\"error\":\"SERVFAIL\",\"dnssec\":false}",
            "\"REFUSED\"",
            "\"TRY_AGAIN\"",
            "\"FORMERR\"",
            "[\"mail.plain.test\",\"backup.plain.test\"]",
            "[]",
            "dns_query() type 'hinfo' is unknown, expected one of a, aaaa, mx, txt, cname, ns, ptr, soa, srv, tlsa, caa",
        ],
    );
}

// ---- sockets ----

#[test]
fn sockets() {
    let web = Web::start();
    let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let udp = datagrams.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((n, from)) = datagrams.recv_from(&mut buffer) {
            let _ = datagrams.send_to(&buffer[..n], from);
        }
    });
    let path = web.folder.path().join("echo.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || std::io::copy(&mut &client, &mut &client));
        }
    });
    web.expect(
        &format!(
            r#"
$t = Socket("AF_INET", "SOCK_STREAM");
echo is_object($t->bind("127.0.0.3"));
echo is_object($t->connect("127.0.0.1", {plain}));
echo $t->send("GET /client HTTP/1.0\r\n\r\n");
$head = $t->recv(8, ["MSG_PEEK"]);
echo $head;
$all = "";
while (length($part = $t->recv(1000)) > 0) $all .= $part;
echo $all =~ #/^HTTP\/1.1 200 .*127.0.0.3$/s ? "found" : $all;
echo $t->errno();
$t->shutdown("SHUT_WR");
$t->close();
echo json_encode([$t->send("x"), $t->errno()]);
$u = Socket("AF_INET", "SOCK_DGRAM")->settimeout(5);
$u->connect("127.0.0.1", {udp});
echo $u->send("datagram");
echo $u->recv(100);
$u->settimeout(0.1);
echo json_encode([$u->recv(100), $u->errno()]);
echo json_encode([$u->recv(100, "MSG_DONTWAIT"), $u->errno()]);
$x = Socket("AF_UNIX", "SOCK_STREAM");
$x->connect("{path}");
echo $x->send(str_repeat("y", 300000));
echo length($x->recv(300000, "MSG_WAITALL"));
$n = Socket("AF_INET", "SOCK_STREAM");
echo json_encode([$n->connect("127.0.0.1", 1), $n->errno()]);
echo json_encode([$n->connect("::1", 1), $n->errno()]);
echo json_encode([$n->connect("localhost", 1), $n->errno()]);
echo is_object(Socket("AF_INET", "SOCK_STREAM")->bind("192.0.2.1", 0, ["nonlocal" => true]));
echo json_encode(Socket("AF_INET", "SOCK_STREAM")->bind("192.0.2.1"));
echo json_encode($x->toFFIValue());
try {{ Socket::Resource("no"); }} catch ($e) {{ echo "no resource"; }}
try {{ Socket("AF_X", "SOCK_STREAM"); }} catch ($e) {{ echo "thrown"; }}
"#,
            plain = web.plain,
            path = path.display(),
        ),
        &[
            "true",
            "true",
            "24",
            "HTTP/1.1",
            "found",
            "0",
            "[null,9]",
            "8",
            "datagram",
            "[null,110]",
            "[null,11]",
            "300000",
            "300000",
            "[null,111]",
            "[null,97]",
            "[null,22]",
            "true",
            "null",
            "null",
            "no resource",
            "thrown",
        ],
    );
}

#[test]
fn tls_sockets() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let at = port();
    let mut command = Command::new("openssl");
    command
        .args([
            "s_server",
            "-rev",
            "-quiet",
            "-cert",
            "server.pem",
            "-key",
            "server.key",
            "-CAfile",
            "ca.pem",
        ])
        .args(["-verify", "1", "-accept", &format!("127.0.0.1:{at}")])
        .current_dir(folder.path());
    let _server = Server::start(&mut command, at);
    let script = format!(
        r#"
function open($options) {{
    $socket = Socket("AF_INET", "SOCK_STREAM")->settimeout(5);
    $socket->connect("127.0.0.1", {at});
    return TLSSocket($socket, $options);
}}
// The server takes one client after the other.
function shake($options) {{
    $tls = open($options);
    $result = $tls->handshake();
    $tls->toSocket()->close();
    return [is_object($result), $tls->errno()];
}}
$tls = open([]);
echo is_object($tls->handshake());
echo $tls->send("abc\n");
echo $tls->recv(100);
echo $tls->getpeerx509()->subject()[0][1];
echo is_object($tls->toSocket());
echo $tls->shutdown();
echo $tls->errno();
$tls->toSocket()->close();
echo json_encode(shake(["tls_verify_ca" => true]));
$good = ["tls_verify_ca" => true, "tls_default_ca" => true];
echo json_encode(shake($good));
echo json_encode(shake($good + ["tls_verify_name" => ["other.test", "mx.example.test"], "tls_sni" => "mx.example.test"]));
echo json_encode(shake($good + ["tls_verify_name" => ["a.b.example.test"]]));
echo json_encode(shake(["tls_verify_name" => ["other.test"]]));
echo json_encode(shake(["tls_verify_name" => ["127.0.0.1"], "tls_protocols" => "TLSv1.2", "tls_ciphers" => "ECDHE+AESGCM"]));
$me = ["x509" => X509::String(File::read("client.pem"), ["pem" => true])->toResource(), "privatekey" => ec_privatekey(File::read("client.key"))];
$tls = open(["tls_client_cert" => $me]);
echo $tls->send("implicit handshake\n");
echo $tls->recv(100);
try {{ open(["tls_protocols" => "TLSv9"]); }} catch ($e) {{ echo "thrown"; }}
$idle = Socket("AF_INET", "SOCK_STREAM");
echo json_encode([TLSSocket($idle, [])->handshake()]);
"#
    );
    expect(
        folder.path(),
        &script,
        &[
            "true",
            "4",
            "cba",
            "",
            "server",
            "true",
            "0",
            "0",
            "[false,1]",
            "[true,0]",
            "[true,0]",
            "[false,1]",
            "[false,1]",
            "[true,0]",
            "19",
            "ekahsdnah ticilpmi",
            "",
            "thrown",
            "[null]",
        ],
    );
}

// ---- LDAP ----

const ENTRIES: &str = "\
dn: dc=example,dc=test
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: cn=Ann,dc=example,dc=test
objectClass: person
cn: Ann
sn: One
description: first
description: second

dn: cn=Bob (b),dc=example,dc=test
objectClass: person
cn: Bob (b)
sn: Two
";

#[test]
fn ldap() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    certificates(at);
    let root = at.display();
    let (plain, tls) = (port(), port());
    fs::create_dir(at.join("db")).unwrap();
    let config = format!(
        "include /etc/ldap/schema/core.schema\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\npidfile {root}/slapd.pid\n\
         TLSCACertificateFile {root}/ca.pem\nTLSCertificateFile {root}/server.pem\nTLSCertificateKeyFile {root}/server.key\n\
         database mdb\nsuffix dc=example,dc=test\nrootdn cn=admin,dc=example,dc=test\nrootpw secret\ndirectory {root}/db\n"
    );
    fs::write(at.join("slapd.conf"), config).unwrap();
    fs::write(at.join("entries.ldif"), ENTRIES).unwrap();
    run("/usr/sbin/slapadd", &["-f", "slapd.conf", "-l", "entries.ldif"], at);
    let unix = at.join("ldapi").display().to_string().replace('/', "%2F");
    let listen = format!("ldap://127.0.0.1:{plain} ldaps://127.0.0.1:{tls} ldapi://{unix}");
    let mut command = Command::new("/usr/sbin/slapd");
    command.args(["-d", "0", "-h", &listen, "-f"]).arg(at.join("slapd.conf"));
    let _slapd = Server::start(&mut command, plain);
    let script = format!(
        r#"
$l = LDAP("ldap://127.0.0.1:1 ldap://127.0.0.1:{plain}");
echo is_object($l->setoption("network_timeout", 5)->setoption("timeout", 5)->setoption("protocol_version", 3));
echo is_object($l->bind("cn=admin,dc=example,dc=test", "secret"));
$r = $l->search("dc=example,dc=test", ["filter" => "(objectclass=person)", "attributes" => ["cn", "description"]]);
echo json_encode($r->next());
$name = $r->next();
echo $name["dn"];
echo json_encode($r->next());
foreach ($l->search("dc=example,dc=test", ["scope" => "one", "filter" => "(cn=" . LDAP::filter_escape("Bob (b)") . ")"]) as $entry)
    echo $entry["sn"][0];
echo json_encode($l->search("dc=example,dc=test", ["scope" => "base", "attributes" => ["o"]])->next());
echo json_encode([$l->search("dc=nosuch,dc=test"), $l->errno(), LDAP::err2string($l->errno())]);
echo json_encode([$l->search("dc=example,dc=test", ["filter" => "(broken"]), $l->errno()]);
echo json_encode([$l->bind("cn=admin,dc=example,dc=test", "wrong"), $l->errno()]);
echo is_string($l->getoption("diagnostic_message"));
echo is_object($l->unbind());
echo is_object(LDAP("ldap://127.0.0.1:{plain}")->bind());
$down = LDAP("ldap://127.0.0.1:1");
echo json_encode([$down->bind(), $down->errno()]);
$s = LDAP("ldaps://localhost:{tls}")->setoption("tls_default_ca", true);
echo is_object($s->bind());
echo $s->getpeerx509()->subject()[0][1];
$bad = LDAP("ldaps://localhost:{tls}");
echo json_encode($bad->bind());
echo is_object($bad->setoption("tls_verify_peer", false)->bind());
$t = LDAP("ldap://localhost:{plain}")->setoption("tls_default_ca", true);
echo is_object($t->starttls());
echo $t->getpeerx509()->issuer()[0][1];
echo is_object(LDAP("ldapi://{unix}")->bind());
echo json_encode([$t->setoption("nosuch", 1), $t->errno()]);
echo json_encode(LDAP::str2dn("cn=Bob\\, B,dc=test"));
echo LDAP::dn2str([["cn", "Bob, B"], ["dc", "test"]]);
try {{ LDAP("http://x"); }} catch ($e) {{ echo "thrown"; }}
"#
    );
    expect(
        at,
        &script,
        &[
            "true",
            "true",
            "{\"dn\":\"cn=Ann,dc=example,dc=test\",\"cn\":[\"Ann\"],\"description\":[\"first\",\"second\"]}",
            "cn=Bob (b),dc=example,dc=test",
            "false",
            "Two",
            "{\"dn\":\"dc=example,dc=test\",\"o\":[\"Example\"]}",
            "[null,32,\"No such object\"]",
            "[null,-7]",
            "[null,49]",
            "true",
            "true",
            "true",
            "[null,-1]",
            "true",
            "server",
            "null",
            "true",
            "true",
            "Test CA",
            "true",
            "[null,-9]",
            "[[\"cn\",\"Bob, B\"],[\"dc\",\"test\"]]",
            "cn=Bob\\, B,dc=test",
            "thrown",
        ],
    );
}
