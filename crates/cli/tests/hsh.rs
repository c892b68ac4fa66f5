//! `hsh` with scripts.

use std::io::Write;
use std::process::{Command, Stdio};

fn hsh(arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_hsh"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Usage errors end the program before it reads.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn arguments() {
    let script = "echo json_encode($arguments);";
    for (given, expected) in [
        (&["-c", "/dev/null", "-"][..], "[]\n"),
        (&["-c", "/dev/null", "-", "a b", "-x", "--", "c"], "[\"a b\",\"-x\",\"--\",\"c\"]\n"),
    ] {
        assert_eq!(hsh(given, script), (0, expected.into(), String::new()), "{given:?}");
    }
    let own = "$arguments = 3; echo $arguments;";
    assert_eq!(hsh(&["-c", "/dev/null"], own), (0, "3\n".into(), String::new()));
}

#[test]
fn phases() {
    let run = |phase, script| hsh(&["-c", "/dev/null", "--phase", phase], script);
    assert_eq!(
        run("rcptto", "Reject([\"no\", \"way\"]);"),
        (0, "Reject([\"no\", \"way\"])\n".into(), String::new())
    );
    let (code, _, errors) = run("rcptto", "Bounce();");
    assert!(code == 1 && errors.contains("Unknown function 'Bounce'"), "{errors}");
    let (code, _, errors) = run("nosuch", "");
    assert!(code == 2 && errors.contains("predelivery"), "{errors}");
    assert_eq!(hsh(&["--phase", "eod", "-", "argument"], "").0, 2);
}

#[test]
fn startup_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::create_dir(path("root")).unwrap();
    std::fs::write(path("root/a.hsl"), "echo 'X'from the root'X';".replace("'X'", "\"")).unwrap();
    std::fs::write(path("app.yaml"), "scripting: {files: [{id: b, data: 'echo 2;'}]}").unwrap();
    let startup = format!(
        "version: '1.0'\nservers: []\nscripting: {{rootpath: '{}'}}\nenvironment: {{appconf: '{}'}}\n",
        path("root"),
        path("app.yaml")
    );
    std::fs::write(path("smtpd.yaml"), startup).unwrap();
    let script = "include \"file://a.hsl\"; include \"b\";";
    assert_eq!(hsh(&["-c", &path("smtpd.yaml")], script), (0, "from the root\n2\n".into(), String::new()));
    assert_eq!(hsh(&["-c", &path("missing.yaml")], script).0, 2);
    std::fs::write(path("smtpd.yaml"), "nosuch: 1").unwrap();
    let (code, _, errors) = hsh(&["-c", &path("smtpd.yaml")], script);
    assert!(code == 2 && errors.contains("smtpd.yaml:"), "{errors}");
}

#[test]
fn errors_show_the_line_and_the_calls() {
    let script = "function f($x) {\n\treturn $x + none;\n}\nf(1);\n";
    let (code, out, errors) = hsh(&["-c", "/dev/null", "-"], script);
    let expected = "-:2:12: Unsupported operand types for +: number and none\n  | \treturn $x + none;\n  | \t          ^\n  \
                    at -:2:12 in f\n  at -:4:1 in (main)\n";
    assert_eq!((code, &*out, &*errors), (1, "", expected));
    let (code, _, errors) = hsh(&["-c", "/dev/null", "-s", "-"], "echo 1 +;\necho (;\n");
    let expected = "-:1:9: Expected an expression, found ';'\n  | echo 1 +;\n  |         ^\n\
                    -:2:7: Expected an expression, found ';'\n  | echo (;\n  |       ^\n";
    assert_eq!((code, &*errors), (1, expected));
    // Warnings are for those who ask.
    let script = "return 1; echo 2;";
    assert_eq!(hsh(&["-c", "/dev/null", "-"], script), (0, String::new(), String::new()));
    let (code, _, errors) = hsh(&["-c", "/dev/null", "-s", "-"], script);
    assert_eq!(
        (code, &*errors),
        (0, "-:1:11: warning: Unreachable code\n  | return 1; echo 2;\n  |           ^\n")
    );
}

#[test]
fn privileges() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let startup = |user: &str| {
        let text = format!(
            "version: '1.0'\nservers: []\nscripting: {{rootpath: '{}'}}\nenvironment: {{privdrop: {{user: {user}}}}}\n",
            folder.path().display()
        );
        std::fs::write(path("smtpd.yaml"), text).unwrap();
    };
    std::fs::write(path("secret.hsl"), "echo 1;").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode;
    std::fs::set_permissions(folder.path(), mode(0o755)).unwrap();
    std::fs::set_permissions(path("secret.hsl"), mode(0o600)).unwrap();
    let script = "include \"file://secret.hsl\";";
    let run = |options: &[&str]| hsh(&[&["-c", &path("smtpd.yaml")], options].concat(), script);
    startup("nobody");
    assert_eq!(run(&[]).1, "1\n");
    let (code, _, errors) = run(&["-P"]);
    if nix::unistd::Uid::effective().is_root() {
        assert!(code == 1 && errors.contains("Permission denied"), "{code} {errors}");
    } else {
        assert!(code == 2 && errors.contains("needs to be run as root"), "{code} {errors}");
    }
    startup("nosuchuser");
    let (code, _, errors) = run(&["-P"]);
    assert!(code == 2 && errors.contains("no user \"nosuchuser\""), "{code} {errors}");
    let (code, _, errors) = hsh(&["-c", "/dev/null", "-P"], "");
    assert!(code == 2 && errors.contains("privdrop"), "{code} {errors}");
}

#[test]
fn relative_paths_start_at_the_script() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::create_dir_all(path("lib/deep")).unwrap();
    std::fs::write(
        path("lib/main.hsl"),
        "include \"./deep/a.hsl\"; import { b } from \"./b.hsl\"; echo b();",
    )
    .unwrap();
    std::fs::write(path("lib/deep/a.hsl"), "include \"../c.hsl\";").unwrap();
    std::fs::write(path("lib/b.hsl"), "function b() { return 2; }").unwrap();
    std::fs::write(path("lib/c.hsl"), "echo 1;").unwrap();
    // Wherever hsh is started, as long as the script is below the root.
    for root in ["lib", ""] {
        let output = hsh(&["-c", "/dev/null", "-R", &path(root), &path("lib/main.hsl")], "");
        assert_eq!(output, (0, "1\n2\n".into(), String::new()), "{root}");
    }
    std::fs::write(path("lib/self.hsl"), "include \"./self.hsl\";").unwrap();
    let (code, _, errors) = hsh(&["-c", "/dev/null", "-R", &path("lib"), &path("lib/self.hsl")], "");
    assert!(code == 1 && errors.contains("Include of 'file://self.hsl' is cyclic"), "{errors}");
}

#[test]
fn completion_and_manual_page_know_every_option() {
    let help = hsh(&["--help"], "").1;
    let options: Vec<&str> = help
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with("--")))
        .map(|word| word.split(['=', '[', ',']).next().unwrap())
        .collect();
    assert!(options.len() > 12, "{help}");
    let (_, bash, _) = hsh(&["--completion", "bash"], "");
    let (_, page, _) = hsh(&["--man"], "");
    let page = page.replace("\\-", "-");
    for option in options {
        assert!(bash.contains(option), "{option} in {bash}");
        assert!(page.contains(option), "{option} in {page}");
    }
    // The shell itself has to accept the script.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hsh.bash");
    std::fs::write(&path, bash).unwrap();
    assert!(Command::new("bash").arg("-n").arg(path).status().unwrap().success());
}
