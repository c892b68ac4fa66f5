//! The real `halonctl`: requests as it would send them, answers as it prints them, exit codes.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;

use control::frame::Request;
use control::server::{Answering, Handler, Peer, payload};
use control::smtpd::*;
use tokio::net::UnixListener;

fn halonctl(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_halonctl"));
    command.args(arguments).env_remove("HALONCTL_SOCKET").env("TZ", "UTC").output().unwrap()
}

/// The request as one line of JSON, nothing sent.
fn request(arguments: &[&str]) -> String {
    let output = halonctl(&[arguments, &["--json-request", "--dry-run"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::trim).collect::<Vec<_>>().join("").replace("\": ", "\":")
}

#[test]
fn condition_options_fill_their_fields() {
    let id = "c6321f4c-1671-11ea-885e-005056914940";
    let id_one = format!("{id}:1");
    let id_not = format!("!{id}");
    let with_id = |rest: &str| format!(r#"{{"ids":[{{"transaction":"{id}"{rest}}}]}}"#);
    let cases: Vec<(Vec<&str>, String)> = [
        (vec!["--transportid", "t1", "--transportid", "!/x/"], r#"{"transportids":[{"value":"t1"},{"exclude":true,"value":"x","type":"REGEX"}]}"#),
        (vec!["--jobid", "j"], r#"{"jobids":[{"value":"j"}]}"#),
        (vec!["--tenantid", "t"], r#"{"tenantids":[{"value":"t"}]}"#),
        (vec!["--grouping", "&g"], r#"{"groupings":[{"value":"&g"}]}"#),
        (vec!["--senderdomain", "Example.com"], r#"{"senders":[{"domain":{"value":"example.com"}}]}"#),
        (vec!["--recipientdomain", "/^ex/"], r#"{"recipients":[{"domain":{"value":"^ex","type":"REGEX"}}]}"#),
        (vec!["--sender", "A@b.c"], r#"{"senders":[{"localpart":{"value":"A"},"domain":{"value":"b.c"}}]}"#),
        (vec!["--sender", ""], r#"{"senders":[{"localpart":{},"domain":{}}]}"#),
        (vec!["--recipient", "!a@b"], r#"{"recipients":[{"localpart":{"value":"a"},"domain":{"value":"b"},"exclude":true}]}"#),
        (vec!["--state", "ACTIVE", "--state", "hold", "--state", "SENDING"], r#"{"queues":[{"queue":"ACTIVE"}],"freezes":[{"freeze":"HOLD"}],"workings":[{"working":"SENDING"}]}"#),
        (vec!["--all-states"], r#"{"queues":[{"queue":"ACTIVE"},{"queue":"DEFER"}],"freezes":[{"freeze":"HOLD"},{"freeze":"UPDATE"}],"workings":[{"working":"UNKNOWN"},{"working":"SENDING"}]}"#),
        (vec!["--retrycount", "2..4", "--retrycount", "!7"], r#"{"retrycounts":[{"gte":{"value":"2"},"lte":{"value":"4"}},{"neq":{"value":"7"}}]}"#),
        (vec!["--retrydelay", "<60"], r#"{"retrytss":[{"lt":{"relative":60}}]}"#),
        (vec!["--age", ">3600"], r#"{"tss":[{"lt":{"relative":-3600}}]}"#),
        (vec!["--ts", ">=1970-01-01T00:01:00"], r#"{"tss":[{"gte":{"absolute":60}}]}"#),
        (vec!["--size", ">1KiB"], r#"{"sizes":[{"gt":{"value":"1024"}}]}"#),
        (vec!["--priority", "1"], r#"{"priorities":[{"eq":{"value":"1"}}]}"#),
        (vec!["--metadata", "k=v"], r#"{"metadatas":[{"value":{"k":{"string":[{"value":"v"}]}}}]}"#),
        (vec!["--metadata", "k~v", "--metadata", "n>=2.5"], r#"{"metadatas":[{"value":{"k":{"string":[{"value":"v","type":"PARTIAL"}]}}},{"value":{"n":{"double":[{"gte":{"value":2.5}}]}}}]}"#),
        (vec!["--metadata", "k=/x/"], r#"{"metadatas":[{"value":{"k":{"string":[{"value":"x","type":"REGEX"}]}}}]}"#),
        (vec!["--localip", "192.0.2.0/24"], r#"{"localips":[{"value":"192.0.2.0/24"}]}"#),
        (vec!["--remoteip", "::1", "--senderip", "!192.0.2.1"], r#"{"senderips":[{"exclude":true,"value":"192.0.2.1"}],"remoteips":[{"value":"::1"}]}"#),
        (vec!["--remotemx", "*.a-b.example"], r#"{"remotemxs":[{"value":"\\.a-b\\.example$","type":"REGEX"}]}"#),
        (vec!["--serverid", "s", "--stageid", "t", "--quota", "q", "--tag", "x"], r#"{"serverids":[{"value":"s"}],"stageids":[{"value":"t"}],"quotas":[{"value":"q"}],"tags":[{"value":"x"}]}"#),
        (vec!["--subject", "sale"], r#"{"subjects":[{"value":"sale","type":"PARTIAL","caseless":true}]}"#),
        (vec!["--retryreason", "=full"], r#"{"retryreasons":[{"value":"full"}]}"#),
        (vec!["--hold"], r#"{"hold":{"value":true}}"#),
        (vec!["--no-hold"], r#"{"hold":{}}"#),
        (vec!["--updatefreezing"], r#"{"workings":[{"working":"UNKNOWN","updatefreezing":{"value":true}},{"working":"SENDING","updatefreezing":{"value":true}}]}"#),
        (vec!["--probability", "0.25"], r#"{"probability":0.25}"#),
        (vec!["--policygrouping", "remotemx,tenantid"], r#"{"policygroupings":{"remotemx":true,"tenantid":true}}"#),
    ]
    .into_iter()
    .map(|(arguments, expected)| (arguments, expected.to_owned()))
    .chain([
        (vec!["--id", id], with_id("")),
        (vec!["--id", &id_one], with_id(r#","queue":"1""#)),
        (vec!["--id", &id_not], with_id(r#","exclude":true"#)),
    ])
    .collect();
    for (options, expected) in cases {
        let got = request(&[&["queue", "list", "--limit", "0"], &options[..]].concat());
        let expected = format!(r#"{{"conditions":{expected},"paging":{{}}}}"#);
        assert_eq!(got, expected, "{options:?}");
    }
}

#[test]
fn list_and_group_requests() {
    assert_eq!(request(&["queue", "list"]), r#"{"paging":{"limit":"1000"}}"#);
    assert_eq!(
        request(&[
            "queue",
            "list",
            "--sort",
            "size:desc",
            "--sort",
            "recipient.domain",
            "--offset",
            "5",
            "--view",
            "defer"
        ]),
        r#"{"conditions":{"queues":[{"queue":"DEFER"}]},"sortings":[{"size":"DESC"},{"recipient":{"domain":"ASC"}}],"paging":{"offset":"5","limit":"1000"}}"#
    );
    assert_eq!(
        request(&[
            "queue",
            "groupby",
            "--count",
            "state=HOLD",
            "--count",
            "age>60:unique*=jobid",
            "-G",
            "metadata.k",
            "--sort",
            "c1:desc",
            "--rollup",
            "big:remotemx=/x/"
        ]),
        r#"{"sortings":[{"count":"1","order":"DESC"}],"paging":{"limit":"50"},"groupbys":[{"metadata":"k"}],"counts":[{"freeze":"HOLD"},{"ts":{"lt":{"relative":-60}},"return":{"unique":{"jobid":true,"nogrouping":true}}}],"groupings":{"big":{"remotemx":[{"value":"x","type":"REGEX"}]}}}"#
    );
    let view = request(&["queue", "groupby", "--view", "age", "--bytes"]);
    assert!(view.contains(r#"{"ts":{"gt":{"relative":-300},"lte":{"relative":-60}}}"#), "{view}");
    assert!(view.contains(r#""return":"BYTES""#), "{view}");
}

#[test]
fn update_requests() {
    let queued = r#""queues":[{"queue":"ACTIVE"},{"queue":"DEFER"}],"freezes":[{"freeze":"HOLD"}]"#;
    let job = r#""jobids":[{"value":"foobar"}]"#;
    assert_eq!(
        request(&["queue", "update", "--bounce", "--state", "DEFER", "--jobid", "foobar"]),
        r#"{"conditions":{"queues":[{"queue":"DEFER"}],"jobids":[{"value":"foobar"}]},"actiontype":"BOUNCE"}"#
    );
    for (options, expected) in [
        (vec!["--delete"], r#""actiontype":"DELETE""#),
        (vec!["--delete", "--reason", "old"], r#""action":{"dsn":{"diagnosticcode":"old"}}"#),
        (
            vec!["--bounce", "--dsn-status", "5.1.1"],
            r#""action":{"type":"BOUNCE","dsn":{"status":{"class":"5","subject":"1","detail":"1"}}}"#,
        ),
        (vec!["--active"], r#""move":{"queue":"ACTIVE"}"#),
        (
            vec!["--defer", "60", "--retrytsjitter", "30"],
            r#""move":{"queue":"DEFER","retryts":{"relative":60},"retrytsjitter":{"value":"30"}}"#,
        ),
        (vec!["--hold", "--freeze"], r#""move":{"freeze":"HOLD"},"freeze":true"#),
        (vec!["--updatetransportid", "t2"], r#""transportid":{"value":"t2"}"#),
        (
            vec!["--updatemetadata", "a=b=c", "--updatepriority", "1"],
            r#""metadata":{"a":"b=c"},"priority":{"value":"1"}"#,
        ),
        (
            vec!["--updatesender", "", "--updateretrycount", "0"],
            r#""sender":{"localpart":{},"domain":{}},"retrycount":{}"#,
        ),
        (
            vec!["--updaterecipient", "a@b", "--duplicate", "--limit", "5"],
            r#""duplicate":true,"recipient":{"localpart":{"value":"a"},"domain":{"value":"b"}},"paging":{"limit":"5"}"#,
        ),
        (vec!["--updatejobid", "j2"], r#""jobid":{"value":"j2"}"#),
    ] {
        let got = request(&[&["queue", "update", "--jobid", "foobar"], &options[..]].concat());
        // Members appear in the order of their numbers.
        assert_eq!(
            got,
            format!(
                r#"{{"conditions":{{{queued_split}}},{expected}}}"#,
                queued_split = format_args!("{queued},{job}")
            ),
            "{options:?}"
        );
    }
}

#[test]
fn other_requests() {
    let id = "13ef04db-1e06-11ea-927e-0050569a4c9c";
    assert_eq!(
        request(&["queue", "export", &format!("{id}:2")]),
        format!(r#"{{"id":{{"transaction":"{id}","queue":"2"}}}}"#)
    );
    assert_eq!(request(&["queue", "unload"]), "{}");
    assert_eq!(request(&["queue", "quota", "q"]), r#"{"quota":"q"}"#);
    assert_eq!(request(&["config", "reload"]), "{}");
    assert_eq!(
        request(&[
            "queue",
            "policy",
            "add",
            "-F",
            "remotemx",
            "--remotemx",
            "*.example.com",
            "--rate",
            "10/600",
            "--ttl",
            "3600"
        ]),
        r#"{"fields":{"remotemx":true},"if":{"remotemx":{"value":"*.example.com"}},"then":{"rate":{"count":"10","interval":600}},"ttl":3600}"#
    );
    assert_eq!(request(&["queue", "policy", "update", "x", "--ttl", "0"]), r#"{"id":"x","ttl":-1}"#);
    assert_eq!(
        request(&["queue", "policy", "rate", "refill", "--localip", "--remotemx", "mx1.example.org"]),
        r#"{"localip":{},"remotemx":{"value":"mx1.example.org"}}"#
    );
    assert_eq!(
        request(&["queue", "suspend", "add", "--remotemx", "*.example.com", "--ttl", "60"]),
        r#"{"remotemx":{"value":"*.example.com"},"ttl":60}"#
    );
    assert_eq!(
        request(&["queue", "suspend", "list", "--jobid", "j"]),
        r#"{"condition":{"jobid":{"value":"j"}}}"#
    );
}

#[test]
fn requests_about_connections_scripts_and_stages() {
    for (arguments, expected) in [
        (vec!["queue", "connections", "list", "--remotemx", "mx"], r#"{"condition":{"remotemx":"mx"}}"#),
        (vec!["queue", "connections", "close", "--all"], "{}"),
        (
            vec!["server", "connections", "close", "--remoteip", "192.0.2.1"],
            r#"{"reply":{"code":"421","reason":"Service shutting down"},"remoteip":"192.0.2.1"}"#,
        ),
        (vec!["server", "connections", "list", "--limit", "5"], r#"{"paging":{"limit":"5"}}"#),
        (vec!["hsl", "memory", "store", "theanswer", "42"], r#"{"key":"theanswer","value":"42"}"#),
        (vec!["hsl", "memory", "store", "k", "plain", "--string"], r#"{"key":"k","value":"\"plain\""}"#),
        (
            vec!["hsl", "memory", "list", "--match", "!part", "--caseless"],
            r#"{"condition":{"key":{"exclude":true,"value":"part","type":"PARTIAL","caseless":true}}}"#,
        ),
        (vec!["hsl", "memory", "delete", "k", "--return"], r#"{"key":"k","return":true}"#),
        (
            vec!["hsl", "cache", "clear", "--function", "http", "--argument", "0=1"],
            r#"{"function":{"value":"http"},"arguments":{"0":"1"}}"#,
        ),
        (vec!["resolver", "clear"], "{}"),
        (vec!["resolver", "clear", "halon.io"], r#"{"domain":{"value":"halon.io"}}"#),
        (
            vec!["resolver", "query", "halon.io", "--retry", "3"],
            r#"{"domain":"halon.io","retry":"3","ipv4":true,"ipv6":true}"#,
        ),
        (vec!["config", "livestage", "cancel"], "{}"),
        (vec!["config", "show", "policy"], r#"{"file":"POLICY"}"#),
        (vec!["queue", "policy", "grouping", "list"], "{}"),
        (
            vec!["queue", "policy", "grouping", "show", "-F", "remotemx", "--remotemx", "#hosted"],
            r##"{"fields":{"remotemx":true},"remotemx":"#hosted"}"##,
        ),
        (vec!["plugin", "command", "p", "a"], r#"{"id":"p","arguments":["YQ=="]}"#),
        (vec!["queue", "policy", "match", "--remotemx", "mx"], r#"{"remotemx":"mx"}"#),
        (
            vec!["queue", "trace", "--remotemx", "*.example.com", "--no-pipelining"],
            r#"{"remotemx":{"value":"*.example.com"},"nopipelining":true}"#,
        ),
    ] {
        assert_eq!(request(&arguments), expected, "{arguments:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("smtpd-app.yaml");
    std::fs::write(&file, "version: x").unwrap();
    let start =
        ["config", "livestage", "start", "--id", "t1", "--probability", "0.1", "--time", "3600", "--file"];
    assert_eq!(
        request(&[&start[..], &[file.to_str().unwrap()]].concat()),
        r#"{"id":"t1","conditions":{"probability":0.1,"time":"3600"},"config":"version: x"}"#
    );
}

#[test]
fn wrong_usage_ends_with_2_and_no_server_with_3() {
    for arguments in [
        &["queue", "update", "--delete"][..],
        &["queue", "update", "--jobid", "j"],
        &["queue", "update", "--jobid", "j", "--delete", "--bounce"],
        &["queue", "update", "--jobid", "j", "--hold", "--reason", "x"],
        &["queue", "list", "--state", "NONE"],
        &["queue", "list", "-F", "nonsense"],
        &["queue", "list", "--age", "old"],
        &["queue", "list", "--id", "1"],
        &["queue", "groupby", "-G", "nonsense"],
        &["queue", "export"],
        &["--dry-run", "version"],
        &["nonsense"],
        &["queue", "connections", "close"],
        &["server", "connections", "close"],
        &["hsl", "memory", "store", "k", "not json"],
    ] {
        let output = halonctl(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
    let output = halonctl(&["version", "--socket", "/nonexistent/smtpd.ctl"]);
    assert_eq!(output.status.code(), Some(3));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("/nonexistent/smtpd.ctl") && message.contains("is smtpd running?"), "{message}");
    assert_eq!(halonctl(&["--help"]).status.code(), Some(0));
}

/// Answers like a daemon with two messages.
struct Daemon;

impl Handler for Daemon {
    fn handle<'a>(&'a self, peer: &'a Peer, request: Request) -> Answering<'a> {
        Box::pin(async move {
            match request.command {
                b'F' => Ok(payload(&list())),
                b'D' => Ok(payload(&groups())),
                b'G' => Ok(payload(&QueueUpdateResponse { affected: 100, working: 30 })),
                b'W' => Ok(bytes::Bytes::from_static(b"Subject: x\r\n\r\nbody\r\n")),
                b'X' => Ok(payload(&VersionResponse { major: 6, minor: 9, patch: 0 })),
                b'v' => Ok(payload(&conditions())),
                b'x' => Ok(payload(&PolicyConditionDeleteResponse { affected: 0 })),
                b'J' => Ok(payload(&QueueUnloadResponse::default())),
                b'r' | b'b' => Ok(bytes::Bytes::new()),
                b'g' => Ok(payload(&cache())),
                b'V' => {
                    for line in
                        ["1 Begin trace of message a:1", "2 Connected", "3 Begin trace of message b:1"]
                    {
                        peer.send(bytes::Bytes::from_static(line.as_bytes())).await;
                    }
                    Ok(bytes::Bytes::new())
                }
                _ => Err("Not today".to_owned()),
            }
        })
    }
}

fn list() -> QueueListResponse {
    use queue_list_response::queue_item::{self, State};
    let item = |transaction: &str, retrycount, retrydelay, localpart: &str| queue_list_response::QueueItem {
        id: Some(QueueItemId { transaction: transaction.into(), queue: 1 }),
        state: Some(State::Queue(queue_item::QueueState { queue: Queue::Defer as i32 })),
        retrycount,
        retrydelay,
        recipient: Some(queue_item::MailAddress {
            localpart: localpart.into(),
            domain: "example.com".into(),
        }),
        ..Default::default()
    };
    let items = vec![
        item("c6321f4c-1671-11ea-885e-005056914940", 20, 243.2, "user"),
        item("f640a91a-1671-11ea-b6ea-005056914940", 21, 70.0, "longername"),
    ];
    QueueListResponse { items, paging: Some(queue_list_response::Paging { total: 2 }) }
}

fn groups() -> QueueGroupByResponse {
    let item = queue_group_by_response::Item {
        groupbys: vec!["inbound".into(), "example.com".into()],
        counts: vec![0, 17, 1, 0, 1],
        total: 19,
    };
    QueueGroupByResponse { items: vec![item], paging: None }
}

fn cache() -> HslCacheResponse {
    let item = hsl_cache_response::Item {
        function: "api_call_http".into(),
        maxsize: 100_000,
        size: 845,
        hits: 122_799,
        misses: 6041,
        ..Default::default()
    };
    HslCacheResponse { items: vec![item] }
}

fn conditions() -> PolicyConditionResponse {
    use policy_condition_response::item::{Fields, If, Then, then::Rate};
    let value = |value: &str| Some(StringValue { value: value.into() });
    let item = policy_condition_response::Item {
        id: "30be002e-7436-11eb-ae42-5254004d77d3".into(),
        fields: Some(Fields { remotemx: true, ..Default::default() }),
        r#if: Some(If { remotemx: value("*.example.com"), ..Default::default() }),
        then: Some(Then { rate: Some(Rate { count: 10, interval: 600.0 }), ..Default::default() }),
        ttl: 3592.441,
    };
    PolicyConditionResponse { items: vec![item] }
}

/// Runs the tool against a daemon; exit code, output, errors.
fn with_daemon(arguments: &[&str]) -> (i32, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("smtpd.ctl");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let listener = {
        let _guard = runtime.enter();
        UnixListener::bind(&path).unwrap()
    };
    runtime.spawn(control::server::serve(listener, Arc::new(Daemon), stopped));
    let output = halonctl(&[arguments, &["--socket", path.to_str().unwrap()]].concat());
    stop.send(true).unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn answers_look_as_in_the_manual() {
    let fields = ["-F", "id", "-F", "retrycount", "-F", "retrydelay", "-F", "recipient"];
    for (arguments, expected) in [
        (
            [&["queue", "list"][..], &fields].concat(),
            "│ id                                     │ retrycount │ retrydelay │ recipient              │\n\
             │ c6321f4c-1671-11ea-885e-005056914940:1 │         20 │        243 │ user@example.com       │\n\
             │ f640a91a-1671-11ea-b6ea-005056914940:1 │         21 │         70 │ longername@example.com │\n",
        ),
        (
            vec!["queue", "groupby", "--view", "state"],
            "│ transportid │ recipientdomain │ total │ ACTIVE │ DEFER │ HOLD │ UNKNOWN │ SENDING │\n\
             │ inbound     │ example.com     │    19 │      0 │    17 │    1 │       0 │       1 │\n",
        ),
        (
            vec!["queue", "update", "--delete", "--senderdomain", "example.com", "--all-states"],
            "100 messages affected\n30 messages unaffected\n",
        ),
        (
            vec!["queue", "update", "--delete", "--all-states", "--freeze"],
            "100 messages affected\n30 messages freezing\n",
        ),
        (vec!["queue", "export", "c6321f4c-1671-11ea-885e-005056914940"], "Subject: x\r\n\r\nbody\r\n"),
        (
            vec!["queue", "policy", "list"],
            "│                                   id │ fields   │ transportid │ localip │ remoteip │ remotemx      │ recipientdomain │ jobid │ grouping │ concurrency │   rate │     ttl │ tag │\n\
             │ 30be002e-7436-11eb-ae42-5254004d77d3 │ remotemx │             │         │          │ *.example.com │                 │       │          │             │ 10/600 │ 3592.44 │     │\n",
        ),
        (vec!["queue", "unload"], "No messages unloaded\n"),
        (
            vec!["hsl", "cache", "list"],
            "│ Namespace │ Function      │ Max size │ Size │   Hits │ Misses │ Evicts │ Hit rate │\n\
             │           │ api_call_http │   100000 │  845 │ 122799 │   6041 │      0 │  95.3112 │\n",
        ),
        (vec!["config", "livestage", "status"], "No live stage\n"),
        (vec!["queue", "trace", "--count", "1"], "1 Begin trace of message a:1\n2 Connected\n"),
        (vec!["config", "reload"], ""),
        (vec!["config", "reload", "--json"], "{}\n"),
        (
            vec!["queue", "update", "--hold", "--jobid", "j", "--json"],
            "{\n    \"affected\": \"100\",\n    \"working\": \"30\"\n}\n",
        ),
    ] {
        let (code, out, err) = with_daemon(&arguments);
        assert_eq!((code, out.as_str(), err.as_str()), (0, expected, ""), "{arguments:?}");
    }
    let (code, out, _) = with_daemon(&["version"]);
    assert!(code == 0 && out.starts_with("server: 6.9.0\nclient: "), "{out}");
}

#[test]
fn refusals_and_missing_objects_end_with_1() {
    let (code, out, err) = with_daemon(&["queue", "quota", "q"]);
    assert_eq!((code, out.as_str(), err.as_str()), (1, "", "halonctl: Not today\n"));
    let (code, _, err) = with_daemon(&["queue", "policy", "delete", "x"]);
    assert_eq!((code, err.as_str()), (1, "halonctl: no condition x\n"));
}
