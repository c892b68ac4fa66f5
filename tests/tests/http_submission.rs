//! Submission over HTTP and HTTPS (`smtp-hooks` 7.1) with requests as clients send them.

use blackbox::app::App;
use blackbox::certificates::{self, yaml};
use blackbox::sink::Sink;
use blackbox::talk::{Talk, TlsClient};
use blackbox::{Server, wait_until};
use serde_json::{Value, json};
use std::time::Duration;

const ENVELOPE: &str = r#"{"sender": {"localpart": "a", "domain": "b.example"}, "recipients": [{"localpart": "c", "domain": "d.example"}, {"localpart": "e", "domain": "bücher.example"}], "metadata": {"campaign": 7}}"#;

const MESSAGE: &str = "Subject: over http\n\nfirst\nsecond\n";

fn start(server: &str, hook: &str) -> (Server, Sink) {
    let app = App::new().server(&format!("type: http{server}"));
    let app = if hook.is_empty() { app } else { app.hook("eod", hook) };
    app.start_on("[{id: in, type: http, listeners: [{port: @port, address: 127.0.0.1}]}]", "")
}

fn body(parts: &[(&str, &str)]) -> String {
    let mut body = String::new();
    for (name, content) in parts {
        body.push_str(&format!(
            "--b0undary\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{content}\r\n"
        ));
    }
    body + "--b0undary--\r\n"
}

fn request(headers: &str, body: &str) -> String {
    format!(
        "POST /v1/submission HTTP/1.1\r\nHost: mx\r\nContent-Type: multipart/form-data; boundary=b0undary\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
}

/// Status and decoded body of the answers to what was sent.
fn answers(talk: &mut Talk) -> Vec<(u16, Value)> {
    let text = talk.rest(Duration::from_millis(700));
    let mut found = Vec::new();
    for answer in text.split("HTTP/1.1 ").filter(|answer| !answer.is_empty()) {
        let status: u16 = answer[..3].parse().expect("a status");
        let content = answer.split_once("\r\n\r\n").expect("a header").1;
        found.push((status, serde_json::from_str(content).unwrap_or(Value::Null)));
    }
    found
}

fn ask(server: &Server, text: &str) -> (u16, Value) {
    let mut talk = Talk::connect(server.port);
    talk.send(text.as_bytes());
    let mut all = answers(&mut talk);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[test]
fn a_submission_runs_the_eod_hook_and_is_delivered() {
    let (server, sink) = start(
        ", apikeys: [s3cret]",
        "echo \"eod \" + json_encode([\"m\" => $arguments[\"metadata\"], \"h\" => $arguments[\"http\"], \"c\" => $connection, \"t\" => $transaction]);\n\
         foreach ($transaction[\"recipients\"] as $r) $arguments[\"mail\"]->queue($transaction[\"sender\"], $r[\"address\"], $r[\"transportid\"]);\n\
         Accept([\"metadata\" => [\"seen\" => true]]);",
    );
    let text = request(
        "X-API-Key: s3cret\r\nX-Other: yes\r\n",
        &body(&[("options", ENVELOPE), ("rfc822", MESSAGE)]),
    );
    let (status, answer) = ask(&server, &text);
    assert_eq!(status, 200, "{answer}");
    let id = answer["transaction"]["id"].as_str().expect("an id").to_owned();
    assert_eq!(
        answer["result"],
        json!({"code": 250, "enhanced": [2, 0, 0], "reason": [format!("Ok: queued as {id}")]})
    );
    assert_eq!(answer["metadata"], json!({"seen": true}));
    let seen = server.echoed("eod");
    assert_eq!(seen["m"], json!({"campaign": 7}));
    assert_eq!(seen["h"]["path"], "/v1/submission");
    let headers = seen["h"]["headers"].to_string();
    assert!(headers.contains("[\"x-other\",\"yes\"]") && !headers.contains("s3cret"), "{headers}");
    assert_eq!(seen["c"]["remoteip"], "127.0.0.1");
    assert!(seen["c"].get("helo").is_none() && seen["c"].get("auth").is_none());
    assert_eq!(seen["t"]["recipients"][1]["address"]["domain"], "bücher.example");
    assert_eq!(seen["t"]["recipients"][0]["params"], json!([]));
    wait_until("the first is delivered", || sink.count() >= 1);
    let taken = sink.taken().into_iter().find(|one| one.to == "c@d.example").expect("the first");
    let content = String::from_utf8_lossy(&taken.content).into_owned();
    assert!(
        content.contains("(Halon) with HTTP\r\n") && content.contains(&format!("\tid {id};")),
        "{content}"
    );
    assert!(content.ends_with("Subject: over http\r\n\r\nfirst\r\nsecond\r\n"), "{content:?}");
    // S16: the key is in no log.
    assert!(!server.log().contains("s3cret"));
}

#[test]
fn results_of_the_hook_are_answers_and_limits_too() {
    let (server, sink) = start(
        "",
        "if ($transaction[\"senderaddress\"][\"localpart\"] == \"no\") Reject(\"not you\", [\"reply_codes\" => [\"code\" => 551]]);\n\
         if ($transaction[\"sender\"] == \"\") throw Exception(\"oh\");",
    );
    let with = |sender: &str| {
        let envelope = ENVELOPE.replace("\"a\"", &format!("\"{sender}\""));
        request("", &body(&[("rfc822", MESSAGE), ("options", &envelope)]))
    };
    assert_eq!(
        ask(&server, &with("no")).1["result"],
        json!({"code": 551, "enhanced": [5, 7, 1], "reason": ["not you"]})
    );
    // The end of the script says nothing about the message.
    assert_eq!(ask(&server, &with("a")).1["result"]["code"], 421);
    let null = ENVELOPE.replace("\"a\"", "\"\"").replace("b.example", "");
    let text = request("", &body(&[("options", &null), ("rfc822", MESSAGE)]));
    assert_eq!(ask(&server, &text).1["result"]["reason"], json!(["Temporary server error"]));
    assert!(server.queue().is_empty() && sink.count() == 0);
}

#[test]
fn errors_have_their_status() {
    let (server, _sink) = start(", apikeys: [one, two], http: {maxsize: 4000}", "");
    let good = body(&[("options", ENVELOPE), ("rfc822", MESSAGE)]);
    let key = "X-API-Key: two\r\n";
    for (text, expected, words) in [
        (request(key, &good).replace("/v1/submission", "/v1/other"), 404, "no such path"),
        (request(key, "").replace("POST", "GET"), 405, "expected POST"),
        (request("", &good), 401, "X-API-Key"),
        (request("X-API-Key: thr\r\n", &good), 401, "X-API-Key"),
        (request(key, &"x".repeat(5000)), 413, "larger than 4000"),
        (request(key, &good).replace("multipart/form-data", "text/plain"), 400, "multipart/form-data"),
        (request(key, &body(&[("options", ENVELOPE)])), 400, "'rfc822' is missing"),
        (request(key, &body(&[("rfc822", MESSAGE)])), 400, "'options' is missing"),
        (request(key, &body(&[("options", "{"), ("rfc822", MESSAGE)])), 400, "Invalid JSON"),
        (request(key, &body(&[("options", ENVELOPE), ("options", ENVELOPE)])), 400, "two parts"),
        (request(key, &good[..good.len() - 40]), 400, ""),
    ] {
        let (status, answer) = ask(&server, &text);
        assert_eq!(status, expected, "{answer} for {text}");
        assert!(answer["error"].as_str().unwrap_or_default().contains(words), "{answer}");
    }
    // Chunks without a length run into the same limit.
    let chunk = format!("{:x}\r\n{}\r\n", 1000, "z".repeat(1000));
    let head = "POST /v1/submission HTTP/1.1\r\nHost: mx\r\nX-API-Key: one\r\nContent-Type: multipart/form-data; boundary=b0undary\r\nTransfer-Encoding: chunked\r\n\r\n";
    let start = "--b0undary\r\nContent-Disposition: form-data; name=\"rfc822\"\r\n\r\n";
    let text = format!("{head}{:x}\r\n{start}\r\n{}0\r\n\r\n", start.len(), chunk.repeat(8));
    assert_eq!(ask(&server, &text).0, 413);
    assert!(server.queue().is_empty() && server.hqf_files().is_empty());
}

#[test]
fn connections_are_kept_and_served_in_order() {
    let (server, sink) = start("", "");
    let mut talk = Talk::connect(server.port);
    let one = request("", &body(&[("options", ENVELOPE), ("rfc822", MESSAGE)]));
    talk.send(format!("{one}{one}{one}").as_bytes());
    let all = answers(&mut talk);
    assert_eq!(all.len(), 3);
    let mut ids: Vec<&str> =
        all.iter().filter_map(|(_, answer)| answer["transaction"]["id"].as_str()).collect();
    ids.dedup();
    assert_eq!(ids.len(), 3, "{all:?}");
    wait_until("all are delivered", || sink.count() >= 3);
}

#[test]
fn https_and_its_certificate() {
    let mx = certificates::self_signed("mx.test.example");
    let app = App::new().server("type: https, tls: {certs: [{cert: mx}]}").top(&format!(
        "pki: {{private: [{{id: mx, certificate: {{data: {}}}, privatekey: {{data: {}}}}}]}}",
        yaml(&mx.pem()),
        yaml(&mx.key_pem())
    ));
    let app = app.hook("eod", "echo \"eod \" + json_encode([\"c\" => $connection]); Accept();");
    let (server, _sink) =
        app.start_on("[{id: in, type: https, listeners: [{port: @port, address: 127.0.0.1}]}]", "");
    let mut talk = Talk::connect_tls(server.port, &TlsClient::default()).expect("TLS");
    let text = request("Connection: close\r\n", &body(&[("options", ENVELOPE), ("rfc822", MESSAGE)]));
    talk.send(text.as_bytes());
    let all = answers(&mut talk);
    assert_eq!(all[0].1["result"]["code"], 250, "{all:?}");
    assert_eq!(server.echoed("eod")["c"]["tls"]["protocol"], "TLSv1.3");
}

#[test]
fn s2_a_client_that_goes_away_does_not_stop_the_hook() {
    let (server, sink) = start(
        "",
        "sleep(1); $arguments[\"mail\"]->queue(\"\", \"c@d.example\", \"out\"); echo \"came to its end\"; Accept();",
    );
    let mut talk = Talk::connect(server.port);
    talk.send(request("", &body(&[("options", ENVELOPE), ("rfc822", MESSAGE)])).as_bytes());
    std::thread::sleep(Duration::from_millis(300));
    drop(talk);
    server.logged(&["came to its end"]);
    wait_until("it was committed", || sink.count() == 1);
}
