//! `http` against nginx, a tunnel and a stand-in for `httprd`.

use crate::servers::{Server, certificates, expect, port, run};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// nginx with one plain and one TLS port.
pub(crate) struct Web {
    pub(crate) folder: TempDir,
    pub(crate) plain: u16,
    tls: u16,
    _nginx: Server,
}

impl Web {
    pub(crate) fn start() -> Web {
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
    location = /busy {{ return 503; }}
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

    pub(crate) fn expect(&self, script: &str, expected: &[&str]) {
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
echo json_encode(http(\"$p/log\", [\"background\" => true], [], function ($n) {{ return \"\"; }}));"
        ),
        &["hello", "", "true", "true", "null"],
    );
    let asked = asked.join().unwrap();
    assert!(asked.starts_with(&format!("CONNECT localhost:{} HTTP/1.1\r\n", web.tls)), "{asked}");
    assert!(asked.contains("Proxy-Authorization: Basic dTpw\r\n"), "{asked}");
    let log = fs::read_to_string(web.folder.path().join("made.log")).unwrap();
    assert_eq!(log, "POST /log one\nPOST /log two\n");
}

#[test]
fn failures_in_the_background_are_logged() {
    let web = Web::start();
    let url = format!("http://user:secret@127.0.0.1:{}/missing?secret=1", web.plain);
    let script = format!(
        "$o = [\"background\" => true, \"background_retry_count\" => 1];
http(\"http://127.0.0.1:1/nobody\", $o);
http(\"{url}\", [\"background\" => true]);
http(\"http://127.0.0.1:{}/busy\", [\"background\" => true]);",
        web.plain
    );
    fs::write(web.folder.path().join("a.hsl"), script).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_hsh"))
        .args(["-c", "/dev/null", "a.hsl"])
        .current_dir(web.folder.path())
        .env("no_proxy", "*")
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = errors.lines().collect();
    assert_eq!(lines.len(), 3, "{errors}");
    let head = "http() in the background: GET http://127.0.0.1:";
    assert!(lines[0].starts_with(&format!("{head}1/nobody: ")) && lines[0].contains("refused"), "{errors}");
    assert!(lines[0].ends_with(", attempt 1 of 2, trying again"), "{errors}");
    assert!(lines[1].ends_with(", attempt 2 of 2, giving up"), "{errors}");
    // A refusal such as 404 is an answer, and no failure.
    assert_eq!(lines[2], format!("{head}{}/busy: status 503, attempt 1 of 1, giving up", web.plain));
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
