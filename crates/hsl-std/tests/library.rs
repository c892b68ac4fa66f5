//! The registration table against the list of what the library has (`data/library.txt`): every function and method
//! exists with its signature and is called by some test, and nothing is there that the list does not have.

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

fn name(line: &str) -> &str {
    line.split('(').next().unwrap()
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

/// Text of all test programs and tests.
fn tests() -> String {
    fn collect(folder: &Path, out: &mut String) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for path in entries.map(|e| e.unwrap().path()) {
            if path.is_dir() {
                collect(&path, out);
            } else if path.extension().is_some_and(|e| e == "hsl" || e == "rs") {
                out.push_str(&String::from_utf8_lossy(&fs::read(path).unwrap()));
            }
        }
    }
    let mut out = String::new();
    collect(&folder("../../tests"), &mut out);
    for entry in fs::read_dir(folder("..")).unwrap() {
        collect(&entry.unwrap().path().join("tests"), &mut out);
    }
    out
}

#[test]
fn everything_is_called_by_a_test() {
    let text = tests();
    let boundary =
        |at: usize| !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || "_>:.".contains(c));
    let called = |line: &str| {
        let name = name(line);
        match name.split_once('.') {
            Some((_, method)) => text.contains(&format!("->{method}(")),
            None if name.contains("::") => text.contains(&format!("{name}(")),
            None => text.match_indices(&format!("{name}(")).any(|(at, _)| boundary(at)),
        }
    };
    let idle: Vec<String> = present().into_iter().filter(|l| !called(l)).collect();
    assert!(idle.is_empty(), "called by no test: {idle:#?}");
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
}
