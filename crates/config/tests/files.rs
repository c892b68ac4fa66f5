//! Files as operators write them: what is read, and how errors name the place.

use config::load::parse;
use config::node::Node;
use config::{App, Policy, Startup, validate};
use proptest::prelude::*;

const STARTUP: &str =
    "version: \"6.9\"\nservers:\n  - id: default\n    listeners:\n      - {port: 25, address: 127.0.0.1}\n";
const APP: &str = r#"
version: "6.9"
servers:
  - id: default
    transport: mx
    phases:
      mailfrom: {hook: check}
      rcptto: {hook: {id: relay, recipientdomains: {example.com: users}}}
      data: {maxsize: 35MiB}
transportgroups:
  - id: group
    retry: {count: 3, intervals: [{interval: 1m}, {interval: 15m, notify: true}]}
    dsn: {transport: mx}
    transports: [{id: mx, session: {tls: {mode: require_verify}, timeout: {EOD: 20m}}}]
resolver: {servers: [127.0.0.1, {address: "::1", port: 5353}], cache: {size: 100}}
scripting:
  hooks:
    mailfrom: [{id: check, data: "Accept();"}]
    rcptto: [{id: relay, data: "Reject();"}, {id: users, data: "Accept();"}]
"#;

#[test]
fn reads_and_defaults() {
    let startup: Startup = parse("smtpd.yaml", STARTUP).unwrap();
    validate::startup("smtpd.yaml", &startup).unwrap();
    assert!(startup.spool.fsync && startup.spool.journal.enabled);
    assert_eq!(startup.spool.journal.segment.0, 64 << 20);
    assert_eq!(startup.control_path().to_str(), Some("/var/run/halon/smtpd.ctl"));
    let app: App = parse("app", APP).unwrap();
    validate::app("app", &app).unwrap();
    assert_eq!(app.servers[0].phases.data.maxsize.0, 35 << 20);
    assert_eq!(app.transportgroups[0].retry.intervals.as_ref().unwrap()[1].interval.0, 900.0);
    assert_eq!(app.resolver.servers[1].socket_address().port(), 5353);
    assert_eq!(app.queues.failover, 1);
}

#[test]
fn errors_name_file_place_and_key_path() {
    let cases = [
        ("version: \"6.9\"\nservers: []\nspool: {fsync: maybe}\n", "f:3:16: /spool/fsync: "),
        ("version: \"6.9\"\nservers: []\nspol: {}\n", "f:3:1: "),
        (
            "version: \"6.9\"\nservers:\n  - id: a\n    listeners: [{port: 70000}]\n",
            "/servers/0/listeners/0/port: ",
        ),
        ("version: \"6.9\"\nservers:\n  - listeners: []\n", "missing field"),
        ("version: \"6.9\"\nservers: []\nservers: []\n", "duplicate"),
        ("version: [\n", "f:"),
        ("version: \"6.9\"\nservers: []\nspool: {journal: {hold: 5x}}\n", "/spool/journal/hold: "),
        ("version: \"6.9\"\nservers: []\nenvironment: {umask: \"0999\"}\n", "expected a quoted octal mode"),
    ];
    for (text, expected) in cases {
        let error = parse::<Startup>("f", text).unwrap_err().to_string();
        assert!(error.starts_with("f:") && error.contains(expected), "{text}\n{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn validation_names_key_path_and_suggests() {
    let cases = [
        (
            "transport: mx",
            "transport: mxx",
            "/servers/0/transport: unknown transport \"mxx\", did you mean \"mx\"?",
        ),
        (
            "{hook: check}",
            "{hook: chek}",
            "/servers/0/phases/mailfrom/hook: no script \"chek\" in /scripting/hooks/mailfrom, did you mean \"check\"?",
        ),
        (
            "example.com: users",
            "example.com: nobody",
            "/servers/0/phases/rcptto/hook/recipientdomains/example.com: no script",
        ),
        (
            "{transport: mx}",
            "{transport: gone}",
            "/transportgroups/0/dsn/transport: unknown transport \"gone\"",
        ),
        ("EOD: 20m", "EODD: 20m", "unknown state \"EODD\", did you mean \"EOD\"?"),
        ("version: \"6.9\"", "version: \"4.1\"", "/version: Unknown version"),
        ("[{id: mx,", "[{id: mx}, {id: mx,", "/transportgroups/0/transports/1/id: duplicate \"mx\""),
    ];
    for (from, to, expected) in cases {
        assert!(APP.contains(from), "{from}");
        let app: App = parse("app", &APP.replacen(from, to, 1)).unwrap();
        let errors = validate::app("app", &app).unwrap_err();
        let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert!(
            text.iter().any(|error| error.starts_with("app: ") && error.contains(expected)),
            "{to}\n{text:?}"
        );
    }
}

#[test]
fn policy_conditions_use_fields_of_their_counter() {
    let text = "version: \"6.9\"\npolicies:\n  - fields: [remotemx]\n    conditions:\n      - if: {remotemx: [a.example, '*.b.example']}\n        then: {concurrency: 4, rate: 120/60}\n    default: {concurrency: 2}\n";
    let policy: Policy = parse("policy", text).unwrap();
    validate::policy("policy", &policy).unwrap();
    assert_eq!(policy.policies[0].conditions[0].then.rate.unwrap().interval_s, 60.0);
    let wrong: Policy = parse("policy", &text.replace("if: {remotemx", "if: {jobid")).unwrap();
    let errors = validate::policy("policy", &wrong).unwrap_err();
    assert!(errors[0].to_string().contains("/policies/0/conditions/0/if/jobid"), "{errors:?}");
}

#[test]
fn packs_and_unpacks_without_loss() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path();
    let write = |path: &str, bytes: &[u8]| {
        let path = source.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    let (app, _) = APP.split_once("scripting:").unwrap();
    write("config/smtpd.yaml", STARTUP.as_bytes());
    write("config/smtpd-app.yaml", app.as_bytes());
    write("config/smtpd-suspend.yaml", b"");
    write("hooks/mailfrom/check.hsl", b"// check\nAccept();\n");
    write("hooks/rcptto/relay.hsl", b"Reject();");
    write("hooks/rcptto/users.hsl", b"  Accept(); // leading blanks\n\n\nx\n");
    write("hooks/rcptto/unused.hsl", b"");
    write("hooks/queue/predelivery.hsl", b"Try();\n");
    write("files/lib/a.hsl", "function ä() { return \"\\n\"; }\r\n".as_bytes());
    write("files/data.bin", &[0, 255, 1]);
    write("files/skip.tmp", b"x");
    write("files/.hidden", b"x");
    write("files/.halonignore", b"# comment\n*.tmp\n");
    let packed = config::pack::pack(source, &Default::default()).unwrap();
    assert_eq!(packed.files.keys().collect::<Vec<_>>(), ["smtpd-app.yaml", "smtpd.yaml"]);
    assert_eq!(packed.warnings.len(), 1, "{:?}", packed.warnings);
    let running: App = parse("app", &packed.files["smtpd-app.yaml"]).unwrap();
    validate::app("app", &running).unwrap();
    assert_eq!(running.scripting.hooks.predelivery.as_deref(), Some("Try();\n"));
    assert_eq!(running.scripting.files.len(), 2);

    let tree = config::pack::unpack(&packed.files).unwrap();
    assert_eq!(tree["hooks/rcptto/users.hsl"], b"  Accept(); // leading blanks\n\n\nx\n");
    assert_eq!(tree["files/data.bin"], [0, 255, 1]);
    assert_eq!(tree["files/lib/a.hsl"], "function ä() { return \"\\n\"; }\r\n".as_bytes());
    let again = folder.path().join("again");
    for (path, bytes) in &tree {
        let path = again.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let repacked = config::pack::pack(&again, &Default::default()).unwrap();
    assert_eq!(repacked.files, packed.files);
}

#[test]
fn packing_names_a_missing_hook() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("config")).unwrap();
    std::fs::write(folder.path().join("config/smtpd-app.yaml"), APP).unwrap();
    let error = config::pack::pack(folder.path(), &Default::default()).unwrap_err().to_string();
    assert!(error.contains("/servers/0/phases/mailfrom/hook: hook \"check\" has no file"), "{error}");
}

fn node() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        Just(Node::Null),
        any::<bool>().prop_map(Node::Bool),
        any::<i64>().prop_map(Node::Int),
        "[ -~\\n\\t\\r\u{e4}\u{85}\u{feff}]{0,20}".prop_map(Node::Str),
        "([a-z #:'\"-]{0,6}\\n){1,4}[a-z]{0,3}".prop_map(Node::Str),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Node::List),
            proptest::collection::btree_map("[ -~]{0,8}", inner, 0..5)
                .prop_map(|map| Node::Map(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn yaml_round_trip(tree in node()) {
        let text = tree.to_yaml();
        let read: Node = parse("f", &text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        prop_assert_eq!(read, tree, "{}", text);
    }

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
        let _ = parse::<App>("f", &text);
        let _ = parse::<Startup>("f", &text);
    }
}

#[test]
fn servers_are_checked_for_what_excludes_each_other() {
    let with = |server: &str| {
        let text = APP.replace(
            "    transport: mx\n    phases:\n",
            &format!("    transport: mx\n{server}    phases:\n"),
        );
        let app: App = parse("app", &text).unwrap_or_else(|error| panic!("{text}: {error}"));
        match validate::app("app", &app) {
            Ok(()) => String::new(),
            Err(errors) => errors.iter().map(|error| error.to_string() + "\n").collect(),
        }
    };
    assert_eq!(
        with("    tls: {certs: [{cert: a, hosts: ['*.b.example']}], implicit: [l], peercert: request}\n"),
        ""
    );
    assert!(with("    tls: {implicit: true}\n").contains("/servers/0/tls/implicit: needs a certificate"));
    assert!(with("    type: https\n").contains("/servers/0/tls/certs: HTTPS needs a certificate"));
    assert!(with("    http: {path: submission}\n").contains("/servers/0/http/path"));
    let phases = |more: &str| {
        let text = APP
            .replace("      data: {maxsize: 35MiB}\n", &format!("      data: {{maxsize: 35MiB}}\n{more}"))
            .replace(
                "  hooks:\n",
                "  hooks:\n    eod: [{id: a, data: ''}]\n    eodrcpt: [{id: a, data: ''}]\n",
            );
        let app: App = parse("app", &text).unwrap_or_else(|error| panic!("{text}: {error}"));
        match validate::app("app", &app) {
            Ok(()) => String::new(),
            Err(errors) => errors.iter().map(|error| error.to_string() + "\n").collect(),
        }
    };
    assert_eq!(phases("      eodrcpt: {hook: a}\n"), "");
    let both = phases("      eod: {hook: a}\n      eodrcpt: {hook: a}\n");
    assert!(both.contains("/servers/0/phases/eodrcpt/hook: excludes 'eod'"), "{both}");
    let mechanisms = phases("      auth: {mechanisms: [PLAIN, scram]}\n");
    assert!(mechanisms.contains("/servers/0/phases/auth/mechanisms/1: \"scram\" found"), "{mechanisms}");
    let words = phases("      proxy: {commands: [BREV, 'A B']}\n");
    assert!(
        words.contains("/servers/0/phases/proxy/commands/1: \"A B\" found, expected one word"),
        "{words}"
    );
    assert!(
        phases("      proxy: {hook: missing}\n")
            .contains("/servers/0/phases/proxy/hook: no script \"missing\"")
    );
}

/// Templates are an error until the program allows them; then they have the type that their key wants.
#[test]
fn templates_of_the_environment() {
    let text = "version: \"6.9\"\nservers: []\n\
                environment:\n  hostname: !Env \"${HALON_TEST_NEVER_SET:12345}\"\n  \
                spool: {path: !Env \"${HALON_TEST_NEVER_SET:/tmp/a b}\"}\n\
                spool: {fsync: !Env \"${HALON_TEST_NEVER_SET:false}\", threads: {load: !Env \"${HALON_TEST_NEVER_SET:3}\"}}\n";
    let refused = parse::<Startup>("s.yaml", text).unwrap_err().to_string();
    assert_eq!(refused, "s.yaml:4:13: !Env needs the flag --config-env-substitution");
    config::environment::allow();
    let filled = parse::<Startup>("s.yaml", text).unwrap();
    assert_eq!(filled.environment.hostname.as_deref(), Some("12345"));
    assert_eq!(filled.spool.threads.load, 3);
    assert!(!filled.spool.fsync);
    let wrong = text.replace(":3}", ":many}");
    let error = parse::<Startup>("s.yaml", &wrong).unwrap_err().to_string();
    assert!(error.starts_with("s.yaml:6:") && error.contains("/spool/threads/load"), "{error}");
}
