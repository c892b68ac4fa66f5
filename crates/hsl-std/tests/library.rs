//! The registration table against the list of what the library has (`data/library.txt`): every function and method
//! exists with its signature, and nothing is there that the list does not have. That scripts call them is the subject of
//! `crates/cli/tests/library/calls.rs`.

use hsl_std::docs::{manual, with_result};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Classes that the language makes and scripts do not name.
const INTERNAL: &[&str] = &["Iterator", "Regex"];

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn expected() -> BTreeSet<String> {
    let text = fs::read_to_string(folder("tests/data/library.txt")).unwrap();
    text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect()
}

fn present() -> BTreeSet<String> {
    let registry = hsl_std::registry();
    let mut all: BTreeSet<String> = registry.functions().into_iter().map(|def| with_result(def)).collect();
    for class in registry.classes() {
        if INTERNAL.contains(&&*class.name) {
            continue;
        }
        all.extend(class.constructor.iter().map(|def| with_result(def)));
        all.extend(class.methods().map(|def| format!("{}.{}", class.name, with_result(def))));
        all.extend(class.statics().map(|def| format!("{}::{}", class.name, with_result(def))));
    }
    all
}

#[test]
fn everything_is_there_with_its_signature() {
    let (expected, present) = (expected(), present());
    let absent: Vec<&String> = expected.difference(&present).collect();
    let unknown: Vec<&String> = present.difference(&expected).collect();
    assert!(absent.is_empty() && unknown.is_empty(), "absent: {absent:#?}\nnot in the list: {unknown:#?}");
}

#[test]
fn everything_is_documented() {
    let registry = hsl_std::registry();
    let mut bare = Vec::new();
    for def in registry.functions() {
        if def.doc.is_empty() || def.group.is_empty() || def.returns.is_empty() {
            bare.push(def.name.to_string());
        }
        // Functions whose options are accepted without effect have none to list.
        let takes_options = def.params.iter().any(|p| p.name == "options");
        if takes_options && def.options.is_empty() && !["domain_includes", "url_parse"].contains(&&*def.name)
        {
            bare.push(format!("{} has no table of options", def.name));
        }
    }
    assert!(bare.is_empty(), "{bare:#?}");
}

#[test]
fn the_page_of_the_manual_is_up_to_date() {
    let path = folder("../../docs/src/library-reference.md");
    let made = manual(&hsl_std::registry());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == made, "{} is old: hsh --docs manual > docs/src/library-reference.md", path.display());
}

#[test]
fn unknown_options_of_a_literal_are_a_warning() {
    let compile = |source: &str| {
        let compiled =
            hsl::Compiler::new(hsl_std::shared_registry()).compile("a.hsl", source.as_bytes()).unwrap();
        compiled.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let text = compile("http(\"http://127.0.0.1/\", [\"timout\" => 1]);");
    assert!(text.contains("http() option 'timout' is unknown, did you mean 'timeout'?"), "{text}");
    assert_eq!(compile("http(\"http://127.0.0.1/\", [\"timeout\" => 1]);"), "");
    assert_eq!(compile("$o = [\"timout\" => 1]; http(\"http://127.0.0.1/\", $o);"), "");
    let text = compile("TLSSocket(Socket(\"AF_INET\", \"SOCK_STREAM\"), [\"tls_snl\" => \"a\"]);");
    assert!(text.contains("TLSSocket() option 'tls_snl' is unknown, did you mean 'tls_sni'?"), "{text}");
    // The class of an object is not known: all classes with such a method must lack the key.
    let text = compile("$m = MIME(); $m->addHeader(\"a\", \"b\", [\"encod\" => false]);");
    assert!(text.contains("addHeader() option 'encod' is unknown, did you mean 'encode'?"), "{text}");
    assert_eq!(compile("$m = MIME(); $m->addHeader(\"a\", \"b\", [\"encoding\" => \"B\"]);"), "");
    let own = "class Own { function addHeader($n, $v, $o) { return $o; } }";
    let call = "$m = Own(); $m->addHeader(\"a\", \"b\", [\"encod\" => false]);";
    assert_eq!(compile(&format!("{own} {call}")), "");
    assert_eq!(compile(&format!("{call} {own}")), "");
}

#[test]
fn older_names_are_a_warning() {
    let compile = |source: &str| {
        let compiler = hsl::Compiler::new(hsl_std::shared_registry());
        let compiled = compiler.compile("a.hsl", source.as_bytes()).unwrap();
        compiled.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    assert!(compile("echo count([]);").contains("'count' is deprecated, use 'length'"));
    assert!(compile("echo array_map(trim, []);").contains("'trim' is deprecated, use 'str_strip'"));
    assert!(compile("echo dnsmx(\"a.example\");").contains("'dnsmx' is deprecated, use 'dns_query'"));
    assert!(
        compile("echo cache [] explode(\",\", \"a\");").contains("'explode' is deprecated, use 'str_split'")
    );
    assert_eq!(
        compile("function trim($x) { return $x; } echo trim(1);"),
        "a.hsl:1:10: warning: 'trim' shadows the one of the library"
    );
    assert_eq!(compile("echo length([]);"), "");
}
