//! `rate` against a daemon that speaks the protocol of `rated` and keeps sliding windows.

use std::collections::HashMap;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

/// What the daemon was sent: type, namespace and entry.
type Seen = (u8, String, String);

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    String::from_utf8(field[..end].to_vec()).unwrap()
}

fn number(field: &[u8]) -> u32 {
    u32::from_be_bytes(field.try_into().unwrap())
}

/// Answers so many requests. Before each answer it sends two that are not for the client.
fn daemon(socket: UnixDatagram, requests: usize) -> Vec<Seen> {
    let mut hits: HashMap<(String, String), Vec<Instant>> = HashMap::new();
    let mut seen = Vec::new();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    for _ in 0..requests {
        let mut packet = [0; 1000];
        let (length, from) = socket.recv_from(&mut packet).unwrap();
        let (kind, cookie) = (packet[1], &packet[2..6]);
        let names = if kind == 2 { 10 } else { 14 };
        assert_eq!((packet[0], length), (1, names + 64 + 512));
        let (namespace, entry) = (text(&packet[names..names + 64]), text(&packet[names + 64..length]));
        let interval = Duration::from_secs(number(&packet[6..10]).into());
        let list = hits.entry((namespace.clone(), entry.clone())).or_default();
        let live = list.iter().filter(|hit| hit.elapsed() < interval).count() as u32;
        let mut reply = cookie.to_vec();
        if kind == 2 {
            reply.extend_from_slice(&live.to_ne_bytes());
        } else {
            let allowed = live < number(&packet[10..14]);
            if allowed {
                list.push(Instant::now());
            }
            reply.extend_from_slice(&[u8::from(allowed), u8::from(!allowed), 0, 0, 0, 0]);
        }
        let mut foreign = reply.clone();
        foreign[0] ^= 1;
        socket.send_to_addr(&foreign, &from).unwrap();
        socket.send_to_addr(b"short", &from).unwrap();
        socket.send_to_addr(&reply, &from).unwrap();
        seen.push((kind, namespace, entry));
    }
    seen
}

fn hsh(folder: &Path, script: &str) -> (String, String) {
    fs::write(folder.join("a.hsl"), script).unwrap();
    let at = |name: &str| folder.join(name).display().to_string();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_hsh"))
        .args(["-c", &at("smtpd.yaml"), "-A", &at("app.yaml"), &at("a.hsl")])
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    assert!(output.status.success(), "{}", text(output.stderr));
    (text(output.stdout), text(output.stderr))
}

#[test]
fn hits_are_counted_by_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rated.sock");
    let startup = format!(
        "version: '1.0'\nservers: []\nenvironment: {{sockets: {{rated: {{path: '{}'}}}}}}\n",
        path.display()
    );
    fs::write(folder.path().join("smtpd.yaml"), startup).unwrap();
    fs::write(folder.path().join("app.yaml"), "{}").unwrap();
    let socket = UnixDatagram::bind(&path).unwrap();
    let daemon = std::thread::spawn(move || daemon(socket, 9));
    let script = r#"
import { rate as limit } from "extras://rate";
$r = [];
foreach ([1, 2, 3] as $i) $r[] = rate("ns", "e", 2, 60);
echo json_encode($r);
echo json_encode([rate("ns", "e", 0, 60), rate("ns", "other", 0, 60), limit("ns", "e", "0", "0")]);
echo json_encode(limit("ns", "e", 3, 60, ["sync" => false]));
echo json_encode(rate(str_repeat("n", 70), str_repeat("e", 600), 1, 1));
echo json_encode(rate("ns", "e", 2.6, 60));
foreach ([["", "e", 1, 1], ["ns", "", 1, 1], ["ns", "e", -1, 1], ["ns", "e", 1, -1], ["ns", "e", 1, 1, ["sync" => "x"]]] as $wrong) {
    try { rate(...$wrong); echo "accepted"; } catch ($e) { echo $e->message(); }
}
"#;
    let (out, errors) = hsh(folder.path(), script);
    assert_eq!(errors, "");
    assert_eq!(
        out.lines().collect::<Vec<_>>(),
        [
            "[true,true,false]",
            "[2,0,0]",
            "true",
            "true",
            "false",
            "Invalid or missing namespace parameter",
            "Invalid or missing entry parameter",
            "Invalid or missing count parameter",
            "Invalid or missing interval parameter",
            "Invalid sync option",
        ]
    );
    let seen = daemon.join().unwrap();
    assert_eq!(seen[0], (1, "ns".to_owned(), "e".to_owned()));
    assert_eq!((seen[3].0, seen[6].0), (2, 5));
    let (namespace, entry) = (&seen[7].1, &seen[7].2);
    assert_eq!((namespace.len(), entry.len()), (64, 512));
    assert!(namespace.starts_with(&("n".repeat(31) + "~")) && entry.starts_with(&("e".repeat(479) + "~")));
    // Nobody there any more.
    let (out, errors) = hsh(folder.path(), "echo json_encode(rate(\"ns\", \"e\", 1, 1));");
    assert_eq!(out, "null\n");
    assert!(errors.starts_with(&format!("rate(): {}: ", path.display())), "{errors}");
}
