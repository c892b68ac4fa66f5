//! Functions of the script library that act on the server, and the commands that look at what scripts keep.

use blackbox::client::send;
use blackbox::sink::Sink;
use blackbox::{Server, wait_until};
use serde_json::{Value, json};
use std::process::Command;

const APP: &str = r#"
version: "6.9"
servers: [{id: in, transport: out, phases: {connect: {remoteptr: false}, eod: {hook: main}}}]
transportgroups:
  - id: g
    connection: {server: 127.0.0.1}
    session: {tls: {mode: disabled}}
    dsn: {transport: out}
    transports: [{id: out, connection: {port: %SINK}}]
metrics: [{id: seen, type: counter, labels: [what]}]
scripting:
  files: [{id: list.txt, data: "of the configuration"}]
  hooks:
    eod:
      - id: main
        data: |
          function cached($x) { return "$x!"; }
          $field = ["recipientdomain" => "slow.example"];
          $r = [
            "here" => server_concurrency("in"),
            "loopback" => server_concurrency("in", "127.0.0.0/8"),
            "elsewhere" => server_concurrency("in", "192.0.2.1"),
            "unknown" => server_concurrency("nosuch"),
            "suspend" => queue_suspend($field, 300, ["tag" => "mine"]),
            "again" => queue_suspend($field, 600, ["tag" => "mine"]),
            "second" => queue_suspend(["jobid" => "x"], 300, ["id" => "chosen", "properties" => ["k" => "v"]]),
            "ended" => queue_suspend(["jobid" => "x"], 0),
            "bad" => queue_suspend(["nosuch" => "x"], 300),
            "long" => queue_suspend($field, 300, ["tag" => str_repeat("t", 25)]),
            "policy" => queue_policy(["recipientdomain"], ["recipientdomain" => "a.example"], ["rate" => ["10", "60"], "tag" => "limit"], 300),
            "policy_again" => queue_policy(["recipientdomain"], ["recipientdomain" => "a.example"], ["concurrency" => 2], 300),
            "missing" => queue_policy(["jobid", "remoteip"], ["jobid" => "x"], ["concurrency" => 2], 300),
            "quota" => queue_quota("nobody"),
            "metric" => metrics_increment("seen", ["what" => "mail"]),
            "value" => metrics_get("seen", ["what" => "mail"]),
            "hostname" => gethostname(),
            "file" => File("list.txt")->read(),
            "cached" => [cache ["ttl" => 100] cached(1), cache ["ttl" => 100] cached(1), cache ["ttl" => 100] cached(2)],
            "uuid" => uuid() =~ #/^[0-9a-f]{8}-[0-9a-f]{4}-1/,
          ];
          $r["deleted"] = queue_policy_delete($r["policy"]["id"]);
          $r["not_deleted"] = queue_policy_delete($r["policy"]["id"]);
          memory_store("result", $r);
          Accept();
"#;

#[test]
fn scripts_act_on_the_server_and_commands_on_their_memory() {
    let sink = Sink::start();
    let app = APP.replace("%SINK", &sink.port.to_string());
    let mut server = Server::prepare(&app, &[]);
    server.write(
        "policy.yaml",
        "version: \"6.9\"\npolicies: [{fields: [recipientdomain], default: {concurrency: 5}}]\n",
    );
    server.launch();
    send(server.port, "a@b.example", "c@d.example", b"Subject: x\r\n\r\nx\r\n");
    let ctl = |arguments: &[&str]| server.ctl(arguments);
    let r: Value = serde_json::from_str(&ctl(&["hsl", "memory", "fetch", "result"])).unwrap();
    assert_eq!(
        (&r["here"], &r["loopback"], &r["elsewhere"], &r["unknown"]),
        (&json!(1), &json!(1), &json!(0), &Value::Null)
    );
    assert_eq!(r["suspend"]["updated"], false);
    assert_eq!(r["again"], json!({"id": r["suspend"]["id"], "updated": true}));
    assert_eq!(r["second"], json!({"id": "chosen", "updated": false}));
    assert_eq!(r["ended"], json!({"id": "chosen", "updated": true}));
    assert_eq!((&r["bad"], &r["long"], &r["missing"]), (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!(r["policy_again"], json!({"id": r["policy"]["id"], "updated": true}));
    assert_eq!((&r["deleted"], &r["not_deleted"]), (&json!(true), &json!(false)));
    assert_eq!(r["quota"], json!({"count": 0, "bytes": 0}));
    assert_eq!(r["metric"], true);
    assert_eq!(r["value"], json!({"type": "counter", "value": 1}));
    assert_eq!(r["file"], "of the configuration");
    assert_eq!(r["cached"], json!(["1!", "1!", "2!"]));
    assert_eq!(r["uuid"], true);
    let suspensions = ctl(&["queue", "suspend", "list"]);
    assert!(suspensions.contains("slow.example") && !suspensions.contains("chosen"), "{suspensions}");

    assert_eq!(ctl(&["hsl", "memory", "store", "k1", "{\"a\": [1, null]}"]), "");
    assert_eq!(ctl(&["hsl", "memory", "store", "k1", "2", "--return"]), "{\"a\":[1,null]}\n");
    assert_eq!(ctl(&["hsl", "memory", "store", "other", "text", "--string"]), "");
    assert_eq!(ctl(&["hsl", "memory", "list"]), "k1\nother\nresult\n");
    assert_eq!(ctl(&["hsl", "memory", "list", "--match", "/^[kr]/"]), "k1\nresult\n");
    assert_eq!(ctl(&["hsl", "memory", "list", "--match", "!K", "--caseless"]), "other\nresult\n");
    assert_eq!(ctl(&["hsl", "memory", "list", "--offset", "1", "--limit", "1"]), "other\n");
    assert_eq!(ctl(&["hsl", "memory", "fetch", "other"]), "\"text\"\n");
    assert_eq!(ctl(&["hsl", "memory", "delete", "k1", "--return"]), "2\n");
    assert!(!server.halonctl(&["hsl", "memory", "delete", "k1"]).status.success());
    assert!(!server.halonctl(&["hsl", "memory", "fetch", "k1"]).status.success());

    let list = ctl(&["hsl", "cache", "list", "--wide"]);
    let cells: Vec<&str> = list.lines().last().unwrap().split('│').map(str::trim).collect();
    let row: Vec<&str> = cells.into_iter().filter(|c| !c.is_empty()).collect();
    assert_eq!(row, ["eod/main.hsl:cached", "32", "2", "1", "2", "0", "33.3333", "0"], "{list}");
    assert_eq!(ctl(&["hsl", "cache", "clear", "--namespace", "nosuch"]), "0 buckets cleared\n");
    assert_eq!(
        ctl(&["hsl", "cache", "clear", "--function", "cached", "--argument", "0=1"]),
        "1 buckets cleared\n"
    );
    assert!(ctl(&["hsl", "cache", "list"]).contains(" 1 "));
    assert_eq!(ctl(&["hsl", "cache", "clear"]), "1 buckets cleared\n");
}

const CACHING: &str = r#"
version: "6.9"
servers: [{id: in, transport: out, phases: {connect: {remoteptr: false}, eod: {hook: main}}}]
transportgroups:
  - id: g
    connection: {server: 127.0.0.1}
    session: {tls: {mode: disabled}}
    dsn: {transport: out}
    transports: [{id: out, connection: {port: %SINK}}]
pki: {private: [{id: dkim, privatekey: {data: "%KEY"}}]}
scripting:
  files: [{id: a.txt, data: "%A"}, {id: b.txt, data: "kept"}]
  hooks:
    eod:
      - id: main
        data: |
          function read($name) { memory_inc("reads of $name"); return File($name)->read(); }
          $a = cache ["namespace" => "file:a.txt", "ttl" => 1000] read("a.txt");
          $b = cache ["namespace" => "file:b.txt", "ttl" => 1000] read("b.txt");
          memory_store("found", [$a, $b, length(rsa_sign("x", "dkim", ["id" => true]))]);
          Accept();
"#;

#[test]
fn a_reload_clears_the_caches_of_changed_files_and_reads_keys() {
    let sink = Sink::start();
    let key = |bits: &str| {
        let output = Command::new("openssl").args(["genrsa", bits]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().replace('\n', "\\n")
    };
    let app = |a: &str, key: &str| {
        CACHING.replace("%SINK", &sink.port.to_string()).replace("%A", a).replace("%KEY", key)
    };
    let mut server = Server::prepare(&app("first", &key("1024")), &[]);
    server.launch();
    let run = || {
        send(server.port, "a@b.example", "c@d.example", b"Subject: x\r\n\r\nx\r\n");
        let fetch = |name: &str| server.ctl(&["hsl", "memory", "fetch", name]).trim().to_owned();
        (fetch("found"), fetch("reads of a.txt"), fetch("reads of b.txt"))
    };
    let expect = |found: &str, a: &str, b: &str| (found.to_owned(), a.to_owned(), b.to_owned());
    assert_eq!(run(), expect("[\"first\",\"kept\",128]", "1", "1"));
    assert_eq!(run(), expect("[\"first\",\"kept\",128]", "1", "1"));
    server.write_app(&app("second", &key("2048")), &[]);
    server.ctl(&["config", "reload"]);
    assert_eq!(run(), expect("[\"second\",\"kept\",256]", "2", "1"));
    server.write_app(&app("third", "no key"), &[]);
    let output = server.halonctl(&["config", "reload"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("/pki/private/dkim: privatekey: expected"), "{error}");
    assert_eq!(run(), expect("[\"second\",\"kept\",256]", "2", "1"));
}

#[test]
fn hsh_queues_through_the_control_socket() {
    let sink = Sink::start();
    let app = APP.replace("%SINK", &sink.port.to_string());
    let mut server = Server::prepare(&app, &[]);
    server.launch();
    std::fs::write(
        server.path("a.hsl"),
        r#"
$m = MIME()->addHeader("Subject", "of a script")->setBody("made by hsh");
$r = $m->queue("a@b.example", "c@d.example", "out", ["jobid" => "j"]);
echo json_encode([$r["queue"], $r["transaction"] =~ #/^[0-9a-f-]{36}$/]);
$large = MailMessage::String("Subject: large\r\n\r\n" . str_repeat("0123456789\r\n", 300000));
$large->addHeader("X-Added", "yes");
echo $large->queue("", ["localpart" => "e", "domain" => "d.example"], "out", ["hold" => true, "metadata" => ["k" => "v"]])["queue"];
"#,
    )
    .unwrap();
    let hsh = |server: &Server| {
        let output = Command::new(blackbox::program("hsh"))
            .arg("-c")
            .arg(server.path("smtpd.yaml"))
            .arg(server.path("a.hsl"))
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (good, out, errors) = hsh(&server);
    assert!(good, "{errors}");
    assert_eq!(out, "[1,true]\n1\n");
    wait_until("the small one is delivered", || sink.count() == 1);
    sink.look(|taken| {
        let text = String::from_utf8_lossy(&taken[0].content);
        assert!(text.contains("Subject: of a script\r\n") && text.contains("made by hsh"), "{text}");
        assert!(text.contains("\r\nDate: ") && text.contains("\r\nMessage-ID: "), "{text}");
    });
    let queue = server.queue();
    assert_eq!(queue.len(), 1, "{queue:?}");
    let id = queue[0]["id"]["transaction"].as_str().unwrap_or_default().to_owned();
    let exported = server.halonctl(&["queue", "export", &format!("{id}:1")]).stdout;
    assert!(exported.len() > 3_600_000, "{queue:?}: {} octets", exported.len());
    assert!(exported.starts_with(b"X-Added: yes\r\nSubject: large\r\n"));
    server.stop();
    let (good, _, errors) = hsh(&server);
    assert!(!good && errors.contains("queue(): ") && errors.contains("/ctl: "), "{errors}");
}
