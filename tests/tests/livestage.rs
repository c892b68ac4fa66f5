//! Live stage: a second configuration for part of the traffic, which disturbs nothing that is under way.

use blackbox::Server;
use blackbox::sink::Sink;
use blackbox::talk::Talk;
use blackbox::wait_until;
use control::client::{Client, Endpoint};
use control::frame::Status;
use control::smtpd as wire;
use std::time::Duration;

/// The name tells the configurations apart: to clients in the reply to RSTA, to next hops in EHLO.
const APP: &str = r#"
version: "6.9"
servers:
  - {id: in, transport: out, phases: {connect: {remoteptr: false}, mailfrom: {hook: main}}}
transportgroups:
  - id: g
    connection: {server: 127.0.0.1, port: %SINK}
    session: {tls: {mode: disabled}, helo: %NAME.example}
    retry: {intervals: [{interval: 1}]}
    transports: [{id: out}]
scripting:
  hooks:
    mailfrom:
      - id: main
        data: |
          if ($arguments["address"]["localpart"] == "who") Reject("%NAME");
          Accept();
    predelivery: |
      if ($message["senderaddress"]["localpart"] == "held") Queue(["hold" => true, "reason" => "%NAME"]);
      Try();
"#;

struct Rig {
    server: Server,
    sink: Sink,
}

fn rig() -> Rig {
    let sink = Sink::start();
    let server = Server::start(&app("blue", &sink), &[]);
    server.write("green.yaml", &app("green", &sink));
    Rig { server, sink }
}

fn app(name: &str, sink: &Sink) -> String {
    APP.replace("%SINK", &sink.port.to_string()).replace("%NAME", name)
}

impl Rig {
    fn start(&self, options: &[&str]) {
        let file = self.server.path("green.yaml").display().to_string();
        let command = ["config", "livestage", "start", "--file", &file];
        assert_eq!(self.server.ctl(&[&command, options].concat()), "");
    }

    fn status(&self) -> String {
        self.server.ctl(&["config", "livestage", "status"])
    }

    /// What the command says on standard error; it has to fail.
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.server.halonctl(&[&["config", "livestage"], arguments].concat());
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn connect(&self) -> Talk {
        Talk::greeted(self.server.port)
    }

    /// Which configuration a new connection has.
    fn asked(&self) -> String {
        who(&mut self.connect())
    }
}

fn who(talk: &mut Talk) -> String {
    let reply = talk.command("MAIL FROM:<who@example.org>", "5");
    reply.rsplit(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn a_tenth_of_two_thousand_connections() {
    let rig = rig();
    let (mut before, mut talking) = (rig.connect(), rig.connect());
    talking.command("MAIL FROM:<a@example.org>", "250 ");
    rig.start(&["--id", "t1", "--probability", "0.1", "--time", "3600"]);
    let green = (0..2000).filter(|_| rig.asked() == "green").count();
    println!("{green} of 2000 connections, expected 200 with a deviation of 13.4");
    // Five deviations: one run in two million is outside.
    assert!((133..=267).contains(&green), "{green} of 2000");
    let status = rig.status();
    assert!(status.starts_with(&format!("t1: {green} connections(s), ")), "{status}");
    assert!(status.ends_with("/3600 runtime\n"), "{status}");
    // Who was there before has what it came to.
    assert_eq!(who(&mut before), "blue");
    talking.command("RCPT TO:<b@example.net>", "250 ");
    talking.command("DATA", "354 ");
    rig.server.ctl(&["config", "livestage", "cancel"]);
    talking.send(b"Subject: x\r\n\r\nbody\r\n.\r\n");
    talking.expect("250 ");
    assert_eq!(rig.status(), "No live stage\n");
    assert_eq!((0..20).filter(|_| rig.asked() == "green").count(), 0);
}

#[test]
fn connections_of_a_stage_outlive_its_end() {
    let rig = rig();
    rig.start(&["--id", "t1"]);
    let (mut idle, mut talking) = (rig.connect(), rig.connect());
    talking.command("MAIL FROM:<a@example.org>", "250 ");
    talking.command("RCPT TO:<b@example.net>", "250 ");
    talking.command("DATA", "354 ");
    talking.send(b"Subject: x\r\n");
    rig.server.ctl(&["config", "livestage", "cancel"]);
    rig.server.ctl(&["config", "reload"]);
    talking.send(b"\r\nbody\r\n.\r\n");
    talking.expect("250 ");
    assert_eq!(who(&mut talking), "green");
    assert_eq!(who(&mut idle), "green");
    assert_eq!(rig.asked(), "blue");
    wait_until("the message is delivered", || rig.sink.count() == 1);
    // By expiry: the same.
    rig.start(&["--id", "t2", "--count", "2"]);
    let (mut first, mut second) = (rig.connect(), rig.connect());
    assert_eq!(rig.asked(), "blue");
    let status = rig.status();
    assert!(status.starts_with("t2: 2/2 connections(s), ") && status.ends_with(" (expired)\n"), "{status}");
    assert_eq!((who(&mut first), who(&mut second)), ("green".into(), "green".into()));
    // An expired stage makes room for another one.
    rig.start(&["--id", "t3", "--time", "1"]);
    assert_eq!(rig.asked(), "green");
    wait_until("the stage expires", || rig.status().contains("(expired)"));
    assert_eq!(rig.asked(), "blue");
}

#[test]
fn conditions_and_mistakes() {
    let rig = rig();
    for (options, taken) in [
        (&["--remoteip", "192.0.2.0/24"][..], false),
        (&["--remoteip", "192.0.2.0/24", "--remoteip", "127.0.0.0/8"], true),
        (&["--serverid", "out"], false),
        (&["--serverid", "out", "--serverid", "in", "--remoteip", "127.0.0.1"], true),
        (&["--serverid", "in", "--remoteip", "::1"], false),
    ] {
        // The same name replaces the stage.
        rig.start(&[&["--id", "t1"], options].concat());
        assert_eq!(rig.asked(), if taken { "green" } else { "blue" }, "{options:?}");
    }
    let file = rig.server.path("green.yaml").display().to_string();
    let said = rig.refused(&["start", "--id", "t2", "--file", &file]);
    assert!(said.contains("Live stage 't1' is already active"), "{said}");
    for (arguments, word) in [
        (&["start", "--id", "t1", "--file", &file, "--remoteip", "mx"][..], "'mx' is no address or network"),
        (&["start", "--id", "", "--file", &file], "needs an id"),
        (&["start", "--id", "t1", "--file", &file, "--probability", "0"], "above 0"),
    ] {
        let said = rig.refused(arguments);
        assert!(said.contains(word), "{said}");
    }
    // A configuration in error changes nothing.
    rig.start(&["--id", "t1"]);
    for (from, to, word) in [
        ("Accept();", "Acept();", "main.hsl:2:1: Unknown function 'Acept'; did you mean 'Accept'?"),
        ("servers:", "server:", "/server"),
        ("hook: main", "hook: other", "other"),
    ] {
        rig.server.write("broken.yaml", &app("broken", &rig.sink).replace(from, to));
        let broken = rig.server.path("broken.yaml").display().to_string();
        let said = rig.refused(&["start", "--id", "t1", "--file", &broken]);
        assert!(said.contains(word), "{said}");
        let checked = rig.server.halonctl(&["config", "check", "--file", &broken]);
        assert!(!checked.status.success());
        let said = String::from_utf8_lossy(&checked.stdout);
        assert!(said.contains(word), "{said}");
        assert_eq!(rig.asked(), "green");
    }
    assert_eq!(rig.server.ctl(&["config", "check", "--file", &file]), "");
    rig.server.ctl(&["config", "livestage", "cancel"]);
    assert!(rig.refused(&["cancel"]).contains("No live stage"));
}

#[test]
fn messages_are_worked_on_under_the_stage_that_accepted_them() {
    let rig = rig();
    let suspended = rig.server.ctl(&["queue", "suspend", "add", "--transportid", "out"]);
    rig.start(&["--id", "t1"]);
    let mut green = rig.connect();
    rig.start(&["--id", "t1", "--remoteip", "192.0.2.1"]);
    let mut blue = rig.connect();
    green.message("a@example.org", "green@example.net", "Subject: x\r\n");
    blue.message("a@example.org", "blue@example.net", "Subject: x\r\n");
    green.message("held@example.org", "held@example.net", "Subject: x\r\n");
    blue.message("held@example.org", "held@example.net", "Subject: x\r\n");
    let list = |stage: &str, field: &str| {
        rig.server.ctl(&["queue", "list", "--no-header", "--stageid", stage, "--state", "HOLD", "-F", field])
    };
    wait_until("two are held", || {
        rig.server.ctl(&["queue", "list", "--no-header", "--state", "HOLD"]).lines().count() == 2
    });
    assert_eq!(list("t1", "retryreason").matches("green").count(), 1);
    assert_eq!(list("", "retryreason").matches("blue").count(), 1);
    rig.server.ctl(&["queue", "suspend", "delete", suspended.trim()]);
    wait_until("both are delivered", || rig.sink.count() == 2);
    for taken in rig.sink.taken() {
        let name = taken.to.split('@').next().unwrap_or_default().to_owned();
        assert_eq!(taken.helo, format!("{name}.example"), "{}", taken.to);
    }
    // When the stage is gone, the running configuration takes over.
    rig.sink.set_down(true);
    green.message("a@example.org", "late@example.net", "Subject: x\r\n");
    let tried =
        ["queue", "list", "--no-header", "-F", "id", "--retrycount", ">0", "--recipient", "late@example.net"];
    wait_until("it was tried", || !rig.server.ctl(&tried).is_empty());
    rig.server.ctl(&["config", "livestage", "cancel"]);
    rig.sink.set_down(false);
    wait_until("it is delivered", || rig.sink.count() == 3);
    assert_eq!(rig.sink.taken()[2].helo, "blue.example");
}

#[test]
fn a_bound_stage_ends_with_its_connection() {
    let rig = rig();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = app("green", &rig.sink);
    let request = wire::ConfigGreenDeployRequest {
        id: "debug".into(),
        config,
        connectionbound: true,
        ..Default::default()
    };
    let client = runtime.block_on(async {
        let endpoint = Endpoint::Unix(rig.server.path("ctl"));
        let mut client = Client::connect(&endpoint, None).await.unwrap();
        client.request::<_, ()>(b'a', &request).await.unwrap();
        client
    });
    assert_eq!(rig.asked(), "green");
    drop(client);
    wait_until("the stage is gone", || rig.status() == "No live stage\n");
    assert_eq!(rig.asked(), "blue");
}

/// A control connection that debugs a stage, as an editor does.
struct Editor {
    runtime: tokio::runtime::Runtime,
    client: Client,
    /// Texts of the interim frames so far.
    logged: Vec<wire::HslLogResponse>,
}

impl Editor {
    fn deploy(rig: &Rig, config: String) -> Editor {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let endpoint = Endpoint::Unix(rig.server.path("ctl"));
        let request = wire::ConfigGreenDeployRequest {
            id: "debug".into(),
            config,
            connectionbound: true,
            ..Default::default()
        };
        let client = runtime.block_on(async {
            let mut client = Client::connect(&endpoint, Some(Duration::from_secs(20))).await.unwrap();
            client.request::<_, ()>(b'a', &request).await.unwrap();
            client
        });
        Editor { runtime, client, logged: Vec::new() }
    }

    fn command(&mut self, letter: u8) -> Result<bytes::Bytes, String> {
        let (client, logged) = (&mut self.client, &mut self.logged);
        self.runtime.block_on(async {
            // The only one of them with a request body, which may be empty.
            let body = (letter == b'd').then_some(&[][..]);
            client.send(letter, body).await.unwrap();
            loop {
                let reply = client.receive().await.unwrap();
                match reply.status {
                    Status::Interim => logged.push(decode(reply.payload)),
                    Status::Done => return Ok(reply.payload),
                    Status::Error => return Err(String::from_utf8_lossy(&reply.payload).into_owned()),
                }
            }
        })
    }

    fn stop(&mut self) -> wire::HslBreakPointResponse {
        decode(self.command(b'e').unwrap())
    }

    fn go_on(&mut self) {
        self.command(b'f').unwrap();
    }
}

fn decode<M: prost::Message + Default>(payload: bytes::Bytes) -> M {
    M::decode(payload).unwrap()
}

/// The value of a variable at a stop.
fn variable(stop: &wire::HslBreakPointResponse, name: &str) -> serde_json::Value {
    let values: serde_json::Value = serde_json::from_str(&stop.values).unwrap();
    assert_eq!(values[name]["format"], "json", "{name} in {}", stop.values);
    serde_json::from_str(values[name]["value"].as_str().unwrap()).unwrap()
}

#[test]
fn scripts_of_a_stage_are_debugged_while_they_run() {
    let rig = rig();
    let points = app("green", &rig.sink)
        .replace(
            "          if ($arguments[\"address\"]",
            "          function add($x) { __debug [\"debug\", \"in\"] return $x + 1; }\n          \
             $sum = add(41);\n          __debug [\"debug\", \"log\", true] echo \"sum $sum\";\n          \
             try { throw \"up\"; } catch ($e) { }\n          if ($arguments[\"address\"]",
        )
        .replace("      Try();", "      __debug [\"debug\", \"pre\"] Try();");
    assert_ne!(points, app("green", &rig.sink));
    let mut editor = Editor::deploy(&rig, points);
    let mut talk = rig.connect();
    let mut other = rig.connect();
    talk.send(b"MAIL FROM:<a@example.org>\r\n");
    let stop = editor.stop();
    assert_eq!((stop.id.as_str(), stop.debugid.as_str()), ("in", "debug"));
    assert_eq!(variable(&stop, "x"), 41);
    assert_eq!(variable(&stop, "arguments")["sender"], "a@example.org");
    let at = stop.location.clone().unwrap();
    assert_eq!((at.file.as_str(), at.beginline), ("mailfrom:main", 1));
    assert_eq!(stop.callstack.last().unwrap().function, "add");
    assert!(!stop.connectionid.is_empty() && stop.transactionid.is_empty() && stop.time > 1.6e9);
    // A second client stands in line behind it; both throw once.
    other.send(b"MAIL FROM:<b@example.org>\r\n");
    editor.go_on();
    let mut stops = Vec::new();
    for _ in 0..3 {
        let stop = editor.stop();
        editor.go_on();
        match stop.id.as_str() {
            "in" => assert_eq!(variable(&stop, "arguments")["sender"], "b@example.org"),
            _ => assert_eq!(variable(&stop, "__throw"), "up"),
        }
        stops.push(stop.id);
    }
    stops.sort();
    assert_eq!(stops, ["", "", "in"]);
    talk.expect("250 ");
    other.expect("250 ");
    let texts: Vec<String> =
        editor.logged.iter().map(|log| String::from_utf8_lossy(&log.text).into_owned()).collect();
    assert_eq!(texts, ["sum 42", "sum 42"]);
    assert_eq!(editor.logged[0].location.as_ref().unwrap().file, "mailfrom:main");
    let hit: wire::HslBreakPointResponse = decode(editor.command(b'd').unwrap());
    assert_eq!((hit.id.as_str(), variable(&hit, "sum")), ("log", 42.into()));
    // Queue hooks of a message that the stage accepted.
    talk.command("RCPT TO:<c@example.net>", "250 ");
    talk.command("DATA", "354 ");
    talk.send(b"Subject: x\r\n\r\nx\r\n.\r\n");
    talk.expect("250 ");
    let stop = editor.stop();
    assert_eq!((stop.id.as_str(), stop.location.unwrap().file.as_str()), ("pre", "predelivery:"));
    assert!(!stop.transactionid.is_empty());
    assert_eq!(rig.sink.count(), 0);
    editor.go_on();
    wait_until("it is delivered", || rig.sink.count() == 1);
    assert_eq!(editor.command(b'f'), Err("No breakpoint".to_owned()));
    // Cancelled from elsewhere while a script stands still: it goes on, the editor is told.
    let mut last = rig.connect();
    last.send(b"MAIL FROM:<d@example.org>\r\n");
    assert_eq!(editor.stop().id, "in");
    rig.server.ctl(&["config", "livestage", "cancel"]);
    last.expect("250 ");
    assert!(editor.command(b'e').is_err());
    assert_eq!(rig.asked(), "blue");
}

#[test]
fn only_who_started_a_stage_debugs_it() {
    let rig = rig();
    rig.start(&["--id", "t1"]);
    let mut editor = Editor::deploy(&rig, {
        rig.server.ctl(&["config", "livestage", "cancel"]);
        app("green", &rig.sink).replace("          if (", "          __debug [\"debug\", \"p\"] if (")
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let endpoint = Endpoint::Unix(rig.server.path("ctl"));
    let client = runtime.block_on(Client::connect(&endpoint, None)).unwrap();
    let mut stranger = Editor { runtime, client, logged: Vec::new() };
    for letter in [b'e', b'f'] {
        assert!(
            stranger.command(letter).is_err_and(|text| text.contains("No live stage was started by this"))
        );
    }
    // The editor goes away without a word: who stands still goes on.
    let mut talk = rig.connect();
    talk.send(b"MAIL FROM:<a@example.org>\r\n");
    assert_eq!(editor.stop().id, "p");
    drop(editor);
    talk.expect("250 ");
    wait_until("the stage is gone", || rig.status() == "No live stage\n");
}
