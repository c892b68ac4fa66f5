//! `hsh -C` with a debugger that listens on a Unix socket and speaks the protocol byte by byte.

use bytes::BytesMut;
use control::frame::{Reply, Status, encode_request};
use control::smtpd::{HslBreakPointRequest, HslBreakPointResponse, HslLogResponse};
use prost::Message;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running script and the debugger's end of the connection.
struct Session {
    child: Child,
    stream: UnixStream,
    input: BytesMut,
    first: bool,
    /// Texts of the output frames so far.
    output: Vec<String>,
    _folder: tempfile::TempDir,
}

impl Session {
    /// The way an editor starts it: the script is the entry point of an app file on standard input.
    fn start(script: &str, files: &[(&str, &str)]) -> Session {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("debug.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_hsh"))
            .args(["-C", socket.to_str().unwrap(), "-c", "/dev/null", "-A", "-", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let files: Vec<_> =
            files.iter().map(|(id, data)| serde_json::json!({"id": id, "data": data})).collect();
        let app =
            serde_json::json!({"version": "6.9", "__entrypoint": script, "scripting": {"files": files}});
        child.stdin.take().unwrap().write_all(app.to_string().as_bytes()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Session { child, stream, input: BytesMut::new(), first: true, output: Vec::new(), _folder: folder }
    }

    fn send(&mut self, command: u8, body: Option<&[u8]>) {
        let first = std::mem::take(&mut self.first);
        self.stream.write_all(&encode_request(first, command, body)).unwrap();
    }

    /// The answer to a request; output that comes before is noted.
    fn answer(&mut self) -> Result<Vec<u8>, String> {
        loop {
            while let Some(Reply { status, payload }) = Reply::decode(&mut self.input).unwrap() {
                match status {
                    Status::Done => return Ok(payload.to_vec()),
                    Status::Error => return Err(String::from_utf8(payload.to_vec()).unwrap()),
                    Status::Interim => {
                        let log = HslLogResponse::decode(payload).unwrap();
                        self.output.push(String::from_utf8(log.text).unwrap());
                    }
                }
            }
            let mut chunk = [0; 4096];
            let n = self.stream.read(&mut chunk).unwrap();
            assert!(n > 0, "closed while an answer was due");
            self.input.extend_from_slice(&chunk[..n]);
        }
    }

    fn next_stop(&mut self) -> HslBreakPointResponse {
        self.send(b'e', None);
        HslBreakPointResponse::decode(self.answer().unwrap().as_slice()).unwrap()
    }

    fn go_on(&mut self) {
        self.send(b'f', None);
        assert_eq!(self.answer(), Ok(Vec::new()));
    }

    /// Exit status, output, errors.
    fn end(mut self) -> (i32, String, String) {
        let (mut out, mut errors) = (String::new(), String::new());
        self.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        (self.child.wait().unwrap().code().unwrap(), out, errors)
    }
}

fn shown(stop: &HslBreakPointResponse, name: &str) -> serde_json::Value {
    let values: serde_json::Value = serde_json::from_str(&stop.values).unwrap();
    values[name].clone()
}

#[test]
fn stops_show_variables_calls_and_place() {
    let helper = "function twice($x) {\n    $double = $x * 2;\n    __debug [\"undefined\", \"7\"] return $double;\n}\n";
    let script = "include \"dir/helper.hsl\";\n$list = [\"a\" => [1, 2]];\n$raw = \"\\xff\";\necho \"before\";\n\
                  echo twice(21);\n__debug [\"undefined\", \"8\"] $list = none;\n";
    let mut session = Session::start(script, &[("dir/helper.hsl", helper)]);
    let stop = session.next_stop();
    assert_eq!((stop.id.as_str(), stop.debugid.as_str()), ("7", "undefined"));
    assert_eq!(session.output, ["before"]);
    let at = stop.location.clone().unwrap();
    assert_eq!((at.file.as_str(), at.beginline), ("dir/helper.hsl", 3));
    let calls: Vec<&str> = stop.callstack.iter().map(|call| call.function.as_str()).collect();
    assert_eq!(calls, ["(main)", "twice"]);
    assert_eq!(shown(&stop, "double"), serde_json::json!({"format": "json", "value": "42"}));
    // The variables of the main part are out of its reach.
    assert_eq!(shown(&stop, "list"), serde_json::Value::Null);
    assert!(stop.time > 1.6e9, "{}", stop.time);
    // Nothing runs on while it stands.
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(session.output, ["before"]);
    session.go_on();
    let stop = session.next_stop();
    assert_eq!((stop.id.as_str(), stop.location.clone().unwrap().file.as_str()), ("8", "hsh"));
    assert_eq!(shown(&stop, "list"), serde_json::json!({"format": "json", "value": "{\"a\":[1,2]}"}));
    assert_eq!(shown(&stop, "raw"), serde_json::json!({"format": "base64", "value": "/w=="}));
    session.go_on();
    session.send(b'e', None);
    assert_eq!(session.answer(), Err("No breakpoint".to_owned()));
    assert_eq!(session.output, ["before", "42"]);
    assert_eq!(session.end(), (0, "before\n42\n".into(), String::new()));
}

#[test]
fn exceptions_are_reported_caught_or_not() {
    let script = "try { throw \"first\"; } catch ($e) { echo \"got $e\"; }\nfunction f() { return nosuch->x; }\nf();\n";
    let script = script.replace("nosuch->x", "json_decode([])");
    let mut session = Session::start(&script, &[]);
    let stop = session.next_stop();
    assert_eq!((stop.id.as_str(), shown(&stop, "__throw")["uncaught"].as_bool()), ("", Some(false)));
    assert_eq!(shown(&stop, "__throw")["message"], "\"first\"");
    session.go_on();
    let stop = session.next_stop();
    let thrown = shown(&stop, "__throw");
    assert_eq!((thrown["uncaught"].as_bool(), stop.location.unwrap().beginline), (Some(true), 2));
    assert!(thrown["message"].as_str().unwrap().contains("json_decode"), "{thrown}");
    assert_eq!(stop.callstack.len(), 2);
    session.go_on();
    let (code, out, errors) = session.end();
    assert_eq!((code, out.as_str()), (1, "got first\n"));
    assert!(errors.contains("hsh:") || errors.contains("-:2:"), "{errors}");
}

#[test]
fn logpoints_are_collected_and_nothing_stops() {
    let script = "for ($i = 0; $i < 3; $i += 1)\n__debug [\"s\", \"1\", true] $j = $i;\n__debug [\"t\", \"2\"] echo \"end\";\n";
    let mut session = Session::start(script, &[]);
    assert_eq!(session.next_stop().id, "2");
    let mut fetch = |stage: &str| {
        let body = HslBreakPointRequest { debugid: stage.into(), limit: 0 }.encode_to_vec();
        session.send(b'd', Some(&body));
        let reply = session.answer().unwrap();
        let empty = reply.is_empty();
        (!empty)
            .then(|| shown(&HslBreakPointResponse::decode(reply.as_slice()).unwrap(), "i")["value"].clone())
    };
    assert_eq!(fetch("other"), None);
    assert_eq!(
        [fetch("s"), fetch(""), fetch("s"), fetch("s")],
        [Some("0".into()), Some("1".into()), Some("2".into()), None]
    );
    session.go_on();
    assert_eq!(session.end().0, 0);
}

#[test]
fn a_debugger_that_goes_away_lets_the_script_run_on() {
    let script = "for ($i = 0; $i < 3; $i += 1)\n__debug [\"s\", \"1\"] echo $i;\n";
    let mut session = Session::start(script, &[]);
    session.next_stop();
    session.stream.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(session.end(), (0, "0\n1\n2\n".into(), String::new()));
}

#[test]
fn an_interrupt_ends_a_script_that_stands() {
    let mut session = Session::start("__debug [\"s\", \"1\"] echo 1;", &[]);
    session.next_stop();
    let pid = nix::unistd::Pid::from_raw(session.child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(session.end().0, 130);
}

#[test]
fn bad_requests_and_sockets() {
    let mut session = Session::start("sleep(0.3);", &[]);
    session.send(b'q', None);
    assert_eq!(session.answer(), Err("Unknown command".to_owned()));
    session.send(b'f', None);
    assert_eq!(session.answer(), Err("No breakpoint".to_owned()));
    session.send(b'd', Some(b"\xff"));
    assert_eq!(session.answer(), Err("Invalid request".to_owned()));
    assert_eq!(session.end().0, 0);
    let output = Command::new(env!("CARGO_BIN_EXE_hsh"))
        .args(["-c", "/dev/null", "-C", "/nonexistent/debug.sock", "-"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("/nonexistent/debug.sock"), "{errors}");
}
