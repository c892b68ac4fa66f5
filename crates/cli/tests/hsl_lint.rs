//! `hsl-lint` as an editor calls it.

use std::io::Write;
use std::process::{Command, Stdio};

fn lint(request: &str) -> (i32, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_hsl-lint"))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn clean() {
    assert_eq!(lint("version: '5.5'\nphase: eod\nplugins: [a]\ndata: |\n  Accept();\n"), (0, String::new()));
    assert_eq!(lint("data: ''"), (0, String::new()));
}

#[test]
fn error_in_the_script() {
    let (code, yaml) = lint("phase: eod\ndata: |\n  $x = 1;\n  Acept();\n");
    assert_eq!(code, 1);
    assert!(yaml.contains("Unknown function 'Acept'"), "{yaml}");
    assert!(yaml.contains("\nseverity: error\nline: 2\ncolumn: 1\n"), "{yaml}");
    assert!(!yaml.contains("file:") && !yaml.contains("path:"), "{yaml}");
}

#[test]
fn error_in_an_included_file() {
    let request = "phase: eod\ndata: 'include \"a\";'\nfiles:\n\
                   - {id: a, data: \"\\n include 'X'b'X';\"}\n- {id: b, data: ZWNobyAqOw==, binary: true}\n";
    let (code, yaml) = lint(&request.replace("'X'b'X'", "\\\"b\\\""));
    assert_eq!(code, 1, "{yaml}");
    assert!(yaml.contains("\nseverity: error\nfile: b\nline: 1\ncolumn: 6\n"), "{yaml}");
    assert!(
        yaml.contains("path:\n  - file: a\n    line: 2\n    column: 10\n  - line: 1\n    column: 9\n"),
        "{yaml}"
    );
}

#[test]
fn several_errors() {
    let (code, yaml) = lint("data: |\n  foo();\n  bar();\n");
    assert_eq!(code, 1);
    assert!(yaml.contains("'foo'") && yaml.contains("more:\n  - message: "), "{yaml}");
}

#[test]
fn warnings() {
    let (code, yaml) = lint("data: |\n  return 1;\n  echo 2;\n");
    assert_eq!(code, 0);
    assert_eq!(
        yaml,
        "warnings:\n  - message: \"Unreachable code\"\n    severity: warning\n    line: 2\n    column: 1\n"
    );
}

#[test]
fn wrong_requests() {
    for request in ["", "[]", "phase: eod", "phase: nosuch\ndata: ''", "data: {", "files: 3\ndata: ''"] {
        let (code, text) = lint(request);
        assert_eq!(code, 2, "{request}: {text}");
        assert!(text.starts_with("hsl-lint: "), "{text}");
    }
}
