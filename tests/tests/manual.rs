//! The command lines of the manual, one after the other against a running server: they are taken as written, and their
//! output has the manual's shape. In what is compared, numbers are `#` and identifiers `ID`.

use blackbox::client::send;
use blackbox::sink::Sink;
use blackbox::{Server, free_port, wait_until};

/// Transport `t1` leads nowhere, `t2` to a sink.
const APP: &str = r#"
version: "6.9"
servers: [{id: in, transport: t1, phases: {connect: {remoteptr: false}, mailfrom: {hook: main}}}]
transportgroups:
  - id: g
    session: {tls: {mode: disabled}}
    retry: {intervals: [{interval: 3600}]}
    transports:
      - {id: t1, connection: {server: 127.0.0.1, port: %NOWHERE}}
      - {id: t2, connection: {server: 127.0.0.1, port: %SINK}}
scripting:
  hooks:
    mailfrom:
      - id: main
        data: |
          function lookup($x) { return $x; }
          cache ["size" => 1000] lookup(1);
          Accept();
"#;

struct Rig {
    server: Server,
    sink: Sink,
}

fn rig() -> Rig {
    let sink = Sink::start();
    let app = APP.replace("%SINK", &sink.port.to_string()).replace("%NOWHERE", &free_port().to_string());
    Rig { server: Server::start(&app, &[]), sink }
}

impl Rig {
    fn deferred(&self, count: usize) {
        for number in 0..count {
            let to = format!("u{number}@example.net");
            send(self.server.port, "a@example.com", &to, b"Subject: x\r\n\r\nx\r\n");
        }
        wait_until("all are deferred", || {
            self.run("queue list --no-header --state DEFER").lines().count() == count
        });
    }

    /// The output of a command line; words may be quoted with `'`.
    fn run(&self, line: &str) -> String {
        let words = words(line);
        self.server.ctl(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Runs command lines and compares the shapes of their output.
    fn compare(&self, table: &[(&str, &str)]) {
        for (line, expected) in table {
            let output = self.run(line);
            assert_eq!(shape(&output), *expected, "halonctl {line}\n{output}");
        }
    }
}

fn words(line: &str) -> Vec<String> {
    let quoted = line.split('\'').enumerate();
    quoted
        .flat_map(|(i, part)| match i % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        })
        .collect()
}

/// Cells without their padding, numbers and identifiers by kind.
fn shape(output: &str) -> String {
    let mut lines = Vec::new();
    for line in output.lines() {
        let cells: Vec<String> = line.split('│').map(|cell| kinds(cell.trim())).collect();
        lines.push(cells.join("|"));
    }
    lines.join("\n")
}

fn kinds(text: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    for c in text.chars().chain([' ']) {
        if c.is_ascii_alphanumeric() || "-.".contains(c) {
            word.push(c);
            continue;
        }
        out.push_str(&kind(&std::mem::take(&mut word)));
        out.push(c);
    }
    out.pop();
    out
}

fn kind(word: &str) -> String {
    let is_id = |id: &str| id.len() == 36 && id.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    if is_id(word) {
        return "ID".to_owned();
    }
    if let Some(id) = word.strip_suffix(".hqf")
        && is_id(id)
    {
        return "ID.hqf".to_owned();
    }
    if !word.is_empty() && word.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return "#".to_owned();
    }
    word.to_owned()
}

#[test]
fn shapes_are_shapes() {
    assert_eq!(
        shape(
            "│ c6321f4c-1671-11ea-885e-005056914940:1 │  20 │ a@b.example │\n230 messages affected\n1.50 x2"
        ),
        "|ID:#|#|a@b.example|\n# messages affected\n# x2"
    );
    assert_eq!(words("queue list --age '>3600' -F id"), ["queue", "list", "--age", ">3600", "-F", "id"]);
}

/// 5.1.1 to 5.1.4; the freeze has a test of its own.
#[test]
fn the_queue() {
    let rig = rig();
    rig.deferred(3);
    let id = rig.run("queue list --no-header -F id --limit 1").trim().trim_matches('│').trim().to_owned();
    let message = id.split(':').next().unwrap();
    let row = "|ID:#|#|#|u#@example.net|";
    let row = |number: &str| row.replace("u#", number);
    let header = "|id|retrycount|retrydelay|recipient|";
    let list = "queue list --state DEFER -F id -F retrycount -F retrydelay -F recipient";
    rig.compare(&[
        (&format!("{list} --age '>3600'"), ""),
        (
            &format!("{list} --age '>=0' --sort recipient.localpart"),
            &format!("{header}\n{}\n{}\n{}", row("u0"), row("u1"), row("u2")),
        ),
        ("queue groupby --view state", "|transportid|recipientdomain|total|ACTIVE|DEFER|HOLD|UNKNOWN|SENDING|\n|t1|example.net|#|#|#|#|#|#|"),
        ("queue update --age '>3600' --state DEFER --state ACTIVE --bounce", "# messages affected"),
        ("queue update --transportid t1 --state DEFER --updatetransportid t2", "# messages affected"),
        ("queue update --delete --senderdomain example.org --all-states", "# messages affected"),
        ("queue update --delete --senderdomain example.org --state UPDATE", "# messages affected"),
    ]);
    let exported = rig.run(&format!("queue export {id}"));
    assert!(
        exported.starts_with("Received: ") && exported.ends_with("Subject: x\r\n\r\nx\r\n"),
        "{exported}"
    );
    assert_eq!(rig.run(&format!("queue export {message}")), exported);
    assert_eq!(rig.run("queue update --transportid t2 --active"), "3 messages affected\n");
    wait_until("they are delivered", || rig.sink.count() == 3);
    for option in [
        "--transportid",
        "--jobid",
        "--senderdomain",
        "--recipientdomain",
        "--sender",
        "--recipient",
        "--id",
        "--state",
        "--retrycount",
        "--retrydelay",
        "--age",
        "--ts",
        "--metadata",
    ] {
        assert!(rig.run("queue list -h").contains(option), "{option}");
    }
}

/// 5.1.5 and 5.1.6, with the columns in the manual's order.
#[test]
fn policies_and_suspensions() {
    let rig = rig();
    // A dynamic condition belongs to a policy of the file.
    rig.server.write("policy.yaml", "version: \"6.9\"\npolicies: [{fields: [remotemx]}]\n");
    rig.run("queue policy reload");
    let policies = "|id|fields|transportid|localip|remoteip|remotemx|recipientdomain|jobid|grouping|concurrency|rate|ttl|tag|";
    let suspends = "|id|source|transportid|localip|remoteip|remotemx|recipientdomain|jobid|grouping|ttl|tag|";
    rig.compare(&[
        ("queue policy add -F remotemx --remotemx *.example.com --rate 10/600 --ttl 3600", "ID"),
        ("queue policy list", &format!("{policies}\n|ID|remotemx||||*.example.com|||||#/#|#||")),
        ("queue policy rate refill --localip --remotemx mx1.example.org", "# buckets refilled"),
        ("queue policy rate refill", "# buckets refilled"),
        ("queue suspend add --remotemx *.example.com --ttl 60", "ID"),
        ("queue suspend list", &format!("{suspends}\n|ID|dynamic||||*.example.com||||#||")),
    ]);
    let first =
        |list: &str| rig.run(list).lines().nth(1).unwrap().split('│').nth(1).unwrap().trim().to_owned();
    rig.compare(&[
        (&format!("queue policy delete {}", first("queue policy list")), ""),
        ("queue policy list", ""),
        (&format!("queue suspend delete {}", first("queue suspend list")), ""),
        ("queue suspend list", ""),
    ]);
}

/// 5.1.8 and 5.1.10.
#[test]
fn moving_files() {
    let rig = rig();
    rig.deferred(2);
    let unloaded = rig.run("queue unload --transportid t1");
    let paths: Vec<&str> = unloaded.lines().map(|line| line.strip_suffix(" unloaded").unwrap()).collect();
    assert_eq!(paths.len(), 2);
    for path in &paths {
        let name = std::path::Path::new(path).file_stem().unwrap().to_str().unwrap();
        let folder = std::path::Path::new(path).parent().unwrap().file_name().unwrap();
        assert_eq!(folder.to_str(), Some(&name[..2]), "{path}");
        // The file stays where it is, so the copy needs a number of its own.
        rig.compare(&[(&format!("queue load --reset-id --hqf {path}"), "Message loaded")]);
    }
    assert_eq!(rig.run("queue unload --transportid nowhere"), "No messages unloaded\n");
    assert_eq!(rig.run("queue list --no-header --all-states").lines().count(), 2);
}

/// 5.2.2 and 5.2.3.
#[test]
fn reloads_and_live_stage() {
    let rig = rig();
    let file = rig.server.path("app.yaml").display().to_string();
    rig.compare(&[
        ("config reload", ""),
        ("queue policy reload", ""),
        ("queue suspend reload", ""),
        ("queue delivery reload", ""),
        (&format!("config livestage start --id t1 --file {file} --probability 0.1 --time 3600"), ""),
        ("config livestage status", "t1: # connections(s), #/# runtime"),
        ("config livestage cancel", ""),
        (&format!("config livestage start --file {file} --id t2"), ""),
        ("config livestage status", "t2: # connections(s), # runtime"),
    ]);
}

/// 5.3.2, 5.3.3, 5.4 and 5.5.
#[test]
fn scripts_and_counters() {
    let rig = rig();
    rig.deferred(1);
    rig.compare(&[
        ("hsl memory store theanswer 42", ""),
        ("hsl memory list", "theanswer"),
        ("hsl memory fetch theanswer", "#"),
        ("hsl memory delete theanswer", ""),
        ("hsl memory list", ""),
        (
            "hsl cache list",
            "|Namespace|Function|Max size|Size|Hits|Misses|Evicts|Hit rate|\n||mailfrom/main.hsl:lookup|#|#|#|#|#|#|",
        ),
        ("hsl cache clear --function lookup", "# buckets cleared"),
        ("resolver clear", "# entries cleared"),
    ]);
    let stats = rig.run("process-stats");
    let mut lines = stats.lines();
    assert!(lines.next().is_some_and(|line| line == format!("process.pid: {}", rig.server.pid())), "{stats}");
    assert!(lines.next().is_some_and(|line| line.starts_with("process.runtime: ")), "{stats}");
    for name in [
        "resolver.cache.size",
        "resolver.cache.hits",
        "resolver.cache.misses",
        "resolver.cache.expires",
        "resolver.cache.evicts",
        "resolver.cache.skips",
        "queue.freeze.update.size",
        "queue.freeze.update.pending",
    ] {
        assert!(stats.lines().any(|line| line.split(": ").next() == Some(name)), "{name}");
    }
}
