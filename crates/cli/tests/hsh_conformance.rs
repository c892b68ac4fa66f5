//! Every program of the conformance corpus through `hsh` itself, as its README says: output, exit status, standard
//! error, and the syntax check.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/conformance/hsl")
}

fn programs(folder: &str) -> Vec<PathBuf> {
    let mut list: Vec<PathBuf> = fs::read_dir(corpus().join(folder))
        .unwrap()
        .map(|entry| Path::new(folder).join(entry.unwrap().file_name()))
        .filter(|path| path.extension().is_some_and(|e| e == "hsl"))
        .collect();
    list.sort();
    assert!(list.len() > 40, "{} programs in {folder}", list.len());
    list
}

fn hsh(arguments: &[&str], file: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hsh"));
    command.args(["-c", "/dev/null", "-R", "."]).args(arguments).arg(file).current_dir(corpus());
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn programs_print_what_they_should() {
    let mut failures = Vec::new();
    for file in programs("") {
        let expected = fs::read(corpus().join(&file).with_extension("out")).unwrap();
        let run = hsh(&[], &file);
        let errors = String::from_utf8_lossy(&run.stderr).into_owned();
        if run.stdout != expected {
            failures.push(format!("{}: {}{errors}", file.display(), String::from_utf8_lossy(&run.stdout)));
        } else if !run.status.success() || !errors.is_empty() {
            failures.push(format!("{}: {} {errors}", file.display(), run.status));
        }
        let check = hsh(&["-s"], &file);
        if !check.status.success() || !check.stdout.is_empty() {
            failures.push(format!("-s {}: {}", file.display(), String::from_utf8_lossy(&check.stderr)));
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn bad_programs_fail_and_say_where() {
    let mut failures = Vec::new();
    for file in programs("errors") {
        let why = fs::read_to_string(corpus().join(&file).with_extension("why")).unwrap();
        let line = why.strip_prefix("line ").and_then(|w| w.split(':').next()).unwrap();
        let run = hsh(&[], &file);
        let errors = String::from_utf8_lossy(&run.stderr).into_owned();
        // The failure itself may be in a file that the program includes; then it is in the chain.
        let place = format!("{}:{line}:", file.display());
        // Behind the last line there is nothing to show.
        let shown = errors.contains("  | ") || errors.contains("the end of the file");
        if run.status.code() != Some(1) || !errors.contains(&place) || !shown {
            failures.push(format!("{}: {} {errors}{why}", file.display(), run.status));
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
