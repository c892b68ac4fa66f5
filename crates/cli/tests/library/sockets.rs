//! `Socket` and `TLSSocket` against nginx, echo servers and OpenSSL's `s_server`.

use crate::http::Web;
use crate::servers::{Server, certificates, expect, port};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::net::UnixListener;
use std::process::Command;

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
echo $x->send(str_repeat("y", 100000));
echo length($x->recv(100000, "MSG_WAITALL"));
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
            "100000",
            "100000",
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
echo json_encode([TLSSocket($idle)->handshake()]);
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
